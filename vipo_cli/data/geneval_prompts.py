"""GenEval's 553 prompts (arXiv 2310.11513), drawn again by its published procedure.

They are drawn with numpy's generator and the published seed. The number of prompts of each task
(80, 99, 80, 94, 100 and 100) and the first ones of each are those of the published list; the list
itself was not compared line by line.
"""

import re
from functools import cache

import numpy as np

OBJECTS = (
    "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat",
    "traffic light", "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog",
    "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe", "backpack", "umbrella",
    "handbag", "tie", "suitcase", "frisbee", "skis", "snowboard", "sports ball", "kite",
    "baseball bat", "baseball glove", "skateboard", "surfboard", "tennis racket", "bottle",
    "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple", "sandwich", "orange",
    "broccoli", "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch", "potted plant",
    "bed", "dining table", "toilet", "tv", "laptop", "computer mouse", "tv remote",
    "computer keyboard", "cell phone", "microwave", "oven", "toaster", "sink", "refrigerator",
    "book", "clock", "vase", "scissors", "teddy bear", "hair drier", "toothbrush",
)  # fmt: skip
"""The names of COCO's classes, in its order, as GenEval writes them."""
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white")
RELATIONS = ("left of", "right of", "above", "below")
COUNTS = {2: "two", 3: "three", 4: "four"}
SEED = 43
DRAWN = 100
"""Prompts drawn of each task but the first, before equal ones are left out."""
START = "a photo of"


@cache
def geneval_prompts() -> tuple[str, ...]:
    """Return the prompts in the order of the published list."""
    rng = np.random.default_rng(SEED)
    things = len(OBJECTS)
    single = [
        f"{START} {_a(OBJECTS[place])}" for place in rng.choice(things, things, replace=False)
    ]
    tasks = (_two_objects, _counting, _colours, _position, _colour_attribution)
    drawn = [f"{START} {task(rng)}" for task in tasks for _ in range(DRAWN)]
    return tuple(dict.fromkeys(single + drawn))


def _two_objects(rng: np.random.Generator) -> str:
    one, other = rng.choice(len(OBJECTS), 2, replace=False)
    return f"{_a(OBJECTS[one])} and {_a(OBJECTS[other])}"


def _counting(rng: np.random.Generator) -> str:
    place = rng.choice(len(OBJECTS))
    return f"{COUNTS[int(rng.integers(2, 5))]} {_plural(OBJECTS[place])}"


def _colours(rng: np.random.Generator) -> str:
    place = rng.choice(len(OBJECTS) - 1) + 1  # the first is a person, who has no colour
    return f"{_a(COLOURS[rng.choice(len(COLOURS))])} {OBJECTS[place]}"


def _position(rng: np.random.Generator) -> str:
    one, other = rng.choice(len(OBJECTS), 2, replace=False)
    relation = RELATIONS[rng.choice(len(RELATIONS))]
    return f"{_a(OBJECTS[one])} {relation} {_a(OBJECTS[other])}"


def _colour_attribution(rng: np.random.Generator) -> str:
    one, other = rng.choice(len(OBJECTS) - 1, 2, replace=False) + 1
    first, second = rng.choice(len(COLOURS), 2, replace=False)
    return f"{_a(COLOURS[first])} {OBJECTS[one]} and {_a(COLOURS[second])} {OBJECTS[other]}"


def _a(name: str) -> str:
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def _plural(name: str) -> str:
    return name + ("es" if name.endswith("s") else "s")


def is_of_its_form(prompt: str) -> bool:
    """Tell whether a normalised prompt could have been drawn by this procedure."""
    return _form().fullmatch(prompt) is not None


@cache
def _form() -> re.Pattern[str]:
    thing = f"(?:{'|'.join(map(re.escape, OBJECTS))})"
    coloured = f"an? (?:{'|'.join(COLOURS)}) {thing}"
    one = f"an? {thing}"
    forms = (
        one,
        f"{one} (?:and|{'|'.join(RELATIONS)}) {one}",
        f"(?:{'|'.join(COUNTS.values())}) {thing}e?s",
        f"{coloured}(?: and {coloured})?",
    )
    return re.compile(f"{START} (?:{'|'.join(forms)})")
