# All systems in one table and one figure, and each with each other; and what it takes to grade new images by them.


def score_files(file):
    """Every `metrics.json`, or `predictions.csv`, that the comparison reads."""
    return [path("scores", model, split, file) for model in MODELS.names for split in MODELS.splits_of(model)]


def described_graders():
    """What ``graders.write_graders`` is told: what grades new images, of which files below `models`."""
    networks = {}
    for network in CONFIG.models:
        chosen = CONFIG.models[network]
        networks[network] = {
            "name": network,
            "objective": MODELS.objective(network),
            "recipe": lookups.variant(CONFIG, network).name,
            "models": [f"{run}/model.keras" for run in MODELS.runs_of(network)],
            "cpu_threads": chosen.cpu_threads,
            "backend": chosen.backend,
        }
    return {
        "classes": GRADE_NAMES,
        "patient": CONFIG.data.patient_pattern,
        "pixel_limit": CONFIG.data.pixel_limit,
        "seed": CONFIG.seed,
        "views": CONFIG.score.tta_views,
        "blend_weight": CONFIG.eyes.fellow_eye_weight,
        "graders": {
            model: {
                "objective": MODELS.objective(model),
                "decision": f"{model}/decision_rule.json",
                "blended": (
                    f"{model}+eye_average/decision_rule.json" if f"{model}+eye_average" in MODELS.names else None
                ),
                "backbones": list(networks.values()) if model == ENSEMBLE else [networks[model]],
            }
            for model in lookups.grading_models(CONFIG)
        },
    }


rule compare:
    input:
        scores=score_files("metrics.json"),
        predictions=score_files("predictions.csv"),
        inventory=path("inventory", "train.csv"),
    output:
        table=path("comparison", "comparison.csv"),
        pairs=path("comparison", "pairs.csv"),
        markdown=path("comparison", "comparison.md"),
        figure=report(
            path("comparison", "comparison.png"),
            caption="../report/comparison.rst",
            category="Comparison",
            labels={"figure": "kappa and accuracy with intervals"},
        ),
        graders=path("models", "bundle.json"),
    log:
        path("logs", "compare.log"),
    localrule: True
    conda:
        "../../envs/retinaflow.yaml"
    params:
        code=code_of("compare.py"),
        bootstrap=CONFIG.score.bootstrap_samples,
        seed=CONFIG.seed,
        graders=described_graders(),
    script:
        "../scripts/compare.py"
