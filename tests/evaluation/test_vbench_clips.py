import json
from importlib.util import find_spec

import numpy as np
import pytest

from vipo_cli.benchmarks.vbench import VBENCH
from vipo_cli.benchmarks.vbench2 import VBENCH2
from vipo_cli.clips import encode_mp4
from vipo_cli.errors import DataError, ModelError, VipoError
from vipo_cli.evaluation import clips
from vipo_cli.evaluation.clips import generate_clips, list_clips
from vipo_cli.evaluation.generate import Sampling, picture_seed
from vipo_cli.evaluation.target import find_target
from vipo_cli.media import Size, probe, read_framed
from vipo_cli.run import finish

needs_av = pytest.mark.skipif(find_spec("av") is None, reason="the extra `video` writes MP4")
SAMPLING = Sampling(steps=1, guidance=1.0, seed=3)


def asked(prompt, *dimensions):
    return {"prompt": prompt, "tag": dimensions[0], "dimensions": list(dimensions)}


@pytest.fixture
def drawn(monkeypatch):
    """Draw grey clips whose shade is that of their seed; return what was drawn."""
    calls = []

    class Family:
        size = Size(16, 16, 3)

    def draw(prompts, seeds):
        calls.extend(zip(prompts, seeds, strict=True))
        return [np.full((3, 16, 16, 3), seed % 256, np.uint8) for seed in seeds]

    monkeypatch.setattr(clips, "load_target", lambda *_: None)
    monkeypatch.setattr(clips, "family_of", lambda _: Family())
    monkeypatch.setattr(clips, "drawer", lambda *_, **__: draw)
    return calls


def test_each_prompt_gets_the_official_number_of_clips():
    found = list_clips(
        VBENCH,
        [
            asked("a still frame", "temporal_flickering"),
            asked("a beach", "appearance_style"),
            asked("a beach", "overall_consistency", "aesthetic_quality"),
        ],
        seed=3,
    )

    names = [clip.name for clip in found]
    assert names == [f"a still frame-{i}.mp4" for i in range(25)] + [
        f"a beach-{i}.mp4" for i in range(5)
    ]
    assert found[26].seed == picture_seed(3, "a beach", 1)
    assert len({clip.seed for clip in found}) == 30


def test_a_prompt_of_several_dimensions_has_as_many_as_any_of_them_needs():
    entries = [asked("a man runs", "Human_Anatomy"), asked("a man runs", "Diversity")]
    assert len(list_clips(VBENCH2, entries, 0)) == 20


@pytest.mark.parametrize(
    "prompts", [["a/b"], ["x" * 300], ["x" * 180 + "a", "x" * 180 + "b"]], ids=len
)
def test_prompts_that_cannot_be_names_are_refused(prompts):
    suite, dimension = (VBENCH, "color") if len(prompts) == 1 else (VBENCH2, "Material")
    with pytest.raises(DataError, match="names of clips"):
        list_clips(suite, [asked(prompt, dimension) for prompt in prompts], 0)


@needs_av
def test_clips_appear_under_their_names_and_are_kept(tmp_path, drawn):
    target, prompts = find_target("shapes-video"), [asked("a cat", "color")]
    work = lambda: finish(generate_clips(target, VBENCH, prompts, SAMPLING, tmp_path))  # noqa: E731

    assert work() == 5
    lines = [json.loads(line) for line in (tmp_path / "clips.jsonl").read_text().splitlines()]
    assert [line["file"] for line in lines] == [f"a cat-{i}.mp4" for i in range(5)]
    assert [("a cat", line["seed"]) for line in lines] == drawn
    kept = {file: file.stat().st_mtime_ns for file in (tmp_path / "clips").iterdir()}

    (tmp_path / "clips" / "a cat-3.mp4").write_bytes(b"")  # what a failed copy leaves
    assert work() == 1
    changed = {file for file, date in kept.items() if file.stat().st_mtime_ns != date}
    assert {file.name for file in changed} == {"a cat-3.mp4"}
    assert work() == 0
    assert not list(tmp_path.glob("**/.*"))


@needs_av
def test_a_clip_is_the_same_whatever_stands_beside_it(tmp_path, drawn):
    target = find_target("shapes-video")
    for out, prompts in (("a", ["one", "two"]), ("b", ["two"])):
        entries = [asked(prompt, "color") for prompt in prompts]
        finish(generate_clips(target, VBENCH, entries, SAMPLING, tmp_path / out))
    for index in range(5):
        files = [tmp_path / out / "clips" / f"two-{index}.mp4" for out in "ab"]
        assert files[0].read_bytes() == files[1].read_bytes()


@needs_av
def test_models_of_pictures_are_refused(tmp_path, drawn, monkeypatch):
    class Family:
        size = Size(16, 16)

    target, prompts = find_target("shapes-sd"), [asked("a cat", "color")]
    for family, reason in ((Family(), "makes no clips"), (None, "is of no known kind")):
        monkeypatch.setattr(clips, "family_of", lambda _, family=family: family)
        with pytest.raises(ModelError, match=reason):
            finish(generate_clips(target, VBENCH, prompts, SAMPLING, tmp_path))
    assert not drawn


@needs_av
@pytest.mark.parametrize("size", [(32, 48), (31, 47)])
def test_frames_survive_encoding(size):
    shades = np.array([40, 120, 200], np.uint8)
    frames = np.broadcast_to(shades[:, None, None, None], (3, *size, 3)).copy()
    data = encode_mp4(frames, 16)

    found = probe(data)
    assert (found.height, found.width, found.frames) == (*size, 3)
    assert found.frames_per_second == 16
    decoded, _ = read_framed(data, Size(size[1], size[0], 3))
    assert np.abs(decoded.astype(int) - frames).max() <= 3
    assert encode_mp4(frames, 16) == data


def test_without_pyav_there_is_a_hint(monkeypatch, tmp_path):
    import builtins

    real = builtins.__import__

    def importing(name, *args, **options):
        if name == "av":
            raise ImportError(name)
        return real(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", importing)
    with pytest.raises(VipoError, match="PyAV") as caught:
        finish(
            generate_clips(
                find_target("shapes-video"), VBENCH, [asked("a cat", "color")], SAMPLING, tmp_path
            )
        )
    assert "vipo[video]" in caught.value.hint


@pytest.mark.slow
def test_the_embedded_model_draws_clips(tmp_path):
    sampling = Sampling(steps=2, guidance=2.0)
    prompts = [asked("a red circle moves to the right", "color")]
    assert (
        finish(generate_clips(find_target("shapes-video"), VBENCH, prompts, sampling, tmp_path))
        == 5
    )
    found = [probe(file.read_bytes()) for file in (tmp_path / "clips").iterdir()]
    assert {(one.width, one.height, one.frames) for one in found} == {(32, 32, 9)}
    assert len({file.read_bytes() for file in (tmp_path / "clips").iterdir()}) == 5
