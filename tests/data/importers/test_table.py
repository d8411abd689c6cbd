import json
import math
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vipo_cli.data.entry import Entry, Unusable
from vipo_cli.data.importers.table import table
from vipo_cli.data.importing import Wanted, import_data
from vipo_cli.errors import DataError
from vipo_cli.run import finish


@pytest.fixture
def read(tmp_path):
    def read(text, name="t.csv", **parameters):
        file = tmp_path / name
        if isinstance(text, bytes):
            file.write_bytes(text)
        else:
            file.write_text(text, encoding="utf-8")
        return list(table(file, **parameters))

    return read


def labels(found):
    return [each.label if isinstance(each, Entry) else "unusable" for each in found]


def test_media_are_paths_beside_the_table(read, tmp_path):
    (entry,) = read("prompt,winner,loser\na cat, w/0.png ,/abs/1.png\n")
    assert entry.media == (tmp_path / "w" / "0.png", Path("/abs/1.png"))
    assert (entry.prompt, entry.label) == ("a cat", "a")


WORDS = [
    ("a", "a"), ("A", "a"), (" b ", "b"), ("left", "a"), ("Second", "b"), ("image_a", "a"),
    ("IMAGE_B", "b"), ("x.png", "a"), ("y.png", "b"), ("m1", "a"), ("m2", "b"),
    ("tie", "tie"), ("Same", "tie"), ("no preference", "tie"), ("", "none"), ("null", "none"),
    ("0", "unusable"), ("1", "unusable"), ("-1", "unusable"), ("true", "unusable"),
    ("a wins", "unusable"), ("c", "unusable"), ("ab", "unusable"), ("2", "unusable"),
]  # fmt: skip


@pytest.mark.parametrize(("word", "label"), WORDS)
def test_words_say_which_medium_is_better(read, word, label):
    header = "prompt,image_a,image_b,label,model_a,model_b"
    assert labels(read(f"{header}\np,x.png,y.png,{word},m1,m2\n")) == [label]


@pytest.mark.parametrize(("first", "second"), [("x.png", "x.png"), ("b", "a")])
def test_a_word_that_fits_both_media_says_nothing(read, first, second):
    header = "prompt,image_a,image_b,label"
    expected = "a" if first == second else "unusable"
    assert labels(read(f"{header}\np,{first},{second},a\n")) == [expected]
    assert labels(read(f"{header}\np,{first},{second},x.png\n")) == ["unusable"]


def test_a_model_that_made_both_says_nothing(read):
    header = "prompt,a,b,label,model_a,model_b"
    assert labels(read(f"{header}\np,x,y,sd,sd,sd\n")) == ["unusable"]


@pytest.mark.parametrize(
    ("header", "word", "label"),
    [
        ("image_0,image_1,label", "0", "a"),
        ("image_0,image_1,label", "1", "b"),
        ("image_0,image_1,label", "1.0", "b"),
        ("image_0,image_1,label", "0.5", "tie"),
        ("image_1,image_2,label", "1", "a"),
        ("image_1,image_2,winner", "2", "b"),
    ],
)
def test_numbers_say_it_where_the_columns_are_numbered(read, header, word, label):
    assert labels(read(f"prompt,{header}\np,x,y,{word}\n")) == [label]


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ("image_1,image_2,label", "10"),  # counts from 0, where the columns count from 1
        ("image_0,image_1,label", "12"),
        ("image_0,image_1,label", "03"),
        ("image_0,image_1,preference", "1"),  # a degree as well as a number
        ("image_1,image_2,human_preference", "1"),
    ],
)
def test_numbers_that_may_count_from_elsewhere_end_the_import(tmp_path, header, words):
    for name in "xy":
        (tmp_path / name).write_bytes(name.encode())
    file = tmp_path / "t.csv"
    rows = "".join(f"p{n},x,y,{word}\n" for n, word in enumerate(words))
    file.write_text(f"prompt,{header}\n{rows}")
    with pytest.raises(DataError, match="is not beyond doubt") as caught:
        finish(import_data(file, tmp_path / "out", Wanted()))
    assert "--set first=" in caught.value.hint
    assert not (tmp_path / "out" / "manifest.json").exists()


@pytest.mark.parametrize("value", ["-1", "0.7", "nan "])
def test_degrees_are_no_numbers_of_columns(read, value):
    text = f"prompt,image_0,image_1,label\np,x,y,{value}\n"
    if value == "nan ":
        assert labels(read(text)) == ["none"]
    else:
        with pytest.raises(DataError):
            read(text)


def test_labels_can_be_given(read):
    text = "prompt,image_0,image_1,preference\np,x,y,1\nq,x,y,0\nr,x,y,tie\ns,x,y,2\nt,x,y,\n"
    found = read(text, first="1", second="0")
    assert labels(found) == ["a", "b", "tie", "unusable", "none"]
    text = "prompt,a,b,label\np,x,y,model one\nq,x,y,a\n"
    assert labels(read(text, first="Model One", second="model two")) == ["a", "unusable"]


@pytest.mark.parametrize("given", [{"first": "1"}, {"first": "1", "second": "1"}])
def test_given_labels_are_two(read, given):
    with pytest.raises(DataError, match="two different labels"):
        read("prompt,a,b,label\np,x,y,1\n", **given)


def test_further_columns_are_fields_or_metadata(read):
    header = (
        "prompt,a,b,label,probability,votes_a,votes_b,model_a,model_b,seed_a,seed_b,category,"
        "user_id,id,split,source,scores,dimensions,metadata,other"
    )
    scores = '"{""r"": [1, 2.5]}"'
    row = f'p,x,y,b,0.75,1,3,m,,7,,c,u,007,train,s,{scores},"{{""q"": ""a""}}","{{""n"": 1}}",o'
    (entry,) = read(f"{header}\n{row}\n")
    assert (entry.probability, entry.votes, entry.models) == (0.75, (1.0, 3.0), ("m", None))
    assert (entry.seeds, entry.category, entry.annotator) == ((7, None), "c", "u")
    assert (entry.id, entry.split, entry.source) == ("007", "train", "s")
    assert (entry.scores, entry.dimensions) == ({"r": (1.0, 2.5)}, {"q": "a"})
    assert entry.metadata == {"n": 1, "other": "o"}


def test_scores_of_another_form_stay_as_they_are(read):
    (entry,) = read('prompt,a,b,label,scores\np,x,y,a,"[1, 2]"\n')
    assert (entry.scores, entry.metadata) == ({}, {"scores": "[1, 2]"})


@pytest.mark.parametrize("cell", ["high", "1.5", "nan", "-0.1"])
def test_a_probability_that_is_none_makes_the_row_unusable(read, cell):
    (entry,) = read(f"prompt,winner,loser,probability\np,x,y,{cell}\n")
    assert entry.problem() == "probability outside 0 to 1"


def test_equal_votes_are_a_tie(read):
    found = read("prompt,winner,loser,votes_w,votes_l\np,x,y,2,2\nq,x,y,3,2\nr,x,y,2,many\n")
    assert labels(found) == ["tie", "a", "a"]
    assert found[2].problem() == "votes that are no numbers of at least 0"


def test_lists_come_with_ranks_or_in_order(read, tmp_path):
    rows = [
        {"prompt": "p", "media": ["x", "y", "z"], "ranks": [2, 1, 2], "models": ["m", None, "n"]},
        {"prompt": "q", "media": '["x", "y"]', "ranks": None},
        {"prompt": "r", "media": "x"},
        {"prompt": "s", "media": ["x", "y"], "ranks": [1, "first"]},
    ]
    found = read("\n".join(map(json.dumps, rows)), "t.jsonl")
    assert found[0].ranks == (2.0, 1.0, 2.0)
    assert found[0].models == ("m", None, "n")
    assert (found[1].media, found[1].ranks) == ((tmp_path / "x", tmp_path / "y"), None)
    assert found[2].problem() == "wrong number of media for a ranked list"
    assert math.isnan(found[3].ranks[1])


@pytest.mark.parametrize(
    ("cell", "label"), [("true", "liked"), ("0", "disliked"), ("YES", "liked"), ("2", "unusable")]
)
def test_samples_are_liked_or_not(read, cell, label):
    assert labels(read(f"prompt,image,liked\np,x,{cell}\n")) == [label]


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("prompt;winner;loser\np, q;x;y\n", "t.csv"),
        ("prompt\twinner\tloser\np, q\tx\ty\n", "t.tsv"),
        ("prompt\twinner\tloser\np, q\tx\ty\n", "t.csv"),
        ('\ufeff"prompt", winner ,loser\n"p, q",x,y\n', "t.csv"),
        ('prompt,winner,loser,,\r\n"p, q",x,y,,\r\n\r\n', "t.CSV"),
        ('\ufeff{"prompt": "p, q", "winner": "x", "loser": "y"}\r\n\r\n', "t.ndjson"),
    ],
)
def test_tables_as_programs_write_them(read, tmp_path, text, name):
    (entry,) = read(text, name)
    assert (entry.prompt, entry.media) == ("p, q", (tmp_path / "x", tmp_path / "y"))


@pytest.mark.parametrize(
    ("text", "name", "words"),
    [
        ("prompt,winner,loser\n\xff,x,y\n".encode("latin1"), "t.csv", "is not UTF-8"),
        ("prompt,winner,loser\np,x,y\n".encode("utf-16"), "t.csv", "is not UTF-8"),
        ('prompt,winner,loser\n"p,x,y\nq,x,y\n', "t.csv", "cannot read"),
        ('prompt,winner,loser\n"p" q,x,y\n', "t.csv", "line 2"),
        ("prompt,winner,loser,winner\np,x,y,z\n", "t.csv", "several columns of one name"),
        ("", "t.csv", None),
        ("prompt\n", "t.csv", None),
    ],
)
def test_a_table_that_cannot_be_read_is_refused(read, text, name, words):
    if words is None:
        assert read(text, name) == []
        return
    with pytest.raises(DataError, match=words):
        read(text, name)


@pytest.mark.parametrize(
    "line",
    [
        '{"prompt": "p", "winner": "x", "loser": "y", "winner": "z"}',
        '{"prompt": "p", "winner": "x", "loser": "y"',
        "[1]",
        "[" * 100_000,
        '{"prompt": ' + "1" * 5000 + "}",
        "\0",
    ],
)
def test_a_line_that_is_no_object_is_unusable(read, line):
    good = '{"prompt": "p", "winner": "x", "loser": "y"}'
    found = read(f"{good}\n{line}\n{good}\n", "t.jsonl")
    assert [type(each) for each in found] == [Entry, Unusable, Entry]
    assert found[1].where == "line 2 of t.jsonl"


@pytest.mark.parametrize("cells", ["p,x", "p,x,y,z"])
def test_a_row_of_another_width_is_unusable(read, cells):
    found = read(f"prompt,winner,loser\n{cells}\np,x,y\n")
    assert [type(each) for each in found] == [Unusable, Entry]


def test_parquet_holds_bytes_paths_and_structs_of_both(tmp_path):
    columns = {
        "prompt": ["p", "q", "r", None],
        "a": [{"bytes": b"A", "path": "x"}, {"bytes": None, "path": "x"}, None, None],
        "b": [b"B", b"", b"B", b"B"],
        "label": ["a", "b", "a", "a"],
    }
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    found = list(table(tmp_path / "t.parquet"))
    assert [entry.media for entry in found[:3]] == [
        (b"A", b"B"), (tmp_path / "x", b""), (b"", b"B"),
    ]  # fmt: skip
    assert found[3].problem() == "empty prompt"


def test_a_second_table_without_the_columns_is_named(tmp_path):
    (tmp_path / "a.csv").write_text("prompt,winner,loser\np,x,y\n")
    (tmp_path / "b.csv").write_text("prompt,note\np,x\n")
    with pytest.raises(DataError, match=r"b\.csv`: no columns of media"):
        list(table(tmp_path))


def test_scores_of_both_media_are_scores(read):
    (entry,) = read(
        "prompt,a,b,label,pickscore_a,pickscore_b,width_a,width_b\nx,0.png,1.png,b,20.5,21.5,64,64\n"
    )
    assert (entry.label, entry.scores) == ("b", {"pickscore": (20.5, 21.5)})
    assert entry.metadata == {"width_a": "64", "width_b": "64"}


def test_scores_of_winner_and_loser_are_turned_to_the_order_of_the_media(read):
    rows = "prompt,a,b,label,clip_w,clip_l\nx,0.png,1.png,b,0.9,0.1\ny,0.png,1.png,a,0.9,0.1\n"
    assert [entry.scores["clip"] for entry in read(rows)] == [(0.1, 0.9), (0.9, 0.1)]


def test_scores_called_clip_are_not_taken_for_clips(read, tmp_path):
    (entry,) = read("prompt,a,b,label,clip_a,clip_b\nx,0.png,1.png,a,0.9,0.1\n")
    assert entry.media == (tmp_path / "0.png", tmp_path / "1.png")
    assert entry.scores == {"clip": (0.9, 0.1)}
