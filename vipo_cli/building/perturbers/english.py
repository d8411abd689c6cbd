"""Plain English captions changed by rule: words for their neighbours, phrases for each other.

A rule finds its places in a caption and returns it with one of them changed, or nothing where there
is none. It knows words and no grammar: a caption in which it finds nothing stays unused, and that
is counted, which costs less than a pair whose loser is not wrong.
"""

import re
from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np

from vipo_cli.building.perturbers import Change

COLOURS = (
    "red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white",
    "gray", "grey", "golden", "silver", "beige", "turquoise", "violet", "crimson", "teal",
)  # fmt: skip
ALIKE = (
    {"gray", "grey", "silver", "white"}, {"purple", "violet"}, {"red", "crimson", "orange"},
    {"yellow", "golden", "beige", "orange"}, {"turquoise", "teal", "blue", "green"},
    {"pink", "red"}, {"brown", "beige"}, {"black", "gray", "grey"},
)  # fmt: skip
"""Colours that may be taken for each other."""
NUMBERS = ("two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
OBJECTS = (
    ("dog", "cat", "horse", "cow", "sheep", "elephant", "zebra", "giraffe", "bear", "rabbit", "fox",
     "lion", "tiger", "monkey", "pig", "goat", "deer", "wolf", "panda", "kangaroo"),
    ("bird", "eagle", "owl", "parrot", "penguin", "duck", "swan", "flamingo", "peacock", "crow"),
    ("car", "truck", "bus", "bicycle", "motorcycle", "train", "airplane", "boat", "helicopter",
     "scooter", "tractor", "ship", "sailboat", "taxi", "ambulance"),
    ("chair", "table", "couch", "sofa", "bed", "bench", "desk", "bookshelf", "lamp", "wardrobe"),
    ("apple", "banana", "orange", "pear", "lemon", "strawberry", "pineapple", "watermelon",
     "cherry", "peach"),
    ("pizza", "cake", "sandwich", "burger", "donut", "salad", "soup", "pie", "cookie", "taco"),
    ("cup", "bottle", "bowl", "plate", "glass", "vase", "jug", "teapot", "fork", "spoon", "knife"),
    ("guitar", "piano", "violin", "drum", "trumpet", "flute", "cello", "saxophone", "harp"),
    ("man", "woman"),
    ("boy", "girl"),
    ("hat", "scarf", "backpack", "umbrella", "handbag", "suitcase", "tie", "helmet", "crown"),
    ("book", "clock", "laptop", "phone", "candle", "mirror", "keyboard", "television"),
    ("circle", "square", "triangle", "star", "cross", "cube", "sphere", "pyramid", "cylinder"),
    ("tree", "flower", "bush", "cactus", "mushroom", "rose", "sunflower", "tulip"),
    ("house", "castle", "tower", "bridge", "church", "lighthouse", "barn", "skyscraper"),
)  # fmt: skip
"""Things of a kind, of which one can stand where another stood."""
IRREGULAR = {"man": "men", "woman": "women", "child": "children", "sheep": "sheep", "deer": "deer",
             "knife": "knives", "wolf": "wolves", "cactus": "cacti"}  # fmt: skip
RELATIONS = (
    ("to the left of", "to the right of"),
    ("on the left of", "on the right of"),
    ("left of", "right of"),
    ("on the left", "on the right"),
    ("on top of", "underneath"),
    ("above", "below"),
    ("in front of", "behind"),
    ("inside", "outside"),
    ("next to", "far away from"),
    ("beside", "far away from"),
    ("under", "on top of"),
    ("over", "under"),
)
"""Where something is, and the opposite."""
ACTIONS = (
    ("running", "sitting", "sleeping", "jumping", "walking", "standing", "dancing", "swimming",
     "climbing", "lying"),
    ("eating", "drinking", "cooking", "reading", "writing", "painting", "singing", "typing"),
    ("laughing", "crying", "smiling", "frowning", "yawning", "shouting"),
    ("pushing", "pulling", "lifting", "throwing", "catching", "kicking"),
    ("opening", "closing"),
    ("rising", "falling"),
    ("entering", "leaving"),
    ("runs", "sits", "sleeps", "jumps", "walks", "stands", "dances", "swims", "climbs"),
    ("eats", "drinks", "cooks", "reads", "writes", "paints", "sings"),
    ("opens", "closes"),
    ("rises", "falls"),
    ("enters", "leaves"),
    ("moving left", "moving right", "moving up", "moving down"),
    ("moves left", "moves right", "moves up", "moves down"),
)  # fmt: skip
"""What is done, and what can be done instead."""
CAMERA = (
    ("zooms in", "zooms out"), ("zooming in", "zooming out"), ("zoom in", "zoom out"),
    ("pans left", "pans right"), ("panning left", "panning right"), ("pan left", "pan right"),
    ("pans to the left", "pans to the right"), ("pan to the left", "pan to the right"),
    ("panning to the left", "panning to the right"),
    ("tilts up", "tilts down"), ("tilting up", "tilting down"), ("tilt up", "tilt down"),
    ("dolly in", "dolly out"), ("pushes in", "pulls back"), ("push in", "pull back"),
    ("moves forward", "moves backward"), ("camera rises", "camera descends"),
    ("orbits clockwise", "orbits counterclockwise"), ("from above", "from below"),
    ("handheld", "on a tripod"), ("aerial view", "close-up"), ("close-up", "wide shot"),
)  # fmt: skip
"""How the camera moves, and the opposite."""

Rng = np.random.Generator
Rule = Callable[[Rng, str], str | None]
_ARTICLE = r"(?:an?|the|one|two|three|four|five|six|some|several|his|her|their)"
_COLOUR = "|".join(COLOURS)
HELD = "\N{OBJECT REPLACEMENT CHARACTER}"
_FIXED = re.compile(r'"[^"]*"|\u201c[^\u201d]*\u201d|\bblack[ -]and[ -]white\b', re.IGNORECASE)
"""What no rule may touch: text that is to be rendered, and what is no colour of a thing."""


def english(rng: Rng, caption: str) -> dict[Change, str] | None:
    """Plain English: objects, counts, colours, relations, owners, actions, order, camera."""
    fixed = [found[0] for found in _FIXED.finditer(caption)]
    text = _FIXED.sub(HELD, caption)
    changed = {change: rule(rng, text) for change, rule in RULES.items()}
    return {
        change: _put_back(_with_articles(other), fixed)
        for change, other in changed.items()
        # what was left out with a thing cannot be put back
        if other is not None and other.lower() != text.lower() and other.count(HELD) == len(fixed)
    }


def _put_back(text: str, fixed: Sequence[str]) -> str:
    first, *rest = text.split(HELD)
    return first + "".join(held + part for held, part in zip(fixed, rest, strict=True))


def swap_colour(rng: Rng, caption: str) -> str | None:
    """Give one thing a colour that cannot be taken for its own or another one in the caption."""
    named = {found.lower() for found in re.findall(rf"\b(?:{_COLOUR})\b", caption, re.IGNORECASE)}
    taken = named.union(*(each for each in ALIKE if each & named))
    free = [colour for colour in COLOURS if colour not in taken]
    return _replaced(rng, caption, rf"\b(?:{_COLOUR})\b(?=[ -]\w)", lambda _: _one(rng, free))


def change_count(rng: Rng, caption: str) -> str | None:
    """Ask for another number of things, by at least one and at most twice as many."""

    def other(word: str) -> str:
        place = NUMBERS.index(word.lower()) + 2
        near = [count for count in range(2, min(10, 2 * place) + 1) if count != place]
        return NUMBERS[int(_one(rng, [str(count) for count in near])) - 2]

    plural = rf"\b(?:{'|'.join(NUMBERS)})\b(?= (?:\w+ ){{0,2}}\w+)"
    return _replaced(rng, caption, plural, other)


def swap_object(rng: Rng, caption: str) -> str | None:
    """Put another thing of its kind where one stands."""
    words = {word.lower() for word in re.findall(r"\w+", caption)}

    def other(word: str) -> str:
        kind, place, many = _FORMS[word.lower()]
        free = [
            thing
            for number, thing in enumerate(OBJECTS[kind])
            if number != place and thing not in words and _plural(thing) not in words
        ]
        chosen = _one(rng, free or OBJECTS[kind])
        return _plural(chosen) if many else chosen

    return _replaced(rng, caption, _NOUNS, other)


def drop_object(rng: Rng, caption: str) -> str | None:
    """Leave one of two things out that `and` or `with` joins, with what is said of it."""
    phrase = rf"{_ARTICLE} (?:[\w-]+ ){{0,3}}?[\w-]+"
    last = rf"\b({phrase}) (?:and|with) ({phrase})(?=$|[.,;]| (?:on|in|at|under|near|against)\b)"
    found = re.search(last, caption, re.IGNORECASE)
    if found is None:
        return None
    kept = found[1] if rng.integers(2) else found[2]
    return caption[: found.start()] + kept + caption[found.end() :]


def turn_relation(rng: Rng, caption: str) -> str | None:
    """Say the opposite of where something is."""
    return _turned(rng, caption, RELATIONS)


def swap_owners(rng: Rng, caption: str) -> str | None:  # noqa: ARG001
    """Let two coloured things change their colours."""
    found = list(re.finditer(rf"\b({_COLOUR})\b(?= [a-z])", caption, re.IGNORECASE))
    pairs = [(a, b) for a, b in pairwise(found) if a[1].lower() != b[1].lower()]
    if not pairs:
        return None
    one, other = pairs[0]
    between = caption[one.end() : other.start()]
    if not re.search(rf"\w+.*\b(?:and|with|on|of|near|beside|above|below|behind|{_ARTICLE})\b",
                     between, re.IGNORECASE):  # fmt: skip
        return None  # two colours of one thing
    return caption[: one.start()] + other[1] + between + one[1] + caption[other.end() :]


def swap_action(rng: Rng, caption: str) -> str | None:
    """Let something else be done."""
    kinds = {word: kind for kind in ACTIONS for word in kind}
    words = "|".join(sorted(kinds, key=len, reverse=True))

    def other(word: str) -> str:
        return _one(rng, [each for each in kinds[word.lower()] if each != word.lower()])

    return _replaced(rng, caption, rf"\b(?:{words})\b", other)


def turn_order(rng: Rng, caption: str) -> str | None:  # noqa: ARG001
    """Let what comes first come last."""
    ending = caption[len(caption.rstrip(".!")) :]
    body = caption.rstrip(".!")
    subject = r"(?P<subject>.*?\b(?:man|woman|boy|girl|child|person|dog|cat|robot|he|she|it|they)"
    subject += r"(?: (?:in|with) an? [\w-]+(?: [\w-]+)?(?= \w+s\b))?)"
    then = rf"^{subject}(?P<first> .+?),? (?:and )?then(?P<second> .+)$"
    if found := re.match(then, body, re.IGNORECASE):
        return f"{found['subject']}{found['second']}, then{found['first']}{ending}"
    if found := re.search(r"\b(before|after)\b(?= \w+ing\b| (?:he|she|it|they)\b)", body):
        other = "after" if found[1] == "before" else "before"
        return f"{body[: found.start()]}{other}{body[found.end() :]}{ending}"
    return None


def turn_camera(rng: Rng, caption: str) -> str | None:
    """Let the camera go the other way, or stand elsewhere."""
    return _turned(rng, caption, CAMERA)


def _plural(word: str) -> str:
    if word in IRREGULAR:
        return IRREGULAR[word]
    if word.endswith(("s", "sh", "ch", "x")):
        return f"{word}es"
    return f"{word[:-1]}ies" if re.search("[^aeiou]y$", word) else f"{word}s"


def _forms() -> dict[str, tuple[int, int, bool]]:
    """Return each thing's kind, its place in it, and whether it is many, by singular and plural."""
    forms: dict[str, tuple[int, int, bool]] = {}
    for kind, things in enumerate(OBJECTS):
        for place, thing in enumerate(things):
            forms[thing] = kind, place, False
            forms.setdefault(_plural(thing), (kind, place, True))
    del forms["orange"]  # before a noun it is a colour
    return forms


_FORMS = _forms()
_NOUNS = rf"\b(?:{'|'.join(sorted(_FORMS, key=len, reverse=True))})\b"

RULES: dict[Change, Rule] = {
    "object-dropped": drop_object,
    "object-swapped": swap_object,
    "count": change_count,
    "colour": swap_colour,
    "relation": turn_relation,
    "attribute-owner": swap_owners,
    "action": swap_action,
    "action-order": turn_order,
    "camera": turn_camera,
}


def _replaced(rng: Rng, caption: str, pattern: str, other: Callable[[str], str]) -> str | None:
    """Replace one of the places that a pattern has in a caption, chosen by chance."""
    found = list(re.finditer(pattern, caption, re.IGNORECASE))
    if not found:
        return None
    place = found[rng.integers(len(found))]
    return caption[: place.start()] + _cased(place[0], other(place[0])) + caption[place.end() :]


def _turned(rng: Rng, caption: str, pairs: Sequence[tuple[str, str]]) -> str | None:
    """Replace a phrase by its opposite; of phrases that overlap, the longest counts."""
    opposite: dict[str, str] = {}
    for one, other in pairs:
        opposite.setdefault(one, other)
    for one, other in pairs:
        opposite.setdefault(other, one)
    phrases = "|".join(sorted(opposite, key=len, reverse=True))
    return _replaced(rng, caption, rf"\b(?:{phrases})\b", lambda word: opposite[word.lower()])


def _with_articles(text: str) -> str:
    """Write `a` or `an` as the next word wants it."""

    def article(found: re.Match[str]) -> str:
        wanted = "an" if found[2][0].lower() in "aeiou" else "a"
        return _cased(found[1], wanted) + " " + found[2]

    return re.sub(r"\b(an?) ((?!(?:one|uni|use|hour)\w*)\w+)", article, text, flags=re.IGNORECASE)


def _cased(like: str, word: str) -> str:
    return word[0].upper() + word[1:] if like[0].isupper() else word


def _one(rng: Rng, words: Sequence[str]) -> str:
    return words[int(rng.integers(len(words)))]
