"""A model's errors on pairs at each time, and how fast importance weights fall with them there."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vipo_cli.analysis.timesteps import Rate, TimedErrors
from vipo_cli.data import Record
from vipo_cli.data.lazy import Subset, data_fingerprint
from vipo_cli.errors import DataError
from vipo_cli.models import Family, open_family
from vipo_cli.models.parts import load_parts
from vipo_cli.models.sample import fitting_batch_size
from vipo_cli.objectives.importance import rate
from vipo_cli.recipe.sections import Data
from vipo_cli.run import Progress, Work
from vipo_cli.training.adapters import load_adapter
from vipo_cli.training.batches import same_bucket
from vipo_cli.training.buckets import buckets_of
from vipo_cli.training.cache import EncodedData, encode
from vipo_cli.training.reference import adapter_off, other_adapter
from vipo_cli.training.step import Batch, Reference, measure


def load_policy(
    model: str, lora: Path | None = None, base: str | None = None, start: Path | None = None
) -> tuple[Family, Reference | None]:
    """Load a model to measure, and what it was trained from where that is known.

    Args:
        model: registered name, folder or hub id.
        lora: weights to load on top of it; the model without them is the reference.
        base: for a model whose weights were all trained, the one that it started from.
        start: LoRA that the reference has on, where training went on from one.
    """
    family = _load(model)
    if lora is not None:
        load_adapter(family, lora, "policy")
        if start is None or not start.is_file():
            return family, adapter_off(family, family.denoiser)
        load_adapter(family, start, "start")
        family.denoiser.set_adapters("policy")  # type: ignore[operator]
        return family, other_adapter(family, "start", "policy")
    if base is None:
        return family, None
    frozen = _load(base)

    @contextmanager
    def reference() -> Iterator[Family]:
        yield frozen

    return family, reference


def _load(model: str) -> Family:
    family = open_family(model)
    load_parts(family, [family.denoiser_name], dtype=torch.float32, device=_device())
    return family


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def measure_times(
    family: Family,
    reference: Reference | None,
    records: Sequence[Record],
    times: NDArray[np.float64],
    count: int,
) -> Work[TimedErrors]:
    """Measure the errors on the two best items of some records, evenly chosen, at each time.

    A pair keeps its noise, which winner and loser share, at all times: what differs between times
    is then the time alone.

    Raises:
        DataError: no pairs with a loser.
    """
    rows = np.linspace(0, len(records) - 1, min(count, len(records))).round().astype(int)
    chosen = Subset(records, rows.tolist())
    encoded = yield from encode(
        family, chosen, data_fingerprint(chosen), 0.5, buckets_of(family, Data()), device=_device()
    )
    whole = np.flatnonzero((encoded.items[:, :2] >= 0).all(1))
    if encoded.items.shape[1] < 2 or not len(whole):
        raise DataError("the data hold no pairs of a winner and a loser")
    size = max(1, fitting_batch_size(family.size) // 2)
    batches = list(same_bucket(encoded.bucket, whole, size))
    found = []
    for number, batch in enumerate(batches):
        at_times = []
        for place, time in enumerate(times):
            at_times.append(_errors(family, reference, _batch(family, encoded, batch, float(time))))
            yield Progress(
                "measuring errors", number * len(times) + place + 1, len(batches) * len(times)
            )
        found.append(np.stack(at_times, axis=-1))
    errors = np.concatenate(found, axis=1)
    return TimedErrors(
        times=times,
        policy_w=errors[0],
        policy_l=errors[1],
        reference_w=errors[2] if reference else None,
        reference_l=errors[3] if reference else None,
        prompts=encoded.prompt[np.concatenate(batches)],
    )


def rate_of(family: Family, steps: int) -> Rate:
    """Return how fast importance weights of a model fall with its errors, as a function of time.

    Args:
        family: whose noise schedule it is.
        steps: sampling steps that time is divided into.
    """

    def of(times: NDArray[np.float64]) -> NDArray[np.float64]:
        found = rate(torch.from_numpy(times).float(), family, steps=steps)
        return found.double().numpy()

    return of


def _batch(family: Family, encoded: EncodedData, rows: NDArray[np.int64], time: float) -> Batch:
    """Collate some pairs at one time, each with the noise of its own."""
    device = next(family.denoiser.parameters()).device
    noise = torch.stack([_noise(int(row), encoded.shape(int(rows[0]))) for row in rows], 1)
    x0 = [encoded.latents(encoded.items[rows, side], noise[1 + side]).to(device) for side in (0, 1)]
    n = len(rows)
    condition = encoded.condition(encoded.prompt[rows])
    sides = [encoded.media_condition(encoded.items[rows, side]) for side in (0, 1)]
    told = {name: torch.stack([side[name] for side in sides]) for name in sides[0]}
    return Batch(
        x0=torch.stack(x0),
        eps=noise[:1].expand(2, *noise.shape[1:]).to(device),
        present=torch.ones(2, n, dtype=torch.bool, device=device),
        time=torch.full((n,), time, device=device),
        condition={name: value.to(device) for name, value in condition.items()},
        media_condition={name: value.to(device) for name, value in told.items()},
        liked=torch.ones(n, dtype=torch.bool, device=device),
        weight=torch.ones(n, device=device),
        probability=torch.ones(n, device=device),
    )


def _noise(row: int, shape: tuple[int, ...]) -> Tensor:
    """Return the noise of one pair, and of the posteriors of its two pictures."""
    return torch.randn((3, *shape), generator=torch.Generator().manual_seed(row))


@torch.no_grad()
def _errors(family: Family, reference: Reference | None, batch: Batch) -> NDArray[np.float64]:
    """Return the errors on winners and losers as rows: the policy's, then the reference's."""
    measured = measure(family, batch, reference)
    rows = [measured.policy]
    if measured.reference is not None:
        rows.append(measured.reference)
    return torch.cat(rows).double().cpu().numpy()
