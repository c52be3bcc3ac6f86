"""Settings of the augmentation of training images."""

from typing import Annotated

from pydantic import Field

from retinaflow.settings.section import Section

Scale = Annotated[float, Field(gt=0, le=10)]


class AugmentSettings(Section):
    """Random changes to training images."""

    flip_horizontal: bool = True
    """Mirror half of the images left to right."""
    flip_vertical: bool = True
    """Mirror half of the images top to bottom."""
    shift: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Largest shift along each side, as a share of it."""
    zoom: Annotated[list[Scale], Field(min_length=2, max_length=2)] = [0.8, 1.2]
    """Range of the scale of each side, drawn separately. Below 1 magnifies, as in Keras's ImageDataGenerator."""
    rotation: Annotated[float, Field(ge=0, le=180)] = 20
    """Largest rotation in degrees."""
    crop: Annotated[float, Field(gt=0, le=1)] = 1
    """Smallest share of the area that a random crop keeps. The crop is magnified to the whole size; 1 crops nothing
    (Szegedy et al. 2015, arXiv:1409.4842)."""
    brightness: Annotated[float, Field(ge=0, lt=1)] = 0
    """Largest change of brightness, as a share of it."""
    contrast: Annotated[float, Field(ge=0, lt=1)] = 0
    """Largest change of contrast, the distance from the mean luma of the image, as a share of it."""
    saturation: Annotated[float, Field(ge=0, le=1)] = 0
    """Largest change of saturation, as a share of it. With 1, images can become grey."""
    hue: Annotated[float, Field(ge=0, le=180)] = 0
    """Largest rotation of the hue in degrees."""
    mixup: Annotated[float, Field(ge=0, le=10)] = 0
    """Mix each image with another one of its batch, and their targets alike. The share is drawn from the Beta
    distribution with this parameter twice (MixUp, Zhang et al. 2018, arXiv:1710.09412, who use 0.2 to 0.4 for
    images). 0 mixes nothing. The training metrics of the history are then those of mixed images."""
    cutmix: Annotated[float, Field(ge=0, le=10)] = 0
    """Fill a box of each image from another one of its batch, and mix their targets by its area. The share of the
    area is drawn as for `mixup` (CutMix, Yun et al. 2019, arXiv:1905.04899, who use 1). 0 fills nothing. Not together
    with `mixup`."""
