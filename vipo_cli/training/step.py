"""One training step's numbers: the one place where pairing, shared noise and the reference meet.

A batch holds b records of up to k items each, best first: pairs have two items, ranked lists more,
single samples one. All members of a record share one time, and as a rule one noise. Measurements
are (k, b): the first row is the winners, the second the losers.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from torch import Tensor

from vipo_cli.models.family import Condition, Family
from vipo_cli.objectives.errors import (
    DriftPairErrors,
    LabelledErrors,
    ListErrors,
    PairErrors,
    PolicyPairErrors,
    SampleErrors,
    StepLikelihoods,
    TimedPairErrors,
)
from vipo_cli.schedules import Latents, Schedule

Reference = Callable[[], AbstractContextManager[Family]]
"""Gives the model that the policy is compared with, for as long as it is needed."""
Items = Float[Tensor, "k b"]


@runtime_checkable
class Drawn(Protocol):
    """What a batch of any kind says of its records."""

    @property
    def present(self) -> Bool[Tensor, "k b"]:
        """Return False where a record has fewer items than k."""
        ...

    @property
    def time(self) -> Float[Tensor, " b"]:
        """Return one time a record."""
        ...

    @property
    def liked(self) -> Bool[Tensor, " b"]:
        """Return False for single samples that were disliked."""
        ...


@dataclass(frozen=True, slots=True)
class Batch:
    """Some records with the time and the noise that were drawn for them.

    Attributes:
        x0: clean latents of all items.
        eps: the noise that each is mixed with.
        present: False where a record has fewer items than k.
        time: one time a record.
        condition: of the prompt that a record's items share.
        media_condition: what the denoiser is told of each item beside that, (k, b, ...).
        liked: False for single samples that were disliked.
        weight: how much a record counts.
        probability: that the winner is preferred; 0.5 is a tie.
        region: how much each place of an item counts, on the latent grid; None: all alike.
        reference: errors of the reference where they were cached.
        here: `present` on the host, so that nobody has to ask the device; None: all are.
        certain: whether all probabilities are 1; known on the host too.
        disliked: whether a single sample was disliked; likewise.
    """

    x0: Float[Tensor, "k b *d"]
    eps: Float[Tensor, "k b *d"]
    present: Bool[Tensor, "k b"]
    time: Float[Tensor, " b"]
    condition: Condition
    liked: Bool[Tensor, " b"]
    weight: Float[Tensor, " b"]
    probability: Float[Tensor, " b"]
    region: Float[Tensor, "k b *e"] | None = None
    reference: Items | None = None
    media_condition: Condition = field(default_factory=dict)
    here: NDArray[np.bool_] | None = None
    certain: bool = True
    disliked: bool = False

    @property
    def alone(self) -> bool:
        """Whether no record has more than one item."""
        return len(self.present) == 1 or (self.here is not None and not self.here[1:].any())

    @property
    def rows(self) -> Tensor | None:
        """Numbers of the items that are present among all, winners first; None: all are."""
        if self.here is None or self.here.all():
            return None
        rows = torch.from_numpy(np.flatnonzero(self.here))
        return rows.to(self.x0.device, non_blocking=True)

    def item(self, index: int) -> "Batch":
        """Return the batch of one item a record: winners alone are item 0."""
        rows = slice(index, index + 1)
        cached = self.reference[rows] if self.reference is not None else None
        region = self.region[rows] if self.region is not None else None
        here = self.here[rows] if self.here is not None else None
        return replace(
            self,
            x0=self.x0[rows],
            eps=self.eps[rows],
            present=self.present[rows],
            region=region,
            reference=cached,
            here=here,
            media_condition={name: value[rows] for name, value in self.media_condition.items()},
        )

    def with_reference(self, errors: Items) -> "Batch":
        """Return the batch with errors of the reference that are known already."""
        return replace(self, reference=errors)


@dataclass(frozen=True, slots=True)
class Measured:
    """What the models' predictions on a batch come to, each (k, b); zero where an item is absent.

    Attributes:
        policy: mean squared errors of the policy.
        reference: of the reference.
        old: of the policy that the data were sampled from.
        drift: mean squared differences between the predictions of policy and reference.
        squared: mean squares of the policy's errors as its gradient has them; of item 0 and 1.
        product: mean products of those of item 0 and of item 1, (b,).
    """

    policy: Items
    reference: Items | None = None
    old: Items | None = None
    drift: Items | None = None
    squared: Items | None = None
    product: Float[Tensor, " b"] | None = None

    def flipped(self) -> "Measured":
        """Return the measurements with winner and loser exchanged."""
        rows = {name: getattr(self, name) for name in ("policy", "reference", "old", "drift")}
        return replace(
            self, **{name: value.flip(0) for name, value in rows.items() if value is not None}
        )


def measure(
    family: Family,
    batch: Batch,
    reference: Reference | None = None,
    old: Reference | None = None,
    *,
    drift: bool = False,
    residuals: bool = False,
) -> Measured:
    """Predict all items in one call as policy, and in one more as reference.

    Args:
        family: the policy.
        batch: what to predict; errors of the reference that it holds are not measured again.
        reference: what the policy is compared with.
        old: the policy that the data were sampled from.
        drift: also measure how far the predictions moved from the reference's.
        residuals: also measure what the safeguard needs.
    """
    noised = mix(family, batch)
    prediction = predict(family, noised)
    policy = noised.spread(noised.error(prediction))
    base = moved = old_errors = None
    if batch.reference is not None:
        base = batch.reference
    elif reference is not None:
        with reference() as frozen, torch.no_grad():
            said = predict(frozen, noised)
        base = noised.spread(noised.error(said))
        if drift:
            moved = noised.spread(noised.mean((prediction.float() - said.float()).square()))
    if old is not None:
        with old() as before, torch.no_grad():
            old_errors = noised.spread(noised.error(predict(before, noised)))
    squared = product = None
    if residuals:
        pull = noised.weighted(prediction.detach().float() - noised.target.float())
        squared = noised.spread(pull.square().flatten(1).mean(1))
        items, records = batch.present.shape
        winner, loser = pull.reshape(items, records, *pull.shape[1:])[:2]
        product = (winner * loser).flatten(1).mean(1)
    return Measured(policy, base, old_errors, moved, squared, product)


def as_record(
    kind: type[Any], measured: Measured, batch: Drawn, schedule: Schedule, kl: Tensor | None = None
) -> Any:
    """Return what an objective sees of the measurements.

    Args:
        kind: the record that it asks for.
        measured: rows of winners, losers and so on.
        batch: what they were measured on.
        schedule: the family, whose noise levels importance weights need.
        kl: the estimate that goes with labelled samples.
    """
    policy, reference = measured.policy, measured.reference
    if kind is SampleErrors:
        return SampleErrors(policy[0])
    if kind is PolicyPairErrors:
        return PolicyPairErrors(policy[0], policy[1])
    assert reference is not None
    if kind is LabelledErrors:
        assert kl is not None
        return LabelledErrors(policy[0], reference[0], batch.liked, kl)
    if kind is ListErrors:
        return ListErrors(policy.T, reference.T, batch.present.T)
    four = (policy[0], policy[1], reference[0], reference[1])
    if kind is StepLikelihoods:  # measured as errors: minus the log-likelihood
        return StepLikelihoods(*(-value for value in four))
    if kind is DriftPairErrors:
        assert measured.drift is not None
        return DriftPairErrors(*four, measured.drift[0], measured.drift[1])
    if kind is TimedPairErrors:
        old = (None, None) if measured.old is None else (measured.old[0], measured.old[1])
        return TimedPairErrors(*four, batch.time, schedule, *old)
    assert kind is PairErrors
    return PairErrors(*four)


@dataclass(frozen=True, slots=True)
class Noised:
    """The items of a batch that are present, mixed with noise: one row each, winners first.

    `shape` is the batch's (k, b), `rows` where the items stand in it; None: all are present.
    """

    x_t: Latents
    target: Latents
    time: Float[Tensor, " b"]
    condition: Condition
    shape: torch.Size
    rows: Tensor | None
    region: Float[Tensor, " b *e"] | None

    def error(self, prediction: Latents) -> Float[Tensor, " b"]:
        """Return each row's mean squared error against the target."""
        return self.mean((prediction.float() - self.target.float()).square())

    def mean(self, values: Latents) -> Float[Tensor, " b"]:
        """Return each row's mean over all places, each counting as its region says."""
        return self.weighted(values).flatten(1).mean(1)

    def weighted(self, values: Latents) -> Latents:
        """Multiply by the region maps, whose mean is one."""
        return values if self.region is None else values * self.region

    def spread(self, values: Float[Tensor, " m"]) -> Items:
        """Put rows back to where their items stand in the batch."""
        if self.rows is None:
            return values.reshape(self.shape)
        everywhere = values.new_zeros(self.shape.numel())
        return everywhere.index_copy(0, self.rows, values).reshape(self.shape)


def mix(family: Family, batch: Batch) -> Noised:
    """Mix the items that are present with their noise."""
    items, rows = batch.present.shape[0], batch.rows

    def flat(values: Tensor) -> Tensor:
        joined = values.flatten(0, 1)
        return joined if rows is None else joined[rows]

    def repeated(values: Tensor) -> Tensor:
        return flat(values.expand(items, *values.shape))

    x0, eps, time = flat(batch.x0), flat(batch.eps), repeated(batch.time)
    level = family.noise_level(time)
    region = None
    if batch.region is not None:
        region = flat(batch.region)
        region = region / region.flatten(1).mean(1).reshape(-1, *[1] * (region.ndim - 1))
    return Noised(
        x_t=level.mix(x0, eps),
        target=level.target(family.target, x0, eps),
        time=time,
        condition={
            **{name: repeated(value) for name, value in batch.condition.items()},
            **{name: flat(value) for name, value in batch.media_condition.items()},
        },
        shape=batch.present.shape,
        rows=rows,
        region=region,
    )


def predict(family: Family, noised: Noised) -> Latents:
    """Return a model's prediction for each row."""
    return family.predict(noised.x_t, noised.time, noised.condition)
