"""Preference data: one record for a pair, and the sources that yield it."""

from vipo_cli.data.pair import PairSource, PreferencePair
from vipo_cli.registry import Registry

datasets: Registry[PairSource] = Registry(
    "data set",
    "vipo.sources",
    {
        "shapes": "vipo_cli.shapes.source:shapes",
        "pickapic_v2": "vipo_cli.data.sources:pickapic_v2",
        "files": "vipo_cli.data.sources:files",
        "hub": "vipo_cli.data.sources:hub",
    },
)

__all__ = ["PairSource", "PreferencePair", "datasets"]
