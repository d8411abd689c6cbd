"""VBench (arXiv 2311.17982): sixteen dimensions of clips, seven of quality and nine of semantics.

The total is (4 * quality + semantic) / 5. Bounds and weights are those of the public
implementation; with them the rows of its leaderboard come out, see the tests.
"""

from pathlib import Path
from typing import Any

from vipo_cli.benchmarks.sources import Published
from vipo_cli.benchmarks.vbench_prompts import Info, prompts_of
from vipo_cli.benchmarks.vbench_suite import Category, Dimension, Suite

COMMIT = "45e79ec14e69a2187202c675d2dbce1a71843d53"
PAGES = f"https://raw.githubusercontent.com/Vchitect/VBench/{COMMIT}"

QUALITY = (
    "subject_consistency",
    "background_consistency",
    "temporal_flickering",
    "motion_smoothness",
    "aesthetic_quality",
    "imaging_quality",
    "dynamic_degree",
)
SEMANTIC = (
    "object_class",
    "multiple_objects",
    "human_action",
    "color",
    "spatial_relationship",
    "scene",
    "appearance_style",
    "temporal_style",
    "overall_consistency",
)

VBENCH = Suite(
    name="vbench",
    title="VBench",
    about="VBench (arXiv 2311.17982): clips in sixteen dimensions of quality and semantics.",
    version="vbench-totals-1",
    package="vbench",
    runner="VBench",
    info=Published(
        title="VBench",
        files=("VBench_full_info.json",),
        url=f"{PAGES}/vbench",
        hashes={"VBench_full_info.json": "a3a4f0968c1a15f19518903b98d7cca9ef9cbe5a"},
        licence="Apache-2.0",
    ),
    entries=946,
    dimensions=(
        Dimension("subject_consistency", 72, low=0.1462),
        Dimension("background_consistency", 86, low=0.2615),
        # 25 clips, of which a filter chooses up to five that stand still
        Dimension("temporal_flickering", 75, low=0.6293, clips=25, leaves_out=True),
        Dimension("motion_smoothness", 72, low=0.706, high=0.9975),
        Dimension("dynamic_degree", 72, weight=0.5),
        Dimension("aesthetic_quality", 93),
        Dimension("imaging_quality", 93, unit=0.01),
        Dimension("object_class", 79),
        Dimension("multiple_objects", 82),
        Dimension("human_action", 100),
        Dimension("color", 85, leaves_out=True),  # clips in which the object is not found
        Dimension("spatial_relationship", 84),
        Dimension("scene", 86, high=0.8222),
        Dimension("appearance_style", 90, low=0.0009, high=0.2855),
        Dimension("temporal_style", 100, high=0.364),
        Dimension("overall_consistency", 93, high=0.364),
    ),
    categories=(Category("quality", QUALITY, 4.0), Category("semantic", SEMANTIC)),
)


def vbench_prompts(*, path: Info = None) -> list[dict[str, Any]]:
    """VBench's 946 prompts; the tag is the first of the dimensions that a prompt serves."""
    return prompts_of(VBENCH, None if path is None else Path(path))
