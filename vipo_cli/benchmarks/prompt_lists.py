"""Published lists of prompts that rewards are reported on.

A list under its name is that list: files that hold other numbers of prompts are refused. The
layouts are those that public loaders of them read; Pick-a-Pic's and HPDv2's files were not at hand.
"""

import json
from pathlib import Path
from typing import Annotated

from pydantic import Field

from vipo_cli.benchmarks.prompt_files import Record, read_text, table
from vipo_cli.benchmarks.sources import Published, find_files
from vipo_cli.errors import DataError

Place = Annotated[
    str | None, Field(description="File or folder; by default $VIPO_PROMPTS, caches, the network.")
]

PICKAPIC = Published(
    title="Pick-a-Pic v2",
    files=("data/test_unique-00000-of-00001-ecef20a3469ae6e6.parquet",),
    repo="yuvalkirstain/pickapic_v2",
)
PICKAPIC_PROMPTS = 500

STYLES = ("anime", "concept-art", "paintings", "photo")
HPDV2 = Published(
    title="HPDv2's benchmark",
    files=tuple(f"benchmark/{style}.json" for style in STYLES),
    repo="zhwang/HPDv2",
    licence="Apache-2.0",
)
PROMPTS_OF_A_STYLE = 800

PARTI = Published(
    title="PartiPrompts",
    files=("PartiPrompts.tsv",),
    url="https://raw.githubusercontent.com/google-research/parti/5a657978134374ce28973948331b319adef164bd",
    hashes={"PartiPrompts.tsv": "f96e7125a02e48976736179a667b080ba81539fb"},
    licence="Apache-2.0",
)


def pickapic_test(*, path: Place = None) -> list[Record]:
    """The 500 test prompts of Pick-a-Pic v2 (arXiv 2305.01569): its split `test_unique`."""
    file = find_files(PICKAPIC, path)[0]
    prompts = list(dict.fromkeys(_captions(file)))
    _count(file, PICKAPIC, len(prompts), PICKAPIC_PROMPTS)
    return [{"prompt": prompt, "tag": "test"} for prompt in prompts]


def hpdv2(*, path: Place = None) -> list[Record]:
    """The 3,200 prompts of HPDv2's benchmark (arXiv 2306.09341): four styles of 800, the tags."""
    records: list[Record] = []
    for style, file in zip(STYLES, find_files(HPDV2, path), strict=True):
        prompts = _strings(file)
        _count(file, HPDV2, len(prompts), PROMPTS_OF_A_STYLE)
        records += [{"prompt": prompt, "tag": style} for prompt in prompts]
    return records


def parti_prompts(*, path: Place = None) -> list[Record]:
    """The 1,632 prompts of PartiPrompts (arXiv 2206.10789); the tag is the category."""
    file = find_files(PARTI, path)[0]
    return [
        {"prompt": row["Prompt"], "tag": row["Category"], "challenge": row["Challenge"]}
        for row in table(file, read_text(file), "\t")
    ]


def _captions(file: Path) -> list[str]:
    """Read the captions of a Parquet file, and nothing else of it."""
    import pyarrow.parquet as pq
    from pyarrow import ArrowException

    try:
        return [str(each) for each in pq.read_table(file, columns=["caption"])[0].to_pylist()]
    except (ArrowException, IndexError) as error:
        raise DataError(
            f"`{file}` is no Parquet file with a column `caption`", details=[str(error)]
        ) from error


def _strings(file: Path) -> list[str]:
    try:
        found = json.loads(read_text(file))
    except ValueError as error:
        raise DataError(f"`{file}` is not JSON: {error}") from error
    if not isinstance(found, list) or not all(isinstance(each, str) for each in found):
        raise DataError(f"`{file}` is no JSON list of prompts")
    return found


def _count(file: Path, published: Published, found: int, wanted: int) -> None:
    if found != wanted:
        raise DataError(
            f"`{file}` holds {found} different prompts, {published.title} {wanted}",
            hint="for prompts of your own, name their file in place of the prompt set",
        )
