"""JSON values as NeDB sees them: what a dotted field names, when two are the same thing, which comes first.

After NeDB 1.8 (github.com/louischatriot/nedb, lib/model.js): its rules for arrays and for missing fields are odd in
places, and are kept, so that a task that was written for it finds what it found there.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Final

from koii_p2p.data.collections.reasons import DocumentError, DocumentReason

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]

MAX_DEPTH: Final = 16
MAX_INTEGER: Final = 2**63 - 1
_NUMBER_DIGITS: Final = 400  # more than any double has


class Missing:
    """The type of `MISSING`."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "MISSING"


MISSING: Final = Missing()
"""What a field that is not there holds: JavaScript's `undefined`."""

Found = Json | Missing


def parse_json(data: bytes | str) -> Json:
    """One JSON value (RFC 8259), strictly: no name twice, no NaN or Infinity, integers of 64 bits, depth 16, and no
    half of a surrogate pair, which has no UTF-8 form: who is to pass it on could not.

    Raises `ValueError`. Time is linear in `data`, whose size the caller bounds.
    """
    text = data.decode("utf-8") if isinstance(data, bytes) else data
    try:
        value: Json = json.loads(
            text,
            object_pairs_hook=_object,
            parse_constant=_no_constant,
            parse_int=_integer,
            parse_float=_float,
        )
    except RecursionError as error:
        raise ValueError("far too many nested arrays and objects") from error
    _check_depth(value, MAX_DEPTH)
    if "\\u" in text:
        json_bytes(value)  # a UnicodeEncodeError is a ValueError
    return value


def json_bytes(value: Json) -> bytes:
    """The JSON text that is signed: names sorted, no spaces, UTF-8. Raises `ValueError` for what has none."""
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    ).encode()


def _check_depth(value: Json, left: int) -> None:
    if isinstance(value, dict | list):
        if not left:
            raise ValueError(f"more than {MAX_DEPTH} nested arrays and objects")
        for inner in value.values() if isinstance(value, dict) else value:
            _check_depth(inner, left - 1)


def _object(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name occurs twice in one object")
    return found


def _no_constant(text: str) -> Json:
    raise ValueError(f"{text} is not JSON")


def _integer(text: str) -> int:
    if len(text) > 20 or abs(number := int(text)) > MAX_INTEGER:
        raise ValueError("an integer of more than 64 bits")
    return number if text != "-0" else 0


def _float(text: str) -> float:
    if len(text) > _NUMBER_DIGITS or (number := float(text)) in (float("inf"), float("-inf")):
        raise ValueError("a number beyond those of a double")
    return number


def field_of(value: Found, path: str) -> Found:
    """What a dotted path names: `a.b.0.c`. In an array, a number takes an element and a name goes through all.

    Unlike NeDB, which takes an element that is null, 0, false or empty for missing.
    """
    return _field_of(value, path.split("."))


def _field_of(value: Found, parts: Sequence[str]) -> Found:
    for position, part in enumerate(parts):
        if isinstance(value, dict):
            value = value.get(part, MISSING)
        elif isinstance(value, list) and is_index(part):
            index = int(part)
            value = value[index] if index < len(value) else MISSING
        elif isinstance(value, list):
            rest = parts[position:]
            # Elements without the field stay as MISSING: they are no nulls. Arrays in arrays have no fields.
            return [_field_of(item, rest) if isinstance(item, dict) else MISSING for item in value]  # type: ignore[misc]
        else:
            return MISSING
    return value


def is_index(part: str) -> bool:
    """Whether a part of a path is the number of an element."""
    return part.isascii() and part.isdigit() and len(part) < 8


def same(a: Found, b: Found) -> bool:
    """Whether two values are the same thing (NeDB's `areThingsEqual`); what is missing equals nothing."""
    if isinstance(a, Missing) or isinstance(b, Missing):
        return False
    if isinstance(a, bool) or isinstance(b, bool):
        return a is b
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(same(one, other) for one, other in zip(a, b, strict=True))
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(one, b[name]) for name, one in a.items())
    return type_rank(a) == type_rank(b) and a == b


_RANKS: Final = {type(None): 1, int: 2, float: 2, str: 3, bool: 4, list: 5, dict: 6}


def type_rank(value: Found) -> int:
    """Place of a value's type in the order: missing, null, numbers, text, booleans, arrays, objects."""
    return _RANKS.get(type(value), 0)


def compare(a: Found, b: Found) -> int:
    """-1, 0 or 1 (NeDB's `compareThings`): by type, then by value; arrays and objects element by element.

    Texts are in the order of their code points, which is that of JavaScript but for characters beyond U+FFFF.
    """
    rank = type_rank(a)
    if rank != type_rank(b):
        return -1 if rank < type_rank(b) else 1
    if isinstance(a, list) and isinstance(b, list):
        return _compare_all(a, b)
    if isinstance(a, dict) and isinstance(b, dict):
        names, others = sorted(a), sorted(b)
        for name, other in zip(names, others, strict=False):
            if result := compare(a[name], b[other]):
                return result
        return (len(a) > len(b)) - (len(a) < len(b))
    if isinstance(a, str) and isinstance(b, str):
        return (a > b) - (a < b)
    if isinstance(a, int | float) and isinstance(b, int | float):
        return (a > b) - (a < b)
    return 0


def comparable(a: Found, b: Found) -> bool:
    """Whether filters and updates compare two values: numbers with numbers and texts with texts, nothing else."""
    return type_rank(a) == type_rank(b) and type_rank(a) in (_RANKS[int], _RANKS[str])


def _compare_all(a: list[Json], b: list[Json]) -> int:
    for one, other in zip(a, b, strict=False):
        if result := compare(one, other):
            return result
    return (len(a) > len(b)) - (len(a) < len(b))


def check_names(value: Json) -> None:
    """Refuse field names that filters and updates could not tell from operators or paths. Raises `DocumentError`."""
    if isinstance(value, dict):
        for name, inner in value.items():
            if name.startswith("$") or "." in name:
                raise DocumentError(
                    DocumentReason.BAD_BODY,
                    f"The field name {name[:64]!r} begins with $ or contains a full stop: rename it.",
                )
            check_names(inner)
    elif isinstance(value, list):
        for inner in value:
            check_names(inner)
