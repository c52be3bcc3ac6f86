# Trained models in the formats of other runtimes, compared with Keras. `all` does not ask for them.

# File of each format.
EXPORTED = {"onnx": "model.onnx", "litert": "model.tflite", "litert_int8": "model.int8.tflite"}


def packages_of_export(wildcards):
    """Input function: no file. Raises a WorkflowError before any job runs if a converter is not installed."""
    needed = ("tf2onnx", "onnx", "onnxruntime", "ai_edge_litert")
    # Jobs with deployed software have packages of their own.
    if not workflow.deployment_settings.deployment_method and not all(map(find_spec, needed)):
        raise WorkflowError(
            f"`snakemake export` needs {', '.join(needed)}; some are not installed. Run `make export`, or pip "
            "install --require-hashes -r envs/requirements-export.txt"
        )
    return []


rule export_run:
    input:
        packages_of_export,
        **{
            f"{split}_{kind}": files
            for split in ("train", "validation")
            for kind, files in {
                "indices": indices(split),
                "pixels": shards(split, "npy"),
                "rows": shards(split, "csv"),
            }.items()
        },
        model=path("models", "{training_run}", "model.keras"),
        decision_rule=path("models", "{training_run}", "decision_rule.json"),
    output:
        **{kind: path("export", "{training_run}", EXPORTED[kind]) for kind in CONFIG.export.formats},
        differences=path("export", "{training_run}", "differences.csv"),
    log:
        path("logs", "export", "{training_run}.log"),
    conda:
        "../../envs/export.yaml"
    threads: lambda wildcards: network_settings(wildcards).cpu_threads
    resources:
        mem_mb=score_memory,
        runtime=scheduled(score_runtime),
    params:
        code=code_of("export_run.py"),
        grade_names=GRADE_NAMES,
        variant=lambda wildcards: lookups.variant(CONFIG, network_of(wildcards.training_run)).name,
        tta_views=CONFIG.score.tta_views,
        seed=CONFIG.seed,
        cpu_threads=lambda wildcards: network_settings(wildcards).cpu_threads,
        formats=CONFIG.export.formats,
    script:
        "../scripts/export_run.py"


rule export_summary:
    input:
        differences=[path("export", run, "differences.csv") for run in MODELS.training_runs],
    output:
        table=path("export", "export.csv"),
        page=path("export", "export.md"),
    log:
        path("logs", "export", "summary.log"),
    localrule: True
    conda:
        "../../envs/retinaflow.yaml"
    params:
        code=code_of("export_summary.py"),
    script:
        "../scripts/export_summary.py"
