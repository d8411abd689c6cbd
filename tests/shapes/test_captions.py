import numpy as np
import pytest

from vipo_cli.shapes.captions import (
    TASKS,
    Caption,
    Noun,
    draw_caption,
    draw_scene,
    parse_caption,
    perturb,
)
from vipo_cli.shapes.prompts import geneval_prompts
from vipo_cli.shapes.scene import BACKGROUNDS, COLOURS, SHAPES, Item, Scene, render


def drawn(task, number=200, seed=0):
    rng = np.random.default_rng(seed)
    return [draw_caption(rng, task) for _ in range(number)]


@pytest.mark.parametrize("task", TASKS)
def test_captions_are_read_back_as_they_were_said(task):
    for caption in drawn(task):
        assert parse_caption(str(caption)) == caption


@pytest.mark.parametrize(
    ("text", "caption"),
    [
        ("a red circle", Caption("colors", (Noun("circle", "red"),))),
        ("  A Square. ", Caption("single_object", (Noun("square"),))),
        ("three crosses on grey", Caption("counting", (Noun("cross"),), 3, None, "grey")),
        (
            "a photo of an orange cross above a circle",
            Caption(
                "position",
                (Noun("cross", "orange"), Noun("circle")),
                1,
                "above",
                None,
                "a photo of",
            ),
        ),
    ],
)
def test_captions_are_understood(text, caption):
    assert parse_caption(text) == caption


@pytest.mark.parametrize(
    "text", ["", "a dog", "a red", "two circle", "a circle on red", "a circle!"]
)
def test_foreign_captions_are_not_understood(text):
    assert parse_caption(text) is None


@pytest.mark.parametrize("task", TASKS)
def test_a_perturbed_caption_means_something_else(task):
    rng = np.random.default_rng(1)
    for caption in drawn(task):
        other = perturb(rng, caption)
        assert (other.nouns, other.count, other.relation) != (
            caption.nouns,
            caption.count,
            caption.relation,
        )
        assert (other.background, other.prefix) == (caption.background, caption.prefix)


@pytest.mark.parametrize("task", TASKS)
def test_a_scene_shows_what_its_caption_asks_for(task):
    rng = np.random.default_rng(2)
    for caption in drawn(task, 60):
        scene = draw_scene(rng, caption)
        expected = [noun.shape for noun in caption.nouns] * caption.count
        assert [item.shape for item in scene.items] == expected
        for item, noun in zip(scene.items, caption.nouns, strict=False):
            assert noun.colour in (None, item.colour)
        assert caption.background in (None, scene.background)
        for item in scene.items:
            assert item.size / 2 < min(item.x, item.y, 1 - item.x, 1 - item.y)
        if caption.relation:
            one, other = scene.items
            ahead = {
                "left of": other.x - one.x,
                "right of": one.x - other.x,
                "above": other.y - one.y,
                "below": one.y - other.y,
            }
            assert ahead[caption.relation] > 0.3


def test_the_same_scene_gives_the_same_picture_and_the_seed_only_its_grain():
    scene = Scene((Item("cross", "green", 0.4, 0.6, 0.5),), "grey")
    assert np.array_equal(render(scene, seed=0), render(scene, seed=1))
    grainy = Scene(scene.items, "grey", grain=8.0)
    assert np.array_equal(render(grainy, seed=3), render(grainy, seed=3))
    assert not np.array_equal(render(grainy, seed=3), render(grainy, seed=4))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("background", BACKGROUNDS)
def test_a_shape_has_its_colour_and_leaves_the_background_alone(shape, background):
    for colour, paint in COLOURS.items():
        picture = render(Scene((Item(shape, colour, 0.5, 0.5, 0.5),), background), 33)
        assert np.abs(picture[16, 16] - np.array(paint)).max() <= 2
        assert np.abs(picture[16, 1] - np.array(BACKGROUNDS[background])).max() <= 2


def test_prompts_are_distinct_understood_and_the_same_every_time():
    prompts = geneval_prompts()
    assert prompts == geneval_prompts(seed=43, per_task=100)
    assert prompts != geneval_prompts(seed=44)
    assert len({prompt["prompt"] for prompt in prompts}) == 600
    for prompt in prompts:
        caption = parse_caption(prompt["prompt"])
        assert caption is not None
        assert caption.task == prompt["tag"]


def test_prompts_say_what_they_ask_for_as_geneval_does():
    for prompt in geneval_prompts(per_task=30):
        caption = parse_caption(prompt["prompt"])
        include = prompt["include"]
        match prompt["tag"]:
            case "position":
                first, second = include
                assert first == {"class": caption.nouns[1].shape, "count": 1}
                assert second == {
                    "class": caption.nouns[0].shape,
                    "count": 1,
                    "position": [caption.relation, 0],
                }
            case "counting":
                assert include == [{"class": caption.nouns[0].shape, "count": caption.count}]
                assert prompt["exclude"] == [
                    {"class": caption.nouns[0].shape, "count": caption.count + 1}
                ]
            case _:
                assert [(clause["class"], clause.get("color")) for clause in include] == [
                    (noun.shape, noun.colour) for noun in caption.nouns
                ]
        assert ("exclude" in prompt) == (prompt["tag"] == "counting")
