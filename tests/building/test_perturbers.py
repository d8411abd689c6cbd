import numpy as np
import pytest

from vipo_cli.building.perturbers import CHANGES, perturb, perturbers
from vipo_cli.building.perturbers.english import english
from vipo_cli.building.perturbers.shapes import shapes, shapes_clips
from vipo_cli.shapes.captions import TASKS, draw_caption, parse_caption
from vipo_cli.shapes.motion import draw_clip_caption, parse_clip_caption


def rng(seed=0):
    return np.random.default_rng(seed)


def each(caption, change, times=20):
    """Return all that a change makes of a caption under several seeds."""
    found = (english(rng(seed), caption).get(change) for seed in range(times))
    return {text for text in found if text is not None}


def test_an_object_is_dropped_with_what_is_said_of_it():
    assert each("A red car and a blue truck on the street", "object-dropped") == {
        "A red car on the street",
        "a blue truck on the street",
    }
    assert each("a cat with a tall black hat", "object-dropped") == {"a cat", "a tall black hat"}


def test_an_object_becomes_another_of_its_kind():
    swapped = each("Two dogs and a cat", "object-swapped", 400)
    assert "Two horses and a cat" in swapped
    assert "Two wolves and a cat" in swapped
    assert "Two dogs and an elephant" in swapped
    assert not any("Two cats" in text or "a dog" in text for text in swapped)
    assert not each("the state of things", "object-swapped")


def test_a_number_becomes_another_that_can_be_told_from_it():
    changed = each("three small birds in a tree", "count", 40)
    assert changed == {
        f"{number} small birds in a tree" for number in ("two", "four", "five", "six")
    }


def test_a_colour_becomes_one_that_cannot_be_taken_for_it():
    changed = each("a purple apple beside a green pear", "colour", 80)
    assert not any("violet" in text or "teal" in text for text in changed)
    assert any("purple apple" in text for text in changed)
    assert any("green pear" in text for text in changed)
    assert each("roses are red", "colour") == set()  # no thing after it


def test_an_article_follows_its_noun():
    changed = each("a red apple", "colour", 80)
    assert "an orange apple" not in changed  # it may be taken for red
    assert "a blue apple" in changed
    assert each("an orange cup", "colour") >= {"a black cup"}
    assert "An elephant" in each("A dog", "object-swapped", 200)
    assert "a car beside a unicorn" not in each("a unicorn beside a bus", "object-swapped", 60)


@pytest.mark.parametrize(
    ("caption", "turned"),
    [
        ("a dog to the left of a cat", "a dog to the right of a cat"),
        ("a lamp on top of a desk", "a lamp underneath a desk"),
        ("a ball in front of a box", "a ball behind a box"),
        ("a kite above a house", "a kite below a house"),
    ],
)
def test_a_relation_is_turned_round(caption, turned):
    assert each(caption, "relation") == {turned}


def test_two_things_change_their_colours():
    assert each("a red car and a blue truck", "attribute-owner") == {"a blue car and a red truck"}
    assert each("a red and blue car", "attribute-owner") == set()  # two colours of one thing
    assert each("a red car and a red truck", "attribute-owner") == set()


def test_something_else_is_done():
    assert each("a door opening", "action") == {"a door closing"}
    assert "a man sitting in a park" in each("a man running in a park", "action", 40)


def test_what_comes_first_comes_last():
    assert each("A woman opens a door, then sits down.", "action-order") == {
        "A woman sits down, then opens a door."
    }
    assert each("A woman in a green dress opens a door and then sings", "action-order") == {
        "A woman in a green dress sings, then opens a door"
    }
    assert each("a man drinks coffee before reading a book", "action-order") == {
        "a man drinks coffee after reading a book"
    }
    assert each("a house before sunset", "action-order") == set()


def test_the_camera_goes_the_other_way():
    assert each("The camera pans left over a forest", "camera") == {
        "The camera pans right over a forest"
    }
    assert each("slow zoom in on a face", "camera") == {"slow zoom out on a face"}


def test_text_to_be_rendered_is_never_touched():
    caption = 'A red sign that says "TWO RED CATS" next to a blue car'
    for seed in range(40):
        for text in english(rng(seed), caption).values():
            assert '"TWO RED CATS"' in text
    assert english(rng(), 'a sign that says "a red dog and a blue cat"') == {}


def test_a_black_and_white_picture_has_no_colours():
    assert each("a black and white photo of a house", "colour") == set()


def test_every_change_of_plain_english_changes_the_caption():
    caption = "Two red cars and a blue truck to the left of a dog running, the camera pans left"
    found = english(rng(), caption)
    assert {"object-swapped", "count", "colour", "relation", "action",
            "camera", "attribute-owner"} <= found.keys()  # fmt: skip
    assert all(text != caption for text in found.values())


@pytest.mark.parametrize("task", TASKS)
def test_captions_of_the_embedded_world_stay_captions_of_it(task):
    for seed in range(20):
        caption = str(draw_caption(rng(seed), task))
        found = shapes(rng(seed), caption)
        assert found
        for change, text in found.items():
            assert change in CHANGES
            assert parse_caption(text) is not None
            assert text != caption
    assert shapes(rng(), "a dog in a park") is None


def test_names_of_changes_in_the_embedded_world():
    assert set(shapes(rng(), "a red circle")) == {"colour"}
    assert set(shapes(rng(), "two circles")) == {"count"}
    assert set(shapes(rng(), "a circle left of a cross")) == {"relation"}
    assert set(shapes(rng(), "a circle and a cross")) == {"object-dropped", "object-swapped"}
    assert set(shapes(rng(), "a red circle and a blue cross")) == {"attribute-owner", "colour"}


def test_captions_of_clips_change_shape_colour_or_direction():
    caption = str(draw_clip_caption(rng(1), "two_movers"))
    found = shapes_clips(rng(), caption)
    assert set(found) == {"object-swapped", "colour", "action"}
    assert all(parse_clip_caption(text) and text != caption for text in found.values())


def test_the_kind_of_change_is_chosen_among_those_wanted():
    caption = "a red circle and a blue square"
    assert {perturb(rng(seed), caption).change for seed in range(30)} == {
        "colour",
        "attribute-owner",
    }
    only = {perturb(rng(seed), caption, ["colour"]).change for seed in range(10)}
    assert only == {"colour"}
    assert perturb(rng(), caption, ["count"]) is None
    assert perturb(rng(), "nothing of the kind") is None


def test_the_same_seed_makes_the_same_change():
    caption = "two dogs and a red car in front of a house"
    assert perturb(rng(3), caption) == perturb(rng(3), caption)


def test_a_plugin_is_asked_before_plain_english(monkeypatch):
    monkeypatch.setitem(perturbers._loaded, "mine", lambda _, text: {"count": f"{text}!"})
    assert perturb(rng(), "three dogs").text == "three dogs!"
