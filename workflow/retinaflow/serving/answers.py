"""Form of the answers of the HTTP service, from which its description (OpenAPI) is made."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class ErrorText(BaseModel):
    """An error: a code for programs, and a text for people."""

    code: str = Field(examples=["too_large"])
    message: str
    field: str | None = Field(None, description="Part of the form that the error is about")


class ErrorAnswer(BaseModel):
    """Answer to a request that failed."""

    error: ErrorText


class UngradableImage(BaseModel):
    """An image that cannot be graded, with the reason."""

    image: str
    reason: str


class PatientAnswer(BaseModel):
    """Verdict of one patient, by the worse eye and by the number of graded eyes."""

    patient: str = Field(description="Number of the patient in a batch; empty for a single patient")
    verdict: Literal["refer", "do_not_refer", "ungradable_refer"]
    complete: bool = Field(description="Whether an image of each eye was graded")
    eyes_graded: int = Field(ge=0, le=2)
    worse_eye: str
    risk: float | None = Field(description="Risk of the worse eye; none if no image was graded")
    risk_threshold: float | None = Field(description="An image is referred if its risk is at least this")
    predicted_grade_name: str | None = Field(description="Predicted grade, the highest of all images")
    predicted_grade: int | None
    images: list[str]
    missing_eyes: list[str]
    ungradable_images: list[UngradableImage]
    low_quality_images: list[str]
    lines: list[str] = Field(description="The verdict as sentences")


class ImageAnswer(BaseModel):
    """Answer for one image, with the columns of `predictions.csv`: also `probability_{grade_name}` of each grade."""

    model_config = ConfigDict(extra="allow")

    image: str
    eye: str
    decision: Literal["refer", "do_not_refer"]
    risk: float | None
    risk_threshold: float
    predicted_grade_name: str | None
    predicted_grade: int | None
    severity: float | None
    quality: float
    low_quality: int
    input: str | None = Field(None, description="Input of the network as PNG, a `data:` address")
    heat_map: str | None = Field(None, description="Heat map over the input as PNG, a `data:` address")
    answered_by: str = Field(
        description="Model of the answer: another one if the fellow eye that a model needs is missing"
    )
    trained_on: int | None = Field(
        None, description="1 if the model was trained or validated on an image with the same bytes"
    )


class ImageProblem(BaseModel):
    """A file that is not graded, and the reason."""

    model_config = ConfigDict(extra="allow")

    problem: str
    found: str


class OnePatient(BaseModel):
    """Answer for one patient."""

    patient: PatientAnswer
    images: list[ImageAnswer]
    problems: list[ImageProblem]


class ManyPatients(BaseModel):
    """Answer for a batch."""

    patients: list[PatientAnswer]
    images: list[ImageAnswer]
    problems: list[ImageProblem]


class Health(BaseModel):
    """State of the service."""

    status: Literal["ready", "starting"]
    workers: int = Field(description="Processes that are ready")
    waiting: int = Field(description="Requests that are examined or wait")
    queue: int = Field(description="Largest number of such requests")


class ModelAnswer(BaseModel):
    """The model, its limits and those of the service."""

    model: str
    notice: str
    grade_names: list[str]
    types: list[str]
    most_bytes: int
    most_images: int
    card: dict[str, Any] = Field(description="Facts about the model from its bundle")
