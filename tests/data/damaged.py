"""Small sources in every layout that is imported, and the ways in which files come to harm.

Each medium repeats a tag of its own, by which it is known again however much of it is damaged.
Numbers in text carry no redundancy: a damaged one is another number. So bits are never flipped in
digits, and slices are cut out of files only where a checksum tells.
"""

import csv
import gzip
import io
import json
import os
import tarfile
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tests.data.importers.test_tfrecord import example, record
from tests.small_pictures import heat
from vipo_cli.data.importers.videofeedback import DIMENSIONS
from vipo_cli.data.importers.visionreward import RANGES

WORDS = (
    "amber bridge", "copper castle", "dusty meadow", "frozen lantern", "golden harbour",
    "hollow mountain", "ivory spiral", "jagged island", "quiet orchard", "velvet engine",
)  # fmt: skip
NAMES = ("kestrel", "marmot", "ocelot", "puffin", "quokka", "serval", "tapir", "urchin", "vicuna",
         "wombat", "yapok", "zebu", "bittern", "civet", "dhole", "egret", "fossa", "gibbon",
         "hoopoe", "ibex", "jerboa", "lemur", "nilgai", "okapi")  # fmt: skip
"""Names of media, none of which a flipped bit turns into another."""
PROMPTS = [f"a {words} under the evening sky, painted slowly" for words in WORDS]


def tag(name):
    return f"<{name}|{name[::-1]}>".encode()


def medium(name, suffix=".jpg"):
    start = b"\xff\xd8\xff\xe0" if suffix == ".jpg" else b"\0\0\0\x18ftypmp42"
    return start + tag(name) * 12


def put(file, data):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data if isinstance(data, bytes) else data.encode())


def put_media(folder, names, suffix=".jpg"):
    for name in names:
        put(folder / f"{name}{suffix}", medium(name, suffix))


def put_parquet(file, rows):
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), file, row_group_size=3, write_page_checksum=True)


def pairs(count=5):
    """Yield number, prompt, and the names of winner and loser."""
    for number in range(count):
        yield number, PROMPTS[number], NAMES[2 * number], NAMES[2 * number + 1]


def shown(number, winner, loser):
    """Return two names as they were shown, and the one that is better, a or b."""
    return (winner, loser, "a") if number % 2 else (loser, winner, "b")


def jsonl(file, rows):
    put(file, "\n".join(map(json.dumps, rows)) + "\n")


def csv_text(rows):
    stream = io.StringIO(newline="")
    csv.writer(stream).writerows(rows)
    return stream.getvalue()


def tar_data(files):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def pickapic(folder):
    rows = []
    for number, prompt, winner, loser in pairs():
        one, other, label = shown(number, winner, loser)
        rows.append(
            {
                "caption": prompt, "jpg_0": medium(one), "jpg_1": medium(other),
                "label_0": float(label == "a"), "label_1": float(label == "b"),
                "has_label": True, "ranking_id": number, "user_id": 7, "model_0": "sd",
            }
        )  # fmt: skip
    rows.append(rows[0] | {"label_0": 0.5, "label_1": 0.5, "caption": PROMPTS[8]})
    put_parquet(folder / "train-00000-of-00001.parquet", rows)


def table_of_winners(folder):
    put_media(folder / "media", NAMES)
    rows = [
        [prompt, f"media/{winner}.jpg", f"media/{loser}.jpg", "0.9"]
        for _, prompt, winner, loser in pairs()
    ]
    put(folder / "t.csv", csv_text([["prompt", "winner", "loser", "probability"], *rows]))


def table_of_labels(folder):
    put_media(folder / "media", NAMES)
    rows = []
    for number, prompt, winner, loser in pairs():
        one, other, label = shown(number, winner, loser)
        word = {"a": "left", "b": "right"}[label]
        rows.append([prompt, f"media/{one}.jpg", f"media/{other}.jpg", word])
    put(folder / "t.csv", csv_text([["prompt", "left", "right", "choice"], *rows]))


def lines_of_labels(folder):
    put_media(folder / "media", NAMES)
    rows = []
    for number, prompt, winner, loser in pairs():
        one, other, label = shown(number, winner, loser)
        word = {"a": "left", "b": "right"}[label]
        rows.append(
            {"prompt": prompt, "left": f"media/{one}.jpg", "right": f"media/{other}.jpg",
             "label": word, "weight": 1.5, "category": "none of these"}
        )  # fmt: skip
    jsonl(folder / "t.jsonl", rows)


def lines_of_rankings(folder):
    put_media(folder / "media", NAMES)
    jsonl(
        folder / "t.jsonl",
        [
            {"prompt": PROMPTS[place], "media": [f"media/{name}.jpg" for name in NAMES[at:][:4]]}
            for place, at in enumerate((0, 4, 8, 12))
        ],
    )


def parquet_of_labels(folder):
    rows = []
    for number, prompt, winner, loser in pairs():
        one, other, label = shown(number, winner, loser)
        rows.append(
            {"prompt": prompt, "a": {"bytes": medium(one), "path": None},
             "b": {"bytes": medium(other), "path": None}, "label": label}
        )  # fmt: skip
    put_parquet(folder / "t.parquet", rows)


def two_folders(folder):
    for number, _, winner, loser in pairs():
        put(folder / "winner" / f"{NAMES[number]}.jpg", medium(winner))
        put(folder / "loser" / f"{NAMES[number]}.jpg", medium(loser))
    rows = [[NAMES[number], prompt] for number, prompt, *_ in pairs()]
    put(folder / "prompts.csv", csv_text([["name", "prompt"], *rows]))


def one_folder(folder):
    for number, prompt, winner, loser in pairs():
        put(folder / f"{NAMES[number]}_w.jpg", medium(winner))
        put(folder / f"{NAMES[number]}_l.jpg", medium(loser))
        put(folder / f"{NAMES[number]}.txt", prompt)


def shard(folder):
    put(folder / "shard.tar", tar_data(_members()))


def packed_shard(folder):
    put(folder / "shard.tar.gz", gzip.compress(tar_data(_members()), mtime=0))


def _members():
    files = {}
    for number, prompt, winner, loser in pairs():
        one, other, label = shown(number, winner, loser)
        files |= {f"{NAMES[number]}.a.jpg": medium(one), f"{NAMES[number]}.b.jpg": medium(other)}
        said = {"prompt": prompt, "label": label}
        files[f"{NAMES[number]}.json"] = json.dumps(said).encode()
    return files


def hpdv2(folder):
    rows = []
    for number, prompt, winner, loser in pairs():
        one, other, label = shown(number, winner, loser)
        rows.append(
            {"prompt": prompt, "file_path": [f"{one}.jpg", f"{other}.jpg"],
             "human_preference": [int(label == "a"), int(label == "b")], "user_hash": "u"}
        )  # fmt: skip
    put(folder / "train.json", json.dumps(rows))
    put_media(folder / "train", NAMES)


def hpdv3(folder):
    rows = [
        {"prompt": prompt, "path1": f"images/{winner}.jpg", "path2": f"images/{loser}.jpg",
         "confidence": 0.99, "choice_dist": [12, 7], "model1": "m", "model2": "n"}
        for _, prompt, winner, loser in pairs()
    ]  # fmt: skip
    put(folder / "all.json", json.dumps(rows))
    with zipfile.ZipFile(folder / "images.zip", "w", zipfile.ZIP_DEFLATED) as packed:
        for name in NAMES:
            packed.writestr(f"images/{name}.jpg", medium(name))


def imagereward(folder):
    rows = [
        {"image_path": f"images/train/train_1/{name}.jpg", "prompt_id": f"p{place // 3}",
         "prompt": PROMPTS[place // 3], "rank": place % 3 + 1, "overall_rating": 4,
         "image_text_alignment_rating": 5, "fidelity_rating": 6, "classification": "People",
         "image_amount_in_total": 3}
        for place, name in enumerate(NAMES[:9])
    ]  # fmt: skip
    (folder / "images/train").mkdir(parents=True)
    with zipfile.ZipFile(folder / "images/train/train_1.zip", "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("train_1.json", json.dumps(rows))
        for name in NAMES[:9]:
            packed.writestr(f"{name}.jpg", medium(name))


def rapidata(folder):
    rows = []
    for number, prompt, winner, loser in pairs():
        one, other, label = shown(number, winner, loser)
        votes = (17, 3) if label == "a" else (3, 17)
        rows.append(
            {"prompt": prompt, "image1": {"bytes": medium(one), "path": "x.jpg"},
             "image2": {"bytes": medium(other), "path": "y.jpg"}, "model1": "m", "model2": "n",
             "votes_image1": votes[0], "votes_image2": votes[1], "detailed_results": "[]"}
        )  # fmt: skip
    put_parquet(folder / "data" / "train-00000-of-00001.parquet", rows)


def videofeedback(folder):
    rows = []
    for place, name in enumerate(NAMES[:8]):
        rows.append(
            {"id": name, "text prompt": PROMPTS[place // 2], "video link": f"https://x/p/{name}.mp4",
             **dict.fromkeys(DIMENSIONS, 2 + place % 2)}
        )  # fmt: skip
    put_parquet(folder / "annotated" / "train-00000-of-00001.parquet", rows)
    put_media(folder / "p", NAMES[:8], ".mp4")


def videogen_rewardbench(folder):
    header = ["path_A", "path_B", "A_model", "B_model", "prompt", "VQ", "MQ", "TA", "Overall"]
    rows = []
    for number, prompt, winner, loser in pairs():
        one, other, label = shown(number, winner, loser)
        word = label.upper()
        rows.append([f"v/{one}.mp4", f"v/{other}.mp4", "m", "n", prompt, word, word, "same", word])
    put(folder / "videogen-rewardbench.csv", csv_text([header, *rows]))
    put_media(folder / "v", NAMES, ".mp4")


def visionreward(folder):
    rows = []
    for number, prompt, winner, loser in pairs():
        one, other, label = shown(number, winner, loser)
        rows.append(
            {"internal_id": f"x{number}", "prompt": prompt, "video1_path": f"videos/{one}.mp4",
             "video2_path": f"videos/{other}.mp4",
             "standard_answer": "video1" if label == "a" else "video2"}
        )  # fmt: skip
    put_parquet(folder / "monetbench" / "test-00000-of-00001.parquet", rows)
    put_media(folder / "videos", NAMES, ".mp4")


def ratings(folder):
    best = {dimension: high for dimension, (_, high) in RANGES.items()}
    worst = {dimension: low for dimension, (low, _) in RANGES.items()}
    rows = [
        {"video_path": f"videos/{name}.mp4", "internal_id": name, "prompt": PROMPTS[place // 2],
         "url": "https://example.org", "annotation": worst if place % 2 else best,
         "meta_result": [1, 0], "meta_mask": [1, 1]}
        for place, name in enumerate(NAMES[:8])
    ]  # fmt: skip
    put_parquet(folder / "train" / "train-00000-of-00001.parquet", rows)
    put_media(folder / "videos", NAMES[:8], ".mp4")


def videodpo(folder):
    clips, rows = [], []
    for number, prompt, winner, loser in pairs():
        clips += [
            {"basic": {"clip_duration": 1.6, "clip_path": f"{name}.mp4", "globalidx": number},
             "misc": {"frame_caption": [prompt]}}
            for name in (winner, loser)
        ]  # fmt: skip
        rows.append(
            {"video1": 2 * number, "video2": 2 * number + 1, "label": 0, "frame_caption": prompt}
        )
    put(folder / "metadata.json", json.dumps(clips))
    put(folder / "pair.json", json.dumps(rows))
    put_media(folder, NAMES[:10], ".mp4")


def flow_factory(folder):
    def candidate(name):
        return {"media": [{"type": "image", "path": f"pairs/{name}.jpg"}]}

    jsonl(
        folder / "train.jsonl",
        [
            {"schema_version": 2, "input": {"prompt": prompt, "media": []},
             "supervision": {"type": "preference", "chosen": candidate(winner),
                             "rejected": candidate(loser)}}
            for _, prompt, winner, loser in pairs()
        ],
    )  # fmt: skip
    put_media(folder / "pairs", NAMES)


def simpletuner(folder):
    for number, prompt, winner, loser in pairs():
        put(folder / "win" / f"{NAMES[number]}.jpg", medium(winner))
        put(folder / "win" / f"{NAMES[number]}.txt", prompt)
        put(folder / "lose" / f"{NAMES[number]}.jpg", medium(loser))
    sets = [
        {"id": "good", "dataset_type": "image", "type": "local", "instance_data_dir": "win",
         "conditioning_data": ["bad"], "caption_strategy": "textfile"},
        {"id": "bad", "dataset_type": "conditioning", "conditioning_type": "reference_strict",
         "type": "local", "instance_data_dir": "lose", "source_dataset_id": "good"},
    ]  # fmt: skip
    put(folder / "multidatabackend.json", json.dumps(sets))


def verl_omni(folder):
    rows = [
        {"data_source": "offline_dpo", "prompt": [{"role": "user", "content": prompt}],
         "img_win": f"images/{winner}.jpg", "img_lose": f"images/{loser}.jpg",
         "win_score": 1.0, "lose_score": 0.0,
         "extra_info": {"split": "train", "index": number, "raw_prompt": prompt}}
        for number, prompt, winner, loser in pairs()
    ]  # fmt: skip
    put_parquet(folder / "train.parquet", rows)
    put_media(folder / "images", NAMES)


def scored(number, name, good):
    """Return a record of RichHF-18K."""
    said = {
        "filename": [f"train/{name}.png".encode()],
        "aesthetics_score": [0.5], "artifact_score": [0.5], "misalignment_score": [0.5],
        "overall_score": [0.9 if good else 0.1],
        "artifact_map": [heat(10 + number)], "misalignment_map": [heat(20 + number)],
        "prompt_misalignment_label": [b"1"],
    }  # fmt: skip
    return record(example(said))


def richhf(folder):
    records = []
    for number, prompt, winner, _ in pairs():
        records.append(scored(number, winner, number % 2 == 0))
        put(folder / "train" / f"{winner}.jpg", medium(winner))
        put(folder / "train" / f"{winner}.txt", prompt)
    put(folder / "train.tfrecord", b"".join(records))


def richhf_of_pickapic(folder):
    records, rows = [], []
    for number, prompt, winner, _ in pairs():
        records.append(scored(number, winner, number % 2 == 0))
        rows.append(
            {"caption": prompt, "image_0_uid": winner, "image_1_uid": f"other{number}",
             "jpg_0": medium(winner), "jpg_1": medium(NAMES[20]), "label_0": 0.5, "label_1": 0.5}
        )  # fmt: skip
    put(folder / "train.tfrecord", b"".join(records))
    put_parquet(folder / "v1" / "train-00000-of-00001.parquet", rows)


def answers(folder):
    rows = []
    for number, prompt, winner, loser in pairs():
        one, other, label = shown(number, winner, loser)
        best, worst = ("image_1", "image_2") if label == "a" else ("image_2", "image_1")
        rows.append(
            {"id": str(number), "status": "completed",
             "images": {"image_1": f"https://x/main/image_quality_dev/{one}.jpg",
                        "image_2": f"https://x/main/image_quality_sd/{other}.jpg",
                        "prompt": prompt},
             "model_1": "dev", "model_2": "sd", "category": "Animation",
             "preference.responses": [best, best, worst],
             "preference.responses.status": ["submitted"] * 3}
        )  # fmt: skip
        put_media(folder / "image_quality_dev", [one])
        put_media(folder / "image_quality_sd", [other])
    put_parquet(folder / "data" / "train-00000-of-00001.parquet", rows)


def binarized(folder):
    rows = [
        {"id": str(number), "prompt": prompt, "chosen": {"bytes": medium(winner), "path": "x.jpg"},
         "rejected": {"bytes": medium(loser), "path": "y.jpg"}, "chosen_model": "dev",
         "rejected_model": "sd", "category": "Animation"}
        for number, prompt, winner, loser in pairs()
    ]  # fmt: skip
    put_parquet(folder / "data" / "train-00000-of-00001.parquet", rows)


SOURCES = {
    each.__name__: each
    for each in (
        pickapic, table_of_winners, table_of_labels, lines_of_labels, lines_of_rankings,
        parquet_of_labels, two_folders, one_folder, shard, packed_shard, hpdv2, hpdv3, imagereward,
        rapidata, videofeedback, videogen_rewardbench, visionreward, ratings, videodpo,
        flow_factory, simpletuner, verl_omni, richhf, richhf_of_pickapic, answers, binarized,
    )
}  # fmt: skip

ELSEWHERE = {"richhf_of_pickapic": {"pickapic": "v1"}}
"""Layouts of several parts, and the parameters that name folders of the source."""
CHECKED = (".parquet", ".zip", ".tfrecord")
"""Formats of which every part has a checksum."""
TEXT = (".csv", ".jsonl", ".json", ".txt", ".tar")
DEEP = b"[" * 50_000
TYPES = (
    None, True, -1, 1e999, float("nan"), 10**40, "", "\0", [], {}, [[]], "../../x", "/etc/passwd",
    "x" * 100_000, {"bytes": 7}, ["x"] * 3, "\ud800",
)  # fmt: skip


def harm(rng, folder):
    """Damage one file of a source; return in words what was done."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    described = [file for file in files if file.suffix not in (".jpg", ".mp4")]
    file = files[rng.integers(len(files))]
    if rng.random() < 0.8:  # what describes media is most of what can go wrong
        file = described[rng.integers(len(described))]
    names = [*HARMS, "flip", "flip"] + (["cut_out", "repeat"] if file.suffix in CHECKED else [])
    if file.suffix in (".json", ".jsonl"):
        names += ["retype"] * 4
    name = names[rng.integers(len(names))]
    harms = HARMS | {"cut_out": cut_out, "repeat": repeat, "retype": retype}
    harms[name](rng, file)
    return f"{name} of {file.relative_to(folder)}"


def flip(rng, file):
    data = bytearray(file.read_bytes())
    for place in rng.integers(0, len(data), rng.integers(1, 9)):
        if file.suffix not in TEXT or not chr(data[place]).isdigit():
            data[place] ^= 1 << rng.integers(8)
    file.write_bytes(data)


def truncate(rng, file):
    data = file.read_bytes()
    file.write_bytes(data[: rng.integers(len(data))])


def blank(rng, file):
    data = bytearray(file.read_bytes())
    start = int(rng.integers(len(data)))
    stop = min(len(data), start + int(rng.integers(1, 600)))
    data[start:stop] = bytes(stop - start)
    file.write_bytes(data)


def append(rng, file):
    with file.open("ab") as stream:
        stream.write(rng.bytes(int(rng.integers(1, 2000))))


def insert(rng, file):
    data = file.read_bytes()
    place = int(rng.integers(len(data)))
    what = (b"\0", b"\xef\xbb\xbf", b'"', b"\r", b"\xff\xfe", DEEP, b"../", b"x" * 10_000)
    file.write_bytes(data[:place] + what[rng.integers(len(what))] + data[place:])


def empty(rng, file):
    file.write_bytes(b"")


def replace_by_folder(rng, file):
    file.unlink()
    file.mkdir()


def replace_by_link(rng, file):
    file.unlink()
    targets = ("/dev/zero", "/dev/null", "gone", file.name, "/", "..", "/proc/self/mem")
    file.symlink_to(targets[rng.integers(len(targets))])


def recode(rng, file):
    text = file.read_bytes().decode("latin1")
    coding = ("utf-16", "utf-8-sig", "utf-32", "utf-7")[rng.integers(4)]
    file.write_bytes(text.encode(coding))


def mistake_for_another(rng, file):
    suffixes = (".parquet", ".csv", ".jsonl", ".tar", ".tar.gz", ".zip", ".json", ".PARQUET")
    file.rename(file.with_suffix(suffixes[rng.integers(len(suffixes))]))


def cut_out(rng, file):
    data = file.read_bytes()
    start, stop = sorted(rng.integers(0, len(data), 2).tolist())
    file.write_bytes(data[:start] + data[stop:])


def repeat(rng, file):
    data = file.read_bytes()
    start, stop = sorted(rng.integers(0, len(data), 2).tolist())
    place = int(rng.integers(len(data)))
    file.write_bytes(data[:place] + data[start:stop] + data[place:])


def retype(rng, file):
    """Put something else in the place of one value, anywhere in the JSON."""
    lines = file.suffix == ".jsonl"
    text = file.read_text()
    whole = [json.loads(line) for line in text.splitlines()] if lines else json.loads(text)
    at, wanted = whole, TYPES[rng.integers(len(TYPES))]
    while True:
        keys = list(at) if isinstance(at, dict) else range(len(at))
        key = [*keys][rng.integers(len(keys))]
        inner = at[key]
        if not (isinstance(inner, dict | list) and inner) or rng.random() < 0.2:
            at[key] = wanted
            break
        at = inner
    parts = map(json.dumps, whole) if lines else [json.dumps(whole)]
    file.write_text("\n".join(parts))


HARMS = {
    each.__name__: each
    for each in (flip, truncate, blank, append, insert, empty, replace_by_folder,
                 replace_by_link, recode, mistake_for_another)
}  # fmt: skip


def snapshot(folder: Path):
    """Return what lies below a folder, and what the links there say, without following them."""
    found = {}
    for parent, folders, names in os.walk(folder):
        for name in (*folders, *names):
            file = Path(parent) / name
            known = file.lstat()
            what = file.readlink() if file.is_symlink() else known.st_size
            found[file.relative_to(folder).as_posix()] = (known.st_mode, what)
    return found
