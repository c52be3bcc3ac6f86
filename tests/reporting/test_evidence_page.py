from retinaflow.reporting.evidence_page import calibration_table, p_value_text, size_tables

CALIBRATION = ("slope", "intercept", "in_the_large", "brier_score", "brier_reliability", "brier_resolution")


def size_row(metric, question, patients, answer):
    identity = {"split": "test", "endpoint": "referable", "operating_point": "sensitivity 0.90", "metric": metric}
    return {
        **identity,
        "value": 0.9,
        "design_effect": 1.1,
        "question": question,
        "patients": patients,
        "answer": answer,
    }


def test_sizes_of_a_metric_are_one_row():
    widths, needs = size_tables(
        [
            size_row("sensitivity", "width of the 95 % interval", 1000, 0.066),
            size_row("sensitivity", "patients for a width of 0.1", 448, 0.1),
            size_row("sensitivity", "patients for a power of 80% to exceed 0.85", 1104, 0.8),
            size_row("specificity", "width of the 95 % interval", 1000, 0.072),
            size_row("specificity", "patients for a width of 0.1", 517, 0.1),
            size_row("specificity", "patients for a power of 80% to exceed 0.825", None, 0.8),
        ]
    )
    sensitivity, specificity = (dict(zip(needs.header, row, strict=True)) for row in needs.rows)
    assert sensitivity["width of 0.1"] == "448"
    assert (sensitivity["target"], sensitivity["power of 80%"]) == ("0.85", "1,104")
    assert (specificity["target"], specificity["power of 80%"]) == ("0.825", "–")
    assert [row[-1] for row in widths.rows] == ["0.066", "0.072"]
    assert widths.header[-1] == "1,000 patients"


def test_p_values_are_never_zero():
    assert [p_value_text(value) for value in (0.0, 0.00009, 0.0001, 1.0, None)] == [
        "< 0.0001",
        "< 0.0001",
        "0.0001",
        "1.0000",
        "–",
    ]


def calibration_rows(unit, units):
    names = (*CALIBRATION, "brier_uncertainty", "brier_skill")
    identity = {"split": "test", "endpoint": "referable", "unit": unit, "units": units}
    return [{**identity, "metric": name, "value": 0.5, "low": 0.4, "high": 0.6} for name in names]


def test_eyes_that_are_the_images_are_not_listed():
    same = [*calibration_rows("image", 280), *calibration_rows("eye", 280), *calibration_rows("patient", 140)]
    assert [row[2] for row in calibration_table(same).rows] == ["image", "patient"]
    several = [*calibration_rows("image", 300), *calibration_rows("eye", 280)]
    assert [row[2] for row in calibration_table(several).rows] == ["image", "eye"]
