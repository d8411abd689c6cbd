"""Files that benchmarks are published as: on this machine, in the hub, or behind an address."""

import hashlib
import os
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from threading import Thread
from typing import TypeVar
from urllib.error import HTTPError

from vipo_cli.errors import DataError, MissingWeights
from vipo_cli.run import cache_home, writing
from vipo_cli.weights import may_fetch

T = TypeVar("T")

PLACE = "VIPO_PROMPTS"
"""Environment variable: a folder that holds published prompt files."""
DEADLINE_SECONDS = 5.0
"""How long a server may take to answer; where packets vanish, nothing else ends the waiting."""
READ_SECONDS = 60.0
"""How long a download that has begun may stand still."""


@dataclass(frozen=True, slots=True)
class Published:
    """Files under which prompts are published.

    Attributes:
        title: what people call them.
        files: their names.
        repo: the hub data set that holds them, else
        url: the address of the folder that holds them.
        hashes: git's hash of a file by name, where it is known.
        licence: under which they may be used.
    """

    title: str
    files: tuple[str, ...]
    repo: str = ""
    url: str = ""
    hashes: Mapping[str, str] = field(default_factory=dict)
    licence: str = ""

    @property
    def origin(self) -> str:
        """Return where people find them."""
        return f"huggingface.co/datasets/{self.repo}" if self.repo else self.url


def find_files(published: Published, place: str | None = None) -> list[Path]:
    """Return the files: from a place that was named, $VIPO_PROMPTS, a cache, or their origin.

    Args:
        published: what is wanted.
        place: a file, or a folder that holds the files by their own names.

    Raises:
        MissingWeights: they are neither on this machine nor to be had.
        DataError: one is not what was published.
    """
    if place is not None:
        found = _within(Path(place).expanduser(), published)
        if found is None:
            names = ", ".join(published.files)
            raise MissingWeights(f"`{place}` holds no {published.title}", hint=f"it needs {names}")
    else:
        folder = os.environ.get(PLACE)
        found = _within(Path(folder).expanduser(), published) if folder else None
    files = found or [_fetched(published, name) for name in published.files]
    for name, file in zip(published.files, files, strict=True):
        _verify(published, name, file)
    return files


def _within(place: Path, published: Published) -> list[Path] | None:
    """Return the files in a folder, under their whole or their last names; or a single file."""
    if place.is_file() and len(published.files) == 1:
        return [place]
    found = [
        next((file for file in (place / name, place / Path(name).name) if file.is_file()), None)
        for name in published.files
    ]
    return None if None in found else [file for file in found if file is not None]


def _fetched(published: Published, name: str) -> Path:
    cached = _cached(published, name)
    if cached is not None:
        return cached
    if not may_fetch():
        raise _missing(published, "nothing may be fetched now, or HF_HUB_OFFLINE is set")
    return _from_hub(published, name) if published.repo else _from_address(published, name)


def _cached(published: Published, name: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    if published.repo:
        found = try_to_load_from_cache(published.repo, name, repo_type="dataset")
        return Path(found) if isinstance(found, str) else None
    file = _kept(name)
    return file if file.is_file() else None


def _kept(name: str) -> Path:
    return cache_home() / "prompts" / name


def _from_hub(published: Published, name: str) -> Path:
    from huggingface_hub import HfApi, hf_hub_download
    from huggingface_hub.errors import (  # type: ignore[attr-defined]
        HTTPError as HubError,
    )

    def ask() -> object:
        return HfApi().dataset_info(published.repo, timeout=DEADLINE_SECONDS)

    try:
        in_time(ask)
        return Path(hf_hub_download(published.repo, name, repo_type="dataset"))
    except (HubError, OSError, ValueError) as error:
        raise _missing(published, _first_line(error)) from error


def _from_address(published: Published, name: str) -> Path:
    address = f"{published.url}/{name}"

    def ask() -> bytes:
        head = urllib.request.Request(address, method="HEAD")
        with urllib.request.urlopen(head, timeout=DEADLINE_SECONDS) as answer:
            return bytes(answer.read())

    try:
        in_time(ask)
        with urllib.request.urlopen(address, timeout=READ_SECONDS) as answer:
            data = answer.read()
    except (OSError, ValueError) as error:
        if isinstance(error, HTTPError):
            error.close()
        raise _missing(published, _first_line(error)) from error
    with writing(_kept(name)) as temporary:
        temporary.write_bytes(data)
    try:
        _verify(published, name, _kept(name))
    except DataError:
        _kept(name).unlink()
        raise
    return _kept(name)


def in_time(ask: Callable[[], T]) -> T:
    """Return an answer, or raise its exception, or TimeoutError when it does not come in time.

    The thread is left behind when the time is over: resolving a name has no timeout of its own.
    """
    answers: list[T] = []
    failures: list[Exception] = []

    def asking() -> None:
        try:
            answers.append(ask())
        except Exception as error:  # noqa: BLE001 - raised again where it is waited for
            failures.append(error)

    thread = Thread(target=asking, daemon=True)
    thread.start()
    thread.join(DEADLINE_SECONDS)
    if failures:
        raise failures[0]
    if not answers:
        raise TimeoutError(f"no answer within {DEADLINE_SECONDS:.0f} s")
    return answers[0]


def _verify(published: Published, name: str, file: Path) -> None:
    """Compare a file with the hash that it was published under.

    Raises:
        DataError: it is another one.
    """
    wanted = published.hashes.get(name)
    if wanted is not None and (found := git_hash(file)) != wanted:
        raise DataError(
            f"`{file}` is not the published {published.title}",
            details=[f"git's hash of it is {found}, of the published one {wanted}"],
            hint=f"get {name} from {published.origin}; for prompts of your own, name their file "
            "in place of the prompt set",
        )


def git_hash(file: Path) -> str:
    """Return git's hash of a file."""
    try:
        data = file.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read `{file}`: {error.strerror}") from error
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def _missing(published: Published, reason: str) -> MissingWeights:
    names = ", ".join(published.files)
    under = f" ({published.licence})" if published.licence else ""
    return MissingWeights(
        f"the prompts of {published.title} are not on this machine",
        details=[reason],
        hint=f"get {names} from {published.origin}{under} and put the folder into {PLACE}",
    )


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0] or type(error).__name__
