"""Damaged sources: never a traceback, a write outside of the output, or silently a wrong pair."""

import gzip
import io
import json
import subprocess
import sys
import tarfile
from collections import Counter
from contextlib import suppress
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.data.damaged import ELSEWHERE, NAMES, SOURCES, harm, medium, put, snapshot, tag, tar_data
from vipo_cli.data.entry import record_of
from vipo_cli.data.importing import Wanted, import_data
from vipo_cli.data.stored import entries_in, open_stored
from vipo_cli.errors import DataError, VipoError
from vipo_cli.media import media_bytes
from vipo_cli.run import finish

ROUNDS = 5
"""Damaged inputs a source in the ordinary suite; a thousand in all in the slow one."""
SLOW_ROUNDS = 50
TAGS = {name: tag(name) for name in NAMES}


def imported(source, out, folders):
    """Import a source, and return its entries: what they say, which media, and of what size.

    Args:
        source: a folder.
        out: where to.
        folders: parameters that name folders of the source.
    """
    parameters = {name: str(source / folder) for name, folder in folders.items()}
    finish(import_data(source, out, Wanted(pairs="all", parameters=parameters)))
    found = []
    for entry in entries_in(out):
        media = [media_bytes(medium) for medium in entry.media]
        found.append((entry, [whose(data) for data in media], media))
    return found


def whose(data):
    """Return the name of a medium, damaged or not."""
    counts = Counter({name: data.count(each) for name, each in TAGS.items()})
    name, count = counts.most_common(1)[0]
    return name if count else None


def said(entry, names):
    """Return what an entry says of its media, whatever the order in which they were shown."""
    if entry.label in ("a", "b"):
        return (entry.kind, *(names if entry.label == "a" else names[::-1]))
    return (entry.kind, entry.label, *sorted(map(str, names)))


def near(text, other):
    """Tell whether a text is another one with a few characters damaged, put in, or cut off."""
    if not text:
        return False
    differing = sum(one != another for one, another in zip(text, other, strict=False))
    put_in = len(text) > len(other) and any(
        text.startswith(other[:place]) and text.endswith(other[place:])
        for place in range(len(other) + 1)
    )
    return differing <= 16 or put_in or other.startswith(text)


def check(source, out, expected, folders):
    """Import a damaged source; return how many entries are left.

    Every one of them is an entry of the source before: the same media in the same order of
    preference, with their prompt. Only within a prompt, and within a medium, may there be damage.
    """
    try:
        found = imported(source, out, folders)
    except VipoError as error:
        assert str(error)
        return 0
    by_media = {}
    for entry, names, _ in expected:
        by_media.setdefault(said(entry, names), []).append(entry.prompt)
    for entry, names, media in found:
        known = [name for name in names if name is not None]
        candidates = [
            prompts
            for key, prompts in by_media.items()
            if key == said(entry, names) or (len(known) < len(names) and set(known) < set(key))
        ]
        assert candidates, (entry.prompt, entry.label, names)
        prompts = [prompt for each in candidates for prompt in each]
        exact = {prompt for each in by_media.values() for prompt in each}
        assert entry.prompt in prompts or (
            entry.prompt not in exact and any(near(entry.prompt, prompt) for prompt in prompts)
        ), entry.prompt
        assert all(media)
        if entry.label in ("a", "b"):
            record = record_of(entry)
            assert record.probability >= 0.5 or entry.votes is None
    if any(entry.label != "none" for entry, *_ in found):
        kept = open_stored(out, ties="keep")
        assert sum(entry.label != "none" for entry, *_ in found) == len(kept)
    return len(found)


def rounds(layout, tmp_path, monkeypatch, numbers):
    good = tmp_path / "good"
    good.mkdir()
    SOURCES[layout](good)
    folders = ELSEWHERE.get(layout, {})
    expected = imported(good, tmp_path / "undamaged", folders)
    assert len(expected) >= 4
    assert all(name for _, names, _ in expected for name in names)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    monkeypatch.setenv("TMPDIR", str(elsewhere))
    left = 0
    for number in numbers:
        rng = np.random.default_rng([number, *layout.encode()])
        source, out = tmp_path / f"{number}-source", tmp_path / f"{number}-out"
        source.mkdir()
        SOURCES[layout](source)
        what = harm(rng, source)
        before = snapshot(tmp_path)
        try:
            left += check(source, out, expected, folders)
        except AssertionError as error:
            raise AssertionError(f"{layout} {number}, {what}: {error}") from error
        except Exception as error:
            raise AssertionError(f"{layout} {number}, {what}: {error!r}") from error
        after = snapshot(tmp_path)
        own = f"{number}-out"
        assert {name: what for name, what in after.items() if not name.startswith(own)} == before
    return left


EVIL = ("../evil", "/tmp/evil", "..\\evil", "a/../../evil", "x\0y", "~/evil", "./" * 200 + "evil")


@pytest.mark.parametrize("name", EVIL)
def test_no_name_in_an_archive_leads_out_of_the_output(name, tmp_path, monkeypatch):
    names = {end: f"{name}.{end}" for end in ("a.jpg", "b.jpg", "json")}
    members = {
        names["a.jpg"]: medium(NAMES[0]),
        names["b.jpg"]: medium(NAMES[1]),
        names["json"]: json.dumps({"prompt": "p", "label": "a"}).encode(),
    }
    place = tmp_path / "deep" / "source"
    put(place / "shard.tar", tar_data(members))
    before = snapshot(tmp_path)
    out = tmp_path / "deep" / "out"
    with suppress(VipoError):
        finish(import_data(place, out, Wanted()))
    after = snapshot(tmp_path)
    assert {name: what for name, what in after.items() if not name.startswith("deep/out")} == before
    assert not Path("/tmp/evil.a.jpg").exists()


def test_links_in_an_archive_are_no_media(tmp_path):
    (tmp_path / "secret.jpg").write_bytes(medium(NAMES[0]))
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for number in range(3):
            for kind, target in (
                (tarfile.SYMTYPE, "../secret.jpg"),
                (tarfile.LNKTYPE, "/etc/passwd"),
            ):
                info = tarfile.TarInfo(f"{number}.{'a' if kind == tarfile.SYMTYPE else 'b'}.jpg")
                info.type, info.linkname = kind, target
                tar.addfile(info)
            said = json.dumps({"prompt": "p", "label": "a"}).encode()
            info = tarfile.TarInfo(f"{number}.json")
            info.size = len(said)
            tar.addfile(info, io.BytesIO(said))
    put(tmp_path / "source" / "shard.tar", buffer.getvalue())
    with pytest.raises(DataError, match="3 of 3 entries"):
        finish(import_data(tmp_path / "source", tmp_path / "out", Wanted(importer="webdataset")))


BOMB = """
import sys
from pathlib import Path
from vipo_cli.data.importing import Wanted, import_data
from vipo_cli.errors import DataError, VipoError
from vipo_cli.run import finish
try:
    finish(import_data(Path(sys.argv[1]), Path(sys.argv[2]), Wanted()))
except VipoError as error:
    print(error)
print(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])
"""


def packed_zeros(folder):
    """A tar file of zeros that packs to a thousandth."""
    info = tarfile.TarInfo("x.a.jpg")
    info.size = 2**31
    head = info.tobuf()
    body = gzip.compress(bytes(2**24), 1)
    put(folder / "shard.tar.gz", gzip.compress(head) + body * 20)


def parquet_of_zeros(folder):
    """Rows that are small on the disk and take 2 GiB together; a page holds one of them."""
    zeros = pa.array([bytes(2**24)] * 64)
    table = pa.table({"prompt": ["p"] * 64, "a": zeros, "b": zeros, "label": ["a"] * 64})
    folder.mkdir()
    file = folder / "t.parquet"
    pq.write_table(table, file, compression="zstd", use_dictionary=False, write_batch_size=1)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the peak of memory is told by /proc")
@pytest.mark.parametrize("make", [packed_zeros, parquet_of_zeros])
def test_what_unpacks_to_much_more_than_it_is_takes_no_memory(make, tmp_path):
    make(tmp_path / "source")
    found = subprocess.run(
        [sys.executable, "-c", BOMB, str(tmp_path / "source"), str(tmp_path / "out")],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert int(found.stdout.split()[-1]) < 2**20  # kilobytes


@pytest.mark.parametrize("layout", SOURCES)
def test_damaged_sources(layout, tmp_path, monkeypatch):
    rounds(layout, tmp_path, monkeypatch, range(ROUNDS))


@pytest.mark.slow
@pytest.mark.parametrize("layout", SOURCES)
def test_a_thousand_damaged_sources(layout, tmp_path, monkeypatch):
    left = rounds(layout, tmp_path, monkeypatch, range(ROUNDS, ROUNDS + SLOW_ROUNDS))
    assert left > 0
