"""Settings of the screening decision."""

import re
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic_core import PydanticCustomError

from retinaflow.settings.section import Section, Text, Unique

OPERATING_POINT = re.compile(r"sensitivity +(0?[.][0-9]{1,9}|1([.]0*)?|0[.]?)")
WHOLE_GRADE = re.compile("([0-9]{1,9})[.]0+")


def _as_grade(value: Any) -> Any:
    """A grade as tables have it: 2, 2.0 or the text 2.0."""
    if isinstance(value, str) and (number := WHOLE_GRADE.fullmatch(value)):
        return int(number[1])
    return int(value) if isinstance(value, float) and value.is_integer() else value


# Grades of an endpoint, 0 to k - 1.
GradeSet = Annotated[list[Annotated[int, Field(ge=0), BeforeValidator(_as_grade)]], Field(min_length=1), Unique()]


def _check_operating_point(text: str) -> Any:
    if not OPERATING_POINT.fullmatch(text) or not required_sensitivity(text):
        raise PydanticCustomError("operating_point", "is no operating point; expected for example 'sensitivity 0.90'")
    return text


def required_sensitivity(operating_point: str) -> float:
    """Sensitivity of an operating point such as ``sensitivity 0.90``."""
    return float(operating_point.split()[1])


class ScreeningSettings(Section):
    """The screening decision of each image and patient: refer, or do not refer."""

    endpoint: Text = "referable"
    """Endpoint that is screened for: a name out of `endpoints`. It has all grades from one grade on."""
    operating_point: Annotated[str, AfterValidator(_check_operating_point)] = "sensitivity 0.90"
    """How the threshold of the risk is set, on the validation split alone. `sensitivity 0.90` finds at least 90 % of
    the images with the endpoint. Of all thresholds that do so, the one that refers the fewest images is used."""
