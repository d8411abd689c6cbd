"""The sections of a recipe and what each key means."""

from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field


class Section(BaseModel):
    """A part of a recipe: unknown keys are errors, values do not change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class OpenSection(BaseModel):
    """A section in which the parameters of what it names stand beside its own keys."""

    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False)

    @property
    def parameters(self) -> dict[str, Any]:
        """The parameters of what it names."""
        return dict(self.model_extra or {})


class Model(Section):
    """Which model is trained, and which part of it."""

    name: Annotated[
        str, Field(description="Registered name, hub id, or folder in diffusers layout.")
    ] = "shapes-sd"
    train: Annotated[
        Literal["lora", "full"], Field(description="Train LoRA adapters, or all weights.")
    ] = "lora"
    rank: Annotated[
        int, Field(ge=1, description="Rank of the LoRA adapters; start_from brings its own.")
    ] = 16
    lora_alpha: Annotated[
        float | None,
        Field(gt=0, description="Adapters act at lora_alpha / rank; the rank where absent."),
    ] = None
    targets: Annotated[
        list[str] | None,
        Field(
            min_length=1,
            description="Ends of the names of the linear layers that are adapted, such as "
            "[attn2.to_q, attn2.to_v]; what is usual for the model where absent.",
        ),
    ] = None
    adapter: Annotated[
        Literal["lora", "dora"], Field(description="Kind of adapter: plain LoRA, or with DoRA.")
    ] = "lora"
    start_from: Annotated[
        str | None,
        Field(
            description="LoRA file, run or folder that the model has on from the start: its "
            "weights are trained on, and base and LoRA as they were are the reference."
        ),
    ] = None
    precision: Annotated[
        Literal["fp32", "bf16"],
        Field(
            description="Arithmetic of the forward passes. bf16: what is frozen is kept in it too, "
            "what is trained stays in fp32."
        ),
    ] = "fp32"
    quantize: Annotated[
        Literal["none", "int8", "nf4"],
        Field(description="How the frozen weights under LoRA are kept; needs vipo[quant]."),
    ] = "none"
    checkpointing: Annotated[
        Literal["auto", "on", "off"],
        Field(
            description="Compute activations again in the backward pass instead of keeping them; "
            "auto: where memory asks for it."
        ),
    ] = "auto"
    compile: Annotated[
        bool, Field(description="Compile the denoiser's blocks: a slow start, faster steps.")
    ] = False
    guidance: Annotated[
        float,
        Field(ge=0, description="Told to guidance-distilled models such as FLUX in training."),
    ] = 1.0
    ema: Annotated[
        float, Field(ge=0, lt=1, description="Decay of the weights' moving average; 0 keeps none.")
    ] = 0.0


class Reference(Section):
    """What the policy is compared with, for objectives that have a reference."""

    kind: Annotated[
        Literal["base", "ema", "copied", "cached"],
        Field(
            description="base: the model before training; ema: a moving average of the policy; "
            "copied: the policy of some steps ago; cached: errors of the base, computed once for "
            "the fixed draws of noise.draws."
        ),
    ] = "base"
    decay: Annotated[float, Field(gt=0, lt=1, description="Of the average, for kind ema.")] = 0.999
    every: Annotated[int, Field(ge=1, description="Steps from copy to copy, for kind copied.")] = (
        100
    )
    path: Annotated[
        str | None,
        Field(description="Folder to keep cached errors in; the cache folder where not given."),
    ] = None


class Data(OpenSection):
    """Which pairs are learnt from; a source's own parameters stand beside these."""

    name: Annotated[str, Field(description="Registered name, hub id, or path of a data set.")] = (
        "shapes"
    )
    held_out: Annotated[
        int,
        Field(
            ge=0,
            description="Pairs kept back to measure implicit accuracy on; a fifth of all where "
            "this would be more than half.",
        ),
    ] = 128
    size: Annotated[
        tuple[int, int] | None,
        Field(description="Width and height in pixels; what the model was made for where absent."),
    ] = None
    buckets: Annotated[
        bool,
        Field(
            description="Keep aspect ratios: records go to one of several sizes of about the same "
            "area, all members of a record to the same. Without, all are cropped to one size."
        ),
    ] = True
    frames: Annotated[
        int | None,
        Field(
            ge=1,
            description="Most frames of a clip, 1: its first alone, as a picture; what the model "
            "was made for where absent.",
        ),
    ] = None
    caption_dropout: Annotated[
        float, Field(ge=0, le=1, description="Share of pairs trained with the empty prompt.")
    ] = 0.0
    broken_limit: Annotated[
        float, Field(ge=0, le=1, description="Share of broken pairs above which a run stops.")
    ] = 0.05


class Objective(OpenSection):
    """Which objective is minimised, and what is composed with it."""

    method: Annotated[str, Field(description="Name of the objective.")] = "diffusion-dpo"
    sft_weight: Annotated[
        float, Field(ge=0, description="Weight of the winner's own error, added to the loss.")
    ] = 0.0
    safeguard: Annotated[
        float | None,
        Field(
            ge=0,
            le=1,
            description="Diffusion-SDPO's mu: the loser's gradient is scaled down until the "
            "winner's error no longer rises; published 0.9 (SD1.5), 0.6 (SDXL); none where absent.",
        ),
    ] = None
    safeguard_over: Annotated[
        Literal["batch", "sample"],
        Field(description="One scale for all pairs of a forward pass, as published, or one each."),
    ] = "batch"
    typical_logit: Annotated[
        float | None,
        Field(
            gt=0,
            description="Automatic beta: lowered from `beta` so that the running mean of |z| "
            "stays at this; fixed beta where absent.",
        ),
    ] = None


class Time(Section):
    """At which noise levels errors are measured; 0 is clean, 1 is noise."""

    sampler: Annotated[
        Literal["uniform", "logit-normal", "list"],
        Field(description="How times are drawn; one time for all members of a pair."),
    ] = "uniform"
    low: Annotated[float, Field(ge=0, lt=1, description="Lowest time drawn.")] = 0.0
    high: Annotated[float, Field(gt=0, le=1, description="Highest time drawn.")] = 1.0
    mean: Annotated[float, Field(description="Of the logit, for sampler logit-normal.")] = 0.0
    std: Annotated[float, Field(gt=0, description="Of the logit, for sampler logit-normal.")] = 1.0
    shift: Annotated[
        float,
        Field(gt=0, description="s in t -> s t / (1 + (s - 1) t); above 1 means more noise."),
    ] = 1.0
    values: Annotated[
        list[Annotated[float, Field(ge=0, le=1)]] | None,
        Field(min_length=1, description="The times to draw from, for sampler list."),
    ] = None


class Noise(Section):
    """Which noise clean latents are mixed with."""

    source: Annotated[
        Literal["shared", "independent", "stored", "inverted"],
        Field(
            description="shared: one for all members of a pair; independent: one each; stored: "
            "the noise each was sampled from; inverted: what DDIM inversion finds for each."
        ),
    ] = "shared"
    inversion_steps: Annotated[
        int, Field(ge=1, description="Steps of the inversion, for source inverted.")
    ] = 5
    draws: Annotated[
        int | None,
        Field(
            ge=1,
            description="Fixed draws of time and noise for each pair, used in turn epoch by "
            "epoch; fresh ones every time where absent.",
        ),
    ] = None


class Optimizer(Section):
    """How the weights follow the gradient."""

    name: Annotated[
        Literal["adamw", "adafactor", "adamw-8bit"],
        Field(description="adafactor and adamw-8bit keep less memory; the latter: vipo[quant]."),
    ] = "adamw"
    learning_rate: Annotated[float, Field(gt=0, description="Never scaled by the batch.")] = 1e-5
    batch_size: Annotated[int, Field(ge=1, description="Pairs an update.")] = 32
    micro_batch: Annotated[
        int | None,
        Field(ge=1, description="Pairs a forward pass; as many as fit in memory where absent."),
    ] = None
    backward: Annotated[
        Literal["joint", "decoupled"],
        Field(
            description="decoupled: winners and losers go backward one after the other, which "
            "takes less memory and one more forward pass, for the same gradient."
        ),
    ] = "joint"
    warmup_steps: Annotated[int, Field(ge=0, description="Steps of linear warm-up.")] = 0
    decay: Annotated[
        Literal["constant", "cosine"], Field(description="What the rate does after warm-up.")
    ] = "constant"
    weight_decay: Annotated[float, Field(ge=0, description="Decoupled weight decay.")] = 0.01
    max_gradient_norm: Annotated[float, Field(gt=0, description="Clips the gradient.")] = 1.0


class Run(Section):
    """How long, from which seed, and what is written when."""

    steps: Annotated[int, Field(ge=1, description="Updates of the weights.")] = 1000
    seed: Annotated[int, Field(ge=0, description="Fixes order, noise, times and LoRA's start.")] = 0
    checkpoint_every: Annotated[
        int, Field(ge=1, description="Steps from checkpoint to checkpoint.")
    ] = 250
    keep_checkpoints: Annotated[int, Field(ge=1, description="Newest checkpoints that stay.")] = 3
    held_out_every: Annotated[
        int, Field(ge=1, description="Steps between measurements on held-out pairs.")
    ] = 250
    samples: Annotated[
        int | None,
        Field(
            ge=0,
            description="Prompts that samples are drawn for at each held-out measurement; 8, or as "
            "many as a twentieth of the run's work pays for, where absent.",
        ),
    ] = None
    sample_prompts: Annotated[
        Annotated[tuple[str, ...], Field(min_length=1)] | str | None,
        Field(
            description="What samples are drawn for: a list of prompts, or a text file with one a "
            "line; prompts of records that are kept back where absent."
        ),
    ] = None
    trackers: Annotated[
        tuple[Literal["wandb", "tensorboard", "trackio"], ...],
        Field(description="Where records are sent besides metrics.jsonl; needs vipo[trackers]."),
    ] = ()
    on_spike: Annotated[
        Literal["warn", "return"],
        Field(
            description="What a spike of the gradient does: an alarm alone, or a return to the "
            "last good checkpoint, from where the run goes on past the records that caused it."
        ),
    ] = "warn"
    sharding: Annotated[
        Literal["none", "fsdp", "zero2", "zero3"],
        Field(
            description="How several processes share the weights: each holds all (DDP), FSDP2, or "
            "DeepSpeed ZeRO."
        ),
    ] = "none"


class Loop(Section):
    """Rounds in which the model's own samples become the data."""

    kind: Annotated[
        Literal["offline", "spin", "iterative"],
        Field(
            description="offline: the data as they are; spin: losers are samples of the round's "
            "first policy, which is the reference too; iterative: samples of that policy, ranked "
            "by a reward, best against worst."
        ),
    ] = "offline"
    rounds: Annotated[int, Field(ge=1, description="The steps are shared out evenly.")] = 3
    prompts: Annotated[int, Field(ge=1, description="Prompts sampled for in each round.")] = 3000
    candidates: Annotated[
        int, Field(ge=2, description="Samples for each prompt, for kind iterative.")
    ] = 4
    reward: Annotated[
        str | None, Field(description="What ranks the samples, for kind iterative.")
    ] = None
    sampling_steps: Annotated[
        int | None, Field(ge=2, description="Denoising steps; the model's own where absent.")
    ] = None
    guidance: Annotated[
        float | None, Field(ge=0, description="Guidance scale; the model's own where absent.")
    ] = None


class Recipe(Section):
    """All that determines a run."""

    model: Model = Model()
    reference: Reference = Reference()
    data: Data = Data()
    objective: Objective = Objective()
    time: Time = Time()
    noise: Noise = Noise()
    optimizer: Optimizer = Optimizer()
    run: Run = Run()
    loop: Loop = Loop()

    def to_yaml(self) -> str:
        """Return the recipe with every value written out."""
        return yaml.safe_dump(self.model_dump(), sort_keys=False)
