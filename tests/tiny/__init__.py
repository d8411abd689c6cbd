"""Complete pipelines with random weights, small enough to build in a fraction of a second."""

from importlib import import_module
from pathlib import Path

FAMILIES = ("sd", "sd21", "sdxl", "sd3", "flux", "wan", "cogvideox", "hunyuan")


def build(family: str, folder: Path, seed: int = 0) -> Path:
    """Write the pipeline of a family to a folder."""
    return import_module(f"tests.tiny.{family}").build(folder, seed)
