"""Rounds in which the model's own samples become the data it learns from.

    rounds/held-out/          samples of the base for the prompts kept back
    rounds/round-01/          samples of the policy that the first round began with
        index.json            what was sampled and how, and how much came of it
        scores.jsonl          every sample's prompt, score and role, where a reward ranked them
        *.f32, *.npy          latents or trajectories of the samples that are learnt from

A folder appears whole or not at all, and one that is there is read and never made again: the policy
of a resumed run has moved on.
"""

import json
import math
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vipo_cli.errors import DataError
from vipo_cli.models import find_model
from vipo_cli.objectives import LabelledErrors, StepLikelihoods
from vipo_cli.recipe import Recipe
from vipo_cli.rewards import rewards
from vipo_cli.run import Progress, Work, append_line, fingerprint, write_json, writing
from vipo_cli.training.arrays import ArrayStore, open_arrays
from vipo_cli.training.cache import EncodedData, named
from vipo_cli.training.cached import measure_base
from vipo_cli.training.devices import (
    from_main,
    gathered,
    is_main,
    process_count,
    process_rank,
    wait,
)
from vipo_cli.training.ranking import Choice, Scores, ranking_for
from vipo_cli.training.sampling import ORDER, Sampling, blocks, draw, score, told_of
from vipo_cli.training.setup import HeldOut, Setup, split
from vipo_cli.training.trajectory import Trajectories, step_times

Floats = NDArray[np.float32]
Rows = NDArray[np.int64]
T = TypeVar("T")


def prepare_loop(setup: Setup, run: Path) -> Work[None]:
    """Make the held-out records of a loop with the base model, and measure it on them.

    The policy is still the base when this runs.

    Raises:
        DataError: samples that no reward tells apart.
    """
    recipe = setup.recipe
    if is_main():
        for leftover in (run / "rounds").glob(".*.tmp"):
            shutil.rmtree(leftover)
    if setup.held_out is None:
        return
    _, held_out = split(setup.encoded.prompt, recipe.data.held_out)
    each = recipe.loop.candidates if setup.kind is LabelledErrors else 1
    records = _one_a_sample(setup, held_out)[: math.ceil(recipe.data.held_out / each)]
    sampling = _sampling(setup, run / "rounds" / "held-out", "sampling held-out pairs", 0, records)
    data = yield from _sampled(setup, sampling)
    kept = np.argsort(data.bucket[: recipe.data.held_out], kind="stable")
    setup.held_out = HeldOut(data, kept, np.empty(0, np.float32))
    setup.held_out.base = yield from measure_base(setup)


def begin_round(setup: Setup, run: Path, number: int, done: int | None = None) -> Work[None]:
    """Sample a round's data with the policy as it is, or go on with what was sampled.

    At the round's first step, what stands for the policy that the round began with is set to it:
    spin's reference, and the old policy of importance weights. Later, both come from a checkpoint.

    Args:
        setup: the run's state; its data become those of the round.
        run: the run directory.
        number: of the round, from 0.
        done: updates made so far; where not given, all before the round.

    Raises:
        DataError: the reward tells too few of the samples apart.
    """
    recipe = setup.recipe
    train, _ = split(setup.encoded.prompt, recipe.data.held_out)
    records = _next(_one_a_sample(setup, train), recipe, number)
    stage = f"sampling for round {number + 1} of {recipe.loop.rounds}"
    folder = run / "rounds" / f"round-{number + 1:02d}"
    data = yield from _sampled(setup, _sampling(setup, folder, stage, number + 1, records))
    setup.data, setup.train = data, np.arange(len(data))
    setup.round, setup.round_start = number, number * steps_per_round(recipe)
    if done is not None and done > setup.round_start:
        return
    if recipe.loop.kind == "spin":
        assert setup.moving is not None
        setup.moving.follow(0.0)
    if setup.old is not None:
        setup.old.follow(0.0)


def steps_per_round(recipe: Recipe) -> int:
    """Return how many steps a round has; the last one may have fewer."""
    return math.ceil(recipe.run.steps / recipe.loop.rounds)


def _one_a_sample(setup: Setup, records: Rows) -> Rows:
    """Return the records to sample for: all for spin, which needs the winners, or one a prompt."""
    if setup.recipe.loop.kind == "spin":
        return records
    _, first = np.unique(setup.encoded.prompt[records], return_index=True)
    return records[first]


def _next(records: Rows, recipe: Recipe, number: int) -> Rows:
    """Return a round's share of the records; none comes again before all have had their turn."""
    order = np.random.default_rng((recipe.run.seed, ORDER)).permutation(records)
    count = min(recipe.loop.prompts, len(records))
    chosen: Rows = order[np.arange(number * count, (number + 1) * count) % len(records)]
    return chosen


def _sampling(setup: Setup, folder: Path, stage: str, number: int, records: Rows) -> Sampling:
    """Say what is sampled; held-out samples, number 0, are the same whatever the run's seed."""
    recipe, spec = setup.recipe, find_model(setup.recipe.model.name)
    fills_a_batch = number > 0 and len(records) >= recipe.optimizer.batch_size
    return Sampling(
        folder=folder,
        stage=stage,
        seed=(recipe.run.seed if number else 0, number),
        records=records,
        candidates=1 if recipe.loop.kind == "spin" else recipe.loop.candidates,
        least=recipe.optimizer.batch_size if fills_a_batch else 1,
        steps=recipe.loop.sampling_steps or spec.sampling_steps,
        guidance=spec.guidance if recipe.loop.guidance is None else recipe.loop.guidance,
    )


def _sampled(setup: Setup, sampling: Sampling) -> Work[EncodedData | Trajectories]:
    """Return what was sampled, which is done first where it is not there yet.

    All processes sample; the main one alone writes.
    """
    if not from_main((sampling.folder / "index.json").is_file):
        make = _against_winners if setup.recipe.loop.kind == "spin" else _ranked
        if is_main():
            with writing(sampling.folder) as folder:
                folder.mkdir()
                with closing(ArrayStore(folder)) as store:
                    made = yield from make(setup, sampling, store)
                    store.complete()
                _write(setup, sampling, folder, made)
        else:
            yield from make(setup, sampling, None)
        wait()
    return _read(setup, sampling.folder)


def _shared_blocks(
    setup: Setup, sampling: Sampling, work: Callable[[Rows], T]
) -> Iterator[tuple[Rows, T]]:
    """Yield blocks of records with what comes of each; every process works on another."""
    every, processes = list(blocks(setup, sampling)), process_count()
    for first in range(0, len(every), processes):
        group = every[first : first + processes]
        own = group[min(process_rank(), len(group) - 1)]  # with sharded weights none may sit out
        yield from zip(group, gathered(work(own)), strict=False)


def _against_winners(setup: Setup, sampling: Sampling, store: ArrayStore | None) -> "Work[_Made]":
    """Set a sample of the policy as loser beside each record's winner."""
    encoded, made = setup.encoded, _Made()

    def drawn(records: Rows) -> Floats:
        return draw(setup, sampling, records)["mean"]

    for records, losers in _shared_blocks(setup, sampling, drawn):
        winners = encoded.items[records, 0]
        told = told_of(setup, losers.shape[1:], len(losers))
        sides = {
            "mean": (encoded.mean.read(winners), torch.from_numpy(losers)),
            "std": (encoded.std.read(winners), torch.zeros(losers.shape)),
            **{
                f"media.{name}": (of_winners, told[name].cpu())
                for name, of_winners in encoded.media_condition(winners).items()
            },
        }
        if store is not None:
            for name, pair in sides.items():
                store.append(name, torch.stack(pair, 1).flatten(0, 1))
        for record in records:
            made.add(record, [Choice((0, 1), ("winner", "loser"))])
        yield Progress(sampling.stage, len(made.items), len(sampling.records))
    return made


def _ranked(setup: Setup, sampling: Sampling, store: ArrayStore | None) -> "Work[_Made]":
    """Let a reward say which samples of a prompt are better than which.

    Raises:
        DataError: it says too little.
    """
    name = setup.recipe.loop.reward
    assert name is not None
    reward, rank, made = rewards[name](), ranking_for(setup.kind), _Made()
    every: list[Scores] = []

    def texts_of(records: Rows) -> list[str]:
        return [setup.encoded.texts[row] for row in setup.encoded.prompt[records]]

    def judged(records: Rows) -> tuple[dict[str, Floats], Scores]:
        drawn = draw(setup, sampling, records)
        return drawn, score(setup, sampling, reward, drawn, texts_of(records))

    for records, (drawn, scores) in _shared_blocks(setup, sampling, judged):
        texts = texts_of(records)
        kept: list[int] = []
        for place, own in enumerate(scores):
            choices = rank(own)
            made.add(records[place], choices)
            first = place * sampling.candidates
            kept += [first + number for choice in choices for number in choice.samples]
            if store is not None:
                for line in _lines(texts[place], own, choices):
                    append_line(store.folder / "scores.jsonl", line)
        if kept and store is not None:
            chosen = {array: torch.from_numpy(values[kept]) for array, values in drawn.items()}
            for array, values in (chosen | _told(setup, chosen)).items():
                store.append(array, values)
        every += list(scores)
        done, total = (len(of) * sampling.candidates for of in (every, sampling.records))
        yield Progress(sampling.stage, done, total, f"mean {name} {_mean(every):.3f}")
    told, unjudged = len(set(made.records)), int(np.isnan(every).sum())
    if len(made.items) < sampling.least:
        raise DataError(
            f"reward `{name}` tells the samples of {told:,} of {len(every):,} prompts apart, which "
            f"makes {len(made.items):,} records of the {sampling.least:,} that are needed",
            details=[f"{unjudged:,} samples could not be judged"] if unjudged else [],
            hint="more samples to choose from: --set loop.candidates=8; or another reward: "
            "vipo list rewards",
        )
    made.facts = {
        "reward": name,
        "reward_fingerprint": reward.fingerprint,
        "mean_score": _mean(every),
        "prompts_dropped": len(every) - told,
        "samples_not_judged": unjudged,
    }
    return made


def _told(setup: Setup, drawn: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return what the denoiser is told of samples; trajectories have it once for all."""
    if "mean" not in drawn:
        return {}
    told = told_of(setup, drawn["mean"].shape[1:], len(drawn["mean"]))
    return {f"media.{name}": values for name, values in told.items()}


@dataclass
class _Made:
    """What came of the samples.

    Attributes:
        items: row numbers of each record's samples, the best first.
        records: of the data set, whose prompt each has.
        liked: False for disliked samples alone.
        facts: what else is worth knowing.
    """

    items: list[list[int]] = field(default_factory=list)
    records: list[int] = field(default_factory=list)
    liked: list[bool] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    _rows: int = 0

    def add(self, record: int, choices: Sequence[Choice]) -> None:
        """Note a prompt's records; their samples are stored next, one after the other."""
        for choice in choices:
            self.items.append(list(range(self._rows, self._rows + len(choice.samples))))
            self._rows += len(choice.samples)
            self.records.append(int(record))
            self.liked.append(choice.liked)

    def columns(self) -> dict[str, NDArray[Any]]:
        """Return the records as arrays; the places that a shorter list lacks are -1."""
        items = np.full((len(self.items), max(map(len, self.items))), -1, np.int64)
        for number, rows in enumerate(self.items):
            items[number, : len(rows)] = rows
        return {
            "items": items,
            "records": np.array(self.records, np.int64),
            "liked": np.array(self.liked, np.bool_),
        }


def _mean(scores: Sequence[Scores]) -> float:
    every = np.concatenate(scores)
    judged = every[~np.isnan(every)]
    return float(judged.mean()) if len(judged) else math.nan


def _lines(prompt: str, scores: Scores, choices: Sequence[Choice]) -> Iterator[dict[str, Any]]:
    """Yield what is told of each sample of a prompt."""
    roles = {
        sample: role
        for choice in choices
        for sample, role in zip(choice.samples, choice.roles, strict=True)
    }
    for candidate, found in enumerate(scores):
        judged = None if np.isnan(found) else float(found)
        role = roles.get(candidate)
        yield {"prompt": prompt, "candidate": candidate, "score": judged, "role": role}


def _write(setup: Setup, sampling: Sampling, folder: Path, made: _Made) -> None:
    """Write all but the samples themselves."""
    columns = made.columns()
    if setup.kind is StepLikelihoods:
        columns["times"] = step_times(sampling.steps, setup.recipe.time.shift).numpy()
    for name, column in columns.items():
        np.save(folder / f"{name}.npy", column)
    done = {
        "kind": setup.recipe.loop.kind,
        "model": setup.recipe.model.name,
        "seed": sampling.seed,
        "steps": sampling.steps,
        "guidance": sampling.guidance,
        "prompts": len(sampling.records),
        "candidates": sampling.candidates,
        "records": len(made.items),
        **made.facts,
    }
    named = {"fingerprint": fingerprint([setup.encoded.fingerprint, done])}
    write_json(folder / "index.json", done | named)


def _read(setup: Setup, folder: Path) -> EncodedData | Trajectories:
    """Read what was sampled; its prompts are those of the data set."""
    index = json.loads((folder / "index.json").read_text())
    arrays = open_arrays(folder)
    columns = {file.stem: np.load(file) for file in folder.glob("*.npy")}
    encoded, records = setup.encoded, columns["records"]
    if "states" in arrays:
        states = arrays["states"].whole
        assert states is not None
        certain = np.ones(len(records), np.float32)
        return Trajectories(
            states=states,
            times=columns["times"],
            conditions=encoded.conditions,
            items=columns["items"],
            prompt=encoded.prompt[records],
            weight=certain,
            probability=certain,
            guidance=index["guidance"],
            fingerprint=index["fingerprint"],
            told=told_of(setup, arrays["states"].shape(0)[1:], 1),
        )
    data = EncodedData.of_latents(
        arrays["mean"],
        encoded.conditions,
        columns["items"],
        encoded.prompt[records],
        fingerprint=index["fingerprint"],
        noise=arrays.get("noise"),
        media_conditions=named(arrays, "media."),
    )
    if "std" in arrays:  # the winners are the data set's: uncertain, weighted, perhaps with regions
        return replace(
            data,
            std=arrays["std"],
            weight=encoded.weight[records],
            regions=encoded.regions,
            region_rows=np.stack([encoded.region_rows[records, 0], np.full(len(records), -1)], 1),
        )
    return replace(data, liked=columns["liked"], labelled=setup.kind is LabelledErrors)
