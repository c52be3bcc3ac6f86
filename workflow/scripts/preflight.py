"""Check the images and labels of all data sets and list every problem."""

import shutil
from pathlib import Path

from retinaflow.data.policies import own_policies
from retinaflow.data.preflight import EarlierModels, GradesNeeded, preflight
from retinaflow.jobs.logs import job_log
from retinaflow.settings.data import DataSettings, ProblemSettings
from retinaflow.storage.files import whole_file

with job_log(snakemake.log[0]):
    tables = zip(map(Path, snakemake.input.inventories), map(Path, snakemake.input.problems), strict=True)
    preflight(
        dict(zip(snakemake.params.data_sets, tables, strict=True)),
        ProblemSettings.model_validate(snakemake.params.on_problem),
        exclude_limit=snakemake.params.exclude_limit,
        patient_patterns=snakemake.params.patient_patterns,
        own=own_policies(DataSettings.model_validate(snakemake.config["data"])),
        needed=GradesNeeded(snakemake.params.grade_names, snakemake.params.unit, snakemake.params.sides),
        earlier=EarlierModels(
            dict(zip(snakemake.params.earlier, map(Path, snakemake.input.earlier), strict=True)),
            snakemake.params.unseen,
            snakemake.params.shared_patients,
        ),
        recalibration=snakemake.params.recalibration,
        table=Path(snakemake.log.table),
        summary=Path(snakemake.log.summary),
    )
    for name in ("table", "summary"):
        with whole_file(snakemake.output[name]) as part:
            shutil.copyfile(snakemake.log[name], part)
