# Files of each target of the command line.


def inventory_output():
    """Files of `snakemake preflight`: inventories, problems, and all files that they depend on.

    Snakemake records a failed job like a finished one. It makes the outputs of the job again only if a target lists them.
    Otherwise, results of an earlier run of the job would count as up to date.
    """
    return [
        path("inventory", "problems.csv"),
        *[
            path("inventory", f"{data_set}{kind}.csv")
            for data_set in dict.fromkeys([*DATA_SETS, *INVENTORIES])
            for kind in ("", "-problems")
        ],
        *[
            path("unpacked", f"{data_set}-{number}")
            for data_set, source in DATA_SETS.items()
            for number, images in enumerate(source.images)
            if archives.split_archive(images)
        ],
        *remote_paths("folder"),
    ]


def final_output():
    """Files of the default target: the outputs of every stage, for the reason in `inventory_output`."""
    return [
        *inventory_output(),
        *split_tables("train"),
        *set_tables("train"),
        *[path("organized", split, "index.csv") for split in SHARDS],
        *[
            file
            for network in CONFIG.models
            for suffix in ("npy", "csv")
            for file in shard_files(network, SHARDS, suffix)
        ],
        *linear_output(),
        *remote_paths("weights"),
        *[
            path("models", training_run, file)
            for training_run in MODELS.training_runs
            for file in ("model.keras", "history.csv", "grade_names.json", "training_run.json", "trained_on.json")
        ],
        *[
            table
            for model in MODELS.names
            for split in MODELS.splits_of(model)
            for table in raw_outputs_of([model], split)
        ],
        *(
            [
                path("scores", training_run, split, f"features.{suffix}")
                for training_run in MODELS.training_runs
                for split in MODELS.scored_pairs
                for suffix in ("npy", "csv")
            ]
            + [file for network in MODELS.networks for file in linear_files(f"{network}+eye_stacking")]
            if "eye_stacking" in MODELS.eye_kinds
            else []
        ),
        *score_files("metrics.json"),
        *score_files("predictions.csv"),
        *[path("models", model, "decision_rule.json") for model in MODELS.names],
        *comparison_output(),
        *[path("models", training_run, "network.onnx") for training_run in MODELS.training_runs if not LEFT_OUT_SETS],
        *[path("models", model, "bundle") for model in MODELS.bundled if model not in MODELS.linear],
    ]


def comparison_output():
    """Tables of the comparison, or of those of all left-out data sets and the table that joins them."""
    folders = [f"without-{name}" for name in LEFT_OUT_SETS] or ["."]
    tables = [
        path("comparison", folder, f"{table}.csv") for folder in folders for table in ("comparison", "pairs", "repeats")
    ]
    selected = [path("comparison", folder, "selected_model.json") for folder in folders]
    return [*tables, *selected, *([path("comparison", "leave_out.csv")] if LEFT_OUT_SETS else [])]


def linear_output():
    """Files of the linear models, before they are scored."""
    return [
        *[file for network in FIRST for suffix in ("npy", "csv") for file in shard_files(network, SHARDS, suffix)],
        *[
            path("features", network, f"{split}.{suffix}")
            for network in FIRST
            for split in SHARDS
            for suffix in ("npy", "csv")
        ],
        *[file for model in MODELS.linear for file in linear_files(model)],
        *([path("comparison", "linear.csv")] if MODELS.linear else []),
        *[
            path("features", network, "backbone.onnx")
            for network in FIRST
            if any(network in MODELS.linear[model].features for model in MODELS.bundled if model in MODELS.linear)
        ],
        *[path("models", model, "bundle") for model in MODELS.bundled if model in MODELS.linear],
    ]


def quick_output():
    """Files of `snakemake quick` and all files that they depend on, for the reason in `inventory_output`."""
    if not MODELS.linear:
        # Only this target needs a linear model.
        return no_linear_model
    return [
        *inventory_output(),
        *split_tables("train"),
        *set_tables("train"),
        *[path("organized", split, "index.csv") for split in SHARDS],
        *linear_output(),
        *score_files("metrics.json", MODELS.linear),
    ]


def no_linear_model(wildcards):
    """Input function: raise an error that says how to configure a linear model."""
    raise WorkflowError(
        "`snakemake quick` makes linear models, and `models` has none. Add one, such as "
        "`ridge: {kind: linear, features: [InceptionV3]}`."
    )


def probe_output():
    """Files of `snakemake probe` and all files that they depend on, for the reason in `inventory_output`."""
    networks = FEATURE_NETWORKS
    return [
        *[path("features", network, f"{split}.npy") for network in networks for split in TRAINING_SPLITS],
        *[path("probe", f"{network}.json") for network in networks],
        path("probe", "probe.csv"),
    ]


def explained():
    """Files of `snakemake explain`."""
    return [path("explain", training_run, f"{EXPLAINED}.png") for training_run in MODELS.training_runs]


def exported():
    """Files of `snakemake export`."""
    names = ["differences.csv", *(EXPORTED[kind] for kind in CONFIG.export.formats)]
    return [
        path("export", "export.md"),
        *[path("export", training_run, name) for training_run in MODELS.training_runs for name in names],
    ]


def report_output():
    """Files of `snakemake report`, and other results that the report shows."""
    return [
        *final_output(),
        *[
            path("report", model, split, f"{name}.png")
            for model in MODELS.ranked
            for split in MODELS.splits_of(model)
            for name in ILLUSTRATIONS
        ],
        *[path("report", name) for name in ("grades.png", "samples.png", "comparison.html", "provenance.html")],
        *[path("cards", f"{name}.md") for name in (*MODELS.ranked, "data")],
    ]


def check_results():
    """Verify small results, also those that no job of this run reads."""
    try:
        check_documents(dict.fromkeys(final_output()))
    except RetinaflowError as error:
        raise WorkflowError(str(error)) from None


if workflow.is_main_process:
    check_results()
