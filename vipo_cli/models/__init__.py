"""Models: names for what people train, and a small adapter for each kind of pipeline."""

from vipo_cli.models.family import Family
from vipo_cli.models.load import (
    ModelSpec,
    family_of,
    find_model,
    load_family,
    load_pipeline,
    models,
    open_family,
)

__all__ = [
    "Family",
    "ModelSpec",
    "family_of",
    "find_model",
    "load_family",
    "load_pipeline",
    "models",
    "open_family",
]
