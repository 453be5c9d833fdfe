from __future__ import annotations

import io
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from rich.console import Console

from koii_p2p.cli.testnet_view import disputes, live_table
from koii_p2p.testnets.folder import NetFolder
from koii_p2p.testnets.k2_troubles import troubles_of
from koii_p2p.testnets.net import RunningNet
from koii_p2p.testnets.topology import Topology
from koii_p2p.testnets.watch import RoundSnapshot, Snapshot, _newer, _round, changes
from tests.rounds.simulation import TERMS

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
        "the stake of node-01 fell from 10 Roe to 3 Roe",
        "K2 paid rewards to node-00",
    ]


def test_disputes_are_told() -> None:
    quiet = RoundSnapshot(0, "audit", 2, frozenset("ab"))
    accused = replace(quiet, voted=frozenset("a"), accused=frozenset("b"))
    decided = replace(accused, full_votes=frozenset("a"), convicted=frozenset("b"))
    objected = replace(decided, list_disagree=2, objections={"a": "OMITTED_RECORD", "b": "OMITTED_RECORD"})
    rejected = replace(objected, rejected=True)
    again = replace(rejected, rejected=False, attempt=1, commitment="e" * 64, commitment_by="a")
    steps = [
        replace(EMPTY, rounds={0: seen}) for seen in (quiet, accused, decided, objected, rejected, again)
    ]
    assert [lines(before, after) for before, after in pairwise(steps)] == [
        ["round 0: 1 auditor voted", "round 0: under dispute: node-01"],
        ["round 0: 1 voted in the full audit", "round 0: convicted of signing twice: node-01"],
        ["round 0: 2 disagree with the list (OMITTED_RECORD)"],
        ["round 0: attempt 0 is rejected by veto"],
        [f"round 0: commitment {'e' * 16}…, attempt 1, anchored by node-00"],
    ]
    assert disputes(quiet) == ""
    assert disputes(rejected) == "1 accused, 1 voted in full, 1 convicted, attempt 0 rejected"
    assert disputes(again) == "1 accused, 1 voted in full, 1 convicted, attempt 1"


def view_of(outcome: str | None = None, **anchors: object) -> dict[str, object]:
    """A round as a node's API shows it."""
    submitted = [{"author": "a", "outcome": outcome}]
    return {"roster": 2, "submitted": submitted, "anchors": anchors, "list_votes": {"disagree": 1}}


def test_what_two_nodes_know_is_joined_and_the_newest_attempt_counts() -> None:
    first = _round(0, "delay", view_of("APPROVED", attempt=0, commitment="c", commitment_by="b"))
    rejected = _round(0, "delay", view_of(attempt=0, commitment="c", rejected=True))
    again = _round(0, "delay", {**view_of("REJECTED", attempt=1, commitment="e"), "list_votes": {}})
    assert _newer(first, rejected).rejected
    assert (_newer(first, rejected).commitment, _newer(first, rejected).list_disagree) == ("c", 1)
    joined = _newer(_newer(first, rejected), again)
    assert (joined.attempt, joined.rejected, joined.commitment) == (1, False, "e")
    assert (joined.outcomes, joined.list_disagree) == ({"a": "REJECTED"}, 0)
    # A node that is behind takes nothing back.
    assert _newer(joined, first) == joined


@pytest.mark.parametrize(
    ("table", "shown"),
    [
        ({}, None),
        ({"drop": 0.2, "roll_back_every": 30}, "K2: drop 0.2, 4 slots rolled back every 30; no troubles yet"),
    ],
)
def test_the_live_view_says_what_k2_does_wrong(
    tmp_path: Path, table: dict[str, object], shown: str | None
) -> None:
    net = RunningNet(Topology(k2=troubles_of(table)), NetFolder(tmp_path), {}, print)
    net.terms = TERMS
    console = Console(file=io.StringIO(), width=120)
    console.print(live_table(net, EMPTY))
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert [line.strip() for line in lines if line.startswith("K2:")] == ([shown] if shown else [])
