"""Sort the images of one split into grade folders."""

from pathlib import Path

from retinaflow.data.organize import organize
from retinaflow.data.policies import own_policies
from retinaflow.data.problem_policy import require_usable
from retinaflow.jobs.logs import job_log
from retinaflow.settings.data import DataSettings

with job_log(snakemake.log[0]):
    index, table = Path(snakemake.output.index), Path(snakemake.input.table)
    # No parameter: a change of the policy is no reason to organize again.
    data = DataSettings.model_validate(snakemake.config["data"])
    for problems in map(Path, snakemake.input.problems):
        require_usable(
            snakemake.wildcards.split,
            table,
            problems=problems,
            on_problem=data.on_problem,
            exclude_limit=data.exclude_limit,
            own=own_policies(data),
        )
    organize(table, snakemake.params.grade_names, mode=snakemake.params.mode, tree=index.parent, index=index)
