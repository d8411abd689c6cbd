"""Judge the clips of a trained model against those of the model it was trained from.

    python perf/shapes_video.py shapes-video runs/RUN --prompts 300

Both draw a clip for each prompt from the same noise; the embedded world's judge says what of the
prompt each clip shows. Prints JSON: shares of clips in which everything is right, and shares of
movers with the right object, colour and direction, each with the paired difference and its 95 %
interval over prompts.
"""

import argparse
import json
import sys

import numpy as np
import torch

from vipo_cli.analysis.intervals import clustered_mean, paired_difference
from vipo_cli.evaluation.generate import load_target, picture_seed
from vipo_cli.evaluation.target import find_target
from vipo_cli.models import family_of
from vipo_cli.models.sample import decode_latents, sample_latents
from vipo_cli.shapes.motion import (
    DIMENSIONS,
    TASKS,
    ClipCaption,
    Verdict,
    draw_clip_caption,
    judge_clip,
)

BATCH = 50


def draw_prompts(number: int, seed: int) -> list[ClipCaption]:
    """Draw distinct captions, of each task equally many."""
    rng, captions = np.random.default_rng(seed), dict[ClipCaption, None]()
    while len(captions) < number:
        captions[draw_clip_caption(rng, TASKS[len(captions) % len(TASKS)])] = None
    return list(captions)


def judge_model(
    name: str, captions: list[ClipCaption], clips: int, seed: int, steps: int, guidance: float
) -> list[Verdict]:
    """Return the verdicts on `clips` clips of each caption, caption by caption."""
    family = family_of(load_target(find_target(name)))
    assert family is not None
    wanted = [(caption, index) for caption in captions for index in range(clips)]
    verdicts = []
    for start in range(0, len(wanted), BATCH):
        batch = wanted[start : start + BATCH]
        texts = [str(caption) for caption, _ in batch]
        generators = [
            torch.Generator().manual_seed(picture_seed(seed, text, index))
            for text, (_, index) in zip(texts, batch, strict=True)
        ]
        shape = latent_shape(family)
        noise = torch.stack([torch.randn(shape, generator=each) for each in generators])
        with torch.inference_mode():
            latents = sample_latents(
                family,
                noise,
                family.encode_prompts(texts),
                family.encode_prompts([""] * len(batch)),
                generators,
                steps=steps,
                guidance=guidance,
            )
            frames = decode_latents(family, latents)
        verdicts += [
            judge_clip(clip, caption) for clip, (caption, _) in zip(frames, batch, strict=True)
        ]
        sys.stderr.write(f"{name}: {start + len(batch)}/{len(wanted)}\n")
    return verdicts


def latent_shape(family) -> tuple[int, ...]:
    pixels = torch.zeros(1, 3, *family.size.shape)
    with torch.inference_mode():
        return tuple(family.encode_media(pixels)[0].shape[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("base")
    parser.add_argument("trained", nargs="*", help="runs or checkpoints; none: the base alone")
    parser.add_argument("--prompts", type=int, default=300)
    parser.add_argument("--clips", type=int, default=1, help="clips for each prompt")
    parser.add_argument("--seed", type=int, default=0, help="of the noise")
    parser.add_argument("--prompt-seed", type=int, default=43)
    parser.add_argument("--steps", type=int, help="the base's own where not given")
    parser.add_argument("--guidance", type=float, help="the base's own where not given")
    options = parser.parse_args()
    spec = find_target(options.base).spec
    assert spec is not None
    how = {
        "clips": options.clips,
        "seed": options.seed,
        "steps": options.steps or spec.sampling_steps,
        "guidance": spec.guidance if options.guidance is None else options.guidance,
    }
    captions = draw_prompts(options.prompts, options.prompt_seed)
    clusters = np.repeat(np.arange(len(captions)), options.clips)
    strata = np.repeat([caption.task for caption in captions], options.clips)
    base = judge_model(options.base, captions, **how)
    document = {"prompts": len(captions), **how, options.base: summary(base, clusters, strata)}
    for name in options.trained:
        verdicts = judge_model(name, captions, **how)
        document[name] = summary(verdicts, clusters, strata)
        document[name]["minus_base"] = {
            what: difference(values(verdicts, what), values(base, what), clusters, strata)
            for what in ("correct", *DIMENSIONS)
        }
    print(json.dumps(document, indent=2))


def values(verdicts: list[Verdict], what: str) -> np.ndarray:
    return np.array([getattr(verdict, what) for verdict in verdicts], float)


def summary(verdicts: list[Verdict], clusters: np.ndarray, strata: np.ndarray) -> dict:
    found = {}
    for what in ("correct", *DIMENSIONS):
        interval = clustered_mean(values(verdicts, what), clusters)
        found[what] = {"value": interval.value, "ci95": [interval.low, interval.high]}
    correct = values(verdicts, "correct")
    found["correct_by_task"] = {task: correct[strata == task].mean() for task in TASKS}
    return found


def difference(a: np.ndarray, b: np.ndarray, clusters: np.ndarray, strata: np.ndarray) -> dict:
    interval, p_value = paired_difference(a, b, clusters, strata)
    return {
        "value": interval.value,
        "ci95": [interval.low, interval.high],
        "p_value": p_value,
        "n": interval.n,
        "n_clusters": interval.n_clusters,
        "method": interval.method,
    }


if __name__ == "__main__":
    main()
