"""Data sets in the Hugging Face hub: the local cache first, the network with a deadline."""

import re
from pathlib import Path
from threading import Thread
from typing import Any

from vipo_cli.errors import MissingWeights

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
DEADLINE_SECONDS = 5.0
"""How long the hub may take to answer; where packets vanish, nothing else ends the waiting."""

PATTERNS = ["*.parquet", "*.csv", "*.jsonl"]


def hub_folder(repo: str, revision: str | None = None) -> Path:
    """Return the local folder of a hub data set, downloading it if the hub answers.

    Raises:
        MissingWeights: it is neither in the cache nor to be had.
    """
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import (  # type: ignore[attr-defined]
        HFValidationError,
        HTTPError,
    )

    options: dict[str, Any] = {"repo_type": "dataset", "revision": revision}
    try:
        cached = Path(snapshot_download(repo, local_files_only=True, **options))
        if any(file for pattern in PATTERNS for file in cached.rglob(pattern)):
            return cached
    except HFValidationError as error:
        raise _missing(repo, f"`{repo}` cannot be the name of a hub data set") from error
    except OSError:
        pass  # not in the cache
    if constants.is_offline_mode():
        raise _missing(repo, "HF_HUB_OFFLINE is set")
    if refusal := _ask(repo, revision):
        raise _missing(repo, refusal)
    try:
        return Path(snapshot_download(repo, allow_patterns=PATTERNS, **options))
    except (HTTPError, OSError) as error:
        raise _missing(repo, f"the download broke off: {_first_line(error)}") from error


def _ask(repo: str, revision: str | None) -> str:
    """Return why the hub does not give a data set, or an empty string if it does.

    The thread is left behind when the time is over: resolving a name has no timeout of its own.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import (  # type: ignore[attr-defined]
        GatedRepoError,
        HTTPError,
        RepositoryNotFoundError,
    )

    answer = []

    def ask() -> None:
        try:
            HfApi().dataset_info(repo, revision=revision, timeout=DEADLINE_SECONDS)
        except GatedRepoError:
            answer.append("its owner has to grant you access: sign in with `hf auth login`")
        except RepositoryNotFoundError:
            answer.append("the hub has no data set of that name")
        except (HTTPError, OSError, ValueError) as error:
            answer.append(f"the hub cannot be reached: {_first_line(error)}")
        else:
            answer.append("")

    thread = Thread(target=ask, daemon=True)
    thread.start()
    thread.join(DEADLINE_SECONDS)
    return answer[0] if answer else f"the hub did not answer within {DEADLINE_SECONDS:.0f} s"


def _missing(repo: str, reason: str) -> MissingWeights:
    return MissingWeights(
        f"data set `{repo}` is not on this machine",
        details=[reason],
        hint="check the name; for files of your own, give the path of a Parquet, CSV or "
        "JSON-lines file, or of a folder",
    )


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0] or type(error).__name__
