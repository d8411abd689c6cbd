import zipfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.small_clips import clip, found, put, shown
from vipo_cli.data.importers.videofeedback import DIMENSIONS
from vipo_cli.errors import DataError

LINK = "https://huggingface.co/datasets/hexuan21/VideoFeedback-videos-mp4/resolve/main/p/{}.mp4"
RATINGS = {
    "p000001": (3, 3, 2, 4, 3),
    "p000002": (2, 3, 2, 4, 3),
    "p000003": (2, 3, 3, 4, 3),
    "p000004": (4, 4, 4, 4, 4),
}
PROMPTS = ["a fox runs", "a fox runs", "a fox runs", "a lone tree"]


def said(ratings):
    lines = "".join(f"{name}: {value}\n" for name, value in zip(DIMENSIONS, ratings, strict=True))
    return [{"from": "human", "value": "rate it"}, {"from": "gpt", "value": lines}]


@pytest.fixture
def table(tmp_path):
    """Write a Parquet file as the hub has it: four clips, three of them of one prompt."""

    def write(name="annotated/train-00000-of-00001.parquet", columns=True, **changed):
        rows = {
            "id": list(RATINGS),
            "images": [[f"{each}_00.jpg"] for each in RATINGS],
            "text prompt": PROMPTS,
            "video link": [LINK.format(each) for each in RATINGS],
            "conversations": [said(each) for each in RATINGS.values()],
        }
        if columns:
            by_dimension = zip(DIMENSIONS, zip(*RATINGS.values(), strict=True), strict=True)
            rows |= {dimension: list(values) for dimension, values in by_dimension}
        file = tmp_path / "set" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(rows | changed), file)
        return tmp_path / "set"

    return write


@pytest.fixture
def clips(tmp_path):
    for number, each in enumerate(RATINGS):
        put(tmp_path / "set" / "p" / f"{each}.mp4", number)


ALONE = "1 clips that are the only ones of their prompts, counted as one"


@pytest.mark.parametrize("columns", [True, False])
def test_clips_of_a_prompt_become_pairs_that_share_its_weight(table, clips, columns):
    name, entries, reasons = found(table(columns=columns))
    assert name == "videofeedback"
    assert [each.label for each in entries] == ["a", "tie", "b"]
    assert [each.id for each in entries] == [
        "p000001-p000002",
        "p000001-p000003",
        "p000002-p000003",
    ]
    assert sum(each.weight for each in entries) == pytest.approx(1)
    assert entries[1].dimensions == {
        "visual quality": "a",
        "temporal consistency": "tie",
        "dynamic degree": "b",
        "text-to-video alignment": "tie",
        "factual consistency": "tie",
    }
    assert entries[1].scores["visual quality"] == (3.0, 2.0)
    assert shown(entries[2]) == [clip(1), clip(2)]
    assert {each.split for each in entries} == {"train"}
    assert reasons == [ALONE]


def test_a_dimension_or_dominance_may_decide(table, clips):
    place = table()
    assert [each.label for each in found(place, by="dynamic degree")[1]] == ["tie", "b", "b"]
    assert [each.label for each in found(place, by="dominance")[1]] == ["a", "none", "b"]
    with pytest.raises(DataError, match="nothing is called `dynamics`"):
        found(place, by="dynamics")
    with pytest.raises(DataError, match="gives no order"):
        found(place, by="dominance", form="ranked")


def test_clips_of_a_prompt_become_a_list(table, clips):
    _, entries, reasons = found(table(), form="ranked")
    (entry,) = entries
    assert (entry.label, entry.ranks) == ("ranked", (1.0, 3.0, 1.0))
    assert entry.scores["dynamic degree"] == (2.0, 2.0, 3.0)
    assert reasons == [ALONE]


def test_clips_become_samples(table, clips):
    _, entries, reasons = found(table(), form="samples")
    assert [each.label for each in entries] == ["liked", "disliked", "liked", "liked"]
    assert reasons == []
    stricter = found(table(), form="samples", liked=3.5)[1]
    assert [each.label for each in stricter] == ["disliked"] * 3 + ["liked"]


def test_clips_are_read_from_the_zip_file(table, tmp_path):
    place = table()
    with zipfile.ZipFile(place / "videos_annotated_train.zip", "w") as archive:
        for number, each in enumerate(RATINGS):
            archive.writestr(f"videos/p/{each}.mp4", clip(number))
    assert shown(found(place)[1][0]) == [clip(0), clip(1)]


def test_filmed_clips_and_other_splits_are_left_alone_unless_asked_for(table, clips):
    place = table("real/train-00000-of-00001.parquet")
    assert found(place)[1] == []
    assert len(found(place, real=True)[1]) == 3
    table("annotated/test-00000-of-00001.parquet")
    assert len(found(place, real=True)[1]) == 6
    assert {each.split for each in found(place, split="test")[1]} == {"test"}


def test_what_cannot_be_used_is_told(table, clips, tmp_path):
    (tmp_path / "set" / "p" / "p000003.mp4").unlink()
    place = table(
        **{"text prompt": ["a fox runs"] * 3 + [""], "dynamic degree": [2, 2, 2, 4]},
    )
    _, entries, reasons = found(place)
    assert [each.id for each in entries] == ["p000001-p000002"]
    assert sorted(reasons) == ["a medium is not there", "empty prompt"]
    place = table(**{"dynamic degree": [5, 2, None, 2]})
    bad = "ratings that are not five whole numbers from 1 to 4"
    assert found(place)[2].count(bad) == 2


def test_pairs_of_one_prompt_do_not_grow_without_bound(table, tmp_path, monkeypatch):
    monkeypatch.setattr("vipo_cli.data.importers.rated.MOST", 2)
    for number, each in enumerate(RATINGS):
        put(tmp_path / "set" / "p" / f"{each}.mp4", number)
    _, entries, reasons = found(table())
    assert len(entries) == 1
    assert "more than 2 clips of one prompt" in reasons
