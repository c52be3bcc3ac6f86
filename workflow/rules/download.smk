# Photographs and weights that are in object storage, fetched on the submit host so that jobs need no network.


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


if REMOTE:

    localrules:
        download_folder,
        download_archive,
        download_weights,

    # One job a folder, however many images it has.
    rule download_folder:
        output:
            folder=directory(path("downloaded", "{data_set}-{number}")),
        log:
            path("logs", "download", "{data_set}-{number}.log"),
        conda:
            "../../envs/storage.yaml"
        params:
            url=remote_url("{data_set}-{number}"),
            state=state_of("{data_set}-{number}"),
            limit=CONFIG.data.unpack_limit,
        script:
            "../scripts/download.py"

    # Gone once it is unpacked.
    rule download_archive:
        output:
            archive=temp(path("downloaded", "{data_set}-{number}.zip")),
        log:
            path("logs", "download", "{data_set}-{number}.zip.log"),
        conda:
            "../../envs/storage.yaml"
        params:
            url=remote_url("{data_set}-{number}.zip"),
            state=state_of("{data_set}-{number}.zip"),
        script:
            "../scripts/download.py"

    rule download_weights:
        output:
            weights=path("downloaded", "{file}.h5"),
        log:
            path("logs", "download", "{file}.log"),
        wildcard_constraints:
            file="|".join(f"{network}([.]weights)?" for network in CONFIG.models),
        conda:
            "../../envs/storage.yaml"
        params:
            url=remote_url("{file}.h5"),
            state=state_of("{file}.h5"),
        script:
            "../scripts/download.py"
