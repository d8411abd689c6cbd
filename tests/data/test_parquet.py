import pickle

import numpy as np
import pytest

from vipo_cli.data import parquet, row_groups
from vipo_cli.data.lazy import dropped
from vipo_cli.data.sources import open_pairs
from vipo_cli.errors import DataError


def test_reads_pickapic_layout(columns, write):
    pairs = open_pairs(str(write(columns)))
    assert len(pairs) == 6
    assert [pair.prompt for pair in pairs] == columns["caption"][:6]
    assert pairs[0].winner == columns["jpg_0"][0]
    assert pairs[0].loser == columns["jpg_1"][0]
    assert pairs[1].winner == columns["jpg_1"][1]
    assert pairs[-1].winner == columns["jpg_1"][5]
    assert pairs[1].metadata["model_w"] == "second-1"
    assert pairs[1].metadata["model_l"] == "first-1"


def test_counts_what_it_leaves_out(columns, write):
    counts = dropped(open_pairs(str(write(columns))))
    assert list(counts.values()) == [1, 1]
    assert [reason.split()[-1] for reason in counts] == ["false)", "label_1)"]


def test_scores_in_the_data_are_turned_to_winner_first(columns, write):
    pairs = open_pairs(str(write(columns)))
    assert pairs.scores == ("pickscore",)
    np.testing.assert_array_equal(pairs.score("pickscore"), [[21, 20]] * 6)


def test_prompt_numbers_are_equal_where_prompts_are(columns, write):
    captions = [*columns["caption"][:4], columns["caption"][0], *columns["caption"][5:]]
    numbers = open_pairs(str(write(columns | {"caption": captions}))).prompt_numbers()
    assert numbers[0] == numbers[4]
    assert len(set(numbers.tolist())) == 5


def test_slices_are_lazy_views_and_survive_a_worker(columns, write):
    view = open_pairs(str(write(columns)))[1::2]
    assert len(view) == 3
    assert pickle.loads(pickle.dumps(view))[2].winner == columns["jpg_1"][5]
    with pytest.raises(IndexError):
        view[3]


def test_keeps_few_row_groups(columns, write, monkeypatch):
    monkeypatch.setattr(row_groups, "KEPT_GROUPS", 1)
    pairs = open_pairs(str(write(columns, rows=1)))
    assert [pair.prompt for pair in pairs] == columns["caption"][:6]
    assert len(pairs._stored._kept) == 1


def test_huge_row_groups_are_regrouped_once(columns, write, monkeypatch, tmp_path):
    monkeypatch.setenv("VIPO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(parquet, "LARGEST_GROUP", 100)
    monkeypatch.setattr(parquet, "ROWS_REGROUPED", 2)
    file = write(columns, rows=8)
    for _ in range(2):
        pairs = open_pairs(str(file))
        assert [pair.prompt for pair in pairs] == columns["caption"][:6]
        assert len(pairs._stored.groups) == 4
    assert len(list((tmp_path / "cache" / "data").iterdir())) == 1


def test_names_rows_whose_labels_do_not_add_up(columns, write):
    label_1 = columns["label_1"].copy()
    label_1[[1, 4]] = 0, 1
    with pytest.raises(DataError) as caught:
        open_pairs(str(write(columns | {"label_1": label_1})))
    assert caught.value.details == ("label_0 + label_1 is not 1 in 2 rows: row 1, row 4",)


def test_names_all_missing_columns_and_those_found(columns, write):
    some = {name: columns[name] for name in ("caption", "jpg_0", "label_0")}
    with pytest.raises(DataError) as caught:
        open_pairs(str(write(some)))
    assert "no columns of media among `caption`, `jpg_0`, `label_0`" in caught.value.message
    write(columns, "train-0.parquet")
    folder = write({name: columns[name] for name in some}, "train-1.parquet").parent
    (folder / "train-00000-of-00001.parquet").unlink()
    with pytest.raises(DataError) as caught:
        open_pairs(str(folder))
    assert "missing jpg_1, label_1; found caption, jpg_0, label_0" in caught.value.details[0]


@pytest.mark.parametrize(
    ("prompt", "words"), [(" ", "empty prompt"), (None, "empty prompt"), ("x" * 10_000, "10,000")]
)
def test_names_rows_with_unusable_prompts(columns, write, prompt, words):
    captions = [*columns["caption"][:2], prompt, *columns["caption"][3:]]
    with pytest.raises(DataError) as caught:
        open_pairs(str(write(columns | {"caption": captions})))
    assert words in caught.value.details[0]
    assert caught.value.details[0].endswith("row 2")


def test_a_set_without_pairs_says_where_they_went(columns, write):
    with pytest.raises(DataError) as caught:
        open_pairs(str(write(columns | {"has_label": [False] * 8})))
    assert "no pairs" in caught.value.message
    assert "8 rows" in caught.value.details[0]


def test_an_empty_file_and_one_that_is_no_parquet(columns, write, tmp_path):
    with pytest.raises(DataError, match="no pairs"):
        open_pairs(str(write({name: values[:0] for name, values in columns.items()})))
    fake = tmp_path / "fake.parquet"
    fake.write_text("hello")
    with pytest.raises(DataError, match="no readable Parquet"):
        open_pairs(str(fake))


def test_a_column_of_another_type_is_named(columns, write):
    with pytest.raises(DataError, match="column `label_0` holds string, not double"):
        open_pairs(str(write(columns | {"label_0": ["left"] * 8})))


def test_reads_the_simple_layout_in_bytes_paths_and_structs(columns, write, tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "a.jpg").write_bytes(columns["jpg_0"][0])
    pictures = {
        "prompt": ["one", "two"],
        "winner": ["a.jpg", "a.jpg"],
        "loser": [{"bytes": columns["jpg_1"][0], "path": None}, {"bytes": None, "path": "a.jpg"}],
        "category": ["x", "y"],
    }
    pairs = open_pairs(str(write(pictures)))
    assert pairs[0].winner == tmp_path / "set" / "a.jpg"
    assert pairs[0].loser == columns["jpg_1"][0]
    assert pairs[1].loser == tmp_path / "set" / "a.jpg"
    assert pairs[1].metadata == {"category": "y"}


def test_a_folder_is_read_by_split(columns, write):
    folder = write(columns).parent
    write({name: values[:2] for name, values in columns.items()}, "test-00000-of-00001.parquet")
    assert len(open_pairs(str(folder))) == 6
    assert len(open_pairs(str(folder), {"split": "test"})) == 2
    assert len(open_pairs("pickapic_v2", {"path": str(folder), "limit": "4"})) == 4
    assert len(open_pairs(str(folder / "*.parquet"))) == 8
    with pytest.raises(DataError) as caught:
        open_pairs(str(folder), {"split": "validation"})
    assert "test, train" in caught.value.hint


def test_rows_of_several_files_are_named_with_their_file(columns, write):
    write(columns, "train-0.parquet")
    label_1 = columns["label_1"].copy()
    label_1[2] = 5
    folder = write(columns | {"label_1": label_1}, "train-1.parquet").parent
    with pytest.raises(DataError) as caught:
        open_pairs(str(folder))
    assert "row 2 of train-1.parquet" in caught.value.details[0]
