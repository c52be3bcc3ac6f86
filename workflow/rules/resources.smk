# Memory and run time that jobs request from a scheduler. Jobs on this machine ignore the run time. They use the memory
# only if `--resources mem_mb` names the memory of this machine.

from retinaflow.jobs import resources


def scheduled(minutes):
    """Resource function: minutes after which a scheduler may end the job. None if jobs run on this machine.

    A training run stops before its `runtime` is over. On this machine, nothing limits it.
    """

    def runtime(wildcards, input, threads, attempt):
        # A dry run does not submit. A default runtime shows that there is a scheduler.
        limited = "runtime" in (workflow.resource_settings.default_resources or ())
        submitted = limited or workflow.non_local_exec or workflow.remote_exec
        return minutes(wildcards, input, threads, attempt) if submitted else None

    return runtime


def split_images(split):
    """Upper estimate of the images of a split, known before any image was read."""
    return SHARDS[split] * CONFIG.preprocess.shard_size


def data_set_images(data_set):
    """Upper estimate of the images of a data set."""
    return sum(map(split_images, [data_set] if data_set in MODELS.tests else TRAINING_SPLITS))


def training_run_images(training_run, use):
    """Upper estimate of the images that a training run uses as `use`."""
    return sum(map(split_images, MODELS.stored_splits(training_run, use)))


def unpack_memory(wildcards, attempt):
    return resources.table_memory(data_set_images(wildcards.data_set), attempt)


def unpack_runtime(wildcards, input, threads, attempt):
    file = archive_file(wildcards)
    # The archive is not fetched yet when the submitting process asks.
    size = stored(file)[0].size if file in REMOTE and workflow.is_main_process else Path(file).stat().st_size
    megabytes = size / 1e6
    return resources.unpacking_minutes(megabytes, attempt)


def inventory_memory(wildcards, threads, attempt):
    count = data_set_images(wildcards.data_set)
    return resources.reading_memory(CONFIG.data.pixel_limit, threads, images=count, attempt=attempt)


def inventory_runtime(wildcards, input, threads, attempt):
    return resources.reading_minutes(data_set_images(wildcards.data_set), threads, attempt)


def organize_memory(wildcards, attempt):
    return resources.table_memory(split_images(wildcards.split), attempt)


def organize_runtime(wildcards, input, threads, attempt):
    # Copying an image reads it.
    return resources.reading_minutes(split_images(wildcards.split), 1, attempt)


def preprocess_memory(wildcards, threads, attempt):
    # All shards have the same request, since a job array has one.
    images = CONFIG.preprocess.shard_size
    return resources.reading_memory(CONFIG.data.pixel_limit, threads, images=images, attempt=attempt)


def preprocess_runtime(wildcards, input, threads, attempt):
    return resources.reading_minutes(CONFIG.preprocess.shard_size, threads, attempt)


def train_memory(wildcards, attempt):
    count = sum(training_run_images(wildcards.training_run, use) for use in ("train", "validation"))
    return resources.network_memory(network_settings(wildcards), count, training=True, attempt=attempt)


def train_runtime(wildcards, input, threads, attempt):
    train, validation = (training_run_images(wildcards.training_run, use) for use in ("train", "validation"))
    return resources.training_minutes(network_settings(wildcards), train, validation=validation, attempt=attempt)


def score_memory(wildcards, attempt):
    count = sum(training_run_images(wildcards.training_run, use) for use in MODELS.scored)
    return resources.network_memory(network_settings(wildcards), count, training=False, attempt=attempt)


def score_runtime(wildcards, input, threads, attempt):
    count = sum(training_run_images(wildcards.training_run, use) for use in MODELS.scored)
    views = CONFIG.score.tta_views * count
    return resources.scoring_minutes(network_settings(wildcards), views, attempt)


def features_memory(wildcards, attempt):
    chosen = FEATURE_NETWORKS[wildcards.network]
    return resources.network_memory(chosen, split_images(wildcards.split), training=False, attempt=attempt)


def features_runtime(wildcards, input, threads, attempt):
    views = CONFIG.features.views * split_images(wildcards.split)
    return resources.scoring_minutes(FEATURE_NETWORKS[wildcards.network], views, attempt)


def converted(wildcards):
    """Settings of a network that is converted: that of a training run, or a frozen backbone."""
    return FEATURE_NETWORKS[network_of(wildcards.get("training_run") or wildcards.network)]


def convert_memory(wildcards, attempt):
    return resources.conversion_memory(converted(wildcards), attempt)


def convert_runtime(wildcards, input, threads, attempt):
    return resources.scoring_minutes(converted(wildcards), 1, attempt)


def run_features_runtime(wildcards, input, threads, attempt):
    count = sum(training_run_images(wildcards.training_run, use) for use in MODELS.scored_pairs)
    views = CONFIG.features.views * count
    return resources.scoring_minutes(network_settings(wildcards), views, attempt)


def eye_stacking_memory(wildcards, attempt):
    return resources.probe_memory(sum(map(data_set_images, INVENTORIES)), attempt)


def eye_stacking_runtime(wildcards, input, threads, attempt):
    return resources.probe_minutes(data_set_images("train"), attempt)


def linear_memory(wildcards, attempt):
    values = len(CONFIG.features.poolings) * len(MODELS.linear[wildcards.linear].features)
    return resources.probe_memory(values * sum(map(data_set_images, INVENTORIES)), attempt)


def linear_runtime(wildcards, input, threads, attempt):
    values = len(CONFIG.features.poolings) * len(MODELS.linear[wildcards.linear].features)
    return resources.probe_minutes((FOLDS or 1) * values * data_set_images("train"), attempt)


def probe_memory(wildcards, attempt):
    return resources.probe_memory(len(CONFIG.features.poolings) * data_set_images("train"), attempt)


def probe_runtime(wildcards, input, threads, attempt):
    return resources.probe_minutes(len(CONFIG.features.poolings) * data_set_images("train"), attempt)


def all_networks():
    """Settings of the network of each training run."""
    return [CONFIG.models[network_of(training_run)] for training_run in MODELS.training_runs]


def predict_memory(wildcards, threads, attempt):
    images = len(new_images())
    limit = CONFIG.data.pixel_limit
    return resources.predicting_memory(all_networks(), limit, threads=threads, images=images, attempt=attempt)


def predict_runtime(wildcards, input, threads, attempt):
    images = len(new_images())
    views = CONFIG.score.tta_views
    return resources.predicting_minutes(all_networks(), views, threads=threads, images=images, attempt=attempt)
