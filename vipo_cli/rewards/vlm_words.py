"""What reward models were trained to be told, read from where their authors publish it.

Such instructions are as much a part of a model as its weights: a changed space is another reward.
So they are kept like weights, beside them or in the cache, and checked by their SHA-256. The
published files are code; the texts in it are read without running anything.
"""

import ast
import hashlib
import zipfile
from collections.abc import Sequence
from pathlib import Path

from vipo_cli.errors import ModelError


def published_text(file: Path, names: Sequence[str], sha256: str, member: str = "") -> str:
    """Return the texts that Python code gives to some names, one behind the other.

    Args:
        file: the code, or a wheel or other zip archive that holds it.
        names: which texts, in order.
        sha256: of the whole.
        member: where the code lies in an archive.

    Raises:
        ModelError: there are no such texts, or others than were published.
    """
    texts = _texts(_code(file, member))
    missing = [name for name in names if name not in texts]
    if missing:
        raise ModelError(
            f"`{file}` does not hold the instructions of the model: it has no `{missing[0]}`",
            hint="see that it is the file that the model's authors publish",
        )
    text = "".join(texts[name] for name in names)
    found = hashlib.sha256(text.encode()).hexdigest()
    if found != sha256:
        raise ModelError(
            f"the instructions in `{file}` are not those that were published with the model",
            hint="scores for other words cannot be compared: use the file of that very release",
        )
    return text


def _code(file: Path, member: str) -> str:
    try:
        if member and zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive:
                return archive.read(member).decode()
        return file.read_text(encoding="utf-8")
    except (OSError, KeyError, UnicodeDecodeError, zipfile.BadZipFile) as error:
        raise ModelError(f"cannot read the instructions of the model in `{file}`") from error


def _texts(code: str) -> dict[str, str]:
    """Return the texts that are given to names at the top of some code."""
    try:
        statements = ast.parse(code).body
    except (SyntaxError, ValueError):
        return {}
    return {
        target.id: statement.value.value
        for statement in statements
        if isinstance(statement, ast.Assign)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
        for target in statement.targets
        if isinstance(target, ast.Name)
    }
