"""Sort the photographs of one part into class folders."""

from pathlib import Path

from retinaflow.data.organize import organize
from retinaflow.data.problem_policy import require_fit
from retinaflow.jobs.logs import job_log

with job_log(snakemake.log[0]):
    index, table, data = Path(snakemake.output.index), Path(snakemake.input.table), snakemake.config["data"]
    for problems in snakemake.input.problems:
        require_fit("test", table, Path(problems), data["on_problem"], data["exclude_limit"])
    organize(table, snakemake.params.classes, snakemake.params.mode, index.parent, index)
