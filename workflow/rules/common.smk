# Paths, wildcards and everything that rules look up in the configuration. Imports nothing heavy: a dry run reads this.

import functools
import os
import re
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from snakemake.exceptions import WorkflowError
from snakemake.logging import logger
from snakemake_interface_executor_plugins.settings import DeploymentMethod

# The folder above this one; in a repository elsewhere, an address that is no folder here.
WORKFLOW = Path(workflow.current_basedir.get_path_or_uri(secret_free=True)).parent


def require_library():
    """Refuse an installed library of another version than this workflow, which has none beside it."""
    pyproject = tomllib.loads(Path(workflow.source_path("../../pyproject.toml")).read_text(encoding="utf-8"))
    needed = pyproject["project"]["version"]
    try:
        found = version("retinaflow")
    except PackageNotFoundError:
        found = None
    if found != needed:
        raise WorkflowError(
            f"This workflow needs the package retinaflow {needed}, but {sys.executable} has "
            f"{f'retinaflow {found}' if found else 'none'}. Install that version there: "
            f"`pip install 'retinaflow[workflow]=={needed}'`, or `pip install '.[workflow]'` in a checkout of it."
        )
    if DeploymentMethod.CONDA in workflow.deployment_settings.deployment_method:
        raise WorkflowError(
            "--software-deployment-method conda: its environments have no package retinaflow, and this workflow has no library "
            "beside it. Run jobs without that option, or use a checkout of the workflow."
        )


if (WORKFLOW / "retinaflow").is_dir():
    # A checkout runs its own library, here and in the scripts, whose processes may be in a container.
    sys.path.insert(0, str(WORKFLOW))
    os.environ.update(PYTHONPATH=os.pathsep.join(filter(None, [str(WORKFLOW), os.environ.get("PYTHONPATH")])))
else:
    require_library()

from retinaflow.storage import archives
from retinaflow.storage import object_storage
from retinaflow.jobs import resources
from retinaflow.config import changes, lookups
from retinaflow.config.checks import check_packages
from retinaflow.config.limits import check_text
from retinaflow.config.loading import load
from retinaflow.config.places import check_files
from retinaflow.config.remote import check_remote, fetched
from retinaflow.data import sources
from retinaflow.errors import RetinaflowError
from retinaflow.jobs.code import code_digests
from retinaflow.storage.files import digest
from retinaflow.storage.lock import lock
from retinaflow.jobs.logs import PARENT

# Jobs end with this process: the next run would start them again.
os.environ[PARENT] = str(os.getpid())

# Of Apptainer, with all that jobs import; made from envs/retinaflow.def.
IMAGE = "retinaflow.sif"


@functools.cache
def storage_client():
    """The S3 client of Snakemake's storage plugin. The jobs that fetch make one with the same settings."""
    if find_spec("snakemake_storage_plugin_s3") is None:
        raise WorkflowError(
            f"The configuration names {object_storage.SCHEME} addresses, which take the S3 storage plugin: `make s3`, or "
            "pip install --require-hashes -r envs/requirements-s3.txt"
        )
    try:
        provider = workflow.storage_registry.register_storage("s3")
    except ValueError as error:  # an endpoint that is no address
        raise WorkflowError(f"--storage-s3-endpoint-url: {error}") from None
    os.environ.update(object_storage.environment(provider.settings))
    return provider.s3c.meta.client


def checked(config):
    """The configuration with all its defaults and paths for addresses, what those are, and the number of shards.

    Or a WorkflowError that lists what is wrong with it.
    """
    try:
        check_text(workflow.configfiles)
        complete = load(config)
        check_files(complete)
        # What is deployed for a job has packages of its own.
        if not workflow.deployment_settings.deployment_method:
            check_packages(complete)
        local, remote = fetched(complete)
        # Jobs find the label tables here, and may run where nothing can be reached.
        if remote and workflow.is_main_process:
            check_remote(storage_client(), remote)
        return local, {one.path: one for one in remote}, lookups.shard_counts(local)
    except RetinaflowError as error:
        raise WorkflowError(str(error)) from None


CONFIG, REMOTE, SHARDS = checked(config)
# Scripts look up there what decides whether they run at all: as a parameter, more leniency would be a reason to train anew.
config.update(CONFIG.model_dump())
RESULTS = CONFIG.results
CLASSES = CONFIG.data.grade_names
FOLDS = CONFIG.split.folds
DATASETS = lookups.data_sets(CONFIG)
# What a model is scored on: its held-out part, and the test set where there is one.
SCORED = ["validation", *(["test"] if "test" in DATASETS else [])]
# What the training data set is divided into.
TRAINING_PARTS = lookups.held_out_splits(CONFIG)


def runs(backbone):
    """One training run, or one a fold."""
    return [f"{backbone}/fold-{i}" for i in range(1, FOLDS + 1)] if FOLDS else [backbone]


RUNS = [run for backbone in CONFIG.models for run in runs(backbone)]
# Of each backbone, by both eyes of a patient.
EYE_SYSTEMS = [f"eye_{kind}" for kind in lookups.eye_models(CONFIG)]
AVERAGE = lookups.ENSEMBLE
# Of a system whose outputs are means over views: the same without, to tell what the views gain.
SINGLE = "single"
# What is made of the new photographs has a folder of its own for each folder of them.
PREDICTED = sources.folder_name(CONFIG.images or "none")


def systems():
    """All that is scored: the runs, and what is made of their outputs."""
    pooled = list(CONFIG.models) if FOLDS else []
    single = [f"{backbone}+{SINGLE}" for backbone in CONFIG.models] if CONFIG.score.tta_views > 1 else []
    both = [f"{backbone}+{kind}" for backbone in CONFIG.models for kind in EYE_SYSTEMS]
    return [*RUNS, *pooled, *single, *both, *([AVERAGE] if len(CONFIG.models) > 1 else [])]


def system_parts(system):
    """The parts that a system is scored on. The first is what its decision is fitted on."""
    return ["out-of-fold" if FOLDS and system not in RUNS else "validation", *SCORED[1:]]


def system_objective(system):
    """What the outputs of a system are."""
    own, _, kind = system.partition("+")
    if kind == "eye_stacking":
        return "regression"
    backbones = CONFIG.models if system == AVERAGE else [backbone_of(own)]
    objectives = {CONFIG.models[backbone].objective for backbone in backbones}
    # Of several kinds of outputs, severities can be averaged.
    return objectives.pop() if len(objectives) == 1 else "regression"


def any_of(names):
    """A constraint of a wildcard to some names."""
    return "|".join(map(re.escape, names))


wildcard_constraints:
    data_set="|".join(DATASETS),
    split="|".join(SHARDS),
    variant="|".join(sorted({lookups.variant(CONFIG, backbone).name for backbone in CONFIG.models})),
    shard=r"\d+",
    number=r"\d+",
    training_run="|".join(RUNS),
    network="|".join(CONFIG.models),
    model=any_of(systems()),


def path(*steps):
    """A path below the results folder."""
    return Path(RESULTS, *steps).as_posix()


@functools.cache
def begin_run():
    """Check what a run needs, and lock the results folder until this process ends; returns the lock."""
    warn_of_two_profiles()
    check_container()
    return claim_results()


def begin_hosted_run(wildcards):
    """Input function: no files. Begins a run before its first job is considered, unless it is a dry run.

    Under `module:`, Snakemake drops `onstart`; a workflow that includes this one may have its own.
    """
    if workflow.is_main_process and workflow.executor_plugin and not workflow.dryrun:
        begin_run()
    return []


def claim_results():
    """Keep other runs from writing to the results folder."""
    try:
        return lock(Path(RESULTS))
    except RetinaflowError as error:
        raise WorkflowError(str(error)) from None


def warn_of_two_profiles():
    """What profiles/default says of this machine bounds jobs that other machines run, where it is read on top."""
    if workflow.non_local_exec and workflow.resource_settings.cores:
        logger.warning(
            "All jobs together are bounded by the cores and GPUs of this machine, as profiles/default has them. Give your "
            "profile with --workflow-profile, which takes its place."
        )


def check_container():
    """See to it that the image is there before Apptainer is asked to run jobs in it."""
    if DeploymentMethod.APPTAINER in workflow.deployment_settings.deployment_method and not Path(IMAGE).exists():
        raise WorkflowError(
            f"{IMAGE}: there is no such image, which --software-deployment-method apptainer takes. Make it: "
            f"apptainer build {IMAGE} envs/retinaflow.def"
        )


# Code ---------------------------------------------------------------------------------------------------------------


def code_of(script):
    """Parameter function: a digest of the library code that a script reaches, package by package.

    Snakemake tracks the script itself, not its imports.
    """

    def digests(wildcards):
        try:
            return code_digests(Path(workflow.source_path(f"../scripts/{script}")))
        except RetinaflowError as error:
            raise WorkflowError(str(error)) from None

    return digests


# Photographs and labels ---------------------------------------------------------------------------------------------


def photograph_folders(wildcards):
    """The folders with the photographs of a data set, where archives are unpacked to for those that are archives."""
    return [
        (path("unpacked", f"{wildcards.data_set}-{number}") if archives.split_archive(images) else images)
        for number, images in enumerate(DATASETS[wildcards.data_set].images)
    ]


def made_folders(wildcards):
    """Those that this workflow makes itself. The user's own are no inputs: their mtime says nothing of their content."""
    if CONFIG.demo:
        return photograph_folders(wildcards)
    user = [images for images in DATASETS[wildcards.data_set].images if images not in REMOTE]
    return [folder for folder in photograph_folders(wildcards) if folder not in user]


def listings(wildcards):
    """A digest of each user's folder that changes with its photographs and not when it is merely touched."""
    made = made_folders(wildcards)
    return [archives.listing(folder) for folder in photograph_folders(wildcards) if folder not in made]


def archive_source(wildcards):
    """The archive, or folder inside one, that a data set's photographs come from."""
    return DATASETS[wildcards.data_set].images[int(wildcards.number)]


def archive_file(wildcards):
    """The file of that archive."""
    return str(archives.split_archive(archive_source(wildcards))[0])


def archive_listing(wildcards):
    """What tells one state of that archive from another."""
    file = archive_file(wildcards)
    return remote_state(file) if file in REMOTE else archives.listing(archive_source(wildcards))


def label_table(wildcards):
    """The label table of a data set as the configuration names it, perhaps inside an archive."""
    return DATASETS[wildcards.data_set].labels


def label_file(wildcards):
    """The file that holds it."""
    archive = archives.split_archive(label_table(wildcards))
    return str(archive[0]) if archive else label_table(wildcards)


def label_digest(wildcards):
    """A digest of the table's content; of a demo's, none, as it may not be drawn yet."""
    if CONFIG.demo:
        return None
    table = label_table(wildcards)
    return digest(archives.read_member(table) if archives.split_archive(table) else Path(table).read_bytes())


def train_inventory(wildcards):
    """What the inventory of the test set must not share a patient or photograph with."""
    return [path("inventory", "train.csv")] if wildcards.data_set == "test" else []


@functools.cache
def new_photographs():
    """What tells the new photographs from what they were before: a text for each file."""
    if CONFIG.images is None:
        raise WorkflowError(
            "images: none, so there is nothing to predict. Name the photographs: `snakemake predict --config "
            f"images=FOLDER`, with {sources.EXPECTED}."
        )
    try:
        return sources.states(CONFIG.images)
    except RetinaflowError as error:
        raise WorkflowError(str(error)) from None


# Object storage -----------------------------------------------------------------------------------------------------


@functools.cache
def stored(path):
    """What the storage has of that which is fetched as `path`."""
    find = object_storage.find_below if REMOTE[path].kind == "folder" else lambda *place: [object_storage.find(*place)]
    try:
        return find(storage_client(), REMOTE[path].url)
    except RetinaflowError as error:
        raise WorkflowError(str(error)) from None


def remote_state(path):
    """A digest of it. None where jobs run: Snakemake compares and records what the process says that submits them."""
    return object_storage.state(stored(path)) if workflow.is_main_process else None


def remote_url(name):
    """Parameter function: the address of what is fetched as `name`."""
    return lambda wildcards: REMOTE[path("downloaded", name.format(**wildcards))].url


def state_of(name):
    """Parameter function: its state. Of a parameter that is derived from an output, Snakemake would see no change."""
    return lambda wildcards: remote_state(path("downloaded", name.format(**wildcards)))


def remote_paths(kind):
    """Where what is of a kind (folder, archive, table, weights) is fetched to."""
    return [path for path, one in REMOTE.items() if one.kind == kind]


# Parts and shards ---------------------------------------------------------------------------------------------------


def split_tables(part):
    """Where split writes `part`, train or validation: one table, or one a fold."""
    if FOLDS:
        return [path("split", f"fold-{i}", f"{part}.csv") for i in range(1, FOLDS + 1)]
    return [path("split", f"{part}.csv")]


def part_table(wildcards):
    """The table that lists the photographs of a part."""
    if wildcards.split == "test":
        return path("inventory", "test.csv")
    # A fold is stored once, as what it holds out; the others train on it from there.
    return path("split", wildcards.split, "validation.csv") if FOLDS else path("split", f"{wildcards.split}.csv")


def part_problems(wildcards):
    """The problems of the data set that the test part is; those of the other parts split has judged."""
    return [path("inventory", "test-problems.csv")] if wildcards.split == "test" else []


def backbone_of(run):
    """The backbone of a run."""
    return run.split("/")[0]


def network_settings(wildcards):
    """The settings of a training run's network."""
    return CONFIG.models[backbone_of(wildcards.training_run)]


def training_settings(wildcards):
    """Parameter function: the settings of a training run that decide its outcome."""
    return network_settings(wildcards).model_dump(exclude={"on_out_of_memory"})


def feature_settings(wildcards):
    """Parameter function: the settings that decide the features of a network."""
    chosen = CONFIG.models[wildcards.network].model_dump()
    decisive = ("backbone", "backend", "cpu_threads", "image_size", "feature_layers")
    views = CONFIG.features.views
    # The first view is the image as it is.
    return {
        **{key: chosen[key] for key in decisive},
        "views": views,
        "augment": chosen["augment"] if views > 1 else None,
    }


def parts_of(run, use):
    """The stored parts that a run trains on, validates on or is tested on."""
    if use == "test" or not FOLDS:
        return [use]
    held_out = run.split("/")[1]
    folds = lookups.held_out_splits(CONFIG)
    return [held_out] if use == "validation" else [fold for fold in folds if fold != held_out]


def indices(use):
    """Input function: index tables of the photographs a run uses so."""

    def tables(wildcards):
        return [path("organized", part, "index.csv") for part in parts_of(wildcards.training_run, use)]

    return tables


def shard_files(backbone, parts, suffix):
    """Shard files of all photographs of some parts, of the size that a backbone takes: `npy` pixels or `csv` rows."""
    recipe = lookups.variant(CONFIG, backbone).name
    return [path("shards", recipe, part, f"{i}.{suffix}") for part in parts for i in range(SHARDS[part])]


def shards(use, suffix):
    """Input function: shard files of the photographs a run uses so, `npy` pixels or `csv` rows."""

    return lambda wildcards: shard_files(
        backbone_of(wildcards.training_run), parts_of(wildcards.training_run, use), suffix
    )


def part_shards(suffix):
    """Input function: shard files of all photographs of a part, of the size that a backbone takes."""

    return lambda wildcards: shard_files(wildcards.network, [wildcards.split], suffix)


# What a scheduler is asked for --------------------------------------------------------------------------------------
# Machines that run the jobs themselves heed none of it, unless they are told how much memory they have.


def scheduled(minutes):
    """Resource function: minutes after which a scheduler may end the job; none where jobs run on this machine.

    Nothing would end them there, and a training heeds its `runtime`.
    """

    def runtime(wildcards, input, threads, attempt):
        # A dry run is none that submits; but whoever gives all jobs a time by default has a scheduler.
        limited = "runtime" in (workflow.resource_settings.default_resources or ())
        submitted = limited or workflow.non_local_exec or workflow.remote_exec
        return minutes(wildcards, input, threads, attempt) if submitted else None

    return runtime


def photographs(part):
    """About how many photographs a part has, not fewer: known before any was looked at."""
    return SHARDS[part] * CONFIG.preprocess.shard_size


def dataset_photographs(dataset):
    """About how many photographs a data set has."""
    parts = ["test"] if dataset == "test" else lookups.held_out_splits(CONFIG)
    return sum(map(photographs, parts))


def run_photographs(run, use):
    """About how many photographs a run trains on, validates on or is tested on."""
    return sum(map(photographs, parts_of(run, use)))


def unpack_memory(wildcards, attempt):
    return resources.table_memory(dataset_photographs(wildcards.data_set), attempt)


def unpack_runtime(wildcards, input, threads, attempt):
    file = archive_file(wildcards)
    # Not fetched yet when the process asks that submits the job.
    size = stored(file)[0].size if file in REMOTE and workflow.is_main_process else Path(file).stat().st_size
    megabytes = size / 1e6
    return resources.unpacking_minutes(megabytes, attempt)


def inventory_memory(wildcards, threads, attempt):
    count = dataset_photographs(wildcards.data_set)
    return resources.reading_memory(CONFIG.data.pixel_limit, threads, count, attempt)


def inventory_runtime(wildcards, input, threads, attempt):
    return resources.reading_minutes(dataset_photographs(wildcards.data_set), threads, attempt)


def organize_memory(wildcards, attempt):
    return resources.table_memory(photographs(wildcards.split), attempt)


def organize_runtime(wildcards, input, threads, attempt):
    # Where photographs are copied, they are read.
    return resources.reading_minutes(photographs(wildcards.split), 1, attempt)


def preprocess_memory(wildcards, threads, attempt):
    # The same for every shard: a job array asks for one thing.
    return resources.reading_memory(CONFIG.data.pixel_limit, threads, CONFIG.preprocess.shard_size, attempt)


def preprocess_runtime(wildcards, input, threads, attempt):
    return resources.reading_minutes(CONFIG.preprocess.shard_size, threads, attempt)


def train_memory(wildcards, attempt):
    count = sum(run_photographs(wildcards.training_run, use) for use in ("train", "validation"))
    return resources.network_memory(network_settings(wildcards), count, True, attempt)


def train_runtime(wildcards, input, threads, attempt):
    counts = [run_photographs(wildcards.training_run, use) for use in ("train", "validation")]
    return resources.training_minutes(network_settings(wildcards), *counts, attempt)


def score_memory(wildcards, attempt):
    count = sum(run_photographs(wildcards.training_run, use) for use in SCORED)
    return resources.network_memory(network_settings(wildcards), count, False, attempt)


def score_runtime(wildcards, input, threads, attempt):
    count = sum(run_photographs(wildcards.training_run, use) for use in SCORED)
    views = CONFIG.score.tta_views * count
    return resources.scoring_minutes(network_settings(wildcards), views, attempt)


def features_memory(wildcards, attempt):
    chosen = CONFIG.models[wildcards.network]
    return resources.network_memory(chosen, photographs(wildcards.split), False, attempt)


def features_runtime(wildcards, input, threads, attempt):
    views = CONFIG.features.views * photographs(wildcards.split)
    return resources.scoring_minutes(CONFIG.models[wildcards.network], views, attempt)


def run_features_runtime(wildcards, input, threads, attempt):
    views = CONFIG.features.views * sum(run_photographs(wildcards.training_run, use) for use in SCORED)
    return resources.scoring_minutes(network_settings(wildcards), views, attempt)


def fusion_memory(wildcards, attempt):
    return resources.probe_memory(sum(map(dataset_photographs, DATASETS)), attempt)


def fusion_runtime(wildcards, input, threads, attempt):
    return resources.probe_minutes(dataset_photographs("train"), attempt)


def probe_memory(wildcards, attempt):
    return resources.probe_memory(dataset_photographs("train"), attempt)


def probe_runtime(wildcards, input, threads, attempt):
    return resources.probe_minutes(dataset_photographs("train"), attempt)


def all_networks():
    """The settings of each run's network."""
    return [CONFIG.models[backbone_of(run)] for run in RUNS]


def predict_memory(wildcards, threads, attempt):
    count = len(new_photographs())
    return resources.predicting_memory(all_networks(), CONFIG.data.pixel_limit, threads, count, attempt)


def predict_runtime(wildcards, input, threads, attempt):
    count = len(new_photographs())
    return resources.predicting_minutes(all_networks(), CONFIG.score.tta_views, threads, count, attempt)


# Report -------------------------------------------------------------------------------------------------------------

# Figures of each system and part beside its confusion matrix, and what the report calls them.
ILLUSTRATIONS = {
    "roc": "ROC and precision-recall",
    "reliability": "reliability",
    "quality": "quality of the photographs",
    "mistakes": "worst mistakes",
}


def whole_systems():
    """All that is scored, but for the folds of a backbone."""
    return [system for system in systems() if not FOLDS or system not in RUNS]


def figure_labels(figure, part):
    """Labels function: those of a figure of a system, or of a run, in the report."""

    def labels(wildcards):
        _, _, fold = wildcards[0].partition("/")
        # The part first: of a later label with two values, the report makes a switch.
        return {"split": " ".join(filter(None, [fold, part])), "figure": figure}

    return labels


def system_records(wildcards):
    """Records of the trainings that a system is made of."""
    own = wildcards.model.split("+")[0]
    return [path("models", run, "training_run.json") for run in (RUNS if own == AVERAGE else runs(own))]


def system_shards(suffix):
    """Input function: shard files of the photographs that a system is scored on; any backbone's, for the average."""

    def files(wildcards):
        backbone = next(iter(CONFIG.models)) if wildcards.model == AVERAGE else wildcards.model.split("+")[0]
        parts = TRAINING_PARTS if wildcards.split == "out-of-fold" else [wildcards.split]
        return shard_files(backbone, parts, suffix)

    return files


# Weights, scores and targets ----------------------------------------------------------------------------------------


def weights_of(backbone):
    """The weights file that a backbone starts from, if any."""
    weights = CONFIG.models[backbone].weights
    if weights == "random":
        return []
    return [path("weights", f"{backbone}.h5") if weights == "imagenet" else weights]


def fetched_weights():
    """The weights files that have to be fetched."""
    return remote_paths("weights") + [
        file for backbone in CONFIG.models for file in weights_of(backbone) if file == path("weights", f"{backbone}.h5")
    ]


def outputs_of(systems, part):
    """Tables of what systems put out for a part. Those of single views are columns of a run's table."""
    own = [system if FOLDS else system.removesuffix(f"+{SINGLE}") for system in systems]
    return [path("scores", system, part, "raw_outputs.csv") for system in own]


def own_outputs(part):
    """Input function: what a backbone's system, and not one of both eyes, puts out for a part."""
    return lambda wildcards: outputs_of([wildcards.network], part)


def of_runs(part, file):
    """Input function: a file of each run of a backbone that is made of what it says of a part."""
    return lambda wildcards: [path("scores", run, part, file) for run in runs(wildcards.network)]


def output_kind(wildcards):
    """The columns of the outputs that a system is graded by."""
    return "no_tta" if wildcards.model.endswith(f"+{SINGLE}") and not FOLDS else "output"


def graded(held_out):
    """Files of a system whose decision is fitted on `held_out`."""
    files = {}
    for part in [held_out, *SCORED[1:]]:
        files[f"{part}_predictions"] = path("scores", "{model}", part, "predictions.csv")
        files[f"{part}_metrics"] = path("scores", "{model}", part, "metrics.json")
        files[f"{part}_figure"] = report(
            path("scores", "{model}", part, "confusion_matrix.png"),
            caption="../report/confusion_matrix.rst",
            category="Graders",
            subcategory=lambda wildcards: backbone_of(wildcards.model),
            labels=figure_labels("confusion matrix", part),
        )
    return files


def all_scores(file):
    """Every `metrics.json`, or `predictions.csv`, that the comparison reads."""
    return [path("scores", system, part, file) for system in systems() for part in system_parts(system)]


def described_graders():
    """What ``graders.write_graders`` is told: what grades new photographs, of which files below `models`."""
    networks = {}
    for backbone in CONFIG.models:
        chosen = CONFIG.models[backbone]
        networks[backbone] = {
            "name": backbone,
            "objective": system_objective(backbone),
            "recipe": lookups.variant(CONFIG, backbone).name,
            "models": [f"{run}/model.keras" for run in runs(backbone)],
            "cpu_threads": chosen.cpu_threads,
            "backend": chosen.backend,
        }
    return {
        "classes": CLASSES,
        "patient": CONFIG.data.patient_pattern,
        "pixel_limit": CONFIG.data.pixel_limit,
        "seed": CONFIG.seed,
        "views": CONFIG.score.tta_views,
        "blend_weight": CONFIG.eyes.fellow_eye_weight,
        "graders": {
            system: {
                "objective": system_objective(system),
                "decision": f"{system}/decision_rule.json",
                "blended": f"{system}+eye_average/decision_rule.json" if f"{system}+eye_average" in systems() else None,
                "backbones": list(networks.values()) if system == AVERAGE else [networks[system]],
            }
            for system in lookups.grading_models(CONFIG)
        },
    }


def decisions():
    """The decisions that new photographs are graded by."""
    graders = described_graders()["graders"].values()
    return [path("models", file) for its in graders for file in (its["decision"], its["blended"]) if file]


def inventory_output():
    """What `snakemake preflight` makes: what is known of the photographs and labels, and all that this is made of.

    Snakemake takes note of a job that failed as if it had finished. What it should have made is only made again where
    somebody asks for it; otherwise what followed from an earlier run of the job would pass for up to date.
    """
    return [
        path("inventory", "problems.csv"),
        *[path("inventory", f"{dataset}{kind}.csv") for dataset in DATASETS for kind in ("", "-problems")],
        *[
            path("unpacked", f"{dataset}-{number}")
            for dataset, source in DATASETS.items()
            for number, images in enumerate(source.images)
            if archives.split_archive(images)
        ],
        *remote_paths("folder"),
    ]


def final_output():
    """What `snakemake` makes when nothing else is asked for: what every stage leaves behind, for the same reason."""
    return [
        *inventory_output(),
        *split_tables("train"),
        *[path("organized", part, "index.csv") for part in SHARDS],
        *[file for backbone in CONFIG.models for file in shard_files(backbone, SHARDS, "npy")],
        *remote_paths("weights"),
        *[path("models", run, "model.keras") for run in RUNS],
        *[table for system in systems() for part in system_parts(system) for table in outputs_of([system], part)],
        *(
            [path("scores", run, part, "features.npy") for run in RUNS for part in SCORED]
            if "eye_stacking" in EYE_SYSTEMS
            else []
        ),
        *all_scores("metrics.json"),
        path("comparison", "comparison.csv"),
    ]


def probe_output():
    """What `snakemake probe` makes, and all that this is made of, for the same reason."""
    backbones = CONFIG.models
    return [
        *[path("features", backbone, f"{part}.npy") for backbone in backbones for part in TRAINING_PARTS],
        *[path("probe", f"{backbone}.json") for backbone in backbones],
        path("probe", "probe.csv"),
    ]


def explained():
    """What `snakemake explain` makes."""
    return [path("explain", run, f"{SCORED[-1]}.png") for run in RUNS]


# Of each format, the file.
EXPORTED = {"onnx": "model.onnx", "litert": "model.tflite", "litert_int8": "model.int8.tflite"}


def packages_of_export(wildcards):
    """Input function: no file; a WorkflowError before anything runs if what converts models is not installed."""
    needed = ("tf2onnx", "onnx", "onnxruntime", "ai_edge_litert")
    # What is deployed for a job has packages of its own.
    if not workflow.deployment_settings.deployment_method and not all(map(find_spec, needed)):
        raise WorkflowError(
            f"`snakemake export` takes {', '.join(needed)}, of which some are not installed: `make export`, or pip "
            "install --require-hashes -r envs/requirements-export.txt"
        )
    return []


def exported():
    """What `snakemake export` makes."""
    names = ["differences.csv", *(EXPORTED[kind] for kind in CONFIG.export.formats)]
    return [path("export", "export.md"), *[path("export", run, name) for run in RUNS for name in names]]


def report_output():
    """What `snakemake report` makes, and all that the report shows beside it."""
    return [
        *final_output(),
        *[
            path("report", system, part, f"{name}.png")
            for system in whole_systems()
            for part in system_parts(system)
            for name in ILLUSTRATIONS
        ],
        *[path("report", name) for name in ("grades.png", "samples.png", "comparison.html", "provenance.html")],
        *[path("cards", f"{name}.md") for name in (*whole_systems(), "data")],
    ]
