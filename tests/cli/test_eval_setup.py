import json

import pytest
import typer
from typer.testing import CliRunner

from vipo_cli.cli.eval_setup import register
from vipo_cli.errors import UnknownName, VipoError
from vipo_cli.evaluation import doctor
from vipo_cli.rewards import environments, parity
from vipo_cli.rewards.environments import ENVIRONMENTS, NOTE, interpreter
from vipo_cli.rewards.parity import agreement
from vipo_cli.run import Progress

app = typer.Typer(rich_markup_mode=None)
register(app)


def vipo_eval(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture(autouse=True)
def nothing_here(tmp_path, monkeypatch):
    """A machine with neither weights nor environments."""
    from huggingface_hub import constants

    monkeypatch.setenv("VIPO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))


@pytest.fixture
def made():
    """The environment of hpsv2, in name only."""
    folder = ENVIRONMENTS["hpsv2"].folder
    interpreter(folder).parent.mkdir(parents=True)
    interpreter(folder).write_text("")
    note = {
        "package": "hpsv2",
        "version": "1.2.0",
        "python": "3.11.7",
        "versions": {"torch": "2.13.0+cpu"},
        "bytes": 1_400_000_000,
        "seconds": 77,
    }
    (folder / NOTE).write_text(json.dumps(note))
    return folder


def test_without_a_name_the_packages_are_listed(made):
    lines = vipo_eval("setup").stdout.splitlines()
    assert lines == [
        "image-reward  not set up; official backend of imagereward",
        "hpsv2         ready; official backend of hpsv2.0, hpsv2.1",
        "clip          not set up; official backend of aesthetic, aesthetic-linear, clip, "
        "clipscore, pickscore",
        "vbench        not set up; official backend of vbench",
    ]
    assert vipo_eval("setup", "--quiet").stdout == "image-reward\nhpsv2\nclip\nvbench\n"


def test_a_dry_run_prints_what_pip_would_read():
    result = vipo_eval("setup", "hpsv2.1", "--dry-run")
    assert result.exit_code == 0
    assert result.stdout == ENVIRONMENTS["hpsv2"].requirements
    assert "about 1.4 GB" in result.stderr
    document = json.loads(vipo_eval("setup", "hpsv2", "--dry-run", "--json").stdout)
    assert "hpsv2==1.2.0" in document["requirements"]
    assert document["supplements"][0]["reason"].startswith("the wheel of hpsv2 1.2.0 lacks")
    assert not ENVIRONMENTS["hpsv2"].folder.exists()


def test_what_is_there_is_shown_at_once(made):
    result = vipo_eval("setup", "hpsv2")
    assert result.stdout.splitlines() == [
        "hpsv2 1.2.0 is ready",
        "",
        f"folder   {made}",
        "size     1.4 GB, made in 77 s",
        "runs on  Python 3.11.7, torch 2.13.0+cpu",
    ]
    assert "vipo eval parity hpsv2.1" in result.stderr
    assert vipo_eval("setup", "hpsv2", "-q").stdout == f"{made}\n"


def test_what_a_package_cannot_do_alone_is_told():
    folder = ENVIRONMENTS["vbench"].folder
    interpreter(folder).parent.mkdir(parents=True)
    interpreter(folder).write_text("")
    known = {"package": "vbench", "version": "0.1.5", "python": "3.11.7", "bytes": 1, "seconds": 1}
    (folder / NOTE).write_text(json.dumps(known | {"versions": {"torch": "2.13.0"}}))
    said = vipo_eval("setup", "vbench").stderr
    assert "not for commercial use" in said
    assert f"need detectron2 too, which is in no package index: {interpreter(folder)} -m" in said
    assert "vipo eval vbench TARGET --backend official" in said
    assert "parity" not in said


def test_options_reach_the_engine(monkeypatch, made):
    seen = {}

    def set_up(environment, **options):
        seen.update(options, name=environment.name)
        yield Progress("installing torch", 0, 1)
        return json.loads((made / NOTE).read_text())

    monkeypatch.setattr(environments, "set_up", set_up)
    words = ("--python", "/usr/bin/python3", "--torch", "cpu", "--recreate", "--json")
    document = json.loads(vipo_eval("setup", "imagereward", *words).stdout)
    assert document["version"] == "1.2.0"
    assert seen == {
        "name": "image-reward",
        "python": "/usr/bin/python3",
        "torch": "cpu",
        "recreate": True,
    }
    assert vipo_eval("setup", "hpsv2", "--torch", "rocm").exit_code == 2


def test_an_unknown_package_is_an_error():
    error = vipo_eval("setup", "hpsv").exception
    assert isinstance(error, UnknownName)
    assert "did you mean `hpsv2`?" in error.hint


def test_everything_registered_is_known_to_the_doctor():
    from vipo_cli.benchmarks import tasks
    from vipo_cli.rewards import rewards
    from vipo_cli.weights import SOURCES

    assert set(doctor.REWARDS) <= set(rewards.names())
    assert set(doctor.BENCHMARKS) <= set(tasks.names())
    assert set(rewards.names()) - set(doctor.REWARDS) == set()
    assert set(tasks.names()) - set(doctor.BENCHMARKS) == set()
    assert not set(doctor.SUITES) & set(tasks.names())
    tables = (doctor.REWARDS, doctor.BENCHMARKS, doctor.SUITES)
    for needs in (each for table in tables for each in table.values()):
        assert set(needs.sources) <= set(SOURCES)


def test_the_doctor_speaks_to_people(made):
    result = vipo_eval("doctor")
    assert result.exit_code == 0
    table = result.stdout.partition("What is missing")[0].splitlines()
    assert max(map(len, table)) <= 80
    words = [line.split() for line in table if line]
    rows = {row[0]: row for row in reversed(words)}  # of two alike, such as prompts, the first
    assert rows["shapes-alignment"][1] == "yes"
    assert rows["hpsv2.1"][1:4] == ["no", "3.9", "GB"]
    assert rows["hpsv2.1"][-2:] == ["hpsv2", "1.2.0"]
    assert rows["imagereward"][-4:] == ["vipo", "eval", "setup", "image-reward"]
    assert rows["geneval"][-2:] == ["MIT", "-"]
    assert rows["vbench"][-5:] == ["Apache-2.0", "vipo", "eval", "setup", "vbench"]
    assert rows["vbench2"][-2:] == ["Apache-2.0", "-"]
    assert "motion_smoothness are not for commercial use" in " ".join(result.stdout.split())
    assert ["shapes", "yes", "600"] in words
    lines = result.stdout.splitlines()
    assert lines.count("    hf download xswu/HPSv2 HPS_v2.1_compressed.pt") == 1
    shared = next(line for line in lines if line.startswith("clip-l, 1.7 GB: for "))
    assert {"aesthetic", "clip", "geneval"} <= set(shared.replace(",", "").split())


def test_the_doctor_speaks_to_programs():
    document = json.loads(vipo_eval("doctor", "--json").stdout)
    rows = {row["name"]: row for row in document["rewards"]}
    row = rows["imagereward"]
    assert row["ready"] is False
    assert row["licence"] == "Apache-2.0"
    assert [source["here"] for source in row["sources"]] == [False, False]
    assert row["to_fetch"] == sum(source["bytes"] for source in row["sources"])
    assert row["official"]["ready"] is False
    assert row["official"]["next"] == "vipo eval setup image-reward"
    assert rows["shapes-vividness"]["official"] is None
    assert "shapes-motion" in vipo_eval("doctor", "-q").stdout.splitlines()
    [vbench] = [row for row in document["benchmarks"] if row["name"] == "vbench"]
    assert "CC-BY-NC" in vbench["official"]["terms"]
    assert {"dino-b16", "clip-b", "aesthetic-linear"} <= {
        source["name"] for source in vbench["sources"]
    }


def test_a_script_can_require_something(made):
    assert vipo_eval("doctor", "--require", "shapes-alignment").exit_code == 0
    assert vipo_eval("doctor", "--require", "hpsv2").exit_code == 0  # the environment
    result = vipo_eval("doctor", "--require", "hpsv2.1", "--require", "image-reward")
    assert result.exit_code == 3
    assert "not ready: hpsv2.1, image-reward" in result.stderr
    assert isinstance(vipo_eval("doctor", "--require", "nonsense").exception, UnknownName)


def test_weights_that_are_here_are_seen(tmp_path, monkeypatch):
    folder = tmp_path / "cache" / "weights" / "aesthetic"
    folder.mkdir(parents=True)
    (folder / "sac+logos+ava1-l14-linearMSE.pth").write_bytes(b"x")
    document = json.loads(vipo_eval("doctor", "--json").stdout)
    row = next(row for row in document["rewards"] if row["name"] == "aesthetic")
    assert [source["here"] for source in row["sources"]] == [True, False, False]
    assert [each["what"] for each in row["missing"]] == ["clip-l", "clip-l-tokenizer"]


def test_a_plugin_is_listed_without_a_verdict(monkeypatch):
    from vipo_cli.rewards import rewards

    monkeypatch.setitem(rewards._loaded, "my-own", lambda: None)
    document = json.loads(vipo_eval("doctor", "--json").stdout)
    row = next(row for row in document["rewards"] if row["name"] == "my-own")
    assert row["ready"] is None
    assert row["licence"] == "unknown"
    assert vipo_eval("doctor", "--require", "my-own").exit_code == 3


@pytest.fixture
def compared(monkeypatch):
    """Two backends that are 2e-5 apart on two of three pictures."""
    import numpy as np

    asked = []

    def parity_of(name, samples, **options):
        asked.append((name, samples, options))
        yield Progress("scoring (native)", 0, 3)
        ours, theirs = np.array([0.25, 1.25, 1.0]), np.array([0.25, 1.25 + 2e-5, np.nan])
        rows = [
            {"picture": "a", "official": 0.25, "native": 0.25, "difference": 0.0, "failure": ""},
            {"picture": "b", "official": 1.25, "native": 1.25, "difference": 2e-5, "failure": ""},
            {"picture": "c", "official": None, "native": 1.0, "difference": None,
             "failure": "RuntimeError: four channels"},
        ]  # fmt: skip
        place = {"device": "cpu", "dtype": "float32"}
        return {
            "reward": name,
            "weights": "random, seed 0",
            "official": place | {"package": "p", "version": "1", "versions": {"torch": "2"}},
            "native": place | {"torch": "3"},
            **agreement(ours, theirs),
            "pictures": rows,
        }

    monkeypatch.setattr(parity, "parity_of", parity_of)
    return asked


def test_backends_that_agree(compared):
    result = vipo_eval("parity", "hpsv2.1", "--random-weights", 0, "--tolerance", 1e-4)
    assert result.exit_code == 0
    assert max(map(len, result.stdout.splitlines())) <= 80
    assert result.stdout.splitlines()[3].split(maxsplit=3) == [
        "c", "-", "1.000000", "RuntimeError: four channels",
    ]  # fmt: skip
    assert "scores    2 of 3 compared" in result.stdout
    assert "apart     largest 2.0e-05, mean 1.0e-05, allowed 1.3e-04" in result.stdout
    assert "relative  1.6e-05 of the largest score" in result.stdout
    assert result.stdout.endswith("they agree\n")
    assert compared[0][2]["seed"] == 0


def test_backends_that_do_not_agree_give_status_3(compared):
    result = vipo_eval("parity", "hpsv2.1", "--random-weights", 0, "--json")
    assert result.exit_code == 3
    document = json.loads(result.stdout)
    assert document["agree"] is False
    assert document["tolerance"] == 1e-5
    assert document["only_native"] == 1


def test_own_pictures_and_prompts_are_compared(compared, tmp_path):
    from PIL import Image

    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    (tmp_path / "prompts.txt").write_text("mine\n")
    words = ("--images", tmp_path, "--prompts", tmp_path / "prompts.txt", "--weights", "w")
    # below fp32 more is allowed
    assert vipo_eval("parity", "imagereward", *words, "--dtype", "bf16").exit_code == 0
    name, samples, options = compared[0]
    assert (name, [each.prompt for each in samples], options["path"]) == (
        "imagereward", ["mine"], "w",
    )  # fmt: skip


def test_weights_are_real_or_random():
    error = vipo_eval("parity", "hpsv2.1", "--weights", "w", "--random-weights", 0).exception
    assert isinstance(error, VipoError)
    assert "exclude each other" in error.message


def test_without_the_environment_the_next_command_is_named():
    error = vipo_eval("parity", "hpsv2.1", "--random-weights", 0).exception
    assert isinstance(error, VipoError)
    assert error.hint == "vipo eval setup hpsv2"
