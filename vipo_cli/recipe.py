"""Recipes: the data that determines a run, checked as a whole before anything starts."""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from vipo_cli.data import datasets
from vipo_cli.data.sources import find_source
from vipo_cli.errors import RecipeError, UnknownName, VipoError
from vipo_cli.models import find_model
from vipo_cli.objectives import objectives
from vipo_cli.registry import Registry, findings, got

Positive = Annotated[int, Field(ge=1)]


class Section(BaseModel):
    """A part of a recipe: unknown keys are errors, values do not change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Model(Section):
    """Which model is trained, and which part of it."""

    name: Annotated[
        str, Field(description="Registered name, hub id, or folder in diffusers layout.")
    ] = "shapes-sd"
    train: Annotated[
        Literal["lora", "full"], Field(description="Train LoRA adapters, or all weights.")
    ] = "lora"
    rank: Annotated[int, Field(ge=1, description="Rank of the LoRA adapters.")] = 16
    precision: Annotated[
        Literal["fp32", "bf16"], Field(description="Arithmetic of the forward passes.")
    ] = "fp32"
    ema: Annotated[
        float, Field(ge=0, lt=1, description="Decay of the weights' moving average; 0 keeps none.")
    ] = 0.0


class Data(BaseModel):
    """Which pairs are learnt from; a source's own parameters stand beside these."""

    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False)

    name: Annotated[str, Field(description="Registered name, hub id, or path of a data set.")] = (
        "shapes"
    )
    held_out: Annotated[
        int, Field(ge=0, description="Pairs kept back to measure implicit accuracy on.")
    ] = 128
    caption_dropout: Annotated[
        float, Field(ge=0, le=1, description="Share of pairs trained with the empty prompt.")
    ] = 0.0
    broken_limit: Annotated[
        float, Field(ge=0, le=1, description="Share of broken pairs above which a run stops.")
    ] = 0.05

    @property
    def parameters(self) -> dict[str, Any]:
        """The source's own parameters."""
        return dict(self.model_extra or {})


class Objective(BaseModel):
    """Which objective is minimised; its own parameters stand beside its name."""

    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False)

    method: Annotated[str, Field(description="Name of the objective.")] = "diffusion-dpo"

    @property
    def parameters(self) -> dict[str, Any]:
        """The objective's own parameters."""
        return dict(self.model_extra or {})


class Time(Section):
    """From which noise levels errors are measured; 0 is clean, 1 is noise."""

    low: Annotated[float, Field(ge=0, lt=1, description="Lowest time drawn.")] = 0.0
    high: Annotated[float, Field(gt=0, le=1, description="Highest time drawn.")] = 1.0


class Optimizer(Section):
    """How the weights follow the gradient: AdamW."""

    learning_rate: Annotated[float, Field(gt=0, description="Never scaled by the batch.")] = 1e-5
    batch_size: Annotated[int, Field(ge=1, description="Pairs an update.")] = 32
    micro_batch: Annotated[
        int | None, Field(ge=1, description="Pairs a forward pass; all of them where not given.")
    ] = None
    warmup_steps: Annotated[int, Field(ge=0, description="Steps of linear warm-up.")] = 0
    decay: Annotated[
        Literal["constant", "cosine"], Field(description="What the rate does after warm-up.")
    ] = "constant"
    weight_decay: Annotated[float, Field(ge=0, description="Decoupled weight decay.")] = 0.01
    max_gradient_norm: Annotated[float, Field(gt=0, description="Clips the gradient.")] = 1.0


class Run(Section):
    """How long, from which seed, and what is written when."""

    steps: Annotated[int, Field(ge=1, description="Updates of the weights.")] = 1000
    seed: Annotated[int, Field(ge=0, description="Fixes order, noise, times and LoRA's start.")] = 0
    checkpoint_every: Annotated[
        int, Field(ge=1, description="Steps from checkpoint to checkpoint.")
    ] = 250
    keep_checkpoints: Annotated[int, Field(ge=1, description="Newest checkpoints that stay.")] = 3
    held_out_every: Annotated[
        int, Field(ge=1, description="Steps between measurements on held-out pairs.")
    ] = 250


class Recipe(Section):
    """All that determines a run."""

    model: Model = Model()
    data: Data = Data()
    objective: Objective = Objective()
    time: Time = Time()
    optimizer: Optimizer = Optimizer()
    run: Run = Run()

    def to_yaml(self) -> str:
        """Return the recipe with every value written out."""
        return yaml.safe_dump(self.model_dump(), sort_keys=False)


def recipe_folder() -> Path:
    """Return where the shipped recipes lie: in the wheel, else beside the package."""
    packaged = Path(__file__).parent / "recipes"
    return packaged if packaged.is_dir() else Path(__file__).parent.parent / "recipes"


def recipe_names() -> list[str]:
    """Return the names of the shipped recipes: their paths without `.yaml`."""
    folder = recipe_folder()
    return sorted(
        file.relative_to(folder).with_suffix("").as_posix() for file in folder.rglob("*.yaml")
    )


def find_recipe(name: str) -> Path:
    """Resolve the name of a shipped recipe or the path of a file."""
    file = recipe_folder() / f"{name.removeprefix('recipes/').removesuffix('.yaml')}.yaml"
    if Path(name).is_file():
        return Path(name)
    if file.is_file():
        return file
    raise UnknownName("recipe", name, recipe_names())


def read_recipe(name: str) -> dict[str, Any]:
    """Read a recipe's YAML without judging its keys yet."""
    return read_yaml(find_recipe(name), f"recipe `{name}`")


class _Loader(yaml.SafeLoader):
    """Refuses a key that stands twice, of which YAML would silently keep the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if key.value in seen:
                problem = f"`{key.value}` stands twice"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
            seen.add(str(key.value))
        return super().construct_mapping(node, deep)


def read_yaml(file: Path, origin: str) -> dict[str, Any]:
    """Read the sections of a YAML file.

    Raises:
        RecipeError: the file cannot be read, is no YAML, or holds something other than sections.
    """
    try:
        content = yaml.load(file.read_text(encoding="utf-8"), _Loader)
    except OSError as error:
        raise RecipeError(f"cannot read {origin}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"{origin} is not readable YAML: {_yaml_problem(error)}") from error
    if not isinstance(content, dict) or not content:
        known = ", ".join(Recipe.model_fields)
        raise RecipeError(f"{origin} has no sections", hint=f"a recipe has the sections {known}")
    return content


def _yaml_problem(error: Exception) -> str:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or str(error).splitlines()[0]
    return f"line {mark.line + 1}: {problem}" if mark else problem


def resolve_recipe(
    name: str | None = None,
    *,
    model: str | None = None,
    data: str | None = None,
    method: str | None = None,
    flags: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Recipe:
    """Build the recipe of a run: a file, changed by flags and by `section.key` settings.

    `flags` are `alpha` and `beta` of the objective, `steps` and `seed` of the run; None: not given.
    A setting of a model, data set or method does what the flag does, and wins over it.

    Without a name, the recipe that the model recommends is the start, else the defaults.

    Raises:
        RecipeError: names every problem at once.
    """
    settings = dict(settings or {})
    model = settings.pop("model.name", model)
    data = settings.pop("data.name", data)
    method = settings.pop("objective.method", method)
    if name is None:
        recommended = find_model(str(model or Model().name)).recipe
        content = read_recipe(recommended) if recommended else {}
        origin = "the recipe of this run"
    else:
        content, origin = read_recipe(name), f"recipe `{name}`"
    content = deepcopy(content)
    _require_sections(content, origin)
    if model is not None:
        content.setdefault("model", {})["name"] = model
    if data is not None and data != content.get("data", {}).get("name", Data().name):
        kept = {
            key: value for key, value in content.get("data", {}).items() if key in Data.model_fields
        }
        content["data"] = kept | {"name": data}
    if method is not None:
        content["objective"] = _change_method(content.get("objective", {}), str(method))
    given = {key: value for key, value in (flags or {}).items() if value is not None}
    for key, value in (_flag_settings(content, given) | settings).items():
        section, _, rest = key.partition(".")
        content.setdefault(section, {})[rest] = value
    return check_recipe(content, origin)


def _require_sections(content: Mapping[str, Any], origin: str) -> None:
    problems = [
        f"{section}: must hold keys with values, {got(keys)}"
        for section, keys in content.items()
        if not isinstance(keys, dict)
    ]
    if problems:
        raise RecipeError(f"{origin} is not valid", details=problems)


def _change_method(objective: dict[str, Any], method: str) -> dict[str, Any]:
    """Name another method; the parameters that it shares with the one before stay."""
    known = objectives.parameters(method).model_fields
    return {"method": method} | {key: value for key, value in objective.items() if key in known}


def parse_settings(pairs: Sequence[str]) -> dict[str, Any]:
    """Read `section.key=value` settings; values are YAML scalars or lists."""
    settings = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        section, _, rest = key.strip().partition(".")
        if not (equals and section and rest):
            raise RecipeError(
                f"cannot read the setting `{pair}`", hint="write --set section.key=value"
            )
        try:
            settings[f"{section}.{rest}"] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise RecipeError(
                f"cannot read the value of the setting `{pair}`",
                hint="write a number, a word, or a list such as [1, 2]",
            ) from error
    return settings


def check_recipe(content: Mapping[str, Any], origin: str = "the recipe") -> Recipe:
    """Turn plain data into a recipe.

    Raises:
        RecipeError: lists every unknown key, name and bad value, those of method and data included.
    """
    _require_sections(content, origin)
    found = _Problems()
    recipe: Recipe | None = None
    try:
        recipe = Recipe.model_validate(content)
    except ValidationError as error:
        found.explain(error, "", Recipe)
    given = {name: dict(content.get(name, {})) for name in ("model", "objective", "data")}
    _check_model(found, given["model"].get("name", Model().name))
    method = given["objective"].pop("method", Objective().method)
    _check_parameters(found, objectives, "objective", method, given["objective"])
    data = given["data"].get("name", Data().name)
    own = {key: value for key, value in given["data"].items() if key not in Data.model_fields}
    _check_parameters(found, datasets, "data", data, own)
    if recipe is not None and recipe.time.low >= recipe.time.high:
        found.lines.append(
            f"time.low: must be less than time.high, got `{recipe.time.low}` "
            f"and `{recipe.time.high}`"
        )
    if found.lines or recipe is None:
        raise RecipeError(f"{origin} is not valid", details=found.lines, hint=found.hint())
    return _with_parameters(recipe)


def _check_model(found: "_Problems", name: Any) -> None:
    if isinstance(name, str):  # anything else is told already
        try:
            find_model(name)
        except VipoError as error:
            found.add_error("model.name", error)


def _check_parameters(
    found: "_Problems", registry: Registry[Any], section: str, name: Any, given: dict[str, Any]
) -> None:
    """Check the parameters of a method or data set."""
    if not isinstance(name, str):  # told already
        return
    try:
        if section == "data":
            name, said = find_source(name)
            given = given | said
        schema = registry.parameters(name)
    except VipoError as error:
        found.add_error("data.name" if section == "data" else "objective.method", error)
        return
    try:
        schema.model_validate(given)
    except ValidationError as error:
        found.explain(error, f"{section}.", schema)
        for key, words in findings(error).items():
            owners = _owners(registry, key)
            if words is None and owners:
                found.hints.append(f"{registry.kind}s with `{key}`: {', '.join(owners)}")


class _Problems:
    """What is wrong with a recipe, in lines that a user can act on."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.hints: list[str] = []
        self._near: list[str] = []

    def hint(self) -> str | None:
        """Return all advice, each piece once."""
        near = f"did you mean {', '.join(dict.fromkeys(self._near))}?" if self._near else ""
        return "\n".join(dict.fromkeys([*([near] if near else []), *self.hints])) or None

    def add_error(self, key: str, error: VipoError) -> None:
        """Add what another part of the engine says about a key."""
        self.lines.append(f"{key}: {error.message}")
        self.hints += [error.hint] if error.hint else []

    def explain(self, error: ValidationError, prefix: str, schema: type[BaseModel]) -> None:
        """Add pydantic's findings, one line a key."""
        depth = 1 if prefix else 2  # deeper, pydantic names the alternatives of a union
        for key, words in findings(error, depth).items():
            key = f"{prefix}{key}"
            if words is not None:
                self.lines.append(f"{key}: {words}")
                continue
            self.lines.append(f"{key}: unknown {'key' if '.' in key else 'section'}")
            if near := _nearest(key, prefix, schema):
                self._near.append(f"`{near}`")


def _nearest(key: str, prefix: str, schema: type[BaseModel]) -> str | None:
    """Return the key that was probably meant: one much like it, or its like in another section."""
    section, dot, name = key.rpartition(".")
    known = list(schema.model_fields)
    if section and not prefix:
        known = list(_sections()[section.partition(".")[0]].model_fields)
    elif prefix == "data.":  # what the section itself holds stands beside the source's parameters
        known += Data.model_fields
    near = get_close_matches(name, known, n=1)
    if near:
        return f"{section}{dot}{near[0]}"
    elsewhere = [other for other, keys in _sections().items() if name in keys.model_fields]
    return f"{elsewhere[0]}.{name}" if elsewhere else None


@cache
def _sections() -> dict[str, type[BaseModel]]:
    return {name: type(field.default) for name, field in Recipe.model_fields.items()}


def _with_parameters(recipe: Recipe) -> Recipe:
    """Write the defaults of method and data set out, so that the recipe says them."""
    objective = objectives.parameters(recipe.objective.method)(**recipe.objective.parameters)
    changes: dict[str, Any] = {
        "objective": Objective(method=recipe.objective.method, **objective.model_dump())
    }
    if recipe.data.name in datasets:
        source = datasets.parameters(recipe.data.name)(**recipe.data.parameters)
        fixed = recipe.data.model_dump(include=set(Data.model_fields))
        changes["data"] = Data(**fixed, **source.model_dump())
    return recipe.model_copy(update=changes)


def _flag_settings(content: Mapping[str, Any], flags: Mapping[str, Any]) -> dict[str, Any]:
    """Turn flags into settings, refusing those that the method does not have."""
    method = content.get("objective", {}).get("method", Objective().method)
    settings = {}
    for key, value in flags.items():
        if key in Run.model_fields:
            settings[f"run.{key}"] = value
            continue
        if key not in objectives.parameters(str(method)).model_fields:
            raise RecipeError(
                f"method `{method}` has no `--{key}`",
                hint=f"methods that have it: {', '.join(_owners(objectives, key))}",
            )
        settings[f"objective.{key}"] = value
    return settings


def _owners(registry: Registry[Any], key: str) -> list[str]:
    return [name for name in registry.names() if key in registry.parameters(name).model_fields]
