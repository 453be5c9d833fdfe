"""What NeDB does with documents, as a dict and the pure functions; and operations at random to try it with."""

from __future__ import annotations

from random import Random
from typing import Any

from koii_p2p.data.collections.query import parse_query
from koii_p2p.data.collections.reasons import DocumentError, DocumentReason
from koii_p2p.data.collections.update import inserted_by, updated

FIELDS = ("a", "b", "s", "l", "d", "d.x", "d.y", "l.x")
WORDS = ("", "a", "ab", "b", "zoë", "10")


class Model:
    """One collection in memory."""

    def __init__(self) -> None:
        self.documents: dict[str, dict[str, Any]] = {}

    def find(
        self, filter: Any, sort: Any = None, skip: int = 0, limit: int | None = None, projection: Any = None
    ) -> list[dict[str, Any]]:
        query = parse_query(filter, sort=sort, skip=skip, limit=limit, projection=projection)
        ordered = query.ordered(document for document in self.documents.values() if query.matches(document))
        return [query.shown(document) for document in query.window(ordered)]

    def insert(self, document: dict[str, Any]) -> None:
        if document["_id"] in self.documents:
            raise DocumentError(DocumentReason.KEY_TAKEN)
        self.documents[document["_id"]] = document

    def update(self, filter: Any, change: Any, *, multi: bool = False, upsert: bool = False) -> int:
        found = self.find(filter, limit=None if multi else 1)
        if not found and upsert:
            made = inserted_by(filter, change)
            self.insert(made)
            return 1
        for document in [updated(one, change) for one in found]:
            self.documents[document["_id"]] = document
        return len(found)

    def remove(self, filter: Any, *, multi: bool = False) -> int:
        found = self.find(filter, limit=None if multi else 1)
        for document in found:
            del self.documents[document["_id"]]
        return len(found)


def scalar(random: Random) -> Any:
    return random.choice(
        [None, True, False, random.randint(-3, 3), random.randint(-30, 30) / 8, random.choice(WORDS)]
    )


def value(random: Random, depth: int = 2) -> Any:
    kind = random.random()
    if depth and kind < 0.2:
        return [value(random, depth - 1) for _ in range(random.randint(0, 3))]
    if depth and kind < 0.4:
        return {name: value(random, depth - 1) for name in random.sample("xyz", random.randint(0, 2))}
    return scalar(random)


def document(random: Random) -> dict[str, Any]:
    found: dict[str, Any] = {"_id": f"k{random.randint(0, 25)}"}
    for name in ("a", "b", "s"):
        if random.random() < 0.7:
            found[name] = value(random, 1)
    if random.random() < 0.6:
        found["l"] = [value(random, 1) for _ in range(random.randint(0, 3))]
    if random.random() < 0.6:
        found["d"] = {name: value(random, 1) for name in random.sample("xyz", random.randint(0, 3))}
    return found


def condition(random: Random) -> Any:
    kind = random.random()
    if kind < 0.35:
        return value(random, 1)
    number = random.choice((random.randint(-3, 3), random.choice(WORDS)))
    if kind < 0.6:
        low, high = random.choice(("$gt", "$gte")), random.choice(("$lt", "$lte"))
        return random.choice(({low: number}, {high: number}, {low: number, high: random.randint(-1, 5)}))
    if kind < 0.75:
        return {random.choice(("$in", "$nin")): [scalar(random) for _ in range(random.randint(0, 3))]}
    if kind < 0.85:
        return {"$ne": value(random, 1)}
    if kind < 0.95:
        return {"$exists": random.random() < 0.5}
    return random.choice(
        (
            {"$size": random.randint(0, 3)},
            {"$elemMatch": {"x": scalar(random)}},
            {"$elemMatch": {"x": {"$gt": 0}, "y": {"$exists": False}}},
        )
    )


def filter_at_random(random: Random, depth: int = 2) -> dict[str, Any]:
    found = {random.choice(FIELDS): condition(random) for _ in range(random.randint(0, 2))}
    if random.random() < 0.1:
        found["_id"] = random.choice((f"k{random.randint(0, 25)}", {"$in": ["k1", "k2", "nobody"]}))
    if depth and random.random() < 0.3:
        parts = [filter_at_random(random, depth - 1) for _ in range(random.randint(1, 3))]
        found |= random.choice(({"$or": parts}, {"$and": parts}, {"$not": parts[0]}))
    return found


def change_at_random(random: Random) -> dict[str, Any]:
    if random.random() < 0.2:
        return {name: inner for name, inner in document(random).items() if name != "_id"}
    found: dict[str, Any] = {}
    for _ in range(random.randint(1, 2)):
        operator, argument = random.choice(
            (
                ("$set", value(random, 1)),
                ("$unset", True),
                ("$inc", random.randint(-3, 3)),
                ("$min", random.randint(-3, 3)),
                ("$max", random.randint(-3, 3)),
                ("$push", scalar(random)),
                ("$push", {"$each": [1, 2], "$slice": random.randint(-2, 2)}),
                ("$addToSet", scalar(random)),
                ("$addToSet", {"$each": [1, "a"]}),
                ("$pop", random.choice((1, -1))),
                ("$pull", scalar(random)),
            )
        )
        # JavaScript compares different types in ways that are not kept: these two have a field of numbers.
        fields = ("n.q",) if operator in ("$min", "$max") else ("a", "b", "s", "d.x", "n.m", "l")
        found[operator] = {random.choice(fields): argument}
    return found


def operation(random: Random) -> list[Any]:
    """One of NeDB's operations: its name and arguments."""
    kind = random.random()
    if kind < 0.35:
        return ["insert", document(random)]
    if kind < 0.65:
        sort = (
            {random.choice(FIELDS): random.choice((1, -1)), "_id": 1} if random.random() < 0.5 else {"_id": 1}
        )
        projection = random.choice(
            (None, {"a": 1, "d.x": 1}, {"b": 0}, {"a": 1, "_id": 0}, {"d.x": 0, "l": 0})
        )
        window = random.choice(((0, 0), (0, 3), (2, 4)))
        return ["find", filter_at_random(random), sort, *window, projection]
    if kind < 0.9:
        multi = random.random() < 0.6
        change = change_at_random(random)
        if not multi or not all(name.startswith("$") for name in change):
            # Which of several documents is "the first" is left open by NeDB: name one.
            return ["update", {"_id": f"k{random.randint(0, 25)}"}, change, {"multi": False}]
        return ["update", filter_at_random(random), change, {"multi": True}]
    if random.random() < 0.5:
        return ["remove", {"_id": f"k{random.randint(0, 25)}"}, {}]
    return ["remove", filter_at_random(random), {"multi": True}]
