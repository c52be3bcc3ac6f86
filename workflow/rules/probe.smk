# Grades from the features of each backbone, without any training of a network.


rule probe_backbone:
    input:
        indices=expand(path("organized", "{split}", "index.csv"), split=TRAINING_SPLITS),
        features=expand(path("features", "{{network}}", "{split}.npy"), split=TRAINING_SPLITS),
        rows=expand(path("features", "{{network}}", "{split}.csv"), split=TRAINING_SPLITS),
    output:
        path("probe", "{network}.json"),
    log:
        path("logs", "probe", "{network}.log"),
    conda:
        "../../envs/retinaflow.yaml"
    threads: 2
    resources:
        mem_mb=probe_memory,
        runtime=scheduled(probe_runtime),
    params:
        code=code_of("probe_backbone.py"),
        settings=feature_settings,
        grade_names=GRADE_NAMES,
        bootstrap_samples=CONFIG.score.bootstrap_samples,
        seed=CONFIG.seed,
    script:
        "../scripts/probe_backbone.py"


rule rank_probes:
    input:
        probes=expand(path("probe", "{network}.json"), network=FEATURE_NETWORKS),
    output:
        table=path("probe", "probe.csv"),
        markdown=path("probe", "probe.md"),
    log:
        path("logs", "probe", "probe.log"),
    localrule: True
    conda:
        "../../envs/retinaflow.yaml"
    params:
        code=code_of("rank_probes.py"),
    script:
        "../scripts/rank_probes.py"
