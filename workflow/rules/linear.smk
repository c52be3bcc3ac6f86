# Linear models on features of frozen backbones. They need no training of a network, so their jobs are the first ones.


def linear_runs(wildcards):
    """Parameter function: the stored splits that each fit of a linear model uses, and the split that it is scored on."""
    runs = MODELS.runs_of(wildcards.linear)
    if LEFT_OUT_SETS:
        return [(MODELS.stored_splits(run, "train"), "validation") for run in runs]
    return [
        (MODELS.stored_splits(run, "train"), held_out)
        for run in runs
        for held_out in MODELS.stored_splits(run, "validation")
    ]


def joined_splits(wildcards):
    """Parameter function: the stored splits of each split that has several, of a model that a data set is left out of."""
    splits = MODELS.scored if LEFT_OUT_SETS else []
    return {split: MODELS.stored_splits(wildcards.linear, split) for split in splits}


def unseen_splits(wildcards):
    """Parameter function: the stored splits of images that no earlier model may have been trained on."""
    if LEFT_OUT_SETS:
        return MODELS.stored_splits(wildcards.linear, lookups.LEFT_OUT_SPLIT)
    return list(SHARDS) if FOLDS else MODELS.tests


def linear_networks(wildcards):
    """Parameter function: the networks of a linear model, each with the settings that decide its features."""
    return {
        network: {**feature_source(network), "deviations": CONFIG.features.views > 1, **CONFIG.features.pooled()}
        for network in MODELS.linear[wildcards.linear].features
    }


def feature_tables(split, suffix):
    """Input function: features of a split by each network of a linear model, or the rows of these."""
    return lambda wildcards: [
        path("features", network, f"{split}.{suffix}") for network in MODELS.linear[wildcards.linear].features
    ]


def used_weights(network):
    """Input function: the weights of a network, if a linear model uses its features."""
    return lambda wildcards: weights_of(network) if network in MODELS.linear[wildcards.linear].features else []


def scored_linear(tests):
    """Outputs of linear models that are scored on some test sets."""
    splits = [MODELS.splits_of("pooled")[0], *tests]
    return {split: path("scores", "{linear}", split, "raw_outputs.csv") for split in splits}


def linear_of(tests):
    """Linear models that are scored on these test sets."""
    return [model for model in MODELS.linear if MODELS.splits_of(model)[1:] == list(tests)]


if MODELS.linear:

    rule fit_linear:
        input:
            **{
                f"{split}_{kind}": files
                for split in SHARDS
                for kind, files in {
                    "index": path("organized", split, "index.csv"),
                    "features": feature_tables(split, "npy"),
                    "rows": feature_tables(split, "csv"),
                }.items()
            },
            **{f"{network}_weights": used_weights(network) for network in FIRST},
            earlier=lambda wildcards: [
                file for network in MODELS.linear[wildcards.linear].features for file in earlier_images(network)
            ],
        output:
            **scored_linear(MODELS.tests),
            models=linear_files("{linear}"),
        log:
            path("logs", "fit_linear", "{linear}.log"),
        wildcard_constraints:
            linear=any_of(linear_of(MODELS.tests)),
        priority: 1
        conda:
            "../../envs/retinaflow.yaml"
        threads: 2
        resources:
            mem_mb=linear_memory,
            runtime=scheduled(linear_runtime),
        params:
            code=code_of("fit_linear.py"),
            eyes=lambda wildcards: MODELS.linear[wildcards.linear].eyes,
            fallback=lambda wildcards: MODELS.one_eye(wildcards.linear),
            networks=linear_networks,
            splits=list(SHARDS),
            runs=linear_runs,
            joined=joined_splits,
            unseen=unseen_splits,
            outputs=lambda wildcards: MODELS.splits_of(wildcards.linear),
            grade_names=GRADE_NAMES,
            seed=CONFIG.seed,
        script:
            "../scripts/fit_linear.py"


if MODELS.linear and MODELS.unpaired:

    # Test sets without fellow eyes have no images of both eyes to score.
    use rule fit_linear as fit_linear_of_both with:
        output:
            **scored_linear(MODELS.scored_pairs[1:]),
            models=linear_files("{linear}"),
        wildcard_constraints:
            linear=any_of(linear_of(MODELS.scored_pairs[1:])),


if MODELS.linear and LEFT_OUT_SETS:

    localrules:
        compare_linear_leave_out,

    use rule compare_leave_out as compare_linear_leave_out with:
        input:
            scores=score_files("metrics.json", MODELS.linear),
            predictions=score_files("predictions.csv", MODELS.linear),
        output:
            table=path("comparison", "linear.csv"),
            markdown=path("comparison", "linear.md"),
        log:
            path("logs", "compare_linear.log"),
        priority: 1
        params:
            code=code_of("compare_leave_out.py"),
            left_out=left_out_places(MODELS.linear),
            bootstrap_samples=CONFIG.score.bootstrap_samples,
            seed=CONFIG.seed,
            repeats={},


if MODELS.linear and not LEFT_OUT_SETS:

    localrules:
        compare_linear,

    # The first table. It does not wait for networks.
    rule compare_linear:
        input:
            scores=score_files("metrics.json", MODELS.linear),
            predictions=score_files("predictions.csv", MODELS.linear),
        output:
            table=path("comparison", "linear.csv"),
            markdown=path("comparison", "linear.md"),
        log:
            path("logs", "compare_linear.log"),
        priority: 1
        conda:
            "../../envs/retinaflow.yaml"
        params:
            code=code_of("compare_linear.py"),
            bootstrap_samples=CONFIG.score.bootstrap_samples,
            seed=CONFIG.seed,
        script:
            "../scripts/compare_linear.py"
