"""The info files of VBench and VBench-2.0: which prompt serves which dimensions."""

import json
from collections import Counter
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from vipo_cli.benchmarks.prompt_files import read_text
from vipo_cli.benchmarks.sources import find_files
from vipo_cli.benchmarks.vbench_suite import Suite
from vipo_cli.errors import DataError

Info = Annotated[
    str | None,
    Field(description="The info file; by default the package's, $VIPO_PROMPTS, caches, network."),
]


def prompts_of(suite: Suite, path: Path | None = None) -> list[dict[str, Any]]:
    """Return a suite's prompts: `prompt`, `tag`, `dimensions`, `auxiliary_info` where there is any.

    Raises:
        MissingWeights: the info file is neither here nor to be had.
        DataError: it is not what was published.
    """
    file = find_info(suite, path)
    prompts = read_info(suite, file)
    if problems := differences(suite, prompts):
        raise DataError(
            f"`{file}` is not the info file of {suite.title}",
            details=problems,
            hint=f"get {suite.info.files[0]} from {suite.info.origin}",
        )
    return prompts


def find_info(suite: Suite, path: Path | None = None) -> Path:
    """Return where a suite's info file lies; that of an installed package goes before others."""
    if path is not None and path.is_file():
        return path
    if path is None and (packaged := _in_package(suite)) is not None:
        return packaged
    return find_files(suite.info, None if path is None else str(path))[0]


def read_info(suite: Suite, file: Path) -> list[dict[str, Any]]:
    """Read an info file, or one of the same layout with prompts of a user's own.

    Raises:
        DataError: it has another layout, or dimensions that the suite does not know.
    """
    try:
        entries = json.loads(read_text(file))
        return [_record(suite, entry) for entry in entries]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise DataError(
            f"`{file}` is no info file of {suite.title} ({reason})",
            hint='it is a list of objects such as {"prompt_en": "a cat", "dimension": '
            f'["{suite.names[0]}"]}}',
        ) from error


def differences(suite: Suite, prompts: list[dict[str, Any]]) -> list[str]:
    """Say in what numbers prompts differ from those of the whole suite."""
    served = Counter(name for prompt in prompts for name in prompt["dimensions"])
    found = [
        f"{served[each.name]} prompts for {each.name} instead of {each.prompts}"
        for each in suite.dimensions
        if served[each.name] != each.prompts
    ]
    if len(prompts) != suite.entries:
        found.insert(0, f"{len(prompts)} prompts instead of {suite.entries:,}")
    return found


def _in_package(suite: Suite) -> Path | None:
    spec = find_spec(suite.package)
    for folder in (spec and spec.submodule_search_locations) or ():
        if (file := Path(folder) / suite.info.files[0]).is_file():
            return file
    return None


def _record(suite: Suite, entry: Any) -> dict[str, Any]:
    dimensions = [entry["dimension"]] if isinstance(entry["dimension"], str) else entry["dimension"]
    unknown = [name for name in dimensions if name not in suite.names]
    if unknown or not dimensions:
        raise ValueError(f"unknown dimension {', '.join(map(repr, unknown)) or 'of no name'}")
    prompt = entry["prompt_en"]
    if not isinstance(prompt, str) or not prompt.strip():
        raise ValueError("a prompt that is no text")
    record = {"prompt": prompt, "tag": dimensions[0], "dimensions": list(dimensions)}
    auxiliary = entry.get("auxiliary_info")
    return record if auxiliary is None else record | {"auxiliary_info": auxiliary}
