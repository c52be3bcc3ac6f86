# Photographs and weights that are in object storage, fetched on the submit host so that jobs need no network.

if REMOTE:

    localrules:
        download_folder,
        download_archive,
        download_weights,

    # One job a folder, however many photographs it has.
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
            file="|".join(f"{backbone}([.]weights)?" for backbone in CONFIG.models),
        conda:
            "../../envs/storage.yaml"
        params:
            url=remote_url("{file}.h5"),
            state=state_of("{file}.h5"),
        script:
            "../scripts/download.py"
