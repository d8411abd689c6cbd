import random
import struct

import pytest

from vipo_cli.data.importers.tfrecord import (
    count_records,
    crc32c,
    features_of,
    masked_crc,
    record_at,
    records_of,
)
from vipo_cli.errors import DataError


def varint(value):
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def field(number, data):
    return varint(number << 3 | 2) + varint(len(data)) + data


def example(features):
    """A tf.train.Example as TensorFlow writes it: floats and whole numbers packed."""
    pairs = b""
    for name, values in features.items():
        if isinstance(values[0], bytes):
            feature = field(1, b"".join(field(1, value) for value in values))
        elif isinstance(values[0], float):
            feature = field(2, field(1, struct.pack(f"<{len(values)}f", *values)))
        else:
            packed = b"".join(varint(value % 2**64) for value in values)
            feature = field(3, field(1, packed))
        pairs += field(1, field(1, name.encode()) + field(2, feature))
    return field(1, pairs)


def record(data):
    length = struct.pack("<Q", len(data))
    return (
        length + struct.pack("<I", masked_crc(length)) + data + struct.pack("<I", masked_crc(data))
    )


def slow_crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


@pytest.mark.parametrize(
    ("data", "crc"),
    [
        # RFC 3720, B.4
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (bytes(range(31, -1, -1)), 0x113FDB5C),
        (b"123456789", 0xE3069283),
    ],
)
def test_checksums_are_those_of_the_standard(data, crc):
    assert crc32c(data) == crc


@pytest.mark.parametrize("size", [0, 1, 63, 64, 65, 127, 128, 1000])
def test_long_texts_have_the_checksum_of_a_byte_after_the_other(size):
    data = random.Random(size).randbytes(size)
    assert crc32c(data) == slow_crc32c(data)


def test_the_mask_is_that_of_a_known_file():
    # the length 0 as TensorFlow's empty records begin: 8 zero bytes and their masked checksum
    assert struct.pack("<I", masked_crc(bytes(8))) == b"\x29\x03\x98\x07"


def test_features_come_back():
    features = {
        "name": [b"a.png", b"b.png"],
        "score": [0.25, -1.0],
        "count": [0, 1, -1, 2**40],
        "none": [b""],
    }
    assert features_of(example(features)) == features


def test_features_that_are_not_packed_come_back():
    one = varint(1 << 3 | 5) + struct.pack("<f", 0.5)  # a float alone, as other writers have it
    many = varint(1 << 3) + varint(300) + varint(1 << 3) + varint(7)
    pairs = b""
    for name, kind, content in (("score", 2, one), ("count", 3, many)):
        pairs += field(1, field(1, name.encode()) + field(2, field(kind, content)))
    assert features_of(field(1, pairs)) == {"score": [0.5], "count": [300, 7]}


def test_records_are_found_again_where_they_start(tmp_path):
    file = tmp_path / "x.tfrecord"
    wanted = [b"one", b"", b"three" * 1000]
    file.write_bytes(b"".join(map(record, wanted)))
    found = list(records_of(file))
    assert [data for _, data in found] == wanted
    assert [record_at(file, start) for start, _ in found] == wanted
    assert count_records(file) == 3
    with pytest.raises(DataError, match="it ends there"):
        record_at(file, file.stat().st_size)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda data: data[:-1], "ends too early"),
        (lambda data: data[:5], "ends too early"),
        (lambda data: data[:14] + b"x" + data[15:], "checksum of the data"),
        (lambda data: b"x" + data[1:], "checksum of the length"),
        (lambda data: b"version https://git-lfs.github.com/spec/v1\n", "checksum of the length"),
    ],
)
def test_damage_is_noticed(tmp_path, damage, words):
    file = tmp_path / "x.tfrecord"
    file.write_bytes(damage(record(b"hello world")))
    with pytest.raises(DataError, match=words):
        list(records_of(file))
    assert count_records(file) in (None, 1)


def test_a_record_of_gigabytes_is_not_read(tmp_path):
    length = struct.pack("<Q", 2**40)
    file = tmp_path / "x.tfrecord"
    file.write_bytes(length + struct.pack("<I", masked_crc(length)))
    with pytest.raises(DataError, match="1,099,511,627,776 bytes"):
        list(records_of(file))


def test_noise_is_no_example():
    whole = example({"name": [b"a.png"], "score": [0.25], "count": [3]})
    draw = random.Random(0)
    for _ in range(500):
        data = bytearray(whole[: draw.randint(1, len(whole))])
        data[draw.randrange(len(data))] = draw.randrange(256)
        try:
            features = features_of(bytes(data))
        except (ValueError, UnicodeDecodeError):
            continue
        assert isinstance(features, dict)
