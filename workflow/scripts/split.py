"""Split the inventory of the training set by patient."""

from pathlib import Path

from retinaflow.data.frames import read_frame
from retinaflow.data.given_split import given_sides, held_out_sides, listed_sides
from retinaflow.data.inventory import INVENTORY_COLUMNS
from retinaflow.data.labels import read_labels, read_paths
from retinaflow.data.policies import own_policies
from retinaflow.data.problem_policy import require_usable
from retinaflow.data.split import SplitJob, write_split
from retinaflow.jobs.logs import job_log
from retinaflow.settings.data import DataSettings

with job_log(snakemake.log[0]):
    inventory, params = Path(snakemake.input.inventory), snakemake.params
    # No parameter: a change of the policy is no reason to split again.
    data = DataSettings.model_validate(snakemake.config["data"])
    require_usable(
        "train",
        inventory,
        problems=Path(snakemake.input.problems),
        on_problem=data.on_problem,
        exclude_limit=data.exclude_limit,
        own=own_policies(data),
    )
    tables = {name: read_labels(**table) for name, table in (params.given or {}).items()}
    lists = {side: [name for file in files for name in read_paths(file)] for side, files in params.lists.items()}
    named = lists or params.validation_sets
    images = read_frame(inventory, INVENTORY_COLUMNS)["image"] if named else []
    given = given_sides(tables) if tables else listed_sides(lists, images) if lists else None
    given_by = "split.lists" if lists else "split.column"
    if params.validation_sets:
        given, given_by = held_out_sides(images, params.validation_sets), "data.validation"
    outputs = zip(map(Path, snakemake.output.train), map(Path, snakemake.output.validation), strict=True)
    write_split(
        SplitJob(
            inventory=inventory,
            grade_names=params.grade_names,
            validation=params.validation or 0.0,  # Snakemake has None with folds.
            folds=params.folds,
            unit=params.unit,
            seed=params.seed,
            given=given,
            given_by=given_by,
            outputs=list(outputs),
        )
    )
