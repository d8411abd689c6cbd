"""Where the embedded models lie and how they want to be sampled."""

from pathlib import Path

from vipo_cli.models.load import ModelSpec


def shapes_sd() -> ModelSpec:
    """Stable-Diffusion-shaped model of the embedded shapes world: 32 px, runs on a laptop."""
    return ModelSpec(
        "shapes-sd",
        str(Path(__file__).parent / "assets" / "shapes-sd"),
        recipe="shapes/diffusion-dpo",
        sampling_steps=12,
        guidance=1.5,
        prompts="shapes",
        licence="Apache-2.0",
    )


def shapes_flow() -> ModelSpec:
    """Stable-Diffusion-3-shaped flow model of the embedded shapes world: 32 px."""
    return ModelSpec(
        "shapes-flow",
        str(Path(__file__).parent / "assets" / "shapes-flow"),
        recipe="shapes-flow/diffusion-dpo",
        sampling_steps=14,
        guidance=2.0,
        prompts="shapes",
        licence="Apache-2.0",
    )


def shapes_video() -> ModelSpec:
    """Wan-shaped model of the embedded shapes world: clips of 9 frames, 32 px."""
    return ModelSpec(
        "shapes-video",
        str(Path(__file__).parent / "assets" / "shapes-video"),
        recipe="shapes-video/diffusion-dpo",
        sampling_steps=16,
        guidance=2.0,
        licence="Apache-2.0",
    )
