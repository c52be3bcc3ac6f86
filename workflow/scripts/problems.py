"""Put the problems of all data sets into one table."""

from retinaflow.inventory import PROBLEM_COLUMNS
from retinaflow.logs import job_log
from retinaflow.tables import read_table, write_table

with job_log(snakemake.log[0]):
    rows = [row for table in snakemake.input.tables for row in read_table(table, PROBLEM_COLUMNS)]
    write_table(snakemake.output[0], PROBLEM_COLUMNS, rows)
