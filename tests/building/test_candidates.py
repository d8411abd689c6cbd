import json

import numpy as np
import pytest
import torch

from vipo_cli.building import drawing
from vipo_cli.building.candidates import generate_candidates
from vipo_cli.building.drawing import (
    Job,
    Sampling,
    draw_all,
    drawn_folder,
    find_artists,
    medium_file,
)
from vipo_cli.building.prompts import Prompt, read_prompts
from vipo_cli.data.stored import entries_in, is_stored
from vipo_cli.errors import DataError, UnknownName
from vipo_cli.evaluation.generate import picture_seed
from vipo_cli.media import decode
from vipo_cli.models import load_family
from vipo_cli.models.sample import decode_latents, sample_latents
from vipo_cli.run import finish

PROMPTS = [Prompt("a red circle", "colors"), Prompt("two squares"), Prompt("a cross")]
QUICK = Sampling(steps=1, guidance=1.0, batch_size=2)


def generated(out, models, per_prompt=1, sampling=QUICK, prompts=PROMPTS):
    artists = find_artists(models, sampling)
    return finish(generate_candidates(prompts, artists, per_prompt, sampling, out))


def test_candidates_stand_by_prompt_with_models_and_seeds(tmp_path, painters, models):
    made = generated(tmp_path / "set", models, 2)
    assert (made.prompts, made.media) == (3, 12)
    entries = list(entries_in(tmp_path / "set"))
    assert [entry.prompt for entry in entries] == [prompt.text for prompt in PROMPTS]
    first = entries[0]
    assert (first.label, first.category, entries[1].category) == ("candidates", "colors", None)
    assert first.models == (models[0],) * 2 + (models[1],) * 2
    assert first.seeds == first.noise_seeds
    assert first.seeds == tuple(picture_seed(0, "a red circle", number) for number in range(4))
    manifest = json.loads((tmp_path / "set" / "manifest.json").read_text())
    assert [each["model"] for each in manifest["from"]["models"]] == models
    assert not drawn_folder(tmp_path / "set").exists()


def test_each_model_is_loaded_once(tmp_path, painters, models):
    generated(tmp_path / "set", models, 3)
    assert len(painters) == 2
    assert sum(map(len, painters[0].calls)) == 9


def test_a_candidate_does_not_depend_on_what_is_beside_it(tmp_path, painters, models):
    generated(tmp_path / "all", models, 2, Sampling(steps=1, guidance=1.0, batch_size=5))
    generated(tmp_path / "alone", models, 2, prompts=PROMPTS[1:2])
    every = {entry.prompt: entry.media for entry in entries_in(tmp_path / "all")}
    (alone,) = entries_in(tmp_path / "alone")
    assert alone.media == every["two squares"]


def test_the_same_again_gives_the_same_bytes(tmp_path, painters, models):
    for name in ("one", "two"):
        generated(tmp_path / name, models, 2)
    one, two = (tmp_path / name / "part-00000.parquet" for name in ("one", "two"))
    assert one.read_bytes() == two.read_bytes()


def test_a_killed_drawing_goes_on_and_equals_one_that_was_not(tmp_path, painters, models):
    generated(tmp_path / "whole", models, 2)
    artists = find_artists(models, QUICK)
    work = generate_candidates(PROMPTS, artists, 2, QUICK, tmp_path / "set")
    while sum(len(call) for painter in painters[2:] for call in painter.calls) < 8:
        next(work)
    work.close()
    drawn = drawn_folder(tmp_path / "set")
    cut = medium_file(drawn, 0, 1)
    cut.write_bytes(cut.read_bytes()[:-4])  # as after a power cut
    assert not is_stored(tmp_path / "set")
    painters.clear()
    generated(tmp_path / "set", models, 2)
    assert [sum(map(len, painter.calls)) for painter in painters] == [2, 4]
    one, two = (tmp_path / name / "part-00000.parquet" for name in ("whole", "set"))
    assert one.read_bytes() == two.read_bytes()
    assert not drawn.exists()


def test_what_is_drawn_for_something_else_is_not_taken(tmp_path, painters, models):
    artists = find_artists(models[:1], QUICK)
    work = generate_candidates(PROMPTS, artists, 1, QUICK, tmp_path / "set")
    for _ in range(3):
        next(work)
    work.close()
    with pytest.raises(DataError, match="drawn for something else"):
        generated(tmp_path / "set", models[:1], 2)


def test_a_folder_that_holds_a_data_set_is_refused_before_anything_is_drawn(
    tmp_path, painters, models
):
    generated(tmp_path / "set", models[:1])
    with pytest.raises(DataError, match="holds a data set already"):
        generated(tmp_path / "set", models[:1])
    assert len(painters) == 1


def test_processes_draw_the_same_between_them(tmp_path, painters, models, monkeypatch):
    artists = find_artists(models[:1], QUICK)
    jobs = [[Job("a red circle", seed) for seed in range(7)]]
    finish(draw_all(artists, jobs, QUICK, tmp_path / "alone", {}))
    for rank in (0, 1):
        monkeypatch.setattr(drawing, "is_mine", lambda number, rank=rank: number % 2 == rank)
        finish(draw_all(artists, jobs, QUICK, tmp_path / "both", {}))
    assert [sum(map(len, painter.calls)) for painter in painters] == [7, 4, 3]
    for number in range(7):
        one, two = (medium_file(tmp_path / name, 0, number) for name in ("alone", "both"))
        assert one.read_bytes() == two.read_bytes()


def test_models_that_cannot_draw(tmp_path, models):
    with pytest.raises(DataError, match="no model"):
        find_artists([], QUICK)
    with pytest.raises(DataError, match="named twice"):
        find_artists([models[0]] * 2, QUICK)
    with pytest.raises(UnknownName):
        find_artists(["shapes-ds"], QUICK)


def test_noise_can_be_made_again_from_the_seed_alone(tmp_path, tiny):
    sampling = Sampling(steps=2, guidance=2.0, batch_size=2)
    generated(tmp_path / "set", [str(tiny)], 2, sampling, PROMPTS[:1])
    (entry,) = entries_in(tmp_path / "set")
    family = load_family(str(tiny))
    for medium, seed in zip(entry.media, entry.noise_seeds, strict=True):
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn(family.denoiser.config.in_channels, 8, 8, generator=generator)[None]
        condition, empty = (family.encode_prompts([text]) for text in (entry.prompt, ""))
        latents = sample_latents(
            family, noise, condition, empty, [generator], steps=2, guidance=2.0
        )
        (pixels,) = decode_latents(family, latents)
        drawn = np.asarray(decode(medium), int)
        assert np.abs(drawn - pixels).max() <= 1  # another batch: sums are rounded otherwise
    assert entry.media[0] != entry.media[1]


def test_prompts_of_text_files_and_tables(tmp_path):
    lines = tmp_path / "prompts.txt"
    lines.write_text("\ufeffa dog\n\n  a cat \na dog\n", encoding="utf-8")
    assert read_prompts(str(lines)) == [Prompt("a dog"), Prompt("a cat")]
    assert read_prompts(str(lines), limit=1) == [Prompt("a dog")]
    table = tmp_path / "prompts.csv"
    table.write_text("id,caption,category\n1,a dog,animals\n2,a car,\n")
    assert read_prompts(str(table)) == [Prompt("a dog", "animals"), Prompt("a car")]
    rows = tmp_path / "prompts.jsonl"
    rows.write_text('{"prompt": "a dog"}\n{"prompt": 3}\nnot JSON\n')
    assert read_prompts(str(rows)) == [Prompt("a dog")]


def test_prompts_of_data_sets(tmp_path, candidates):
    found = read_prompts(str(candidates))
    assert [prompt.category for prompt in found] == ["colors", "counting", "position", "colors"]
    drawn = read_prompts("shapes", {"pairs": 12, "kind": "captions"}, limit=5)
    assert len(drawn) == 5
    assert drawn[0].category == "single_object"


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("empty.txt", "\n \n", "holds no prompt"),
        ("latin.txt", b"caf\xe9", "cannot read"),
        ("media.csv", "image,label\na.png,1\n", "no column of prompts"),
        ("none.csv", "prompt\n", "no column of prompts|holds no prompt"),
    ],
)
def test_places_without_prompts(tmp_path, name, text, words):
    file = tmp_path / name
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DataError, match=words):
        read_prompts(str(file))


def test_a_place_that_is_not_there(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        read_prompts(str(tmp_path / "no.txt"))
    with pytest.raises(UnknownName):
        read_prompts("shaps")
