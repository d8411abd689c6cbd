"""Recipes: the data that determines a run, checked as a whole before anything starts."""

from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from vipo_cli.data import datasets
from vipo_cli.errors import RecipeError, UnknownName, did_you_mean
from vipo_cli.models import find_model
from vipo_cli.objectives import objectives
from vipo_cli.registry import Registry

Positive = Annotated[int, Field(ge=1)]


class Section(BaseModel):
    """A part of a recipe: unknown keys are errors, values do not change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True)


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

    model_config = ConfigDict(extra="allow", frozen=True)

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

    model_config = ConfigDict(extra="allow", frozen=True)

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
    """Read a recipe's YAML without judging it yet."""
    try:
        content = yaml.safe_load(find_recipe(name).read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"recipe `{name}` is no YAML: {str(error).splitlines()[0]}") from error
    if not isinstance(content, dict):
        raise RecipeError(f"recipe `{name}` has no sections", hint="see vipo list recipes")
    return content


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

    Without a name, the recipe that the model recommends is the start, else the defaults.

    Raises:
        RecipeError: names every problem at once.
    """
    if name is None:
        recommended = find_model(model or Model().name).recipe
        content = read_recipe(recommended) if recommended else {}
        origin = "the settings given"
    else:
        content, origin = read_recipe(name), f"recipe `{name}`"
    content = deepcopy(content)
    problems = [
        f"{section}: must hold keys"
        for section, keys in content.items()
        if not isinstance(keys, dict)
    ]
    if problems:
        raise RecipeError(f"{origin} is not valid", details=problems)
    if model is not None:
        content.setdefault("model", {})["name"] = model
    if data is not None and data != content.get("data", {}).get("name", Data().name):
        kept = {
            key: value for key, value in content.get("data", {}).items() if key in Data.model_fields
        }
        content["data"] = kept | {"name": data}
    if method is not None:
        content["objective"] = _change_method(content.get("objective", {}), method)
    given = {key: value for key, value in (flags or {}).items() if value is not None}
    for key, value in (_flag_settings(content, given) | dict(settings or {})).items():
        section, _, rest = key.partition(".")
        content.setdefault(section, {})[rest or key] = value
    return check_recipe(content, origin)


def _change_method(objective: dict[str, Any], method: str) -> dict[str, Any]:
    """Name another method; the parameters that it shares with the one before stay."""
    known = objectives.parameters(method).model_fields
    return {"method": method} | {key: value for key, value in objective.items() if key in known}


def parse_settings(pairs: Sequence[str]) -> dict[str, Any]:
    """Read `section.key=value` settings; values are YAML scalars or lists."""
    settings = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or "." not in key:
            raise RecipeError(
                f"cannot read the setting `{pair}`", hint="write --set section.key=value"
            )
        settings[key.strip()] = yaml.safe_load(value)
    return settings


def check_recipe(content: Mapping[str, Any], origin: str = "the recipe") -> Recipe:
    """Turn plain data into a recipe.

    Raises:
        RecipeError: lists every unknown key and bad value, those of method and data set included.
    """
    problems: list[str] = []
    hints: list[str] = []
    recipe: Recipe | None = None
    try:
        recipe = Recipe.model_validate(content)
    except ValidationError as error:
        for line, hint in _explain(error, "", Recipe):
            problems.append(line)
            hints += [hint] if hint else []
    for section, registry, key in (("objective", objectives, "method"), ("data", datasets, "name")):
        fixed: type[BaseModel] = Recipe.model_fields[section].annotation  # type: ignore[assignment]
        given = dict(content.get(section) or {})
        name = given.get(key, fixed.model_fields[key].default)
        own = {k: v for k, v in given.items() if k not in fixed.model_fields}
        found, more = _check_parameters(registry, str(name), own, section)
        problems += found
        hints += more
    if recipe is not None and recipe.time.low >= recipe.time.high:
        problems.append("time.low: must lie below time.high")
    if problems or recipe is None:
        raise RecipeError(
            f"{origin} is not valid", details=problems, hint="; ".join(dict.fromkeys(hints)) or None
        )
    return _with_parameters(recipe)


def _check_parameters(
    registry: Registry[Any], name: str, given: dict[str, Any], section: str
) -> tuple[list[str], list[str]]:
    """Check the parameters of a method or data set by name; paths and hub ids take none."""
    if section == "data" and name not in registry:  # a path or a hub id: opened by the data layer
        name, given = "files", given | {"path": name}
    if name not in registry:
        error = UnknownName(registry.kind, name, registry.names())
        return [f"{section}: {error.message}"], [error.hint or ""]
    try:
        schema = registry.parameters(name)
        schema.model_validate(given)
    except ValidationError as error:
        lines, hints = [], []
        for line, hint in _explain(error, f"{section}.", schema):
            lines.append(line)
            hints += [hint] if hint else []
        return lines, hints + _who_has(registry, error, section)
    return [], []


def _who_has(registry: Registry[Any], error: ValidationError, section: str) -> list[str]:
    """Name the entries that do have a parameter which the chosen one lacks."""
    if section != "objective":
        return []
    hints = []
    for problem in error.errors():
        key = str(problem["loc"][0])
        owners = _owners(registry, key)
        if problem["type"] == "extra_forbidden" and owners:
            hints.append(f"methods with `{key}`: {', '.join(owners)}")
    return hints


def _explain(
    error: ValidationError, prefix: str, schema: type[BaseModel]
) -> Iterator[tuple[str, str | None]]:
    """Turn pydantic's findings into lines a user can act on, each with a hint or None."""
    seen = set()
    for problem in error.errors():
        path = [str(part) for part in problem["loc"]]
        if prefix:  # below a parameter, pydantic names the alternatives of a union
            path = path[:1]
        key = prefix + ".".join(path)
        if problem["type"] == "extra_forbidden":
            known = _keys(schema, path[:-1])
            near = did_you_mean(path[-1], known)
            yield (
                f"{key}: unknown key",
                (near.replace(path[-1], key).strip() or None) if near else None,
            )
        else:
            message = problem["msg"].removeprefix("Value error, ")
            message = message[0].lower() + message[1:].replace("Input should be", "must be")
            message = message.replace("input should be", "must be")
            got = "" if "got" in message else f", got `{problem['input']}`"
            line = f"{key}: {message}{got}"
            if key not in seen:
                yield line, None
            seen.add(key)


def _keys(schema: type[BaseModel], path: list[str]) -> list[str]:
    for part in path:
        schema = schema.model_fields[part].annotation  # type: ignore[assignment]
    return list(schema.model_fields)


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
        if key not in objectives.parameters(method).model_fields:
            raise RecipeError(
                f"method `{method}` has no `--{key}`",
                hint=f"methods that have it: {', '.join(_owners(objectives, key))}",
            )
        settings[f"objective.{key}"] = value
    return settings


def _owners(registry: Registry[Any], key: str) -> list[str]:
    return [name for name in registry.names() if key in registry.parameters(name).model_fields]
