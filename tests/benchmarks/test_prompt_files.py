import json
from functools import partial
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vipo_cli.benchmarks import prompt_lists, prompt_sets, sources
from vipo_cli.benchmarks.prompt_files import read_prompt_file
from vipo_cli.benchmarks.prompt_lists import hpdv2, parti_prompts, pickapic_test
from vipo_cli.benchmarks.sources import Published, find_files, git_hash
from vipo_cli.errors import DataError, MissingWeights, VipoError


@pytest.fixture
def write(tmp_path):
    def write(name, text, encoding="utf-8"):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(text.encode(encoding))
        return file

    return write


def test_a_text_file_has_a_prompt_in_each_line(write):
    file = write("p.txt", "a cat\r\n\r\n  a dog, \u2028 too \nlast", "utf-8-sig")
    assert read_prompt_file(file) == [
        {"prompt": "a cat", "tag": "all"},
        {"prompt": "a dog, \u2028 too", "tag": "all"},
        {"prompt": "last", "tag": "all"},
    ]


def test_a_table_has_columns_whatever_their_case(write):
    csv = write("p.csv", 'Prompt,Category,note\n"a ""red"" cat,\nbig",animals,x\na car,,y\n')
    assert read_prompt_file(csv) == [
        {"prompt": 'a "red" cat,\nbig', "tag": "animals", "note": "x"},
        {"prompt": "a car", "tag": "all", "note": "y"},
    ]
    tsv = write("p.tsv", 'caption\tstyle\n"G O" on a wall\tart\n')
    assert read_prompt_file(tsv) == [{"prompt": '"G O" on a wall', "tag": "art"}]


def test_json_lines_keep_what_else_they_say(write):
    rows = [{"prompt": "a", "tag": "t", "include": [{"class": "cat"}]}, {"text": "b"}, "c"]
    file = write("p.jsonl", "\n".join(map(json.dumps, rows)) + "\n\n")
    assert read_prompt_file(file) == [
        {"include": [{"class": "cat"}], "prompt": "a", "tag": "t"},
        {"prompt": "b", "tag": "all"},
        {"prompt": "c", "tag": "all"},
    ]
    assert read_prompt_file(write("p.json", json.dumps(rows)))[2]["prompt"] == "c"


@pytest.mark.parametrize(
    ("name", "text", "message", "details"),
    [
        ("p.txt", "\n \n", "holds no prompts", ()),
        ("p.csv", "a,b\n1,2\n", "what is no prompt", ("row 2: no prompt, caption, text",)),
        ("p.csv", "prompt,b\n1,2\n3\n", "is no table", ("line 3: 1 values under 2 columns",)),
        ("p.jsonl", '{"prompt": ""}\n{"prompt": 3}\n[]', "what is no prompt", (
            "line 1: an empty prompt", "line 2: a prompt that is no text",
            "line 3: neither a text nor an object")),
        ("p.jsonl", "{", "line 1 of .* is not JSON", ()),
        ("p.json", "{}", "is no list of prompts", ()),
        ("p.md", "# a", "is no prompt file", ()),
    ],
)  # fmt: skip
def test_what_is_no_prompt_file_is_told_by_line(write, name, text, message, details):
    with pytest.raises(DataError, match=message) as error:
        read_prompt_file(write(name, text))
    assert error.value.details == details


def test_files_that_cannot_be_read_are_told(write, tmp_path):
    with pytest.raises(DataError, match="cannot read"):
        read_prompt_file(tmp_path / "none.txt")
    with pytest.raises(DataError, match="is not UTF-8"):
        read_prompt_file(write("p.txt", "caf\xe9", "latin-1"))


def test_pick_a_pics_captions_are_read_without_its_pictures(tmp_path, monkeypatch):
    monkeypatch.setattr(prompt_lists, "PICKAPIC_PROMPTS", 2)
    name = prompt_lists.PICKAPIC.files[0].split("/")[-1]
    rows = {"caption": ["b", "a", "b"], "jpg_0": [b"x", b"y", b"z"]}
    pq.write_table(pa.table(rows), tmp_path / name)
    expected = [{"prompt": "b", "tag": "test"}, {"prompt": "a", "tag": "test"}]
    assert pickapic_test(path=str(tmp_path)) == expected
    assert pickapic_test(path=str(tmp_path / name)) == expected
    monkeypatch.setenv("VIPO_PROMPTS", str(tmp_path))
    assert pickapic_test() == expected
    monkeypatch.setattr(prompt_lists, "PICKAPIC_PROMPTS", 500)
    with pytest.raises(DataError, match="holds 2 different prompts, Pick-a-Pic v2 500"):
        pickapic_test()
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / name)
    with pytest.raises(DataError, match="no Parquet file with a column `caption`"):
        pickapic_test()
    (tmp_path / name).write_bytes(b"nothing")
    with pytest.raises(DataError, match="no Parquet file"):
        pickapic_test()


def test_hpdv2_has_four_styles(write, tmp_path, monkeypatch):
    monkeypatch.setattr(prompt_lists, "PROMPTS_OF_A_STYLE", 2)
    for style in ("anime", "concept-art", "paintings", "photo"):
        write(f"benchmark/{style}.json", json.dumps([f"{style} 0", f"{style} 1"]))
    records = hpdv2(path=str(tmp_path))
    assert hpdv2(path=str(tmp_path / "benchmark")) == records
    assert [each["tag"] for each in records[::2]] == list(prompt_lists.STYLES)
    assert records[3] == {"prompt": "concept-art 1", "tag": "concept-art"}
    write("benchmark/photo.json", '{"a": 1}')
    with pytest.raises(DataError, match="is no JSON list of prompts"):
        hpdv2(path=str(tmp_path))
    (tmp_path / "benchmark" / "photo.json").unlink()
    with pytest.raises(MissingWeights, match="holds no HPDv2's benchmark") as error:
        hpdv2(path=str(tmp_path))
    assert "benchmark/photo.json" in error.value.hint


def test_parti_prompts_are_split_at_tabs_alone(write, monkeypatch):
    text = 'Prompt\tCategory\tChallenge\tNote\n"G O" on a wall\tArts\tBasic\t\n'
    file = write("PartiPrompts.tsv", text)
    published = Published("PartiPrompts", ("PartiPrompts.tsv",), hashes={
        "PartiPrompts.tsv": git_hash(file)})  # fmt: skip
    monkeypatch.setattr(prompt_lists, "PARTI", published)
    expected = {"prompt": '"G O" on a wall', "tag": "Arts", "challenge": "Basic"}
    assert parti_prompts(path=str(file)) == [expected]
    file.write_text(text + "another\tArts\tBasic\t\n")
    with pytest.raises(DataError, match="is not the published PartiPrompts"):
        parti_prompts(path=str(file))


def test_gits_hash_is_gits(write):
    # git hash-object
    assert git_hash(write("a", "hello\n")) == "ce013625030ba8dba906f756967f9e9ca394464a"


@pytest.mark.parametrize("name", ["pickapic-test", "hpdv2", "parti-prompts", "dpg", "cvtg-2k"])
def test_offline_a_prompt_set_says_what_to_fetch_and_from_where(name, monkeypatch):
    monkeypatch.delenv("VIPO_PROMPTS", raising=False)
    with pytest.raises(MissingWeights, match="are not on this machine") as error:
        prompt_sets[name]()
    assert "VIPO_PROMPTS" in error.value.hint
    assert "huggingface.co" in error.value.hint or "githubusercontent" in error.value.hint


class _Files(BaseHTTPRequestHandler):
    def __init__(self, asked, *args):
        self.asked = asked
        super().__init__(*args)

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        self.asked.append(self.command)
        found = self.path == "/there/list.txt"
        self.send_response(200 if found else 404)
        self.send_header("Content-Length", "6" if found else "0")
        self.end_headers()
        if found and self.command == "GET":
            self.wfile.write(b"hello\n")

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    asked = []
    with HTTPServer(("127.0.0.1", 0), partial(_Files, asked)) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", asked
        server.shutdown()


def test_a_file_is_fetched_once_compared_and_kept(server):
    address, asked = server
    good = {"list.txt": "ce013625030ba8dba906f756967f9e9ca394464a"}
    published = Published("a list", ("list.txt",), url=f"{address}/there", hashes=good)
    (file,) = find_files(published)
    assert file.read_text() == "hello\n" and asked == ["HEAD", "GET"]
    assert find_files(published) == [file] and len(asked) == 2
    file.unlink()
    other = Published("a list", ("list.txt",), url=f"{address}/there", hashes={"list.txt": "0"})
    with pytest.raises(DataError, match="is not the published a list"):
        find_files(other)
    assert not file.exists()
    nowhere = Published("a list", ("list.txt",), url=f"{address}/nowhere")
    with pytest.raises(MissingWeights) as error:
        find_files(nowhere)
    assert "404" in error.value.details[0]


def test_nobody_waits_long_for_a_server_that_says_nothing(monkeypatch):
    from time import sleep

    monkeypatch.setattr(sources, "DEADLINE_SECONDS", 0.01)
    with pytest.raises(TimeoutError):
        sources.in_time(lambda: sleep(0.2))

    def fail():
        raise DataError("broken")

    with pytest.raises(VipoError, match="broken"):
        sources.in_time(fail)
