import re

import pytest
import yaml

from vipo_cli.errors import RecipeError, UnknownName
from vipo_cli.recipe import (
    Recipe,
    check_recipe,
    find_recipe,
    parse_settings,
    read_recipe,
    recipe_folder,
    recipe_names,
    resolve_recipe,
)

SHIPPED = recipe_names()


def refused(function, *words, **options):
    with pytest.raises(RecipeError) as caught:
        function(*words, **options)
    return caught.value


def told(content):
    """Return the lines that a recipe's mistakes come to, and the hint."""
    error = refused(check_recipe, content)
    assert error.message == "the recipe is not valid"
    return list(error.details), error.hint


def test_recipes_are_shipped():
    assert len(SHIPPED) > 0
    assert len(SHIPPED) == len(list(recipe_folder().rglob("*.yaml")))


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_recipe_is_valid_short_and_explains_itself(name):
    text = find_recipe(name).read_text()
    assert text.startswith("# ")
    assert len(text.splitlines()) <= 40
    recipe = resolve_recipe(name)
    assert check_recipe(yaml.safe_load(recipe.to_yaml())) == recipe


def test_a_recipe_is_found_by_name_or_path(tmp_path):
    name = "shapes/poly-dpo"
    for spelling in (name, f"{name}.yaml", f"recipes/{name}.yaml"):
        assert find_recipe(spelling).samefile(recipe_folder() / f"{name}.yaml")
    mine = tmp_path / "mine.yaml"
    mine.write_text("run:\n  steps: 7\n")
    assert resolve_recipe(str(mine)).run.steps == 7
    with pytest.raises(UnknownName) as caught:
        find_recipe(name[:-2])
    assert f"did you mean `{name}`?" in caught.value.hint


def test_all_mistakes_are_told_at_once_in_words():
    lines, hint = told(
        {
            "modle": {"rank": 4},
            "model": {"rank": 0, "trian": "lora", "train": "both"},
            "objective": {"method": "poly-dpo", "alpha": -2, "betta": 3},
            "optimizer": {"learning_rate": "fast", "batch_size": 2.5, "steps": 3},
            "data": {"name": "shapes", "kind": "nosy", "pair": 3, "held_out": -1},
            "time": {"high": 2},
        }
    )
    assert lines == [
        "model.train: must be 'lora' or 'full', got `both`",
        "model.rank: must be at least 1, got `0`",
        "model.trian: unknown key",
        "data.held_out: must be at least 0, got `-1`",
        "time.high: must be at most 1, got `2`",
        "optimizer.learning_rate: must be a number, got `fast`",
        "optimizer.batch_size: must be a whole number, got `2.5`",
        "optimizer.steps: unknown key",
        "modle: unknown section",
        "objective.alpha: must be at least -1, got -2: below it the gradient changes sign at "
        "p = 0.50, and training pushes pairs that are already right back down to it",
        "objective.betta: unknown key",
        "data.kind: must be 'clean', 'noisy', 'trivial', 'captions', 'ranked' or 'labelled', "
        "got `nosy`",
        "data.pair: unknown key",
    ]
    assert hint == (
        "did you mean `model.train`, `run.steps`, `model`, `objective.beta`, `data.pairs`?"
    )


def test_all_unknown_names_are_told_at_once():
    lines, hint = told(
        {
            "model": {"name": "sd-15"},
            "objective": {"method": "poly-dppo"},
            "data": {"name": "shaeps"},
        }
    )
    assert lines == [
        "model.name: unknown model `sd-15`",
        "objective.method: unknown method `poly-dppo`",
        "data.name: unknown data set `shaeps`",
    ]
    for name in ("sd15", "poly-dpo", "shapes"):
        assert f"did you mean `{name}`?" in hint


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ({"model": 3}, "model: must hold keys with values, got `3`"),
        ({"data": None}, "data: must hold keys with values, got nothing"),
        ({"run": ["steps"]}, "run: must hold keys with values, got `['steps']`"),
        ({"model": {"name": 3}}, "model.name: must be text, got `3`"),
        ({"objective": {"method": ["a"]}}, "objective.method: must be text, got `['a']`"),
        ({"data": {"name": None}}, "data.name: must be text, got nothing"),
        ({"data": {"name": "files"}}, "data.path: is required"),
        ({"model": {"ema": 1}}, "model.ema: must be less than 1, got `1`"),
        ({"optimizer": {"micro_batch": 0}}, "optimizer.micro_batch: must be at least 1, got `0`"),
        (
            {"optimizer": {"learning_rate": float("inf")}},
            "optimizer.learning_rate: must be a finite number, got `inf`",
        ),
        (
            {"objective": {"beta": float("nan")}},
            "objective.beta: must be a finite number, got `nan`",
        ),
        (
            {"time": {"low": 0.5, "high": 0.2}},
            "time.low: must be less than time.high, got `0.5` and `0.2`",
        ),
        (
            {"objective": {"method": "poly-dpo", "alpha": [1, "x"]}},
            "objective.alpha: must be a number, got `x`",
        ),
        (
            {"objective": {"method": "poly-dpo", "alpha": []}},
            "objective.alpha: must be a number or must hold 1 or more values, got `[]`",
        ),
    ],
)
def test_each_mistake_is_one_line_without_jargon(content, line):
    lines, hint = told(content)
    assert lines == [line]
    assert hint is None


def test_keys_of_another_method_or_data_set_are_told_with_their_owners(tmp_path):
    lines, hint = told({"objective": {"method": "sft", "alpha": 1}})
    assert lines == ["objective.alpha: unknown key"]
    assert hint == "methods with `alpha`: alpha-dpo, dmpo, poly-dpo"
    lines, hint = told({"data": {"name": "pairs.parquet", "kind": "noisy"}})
    assert lines == ["data.kind: unknown key"]
    assert hint == "data sets with `kind`: shapes, shapes-clips"


def test_a_hub_id_takes_what_hub_data_take():
    recipe = check_recipe({"data": {"name": "owner/pairs", "revision": "v2", "limit": 5}})
    assert recipe.data.parameters == {"revision": "v2", "limit": 5}


def test_alpha_below_minus_one_is_refused_with_the_reason():
    error = refused(resolve_recipe, method="poly-dpo", flags={"alpha": -1.5})
    assert "the gradient changes sign" in error.details[0]
    assert (
        resolve_recipe(method="poly-dpo", flags={"alpha": -1}).objective.parameters["alpha"] == -1
    )


def test_a_flag_that_the_method_lacks_names_the_methods_that_have_it():
    error = refused(resolve_recipe, method="sft", flags={"alpha": 1.0})
    assert error.message == "method `sft` has no `--alpha`"
    assert error.hint == "methods that have it: alpha-dpo, dmpo, poly-dpo"


def test_1e_5_is_a_number():
    assert yaml.safe_load("1e-5") == "1e-5"  # to YAML alone it is not
    settings = parse_settings(["optimizer.learning_rate=1e-5", "objective.beta=2e3"])
    recipe = resolve_recipe(settings=settings)
    assert recipe.optimizer.learning_rate == 1e-5
    assert recipe.objective.parameters["beta"] == 2000


@pytest.mark.parametrize("method", ["diffusion-dpo", "poly-dpo", "sft"])
def test_a_resolved_recipe_is_written_and_read_back_the_same(method):
    recipe = resolve_recipe(
        method=method, settings={"data.kind": "noisy", "run.seed": 3, "time.low": 0.1}
    )
    again = check_recipe(yaml.safe_load(recipe.to_yaml()))
    assert again == recipe
    assert again.to_yaml() == recipe.to_yaml()
    assert again.data.parameters["kind"] == "noisy"
    assert set(yaml.safe_load(recipe.to_yaml())) == set(Recipe.model_fields)


@pytest.fixture
def mine(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(
        "objective: {method: poly-dpo, beta: 500, alpha: 2}\n"
        "data: {name: shapes, kind: noisy, held_out: 12}\n"
    )
    return str(file)


def test_another_method_keeps_what_it_shares_with_the_one_before(mine):
    assert resolve_recipe(mine).objective.parameters["alpha"] == 2
    for changed in (
        resolve_recipe(mine, method="diffusion-dpo"),
        resolve_recipe(mine, settings={"objective.method": "diffusion-dpo"}),
    ):
        assert changed.objective.method == "diffusion-dpo"
        assert changed.objective.parameters == {"beta": 500, "kappa": 0.5}
    assert resolve_recipe(mine, method="sft").objective.parameters == {}


def test_another_data_set_drops_the_parameters_of_the_one_before(mine):
    for changed in (
        resolve_recipe(mine, data="pairs.parquet"),
        resolve_recipe(mine, settings={"data.name": "pairs.parquet"}),
    ):
        assert changed.data.name == "pairs.parquet"
        assert changed.data.parameters == {}
        assert changed.data.held_out == 12
    assert resolve_recipe(mine, data="shapes").data.parameters["kind"] == "noisy"


def test_settings_win_over_flags_and_flags_over_the_file(mine):
    recipe = resolve_recipe(
        mine, flags={"beta": 7, "steps": 9}, settings={"objective.beta": 8, "data.held_out": 3}
    )
    assert recipe.objective.parameters["beta"] == 8
    assert recipe.run.steps == 9
    assert recipe.data.held_out == 3


@pytest.mark.parametrize(
    ("setting", "line", "hint"),
    [
        ("modle.rank=4", "modle: unknown section", "did you mean `model`?"),
        ("model.rnk=4", "model.rnk: unknown key", "did you mean `model.rank`?"),
        ("data.steps=4", "data.steps: unknown key", "did you mean `run.steps`?"),
        ("data.heldout=4", "data.heldout: unknown key", "did you mean `data.held_out`?"),
        ("model.rank=", "model.rank: must be a whole number, got nothing", None),
        ("run.steps=0", "run.steps: must be at least 1, got `0`", None),
    ],
)
def test_a_wrong_setting_is_told_with_what_was_meant(setting, line, hint):
    error = refused(resolve_recipe, settings=parse_settings([setting]))
    assert error.message == "the recipe of this run is not valid"
    assert error.details == (line,)
    assert error.hint == hint


@pytest.mark.parametrize("setting", ["model=4", ".rank=4", "model.=4", "model.rank", ""])
def test_a_setting_needs_section_key_and_value(setting):
    error = refused(parse_settings, [setting])
    assert error.message == f"cannot read the setting `{setting}`"
    assert error.hint == "write --set section.key=value"


def test_a_setting_whose_value_is_no_yaml_is_told():
    error = refused(parse_settings, ["model.rank={"])
    assert error.message == "cannot read the value of the setting `model.rank={`"


def test_names_that_nobody_knows_are_told_before_anything_else():
    for option, near in (("model", "shapes-sd"), ("method", "poly-dpo")):
        with pytest.raises(UnknownName) as caught:
            resolve_recipe(**{option: near + "o"})
        assert f"did you mean `{near}`?" in caught.value.hint
    error = refused(resolve_recipe, data="shaeps")
    assert error.details == ("data.name: unknown data set `shaeps`",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no sections"),
        ("# nothing\n", "has no sections"),
        ("- a\n", "has no sections"),
        ("model: [", "is not readable YAML: line 1: "),
        ("model:\n\trank: 1", "is not readable YAML: line 2: "),
        ("run: {seed: 1}\nmodel: {rank: 1}\nrun: {steps: 2}\n",
         "is not readable YAML: line 3: `run` stands twice"),
        ("model:\n", "is not valid"),
        ("\x00", "is not readable YAML: "),
    ],
)  # fmt: skip
def test_a_file_that_is_no_recipe_is_told(tmp_path, text, message):
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    error = refused(resolve_recipe, str(file))
    assert re.match(re.escape(f"recipe `{file}` {message}"), error.message)
    file.write_bytes(b"\xff\xfe\x00")
    assert "is not readable YAML" in refused(read_recipe, str(file)).message
