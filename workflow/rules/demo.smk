# Draw synthetic images, for trying the workflow without any of one's own.

if CONFIG.demo:

    for data_set, first_patient in (("train", 1), ("test", 100_001)):

        rule:
            name:
                f"draw_{data_set}"
            output:
                images=directory(DATA_SETS[data_set].images[0]),
                labels=DATA_SETS[data_set].labels,
            log:
                path("logs", "demo", f"{data_set}.log"),
            conda:
                "../../envs/retinaflow.yaml"
            params:
                code=code_of("demo.py"),
                patients={"train": CONFIG.demo.train_patients, "test": CONFIG.demo.test_patients}[data_set],
                first_patient=first_patient,
                size=CONFIG.demo.image_size,
                seed=CONFIG.seed,
            script:
                "../scripts/demo.py"
