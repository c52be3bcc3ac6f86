"""Sort the photographs of one part into class folders."""

from pathlib import Path

from retinaflow.logs import job_log
from retinaflow.organize import organize
from retinaflow.verdict import require_fit

with job_log(snakemake.log[0]):
    index, table, data = Path(snakemake.output.index), Path(snakemake.input.table), snakemake.config["data"]
    for problems in snakemake.input.problems:
        require_fit("test", table, Path(problems), data["on_problem"], data["exclude_limit"])
    organize(table, snakemake.params.classes, snakemake.params.mode, index.parent, index)
