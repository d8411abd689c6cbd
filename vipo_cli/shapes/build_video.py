"""Build `shapes-video` but for its denoiser, which `vipo train` trains: on pictures, then on clips.

    python -m vipo_cli.shapes.build_video parts out/video
    vipo train --recipe shapes-video/pretrain-pictures --model out/video --out out/pic
    vipo train --recipe shapes-video/pretrain --model out/pic/checkpoints/step-010000 --out out/clip
    python -m vipo_cli.shapes.build_video pack out/clip/checkpoints/step-007000

As in `vipo_cli.shapes.build`: the first command writes a complete Wan pipeline whose transformer is
still random, the next two train the transformer with the project's own engine, the last puts the
result in half precision where the package keeps it.
"""

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from vipo_cli.run import Progress, Work
from vipo_cli.shapes.build import ASSETS, pack
from vipo_cli.shapes.motion import (
    DIRECTIONS,
    PREFIXES,
    TASKS,
    ClipCaption,
    Frames,
    draw_clip,
    draw_clip_caption,
    render_clip,
    spoil,
)
from vipo_cli.shapes.scene import COLOURS, SHAPES

MAX_TOKENS = 16
WIDTH, LATENTS = 64, 8
"""Of the text encoder's states; channels of a latent."""
SLOTS = {"shape": SHAPES, "colour": tuple(COLOURS), "direction": tuple(DIRECTIONS)}
"""What a caption says of each of two movers; 0 in a slot: there is no second."""


def words() -> list[str]:
    """Return every word that a caption of this world can hold."""
    phrases = [*PREFIXES, *SHAPES, *COLOURS, *DIRECTIONS, "a", "an", "and", "moving", "standing"]
    return sorted({word for phrase in phrases for word in phrase.split()})


def make_tokenizer() -> Any:
    """Build a T5 tokenizer that keeps each known word whole and spells out any other."""
    from transformers import T5Tokenizer

    blank = "\N{LOWER ONE EIGHTH BLOCK}"
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    vocabulary = [(token, 0.0) for token in ("<pad>", "</s>", "<unk>")]
    vocabulary += [(f"{blank}{word}", -1.0) for word in words()]
    vocabulary += [(letter, -20.0) for letter in (blank, *letters)]
    return T5Tokenizer(vocab=vocabulary, extra_ids=0, model_max_length=MAX_TOKENS)


def train_text_encoder(tokenizer: Any, steps: int = 500, seed: int = 0) -> Work[Any]:
    """Train a small UMT5 encoder so that every token's state says what the whole caption says.

    A random encoder leaves captions that differ in one word nearly alike, and the denoiser then
    ignores that word. Here six linear maps must read shape, colour and direction of both movers
    from every token, so the states keep them apart and bound to each other.
    """
    from transformers import UMT5Config, UMT5EncoderModel

    torch.manual_seed(seed)
    encoder = UMT5EncoderModel(
        UMT5Config(
            vocab_size=len(tokenizer), d_model=WIDTH, d_kv=WIDTH // 4, d_ff=2 * WIDTH,
            num_layers=2, num_heads=4, relative_attention_num_buckets=16,
            relative_attention_max_distance=16, dropout_rate=0.0, feed_forward_proj="gated-gelu",
            pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id,
            decoder_start_token_id=tokenizer.pad_token_id,
        )
    )  # fmt: skip
    heads = nn.ModuleDict(
        {
            f"{slot}_{index}": nn.Linear(WIDTH, 1 + len(values))
            for index in (1, 2)
            for slot, values in SLOTS.items()
        }
    )
    optimizer = torch.optim.AdamW(
        [*encoder.parameters(), *heads.parameters()], lr=3e-3, weight_decay=0.01
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    rng = np.random.default_rng(seed)
    for step in range(steps):
        captions = [draw_clip_caption(rng, TASKS[rng.integers(2)]) for _ in range(128)]
        tokens = tokenizer(list(map(str, captions)), padding=True, return_tensors="pt")
        said = tokens.attention_mask.bool()
        states = encoder(**tokens).last_hidden_state[said]
        loss = torch.zeros(())
        for name, targets in _slot_targets(captions).items():
            expected = targets[:, None].expand(said.shape)[said]
            loss = loss + cross_entropy(heads[name](states), expected)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
        yield Progress("text encoder", step + 1, steps, note=f"loss {loss.item():.4f}")
    return encoder.eval()


def _slot_targets(captions: list[ClipCaption]) -> dict[str, Int[Tensor, " b"]]:
    """Return which value each caption gives to each slot of each mover."""
    return {
        f"{slot}_{index + 1}": torch.tensor(
            [
                1 + values.index(getattr(caption.movers[index], slot))
                if index < len(caption.movers)
                else 0
                for caption in captions
            ]
        )
        for index in (0, 1)
        for slot, values in SLOTS.items()
    }


def make_autoencoder(seed: int = 0) -> Any:
    """Return an untrained AutoencoderKLWan: 9 x 32 x 32 pixels to 5 x 8 x 8 latents of 8.

    Wan 2.1 itself packs 4 x 8 x 8 pixels together; in clips this small so little would be left of
    a shape that the autoencoder needs ten times as long to find its edges again.
    """
    from diffusers import AutoencoderKLWan

    torch.manual_seed(seed)
    # the first halving is Wan 2.2's, by rearranging pixels: four times as fast on a CPU
    vae = AutoencoderKLWan(
        base_dim=16, z_dim=LATENTS, dim_mult=[1, 2], num_res_blocks=1,
        temperal_downsample=[True], patch_size=2, in_channels=12, out_channels=12,
        scale_factor_spatial=4, scale_factor_temporal=2,
        latents_mean=[0.0] * LATENTS, latents_std=[1.0] * LATENTS,
    )  # fmt: skip
    # a posterior as wide as a random one would drown what the first steps have to learn
    nn.init.constant_(vae.quant_conv.bias[LATENTS:], -6.0)
    return vae


def train_autoencoder(steps: int = 2000, batch: int = 12, seed: int = 0) -> Work[Any]:
    """Train the autoencoder on clips, some of them damaged, and measure its latents."""
    vae = make_autoencoder(seed)
    pool = _pool(np.random.default_rng(seed))
    work = _fit(vae, vae.parameters(), pool, steps, batch, seed, "autoencoder")
    yield from work
    mean, std = _latent_statistics(vae, pool[:500])
    vae.register_to_config(latents_mean=mean.tolist(), latents_std=std.tolist())
    return vae


def refine_decoder(vae: Any, steps: int = 1000, batch: int = 12, seed: int = 1) -> Work[Any]:
    """Train the decoder on, for sharp edges; latents stay as they are.

    Since the encoder is left alone, a denoiser may be trained on its latents before, after or
    meanwhile.
    """
    vae.requires_grad_(False)
    weights = [*vae.decoder.requires_grad_(True).parameters()]
    weights += vae.post_quant_conv.requires_grad_(True).parameters()
    yield from _fit(vae, weights, _pool(np.random.default_rng(seed)), steps, batch, seed, "decoder")
    return vae.requires_grad_(True)


def _fit(
    vae: Any,
    weights: Iterable[Tensor],
    pool: Float[Tensor, "clips 3 t h w"],
    steps: int,
    batch: int,
    seed: int,
    stage: str,
) -> Work[None]:
    """Train weights of an autoencoder to restore clips, at a rate that falls in the last quarter.

    The squared error finds the shapes: by the absolute one alone a mere background is hard to
    beat. While the rate falls, the absolute error sharpens their edges.
    """
    torch.manual_seed(seed)
    weights = list(weights)
    _channels_last(vae)
    clips, rng = WholeClips(vae), np.random.default_rng(seed)
    optimizer = torch.optim.AdamW(weights, lr=1.5e-3, betas=(0.9, 0.98), weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / 50, 4 * (1 - step / steps), 1)
    )
    for step in range(steps):
        pixels = pool[torch.from_numpy(rng.integers(len(pool), size=batch))] / 127.5 - 1
        posterior = clips.encode(pixels)
        offset = clips.decode(posterior.sample()) - pixels
        edges = 0.1 if step < 0.75 * steps else 1.0
        error = edges * offset.abs().mean() + offset.square().mean()
        optimizer.zero_grad()
        (error + 1e-7 * posterior.kl().mean()).backward()
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        schedule.step()
        yield Progress(stage, step + 1, steps, note=f"error {error.item():.4f}")
    clips.close()
    vae.to(memory_format=torch.contiguous_format).eval()


def _pool(rng: np.random.Generator, clips: int = 3000) -> Float[Tensor, "clips 3 t h w"]:
    """Render clips to draw from, a quarter of them with faults; values as in a file."""
    return torch.from_numpy(np.stack([_clip(rng) for _ in range(clips)])).movedim(-1, 1)


class WholeClips:
    """Encodes and decodes clips as an AutoencoderKLWan does, but all frames at once.

    It works through a clip four frames at a time and keeps the last ones for each convolution,
    which saves memory; all at once the results are the same, and small clips are done sooner.
    """

    def __init__(self, vae: Any) -> None:
        self._vae = vae
        self._hooks = [
            module.register_forward_hook(_halve_frames)
            if module.mode == "downsample3d"
            else module.register_forward_pre_hook(_double_frames)
            for module in vae.modules()
            if getattr(module, "mode", None) in ("downsample3d", "upsample3d")
        ]

    def close(self) -> None:
        """Leave the autoencoder as it was."""
        for hook in self._hooks:
            hook.remove()

    def encode(self, pixels: Float[Tensor, "b 3 t h w"]) -> Any:
        """Return the posterior."""
        from diffusers.models.autoencoders.autoencoder_kl_wan import patchify
        from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

        patches = patchify(pixels, self._vae.config.patch_size)
        return DiagonalGaussianDistribution(self._vae.quant_conv(self._vae.encoder(patches)))

    def decode(self, latents: Float[Tensor, "b channels t h w"]) -> Float[Tensor, "b 3 t2 h2 w2"]:
        """Return the pixels, not clamped."""
        from diffusers.models.autoencoders.autoencoder_kl_wan import unpatchify

        patches = self._vae.decoder(self._vae.post_quant_conv(latents))
        pixels: Tensor = unpatchify(patches, self._vae.config.patch_size)
        return pixels


def _halve_frames(module: Any, _: Any, frames: Tensor) -> Tensor:
    """Join frames in pairs; the first stands for itself."""
    return torch.cat([frames[:, :, :1], module.time_conv(frames)], dim=2)


def _double_frames(module: Any, arguments: tuple[Tensor]) -> tuple[Tensor]:
    """Make two of each frame but the first."""
    first, rest = arguments[0][:, :, :1], arguments[0][:, :, 1:]
    doubled = module.time_conv(rest).unflatten(1, (2, -1))
    return (torch.cat([first, doubled.permute(0, 2, 3, 1, 4, 5).flatten(2, 3)], dim=2),)


@torch.no_grad()
def _latent_statistics(
    vae: Any, pool: Tensor
) -> tuple[Float[Tensor, " channels"], Float[Tensor, " channels"]]:
    """Return mean and standard deviation of each channel, to four digits."""
    parts = [vae.encode(part / 127.5 - 1).latent_dist.mean for part in torch.split(pool, 100)]
    latents = torch.cat(parts).movedim(1, 0).flatten(1)
    return latents.mean(1).round(decimals=4), latents.std(1).round(decimals=4)


def _channels_last(vae: nn.Module) -> None:
    """Lay out the weights of convolutions as a CPU wants them."""
    layouts = {4: torch.channels_last, 5: torch.channels_last_3d}
    for module in vae.modules():
        if isinstance(module, nn.Conv2d | nn.Conv3d):
            weight = module.weight
            weight.data = weight.contiguous(memory_format=layouts[weight.ndim])


def _clip(rng: np.random.Generator) -> Frames:
    clip = draw_clip(rng, draw_clip_caption(rng, TASKS[rng.integers(2)]))
    if rng.random() < 0.25:
        clip = spoil(clip, rng.random(4))
    return render_clip(clip, seed=int(rng.integers(2**31)))


def make_transformer(seed: int = 0) -> Any:
    """Return the untrained denoiser: 2 x 2 of a frame's latents are a token, as in Wan 2.1."""
    from diffusers import WanTransformer3DModel

    torch.manual_seed(seed)
    return WanTransformer3DModel(
        patch_size=(1, 2, 2), num_attention_heads=4, attention_head_dim=32, in_channels=LATENTS,
        out_channels=LATENTS, text_dim=WIDTH, freq_dim=64, ffn_dim=256, num_layers=4,
        rope_max_seq_len=5,
    )  # fmt: skip


def build(out: Path) -> Work[Path]:
    """Write the pipeline with a random transformer, its other parts trained, to a folder."""
    tokenizer = make_tokenizer()
    text_encoder = yield from train_text_encoder(tokenizer)
    vae = yield from refine_decoder((yield from train_autoencoder()))
    return assemble(tokenizer, text_encoder, vae, out)


def assemble(tokenizer: Any, text_encoder: Any, vae: Any, out: Path) -> Path:
    """Write the pipeline of trained parts and a random transformer to a folder."""
    from diffusers import UniPCMultistepScheduler, WanPipeline

    pipeline = WanPipeline(
        tokenizer=tokenizer,
        text_encoder=text_encoder,
        vae=vae,
        transformer=make_transformer(),
        scheduler=UniPCMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=2.0
        ),
    )
    pipeline.save_pretrained(out, safe_serialization=True)
    return out


def main(action: str, place: str) -> None:
    """Do one of the two actions that the module's docstring shows."""
    if action == "pack":
        pack(Path(place), ASSETS / "shapes-video")
        return
    for progress in build(Path(place)):
        if progress.done % 100 == 0:
            sys.stderr.write(f"{progress.stage} {progress.done}/{progress.total}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
