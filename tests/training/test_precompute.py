import pytest

from vipo_cli.errors import UnknownName
from vipo_cli.recipe import resolve_recipe
from vipo_cli.run import finish
from vipo_cli.training.precompute import fill, open_filling
from vipo_cli.training.prepare import prepare


@pytest.fixture
def recipe(tiny):
    settings = {"data.pairs": 6, "data.held_out": 0, "optimizer.batch_size": 2, "run.samples": 0}
    return resolve_recipe(model=str(tiny), data="shapes", method="sft", settings=settings)


def test_training_starts_from_what_was_filled(recipe, tmp_path):
    filling = open_filling(recipe)
    filled = finish(fill(filling))
    assert (filled.records, filled.broken, filled.media) == (6, 0, 12)
    assert filled.seconds > 0
    assert filled.folder.is_dir()
    assert 0 < filled.bytes < 1.2 * filling.most_bytes + 20_000  # indices and columns beside
    stages = []
    setup = finish(prepare(recipe, filling.records, tmp_path), stages.append)
    assert setup.data.fingerprint == filled.folder.name
    assert "loading the encoders" not in {progress.stage for progress in stages}


def test_it_is_told_where_fewer_are_kept_back_than_wanted(recipe, tmp_path):
    few = recipe.model_copy(update={"data": recipe.data.model_copy(update={"held_out": 128})})
    told = []
    setup = finish(prepare(few, open_filling(few).records, tmp_path), told.append)
    warnings = [progress.warning for progress in told if progress.warning]
    assert warnings == ["of 6 records 1 kept back to be measured, not 128 (data.held_out)"]
    assert len(setup.held_out.records) == 1


def test_a_full_cache_is_said_to_be_there(recipe):
    finish(fill(open_filling(recipe)))
    assert finish(fill(open_filling(recipe))).seconds == 0


def test_another_size_and_type_have_caches_of_their_own(recipe):
    folders = set()
    for section, change in (
        ("data", {}),
        ("data", {"size": (64, 64)}),
        ("model", {"precision": "fp32"}),
    ):
        changed = getattr(recipe, section).model_copy(update=change)
        folders.add(finish(fill(open_filling(recipe.model_copy(update={section: changed})))).folder)
    assert len(folders) == 3


def test_an_unknown_model_is_refused_before_anything_is_opened(tiny):
    with pytest.raises(UnknownName):
        open_filling(resolve_recipe(model="sdxxl", data="shapes", method="sft"))
