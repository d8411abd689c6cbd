"""GenEval's 553 prompts (arXiv 2310.11513), drawn again by its published procedure.

They are drawn with numpy's generator and the published seed, and written as in the published file
`evaluation_metadata.jsonl` they have its SHA-256. Numpy does not promise that its generator draws
the same for ever, which is why that is looked at each time.
"""

import hashlib
import json
import re
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np

from vipo_cli.errors import DataError
from vipo_cli.vocabulary import COLOURS, OBJECTS

RELATIONS = ("left of", "right of", "above", "below")
COUNTS = {2: "two", 3: "three", 4: "four"}
SEED = 43
DRAWN = 100
"""Prompts drawn of each task but the first, before equal ones are left out."""
START = "a photo of"
PUBLISHED = "5c48e0813e812e3c373fa5c8ed07a8f0a483be30272b4427b0559c8048e67c13"
"""SHA-256 of the published `evaluation_metadata.jsonl`."""

Record = dict[str, Any]


def geneval() -> list[Record]:
    """GenEval's own 553 prompts about the things that COCO has names for."""
    return [json.loads(line) for line in _lines()]


def geneval_prompts() -> tuple[str, ...]:
    """Return the prompts in the order of the published list."""
    return tuple(record["prompt"] for record in geneval())


@cache
def _lines() -> tuple[str, ...]:
    """Return the lines of the published metadata.

    Raises:
        DataError: numpy's generator draws others.
    """
    rng = np.random.default_rng(SEED)
    things = len(OBJECTS)
    singles = [
        _asking("single_object", [_clause(OBJECTS[place])], _a(OBJECTS[place]))
        for place in rng.choice(things, things, replace=False)
    ]
    tasks = (_two_objects, _counting, _colours, _position, _colour_attribution)
    drawn = [task(rng) for task in tasks for _ in range(DRAWN)]
    lines = tuple(dict.fromkeys(map(json.dumps, singles + drawn)))
    if hashlib.sha256("".join(f"{line}\n" for line in lines).encode()).hexdigest() != PUBLISHED:
        raise DataError(
            f"numpy {np.__version__} draws other prompts than those of GenEval",
            hint="install the version that they were last seen to come out with: "
            "pip install numpy==2.4.6",
        )
    return lines


def _asking(tag: str, include: Sequence[Record], what: str, **more: Any) -> Record:
    return {"tag": tag, "include": list(include), **more, "prompt": f"{START} {what}"}


def _clause(name: str, count: int = 1, **more: Any) -> Record:
    return {"class": name, "count": count, **more}


def _two_objects(rng: np.random.Generator) -> Record:
    one, other = (OBJECTS[place] for place in rng.choice(len(OBJECTS), 2, replace=False))
    return _asking("two_object", [_clause(one), _clause(other)], f"{_a(one)} and {_a(other)}")


def _counting(rng: np.random.Generator) -> Record:
    name = OBJECTS[rng.choice(len(OBJECTS))]
    count = int(rng.integers(2, 5))
    exclude = [_clause(name, count + 1)]
    what = f"{COUNTS[count]} {_plural(name)}"
    return _asking("counting", [_clause(name, count)], what, exclude=exclude)


def _colours(rng: np.random.Generator) -> Record:
    name = OBJECTS[rng.choice(len(OBJECTS) - 1) + 1]  # the first is a person, who has no colour
    colour = COLOURS[rng.choice(len(COLOURS))]
    return _asking("colors", [_clause(name, color=colour)], f"{_a(colour)} {name}")


def _position(rng: np.random.Generator) -> Record:
    one, other = (OBJECTS[place] for place in rng.choice(len(OBJECTS), 2, replace=False))
    relation = RELATIONS[rng.choice(len(RELATIONS))]
    include = [_clause(other), _clause(one, position=[relation, 0])]
    return _asking("position", include, f"{_a(one)} {relation} {_a(other)}")


def _colour_attribution(rng: np.random.Generator) -> Record:
    one, other = (OBJECTS[place + 1] for place in rng.choice(len(OBJECTS) - 1, 2, replace=False))
    first, second = (COLOURS[place] for place in rng.choice(len(COLOURS), 2, replace=False))
    include = [_clause(one, color=first), _clause(other, color=second)]
    return _asking("color_attr", include, f"{_a(first)} {one} and {_a(second)} {other}")


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
