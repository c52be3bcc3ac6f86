"""Write the deployment bundle of a model."""

from pathlib import Path

from retinaflow.jobs.logs import job_log
from retinaflow.serving.bundling import BundleJob, OneEyeFiles, write_bundle

with job_log(snakemake.log[0]):
    files, content = snakemake.input, snakemake.params.content
    runs = [run for network in content["networks"] for run in network["training_runs"]]
    write_bundle(
        BundleJob(
            content=content,
            graphs=dict(zip(runs, map(Path, files.graphs), strict=True)),
            decision_rule=Path(files.decision_rule),
            eye_average=next(map(Path, files.eye_average), None),
            linear=[Path(model) for model in files.linear],
            one_eye=OneEyeFiles(
                snakemake.params.one_eye, [Path(model) for model in files.one_eye_linear], Path(files.one_eye_rule[0])
            )
            if snakemake.params.one_eye
            else None,
            metrics=[Path(metrics) for metrics in files.metrics],
            records=[Path(record) for record in files.records],
            trained_on=[Path(trained_on) for trained_on in files.trained_on],
            indices=[Path(index) for index in files.indices],
            inventory=Path(files.inventory),
            shards=[Path(shard) for shard in files.shards],
            rows=[Path(table) for table in files.rows],
            raw_outputs=next(map(Path, files.raw_outputs), None),
            output_kind=snakemake.params.output_kind,
            card=Path(files.card),
            folder=Path(snakemake.output.folder),
        )
    )
