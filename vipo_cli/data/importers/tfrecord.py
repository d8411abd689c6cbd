"""TFRecord files and the tf.train.Example messages in them, read without TensorFlow.

A record is: its length (8 bytes, little endian), the masked CRC-32C of these 8 bytes, the data, the
masked CRC-32C of the data. An Example is a protocol buffer: field 1 holds the features, a map of
names to values of which each is a list of bytes (1), floats (2) or whole numbers (3).
"""

import struct
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from vipo_cli.errors import DataError

Values = list[bytes] | list[float] | list[int]

LARGEST = 2**28
"""Bytes that a record may have."""
POLYNOMIAL = 0x82F63B78
"""Of CRC-32C (Castagnoli), its bits in reverse order."""
PIECE = 64
"""Bytes of the pieces whose checksums are computed side by side."""
VARINT, EIGHT, DELIMITED, FOUR = 0, 1, 2, 5
"""What kinds of fields there are in a protocol buffer."""


def records_of(file: Path) -> Iterator[tuple[int, bytes]]:
    """Yield where each record of a file starts, and its data.

    Raises:
        DataError: the file cannot be read, is damaged, or ends too early.
    """
    try:
        with file.open("rb") as stream:
            start = 0
            while (data := _record(stream, file, start)) is not None:
                yield start, data
                start += 16 + len(data)
    except OSError as error:
        raise DataError(f"cannot read `{file}`: {error.strerror}") from error


def count_records(file: Path) -> int | None:
    """Return how many records a file says it has, of which only the lengths are read."""
    count = start = 0
    try:
        size = file.stat().st_size
        with file.open("rb") as stream:
            while start < size:
                stream.seek(start)
                start += 16 + int.from_bytes(stream.read(8), "little")
                count += 1
    except (OSError, OverflowError):
        return None
    return count if start == size else None


def record_at(file: Path, start: int) -> bytes:
    """Return the data of the record that starts at some byte of a file.

    Raises:
        DataError: the file cannot be read, or there is no record.
    """
    try:
        with file.open("rb") as stream:
            stream.seek(start)
            data = _record(stream, file, start)
    except OSError as error:
        raise DataError(f"cannot read `{file}`: {error.strerror}") from error
    if data is None:
        raise _damaged(file, start, "it ends there")
    return data


def features_of(data: bytes) -> dict[str, Values]:
    """Return the features of a tf.train.Example by their names.

    Raises:
        ValueError: it is none.
    """
    found: dict[str, Values] = {}
    for number, _, features in _fields(data):
        if number == 1:
            for _, _, pair in _fields(_bytes(features)):
                parts = {key: part for key, _, part in _fields(_bytes(pair))}
                found[_bytes(parts.get(1, b"")).decode()] = _values(_bytes(parts.get(2, b"")))
    return found


def masked_crc(data: bytes) -> int:
    """Return the CRC-32C of some bytes, rotated and offset as TFRecord files have it."""
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def crc32c(data: bytes) -> int:
    """Return the CRC-32C of some bytes.

    The data are cut into pieces of which numpy computes the checksums together. They are joined one
    after the other: the checksum of a followed by b is that of a, passed through as many zero bytes
    as b has, with that of b added, for a CRC is linear.
    """
    table = _table()
    whole = len(data) // PIECE
    lanes = np.zeros(whole, np.uint32)
    pieces = np.frombuffer(data, np.uint8, whole * PIECE).reshape(whole, PIECE)
    for column in np.ascontiguousarray(pieces.T):
        lanes = table[(lanes ^ column) & 0xFF] ^ (lanes >> 8)
    low, second, third, high = _through_a_piece()
    state = 0xFFFFFFFF
    for lane in lanes.tolist():
        state = (
            low[state & 0xFF]
            ^ second[state >> 8 & 0xFF]
            ^ third[state >> 16 & 0xFF]
            ^ high[state >> 24]
            ^ lane
        )
    for byte in data[whole * PIECE :]:
        state = int(table[(state ^ byte) & 0xFF]) ^ state >> 8
    return state ^ 0xFFFFFFFF


@cache
def _table() -> NDArray[np.uint32]:
    """Return what each value of the lowest byte becomes when it is passed through a zero byte."""
    values = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        values = np.where(values & 1, (values >> 1) ^ np.uint32(POLYNOMIAL), values >> 1)
    return values


@cache
def _through_a_piece() -> list[list[int]]:
    """Return what each value of each byte, the lowest first, becomes through PIECE zero bytes."""
    table = _table()
    values = np.arange(256, dtype=np.uint32) << np.arange(0, 32, 8, dtype=np.uint32)[:, None]
    for _ in range(PIECE):
        values = table[values & 0xFF] ^ (values >> 8)
    return [[int(each) for each in row] for row in values]


def _record(stream: BinaryIO, file: Path, start: int) -> bytes | None:
    """Return the data of the record that begins here; None at the end of the file."""
    head = stream.read(12)
    if not head:
        return None
    if len(head) < 12:
        raise _damaged(file, start, "it ends too early")
    length, crc = struct.unpack("<QI", head)
    if masked_crc(head[:8]) != crc:
        raise _damaged(file, start, "the checksum of the length is wrong")
    if length > LARGEST:
        raise _damaged(file, start, f"a record of {length:,} bytes")
    data = stream.read(length + 4)
    if len(data) < length + 4:
        raise _damaged(file, start, "it ends too early")
    if masked_crc(data[:length]) != struct.unpack("<I", data[length:])[0]:
        raise _damaged(file, start, "the checksum of the data is wrong")
    return data[:length]


def _damaged(file: Path, start: int, what: str) -> DataError:
    return DataError(
        f"`{file}` is no whole TFRecord file: {what}, at byte {start:,}",
        hint="a file of some hundred bytes is a pointer of Git LFS: fetch it with `git lfs pull`",
    )


def _fields(data: bytes) -> Iterator[tuple[int, int, bytes | int]]:
    """Yield number, kind and content of each field of a message.

    Raises:
        ValueError: it is none.
    """
    place = 0
    while place < len(data):
        key, place = _varint(data, place)
        number, kind = key >> 3, key & 7
        if kind == VARINT:
            value, place = _varint(data, place)
            yield number, kind, value
            continue
        if kind == DELIMITED:
            length, place = _varint(data, place)
        elif kind in (EIGHT, FOUR):
            length = 8 if kind == EIGHT else 4
        else:
            raise ValueError(f"a field of the unknown kind {kind}")
        if place + length > len(data):
            raise ValueError("a field that is longer than its message")
        yield number, kind, data[place : place + length]
        place += length


def _varint(data: bytes, place: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if place >= len(data):
            break
        byte = data[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, place
    raise ValueError("a number that does not end")


def _bytes(content: bytes | int) -> bytes:
    if isinstance(content, bytes):
        return content
    raise ValueError("a number in place of a message")


def _values(feature: bytes) -> Values:
    """Return the values of a feature; the last of its lists counts."""
    found: Values = []
    for number, _, content in _fields(feature):
        values = [value for key, _, value in _fields(_bytes(content)) if key == 1]
        if number == 1:
            found = [_bytes(value) for value in values]
        elif number == 2:
            found = [each for value in values for each in _floats(_bytes(value))]
        elif number == 3:
            found = [each for value in values for each in _numbers(value)]
    return found


def _floats(packed: bytes) -> list[float]:
    """Return floats, packed into one field or one of them alone."""
    if len(packed) % 4:
        raise ValueError("floats of a broken length")
    return list(struct.unpack(f"<{len(packed) // 4}f", packed))


def _numbers(content: bytes | int) -> list[int]:
    """Return whole numbers, packed into one field or one of them alone."""
    if isinstance(content, int):
        return [_signed(content)]
    found, place = [], 0
    while place < len(content):
        value, place = _varint(content, place)
        found.append(_signed(value))
    return found


def _signed(value: int) -> int:
    return value - 2**64 if value >= 2**63 else value
