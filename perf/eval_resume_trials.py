"""Kill evaluations in each of their stages, run them again, and compare with those not killed.

    OMP_NUM_THREADS=1 python perf/eval_resume_trials.py --minutes 25

Each trial is one evaluation in a folder of its own. It is killed once in each stage, at a random
place of it: starting, drawing, judging, adding up (all is judged, no results yet) and reporting
(results.json is there). So that short stages are met for certain, the process is let run for a few
milliseconds at a time: it is stopped, its files are looked at, and if it is where it is to be
killed it is killed while it stands still. Then it runs to its end, and compared are results.json
but for `timing` and `environment`, the last word about each medium, and the bytes of all media.

The evaluations are GenEval, a reward, clips, a task file of a user's whose judge raises for some
pictures (which must be failed, and nowhere 0), and two dimensions of VBench, one of them by a small
network of random weights. Prints JSON.
"""

import argparse
import json
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

VIPO = str(Path(sys.executable).with_name("vipo"))
UNTIMED = ("timing", "environment")
STAGES = ("starting", "drawing", "judging", "adding up", "reporting")
SLICE = 0.004
"""Seconds that a process runs before it is looked at again."""
STARTS = 1.5
"""Seconds within which a process that is to be killed while it starts is killed."""

MY_TASK = '''
"""How bright pictures are, by a judge that cannot stand some of them."""

import numpy as np

from vipo_cli.benchmarks import Metric, Task, Verdict
from vipo_cli.media import content_hash, decode


class Brightness:
    name, title, version = "brightness", "Brightness", "1"
    metrics = (Metric("brightness", lowest=0, highest=1),)
    prompt_set = "shapes"
    needs = notes = ()
    images_per_prompt = 2
    batch_size = 4
    judge_fingerprint = ["brightness"]

    def judge(self, media, asked):
        return [self.one(data) for data in media]

    def one(self, data):
        if content_hash(data)[0] in "05af":
            raise RuntimeError("too much for this judge")
        return Verdict({"brightness": float(np.asarray(decode(data)).mean()) / 255})


def brightness() -> Task:
    """How bright a picture is."""
    return Brightness()
'''
INFO = [
    {"prompt_en": "a red circle", "dimension": ["temporal_flickering"]},
    {"prompt_en": "a blue square", "dimension": ["subject_consistency"]},
    {"prompt_en": "a green triangle", "dimension": ["subject_consistency"]},
]


def prepare(folder: Path) -> dict[str, list[str]]:
    """Write what the evaluations need, and return their commands by name."""
    import torch
    from safetensors.torch import save_file
    from transformers import ViTConfig, ViTModel

    (folder / "my_task.py").write_text(MY_TASK)
    (folder / "info.json").write_text(json.dumps(INFO))
    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64
    )
    dino = folder / "weights" / "dino-b16"
    dino.mkdir(parents=True)
    config.to_json_file(dino / "config.json")
    network = ViTModel(config, add_pooling_layer=False)
    save_file(network.state_dict(), dino / "model.safetensors")
    dimensions = [f"--dimension={name}" for name in ("temporal_flickering", "subject_consistency")]
    vbench = ["vbench", "shapes-video", f"--info={folder / 'info.json'}", *dimensions]
    return {
        "geneval": ["geneval", "shapes-sd", "--prompts", "6", "--images-per-prompt", "2"],
        "reward": ["run", "shapes-cleanliness", "shapes-flow", "--prompts", "8"],
        "clips": ["run", "shapes-motion", "shapes-video", "--prompts", "5"],
        "my_task": ["run", str(folder / "my_task.py"), "shapes-sd", "--prompts=8"],
        "vbench": [*vbench, f"--weights={folder / 'weights'}", "--allow-partial"],
    }


def start(command: list[str], out: Path) -> subprocess.Popen:
    words = [VIPO, "eval", *command, "--out", str(out), "--quiet"]
    return subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def media(out: Path) -> list[Path]:
    found = (*out.glob("pictures-*/*/samples/*"), *out.glob("clips/*"))
    return sorted(file for file in found if not file.name.startswith("."))


def lines(out: Path) -> list[str]:
    """Return what was said of the media, each with the name of its file."""
    files = sorted((*out.glob("samples.jsonl"), *out.glob("native/*.jsonl")))
    return [f"{file.name} {line}" for file in files for line in file.read_text().splitlines(True)]


def last_words(out: Path) -> dict[str, str]:
    """Return the last line about each medium: one that failed is tried again."""
    found = {}
    for line in lines(out):
        file, _, text = line.partition(" ")
        said = json.loads(text)
        key = said.get("clip") or (said["prompt_index"], said["image_index"])
        found[f"{file} {key}"] = text
    return found


def place_in(out: Path, whole: dict) -> tuple[str, int]:
    """Say in which stage an evaluation is, and how many media have passed it."""
    if (out / "results.json").is_file():
        return "reporting", 0
    drawn, said = len(media(out)), len({line for line in lines(out) if line.endswith("\n")})
    if said >= len(whole["samples"]):
        return "adding up", 0
    if drawn >= len(whole["media"]):
        return "judging", said
    return ("drawing", drawn) if drawn else ("starting", 0)


def state(out: Path) -> dict:
    """Return all that must not depend on having been killed."""
    results = json.loads((out / "results.json").read_text().replace(str(out), "OUT"))
    return {
        "results": {key: value for key, value in results.items() if key not in UNTIMED},
        "samples": last_words(out),
        "media": {str(file.relative_to(out)): file.read_bytes() for file in media(out)},
        "native": [
            file.read_text().replace(str(out), "OUT")
            for file in sorted(out.glob("native/*_eval_results.json"))
        ],
    }


def check_failed(found: dict) -> int:
    """Return how many media failed; each says why, and none of the others has a score of 0."""
    failed = 0
    for text in found["samples"].values():
        said = json.loads(text)
        if said.get("scores", said.get("value")) is None:
            failed += 1
            assert said["reason"], said
        elif "brightness" in said.get("scores", {}):
            assert said["scores"]["brightness"] > 0, said
    assert found["results"]["n_samples"]["failed"] == failed, found["results"]["n_samples"]
    return failed


def run_to_the_end(command: list[str], out: Path) -> None:
    process = start(command, out)
    _, told = process.communicate()
    if process.returncode not in (0, 1) or not (out / "results.json").is_file():
        raise SystemExit(f"vipo eval {' '.join(command)}: {process.returncode}\n{told.decode()}")


def kill_in(
    stage: str, command: list[str], out: Path, whole: dict, rng: random.Random
) -> str | None:
    """Kill a process within a stage; return in which it was, None if it came to its end."""
    totals = {"drawing": len(whole["media"]), "judging": len(whole["samples"])}
    target = rng.randrange(1, totals[stage]) if stage in totals else 0
    latest = rng.uniform(0, STARTS)
    process = start(command, out)
    began = time.monotonic()
    try:
        while process.poll() is None:
            process.send_signal(signal.SIGSTOP)
            there, done = place_in(out, whole)
            if stage == "starting":
                reached = time.monotonic() - began >= latest
            else:
                reached = STAGES.index(there) > STAGES.index(stage) or (
                    there == stage and done >= target
                )
            if reached:
                process.kill()
                process.wait()
                return there
            process.send_signal(signal.SIGCONT)
            time.sleep(SLICE)
    finally:
        process.kill()
        process.communicate()
    return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--minutes", type=float, default=25.0, help="no trial starts after these")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", action="append", help="one of the evaluations; repeatable")
    options = parser.parse_args()
    rng = random.Random(options.seed)
    killed: Counter[str] = Counter()
    wholes: dict[str, dict] = {}
    trials, same, missed = Counter(), Counter(), Counter()
    ends = time.monotonic() + 60 * options.minutes
    with TemporaryDirectory() as name:
        folder = Path(name)
        commands = prepare(folder)
        names = options.only or list(commands)
        for trial in range(options.trials):
            if time.monotonic() > ends:
                break
            case = names[trial % len(names)]
            if case not in wholes:
                run_to_the_end(commands[case], folder / f"whole-{case}")
                wholes[case] = state(folder / f"whole-{case}")
                failed = check_failed(wholes[case])
                assert (failed > 0) == (case == "my_task"), (case, failed)
            out = folder / f"trial-{trial}"
            for stage in STAGES:
                there = kill_in(stage, commands[case], out, wholes[case], rng)
                killed[there or "none"] += 1
                missed[stage] += there != stage
            run_to_the_end(commands[case], out)
            found = state(out)
            check_failed(found)
            trials[case] += 1
            same[case] += found == wholes[case]
            if found != wholes[case]:
                differing = [key for key in found if found[key] != wholes[case][key]]
                sys.stderr.write(f"trial {trial}, {case}: other {', '.join(differing)}\n")
            sys.stderr.write(f"trial {trial}, {case}: {dict(same)} the same, killed {killed}\n")
    document = {
        "trials": trials,
        "same": same,
        "kills": killed,
        "missed_stage": {stage: count for stage, count in missed.items() if count},
    }
    print(json.dumps(document, indent=2))


if __name__ == "__main__":
    main()
