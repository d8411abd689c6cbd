import hashlib
import json
import re
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from filelock import FileLock

from vipo_cli.errors import UnknownName, VipoError
from vipo_cli.rewards import environments
from vipo_cli.rewards.environments import (
    ENVIRONMENTS,
    NOTE,
    Supplement,
    find_environment,
    ready,
    set_up,
    wants_cpu_build,
)
from vipo_cli.rewards.official import officials
from vipo_cli.run import Progress, finish

BYTES = b"vocabulary"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("VIPO_CACHE", str(tmp_path))
    return tmp_path


@pytest.fixture
def environment(monkeypatch):
    digest = hashlib.sha256(BYTES).hexdigest()
    supplement = Supplement("brings/words", "lacks/words", digest, "it is forgotten")
    monkeypatch.setattr(environments, "CUDA_BYTES", 0)
    return replace(ENVIRONMENTS["hpsv2"], bytes=1000, supplements=(supplement,))


@pytest.fixture
def installed(monkeypatch):
    """Commands instead of a virtual environment and pip: they leave what those would."""
    commands = []

    def run(command, environment):
        commands.append(command)
        packages = environment.folder / "lib" / "python3.11" / "site-packages"
        if "venv" in command:
            (environment.folder / "bin").mkdir(parents=True)
            (environment.folder / "bin" / "python").write_text("")
            packages.mkdir(parents=True)
        elif "-c" in command:
            yield str(packages)
        elif "-r" in command:
            for name in ("brings", "lacks"):
                (packages / name).mkdir()
            yield "Collecting hpsv2==1.2.0 (from -r requirements.txt)"
            (packages / "brings" / "words").write_bytes(BYTES)
            yield "Installing collected packages: hpsv2"

    class Fake:
        def __init__(self, name, python, script): ...

        def __enter__(self):
            return self

        def __exit__(self, *_): ...

        def ask(self, request, seconds):
            return {"package": "hpsv2", "version": "1.2.0", "versions": {}, "python": "3.11"}

    monkeypatch.setattr(environments, "_run", run)
    monkeypatch.setattr(environments, "Worker", Fake)
    return commands


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_every_requirement_is_pinned_once(name):
    pins = ENVIRONMENTS[name].pins
    assert len(pins) > 20
    assert all(re.fullmatch(r"[A-Za-z0-9_.-]+==[0-9][0-9A-Za-z.]*", pin) for pin in pins)
    names = [pin.partition("==")[0].lower() for pin in pins]
    assert len(set(names)) == len(names)
    assert {"torch", "torchvision"} <= set(names)
    assert any(each.replace("_", "-").startswith(name) for each in names)
    assert ENVIRONMENTS[name].script.is_file()


def test_every_official_backend_has_its_environment():
    served = [reward for each in ENVIRONMENTS.values() for reward in each.rewards]
    assert sorted(served) == officials.names()
    assert find_environment("hpsv2.1") is ENVIRONMENTS["hpsv2"]
    with pytest.raises(UnknownName, match="unknown environment `hpsv`") as caught:
        find_environment("hpsv")
    assert "did you mean `hpsv2`?" in caught.value.hint


def test_an_environment_is_named_by_what_is_in_it(environment):
    other = replace(environment, supplements=())
    assert environment.folder != other.folder
    assert environment.folder == replace(environment, bytes=5).folder


def test_setting_up(environment, installed):
    seen = []
    known = finish(set_up(environment, torch="default"), seen.append)
    assert [each.stage for each in seen if each.done == 0] == [
        "making the environment",
        "installing them",
        "trying it",
    ]
    assert Progress("collecting packages", 1, len(environment.pins)) in seen
    assert known["version"] == "1.2.0"
    assert known["bytes"] >= 2 * len(BYTES)
    [packages] = environment.folder.glob("lib/*/site-packages")
    assert (packages / "lacks" / "words").read_bytes() == BYTES
    assert ready(environment) == known == json.loads((environment.folder / NOTE).read_text())
    assert installed[0][:4] == [sys.executable, "-I", "-m", "venv"]

    count = len(installed)
    assert finish(set_up(environment)) == known  # nothing to do
    assert len(installed) == count
    finish(set_up(environment, torch="default", recreate=True, python="/other/python"))
    assert installed[count][0] == "/other/python"


def test_the_build_without_cuda_is_asked_for_by_name(environment, installed, monkeypatch):
    monkeypatch.setattr(environments, "wants_cpu_build", lambda torch: True)
    finish(set_up(environment))
    torch, rest = installed[1], installed[2]
    assert torch[-2:] == ["torch==2.13.0+cpu", "torchvision==0.28.0"]
    assert environments.CPU_WHEELS in torch
    assert environments.CPU_WHEELS not in rest


@pytest.mark.parametrize("stage", ["making the environment", "collecting packages", "trying it"])
def test_what_was_killed_is_begun_anew(environment, installed, stage):
    work = set_up(environment, torch="default")
    for progress in work:
        if progress.stage == stage:
            break
    work.close()  # as a signal does; after kill -9 there is no note either
    assert ready(environment) is None
    environment.folder.mkdir(parents=True, exist_ok=True)
    (environment.folder / "leftover").write_text("half a package")
    finish(set_up(environment, torch="default"))
    assert ready(environment) is not None
    assert not (environment.folder / "leftover").exists()


def test_an_environment_that_is_made_anew_does_not_count_until_it_is_whole(environment, installed):
    finish(set_up(environment, torch="default"))
    work = set_up(environment, torch="default", recreate=True)
    next(work)
    assert ready(environment) is None
    work.close()


def test_a_note_without_an_interpreter_does_not_count(environment, installed):
    finish(set_up(environment, torch="default"))
    (environment.folder / "bin" / "python").unlink()
    assert ready(environment) is None


def test_a_file_that_is_not_the_published_one_is_refused(environment, installed):
    wrong = replace(environment.supplements[0], sha256="0" * 64)
    broken = replace(environment, supplements=(wrong,))
    with pytest.raises(VipoError, match="`brings/words` is not the published file"):
        finish(set_up(broken, torch="default"))
    assert ready(broken) is None


def test_two_setups_at_once_are_refused(environment, installed):
    environment.folder.parent.mkdir(parents=True)
    with (
        FileLock(environment.folder.with_suffix(".lock")),
        pytest.raises(VipoError, match="another process is setting up `hpsv2`"),
    ):
        finish(set_up(environment))


def test_too_small_a_disk_is_said_before_anything_is_done(environment, installed, monkeypatch):
    monkeypatch.setattr(
        environments.shutil, "disk_usage", lambda _: SimpleNamespace(free=1_000_000_000)
    )
    monkeypatch.setattr(environments, "_has_two_builds", lambda: True)
    monkeypatch.setattr(environments, "CUDA_BYTES", 5_000_000_000)
    large = replace(environment, bytes=1_450_000_000)
    for torch, needed in ("cpu", "2.0"), ("default", "9.0"):
        with pytest.raises(VipoError, match=f"`hpsv2` needs {needed} GB, and 1.0 GB are free"):
            finish(set_up(large, torch=torch))
    assert installed == []


def test_a_command_that_fails_shows_its_last_lines(environment):
    script = "print('so far so good'); print('no matching distribution'); raise SystemExit(3)"
    with pytest.raises(VipoError, match="pip failed with status 3") as caught:
        list(environments._run([sys.executable, "-c", script], environment))
    assert caught.value.details == ("so far so good", "no matching distribution")
    assert "--dry-run" in caught.value.hint
    with pytest.raises(VipoError, match="cannot run `/no/python`"):
        list(environments._run(["/no/python"], environment))


def test_which_build_of_torch(monkeypatch):
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    assert wants_cpu_build("cpu")
    assert not wants_cpu_build("default")
    for gpu in (True, False):
        monkeypatch.setattr("torch.cuda.is_available", lambda gpu=gpu: gpu)
        assert wants_cpu_build("auto") is not gpu
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    assert not wants_cpu_build("cpu")  # there is no other


def test_the_smoke_test_runs_the_adapter(environment, monkeypatch, tmp_path):
    fake = Path(__file__).parent / "fake_package.py"
    with environments.Worker("fake", Path(sys.executable), fake) as worker:
        assert worker.ask({"do": "hello"}, 20)["package"] == "pytest"
