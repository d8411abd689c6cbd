"""The categories of the ViPO data sets: how pairs of each are made, and by which rubric judged."""

from functools import cache
from importlib.resources import files
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field

from vipo_cli.building.perturbers import Change
from vipo_cli.errors import UnknownName

NAMES = (
    "aesthetics",
    "composition",
    "alignment",
    "text-rendering",
    "portrait",
    "motion",
    "visual-quality",
    "video-alignment",
)


class Agreement(BaseModel):
    """How often labels agreed with the consensus of people in the paper's study, in percent."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    judge: float
    person: float


class Category(BaseModel):
    """How pairs of a category are made."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    media: Literal["image", "video"]
    by: Literal["judge", "ocr", "perturbation"]
    agreement: Agreement
    rubric: Annotated[str, Field(min_length=1)]
    changes: tuple[Change, ...] = ()
    min_margin: float = 0.0


@cache
def find_category(name: str) -> Category:
    """Return a category.

    Raises:
        UnknownName: there is none of that name.
    """
    if name not in NAMES:
        raise UnknownName("category", name, NAMES)
    text = files(__name__).joinpath(f"{name}.yaml").read_text(encoding="utf-8")
    return Category.model_validate(yaml.safe_load(text))
