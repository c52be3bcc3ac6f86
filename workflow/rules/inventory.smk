# Stage 0: the images with their labels, and all problems of both.


def image_folders(wildcards):
    """Image folders of a data set. For an archive, it is the folder that the archive is unpacked to."""
    return [
        (path("unpacked", f"{wildcards.data_set}-{number}") if archives.split_archive(images) else images)
        for number, images in enumerate(DATA_SETS[wildcards.data_set].images)
    ]


def made_folders(wildcards):
    """Image folders that this workflow makes. The user's own are no inputs: their mtime shows no change of content."""
    if CONFIG.demo:
        return image_folders(wildcards)
    user = [images for images in DATA_SETS[wildcards.data_set].images if images not in REMOTE]
    return [folder for folder in image_folders(wildcards) if folder not in user]


def listings(wildcards):
    """A digest of each folder of the user, which changes with its images and ignores a mere touch."""
    made = made_folders(wildcards)
    return [archives.listing(folder) for folder in image_folders(wildcards) if folder not in made]


def label_tables(wildcards):
    """Label tables of a data set as the configuration names them, perhaps inside archives. None with class folders."""
    return lookups.label_tables(DATA_SETS[wildcards.data_set])


def made_labels(wildcards):
    """Label tables of a data set, or the archives that hold them, that this workflow makes.

    The user's own are no inputs: their digests are parameters, and a table that is dated ahead of the clock would fail the job.
    """
    archived = {table: archives.split_archive(table) for table in lookups.tables(DATA_SETS[wildcards.data_set])}
    files = [str(archive[0]) if archive else table for table, archive in archived.items()]
    return [file for file in files if CONFIG.demo or file in REMOTE]


def table_digest(table):
    """Digest of a label table, perhaps inside an archive."""
    return digest(archives.read_member(table) if archives.split_archive(table) else Path(table).read_bytes())


def label_digests(wildcards):
    """Digests of the label tables. None for the demo, whose table may not be drawn yet."""
    if CONFIG.demo:
        return None
    own = lookups.tables(DATA_SETS[wildcards.data_set])
    tables = [*own, *(other["path"] for other in other_labels(wildcards))]
    return [table_digest(table) for table in tables]


def other_labels(wildcards):
    """Label tables and columns of other data sets with images in the same folders."""
    others = [DATA_SETS[name] for name in sharing_sets(DATA_SETS, wildcards.data_set)]
    return [
        {"path": table, "columns": lookups.label_columns(source)}
        for source in others
        for table in lookups.label_tables(source)
    ]


def train_inventory(wildcards):
    """Inventory of the training set for that of a test set, which must share no patient or image with it."""
    return [path("inventory", "train.csv")] if wildcards.data_set in MODELS.tests else []


def train_grades(wildcards):
    """Parameter function: grade of a test set for each grade of the training sets, if it has a scale of its own."""
    scale = lookups.grade_scale(CONFIG, wildcards.data_set)
    return scale.of_grade if scale else []


rule inventory:
    input:
        labels=ancient(made_labels),
        made=made_folders,
        train=train_inventory,
    output:
        inventory=path("inventory", "{data_set}.csv"),
        problems=path("inventory", "{data_set}-problems.csv"),
    log:
        path("logs", "inventory", "{data_set}.log"),
    # With few cores, the problems of both data sets are reported before later stages start.
    priority: 1
    conda:
        "../../envs/retinaflow.yaml"
    threads: 4
    resources:
        mem_mb=inventory_memory,
        runtime=scheduled(inventory_runtime),
    params:
        code=code_of("inventory.py"),
        folders=image_folders,
        listings=listings,
        labels=label_tables,
        label_digests=label_digests,
        other_labels=other_labels,
        exclude=lambda wildcards: DATA_SETS[wildcards.data_set].exclude,
        columns=lambda wildcards: lookups.label_columns(DATA_SETS[wildcards.data_set]),
        grade_map=lambda wildcards: DATA_SETS[wildcards.data_set].grade_map,
        grade_separator=lambda wildcards: DATA_SETS[wildcards.data_set].grade_separator,
        ungradable=lambda wildcards: DATA_SETS[wildcards.data_set].ungradable,
        grade_names=lambda wildcards: lookups.grade_names(CONFIG, wildcards.data_set),
        train_grades=train_grades,
        patient_pattern=lambda wildcards: DATA_SETS[wildcards.data_set].patient_pattern,
        patient_group=lambda wildcards: lookups.patient_group(CONFIG, wildcards.data_set),
        pixel_limit=CONFIG.data.pixel_limit,
    script:
        "../scripts/inventory.py"


if JOINED_SETS:

    localrules:
        join,

    rule join:
        input:
            inventories=[path("inventory", f"{data_set}.csv") for data_set in TRAINING_SETS],
            problems=[path("inventory", f"{data_set}-problems.csv") for data_set in TRAINING_SETS],
        output:
            inventory=path("inventory", "train.csv"),
            problems=path("inventory", "train-problems.csv"),
        log:
            path("logs", "inventory", "join.log"),
        priority: 1
        conda:
            "../../envs/retinaflow.yaml"
        params:
            code=code_of("join.py"),
            names=JOINED_SETS,
        script:
            "../scripts/join.py"


def earlier_models():
    """Networks that start from a model of another workflow run, with the images that it was trained on."""
    found = {network: earlier_images(network) for network in FEATURE_NETWORKS}
    own = [path("models", run, "trained_on.json") for run in MODELS.training_runs]
    return {network: files[0] for network, files in found.items() if files and files[0] not in own}


# All problems of all data sets. It runs again after a change of any data set, so no other stage waits for it. The rules
# split and organize apply the same policy to their own inputs.
rule check_problems:
    input:
        inventories=expand(path("inventory", "{data_set}.csv"), data_set=INVENTORIES),
        problems=expand(path("inventory", "{data_set}-problems.csv"), data_set=INVENTORIES),
        earlier=lambda wildcards: list(earlier_models().values()),
    output:
        table=path("inventory", "problems.csv"),
        summary=path("inventory", "problems.md"),
    log:
        path("logs", "inventory", "preflight.log"),
        # Snakemake deletes the outputs of a failed job, but not its logs. The user needs the problems then.
        table=path("logs", "inventory", "problems.csv"),
        summary=path("logs", "inventory", "problems.md"),
    priority: 1
    localrule: True
    conda:
        "../../envs/retinaflow.yaml"
    params:
        code=code_of("preflight.py"),
        data_sets=INVENTORIES,
        patient_patterns={
            name: source.patient_pattern for name, source in DATA_SETS.items() if not source.patient_column
        },
        on_problem=CONFIG.data.on_problem.model_dump(),
        exclude_limit=CONFIG.data.exclude_limit,
        own_policies={
            name: [policy.on_problem.model_dump(), policy.exclude_limit]
            for name, policy in own_policies(CONFIG.data).items()
        },
        grade_names=GRADE_NAMES,
        unit=CONFIG.split.unit,
        sides=FOLDS or 2,
        earlier=lambda wildcards: list(earlier_models()),
        unseen=INVENTORIES if FOLDS or LEFT_OUT_SETS else MODELS.tests,
        shared_patients=CONFIG.data.shared_patients,
        recalibration=lookups.recalibration(CONFIG),
    script:
        "../scripts/preflight.py"
