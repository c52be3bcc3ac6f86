# Stage 0: which images there are, with which labels, and what is wrong with them.


def image_folders(wildcards):
    """The folders with the images of a data set, where archives are unpacked to for those that are archives."""
    return [
        (path("unpacked", f"{wildcards.data_set}-{number}") if archives.split_archive(images) else images)
        for number, images in enumerate(DATA_SETS[wildcards.data_set].images)
    ]


def made_folders(wildcards):
    """Those that this workflow makes itself. The user's own are no inputs: their mtime says nothing of their content."""
    if CONFIG.demo:
        return image_folders(wildcards)
    user = [images for images in DATA_SETS[wildcards.data_set].images if images not in REMOTE]
    return [folder for folder in image_folders(wildcards) if folder not in user]


def listings(wildcards):
    """A digest of each user's folder that changes with its images and not when it is merely touched."""
    made = made_folders(wildcards)
    return [archives.listing(folder) for folder in image_folders(wildcards) if folder not in made]


def label_table(wildcards):
    """The label table of a data set as the configuration names it, perhaps inside an archive."""
    return DATA_SETS[wildcards.data_set].labels


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
    """What the inventory of the test set must not share a patient or image with."""
    return [path("inventory", "train.csv")] if wildcards.data_set == "test" else []


rule inventory:
    input:
        labels=ancient(label_file),
        made=made_folders,
        train=train_inventory,
    output:
        inventory=path("inventory", "{data_set}.csv"),
        problems=path("inventory", "{data_set}-problems.csv"),
    log:
        path("logs", "inventory", "{data_set}.log"),
    # Where cores are few, what is wrong with either data set is said before anything is made of the other.
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
        labels=label_table,
        label_digest=label_digest,
        exclude=lambda wildcards: DATA_SETS[wildcards.data_set].exclude,
        data=CONFIG.data.model_dump(
            include={"image_column", "grade_column", "grade_names", "patient_pattern", "pixel_limit"}
        ),
    script:
        "../scripts/inventory.py"


# All problems of all data sets at once. No other stage waits for it, since it would run again after whatever changes
# either of them: split and organize check what they read, by the same rules.
rule check_problems:
    input:
        inventories=expand(path("inventory", "{data_set}.csv"), data_set=DATA_SETS),
        problems=expand(path("inventory", "{data_set}-problems.csv"), data_set=DATA_SETS),
    output:
        table=path("inventory", "problems.csv"),
        summary=path("inventory", "problems.md"),
    log:
        path("logs", "inventory", "preflight.log"),
        # Logs outlive a failed job, outputs do not, and that is when one wants to see the problems.
        table=path("logs", "inventory", "problems.csv"),
        summary=path("logs", "inventory", "problems.md"),
    priority: 1
    localrule: True
    conda:
        "../../envs/retinaflow.yaml"
    params:
        code=code_of("preflight.py"),
        datasets=list(DATA_SETS),
        on_problem=CONFIG.data.on_problem.model_dump(),
        exclude_limit=CONFIG.data.exclude_limit,
    script:
        "../scripts/preflight.py"
