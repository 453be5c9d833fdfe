"""Reads the fields of a settings file and notes everything that is wrong with them, each with its line."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from typing import Final, TypeVar

import base58

from koii_p2p.amounts import roe
from koii_p2p.rounds.terms import U64_MAX
from koii_p2p.tasks.plain_yaml import Scalar, Sequence, Table, Value

MOST_ITEMS: Final = 64

_MOST_SHOWN: Final = 60
_KEY_BYTES: Final = 32
_KEY_CHARACTERS: Final = 44  # base58 decoding is quadratic
_NUMBER: Final = re.compile(r"[-+]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]{1,2})?")
_MOST_DIGITS: Final = 40
_BEGINS_WITH_ZERO: Final = re.compile(r"[-+]?0[0-9]")
_TYPED: Final = re.compile(r"[-+]?(?:\.?[0-9][0-9_]*\.?[0-9_]*(?:[eE][-+]?[0-9]+)?|0[box][0-9a-fA-F_]+)")
_TYPED_WORDS: Final = frozenset({"true", "True", "TRUE", "false", "False", "FALSE"})

Kind = TypeVar("Kind", bound=StrEnum)


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with one field: what it is, and what to write. `line` is None for one that is missing."""

    field: str
    line: int | None
    why: str
    remedy: str

    def __str__(self) -> str:
        where = "" if self.line is None else f"line {self.line}: "
        return f"{where}{self.field} {self.why}. {self.remedy}"


def shown(text: str) -> str:
    """Text of the file, for a sentence: quoted, short, and without control characters."""
    return repr(text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}…")


class FieldReader:
    """The fields of one table, in which names begin with `under` in what is said.

    Methods return something of the right type in any case; it has no meaning once there are faults. A field that is
    null counts as one that is not there.
    """

    def __init__(self, table: Table, under: str = "", faults: list[Fault] | None = None) -> None:
        self._table = table
        self._under = under
        self._known: list[str] = []
        self._inner: list[FieldReader] = []
        self.faults: list[Fault] = [] if faults is None else faults

    @property
    def read(self) -> tuple[str, ...]:
        """The fields that are there and were asked for, in the order of the file."""
        return tuple(name for name in self._table.entries if name in self._known and self.has(name))

    def has(self, name: str) -> bool:
        """Whether the field is there."""
        value = self._table.entries.get(name)
        return value is not None and not (isinstance(value, Scalar) and value.is_null)

    def fault(self, name: str, why: str, remedy: str) -> None:
        """Note what is wrong with a field of this table."""
        found = self._table.entries.get(name)
        line = None if found is None else found.line
        self.faults.append(Fault(f"{self._under}{name}", line, why, remedy))

    def text(self, name: str, *, required: bool = False, most: int | None = None) -> str:
        """Trimmed text of at most `most` bytes of UTF-8; empty if it is not there."""
        value = self._scalar(name)
        if value is None and self.has(name):
            return ""  # a list or a mapping, which is noted
        text = "" if value is None else value.text.strip()
        if value is not None and _is_typed(value):
            self.fault(name, f"is {value.text}, and has to be text", f'Put it in quotes: "{value.text}".')
            return ""
        if required and not text:
            self.fault(name, "is missing or empty", f'Write it, such as {name}: "...".')
        elif most is not None and (size := len(text.encode())) > most:
            self.fault(
                name,
                f"is {shown(text)}, which has {size} bytes",
                f"Write at most {most} bytes: that is what the chain has room for.",
            )
        return text

    def choice(self, name: str, kind: type[Kind]) -> Kind:
        """One of the words of `kind`."""
        words = list(kind)
        listed = " or ".join((", ".join(words[:-1]), words[-1]))
        value = self._scalar(name)
        if value is None:
            if not self.has(name):
                self.fault(name, "is missing", f"Write {listed}.")
        elif value.text.strip() in words:
            return kind(value.text.strip())
        else:
            self.fault(name, f"is {shown(value.text)}", f"Write {listed}.")
        return words[0]

    def number(
        self,
        name: str,
        low: Decimal | int,
        high: Decimal | int,
        unit: str,
        *,
        default: Decimal | None = None,
        above: bool = False,
        whole: bool = False,
    ) -> Decimal:
        """An exact number from `low` (or `above` it) to `high`, a whole one if `whole`."""
        least = f"more than {low}" if above else f"from {low}"
        remedy = f"Write a {'whole ' if whole else ''}number of {unit}, {least} to {high}, without quotes."
        value = self._scalar(name)
        if value is None:
            if not self.has(name) and default is not None:
                return default
            if not self.has(name):
                self.fault(name, "is missing", remedy)
            return Decimal(low)
        why = _not_a_number(value)
        if why is None:
            number = Decimal(value.text)
            if not low <= number <= high or (above and number == low):
                why = f"is {value.text}"
            elif whole and number != number.to_integral_value():
                why = f"is {value.text}, and {unit} are whole"
            else:
                return number
        self.fault(name, why, remedy)
        return Decimal(low)

    def whole(self, name: str, low: int, high: int, unit: str, *, default: int | None = None) -> int:
        """A whole number from `low` to `high`."""
        fallback = None if default is None else Decimal(default)
        return int(self.number(name, low, high, unit, default=fallback, whole=True))

    def amount(self, name: str, low: int, unit: str, *, above: bool = False) -> Decimal:
        """An amount of at least, or `above`, `low`; whole base units of 10^-9, as many as the chain's integers hold."""
        number = self.number(name, low, Decimal(U64_MAX).scaleb(-9), unit, above=above)
        try:
            roe(number)
        except ValueError:
            self.fault(
                name,
                f"is {number:f}, which has more than nine decimals",
                f"Round it: 1 {unit} is 10^9 units.",
            )
        return number

    def key(self, name: str, *, required: bool = False) -> str:
        """A public key in base58, or nothing."""
        text = self.text(name, required=required)
        if text and not _is_key(text):
            self.fault(name, f"is {shown(text)}, which is not a key: 32 bytes in base58", "Copy it whole.")
        return text

    def texts(self, name: str) -> tuple[str, ...]:
        """A list of text."""
        found = []
        for index, item in enumerate(self._items(name), 1):
            if isinstance(item, Scalar) and not item.is_null and not _is_typed(item):
                found.append(item.text.strip())
            else:
                self._fault_of_item(name, index, item, "is not text", "Write text, in quotes.")
        return tuple(found)

    def tables(self, name: str) -> list[FieldReader]:
        """Readers of the mappings of a list; what they find wrong is among this reader's faults."""
        found = []
        for index, item in enumerate(self._items(name), 1):
            if isinstance(item, Table):
                found.append(self._reader(item, f"{name}[{index}]."))
            else:
                self._fault_of_item(
                    name, index, item, "is not a mapping", "Write `- type: ...` and `value: ...`."
                )
        return found

    def table(self, name: str) -> FieldReader | None:
        """A reader, like those of `tables`, of the mapping of this name, if it is there."""
        self._known.append(name)
        value = self._table.entries.get(name)
        if isinstance(value, Table):
            return self._reader(value, f"{name}.")
        if self.has(name):
            self.fault(name, "is not a mapping", "Write its fields below it, each indented.")
        return None

    def words(self, names: Iterable[str]) -> dict[str, str]:
        """What is written for each of the fields that this table has, which have to be of these names."""
        self._known += names
        found = {}
        for name in self._table.entries:
            if name not in self._known:
                self.fault(
                    name, f"does not exist{self._nearest(name)}", f"There are: {', '.join(self._known)}."
                )
            elif (scalar := self._scalar(name)) is not None:
                found[name] = scalar.text.strip()
            elif not self.has(name):
                self.fault(name, "has no value", "Write one, or leave it out.")
        return found

    def unknown(self) -> list[str]:
        """A warning for each field that nobody asked for: Koii's tool passes over them in silence."""
        own = [
            f"line {value.line}: {self._under}{shown(name)[1:-1]} is not a field of this file, and is ignored"
            f"{self._nearest(name)}."
            for name, value in self._table.entries.items()
            if name not in self._known
        ]
        return own + [warning for reader in self._inner for warning in reader.unknown()]

    def _reader(self, table: Table, under: str) -> FieldReader:
        self._inner.append(FieldReader(table, f"{self._under}{under}", self.faults))
        return self._inner[-1]

    def _scalar(self, name: str) -> Scalar | None:
        """The value that is there; None for none, and, noted as a fault, for a list or a mapping."""
        self._known.append(name)
        value = self._table.entries.get(name)
        if isinstance(value, Scalar):
            return None if value.is_null else value
        if value is not None:
            self.fault(name, "is a list or a mapping", "Write a single value.")
        return None

    def _items(self, name: str) -> tuple[Value, ...]:
        self._known.append(name)
        value = self._table.entries.get(name)
        if isinstance(value, Sequence):
            if len(value.items) <= MOST_ITEMS:
                return value.items
            self.fault(name, f"has {len(value.items)} entries", f"Write at most {MOST_ITEMS}.")
        elif self.has(name):
            self.fault(name, "is not a list", "Write each entry behind a dash, or [] for none.")
        return ()

    def _fault_of_item(self, name: str, index: int, item: Value, why: str, remedy: str) -> None:
        self.faults.append(Fault(f"{self._under}{name}[{index}]", item.line, why, remedy))

    def _nearest(self, name: str) -> str:
        near = difflib.get_close_matches(name, self._known, 1)
        return f"; perhaps you mean {near[0]}" if near else ""


def _is_typed(value: Scalar) -> bool:
    """Whether YAML reads it as a number or a truth value, which Koii's tool does not take for text."""
    return not value.quoted and (value.text in _TYPED_WORDS or _TYPED.fullmatch(value.text) is not None)


def _not_a_number(value: Scalar) -> str | None:
    if value.quoted:
        return f"is {shown(value.text)} in quotes"
    if _BEGINS_WITH_ZERO.match(value.text):
        return f"is {shown(value.text)}: some read a number that begins with 0 as octal"
    if len(value.text) > _MOST_DIGITS or _NUMBER.fullmatch(value.text) is None:
        return f"is {shown(value.text)}, which is not a number"
    return None


def _is_key(text: str) -> bool:
    if len(text) > _KEY_CHARACTERS:
        return False
    try:
        return len(base58.b58decode(text)) == _KEY_BYTES
    except ValueError:
        return False
