"""Files of scores: small ones as they are written, and the larger ones that they are merged into.

    part-8c0f6a1e9b7d2c54.parquet     what was scored in a minute
    merged-51c7d0a9e3b6f824.parquet   many of these in one; its footer names them

Merging adds the large file whole, and only then removes the small ones. A file that a larger one
names does not count, wherever a killed process stopped: nothing is lost, and nothing there twice.
"""

import json
import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from hashlib import sha256
from pathlib import Path
from typing import TypeVar

from filelock import FileLock, Timeout

from vipo_cli.data.row_groups import open_file, read_columns, reading
from vipo_cli.errors import DataError
from vipo_cli.run import writing

T = TypeVar("T")

PART, MERGED = "part-{}.parquet", "merged-{}.parquet"
LOCK = ".merging.lock"
NAMED = b"vipo.merged"
"""Under which a footer lists the files that were merged."""
SEVERAL = 8
"""Files from which on it is worth it to merge them."""
LARGE = 2**20
"""Rows from which on a file is left as it is."""
GROUP_ROWS = 2**17
KEYS = ("media_hash", "prompt_hash")
REPEATED = ["prompt_hash", "reward", "fingerprint"]
COLUMNS = (*KEYS, "reward", "fingerprint", "score")
DICTIONARY_BYTES = 16 * 2**20
"""What repeats a group of rows holds once."""


def score_files(place: Path) -> list[Path]:
    """Return the files that count of those that hold the scores of one reward, in order.

    Raises:
        DataError: one that was merged is damaged.
    """
    merged, parts = (sorted(place.glob(name.format("*"))) for name in (MERGED, PART))
    within = {name for file in merged for name in _merged_into(file)}
    return [file for file in (*merged, *parts) if file.name not in within]


def has_scores(place: Path) -> bool:
    """Tell whether a folder holds scores."""
    return any(place.glob(PART.format("*"))) or any(place.glob(MERGED.format("*")))


def last_written(place: Path) -> int:
    """Return when the newest scores were written."""
    newest = 0
    for file in (*place.glob(PART.format("*")), *place.glob(MERGED.format("*"))):
        with suppress(FileNotFoundError):  # merged meanwhile into one that is as new
            newest = max(newest, file.stat().st_mtime_ns)
    return newest


def read_files(place: Path, read: Callable[[Sequence[Path]], T]) -> T:
    """Read the files of one reward; anew where some were merged meanwhile.

    Raises:
        DataError: one is damaged.
    """
    from pyarrow import ArrowException

    while True:
        before = sorted(place.glob("*.parquet"))
        try:
            return read(score_files(place))
        except (ArrowException, DataError, KeyError, OSError, StopIteration) as error:
            if sorted(place.glob("*.parquet")) == before:
                raise _damaged(place, error) from error


def merge_files(place: Path) -> None:
    """Merge the small files of one reward, if there are several and nobody else does it.

    Raises:
        DataError: one is damaged.
        VipoError: the large one cannot be written; nothing is lost.
    """
    if len(list(place.glob(PART.format("*")))) < SEVERAL:
        return
    try:
        with suppress(Timeout), FileLock(place / LOCK, timeout=0):
            _finish(place)
            small = [file for file in score_files(place) if _rows(file) < LARGE]
            if len(small) >= SEVERAL:
                _merge(place, small)
                _finish(place)
    except DataError as error:
        raise _damaged(place, error) from error


def _finish(place: Path) -> None:
    """Remove what a merge that was killed left: the files that another holds, and half of one."""
    counting = set(score_files(place))
    for file in (*place.glob(PART.format("*")), *place.glob(MERGED.format("*"))):
        if file not in counting:
            file.unlink(missing_ok=True)
    for file in place.glob(f".{MERGED.format('*')}.*.tmp"):
        file.unlink(missing_ok=True)


def _merge(place: Path, files: Sequence[Path]) -> None:
    """Write the rows of some files to one, group of rows by group of rows."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    about = pq.read_schema(files[0]).metadata
    about |= {NAMED: json.dumps([file.name for file in files]).encode()}
    with writing(place / MERGED.format(_name(files))) as temporary, ExitStack() as closing:
        writer, waiting = None, []
        for number, file in enumerate(files, start=1):
            waiting.append(read_columns([file], COLUMNS))
            if sum(map(len, waiting)) < GROUP_ROWS and number < len(files):
                continue
            table = pa.concat_tables(waiting).combine_chunks().replace_schema_metadata(about)
            writer = writer or closing.enter_context(
                pq.ParquetWriter(
                    temporary,
                    table.schema,
                    compression="zstd",
                    use_dictionary=REPEATED,
                    dictionary_pagesize_limit=DICTIONARY_BYTES,
                    write_page_checksum=True,
                )
            )
            writer.write_table(table)
            waiting = []
        closing.close()
        newest = max(file.stat().st_mtime_ns for file in files)
        os.utime(temporary, ns=(newest, newest))  # it is when they were scored that counts
    _settle(place)


def _name(files: Sequence[Path]) -> str:
    """Name files by what was scored in them, whatever was in which: equal for many rewards."""
    media, prompts = sha256(), sha256()
    for file in files:
        keys = read_columns([file], KEYS)
        for column, digest in zip(keys.columns, (media, prompts), strict=True):
            digest.update("".join(column.to_pylist()).encode())
    return sha256(media.digest() + prompts.digest()).hexdigest()[:16]


def _settle(place: Path) -> None:
    """Have the disk keep a new name, before what it replaces is removed."""
    with suppress(OSError):  # not every system opens folders
        descriptor = os.open(place, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _rows(file: Path) -> int:
    import pyarrow.parquet as pq

    with reading(file):
        return int(pq.read_metadata(file).num_rows)


def _merged_into(file: Path) -> list[str]:
    """Return the names of the files that were merged into one."""
    with open_file(file, verify=True) as source, reading(file):
        names: list[str] = json.loads((source.schema_arrow.metadata or {})[NAMED])
        return names


def _damaged(place: Path, error: Exception) -> DataError:
    return DataError(
        f"the scores in `{place}` are damaged: {error}",
        hint=f"remove them, and score again: rm -r {place}",
    )
