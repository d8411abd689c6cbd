import json

import pytest

from vipo_cli.data.sources import open_pairs
from vipo_cli.errors import DataError


def test_reads_csv_with_paths_beside_it(tmp_path):
    file = tmp_path / "pairs.csv"
    file.write_text("prompt,winner,loser,category\na cat,w/0.png,/abs/1.png,animal\n")
    pairs = open_pairs(str(file))
    assert pairs[0].prompt == "a cat"
    assert pairs[0].winner == tmp_path / "w" / "0.png"
    assert str(pairs[0].loser) == "/abs/1.png"
    assert pairs[0].metadata == {"category": "animal"}


def test_reads_json_lines(tmp_path):
    rows = [{"prompt": f"p{row}", "winner": "a.png", "loser": "b.png"} for row in range(3)]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    pairs = open_pairs(str(tmp_path), {"limit": 2})  # the only table in the folder
    assert [pair.prompt for pair in pairs] == ["p0", "p1"]


def test_names_missing_columns(tmp_path):
    file = tmp_path / "pairs.csv"
    file.write_text("prompt,chosen\na,b\n")
    with pytest.raises(DataError, match="lacks the columns winner, loser") as caught:
        open_pairs(str(file))
    assert caught.value.details == ("found: prompt, chosen",)


def test_tells_all_problems_of_a_table_at_once(tmp_path):
    file = tmp_path / "pairs.csv"
    file.write_text(f"prompt,winner,loser\n,a,b\nx,,b\n{'y' * 10_000},a,b\n")
    with pytest.raises(DataError) as caught:
        open_pairs(str(file))
    assert [detail.split(":")[1] for detail in caught.value.details] == [
        " line 2",
        " line 4",
        " line 3",
    ]


def test_names_lines_that_are_no_json(tmp_path):
    file = tmp_path / "pairs.jsonl"
    file.write_text('{"prompt": "a"\n[1]\n')
    with pytest.raises(DataError) as caught:
        open_pairs(str(file))
    assert [detail[:7] for detail in caught.value.details] == ["line 1:", "line 2:"]


@pytest.mark.parametrize("text", ["", "prompt,winner,loser\n"])
def test_an_empty_table_is_an_error(tmp_path, text):
    file = tmp_path / "pairs.csv"
    file.write_text(text)
    with pytest.raises(DataError):
        open_pairs(str(file))


@pytest.fixture
def folders(tmp_path):
    for side in ("winner", "loser"):
        (tmp_path / side).mkdir()
        for name in ("a", "b"):
            (tmp_path / side / f"{name}.png").write_bytes(b"x")
    return tmp_path


def test_reads_folders_with_a_table_of_prompts(folders):
    (folders / "prompts.csv").write_text("name,prompt\na,a cat\nb.png,a dog\n")
    pairs = open_pairs(str(folders))
    assert [pair.prompt for pair in pairs] == ["a cat", "a dog"]
    assert pairs[1].loser == folders / "loser" / "b.png"


def test_reads_folders_with_text_files(folders):
    (folders / "a.txt").write_text("a cat\n")
    (folders / "winner" / "b.txt").write_text("a dog")
    assert [pair.prompt for pair in open_pairs(str(folders))] == ["a cat", "a dog"]


def test_names_media_without_partner_and_prompt(folders):
    (folders / "winner" / "lonely.png").write_bytes(b"x")
    (folders / "a.txt").write_text("a cat")
    with pytest.raises(DataError) as caught:
        open_pairs(str(folders))
    assert caught.value.details == (
        "1 without a loser of the same name: lonely",
        "1 without a prompt: b",
    )
