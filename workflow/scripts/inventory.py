"""Join the images of a data set with its labels and list all problems."""

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from retinaflow.data.inventory import InventoryJob, take_inventory
from retinaflow.data.labels import read_labels
from retinaflow.jobs.code import one_digest
from retinaflow.jobs.logs import job_log

DECODERS = ("pillow", "simplejpeg", "opencv-python-headless")
# Of the extra `dicom`.
OPTIONAL = ("pydicom", "pylibjpeg-openjpeg", "pylibjpeg-rle", "python-gdcm")


def installed(package):
    """Version of a package, or "none"."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"


with job_log(snakemake.log[0]):
    data_set, params = snakemake.wildcards.data_set, snakemake.params
    others = [row for table in params.other_labels for row in read_labels(table["path"], **table["columns"])]
    inventory = Path(snakemake.output.inventory)
    take_inventory(
        InventoryJob(
            data_set=data_set,
            folders=[Path(folder) for folder in params.folders],
            labels=read_labels(params.labels, **params.columns) if params.labels else None,
            grade_names=params.grade_names,
            grade_map=params.grade_map,
            train_grades=params.train_grades,
            other_labels=others,
            grade_separator=params.grade_separator or "",
            ungradable=params.ungradable,
            subgroups=params.columns["subgroups"] if params.labels else [],
            patient_pattern=params.patient_pattern,
            patient_group=params.patient_group,
            exclude=params.exclude,
            megapixels=params.pixel_limit,
            train=Path(*snakemake.input.train) if snakemake.input.train else None,
            inventory=inventory,
            problems=Path(snakemake.output.problems),
            # Snakemake deletes the outputs of a job before it runs. The cache is no output.
            cache=inventory.parent / ".cache" / f"{data_set}.json",
            code=" ".join([one_digest(params.code), *map(version, DECODERS), *map(installed, OPTIONAL)]),
            threads=snakemake.threads,
        )
    )
