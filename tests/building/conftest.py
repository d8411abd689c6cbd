import pytest

from tests.painter import Painter, write_base
from vipo_cli.building import drawing
from vipo_cli.data.entry import Entry
from vipo_cli.data.store import Store
from vipo_cli.media import encode_png
from vipo_cli.shapes.captions import draw_caption, draw_scene, perturb
from vipo_cli.shapes.scene import render


@pytest.fixture
def painters(monkeypatch):
    """Put painters in the place of pipelines; return those that were loaded."""
    made = []

    def load(target, precision="fp32"):
        made.append(Painter(0.5))
        return made[-1]

    monkeypatch.setattr(drawing, "load_target", load)
    return made


@pytest.fixture
def models(tmp_path):
    """Names of two models that painters stand for."""
    return [str(write_base(tmp_path / name)) for name in ("model-a", "model-b")]


@pytest.fixture
def keep(tmp_path):
    """Return a function that keeps entries as a data set and returns its folder."""

    def keep(entries, name="set"):
        store = Store(tmp_path / name, {"made": "by hand"})
        for entry in entries:
            store.add(entry)
            store.passed()
        store.close()
        return tmp_path / name

    return keep


def picture(rng, caption, seed=0):
    return encode_png(render(draw_scene(rng, caption), seed=seed))


@pytest.fixture
def candidates(keep):
    """Four prompts with three candidates each: wrong, right, right again."""
    import numpy as np

    rng = np.random.default_rng(5)
    entries = []
    for number, task in enumerate(("colors", "counting", "position", "colors")):
        caption = draw_caption(rng, task)
        wrong = perturb(rng, caption)
        media = [picture(rng, each, number) for each in (wrong, caption, caption)]
        entries.append(
            Entry(
                str(caption),
                tuple(media),
                "candidates",
                models=("x", "y", "z"),
                category=task,
                seeds=(1, 2, 3),
                noise_seeds=(4, 5, 6),
                id=f"e{number}",
            )
        )
    return keep(entries, "candidates")
