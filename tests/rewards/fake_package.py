"""An adapter as those in `vipo_cli/rewards/workers`, around no package: a score is a file's length.

A prompt may also ask it to misbehave.
"""

import os
import sys
import time
from pathlib import Path

PACKAGE = "pytest"
runs = []


def load(reward, files, device):
    sys.stdout.write("chatter on loading\n")
    if "broken" in files:
        raise ValueError("no such tensor\nand more")
    return {"device": device, "dtype": "float32"}


def random_weights(folder, randomise, reward):
    file = Path(folder, f"{reward}.pt")
    file.write_text("weights")
    return str(file)


def score(pictures, prompt):
    sys.stdout.write("chatter on scoring\n")
    sys.stdout.flush()
    os.write(1, b'{"ok": "no answer of mine"}\n')
    if prompt == "hang":
        time.sleep(60)
    if prompt == "die":
        sys.stderr.write("out of luck\n")
        sys.stderr.flush()
        os._exit(9)
    if prompt == "runs":
        runs.append(len(pictures))
        return [float(len(runs))] * len(pictures)
    data = [Path(file).read_bytes() for file in pictures]
    if b"broken" in data:
        raise OSError("cannot identify image file")
    return [len(each) + len(prompt) / 100 for each in data]
