import re
import shlex

import pytest
import yaml

from tests.tiny import FAMILIES, build
from vipo_cli.cli.train import train as command
from vipo_cli.models import find_model, models
from vipo_cli.models.load import FAMILIES as PIPELINES
from vipo_cli.models.load import RECIPES
from vipo_cli.objectives import objectives
from vipo_cli.recipe import check_recipe, find_recipe, recipe_names, resolve_recipe
from vipo_cli.recipe.resolve import parse_settings

PAPERS = ("diffusion-dpo/", "vipo/", "sipo/")
STARTS = sorted(name for name in recipe_names() if name.startswith("families/"))
ROWS = sorted(name for name in recipe_names() if name.startswith(PAPERS))
ALL = [*ROWS, *STARTS]
NUMBER = re.compile(r"^  \w+: \[?-?\d")
SOURCES = (
    "arXiv", "launchers", "train.py", "Table", "Fig.", "section", "appendix", "abstract",
    "flow_grpo", "Flow-Factory", "diffusers", "DenseDPO", "scheduler", "Wan 2.1's own",
    "as Diffusion-DPO", "second-hand report",
)  # fmt: skip
LONGEST = 120
RATES = {
    # base rate times batch, as the publications print them
    "diffusion-dpo/sd15": (1e-8, 2048), "diffusion-dpo/sdxl": (1e-8, 2048),
    "vipo/sd15-pickapic": (1e-8, 2048), "vipo/sdxl-pickapic": (1e-8, 2048),
    "vipo/sdxl-sft": (2e-9, 2048), "vipo/sdxl-poly-dpo": (5e-10, 2048),
    "vipo/sd35-medium-sft": (1e-8, 2048), "vipo/sd35-medium-poly-dpo": (5e-9, 512),
}  # fmt: skip
BETAS = {
    "diffusion-dpo/sd15": 2000, "diffusion-dpo/sdxl": 5000, "vipo/sdxl-poly-dpo": 1000,
    "sipo/sd15": 1000, "sipo/sd15-dpo-cm": 1000, "sipo/cogvideox-2b": 20, "sipo/wan-1.3b": 20,
}  # fmt: skip


def lines(name):
    return find_recipe(name).read_text().splitlines()


def test_every_row_of_the_tables_has_a_recipe():
    vipo = {f"{model}-{stage}" for model in ("sd15", "sdxl", "sd35-medium", "flux-dev", "wan-1.3b")
            for stage in ("sft", "poly-dpo")}  # fmt: skip
    sipo = {"sd15", "sdxl", "cogvideox-2b", "cogvideox-5b", "wan-1.3b", "flux-dev"}
    assert {f"vipo/{name}" for name in vipo} <= set(ROWS)
    assert {"vipo/sd15-pickapic", "vipo/sdxl-pickapic"} <= set(ROWS)
    assert {"diffusion-dpo/sd15", "diffusion-dpo/sdxl"} <= set(ROWS)
    assert {f"sipo/{name}" for name in sipo} <= set(ROWS)
    masked = sipo - {"sdxl", "flux-dev"}
    assert {f"sipo/{name}-dpo-cm" for name in masked} <= set(ROWS)


@pytest.mark.parametrize("name", ALL)
def test_a_recipe_is_valid_for_a_model_that_has_a_name(name):
    recipe = resolve_recipe(name)
    assert recipe.model.name in models.names()
    assert check_recipe(yaml.safe_load(recipe.to_yaml())) == recipe


@pytest.mark.parametrize("name", ALL)
def test_every_number_says_where_it_comes_from(name):
    found = [line for line in lines(name) if NUMBER.match(line)]
    assert len(found) >= 4
    for line in found:
        reason = line.partition("  # ")[2]
        assert reason.startswith("chosen") or any(source in reason for source in SOURCES), line


@pytest.mark.parametrize("name", ALL)
def test_a_recipe_opens_with_the_command_that_runs_it(name, monkeypatch):
    text = lines(name)
    assert text[1] == "#"
    assert all(len(line) <= LONGEST for line in text)
    commands = [line[4:] for line in text if line.startswith("#   vipo train ")]
    assert commands
    assert text[2] == f"#   {commands[0]}"
    for number, words in enumerate(map(shlex.split, (c.partition("   #")[0] for c in commands))):
        given = dict(zip(words[2::2], words[3::2], strict=False))
        known = {f"--{key.rstrip('_').replace('_', '-')}" for key in command.__annotations__}
        assert given.keys() <= known
        settings = parse_settings([given["--set"]]) if "--set" in given else {}
        started = given.get("--recipe")
        if name in STARTS:
            assert started is None
            assert find_model(given["--model"]).recipe == name
        elif number == 0:
            assert started == name
        resolve_recipe(
            started, data="yours.parquet" if "--data" in given else None,
            method=given.get("--method"), settings=settings,
        )  # fmt: skip


@pytest.mark.parametrize("name", sorted(RATES))
def test_the_rate_is_the_published_base_rate_times_its_batch(name):
    base, batch = RATES[name]
    optimizer = resolve_recipe(name).optimizer
    assert optimizer.learning_rate == pytest.approx(base * batch)
    assert optimizer.batch_size == batch


@pytest.mark.parametrize("name", sorted(BETAS))
def test_beta_is_in_this_projects_convention(name):
    parameters = resolve_recipe(name).objective.parameters
    assert parameters["beta"] == BETAS[name]
    assert parameters["kappa"] == 0.5


@pytest.mark.parametrize("model", models.names())
def test_every_model_has_a_recipe_to_start_from(model):
    start = find_model(model).recipe
    assert start in recipe_names()
    assert resolve_recipe(None, model=model).model.name == model


def test_every_kind_of_pipeline_has_a_recipe_to_start_from():
    assert RECIPES.keys() == PIPELINES.keys()
    assert set(RECIPES.values()) == set(STARTS)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_folder_starts_from_the_recipe_of_its_kind(family, tmp_path):
    folder = build(family, tmp_path / family)
    recipe = resolve_recipe(None, model=str(folder), method="poly-dpo", flags={"alpha": 0.5})
    start = resolve_recipe(find_model(str(folder)).recipe)
    assert recipe.model == start.model.model_copy(update={"name": str(folder)})
    assert recipe.time == start.time
    assert recipe.optimizer == start.optimizer
    assert recipe.objective.parameters["beta"] == start.objective.parameters["beta"]
    assert recipe.objective.parameters["alpha"] == 0.5
    for settings in ({"model.start_from": "x"}, {"model.train": "full"}, {"model.adapter": "dora"}):
        resolve_recipe(None, model=str(folder), settings=settings)


@pytest.mark.parametrize("method", [name for name in objectives.names() if name != "d3po"])
@pytest.mark.parametrize("start", ["families/sd", "families/wan"])
def test_every_method_can_start_from_a_family(start, method):
    model = resolve_recipe(start).model.name
    recipe = resolve_recipe(None, model=model, method=method)
    assert recipe.objective.method == method
    assert recipe.model.precision == "bf16"


def test_a_hub_id_that_is_on_this_machine_starts_from_the_recipe_of_its_kind(tmp_path, monkeypatch):
    import huggingface_hub

    folder = build("flux", tmp_path / "flux")
    monkeypatch.setattr(
        huggingface_hub, "try_to_load_from_cache", lambda name, file: str(folder / file)
    )
    assert find_model("somebody/finetuned-flux").recipe == "families/flux"
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_: None)
    assert find_model("somebody/finetuned-flux").recipe is None
