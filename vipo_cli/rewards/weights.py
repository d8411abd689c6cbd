"""Moved to `vipo_cli.weights`, since benchmarks load weights too: import from and edit it there."""

from vipo_cli.weights import *  # noqa: F403
