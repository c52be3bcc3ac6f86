"""Facts of a run as sentences, for the methods section and the checklists."""

from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

from retinaflow.scoring.evidence import EvidencePlan
from retinaflow.scoring.study_images import NO_TRUTH, StudyImages

PACKAGES = ("retinaflow", "snakemake", "numpy", "scipy", "scikit-learn", "pandas", "keras", "tensorflow")


def study_facts(
    model: str, plan: EvidencePlan, studies: Sequence[StudyImages], settings: Mapping[str, Any]
) -> dict[str, str]:
    """Return sentences by the names that ``checklists`` uses.

    Args:
        model: Name of the model.
        plan: Decisions that were fixed before.
        studies: Images of each split; the first is the one that decision rules are fitted on.
        settings: Settings of the run: ``preprocess``, ``train`` and ``split`` as mappings, ``seed``, ``networks``.
    """
    first = studies[0].split
    endpoints = "; ".join(
        f"{name} is grade {', '.join(map(str, grades))}"
        + "".join(f", or {column}" for column in plan.also_positive.get(name, ()))
        for name, grades in plan.endpoints.items()
    )
    sizes = "; ".join(
        f"{study.split}: {len(study.grades):,} images of {len(set(study.patients)):,} patients, "
        f"{np.isfinite(study.probabilities[:, 0]).sum():,} gradable"
        for study in studies
    )
    grades = "; ".join(f"{study.split}: {_counted_grades(study)}" for study in studies)
    targets = f"sensitivity above {plan.targets['sensitivity']:g}, specificity above {plan.targets['specificity']:g}"
    train, split = settings["train"], settings["split"]
    return {
        "model": f"{model}, made of: {', '.join(settings['networks'])}.",
        "data": f"{sizes}.",
        "grades": f"Images by grade, from 0: {grades}.",
        "endpoints": f"{endpoints}. A patient is positive if at least one gradable eye is.",
        "targets": f"Targets: {targets}; margin of non-inferiority {plan.margin:g}.",
        "operating_points": f"{', '.join(plan.operating_points)}; fitted on {first} alone.",
        "exclusions": "Reasons and numbers are in the flow diagrams and in inventory/problems.csv.",
        "ungradable": "Counted in three ways, in the table of ungradable images; imageability is reported.",
        "blinding": "The index test reads pixels alone. Test labels fit no rule, except that of recalibration.",
        "same_image": "Index test and reference standard use the same images.",
        "methods": f"{plan.samples:,} bootstrap samples of patients (seed {plan.seed}), Wilson intervals with the "
        "design effect, Holm's correction of subgroups, cluster-robust calibration.",
        "subgroups": f"Subgroups of at least {plan.guard.patients} patients, in the table and figures of subgroups.",
        "size": "Widths of intervals and patients needed, in their tables.",
        "flow": "Flow diagrams, one for each data set.",
        "table": "Tables of accuracy and discrimination; endpoints.csv has true and false positives and negatives.",
        "split": f"By {split['unit']}, stratified by data set and worst grade; "
        + (f"{split['folds']} folds." if split["folds"] else f"share of validation {split['validation']:g}.")
        + " Copies of images and patients in both sets are excluded or errors.",
        "preprocessing": ", ".join(f"{key} {value}" for key, value in sorted(settings["preprocess"].items())) + ".",
        "imbalance": f"Class weights {train['class_weights']}, balanced sampling {train['balanced_sampling']:g}.",
        "training": "models/*/training_run.json has settings, seed, versions and digests of each training.",
        "selection": "It is `model` of the configuration or, without that, the model with the highest quadratic "
        f"weighted kappa on {first} among those that are scored on every split.",
        "recalibration": _refitting(studies),
        "agreement": "Table of agreement, if `evidence.readers` names columns.",
        "explain": "Heat maps by `snakemake explain`.",
        "mistakes": "Worst mistakes by `snakemake report`.",
        "versions": f"{versions()}.",
        "code": "Each model, with its decision rule, is in models/*/bundle/.",
        "settings": f"The configuration, with seed {settings['seed']}; register it before the test set is scored.",
    }


def _counted_grades(study: StudyImages) -> str:
    """Number of images of each grade, and of those without a grade."""
    known = study.grades != NO_TRUTH
    counts = ", ".join(f"{count:,}" for count in np.bincount(study.grades[known]).tolist())
    return counts if known.all() else f"{counts}, and {(~known).sum():,} that people could not grade"


def _refitting(studies: Sequence[StudyImages]) -> str:
    """Sentence on the patients that refit the model at new sites."""
    counts = [
        f"{len(set(study.local.patients)):,} patients of {study.split} ({len(study.local.grades):,} images)"
        for study in studies
        if study.local is not None
    ]
    if not counts:
        return "No patient refits the model: `evidence.recalibration` names no test set."
    return f"{'; '.join(counts)} refit the model and are in no other result. Before and after: table of recalibration."


def versions() -> str:
    """Versions of the software, of installed packages alone."""
    found = []
    for package in PACKAGES:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    return ", ".join(found)


def methods_text(facts: Mapping[str, str]) -> list[str]:
    """Paragraphs for a methods section."""
    return [
        f"Data. {facts['data']} {facts['grades']} {facts['split']}",
        f"Index test. {facts['model']} {facts['selection']} "
        f"Preprocessing: {facts['preprocessing']} {facts['training']}",
        f"Endpoints. {facts['endpoints']} {facts['targets']}",
        f"Operating points. {facts['operating_points']} {facts['recalibration']}",
        f"Statistics. {facts['methods']}",
        f"Software. {facts['versions']}",
    ]
