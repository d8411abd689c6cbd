import json
import re

import pytest
from PIL import Image

from tests.painter import Painter, write_base, write_run
from vipo_cli.errors import VipoError
from vipo_cli.evaluation import generate
from vipo_cli.evaluation.evaluate import evaluate
from vipo_cli.evaluation.plan import Options
from vipo_cli.reporting.html import write_report
from vipo_cli.reporting.pages import LARGEST
from vipo_cli.reporting.read import spread
from vipo_cli.reporting.sheet import write_sheet
from vipo_cli.run import finish


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    place = tmp_path_factory.mktemp("report")
    run = write_run(place / "runs" / "poly", write_base(place / "base"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VIPO_CACHE", str(place / "cache"))
        patch.setattr(
            generate, "load_target", lambda target, _: Painter(0.9 if target.lora else 0.4)
        )
        return finish(evaluate("geneval", str(run), Options(prompts=4, prompt_set="shapes")))


def test_the_report_is_one_page_that_needs_nothing_else(found):
    page = write_report(found.out).read_text()
    assert not re.search(r'(src|href)="(?!data:)', page)
    assert "<script" not in page
    assert "https://" not in page
    assert "prefers-color-scheme: dark" in page


def test_the_report_tells_what_was_found_and_how(found):
    page = write_report(found.out).read_text()
    overall = found.results["metrics"]["overall"]
    gain = found.comparison["differences"]["overall"]
    assert f"{100 * overall['value']:.1f} %" in page
    assert f"{100 * gain['value']:+.1f} points" in page
    assert found.results["fingerprint"] in page
    assert "color attribution" in page
    assert "Gained most" in page
    assert "name: " in page  # the run's recipe
    assert found.results["warnings"][0] in page.replace("&#39;", "'")


def test_without_a_baseline_there_are_best_and_worst_prompts(found):
    page = write_report(found.baseline).read_text()
    assert "Worst prompts" in page
    assert "Gained most" not in page


def test_names_and_prompts_cannot_break_the_page(found, tmp_path):
    folder = tmp_path / "copy"
    folder.mkdir()
    for name in ("manifest.json", "results.json"):
        (folder / name).write_text((found.baseline / name).read_text())
    results = json.loads((folder / "results.json").read_text()) | {"model": "<script>x</script>"}
    (folder / "results.json").write_text(json.dumps(results))
    (folder / "samples.jsonl").write_text((found.baseline / "samples.jsonl").read_text())
    page = write_report(folder).read_text()  # its pictures are gone as well
    assert "<script>" not in page
    assert write_sheet(folder).is_file()


def test_large_pictures_are_made_small_for_the_page(found, tmp_path):
    folder = tmp_path / "large"
    pictures = folder / json.loads((found.baseline / "manifest.json").read_text())["pictures"]
    (pictures / "00000" / "samples").mkdir(parents=True)
    Image.effect_noise((1024, 768), 60).save(pictures / "00000" / "samples" / "0000.png")
    for name in ("manifest.json", "results.json"):
        (folder / name).write_text((found.baseline / name).read_text())
    line = (found.baseline / "samples.jsonl").read_text().splitlines()[0]
    (folder / "samples.jsonl").write_text(line + "\n")
    page = write_report(folder).read_text()
    assert "data:image/jpeg" in page
    assert len(page) < 8 * LARGEST**2
    with Image.open(write_sheet(folder)) as sheet:
        assert max(sheet.size) < 600


def test_the_sheet_shows_the_baseline_above(found):
    with (
        Image.open(write_sheet(found.out)) as sheet,
        Image.open(write_sheet(found.baseline)) as one,
    ):
        assert sheet.width == one.width
        assert sheet.height == pytest.approx(2 * one.height, abs=10)


def test_pictures_are_chosen_evenly_and_from_different_prompts():
    keys = [(prompt, image) for prompt in range(10) for image in (1, 2)]
    assert spread(keys, 5) == [(0, 1), (2, 1), (4, 1), (6, 1), (8, 1)]
    assert spread(keys[:4], 5) == [(0, 1), (1, 1)]


def test_a_folder_without_an_evaluation_is_refused(tmp_path):
    with pytest.raises(VipoError, match="holds no finished evaluation"):
        write_report(tmp_path)
