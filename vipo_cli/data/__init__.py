"""Preference data: the records of pairs, lists and labels, and the sources that yield them."""

from vipo_cli.data.record import (
    LabelledSample,
    PreferencePair,
    RankedList,
    Record,
    RecordSource,
)
from vipo_cli.registry import Registry

datasets: Registry[RecordSource] = Registry(
    "data set",
    "vipo.sources",
    {
        "shapes": "vipo_cli.shapes.source:shapes",
        "shapes-clips": "vipo_cli.shapes.clip_source:shapes_clips",
        "pickapic_v2": "vipo_cli.data.sources:pickapic_v2",
        "files": "vipo_cli.data.sources:files",
        "hub": "vipo_cli.data.sources:hub",
    },
)

__all__ = [
    "LabelledSample",
    "PreferencePair",
    "RankedList",
    "Record",
    "RecordSource",
    "datasets",
]
