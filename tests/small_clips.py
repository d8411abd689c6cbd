"""Clips of a few frames that differ by a number, and what an importer makes of a place."""

import numpy as np

from vipo_cli.clips import encode_clip
from vipo_cli.data.entry import Entry
from vipo_cli.data.importing import find_importer
from vipo_cli.media import media_bytes


def clip(number):
    """Three frames of noise, always the same for a number."""
    frames = np.random.default_rng(number).integers(0, 256, (3, 16, 16, 3), np.uint8)
    return encode_clip(frames, 8)


def put(file, number):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(clip(number))
    return file


def found(place, **parameters):
    """Return the importer that recognises a place, its entries, and the reasons of the others."""
    name, read = find_importer(place)
    everything = list(read(place, **parameters))
    entries = [each for each in everything if isinstance(each, Entry)]
    return name, entries, [each.reason for each in everything if not isinstance(each, Entry)]


def shown(entry):
    """Return the bytes of an entry's media."""
    return [media_bytes(medium) for medium in entry.media]
