"""PaddleOCR as a reader of pictures, in either of its interfaces.

The public script of CVTG-2K was written for PaddleOCR 2, English, with the direction of lines. Of
PaddleOCR 3, which has other names for all of this, the models of that time (PP-OCRv4) and the same
threshold are asked for. Neither was run here: tests stand for the interfaces.
"""

from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

from vipo_cli.errors import MissingWeights
from vipo_cli.media import decode

Lines = Callable[[bytes], list[str]]
"""Returns the lines of text in a picture, in the order in which they are found."""

LEAST_SCORE = 0.5
"""Lines that are less certain are left out; the default of PaddleOCR 2."""


def installed() -> str | None:
    """Return the version that is installed, or None."""
    try:
        return version("paddleocr")
    except PackageNotFoundError:
        return None


def load_paddle() -> Lines:
    """Load PaddleOCR.

    Raises:
        MissingWeights: it is not installed.
    """
    found = installed()
    if found is None:
        raise MissingWeights(
            "PaddleOCR is not installed",
            hint="pip install paddlepaddle paddleocr; or let another engine read: rapidocr",
        )
    from paddleocr import PaddleOCR

    if int(found.partition(".")[0]) < 3:
        older = PaddleOCR(use_angle_cls=True, lang="en", show_log=False)
        return lambda data: _older_lines(older.ocr(_pixels(data), cls=True))
    engine = PaddleOCR(
        lang="en",
        ocr_version="PP-OCRv4",
        use_textline_orientation=True,
        use_doc_orientation_classify=False,
        use_doc_unwarping=False,
        text_rec_score_thresh=LEAST_SCORE,
    )
    return lambda data: _lines(engine.predict(_pixels(data)))


def _pixels(data: bytes) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Return a picture as OpenCV would read it: blue first."""
    return np.ascontiguousarray(np.asarray(decode(data), np.uint8)[:, :, ::-1])


def _older_lines(pages: Any) -> list[str]:
    return [str(text) for page in pages or () for _, (text, _) in page or ()]


def _lines(pages: list[Mapping[str, Any]]) -> list[str]:
    return [str(text) for page in pages for text in page["rec_texts"]]
