"""Write the evidence for a clinical review."""

from pathlib import Path

from retinaflow.evaluation.grades import GradeScale
from retinaflow.evaluation.subgroups import Guard
from retinaflow.jobs.logs import job_log
from retinaflow.reporting.evidence import EvidenceJob, FlowFiles, ModelFiles, chosen_model, write_evidence
from retinaflow.scoring.evidence import EvidencePlan
from retinaflow.scoring.local_patients import local_patients
from retinaflow.scoring.study_images import StudyFiles

with job_log(snakemake.log[0]):
    files, params = snakemake.input, snakemake.params
    settings = params.settings
    model = chosen_model(Path(files.comparison), params.model, params.models)
    number = params.models.index(model)
    tables = slice(number * len(params.splits), (number + 1) * len(params.splits))
    places = zip(params.splits, files.raw_outputs[tables], files.predictions[tables], strict=True)
    inventories = dict(zip(params.data_sets, map(Path, files.inventories), strict=True))
    problems = dict(zip(params.data_sets, map(Path, files.problems), strict=True))
    indices = dict(zip(params.training_splits, map(Path, files.indices), strict=True))
    local = local_patients(inventories, params.recalibration, params.seed)
    write_evidence(
        EvidenceJob(
            model=model,
            files=ModelFiles(
                Path(files.decision_rules[number]),
                params.kinds[number],
                [
                    StudyFiles(
                        split=split,
                        raw_outputs=Path(raw_outputs),
                        predictions=Path(predictions),
                        inventory=inventories[split if split in params.tests else "train"],
                        is_test=split in params.tests,
                        folds=list(indices.values()) if split == "out-of-fold" else [],
                        scale=GradeScale(**params.scales[split]) if split in params.scales else None,
                        local=local.get(split, frozenset()),
                    )
                    for split, raw_outputs, predictions in places
                ],
            ),
            data_sets={
                name: FlowFiles(
                    inventory,
                    problems[name],
                    is_test=name in params.tests,
                    indices={split: [table] for split, table in indices.items()} if name == "train" else {},
                )
                for name, inventory in inventories.items()
            },
            plan=EvidencePlan(
                endpoints=params.endpoints,
                also_positive=settings["also_positive"],
                operating_points=settings["operating_points"],
                prevalences=settings["prevalences"],
                targets={name: settings["targets"][name] for name in ("sensitivity", "specificity")},
                margin=settings["targets"]["margin"],
                guard=Guard(settings["least_patients"], settings["least_events"]),
                bands=settings["bands"],
                samples=params.bootstrap_samples,
                seed=params.seed,
            ),
            screened=params.screened,
            ungradable_quality=settings["ungradable_quality"],
            settings=params.run_settings[number],
            readers=settings["readers"],
            folder=Path(snakemake.output.page).parent,
        )
    )
