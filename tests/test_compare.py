"""Comparison: ranks, table, Markdown and figure from metrics files."""

import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retinaflow.compare import COLUMNS, compare
from retinaflow.errors import RetinaflowError
from retinaflow.files import write_json
from retinaflow.metrics import evaluate
from retinaflow.tables import Row, read_table

CLASSES = ["class0", "class1", "class2", "class3", "class4"]


def scores(run: str, part: str, kappa: float | None, **override: Any) -> dict[str, Any]:
    """Content of a metrics file, as far as the comparison reads it."""
    return {
        "run": run,
        "backbone": run.split("/")[0],
        "part": part,
        "classes": CLASSES,
        "images": 1000,
        "accuracy": 0.8,
        "quadratic_weighted_kappa": kappa,
        "macro_auc": 0.81,
        "log_loss": 0.7,
        "referable": {"level": 2, "images": 200, "auc": 0.9, "sensitivity": 0.6, "specificity": 0.95},
        "baseline": {"class": "class0", "accuracy": 0.735, "quadratic_weighted_kappa": 0.0},
        **override,
    }


class Comparison:
    """What `compare` makes of some metrics."""

    def __init__(self, folder: Path, contents: list[dict[str, Any]]) -> None:
        paths = []
        for number, content in enumerate(contents):
            paths.append(folder / f"{number}.json")
            write_json(paths[-1], content)
        self.folder = folder / "comparison"
        self.text = compare(paths, *(self.folder / f"comparison.{suffix}" for suffix in ("csv", "md", "png")))
        self.rows: list[Row] = read_table(self.folder / "comparison.csv", COLUMNS)
        lines = [line.strip("| ").split(" | ") for line in self.text.splitlines() if line.startswith("|")]
        self.header, self.body = lines[0], [line + [""] * (len(lines[0]) - len(line)) for line in lines[2:]]

    def column(self, name: str) -> list[str]:
        return [line[self.header.index(name)] for line in self.body]


@pytest.fixture
def comparison(tmp_path: Path) -> Callable[..., Comparison]:
    return lambda *contents: Comparison(tmp_path, list(contents))


Compare = Callable[..., Comparison]


def test_ranked_on_validation_and_never_on_test(comparison: Compare) -> None:
    made = comparison(
        scores("VGG16", "test", 0.9),
        scores("VGG16", "validation", 0.5),
        scores("ResNet50", "validation", 0.6),
        scores("ResNet50", "test", 0.1),
    )
    assert [(row["rank"], row["run"], row["part"]) for row in made.rows] == [
        ("1", "ResNet50", "validation"),
        ("1", "ResNet50", "test"),
        ("2", "VGG16", "validation"),
        ("2", "VGG16", "test"),
    ]
    assert made.column("backbone") == ["ResNet50", "VGG16"]
    assert made.column("kappa, test") == ["0.1000", "0.9000"]
    assert made.text.startswith("Ranked by quadratic weighted kappa on validation, never on test; always class0 ")


def test_undefined_kappa_comes_last_and_equals_go_by_name(comparison: Compare) -> None:
    kappas = {"B": None, "E": -0.5, "D": 0.4, "C": 0.4, "A": None}
    made = comparison(*(scores(name, "validation", kappa) for name, kappa in kappas.items()))
    assert [row["run"] for row in made.rows] == ["C", "D", "E", "A", "B"]
    assert [row["rank"] for row in made.rows] == ["1", "2", "3", "4", "5"]
    assert made.column("kappa, validation") == ["0.4000", "0.4000", "-0.5000", "–", "–"]
    assert made.rows[-1]["quadratic_weighted_kappa"] == ""


def test_table_holds_the_full_figures(comparison: Compare) -> None:
    third = 1 / 3
    referable = {"level": 1, "images": 5, "auc": None, "sensitivity": third, "specificity": 0.25}
    row = comparison(scores("VGG16", "validation", third, accuracy=2 / 3, referable=referable, macro_auc=None)).rows[0]
    assert tuple(row) == COLUMNS
    assert row == {
        "rank": "1",
        "run": "VGG16",
        "backbone": "VGG16",
        "part": "validation",
        "images": "1000",
        "accuracy": repr(2 / 3),
        "baseline_accuracy": "0.735",
        "quadratic_weighted_kappa": repr(third),
        "macro_auc": "",
        "referable_auc": "",
        "referable_sensitivity": repr(third),
        "referable_specificity": "0.25",
        "log_loss": "0.7",
    }


def test_accuracy_below_always_the_first_class_is_flagged_part_by_part(comparison: Compare) -> None:
    made = comparison(
        scores("A", "validation", 0.4, accuracy=0.72),
        scores("A", "test", 0.4, accuracy=0.73),
        scores("B", "validation", 0.3, accuracy=0.735),
        scores("B", "test", 0.3, accuracy=0.7349),
        scores("C", "validation", 0.2, accuracy=0.735),
        scores("C", "test", 0.2, accuracy=0.736),
    )
    assert made.column("remark") == [
        "**below always class0** on validation and test",
        "**below always class0** on test",
        "",
    ]
    assert made.column("always class0") == ["0.7350"] * 3
    assert made.column("accuracy, validation") == ["0.7200", "0.7350", "0.7350"]


def test_without_a_test_set_there_are_no_test_columns(comparison: Compare) -> None:
    made = comparison(scores("A", "validation", 0.4))
    assert not any("test" in name for name in made.header)


def test_backbone_without_test_scores_leaves_blanks(comparison: Compare) -> None:
    made = comparison(scores("A", "validation", 0.4), scores("B", "validation", 0.3), scores("B", "test", 0.2))
    assert made.column("kappa, test") == ["–", "0.2000"]


def folds(backbone: str, pooled: float, test: list[float], **override: Any) -> list[dict[str, Any]]:
    made = [scores(backbone, "out-of-fold", pooled, images=len(test) * 100)]
    for number, kappa in enumerate(test, start=1):
        made.append(scores(f"{backbone}/fold-{number}", "validation", 0.99, images=100 + number))
        made.append(scores(f"{backbone}/fold-{number}", "test", kappa, **override))
    return made[::-1]


def test_folds_are_ranked_pooled_and_follow_unranked(comparison: Compare) -> None:
    made = comparison(*folds("A", 0.3, [0.9] * 11), *folds("B", 0.5, [0.2] * 11))
    assert [row["run"] for row in made.rows[:23]] == ["B", *(f"B/fold-{i}" for i in range(1, 12) for _ in range(2))]
    assert [(row["rank"], row["part"]) for row in made.rows[:3]] == [
        ("1", "out-of-fold"),
        ("", "validation"),
        ("", "test"),
    ]
    assert (made.rows[23]["rank"], made.rows[23]["run"]) == ("2", "A")
    assert "kappa on out-of-fold, never on test" in made.text


def test_folds_give_mean_and_sample_deviation_on_test(comparison: Compare) -> None:
    # Mean 0.6; squared differences 0.04 + 0.01 + 0.01 + 0.04 over 3, root 0.18257.
    made = comparison(*folds("A", 0.3, [0.4, 0.5, 0.7, 0.8]))
    assert made.column("kappa, test") == ["0.6000 ± 0.1826"]
    assert made.column("kappa, out-of-fold") == ["0.3000"]
    assert "mean ± standard deviation over the folds" in made.text.splitlines()[0]


def test_folds_that_equal_the_baseline_are_not_below_it(comparison: Compare) -> None:
    accuracy = 0.7
    assert sum([accuracy] * 3) / 3 < accuracy, "the case is pointless if a plain mean is exact"
    baseline = {"class": "class0", "accuracy": accuracy}
    made = comparison(*folds("A", 0.3, [0.5] * 3, accuracy=accuracy, baseline=baseline))
    assert made.column("remark") == [""]


def test_files_are_whole_and_the_same_every_time(tmp_path: Path) -> None:
    contents = [scores("A", "validation", 0.4), scores("A", "test", 0.5), scores("B", "validation", 0.3)]
    first, second = Comparison(tmp_path / "1", contents), Comparison(tmp_path / "2", contents[::-1])
    names = ["comparison.csv", "comparison.md", "comparison.png"]
    for made in (first, second):
        assert sorted(path.name for path in made.folder.iterdir()) == names
    for name in names:
        assert (first.folder / name).read_bytes() == (second.folder / name).read_bytes()
    assert (first.folder / "comparison.md").read_text(encoding="utf-8") == first.text


def test_what_metrics_writes_is_read(comparison: Compare) -> None:
    # One class only: every member that can be undefined is.
    result = evaluate(np.array([0, 0]), np.array([[1.0, 0.0], [1.0, 0.0]]), ["class0", "class1"], 1)
    made = comparison(
        {"run": "VGG16", "backbone": "VGG16", "part": "validation", "classes": ["class0", "class1"], **result}
    )
    assert made.rows[0]["accuracy"] == "1.0"
    assert made.column("kappa, validation") == ["–"]


def without(key: str) -> dict[str, Any]:
    content = scores("A", "validation", 0.5)
    del content[key]
    return content


GOOD = scores("A", "validation", 0.5)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "no valid JSON"),
        ("", "no valid JSON"),
        ("[]", "is not of type 'object'"),
        (json.dumps(GOOD).replace("0.81", "NaN"), "NaN is no JSON number"),
        (without("run"), "'run' is a required property"),
        (without("quadratic_weighted_kappa"), "'quadratic_weighted_kappa' is a required property"),
        (without("baseline"), "'baseline' is a required property"),
        ({**GOOD, "part": "train"}, "part: 'train' is not one of"),
        ({**GOOD, "accuracy": 1.5}, "accuracy: 1.5 is greater"),
        ({**GOOD, "accuracy": None}, "accuracy: None is not of type 'number'"),
        ({**GOOD, "quadratic_weighted_kappa": -2}, "quadratic_weighted_kappa: -2 is less"),
        ({**GOOD, "images": 0}, "images: 0 is less"),
        ({**GOOD, "referable": {"level": 2}}, "referable: 'auc' is a required property"),
        ({**GOOD, "referable": {**GOOD["referable"], "level": 5}}, "referable.level is 5, expected at most 4"),
        ({**GOOD, "run": "B"}, "run 'B' of 'A'"),
        ({**GOOD, "run": "A/fold-0"}, "run 'A/fold-0' of 'A'"),
        ({**GOOD, "run": "A/fold-1", "part": "out-of-fold"}, "another part than out-of-fold"),
    ],
)
def test_malformed_file_is_named(tmp_path: Path, content: str | dict[str, Any], message: str) -> None:
    bad = tmp_path / "bad.json"
    bad.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    out = tmp_path / "out"
    with pytest.raises(RetinaflowError, match=message) as caught:
        compare([bad], out / "c.csv", out / "c.md", out / "c.png")
    assert str(caught.value).startswith(f"{bad}: ")
    assert not out.exists()


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(RetinaflowError, match=r"gone\.json: No such file"):
        compare([tmp_path / "gone.json"], tmp_path / "c.csv", tmp_path / "c.md", tmp_path / "c.png")


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
        ([GOOD, scores("B", "validation", 0.5, classes=["a", "b", "c"])], r"1\.json: classes is"),
        (
            [GOOD, scores("B", "validation", 0.5, baseline={"class": "class0", "accuracy": 0.5})],
            r"1\.json: baseline_accuracy is 0\.5, expected 0\.735",
        ),
        (
            [GOOD, scores("A", "test", 0.5, referable={**GOOD["referable"], "level": 1})],
            r"1\.json: referable_class is 'class1', expected 'class2'",
        ),
    ],
)
def test_scores_that_do_not_belong_together_are_named(
    comparison: Compare, tmp_path: Path, contents: list[dict[str, Any]], message: str
) -> None:
    with pytest.raises(RetinaflowError, match=message):
        comparison(*contents)
    assert not (tmp_path / "comparison").exists()


@settings(max_examples=5, deadline=None)
@given(st.dictionaries(st.sampled_from("ABCDEF"), st.none() | st.floats(-1, 1), min_size=1, max_size=5), st.randoms())
def test_order_of_files_changes_nothing_and_ranks_never_rise(
    tmp_path_factory: pytest.TempPathFactory, kappas: dict[str, float | None], random: Any
) -> None:
    contents = [scores(name, "validation", kappa) for name, kappa in kappas.items()]
    first = Comparison(tmp_path_factory.mktemp("first"), contents)
    random.shuffle(contents)
    assert Comparison(tmp_path_factory.mktemp("second"), contents).rows == first.rows
    ranked = [kappas[row["run"]] for row in first.rows]
    known = [kappa for kappa in ranked if kappa is not None]
    assert ranked == known + [None] * (len(ranked) - len(known))
    assert known == sorted(known, reverse=True)
    assert statistics.mean(int(row["rank"]) for row in first.rows) == (len(kappas) + 1) / 2
