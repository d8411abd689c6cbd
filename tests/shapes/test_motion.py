from dataclasses import replace

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from vipo_cli.shapes.motion import (
    DIMENSIONS,
    DIRECTIONS,
    FRAMES,
    TASKS,
    Clip,
    ClipCaption,
    Mover,
    draw_clip,
    draw_clip_caption,
    judge_clip,
    parse_clip_caption,
    perturb_clip_caption,
    read_clip,
    render_clip,
    spoil,
)
from vipo_cli.shapes.scene import Item


def drawn(number, task, seed=0):
    rng = np.random.default_rng(seed)
    for _ in range(number):
        caption = draw_clip_caption(rng, task)
        yield caption, draw_clip(rng, caption), rng


@pytest.mark.parametrize(
    ("text", "movers"),
    [
        ("a red circle moving left", [("circle", "red", "left")]),
        ("an orange cross standing still", [("cross", "orange", "still")]),
        (
            "a green triangle moving up and a yellow square moving down",
            [("triangle", "green", "up"), ("square", "yellow", "down")],
        ),
    ],
)
def test_captions_say_their_movers(text, movers):
    caption = ClipCaption(tuple(Mover(*mover) for mover in movers))
    assert str(caption) == text
    assert parse_clip_caption(f" A clip of {text}. ") == replace(caption, prefix="a clip of")


@pytest.mark.parametrize("task", TASKS)
def test_captions_are_read_back(task):
    for caption, _, _ in drawn(100, task):
        assert parse_clip_caption(str(caption)) == caption
        assert caption.task == task


@pytest.mark.parametrize(
    "text",
    ["", "a red circle", "a red circle moving still", "a red circle standing left",
     "red circle moving left", "a red circle moving left and", "a pink circle moving left"],
)  # fmt: skip
def test_captions_of_other_worlds_are_not_read(text):
    assert parse_clip_caption(text) is None


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("dimension", DIMENSIONS)
def test_a_perturbed_caption_differs_in_that_dimension_of_one_mover(task, dimension):
    rng = np.random.default_rng(0)
    for _ in range(50):
        caption = draw_clip_caption(rng, task)
        other = perturb_clip_caption(rng, caption, dimension)
        changed = [
            (name, index)
            for index, (a, b) in enumerate(zip(caption.movers, other.movers, strict=True))
            for name in ("shape", "colour", "direction")
            if getattr(a, name) != getattr(b, name)
        ]
        assert [name for name, _ in changed] == ["shape" if dimension == "object" else dimension]
        assert len({mover.shape for mover in other.movers}) == len(other.movers)
        assert len({mover.colour for mover in other.movers}) == len(other.movers)


@pytest.mark.parametrize("task", TASKS)
def test_rendered_clips_are_judged_right(task):
    verdicts = [judge_clip(render_clip(clip), caption) for caption, clip, _ in drawn(100, task)]
    assert np.mean([verdict.correct for verdict in verdicts]) >= 0.98


def test_blurred_and_noisy_clips_are_judged_right():
    right = []
    for caption, clip, rng in drawn(40, "two_movers"):
        blurred = gaussian_filter(render_clip(clip).astype(float), (0, 0.5, 0.5, 0))
        frames = np.clip(np.rint(blurred + rng.normal(0, 3, blurred.shape)), 0, 255)
        right.append(judge_clip(frames.astype(np.uint8), caption).correct)
    assert np.mean(right) >= 0.97


@pytest.mark.parametrize("dimension", DIMENSIONS)
def test_clips_of_perturbed_captions_are_judged_wrong_in_that_dimension(dimension):
    for caption, clip, rng in drawn(15, "two_movers"):
        frames = render_clip(clip)
        verdict = judge_clip(frames, perturb_clip_caption(rng, caption, dimension))
        assert not verdict.correct
        shares = [getattr(verdict, each) for each in DIMENSIONS]
        place = DIMENSIONS.index(dimension)
        assert shares == [1.0] * place + [0.5] * (3 - place)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_a_shape_goes_where_its_mover_says(direction):
    across, down = DIRECTIONS[direction]
    item = Item("circle", "blue", 0.5 - 0.15 * across, 0.5 - 0.15 * down, 0.4)
    frames = render_clip(Clip((item,), ((0.3 * across, 0.3 * down),)))
    assert frames.shape == (FRAMES, 32, 32, 3)
    assert read_clip(frames) == [Mover("circle", "blue", direction)]
    moved = (frames[0] != frames[-1]).any()
    assert moved == (direction != "still")


@pytest.mark.parametrize("task", TASKS)
def test_no_shape_meets_another_or_the_border(task):
    for _, clip, _ in drawn(60, task, seed=3):
        for time in np.linspace(0, 1, 50):
            now = [
                replace(item, x=item.x + time * dx, y=item.y + time * dy)
                for item, (dx, dy) in zip(clip.items, clip.ways, strict=True)
            ]
            for item in now:
                reach = item.size / 2
                assert reach <= item.x <= 1 - reach
                assert reach <= item.y <= 1 - reach
            if len(now) == 2:
                apart = max(abs(now[0].x - now[1].x), abs(now[0].y - now[1].y))
                assert apart > (now[0].size + now[1].size) / 2


def test_a_shape_that_changes_colour_on_its_way_is_no_mover():
    clip = Clip((Item("circle", "blue", 0.3, 0.5, 0.4),), ((0.3, 0.0),))
    red = replace(clip, items=(replace(clip.items[0], colour="red"),))
    frames = np.concatenate([render_clip(clip)[:5], render_clip(red)[5:]])
    assert read_clip(frames) == []


def test_faults_are_what_they_are_called():
    clip = Clip((Item("square", "red", 0.5, 0.5, 0.4),), ((0.0, 0.0),), "grey")
    sound = render_clip(clip).astype(float)
    assert (sound == sound[0]).all()
    amounts = np.eye(4)
    blurred, grainy, shaken, flickering = (
        render_clip(spoil(clip, amount), seed=1).astype(float) for amount in amounts
    )
    assert (blurred == blurred[0]).all()
    assert np.abs(np.diff(blurred[0], axis=0)).max() < np.abs(np.diff(sound[0], axis=0)).max()
    assert np.std(grainy[:, :4, :4] - sound[:, :4, :4]) == pytest.approx(16, rel=0.2)
    assert [read_clip(part[None].astype(np.uint8)) for part in shaken] == [
        [Mover("square", "red", "still")]
    ] * FRAMES
    assert len({part.tobytes() for part in shaken}) == FRAMES
    assert (flickering[:, 0] == sound[:, 0]).all()
    assert np.ptp(flickering[:, 16, 16], axis=0).max() > 10
    assert (render_clip(spoil(clip, amounts[1]), seed=1) == grainy).all()
    assert (render_clip(spoil(clip, amounts[1]), seed=2) != grainy).any()
