"""Rewards: numbers for how good a picture is for a prompt, higher being better."""

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from vipo_cli.registry import Registry


@runtime_checkable
class Reward(Protocol):
    """Scores media for prompts, such as a preference model or an image measure.

    Its factory's docstring says what the numbers range over and where they come from.
    """

    @property
    def name(self) -> str:
        """Return the name in the registry."""
        ...

    @property
    def dimension(self) -> str:
        """Return what it is about, such as `alignment`, `aesthetic` or `overall`."""
        ...

    @property
    def fingerprint(self) -> str:
        """Return what changes whenever the same picture may score differently."""
        ...

    def score(self, media: Sequence[bytes], prompts: Sequence[str]) -> NDArray[np.float64]:
        """Return one number for each picture with its prompt; NaN where it cannot judge."""
        ...


rewards: Registry[Callable[..., Reward]] = Registry(
    "reward",
    "vipo.rewards",
    {
        "shapes-alignment": "vipo_cli.shapes.rewards:alignment",
        "shapes-composition": "vipo_cli.shapes.rewards:composition",
        "shapes-sharpness": "vipo_cli.shapes.rewards:sharpness",
        "shapes-vividness": "vipo_cli.shapes.rewards:vividness",
        "shapes-cleanliness": "vipo_cli.shapes.rewards:cleanliness",
        "pickscore": "vipo_cli.rewards.clip:pickscore",
        "clip": "vipo_cli.rewards.clip:clip",
        "clipscore": "vipo_cli.rewards.clip:clipscore",
        "hpsv2.0": "vipo_cli.rewards.hpsv2:hpsv2_0",
        "hpsv2.1": "vipo_cli.rewards.hpsv2:hpsv2_1",
        "imagereward": "vipo_cli.rewards.imagereward:imagereward",
        "aesthetic": "vipo_cli.rewards.aesthetic:aesthetic",
        "aesthetic-linear": "vipo_cli.rewards.aesthetic:aesthetic_linear",
        "mps": "vipo_cli.rewards.mps:mps",
        "hpsv3": "vipo_cli.rewards.hpsv3:hpsv3",
        "videoalign": "vipo_cli.rewards.videoalign:videoalign",
        "videoalign-vq": "vipo_cli.rewards.videoalign:videoalign_vq",
        "videoalign-mq": "vipo_cli.rewards.videoalign:videoalign_mq",
        "videoalign-ta": "vipo_cli.rewards.videoalign:videoalign_ta",
        "videoscore": "vipo_cli.rewards.videoscore:videoscore",
        "videoscore-visual": "vipo_cli.rewards.videoscore:videoscore_visual",
        "videoscore-temporal": "vipo_cli.rewards.videoscore:videoscore_temporal",
        "videoscore-dynamic": "vipo_cli.rewards.videoscore:videoscore_dynamic",
        "videoscore-text": "vipo_cli.rewards.videoscore:videoscore_text",
        "videoscore-factual": "vipo_cli.rewards.videoscore:videoscore_factual",
        "vqascore": "vipo_cli.rewards.vqascore:vqascore",
        "vlm-judge": "vipo_cli.rewards.vlm:vlm_judge",
        "ocr-similarity": "vipo_cli.rewards.ocr:ocr_similarity",
        "ocr-words": "vipo_cli.rewards.ocr:ocr_words",
    },
)

__all__ = ["Reward", "rewards"]
