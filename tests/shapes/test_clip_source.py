import io

import numpy as np
import pytest
from PIL import Image

from vipo_cli.clips import read_frames
from vipo_cli.data.sources import open_pairs
from vipo_cli.shapes.clip_source import MAKERS, shapes_clips
from vipo_cli.shapes.motion import (
    DIMENSIONS,
    DIRECTIONS,
    FRAMES,
    FRAMES_PER_SECOND,
    TASKS,
    Mover,
    draw_clip_caption,
    judge_clip,
    parse_clip_caption,
)

KINDS = ("clean", "noisy", "captions")


def frames(medium):
    return np.stack([np.asarray(frame) for frame in read_frames(medium)])


@pytest.mark.parametrize("kind", KINDS)
def test_a_record_depends_on_the_seed_and_its_number_alone(kind):
    few, many = shapes_clips(kind=kind, pairs=4), shapes_clips(kind=kind, pairs=20)
    assert list(few) == list(many[:4])
    assert few[-1] == many[3]
    assert few[3] != shapes_clips(kind=kind, pairs=4, seed=1)[3]
    assert {record.metadata["category"] for record in few} == {*TASKS}


def test_every_parameter_has_its_fingerprint():
    made = [
        *(shapes_clips(kind=kind, pairs=6) for kind in KINDS),
        shapes_clips(pairs=7),
        shapes_clips(pairs=6, seed=1),
        shapes_clips(pairs=6, flip_rate=0.001),
    ]
    assert len({records.fingerprint for records in made}) == len(made)
    assert shapes_clips(pairs=6).fingerprint == made[0].fingerprint


def test_winners_of_clean_pairs_show_their_caption_and_losers_differ_in_one_thing():
    pairs = shapes_clips(pairs=36)
    assert {pair.metadata["differs"] for pair in pairs[:6]} == {*DIMENSIONS}
    right, seen = [], []
    for pair in pairs:
        caption = parse_clip_caption(pair.prompt)
        won, lost = (judge_clip(frames(medium), caption) for medium in pair.media)
        right.append(won.correct and not lost.correct)
        place = DIMENSIONS.index(pair.metadata["differs"])
        before = [getattr(lost, name) == 1 for name in DIMENSIONS[:place]]
        seen.append(all(before) and getattr(lost, DIMENSIONS[place]) < 1)
    assert np.mean(right) >= 0.97
    assert np.mean(seen) >= 0.97


def test_a_flip_rate_of_1_turns_every_pair_round():
    for sound, flipped in zip(
        shapes_clips(pairs=4), shapes_clips(pairs=4, flip_rate=1.0), strict=True
    ):
        assert (sound.winner, sound.loser) == (flipped.loser, flipped.winner)


def shown(clip):
    for item, way in zip(clip.items, clip.ways, strict=True):
        direction = next(name for name, to in DIRECTIONS.items() if to == tuple(np.sign(way)))
        yield Mover(item.shape, item.colour, direction)


def test_noisy_labels_follow_alignment_three_times_in_five():
    wins = []
    for index in range(600):
        rng = np.random.default_rng((0, index))
        caption = draw_clip_caption(rng, TASKS[index % 2])
        sketch = MAKERS["noisy"](rng, caption, index)
        won, lost = (tuple(shown(clip)) == caption.movers for clip in sketch.clips)
        if won != lost:
            wins.append(won)
    assert 200 < len(wins) < 400
    assert np.mean(wins) == pytest.approx(0.6, abs=0.07)  # one quality of five decides


def test_captions_have_a_clip_and_no_loser():
    record = shapes_clips(kind="captions", pairs=2)[1]
    assert record.loser is None
    with Image.open(io.BytesIO(record.winner)) as clip:
        assert clip.n_frames == FRAMES
        assert clip.info["duration"] == pytest.approx(1000 / FRAMES_PER_SECOND)
    assert frames(record.winner).shape == (FRAMES, 32, 32, 3)


def test_the_source_is_registered():
    pairs = open_pairs("shapes-clips", {"pairs": 3, "kind": "noisy"})
    assert len(pairs) == 3
