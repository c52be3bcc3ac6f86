"""Selection: the kappa of the best of several models, corrected for the choice.

The best of several models on the same images has been lucky there. Its kappa on these images, the apparent kappa, is
too high on average, and the more models there are, the more so. ``correct_for_selection`` removes this optimism with
the bootstrap of the whole choice (BBC-CV):

Tsamardinos, I., Greasidou, E. and Borboudakis, G. (2018), Bootstrapping the out-of-sample predictions for efficient
and accurate cross-validation, Machine Learning 107, 1895-1922.

The patients of each bootstrap sample choose a model. The patients outside the sample rate it. No patient rates a
model that it helped to choose.

- Estimate: the metric over all patients, where each patient has the mean confusion matrix of the models that were
  chosen without it. This is the leave-one-out bootstrap of Efron, B. and Tibshirani, R. J. (1997), Improvements on
  cross-validation: the .632+ bootstrap method, Journal of the American Statistical Association 92, 548-560. The mean of
  the kappas of the samples would be biased in small data sets: their few patients make each of them too low.
- Interval: percentiles of the metric of the patients outside each sample, as in BBC-CV. Only 37 % of the patients are
  outside a sample, so that the interval is rather too wide than too narrow.

The correction includes the choice among the given models. It does not include:

- the choice of the epoch of each network, which used the same images of the validation split;
- models that were tried and are not among the given ones;
- the fit of decision rules. Its optimism is not in the predictions: ``decision_rules.cross_fitted`` grades each
  patient of the validation split by rules of other patients.

The samples choose with 63 % of the patients. If the models differ, they choose slightly worse than all patients do, so
that the estimate is rather too low than too high.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from retinaflow.evaluation.bootstrap import (
    confusion_by_patient,
    draw_patients,
    drawn_confusion,
    interval,
    kappa,
    patient_indices,
)

Metric = Callable[[np.ndarray], np.ndarray]


class Selection(NamedTuple):
    """The best of several models.

    Attributes:
        model: Its name.
        candidates: Number of models that it was chosen from.
        apparent: Its metric on the images that chose it. None if undefined.
        corrected: The metric, corrected for the choice. None if undefined, without bootstrap samples, with one model
            or one patient.
        low: Lower end of the 95 % interval of ``corrected``. None if undefined.
        high: Upper end of the 95 % interval of ``corrected``. None if undefined.
    """

    model: str
    candidates: int
    apparent: float | None
    corrected: float | None = None
    low: float | None = None
    high: float | None = None


def correct_for_selection(
    actual: np.ndarray,
    predictions: Mapping[str, np.ndarray],
    *,
    grade_count: int,
    patients: Sequence[str],
    samples: int,
    seed: int,
    metric: Metric = kappa,
) -> Selection:
    """Choose the model of the largest metric and correct the metric for the choice.

    Undefined metrics come last, equal ones are chosen by name: as the comparison ranks.

    Args:
        actual: True grades, int (n,), 0 to k - 1.
        predictions: Predicted grades of each model, int (n,). At least one model.
        grade_count: Number k of grades.
        patients: Names of the patients (n,).
        samples: Number of bootstrap samples, the same samples as those of ``bootstrap.bootstrap_kappas``.
        seed: Seed of the draws.
        metric: Function from confusion matrices (..., k, k), rows actual, to a metric (...). It chooses and rates.

    Returns:
        The chosen model.
    """
    names = sorted(predictions)
    members = patient_indices(patients)
    tables = [confusion_by_patient(members, actual, predictions[name], grade_count) for name in names]
    whole = np.stack([metric(table.sum(axis=0).reshape(grade_count, grade_count)) for table in tables])
    best = int(_best(whole))
    selection = Selection(names[best], len(names), _defined(whole[best]))
    patient_count = tables[0].shape[0]
    if len(names) == 1 or patient_count == 1 or not samples:
        return selection
    chosen = np.zeros((len(names), patient_count))  # how often each model, by samples without each patient
    rated = []
    for draws in draw_patients(members, samples, seed, patient_count):
        outside = (draws == 0).astype(np.float64)
        winners = _best(np.stack([metric(drawn_confusion(draws, table)) for table in tables]))
        values = np.full(len(draws), np.nan)
        for number in np.unique(winners):
            won = winners == number
            chosen[number] += outside[won].sum(axis=0)
            values[won] = metric(drawn_confusion(outside[won], tables[number]))
        rated.append(values)
    # A patient in every sample is not rated.
    shares = chosen / np.maximum(1, chosen.sum(axis=0))
    total = np.stack([share @ table for share, table in zip(shares, tables, strict=True)]).sum(axis=0)
    low, high = interval(np.concatenate(rated)) or (None, None)
    corrected = _defined(metric(total.reshape(grade_count, grade_count)))
    return selection._replace(corrected=corrected, low=low, high=high)


def _best(values: np.ndarray) -> np.ndarray:
    """Index of the largest of the ``values`` of the models, float (models, ...); undefined ones come last."""
    return np.where(np.isfinite(values), values, -np.inf).argmax(axis=0)


def _defined(value: np.ndarray) -> float | None:
    return float(value) if np.isfinite(value) else None
