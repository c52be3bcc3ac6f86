# Compare all models in one table and one figure, and in pairs. Write the deployment bundle.


def score_files(file):
    """Every `metrics.json`, or `predictions.csv`, that the comparison reads."""
    return [path("scores", model, split, file) for model in MODELS.names for split in MODELS.splits_of(model)]


def bundle_content():
    """Content of the deployment bundle that ``bundle.write_bundle`` expects. Its files are below `models`."""
    networks = {
        name: {
            "name": name,
            "objective": MODELS.objective(name),
            "variant": lookups.variant(CONFIG, name).name,
            "files": [f"{run}/model.keras" for run in MODELS.runs_of(name)],
            "cpu_threads": settings.cpu_threads,
            "backend": settings.backend,
        }
        for name, settings in CONFIG.models.items()
    }
    return {
        "grade_names": GRADE_NAMES,
        "patient_pattern": CONFIG.data.patient_pattern,
        "pixel_limit": CONFIG.data.pixel_limit,
        "seed": CONFIG.seed,
        "tta_views": CONFIG.score.tta_views,
        "fellow_eye_weight": CONFIG.eyes.fellow_eye_weight,
        "models": {
            model: {
                "objective": MODELS.objective(model),
                "decision_rule": f"{model}/decision_rule.json",
                "eye_average": (
                    f"{model}+eye_average/decision_rule.json" if f"{model}+eye_average" in MODELS.names else None
                ),
                "networks": [networks[name] for name in MODELS.ensembles.get(model, [model])],
            }
            for model in lookups.grading_models(CONFIG)
        },
    }


rule compare:
    input:
        scores=score_files("metrics.json"),
        predictions=score_files("predictions.csv"),
        inventory=path("inventory", "train.csv"),
        records=[path("models", run, "training_run.json") for run in MODELS.training_runs],
    output:
        table=path("comparison", "comparison.csv"),
        pairs=path("comparison", "pairs.csv"),
        repeats=path("comparison", "repeats.csv"),
        markdown=path("comparison", "comparison.md"),
        figure=report(
            path("comparison", "comparison.png"),
            caption="../report/comparison.rst",
            category="Comparison",
            labels={"figure": "kappa and accuracy with intervals"},
        ),
        bundle=path("models", "bundle.json"),
    log:
        path("logs", "compare.log"),
    localrule: True
    conda:
        "../../envs/retinaflow.yaml"
    params:
        code=code_of("compare.py"),
        bootstrap_samples=CONFIG.score.bootstrap_samples,
        seed=CONFIG.seed,
        bundle=bundle_content(),
        repeats=lookups.repeats(CONFIG),
        runs={network: MODELS.runs_of(network) for network in CONFIG.models},
    script:
        "../scripts/compare.py"
