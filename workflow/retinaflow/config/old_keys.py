"""Former names of configuration keys and values. A former key is an error that names the present one."""

import re

KEYS = {
    "backbones": "models",
    "system": "model",
    "data.level_column": "data.grade_column",
    "data.classes": "data.grade_names",
    "data.patient": "data.patient_pattern",
    "data.on_problem.bad_level": "data.on_problem.bad_grade",
    "eyes.systems": "eyes.models",
    "eyes.blend_weight": "eyes.fellow_eye_weight",
    "score.referable_level": "endpoints: {referable: [2, 3, 4]}",
    "score.referable_grade": "endpoints: {referable: [2, 3, 4]}",
    "score.referable_sensitivity": "screening: {operating_point: sensitivity 0.90}",
    "score.views": "score.tta_views",
    "score.bootstrap": "score.bootstrap_samples",
    "demo.photograph_size": "demo.image_size",
}
VALUES = {
    "eyes.models": {"blend": "average", "fusion": "stacking"},
    "model": {"average": "ensemble"},
}


def present_key(path: str) -> str | None:
    """The present path of the key that was once called ``path``; None if there was none."""
    return KEYS.get(path)


def present_value(path: str, value: object) -> str | None:
    """The present name of ``value`` of the key ``path`` (with or without an index); None if it never had another."""
    return VALUES.get(re.sub(r"\[\d+\]$", "", path), {}).get(value) if isinstance(value, str) else None
