"""The options that native rewards share, and how a model with them is made of its tensors."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from vipo_cli.errors import ModelError, VipoError

Place = Annotated[
    str | None,
    Field(description="Folder or file that holds the weights; by default the hub's cache."),
]
Batch = Annotated[int, Field(ge=1, description="Pictures judged at once.")]
FittingBatch = Annotated[
    int | None,
    Field(ge=1, description="Pictures judged at once; by default 32, and 4 on a CPU."),
]
Device = Annotated[str, Field(description="Where to run; auto: on a GPU if there is one.")]
Dtype = Annotated[
    Literal["fp32", "bf16", "fp16"], Field(description="Precision of weights and activations.")
]


def torch_device(name: str) -> Any:
    """Return a device of torch: one, even where there are more.

    Raises:
        VipoError: there is no such device here.
    """
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise VipoError(
            f"cannot run on the device `{name}`: {str(error).splitlines()[0]}",
            hint="give auto, cpu, cuda or cuda:N",
        ) from error
    return device


def fitting(batch_size: int | None, device: Any) -> int:
    """Return how many pictures to judge at once.

    On a CPU few are faster: what a layer of a large model gives for more than about four pictures
    is so large that the system hands out fresh memory for it every time, page by page.
    """
    return batch_size or (4 if device.type == "cpu" else 32)


def torch_dtype(name: str) -> Any:
    """Return the data type of torch that an option names."""
    import torch

    return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[name]


def filled(model: Any, tensors: Mapping[str, Any], where: str) -> Any:
    """Give a model that was built on the meta device its tensors, every one and no others.

    Args:
        model: what `with torch.device("meta")` built.
        tensors: by the model's own names.
        where: what they came from, for messages.

    Raises:
        ModelError: one is missing, left over, or of another shape.
    """
    import torch

    wanted = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    found = {name: tuple(value.shape) for name, value in tensors.items()}
    if wanted != found:
        raise _misfit(wanted, found, where)
    model.load_state_dict(tensors, strict=True, assign=True)
    for name, buffer in list(model.named_buffers()):
        if name not in wanted and buffer.is_meta:  # the numbers of positions, not stored
            part, _, own = name.rpartition(".")
            assert own == "position_ids", name
            numbers = torch.arange(buffer.shape[-1]).expand(buffer.shape)
            setattr(model.get_submodule(part), own, numbers)
    return model.eval().requires_grad_(False)


def _misfit(
    wanted: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]], where: str
) -> ModelError:
    missing = sorted(wanted.keys() - found.keys())
    extra = sorted(found.keys() - wanted.keys())
    both = sorted(wanted.keys() & found.keys())
    shapes = [name for name in both if wanted[name] != found[name]]
    details = [
        *(f"missing: {name} {list(wanted[name])}" for name in missing[:5]),
        *(f"left over: {name} {list(found[name])}" for name in extra[:5]),
        *(
            f"{name} is {list(found[name])} where {list(wanted[name])} is needed"
            for name in shapes[:5]
        ),
    ]
    return ModelError(
        f"`{where}` holds other weights: {len(missing)} tensors are missing, {len(extra)} left "
        f"over, {len(shapes)} of another shape",
        details=details,
        hint="see that it is the published file of this very model",
    )


def required(tensors: Mapping[str, Any], names: Sequence[str], where: str) -> list[Any]:
    """Return the tensors that a model's sizes are read off.

    Raises:
        ModelError: one is missing.
    """
    missing = [name for name in names if name not in tensors]
    if missing:
        raise ModelError(
            f"`{where}` holds other weights: {len(missing)} of the {len(names)} tensors that tell "
            "the sizes of the model are missing",
            details=[f"missing: {name}" for name in missing],
            hint="see that it is the published file of this very model",
        )
    return [tensors[name] for name in names]
