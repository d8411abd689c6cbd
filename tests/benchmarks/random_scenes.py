"""Scenes that everybody draws alike: what GenEval asks for, and what a detector might find."""

import hashlib
import json

import numpy as np

from vipo_cli.vocabulary import COLOURS, OBJECTS

RELATIONS = ("left of", "right of", "above", "below")
TAGS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")
EDGES = tuple(
    float(near)
    for edge in (0.3, 0.9)
    for middle in [np.float32(edge)]
    for near in (np.nextafter(middle, np.float32(0)), middle, np.nextafter(middle, np.float32(1)))
)
"""Scores at the thresholds and next to them."""
SIDE = 512


def draw_scene(rng):
    """Return a prompt's metadata and detections as (label, score, box), no two scores alike."""
    asked = draw_metadata(rng)
    names = [clause["class"] for clause in asked["include"]]
    bystander = OBJECTS[rng.integers(len(OBJECTS))]
    counts = {clause["class"]: clause["count"] for clause in asked["include"]}
    found = []
    for name in dict.fromkeys([*names, bystander]):
        wanted = counts.get(name, 1)
        number = 20 if rng.random() < 0.05 else int(rng.integers(max(wanted - 1, 0), wanted + 3))
        found += [(name, score) for score in draw_scores(rng, number)]
    boxes = draw_boxes(rng, len(found))
    order = rng.permutation(len(found))
    return asked, [(*found[index], boxes[index]) for index in order]


def draw_metadata(rng):
    tag = TAGS[rng.integers(len(TAGS))]
    one, other = (OBJECTS[place] for place in rng.choice(len(OBJECTS), 2, replace=False))
    first, second = (COLOURS[place] for place in rng.choice(len(COLOURS), 2, replace=False))
    asked = {"tag": tag, "include": [{"class": one, "count": 1}]}
    if tag == "counting":
        count = int(rng.integers(1, 5))
        asked["include"][0]["count"] = count
        asked["exclude"] = [{"class": one, "count": count + 1}]
    if tag in ("colors", "color_attr"):
        asked["include"][0]["color"] = first
    if tag in ("two_object", "position", "color_attr"):
        asked["include"].append({"class": other, "count": 1})
    if tag == "color_attr":
        asked["include"][1]["color"] = second
    if tag == "position":
        asked["include"][1]["position"] = [RELATIONS[rng.integers(4)], 0]
        for clause in asked["include"]:  # never published, but provided for
            clause["count"] = int(rng.choice([1, 1, 2]))
            if rng.random() < 0.1:
                clause["color"] = COLOURS[rng.integers(len(COLOURS))]
    if rng.random() < 0.1:
        asked.setdefault("exclude", []).append({"class": other, "count": int(rng.integers(1, 3))})
    return asked | {"prompt": json.dumps(asked)}


def draw_scores(rng, number):
    scores: set[float] = set()
    while len(scores) < number:
        at_edge = rng.random() < 0.3
        score = EDGES[rng.integers(len(EDGES))] if at_edge else 0.2 + 0.8 * rng.random() ** 0.5
        scores.add(float(np.float32(score)))
    return [float(score) for score in rng.permutation(sorted(scores))]


def draw_boxes(rng, number):
    """Draw boxes of which many just stand, or just do not stand, in a relation to others."""
    boxes = []
    for _ in range(number):
        width, height = rng.integers(1, 200, 2)
        left, top = rng.integers(0, SIDE - 200, 2)
        if boxes and rng.random() < 0.5:
            near = boxes[rng.integers(len(boxes))]
            middle_x, middle_y = (near[0] + near[2]) / 2, (near[1] + near[3]) / 2
            share = 0.2 * (width + near[2] - near[0])  # beyond this, half of the offset is left
            shift = share + rng.integers(-1, 2) if rng.random() < 0.7 else 0
            left = middle_x + shift * rng.choice([-1, 1]) - width / 2
            top = middle_y - height / 2 + (rng.integers(-1, 2) * shift if rng.random() < 0.3 else 0)
        box = np.array([left, top, left + width, top + height])
        boxes.append([float(edge) for edge in (box if rng.random() < 0.5 else box.round())])
    return boxes


def colour_of(box):
    """Return a colour that depends on a box alone, standing in for CLIP."""
    digest = hashlib.sha256(np.array(box, np.float32).tobytes()).digest()
    return COLOURS[digest[0] % 3]


def scenes(number, seed=0):
    rng = np.random.default_rng(seed)
    return [draw_scene(rng) for _ in range(number)]


def identity(drawn):
    """Return what tells these scenes from any others."""
    return hashlib.sha256(json.dumps(drawn).encode()).hexdigest()
