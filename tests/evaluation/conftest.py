import pytest

from tests.painter import Painter
from vipo_cli.evaluation import generate


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("VIPO_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def painters(monkeypatch):
    """Put painters in the place of pipelines: a LoRA draws better than its base."""
    made = []

    def load(target, precision="fp32"):
        made.append(Painter(0.8 if target.lora else 0.5))
        return made[-1]

    monkeypatch.setattr(generate, "load_target", load)
    return made
