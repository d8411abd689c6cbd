import numpy as np
import pytest
from PIL import Image

from tests.painter import write_base
from vipo_cli.benchmarks import prompt_sets
from vipo_cli.evaluation import generate as module
from vipo_cli.evaluation.generate import (
    Sampling,
    generate,
    is_whole,
    list_pictures,
    picture_seed,
)
from vipo_cli.evaluation.target import find_target
from vipo_cli.media import Size
from vipo_cli.models.sample import fitting_batch_size
from vipo_cli.run import finish

METADATA = dict(list(enumerate(prompt_sets["shapes"]()))[:5])


@pytest.fixture
def target(tiny):
    return find_target(str(tiny))


def all_bytes(out):
    return {file.relative_to(out): file.read_bytes() for file in sorted(out.rglob("*.png"))}


def test_a_picture_has_its_own_seed_whatever_its_place():
    seeds = {picture_seed(s, p, i) for s in (0, 1) for p in ("a", "b") for i in (0, 1)}
    assert len(seeds) == 8
    assert all(0 <= seed < 2**63 for seed in seeds)
    sampling = Sampling(1, 1.0, images_per_prompt=2)
    alone = list_pictures({3: "b"}, sampling)
    among = list_pictures({1: "a", 3: "b", 4: "b"}, sampling)
    assert [picture.seed for picture in alone] == [picture.seed for picture in among[2:4]]
    assert len({picture.seed for picture in among}) == 6


def test_seeds_never_change_between_versions():
    assert picture_seed(0, "a red circle", 1) == 1664488307994124036


def test_a_truncated_or_missing_picture_is_not_whole(tmp_path):
    file = tmp_path / "a.png"
    assert not is_whole(file)
    Image.new("RGB", (8, 8)).save(file)
    assert is_whole(file)
    file.write_bytes(file.read_bytes()[:-3])
    assert not is_whole(file)
    file.write_bytes(b"")
    assert not is_whole(file)


def test_a_painter_fills_the_official_layout(tmp_path, painters):
    target = find_target(str(write_base(tmp_path / "base")))
    out = tmp_path / "out"
    assert finish(generate(target, METADATA, Sampling(1, 1.0), out)) == 10
    assert sorted(path.name for path in out.iterdir()) == [f"{index:05d}" for index in range(5)]
    assert [file.name for file in sorted((out / "00003" / "samples").iterdir())] == [
        "0000.png",
        "0001.png",
    ]
    assert (out / "00003" / "metadata.jsonl").is_file()
    assert finish(generate(target, METADATA, Sampling(1, 1.0), out)) == 0
    assert len(painters) == 1  # nothing to draw, nothing to load


def test_only_batches_that_lack_a_picture_are_drawn_again(tmp_path, painters):
    target = find_target(str(write_base(tmp_path / "base")))
    sampling = Sampling(1, 1.0, batch_size=4)
    out = tmp_path / "out"
    finish(generate(target, METADATA, sampling, out))
    assert [len(call) for call in painters[0].calls] == [4, 4, 2]
    whole = all_bytes(out)
    (out / "00000" / "samples" / "0001.png").unlink()
    cut = out / "00004" / "samples" / "0000.png"
    cut.write_bytes(cut.read_bytes()[:40])
    assert finish(generate(target, METADATA, sampling, out)) == 2
    assert [len(call) for call in painters[1].calls] == [4, 2]
    assert all_bytes(out) == whole


def test_a_pipeline_draws_the_same_picture_at_any_batch_size(tmp_path, target):
    for size in (1, 3, 10):
        sampling = Sampling(4, 3.0, batch_size=size)
        finish(generate(target, METADATA, sampling, tmp_path / str(size)))
    one, three, ten = (
        np.stack(
            [np.asarray(Image.open(file), int) for file in sorted((tmp_path / s).rglob("*.png"))]
        )
        for s in ("1", "3", "10")
    )
    assert np.ptp(one) > 20  # not all the same flat picture
    assert len({picture.tobytes() for picture in one}) == 10
    # the noise is the same to the bit; sums in another order may round one level away
    assert np.abs(one - three).max() <= 1
    assert np.abs(one - ten).max() <= 1


def test_a_pipeline_resumes_to_the_bit(tmp_path, target):
    sampling = Sampling(2, 3.0, batch_size=4)
    finish(generate(target, METADATA, sampling, tmp_path))
    whole = all_bytes(tmp_path)
    for file in list(whole)[1:6:2]:
        (tmp_path / file).unlink()
    finish(generate(target, METADATA, sampling, tmp_path))
    assert all_bytes(tmp_path) == whole


def test_each_text_is_encoded_once_the_empty_one_too(tmp_path, target, monkeypatch):
    pipeline = module.load_target(target)
    encoded = []
    encoder = pipeline.text_encoder.forward

    def count(input_ids, *rest, **options):
        encoded.append(tuple(input_ids[0].tolist()))
        return encoder(input_ids, *rest, **options)

    monkeypatch.setattr(pipeline.text_encoder, "forward", count)
    monkeypatch.setattr(module, "load_target", lambda *_: pipeline)
    finish(generate(target, METADATA, Sampling(1, 3.0, batch_size=3), tmp_path))
    assert len(encoded) == len(set(encoded)) == 1 + len(METADATA)


def test_batches_shrink_as_pictures_grow():
    assert fitting_batch_size(Size(32, 32)) == 64
    assert fitting_batch_size(Size(512, 512)) == 16
    assert fitting_batch_size(Size(4096, 4096)) == 1
    assert fitting_batch_size(Size(832, 480, 81)) == 1
