"""Settings of preprocessing."""

from typing import Annotated, Literal

from pydantic import Field

from retinaflow.settings.section import Section


class PreprocessSettings(Section):
    """Conversion of images to arrays."""

    crop: Literal["none", "trim", "circle"] = "trim"
    """`none` keeps the whole image. `trim` cuts the black border off, down to the box around the retina. `circle`
    also blackens the pixels outside the disc of the retina."""
    aspect: Literal["keep", "squash"] = "keep"
    """`keep` the proportions and pad with black, or `squash` to a square."""
    enhance: Literal["none", "ben_graham", "clahe"] = "none"
    """`ben_graham` subtracts the local mean colour; `clahe` equalises local contrast."""
    shard_size: Annotated[int, Field(ge=1)] = 1024
    """Approximate number of images in a shard. One job makes one shard."""
