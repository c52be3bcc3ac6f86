"""What decides the pixels of a shard, and the name of the folder that says so."""

import re
from dataclasses import dataclass

from retinaflow.errors import RetinaflowError

CROPS = ("none", "trim", "circle")
ASPECTS = ("keep", "squash")
ENHANCEMENTS = ("none", "ben_graham", "clahe")


@dataclass(frozen=True)
class Variant:
    """How a photograph becomes a square of ``size`` x ``size`` pixels.

    ``crop``: ``none`` takes the whole photograph, ``trim`` the box around the retina, ``circle`` also blackens what
    lies outside the retina's circle. ``aspect``: ``keep`` pads the shorter side with black, ``squash`` stretches it.
    ``enhance``: ``none``, ``ben_graham`` (local mean subtracted) or ``clahe`` (local contrast equalised).

    Raises ``RetinaflowError`` if a value is none of these.
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
        """Such as ``224-trim-keep-none``; also the name of the folder that holds the shards."""
        return f"{self.size}-{self.crop}-{self.aspect}-{self.enhance}"

    @classmethod
    def parse(cls, name: str) -> "Variant":
        """The recipe that ``name`` is the name of; ``RetinaflowError`` if it is none's."""
        parts = name.split("-")
        if len(parts) != 4 or not re.fullmatch("[1-9][0-9]*", parts[0]):
            raise RetinaflowError(
                f"recipe: found {name!r}; expected SIZE-CROP-ASPECT-ENHANCE, such as 224-trim-keep-none."
            )
        return cls(int(parts[0]), *parts[1:])
