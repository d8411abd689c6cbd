import json

import pytest

from tests.small_clips import clip, found, put, shown
from vipo_cli.data.importers import arrays
from vipo_cli.data.importers.arrays import elements_of
from vipo_cli.errors import DataError

PROMPTS = ["a fox runs", "a dog swims", "a cat sleeps"]


def clips(folder, prefix="", scores=None):
    """The array of clips as the public code writes it: winner and loser by turns."""
    return [
        {
            "basic": {
                "clip_duration": 1.6,
                "clip_path": f"{prefix}{side}videos/{number:06}.mp4",
                "globalidx": number,
                **({} if scores is None else {"score": scores[2 * number + place]}),
            },
            "misc": {"frame_caption": [prompt]},
        }
        for number, prompt in enumerate(PROMPTS)
        for place, side in enumerate(("win", "lose"))
    ]


def pairs(**more):
    return [
        {"video1": 2 * number, "video2": 2 * number + 1, "label": 0, "frame_caption": prompt} | more
        for number, prompt in enumerate(PROMPTS)
    ]


@pytest.fixture
def place(tmp_path):
    """A folder of clips with both lists."""
    folder = tmp_path / "vidpro"
    for number in range(3):
        put(folder / f"winvideos/{number:06}.mp4", 2 * number)
        put(folder / f"losevideos/{number:06}.mp4", 2 * number + 1)
    write(folder, clips(folder), pairs())
    return folder


def write(folder, metadata, pair, name="pair.json"):
    (folder / "metadata.json").write_text(json.dumps(metadata))
    (folder / name).write_text(json.dumps(pair, indent=4))


def test_the_first_clip_of_a_pair_won_whatever_the_label_says(place):
    write(place, clips(place), pairs(label=1))
    name, entries, reasons = found(place)
    assert name == "videodpo"
    assert [each.prompt for each in entries] == PROMPTS
    assert {each.label for each in entries} == {"a"}
    assert shown(entries[2]) == [clip(4), clip(5)]
    assert reasons == []
    assert len(found(place / "pair.json")[1]) == len(found(place.parent)[1]) == 3


def test_scores_are_kept_and_weigh_if_asked_for(place):
    scores = [0.9, 0.6, 0.8, 0.8, 0.9, 0.3]
    listed = [
        each | {"score": scores[2 * number] * scores[2 * number + 1], "diff_score": 0.1}
        for number, each in enumerate(pairs())
    ]
    write(place, clips(place, scores=scores), listed)
    entries = found(place)[1]
    assert [each.weight for each in entries] == [1, 1, 1]
    assert entries[2].scores == {"omniscore": (0.9, 0.3)}
    assert entries[1].metadata == {"score": pytest.approx(0.64), "diff_score": 0.1}
    weighed = found(place, alpha=2)[1]
    assert [each.weight for each in weighed] == pytest.approx(
        [(0.72 / 0.54) ** 2, (0.72 / 0.64) ** 2, (0.72 / 0.27) ** 2]
    )


def test_paths_of_another_machine_are_looked_for_beside_the_list(place):
    write(place, clips(place, prefix="/home/someone/vidpro/"), pairs())
    assert shown(found(place)[1][0]) == [clip(0), clip(1)]


def test_another_list_of_pairs_may_be_named(place):
    write(place, clips(place), pairs()[1:], "pair_score_25P.json")
    _, entries, _ = found(place, pairs="pair_score_25P.json")
    assert [each.prompt for each in entries] == PROMPTS[1:]


def test_what_cannot_be_used_is_told(place):
    listed = [*pairs(), {"video1": 0, "video2": 6}, {"video1": -1, "video2": 0}, 7]
    metadata = clips(place)
    metadata[5]["basic"] = None
    write(place, metadata, listed)
    _, entries, reasons = found(place)
    assert len(entries) == 2
    assert reasons == [
        "missing medium",
        "video1 or video2 is no place in metadata.json",
        "video1 or video2 is no place in metadata.json",
        "JSON, but no object",
    ]
    assert set(found(place, alpha=1)[2]) >= {"no score above 0 that it could be weighed by"}


ELEMENTS = [{"number": number, "text": "[{" * number} for number in range(40)]


@pytest.mark.parametrize("indent", [None, 4])
@pytest.mark.parametrize("piece", [1, 7, 100, 2**20])
def test_an_array_is_read_in_pieces(tmp_path, monkeypatch, piece, indent):
    monkeypatch.setattr(arrays, "PIECE", piece)
    file = tmp_path / "x.json"
    file.write_text("\ufeff" + json.dumps(ELEMENTS, indent=indent) + "\n")
    assert [element for _, element in elements_of(file)] == ELEMENTS
    file.write_text(" [ ] ")
    assert list(elements_of(file)) == []


@pytest.mark.parametrize(
    "written",
    [
        "",
        "{}",
        "[{}",
        "[{} {}]",
        "[{},]",
        '[{"a": 1}] 2',
        "[{'a': 1}]",
        "[" * 5000,
        "[1" * 9,
        "\0",
        '[{"a": 1, "a": 2}]',
        "[" + "1" * 5000 + "]",
    ],
)
def test_what_is_no_array_is_refused(tmp_path, written):
    file = tmp_path / "x.json"
    file.write_text(written)
    with pytest.raises(DataError, match="is no JSON array"):
        list(elements_of(file))


def test_a_long_element_is_no_element(tmp_path, monkeypatch):
    monkeypatch.setattr(arrays, "PIECE", 4)
    monkeypatch.setattr(arrays, "LONGEST", 64)
    file = tmp_path / "x.json"
    file.write_text(json.dumps([{"a": "x" * 300}]))
    with pytest.raises(DataError, match="no JSON, at character 1"):
        list(elements_of(file))
