from __future__ import annotations

from dataclasses import replace

from koii_p2p.testnets.watch import RoundSnapshot, Snapshot, changes

NAMES = {"a": "node-00", "b": "node-01"}
EMPTY = Snapshot(1, 0, {}, {"a": 10, "b": 10}, {}, frozenset(NAMES.values()))


def lines(before: Snapshot | None, now: Snapshot) -> list[str]:
    return list(changes(before, now, NAMES, lambda roe: f"{roe} Roe"))


def test_nothing_new_is_not_told() -> None:
    seen = replace(EMPTY, rounds={0: RoundSnapshot(0, "audit", 2, frozenset("ab"))})
    assert lines(seen, seen) == []
    assert lines(None, EMPTY) == []


def test_what_is_new_is_told_once() -> None:
    first = RoundSnapshot(0, "submission", 2, frozenset("a"))
    second = replace(
        first,
        phase="delay",
        submitted=frozenset("ab"),
        voted=frozenset("ab"),
        outcomes={"a": "APPROVED", "b": "REJECTED"},
        commitment="c" * 64,
        commitment_by="b",
    )
    third = replace(second, list_root="d" * 64, list_by="a", list_disagree=1)
    one, two, three = (replace(EMPTY, rounds={0: seen}) for seen in (first, second, third))
    assert lines(EMPTY, one) == ["round 0: submission", "round 0: 1 of 2 submitted"]
    assert lines(one, two) == [
        "round 0: delay",
        "round 0: 2 of 2 submitted",
        "round 0: 2 auditors voted",
        f"round 0: commitment {'c' * 16}… anchored by node-01",
        "round 0: APPROVED: node-00",
        "round 0: REJECTED: node-01",
    ]
    assert lines(two, three) == [
        f"round 0: list {'d' * 16}… anchored by node-00",
        "round 0: 1 disagree with the list",
    ]


def test_money_that_moved_is_told() -> None:
    after = replace(EMPTY, stakes={"a": 10, "b": 3}, paid={"a": 5, "b": 0})
    assert lines(EMPTY, after) == [
        "node-01 was slashed: its stake fell from 10 Roe to 3 Roe",
        "K2 paid rewards to node-00",
    ]
