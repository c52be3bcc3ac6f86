"""Preprocessing variants: the parameters that decide the pixels of a shard."""

import re
from dataclasses import dataclass

from retinaflow.errors import RetinaflowError

CROPS = ("none", "trim", "circle")
ASPECTS = ("keep", "squash")
ENHANCEMENTS = ("none", "ben_graham", "clahe")


@dataclass(frozen=True)
class Variant:
    """How an image becomes a square of ``size`` x ``size`` pixels.

    Args:
        size: Side in pixels, at least 1.
        crop: ``none`` keeps the whole image. ``trim`` keeps the box around the retina. ``circle`` also blackens the
            pixels outside the circle of the retina.
        aspect: ``keep`` pads the shorter side with black, ``squash`` stretches it.
        enhance: ``none``, ``ben_graham`` (local mean subtracted) or ``clahe`` (local contrast equalised).

    Raises:
        RetinaflowError: A value is none of these.
    """

    size: int
    crop: str
    aspect: str
    enhance: str

    def __post_init__(self) -> None:
        if self.size < 1:
            raise RetinaflowError(f"image size: found {self.size}; expected a whole number of pixels, 1 or more.")
        for key, value, known in (
            ("crop", self.crop, CROPS),
            ("aspect", self.aspect, ASPECTS),
            ("enhance", self.enhance, ENHANCEMENTS),
        ):
            if value not in known:
                raise RetinaflowError(f"{key}: found {value!r}; expected one of {', '.join(known)}.")

    @property
    def name(self) -> str:
        """Name such as ``224-trim-keep-none``. It is also the name of the folder of the shards."""
        return f"{self.size}-{self.crop}-{self.aspect}-{self.enhance}"

    @classmethod
    def parse(cls, name: str) -> "Variant":
        """Return the variant of this ``name``.

        Raises:
            RetinaflowError: ``name`` is no name of a variant.
        """
        parts = name.split("-")
        if len(parts) != 4 or not re.fullmatch("[1-9][0-9]*", parts[0]):
            raise RetinaflowError(
                f"variant: found {name!r}; expected SIZE-CROP-ASPECT-ENHANCE, such as 224-trim-keep-none."
            )
        return cls(int(parts[0]), *parts[1:])
