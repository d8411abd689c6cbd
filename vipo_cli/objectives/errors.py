"""What an objective sees: mean squared prediction errors, one a sample.

Errors are means over all non-batch dimensions, against the network's own target.
"""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True, slots=True)
class PairErrors:
    """Errors on winner and loser, of the policy and of the reference."""

    policy_w: Float[Tensor, " b"]
    policy_l: Float[Tensor, " b"]
    reference_w: Float[Tensor, " b"]
    reference_l: Float[Tensor, " b"]

    @property
    def margin(self) -> Float[Tensor, " b"]:
        """How much more the policy gained on the winner than on the loser."""
        return (self.policy_l - self.reference_l) - (self.policy_w - self.reference_w)


@dataclass(frozen=True, slots=True)
class SampleErrors:
    """Errors on single samples, of the policy alone."""

    policy: Float[Tensor, " b"]
