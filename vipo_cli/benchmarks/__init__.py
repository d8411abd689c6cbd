"""Benchmarks: fixed prompts, and how the pictures made for them are judged and aggregated."""

from collections.abc import Callable
from typing import Any

from vipo_cli.benchmarks.detection import Detection, Detector
from vipo_cli.registry import Registry

PromptSet = Callable[..., list[dict[str, Any]]]
"""A function of keyword-only parameters that returns prompts in GenEval's layout."""

detectors: Registry[Callable[..., Detector]] = Registry(
    "detector",
    "vipo.detectors",
    {"shapes": "vipo_cli.shapes.detector:ShapesDetector"},
)
prompt_sets: Registry[PromptSet] = Registry(
    "prompt set",
    "vipo.prompts",
    {"shapes": "vipo_cli.shapes.prompts:geneval_prompts"},
)

__all__ = ["Detection", "Detector", "PromptSet", "detectors", "prompt_sets"]
