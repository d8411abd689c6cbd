import errno
import json
from pathlib import Path

import pytest

from vipo_cli import run
from vipo_cli.errors import VipoError
from vipo_cli.run import (
    Progress,
    append_line,
    environment,
    fingerprint,
    finish,
    folder_fingerprint,
    read_lines,
    write_json,
    writing,
)


def leftovers(folder):
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]


def test_a_file_takes_its_place_at_the_end(tmp_path):
    target = tmp_path / "new" / "file.txt"
    with writing(target) as temporary:
        temporary.write_text("new")
        assert temporary.parent == target.parent
        assert not target.exists()
    assert target.read_text() == "new"
    assert not leftovers(target.parent)


@pytest.mark.parametrize("failure", [ValueError, KeyboardInterrupt, GeneratorExit])
def test_a_failure_leaves_the_target_as_it_was(tmp_path, failure):
    target = tmp_path / "file.txt"
    target.write_text("old")
    with pytest.raises(failure), writing(target) as temporary:
        temporary.write_text("half")
        raise failure
    assert target.read_text() == "old"
    assert not leftovers(tmp_path)


def test_a_folder_is_replaced_whole(tmp_path):
    target = tmp_path / "folder"
    for name in ("a", "b"):
        with writing(target) as temporary:
            (temporary / "deep").mkdir(parents=True)
            (temporary / "deep" / name).write_text(name)
    assert [path.name for path in (target / "deep").iterdir()] == ["b"]
    with pytest.raises(ValueError, match="no"), writing(target) as temporary:
        temporary.mkdir()
        (temporary / "c").touch()
        raise ValueError("no")
    assert [path.name for path in (target / "deep").iterdir()] == ["b"]
    assert not leftovers(tmp_path)


def test_a_full_disk_is_an_error_for_users(tmp_path):
    target = tmp_path / "file.txt"
    target.write_text("old")
    with pytest.raises(VipoError) as caught, writing(target) as temporary:
        temporary.write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")
    assert caught.value.message == f"cannot write `{target}`: No space left on device"
    assert "free some space" in caught.value.hint
    assert target.read_text() == "old"
    assert not leftovers(tmp_path)


def test_a_disk_that_fills_up_while_syncing_leaves_the_target(tmp_path, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    target = tmp_path / "file.json"
    write_json(target, 1)
    monkeypatch.setattr(run.os, "fsync", full)
    with pytest.raises(VipoError, match="No space left"):
        write_json(target, 2)
    assert json.loads(target.read_text()) == 1
    assert not leftovers(tmp_path)


def test_a_read_only_place_is_an_error_for_users(tmp_path, monkeypatch):
    def refuse(self, *_, **__):
        raise OSError(errno.EROFS, "Read-only file system", str(self))

    for name in ("mkdir", "unlink"):  # such a place refuses both, whether or not a file is there
        monkeypatch.setattr(Path, name, refuse)
    with pytest.raises(VipoError, match="Read-only file system"), writing(tmp_path / "x" / "y"):
        pass


def test_a_file_in_the_place_of_a_folder_is_an_error_for_users(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(VipoError, match="cannot write"):
        write_json(tmp_path / "file" / "below.json", 1)
    with pytest.raises(VipoError, match="cannot write"):
        append_line(tmp_path / "file" / "below.jsonl", {})


def test_lines_are_read_back_without_the_one_cut_short(tmp_path):
    file = tmp_path / "lines.jsonl"
    assert read_lines(file) == []
    records = [{"step": step, "text": "line\u2028break é"} for step in range(3)]
    for record in records:
        append_line(file, record)
    assert read_lines(file) == records
    whole = file.read_bytes()
    file.write_bytes(whole[:-5])
    assert read_lines(file) == records[:2]
    file.write_bytes(b"")
    assert read_lines(file) == []


def test_a_fingerprint_does_not_depend_on_order():
    assert fingerprint({"a": 1, "b": [1, 2]}) == fingerprint({"b": [1, 2], "a": 1})
    assert fingerprint({"a": 1}) != fingerprint({"a": 2})
    assert fingerprint([1, 2]) != fingerprint([2, 1])
    assert len(fingerprint(None)) == 16


def test_the_fingerprint_of_a_folder_sees_names_and_contents(tmp_path):
    names = []
    for name, file, text in (("a", "x", "1"), ("b", "x", "1"), ("c", "y", "1"), ("d", "x", "2")):
        (tmp_path / name / "deep").mkdir(parents=True)
        (tmp_path / name / "deep" / file).write_text(text)
        names.append(folder_fingerprint(tmp_path / name))
    assert names[0] == names[1]
    assert len(set(names)) == 3


def test_finish_returns_what_the_work_returns():
    def work():
        yield Progress("one", 1, 2)
        yield Progress("one", 2, 2)
        return "done"

    assert finish(work()) == "done"


def test_the_environment_names_every_library():
    found = environment()
    assert found["libraries"]["vipo"]
    assert found["libraries"].keys() == set(run.LIBRARIES)
    json.dumps(found)
