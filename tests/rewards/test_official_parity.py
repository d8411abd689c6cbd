import io
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from vipo_cli.errors import DataError, VipoError
from vipo_cli.rewards import parity
from vipo_cli.rewards.official import OfficialReward
from vipo_cli.rewards.parity import (
    Sample,
    agreement,
    agrees,
    allowed,
    drawn_samples,
    parity_of,
    read_prompts,
    read_samples,
)
from vipo_cli.rewards.worker import Worker
from vipo_cli.run import finish

FAKE = Path(__file__).parent / "fake_package.py"


def test_agreement_counts_what_only_one_could_judge():
    ours = np.array([1.0, 2.5, np.nan, 3.0])
    theirs = np.array([1.25, 2.0, 1.0, np.nan])
    found = agreement(ours, theirs)
    assert found["n"] == 4
    assert found["compared"] == 2
    assert found["only_native"] == found["only_official"] == 1
    assert found["largest_difference"] == 0.5
    assert found["mean_difference"] == 0.375
    assert found["standard_deviation"] == 0.375


def test_agreeing_needs_every_picture_that_the_package_could_judge():
    assert agrees(agreement(np.array([1.0, 2.0]), np.array([1.0, 2.0])), 0)
    assert not agrees(agreement(np.array([1.0]), np.array([1.5])), 0.2)
    assert agrees(agreement(np.array([1.0, 1.0]), np.array([1.0, np.nan])), 0)
    assert not agrees(agreement(np.array([1.0, np.nan]), np.array([1.0, 1.0])), 0)
    assert not agrees(agreement(np.array([np.nan]), np.array([np.nan])), 1)


def test_of_large_scores_a_share_is_allowed():
    theirs = np.array([-20.0, 15.0])
    found = agreement(theirs + 1e-4, theirs)
    assert found["relative_difference"] == pytest.approx(5e-6)
    assert allowed(found, 1e-5) == pytest.approx(2e-4)
    assert agrees(found, 1e-5)
    assert not agrees(found, 1e-6)
    small = agreement(np.array([0.1, 0.2]), np.array([0.1, 0.2]))
    assert allowed(small, 1e-5) == 1e-5


def test_scores_that_hardly_differ_between_pictures_prove_nothing():
    flat = np.array([0.5, 0.5 + 1e-7, 0.5 - 1e-7])
    assert not agrees(agreement(flat, flat), 1e-4)
    assert agrees(agreement(flat[:1], flat[:1]), 1e-4)  # of one picture there is no telling


def test_drawn_pictures_are_of_many_kinds_and_always_the_same():
    samples = drawn_samples()
    assert [each.picture for each in samples] == [each.picture for each in drawn_samples()]
    pictures = [Image.open(io.BytesIO(each.picture)) for each in samples]
    assert {"RGB", "L", "P"} <= {each.mode for each in pictures}
    assert len({each.size for each in pictures}) == 7
    assert {"PNG", "JPEG"} == {each.format for each in pictures}
    assert any(len(each.prompt) > 400 for each in samples)
    assert {each.prompt for each in drawn_samples(["one"])} == {"one"}


def test_own_pictures_take_prompts_in_turn(tmp_path):
    for name in ("b.png", "a.png", "c.jpg"):
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text(" first \n\nsecond\n")
    prompts = read_prompts(tmp_path / "notes.txt")
    samples = read_samples(tmp_path, prompts)
    assert [(each.name, each.prompt) for each in samples] == [
        ("a.png", "first"),
        ("b.png", "second"),
        ("c.jpg", "first"),
    ]
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no pictures"):
        read_samples(tmp_path / "empty", prompts)
    (tmp_path / "none.txt").write_text("\n")
    with pytest.raises(DataError, match="holds no prompts"):
        read_prompts(tmp_path / "none.txt")


@pytest.fixture
def backends(monkeypatch):
    """An official backend in a real worker, and a native one that is 0.001 above it."""
    places = []

    def official(*, path, device):
        places.append(path)
        about = {"package": "fake", "version": "1", "device": "cpu", "dtype": "float32"}
        worker = Worker("fake", Path(sys.executable), FAKE)
        return OfficialReward("hpsv2.1", "overall", "f", about, worker, 20)

    def native(*, path, device, dtype):
        assert (path, device, dtype) == (places[-1], "cpu", "fp32")

        def score(media, prompts):
            pairs = zip(media, prompts, strict=True)
            return np.array([len(data) + len(prompt) / 100 + 0.001 for data, prompt in pairs])

        return SimpleNamespace(score=score)

    monkeypatch.setattr(parity, "with_backend", lambda name, backend: official)
    monkeypatch.setattr(parity, "rewards", {"hpsv2.1": native})
    monkeypatch.setattr(parity, "start", lambda _: Worker("fake", Path(sys.executable), FAKE))
    return places


SAMPLES = [Sample("a", b"x", "p"), Sample("b", b"xxx", "pp"), Sample("c", b"broken", "p")]


def test_both_backends_score_the_same_pictures(backends):
    found = finish(parity_of("hpsv2.1", SAMPLES, path="folder"))
    assert found["compared"] == 2
    assert found["largest_difference"] == pytest.approx(0.001)
    assert found["weights"] == "folder"
    first, _, last = found["pictures"]
    assert first["official"] == 1.01
    assert first["native"] == pytest.approx(1.011)
    assert last["official"] is None
    assert last["failure"] == "OSError: cannot identify image file"
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert agrees(found, 0.002)
    assert not agrees(found, 0.0002)


def test_random_weights_are_written_by_the_package_and_removed(backends):
    found = finish(parity_of("hpsv2.1", SAMPLES, seed=3))
    assert found["weights"] == "random, seed 3"
    assert not Path(backends[0]).exists()


def test_a_reward_without_an_official_backend_is_refused_at_once():
    with pytest.raises(VipoError, match="`mps` has no official backend"):
        next(parity_of("mps", SAMPLES))


def test_the_drawn_vocabulary_of_bert_is_one_for_both_readers(tmp_path):
    from transformers import BertTokenizer

    from vipo_cli.rewards.official import _bert_folder

    parity._write_bert_vocabulary(tmp_path)
    words = BertTokenizer.from_pretrained(tmp_path, local_files_only=True)
    found = words("A cat; 3 cats!", padding="max_length", max_length=20, truncation=True)
    ids = found.input_ids
    assert ids[0] == 101
    assert ids[sum(found.attention_mask) - 1] == 102
    assert ids[-1] == 0
    assert 100 not in ids
    with _bert_folder(tmp_path / "tokenizer.json") as folder:
        lines = (folder / "vocab.txt").read_text().splitlines()
    assert len(lines) == 30_522
    assert [lines[place] for place in (0, 100, 101, 102, 103)] == [
        "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]",
    ]  # fmt: skip
    assert lines[ids[1]] == "a"
