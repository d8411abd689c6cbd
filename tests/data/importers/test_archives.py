import gzip
import io
import random
import stat
import struct
import tarfile
import zipfile

import pytest

from vipo_cli.data.entry import Unusable
from vipo_cli.data.importers import archives, byte_streams
from vipo_cli.data.importers.archives import Shelf, archives_in, open_archive
from vipo_cli.errors import DataError

DRAW = random.Random(0)
FILES = {f"images/{number}.jpg": DRAW.randbytes(DRAW.randint(1, 20_000)) for number in range(30)}
EVIL = {"../outside.jpg": b"outside", "/etc/absolute.jpg": b"absolute"}


def tar_bytes(files, extra=()):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        for info in extra:
            tar.addfile(info)
    return buffer.getvalue()


def zip_bytes(files):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, data in files.items():
            packed.writestr(name, data)
    return buffer.getvalue()


def put(file, data):
    file.write_bytes(data)
    return file


def parts(folder, name, data, ends):
    size = -(-len(data) // len(ends))
    for place, end in enumerate(ends):
        put(folder / f"{name}{end}", data[place * size : (place + 1) * size])
    return folder / f"{name}{ends[0]}"


@pytest.fixture(
    params=["x.zip", "x.tar", "x.tar.gz", "x.tgz", ".00", ".part-aa", "partaa", "zip parts"]
)
def archive(request, tmp_path, monkeypatch):
    """The same members in an archive of each kind; checkpoints are close, and few are kept."""
    monkeypatch.setattr(byte_streams, "SPACING", 2**14)
    monkeypatch.setattr(byte_streams, "PIECE", 2**12)
    monkeypatch.setattr(byte_streams, "CHECKPOINTS", 4)
    tar, packed = tar_bytes(FILES | EVIL), gzip.compress(tar_bytes(FILES | EVIL), 1)
    made = {
        "x.zip": lambda: put(tmp_path / "x.zip", zip_bytes(FILES | EVIL)),
        "x.tar": lambda: put(tmp_path / "x.tar", tar),
        "x.tar.gz": lambda: put(tmp_path / "x.tar.gz", packed),
        "x.tgz": lambda: put(tmp_path / "x.tgz", packed),
        ".00": lambda: parts(tmp_path, "images.tar.gz", packed, [".00", ".01", ".02"]),
        ".part-aa": lambda: parts(tmp_path, "x.tar", tar, [".part-aa", ".part-ab"]),
        "partaa": lambda: parts(tmp_path, "x.tar.", tar, ["partaa", "partab", "partac"]),
        "zip parts": lambda: parts(tmp_path, "x.zip", zip_bytes(FILES | EVIL), [".001", ".002"]),
    }
    return made[request.param]()


def test_members_are_read_in_any_order(archive, tmp_path):
    assert archives_in(tmp_path) == [archive]
    opened = open_archive(archive)
    assert opened.names() == [*FILES, *EVIL]
    for name in random.Random(1).sample([*FILES], len(FILES)) * 2:
        assert opened.read(name) == FILES[name]
    assert opened.read("./images/3.jpg") == FILES["images/3.jpg"]
    assert opened.read("images/none.jpg") == Unusable("images/none.jpg", archives.MISSING)
    assert dict(opened.members()) == FILES | EVIL


def test_names_that_leave_an_archive_reach_nothing(tmp_path):
    put(tmp_path / "outside.jpg", b"mine")
    folder = tmp_path / "set"
    folder.mkdir()
    put(folder / "x.tar", tar_bytes({"a.jpg": b"a"}))
    shelf = Shelf(folder)
    for name in ("../outside.jpg", str(tmp_path / "outside.jpg"), "a/../../outside.jpg", "", "."):
        assert shelf.find(name) == Unusable(name, archives.MISSING)
    assert shelf.find("\0") == Unusable("\0", archives.MISSING)
    assert shelf.find("x" * 5000) == Unusable("x" * 5000, archives.MISSING)
    assert sorted(file.name for file in tmp_path.rglob("*")) == ["outside.jpg", "set", "x.tar"]


def test_links_are_not_followed(tmp_path):
    links = []
    for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE):
        info = tarfile.TarInfo(f"link{len(links)}.jpg")
        info.type, info.linkname = kind, "/etc/passwd"
        links.append(info)
    opened = open_archive(put(tmp_path / "x.tar", tar_bytes({"a.jpg": b"a"}, links)))
    assert opened.names() == ["a.jpg"]
    assert opened.read("link0.jpg") == Unusable("link0.jpg", archives.LINK)
    info = zipfile.ZipInfo("link.jpg")
    info.create_system, info.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    opened = open_archive(put(tmp_path / "x.zip", zip_bytes({info: b"/etc/passwd", "b.jpg": b"b"})))
    assert opened.names() == ["b.jpg"]
    assert opened.read("link.jpg") == Unusable("link.jpg", archives.LINK)


def test_a_member_of_unreasonable_size_is_not_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "LARGEST", 1000)
    files = {"bomb.jpg": bytes(1001), "a.jpg": bytes(1000)}
    for name, data in (
        ("x.zip", zip_bytes(files)),
        ("x.tar", tar_bytes(files)),
        ("x.tgz", gzip.compress(tar_bytes(files))),
    ):
        opened = open_archive(put(tmp_path / name, data))
        assert opened.read("bomb.jpg") == Unusable("bomb.jpg", archives.TOO_LARGE)
        assert dict(opened.members()) == {
            "bomb.jpg": Unusable("bomb.jpg", archives.TOO_LARGE),
            "a.jpg": bytes(1000),
        }
    put(tmp_path / "bomb.jpg", bytes(1001))
    assert open_archive(tmp_path).read("bomb.jpg") == Unusable("bomb.jpg", archives.TOO_LARGE)


def test_a_zip_file_that_lies_about_a_size_gives_no_more(tmp_path):
    data = zip_bytes({"a.jpg": bytes(1_000_000)})
    lie = struct.pack("<I", 1_000_000)
    opened = open_archive(put(tmp_path / "x.zip", data.replace(lie, struct.pack("<I", 100))))
    assert opened.read("a.jpg") == Unusable("a.jpg", archives.DAMAGED)


def test_a_header_of_a_negative_size_does_not_lead_in_circles(tmp_path):
    data = bytearray(tar_bytes({"a.jpg": b"a", "b.jpg": b"b"}))
    data[124:136] = b"\xff" * 10 + b"\xfe\x00"  # in base 256: -512
    header = bytearray(data[:512])
    header[148:156] = b" " * 8
    data[148:156] = b"%06o\0 " % sum(header)
    with pytest.raises(DataError, match="cannot read the archive"):
        open_archive(put(tmp_path / "x.tar", bytes(data))).names()


def test_a_header_that_claims_gigabytes_is_not_read(tmp_path):
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 2**32
    opened = open_archive(put(tmp_path / "x.tar", info.tobuf() + bytes(2048)))
    with pytest.raises(DataError, match="impossible size"):
        opened.names()


@pytest.mark.parametrize("name", ["x.zip", "x.tar", "x.tar.gz"])
def test_a_damaged_archive_is_said_to_be_damaged(tmp_path, name):
    data = zip_bytes(FILES) if name == "x.zip" else tar_bytes(FILES)
    data = gzip.compress(data) if name.endswith("gz") else data
    for damaged in (data[: len(data) // 2], data[:100], b"", b"not an archive" * 100):
        with pytest.raises(DataError, match="cannot read the archive"):
            open_archive(put(tmp_path / name, damaged)).names()


def test_a_zip_file_of_another_time_is_said_to_be_unreadable(tmp_path):
    data = bytearray(zip_bytes({"a.jpg": b"a"}))
    data[data.index(b"PK\1\2") + 6] = 166  # the version that is needed: 16.6
    with pytest.raises(DataError, match=r"zip file version 16\.6"):
        open_archive(put(tmp_path / "x.zip", bytes(data)))


def test_a_tar_file_is_not_cut_short_silently_at_a_damaged_header(tmp_path):
    data = bytearray(tar_bytes({"a.jpg": b"a", "b.jpg": b"b", "c.jpg": b"c"}))
    data[1024:1034] = b"\xff" * 10  # the name of the second member, which its checksum covers
    with pytest.raises(DataError, match="no header at byte 1,024"):
        open_archive(put(tmp_path / "x.tar", bytes(data))).names()


def test_bytes_flipped_at_random_never_end_in_a_traceback(tmp_path):
    draw = random.Random(2)
    small = {name: data[:300] for name, data in list(FILES.items())[:4]}
    for name, whole in (
        ("x.zip", zip_bytes(small)),
        ("x.tar", tar_bytes(small)),
        ("x.tar.gz", gzip.compress(tar_bytes(small))),
    ):
        for _ in range(60):
            data = bytearray(whole)
            for _ in range(draw.randint(1, 4)):
                data[draw.randrange(len(data))] = draw.randrange(256)
            try:
                members = dict(open_archive(put(tmp_path / name, bytes(data))).members())
            except DataError:
                continue
            assert len(members) <= len(small)


def test_missing_parts_are_named(tmp_path):
    first = parts(tmp_path, "x.tar.gz", gzip.compress(tar_bytes(FILES)), [".00", ".01", ".02"])
    (tmp_path / "x.tar.gz.01").unlink()
    with pytest.raises(DataError, match=r"parts of .* are missing") as raised:
        open_archive(first)
    assert raised.value.details == ("there: x.tar.gz.00, x.tar.gz.02",)
    first.unlink()
    with pytest.raises(DataError, match="are missing"):
        open_archive(tmp_path / "x.tar.gz.02")


@pytest.mark.parametrize("name", ["x.tar.xz", "x.tar.bz", "x.zip.md5", "x.gz", "tar", "x.tar.gz.b"])
def test_what_only_looks_like_an_archive_is_none(tmp_path, name):
    put(tmp_path / name, b"")
    assert archives_in(tmp_path) == []
    with pytest.raises(DataError, match="no archive"):
        open_archive(tmp_path / name)


def test_a_shelf_finds_names_that_start_further_down(tmp_path):
    put(tmp_path / "one.tar", tar_bytes({"HPDv3/images/a.jpg": b"a", "HPDv3/x/same.jpg": b"1"}))
    put(tmp_path / "two.zip", zip_bytes({"deep/y/same.jpg": b"2", "deep/y/b.jpg": b"b"}))
    (tmp_path / "open" / "images").mkdir(parents=True)
    put(tmp_path / "open" / "images" / "c.jpg", b"c")
    shelf = Shelf(tmp_path)
    assert shelf.find("images/a.jpg") == b"a"
    assert shelf.find("y/b.jpg") == b"b"
    assert shelf.find("images/c.jpg") == tmp_path / "open" / "images" / "c.jpg"
    assert shelf.find("same.jpg") == Unusable("same.jpg", archives.AMBIGUOUS)
    assert shelf.find("x/same.jpg") == b"1"
    assert shelf.find("s/a.jpg") == Unusable("s/a.jpg", archives.MISSING)
    assert shelf.find_all(["images/a.jpg", "y/b.jpg"]) == (b"a", b"b")
    assert shelf.find_all(["images/a.jpg", None]) == Unusable("", archives.MISSING)


def test_an_archive_is_not_opened_for_what_is_a_file(tmp_path):
    put(tmp_path / "broken.tar.gz", b"broken")
    put(tmp_path / "a.jpg", b"a")
    shelf = Shelf(tmp_path)
    assert shelf.find("a.jpg") == tmp_path / "a.jpg"
    with pytest.raises(DataError, match=r"broken\.tar\.gz"):
        shelf.find("b.jpg")


def test_a_name_that_is_not_utf_8_is_readable(tmp_path):
    data = tar_bytes({"\udce9.jpg": b"a"})
    assert open_archive(put(tmp_path / "x.tar", data)).names() == ["�.jpg"]


def test_streams_of_gzip_may_follow_each_other(tmp_path):
    tar = tar_bytes(FILES)
    data = gzip.compress(tar[:5000]) + gzip.compress(tar[5000:]) + bytes(512)
    assert dict(open_archive(put(tmp_path / "x.tar.gz", data)).members()) == FILES
