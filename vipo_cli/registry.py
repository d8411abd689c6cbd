"""Names to functions: built-in ones by list, plugins by entry point, loaded on first use."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any, Generic, TypeVar, get_type_hints

from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from vipo_cli.errors import UnknownName, VipoError

T = TypeVar("T")


class Registry(Generic[T]):
    """A dictionary that knows what its names mean to a user.

    Args:
        kind: the word that error messages use for an entry.
        group: entry-point group in which plugins announce theirs.
        builtin: name to "module:attribute"; listing the names imports none of them.
    """

    def __init__(self, kind: str, group: str, builtin: Mapping[str, str] | None = None) -> None:
        self.kind = kind
        self._group = group
        self._targets: dict[str, str] = dict(builtin or {})
        self._loaded: dict[str, T] = {}

    def register(self, entry: T) -> T:
        """Add a function under its own name, underscores as hyphens; a taken name is refused.

        A decorator, for the package's own modules and for scripts and notebooks.
        """
        name = str(getattr(entry, "__name__", "")).replace("_", "-")
        if name in self._targets or name in self._loaded:
            raise ValueError(f"{self.kind} {name!r} is registered already")
        self._loaded[name] = entry
        return entry

    def names(self) -> list[str]:
        """Return all names, built-in, registered and from plugins, sorted."""
        plugins = {point.name for point in entry_points(group=self._group)}
        return sorted(plugins | self._targets.keys() | self._loaded.keys())

    def __contains__(self, name: str) -> bool:
        return name in self.names()

    def __getitem__(self, name: str) -> T:
        if name not in self._loaded:
            self._loaded[name] = self._load(name)
        return self._loaded[name]

    def _load(self, name: str) -> T:
        if name in self._targets:
            module, _, attribute = self._targets[name].partition(":")
            entry: T = getattr(import_module(module), attribute)
            return entry
        for point in entry_points(group=self._group):
            if point.name == name:
                plugin: T = point.load()
                return plugin
        raise UnknownName(self.kind, name, self.names())

    def summary(self, name: str) -> str:
        """Return the first line of an entry's docstring."""
        return (inspect.getdoc(self[name]) or "").partition("\n")[0]

    def documentation(self, name: str) -> str:
        """Return an entry's docstring but for what it raises, which is not for users."""
        return (inspect.getdoc(self[name]) or "").partition("\n\nRaises:")[0]

    def parameters(self, name: str) -> type[BaseModel]:
        """Return a strict pydantic model of an entry's keyword-only arguments."""
        return parameters_of(self[name])


def parameters_of(entry: Any) -> type[BaseModel]:
    """Return a strict pydantic model of a function's keyword-only arguments.

    The signature is the schema: names, types, bounds and descriptions (`Annotated[..., Field]`) are
    written once, where they are used.
    """
    hints = get_type_hints(entry, include_extras=True)
    fields: dict[str, Any] = {
        key: (hints[key], ... if argument.default is argument.empty else argument.default)
        for key, argument in inspect.signature(entry).parameters.items()
        if argument.kind is argument.KEYWORD_ONLY
    }
    strict = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    return create_model(entry.__name__, __config__=strict, **fields)


def make(factory: Callable[..., Any], name: str, options: Mapping[str, Any]) -> Any:
    """Call an entry with options that a user gave.

    Raises:
        VipoError: options that it does not take, or not of these values.
    """
    schema = parameters_of(factory)
    try:
        values = schema(**options)
    except ValidationError as error:
        raise VipoError(
            f"the options of `{name}` are not valid",
            details=[
                f"{key}: {words or 'unknown option'}" for key, words in findings(error).items()
            ],
            hint=f"it takes {', '.join(schema.model_fields) or 'none'}",
        ) from error
    return factory(**{key: getattr(values, key) for key in schema.model_fields})


WORDS = {
    "missing": "is required",
    "greater_than": "must be greater than {gt:g}",
    "greater_than_equal": "must be at least {ge:g}",
    "less_than": "must be less than {lt:g}",
    "less_than_equal": "must be at most {le:g}",
    "literal_error": "must be {expected}",
    "value_error": "{error}",
    "finite_number": "must be a finite number",
    "too_short": "must hold {min_length} or more values",
    "list_type": "must be a list",
    "invalid_key": "must be a word",
}
"""What pydantic finds, in words for people."""

KINDS = {
    "int": "must be a whole number",
    "float": "must be a number",
    "bool": "must be true or false",
    "string": "must be text",
}


def findings(error: ValidationError, depth: int = 1) -> dict[str, str | None]:
    """Return what is wrong by key, in words that name the value; None is an unknown key.

    Args:
        error: what pydantic raised.
        depth: parts of a key; below them pydantic names the alternatives of a union.
    """
    by_key: dict[str, list[Any]] = {}
    for problem in error.errors():
        key = ".".join(str(part) for part in problem["loc"][:depth])
        by_key.setdefault(key, []).append(problem)
    return {key: _in_words(problems) for key, problems in by_key.items()}


def _in_words(problems: Sequence[Any]) -> str | None:
    """Put the problems of one key in words; those of the alternative that came furthest."""
    deepest = max(len(problem["loc"]) for problem in problems)
    chosen = [problem for problem in problems if len(problem["loc"]) == deepest]
    kind = chosen[0]["type"]
    if kind == "extra_forbidden":
        return None
    words = " or ".join(dict.fromkeys(map(_word, chosen)))
    complete = kind in ("missing", "value_error")  # a validator's own words name the value
    return words if complete else f"{words}, {got(chosen[0]['input'])}"


def _word(problem: Any) -> str:
    kind: str = problem["type"]
    if kind in WORDS:
        return WORDS[kind].format(**problem.get("ctx", {}))
    message: str = problem["msg"]
    return KINDS.get(kind.partition("_")[0]) or message[0].lower() + message[1:]


def got(value: Any) -> str:
    """Say which value was found."""
    return "got nothing" if value is None else f"got `{value}`"
