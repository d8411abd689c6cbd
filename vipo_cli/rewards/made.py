"""Rewards by name, with options."""

from collections.abc import Mapping
from typing import Any

from vipo_cli.registry import make
from vipo_cli.rewards import Reward, rewards
from vipo_cli.rewards.official import officials, with_backend

Options = Mapping[str, Any]


def make_reward(name: str, options: Options = {}) -> Reward:  # noqa: B006 - never changed
    """Return a reward; of those that have an official backend `backend` is an option, too.

    Raises:
        UnknownName: there is no reward, or backend, of that name.
        MissingWeights: something that it needs is not here.
        VipoError: options that it does not take.
    """
    factory, options = rewards[name], dict(options)
    if name in officials:  # others may have an option `backend` of their own
        factory = with_backend(name, str(options.pop("backend", "native")))
    reward: Reward = make(factory, name, options)
    return reward
