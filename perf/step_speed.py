"""A training step as public scripts make it, beside ours: the same model, pairs, times and noise.

    python perf/step_speed.py unet dit

The public step is written anew after DiffusionDPO's and diffusers' scripts: in every step both
pictures are decoded from JPEG and encoded by the autoencoder, the prompt by the text encoders, the
reference is a second forward pass, and the loss is read at once. Ours reads latents and embeddings
from the cache, computes the reference too or reads its errors (those of fixed draws of time and
noise, measured once), and reads the loss a step later.
Steps alternate in one process, from the same weights, and say how far their losses are apart.
Prints JSON.
"""

import argparse
import copy
import io
import json
import statistics
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import numpy as np
import torch
from PIL import Image

SIDE = 256
"""Of the pictures, in pixels."""


def unet(folder: Path) -> None:
    """A small Stable Diffusion; heads as wide as in SDXL, the autoencoder's cost as in SD 1.5.

    There a picture's encoding is 1.39 times the operations of a prediction.
    """
    from diffusers import (
        DDIMScheduler,
        StableDiffusionPipeline,
        UNet2DConditionModel,
    )

    from perf.public import SCALED_LINEAR

    StableDiffusionPipeline(
        vae=_vae(36, 4), text_encoder=_clip(256, 6), tokenizer=_tokenizer(),
        unet=UNet2DConditionModel(
            sample_size=SIDE // 8, block_out_channels=(96, 192, 384, 384), cross_attention_dim=256,
            attention_head_dim=(2, 4, 8, 8), layers_per_block=2,
        ),
        scheduler=DDIMScheduler(**SCALED_LINEAR), safety_checker=None, feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)  # fmt: skip


def dit(folder: Path) -> None:
    """A small SD3: two CLIPs and a T5, joint attention, rectified flow; costs as SD3.5 Medium's.

    At 512 px a picture's encoding is 0.46 and a prompt's 1.03 times the operations of a prediction.
    """
    from diffusers import (
        FlowMatchEulerDiscreteScheduler,
        SD3Transformer2DModel,
        StableDiffusion3Pipeline,
    )
    from transformers import T5Config, T5EncoderModel

    from tests.tiny.t5 import make_t5_tokenizer

    t5 = make_t5_tokenizer(128)
    encoder = T5EncoderModel(
        T5Config(vocab_size=len(t5), d_model=512, d_kv=64, d_ff=1024, num_layers=14, num_heads=8)
    )
    StableDiffusion3Pipeline(
        transformer=SD3Transformer2DModel(
            sample_size=SIDE // 8, patch_size=2, in_channels=16, out_channels=16, num_layers=8,
            num_attention_heads=8, attention_head_dim=48, caption_projection_dim=384,
            joint_attention_dim=512, pooled_projection_dim=512, pos_embed_max_size=32,
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0), vae=_vae(20, 16),
        text_encoder=_clip(256, 6, 256), tokenizer=_tokenizer(),
        text_encoder_2=_clip(256, 6, 256), tokenizer_2=_tokenizer(),
        text_encoder_3=encoder, tokenizer_3=t5,
    ).save_pretrained(folder)  # fmt: skip


MODELS = {"unet": unet, "dit": dit}


def _vae(width: int, channels: int) -> Any:
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(width, 2 * width, 4 * width, 4 * width), layers_per_block=2,
        latent_channels=channels, norm_num_groups=4, sample_size=SIDE,
    )  # fmt: skip


def _clip(width: int, layers: int, projection: int | None = None) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    kind = CLIPTextModelWithProjection if projection else CLIPTextModel
    return kind(
        CLIPTextConfig(
            vocab_size=1000, hidden_size=width, intermediate_size=4 * width,
            num_hidden_layers=layers, num_attention_heads=8, projection_dim=projection or width,
        )
    )  # fmt: skip


def _tokenizer() -> Any:
    from perf.public import _clip_tokenizer

    return _clip_tokenizer()


def pairs(folder: Path, count: int) -> Path:
    """Write pairs of JPEG pictures and a list of them."""
    from vipo_cli.shapes.captions import TASKS, draw_caption

    rng = np.random.default_rng(0)
    lines = ["prompt,winner,loser"]
    for number in range(count):
        names = []
        for side in "wl":
            coarse = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
            names.append(f"{number}{side}.jpg")
            picture = Image.fromarray(coarse).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
            picture.save(folder / names[-1], quality=92)
        lines.append(f"{draw_caption(rng, TASKS[number % len(TASKS)])},{','.join(names)}")
    (folder / "pairs.csv").write_text("\n".join(lines))
    return folder / "pairs.csv"


def public_update(setup: Any, encoders: Any, records: Any, rows: Any, micro: int) -> float:
    """Make one update as the scripts do, `micro` pairs at a time."""
    losses = []
    for first in range(0, len(rows), micro):
        part = rows[first : first + micro]
        losses.append(public_backward(setup, encoders, records, part, len(part) / len(rows)))
    weights = [value for value in setup.family.denoiser.parameters() if value.requires_grad]
    torch.nn.utils.clip_grad_norm_(weights, setup.recipe.optimizer.max_gradient_norm)
    setup.optimizer.step()
    setup.optimizer.zero_grad()
    return sum(losses)


def public_backward(setup: Any, encoders: Any, records: Any, rows: Any, share: float) -> float:
    """Go forward and backward with some pairs, at the time and the noise that ours draws.

    Pictures and prompts are encoded, and then those of the cache are taken: their rounding differs
    with the size of the encoders' batches, and beta would make that a thousand times as large.
    """
    from vipo_cli.training.draw import FIXED, sample_generator, time_at

    generators = [sample_generator(0, FIXED, int(row)) for row in rows]
    chosen = [records[int(row)] for row in rows]
    family, recipe = setup.family, setup.recipe
    pixels = []
    for side in ("winner", "loser"):
        for record in chosen:
            with Image.open(io.BytesIO(getattr(record, side).read_bytes())) as picture:
                raster = np.array(picture.convert("RGB"))
            pixels.append(torch.from_numpy(raster).permute(2, 0, 1).float() / 127.5 - 1)
    with torch.no_grad():
        mean, std = encoders.encode_media(torch.stack(pixels))
        condition = encoders.encode_prompts([record.prompt for record in chosen])
    shape, count = mean.shape[1:], len(chosen)
    places = setup.data.items[rows].T.reshape(-1)
    kept = setup.data.mean.read(places), setup.data.std.read(places)
    torch.testing.assert_close(mean, kept[0], atol=1e-4, rtol=1e-3)
    mean, std = kept
    told = setup.data.condition(setup.data.prompt[rows])
    torch.testing.assert_close(condition, told, atol=1e-4, rtol=1e-3)
    times, noises = [], []
    for generator in generators:
        times.append(torch.rand((), generator=generator))
        noises.append(torch.randn((3, *shape), generator=generator))
    noise = torch.stack(noises, 1)
    x0 = mean + std * noise[1:].flatten(0, 1)
    eps = noise[0].repeat(2, *[1] * len(shape))
    time_ = time_at(recipe.time, torch.stack(times)).repeat(2)
    level = family.noise_level(time_)
    x_t, target = level.mix(x0, eps), level.target(family.target, x0, eps)
    told = {name: value.repeat(2, *[1] * (value.ndim - 1)) for name, value in told.items()}

    def errors() -> torch.Tensor:
        found = (family.predict(x_t, time_, told) - target).square().flatten(1).mean(1)
        return found.reshape(2, count)

    policy = errors()
    with torch.no_grad(), setup.base() as _:
        reference = errors()
    difference = (policy[0] - policy[1]) - (reference[0] - reference[1])
    z = -0.5 * recipe.objective.parameters["beta"] * difference
    loss = -torch.nn.functional.logsigmoid(z).mean() * share
    loss.backward()
    return loss.item()


def costs(family: Any) -> dict[str, float]:
    """Count one forward pass of the denoiser, of the autoencoder and of the text encoders."""
    from torch.utils.flop_counter import FlopCounterMode

    found = {}
    with torch.no_grad():
        with FlopCounterMode(display=False) as counter:
            mean, _ = family.encode_media(torch.zeros(1, 3, SIDE, SIDE))
        found["encode a picture"] = counter.get_total_flops()
        with FlopCounterMode(display=False) as counter:
            condition = family.encode_prompts(["a red circle"])
        found["encode a prompt"] = counter.get_total_flops()
        with FlopCounterMode(display=False) as counter:
            family.predict(mean, torch.full((1,), 0.5), condition)
        found["predict"] = counter.get_total_flops()
    return {key: round(value / 1e12, 4) for key, value in found.items()}


KINDS = ("public", "public_one_by_one", "live", "cached")
"""Their step with all pairs at once and one by one; ours with the reference live and cached."""


def compare(name: str, place: Path, steps: int, batch: int) -> dict[str, Any]:
    from vipo_cli.data.sources import open_pairs
    from vipo_cli.models import load_family
    from vipo_cli.recipe import resolve_recipe
    from vipo_cli.run import finish
    from vipo_cli.training.batches import _place
    from vipo_cli.training.loop import update
    from vipo_cli.training.prepare import prepare

    torch.manual_seed(0)
    MODELS[name](place / name)
    (place / "data").mkdir(exist_ok=True)
    data = pairs(place / "data", count := 4 * batch)
    settings = {
        "data.held_out": 0, "optimizer.batch_size": batch, "optimizer.micro_batch": batch,
        "optimizer.learning_rate": 1e-4, "noise.draws": 1, "run.samples": 0, "data.buckets": False,
        "model.checkpointing": "off", "model.precision": "fp32",
    }  # fmt: skip
    records = open_pairs(str(data), {})
    setups, began = {}, {}
    for kind in KINDS:
        chosen = settings | {"reference.kind": "cached" if kind == "cached" else "base"}
        recipe = resolve_recipe(
            model=str(place / name), data=str(data), method="diffusion-dpo", settings=chosen
        )
        started = time.perf_counter()
        setups[kind] = finish(prepare(recipe, records, place / kind))
        began[kind] = time.perf_counter() - started
    encoders = load_family(str(place / name))
    taken: dict[str, list[float]] = {kind: [] for kind in setups}
    worst = dict.fromkeys(KINDS[1:], 0.0)
    for step in range(steps):
        where = _place(setups["public"], range(step * batch, (step + 1) * batch))
        losses = {}
        # one ulp in a gradient is a step of AdamW's the other way, and beta makes much of that
        start = copy.deepcopy(setups["live"].family.denoiser.state_dict())
        for kind, setup in setups.items():
            setup.family.denoiser.load_state_dict(start)
            started = time.perf_counter()
            if kind in ("public", "public_one_by_one"):
                micro = batch if kind == "public" else 1
                losses[kind] = public_update(setup, encoders, records, where.records, micro)
            else:
                losses[kind] = update(setup, step).record().loss
            taken[kind].append(time.perf_counter() - started)
        for kind, most in worst.items():
            worst[kind] = max(most, abs(losses[kind] - losses["public"]))
    typical = {kind: statistics.median(values[1:]) for kind, values in taken.items()}
    return {
        "pairs": batch,
        "steps": steps,
        "seconds_a_step": {kind: round(value, 4) for kind, value in typical.items()},
        "pairs_per_second": {kind: round(batch / value, 3) for kind, value in typical.items()},
        "speedup": {
            f"{ours} against {theirs}": round(typical[theirs] / typical[ours], 2)
            for ours in ("live", "cached")
            for theirs in ("public", "public_one_by_one")
        },
        "tflop": costs(encoders),
        "preparation_seconds": {kind: round(value, 2) for kind, value in began.items()},
        "preparation_pairs": count,
        "largest_difference_of_losses": worst,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+", choices=sorted(MODELS))
    parser.add_argument("--steps", type=int, default=9)
    parser.add_argument("--batch", type=int, default=4)
    given = parser.parse_args()
    with TemporaryDirectory() as place:
        import os

        os.environ["VIPO_CACHE"] = str(Path(place, "cache"))
        found = {
            name: compare(name, Path(place), given.steps, given.batch) for name in given.models
        }
    print(json.dumps({"threads": torch.get_num_threads(), **found}, indent=2))


if __name__ == "__main__":
    main()
