"""What a set of pairs consists of."""

import io
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from PIL import Image

from vipo_cli.data.pair import PreferencePair
from vipo_cli.errors import DataError
from vipo_cli.media import Media, media_bytes
from vipo_cli.run import Progress, Work


@dataclass(frozen=True, slots=True)
class Statistics:
    """Counts over pairs.

    Attributes:
        pairs: how many there are.
        singles: how many of them have no loser.
        prompts: how many different prompts.
        prompt_characters: shortest, median and longest prompt.
        categories: pairs by category, where the source knows one.
        sizes: media by width x height.
        formats: media by file format.
        media_bytes: all media together, encoded.
        unreadable: media whose header cannot be read.
    """

    pairs: int
    singles: int
    prompts: int
    prompt_characters: tuple[int, int, int]
    categories: dict[str, int]
    sizes: dict[str, int]
    formats: dict[str, int]
    media_bytes: int
    unreadable: int


def statistics(pairs: Sequence[PreferencePair]) -> Work[Statistics]:
    """Read all prompts and the headers of all media; nothing is decoded.

    Raises:
        DataError: the data set has no pairs.
    """
    if not len(pairs):
        raise DataError("the data set has no pairs")
    prompts: Counter[str] = Counter()
    categories: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    formats: Counter[str] = Counter()
    singles = encoded = unreadable = 0
    for index in range(len(pairs)):
        pair = pairs[index]
        prompts[pair.prompt] += 1
        singles += pair.loser is None
        if category := pair.metadata.get("category"):
            categories[str(category)] += 1
        for media in _media(pair):
            try:
                data = media_bytes(media)
                with Image.open(io.BytesIO(data)) as picture:
                    sizes[f"{picture.width}x{picture.height}"] += 1
                    formats[str(picture.format)] += 1
            except (OSError, ValueError, SyntaxError, DataError):
                unreadable += 1
            else:
                encoded += len(data)
        yield Progress("read pairs", index + 1, len(pairs))
    lengths = sorted(len(prompt) for prompt in prompts)
    return Statistics(
        pairs=len(pairs),
        singles=singles,
        prompts=len(prompts),
        prompt_characters=(lengths[0], lengths[len(lengths) // 2], lengths[-1]),
        categories=dict(categories.most_common()),
        sizes=dict(sizes.most_common()),
        formats=dict(formats.most_common()),
        media_bytes=encoded,
        unreadable=unreadable,
    )


def _media(pair: PreferencePair) -> Iterator[Media]:
    yield pair.winner
    if pair.loser is not None:
        yield pair.loser
