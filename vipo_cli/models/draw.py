"""Pictures and clips that a model draws, each from noise that its seed alone decides."""

from collections.abc import Callable, Sequence

import torch

from vipo_cli.media import Pixels
from vipo_cli.models.family import Condition, Family
from vipo_cli.models.sample import decode_latents, sample_latents, shape_of

Draw = Callable[[Sequence[str], Sequence[int]], list[Pixels]]
"""Draws one medium for each prompt and seed."""


FRAME_RATE = 8.0
"""Frames a second where neither the user nor the family says it; that of the official guide."""
FRAME_RATES = {"Wan": 16.0, "CogVideoX": 8.0, "HunyuanVideo": 24.0}
"""Frames a second that families were trained at."""


def frame_rate(family: object) -> float:
    """Return how many frames a second the clips of a family have, by its class."""
    return FRAME_RATES.get(type(family).__name__, FRAME_RATE)


def drawer(family: Family, *, steps: int, guidance: float) -> Draw:
    """Return how a family draws: from noise that training can make again from the seed alone.

    Each prompt is encoded, and each medium decoded, alone, so that its neighbours cannot change it
    and clips fit into memory.
    """
    shape, pipeline = shape_of(family), family.pipeline
    known: dict[str, Condition] = {}
    if family.size.frames > 1 and hasattr(pipeline.vae, "enable_tiling"):
        pipeline.vae.enable_tiling()

    def condition(texts: Sequence[str]) -> Condition:
        for text in texts:
            if text not in known:
                known[text] = family.encode_prompts([text])
        parts = [known[text] for text in texts]
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    @torch.inference_mode()
    def draw(prompts: Sequence[str], seeds: Sequence[int]) -> list[Pixels]:
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        noise = torch.stack([torch.randn(shape, generator=each) for each in generators])
        latents = sample_latents(
            family,
            noise.to(pipeline.device, pipeline.dtype),
            condition(prompts),
            condition([""] * len(prompts)) if guidance > 1 else {},
            generators,
            steps=steps,
            guidance=guidance,
        )
        for text in set(prompts) - {""}:
            known.pop(text)
        each = (latents[place : place + 1] for place in range(len(prompts)))
        return [pixels for one in each for pixels in decode_latents(family, one)]

    return draw
