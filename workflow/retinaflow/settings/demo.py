"""Settings of the demo."""

from typing import Annotated

from pydantic import Field

from retinaflow.settings.section import Section


class DemoSettings(Section):
    """Synthetic images instead of real ones."""

    train_patients: Annotated[int, Field(ge=15)]
    """Patients with both eyes in the training set."""
    test_patients: Annotated[int, Field(ge=15)]
    """Patients with both eyes in the test set."""
    image_size: Annotated[int, Field(ge=64, le=2048)] = 384
    """Width in pixels."""
