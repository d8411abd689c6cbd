import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.small_clips import clip, found, put, shown
from vipo_cli.data.importers.simpletuner import simpletuner
from vipo_cli.data.importing import find_importer
from vipo_cli.errors import DataError


@pytest.fixture
def write(tmp_path):
    """Write the configuration of the documentation, with three pairs in two folders."""
    for number, name in enumerate(("0", "1", "deep/2")):
        put(tmp_path / f"data/win/{name}.png", 2 * number)
        put(tmp_path / f"data/lose/{name}.png", 2 * number + 1)

    def write(*more, **changed):
        preferred = {
            "id": "preferred",
            "dataset_type": "image",
            "type": "local",
            "instance_data_dir": "data/win",
            "conditioning_data": ["rejected"],
            "caption_strategy": "instanceprompt",
            "instance_prompt": "a photo",
        }
        rejected = {
            "id": "rejected",
            "dataset_type": "conditioning",
            "conditioning_type": "reference_strict",
            "type": "local",
            "instance_data_dir": "data/lose",
            "source_dataset_id": "preferred",
        }
        texts = {"id": "texts", "dataset_type": "text_embeds", "default": True, "type": "local"}
        sets = [preferred | changed, rejected, texts, *more]
        (tmp_path / "multidatabackend.json").write_text(json.dumps(sets))
        return tmp_path

    return write


def prompts(place):
    return [each.prompt for each in found(place)[1]]


def test_files_are_matched_by_their_paths(write):
    place = write()
    put(place / "data/win/alone.png", 9)
    put(place / "data/lose/deep/lonely.jpg", 9)
    name, entries, reasons = found(place)
    assert name == "simpletuner"
    assert [each.id for each in entries] == ["0", "1", "deep/2"]
    assert shown(entries[2]) == [clip(4), clip(5)]
    assert {each.prompt for each in entries} == {"a photo"}
    assert reasons == ["no loser of that name", "no winner of that name"]
    assert found(place / "multidatabackend.json")[0] == "simpletuner"


def test_captions_stand_in_text_files(write):
    place = write(caption_strategy="textfile", prepend_instance_prompt=True)
    for name, text in (("0", "of a fox\nof a vixen\n"), ("deep/2", "of a cat")):
        (place / f"data/win/{name}.txt").write_text(text)
    _, entries, reasons = found(place)
    assert [each.prompt for each in entries] == ["a photo of a fox", "a photo of a cat"]
    assert entries[0].metadata == {"captions": ["a photo of a vixen"]}
    assert reasons == ["no text file with its caption"]
    write(caption_strategy="textfile", disable_multiline_split=True)
    assert prompts(place)[0] == "of a fox\nof a vixen"


@pytest.mark.parametrize("ending", ["", ".png"])
def test_captions_stand_in_a_table(write, ending):
    place = write(
        caption_strategy="parquet",
        parquet={
            "path": "captions.parquet",
            "filename_column": "id",
            "caption_column": "long",
            "fallback_caption_column": "tags",
            "identifier_includes_extension": bool(ending),
        },
    )
    columns = {
        "id": [f"{name}{ending}" for name in ("0", "1", "2")],
        "long": [["a fox", "a vixen"], [], ["a cat"]],
        "tags": ["fox", "dog", "cat"],
        "width": [16] * 3,
    }
    pq.write_table(pa.table(columns), place / "captions.parquet")
    assert prompts(place) == ["a fox", "dog", "a cat"]
    pq.write_table(pa.table({"id": ["0"], "tags": ["fox"]}), place / "captions.parquet")
    with pytest.raises(DataError, match="no column `long`"):
        found(place)
    (place / "captions.parquet").unlink()
    with pytest.raises(DataError, match=r"no table of captions `captions\.parquet`"):
        found(place)


def test_names_are_captions_otherwise(write):
    place = write(caption_strategy="filename")
    (place / "data/win/0.png").rename(place / "data/win/a_red_fox.png")
    (place / "data/lose/0.png").rename(place / "data/lose/a_red_fox.png")
    assert "a red fox" in prompts(place)


def test_masks_say_where_a_pair_counts(write):
    mask = {
        "id": "masks",
        "dataset_type": "conditioning",
        "conditioning_type": "mask",
        "type": "local",
        "instance_data_dir": "data/masks",
    }
    place = write(mask, conditioning_data=["rejected", "masks"])
    file = put(place / "data/masks/0.png", 9)
    entries = found(place)[1]
    assert [each.regions for each in entries] == [(file, file), None, None]


def test_two_files_of_one_name_are_not_guessed_at(write):
    place = write()
    put(place / "data/lose/1.jpg", 9)
    _, entries, reasons = found(place)
    assert [each.id for each in entries] == ["0", "deep/2"]
    assert reasons == ["several files of one name"]


def test_of_several_rejected_sets_one_is_chosen(write):
    other = {
        "id": "other",
        "dataset_type": "conditioning",
        "conditioning_type": "reference_strict",
        "instance_data_dir": "data/win",
    }
    place = write(other, conditioning_data=["rejected", "other"])
    with pytest.raises(DataError, match="pairs set `preferred` with 2 sets") as caught:
        found(place)
    assert "--set rejected=rejected" in caught.value.hint
    assert len(found(place, rejected="rejected")[1]) == 3
    with pytest.raises(DataError, match="pairs no image or video set"):
        found(place, rejected="third")


@pytest.mark.parametrize(
    ("changed", "match"),
    [
        ({"type": "aws"}, "is not a local folder"),
        ({"instance_data_dir": "data/gone"}, "no folder `data/gone`"),
        ({"instance_data_dir": "a\0b"}, "no folder"),
        ({"caption_strategy": "webshart"}, "captions of strategy `webshart`"),
    ],
)
def test_what_is_not_here_cannot_be_read(write, changed, match):
    with pytest.raises(DataError, match=match):
        found(write(**changed))


def test_a_set_for_editing_is_not_taken_for_preferences(write):
    place = write()
    config = place / "config.json"
    config.write_text(json.dumps({"--distillation_method": "flow_dpo"}))
    assert simpletuner.fits(place)
    config.write_text(json.dumps({"model_family": "qwen_image"}))
    assert not simpletuner.fits(place)
    assert len(list(find_importer(place, "simpletuner")[1](place))) == 3


@pytest.mark.parametrize("written", ["", "{}", "[1, 2]", "[" * 100_000, '[{"id": 1}]', "\xff"])
def test_other_files_are_none_of_its_own(tmp_path, written):
    (tmp_path / "multidatabackend.json").write_text(written, encoding="latin-1")
    assert not simpletuner.fits(tmp_path)
    with pytest.raises(DataError):
        list(simpletuner(tmp_path))
