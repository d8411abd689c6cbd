import gc
import os

os.environ["HF_HUB_OFFLINE"] = "1"

import pytest
import torch
from jaxtyping import install_import_hook

# check every annotated shape of the mathematics while testing; it costs nothing in production
install_import_hook(
    ["vipo_cli.objectives", "vipo_cli.schedules", "vipo_cli.models", "vipo_cli.training.step"],
    "beartype.beartype",
)

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    """No test reads or leaves anything in the user's cache."""
    monkeypatch.setenv("VIPO_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(scope="session", autouse=True)
def _nothing_old_to_look_through():
    """Let the collector pass over what was imported: a run asks it twice to look everywhere."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    from tests.tiny.sd import build

    return build(tmp_path_factory.mktemp("models") / "tiny")
