"""How a testnet ended: per node and per round what the check found, and whether that is what was expected."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from solders.pubkey import Pubkey

from koii_p2p.rounds.distribution import Leaf
from koii_p2p.rounds.tally import AuditorStatus
from koii_p2p.rounds.tally import Outcome as Decided
from koii_p2p.rounds.terms import BASIS_POINTS, TaskTerms
from koii_p2p.settlement.history import ChainEntry
from koii_p2p.settlement.instructions import AnchorCommitment, AnchorList, Settle
from koii_p2p.testnets.check import CheckedRound, CheckReport
from koii_p2p.testnets.identity import NodeIdentity

VOTED = frozenset({AuditorStatus.DILIGENT, AuditorStatus.OVERRULED, AuditorStatus.EQUIVOCATED})


@dataclass(frozen=True, slots=True)
class NodeOutcome:
    """One node over all rounds. `submitted` of how many rounds it was in, `audited` of those it was due in.

    `verdicts` has one per round: the name of the outcome, or None without a submission. Amounts are Roe: what the
    lists give and take, what K2 paid and took, what is still staked.
    """

    node: NodeIdentity
    submitted: int
    in_roster: int
    audited: int
    audits_due: int
    verdicts: tuple[str | None, ...]
    reward: int
    slash: int
    paid: int
    taken: int
    stake: int


@dataclass(frozen=True, slots=True)
class TransactionLine:
    """One transaction of a round on the chain."""

    round: int
    what: str
    signature: str
    slot: int
    fee: int | None
    by: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """All of it. `failures` is what was expected and is not so, in sentences; empty if all is well.

    Rounds before `first` began while nodes were still starting: whoever missed them did nothing wrong.
    """

    report: CheckReport
    nodes: tuple[NodeOutcome, ...]
    transactions: tuple[TransactionLine, ...]
    settled: int
    failures: tuple[str, ...]
    first: int = 0

    @property
    def ok(self) -> bool:
        """Whether everything was verified and is as expected."""
        return self.report.verified and not self.failures


def outcome_of(report: CheckReport, nodes: Iterable[NodeIdentity], first: int = 0) -> Outcome:
    """Summarise a check and compare it with what honest nodes and cheaters should end with."""
    identities = tuple(nodes)
    names = {node.key: node.name for node in identities} | {node.wallet: node.name for node in identities}
    rows = tuple(_node_outcome(report, node) for node in identities)
    settled = sum(1 for checked in report.rounds[first:] if _is_settled(report, checked))
    failures = tuple(_failures(report, rows, settled, first))
    return Outcome(report, rows, tuple(_transactions(report, names)), settled, failures, first)


def _node_outcome(report: CheckReport, node: NodeIdentity) -> NodeOutcome:
    key = bytes(Pubkey.from_string(node.key))
    verdicts: list[str | None] = []
    in_roster = audits_due = audited = 0
    for checked in report.rounds:
        in_roster += checked.roster is not None and key in checked.roster
        commitment = checked.commitment
        found = None if commitment is None else commitment.outcome_of.get(key)
        verdicts.append(None if found is None else found.name)
        status = None if commitment is None else dict(commitment.auditors).get(key)
        audits_due += status is not None
        audited += status in VOTED
    leaf = _newest_leaf(report, key)
    stake = report.stakes.get(key)
    return NodeOutcome(
        node=node,
        submitted=sum(verdict is not None for verdict in verdicts),
        in_roster=in_roster,
        audited=audited,
        audits_due=audits_due,
        verdicts=tuple(verdicts),
        reward=leaf.reward_total,
        slash=leaf.slash_total,
        paid=0 if stake is None else stake.reward_total,
        taken=0 if stake is None else stake.slash_total,
        stake=0 if stake is None else stake.amount,
    )


def _newest_leaf(report: CheckReport, key: bytes) -> Leaf:
    for checked in reversed(report.rounds):
        if checked.list is not None:
            return checked.list.leaf(key) or Leaf(key, 0, 0)
    return Leaf(key, 0, 0)


def _is_settled(report: CheckReport, checked: CheckedRound) -> bool:
    """Anchored, and every leaf of its list paid out and taken in full."""
    if checked.list is None or checked.anchored is None or checked.anchored.list_root is None:
        return False
    return all(
        (stake := report.stakes.get(leaf.staker)) is not None
        and stake.reward_total >= leaf.reward_total
        and stake.slash_total >= leaf.slash_total
        for leaf in checked.list.leaves
    )


def _failures(report: CheckReport, rows: tuple[NodeOutcome, ...], settled: int, first: int) -> Iterable[str]:
    for checked in report.rounds[first:]:
        if checked.anchored is None:
            yield f"Round {checked.number} has no commitment on K2."
        elif checked.anchored.list_root is None:
            yield f"Round {checked.number} has no distribution list on K2."
    counted = len(report.rounds) - first
    if settled < counted:
        yield f"Only {settled} of {counted} rounds are settled in full."
    if report.state is None:
        return
    terms = report.state.terms
    for row in rows:
        yield from _wrong_verdicts(row, first)
        expected = _expected_slash(row.node, terms) if row.node.cheats else 0
        reward = 0 if row.node.cheats else _shares(report, row, terms)
        if row.reward != reward or row.paid != reward:
            yield f"{row.node.name} was awarded {row.reward} and paid {row.paid} Roe, not {reward}."
        if row.slash != expected or row.taken != expected:
            yield f"{row.node.name} was slashed {row.slash} and lost {row.taken} Roe, not {expected}."
        if row.stake != row.node.stake - expected:
            yield f"{row.node.name} has {row.stake} Roe staked, not {row.node.stake - expected}."


def _expected_slash(node: NodeIdentity, terms: TaskTerms) -> int:
    return node.stake * terms.slash_basis_points // BASIS_POINTS


def _wrong_verdicts(row: NodeOutcome, first: int) -> Iterable[str]:
    for number, verdict in enumerate(row.verdicts):
        approved = verdict == Decided.APPROVED.name
        if not row.node.cheats and not approved and number >= first:
            seen = verdict or "no submission"
            yield f"{row.node.name} is honest and was not approved in round {number} ({seen})."
        if row.node.cheats and approved:
            yield f"{row.node.name} cheats and was approved in round {number}."


def _shares(report: CheckReport, row: NodeOutcome, terms: TaskTerms) -> int:
    """Roe that the approved rounds of a node are worth: `bounty // approved` of each."""
    total = 0
    for checked, verdict in zip(report.rounds, row.verdicts, strict=True):
        if verdict == Decided.APPROVED.name and checked.commitment is not None:
            outcomes = list(checked.commitment.outcome_of.values())
            total += terms.bounty_per_round // outcomes.count(Decided.APPROVED)
    return total


def _transactions(report: CheckReport, names: Mapping[str, str]) -> Iterable[TransactionLine]:
    kinds = {AnchorCommitment: "commitment", AnchorList: "list", Settle: "settle"}
    for checked in report.rounds:
        for entry in checked.entries:
            what = kinds.get(type(entry.instruction), "")
            yield TransactionLine(
                checked.number, what, entry.signature, entry.slot, entry.fee, _by(entry, names)
            )


def _by(entry: ChainEntry, names: Mapping[str, str]) -> str:
    key = "" if entry.signer is None else str(Pubkey(entry.signer))
    return names.get(key, key)


def outcome_json(outcome: Outcome) -> dict[str, Any]:
    """The outcome as JSON-ready values; amounts in Roe."""
    report = outcome.report
    return {
        "verified": report.verified,
        "ok": outcome.ok,
        "task": None if report.state is None else str(Pubkey(report.state.terms.task)),
        "rounds": [
            {
                "round": checked.number,
                "commitment": None if checked.anchored is None else checked.anchored.commitment.hex(),
                "list_root": None
                if checked.anchored is None or checked.anchored.list_root is None
                else checked.anchored.list_root.hex(),
                "roster": None if checked.roster is None else len(checked.roster),
                "transactions": _counts(outcome.transactions, checked.number),
                "refused": checked.refused,
            }
            for checked in report.rounds
        ],
        "settled": outcome.settled,
        "first_counted_round": outcome.first,
        "nodes": [{**dataclasses.asdict(row.node), **_row_json(row)} for row in outcome.nodes],
        "transactions": [dataclasses.asdict(line) for line in outcome.transactions],
        "findings": [dataclasses.asdict(finding) for finding in report.findings],
        "failures": list(outcome.failures),
    }


def _row_json(row: NodeOutcome) -> dict[str, Any]:
    values = {
        field.name: getattr(row, field.name) for field in dataclasses.fields(row) if field.name != "node"
    }
    values["stake_now"] = values.pop("stake")
    return values


def _counts(lines: Iterable[TransactionLine], number: int) -> dict[str, int]:
    counts = {"commitment": 0, "list": 0, "settle": 0}
    for line in lines:
        if line.round == number:
            counts[line.what] += 1
    return counts
