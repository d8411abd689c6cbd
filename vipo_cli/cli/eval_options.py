"""What every benchmark's command takes: how media are made, where they go, what to compare with."""

import inspect
import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_type_hints

import typer

from vipo_cli.cli.output import Json, Output, Quiet
from vipo_cli.cli.train import stop_requests
from vipo_cli.errors import Interrupted, VipoError
from vipo_cli.run import Work
from vipo_cli.training.launch import is_main_process

T = TypeVar("T")

Target = Annotated[
    str,
    typer.Argument(
        help="Run or checkpoint directory, LoRA file, diffusers folder, model name, hub id, "
        "or folder of finished pictures.",
    ),
]
OptionalTarget = Annotated[
    str | None, typer.Argument(help="What to evaluate, as `vipo eval run --help` lists it.")
]
FromResults = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Results of the public script, instead of a target."),
]
Images = Annotated[
    int | None,
    typer.Option(min=1, help="Pictures for each prompt.", show_default="the benchmark's"),
]
Prompts = Annotated[
    int | None, typer.Option(min=1, help="Only so many prompts of each kind, for a quick look.")
]
Seed = Annotated[int, typer.Option(min=0, help="Base seed of all media.")]
Steps = Annotated[
    int | None, typer.Option(min=1, help="Denoising steps.", show_default="the model's")
]
Guidance = Annotated[
    float | None, typer.Option(min=0, help="Guidance scale.", show_default="the model's")
]
BatchSize = Annotated[
    int | None, typer.Option(min=1, help="Media drawn at once.", show_default="by size")
]
Precision = Annotated[str, typer.Option(help="Weights in fp32, bf16 or fp16.")]
PromptSet = Annotated[
    str | None,
    typer.Option(
        help="Which prompts: a set by name, or a file (.txt, .csv, .jsonl).",
        show_default="the model's or the benchmark's",
    ),
]
Baseline = Annotated[
    str | None,
    typer.Option(help="Target to compare with, or `none`.", show_default="the base model"),
]
Model = Annotated[str | None, typer.Option(help="Base model of a LoRA file that does not name it.")]
Out = Annotated[Path | None, typer.Option(help="Folder for everything.", show_default="in the run")]
Partial = Annotated[bool, typer.Option("--allow-partial", help="Accept what is not complete.")]
Processes = Annotated[
    int | None,
    typer.Option(min=1, help="Processes on this machine that share the work, one a GPU."),
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="An option of the benchmark or reward."),
]


@dataclass(frozen=True)
class Shared:
    """What the command line says about any evaluation: how media are drawn, and where to."""

    prompts: Prompts = None
    seed: Seed = 0
    steps: Steps = None
    guidance: Guidance = None
    batch_size: BatchSize = None
    precision: Precision = "fp32"
    model: Model = None
    out: Out = None
    processes: Processes = None
    allow_partial: Partial = False
    json: Json = False
    quiet: Quiet = False
    output: Output = field(init=False)

    def __post_init__(self) -> None:
        output = Output(json=self.json, quiet=self.quiet, mute=not is_main_process())
        object.__setattr__(self, "output", output)


@dataclass(frozen=True)
class Wanted(Shared):
    """What the command line says about an evaluation beside its benchmark and target."""

    set_: Settings = None
    images_per_prompt: Images = None
    prompt_set: PromptSet = None
    baseline: Baseline = None

    @property
    def settings(self) -> dict[str, Any]:
        """The KEY=VALUE words; values are written as in YAML.

        Raises:
            VipoError: a word without an equals sign.
        """
        import yaml

        options = {}
        for word in self.set_ or ():
            key, equals, value = word.partition("=")
            if not equals:
                raise VipoError(f"`{word}` is no setting", hint="write it as --set KEY=VALUE")
            options[key.strip().replace("-", "_")] = yaml.safe_load(value)
        return options


def command_line() -> str:
    """Return what was typed, as it can be typed again."""
    return shlex.join(["vipo", *sys.argv[1:]])


def follow(output: Output, work: Work[T]) -> T:
    """Follow an evaluation, which goes on when the same command is given again.

    The first request to stop waits for what is under way, a second one does not.

    Raises:
        Interrupted: on request; says how to go on.
    """
    try:
        with stop_requests() as stop:
            return output.follow(work, until=stop.is_set)
    except (Interrupted, KeyboardInterrupt) as error:
        raise Interrupted(
            "interrupted; what is finished is kept", hint=f"continue with: {command_line()}"
        ) from error


def taking_options(
    command: Callable[..., None], options: type[Any] = Wanted
) -> Callable[..., None]:
    """Give a command shared options, one by one; it gets them together as `wanted`.

    Args:
        command: has a parameter `wanted`.
        options: a dataclass; its fields that are set on creation are the options.
    """
    common = {each.name for each in fields(Shared)}
    found = sorted(fields(options), key=lambda each: each.name in common)  # their own come first
    shared = {each.name: each for each in found if each.init}
    hints = get_type_hints(options, include_extras=True)
    own = get_type_hints(command, include_extras=True)
    parameters = [
        parameter
        for parameter in inspect.signature(command).parameters.values()
        if parameter.name != "wanted"
    ]

    def with_options(**given: Any) -> None:
        wanted = options(**{name: given.pop(name) for name in shared})
        command(**given, wanted=wanted)

    keyword = inspect.Parameter.KEYWORD_ONLY
    spelled_out = inspect.Signature(
        [
            *(each.replace(annotation=own[each.name], kind=keyword) for each in parameters),
            *(
                inspect.Parameter(name, keyword, default=each.default, annotation=hints[name])
                for name, each in shared.items()
            ),
        ]
    )
    with_options.__signature__ = spelled_out  # type: ignore[attr-defined]
    with_options.__annotations__ = {
        name: each.annotation for name, each in spelled_out.parameters.items()
    }
    with_options.__doc__ = command.__doc__
    with_options.__name__ = command.__name__
    return with_options
