# Unpack archives of images.


def archive_source(wildcards):
    """Archive, or folder inside an archive, with images of a data set."""
    return DATA_SETS[wildcards.data_set].images[int(wildcards.number)]


def archive_file(wildcards):
    """File of the archive."""
    return str(archives.split_archive(archive_source(wildcards))[0])


def archive_listing(wildcards):
    """Digest of the state of the archive."""
    file = archive_file(wildcards)
    return remote_state(file) if file in REMOTE else archives.listing(archive_source(wildcards))


rule unpack:
    input:
        archive=ancient(archive_file),
    output:
        folder=directory(path("unpacked", "{data_set}-{number}")),
    log:
        path("logs", "unpack", "{data_set}-{number}.log"),
    conda:
        "../../envs/retinaflow.yaml"
    resources:
        mem_mb=unpack_memory,
        runtime=scheduled(unpack_runtime),
    params:
        code=code_of("unpack.py"),
        source=archive_source,
        listing=archive_listing,
        limit=CONFIG.data.unpack_limit,
    script:
        "../scripts/unpack.py"
