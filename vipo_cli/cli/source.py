"""The arguments by which commands name data, and the one way from these to records."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vipo_cli.cli.output import Output

if TYPE_CHECKING:
    from vipo_cli.data.record import Record

Data = Annotated[
    str,
    typer.Argument(
        metavar="DATA",
        show_default=False,
        help="Registered name (vipo data list), hub id, file, folder or pattern.",
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        show_default=False,
        help="Parameter of the data set, such as kind=noisy; repeatable.",
    ),
]
Folder = Annotated[
    str | None,
    typer.Option(
        "--path",
        metavar="DIR",
        show_default=False,
        help="Where the files of a registered data set lie.",
    ),
]


UNJUDGED = (
    "nobody has judged these candidates: they stand in no order, and cannot be trained on;\n"
    "vipo data build makes pairs of them"
)


def open_to_look_at(
    data: str, settings: list[str] | None, path: str | None, output: Output
) -> "Sequence[Record]":
    """Open the records that a command names, or candidates that are none yet."""
    from vipo_cli.data.stored import is_stored, open_candidates

    place = Path(data).expanduser()
    if place.is_dir() and is_stored(place) and (candidates := open_candidates(place)) is not None:
        output.note(UNJUDGED)
        return candidates
    return open_source(data, settings, path, output)


def open_source(
    data: str, settings: list[str] | None, path: str | None, output: Output
) -> "Sequence[Record]":
    """Open the records that a command names, and tell which rows of the source are none."""
    from vipo_cli.data.lazy import decided
    from vipo_cli.data.sources import opening

    parameters = dict(map(setting, settings or []))
    if path is not None:
        parameters["path"] = path
    pairs = output.follow(opening(data, parameters))
    for reason, count in decided(pairs).items():
        output.note(f"left out {count:,} rows: {reason}")
    return pairs


def describe(data: str, settings: list[str] | None) -> str:
    """Return the name of the data set with the parameters that were given."""
    return f"{data} ({', '.join(settings)})" if settings else data


RewardSettings = Annotated[
    list[str] | None,
    typer.Option(
        "--reward-set",
        metavar="REWARD.KEY=VALUE",
        show_default=False,
        help="Option of a reward (vipo list rewards NAME), such as pickscore.dtype=bf16; "
        "repeatable.",
    ),
]


def reward_settings(words: list[str] | None, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return the options of rewards by reward; values are written as in YAML.

    Args:
        words: what stands behind `--reward-set`.
        names: of the rewards in use; empty where that is not known yet.
    """
    import yaml

    found: dict[str, dict[str, Any]] = {}
    for word in words or ():
        place, value = setting(word, "--reward-set")
        reward, dot, key = place.rpartition(".")
        if not dot:
            raise typer.BadParameter(f"`{word}` is not REWARD.KEY=VALUE", param_hint="--reward-set")
        if names and reward not in names:
            raise typer.BadParameter(
                f"`{reward}` is not among the rewards in use: {', '.join(names)}",
                param_hint="--reward-set",
            )
        found.setdefault(reward, {})[key.replace("-", "_")] = yaml.safe_load(value)
    return found


def setting(text: str, option: str = "--set") -> tuple[str, str]:
    """Split KEY=VALUE."""
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise typer.BadParameter(f"`{text}` is not KEY=VALUE", param_hint=option)
    return key.strip(), value.strip()
