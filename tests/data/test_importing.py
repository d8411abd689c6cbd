import json
import os
import signal
import subprocess
import sys
import time
from itertools import islice

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from tests.data.damaged import SOURCES
from vipo_cli.cli import app
from vipo_cli.data import importing, store
from vipo_cli.data.importing import Wanted, find_importer, import_data
from vipo_cli.data.stored import entries_in
from vipo_cli.errors import DataError, UnknownName
from vipo_cli.run import finish


def pickapic(folder, count=60):
    """Write pairs in the layout of Pick-a-Pic, some of them unusable."""
    folder.mkdir()
    noise = np.random.default_rng(0)
    labels = [(1.0, 0.0, 0.5, 2.0)[n % 4] for n in range(count)]
    columns = {
        "caption": [f"prompt {n // 3}" for n in range(count)],
        "jpg_0": [noise.bytes(700) for _ in range(count)],
        "jpg_1": [noise.bytes(700) for _ in range(count)],
        "label_0": labels,
        "label_1": [1 - label if label != 2 else 0.0 for label in labels],
        "ranking_id": list(range(count)),
    }
    for part in range(2):
        half = {name: cells[part::2] for name, cells in columns.items()}
        pq.write_table(pa.table(half), folder / f"train-{part:05d}-of-00002.parquet")
    return folder


def contents(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(store, "GROUP_BYTES", 4000)
    monkeypatch.setattr(store, "SHARD_BYTES", 10_000)


def test_the_same_import_twice_gives_the_same_bytes(tmp_path, small):
    source = pickapic(tmp_path / "source")
    for name in "xy":
        finish(import_data(source, tmp_path / name, Wanted()))
    assert contents(tmp_path / "x") == contents(tmp_path / "y")
    assert len(contents(tmp_path / "x")) > 5


@pytest.mark.parametrize("stop", [3, 8, 17, 40, 59])
def test_an_interrupted_import_goes_on_and_gives_the_same_bytes(tmp_path, small, monkeypatch, stop):
    source = pickapic(tmp_path / "source")
    whole = finish(import_data(source, tmp_path / "whole", Wanted()))
    passed = store.Store.passed
    count = iter(range(stop))

    def interrupted(self):
        if next(count, None) is None:
            raise KeyboardInterrupt
        passed(self)

    monkeypatch.setattr(store.Store, "passed", interrupted)
    with pytest.raises(KeyboardInterrupt):
        finish(import_data(source, tmp_path / "begun", Wanted()))
    monkeypatch.setattr(store.Store, "passed", passed)
    work = import_data(source, tmp_path / "begun", Wanted())
    first = next(work)
    assert first.done <= stop
    assert first.done > 0 or stop < 10
    again = finish(work)
    assert again.manifest == whole.manifest
    assert contents(tmp_path / "begun") == contents(tmp_path / "whole")


KILLED = """
import sys
from pathlib import Path
from vipo_cli.data import store
from vipo_cli.data.importing import Wanted, import_data
from vipo_cli.run import finish
import time
store.GROUP_BYTES, store.SHARD_BYTES = 4000, 10_000
passed = store.Store.passed
def slowly(self):
    passed(self)
    time.sleep(0.01)
store.Store.passed = slowly
finish(import_data(Path(sys.argv[1]), Path(sys.argv[2]), Wanted()))
"""


@pytest.mark.skipif(os.name == "nt", reason="there are no signals")
def test_a_killed_import_goes_on_and_gives_the_same_bytes(tmp_path, small):
    source = pickapic(tmp_path / "source", 400)
    finish(import_data(source, tmp_path / "whole", Wanted()))
    begun = tmp_path / "begun"
    child = subprocess.Popen([sys.executable, "-c", KILLED, str(source), str(begun)])
    deadline = time.monotonic() + 60
    while not (begun / "part-00001.parquet").exists() and time.monotonic() < deadline:
        time.sleep(0.002)
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    assert not (begun / "manifest.json").exists()
    work = import_data(source, begun, Wanted())
    assert next(work).done > 0
    finish(work)
    assert contents(begun) == contents(tmp_path / "whole")


def test_a_source_that_changed_is_not_gone_on_with(tmp_path, small):
    source = pickapic(tmp_path / "source", 400)
    work = import_data(source, tmp_path / "out", Wanted())
    list(islice(work, 2))
    work.close()
    (source / "train-00000-of-00002.parquet").touch()
    os.utime(source / "train-00000-of-00002.parquet", (1, 1))
    with pytest.raises(DataError, match="the source changed"):
        next(import_data(source, tmp_path / "out", Wanted()))


@pytest.mark.parametrize(
    ("layout", "parameter", "folder"),
    [("richhf_of_pickapic", "pickapic", "v1"), ("richhf", "images", "train")],
)
def test_a_folder_that_a_parameter_names_is_part_of_the_source(
    tmp_path, monkeypatch, layout, parameter, folder
):
    SOURCES[layout](tmp_path / "all")
    (tmp_path / "apart").mkdir()
    (tmp_path / "all" / folder).rename(tmp_path / "apart" / "train")
    wanted = Wanted(parameters={parameter: str(tmp_path / "apart")})
    monkeypatch.setattr(store, "GROUP_BYTES", 100)
    monkeypatch.setattr(store, "SHARD_BYTES", 100)
    passed = store.Store.passed
    count = iter(range(3))

    def interrupted(self):
        if next(count, None) is None:
            raise KeyboardInterrupt
        passed(self)

    monkeypatch.setattr(store.Store, "passed", interrupted)
    with pytest.raises(KeyboardInterrupt):
        finish(import_data(tmp_path / "all", tmp_path / "out", wanted))
    monkeypatch.setattr(store.Store, "passed", passed)
    changed = next(file for file in (tmp_path / "apart").rglob("*") if file.is_file())
    state = changed.stat()
    os.utime(changed, (1, 1))
    with pytest.raises(DataError, match="the source changed"):
        next(import_data(tmp_path / "all", tmp_path / "out", wanted))
    os.utime(changed, ns=(state.st_atime_ns, state.st_mtime_ns))
    work = import_data(tmp_path / "all", tmp_path / "out", wanted)
    assert next(work).done > 0
    assert finish(work).manifest["entries"] == 5


def test_what_cannot_be_used_is_counted_with_examples(tmp_path):
    source = pickapic(tmp_path / "source")
    imported = finish(import_data(source, tmp_path / "out", Wanted()))
    assert imported.manifest["left_out"] == {"label_0 and label_1 do not add up to 1": 15}
    assert imported.manifest["labels"] == {"a": 15, "b": 15, "tie": 15}
    (examples,) = imported.examples.values()
    assert examples[0] == "row 1 of train-00001-of-00002.parquet"


def test_limit_counts_what_stands_in_the_source(tmp_path):
    source = pickapic(tmp_path / "source")
    imported = finish(import_data(source, tmp_path / "out", Wanted(limit=7)))
    assert sum(imported.manifest["labels"].values()) == 7


def write_table(folder, rows):
    folder.mkdir(exist_ok=True)
    for number in range(9):
        (folder / f"{number}.png").write_bytes(b"%d" % number * 9)
    (folder / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder / "t.jsonl"


def test_rankings_become_pairs_where_asked_for(tmp_path):
    rows = [{"prompt": "p", "media": ["0.png", "1.png", "2.png"], "ranks": [2, 1, 1]}]
    file = write_table(tmp_path / "s", rows)
    finish(import_data(file, tmp_path / "out", Wanted(pairs="all")))
    found = [(entry.label, *(m[:1] for m in entry.media)) for entry in entries_in(tmp_path / "out")]
    assert found == [("tie", b"1", b"2"), ("a", b"1", b"0"), ("a", b"2", b"0")]


def test_what_is_mostly_unusable_is_refused_and_nothing_left(tmp_path):
    rows = [{"prompt": "p", "winner": "gone.png", "loser": "1.png"}] * 2
    rows.append({"prompt": "p", "winner": "0.png", "loser": "1.png"})
    file = write_table(tmp_path / "s", rows)
    with pytest.raises(DataError, match="2 of 3 entries") as caught:
        finish(import_data(file, tmp_path / "out", Wanted()))
    assert "a medium cannot be read" in caught.value.details[0]
    assert not (tmp_path / "out").exists()


def test_a_folder_within_the_source_is_refused(tmp_path):
    source = pickapic(tmp_path / "source")
    for folder in (source / "out", source / "deep" / "out", source):
        with pytest.raises(DataError, match="which is being imported"):
            next(import_data(source, folder, Wanted()))
    assert len(list(source.iterdir())) == 2


def test_duplicate_ids_stay_two_entries(tmp_path):
    rows = [{"prompt": p, "winner": "0.png", "loser": "1.png", "id": "same"} for p in "pq"]
    finish(import_data(write_table(tmp_path / "s", rows), tmp_path / "out", Wanted()))
    assert [(entry.prompt, entry.id) for entry in entries_in(tmp_path / "out")] == [
        ("p", "same"),
        ("q", "same"),
    ]


def test_unknown_importers_and_parameters_are_named(tmp_path):
    source = pickapic(tmp_path / "source")
    with pytest.raises(UnknownName, match="unknown importer `pickapick`"):
        find_importer(source, "pickapick")
    with pytest.raises(DataError, match="parameters of importer `pickapic`") as caught:
        next(import_data(source, tmp_path / "out", Wanted(parameters={"splitt": "x"})))
    assert caught.value.details == ("splitt: unknown parameter",)
    with pytest.raises(DataError, match="no such file or folder"):
        find_importer(tmp_path / "gone")
    (tmp_path / "x.bin").write_bytes(b"x")
    with pytest.raises(DataError, match="in no layout that is known"):
        find_importer(tmp_path / "x.bin")


def test_files_are_looked_at_in_one_order(tmp_path):
    for name in ("b/2.csv", "a.csv", "b/1.csv", "a/3.csv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    found = [os.path.relpath(file, tmp_path) for file in importing._files_below(str(tmp_path))]
    assert found == ["a.csv", "a/3.csv", "b/1.csv", "b/2.csv"]


def test_the_command_shows_how_columns_are_understood(tmp_path):
    rows = [{"caption": "p", "left": "0.png", "right": "1.png", "vote": "right"}]
    file = write_table(tmp_path / "s", rows)
    command = ["data", "import", str(file), "--out", str(tmp_path / "out"), "--json"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    assert "columns   prompt=caption,a=left,b=right,label=vote" in result.stderr
    assert json.loads(result.stdout)["examples"] == {}
    assert json.loads(result.stdout)["labels"] == {"b": 1}


def test_the_command_says_what_training_reads_of_samples(tmp_path):
    SOURCES["richhf"](tmp_path / "source")
    out = tmp_path / "out"
    result = CliRunner().invoke(
        app, ["data", "import", str(tmp_path / "source"), "--out", str(out)]
    )
    assert "its scores and region map stay in the" in result.stdout
    assert all(entry.regions and "overall" in entry.scores for entry in entries_in(out))
