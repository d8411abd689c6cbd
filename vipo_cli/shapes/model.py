"""Where the embedded models lie and how they want to be sampled."""

from pathlib import Path
from typing import Any

from vipo_cli.models.load import ModelSpec


def shapes_sd() -> ModelSpec:
    """Stable-Diffusion-shaped model of the embedded shapes world: 32 px, runs on a laptop."""
    return _spec("shapes-sd", "shapes", sampling_steps=12, guidance=1.5, prompts="shapes")


def shapes_flow() -> ModelSpec:
    """Stable-Diffusion-3-shaped flow model of the embedded shapes world: 32 px."""
    return _spec("shapes-flow", "shapes-flow", sampling_steps=14, guidance=2.0, prompts="shapes")


def shapes_video() -> ModelSpec:
    """Wan-shaped model of the embedded shapes world: clips of 9 frames, 32 px."""
    return _spec(
        "shapes-video", "shapes-video", sampling_steps=16, guidance=2.0, prompts="shapes-motion"
    )


def _spec(name: str, recipes: str, **sampling: Any) -> ModelSpec:
    source = Path(__file__).parent / "assets" / name
    return ModelSpec(
        name, str(source), recipe=f"{recipes}/diffusion-dpo", licence="Apache-2.0", **sampling
    )
