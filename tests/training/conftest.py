import pytest

from vipo_cli.recipe import resolve_recipe

SMALL = {
    "model.precision": "fp32",
    "data.pairs": 40,
    "data.held_out": 12,
    "optimizer.batch_size": 4,
    "run.steps": 4,
    "run.checkpoint_every": 2,
    "optimizer.learning_rate": 1e-3,
}


@pytest.fixture(scope="session")
def recipe(tiny):
    """Return a function that makes small recipes on the tiny model."""

    def make(method="diffusion-dpo", **settings):
        chosen = SMALL | {key.replace("__", "."): value for key, value in settings.items()}
        return resolve_recipe(None, model=str(tiny), method=method, settings=chosen)

    return make
