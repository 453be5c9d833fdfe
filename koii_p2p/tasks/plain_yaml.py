"""The YAML that people write by hand, and no more of it: mappings, lists and scalars, each with its line.

Koii's create-task-cli reads YAML 1.2, PyYAML resolves scalars by YAML 1.1 (`no` is false, `1:30` is 90). Nothing is
resolved here: a scalar is its text and whether it was quoted, and whoever reads a field knows what it should be.
That also keeps every digit of an amount. Tags, anchors, aliases and merge keys, which hand-written settings do without,
are refused: so that no few bytes can stand for many.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import yaml

MOST_BYTES: Final = 64 * 1024
MOST_VALUES: Final = 4096
DEEPEST: Final = 8

_NULLS: Final = frozenset({"", "~", "null", "Null", "NULL"})


class YamlError(ValueError):
    """Text that is not this YAML. `line` counts from 1, and is None where there is none to name."""

    def __init__(self, why: str, line: int | None = None) -> None:
        super().__init__(why if line is None else f"line {line}: {why}")
        self.why, self.line = why, line


@dataclass(frozen=True, slots=True)
class Scalar:
    """A single value as it is written; `quoted` also for block text (`|` and `>`)."""

    text: str
    quoted: bool
    line: int

    @property
    def is_null(self) -> bool:
        """Whether YAML reads it as nothing at all."""
        return not self.quoted and self.text in _NULLS


@dataclass(frozen=True, slots=True)
class Sequence:
    """A list."""

    items: tuple[Value, ...]
    line: int


@dataclass(frozen=True, slots=True)
class Table:
    """A mapping: every key once, in the order of the file."""

    entries: Mapping[str, Value]
    line: int


Value = Scalar | Sequence | Table


def read_table(data: bytes) -> Table:
    """The mapping that `data` is: UTF-8, one document, at most `MOST_BYTES`. Raises `YamlError`.

    Depth and the number of values are bounded before anything is built (`DEEPEST`, `MOST_VALUES`).
    """
    if len(data) > MOST_BYTES:
        raise YamlError(f"it has {len(data)} bytes, more than the {MOST_BYTES} that are read")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise YamlError("it is not UTF-8 text", data[: error.start].count(b"\n") + 1) from error
    try:
        events = _Events(yaml.parse(text, Loader=yaml.SafeLoader))
        found = events.document()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        said = ", ".join(part for part in (error.context, error.problem) if part)
        raise YamlError(f"it is not YAML: {said}", None if mark is None else mark.line + 1) from error
    except yaml.YAMLError as error:  # of the reader: characters that YAML does not allow
        raise YamlError(f"it is not YAML: {str(error).splitlines()[0]}") from error
    if isinstance(found, Scalar) and found.is_null:
        return Table({}, found.line)
    if not isinstance(found, Table):
        raise YamlError("it is not a mapping, lines of `name: value`", found.line)
    return found


class _Events:
    """Builds values from the parser's events, one after the other."""

    def __init__(self, events: Iterator[yaml.Event]) -> None:
        self._events = events
        self._values = 0

    def document(self) -> Value:
        """The one document of the stream; nothing at all is a null."""
        found: Value | None = None
        for event in self._events:
            if isinstance(event, yaml.DocumentStartEvent):
                if found is not None:
                    raise YamlError("it has a second document", _line(event))
                if event.version or event.tags:
                    raise YamlError("it begins with a directive (%)", _line(event))
                found = self._value(next(self._events), 0)
        return Scalar("", False, 1) if found is None else found

    def _value(self, event: yaml.Event, depth: int) -> Value:
        line = _line(event)
        self._values += 1
        if self._values > MOST_VALUES:
            raise YamlError(f"it has more than {MOST_VALUES} values", line)
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            raise YamlError("it has an anchor (&) or alias (*): write the value out, or quote it", line)
        if getattr(event, "tag", None) is not None:
            raise YamlError("it has a tag (!): leave it out, or quote the value", line)
        if isinstance(event, yaml.ScalarEvent):
            if any(
                "\ud800" <= one <= "\udfff" for one in event.value
            ):  # an escape can write what UTF-8 cannot
                raise YamlError("it has half of a surrogate pair, which is no character", line)
            return Scalar(event.value, event.style is not None, line)
        if depth == DEEPEST:
            raise YamlError(f"it is deeper than {DEEPEST} levels", line)
        if isinstance(event, yaml.SequenceStartEvent):
            return Sequence(tuple(self._items(depth + 1)), line)
        return Table(self._entries(depth + 1), line)

    def _items(self, depth: int) -> Iterator[Value]:
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            yield self._value(event, depth)

    def _entries(self, depth: int) -> dict[str, Value]:
        found: dict[str, Value] = {}
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            key = self._value(event, depth)
            if not isinstance(key, Scalar):
                raise YamlError("a name is a list or a mapping", key.line)
            if key.text == "<<" and not key.quoted:
                raise YamlError("it has a merge key (<<): write the values out", key.line)
            if key.text in found:
                raise YamlError(f"{key.text} is given a second time", key.line)
            found[key.text] = self._value(next(self._events), depth)
        return found


def _line(event: yaml.Event) -> int:
    return 1 if event.start_mark is None else event.start_mark.line + 1
