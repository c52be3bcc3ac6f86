"""Settings of the evidence for a clinical review."""

import re
from typing import Annotated, Any

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from retinaflow.settings.section import Section, Text, Unique

EVIDENCE_POINT = re.compile(r"(sensitivity|specificity|threshold) +(0?[.][0-9]{1,9})")
Share = Annotated[float, Field(gt=0, lt=1)]


def _check_evidence_point(text: str) -> Any:
    match = EVIDENCE_POINT.fullmatch(text)
    if not match or not float(match[2]):
        expected = "'sensitivity 0.90', 'specificity 0.90' or 'threshold 0.50'"
        raise PydanticCustomError("evidence_point", f"is no operating point; expected for example {expected}")
    return text


EvidencePoint = Annotated[str, AfterValidator(_check_evidence_point)]


class TargetSettings(Section):
    """Performance targets, fixed before the study."""

    sensitivity: Share = 0.85
    """Sensitivity to exceed. The default is the target of the first approved autonomous system (DEN180001)."""
    specificity: Share = 0.825
    """Specificity to exceed. The default is the target of the first approved autonomous system (DEN180001)."""
    margin: Annotated[float, Field(ge=0, lt=0.5)] = 0.05
    """Margin of non-inferiority: a true value of the target minus this is acceptable."""


class EvidenceSettings(Section):
    """Evidence for a clinical review, which `snakemake evidence` writes."""

    operating_points: Annotated[list[EvidencePoint], Field(min_length=1), Unique()] = [
        "sensitivity 0.90",
        "sensitivity 0.95",
        "specificity 0.90",
    ]
    """Operating points of each endpoint. `sensitivity 0.90` and `specificity 0.90` are fitted on the validation split
    alone; `threshold 0.50` is fixed. Subgroups and sizes use the first one."""
    prevalences: Annotated[list[Share], Unique()] = [0.05, 0.1, 0.2]
    """Shares of positive patients, in the population to screen, for predictive values."""
    also_positive: dict[Text, list[Text]] = {}
    """Columns that make an image positive for an endpoint whatever its grade, such as
    `{referable: [macular_oedema]}`. They are `subgroups` of the data set; empty, 0, no and false are negative."""
    ungradable_quality: Annotated[float, Field(ge=0, le=1)] = 0
    """Image quality below which an image counts as ungradable. With 0, only files that cannot be read are
    ungradable."""
    targets: TargetSettings = TargetSettings()
    """Performance targets."""
    least_patients: Annotated[int, Field(ge=2)] = 20
    """Subgroups with fewer patients have no metrics."""
    least_events: Annotated[int, Field(ge=1)] = 10
    """A metric of a subgroup counts at least as many units: positive ones for sensitivity, others for specificity."""
    bands: dict[Text, list[float]] = {}
    """Ascending edges of the bands of a column of numbers, such as `{age: [40, 60]}`. Other columns of many numbers
    are cut at their thirds."""
    readers: Annotated[list[Text], Unique()] = []
    """Columns with the grades of several human graders, for their agreement. They are `subgroups` of the data set."""
    recalibration: dict[Text, Annotated[int, Field(ge=2)]] = {}
    """Patients of a test set that refit decision rule and operating point for a new site, such as `{messidor2: 200}`.
    They are in no test result: scores, comparison and evidence are of the other patients."""
