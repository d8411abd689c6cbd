"""Importers: from the layouts in which preference data come to entries, one file a family."""

from vipo_cli.data.importers.importer import Importer, importer
from vipo_cli.registry import Registry

HERE = "vipo_cli.data.importers"

importers: Registry[Importer] = Registry(
    "importer",
    "vipo.importers",
    {
        "pickapic": f"{HERE}.pickapic:pickapic",
        "table": f"{HERE}.table:table",
        "folders": f"{HERE}.folders:folders",
    },
)

__all__ = ["Importer", "importer", "importers"]
