# Draw synthetic photographs, for trying the workflow without any of one's own.

if CONFIG.demo:

    for dataset, first_patient in (("train", 1), ("test", 100_001)):

        rule:
            name:
                f"draw_{dataset}"
            output:
                images=directory(DATASETS[dataset].images[0]),
                labels=DATASETS[dataset].labels,
            log:
                path("logs", "demo", f"{dataset}.log"),
            conda:
                "../../envs/retinaflow.yaml"
            params:
                code=code_of("demo.py"),
                patients={"train": CONFIG.demo.train_patients, "test": CONFIG.demo.test_patients}[dataset],
                first_patient=first_patient,
                size=CONFIG.demo.image_size,
                seed=CONFIG.seed,
            script:
                "../scripts/demo.py"
