import json

import numpy as np
import pytest

from vipo_cli.data import LabelledSample, PreferencePair, RankedList
from vipo_cli.data.columns import guess_layout
from vipo_cli.data.lazy import data_fingerprint, dropped
from vipo_cli.data.sources import open_pairs
from vipo_cli.errors import DataError

HEADER = "prompt,winner,loser"


@pytest.fixture
def table(tmp_path):
    """Write lines of text, or rows as JSON, to a file beside some media, and return its path."""

    for name in ("w", "l", "1.png", "2.png", "3.png", "4.png", "map.png", "m.png"):
        (tmp_path / name).write_bytes(name.encode() * 9)

    def write(*lines):
        file = tmp_path / ("data.csv" if isinstance(lines[0], str) else "data.jsonl")
        rows = [line if isinstance(line, str) else json.dumps(line) for line in lines]
        file.write_text("\n".join(rows) + "\n")
        return str(file)

    return write


def problems(path):
    with pytest.raises(DataError) as caught:
        open_pairs(path)
    return sorted(caught.value.details)


@pytest.mark.parametrize(
    ("names", "kind"),
    [
        (("prompt", "winner", "loser", "liked"), "pair"),
        (("caption", "jpg_0", "jpg_1", "label_0", "label_1"), "pair"),
        (("prompt", "media"), "ranked list"),
        (("prompt", "media", "liked"), "labelled sample"),
        (("prompt", "image", "liked"), "labelled sample"),
        (("prompt", "chosen"), "pair"),
    ],
)
def test_columns_tell_the_kind_of_record(names, kind):
    assert guess_layout(names).kind == kind


def test_reads_what_a_table_says_about_its_pairs(table, tmp_path):
    path = table(
        f"{HEADER},weight,probability,noise_seed_w,noise_seed_l,region_w,region_l,category",
        "a,w,l,0.5,0.75,3.0,9007199254740993,map.png,,x",
        "b,w,l,2,1,,,,,y",
    )
    first, second = open_pairs(path)
    assert (first.weight, first.probability) == (0.5, 0.75)
    assert first.noise_seeds == (3, 9007199254740993)
    assert first.regions == (b"map.png" * 9, None)
    assert first.metadata == {"category": "x"}
    assert (second.noise_seeds, second.regions) == (None, None)


def test_json_lines_may_lack_what_is_optional(table, tmp_path):
    pair = {"prompt": "a", "winner": "w", "loser": "l"}
    path = table(pair | {"noise_seed_l": 4, "region_l": "m.png"}, pair)
    first, second = open_pairs(path)
    assert first.noise_seeds == (-1, 4)
    assert first.regions == (None, b"m.png" * 9)
    assert (second.noise_seeds, second.regions) == (None, None)
    assert [each.weight for each in open_pairs(table(pair | {"weight": 2}, pair))] == [2, 1]


def test_votes_become_a_probability_and_ties_are_dropped_or_kept(table):
    path = table(f"{HEADER},votes_w,votes_l", "a,w,l,3,1", "b,w,l,2,2", "c,w,l,5,0")
    assert [pair.probability for pair in open_pairs(path)] == [0.75, 1]
    assert dropped(open_pairs(path)) == {"a tie": 1}
    kept = open_pairs(path, {"ties": "keep"})
    assert [pair.probability for pair in kept] == [0.75, 0.5, 1]
    assert dropped(kept) == {}
    assert [pair.prompt for pair in open_pairs(path, {"limit": 2})] == ["a", "c"]


def test_a_probability_goes_before_votes(table):
    (pair,) = open_pairs(table(f"{HEADER},votes_w,votes_l,probability", "a,w,l,3,1,0.6"))
    assert pair.probability == 0.6
    (pair,) = open_pairs(table(f"{HEADER},votes_w,votes_l,probability", "a,w,l,2,2,0.6"))
    assert pair.probability == 0.6


def test_reads_ranked_lists(table, tmp_path):
    (ranked,) = open_pairs(table({"prompt": "a", "media": ["1.png", "2.png", "3.png"]}))
    assert isinstance(ranked, RankedList)
    assert ranked.media == tuple(tmp_path / f"{rank}.png" for rank in (1, 2, 3))
    (same,) = open_pairs(table("prompt,media,weight", 'a,"[""1.png"", ""2.png""]",3'))
    assert same == RankedList("a", (tmp_path / "1.png", tmp_path / "2.png"), weight=3)


def test_reads_labelled_samples(table, tmp_path):
    samples = open_pairs(
        table("prompt,image,liked", "a,1.png,true", "b,2.png,0", "c,3.png,False", "d,4.png,1")
    )
    assert samples[0] == LabelledSample("a", tmp_path / "1.png", liked=True)
    assert [sample.liked for sample in samples] == [True, False, False, True]
    (sample,) = open_pairs(table({"prompt": "a", "media": "1.png", "liked": False, "x": 1}))
    assert sample == LabelledSample("a", tmp_path / "1.png", liked=False, metadata={"x": 1})


def test_tells_all_cells_that_cannot_be_read(table):
    found = problems(
        table(
            f"{HEADER},weight,probability,noise_seed_w,noise_seed_l",
            "a,w,l,-1,,,",
            "b,w,l,nan,,,",
            "c,w,l,1,1.5,,",
            "d,w,l,1,,0.5,",
            "e,w,l,1,,,-3",
            "f,w,l,1,,,x",
        )
    )
    assert found == [
        "1: probability outside 0 to 1 (line 4 of data.csv)",
        "2: weight that is no number of at least 0 (line 2 of data.csv, line 3 of data.csv)",
        "3: seeds that are no whole numbers of 63 bits "
        "(line 5 of data.csv, line 6 of data.csv, line 7 of data.csv)",
    ]
    assert problems(table(f"{HEADER},votes_w,votes_l", "a,w,l,0,0", "a,w,l,,1", "a,w,l,1,-1")) == [
        "1: no votes (line 2 of data.csv)",
        "2: votes that are no numbers of at least 0 (line 3 of data.csv, line 4 of data.csv)",
    ]
    pair = {"prompt": "a", "winner": "w", "loser": "l", "region_w": 5}
    assert problems(table(pair)) == ["1: region_w is no path (line 1 of data.jsonl)"]


def test_tells_lists_and_labels_that_cannot_be_read(table):
    lists = [{"prompt": "a", "media": each} for each in (["w"], ["w", 2], "w", ["w", "l"], [])]
    assert problems(table(*lists)) == [
        "1: missing medium (line 2 of data.jsonl)",
        "3: wrong number of media for a ranked list "
        "(line 1 of data.jsonl, line 3 of data.jsonl, line 5 of data.jsonl)",
    ]
    assert problems(table("prompt,image,liked", "a,1.png,maybe", "b,,yes")) == [
        "1: liked is neither true nor false (line 2 of data.csv)",
        "1: missing medium (line 3 of data.csv)",
    ]


def test_all_ties_leave_nothing(table):
    with pytest.raises(DataError, match="no pairs in") as caught:
        open_pairs(table(f"{HEADER},probability", "a,w,l,0.5"))
    assert caught.value.details == ("1 rows: a tie",)


def test_parquet_says_as_much_about_its_pairs(columns, write):
    media = {"prompt": list("abc"), "winner": columns["jpg_0"][:3], "loser": columns["jpg_1"][:3]}
    said = {
        "weight": [0.5, 1.0, 2.0],
        "probability": [0.75, 0.5, 1.0],
        "noise_seed_w": [3, None, None],
        "noise_seed_l": [2**62 + 1, 5, None],
        "region_w": [b"map", None, None],
    }
    first, last = open_pairs(
        str(write(media | said | {"votes_w": [1.0] * 3, "votes_l": [0.0] * 3}))
    )
    assert open_pairs(str(write(media | {"votes_w": [1.0] * 3, "votes_l": [0.0] * 3}))).scores == ()
    assert (first.weight, first.probability) == (0.5, 0.75)
    assert first.noise_seeds == (3, 2**62 + 1)
    assert first.regions == (b"map", None)
    assert first.metadata == {"votes_w": 1, "votes_l": 0}
    assert (last.prompt, last.noise_seeds, last.regions) == ("c", None, None)
    kept = open_pairs(str(write(media | said)), {"ties": "keep"})
    assert [pair.probability for pair in kept] == [0.75, 0.5, 1]
    assert kept[1].noise_seeds == (-1, 5)
    assert problems(str(write(media | said | {"weight": [1.0, None, -1.0]}))) == [
        "weight is not a number of at least 0 in 1 rows: row 2",  # row 1 is a tie
    ]


@pytest.mark.parametrize("seeds", [[3, -1, None], [3.0, 0.5, None], ["3", "x", None]])
def test_parquet_seeds_are_whole_and_not_below_0(columns, write, seeds):
    media = {"prompt": list("abc"), "winner": columns["jpg_0"][:3], "loser": columns["jpg_1"][:3]}
    assert problems(str(write(media | {"noise_seed_w": seeds}))) == [
        "noise_seed_w is not a whole number of at least 0, or empty in 1 rows: row 1",
    ]
    whole = open_pairs(str(write(media | {"noise_seed_w": [seeds[0], None, None]})))
    assert [pair.noise_seeds for pair in whole] == [(3, -1), None, None]


def test_pickapic_labels_are_probabilities_and_its_ties_can_be_kept(columns, write):
    label_0 = np.array([1, 0, 0.25, 0.75, 1, 0, 0.5, 0.5])
    said = {
        "label_0": label_0,
        "label_1": 1 - label_0,
        "noise_seed_0": list(range(8)),
        "noise_seed_1": list(range(10, 18)),
    }
    pairs = open_pairs(str(write(columns | said)), {"ties": "keep"})
    assert [pair.probability for pair in pairs] == [1, 1, 0.75, 0.75, 1, 1, 0.5]
    assert pairs[2].winner == columns["jpg_1"][2]
    assert pairs[2].noise_seeds == (12, 2)
    assert pairs[3].noise_seeds == (3, 13)
    assert [*dropped(pairs).values()] == [1]
    assert problems(str(write(columns | {"label_0": 2 * label_0, "label_1": 1 - 2 * label_0})))[
        -1
    ].startswith("label_0 or label_1 is below 0 in 3 rows")


def test_parquet_holds_ranked_lists(columns, write):
    lists = {"prompt": ["a", "b"], "media": [columns["jpg_0"][:3], columns["jpg_1"][:2]]}
    records = open_pairs(str(write(lists | {"weight": [1, 2]})))
    assert records[0] == RankedList("a", tuple(columns["jpg_0"][:3]))
    assert records[1] == RankedList("b", tuple(columns["jpg_1"][:2]), weight=2)
    structs = [[{"bytes": data, "path": None} for data in each] for each in lists["media"]]
    same = open_pairs(str(write({"prompt": ["a", "b"], "media": structs}, "other.parquet")))
    assert same[0] == records[0]
    assert records.scores == ()


def test_parquet_holds_labelled_samples(columns, write):
    rows = {"prompt": ["a", "b"], "image": columns["jpg_0"][:2], "liked": [True, False]}
    records = open_pairs(str(write(rows)))
    assert [record.liked for record in records] == [True, False]
    assert records[1].media == (columns["jpg_0"][1],)
    assert [each.liked for each in open_pairs(str(write(rows | {"liked": ["no", "yes"]})))] == [
        False,
        True,
    ]
    assert problems(str(write(rows | {"liked": [None, True]}))) == [
        "liked is not true or false in 1 rows: row 0",
    ]


def test_a_list_where_one_medium_belongs_is_refused(columns, write):
    media = columns["jpg_0"][:1]
    with pytest.raises(DataError, match=r"`image` holds list.* not one medium"):
        open_pairs(str(write({"prompt": ["a"], "image": [media], "liked": [True]})))
    with pytest.raises(DataError, match="`media` holds binary, not a list of media"):
        open_pairs(str(write({"prompt": ["a"], "media": media})))


def test_the_order_of_images_is_not_guessed(columns, write):
    rows = {"prompt": ["a"], "images": [columns["jpg_0"][:2]]}
    with pytest.raises(DataError, match="no columns of media") as caught:
        open_pairs(str(write(rows)))
    assert "`images` is there, and neither `ranks` nor" in caught.value.details[0]
    ranked = open_pairs(str(write(rows | {"ranks": [[2, 1]]})))[0]
    assert ranked.media == (columns["jpg_0"][1], columns["jpg_0"][0])


def test_other_rows_have_another_fingerprint(columns, write):
    path = str(write(columns | {"label_0": [0.5] * 4 + [1] * 4, "label_1": [0.5] * 4 + [0] * 4}))
    made = [open_pairs(path, {"ties": ties, "limit": 3}) for ties in ("drop", "keep")]
    assert len(made[0]) == len(made[1]) == 3
    assert data_fingerprint(made[0]) != data_fingerprint(made[1])


def test_whatever_a_record_says_is_in_its_fingerprint():
    map_ = np.ones((2, 2), np.float32)
    records = [
        PreferencePair("p", b"w", b"l"),
        PreferencePair("p", b"w"),
        PreferencePair("p", b"w", b"l", weight=2),
        PreferencePair("p", b"w", b"l", probability=0.5),
        PreferencePair("p", b"w", b"l", noise_seeds=(1, 2)),
        PreferencePair("p", b"w", b"l", regions=(b"m", None)),
        PreferencePair("p", b"w", b"l", regions=(None, b"m")),
        PreferencePair("p", b"w", b"l", regions=(map_, None)),
        PreferencePair("p", b"w", b"l", regions=(2 * map_, None)),
        RankedList("p", (b"w", b"l")),
        RankedList("p", (b"l", b"w")),
        LabelledSample("p", b"w", liked=True),
        LabelledSample("p", b"w", liked=False),
    ]
    assert len({data_fingerprint([record]) for record in records}) == len(records)


@pytest.mark.parametrize(
    "numbers", [{"weight": -1}, {"weight": np.nan}, {"probability": 1.5}, {"probability": np.nan}]
)
def test_a_record_refuses_numbers_that_would_spoil_a_run(numbers):
    with pytest.raises(DataError, match=next(iter(numbers))):
        PreferencePair("p", b"w", b"l", **numbers)
