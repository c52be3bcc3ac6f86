"""The report: its content, its independence of all other results, and its view in a browser."""

import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pytest

from common import watched
from conftest import SMALLEST, Project
from retinaflow.storage.tables import read_table

MODELS = ("MobileNetV3Small", "VGG16", "ensemble")
SPLITS = ("validation", "test")


@pytest.fixture(scope="module")
def reported(finished_once: Project, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """Yield a finished project with its report."""
    project = finished_once.copy(tmp_path_factory.mktemp("reported") / "project")
    project.snakemake("report")
    project.snakemake("report", "--report", "results/report.html")
    yield project
    shutil.rmtree(project.folder)


def variable(html: str, name: str) -> Any:
    """Return the value of a variable in the scripts of the report."""
    return json.loads(re.search(rf'<script id="[a-z-]+">\s+var {name} = (.*);\n', html)[1])


def test_nothing_depends_on_the_report(reported: Project) -> None:
    assert not reported.planned()
    assert not reported.planned("report")


def test_each_figure_has_its_category_and_caption(reported: Project) -> None:
    html = reported.read("results/report.html")
    results, categories = variable(html, "results"), variable(html, "categories")
    assert categories.keys() == {"Comparison", "Data", "Models", "Provenance"}
    assert categories["Models"].keys() == set(MODELS)
    for model in MODELS:
        shown = [results[path]["labels"] for path in categories["Models"][model]]
        figures = {"confusion matrix", "ROC and precision-recall", "reliability", "quality of the images"}
        of_splits = {(figure, split) for figure in (*figures, "worst mistakes") for split in SPLITS}
        curves = set() if model == "ensemble" else {("learning curves", "")}
        card = {("model card", "")}
        assert {(labels["figure"], labels["split"]) for labels in shown} == of_splits | curves | card
    assert all(result["caption"].startswith("<p>") for result in results.values())
    assert "{" not in "".join(result["caption"] for result in results.values())
    assert all(result["data_uri"].startswith("data:") for result in results.values())


def test_first_page_has_the_comparison(reported: Project) -> None:
    first = variable(reported.read("results/report.html"), "workflow_desc")
    text = re.sub(r"\s+", " ", re.sub("<.*?>", " ", first))
    for line in reported.read("results/comparison/comparison.md").splitlines():
        if line.startswith("| ") and "---" not in line:
            assert re.sub(r"[|*\s]+", " ", line).strip() in text


def test_provenance_has_changed_settings_and_training_records(reported: Project) -> None:
    page = reported.read("results/report/provenance.html")
    assert "<tr><td>train.epochs</td><td>1</td><td>50</td></tr>" in page
    assert "data.exclude_limit" not in page
    for backbone in SMALLEST["models"]:
        record = json.loads(reported.read(f"results/models/{backbone}/training_run.json"))
        assert f"<td>{record['seconds']}</td>" in page
        assert record["digests"]["train_index"] in page


def test_cards_have_values_of_this_run(reported: Project) -> None:
    metrics = json.loads(reported.read("results/scores/VGG16/test/metrics.json"))
    card = reported.read("results/cards/VGG16.md")
    assert f"| test | {metrics['images']} | {metrics['patients']} |" in card
    assert "started from random weights" in card
    assert "VGG16 of keras.applications" in (average := reported.read("results/cards/ensemble.md"))
    assert "MobileNetV3Small of keras.applications" in average
    data = reported.read("results/cards/data.md")
    for name in ("train", "test"):
        assert f"## Data set: {name}" in data


def test_zip_has_the_same_results_as_the_page(reported: Project) -> None:
    reported.snakemake("report", "--report", "results/report.zip")
    with ZipFile(reported.folder / "results/report.zip") as archive:
        html = archive.read("report/report.html").decode()
        results = variable(html, "results")
        for path, result in results.items():
            assert archive.read(f"report/{result['data_uri']}") == (reported.folder / path).read_bytes()
    assert results.keys() == variable(reported.read("results/report.html"), "results").keys()


def test_report_without_figures_names_the_command_for_them(finished: Project) -> None:
    """`--report` alone has the results of every run, and names the command that draws figures."""
    finished.snakemake("--report", "results/report.html")
    html = finished.read("results/report.html")
    assert variable(html, "categories").keys() == {"Comparison", "Models"}
    assert "snakemake report" in variable(html, "workflow_desc")
    drawn = {f"illustrate {model} {split}": 1 for model in MODELS for split in SPLITS}
    # The cards of the models are in their bundles.
    pages = {"data_card": 1, "illustrate_data": 1, "pages": 1, "report": 1}
    assert finished.planned("report") == {**drawn, **pages}


def test_folds_are_illustrated_together(fresh: Callable[..., Project]) -> None:
    jobs = fresh(split={"folds": 2}).planned("report")
    drawn = {f"illustrate {model} {split}" for model in MODELS for split in ("out-of-fold", "test")}
    assert {job for job in jobs if job.startswith("illustrate ")} == drawn


def test_explanations_have_scored_images(finished: Project) -> None:
    assert finished.planned("explain") == {**{f"explain_run {name}": 1 for name in SMALLEST["models"]}, "explain": 1}
    finished.snakemake("results/explain/VGG16/test.png")
    assert (finished.folder / "results/explain/VGG16/test.png").read_bytes().startswith(b"\x89PNG")
    explained = {row["filename"] for row in read_table(finished.folder / "results/explain/VGG16/test.csv")}
    graded = {row["filename"] for row in read_table(finished.folder / "results/scores/VGG16/test/predictions.csv")}
    assert explained <= graded
    assert len(explained) > 4
    assert not finished.planned()


def test_exported_models_agree_with_keras(finished: Project) -> None:
    jobs = {f"export_run {name}": 1 for name in SMALLEST["models"]} | {"export_summary": 1, "export": 1}
    assert finished.planned("export") == jobs
    finished.config["export"] = {"formats": ["onnx"]}
    target = "results/export/MobileNetV3Small/differences.csv"
    finished.snakemake(target)
    rows = read_table(finished.folder / target)
    assert [row["format"] for row in rows] == ["keras", "onnx"]
    made = {path.name for path in (finished.folder / target).parent.iterdir() if path.name[0] != "."}
    assert made == {"model.onnx", "differences.csv"}
    assert float(rows[1]["largest_probability_difference"]) < 1e-4
    scored = read_table(finished.folder / "results/scores/MobileNetV3Small/validation/predictions.csv")
    assert {row["images"] for row in rows} == {str(len(scored))}
    assert not finished.planned()
    assert not finished.planned(target)
    # A deleted file is made again.
    (finished.folder / target).with_name("model.onnx").unlink()
    assert finished.planned("export")["export_run MobileNetV3Small"] == 1


@pytest.mark.browser
def test_browser_shows_every_result_and_caption(browser: Any, reported: Project, tmp_path: Path) -> None:
    """Every result and caption is visible, offline and without an error. The screenshots are for people."""
    report = reported.folder / "results/report.html"
    categories = variable(report.read_text(encoding="utf-8"), "categories")
    page = browser.new_page(viewport={"width": 1600, "height": 900})
    wrong = watched(page, ("file:", "data:"))
    page.goto(report.as_uri())
    page.locator("#rulegraph canvas").wait_for()
    page.screenshot(path=tmp_path / "first.png")
    _follow(page, "Statistics")
    page.locator("#timeline canvas").wait_for()
    page.screenshot(path=tmp_path / "statistics.png")
    for category, subcategories in categories.items():
        for subcategory, paths in subcategories.items():
            name = subcategory if len(subcategories) > 1 else category
            page.goto(report.as_uri())
            _follow(page, category)
            if len(subcategories) > 1:
                _follow(page, subcategory)
            rows = page.locator("nav tbody tr")
            assert rows.count() == len(paths)
            for number in range(len(paths)):
                show, explain = rows.nth(number).locator("a").all()
                show.click()
                _shown(page)
                page.screenshot(path=tmp_path / f"{name}-{number}.png")
                explain.click()
                assert page.locator("nav p").first.inner_text()
                page.screenshot(path=tmp_path / f"{name}-{number}-caption.png")
                _follow(page, name)
    assert not wrong


def _follow(page: Any, name: str) -> None:
    page.get_by_role("link", name=name, exact=True).click()


def _shown(page: Any) -> None:
    """Check that a figure is drawn and its top is visible, or that a page has text."""
    figure = page.locator("#app img:not(nav img), #app iframe")
    figure.wait_for()
    if figure.evaluate("element => element.tagName") == "IFRAME":
        assert figure.content_frame.locator("body").inner_text().strip()
    else:
        assert figure.evaluate("element => element.decode().then(() => element.naturalWidth)") > 0
        assert figure.bounding_box()["y"] >= 0
