# Stage 4: fine-tune each network, on each fold where there are folds.


rule train:
    input:
        train_indices=indices("train"),
        train_pixels=shards("train", "npy"),
        train_rows=shards("train", "csv"),
        validation_indices=indices("validation"),
        validation_pixels=shards("validation", "npy"),
        validation_rows=shards("validation", "csv"),
        weights=lambda wildcards: weights_of(network_of(wildcards.training_run)),
    output:
        model=path("models", "{training_run}", "model.keras"),
        history=path("models", "{training_run}", "history.csv"),
        grade_names_file=path("models", "{training_run}", "grade_names.json"),
        record=path("models", "{training_run}", "training_run.json"),
        trained_on=path("models", "{training_run}", "trained_on.json"),
    log:
        path("logs", "train", "{training_run}.log"),
    conda:
        "../../envs/retinaflow.yaml"
    threads: lambda wildcards: network_settings(wildcards).cpu_threads
    resources:
        gpu=lambda wildcards: network_settings(wildcards).gpus,
        # SLURM would spread several GPUs over nodes, and give each as many cores as `threads`.
        nodes=1,
        cpus_per_task=lambda wildcards, threads: threads,
        mem_mb=train_memory,
        runtime=scheduled(train_runtime),
    params:
        code=code_of("train.py"),
        network=lambda wildcards: network_of(wildcards.training_run),
        settings=training_settings,
        grade_names=GRADE_NAMES,
        seed=lambda wildcards: lookups.training_seed(CONFIG, network_of(wildcards.training_run)),
        shared_patients=CONFIG.data.shared_patients,
        # No output: Snakemake deletes outputs before a job, and the checkpoints outlive an interrupted job.
        checkpoints=path("checkpoints", "{training_run}"),
        # No output either: it has networks of other names and settings.
        trained=path("models", ".cache"),
    script:
        "../scripts/train.py"
