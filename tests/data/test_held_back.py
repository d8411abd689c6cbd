import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vipo_cli.data.held_back import read_prompts
from vipo_cli.errors import DataError

EXPECTED = frozenset({"a red cat", "two dogs"})


@pytest.fixture
def files(tmp_path):
    """The same two prompts in every form in which benchmarks come."""
    (tmp_path / "lines.txt").write_text("A red cat.\n\ntwo dogs\n")
    (tmp_path / "hpsv2.json").write_text(json.dumps(["A red cat.", "two dogs"]))
    (tmp_path / "objects.json").write_text(json.dumps([{"prompt": p} for p in EXPECTED]))
    (tmp_path / "geneval.jsonl").write_text(
        "".join(json.dumps({"tag": "x", "prompt": prompt}) + "\n" for prompt in EXPECTED)
    )
    (tmp_path / "test.csv").write_text("id,caption\n1,A red cat.\n2,two dogs\n")
    pq.write_table(
        pa.table({"caption": ["A red cat.", "two dogs"], "jpg_0": [b"", b""]}),
        tmp_path / "test-00000.parquet",
    )
    folder = tmp_path / "dpg"
    folder.mkdir()
    (folder / "0.txt").write_text("A red\ncat.\n")
    (folder / "1.txt").write_text("two dogs")
    return tmp_path


@pytest.mark.parametrize(
    "name",
    [
        "lines.txt",
        "hpsv2.json",
        "objects.json",
        "geneval.jsonl",
        "test.csv",
        "test-00000.parquet",
        "dpg",
    ],
)
def test_every_form_holds_the_prompts(files, name):
    assert read_prompts([files / name]) == EXPECTED


def test_several_files_are_one_set(files):
    (files / "more.txt").write_text("another")
    assert read_prompts([files / "lines.txt", files / "more.txt"]) == {*EXPECTED, "another"}
    assert read_prompts([]) == frozenset()


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.txt", "\n \n", "holds no prompts"),
        ("a.json", "{", "is not JSON"),
        ("a.json", '{"prompt": "x"}', "no list of prompts"),
        ("a.json", "[1]", "has no prompts: found int"),
        ("a.csv", "id,words\n1,x\n", "has no prompts: found id, words"),
        ("a.jsonl", "{\n", r"not JSON.* in line 1"),
        ("none.txt", None, "cannot read"),
        ("none.csv", None, "cannot read"),
    ],
)
def test_what_holds_none_is_told(tmp_path, name, text, words):
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=words):
        read_prompts([tmp_path / name])


def test_bytes_that_are_no_text(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="is not UTF-8"):
        read_prompts([tmp_path / "a.txt"])
