"""`vipo export`: a trained LoRA for other programs."""

import json as json_format
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from vipo_cli.cli.output import Json, Output, Quiet

if TYPE_CHECKING:
    from vipo_cli.models.lora_export import Exported

EPILOG = (
    "Examples: vipo export runs/my-run --to comfyui   |   "
    "vipo export runs/my-run --to kohya --out my-lora.safetensors   |   "
    "vipo export runs/my-run --show"
)

app = typer.Typer(add_completion=False, rich_markup_mode=None)
WIDTH = 18


@app.command(epilog=EPILOG)
def export(
    target: Annotated[
        str, typer.Argument(help="Run or checkpoint directory, or LoRA file of any naming.")
    ],
    to: Annotated[
        Literal["kohya", "comfyui", "peft"] | None,
        typer.Option(help="Whose names the file has; peft: those of diffusers."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="File to make.", show_default="TARGET-TO.safetensors here"),
    ] = None,
    precision: Annotated[
        Literal["fp32", "fp16", "bf16"], typer.Option(help="Of the weights in the file.")
    ] = "fp32",
    model: Annotated[
        str | None, typer.Option(help="What a LoRA file was trained on that does not say it.")
    ] = None,
    show: Annotated[
        bool, typer.Option("--show", help="Print where a LoRA comes from, and write nothing.")
    ] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write a LoRA under the names that ComfyUI or kohya's scripts read."""
    from vipo_cli.models.lora_export import export_lora, provenance

    output = Output(json=json, quiet=quiet)
    if show:
        found = provenance(target)
        output.result(found, _shown(found), [found["file"]])
        return
    if to is None:
        raise typer.BadParameter("says for which program", param_hint="--to")
    stem = Path(target.rstrip("/")).resolve()
    name = stem.stem if stem.suffix == ".safetensors" else stem.name
    place = out or Path(f"{name}-{to}.safetensors")
    written = export_lora(target, to, place, precision=precision, model=model)
    output.result(_document(written), _text(written), [str(written.file)])
    if written.own_names:
        output.note(
            f"there are no established names of {to} for a {written.pipeline}: "
            "the file has those of diffusers"
        )


def _document(written: "Exported") -> dict[str, Any]:
    return {
        "file": str(written.file),
        "source": str(written.source),
        "pipeline": written.pipeline,
        "to": written.to,
        "names": "peft" if written.own_names else written.to,
        "layers": written.layers,
        "rank": written.rank,
        "alpha": written.alpha,
        "bytes": written.bytes,
    }


def _text(written: "Exported") -> str:
    return (
        f"wrote {written.file}: {written.layers:,} layers of rank {written.rank}, "
        f"alpha {written.alpha:g}, {written.bytes / 1e6:.1f} MB"
    )


def _shown(found: dict[str, Any]) -> str:
    """Lay out what a file says, the recipe left to `--json`."""
    about = {key: value for key, value in found.items() if key not in ("provenance", "metadata")}
    said = {**about, **found["provenance"], **found["metadata"]}
    said.pop("recipe", None)
    lines = []
    for key, value in said.items():
        words = json_format.dumps(value) if isinstance(value, dict) else value
        lines.append(f"{key:{WIDTH}}  {words}")
    return "\n".join(lines)
