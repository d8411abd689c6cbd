"""What a benchmark asks of whatever finds objects in pictures."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from PIL import Image


@dataclass(frozen=True, slots=True)
class Detection:
    """One object found in a picture.

    Attributes:
        label: the name of its class.
        score: confidence in [0, 1].
        box: left, top, right and bottom edge in pixels.
    """

    label: str
    score: float
    box: tuple[float, float, float, float]


@runtime_checkable
class Detector(Protocol):
    """Finds objects and names their colours."""

    @property
    def name(self) -> str:
        """Return the name in the registry."""
        ...

    @property
    def fingerprint(self) -> str:
        """Return what changes whenever the same picture may be judged differently."""
        ...

    def detect(self, picture: Image.Image) -> list[Detection]:
        """Return all objects in a picture, of any confidence and in any order."""
        ...

    def colour(self, picture: Image.Image, detection: Detection) -> str:
        """Return the name of the colour that an object has."""
        ...
