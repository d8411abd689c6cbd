"""Settings that are sensible each by itself and not together, and what to change."""

from collections.abc import Iterator

from vipo_cli.errors import UnknownName
from vipo_cli.objectives import (
    DriftPairErrors,
    PolicyPairErrors,
    SampleErrors,
    StepLikelihoods,
    TimedPairErrors,
    has_logit,
    has_reference,
    record_of,
)
from vipo_cli.recipe.sections import Recipe
from vipo_cli.rewards import rewards

HEALTHY = 10
"""Steps that must have followed a checkpoint for a run to return to it."""

Wrong = tuple[str, str | None]


def wrong_combinations(recipe: Recipe) -> Iterator[Wrong]:
    """Yield a line and a hint for each combination that cannot work."""
    yield from _adapters(recipe)
    yield from _quantized(recipe)
    yield from _times(recipe)
    yield from _references(recipe)
    yield from _composed(recipe)
    yield from _loops(recipe)
    yield from _returns(recipe)
    yield from _sharding(recipe)


def _adapters(recipe: Recipe) -> Iterator[Wrong]:
    model = recipe.model
    given = [key for key in ("lora_alpha", "targets") if getattr(model, key) is not None]
    if model.adapter == "dora":
        given.append("adapter")
    for key in given:
        if model.train == "full":
            yield f"model.{key}: belongs to adapters, and model.train is `full`", None
        elif model.start_from is not None:
            yield (
                f"model.{key}: the LoRA of model.start_from has its own, and keeps it",
                f"leave model.{key} out",
            )


def _quantized(recipe: Recipe) -> Iterator[Wrong]:
    model = recipe.model
    if model.quantize == "none":
        return
    if model.train == "full":
        yield (
            "model.quantize: weights that are trained cannot be quantised",
            "--set model.train=lora",
        )
    if recipe.reference.kind == "cached":
        yield (
            "model.quantize: cached errors are named by weights as they are in the file",
            "--set reference.kind=base",
        )


def _times(recipe: Recipe) -> Iterator[Wrong]:
    time = recipe.time
    if time.low >= time.high:
        yield (
            f"time.low: must be less than time.high, got `{time.low}` and `{time.high}`",
            None,
        )
    if (time.sampler == "list") != (time.values is not None):
        yield "time.values: belongs to time.sampler=list, and that to it", None


def _references(recipe: Recipe) -> Iterator[Wrong]:
    kind, method = recipe.reference.kind, recipe.objective.method
    record = record_of(method)
    if kind != "base" and not has_reference(record):
        yield (
            f"reference.kind: method `{method}` has no reference, so it cannot be `{kind}`",
            "leave reference.kind out",
        )
    if kind != "cached":
        if recipe.reference.path is not None:
            yield "reference.path: only cached errors are kept", "--set reference.kind=cached"
        return
    if recipe.noise.draws is None:
        yield (
            "reference.kind: errors can only be cached for fixed draws of time and noise",
            "--set noise.draws=4 fixes four draws for each pair",
        )
    if record is DriftPairErrors:
        yield (
            f"reference.kind: method `{method}` needs the reference's predictions, "
            "and cached errors hold none",
            "--set reference.kind=base",
        )
    if recipe.loop.kind != "offline" or record is StepLikelihoods:
        yield (
            "reference.kind: errors cannot be cached for samples that each round makes anew",
            "--set reference.kind=base",
        )


def _composed(recipe: Recipe) -> Iterator[Wrong]:
    objective = recipe.objective
    record = record_of(objective.method)
    on_pairs = issubclass(record, PolicyPairErrors)
    if objective.safeguard is not None and not on_pairs:
        yield (
            f"objective.safeguard: method `{objective.method}` has no loser whose gradient "
            "could be held back",
            None,
        )
    if objective.sft_weight and record in (SampleErrors, StepLikelihoods):
        reason = "is that already" if record is SampleErrors else "sees no error"
        yield f"objective.sft_weight: method `{objective.method}` {reason}", None
    if objective.typical_logit is not None and not has_logit(record, objective.parameters):
        yield (
            f"objective.typical_logit: method `{objective.method}` has no logit "
            "kappa * beta * margin whose beta could adapt",
            None,
        )
    if recipe.optimizer.backward == "decoupled" and record is SampleErrors:
        yield (
            f"optimizer.backward: method `{objective.method}` sees winners alone, "
            "so there is nothing to decouple",
            "--set optimizer.backward=joint",
        )


def _sharding(recipe: Recipe) -> Iterator[Wrong]:
    kind, model = recipe.run.sharding, recipe.model
    if kind == "none":
        return
    if recipe.optimizer.name != "adamw":
        yield (
            f"run.sharding: {kind} shares out what adamw keeps, and optimizer.name is "
            f"`{recipe.optimizer.name}`",
            "--set optimizer.name=adamw",
        )
    if model.quantize != "none" and kind != "zero2":
        yield (
            f"run.sharding: {kind} cannot share out weights quantized to `{model.quantize}`",
            "--set run.sharding=none: every process holds the few bits that are left",
        )
    if model.compile:
        yield (
            f"run.sharding: {kind} puts its own steps between those that model.compile joins",
            "--set model.compile=false",
        )
    if kind != "zero3":
        return
    exchanged = {
        "model.ema": model.ema > 0,
        "reference.kind": recipe.reference.kind in ("ema", "copied"),
        "model.start_from": model.start_from is not None and model.train == "lora",
    }
    for key in [key for key, given in exchanged.items() if given]:
        yield (
            f"run.sharding: zero3 lets nobody exchange the weights for others, which {key} needs",
            "--set run.sharding=fsdp",
        )


def _loops(recipe: Recipe) -> Iterator[Wrong]:
    loop, method = recipe.loop, recipe.objective.method
    record = record_of(method)
    if record is StepLikelihoods and loop.kind != "iterative":
        yield (
            f"objective.method: `{method}` learns from stored denoising trajectories, "
            f"and the data set `{recipe.data.name}` holds none",
            "--set loop.kind=iterative samples and stores them; "
            "or use a method on pairs, such as poly-dpo",
        )
    denominator = recipe.objective.parameters.get("denominator")
    if record is TimedPairErrors and denominator == "old" and loop.kind == "offline":
        yield (
            "objective.denominator: `old` is the policy that a round began with, "
            "and offline data have no rounds",
            "--set objective.denominator=posterior, or --set loop.kind=iterative",
        )
    if loop.kind == "spin" and not issubclass(record, PolicyPairErrors):
        yield f"loop.kind: spin makes pairs, and method `{method}` is not on pairs", None
    if loop.kind == "spin" and recipe.reference.kind != "base":
        yield (
            "reference.kind: spin's reference is the policy that its round began with",
            "leave reference.kind out",
        )
    if loop.kind != "offline" and recipe.noise.draws is not None:
        yield "noise.draws: each round's pairs are new, so their draws are too", None
    if loop.kind != "offline" and loop.rounds > recipe.run.steps:
        yield (
            f"loop.rounds: more rounds than steps, got `{loop.rounds}` and `{recipe.run.steps}`",
            None,
        )
    if loop.kind == "spin" and recipe.noise.source == "stored":
        yield (
            "noise.source: spin's winners come from the data, and no noise is stored for them",
            "--set noise.source=shared",
        )
    if loop.kind == "iterative" and loop.reward is None:
        yield "loop.reward: says what ranks the samples, got nothing", "vipo list rewards"
    if loop.reward is not None and loop.reward not in rewards:
        unknown = UnknownName("reward", loop.reward, rewards.names())
        yield f"loop.reward: {unknown.message}", unknown.hint


def _returns(recipe: Recipe) -> Iterator[Wrong]:
    run = recipe.run
    if run.on_spike == "return" and (run.keep_checkpoints - 1) * run.checkpoint_every < HEALTHY:
        yield (
            f"run.on_spike: a return needs a checkpoint that {HEALTHY} steps have followed, and of "
            f"the `{run.keep_checkpoints}` that are kept none may be old enough",
            "--set run.keep_checkpoints=3 --set run.checkpoint_every=50",
        )
