"""The runner of the official package, with one that is made up in the place of it.

The made-up package has the public one's class, arguments and result files. With the public one,
vbench 0.1.5 as `vipo eval setup vbench` installs it, the same was done by hand.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from vipo_cli.benchmarks.vbench import VBENCH
from vipo_cli.benchmarks.vbench2 import VBENCH2
from vipo_cli.errors import VipoError
from vipo_cli.evaluation.vbench_runner import Official, find_python, run_official
from vipo_cli.rewards.environments import ENVIRONMENTS, NOTE, interpreter
from vipo_cli.rewards.worker import WORKERS
from vipo_cli.run import finish

PACKAGE = """
import json, os, sys, time

class VBench:
    def __init__(self, device, full_info_dir, output_path):
        assert str(device) == "cpu"
        self.info, self.output = full_info_dir, output_path

    def evaluate(self, videos_path, name, prompt_list=[], dimension_list=None, local=False,
                 read_frame=False, mode="vbench_standard", **kwargs):
        [dimension] = dimension_list
        with open(os.environ["CALLS"], "a") as calls:
            print(dimension, file=calls)
        print("judging", dimension, "with", os.path.basename(self.info), flush=True)
        print("local", kwargs.get("local", local), os.environ.get("VBENCH_CACHE_DIR"))
        if dimension == "color":
            raise RuntimeError("no detectron2")
        if dimension == "scene":
            time.sleep(float(os.environ.get("PAUSE", "0")))
        clips = sorted(os.listdir(videos_path))
        found = [{"video_path": os.path.join(videos_path, c), "video_results": 0.5} for c in clips]
        with open(os.path.join(self.output, name + "_full_info.json"), "w") as file:
            json.dump([], file)
        with open(os.path.join(self.output, name + "_eval_results.json"), "w") as file:
            json.dump({dimension: [0.5, found]}, file)
"""
TORCH = """
class cuda:
    is_available = staticmethod(lambda: False)
class hub:
    pass
device = str
"""
LACKING = "import detectron2"
OPENCV = """
class VideoWriter:
    def __init__(self, file, *_):
        open(file, "w").close()
    def write(self, frame): ...
    def release(self): ...
def VideoWriter_fourcc(*letters): ...
"""


@pytest.fixture
def official(tmp_path, monkeypatch):
    """Put a package and a torch that take no time to import in the interpreter's way."""
    site = tmp_path / "site"
    for name, source in (("vbench", PACKAGE), ("torch", TORCH), ("cv2", OPENCV)):
        (site / name).mkdir(parents=True)
        (site / name / "__init__.py").write_text(source)
    (site / "vbench" / "object_class.py").write_text(LACKING)
    monkeypatch.setenv("PYTHONPATH", str(site))
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
    (tmp_path / "calls").touch()
    return Official(Path(sys.executable))


@pytest.fixture
def videos(tmp_path):
    folder = tmp_path / "videos"
    folder.mkdir()
    for index in range(2):
        (folder / f"a cat-{index}.mp4").write_bytes(b"clip")
    return folder


def calls(tmp_path):
    return (tmp_path / "calls").read_text().split()


def run(official, videos, out, *dimensions):
    return finish(run_official(VBENCH, official, videos, dimensions, out))


def test_each_dimension_is_run_once_and_its_log_kept(tmp_path, official, videos):
    out = tmp_path / "out"
    assert run(official, videos, out, "scene", "human_action") == {}
    assert calls(tmp_path) == ["scene", "human_action"]

    results = json.loads((out / "official/scene/results_eval_results.json").read_text())
    assert results["scene"][0] == 0.5
    assert len(results["scene"][1]) == 2
    log = (out / "official/scene/log.txt").read_text()
    assert "judging scene with VBench_full_info.json" in log
    assert "ended with status 0" in log

    assert run(official, videos, out, "scene", "human_action") == {}
    assert calls(tmp_path) == ["scene", "human_action"]


def test_other_clips_are_judged_again(tmp_path, official, videos):
    run(official, videos, tmp_path / "out", "scene")
    (videos / "a cat-2.mp4").write_bytes(b"clip")
    run(official, videos, tmp_path / "out", "scene")
    assert calls(tmp_path) == ["scene", "scene"]


def test_a_dimension_that_fails_leaves_the_others_alone_and_is_tried_again(
    tmp_path, official, videos
):
    out = tmp_path / "out"
    failed = run(official, videos, out, "color", "scene")

    assert list(failed) == ["color"]
    assert failed["color"].startswith("RuntimeError: no detectron2 (all of it: ")
    assert "no detectron2" in (out / "official/color/log.txt").read_text()
    assert not (out / "official/color/results_eval_results.json").exists()
    assert run(official, videos, out, "color", "scene").keys() == {"color"}
    assert calls(tmp_path) == ["color", "scene", "color"]


def test_a_folder_of_the_dimensions_name_holds_its_clips(tmp_path, official, videos):
    (videos / "scene").mkdir()
    (videos / "scene" / "a dog-0.mp4").write_bytes(b"clip")
    run(official, videos, tmp_path / "out", "scene")
    file = tmp_path / "out/official/scene/results_eval_results.json"
    [one] = json.loads(file.read_text())["scene"][1]
    assert Path(one["video_path"]).name == "a dog-0.mp4"


def test_one_that_is_stopped_is_ended_and_leaves_nothing_that_counts(
    tmp_path, official, videos, monkeypatch
):
    monkeypatch.setenv("PAUSE", "60")
    out = tmp_path / "out"
    work = run_official(VBENCH, official, videos, ["scene"], out)
    while "scene" not in calls(tmp_path):
        next(work)
    work.close()

    assert not (out / "official/scene").exists()
    begun = [path for path in (out / "official").iterdir() if path.name.startswith(".")]
    assert len(begun) == 1  # its log is still there to be read
    monkeypatch.setenv("PAUSE", "0")
    assert run(official, videos, out, "scene") == {}
    assert [path.name for path in (out / "official").iterdir()] == ["scene"]


def test_a_dimension_that_cannot_be_imported_is_not_begun(tmp_path, official, videos):
    failed = run(official, videos, tmp_path / "out", "object_class")
    assert failed["object_class"].startswith("ModuleNotFoundError: No module named 'detectron2'")
    assert calls(tmp_path) == []


def test_weights_and_device_are_handed_on(tmp_path, official, videos):
    weights = tmp_path / "weights"
    weights.mkdir()
    log = tmp_path / "out/official/scene/log.txt"
    run(official, videos, tmp_path / "out", "scene")
    assert "local False None" in log.read_text()

    own = Official(official.python, weights=weights, device="cpu")
    run(own, videos, tmp_path / "out", "scene")
    assert f"local True {weights}" in log.read_text()
    assert calls(tmp_path) == ["scene", "scene"]  # by other weights is another judgement
    assert run(Official(official.python, device="cuda"), videos, tmp_path / "out", "scene")
    assert "AssertionError" in log.read_text()  # the made-up one wants a CPU


def test_a_set_up_that_judges_wrongly_is_found_out(official):
    command = [official.python, WORKERS / "serve.py", WORKERS / "vbench.py"]
    said = subprocess.run(command, input='{"do": "hello"}\n', stdout=subprocess.PIPE, text=True)
    error = json.loads(said.stdout)["error"]
    assert error.startswith("RuntimeError: temporal_flickering of a clip is 0.5, where 0.96")


def test_an_info_file_of_ones_own_is_handed_on(tmp_path, official, videos):
    own = tmp_path / "own.json"
    own.write_text("[]")
    run(Official(official.python, own), videos, tmp_path / "out", "scene")
    assert "with own.json" in (tmp_path / "out/official/scene/log.txt").read_text()


def test_the_interpreter_must_be_there(tmp_path, monkeypatch):
    monkeypatch.setenv("VIPO_CACHE", str(tmp_path))
    assert find_python(VBENCH, sys.executable) == Path(sys.executable)
    with pytest.raises(VipoError, match="no program"):
        find_python(VBENCH, str(tmp_path / "python"))
    with pytest.raises(VipoError, match="`vbench` is not set up") as caught:
        find_python(VBENCH, None)
    assert "vipo eval setup vbench" in caught.value.hint
    assert "--python" in caught.value.hint
    with pytest.raises(VipoError, match="can import `vbench2`") as caught:
        find_python(VBENCH2, None)
    assert "--python" in caught.value.hint


def test_that_of_its_set_up_is_taken_and_shielded(tmp_path, official, videos, monkeypatch):
    monkeypatch.setenv("VIPO_CACHE", str(tmp_path / "cache"))
    folder = ENVIRONMENTS["vbench"].folder
    interpreter(folder).parent.mkdir(parents=True)
    interpreter(folder).symlink_to(sys.executable)
    (folder / NOTE).write_text("{}")
    python = find_python(VBENCH, None)
    assert python == interpreter(folder)
    assert find_python(VBENCH, sys.executable) == Path(sys.executable)  # one that is named wins

    failed = run(Official(python), videos, tmp_path / "out", "scene")
    assert (
        "No module named" in failed["scene"]
    )  # PYTHONPATH, where the made-up one lies, is not seen
