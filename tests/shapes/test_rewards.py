from dataclasses import replace

import numpy as np
import pytest

from vipo_cli.media import encode_png
from vipo_cli.rewards import Reward, rewards
from vipo_cli.shapes.captions import TASKS, draw_caption, draw_scene
from vipo_cli.shapes.scene import Scene, render
from vipo_cli.shapes.source import shapes

NAMES = [name for name in rewards.names() if name.startswith("shapes-")]


def off_centre(scene):
    """Push everything against the left border, a little beyond it."""
    shift = min(item.x - item.size / 2 for item in scene.items) + 0.06
    return replace(scene, items=tuple(replace(item, x=item.x - shift) for item in scene.items))


DAMAGE = {
    "shapes-sharpness": lambda scene: replace(scene, blur=0.8),
    "shapes-vividness": lambda scene: replace(scene, fading=0.4),
    "shapes-cleanliness": lambda scene: replace(scene, grain=10.0),
    "shapes-composition": off_centre,
}


def examples(number=60):
    rng = np.random.default_rng(3)
    captions = [draw_caption(rng, TASKS[index % len(TASKS)]) for index in range(number)]
    return [str(caption) for caption in captions], [
        draw_scene(rng, caption) for caption in captions
    ]


def scores(name, prompts, scenes):
    media = [encode_png(render(scene, seed=index)) for index, scene in enumerate(scenes)]
    return rewards[name]().score(media, prompts)


def margins(kind, names=NAMES, pairs=180, seed=5):
    made = list(shapes(kind=kind, pairs=pairs, seed=seed))
    prompts = [pair.prompt for pair in made]
    winners, losers = [pair.winner for pair in made], [pair.loser for pair in made]
    return {
        name: rewards[name]().score(winners, prompts) - rewards[name]().score(losers, prompts)
        for name in names
    }


def test_there_are_five_rewards_on_five_dimensions():
    made = [rewards[name]() for name in NAMES]
    assert all(isinstance(reward, Reward) for reward in made)
    assert [reward.name for reward in made] == NAMES
    assert len({reward.dimension for reward in made}) == 5
    assert len({reward.fingerprint for reward in made}) == 5
    assert all(rewards.summary(name) for name in NAMES)


@pytest.mark.parametrize("damaged", DAMAGE)
def test_each_reward_falls_with_its_own_damage_and_hardly_with_any_other(damaged):
    prompts, scenes = examples()
    spoiled = [DAMAGE[damaged](scene) for scene in scenes]
    for name in NAMES:
        before, after = scores(name, prompts, scenes), scores(name, prompts, spoiled)
        if name == damaged:
            assert np.mean(after < before) > 0.9
            assert after.mean() < 0.75 * before.mean()
        else:
            assert abs(after.mean() - before.mean()) < 0.1 * before.mean()


def test_alignment_is_whole_for_the_right_picture_and_less_for_the_wrong_one():
    prompts, scenes = examples()
    assert scores("shapes-alignment", prompts, scenes).min() > 0.95
    others = scenes[6:] + scenes[:6]  # of the same task
    assert scores("shapes-alignment", prompts, others).mean() < 0.8


def test_alignment_counts_what_is_there_of_what_is_asked():
    rng = np.random.default_rng(0)
    three = draw_scene(rng, draw_caption(rng, "counting"))
    item = three.items[0]
    one = Scene((replace(item, colour="red"),), "white")
    noun = item.shape
    plural = f"{noun}es" if noun == "cross" else f"{noun}s"
    other = "square" if noun != "square" else "circle"
    expected = {
        f"a {noun}": 1.0,
        f"a {other}": 0.0,
        f"a red {noun}": 1.0,
        f"a blue {noun}": 0.5,
        f"a {noun} and a {other}": 0.5,
        f"two {plural}": 0.5,
        f"four {plural}": 0.25,
        f"a {noun} on white": 1.0,
        f"a {noun} on black": 0.5,
        f"a red {noun} left of a blue {other}": 0.4,
    }
    got = scores("shapes-alignment", list(expected), [one] * len(expected))
    assert got == pytest.approx(list(expected.values()), abs=0.02)


def test_alignment_cannot_judge_foreign_captions_and_says_so():
    _, scenes = examples(1)
    for name in ("shapes-alignment", "shapes-sharpness", "shapes-cleanliness"):
        assert np.isnan(scores(name, ["a dog on the moon"], scenes)).all()


@pytest.mark.parametrize("name", NAMES)
def test_a_broken_picture_cannot_be_judged_and_an_empty_one_can(name):
    empty = encode_png(np.full((32, 32, 3), 200, np.uint8))
    broken, judged = rewards[name]().score([b"no picture", empty], ["a circle", "a circle"])
    assert np.isnan(broken)
    assert 0 <= judged <= 1
    if name != "shapes-cleanliness":
        assert judged == 0


def test_alignment_is_right_about_clean_pairs():
    margin = margins("clean", ["shapes-alignment"])["shapes-alignment"]
    assert np.mean(margin > 0) >= 0.97


def test_rewards_disagree_about_noisy_pairs():
    margin = np.stack(list(margins("noisy").values()))
    unanimous = np.mean((margin > 0).all(axis=0) | (margin < 0).all(axis=0))
    assert unanimous < 0.15
    correlation = np.corrcoef(margin) - np.eye(len(margin))
    assert np.abs(correlation).max() < 0.3
    right = np.mean(margin > 0, axis=1) + 0.5 * np.mean(margin == 0, axis=1)
    assert ((right > 0.5) & (right < 0.75)).all()  # each decides about a fifth of the labels
