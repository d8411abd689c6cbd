"""What the golden files were made from: pictures, prompts and weights, all by seed.

Used by the tests and by `make_golden.py`, which runs beside the upstream packages, without vipo.
"""

import io
import json
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

GOLDEN = Path(__file__).parent / "golden"
SIDE = 16

PROMPTS = {
    "plain": "a red circle above two blue squares, it's the artist's best work",
    "case": "A PHOTO Of The Eiffel TOWER at 5:30pm, 4K",
    "empty": "",
    "blank": " \t\n  ",
    "punctuation": "wow!!! (really?) -- yes... @home #1 100% $5 & more",
    "entities": "fish &amp; chips &lt;b&gt; &amp;quot;twice&amp;quot; &#233; &copy 2020",
    "thrice": "&amp;amp;amp;lt; and &nbsp;space",
    "accents": "un caf\u00e9 cr\u00e8me, stra\u00dfe, \u0130stanbul, "
    "\u03a3\u03af\u03c3\u03c5\u03c6\u03bf\u03a3",
    "combining": "cafe\u0301 and n\u0303",
    "curly": "\u201csmart\u201d quotes and the cat\u2019s \u2018toy\u2019 \u2026 \u2013 \u2014",
    "wide": "\uff21\uff22\uff23 \ufb01ne \u2460 \u00bd \u216b \u0663",
    "scripts": "\u4e00\u53ea\u732b \u0434\u043e\u043c \u05d1\u05d9\u05ea \u0639\u0631\u0628\u064a "
    "\ud55c\uad6d \u0e44\u0e17\u0e22",
    "emoji": "\U0001f600 thumbs \U0001f44d\U0001f3fd family "
    "\U0001f468\u200d\U0001f469\u200d\U0001f467",
    "mojibake": "sch\u00c3\u00b6n and it\u00e2\u20ac\u2122s broken",
    "controls": "a\x00b\x07c\x1b[31md\x7f\ufeffe\u200bf",
    "spaces": "a\u00a0b\u2003c\u3000d\u2028e\x85f",
    "contractions": "I'M sure they'LL've said he'd 'S 's'tuff rock'n'roll",
    "specials": "a <|endoftext|> b <|startoftext|> c <end_of_text> d <start_of_text> e",
    "shouted": "a <|ENDOFTEXT|> b <END_OF_TEXT> c",
    "bert": "a [SEP] b [MASK] c [DEC] d [ENC] e [dec] [PAD] [UNK]",
    "long": "a very long prompt, with many words and 12 numbers " * 12,
    "longword": "a" * 120,
    "digits": "12345 67.89 1,000 \u00b2\u00b3",
    "underscore": "snake_case __init__ a_b",
    "long s": "it'\u017f \u017fo",
}


def pictures():
    """Return encoded pictures of every kind that a reward may meet, by name."""
    rng = np.random.default_rng(7)
    found = {}

    def keep(name, picture, kind="PNG", **options):
        buffer = io.BytesIO()
        picture.save(buffer, kind, **options)
        found[name] = buffer.getvalue()

    def noise(*shape):
        smooth = np.indices(shape[:2]).sum(0)[..., None] * 3 % 256
        rough = rng.integers(0, 256, (*shape[:2], shape[2] if len(shape) > 2 else 1))
        return np.where(rng.random((*shape[:2], 1)) < 0.5, smooth, rough).astype(np.uint8)

    keep("tall", Image.fromarray(noise(62, 40, 3)))
    keep("wide", Image.fromarray(noise(37, 61, 3)))
    keep("large", Image.fromarray(noise(150, 131, 3)))
    keep("small", Image.fromarray(noise(5, 7, 3)))
    keep("exact", Image.fromarray(noise(SIDE, SIDE, 3)))
    keep("grey", Image.fromarray(noise(33, 17)[..., 0]))
    keep("grey-alpha", Image.fromarray(noise(21, 30, 2), "LA"))
    keep("rgba", Image.fromarray(noise(31, 47, 4)))
    keep("column", Image.fromarray(noise(9, 1, 3)))
    keep("row", Image.fromarray(noise(1, 23, 3)))
    palette = Image.fromarray(noise(30, 45)[..., 0] % 16)
    palette = Image.frombytes("P", palette.size, palette.tobytes())
    palette.putpalette(rng.integers(0, 256, 48, np.uint8).tobytes())
    keep("palette", palette)
    keep("palette-transparent", palette, transparency=3)
    keep("bits", Image.fromarray(noise(26, 19)[..., 0] > 127))
    keep("cmyk", Image.fromarray(noise(18, 29, 4), "CMYK"), "TIFF")
    return found


def read_manifest(name):
    """Return the names and shapes of a checkpoint's tensors."""
    manifest = json.loads((GOLDEN / "manifests.json").read_text())[name]
    return expand(manifest)


def expand(manifest):
    """Undo `collapse`."""
    return {
        name.replace("{}", str(layer)): tuple(shape)
        for name, (shape, layers) in manifest.items()
        for layer in range(layers)
    }


def weights(shapes, seed=0):
    """Return tensors of some names and shapes: neither so small nor so large that faults hide."""
    import torch

    found = {}
    for name, shape in shapes.items():
        if name.endswith("position_ids"):
            found[name] = torch.arange(shape[-1]).expand(shape)
            continue
        if name.endswith("inv_freq"):
            found[name] = 1 / 10000 ** (torch.arange(shape[0]).float() / shape[0])
            continue
        rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
        values = rng.standard_normal(shape, np.float32)
        if name.endswith("logit_scale"):
            values = np.float32(4.6052) + 0 * values
        elif "norm" in name or "ln_" in name:
            values = values * 0.1 + (1 if name.endswith("weight") else 0)
        elif name.endswith("bias"):
            values = values * 0.1
        elif "embedding" in name or "pos_embed" in name or "cls_token" in name:
            values = values * 0.5
        elif values.ndim > 1:
            values = values / np.sqrt(np.prod(shape[1:]))
        found[name] = torch.from_numpy(np.asarray(values, np.float32))
    return found
