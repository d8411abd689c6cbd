import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from vipo_cli.data import PreferencePair
from vipo_cli.data.sources import open_pairs
from vipo_cli.errors import DataError
from vipo_cli.media import decode
from vipo_cli.models.sample import decode_latents, sample_latents
from vipo_cli.objectives import LabelledErrors
from vipo_cli.recipe import resolve_recipe
from vipo_cli.rewards import rewards
from vipo_cli.run import finish, read_lines
from vipo_cli.training import sampling
from vipo_cli.training.arrays import RaggedArray
from vipo_cli.training.batches import training_batch
from vipo_cli.training.prepare import prepare
from vipo_cli.training.reference import Snapshot, trainable
from vipo_cli.training.rounds import begin_round, prepare_loop, steps_per_round
from vipo_cli.training.setup import split
from vipo_cli.training.train import new_run, train
from vipo_cli.training.trajectory import Trajectories

NAN = float("nan")
LOOP = {
    "model.precision": "fp32",
    "optimizer.batch_size": 2,
    "optimizer.learning_rate": 1e-3,
    "run.steps": 4,
    "run.checkpoint_every": 1,
    "loop.kind": "iterative",
    "loop.reward": "redness",
    "loop.rounds": 2,
    "loop.prompts": 5,
    "loop.candidates": 3,
    "loop.sampling_steps": 2,
    "loop.guidance": 2.0,
    "data.pairs": 16,
    "data.held_out": 0,
}


class Redness:
    """How red a picture is."""

    name, dimension, fingerprint = "redness", "colour", "1"

    def score(self, media, prompts):
        assert len(media) == len(prompts)
        return np.array([np.asarray(decode(data))[..., 0].mean() for data in media])


@pytest.fixture(scope="module", autouse=True)
def _redness_is_a_reward():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(rewards._loaded, "redness", Redness)
        yield


@pytest.fixture
def redness(monkeypatch):
    reward = Redness()
    monkeypatch.setitem(rewards._loaded, "redness", lambda: reward)
    return reward


def loop(tiny, method="diffusion-dpo", **settings):
    changed = {key.replace("__", "."): value for key, value in settings.items()}
    return resolve_recipe(None, model=str(tiny), method=method, settings=LOOP | changed)


SPIN = {"loop__kind": "spin", "loop__reward": None}


@pytest.fixture(scope="module")
def begun(tiny, tmp_path_factory):
    """A setup in its first round, and the round's folder; not to be changed."""
    run = tmp_path_factory.mktemp("begun")
    recipe = loop(tiny)
    setup = finish(prepare(recipe, open_pairs("shapes", recipe.data.parameters), run))
    finish(begin_round(setup, run, 0))
    return setup, run / "rounds" / "round-01"


@pytest.fixture
def start(tiny, tmp_path):
    """Return a function that prepares a run of a loop."""

    def make(method="diffusion-dpo", **settings):
        recipe = loop(tiny, method, **settings)
        records = open_pairs("shapes", recipe.data.parameters)
        return finish(prepare(recipe, records, tmp_path / "run"))

    return make


def changed(setup, section, **values):
    """Return a setup with other values in a section of its recipe."""
    other = getattr(setup.recipe, section).model_copy(update=values)
    return replace(setup, recipe=setup.recipe.model_copy(update={section: other}))


def scores_of(folder):
    return np.array([line["score"] for line in read_lines(folder / "scores.jsonl")])


def shake(setup, seed=0):
    """Move the policy away from its base."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in trainable(setup.family).values():
            value.add_(0.05 * torch.randn(value.shape, generator=generator))


def judge(setup, rows):
    pixels = decode_latents(setup.family, setup.data.mean.read(rows))
    return np.array([picture[..., 0].mean() for picture in pixels])


def test_the_best_of_each_prompt_stands_against_the_worst(begun):
    setup, folder = begun
    lines = read_lines(folder / "scores.jsonl")
    assert len(lines) == 15
    assert len({line["prompt"] for line in lines}) == 5
    found = scores_of(folder).reshape(5, 3)
    assert np.ptp(found, axis=1).min() > 0
    assert setup.data.items.tolist() == np.arange(10).reshape(5, 2).tolist()
    assert setup.train.tolist() == list(range(5))
    np.testing.assert_allclose(judge(setup, setup.data.items[:, 0]), found.max(1), atol=0.5)
    np.testing.assert_allclose(judge(setup, setup.data.items[:, 1]), found.min(1), atol=0.5)
    roles = np.array([line["role"] for line in lines]).reshape(5, 3)
    assert (roles[np.arange(5), found.argmax(1)] == "winner").all()
    assert (roles[np.arange(5), found.argmin(1)] == "loser").all()
    texts = [setup.encoded.texts[row] for row in setup.data.prompt]
    assert texts == [lines[3 * number]["prompt"] for number in range(5)]
    index = json.loads((folder / "index.json").read_text())
    assert index["records"] == 5
    assert index["prompts_dropped"] == 0
    assert index["mean_score"] == pytest.approx(found.mean())
    assert (index["steps"], index["guidance"]) == (2, 2.0)


def test_a_round_knows_the_noise_of_its_samples(begun):
    setup, _ = begun
    data, rows = setup.data, setup.data.items[:, 0]
    guided = sample_latents(
        setup.family, data.noise.read(rows), data.condition(data.prompt),
        data.condition(np.full(5, -1)), [torch.Generator()] * 5, steps=2, guidance=2.0,
    )  # fmt: skip
    torch.testing.assert_close(guided, data.mean.read(rows), atol=1e-4, rtol=1e-4)
    stored = setup.recipe.noise.model_copy(update={"source": "stored"})
    setup = replace(setup, recipe=setup.recipe.model_copy(update={"noise": stored}))
    batch = training_batch(setup, [0, 1])
    assert not torch.equal(batch.eps[0], batch.eps[1])
    assert (
        np.abs(data.noise.whole[:, None] - batch.eps.flatten(0, 1).numpy()).max((2, 3, 4)) == 0
    ).sum() == 4
    assert not data.std.flat.any()


def test_samples_depend_on_seed_round_prompt_and_candidate_alone(begun, tmp_path, monkeypatch):
    setup, _ = begun
    first = sampling.Sampling(tmp_path, "", (0, 1), np.array([3, 7, 9]), 2, 1, 2, 2.0)
    whole = sampling.draw(setup, first, first.records)
    assert np.array_equal(whole["mean"], sampling.draw(setup, first, first.records)["mean"])
    monkeypatch.setattr(sampling, "fitting_batch_size", lambda _: 1)
    assert [len(block) for block in sampling.blocks(setup, first)] == [1, 1, 1]
    alone = sampling.draw(setup, first, np.array([7]))
    assert np.array_equal(alone["noise"], whole["noise"][2:4])
    np.testing.assert_allclose(alone["mean"], whole["mean"][2:4], atol=1e-4)
    noises = [whole["noise"]]
    noises += [
        sampling.draw(setup, replace(first, seed=seed), first.records)["noise"]
        for seed in ((0, 2), (1, 1))
    ]
    every = np.concatenate(noises).reshape(18, -1)
    assert len(np.unique(every, axis=0)) == 18


def test_every_prompt_has_its_turn_before_one_comes_again(begun, tmp_path):
    setup = changed(changed(begun[0], "loop", prompts=4, rounds=4), "data", held_out=3)
    seen = []
    for number in range(4):
        finish(begin_round(setup, tmp_path / "run", number))
        lines = read_lines(tmp_path / "run" / "rounds" / f"round-{number + 1:02d}/scores.jsonl")
        texts = list(dict.fromkeys(line["prompt"] for line in lines))
        assert len(texts) == 4
        assert setup.round == number
        seen += texts
    train, held_out = split(setup.encoded.prompt, 3)
    assert len(held_out) >= 3
    usable = {setup.encoded.texts[row] for row in setup.encoded.prompt[train]}
    assert len(set(seen[: len(usable)])) == len(usable)
    assert set(seen) == usable
    assert not usable & {setup.encoded.texts[row] for row in setup.encoded.prompt[held_out]}


def test_lists_keep_all_samples_in_order(start, tmp_path):
    lists = start("plackett-luce", data__held_out=3)
    finish(begin_round(lists, tmp_path / "run", 0))
    assert lists.data.items.shape == (5, 3)
    assert (np.diff(judge(lists, lists.data.items.ravel()).reshape(5, 3), axis=1) < 0.5).all()
    assert lists.held_out.base.shape == (4, len(lists.held_out.records), 3)
    assert training_batch(lists, [0, 1]).x0.shape[:2] == (3, 2)


def test_single_samples_are_liked_above_their_prompts_mean(begun, tmp_path):
    singles = replace(begun[0], kind=LabelledErrors)
    finish(begin_round(singles, tmp_path / "run", 0))
    data = singles.data
    assert data.labelled
    assert data.items.shape[1] == 1
    found = scores_of(tmp_path / "run" / "rounds" / "round-01").reshape(5, 3)
    judged = judge(singles, data.items[:, 0])
    means = dict(zip(dict.fromkeys(data.prompt.tolist()), found.mean(1), strict=True))
    assert len(data) == 15
    for row, liked, prompt in zip(judged, data.liked, data.prompt, strict=True):
        assert liked == (row > means[prompt])


def test_samples_that_score_alike_are_dropped_and_counted(begun, redness, tmp_path):
    setup = changed(begun[0], "loop", candidates=2)
    finish(begin_round(setup, tmp_path / "run", 0))
    gaps = np.ptp(scores_of(tmp_path / "run/rounds/round-01").reshape(5, 2), axis=1)
    shutil.rmtree(tmp_path / "run" / "rounds" / "round-01")
    exact = redness.score

    def rounded(media, prompts):  # the two prompts that differ least do not differ at all
        found = exact(media, prompts).reshape(-1, 2)
        found[np.argsort(gaps)[:2]] = 7
        return found.ravel()

    redness.score = rounded
    finish(begin_round(setup, tmp_path / "run", 0))
    index = json.loads((tmp_path / "run/rounds/round-01/index.json").read_text())
    assert (index["prompts"], index["records"], index["prompts_dropped"]) == (5, 3, 2)
    assert len(setup.data) == 3
    redness.score = lambda media, _: np.zeros(len(media))
    with pytest.raises(DataError, match="tells the samples of 0 of 5 prompts apart"):
        finish(begin_round(setup, tmp_path / "run", 1))
    assert not (tmp_path / "run" / "rounds" / "round-02").exists()


def test_a_round_fills_at_least_one_batch(begun, redness, tmp_path):
    setup = changed(begun[0], "optimizer", batch_size=4)
    scores = np.zeros(15)
    scores[:9] = range(9)
    redness.score = lambda media, _: scores
    with pytest.raises(DataError, match="makes 3 records of the 4 that are needed"):
        finish(begin_round(setup, tmp_path / "run", 0))
    scores[9:] = range(6)
    finish(begin_round(setup, tmp_path / "run", 0))
    assert len(setup.data) == 5


def test_a_reward_that_judges_nothing_is_told(begun, redness, tmp_path):
    redness.score = lambda media, _: np.full(len(media), NAN)
    with pytest.raises(DataError, match="tells the samples of 0 of 5") as raised:
        finish(begin_round(replace(begun[0]), tmp_path / "run", 0))
    assert raised.value.details == ("15 samples could not be judged",)
    assert raised.value.hint


def test_held_out_pairs_are_samples_of_the_base_the_same_for_every_seed(start, tmp_path):
    setup = start(data__held_out=3)
    held_out = setup.held_out
    assert 0 < len(held_out.records) <= 3
    assert held_out.base.shape == (4, len(held_out.records), 2)
    texts = {setup.encoded.texts[row] for row in held_out.data.prompt}
    train, _ = split(setup.encoded.prompt, 3)
    assert not texts & {setup.encoded.texts[row] for row in setup.encoded.prompt[train]}
    first = np.array(held_out.data.mean.whole)
    (tmp_path / "run").rename(tmp_path / "before")
    again = start(run__seed=1, data__held_out=3)
    assert np.array_equal(again.held_out.data.mean.whole, first)
    assert np.array_equal(again.held_out.base, held_out.base)


def test_spin_sets_the_policys_samples_against_the_datas_winners(start, tmp_path):
    setup = start(**SPIN, data__held_out=3)
    shake(setup)
    finish(begin_round(setup, tmp_path / "run", 0))
    data, encoded = setup.data, setup.encoded
    assert data.items.shape == (5, 2)
    records = np.load(tmp_path / "run" / "rounds" / "round-01" / "records.npy")
    train, _ = split(encoded.prompt, 3)
    assert set(records) < set(train)
    assert (setup.held_out.data.items >= 0).all()
    winners = encoded.items[records, 0]
    assert np.array_equal(data.mean[data.items[:, 0]], encoded.mean[winners])
    assert np.array_equal(data.std[data.items[:, 0]], encoded.std[winners])
    assert not data.std[data.items[:, 1]].any()
    assert np.array_equal(data.prompt, encoded.prompt[records])
    policy = sampling.Sampling(tmp_path, "", (0, 1), records, 1, 1, 2, 2.0)
    drawn = sampling.draw(setup, policy, records)["mean"]
    np.testing.assert_allclose(data.mean[data.items[:, 1]], drawn, atol=1e-5)
    for name, value in trainable(setup.family).items():
        assert torch.equal(setup.moving.weights[name], value)


def test_spins_reference_stays_where_a_round_is_taken_up_in_its_middle(start, tmp_path):
    setup = start(**SPIN, run__steps=6)
    before = {name: value.clone() for name, value in setup.moving.weights.items()}
    shake(setup)
    for made, moves in ((3, True), (4, False)):
        for name, value in before.items():
            setup.moving.weights[name].copy_(value)
        finish(begin_round(setup, tmp_path / "run", 1, done=made))
        moved = any(
            not torch.equal(value, setup.moving.weights[name]) for name, value in before.items()
        )
        assert moved == moves
    assert setup.round_start == steps_per_round(setup.recipe) == 3


def test_the_old_policy_is_the_one_that_the_round_began_with(begun):
    setup, folder = begun
    old = replace(setup, old=Snapshot(setup.family))
    for value in old.old.weights.values():
        value.add_(1)
    finish(begin_round(old, folder.parent.parent, 0))
    for name, value in trainable(setup.family).items():
        assert torch.equal(value, old.old.weights[name])


def test_a_round_that_is_there_is_read_and_not_made_again(begun):
    setup, folder = begun
    again = replace(setup, data=setup.encoded)
    assert list(begin_round(again, folder.parent.parent, 0)) == []
    assert again.data is not setup.data
    assert np.array_equal(again.data.mean.whole, setup.data.mean.whole)
    assert np.array_equal(again.data.items, setup.data.items)
    assert again.data.fingerprint == setup.data.fingerprint


def test_a_round_that_was_cut_short_leaves_nothing(begun, tmp_path):
    work = begin_round(replace(begun[0]), tmp_path, 0)
    next(work)
    work.close()
    assert not list((tmp_path / "rounds").iterdir())
    (tmp_path / "rounds" / ".round-01.12345678.tmp").mkdir()  # what kill -9 leaves
    finish(prepare_loop(replace(begun[0]), tmp_path))
    assert not list((tmp_path / "rounds").iterdir())


def test_progress_counts_samples(begun, tmp_path, monkeypatch):
    setup = replace(begun[0])
    monkeypatch.setattr(sampling, "fitting_batch_size", lambda _: 6)
    seen = list(begin_round(setup, tmp_path / "run", 0))
    assert [(step.done, step.total) for step in seen] == [(6, 15), (12, 15), (15, 15)]
    assert seen[0].stage == "sampling for round 1 of 2"
    assert "mean redness" in seen[0].note


def test_trajectories_of_a_prompt_start_alike(start, tmp_path):
    setup = start("d3po", loop__sampling_steps=4, data__held_out=3)
    finish(begin_round(setup, tmp_path / "run", 0))
    data = setup.data
    assert isinstance(data, Trajectories)
    assert data.states.shape == (10, 5, 4, 8, 8)
    assert data.times.tolist() == [1, 0.75, 0.5, 0.25, 0]
    winners, losers = data.states[data.items[:, 0]], data.states[data.items[:, 1]]
    assert np.array_equal(winners[:, 0], losers[:, 0])
    assert (np.abs(winners[:, 1:] - losers[:, 1:]).max((2, 3, 4)) > 0.01).all()
    pictures = SimpleNamespace(
        family=setup.family, data=SimpleNamespace(mean=RaggedArray.of(data.states[:, -1]))
    )
    found = scores_of(tmp_path / "run" / "rounds" / "round-01").reshape(5, 3)
    np.testing.assert_allclose(judge(pictures, data.items[:, 0]), found.max(1), atol=0.5)
    np.testing.assert_allclose(judge(pictures, data.items[:, 1]), found.min(1), atol=0.5)
    assert isinstance(setup.held_out.data, Trajectories)
    assert setup.held_out.base.shape == (
        3,
        len(setup.held_out.records),
        2,
    )  # every step but the last
    batch = training_batch(setup, [0, 1])
    assert batch.x_t.shape == (2, 2, 4, 8, 8)


@pytest.mark.parametrize(
    ("method", "settings", "stop", "left"),
    [
        # in the middle of a round, whose reference is not the policy that a resumed run finds, and
        # with the next round's samples there already
        ("diffusion-dpo", SPIN | {"run__steps": 4, "data__held_out": 3}, ("training", 3), 1),
        # while samples are drawn
        ("d3po", {"run__steps": 2}, ("sampling for round 2 of 2", 15), 1),
    ],
)
def test_a_loop_that_was_stopped_ends_as_if_it_had_not_been(
    tiny, tmp_path, method, settings, stop, left
):
    chosen = loop(tiny, method, **settings)
    whole, folder = new_run(chosen, tmp_path / "whole"), new_run(chosen, tmp_path / "stopped")
    finish(train(chosen, whole))
    work = train(chosen, folder)
    for progress in work:
        if stop == (progress.stage, progress.done):
            break
    work.close()
    for lost in sorted((folder / "checkpoints").iterdir())[left:]:
        shutil.rmtree(lost)
    finish(train(chosen, folder, resume=True))
    file = f"checkpoints/step-{chosen.run.steps:06d}/resume/state.safetensors"
    assert (folder / file).read_bytes() == (whole / file).read_bytes()
    records = [line for line in read_lines(folder / "metrics.jsonl") if "loss" in line]
    assert [record["step"] for record in records] == list(range(1, chosen.run.steps + 1))
    assert [record["round"] for record in records] == [
        1 + step // steps_per_round(chosen) for step in range(chosen.run.steps)
    ]


def test_pictures_without_losers_are_enough_for_a_loop(tiny, tmp_path):
    chosen = loop(tiny, **SPIN)
    pairs = open_pairs("shapes", chosen.data.parameters)
    records = [PreferencePair(pair.prompt, pair.winner) for pair in pairs]
    setup = finish(prepare(chosen, records, tmp_path / "run"))
    finish(begin_round(setup, tmp_path / "run", 0))
    assert (setup.data.items >= 0).all()


def test_held_out_trajectories_are_judged_by_all_their_steps_together(start):
    from vipo_cli.training.held_out import measure_held_out

    setup = start("d3po", loop__sampling_steps=4, data__held_out=3)
    held_out = setup.held_out
    found = measure_held_out(setup)
    assert (found.value, found.winner_gain) == (0.5, 0.0)
    wrong_once = np.zeros_like(held_out.base)
    wrong_once[0, :, 0], wrong_once[1:, :, 0] = -1.0, 1.0  # steps 2 and 3 outweigh the first
    held_out.base = held_out.base + wrong_once
    assert measure_held_out(setup).value == 1.0
