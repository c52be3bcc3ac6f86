# Configuration, wildcards, paths, and the splits and shards that belong to each. Imports nothing heavy.

import functools
import os
import re
from importlib.util import find_spec
from pathlib import Path

from snakemake.exceptions import WorkflowError
from snakemake.logging import logger
from snakemake_interface_executor_plugins.settings import DeploymentMethod

from retinaflow.storage import archives
from retinaflow.storage import object_storage
from retinaflow.config import changes, lookups
from retinaflow.config.checks import check_packages
from retinaflow.config.limits import check_text
from retinaflow.config.loading import load
from retinaflow.config.models import EYE_AVERAGE, NO_TTA, Models, network_of
from retinaflow.config.places import check_files, check_new_sites, check_pairs, sharing_sets
from retinaflow.config.remote import check_remote, fetched
from retinaflow.data import sources
from retinaflow.data.policies import own_policies
from retinaflow.errors import RetinaflowError
from retinaflow.networks.extractor_files import extractor_file
from retinaflow.jobs.code import code_digests, library_folder
from retinaflow.storage.files import digest
from retinaflow.storage.former_layout import check_layout
from retinaflow.storage.integrity import check_documents
from retinaflow.storage.lock import lock
from retinaflow.jobs.file_dates import date_at_present
from retinaflow.jobs.logs import PARENT
from retinaflow.jobs.scheduling import remove_default_limit
from retinaflow.settings.screening import required_sensitivity
from retinaflow.settings.train import decisive_settings

# Jobs end with this process, since the next run starts them again.
os.environ[PARENT] = str(os.getpid())


@functools.cache
def storage_client():
    """S3 client of Snakemake's storage plugin. Download jobs make one with the same settings."""
    if find_spec("snakemake_storage_plugin_s3") is None:
        raise WorkflowError(
            f"The configuration names {object_storage.SCHEME} addresses, which need the S3 storage plugin: `make s3`, or "
            "pip install --require-hashes -r envs/requirements-s3.txt"
        )
    try:
        provider = workflow.storage_registry.register_storage("s3")
    except ValueError as error:  # The endpoint is no address.
        raise WorkflowError(f"--storage-s3-endpoint-url: {error}") from None
    os.environ.update(object_storage.environment(provider.settings))
    return provider.s3c.meta.client


def checked(config):
    """Check the configuration and complete it.

    Returns the configuration with a path for each remote address, the remote objects by path, and the number of shards.
    Raises WorkflowError, which lists every mistake.
    """
    try:
        check_text(workflow.configfiles)
        complete = load(config)
        check_files(complete)
        check_layout(Path(complete.results))
        # A deployed environment has its own packages.
        if not workflow.deployment_settings.deployment_method:
            check_packages(complete)
        local, remote = fetched(complete)
        # Jobs read label tables from local files, since they may have no network.
        if remote and workflow.is_main_process:
            check_remote(storage_client(), remote)
        check_pairs(local)
        # Its jobs need not read the label tables again.
        if workflow.is_main_process:
            check_new_sites(local)
        return local, {fetched_object.path: fetched_object for fetched_object in remote}, lookups.shard_counts(local)
    except RetinaflowError as error:
        raise WorkflowError(str(error)) from None


CONFIG, REMOTE, SHARDS = checked(config)
# Jobs read settings that decide no result from here. As parameters, a change of them would train networks again.
config.update(CONFIG.model_dump())
RESULTS = CONFIG.results
GRADE_NAMES = CONFIG.data.grade_names
FOLDS = CONFIG.split.folds
DATA_SETS = lookups.data_sets(CONFIG)
TRAINING_SETS = lookups.training_sets(CONFIG)
# Names of the training sets that are joined; none if there is a single one without a name.
JOINED_SETS = [data_set.partition("-")[2] for data_set in TRAINING_SETS if data_set != "train"]
MODELS = Models.of(CONFIG)
# Training sets that are left out in turn, each by training runs of their own.
LEFT_OUT_SETS = MODELS.left_out
# Scales of test sets that have other grades than the training sets.
SCALES = {split: scale for split in MODELS.tests if (scale := lookups.grade_scale(CONFIG, split))}
# Networks that are trained, and frozen backbones of linear models.
FEATURE_NETWORKS = lookups.feature_networks(CONFIG)
# The networks of linear models. Their jobs are the first ones, so that a first result does not wait for trainings.
FIRST = lookups.linear_networks(CONFIG)
FIRST_VARIANTS = {lookups.variant(CONFIG, network).name for network in FIRST}
# Inventories that later stages read. That of the training set is joined of those of several data sets.
INVENTORIES = ["train", *lookups.scored_sets(CONFIG)]
# Splits of the training set.
TRAINING_SPLITS = lookups.held_out_splits(CONFIG)
# Each folder of new images has its own folder of predictions.
PREDICTED = sources.folder_name(CONFIG.images or "none")


def any_of(names):
    """Constrain a wildcard to some names. Without names, nothing matches; an empty constraint would be none."""
    return "|".join(map(re.escape, names)) or "(?!)"


wildcard_constraints:
    data_set="|".join(DATA_SETS),
    split="|".join(SHARDS),
    variant="|".join(sorted({lookups.variant(CONFIG, network).name for network in FEATURE_NETWORKS})),
    shard=r"\d+",
    number=r"\d+",
    training_run=any_of(MODELS.training_runs),
    network=any_of(dict.fromkeys([*FEATURE_NETWORKS, *MODELS.networks])),
    model=any_of(MODELS.names),


def path(*steps):
    """Path below the results folder."""
    return Path(RESULTS, *steps).as_posix()


def code_of(script):
    """Parameter function: digests of the library code that a script reaches, package by package.

    Snakemake tracks the script itself, not its imports.
    """

    def digests(wildcards):
        try:
            return code_digests(Path(workflow.source_path(f"../scripts/{script}")))
        except RetinaflowError as error:
            raise WorkflowError(str(error)) from None

    return digests


def network_settings(wildcards):
    """The settings of a training run's network."""
    return CONFIG.models[network_of(wildcards.training_run)]


def training_settings(wildcards):
    """Parameter function: the settings of a training run that decide its result."""
    return decisive_settings(network_settings(wildcards))


def indices(use):
    """Input function: index tables of the images that a training run uses as `use`."""

    def tables(wildcards):
        return [path("organized", split, "index.csv") for split in MODELS.stored_splits(wildcards.training_run, use)]

    return tables


def shard_files(network, splits, suffix):
    """Shard files of all images of some splits, in the variant of a network: `npy` pixels or `csv` rows."""
    variant = lookups.variant(CONFIG, network_of(network)).name
    return [path("shards", variant, split, f"{i}.{suffix}") for split in splits for i in range(SHARDS[split])]


def shards(use, suffix):
    """Input function: shard files of the images that a training run uses as `use`, `npy` pixels or `csv` rows."""

    return lambda wildcards: shard_files(
        network_of(wildcards.training_run), MODELS.stored_splits(wildcards.training_run, use), suffix
    )


def split_shards(suffix):
    """Input function: shard files of all images of a split, in the variant of the network."""

    return lambda wildcards: shard_files(wildcards.network, [wildcards.split], suffix)


def linear_files(model):
    """Files of a linear model: one, or one for each fold."""
    return [path("models", run, "linear.npz") for run in MODELS.runs_of(model)]


def feature_source(network, training_run=None):
    """Description of a network whose features a linear model uses: frozen, or trained in `training_run`."""
    network = network_of(network)
    settings = FEATURE_NETWORKS[network]
    return {
        "network": network,
        "training_run": training_run,
        "backbone": settings.backbone,
        "weights": Path(extractor_file(settings.backbone) or settings.weights).name,
        "digest": None,
        "variant": lookups.variant(CONFIG, network).name,
        "feature_layers": settings.feature_layers,
        "views": CONFIG.features.views,
        "severity": training_run is not None,
        "deviations": True,
    }
