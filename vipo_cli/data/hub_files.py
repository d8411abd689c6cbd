"""Data sets in the Hugging Face hub: the local cache first, the network with a deadline."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Thread
from typing import Any

from vipo_cli.errors import MissingWeights
from vipo_cli.run import cache_home

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
DEADLINE_SECONDS = 5.0
"""How long the hub may take to answer; where packets vanish, nothing else ends the waiting."""

PATTERNS = ["*.parquet", "*.csv", "*.jsonl"]
BESIDE = (".md", ".txt", ".gitattributes", ".yaml", ".py", "LICENSE")
"""How files end that are no data."""


@dataclass(frozen=True, slots=True)
class HubFiles:
    """Parquet files of a hub data set, fetched one at a time and not kept.

    Attributes:
        repo: the data set.
        revision: the commit that they are of.
        names: of the files, in order.
    """

    repo: str
    revision: str
    names: tuple[str, ...]

    @contextmanager
    def fetched(self, name: str) -> Iterator[Path]:
        """Give the path of a file, which is removed afterwards.

        Raises:
            MissingWeights: the download breaks off.
        """
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]

        place = cache_home() / "hub"
        place.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=place) as folder:
            try:
                found = hf_hub_download(
                    self.repo,
                    name,
                    repo_type="dataset",
                    revision=self.revision,
                    local_dir=folder,
                )
            except (HTTPError, OSError) as error:
                reason = f"the download of `{name}` broke off: {_first_line(error)}"
                raise _missing(self.repo, reason, "run the same command again") from error
            yield Path(found)


def hub_files(repo: str) -> HubFiles | Path:
    """Return a hub data set: its local folder, or what can be fetched file by file.

    Only sets that are all Parquet come file by file; others are downloaded whole.

    Raises:
        MissingWeights: it is neither in the cache nor to be had.
    """
    if (cached := _cached(repo, None)) is not None:
        return cached
    refusal, info = _ask(repo, None)
    if refusal:
        raise _missing(repo, refusal)
    names = sorted(file.rfilename for file in info.siblings or ())
    data = [name for name in names if not name.endswith(BESIDE)]
    if data and all(name.endswith(".parquet") for name in data):
        return HubFiles(repo, info.sha or "main", tuple(data))
    return hub_folder(repo, patterns=None)


def hub_folder(
    repo: str, revision: str | None = None, patterns: Sequence[str] | None = PATTERNS
) -> Path:
    """Return the local folder of a hub data set, downloading it if the hub answers.

    Args:
        repo: the data set.
        revision: a branch, tag or commit of it.
        patterns: of the files that are wanted; None: all.

    Raises:
        MissingWeights: it is neither in the cache nor to be had.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]

    if (cached := _cached(repo, revision)) is not None:
        return cached
    if refusal := _ask(repo, revision)[0]:
        raise _missing(repo, refusal)
    wanted = None if patterns is None else list(patterns)
    options: dict[str, Any] = {"repo_type": "dataset", "revision": revision}
    try:
        return Path(snapshot_download(repo, allow_patterns=wanted, **options))
    except (HTTPError, OSError) as error:
        raise _missing(repo, f"the download broke off: {_first_line(error)}") from error


def _cached(repo: str, revision: str | None) -> Path | None:
    """Return the folder of a data set that was downloaded before.

    Raises:
        MissingWeights: it was not, and the hub may not be asked.
    """
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import HFValidationError

    try:
        cached = Path(
            snapshot_download(repo, local_files_only=True, repo_type="dataset", revision=revision)
        )
        if any(file.is_file() and not file.name.endswith(BESIDE) for file in cached.rglob("*")):
            return cached
    except HFValidationError as error:
        raise _missing(repo, f"`{repo}` cannot be the name of a hub data set") from error
    except OSError:
        pass  # not in the cache
    if constants.is_offline_mode():
        raise _missing(repo, "HF_HUB_OFFLINE is set")
    return None


def _ask(repo: str, revision: str | None) -> tuple[str, Any]:
    """Return why the hub does not give a data set, or nothing and what it says of it.

    The thread is left behind when the time is over: resolving a name has no timeout of its own.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import (  # type: ignore[attr-defined]
        GatedRepoError,
        HTTPError,
        RepositoryNotFoundError,
    )

    answer: list[tuple[str, Any]] = []

    def ask() -> None:
        try:
            info = HfApi().dataset_info(repo, revision=revision, timeout=DEADLINE_SECONDS)
        except GatedRepoError:
            needed = "its owner has to grant you access: sign in with `hf auth login`"
            answer.append((needed, None))
        except RepositoryNotFoundError:
            answer.append(("the hub has no data set of that name", None))
        except (HTTPError, OSError, ValueError) as error:
            answer.append((f"the hub cannot be reached: {_first_line(error)}", None))
        else:
            answer.append(("", info))

    thread = Thread(target=ask, daemon=True)
    thread.start()
    thread.join(DEADLINE_SECONDS)
    if answer:
        return answer[0]
    return f"the hub did not answer within {DEADLINE_SECONDS:.0f} s", None


NAME_IT = (
    "check the name; for files of your own, give the path of a Parquet, CSV or "
    "JSON-lines file, or of a folder"
)


def _missing(repo: str, reason: str, hint: str = NAME_IT) -> MissingWeights:
    return MissingWeights(f"data set `{repo}` is not on this machine", details=[reason], hint=hint)


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0] or type(error).__name__
