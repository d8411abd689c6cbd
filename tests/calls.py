"""What a network is called with, to compare an adapter's calls with those of its pipeline."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from inspect import signature
from typing import Any

import torch
from torch import nn


@contextmanager
def recorded(network: nn.Module) -> Iterator[list[dict[str, Any]]]:
    """Collect the arguments of each call by name, as lists of one call do; nested ones are dotted.

    What is absent, empty or no concern of the mathematics (`return_dict`) is left out.
    """
    calls: list[dict[str, Any]] = []
    parameters = signature(network.forward)

    def note(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        calls.append(dict(_flat(parameters.bind(*args, **kwargs).arguments)))

    handle = network.register_forward_pre_hook(note, with_kwargs=True)
    try:
        yield calls
    finally:
        handle.remove()


def assert_same_call(found: dict[str, Any], expected: dict[str, Any]) -> None:
    """Compare two calls; a scalar stands for one value a sample."""
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        if isinstance(value, torch.Tensor):
            mine = found[name].detach().float()
            torch.testing.assert_close(
                mine, value.detach().float().expand(mine.shape), atol=1e-6, rtol=1e-6, msg=name
            )
        else:
            assert found[name] == value, name


def _flat(arguments: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in arguments.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        elif isinstance(value, list | tuple):
            places = {str(place): each for place, each in enumerate(value)}
            yield from _flat(places, f"{prefix}{name}.")
        elif value is not None and name != "return_dict":
            yield prefix + name, value
