import shutil
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vipo_cli.data import store
from vipo_cli.data.hub_files import HubFiles
from vipo_cli.data.importing import Wanted, find_source, import_data
from vipo_cli.data.stored import entries_in
from vipo_cli.errors import MissingWeights
from vipo_cli.run import cache_home, finish

REPO = "someone/pairs"


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A hub with one data set of three Parquet files; returns what was fetched from it."""
    place = tmp_path / "hub" / "data"
    place.mkdir(parents=True)
    for part in range(3):
        rows = range(4 * part, 4 * part + 4)
        columns = {
            "caption": [f"prompt {row}" for row in rows],
            "jpg_0": [f"first {row}".encode() for row in rows],
            "jpg_1": [f"second {row}".encode() for row in rows],
            "label_0": [float(row % 2) for row in rows],
            "label_1": [1.0 - row % 2 for row in rows],
        }
        pq.write_table(pa.table(columns), place / f"train-{part:05d}-of-00003.parquet")
    fetched = []
    siblings = [SimpleNamespace(rfilename=f"data/{file.name}") for file in place.iterdir()]
    siblings.append(SimpleNamespace(rfilename="README.md"))

    def download(repo, name, *, repo_type, revision, local_dir):
        assert (repo, repo_type, revision) == (REPO, "dataset", "abc")
        fetched.append(name[-22:-17])
        target = Path(local_dir, name)
        target.parent.mkdir(parents=True)
        return shutil.copy(place.parent / name, target)

    def absent(*words, **options):
        raise FileNotFoundError

    monkeypatch.setattr("huggingface_hub.constants.is_offline_mode", lambda: False)
    monkeypatch.setattr("huggingface_hub.snapshot_download", absent)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    monkeypatch.setattr(
        "huggingface_hub.HfApi.dataset_info",
        lambda *words, **options: SimpleNamespace(siblings=siblings, sha="abc"),
    )
    return SimpleNamespace(fetched=fetched, siblings=siblings, place=place)


def prompts(folder):
    return [entry.prompt for entry in entries_in(folder)]


def test_parquet_files_are_fetched_one_by_one_and_not_kept(hub, tmp_path):
    source = find_source(REPO)
    assert isinstance(source, HubFiles)
    assert len(source.names) == 3
    imported = finish(import_data(source, tmp_path / "out", Wanted()))
    assert imported.importer == "pickapic"
    assert imported.manifest["from"]["name"] == REPO
    assert prompts(tmp_path / "out") == [f"prompt {row}" for row in range(12)]
    assert not list((cache_home() / "hub").iterdir())


def test_files_that_were_taken_whole_are_not_fetched_again(hub, tmp_path, monkeypatch):
    monkeypatch.setattr(store, "SHARD_BYTES", 1)
    monkeypatch.setattr(store, "GROUP_ROWS", 3)  # a shard ends with each third entry
    source, out = find_source(REPO), tmp_path / "out"
    finish(import_data(source, tmp_path / "whole", Wanted()))
    missing = hub.place / "train-00002-of-00003.parquet"
    kept = missing.rename(tmp_path / "kept.parquet")
    with pytest.raises(MissingWeights) as caught:
        finish(import_data(source, out, Wanted()))
    assert caught.value.hint == "run the same command again"
    kept.rename(missing)
    del hub.fetched[:]
    finish(import_data(source, out, Wanted()))
    assert hub.fetched == ["00000", "00001", "00002"]  # its layout is seen in the first
    shards = [
        {file.name: file.read_bytes() for file in (tmp_path / name).iterdir()}
        for name in ("out", "whole")
    ]
    assert shards[0] == shards[1]


def test_a_set_with_other_files_is_downloaded_whole(hub, tmp_path, monkeypatch):
    hub.siblings.append(SimpleNamespace(rfilename="images.zip"))

    def download(repo, **options):
        if options.get("local_files_only"):
            raise FileNotFoundError
        assert options["allow_patterns"] is None
        return str(hub.place)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    assert find_source(REPO) == hub.place
