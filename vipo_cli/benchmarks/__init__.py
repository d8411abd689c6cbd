"""Benchmarks: fixed prompts, and how the pictures made for them are judged and aggregated."""

from collections.abc import Callable
from typing import Any

from vipo_cli.benchmarks.detection import BatchDetector, Detection, Detector
from vipo_cli.benchmarks.task import Asked, Metric, Task, Verdict
from vipo_cli.registry import Registry

PromptSet = Callable[..., list[dict[str, Any]]]
"""A function of keyword-only parameters that returns prompts: `prompt`, `tag`, what judges need."""

tasks: Registry[Callable[..., Task]] = Registry(
    "benchmark",
    "vipo.benchmarks",
    {
        "geneval": "vipo_cli.benchmarks.geneval:geneval",
        "shapes-motion": "vipo_cli.shapes.motion_task:motion",
        "geneval2": "vipo_cli.benchmarks.geneval2:geneval2",
        "dpg": "vipo_cli.benchmarks.dpg:dpg_bench",
        "cvtg-2k": "vipo_cli.benchmarks.cvtg:cvtg_2k",
    },
)

detectors: Registry[Callable[..., Detector]] = Registry(
    "detector",
    "vipo.detectors",
    {
        "shapes": "vipo_cli.shapes.detector:ShapesDetector",
        "mask2former": "vipo_cli.benchmarks.mask2former:mask2former",
    },
)
prompt_sets: Registry[PromptSet] = Registry(
    "prompt set",
    "vipo.prompts",
    {
        "shapes": "vipo_cli.shapes.prompts:geneval_prompts",
        "geneval": "vipo_cli.data.geneval_prompts:geneval",
        "shapes-motion": "vipo_cli.shapes.motion_task:motion_prompts",
        "pickapic-test": "vipo_cli.benchmarks.prompt_lists:pickapic_test",
        "hpdv2": "vipo_cli.benchmarks.prompt_lists:hpdv2",
        "parti-prompts": "vipo_cli.benchmarks.prompt_lists:parti_prompts",
        "geneval2": "vipo_cli.benchmarks.geneval2:geneval2_prompts",
        "dpg": "vipo_cli.benchmarks.dpg_questions:dpg_prompts",
        "cvtg-2k": "vipo_cli.benchmarks.cvtg_prompts:cvtg_prompts",
        "vbench": "vipo_cli.benchmarks.vbench:vbench_prompts",
        "vbench2": "vipo_cli.benchmarks.vbench2:vbench2_prompts",
    },
)

__all__ = [
    "Asked",
    "BatchDetector",
    "Detection",
    "Detector",
    "Metric",
    "PromptSet",
    "Task",
    "Verdict",
    "detectors",
    "prompt_sets",
    "tasks",
]
