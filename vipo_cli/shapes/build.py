"""Build `shapes-sd` and `shapes-flow` but for their denoisers, which `vipo train` trains.

    python -m vipo_cli.shapes.build parts out/untrained-sd
    vipo train --recipe shapes/pretrain-sd --model out/untrained-sd --out out/pretrained-sd
    python -m vipo_cli.shapes.build pack out/pretrained-sd/checkpoints/step-004500

The first command writes a complete pipeline whose denoiser is still random; the second trains the
denoiser like any other model, with the project's own engine; the third puts the result in half
precision where the package keeps it. For `shapes-flow`, which takes its autoencoder from
`shapes-sd`, the actions are `flow-parts` and `flow-pack`.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from vipo_cli.run import Progress, Work
from vipo_cli.shapes.captions import NUMBERS, PREFIXES, RELATIONS, TASKS, draw_caption, draw_scene
from vipo_cli.shapes.scene import BACKGROUNDS, COLOURS, SHAPES, SIZE, render

ASSETS = Path(__file__).parent / "assets"
MAX_TOKENS = 16
WIDTH = 96
CLIP_WIDTHS = 64, 32
"""Of the two text encoders of `shapes-flow`."""
START, END = "<|startoftext|>", "<|endoftext|>"

SLOTS = {"shape_1": SHAPES, "colour_1": COLOURS, "relation": ("and", *RELATIONS), "shape_2": SHAPES,
         "colour_2": COLOURS, "count": NUMBERS, "background": BACKGROUNDS}  # fmt: skip
"""What a caption can say, each with its values; 0 in a slot: it has not been said."""


def words() -> list[str]:
    """Return every word that a caption of this world can hold."""
    plurals = [f"{shape}es" if shape == "cross" else f"{shape}s" for shape in SHAPES]
    phrases = [*PREFIXES, *RELATIONS, *SHAPES, *COLOURS, *BACKGROUNDS, *NUMBERS, *plurals]
    return sorted(
        {word for phrase in phrases for word in phrase.split()} | {"a", "an", "and", "on"}
    )


def make_tokenizer() -> Any:
    """Build a CLIP tokenizer that keeps each known word whole and spells out any other."""
    from transformers import CLIPTokenizer

    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    alphabet = [*letters, *(f"{letter}</w>" for letter in letters)]
    merges: list[tuple[str, str]] = []
    for word in sorted(words(), key=len, reverse=True):
        parts = [*word[:-1], f"{word[-1]}</w>"]
        while len(parts) > 1:
            for left, right in merges:  # as the tokenizer will: earlier merges win
                at = next(
                    (i for i in range(len(parts) - 1) if (parts[i], parts[i + 1]) == (left, right)),
                    None,
                )
                while at is not None:
                    parts[at : at + 2] = [left + right]
                    at = next(
                        (
                            i
                            for i in range(len(parts) - 1)
                            if (parts[i], parts[i + 1]) == (left, right)
                        ),
                        None,
                    )
            if len(parts) > 1:
                merges.append((parts[0], parts[1]))
    vocabulary = [*alphabet, *("".join(pair) for pair in merges), START, END]
    with TemporaryDirectory() as folder:
        vocab_file, merges_file = Path(folder, "vocab.json"), Path(folder, "merges.txt")
        vocab_file.write_text(
            json.dumps({token: index for index, token in enumerate(dict.fromkeys(vocabulary))})
        )
        merges_file.write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges))
        return CLIPTokenizer(
            str(vocab_file), str(merges_file), model_max_length=MAX_TOKENS, pad_token=END
        )


def said_so_far(caption: str) -> Iterator[dict[str, int]]:
    """Yield after each word which value of each slot the caption has named up to there."""
    state = dict.fromkeys(SLOTS, 0)
    second = False
    for word in caption.split():
        singular = word if word in SHAPES else word.removesuffix("es" if word == "crosses" else "s")
        if word in ("left", "right", "above", "below", "and"):
            relation = {"left": "left of", "right": "right of"}.get(word, word)
            state["relation"] = 1 + ("and", *RELATIONS).index(relation)
            second = True
        elif singular in SHAPES:
            state["shape_2" if second else "shape_1"] = 1 + SHAPES.index(singular)
        elif word in COLOURS:
            state["colour_2" if second else "colour_1"] = 1 + list(COLOURS).index(word)
        elif word in NUMBERS:
            state["count"] = 1 + list(NUMBERS).index(word)
        elif word in BACKGROUNDS:
            state["background"] = 1 + list(BACKGROUNDS).index(word)
        yield dict(state)


def train_text_encoder(
    tokenizer: Any,
    steps: int = 600,
    seed: int = 0,
    *,
    width: int = WIDTH,
    layers: int = 3,
    projected: bool = False,
) -> Work[Any]:
    """Train a small CLIP text encoder so that each token's state says what has been said up to it.

    A random encoder leaves captions that differ in one colour nearly alike, and the denoiser then
    ignores colours. Here seven linear maps must read shapes, colours, owners, relation, count and
    background from every token, so the states keep them apart and bound to each other.

    With `projected` it is what Stable Diffusion 3 has: the states are those before the last layer,
    and what the last layer pools and projects must say what the whole caption has said.
    """
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    torch.manual_seed(seed)
    ids = tokenizer.get_vocab()
    encoder = (CLIPTextModelWithProjection if projected else CLIPTextModel)(
        CLIPTextConfig(
            vocab_size=len(ids), hidden_size=width, intermediate_size=4 * width,
            num_hidden_layers=layers,
            num_attention_heads=4, max_position_embeddings=MAX_TOKENS, projection_dim=width,
            bos_token_id=ids[START], eos_token_id=ids[END], pad_token_id=ids[END],
        )
    )  # fmt: skip
    # CLIP's tiny embeddings suit its scale, not this one: start at unit scale
    embeddings = encoder.get_input_embeddings()
    nn.init.normal_(embeddings.weight)
    heads = nn.ModuleDict(
        {slot: nn.Linear(width, 1 + len(values)) for slot, values in SLOTS.items()}
    )
    optimizer = torch.optim.AdamW(
        [*encoder.parameters(), *heads.parameters()], lr=2e-3, weight_decay=0.01
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    rng = np.random.default_rng(seed)
    for step in range(steps):
        captions = [str(draw_caption(rng, TASKS[rng.integers(len(TASKS))])) for _ in range(128)]
        tokens = tokenizer(
            captions, padding="max_length", truncation=True, return_tensors="pt"
        ).input_ids
        output = encoder(tokens, output_hidden_states=projected)
        truth = _slot_targets(captions)
        if projected:  # what is pooled stands for the whole caption, as its last token does
            states = torch.cat([output.hidden_states[-2], output.text_embeds[:, None]], 1)
            truth = {slot: torch.cat([at, at[:, -1:]], 1) for slot, at in truth.items()}
        else:
            states = output.last_hidden_state
        loss = sum(
            (
                cross_entropy(head(states).flatten(0, 1), truth[slot].flatten())
                for slot, head in heads.items()
            ),
            torch.zeros(()),
        )
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
        yield Progress("text encoder", step + 1, steps)
    return encoder.eval()


def _slot_targets(captions: list[str]) -> dict[str, Int[Tensor, "b tokens"]]:
    """Return the slots at each token: start, one a word, then the last word's to the end."""
    rows = []
    for caption in captions:
        states = [dict.fromkeys(SLOTS, 0), *said_so_far(caption)]
        rows.append(states + [states[-1]] * (MAX_TOKENS - len(states)))
    return {slot: torch.tensor([[state[slot] for state in row] for row in rows]) for slot in SLOTS}


def train_autoencoder(steps: int = 1600, batch: int = 32, seed: int = 0) -> Work[Any]:
    """Train an AutoencoderKL from 32 x 32 pictures, some of them damaged, to 8 x 8 x 4 latents."""
    from diffusers import AutoencoderKL

    torch.manual_seed(seed)
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(16, 32, 64), layers_per_block=1, latent_channels=4, norm_num_groups=8,
        sample_size=SIZE, mid_block_add_attention=False,
    )  # fmt: skip
    vae = vae.to(memory_format=torch.channels_last)  # twice as fast on a CPU
    optimizer = torch.optim.AdamW(vae.parameters(), lr=3e-3, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    rng = np.random.default_rng(seed)
    pool = torch.from_numpy(np.stack([_picture(rng) for _ in range(8_000)])).permute(0, 3, 1, 2)
    for step in range(steps):
        pixels = pool[torch.from_numpy(rng.integers(len(pool), size=batch))] / 127.5 - 1
        pixels = pixels.contiguous(memory_format=torch.channels_last)
        posterior = vae.encode(pixels).latent_dist
        restored = vae.decode(posterior.sample()).sample
        error = (restored - pixels).square().mean() + 0.2 * (restored - pixels).abs().mean()
        loss = error + 1e-7 * posterior.kl().mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        yield Progress("autoencoder", step + 1, steps)
    with torch.no_grad():
        means = vae.encode(pool[:2000] / 127.5 - 1).latent_dist.mean
    vae.register_to_config(scaling_factor=round(1 / means.std().item(), 5))
    return vae.to(memory_format=torch.contiguous_format).eval()


def refine_decoder(vae: Any, steps: int = 2500, batch: int = 32, seed: int = 1) -> Work[Any]:
    """Train the decoder on, for sharp edges; latents stay as they are.

    The absolute error keeps edges that the squared error smears. Since the encoder is left alone,
    a denoiser may be trained on its latents before, after or meanwhile.
    """
    torch.manual_seed(seed)
    vae = vae.requires_grad_(False).to(memory_format=torch.channels_last)
    weights = [*vae.decoder.requires_grad_(True).parameters()]
    weights += vae.post_quant_conv.requires_grad_(True).parameters()
    optimizer = torch.optim.AdamW(weights, lr=2e-3, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    rng = np.random.default_rng(seed)
    pool = torch.from_numpy(np.stack([_picture(rng) for _ in range(8_000)])).permute(0, 3, 1, 2)
    with torch.no_grad():
        posteriors = [vae.encode(part / 127.5 - 1).latent_dist for part in torch.split(pool, 200)]
    mean = torch.cat([posterior.mean for posterior in posteriors])
    std = torch.cat([posterior.std for posterior in posteriors])
    for step in range(steps):
        rows = torch.from_numpy(rng.integers(len(pool), size=batch))
        pixels = pool[rows] / 127.5 - 1
        latents = mean[rows] + std[rows] * torch.randn(mean[rows].shape)
        restored = vae.decode(latents.contiguous(memory_format=torch.channels_last)).sample
        loss = (restored - pixels).abs().mean() + (restored - pixels).square().mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        schedule.step()
        yield Progress("decoder", step + 1, steps)
    return vae.requires_grad_(True).to(memory_format=torch.contiguous_format).eval()


def _picture(rng: np.random.Generator) -> Any:
    from dataclasses import replace

    scene = draw_scene(rng, draw_caption(rng, TASKS[rng.integers(len(TASKS))]))
    if rng.random() < 0.25:
        blur, grain, fading = rng.random(3) * (1.1, 16, 0.5)
        scene = replace(scene, blur=blur, grain=grain, fading=fading)
    return render(scene, seed=int(rng.integers(2**31)))


def make_unet(seed: int = 0) -> Any:
    """Return the untrained denoiser: convolutions at 8 x 8, attention at 4 x 4."""
    from diffusers import UNet2DConditionModel

    torch.manual_seed(seed)
    return UNet2DConditionModel(
        sample_size=SIZE // 4, block_out_channels=(64, 96), layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=WIDTH, attention_head_dim=4, norm_num_groups=16,
    )  # fmt: skip


def make_transformer(seed: int = 0) -> Any:
    """Return the untrained denoiser of `shapes-flow`, which sees a picture as 16 tokens."""
    from diffusers import SD3Transformer2DModel

    torch.manual_seed(seed)
    return SD3Transformer2DModel(
        sample_size=SIZE // 4, pos_embed_max_size=SIZE // 4, patch_size=2,
        in_channels=4, out_channels=4,
        num_layers=4, num_attention_heads=5, attention_head_dim=16, caption_projection_dim=80,
        joint_attention_dim=sum(CLIP_WIDTHS), pooled_projection_dim=sum(CLIP_WIDTHS),
    )  # fmt: skip


def centre_latents(vae: Any, seed: int = 2) -> Any:
    """Let an autoencoder's latents have mean 0 and deviation 1, as those of SD3 have."""
    rng = np.random.default_rng(seed)
    pixels = torch.from_numpy(np.stack([_picture(rng) for _ in range(2_000)])).permute(0, 3, 1, 2)
    with torch.no_grad():
        means = torch.cat(
            [vae.encode(part / 127.5 - 1).latent_dist.mean for part in torch.split(pixels, 200)]
        )
    vae.register_to_config(
        shift_factor=round(means.mean().item(), 5), scaling_factor=round(1 / means.std().item(), 5)
    )
    return vae


def make_silent_t5() -> tuple[Any, Any]:
    """Return a T5 tokenizer and encoder that make of any text what an absent T5 stands for: zeros.

    Stable Diffusion 3 does without T5 by zeros in its place, but diffusers does not load a
    pipeline that lacks one unless told to.
    """
    from transformers import T5Config, T5EncoderModel, T5Tokenizer

    vocabulary = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    tokenizer = T5Tokenizer(vocab=vocabulary, extra_ids=0, model_max_length=MAX_TOKENS)
    encoder = T5EncoderModel(
        T5Config(vocab_size=3, d_model=sum(CLIP_WIDTHS), d_kv=1, d_ff=1, num_layers=0, num_heads=1)
    )
    nn.init.zeros_(encoder.encoder.final_layer_norm.weight)
    return tokenizer, encoder.eval()


def build_flow(out: Path) -> Work[Path]:
    """Write the pipeline of `shapes-flow` with a random transformer to a folder."""
    from diffusers import (
        AutoencoderKL,
        FlowMatchEulerDiscreteScheduler,
        StableDiffusion3Pipeline,
    )

    tokenizer = make_tokenizer()
    first, second = CLIP_WIDTHS
    text_encoder = yield from train_text_encoder(tokenizer, width=first, layers=4, projected=True)
    text_encoder_2 = yield from train_text_encoder(
        tokenizer, width=second, layers=3, projected=True
    )
    tokenizer_3, text_encoder_3 = make_silent_t5()
    pipeline = StableDiffusion3Pipeline(
        vae=centre_latents(AutoencoderKL.from_pretrained(ASSETS / "shapes-sd" / "vae").float()),
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        text_encoder_2=text_encoder_2,
        tokenizer_2=tokenizer,
        text_encoder_3=text_encoder_3,
        tokenizer_3=tokenizer_3,
        transformer=make_transformer(),
        scheduler=FlowMatchEulerDiscreteScheduler(),
    )
    pipeline.save_pretrained(out, safe_serialization=True)
    return out


def build(out: Path) -> Work[Path]:
    """Write the pipeline with a random UNet, its other parts trained, to a folder."""
    from diffusers import DPMSolverMultistepScheduler, StableDiffusionPipeline

    tokenizer = make_tokenizer()
    text_encoder = yield from train_text_encoder(tokenizer)
    vae = yield from refine_decoder((yield from train_autoencoder()))
    pipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=make_unet(),
        scheduler=DPMSolverMultistepScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear",
            timestep_spacing="trailing", steps_offset=1,
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )  # fmt: skip
    pipeline.save_pretrained(out, safe_serialization=True)
    return out


def pack(checkpoint: Path, out: Path = ASSETS / "shapes-sd") -> Path:
    """Write a trained pipeline in half precision to where the package keeps it."""
    from vipo_cli.models import ModelSpec, load_pipeline

    pipeline = load_pipeline(ModelSpec(out.name, str(checkpoint)))
    pipeline.to(dtype=torch.float16).save_pretrained(out, safe_serialization=True)
    for file in out.rglob("*.json"):  # diffusers notes where a model was loaded from
        lines = file.read_text().splitlines()
        file.write_text("".join(f"{line}\n" for line in lines if "_name_or_path" not in line))
    return out


def main(action: str, place: str) -> None:
    """Do one of the actions that the module's docstring shows."""
    if action.endswith("pack"):
        pack(Path(place), ASSETS / ("shapes-flow" if action == "flow-pack" else "shapes-sd"))
        return
    for progress in (build_flow if action == "flow-parts" else build)(Path(place)):
        if progress.done % 100 == 0:
            sys.stderr.write(f"{progress.stage} {progress.done}/{progress.total}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
