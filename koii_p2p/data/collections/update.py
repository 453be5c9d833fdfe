"""Updates as NeDB has them (version 1.8, lib/model.js): a new document, or $set $unset $inc $min $max and arrays'."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from typing import Final

from koii_p2p.data.collections.query import matches, parse_query
from koii_p2p.data.collections.reasons import DocumentError, DocumentReason
from koii_p2p.data.collections.values import MAX_DEPTH, Json, check_names, comparable, compare, is_index

Fields = dict[str, Json]


def check_update(change: Json) -> Fields:
    """Return an update whose form is right. Raises `DocumentError(BAD_UPDATE)`."""
    if not isinstance(change, dict):
        raise _bad("An update is a JSON object.")
    operators = [name for name in change if name.startswith("$")]
    if operators and len(operators) != len(change):
        raise _bad("An update is either a whole document or consists of operators, not both.")
    for name in operators:
        if name not in _OPERATORS:
            raise _bad(f"There is no operator {name[:64]!r}; there are {', '.join(_OPERATORS)}.")
        fields = change[name]
        if not isinstance(fields, dict):
            raise _bad(f"{name} is given an object of fields.")
        for path in fields:
            parts = path.split(".")
            if not all(parts) or path.startswith("$") or len(parts) > MAX_DEPTH:
                raise _bad(f"{path[:64]!r} is not a field.")
            if path == "_id" or path.startswith("_id."):
                raise _bad("The _id of a document does not change: remove it and insert another.")
    return change


def updated(document: Mapping[str, Json], change: Json) -> Fields:
    """The document after an update; the given one stays as it was. Raises `DocumentError`."""
    change = check_update(change)
    if not any(name.startswith("$") for name in change):
        if "_id" in change and change["_id"] != document.get("_id"):
            raise _bad("The _id of a document does not change: remove it and insert another.")
        check_names(change)
        return deepcopy({"_id": document.get("_id"), **change})
    result = deepcopy(dict(document))
    for name, fields in change.items():
        assert isinstance(fields, dict)  # check_update saw to it
        for path, argument in fields.items():
            _apply(result, path.split("."), _OPERATORS[name], deepcopy(argument), creates=name != "$unset")
    check_names(result)
    return result


def inserted_by(filter: Mapping[str, Json], change: Json) -> Fields:
    """What an upsert inserts when nothing matches: the update itself, or applied to what the filter equals.

    NeDB takes the filter as the document to start from, without its operators, on the top level.
    """
    change = check_update(change)
    if not any(name.startswith("$") for name in change):
        return deepcopy(change)
    start = {
        path: deepcopy(value)
        for path, value in filter.items()
        if not path.startswith("$")
        and "." not in path
        and not (isinstance(value, dict) and any(name.startswith("$") for name in value))
    }
    return updated(start, change)


def _apply(
    target: Json,
    parts: list[str],
    operator: Callable[[dict[str, Json], str, Json], None],
    argument: Json,
    *,
    creates: bool,
) -> None:
    for part in parts[:-1]:
        if isinstance(target, list):
            target = _element(target, part)
            continue
        if not isinstance(target, dict):
            raise _bad(f"The field {part[:64]!r} is inside of what is no object.")
        if part not in target:
            if not creates:
                return
            target[part] = {}
        target = target[part]
    last = parts[-1]
    if isinstance(target, list):
        box = {last: _element(target, last)}
        operator(box, last, argument)
        target[int(last)] = box.get(last)
    elif isinstance(target, dict):
        operator(target, last, argument)
    else:
        raise _bad(f"The field {last[:64]!r} is inside of what is no object.")


def _element(array: list[Json], part: str) -> Json:
    if not is_index(part) or int(part) >= len(array):
        raise _bad(f"The array has no element {part[:64]!r}.")
    return array[int(part)]


def _set(target: Fields, name: str, argument: Json) -> None:
    target[name] = argument


def _unset(target: Fields, name: str, argument: Json) -> None:
    target.pop(name, None)


def _increase(target: Fields, name: str, argument: Json) -> None:
    held = target.get(name, 0)
    if not _is_number(argument):
        raise _bad("$inc is given a number.")
    if not _is_number(held):
        raise _bad(f"$inc needs a number, and {name[:64]!r} is none.")
    assert isinstance(held, int | float)
    assert isinstance(argument, int | float)
    target[name] = held + argument


def _least(target: Fields, name: str, argument: Json) -> None:
    if name not in target or _above(target[name], argument):
        target[name] = argument


def _most(target: Fields, name: str, argument: Json) -> None:
    if name not in target or _above(argument, target[name]):
        target[name] = argument


def _above(one: Json, other: Json) -> bool:
    return comparable(one, other) and compare(one, other) > 0


def _push(target: Fields, name: str, argument: Json) -> None:
    array = _array(target, name, "$push")
    if isinstance(argument, dict) and ("$each" in argument or "$slice" in argument):
        array += _each(argument, "$push", {"$each", "$slice"})
        if "$slice" in argument:
            keep = argument["$slice"]
            if type(keep) is not int:
                raise _bad("$slice is given a whole number.")
            array[:] = array[:keep] if keep >= 0 else array[keep:]
    else:
        array.append(argument)


def _add_to_set(target: Fields, name: str, argument: Json) -> None:
    array = _array(target, name, "$addToSet")
    several = isinstance(argument, dict) and "$each" in argument
    for value in _each(argument, "$addToSet", {"$each"}) if several else [argument]:  # type: ignore[arg-type]
        if all(compare(value, held) for held in array):
            array.append(value)


def _pop(target: Fields, name: str, argument: Json) -> None:
    array = target.get(name)
    if not isinstance(array, list):
        raise _bad(f"$pop needs an array, and {name[:64]!r} is none.")
    if type(argument) is not int:
        raise _bad("$pop is given a whole number: above 0 for the last element, below 0 for the first.")
    if argument > 0:
        del array[-1:]
    elif argument < 0:
        del array[:1]


def _pull(target: Fields, name: str, argument: Json) -> None:
    array = target.get(name)
    if not isinstance(array, list):
        raise _bad(f"$pull needs an array, and {name[:64]!r} is none.")
    # Checked as a filter would be: an argument with operators may be as costly as one.
    is_condition = isinstance(argument, dict) and any(key.startswith("$") for key in argument)
    parse_query({"x": argument} if is_condition or not isinstance(argument, dict) else argument)
    array[:] = [value for value in array if not matches(value, argument)]


def _array(target: Fields, name: str, operator: str) -> list[Json]:
    held = target.setdefault(name, [])
    if not isinstance(held, list):
        raise _bad(f"{operator} needs an array, and {name[:64]!r} is none.")
    return held


def _each(argument: Fields, operator: str, known: set[str]) -> list[Json]:
    values = argument.get("$each", [])
    if not argument.keys() <= known or not isinstance(values, list):
        raise _bad(f"{operator} takes an array in $each, and nothing beside {' and '.join(sorted(known))}.")
    return values


def _is_number(value: Json) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


_OPERATORS: Final[Mapping[str, Callable[[Fields, str, Json], None]]] = {
    "$set": _set,
    "$unset": _unset,
    "$inc": _increase,
    "$min": _least,
    "$max": _most,
    "$push": _push,
    "$addToSet": _add_to_set,
    "$pop": _pop,
    "$pull": _pull,
}


def _bad(why: str) -> DocumentError:
    return DocumentError(DocumentReason.BAD_UPDATE, why)
