"""Asking for paths that others wrote: what can be no path, or is kept from us, is not there."""

import os.path
from pathlib import Path


def is_file(path: Path) -> bool:
    """Tell whether a file is there; a method of Path raises where a name is too long."""
    return os.path.isfile(path)  # noqa: PTH113


def is_folder(path: Path) -> bool:
    """Tell whether a folder is there."""
    return os.path.isdir(path)  # noqa: PTH112
