import hashlib
import os
import pickle
from pathlib import Path

import pytest
import torch

from vipo_cli import weights
from vipo_cli.errors import MissingWeights, ModelError
from vipo_cli.weights import (
    SOURCES,
    File,
    Source,
    command,
    content,
    find,
    find_all,
    is_here,
    may_fetch,
    missing,
    read_tensors,
    without_fetching,
)

BODY = b"some weights"
SHA256 = hashlib.sha256(BODY).hexdigest()


@pytest.fixture
def published(tmp_path):
    """A source that is published at an address of its own: here, a file."""
    page = tmp_path / "page" / "head.pth"
    page.parent.mkdir()
    page.write_bytes(BODY)
    return Source("own", "", (File("head.pth", 12, SHA256, page.as_uri()),), "MIT")


@pytest.fixture
def online(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setenv("VIPO_CACHE", str(tmp_path / "cache"))


def test_every_source_says_what_a_user_must_know():
    for name, source in SOURCES.items():
        assert source.name == name
        assert source.licence
        assert source.bytes > 0
        assert source.files[0].needed
        assert source.repository or source.note or all(file.url for file in source.files)
        assert all(file.sha256 is None or len(file.sha256) in (8, 64) for file in source.files)


def test_files_are_looked_for_in_a_folder_or_are_the_path(tmp_path):
    source = Source("x", "some/where", (File("a/b.pt", 3), File("more", 1, needed=False)), "MIT")
    with pytest.raises(MissingWeights, match=r"holds no `a/b\.pt`") as caught:
        find(source, tmp_path)
    assert (
        caught.value.hint
        == f"to fill it: hf download some/where a/b.pt more --local-dir {tmp_path}"
    )
    flat = tmp_path / "b.pt"
    flat.write_bytes(b"abc")
    assert find(source, tmp_path) == {"a/b.pt": flat}
    assert find(source, flat) == {"a/b.pt": flat}
    assert is_here(source, flat)
    assert not is_here(source)
    two = Source("y", "some/where", (File("a", 1), File("b", 1)), "MIT")
    with pytest.raises(MissingWeights, match="is one file, where `y` has 2"):
        find(two, flat)


def test_the_hubs_cache_is_looked_through(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    source = Source("x", "some/where", (File("a.pt", 3),), "MIT")
    assert not is_here(source)
    place = tmp_path / "models--some--where"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text("abc")
    (place / "snapshots" / "abc").mkdir(parents=True)
    (place / "blobs").mkdir()
    blob = place / "blobs" / SHA256
    blob.write_bytes(BODY)
    (place / "snapshots" / "abc" / "a.pt").symlink_to(blob)
    found = find(source)["a.pt"]
    assert found.read_bytes() == BODY
    assert content(found) == SHA256


def test_what_is_missing_is_told_in_one_error_with_sizes_and_commands(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("VIPO_CACHE", str(tmp_path / "vipo"))
    with pytest.raises(MissingWeights) as caught:
        find_all(("hpsv2.1", "aesthetic"))
    assert "3.9 GB" in caught.value.message
    assert "HPS_v2.1_compressed.pt (3.9 GB, Apache-2.0)" in caught.value.details
    assert "hf download xswu/HPSv2 HPS_v2.1_compressed.pt" in caught.value.hint
    assert f"curl -L --create-dirs -o '{tmp_path}/vipo/weights/aesthetic/" in caught.value.hint
    assert "by hand" in missing(SOURCES["mps"]).hint


def test_a_file_with_an_address_is_fetched_once_and_checked(published, online, tmp_path):
    found = find(published)["head.pth"]
    assert found.read_bytes() == BODY
    assert found.is_relative_to(tmp_path / "cache")
    assert is_here(published)
    (tmp_path / "page" / "head.pth").unlink()
    assert find(published)["head.pth"] == found
    assert command(published, "there").startswith(
        "curl -L --create-dirs -o 'there/head.pth' 'file:"
    )


def test_another_file_than_was_published_is_refused_and_not_kept(published, online, tmp_path):
    (tmp_path / "page" / "head.pth").write_bytes(b"a login page")
    with pytest.raises(ModelError, match="gives another file than was published"):
        find(published)
    assert not is_here(published)


def test_an_address_that_does_not_answer_is_missing_weights(published, online, tmp_path):
    (tmp_path / "page" / "head.pth").unlink()
    with pytest.raises(MissingWeights, match="not on this machine"):
        find(published)


def test_a_hub_that_cannot_be_reached_is_missing_weights_at_once(online, monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setattr("huggingface_hub.hf_hub_download", None)
    with pytest.raises(MissingWeights, match="xswu/HPSv2"):
        find(SOURCES["hpsv2.1"])


def test_nothing_is_fetched_offline_or_where_it_is_not_wanted(published, online, monkeypatch):
    assert may_fetch()
    with without_fetching(), pytest.raises(MissingWeights):
        find(published)
    assert may_fetch()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(MissingWeights):
        find(published)


def test_content_is_remembered_until_the_file_changes(tmp_path, monkeypatch):
    file = tmp_path / "file"
    file.write_bytes(BODY)
    assert content(file) == SHA256
    monkeypatch.setattr(weights.hashlib, "file_digest", None)
    assert content(file) == SHA256
    monkeypatch.undo()
    file.write_bytes(b"others")
    assert content(file) == hashlib.sha256(b"others").hexdigest()


@pytest.mark.parametrize("old", [False, True])
def test_pickles_become_safetensors_once(old, tmp_path, monkeypatch):
    file = tmp_path / "a.pt"
    tensors = {"x": torch.arange(6.0).view(2, 3).T, "y": torch.ones(2, dtype=torch.float16)}
    tensors |= {"tied": tensors["x"], "part": torch.arange(9)[2:4]}
    kept = {"state_dict": {**tensors, "epoch": 3}, "more": [1]}
    torch.save(kept, file, _use_new_zipfile_serialization=not old)
    found = read_tensors(file, "state_dict")
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], value) for name, value in tensors.items())
    assert found["y"].dtype == torch.float16
    monkeypatch.setattr(torch, "load", None)
    assert read_tensors(file, "state_dict").keys() == tensors.keys()


class Inner(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(3, 2)
        self.count = torch.nn.Buffer(torch.arange(4))
        self.scratch = torch.nn.Buffer(torch.zeros(2), persistent=False)


class Whole(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = Inner()
        self.act = torch.nn.GELU()
        self.scale = torch.nn.Parameter(torch.tensor(2.0))


def test_the_tensors_of_a_whole_module_are_read_without_its_code(tmp_path):
    module = Whole()
    torch.save(module, tmp_path / "whole.pth")
    found = read_tensors(tmp_path / "whole.pth")
    expected = module.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def make_folder(place):
    Path(place).mkdir()


class Bomb:
    def __init__(self, call, place):
        self.call, self.place = call, place

    def __reduce__(self):
        return self.call, (str(self.place),)


def test_no_code_of_a_pickle_is_run(tmp_path):
    place = tmp_path / "ran"
    torch.save({"x": torch.ones(1), "meta": Bomb(make_folder, place)}, tmp_path / "a.pt")
    assert read_tensors(tmp_path / "a.pt").keys() == {"x"}
    torch.save({"x": torch.ones(1), "meta": Bomb(os.mkdir, place)}, tmp_path / "b.pt")
    (tmp_path / "c.pt").write_bytes(pickle.dumps({"x": Bomb(make_folder, place)}))
    for name in ("b.pt", "c.pt"):
        with pytest.raises(ModelError, match="it is no file of tensors, or would run code"):
            read_tensors(tmp_path / name)
    assert not place.exists()


def test_damaged_files_and_files_without_tensors_are_a_users_error(tmp_path):
    for name in ("a.pt", "a.safetensors"):
        (tmp_path / name).write_bytes(b"damaged")
        with pytest.raises(ModelError, match="cannot read the weights"):
            read_tensors(tmp_path / name)
    torch.save([torch.ones(1)], tmp_path / "list.pt")
    with pytest.raises(ModelError, match="no tensors by name but a list"):
        read_tensors(tmp_path / "list.pt")
