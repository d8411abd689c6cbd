import time

import pytest

from vipo_cli.data import PreferencePair, hub_files
from vipo_cli.data.sources import open_pairs
from vipo_cli.data.usable import Broken, refuse_broken, why_broken
from vipo_cli.errors import DataError, MissingWeights, UnknownName


def test_opens_a_registered_set_with_checked_parameters():
    assert len(open_pairs("shapes", {"kind": "noisy", "pairs": "7"})) == 7


def test_tells_all_wrong_parameters():
    with pytest.raises(DataError) as caught:
        open_pairs("shapes", {"kindd": "noisy", "pairs": 0})
    assert len(caught.value.details) == 2
    assert "did you mean `kind`?" in caught.value.hint


def test_unknown_names_and_paths():
    with pytest.raises(UnknownName) as caught:
        open_pairs("pickapic")
    assert "did you mean `pickapic_v2`?" in caught.value.hint
    for path in ("./nothing", "nothing.csv", "/no/such/place"):
        with pytest.raises(DataError, match="no such file"):
            open_pairs(path)


def test_a_file_of_another_kind_is_refused(tmp_path):
    (tmp_path / "pairs.txt").write_text("x")
    for place in (tmp_path / "pairs.txt", tmp_path):
        with pytest.raises(DataError, match="is in no layout that is known") as caught:
            open_pairs(str(place))
        assert any(line.startswith("folders: ") for line in caught.value.details)
    with pytest.raises(DataError, match="a pattern is for Parquet"):
        open_pairs(str(tmp_path / "*.txt"))


def test_pickapic_without_files_says_what_to_do(tmp_path):
    with pytest.raises(MissingWeights) as caught:
        open_pairs("pickapic_v2")
    for words in ("--path DIR", "left the hub", "jpg_0", "label_1", "caption", ".parquet"):
        assert words in caught.value.hint
    with pytest.raises(MissingWeights, match="owner/name"):
        open_pairs("owner/name")


def test_a_hub_that_swallows_packets_does_not_hold_anyone_up(monkeypatch):
    def silence(*_, **__):
        time.sleep(3)

    monkeypatch.setattr("huggingface_hub.constants.is_offline_mode", lambda: False)
    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", silence)
    monkeypatch.setattr(hub_files, "DEADLINE_SECONDS", 0.2)
    start = time.monotonic()
    with pytest.raises(MissingWeights) as caught:
        open_pairs("pickapic_v2")
    assert "did not answer" in caught.value.details[0]
    assert time.monotonic() - start < 2


def test_the_whole_deadline_leaves_room_below_ten_seconds():
    assert hub_files.DEADLINE_SECONDS <= 7


def test_broken_pairs_are_named_with_side_path_and_reason(columns, tmp_path):
    good = columns["jpg_0"][0]
    text = tmp_path / "text.jpg"
    text.write_text("not a picture at all")
    assert why_broken(PreferencePair("p", good, good)) == ""
    cut = PreferencePair("p", good, good[: len(good) // 2])
    assert "loser: broken picture" in why_broken(cut)
    assert f"winner `{text}`: not a picture" in why_broken(PreferencePair("p", text, good))


def test_too_many_broken_pairs_are_an_error(columns):
    bad = PreferencePair("p", b"", columns["jpg_1"][0])
    broken = [Broken(8, why_broken(bad))]
    with pytest.raises(DataError) as caught:
        refuse_broken(broken, 9, limit=0.05)
    assert caught.value.message.startswith("1 of 9 pairs cannot be used, more than the limit")
    assert caught.value.details == ("pair 8: winner: not a picture",)
    refuse_broken(broken, 21, limit=0.05)
    for found, pairs in (([], 0), (broken, 1)):
        with pytest.raises(DataError):
            refuse_broken(found, pairs, limit=1.0)


def test_single_samples_are_usable(columns):
    assert why_broken(PreferencePair("p", columns["jpg_0"][0])) == ""
