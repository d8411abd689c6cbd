import base64
import io
import json
import re

import numpy as np
import pytest
from PIL import Image

from vipo_cli.benchmarks.vbench import VBENCH
from vipo_cli.benchmarks.vbench_files import write_results
from vipo_cli.clips import encode_clip
from vipo_cli.evaluation.vbench import from_results
from vipo_cli.reporting.html import write_report
from vipo_cli.reporting.pages import LARGEST, MOST_FRAMES, medium_uri
from vipo_cli.reporting.sheet import PICTURE, write_sheet


def clip(frames=6, size=16, rate=8):
    """Return a clip whose frames grow brighter."""
    shades = np.linspace(0, 250, frames).astype(np.uint8)
    return encode_clip(shades[:, None, None, None] * np.ones((1, size, size, 3), np.uint8), rate)


def opened(uri):
    kind, _, data = uri.partition(";base64,")
    return kind, Image.open(io.BytesIO(base64.b64decode(data)))


def test_a_clip_moves_in_a_page():
    kind, picture = opened(medium_uri(clip(frames=6)))
    assert (kind, picture.n_frames, picture.size) == ("data:image/webp", 6, (16, 16))
    picture.seek(5)
    assert np.asarray(picture.convert("RGB")).mean() == 250


def test_a_long_large_clip_is_made_small_and_lasts_as_long():
    _, picture = opened(medium_uri(clip(frames=60, size=2 * LARGEST, rate=30)))
    assert picture.size == (LARGEST, LARGEST)
    assert MOST_FRAMES / 2 < picture.n_frames <= MOST_FRAMES
    lasts = 0
    for place in range(picture.n_frames):
        picture.seek(place)
        picture.load()
        lasts += picture.info["duration"]
    assert lasts == pytest.approx(2000, rel=0.02)


@pytest.fixture
def evaluated(tmp_path):
    """An evaluation on VBench: two prompts in one dimension, one of them in another as well."""
    files = tmp_path / "files"
    files.mkdir()
    for name, prompts in (
        ("scene", ["a cave"]),
        ("overall_consistency", ["a cave", "a <b>dog"]),
    ):
        results = [
            {"video_path": f"{prompt}-{index}.mp4", "video_results": 0.2 + 0.3 * place + index / 50}
            for place, prompt in enumerate(prompts)
            for index in range(5)
        ]
        value = float(np.mean([each["video_results"] for each in results]))
        write_results(files / f"{name}_eval_results.json", name, value, results)
    from_results(VBENCH, [files], out=tmp_path / "out")
    clips = tmp_path / "out" / "clips"
    clips.mkdir()
    for prompt in ("a cave", "a <b>dog"):
        for index in range(4):  # the fifth is gone
            (clips / f"{prompt}-{index}.mp4").write_bytes(clip())
    return tmp_path / "out"


def test_an_evaluation_on_vbench_has_a_page_with_its_clips(evaluated):
    page = write_report(evaluated).read_text()

    assert not re.search(r'(src|href)="(?!data:)', page)
    assert "no total: 14 of 16 dimensions are missing" in page
    assert "overall consistency" in page
    assert "data:image/webp" in page
    assert "<b>dog" not in page
    best = page[page.index("Best prompts") : page.index("Worst prompts")]
    assert "dog" in best
    assert "a cave" not in best
    said = re.findall(r"<figcaption[^>]*>\s*([\d.]+)", best)
    assert said == ["0.5", "0.52", "0.54", "0.56"]  # on the scale of the dimension


def test_its_contact_sheet_shows_three_frames_of_a_clip(evaluated):
    with Image.open(write_sheet(evaluated)) as sheet:
        assert sheet.width > 6 * PICTURE


def test_results_without_clips_have_a_page_without_pictures(evaluated):
    for file in (evaluated / "clips").iterdir():
        file.unlink()
    page = write_report(evaluated).read_text()
    assert "<figure>" not in page
    assert json.loads((evaluated / "results.json").read_text())["fingerprint"] in page
