"""Comparison: ranks, tables, Markdown and figure from metrics files and predictions."""

import json
import statistics
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common import grades_of
from retinaflow.errors import RetinaflowError
from retinaflow.evaluation.metrics import evaluate
from retinaflow.evaluation.pairs import COMPARED_COLUMNS, PAIR_COLUMNS
from retinaflow.evaluation.selection import correct_for_selection
from retinaflow.reporting.figures import comparison_figure
from retinaflow.scoring.compare import (
    COLUMNS,
    CORRECTED_COLUMNS,
    INTERVALS,
    ComparisonFiles,
    compare,
    kept_phases,
)
from retinaflow.storage.files import write_json
from retinaflow.storage.tables import Row, read_table, write_table

GRADE_NAMES = ["class0", "class1", "class2", "class3", "class4"]


def scores(model: str, split: str, kappa: float | None, **override: Any) -> dict[str, Any]:
    """Return the part of a metrics file that the comparison reads."""
    return {
        "model": model,
        "network": model.split("/")[0],
        "split": split,
        "grade_names": GRADE_NAMES,
        "images": 1000,
        "patients": 500,
        "accuracy": 0.8,
        "quadratic_weighted_kappa": kappa,
        "macro_auc": 0.81,
        "log_loss": 0.7,
        "referable": {
            "grade": 2,
            "images": 200,
            "auc": 0.9,
            "sensitivity": 0.6,
            "specificity": 0.95,
            "operating_point": {"sensitivity": 0.85, "specificity": 0.7},
        },
        "argmax": {"quadratic_weighted_kappa": 0.25},
        "baseline": {"grade_name": "class0", "accuracy": 0.735, "quadratic_weighted_kappa": 0.0},
        "fellow_eye": {"images": 998, "accuracy": 0.87, "quadratic_weighted_kappa": 0.855},
        "calibration": {"expected_calibration_error": 0.03},
        "intervals": None,
        **override,
    }


def predictions(model: str, split: str, grade_count: int, patients: int = 12) -> list[dict[str, object]]:
    """Return predictions for the same images. Their mistakes are random, seeded by the name of the model."""
    actual = np.random.default_rng(1).integers(0, grade_count, 2 * patients)
    mistakes = np.random.default_rng(zlib.crc32(model.encode())).integers(-1, 2, 2 * patients)
    return [
        {
            "filename": f"{split}{row // 2}_{'left' if row % 2 else 'right'}.jpeg",
            "patient": f"{split}{row // 2}",
            "grade": actual[row],
            "predicted_grade": min(max(actual[row] + mistakes[row], 0), grade_count - 1),
        }
        for row in range(2 * patients)
    ]


def files_in(folder: Path) -> ComparisonFiles:
    names = ("comparison.csv", "pairs.csv", "repeats.csv", "by_data_set.csv", "comparison.md", "selected_model.json")
    return ComparisonFiles(*(folder / name for name in names))


class Comparison:
    """Files of a comparison, read back."""

    def __init__(
        self, folder: Path, contents: list[dict[str, Any]], bootstrap_samples: int = 20, **options: Any
    ) -> None:
        paths, tables = [], []
        for number, content in enumerate(contents):
            paths.append(folder / f"{number}.json")
            tables.append(folder / f"{number}.csv")
            write_json(paths[-1], content)
            rows = predictions(content["model"], content["split"], len(content["grade_names"]))
            write_table(tables[-1], COMPARED_COLUMNS, rows)
        self.folder = folder / "comparison"
        files = files_in(self.folder)
        made = compare(paths, tables, bootstrap_samples=bootstrap_samples, seed=1, files=files, **options)
        self.text = made.text
        comparison_figure(self.folder / "comparison.png", made.ranked)
        self.rows: list[Row] = read_table(self.folder / "comparison.csv", COLUMNS)
        self.pairs: list[Row] = read_table(self.folder / "pairs.csv", PAIR_COLUMNS)

    def table(self, title: str) -> list[dict[str, str]]:
        """Rows of the Markdown table under the heading that starts with ``title``."""
        below = self.text.split(f"## {title}")[1].split("##")[0]
        lines = [line for line in below.splitlines() if line.startswith("|")]
        header, _, *rows = ([cell.strip() for cell in line[1:-1].split("|")] for line in lines)
        return [dict(zip(header, row, strict=True)) for row in rows]

    def column(self, split: str, name: str) -> list[str]:
        """Cells of the ranked models in the table of a split."""
        return [row[name] for row in self.table(split) if row["rank"]]


@pytest.fixture
def comparison(tmp_path: Path) -> Callable[..., Comparison]:
    return lambda *contents, **options: Comparison(tmp_path, list(contents), **options)


Compare = Callable[..., Comparison]


def test_models_are_ranked_on_validation_not_on_test(comparison: Compare) -> None:
    made = comparison(
        scores("VGG16", "test", 0.9),
        scores("VGG16", "validation", 0.5),
        scores("ResNet50", "validation", 0.6),
        scores("ResNet50", "test", 0.1),
    )
    assert [(row["rank"], row["model"], row["split"]) for row in made.rows] == [
        ("1", "ResNet50", "validation"),
        ("1", "ResNet50", "test"),
        ("2", "VGG16", "validation"),
        ("2", "VGG16", "test"),
    ]
    assert made.column("validation", "model") == made.column("test", "model") == ["ResNet50", "VGG16"]
    assert made.column("test", "kappa") == ["0.1000", "0.9000"]
    assert made.text.startswith("Ranked by quadratic weighted kappa on validation, never on test. ")


def test_undefined_kappa_is_last_and_equal_ones_by_name(comparison: Compare) -> None:
    kappas = {"B": None, "E": -0.5, "D": 0.4, "C": 0.4, "A": None}
    made = comparison(*(scores(name, "validation", kappa) for name, kappa in kappas.items()))
    assert [row["model"] for row in made.rows] == ["C", "D", "E", "A", "B"]
    assert [row["rank"] for row in made.rows] == ["1", "2", "3", "4", "5"]
    assert made.column("validation", "kappa") == ["0.4000", "0.4000", "-0.5000", "–", "–"]
    assert made.rows[-1]["quadratic_weighted_kappa"] == ""


def test_table_has_all_digits(comparison: Compare) -> None:
    third = 1 / 3
    point = {"sensitivity": 0.75, "specificity": None}
    referable = {"grade": 1, "auc": None, "sensitivity": third, "specificity": 0.25, "operating_point": point}
    intervals = {**dict.fromkeys(INTERVALS), "quadratic_weighted_kappa": [0.25, 2 / 3], "accuracy": [0.5, 0.75]}
    options = {"accuracy": 2 / 3, "referable": referable, "macro_auc": None, "intervals": intervals}
    row = comparison(scores("VGG16", "validation", third, **options)).rows[0]
    assert tuple(row) == COLUMNS
    assert row == {
        "rank": "1",
        "model": "VGG16",
        "network": "VGG16",
        "split": "validation",
        "images": "1000",
        "patients": "500",
        "accuracy": repr(2 / 3),
        "baseline_accuracy": "0.735",
        "quadratic_weighted_kappa": repr(third),
        "argmax_quadratic_weighted_kappa": "0.25",
        "macro_auc": "",
        "referable_auc": "",
        "referable_sensitivity": repr(third),
        "referable_specificity": "0.25",
        "operating_point_sensitivity": "0.75",
        "operating_point_specificity": "",
        "log_loss": "0.7",
        "expected_calibration_error": "0.03",
        "fellow_eye_images": "998",
        "fellow_eye_accuracy": "0.87",
        "fellow_eye_quadratic_weighted_kappa": "0.855",
        "kept_phase": "",
        "repeat_of": "",
        "title": "VGG16",
        "remark": "",
        **{f"{name}_{end}": "" for name in INTERVALS for end in ("low", "high")},
        "quadratic_weighted_kappa_low": "0.25",
        "quadratic_weighted_kappa_high": repr(2 / 3),
        "accuracy_low": "0.5",
        "accuracy_high": "0.75",
        **dict.fromkeys(CORRECTED_COLUMNS, ""),
    }


def test_model_without_agreement_is_marked_in_each_split(comparison: Compare) -> None:
    chance = {**dict.fromkeys(INTERVALS), "quadratic_weighted_kappa": [-0.01, 0.2]}
    made = comparison(
        scores("A", "validation", 0.4, accuracy=0.72),
        scores("A", "test", 0.4, accuracy=0.73),
        scores("B", "validation", 0.1, intervals=chance),
        scores("B", "test", 0.3),
        scores("C", "validation", 0.0),
        scores("C", "test", None),
    )
    mark = "**no better than always class0**"
    # The accuracy of A is below that of the baseline, but its grades agree with the true ones.
    assert made.column("validation", "remark") == ["", mark, mark]
    assert made.column("test", "remark") == ["", "", mark]


def test_useless_operating_point_is_marked(comparison: Compare) -> None:
    referable = {**scores("A", "test", 0)["referable"], "operating_point": {"sensitivity": 1.0, "specificity": 0.01}}
    made = comparison(scores("A", "validation", 0.4, referable=referable), scores("B", "validation", 0.3))
    assert made.column("validation", "remark") == ["**operating point of no use: specificity 0.010**", ""]
    assert made.column("validation", "specificity")[0].startswith("0.0100")
    always = {row["model"]: row for row in made.table("validation")}["always class0"]
    assert (always["sensitivity"], always["specificity"]) == ("0.0000", "1.0000")


def test_each_table_ends_with_the_baselines(comparison: Compare) -> None:
    unpaired = {"images": 0, "accuracy": None, "quadratic_weighted_kappa": None}
    made = comparison(scores("A", "validation", 0.4), scores("A", "test", 0.4, fellow_eye=unpaired))
    cells = [(row["model"], row["kappa"], row["accuracy"]) for row in made.table("validation")]
    assert cells[1:] == [
        ("always class0", "0.0000", "0.7350"),
        ("the fellow eye's label (998 images)", "0.8550", "0.8700"),
    ]
    assert [(row["model"], row["kappa"]) for row in made.table("test")][2:] == [
        ("the fellow eye's label (0 images)", "–")
    ]
    assert "## test: 1,000 images of 500 patients" in made.text


def test_intervals_follow_their_metrics(comparison: Compare) -> None:
    intervals = {**dict.fromkeys(INTERVALS), "quadratic_weighted_kappa": [0.33333, 0.45678]}
    made = comparison(scores("A", "validation", 0.4, intervals=intervals))
    assert made.column("validation", "kappa") == ["0.4000 [0.333, 0.457]"]
    assert made.column("validation", "argmax kappa") == ["0.2500"]
    assert made.column("validation", "accuracy") == ["0.8000"]
    assert "95 % intervals over 20 bootstrap samples of the patients" in made.text


def test_best_model_is_compared_with_each_other_model(comparison: Compare) -> None:
    """The best model on validation is also compared on test. Differences are those of the kappas of the predictions."""
    names = {"A": 0.5, "B": 0.4, "C": 0.3}
    made = comparison(
        *(scores(name, split, kappa) for split in ("validation", "test") for name, kappa in names.items())
    )
    assert [(pair["split"], pair["model"], pair["other_model"]) for pair in made.pairs] == [
        (split, *pair) for split in ("validation", "test") for pair in ("AB", "AC", "BC")
    ]
    for split in ("validation", "test"):
        pairs = [pair for pair in made.pairs if (pair["split"], pair["model"]) == (split, "A")]
        assert made.column(split, "best minus this") == ["", *(shown(pair) for pair in pairs)]


def shown(pair: Row) -> str:
    difference, low, high, share = (float(pair[name]) for name in ("difference", "low", "high", "share"))
    return f"{difference:+.4f} [{low:+.3f}, {high:+.3f}] {100 * share:.1f} %"


def test_gain_of_each_step(comparison: Compare) -> None:
    """A step is compared with the model without it, the ensemble with the best network."""
    kappas = {"A+eye_average": 0.3, "A": 0.4, "B": 0.5, "ensemble": 0.6, "B+eye_average": 0.7, "C": 0.1}
    made = comparison(*(scores(name, "validation", kappa) for name, kappa in kappas.items()))
    pairs = {(pair["model"], pair["other_model"]): pair for pair in made.pairs}
    gains = {(row["model"], row["over"]): row["validation"] for row in made.table("Gain of each step")}
    assert list(gains) == [("B+eye_average", "B"), ("ensemble", "B"), ("A+eye_average", "A")]
    assert gains["B+eye_average", "B"] == shown(pairs["B+eye_average", "B"])
    assert gains["ensemble", "B"] == shown(pairs["ensemble", "B"])
    # A ranks above A+eye_average: the same pair in reverse.
    pair = pairs["A", "A+eye_average"]
    reverse = {"difference": -float(pair["difference"]), "low": -float(pair["high"]), "high": -float(pair["low"])}
    assert gains["A+eye_average", "A"] == shown({**reverse, "share": 1 - float(pair["share"])})


def test_kappa_of_the_first_model_is_corrected_for_the_choice(comparison: Compare) -> None:
    """Only the row on the split of the ranking has the corrected kappa."""
    names = {"A": 0.3, "B": 0.5, "C": 0.4}
    made = comparison(
        *(scores(name, split, kappa) for split in ("validation", "test") for name, kappa in names.items())
    )
    tables = {name: predictions(name, "validation", 5) for name in names}
    expected = correct_for_selection(
        np.array([row["grade"] for row in tables["A"]]),
        {name: np.array([row["predicted_grade"] for row in table]) for name, table in tables.items()},
        grade_count=5,
        patients=[str(row["patient"]) for row in tables["A"]],
        samples=20,
        seed=1,
    )
    corrected = [tuple(row[column] for column in CORRECTED_COLUMNS) for row in made.rows]
    assert (made.rows[0]["model"], made.rows[0]["split"]) == ("B", "validation")
    assert corrected[0] == (repr(expected.corrected), repr(expected.low), repr(expected.high))
    assert set(corrected[1:]) == {("", "", "")}
    assert (
        "\n\nBest of 3 models on validation: B, kappa 0.5000; corrected for the choice: "
        f"{expected.corrected:.4f} [{expected.low:.3f}, {expected.high:.3f}].\n\n" in made.text
    )


def test_without_choice_or_samples_no_kappa_is_corrected(tmp_path: Path) -> None:
    one = Comparison(tmp_path / "one", [scores("A", "validation", 0.4), scores("A", "test", 0.4)])
    contents = [scores("A", "validation", 0.4), scores("B", "validation", 0.3)]
    unsampled = Comparison(tmp_path / "unsampled", contents, bootstrap_samples=0)
    for made in (one, unsampled):
        assert {row[column] for row in made.rows for column in CORRECTED_COLUMNS} == {""}
        assert "corrected" not in made.text


def test_differences_without_bootstrap_samples_have_no_intervals(tmp_path: Path) -> None:
    made = Comparison(tmp_path, [scores("A", "validation", 0.4), scores("B", "validation", 0.3)], bootstrap_samples=0)
    assert [(pair["low"], pair["high"], pair["share"]) for pair in made.pairs] == [("", "", "")]
    assert made.column("validation", "best minus this")[1] == f"{float(made.pairs[0]['difference']):+.4f}"
    assert "interval" not in made.text


def test_summary_without_test_set_has_no_table_of_it(comparison: Compare) -> None:
    assert "test" not in comparison(scores("A", "validation", 0.4)).text.replace("never on test", "")


def test_model_without_test_scores_is_not_in_their_table(comparison: Compare) -> None:
    made = comparison(scores("A", "validation", 0.4), scores("B", "validation", 0.3), scores("B", "test", 0.2))
    assert [(row["rank"], row["kappa"]) for row in made.table("test") if row["rank"]] == [("2", "0.2000")]
    assert made.column("test", "best minus this") == [""]


def folds(network: str, pooled: float, test: list[float], **override: Any) -> list[dict[str, Any]]:
    made = [scores(network, "out-of-fold", pooled, images=len(test) * 100), scores(network, "test", 0.95)]
    for number, kappa in enumerate(test, start=1):
        made.append(scores(f"{network}/fold-{number}", "validation", 0.99, images=100 + number))
        made.append(scores(f"{network}/fold-{number}", "test", kappa, **override))
    return made[::-1]


def test_folds_follow_their_pooled_model_without_rank(comparison: Compare) -> None:
    made = comparison(*folds("A", 0.3, [0.9] * 11), *folds("B", 0.5, [0.2] * 11))
    assert [row["model"] for row in made.rows[:24]] == ["B"] * 2 + [
        f"B/fold-{i}" for i in range(1, 12) for _ in range(2)
    ]
    assert [(row["rank"], row["split"]) for row in made.rows[:4]] == [
        ("1", "out-of-fold"),
        ("1", "test"),
        ("", "validation"),
        ("", "test"),
    ]
    assert (made.rows[24]["rank"], made.rows[24]["model"]) == ("2", "A")
    assert [(pair["split"], pair["model"], pair["other_model"]) for pair in made.pairs] == [
        ("out-of-fold", "B", "A"),
        ("test", "B", "A"),
    ]
    assert "kappa on out-of-fold, never on test" in made.text
    assert "Best of 2 models on out-of-fold: B, kappa 0.5000; corrected for the choice: " in made.text
    assert [row["model"] for row in made.rows if row["selection_corrected_kappa"]] == ["B"]


def test_folds_have_mean_and_sample_deviation_on_test(comparison: Compare) -> None:
    # Mean 0.6; squared differences 0.04 + 0.01 + 0.01 + 0.04 over 3, root 0.18257.
    made = comparison(*folds("A", 0.3, [0.4, 0.5, 0.7, 0.8]))
    model, of_folds, *_ = made.table("test")
    assert (model["model"], model["kappa"]) == ("A", "0.9500")
    assert (of_folds["rank"], of_folds["model"]) == ("", "A, single folds")
    assert (of_folds["kappa"], of_folds["accuracy"]) == ("0.6000 ± 0.1826", "0.8000 ± 0.0000")
    assert made.column("out-of-fold", "kappa") == ["0.3000"]
    assert "mean ± standard deviation over the folds" in made.text.splitlines()[0]


def test_folds_with_undefined_metrics_have_no_mean(comparison: Compare) -> None:
    made = comparison(*folds("A", 0.3, [0.4, 0.5], macro_auc=None))
    assert made.table("test")[1]["macro AUC"] == "–"


def test_files_do_not_depend_on_the_order(tmp_path: Path) -> None:
    contents = [scores("A", "validation", 0.4), scores("A", "test", 0.5), scores("B", "validation", 0.3)]
    first, second = Comparison(tmp_path / "1", contents), Comparison(tmp_path / "2", contents[::-1])
    names = ["by_data_set.csv", "comparison.csv", "comparison.md", "comparison.png", "pairs.csv", "repeats.csv"]
    names.append("selected_model.json")
    for made in (first, second):
        assert sorted(path.name for path in made.folder.iterdir() if path.name[0] != ".") == names
    for name in names:
        assert (first.folder / name).read_bytes() == (second.folder / name).read_bytes()
    assert (first.folder / "comparison.md").read_text(encoding="utf-8") == first.text


def test_selected_model_is_the_best_on_held_out_images(comparison: Compare) -> None:
    made = comparison(
        *(scores("A", "validation", 0.3), scores("A", "test", 0.9), scores("B", "validation", 0.4)),
        scores("B", "test", 0.1),
    )
    found = json.loads((made.folder / "selected_model.json").read_text())
    assert (found["model"], found["split"], found["models"]) == ("B", "validation", 2)
    assert found["rule"] == "highest quadratic weighted kappa on validation"
    assert found["quadratic_weighted_kappa"] == 0.4
    assert found["selection_corrected_kappa"] is not None


def test_written_metrics_are_read(comparison: Compare) -> None:
    # With one grade only, every metric that can be undefined is undefined.
    grades = grades_of(np.array([[1.0, 0.0], [1.0, 0.0]]), 1)
    result = evaluate(
        np.array([0, 0]),
        grades,
        grade_names=["class0", "class1"],
        referable_grade=1,
        patients=["p", "q"],
        eyes=["", ""],
        bootstrap_samples=10,
        seed=1,
    )
    made = comparison(
        {"model": "VGG16", "network": "VGG16", "split": "validation", "grade_names": ["class0", "class1"], **result}
    )
    assert made.rows[0]["accuracy"] == "1.0"
    assert made.column("validation", "kappa") == ["–"]


def without(key: str) -> dict[str, Any]:
    content = scores("A", "validation", 0.5)
    del content[key]
    return content


GOOD = scores("A", "validation", 0.5)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not valid JSON"),
        ("", "not valid JSON"),
        ("[]", "is not of type 'object'"),
        (json.dumps(GOOD).replace("0.81", "NaN"), "NaN is no JSON number"),
        (without("model"), "'model' is a required property"),
        (without("quadratic_weighted_kappa"), "'quadratic_weighted_kappa' is a required property"),
        (without("baseline"), "'baseline' is a required property"),
        ({**GOOD, "split": "train"}, "split: 'train' does not match"),
        ({**GOOD, "accuracy": 1.5}, "accuracy: 1.5 is greater"),
        ({**GOOD, "accuracy": None}, "accuracy: None is not of type 'number'"),
        ({**GOOD, "quadratic_weighted_kappa": -2}, "quadratic_weighted_kappa: -2 is less"),
        ({**GOOD, "images": 0}, "images: 0 is less"),
        ({**GOOD, "referable": {"grade": 2}}, "referable: 'auc' is a required property"),
        ({**GOOD, "referable": {**GOOD["referable"], "grade": 5}}, "referable.grade is 5, expected at most 4"),
        (without("intervals"), "'intervals' is a required property"),
        ({**GOOD, "intervals": {}}, "intervals: 'quadratic_weighted_kappa' is a required property"),
        ({**GOOD, "intervals": {name: [0.5] for name in INTERVALS}}, r"intervals\..*: \[0.5\] is too short"),
        ({**GOOD, "argmax": {}}, "argmax: 'quadratic_weighted_kappa' is a required property"),
        ({**GOOD, "model": "B"}, "model 'B' of 'A'"),
        ({**GOOD, "model": "A/fold-0"}, "model 'A/fold-0' of 'A'"),
        ({**GOOD, "model": "A/fold-1", "split": "out-of-fold"}, "another split than out-of-fold"),
    ],
)
def test_error_names_a_malformed_file(tmp_path: Path, content: str | dict[str, Any], message: str) -> None:
    bad = tmp_path / "bad.json"
    bad.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    out = tmp_path / "out"
    with pytest.raises(RetinaflowError, match=message) as caught:
        compare([bad], [tmp_path / "gone.csv"], bootstrap_samples=20, seed=1, files=files_in(out))
    assert str(caught.value).startswith(f"{bad}: ")
    assert not out.exists()


def test_error_names_a_missing_file(tmp_path: Path) -> None:
    gone = [tmp_path / "gone.json"], [tmp_path / "gone.csv"]
    with pytest.raises(RetinaflowError, match=r"gone\.json: No such file"):
        compare(*gone, bootstrap_samples=20, seed=1, files=files_in(tmp_path / "out"))


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        ([], "found no file"),
        ([GOOD, GOOD], r"1\.json: A on validation is also in .*0\.json"),
        ([scores("A", "test", 0.5)], r"0\.json: A has no scores on validation"),
        ([GOOD, scores("B", "test", 0.5)], r"1\.json: B has no scores on validation"),
        ([GOOD, scores("B/fold-1", "validation", 0.5)], r"1\.json: B/fold-1 on validation; expected either no folds"),
        ([GOOD, scores("B", "out-of-fold", 0.5)], r"0\.json: A on validation; expected either no folds"),
        ([GOOD, scores("B", "validation", 0.5, images=999)], r"1\.json: images is 999, expected 1000 as in .*0\.json"),
        ([GOOD, scores("B", "validation", 0.5, grade_names=["a", "b", "c"])], r"1\.json: grade_names is"),
        (
            [GOOD, scores("B", "validation", 0.5, baseline={"grade_name": "class0", "accuracy": 0.5})],
            r"1\.json: baseline_accuracy is 0\.5, expected 0\.735",
        ),
        (
            [GOOD, scores("A", "test", 0.5, referable={**GOOD["referable"], "grade": 1})],
            r"1\.json: referable_grade_name is 'class1', expected 'class2'",
        ),
    ],
)
def test_error_names_scores_of_other_runs(
    comparison: Compare, tmp_path: Path, contents: list[dict[str, Any]], message: str
) -> None:
    with pytest.raises(RetinaflowError, match=message):
        comparison(*contents)
    assert not (tmp_path / "comparison").exists()


@settings(max_examples=5, deadline=None)
@given(st.dictionaries(st.sampled_from("ABCDEF"), st.none() | st.floats(-1, 1), min_size=1, max_size=5), st.randoms())
def test_ranks_do_not_depend_on_the_order(
    tmp_path_factory: pytest.TempPathFactory, kappas: dict[str, float | None], random: Any
) -> None:
    contents = [scores(name, "validation", kappa) for name, kappa in kappas.items()]
    first = Comparison(tmp_path_factory.mktemp("first"), contents)
    random.shuffle(contents)
    assert Comparison(tmp_path_factory.mktemp("second"), contents).rows == first.rows
    ranked = [kappas[row["model"]] for row in first.rows]
    known = [kappa for kappa in ranked if kappa is not None]
    assert ranked == known + [None] * (len(ranked) - len(known))
    assert known == sorted(known, reverse=True)
    assert statistics.mean(int(row["rank"]) for row in first.rows) == (len(kappas) + 1) / 2


def test_each_test_set_has_its_table_and_a_column(comparison: Compare) -> None:
    """Another test set has other images."""
    other = {"images": 40, "patients": 20, "accuracy": 0.6}
    made = comparison(
        *(scores(name, "validation", kappa) for name, kappa in (("A", 0.7), ("B", 0.6))),
        *(
            scores(name, split, 0.5, **changes)
            for name in "AB"
            for split, changes in (("test-x", {}), ("test-y", other))
        ),
    )
    assert list(dict.fromkeys(row["split"] for row in made.rows)) == ["validation", "test-x", "test-y"]
    assert {pair["split"] for pair in made.pairs} == {"validation", "test-x", "test-y"}
    assert made.table("test-y: 40 images of 20 patients")
    for name, value in (("kappa", "0.5000"), ("referable AUC", "0.9000")):
        across = made.table(f"All models: {name}")
        assert [row["model"] for row in across] == ["A", "B"]
        assert list(across[0]) == ["model", "validation", "test-x", "test-y"]
        assert across[0]["test-y"] == value


def test_repeats_have_mean_and_deviation(comparison: Compare) -> None:
    names = {"A": 0.5, "A-repeat-2": 0.6, "A-repeat-3": 0.7, "B": 0.4}
    repeats = {"A": ["A", "A-repeat-2", "A-repeat-3"]}
    made = comparison(*(scores(name, "validation", kappa) for name, kappa in names.items()), repeats=repeats)
    rows = made.table("All models: kappa, repeats: mean ± standard deviation")
    assert [(row["model"], row["validation"]) for row in rows] == [("A", "0.6000 ± 0.1000"), ("B", "0.4000")]
    assert [row["repeat_of"] for row in made.rows] == ["A", "A", "A", ""]
    (row,) = [row for row in read_table(made.folder / "repeats.csv") if row["metric"] == "quadratic_weighted_kappa"]
    assert (row["repeats"], float(row["lowest"]), float(row["highest"])) == ("3", 0.5, 0.7)


def test_kept_epoch_of_the_head_is_marked(comparison: Compare) -> None:
    names = ("A", "B")
    made = comparison(*(scores(name, "validation", 0.5) for name in names), phases={"A": "head", "B": "network"})
    assert [row["kept_phase"] for row in made.rows] == ["head", "network"]
    remarks = made.column("validation", "remark")
    assert "an epoch of the head was kept" in remarks[0]
    assert not remarks[1]


def test_phase_of_the_kept_epoch_is_in_the_record(tmp_path: Path) -> None:
    for run, best in (("A", 30), ("B/fold-1", 31), ("B/fold-2", 2)):
        write_json(tmp_path / run / "run.json", {"best_epoch": best, "settings": {"head_epochs": 30}})
    runs = {"A": ["A"], "B": ["B/fold-1", "B/fold-2"]}
    records = {run: tmp_path / run / "run.json" for of_network in runs.values() for run in of_network}
    assert kept_phases(records, runs) == {
        **{"A": "head", "B/fold-1": "network", "B/fold-2": "head"},
        "B": "both",
    }
    (tmp_path / "A/run.json").write_text("{}")
    with pytest.raises(RetinaflowError, match="best_epoch"):
        kept_phases(records, runs)


UNPAIRED = {"fellow_eye": {"images": 0, "accuracy": None, "quadratic_weighted_kappa": None}}
SOME = {"fellow_eye": {"images": 620, "accuracy": 0.8, "quadratic_weighted_kappa": 0.8}}


@pytest.mark.parametrize("scored", [True, False])
def test_model_of_pairs_has_no_metrics_without_fellow_eyes(comparison: Compare, scored: bool) -> None:
    """Neither where it was scored, nor where it was not offered."""
    of_pairs = [scores("A+eye_average", split, 0.9) for split in ("validation", "test-x")]
    made = comparison(
        scores("A", "validation", 0.5),
        scores("A", "test-x", 0.4),
        scores("A", "test-y", 0.3, **UNPAIRED),
        *of_pairs,
        *([scores("A+eye_average", "test-y", 0.9, **UNPAIRED)] if scored else []),
    )
    assert made.column("test-y", "model") == ["A"]
    (row,) = [row for row in made.table("test-y") if row["model"] == "A+eye_average"]
    assert (row["rank"], row["kappa"], row["remark"]) == ("", "–", "no fellow eyes")
    across = {row["model"]: row for row in made.table("All models: kappa")}
    assert across["A+eye_average"]["test-y"] == "no fellow eyes"
    assert across["A+eye_average"]["test-x"] == "0.9000"
    (row,) = [row for row in made.rows if (row["model"], row["split"]) == ("A+eye_average", "test-y")]
    assert (row["rank"], row["quadratic_weighted_kappa"], row["remark"]) == ("", "", "no fellow eyes")
    assert {pair["split"] for pair in made.pairs} == {"validation", "test-x"}


def test_model_of_pairs_is_not_ranked_on_validation_without_them(comparison: Compare) -> None:
    made = comparison(
        scores("A", "validation", 0.5, **UNPAIRED),
        scores("A", "test", 0.4),
        scores("A+eye_stacking", "validation", 0.9, **UNPAIRED),
        scores("A+eye_stacking", "test", 0.9),
    )
    assert [row["model"] for row in made.rows if row["rank"]] == ["A", "A"]
    assert {row["remark"] for row in made.rows if row["model"] == "A+eye_stacking"} == {"no fellow eyes"}
    assert made.column("test", "model") == ["A"]
    assert not made.pairs


def test_share_of_images_with_a_fellow_eye_is_stated(comparison: Compare) -> None:
    names = ("A", "A+eye_average")
    made = comparison(*(scores(name, "validation", 0.5, **SOME) for name in names))
    assert made.column("validation", "remark") == ["", "fellow eye of 62% of the images"]


def test_test_set_with_a_scale_has_its_own_grades(comparison: Compare) -> None:
    binary = {
        "grade_names": ["not_referable", "referable"],
        "joined_grades": {"not_referable": GRADE_NAMES[:2], "referable": GRADE_NAMES[2:]},
        "referable": {**GOOD["referable"], "grade": 1},
        "baseline": {**GOOD["baseline"], "grade_name": "not_referable"},
    }
    unknown = {**binary, "referable": {**GOOD["referable"], "grade": None, "auc": None}}
    made = comparison(
        *(scores(name, "test-x", 0.5, **binary) for name in "AB"),
        *(scores(name, "test-y", 0.5, **unknown) for name in "AB"),
        *(scores(name, "validation", 0.5) for name in "AB"),
    )
    assert "Scored on the grades of this set: not_referable (class0, class1), referable (class2, class3" in made.text
    assert made.text.count("None of them starts at class2, so that referable is not defined.") == 1
    assert made.table("All models: referable AUC")[0]["test-y"] == "–"
    assert made.table("test-x")[2]["model"] == "always not_referable"
    assert "Referable is class2 or worse." in made.text
    wrong = scores("B", "test-x", 0.5, **{**binary, "grade_names": ["no", "yes"]})
    with pytest.raises(RetinaflowError, match=r"grade_names is \['no', 'yes'\], expected"):
        comparison(scores("A", "validation", 0.5), scores("A", "test-x", 0.5, **binary), wrong)


def test_repeats_of_a_swept_model_are_one_row(comparison: Compare) -> None:
    """With both eyes, too. The ensemble of the repeats is a model of its own."""
    swept = "A-freeze_layers-10"
    names = {
        **{swept: 0.4, f"{swept}-repeat-2": 0.6, f"{swept}+eye_average": 0.6, f"{swept}-repeat-2+eye_average": 0.8},
        **{f"{swept}+ensemble": 0.65, "ensemble": 0.3},
    }
    repeats = {swept: [swept, f"{swept}-repeat-2"]}
    made = comparison(*(scores(name, "validation", kappa) for name, kappa in names.items()), repeats=repeats)
    rows = {row["model"]: row["validation"] for row in made.table("All models: kappa")}
    assert rows == {
        "A, freeze_layers 10 +eye_average": "0.7000 ± 0.1414",
        "A, freeze_layers 10 +ensemble": "0.6500",
        "A, freeze_layers 10": "0.5000 ± 0.1414",
        "ensemble": "0.3000",
    }
    assert len(made.column("validation", "model")) == 6


def test_no_number_is_a_negative_zero(comparison: Compare) -> None:
    intervals = {**dict.fromkeys(INTERVALS), "quadratic_weighted_kappa": [-0.0001, 0.1]}
    made = comparison(scores("A", "validation", -0.00001, intervals=intervals))
    assert made.column("validation", "kappa") == ["0.0000 [0.000, 0.100]"]


def test_failed_model_is_a_row_with_its_reason(comparison: Compare) -> None:
    reason = "train failed: the weights do not fit"
    made = comparison(
        *(scores("A", split, 0.5) for split in ("validation", "test")),
        *(scores("B", split, 0.6) for split in ("validation", "test")),
        failed={"C": reason},
    )
    assert made.column("validation", "model") == ["B", "A"]
    for split in ("validation", "test"):
        (row,) = [row for row in made.table(split) if row["model"] == "C"]
        assert (row["rank"], row["kappa"], row["remark"]) == ("", "–", reason)
        (row,) = [row for row in made.rows if (row["model"], row["split"]) == ("C", split)]
        assert (row["rank"], row["quadratic_weighted_kappa"], row["remark"]) == ("", "", reason)
    assert {pair["model"] for pair in made.pairs} == {"B"}


def test_linear_model_of_both_eyes_is_a_step_over_one_eye(comparison: Compare) -> None:
    made = comparison(scores("ridge", "validation", 0.6), scores("ridge+one_eye", "validation", 0.5))
    (step,) = made.table("Gain of each step in kappa")
    assert (step["model"], step["over"]) == ("ridge", "ridge+one_eye")


def test_models_without_a_data_set_have_their_common_names(comparison: Compare) -> None:
    kappas = {"VGG16/without-a": 0.5, "ensemble/without-a": 0.6, "VGG16/without-a+no_tta": 0.4}
    made = comparison(
        *(
            scores(name, split, kappa, network=name)
            for name, kappa in kappas.items()
            for split in ("validation", "left-out")
        ),
        phases={"VGG16": "network"},
        left_out="a",
    )
    assert made.text.startswith("Trained and validated without a; left-out is all of a. Ranked by")
    assert made.column("left-out", "model") == ["ensemble", "VGG16", "VGG16+no_tta"]
    assert {(row["model"], row["over"]) for row in made.table("Gain of each step")} == {
        ("ensemble", "VGG16"),
        ("VGG16", "VGG16+no_tta"),
    }
