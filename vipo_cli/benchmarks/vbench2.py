"""VBench-2.0 (arXiv 2503.21755): eighteen dimensions in five categories; raw values, no scaling.

A category is the mean of its dimensions, the total the mean of the five. Some dimensions leave
clips out that cannot be judged: their results are -1.
"""

from pathlib import Path
from typing import Any

from vipo_cli.benchmarks.sources import Published
from vipo_cli.benchmarks.vbench import PAGES
from vipo_cli.benchmarks.vbench_prompts import Info, prompts_of
from vipo_cli.benchmarks.vbench_suite import Category, Dimension, Suite

VIPO = (
    "Human_Identity",
    "Dynamic_Spatial_Relationship",
    "Motion_Order_Understanding",
    "Human_Interaction",
    "Motion_Rationality",
)
"""The dimensions that the paper ViPO reports."""


def _dimension(name: str, prompts: int, *, leaves_out: bool = False) -> Dimension:
    return Dimension(name, prompts, clips=3, results=3, leaves_out=leaves_out)


VBENCH2 = Suite(
    name="vbench2",
    title="VBench-2.0",
    about="VBench-2.0 (arXiv 2503.21755): clips in eighteen dimensions of five categories.",
    version="vbench2-totals-1",
    package="vbench2",
    runner="VBench2",
    info=Published(
        title="VBench-2.0",
        files=("VBench2_full_info.json",),
        url=f"{PAGES}/VBench-2.0/vbench2",
        hashes={"VBench2_full_info.json": "9cfd1912b0cf10472f77ef574f5b3794976b15c3"},
        licence="Apache-2.0",
    ),
    entries=1230,
    dimensions=(
        _dimension("Human_Anatomy", 120),
        _dimension("Human_Identity", 46, leaves_out=True),
        _dimension("Human_Clothes", 75, leaves_out=True),
        # one result for the twenty clips of a prompt
        Dimension("Diversity", 10, clips=20, results=1),
        _dimension("Composition", 53),
        _dimension("Dynamic_Spatial_Relationship", 69),
        _dimension("Dynamic_Attribute", 91),
        _dimension("Motion_Order_Understanding", 99, leaves_out=True),
        _dimension("Human_Interaction", 100),
        _dimension("Complex_Landscape", 30),
        _dimension("Complex_Plot", 60),
        _dimension("Camera_Motion", 108),
        _dimension("Motion_Rationality", 58),
        _dimension("Instance_Preservation", 57),
        _dimension("Mechanics", 57, leaves_out=True),
        _dimension("Thermotics", 50, leaves_out=True),
        _dimension("Material", 50, leaves_out=True),
        _dimension("Multi-View_Consistency", 97, leaves_out=True),
    ),
    categories=(
        Category("creativity", ("Composition", "Diversity")),
        Category("commonsense", ("Instance_Preservation", "Motion_Rationality")),
        Category(
            "controllability",
            (
                "Camera_Motion",
                "Complex_Landscape",
                "Complex_Plot",
                "Dynamic_Attribute",
                "Dynamic_Spatial_Relationship",
                "Human_Interaction",
                "Motion_Order_Understanding",
            ),
        ),
        Category("human_fidelity", ("Human_Anatomy", "Human_Clothes", "Human_Identity")),
        Category("physics", ("Material", "Mechanics", "Multi-View_Consistency", "Thermotics")),
    ),
    longest=180,
    reported=("ViPO", VIPO),
)


def vbench2_prompts(*, path: Info = None) -> list[dict[str, Any]]:
    """VBench-2.0's 1,230 prompts; many of them serve several dimensions, each in its own entry."""
    return prompts_of(VBENCH2, None if path is None else Path(path))
