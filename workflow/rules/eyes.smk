# Models of both eyes: averages of raw outputs, and linear models stacked on features.


def network_outputs(split):
    """Input function: raw outputs of a network on a split."""
    return lambda wildcards: raw_outputs_of([wildcards.network], split)


def training_run_files(split, file):
    """Input function: one file of each training run of a network on a split."""
    return lambda wildcards: [path("scores", run, split, file) for run in MODELS.runs_of(wildcards.network)]


rule eye_average:
    input:
        **{split: network_outputs(split) for split in MODELS.splits_of("eye_average")},
    output:
        **{
            split: path("scores", "{network}+eye_average", split, "raw_outputs.csv")
            for split in MODELS.splits_of("eye_average")
        },
    log:
        path("logs", "eye_average", "{network}.log"),
    localrule: True
    conda:
        "../../envs/retinaflow.yaml"
    params:
        code=code_of("eye_average.py"),
        splits=MODELS.splits_of("eye_average"),
        objective=lambda wildcards: MODELS.objective(wildcards.network),
        grade_count=len(GRADE_NAMES),
        fellow_eye_weight=CONFIG.eyes.fellow_eye_weight,
    script:
        "../scripts/eye_average.py"


# Features of images by a trained network that was not trained on them.
rule run_features:
    input:
        **{f"{split}_indices": indices(split) for split in MODELS.scored_pairs},
        **{f"{split}_pixels": shards(split, "npy") for split in MODELS.scored_pairs},
        **{f"{split}_rows": shards(split, "csv") for split in MODELS.scored_pairs},
        model=path("models", "{training_run}", "model.keras"),
    output:
        **{
            f"{split}_features": path("scores", "{training_run}", split, "features.npy")
            for split in MODELS.scored_pairs
        },
        **{f"{split}_images": path("scores", "{training_run}", split, "features.csv") for split in MODELS.scored_pairs},
    log:
        path("logs", "features", "{training_run}.log"),
    conda:
        "../../envs/retinaflow.yaml"
    threads: lambda wildcards: network_settings(wildcards).cpu_threads
    resources:
        gpu=1,
        mem_mb=score_memory,
        runtime=scheduled(run_features_runtime),
    params:
        code=code_of("run_features.py"),
        splits=MODELS.scored_pairs,
        grade_names=GRADE_NAMES,
        objective=lambda wildcards: MODELS.objective(wildcards.training_run),
        augment=lambda wildcards: (
            network_settings(wildcards).augment.model_dump() if CONFIG.features.views > 1 else None
        ),
        views=CONFIG.features.views,
        seed=CONFIG.seed,
        backend=lambda wildcards: network_settings(wildcards).backend,
        cpu_threads=lambda wildcards: network_settings(wildcards).cpu_threads,
    script:
        "../scripts/run_features.py"


rule eye_stacking:
    input:
        **{
            f"{split}_{kind}": training_run_files(split, file)
            for split in MODELS.scored_pairs
            for kind, file in (
                ("outputs", "raw_outputs.csv"),
                ("features", "features.npy"),
                ("images", "features.csv"),
            )
        },
    output:
        **{
            split: path("scores", "{network}+eye_stacking", folder, "raw_outputs.csv")
            for split, folder in zip(MODELS.scored_pairs, MODELS.splits_of("eye_stacking"))
        },
        models=linear_files("{network}+eye_stacking"),
    log:
        path("logs", "eye_stacking", "{network}.log"),
    conda:
        "../../envs/retinaflow.yaml"
    threads: 2
    resources:
        mem_mb=eye_stacking_memory,
        runtime=scheduled(eye_stacking_runtime),
    params:
        code=code_of("eye_stacking.py"),
        splits=MODELS.scored_pairs,
        objective=lambda wildcards: MODELS.objective(wildcards.network),
        sources=lambda wildcards: [feature_source(wildcards.network, run) for run in MODELS.runs_of(wildcards.network)],
        grade_names=GRADE_NAMES,
        seed=CONFIG.seed,
    script:
        "../scripts/eye_stacking.py"
