"""The demonstrations of `testnet/*.toml` from the shell: real nodes that misbehave, and what the rules make of it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from koii_p2p.amounts import roe
from tests.e2e.shell import LONG, koii_p2p, running

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

FILES = Path(__file__).parents[2] / "testnet"
STAKE, BOUNTY = roe("1.9"), roe(1)
SLASH = STAKE * 7000 // 10000
BOND = STAKE // 2 // 10
"""A tenth of the minimum stake, which is half of what testnets stake."""


@dataclass(frozen=True)
class Ended:
    """How a testnet ended, as its JSON says; `counted` are the rounds that every node saw from their start."""

    found: Mapping[str, Any]

    @property
    def first(self) -> int:
        return int(self.found["first_counted_round"])

    @property
    def counted(self) -> list[Mapping[str, Any]]:
        return list(self.found["rounds"][self.first :])

    def node(self, name: str) -> Mapping[str, Any]:
        return next(node for node in self.found["nodes"] if node["name"] == name)

    def verdicts(self, name: str) -> list[str | None]:
        return list(self.node(name)["verdicts"][self.first :])

    def money(self, name: str) -> tuple[int, int, int]:
        node = self.node(name)
        return node["paid"], node["taken"], node["stake_now"]

    def remarks(self, number: int) -> list[str]:
        start = f"round {number}: "
        return [remark.removeprefix(start) for remark in self.found["remarks"] if remark.startswith(start)]


def demonstrate(name: str, folder: Path, rounds: int = 2) -> Ended:
    """Run a demonstration to its end. It is verified, and every node got what its behaviour leads to."""
    where = ("--dir", str(folder))
    file = str(FILES / f"{name}.toml")
    with running("testnet", "up", "--file", file, "--output", "json", *where) as net:
        code = net.end(LONG)
    found = json.loads("\n".join(net.out)) if net.out else {}
    told = {key: found.get(key) for key in ("findings", "failures", "deaths", "remarks")}
    assert code == 0, (told, net.err[-40:])
    assert (found["verified"], found["ok"], found["settled"]) == (True, True, rounds)
    assert koii_p2p("testnet", "check", *where).returncode == 0
    return Ended(found)


def honest(count: int) -> list[str]:
    return [f"node-{index:02d}" for index in range(count)]


def test_under_koiis_rules_a_lone_late_lie_costs_an_honest_node_its_stake(tmp_path: Path) -> None:
    ended = demonstrate("late-accusation-koii", tmp_path)
    slashed = [name for name in honest(4) if ended.node(name)["taken"]]
    # A lie of a round before all nodes were up has cost one as well.
    assert 1 <= len(slashed) <= 1 + ended.first
    for name in slashed:
        assert ended.money(name)[1:] == (SLASH, STAKE - SLASH)
    assert ended.money("node-04")[1:] == (0, STAKE)
    (remark,) = ended.remarks(ended.first)
    (victim,) = [name for name in slashed if ended.verdicts(name)[0] == "REJECTED"]
    assert remark == (
        f"{victim} did its work and is REJECTED: the vote of node-04 against it was answered by nobody; "
        "as Koii's client codes it"
    )


def test_under_hardened_rules_it_changes_nothing_and_the_liar_is_overruled(tmp_path: Path) -> None:
    ended = demonstrate("late-accusation", tmp_path)
    for name in honest(5):
        assert ended.verdicts(name) == ["APPROVED"] * 2
        assert ended.money(name)[1:] == (0, STAKE)
    liar = ended.node("node-04")["key"]
    overruled = [entry for entry in ended.counted if entry["auditors"][liar] == "OVERRULED"]
    assert overruled
    for entry in overruled:
        assert len(entry["full_audits"]) == 1
        assert any("node-04 is OVERRULED" in remark for remark in ended.remarks(entry["round"]))


def test_who_signs_twice_is_convicted_by_its_own_signatures(tmp_path: Path) -> None:
    ended = demonstrate("equivocation", tmp_path)
    assert ended.verdicts("node-04")[0] == "EQUIVOCATED"
    assert ended.money("node-04") == (0, SLASH, STAKE - SLASH)
    for name in honest(4):
        assert ended.verdicts(name) == ["APPROVED"] * 2
        assert ended.money(name)[1:] == (0, STAKE)
    assert "node-04 is convicted: it signed two submissions, and both are in the bundle" in ended.remarks(
        ended.first
    )


def test_a_leader_that_leaves_somebody_out_loses_its_list_and_everybody_is_paid(tmp_path: Path) -> None:
    ended = demonstrate("omission", tmp_path)
    liar = ended.node("node-04")["key"]
    rejected = [entry for entry in ended.counted if entry["attempts"][0]["rejected"]]
    assert rejected
    for entry in rejected:
        first, second = entry["attempts"]
        assert first["commitment_by"] == liar
        assert len(first["vetoed_by"]) >= 3
        assert liar not in (*first["vetoed_by"], second["commitment_by"], second["list_by"])
        assert not second["rejected"]
    for name in honest(5):
        assert ended.verdicts(name) == ["APPROVED"] * 2
        slash, stake = ended.money(name)[1:]
        # Who anchored what was rejected has lost a bond for each.
        assert slash == 0
        assert stake < STAKE if name == "node-04" else stake == STAKE
        if ended.first == 0:
            assert ended.node(name)["paid"] == 2 * (BOUNTY // 5)


def test_a_leader_that_pays_itself_loses_its_bonds_and_everybody_is_paid(tmp_path: Path) -> None:
    ended = demonstrate("pay-itself", tmp_path)
    liar = ended.node("node-04")["key"]
    rejected = [entry for entry in ended.found["rounds"] if entry["attempts"][0]["rejected"]]
    assert rejected
    lost: Counter[str] = Counter()
    for entry in rejected:
        first, second = entry["attempts"]
        assert first["list_by"] == liar
        assert len(first["vetoed_by"]) >= 3
        assert liar not in (*first["vetoed_by"], second["commitment_by"], second["list_by"])
        assert not second["rejected"]
        # K2 can't tell who of the two has lied: whoever anchored either half loses a bond for it.
        lost.update([first["commitment_by"], first["list_by"]])
    assert lost[liar] >= len(rejected)
    for name in honest(5):
        node = ended.node(name)
        assert ended.verdicts(name) == ["APPROVED"] * 2
        assert node["taken"] == 0
        # The next round, which is not counted any more, may have cost bonds, or been settled, already.
        later, rest = divmod(node["bonds"] - lost[node["key"]] * BOND, BOND)
        assert (later >= 0, rest, node["stake_now"]) == (True, 0, STAKE - node["bonds"])
        if ended.first == 0 and name != "node-04":
            assert node["paid"] in (2 * (BOUNTY // 5), 3 * (BOUNTY // 5))


def test_cheaters_that_flee_before_or_after_they_are_slashed_lose_the_same(tmp_path: Path) -> None:
    ended = demonstrate("fleeing", tmp_path, rounds=4)
    for name in ("node-05", "node-06"):
        node = ended.node(name)
        assert ended.money(name) == (0, SLASH, 0)
        assert node["withdrawn"] == STAKE - SLASH
        # Refused from the first try on, until the lock was over; then K2 paid what the slash had left.
        log = (tmp_path / "logs" / f"{name}.log").read_text()
        asked, out = log.index("asked the stake back"), log.index("took the stake out")
        assert "The stake is locked for three round times" in log[asked:out]
        assert "took the stake out" not in log[: log.index("The stake is locked for three round times")]
    early, late = (ended.node(name) for name in ("node-05", "node-06"))
    assert early["in_roster"] < late["in_roster"]
    for name in honest(5):
        assert ended.verdicts(name) == ["APPROVED"] * 4
        assert ended.money(name)[1:] == (0, STAKE)


def test_sealed_ballots_and_a_witness_that_earns_from_a_slash(tmp_path: Path) -> None:
    ended = demonstrate("sealed", tmp_path)
    assert ended.money("node-06") == (0, SLASH, STAKE - SLASH)
    assert ended.verdicts("node-06")[0] == "REJECTED"
    for name in honest(4):
        assert ended.verdicts(name) == ["APPROVED"] * 2
        assert ended.money(name)[1:] == (0, STAKE)
    for name, stake in (("node-04", STAKE), ("node-05", 0)):
        assert ended.node(name)["witness"] is True
        assert ended.verdicts(name) == [None] * 2
        assert ended.node(name)["audited"] > 0
        assert ended.money(name)[1:] == (0, stake)
    # Its part of the 30 % for those who found the fraud (how much, the check has counted); it lives on that alone.
    assert 0 < ended.node("node-04")["paid"] <= SLASH * 3000 // 10000
    assert ended.node("node-05")["paid"] == 0
