"""`vipo list`: what there is to choose from."""

from typing import Annotated, Any

import typer

from vipo_cli.cli.output import Json, Output, Quiet

app = typer.Typer(
    help="List what has a name: methods, models, data sets, rewards, benchmarks and more.",
    epilog="Example: vipo list methods poly-dpo",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)

Name = Annotated[str | None, typer.Argument(help="One of them, to see its parameters.")]


def _show(registry: Any, name: str | None, output: Output) -> None:
    """Print a registry's entries with a line each, or the parameters of one."""
    if name is None:
        output.entries({entry: registry.summary(entry) for entry in registry.names()})
        return
    fields = registry.parameters(name).model_fields
    about = [registry.documentation(name), *([""] if fields else [])]
    lines = [*about, *(_describe(key, field) for key, field in fields.items())]
    schema = registry.parameters(name).model_json_schema()
    output.result(schema, "\n".join(lines), list(fields))


def _describe(key: str, field: Any) -> str:
    default = "required" if field.is_required() else f"default {field.default}"
    return f"  {key} ({default}): {field.description or ''}"


@app.command(epilog="Examples: vipo list methods   |   vipo list methods poly-dpo")
def methods(name: Name = None, json: Json = False, quiet: Quiet = False) -> None:
    """List the objectives, or the parameters of one."""
    from vipo_cli.objectives import objectives

    _show(objectives, name, Output(json=json, quiet=quiet))


@app.command(epilog="Example: vipo list models")
def models(json: Json = False, quiet: Quiet = False) -> None:
    """List the models that have a name; hub ids and folders work as well."""
    from vipo_cli.models import models

    _show(models, None, Output(json=json, quiet=quiet))


@app.command(epilog="Examples: vipo list datasets   |   vipo list datasets shapes")
def datasets(name: Name = None, json: Json = False, quiet: Quiet = False) -> None:
    """List the data sets that have a name, or the parameters of one; files and hub ids work too."""
    from vipo_cli.data import datasets

    _show(datasets, name, Output(json=json, quiet=quiet))


@app.command(epilog="Examples: vipo list importers   |   vipo list importers pickapic")
def importers(name: Name = None, json: Json = False, quiet: Quiet = False) -> None:
    """List the layouts that vipo data import reads, or the parameters of one."""
    from vipo_cli.data.importers import importers

    _show(importers, name, Output(json=json, quiet=quiet))


@app.command(epilog="Examples: vipo list categories   |   vipo list categories text-rendering")
def categories(name: Name = None, json: Json = False, quiet: Quiet = False) -> None:
    """List the categories that vipo data build makes pairs for, or how pairs of one are made."""
    from vipo_cli.building.categories import NAMES, find_category

    output = Output(json=json, quiet=quiet)
    if name is None:
        output.entries({each: _category_line(each) for each in NAMES})
        return
    found = find_category(name)
    changes = [f"perturbs: {', '.join(found.changes)}"] if found.changes else []
    agreed = (
        f"agreed with people on {found.agreement.judge:g} % of pairs in the paper's study, "
        f"one person on {found.agreement.person:g} %"
    )
    text = [_category_line(name), *changes, agreed, "", found.rubric.strip()]
    output.result(found.model_dump(mode="json"), "\n".join(text), [name])


def _category_line(name: str) -> str:
    from vipo_cli.building.categories import find_category

    found = find_category(name)
    return f"{found.media}s, by {found.by}: {found.rubric.partition('?')[0].strip()}?"


@app.command(epilog="Examples: vipo list rewards   |   vipo list rewards pickscore")
def rewards(name: Name = None, json: Json = False, quiet: Quiet = False) -> None:
    """List the reward models, or the parameters of one."""
    from vipo_cli.rewards import rewards

    _show(rewards, name, Output(json=json, quiet=quiet))


@app.command(epilog="Examples: vipo list benchmarks   |   vipo list benchmarks cvtg-2k")
def benchmarks(name: Name = None, json: Json = False, quiet: Quiet = False) -> None:
    """List the benchmarks that vipo eval runs, or the parameters of one."""
    from vipo_cli.benchmarks import tasks
    from vipo_cli.benchmarks.suites import SUITES

    output = Output(json=json, quiet=quiet)
    if name is None:
        entries = {entry: tasks.summary(entry) for entry in tasks.names()}
        entries |= {suite.name: suite.about for suite in SUITES.values()}
        output.entries(dict(sorted(entries.items())))
    elif (suite := SUITES.get(name)) is not None:
        text = [suite.about, "", *(f"  {dimension}" for dimension in suite.names)]
        output.result({"dimensions": suite.names}, "\n".join(text), list(suite.names))
    else:
        _show(tasks, name, output)


@app.command(epilog="Example: vipo list recipes")
def recipes(json: Json = False, quiet: Quiet = False) -> None:
    """List the shipped recipes."""
    from vipo_cli.recipe import find_recipe, recipe_names

    entries = {}
    for name in recipe_names():
        first = find_recipe(name).read_text().partition("\n")[0]
        entries[name] = first.removeprefix("#").strip()
    Output(json=json, quiet=quiet).entries(entries)
