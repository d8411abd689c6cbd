import json

import pytest

from vipo_cli.building.drawing import Sampling, drawn_folder
from vipo_cli.building.ways import Wish, build
from vipo_cli.data.record import LabelledSample, PreferencePair
from vipo_cli.data.stored import entries_in, open_stored
from vipo_cli.errors import DataError
from vipo_cli.run import finish

QUICK = Sampling(steps=1, guidance=1.0, batch_size=4)


@pytest.fixture
def prompts(tmp_path):
    file = tmp_path / "prompts.csv"
    rows = ["a red circle,one", "two squares,many", "a cross above a circle,two", "fog,none"]
    file.write_text("\n".join(["prompt,category", *rows]))
    return str(file)


def test_the_loser_is_drawn_from_a_perturbed_caption(prompts, painters, models, tmp_path):
    out = tmp_path / "pairs"
    wish = Wish(prompts, "perturbation", models=models[:1], sampling=QUICK)
    built = finish(build(wish, out))
    assert built.pairs == 3
    assert built.left_out == {"nothing in the caption that a perturbation knows": 1}
    assert built.report["perturbations"] == {"colour": 1, "count": 1, "relation": 1}
    entries = list(entries_in(out))
    assert [entry.prompt for entry in entries] == [
        "a red circle", "two squares", "a cross above a circle",
    ]  # fmt: skip
    drawn = [prompt for call in painters[0].calls for prompt in call]
    for entry, pair in zip(entries, zip(drawn[::2], drawn[1::2], strict=True), strict=True):
        assert pair == (entry.prompt, entry.metadata["perturbed_prompt"])
        assert entry.seeds[0] == entry.seeds[1] == entry.noise_seeds[0]
        assert entry.label == "a"
        assert entry.metadata["built_by"] == "perturbation"
    assert entries[2].metadata["perturbation_type"] == "relation"
    assert entries[2].metadata["perturbed_prompt"] == "a cross below a circle"
    assert [entry.category for entry in entries] == ["one", "many", "two"]
    assert not drawn_folder(out).exists()


def test_a_category_says_what_may_change(prompts, painters, models, tmp_path):
    wish = Wish(prompts, category="alignment", models=models, sampling=QUICK)
    built = finish(build(wish, tmp_path / "pairs"))
    assert built.categories == {"alignment": 6}  # of either model
    assert {entry.models for entry in entries_in(tmp_path / "pairs")} == {
        (model, model) for model in models
    }
    only = Wish(prompts, "perturbation", models=models[:1], changes=("count",), sampling=QUICK)
    built = finish(build(only, tmp_path / "counts"))
    assert built.report["perturbations"] == {"count": 1}


def test_nothing_to_perturb(tmp_path, painters, models):
    file = tmp_path / "prompts.txt"
    file.write_text("fog\nmist\n")
    with pytest.raises(DataError, match="no pair can be made") as caught:
        finish(build(Wish(str(file), "perturbation", models=models), tmp_path / "pairs"))
    assert caught.value.details == ("2: nothing in the caption that a perturbation knows",)
    assert painters == []


def test_a_killed_build_goes_on(prompts, painters, models, tmp_path):
    wish = Wish(prompts, "perturbation", models=models, sampling=QUICK)
    finish(build(wish, tmp_path / "whole"))
    work = build(wish, tmp_path / "pairs")
    while not painters[2:] or not painters[2].calls:
        next(work)
    work.close()
    finish(build(wish, tmp_path / "pairs"))
    one, two = (tmp_path / name / "part-00000.parquet" for name in ("whole", "pairs"))
    assert one.read_bytes() == two.read_bytes()


def test_self_play_sets_samples_against_winners(candidates, painters, models, tmp_path):
    finish(build(Wish(str(candidates), "reward:shapes-alignment"), tmp_path / "best"))
    out = tmp_path / "pairs"
    wish = Wish(str(tmp_path / "best"), "self-play", models=models[:1], sampling=QUICK)
    built = finish(build(wish, out))
    assert built.pairs == 4
    winners = [record.winner for record in open_stored(tmp_path / "best")]
    entries = list(entries_in(out))
    assert [entry.media[0] for entry in entries] == winners
    for entry in entries:
        assert entry.models[1] == models[0]
        assert entry.models[0] in ("y", "z")
        assert entry.seeds[0] is None
        assert entry.noise_seeds[1] == entry.seeds[1] is not None
        assert entry.metadata["built_by"] == "self-play"
    assert built.categories == {"colors": 2, "counting": 1, "position": 1}
    assert json.loads((out / "manifest.json").read_text())["from"]["by"] == "self-play"


def opened(records):
    """Open records as a source does that has nothing to tell."""
    yield from ()
    return records


def test_what_is_disliked_is_no_winner(painters, models, tmp_path, monkeypatch):
    from vipo_cli.building import ways

    records = [LabelledSample("a cross", b"1", True), LabelledSample("a circle", b"2", False)]
    monkeypatch.setattr(ways, "opening", lambda *_: opened(records))
    built = finish(build(Wish("x", "self-play", models=models[:1]), tmp_path / "pairs"))
    assert (built.pairs, built.left_out) == (1, {"not liked": 1})
    monkeypatch.setattr(ways, "opening", lambda *_: opened(records[1:]))
    with pytest.raises(DataError, match="no record has a winner"):
        finish(build(Wish("x", "self-play", models=models[:1]), tmp_path / "other"))


def test_a_prompt_that_comes_again_gets_another_sample(painters, models, tmp_path, monkeypatch):
    from vipo_cli.building import ways

    records = [PreferencePair("a cross", bytes([n]), b"x") for n in (1, 2)]
    monkeypatch.setattr(ways, "opening", lambda *_: opened(records))
    finish(build(Wish("x", "self-play", models=models[:1]), tmp_path / "pairs"))
    one, two = entries_in(tmp_path / "pairs")
    assert one.seeds != two.seeds
