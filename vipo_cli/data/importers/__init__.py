"""Importers: from the layouts in which preference data come to entries, one file a family."""

from vipo_cli.data.importers.importer import Importer, importer
from vipo_cli.registry import Registry

HERE = "vipo_cli.data.importers"

importers: Registry[Importer] = Registry(
    "importer",
    "vipo.importers",
    {
        "pickapic": f"{HERE}.pickapic:pickapic",
        "flow_factory": f"{HERE}.flow_factory:flow_factory",
        "simpletuner": f"{HERE}.simpletuner:simpletuner",
        "verl_omni": f"{HERE}.verl_omni:verl_omni",
        "videodpo": f"{HERE}.videodpo:videodpo",
        "videofeedback": f"{HERE}.videofeedback:videofeedback",
        "videogen_rewardbench": f"{HERE}.videogen_rewardbench:videogen_rewardbench",
        "visionreward": f"{HERE}.visionreward:visionreward",
        "webdataset": f"{HERE}.webdataset:webdataset",
        "hpdv2": f"{HERE}.hpd:hpdv2",
        "hpdv3": f"{HERE}.hpd:hpdv3",
        "imagereward": f"{HERE}.imagereward:imagereward",
        "open_image_preferences": f"{HERE}.open_image_preferences:open_image_preferences",
        "rapidata": f"{HERE}.rapidata:rapidata",
        "richhf": f"{HERE}.richhf:richhf",
        "table": f"{HERE}.table:table",
        "folders": f"{HERE}.folders:folders",
    },
)

__all__ = ["Importer", "importer", "importers"]
