"""The errors that a user is meant to see; anything else that escapes is a bug."""

from collections.abc import Iterable, Sequence
from difflib import get_close_matches


class VipoError(Exception):
    """A failure the user can do something about.

    Args:
        message: what is wrong, the offending value in backticks, lower case, no full stop.
        hint: what to do about it, as a command where possible.
        details: further lines under the message, one for each problem found.
    """

    def __init__(
        self, message: str, *, hint: str | None = None, details: Sequence[str] = ()
    ) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.details = tuple(details)


class RecipeError(VipoError):
    """A recipe that does not say a valid run; carries all its problems at once."""


class DataError(VipoError):
    """Preference data that cannot be used as it is."""


class ModelError(VipoError):
    """A model or checkpoint that cannot be loaded as it is."""


class MissingWeights(VipoError):
    """Weights or data that are neither on this machine nor to be had from here."""


class TrainingDiverged(VipoError):
    """A loss or gradient that is no longer a number, or has exploded."""


class Interrupted(VipoError):
    """Work stopped on request after its state was saved; the command line exits with 130."""


class UnknownName(VipoError):
    """A name that no registry entry has; offers the nearest ones."""

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        known = sorted(known)
        super().__init__(
            f"unknown {kind} `{name}`",
            hint=f"{did_you_mean(name, known)}known: {', '.join(known)}",
        )


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return "did you mean `x`? " for the nearest known name, or an empty string."""
    near = get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"did you mean `{near[0]}`? " if near else ""
