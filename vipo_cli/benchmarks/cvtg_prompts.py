"""CVTG-2K's prompts (arXiv 2503.23461): two groups, each in four files by number of texts."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile

from vipo_cli.benchmarks.prompt_files import Record
from vipo_cli.benchmarks.prompt_lists import Place
from vipo_cli.benchmarks.sources import Published, find_files
from vipo_cli.errors import DataError

ARCHIVE = "CVTG-2K.zip"
CVTG = Published(title="CVTG-2K", files=(ARCHIVE,), repo="dnkdnk/CVTG-2K")
PROMPTS = {
    "CVTG": {2: 200, 3: 301, 4: 300, 5: 201},
    "CVTG-Style": {2: 200, 3: 299, 4: 302, 5: 197},
}
"""How many there are by group and number of texts: prompts without and with a style of writing."""


def cvtg_prompts(*, path: Place = None) -> list[Record]:
    """CVTG-2K's 2,000 prompts; the tag is group and number of texts, such as `CVTG-Style/3`."""
    place = Path(path).expanduser() if path is not None else None
    if place is None or not place.is_dir() or (place / ARCHIVE).is_file():
        place = find_files(CVTG, path)[0]
    return read_prompts(place)


def read_prompts(place: Path, wanted: Mapping[str, Mapping[int, int]] = PROMPTS) -> list[Record]:
    """Read the archive, or the folder that was in it.

    Raises:
        DataError: files are missing or damaged, or hold other numbers of prompts.
    """
    if place.is_dir():
        files = {file.relative_to(place).as_posix(): file for file in place.rglob("*.json")}
        return _records(place, {name: file.read_bytes for name, file in files.items()}, wanted)
    try:
        with ZipFile(place) as archive:
            names = [name for name in archive.namelist() if name.endswith(".json")]
            readers = {name: lambda name=name: archive.read(name) for name in names}
            return _records(place, readers, wanted)
    except (BadZipFile, OSError) as error:
        raise DataError(f"`{place}` is no archive: {error}") from error


def _records(
    place: Path,
    files: Mapping[str, Callable[[], bytes]],
    wanted: Mapping[str, Mapping[int, int]],
) -> list[Record]:
    records: list[Record] = []
    for group, counts in wanted.items():
        for texts, count in counts.items():
            name = next((each for each in files if _is(each, group, texts)), None)
            if name is None:
                raise DataError(f"`{place}` has no {group}/{texts}.json")
            listed = _listed(f"{place}/{name}", files[name]())
            if len(listed) != count:
                raise DataError(f"`{place}/{name}` holds {len(listed)} prompts, CVTG-2K {count}")
            tag = f"{group}/{texts}"
            records += [
                {"prompt": each["prompt"], "tag": tag, "index": index, "texts": texts}
                for index, each in listed
            ]
    return records


def _is(name: str, group: str, texts: int) -> bool:
    """Tell whether a file is that of a group; the archive and the script differ in capitals."""
    return name.lower().split("/")[-2:] == [group.lower(), f"{texts}.json"]


def _listed(name: str, data: bytes) -> list[tuple[int, Any]]:
    try:
        return [(int(each["index"]), each) for each in json.loads(data)["data_list"]]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"`{name}` holds no `data_list` of prompts: {error}") from error
