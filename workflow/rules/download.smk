# Photographs and weights that are in object storage, fetched on the submit host so that jobs need no network. These run
# inside Snakemake, where its storage plugin is and knows how to reach them.

if REMOTE:

    localrules:
        download_folder,
        download_archive,
        download_weights,

    # One job a folder, however many photographs it has.
    rule download_folder:
        output:
            folder=directory(path("downloaded", "{dataset}-{number}")),
        log:
            path("logs", "download", "{dataset}-{number}.log"),
        params:
            url=lambda wildcards, output: REMOTE[output.folder].url,
            state=lambda wildcards, output: remote_state(output.folder),
            limit=CONFIG["data"]["unpack_limit"],
        run:
            with job_log(log[0]):
                objects.fetch_folder(storage_client(), params.url, Path(output.folder), params.limit * 2**30)

    # Gone once it is unpacked.
    rule download_archive:
        output:
            archive=temp(path("downloaded", "{dataset}-{number}.zip")),
        log:
            path("logs", "download", "{dataset}-{number}.zip.log"),
        params:
            url=lambda wildcards, output: REMOTE[output.archive].url,
            state=lambda wildcards, output: remote_state(output.archive),
        run:
            with job_log(log[0]):
                objects.fetch_file(storage_client(), params.url, Path(output.archive))

    rule download_weights:
        output:
            weights=path("downloaded", "{backbone}.h5"),
        log:
            path("logs", "download", "{backbone}.log"),
        params:
            url=lambda wildcards, output: REMOTE[output.weights].url,
            state=lambda wildcards, output: remote_state(output.weights),
        run:
            with job_log(log[0]):
                objects.fetch_file(storage_client(), params.url, Path(output.weights))
