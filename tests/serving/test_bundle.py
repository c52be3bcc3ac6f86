"""The file that says how new photographs are graded: what is best, what is poor, and what is refused."""

import json

import pytest

from retinaflow.errors import RetinaflowError
from retinaflow.serving.bundle import read_graders, write_graders
from retinaflow.storage.files import write_json
from retinaflow.storage.tables import write_table


def network(name, objective="softmax", folds=0):
    models = [f"{name}/fold-{number}/model.keras" for number in range(1, folds + 1)] or [f"{name}/model.keras"]
    recipe = "32-trim-keep-none"
    return {
        **{"name": name, "objective": objective, "recipe": recipe, "models": models},
        **{"cpu_threads": 1, "backend": "tensorflow"},
    }


def grader(*networks, objective="softmax", blended=None):
    name = networks[0]["name"] if len(networks) == 1 else "ensemble"
    decision = f"{name}/decision_rule.json"
    return {"objective": objective, "decision": decision, "blended": blended, "backbones": list(networks)}


def described(**graders):
    return {
        **{"classes": ["none", "mild", "severe"], "patient": "(?P<patient>.+)_(?P<eye>left|right)"},
        **{"pixel_limit": 1, "seed": 1, "views": 1, "blend_weight": 0.4, "graders": graders},
    }


TWO = described(
    A=grader(network("A"), blended="A+eye_average/decision_rule.json"),
    B=grader(network("B", folds=2)),
    ensemble=grader(network("A"), network("B", folds=2)),
)


@pytest.fixture
def written(tmp_path):
    """Write graders whose systems are ranked so, of training photographs of these qualities."""

    def write(*ranked, qualities=(0.5,)):
        # As with folds, whose rows have no rank.
        rows = [{"rank": rank, "model": run} for rank, run in enumerate(ranked, 1)] + [
            {"rank": "", "model": "B/fold-1"}
        ]
        write_table(tmp_path / "comparison.csv", ("rank", "model"), rows)
        table = [{"quality": f"{quality:.4f}", "problem": ""} for quality in qualities]
        table.append({"quality": "", "problem": "truncated"})
        write_table(tmp_path / "train.csv", ("quality", "problem"), table)
        path = tmp_path / "models/bundle.json"
        write_graders(path, TWO, tmp_path / "comparison.csv", tmp_path / "train.csv")
        return path

    return write


@pytest.mark.parametrize(
    ("ranked", "best"),
    [
        (["B", "A", "ensemble"], "B"),
        (["A+eye_average", "B", "A"], "A"),
        (["A+eye_stacking", "B/fold-2", "B+single", "ensemble", "A+eye_average"], "ensemble"),
    ],
)
def test_best_is_the_first_that_can_grade_one_photograph(written, ranked, best):
    assert read_graders(written(*ranked)).best == best


def test_paths_are_below_the_folder_of_the_file(written, tmp_path):
    found = read_graders(written("A"))
    models = tmp_path / "models"
    assert found.named("A").decision == models / "A/decision_rule.json"
    assert found.named("A").blended == models / "A+eye_average/decision_rule.json"
    assert found.named("ensemble").blended is None
    assert [its.models for its in found.named("ensemble").backbones] == [
        [models / "A/model.keras"],
        [models / "B/fold-1/model.keras", models / "B/fold-2/model.keras"],
    ]


def test_one_photograph_in_twenty_is_of_less_quality(written):
    found = read_graders(written("A", qualities=[number / 100 for number in range(100, 0, -1)]))
    assert (found.quality_cut, found.quality_share) == (0.06, 0.05)
    assert read_graders(written("A", qualities=[0.25])).quality_cut == 0.25


def test_an_unknown_system_is_told_the_known_ones(written):
    with pytest.raises(RetinaflowError, match="'C' grades no new photographs, expected one of A, B, average"):
        read_graders(written("A")).named("C")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"best": "C"}, "'C' grades no new photographs"),
        ({"more": 1}, "'more' was unexpected"),
        ({"views": 0}, "views: 0 is less than"),
        ({"graders": {}}, "graders: "),
        (
            {"graders": {"A": grader(network("/etc/A"))}},
            "'/etc/A/decision_rule.json' leads out of the folder of models",
        ),
        (
            {"graders": {"A": grader(network("A"), blended="A/../../x.json")}},
            "'A/../../x.json' leads out of the folder",
        ),
        (
            {"graders": {"A": grader({**network("A"), "models": ["../x.keras"]})}},
            "'../x.keras' leads out of the folder",
        ),
        ({"graders": {"A": grader({**network("A"), "models": []})}}, r"graders.A.backbones\[0\].models: "),
        ({"graders": {"A": grader({**network("A"), "backend": "numpy"})}}, "'numpy' is not one of"),
    ],
)
def test_what_is_no_description_of_graders_is_refused(written, change, told):
    path = written("A")
    content = json.loads(path.read_text(encoding="utf-8"))
    write_json(path, {**content, **change})
    with pytest.raises(RetinaflowError, match=f"{told}"):
        read_graders(path)


def test_without_a_finished_run_there_are_no_graders(tmp_path):
    with pytest.raises(RetinaflowError, match=r"graders\.json: No such file.*Let the workflow run to its end"):
        read_graders(tmp_path / "bundle.json")
