# Unpack archives of photographs, as they were downloaded.


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
