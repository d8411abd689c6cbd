"""Media in folders and archives, read as bytes from where they lie: nothing is ever unpacked.

A name in an archive is only a key by which a member is found, so names such as `../x` or `/x` reach
nothing; members that are links, devices or sparse files are not read. A member larger than LARGEST
is not read either, whatever its archive claims.

A zip file and a tar file give any member at once. A gzipped tar file must be unpacked in memory
from its beginning to find out what it holds, and a later read unpacks what lies before it since the
nearest of a few thousand checkpoints. Who has the room makes a plain tar file of it, of which every
read is cheap: `gunzip images.tar.gz`, or `cat images.tar.gz.* | gunzip > images.tar`.
"""

import io
import posixpath
import re
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, cast

from vipo_cli.data.entry import Unusable
from vipo_cli.data.importers.byte_streams import joined, unpacked
from vipo_cli.data.importers.files import described_in, files_below
from vipo_cli.errors import DataError
from vipo_cli.media import Media

LARGEST = 2**28
"""Bytes of a medium that is read from an archive."""
LARGEST_HEADER = 2**20
"""Bytes of what a tar file says of one member."""

MISSING = "a medium is not there"
AMBIGUOUS = "a medium's name fits several files"
TOO_LARGE = f"a medium of more than {LARGEST >> 20} MiB"
LINK = "a link or device in place of a medium"
DAMAGED = "a medium in an archive is damaged"
UNREADABLE = "a medium in an archive is encrypted or compressed in an unknown way"

ARCHIVE = re.compile(
    r"(?P<whole>.+\.(?P<kind>zip|tar\.gz|tgz|tar))"
    r"(?:[._-]?(?:part)?[._-]?(?P<part>\d{1,6}|(?![bgl]z)[a-m][a-z]))?"
)
"""Name of an archive, or of one of the parts into which `split` cuts it, such as x.tar.gz.aa."""
FAULTS = (
    tarfile.TarError, zipfile.BadZipFile, zlib.error, struct.error,
    OSError, EOFError, ValueError, OverflowError, IndexError, KeyError, RuntimeError,
)  # fmt: skip
"""What reading a damaged archive raises."""


class Archive:
    """A folder, or one archive with all its parts.

    Attributes:
        place: the folder, or the file or first part.
    """

    def __init__(self, place: Path) -> None:
        self.place = place

    def names(self) -> list[str]:
        """Return the names of all members that can be read, in the order in which they lie there.

        Raises:
            DataError: the archive cannot be read.
        """
        raise NotImplementedError

    def find(self, name: str) -> Media | Unusable:
        """Return a member: its path where it is a file, else its bytes."""
        raise NotImplementedError

    def holds(self, name: str) -> bool:
        """Tell whether there is a member of a name, readable or not.

        Raises:
            DataError: the archive cannot be read.
        """
        raise NotImplementedError

    def read(self, name: str) -> bytes | Unusable:
        """Return the bytes of a member."""
        found = self.find(name)
        if not isinstance(found, Path):
            return found
        try:
            if found.stat().st_size > LARGEST:
                return Unusable(name, TOO_LARGE)
            return found.read_bytes()
        except OSError:
            return Unusable(name, DAMAGED)

    def members(self) -> Iterator[tuple[str, bytes | Unusable]]:
        """Yield all members in the order in which they lie there, which is the fastest.

        Raises:
            DataError: the archive cannot be read.
        """
        for name in self.names():
            yield name, self.read(name)


class _Folder(Archive):
    def names(self) -> list[str]:
        files = files_below(self.place, lambda _: True)
        return sorted(_readable(file.relative_to(self.place).as_posix()) for file in files)

    def holds(self, name: str) -> bool:
        return isinstance(self.find(name), Path)

    def find(self, name: str) -> Media | Unusable:
        key = _key(name)
        if not key or "\0" in key or key.startswith(("/", "../")) or Path(key).drive:
            return Unusable(name, MISSING)
        try:
            found = self.place / key
            return found if found.is_file() else Unusable(name, MISSING)
        except (OSError, ValueError):  # a name that is no name for this file system
            return Unusable(name, MISSING)


class _Zip(Archive):
    def __init__(self, place: Path, parts: Sequence[Path]) -> None:
        super().__init__(place)
        try:
            self._file = zipfile.ZipFile(joined(parts))
            self._infos = {_key(info.filename): info for info in self._file.infolist()}
        except FAULTS as error:
            raise _unreadable(place, error) from error

    def names(self) -> list[str]:
        infos = sorted(self._infos.values(), key=lambda info: info.header_offset)
        return [_key(info.filename) for info in infos if _is_plain(info)]

    def holds(self, name: str) -> bool:
        return _key(name) in self._infos

    def find(self, name: str) -> Media | Unusable:
        info = self._infos.get(_key(name))
        if info is None or info.is_dir():
            return Unusable(name, MISSING)
        if not _is_plain(info):
            return Unusable(name, LINK)
        if info.file_size > LARGEST:
            return Unusable(name, TOO_LARGE)
        if info.flag_bits & 1 or info.compress_type not in (
            zipfile.ZIP_STORED,
            zipfile.ZIP_DEFLATED,
        ):
            return Unusable(name, UNREADABLE)
        try:
            with self._file.open(info) as stream:
                return stream.read()
        except FAULTS:
            return Unusable(name, DAMAGED)


class _Tar(Archive):
    def __init__(self, place: Path, parts: Sequence[Path], packed: bool) -> None:
        super().__init__(place)
        try:
            self._stream = unpacked(joined(parts)) if packed else joined(parts)
        except OSError as error:
            raise _unreadable(place, error) from error
        self._places: dict[str, tuple[int, int]] | None = None

    def names(self) -> list[str]:
        found = sorted(self._index().items(), key=lambda item: item[1])
        return [name for name, (_, size) in found if size >= 0]

    def holds(self, name: str) -> bool:
        return _key(name) in self._index()

    def find(self, name: str) -> Media | Unusable:
        key = _key(name)
        where = self._index().get(key)
        return Unusable(name, MISSING) if where is None else self._member(name, *where)

    def members(self) -> Iterator[tuple[str, bytes | Unusable]]:
        for name, start, size in self._infos():
            if size >= 0:
                yield name, self._member(name, start, size)

    def _member(self, name: str, start: int, size: int) -> bytes | Unusable:
        if size < 0:
            return Unusable(name, LINK)
        if size > LARGEST:
            return Unusable(name, TOO_LARGE)
        try:
            self._stream.seek(start)
            data = self._stream.read(size)
        except FAULTS:
            return Unusable(name, DAMAGED)
        return data if len(data) == size else Unusable(name, DAMAGED)

    def _index(self) -> dict[str, tuple[int, int]]:
        """Return where each member starts and how long it is; of a name, the last one counts."""
        if self._places is None:
            self._places = {name: (start, size) for name, start, size in self._infos()}
        return self._places

    def _infos(self) -> Iterator[tuple[str, int, int]]:
        """Yield name, start and size of each member; the size is -1 for what is no plain file."""
        try:
            self._stream.seek(0)
            # a seek to where the stream is costs nothing, so that members can be read in between
            tar = tarfile.open(fileobj=cast("BinaryIO", _Headers(self._stream)), mode="r:")  # noqa: SIM115
            before = -1
            while (info := _next(tar)) is not None:
                if info.size < 0 or tar.offset <= before:
                    raise tarfile.ReadError(f"a member of impossible size at byte {info.offset:,}")
                before = tar.offset
                plain = info.isreg() and not info.issparse()
                if not info.isdir():
                    yield _key(info.name), info.offset_data, info.size if plain else -1
            self._stream.seek(tar.offset)
            if any(self._stream.read(tarfile.BLOCKSIZE)):
                raise tarfile.ReadError(f"no header at byte {tar.offset:,}")
        except FAULTS as error:
            raise _unreadable(self.place, error) from error


class Shelf:
    """Everything below a folder: its files, and the members of the archives in it.

    Sources name their media by paths that start in the folder, somewhere below it, or in an archive
    with or without the folder that was packed. A name that fits several media gives none of them.
    """

    def __init__(self, folder: Path, archives: Sequence[Path] | None = None) -> None:
        """Lay a shelf out; archives are opened only when a name is not found among the files.

        Args:
            folder: where files are looked for.
            archives: to look into; by default all below the folder.
        """
        self._folder = folder
        self._files = _Folder(folder)
        self._given = archives
        self._archives: list[Archive] | None = None
        self._by_end: dict[str, list[tuple[Archive, str]]] | None = None

    def find(self, name: str) -> Media | Unusable:
        """Return a medium: its path where it is a file, else its bytes.

        Raises:
            DataError: an archive cannot be read.
        """
        found = self._files.find(name)
        if not isinstance(found, Unusable):
            return found
        if self._archives is None:
            places = archives_in(self._folder) if self._given is None else self._given
            self._archives = [open_archive(place) for place in places]
        key = _key(name)
        holding = [(archive, key) for archive in self._archives if archive.holds(key)]
        holding = holding or self._ending(key)
        if len(holding) > 1:
            return Unusable(name, AMBIGUOUS)
        return holding[0][0].find(holding[0][1]) if holding else Unusable(name, MISSING)

    def find_all(self, names: Iterable[Any]) -> tuple[Media, ...] | Unusable:
        """Return the media of some names, or what is wrong with the first that cannot be had.

        Raises:
            DataError: an archive cannot be read.
        """
        found: list[Media] = []
        for name in names:
            medium = self.find(name) if isinstance(name, str) else Unusable("", MISSING)
            if isinstance(medium, Unusable):
                return medium
            found.append(medium)
        return tuple(found)

    def _ending(self, key: str) -> list[tuple[Archive, str]]:
        """Return what a name may mean that starts further down."""
        if self._by_end is None:
            self._by_end = {}
            for archive in (self._files, *(self._archives or ())):
                for each in archive.names():
                    self._by_end.setdefault(posixpath.basename(each), []).append((archive, each))
        fitting = self._by_end.get(posixpath.basename(key), [])
        return [(archive, each) for archive, each in fitting if each.endswith(f"/{key}")]


def open_archive(place: Path) -> Archive:
    """Open a folder, a zip or tar file, or the first part of one that was split.

    Raises:
        DataError: it cannot be read, is no archive, or lacks parts.
    """
    if place.is_dir():
        return _Folder(place)
    kind = archive_kind(place)
    if kind is None:
        raise DataError(
            f"`{place}` is no archive that can be read", hint="zip, tar, tar.gz, or parts of one"
        )
    parts = parts_of(place)
    return _Zip(place, parts) if kind == "zip" else _Tar(place, parts, kind != "tar")


def archive_kind(file: Path) -> str | None:
    """Return zip, tar, tar.gz or tgz as a name says; None for anything else."""
    match = ARCHIVE.fullmatch(file.name.lower())
    return match["kind"] if match else None


def archives_in(place: Path) -> list[Path]:
    """Return the archives of a file or folder in the order of their names; of parts, the first."""
    files = [place] if place.is_file() else described_in(place)
    named = sorted(file for file in files if ARCHIVE.fullmatch(file.name.lower()))
    found: dict[tuple[Path, str], Path] = {}
    for file in named:
        match = ARCHIVE.fullmatch(file.name.lower())
        if match and not file.name.startswith(".") and file.is_file():
            found.setdefault((file.parent, match["whole"]), file)
    return list(found.values())


def parts_of(file: Path) -> list[Path]:
    """Return the parts of an archive in order, or the file alone if it was not split.

    Raises:
        DataError: a part is missing.
    """
    match = ARCHIVE.fullmatch(file.name.lower())
    if match is None or match["part"] is None:
        return [file]
    found = {}
    for other in sorted(file.parent.iterdir()):
        like = ARCHIVE.fullmatch(other.name.lower())
        if like and like["part"] and like["whole"] == match["whole"] and other.is_file():
            found[_part_number(like["part"])] = other
    first = min(found)
    missing = [number for number in range(first, max(found)) if number not in found]
    if first > 1 or missing:
        raise DataError(
            f"parts of `{file.parent / file.name[: len(match['whole'])]}` are missing",
            details=[f"there: {', '.join(each.name for each in found.values())}"],
        )
    return [found[number] for number in sorted(found)]


def _part_number(part: str) -> int:
    if part.isdigit():
        return int(part)
    return int(part.translate(_DIGITS), 26)


_DIGITS = {ord("a") + number: "0123456789abcdefghijklmnop"[number] for number in range(26)}
"""Digits to the base 26, as Python writes them, for the letters with which parts are numbered."""


def _key(name: str) -> str:
    """Return the name by which a member is found, always with slashes and without detours."""
    key = posixpath.normpath(_readable(name).replace("\\", "/")) if name else ""
    return key.removeprefix("./")


def _readable(name: str) -> str:
    """Return a name in which bytes that are no UTF-8 are replaced."""
    return name.encode(errors="surrogateescape").decode(errors="replace")


def _is_plain(info: zipfile.ZipInfo) -> bool:
    kind = stat.S_IFMT(info.external_attr >> 16)
    return not info.is_dir() and kind in (0, stat.S_IFREG)


def _next(tar: tarfile.TarFile) -> tarfile.TarInfo | None:
    info = tar.next()
    tar.members = []  # type: ignore[attr-defined]  # it would keep them all
    return info


def _unreadable(place: Path, error: Exception) -> DataError:
    return DataError(
        f"cannot read the archive `{place}`: {error or type(error).__name__}",
        hint="it may not have been downloaded completely",
    )


class _Headers:
    """A stream as tarfile reads it: pieces of the size of a header, and no more."""

    def __init__(self, stream: BinaryIO | io.BufferedReader) -> None:
        self.tell, self.seek = stream.tell, stream.seek
        self._read = stream.read

    def read(self, size: int) -> bytes:
        if not 0 <= size <= LARGEST_HEADER:
            raise tarfile.ReadError("a header of impossible size")
        return self._read(size)
