"""How a testnet ended: per node and per round what the check found, and whether that is what was expected."""

from __future__ import annotations

import dataclasses
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from solders.pubkey import Pubkey

from koii_p2p.settlement.history import ChainEntry
from koii_p2p.settlement.instructions import AnchorCommitment, AnchorList, Settle, Veto
from koii_p2p.testnets.attempts import Attempt
from koii_p2p.testnets.check import CheckedRound, CheckReport
from koii_p2p.testnets.expect import VOTED, Expected, evaluate
from koii_p2p.testnets.expect_table import NOTHING_MORE, Expect
from koii_p2p.testnets.expectations import failures, newest_leaf, remarks, who_is_who
from koii_p2p.testnets.identity import NodeIdentity


@dataclass(frozen=True, slots=True)
class NodeOutcome:
    """One node over all rounds. `submitted` of how many rounds it was in, `audited` of those it was due in.

    `verdicts` has one per round: the name of the outcome, or None without a submission. Amounts are Roe: what the
    lists give and take, what K2 paid and took, what is still staked; what was lost in bonds and taken out of the stake.
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
    bonds: int = 0
    withdrawn: int = 0


@dataclass(frozen=True, slots=True)
class TransactionLine:
    """One transaction of a round on the chain. `attempt` is 0 for a settlement."""

    round: int
    what: str
    signature: str
    slot: int
    fee: int | None
    by: str
    attempt: int = 0


@dataclass(frozen=True, slots=True)
class Outcome:
    """All of it. `failures` is what was expected and is not so, in sentences; empty if all is well.

    `remarks` say what disputes came to: accusations, convictions, vetoes. Rounds before `first` began while nodes were
    still starting: whoever missed them did nothing wrong. `expected` are the assertions of the testnet's file; those
    that do not hold are among the failures.
    """

    report: CheckReport
    nodes: tuple[NodeOutcome, ...]
    transactions: tuple[TransactionLine, ...]
    settled: int
    failures: tuple[str, ...]
    remarks: tuple[str, ...] = ()
    first: int = 0
    expected: tuple[Expected, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether everything was verified and is as expected."""
        return self.report.verified and not self.failures


def outcome_of(
    report: CheckReport, nodes: Iterable[NodeIdentity], first: int = 0, expect: Expect = NOTHING_MORE
) -> Outcome:
    """Summarise a check and compare it with what each node should end with, given how it was told to behave."""
    identities = tuple(nodes)
    names = {node.key: node.name for node in identities} | {node.wallet: node.name for node in identities}
    rows = tuple(_node_outcome(report, node) for node in identities)
    own = who_is_who(identities)
    settled = sum(1 for checked in report.rounds[first:] if _is_settled(report, checked, own))
    expected = evaluate(expect, report, identities, first)
    wrong = (
        *failures(report, identities, settled, first),
        *(str(one) for one in expected if not one.ok),
    )
    said = tuple(remarks(report, identities))
    return Outcome(report, rows, tuple(_transactions(report, names)), settled, wrong, said, first, expected)


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
    leaf = newest_leaf(report, key)
    stake, replayed = report.stakes.get(key), report.replayed.get(key)
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
        bonds=0 if replayed is None else replayed.bonds_lost,
        withdrawn=0 if replayed is None else replayed.withdrawn,
    )


def _is_settled(report: CheckReport, checked: CheckedRound, own: Container[bytes]) -> bool:
    """Anchored, every slash of its list taken in full, every reward of the testnet's `own` keys paid out in full.

    Who joined from outside claims its rewards when it likes.
    """
    if checked.list is None or checked.anchored is None or checked.anchored.list_root is None:
        return False
    return all(
        (stake := report.stakes.get(leaf.staker)) is not None
        and (stake.reward_total >= leaf.reward_total or leaf.staker not in own)
        and stake.slash_total >= leaf.slash_total
        for leaf in checked.list.leaves
    )


def _transactions(report: CheckReport, names: Mapping[str, str]) -> Iterable[TransactionLine]:
    kinds = {AnchorCommitment: "commitment", AnchorList: "list", Veto: "veto", Settle: "settle"}
    for checked in report.rounds:
        for entry in checked.entries:
            what = kinds.get(type(entry.instruction), "")
            yield TransactionLine(
                checked.number,
                what,
                entry.signature,
                entry.slot,
                entry.fee,
                _by(entry, names),
                _attempt(entry),
            )


def _attempt(entry: ChainEntry) -> int:
    match entry.instruction:
        case AnchorCommitment(attempt=attempt) | AnchorList(attempt=attempt) | Veto(attempt=attempt):
            return attempt
    return 0


def _by(entry: ChainEntry, names: Mapping[str, str]) -> str:
    key = "" if entry.signer is None else str(Pubkey(entry.signer))
    return names.get(key, key)


def outcome_json(outcome: Outcome) -> dict[str, Any]:
    """The outcome as JSON-ready values; amounts in Roe."""
    report = outcome.report
    return {
        "verified": report.verified,
        "ok": outcome.ok,
        "unrecomputed": [{"round": number, "why": why} for number, why in report.unrecomputed.items()],
        "task": None if report.state is None else str(Pubkey(report.state.terms.task)),
        "rounds": [
            {
                "round": checked.number,
                "commitment": None if checked.anchored is None else checked.anchored.commitment.hex(),
                "list_root": None
                if checked.anchored is None or checked.anchored.list_root is None
                else checked.anchored.list_root.hex(),
                "roster": None if checked.roster is None else len(checked.roster),
                "attempts": [_attempt_json(attempt) for attempt in checked.attempts],
                "full_audits": []
                if checked.played is None
                else [str(Pubkey(key)) for key in sorted(checked.played.tally.full_audits)],
                "auditors": {}
                if checked.commitment is None
                else {str(Pubkey(key)): status.name for key, status in checked.commitment.auditors},
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
        "remarks": list(outcome.remarks),
        "expected": [dataclasses.asdict(one) for one in outcome.expected],
    }


def _attempt_json(attempt: Attempt) -> dict[str, Any]:
    return {
        "attempt": attempt.number,
        "commitment": attempt.commitment.hex(),
        "commitment_by": str(Pubkey(attempt.commitment_by)),
        "list_root": None if attempt.list_root is None else attempt.list_root.hex(),
        "list_by": None if attempt.list_by is None else str(Pubkey(attempt.list_by)),
        "vetoed_by": [str(Pubkey(key)) for key in attempt.vetoed_by],
        "rejected": attempt.rejected,
    }


def _row_json(row: NodeOutcome) -> dict[str, Any]:
    values = {
        field.name: getattr(row, field.name) for field in dataclasses.fields(row) if field.name != "node"
    }
    values["stake_now"] = values.pop("stake")
    return values


def _counts(lines: Iterable[TransactionLine], number: int) -> dict[str, int]:
    counts = {"commitment": 0, "list": 0, "veto": 0, "settle": 0}
    for line in lines:
        if line.round == number:
            counts[line.what] += 1
    return counts
