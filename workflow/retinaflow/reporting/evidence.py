"""Evidence for a clinical review: all tables, figures and the page of one model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from retinaflow.data.frames import read_frame, write_rows
from retinaflow.data.grade_texts import grade_parser
from retinaflow.data.inventory import SUBGROUP
from retinaflow.errors import RetinaflowError
from retinaflow.evaluation.agreement import NOT_GRADED, compare_readers
from retinaflow.evaluation.binary_calibration import calibration_line, risk_bins
from retinaflow.evaluation.units import LEFT_OUT
from retinaflow.reporting import evidence_page
from retinaflow.reporting.checklists import ChecklistItem, fill_checklists
from retinaflow.reporting.evidence_figures import calibration_figure, flow_figure, roc_figure, subgroup_figure
from retinaflow.reporting.illustrations import captioned_figure, shortened
from retinaflow.reporting.report import original_image
from retinaflow.reporting.study_facts import methods_text, study_facts
from retinaflow.scoring.decision_rules import read_decision_rule
from retinaflow.scoring.evidence import (
    CALIBRATION_COLUMNS,
    ENDPOINT_COLUMNS,
    NET_BENEFIT_COLUMNS,
    SIZE_COLUMNS,
    SUBGROUP_COLUMNS,
    EvidencePlan,
    EvidenceRow,
    calibration_rows,
    endpoint_rows,
    net_benefit_rows,
    referred,
    size_rows,
    subgroup_rows,
)
from retinaflow.scoring.flow import FLOW_COLUMNS, FlowCount, inventory_flow, result_flow, split_flow
from retinaflow.scoring.recalibration import RECALIBRATION_COLUMNS, recalibration_rows
from retinaflow.scoring.study_images import StudyFiles, StudyImages, read_study
from retinaflow.scoring.suspects import SUSPECT_COLUMNS, suspect_rows
from retinaflow.storage.tables import REBUILD

AGREEMENT_COLUMNS = ("split", "reader", "other_reader", "images", "patients", "value", "low", "high")
LOCAL_COLUMNS = ("split", "image", "patient")
EVIDENCE_TABLES = {
    "endpoints": ENDPOINT_COLUMNS,
    "calibration": CALIBRATION_COLUMNS,
    "net_benefit": NET_BENEFIT_COLUMNS,
    "subgroups": SUBGROUP_COLUMNS,
    "sizes": SIZE_COLUMNS,
    "agreement": AGREEMENT_COLUMNS,
    "suspects": SUSPECT_COLUMNS,
    "recalibration": RECALIBRATION_COLUMNS,
    "local_images": LOCAL_COLUMNS,
}
SUSPECTS = 24  # images of a figure
RESEARCH_NOTICE = "This is research software, not a medical device. All figures are those of the images named here."


@dataclass(frozen=True)
class ModelFiles:
    """Files of a model.

    Attributes:
        decision_rule: Its decision rule.
        kind: Columns of its raw outputs: ``output`` or ``no_tta``.
        splits: Its files on each split. The first is the one that decision rules are fitted on.
    """

    decision_rule: Path
    kind: str
    splits: Sequence[StudyFiles]


@dataclass(frozen=True)
class FlowFiles:
    """Files of a data set.

    Attributes:
        inventory: Table of images.
        problems: Table of problems.
        is_test: Whether it is a test set.
        indices: Index tables of its splits by name; none of a test set.
    """

    inventory: Path
    problems: Path
    is_test: bool
    indices: Mapping[str, Sequence[Path]]


@dataclass(frozen=True)
class EvidenceJob:
    """Inputs, decisions and outputs of the evidence.

    Attributes:
        model: Name of the model.
        files: Its files.
        data_sets: Files of each data set by name.
        plan: Decisions that were fixed before.
        screened: Endpoint of the flow diagrams.
        ungradable_quality: Quality below which an image is ungradable.
        folder: Folder of all outputs.
        settings: Settings of the run, as ``study_facts`` takes them.
        readers: Columns with the grades of human readers.
    """

    model: str
    files: ModelFiles
    data_sets: Mapping[str, FlowFiles]
    plan: EvidencePlan
    screened: str
    ungradable_quality: float
    folder: Path
    settings: Mapping[str, Any]
    readers: Sequence[str] = ()


def chosen_model(comparison: Path, model: str | None, models: Sequence[str]) -> str:
    """Return the ``model`` or, without one, the first of ``models`` in the table of the comparison."""
    if model:
        return model
    frame = read_frame(comparison, ("rank", "model"))
    ranks = {name: int(rank) for name, rank in zip(frame["model"], frame["rank"], strict=True) if rank}
    known = [name for name in models if name in ranks]
    if not known:
        raise RetinaflowError(f"{comparison}: none of {', '.join(models)} has a rank. {REBUILD}")
    return min(known, key=lambda name: ranks[name])


def write_evidence(job: EvidenceJob) -> None:
    """Write all tables, figures and the page.

    Raises:
        RetinaflowError: A table cannot be read, or tables do not belong together.
    """
    rule = read_decision_rule(job.files.decision_rule)
    studies = [
        read_study(files, rule, kind=job.files.kind, ungradable_quality=job.ungradable_quality)
        for files in job.files.splits
    ]
    tables = study_tables(job.plan, studies)
    tables["agreement"] = [row for study in studies for row in agreement_rows(job, study, rule.grade_names)]
    tables["recalibration"] = [
        row for study in studies for row in recalibration_rows(job.plan, studies[0], study, rule)
    ]
    tables["local_images"] = [row for study in studies for row in local_rows(study)]
    for name, columns in EVIDENCE_TABLES.items():
        cells = [{column: row.get(column) for column in columns} for row in tables[name]]
        write_rows(job.folder / f"{name}.csv", columns, cells)
    for study in studies:
        _draw_split(job, study, tables)
    flows = {name: _flow(job, name, studies) for name in job.data_sets}
    write_rows(job.folder / "flow.csv", FLOW_COLUMNS, [(name, *row) for name, rows in flows.items() for row in rows])
    for name, rows in flows.items():
        test = f"{job.model}, {job.plan.operating_points[0]}\ntarget condition: {job.screened}"
        flow_figure(job.folder / name / "flow.png", rows, title=f"Flow of {name}", test=test)
    _write_pages(job, studies, tables)


def local_rows(study: StudyImages) -> list[EvidenceRow]:
    """Rows of ``LOCAL_COLUMNS``: images of a test set that refit the model, and are in no other table."""
    local = study.local
    if local is None:
        return []
    names = zip(local.columns["image"], local.patients, strict=True)
    return [{"split": study.split, "image": image, "patient": patient} for image, patient in names]


def agreement_rows(job: EvidenceJob, study: StudyImages, grade_names: Sequence[str]) -> list[EvidenceRow]:
    """Rows of ``AGREEMENT_COLUMNS`` of a split; none without columns of readers, or with grades of its own."""
    found = [reader for reader in job.readers if f"{SUBGROUP}{reader}" in study.columns]
    if not found or study.scale is not None:
        return []
    parse = grade_parser(grade_names)
    readers = {}
    for reader in found:
        grades = [parse(text) for text in study.columns[f"{SUBGROUP}{reader}"]]
        readers[reader] = np.array([NOT_GRADED if grade is None else grade for grade in grades], dtype=np.int64)
    rows = compare_readers(
        readers,
        (job.model, np.array(study.predicted, dtype=np.int64)),
        grade_count=len(grade_names),
        patients=study.patients,
        samples=job.plan.samples,
        seed=job.plan.seed,
    )
    return [
        {"split": study.split, **row._asdict(), "value": row.kappa.value, "low": row.kappa.low, "high": row.kappa.high}
        for row in rows
    ]


def study_tables(plan: EvidencePlan, studies: Sequence[StudyImages]) -> dict[str, list[EvidenceRow]]:
    """Rows of the tables ``EVIDENCE_TABLES`` of all splits. Operating points are fitted on the first."""
    known = studies[0]
    return {
        "endpoints": [row for study in studies for row in endpoint_rows(plan, known, study)],
        "calibration": [row for study in studies for row in calibration_rows(plan, study)],
        "net_benefit": [row for study in studies for row in net_benefit_rows(plan, study)],
        "subgroups": [row for study in studies for row in subgroup_rows(plan, known, study)],
        "sizes": [row for study in studies for row in size_rows(plan, known, study)],
        "suspects": [row for study in studies for row in suspect_rows(study)],
    }


def _draw_split(job: EvidenceJob, study: StudyImages, tables: Mapping[str, Sequence[EvidenceRow]]) -> None:
    title, folder = f"{job.model} on {study.split}", job.folder / study.split
    of_split = {name: [row for row in rows if row["split"] == study.split] for name, rows in tables.items()}
    curves, bins, benefits = {}, {}, {}
    for endpoint in job.plan.defined(study):
        units = job.plan.units(study, endpoint, "patient")
        usable = units.gradable
        rows = [
            row
            for row in of_split["endpoints"]
            if (row["endpoint"], row["unit"], row.get("counting")) == (endpoint, "patient", LEFT_OUT)
        ]
        curves[endpoint] = units.gradable_positive[usable], units.risk[usable], rows
        images = job.plan.units(study, endpoint, "image", calibrated=True)
        usable = images.gradable
        found = images.gradable_positive[usable], images.risk[usable], images.members[usable]
        bins[endpoint] = risk_bins(*found), calibration_line(*found)
        benefits[endpoint] = [row for row in of_split["net_benefit"] if row["endpoint"] == endpoint]
    roc_figure(folder / "roc.png", curves, targets=job.plan.targets, title=title)
    calibration_figure(folder / "calibration.png", bins, benefits, title=title)
    _draw_suspects(folder / "suspects.png", of_split["suspects"], title)
    point = job.plan.operating_points[0]
    subgroup_figure(folder / "subgroups.png", of_split["subgroups"], title=f"{title}, {point}")


def _draw_suspects(path: Path, rows: Sequence[EvidenceRow], title: str) -> None:
    """Draw the images whose labels are most suspect."""
    captioned = [
        (
            original_image(Path(row["path"])),
            f"{shortened(row['image'])}\nlabel {row['grade']}, {row['probability_of_grade']:.0%}\n"
            f"suggested {row['suggested_grade']}, {row['probability_of_suggestion']:.0%}",
        )
        for row in islice((row for row in rows if Path(row["path"]).is_file()), SUSPECTS)
    ]
    text = f"{title}\n{len(rows):,} labels to look at again; the most suspect ones"
    captioned_figure(path, captioned, title=text, empty="no label is suspect, or the image files are not there")


def _flow(job: EvidenceJob, name: str, studies: Sequence[StudyImages]) -> list[FlowCount]:
    files = job.data_sets[name]
    study = next((study for study in studies if study.split == name), None)
    local = study.local.patients if study and study.local else ()
    rows = inventory_flow(files.inventory, files.problems, is_test=files.is_test, local=local)
    if not files.is_test:
        return [*rows, *split_flow(files.indices)]
    # A model of both eyes has no results on a test set without fellow eyes.
    if study is None or job.screened not in job.plan.defined(study):
        return rows
    known = studies[0]
    fitted, units = (job.plan.units(images, job.screened, "patient") for images in (known, study))
    flagged, _ = referred(fitted, units, job.plan.operating_points[0], seed=job.plan.seed, patients=known.patients)
    return [*rows, *result_flow(units, flagged)]


def _write_pages(job: EvidenceJob, studies: Sequence[StudyImages], tables: Mapping[str, Sequence[EvidenceRow]]) -> None:
    facts = study_facts(job.model, job.plan, studies, job.settings)
    items = fill_checklists(facts)
    write_rows(job.folder / "checklists.csv", ChecklistItem._fields, items)
    shown = [
        evidence_page.accuracy_table(tables["endpoints"]),
        evidence_page.target_table(tables["endpoints"]),
        evidence_page.discrimination_table(tables["endpoints"]),
        evidence_page.counting_table(tables["endpoints"]),
        evidence_page.prevalence_table(tables["endpoints"], job.plan.prevalences),
        evidence_page.calibration_table(tables["calibration"]),
        evidence_page.subgroup_table(tables["subgroups"]),
        *evidence_page.size_tables(tables["sizes"]),
        evidence_page.agreement_table(tables["agreement"]),
        evidence_page.recalibration_table(tables["recalibration"]),
        *evidence_page.checklist_tables(items),
    ]
    names = {
        "roc": "ROC curves of patients, with operating points",
        "calibration": "calibration and decision curves of images",
        "subgroups": "subgroups",
        "suspects": "labels to look at again",
    }
    figures = {f"{study.split}: {names[name]}": f"{study.split}/{name}.png" for study in studies for name in names}
    figures |= {f"{name}: flow of images and patients": f"{name}/flow.png" for name in job.data_sets}
    evidence_page.write_evidence_page(
        job.folder / "evidence.html",
        f"Evidence for {job.model}",
        paragraphs=[RESEARCH_NOTICE, *methods_text(facts)],
        tables=shown,
        figures=figures,
    )
    evidence_page.write_latex(job.folder / "evidence.tex", shown)
