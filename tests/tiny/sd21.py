"""Stable Diffusion 2.1 with random weights: velocity prediction, linear projections."""

from pathlib import Path

from tests.tiny import sd


def build(folder: Path, seed: int = 0) -> Path:
    """Write a Stable Diffusion pipeline for 32 x 32 pictures to a folder."""
    return sd.build(folder, seed, prediction="v_prediction", linear=True)
