# Images and weights in object storage. The submit host fetches them, so that jobs need no network.


@functools.cache
def stored(path):
    """Objects in the storage that are fetched as `path`."""
    find = object_storage.find_below if REMOTE[path].kind == "folder" else lambda *place: [object_storage.find(*place)]
    try:
        return find(storage_client(), REMOTE[path].url)
    except RetinaflowError as error:
        raise WorkflowError(str(error)) from None


def remote_state(path):
    """Digest of the state of the objects that are fetched as `path`. None in the process of a job.

    Snakemake compares and records the value of the process that submits jobs.
    """
    return object_storage.state(stored(path)) if workflow.is_main_process else None


def remote_url(name):
    """Parameter function: address of the objects that are fetched as `name`."""
    return lambda wildcards: REMOTE[path("downloaded", name.format(**wildcards))].url


def state_of(name):
    """Parameter function: state of the objects that are fetched as `name`.

    Snakemake would notice no change of a parameter that is derived from an output.
    """
    return lambda wildcards: remote_state(path("downloaded", name.format(**wildcards)))


def remote_paths(kind):
    """Local paths of the objects of a kind: folder, archive, table or weights."""
    return [path for path, remote in REMOTE.items() if remote.kind == kind]


if REMOTE:

    localrules:
        download_folder,
        download_archive,
        download_weights,

    # One job fetches a whole folder.
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

    # Snakemake deletes the archive after it is unpacked.
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
            file="|".join(f"{network}([.]weights)?" for network in FEATURE_NETWORKS),
        conda:
            "../../envs/storage.yaml"
        params:
            url=remote_url("{file}.h5"),
            state=state_of("{file}.h5"),
        script:
            "../scripts/download.py"
