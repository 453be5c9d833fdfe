"""Filters, sorting and projections as NeDB has them (version 1.8, lib/model.js and lib/cursor.js), of bounded cost.

A filter is a JSON object: dotted fields with a value to equal or with operators $lt $lte $gt $gte $in $nin $ne $exists
$size $elemMatch, and on its top level $and, $or and $not. NeDB's $regex and $where are not there: both run what a
stranger wrote for as long as it likes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cmp_to_key
from typing import Final

from koii_p2p.data.collections.reasons import DocumentError, DocumentReason
from koii_p2p.data.collections.values import (
    MISSING,
    Found,
    Json,
    Missing,
    comparable,
    compare,
    field_of,
    same,
)
from koii_p2p.limits import Limits

Row = Mapping[str, Json]

_MOST_CONDITIONS: Final = Limits().query_conditions
_MOST_DOCUMENTS: Final = Limits().query_documents
_MOST_DEPTH: Final = 8


@dataclass(frozen=True, slots=True)
class Bounds:
    """Values that a field must have: one of `equal`, or between two, each with whether the end itself is in."""

    equal: tuple[Json, ...] | None = None
    low: tuple[Json, bool] | None = None
    high: tuple[Json, bool] | None = None


@dataclass(frozen=True, slots=True)
class Query:
    """What to find. Made by `parse_query`; `matches` tells of one document."""

    filter: dict[str, Json]
    sort: tuple[tuple[str, int], ...] = ()
    skip: int = 0
    limit: int | None = None
    projection: tuple[tuple[str, bool], ...] = ()

    def matches(self, document: Row) -> bool:
        """Whether the filter holds for a document."""
        return matches(dict(document), self.filter)

    def ordered(self, documents: Iterable[Row], watched: Callable[[], None] | None = None) -> list[Row]:
        """Documents in the order asked for, and by `_id` where that leaves it open.

        Calls `watched` before each comparison of values, which may raise to put an end to it: values are as large as
        documents.
        """
        found = sorted(documents, key=lambda document: str(document.get("_id")))

        def compared(a: Found, b: Found) -> int:
            if watched is not None:
                watched()
            return compare(a, b)

        by_value = cmp_to_key(compared)
        for path, direction in reversed(self.sort):
            found.sort(
                key=lambda document, path=path: by_value(field_of(dict(document), path)),  # type: ignore[misc]
                reverse=direction < 0,
            )
        return found

    def window(self, ordered: Sequence[Row]) -> list[Row]:
        """The part that was asked for of documents in order."""
        end = None if self.limit is None else self.skip + self.limit
        return list(ordered[self.skip : end])

    def shown(self, document: Row) -> dict[str, Json]:
        """What of a document was asked for."""
        return project(document, self.projection)


def parse_query(
    filter: Json,
    *,
    sort: Json = None,
    skip: Json = 0,
    limit: Json = None,
    projection: Json = None,
) -> Query:
    """Check a question from outside. Raises `DocumentError(BAD_QUERY)` that says what is wrong with it."""
    if not isinstance(filter, dict):
        raise _bad("A filter is a JSON object, such as {} for everything.")
    _check_filter(filter, _Budget(_MOST_CONDITIONS), _MOST_DEPTH)
    most = _whole(limit or 0) or None
    if _whole(skip) + (most or 0) > _MOST_DOCUMENTS:
        raise _bad(f"skip and limit together are at most {_MOST_DOCUMENTS}.")
    return Query(filter, _parse_sort(sort), _whole(skip), most, _parse_projection(projection))


def keys_asked(filter: Mapping[str, Json]) -> tuple[str, ...] | None:
    """The keys that a filter names, so that nothing else can match it; None if it names none."""
    bounds = bounds_of(filter, "_id")
    if bounds is None or bounds.equal is None:
        return None
    return tuple(dict.fromkeys(key for key in bounds.equal if isinstance(key, str)))


def bounds_of(filter: Mapping[str, Json], path: str) -> Bounds | None:
    """What every match must have in a field, as far as the filter's top level and its $and say; None if nothing.

    A match has a value within the bounds in the field, or an array there with such an element.
    """
    condition = filter.get(path, MISSING)
    if not isinstance(condition, Missing):
        found = _bounds(condition)
        if found is not None:
            return found
    parts = filter.get("$and", [])
    for part in parts if isinstance(parts, list) else []:
        if isinstance(part, dict) and (found := bounds_of(part, path)) is not None:
            return found
    return None


def _bounds(condition: Json) -> Bounds | None:
    if isinstance(condition, list):
        return None  # an array equals as a whole, and is indexed by its elements
    if not isinstance(condition, dict) or not any(name.startswith("$") for name in condition):
        return Bounds(equal=(condition,)) if not isinstance(condition, dict) else None
    if "$size" in condition or "$elemMatch" in condition:
        return None
    options = condition.get("$in")
    if isinstance(options, list):
        return (
            Bounds(equal=tuple(options)) if not any(isinstance(one, dict | list) for one in options) else None
        )
    low = high = None
    for name, value in condition.items():
        if name in ("$gt", "$gte"):
            low = (value, name == "$gte")
        elif name in ("$lt", "$lte"):
            high = (value, name == "$lte")
    return None if low is None and high is None else Bounds(low=low, high=high)


def matches(value: Found, filter: Json) -> bool:
    """NeDB's `match`: whether a value, usually a document, meets a filter that was checked."""
    if not isinstance(filter, dict):
        return _part_matches(value, filter)
    if not isinstance(value, dict) and _LOGIC.keys().isdisjoint(filter):
        return _part_matches(value, filter)
    return all(
        _LOGIC[name](value, condition) if name in _LOGIC else _part_matches(field_of(value, name), condition)
        for name, condition in filter.items()
    )


_LOGIC: Final[Mapping[str, Callable[[Found, Json], bool]]] = {
    "$and": lambda value, parts: all(matches(value, part) for part in _list(parts)),
    "$or": lambda value, parts: any(matches(value, part) for part in _list(parts)),
    "$not": lambda value, part: not matches(value, part),
}


def _part_matches(value: Found, condition: Json, *, whole: bool = False) -> bool:
    if isinstance(value, list) and not whole:
        about_array = isinstance(condition, list) or (
            isinstance(condition, dict) and ("$size" in condition or "$elemMatch" in condition)
        )
        if about_array:
            return _part_matches(value, condition, whole=True)
        return any(_part_matches(item, condition) for item in value)
    if isinstance(condition, dict) and any(name.startswith("$") for name in condition):
        return all(_OPERATORS[name](value, argument) for name, argument in condition.items())
    return same(value, condition)


def _ordered(value: Found, argument: Json, wanted: Callable[[int], bool]) -> bool:
    """NeDB compares numbers with numbers and texts with texts, and nothing else."""
    return comparable(value, argument) and wanted(compare(value, argument))


_OPERATORS: Final[Mapping[str, Callable[[Found, Json], bool]]] = {
    "$lt": lambda value, other: _ordered(value, other, lambda order: order < 0),
    "$lte": lambda value, other: _ordered(value, other, lambda order: order <= 0),
    "$gt": lambda value, other: _ordered(value, other, lambda order: order > 0),
    "$gte": lambda value, other: _ordered(value, other, lambda order: order >= 0),
    "$ne": lambda value, other: not same(value, other),
    "$in": lambda value, options: any(same(value, option) for option in _list(options)),
    "$nin": lambda value, options: not any(same(value, option) for option in _list(options)),
    "$exists": lambda value, wanted: isinstance(value, Missing) is not _truthy(wanted),
    "$size": lambda value, number: isinstance(value, list) and len(value) == number,
    "$elemMatch": lambda value, filter: (
        isinstance(value, list) and any(matches(item, filter) for item in value)
    ),
}


def _truthy(value: Json) -> bool:
    """NeDB: whatever JavaScript takes for true, and the empty text."""
    return value == "" or isinstance(value, dict | list) or bool(value)


def project(document: Row, projection: Sequence[tuple[str, bool]]) -> dict[str, Json]:
    """The fields that a projection takes, or the document without those that it leaves out (NeDB's cursor.js)."""
    fields = {path: keep for path, keep in projection if path != "_id"}
    keeps_id = dict(projection).get("_id", True)
    if not fields and ("_id", True) in projection:
        return {"_id": document["_id"]} if "_id" in document else {}
    if any(fields.values()):
        shown: dict[str, Json] = {}
        for path in fields:
            value = field_of(dict(document), path)
            if isinstance(value, list):
                value = [None if isinstance(item, Missing) else item for item in value]
            if not isinstance(value, Missing):
                _put(shown, path.split("."), value)
    else:
        shown = _copy(document)
        for path in fields:
            _drop(shown, path.split("."))
    shown.pop("_id", None)
    return {"_id": document["_id"], **shown} if keeps_id and "_id" in document else shown


def _copy(document: Row) -> dict[str, Json]:
    """A copy down to every object, so that fields can be dropped from it."""

    def deep(value: Json) -> Json:
        return {name: deep(inner) for name, inner in value.items()} if isinstance(value, dict) else value

    return {name: deep(value) for name, value in document.items()}


def _put(target: dict[str, Json], parts: Sequence[str], value: Json) -> None:
    for part in parts[:-1]:
        inner = target.setdefault(part, {})
        if not isinstance(inner, dict):
            return
        target = inner
    target[parts[-1]] = value


def _drop(target: dict[str, Json], parts: Sequence[str]) -> None:
    for part in parts[:-1]:
        inner = target.get(part)
        if not isinstance(inner, dict):
            return
        target = inner
    target.pop(parts[-1], None)


class _Budget:
    """Conditions that a filter may still have."""

    __slots__ = ("left",)

    def __init__(self, most: int) -> None:
        self.left = most

    def take(self, count: int = 1) -> None:
        self.left -= count
        if self.left < 0:
            raise _bad(f"A filter has at most {_MOST_CONDITIONS} conditions and values to choose from.")


def _check_filter(filter: Json, budget: _Budget, depth: int) -> None:
    if not isinstance(filter, dict):
        raise _bad("What $and, $or, $not and $elemMatch are given consists of filters: JSON objects.")
    if not depth:
        raise _bad(f"Filters are nested more than {_MOST_DEPTH} deep.")
    for name, condition in filter.items():
        budget.take()
        if name in ("$and", "$or"):
            if not isinstance(condition, list):
                raise _bad(f"{name} is given an array of filters.")
            for part in condition:
                _check_filter(part, budget, depth - 1)
        elif name == "$not":
            _check_filter(condition, budget, depth - 1)
        elif name.startswith("$"):
            raise _bad(f"There is no {name[:64]!r} for documents; there are $and, $or and $not.")
        else:
            _check_condition(name, condition, budget, depth)


def _check_condition(path: str, condition: Json, budget: _Budget, depth: int) -> None:
    if not isinstance(condition, dict) or not condition:
        return
    operators = [name for name in condition if name.startswith("$")]
    if operators and len(operators) != len(condition):
        raise _bad(f"The condition on {path[:64]!r} mixes operators and fields.")
    for name in operators:
        argument = condition[name]
        budget.take()
        if name not in _OPERATORS:
            raise _bad(f"There is no operator {name[:64]!r}; there are {', '.join(_OPERATORS)}.")
        if name in ("$in", "$nin"):
            if not isinstance(argument, list):
                raise _bad(f"{name} is given an array.")
            budget.take(len(argument))
        if name == "$size" and type(argument) is not int:
            raise _bad("$size is given a whole number.")
        if name == "$elemMatch":
            _check_filter(argument, budget, depth - 1)


def _parse_sort(sort: Json) -> tuple[tuple[str, int], ...]:
    if sort is None:
        return ()
    if not isinstance(sort, dict) or len(sort) > 8:
        raise _bad('A sort is a JSON object of at most 8 fields, such as {"round": -1}.')
    if any(type(direction) is not int or direction not in (1, -1) for direction in sort.values()):
        raise _bad("The direction of a sort is 1 or -1.")
    return tuple((path, 1 if direction == 1 else -1) for path, direction in sort.items())


def _parse_projection(projection: Json) -> tuple[tuple[str, bool], ...]:
    if projection is None:
        return ()
    if not isinstance(projection, dict) or len(projection) > 64:
        raise _bad('A projection is a JSON object of at most 64 fields, such as {"name": 1}.')
    if any(type(keep) not in (int, bool) or keep not in (0, 1) for keep in projection.values()):
        raise _bad("A projection takes a field with 1 and leaves it out with 0.")
    if len({bool(keep) for path, keep in projection.items() if path != "_id"}) > 1:
        raise _bad("A projection either takes fields or leaves them out; only _id may differ.")
    return tuple((path, bool(keep)) for path, keep in projection.items())


def _whole(number: Json) -> int:
    if type(number) is not int or number < 0:
        raise _bad("skip and limit are whole numbers that are not negative.")
    return number


def _list(value: Json) -> list[Json]:
    return value if isinstance(value, list) else []


def _bad(why: str) -> DocumentError:
    return DocumentError(DocumentReason.BAD_QUERY, why)
