"""The tables of a finished simulation: what its observer noted, and what its committed records say."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from koii_p2p.lab import result
from koii_p2p.lab.chain import SETTLEMENT, VETO, Landed
from koii_p2p.lab.conduct import conduct_of
from koii_p2p.lab.costs import cpu_us
from koii_p2p.lab.observer import Final, Handed, Vote
from koii_p2p.lab.result import Cell, Frame, add_row, empty
from koii_p2p.lab.simulation import Simulation
from koii_p2p.lab.transactions import bytes_of, signatures_of, transactions_of
from koii_p2p.lab.work import Truth
from koii_p2p.records.schema import Verdict
from koii_p2p.rounds.distribution import DistributionList
from koii_p2p.rounds.eligibility import DRAWN, FULL_AUDIT
from koii_p2p.rounds.reputation import standing_of
from koii_p2p.rounds.round_records import entries_of
from koii_p2p.rounds.tally import CONTRADICTED, Outcome

CHALLENGED = 2
"""The stage that challenges have in the table of votes."""


@dataclass(frozen=True, slots=True)
class _Said:
    """Votes in the committed records of a round: verdict by (stage, auditor, author)."""

    verdicts: Mapping[tuple[int, bytes, bytes], Verdict]
    ids: frozenset[bytes]


class _Tables:
    def __init__(self, simulation: Simulation) -> None:
        self.simulation = simulation
        self.observer = simulation.observer
        self.numbers = simulation.number_of
        self.nodes = simulation.nodes
        self.rounds = empty(result.ROUNDS)
        self.submissions = empty(result.SUBMISSIONS)
        self.votes = empty(result.VOTES)
        self.frames = empty(result.NODES)
        self._said: dict[int, _Said] = {}
        self._votes_of: dict[int, list[Vote]] = defaultdict(list)
        author_of = {handed.record_id: author for (_, author), handed in self.observer.handed.items()}
        for vote in self.observer.votes:
            # Who owns up to a canary by a challenge does not vote.
            if author_of.get(vote.submission_id) != vote.auditor:
                self._votes_of[vote.round].append(vote)
        self._handed_in: dict[int, list[tuple[int, Handed]]] = defaultdict(list)
        for (number, author), handed in sorted(self.observer.handed.items()):
            if handed.record_id:
                self._handed_in[number].append((author, handed))
        self._landed_for: dict[int, list[Landed]] = defaultdict(list)
        for landed in simulation.chain.landed:
            self._landed_for[landed.round].append(landed)

    def is_honest(self, key: bytes) -> bool:
        number = self.numbers.get(key)
        return number is not None and self.nodes[number].honest

    def make(self) -> None:
        before: DistributionList | None = None
        for number in range(self.simulation.scenario.rounds):
            final = self.observer.final.get(number)
            self._said[number] = _said(final)
            self._add_submissions(number, final, before)
            self._add_round(number, final, before)
            before = before if final is None else final.list
        for number in range(self.simulation.scenario.rounds):
            self._add_votes(number)
        self._add_nodes(before)

    # --- submissions

    def _add_submissions(self, number: int, final: Final | None, before: DistributionList | None) -> None:
        built = None if final is None else final.built
        first_found = self._first_found(number)
        for author, handed in self._handed_in[number]:
            node, work = self.nodes[author], handed.work
            outcome = None if built is None else built.commitment.outcome_of.get(node.key)
            committed = built is not None and node.key in built.records.submissions
            auditors = (
                len(final.assignment.auditors_of(node.key))
                if final is not None and final.assignment is not None and node.key in final.assignment.roster
                else 0
            )
            add_row(
                self.submissions,
                {
                    "round": number,
                    "node": author,
                    "behaviour": node.group.behaviour,
                    "fraud": work.is_fraud,
                    "canary": work.truth is Truth.CANARY,
                    "catch": work.catch if work.truth in (Truth.WRONG, Truth.CANARY) else 0.0,
                    "auditors": auditors,
                    "looks": self.observer.looks[number, node.key],
                    "finders": self._finders(number, node.key),
                    "outcome": None if outcome is None else outcome.name,
                    "made_us": handed.made,
                    "found_us": first_found.get(handed.record_id),
                    "committed": committed,
                    "amount": None if final is None else _change(final.list, before, node.key),
                },
            )

    def _first_found(self, number: int) -> dict[bytes, int]:
        found: dict[bytes, int] = {}
        for vote in self._votes_of[number]:
            if vote.verdict is Verdict.INVALID and self.nodes[vote.auditor].honest:
                found[vote.submission_id] = min(vote.said, found.get(vote.submission_id, vote.said))
        return found

    def _finders(self, number: int, author: bytes) -> int:
        return len(
            {
                auditor
                for (_stage, auditor, accused), verdict in self._said[number].verdicts.items()
                if accused == author and verdict is Verdict.INVALID and self.is_honest(auditor)
            }
        )

    # --- rounds

    def _add_round(self, number: int, final: Final | None, before: DistributionList | None) -> None:
        simulation, observer = self.simulation, self.observer
        rows = self._rows_from(len(self.submissions["round"]) - len(self._handed_in[number]))
        frauds = [row for row in rows if row["fraud"]]
        rejected = Outcome.REJECTED.name
        landed = self._landed_for[number]
        anchors = [one for one in landed if one.name != SETTLEMENT]
        standing = simulation.chain.newest.get(number)
        stands = standing is not None and not standing.rejected and standing.list_root is not None
        roots = {root for node, root in observer.settled.get(number, {}).items() if self.nodes[node].honest}
        due, cast = self._coverage(number, final)
        counts = {} if final is None or final.built is None else _counts(final)
        row: dict[str, Cell] = {
            "round": number,
            "staked": len(simulation.chain.roster(number)),
            "submissions": len(rows),
            "frauds": len(frauds),
            "found": sum(1 for row in frauds if row["finders"]),
            "rejected": sum(1 for row in frauds if row["outcome"] == rejected),
            "wrongly_rejected": sum(
                1 for row in rows if row["outcome"] == rejected and not row["fraud"] and not row["canary"]
            ),
            "wrongly_slashed": self._wrongly_slashed(final, before),
            "approved_frauds": sum(1 for row in frauds if row["outcome"] == Outcome.APPROVED.name),
            "votes_due": due,
            "votes_cast": cast,
            "ballots": counts.get("ballots", 0) + counts.get("reveals", 0) + counts.get("full_ballots", 0),
            "challenges": counts.get("challenges", 0),
            "attempt": standing.attempt if standing is not None and stands else None,
            "commitment_slot": standing.commitment_slot if standing is not None and stands else None,
            "list_slot": standing.list_slot if standing is not None and stands else None,
            "settled_us": observer.settled_at.get(number),
            "lists": len(roots),
            "transactions": sum(map(transactions_of, anchors)),
            "chain_bytes": sum(bytes_of(one, len(self.nodes)) for one in anchors),
            "fees": sum(signatures_of(one) for one in anchors) * simulation.scenario.chain.fee_roe,
            "vetoes": sum(1 for one in anchors if one.name == VETO),
            "settlements": sum(one.leaves for one in landed if one.name == SETTLEMENT),
        }
        add_row(self.rounds, row)

    def _rows_from(self, first: int) -> list[dict[str, Cell]]:
        """The newest rows of submissions: those of the round that was added last."""
        newest = {name: column[first:] for name, column in self.submissions.items()}
        return list(result.rows_of(newest))

    def _wrongly_slashed(self, final: Final | None, before: DistributionList | None) -> int:
        if final is None:
            return 0
        return sum(
            1
            for leaf in final.list.leaves
            if leaf.slash_total > _slashed(before, leaf.staker) and self.is_honest(leaf.staker)
        )

    def _coverage(self, number: int, final: Final | None) -> tuple[int, int]:
        """Audits due to honest nodes in the first ballots, and how many of them are in the committed records."""
        if final is None or final.built is None or final.assignment is None:
            return 0, 0
        due = cast = 0
        verdicts = self._said[number].verdicts
        for author in final.built.records.submissions:
            for auditor in final.assignment.auditors_of(author):
                if self.is_honest(auditor):
                    due += 1
                    cast += (DRAWN, auditor, author) in verdicts
        return due, cast

    # --- votes and nodes

    def _add_votes(self, number: int) -> None:
        final, said = self.observer.final.get(number), self._said[number]
        assignment = None if final is None else final.assignment
        handed = {one.record_id: (author, one.work) for author, one in self._handed_in[number]}
        built = None if final is None else final.built
        for vote in self._votes_of[number]:
            if vote.submission_id not in handed:
                continue
            author, work = handed[vote.submission_id]
            auditor, victim = self.nodes[vote.auditor].key, self.nodes[author].key
            right = {Truth.RIGHT: Verdict.VALID, Truth.WITHHELD: Verdict.UNAVAILABLE}.get(
                work.truth, Verdict.INVALID
            )
            add_row(
                self.votes,
                {
                    "round": number,
                    "auditor": vote.auditor,
                    "author": author,
                    "stage": vote.stage,
                    "verdict": vote.verdict.name,
                    "due": assignment is not None
                    and victim in assignment.roster
                    and assignment.is_due(auditor, victim),
                    "right": vote.verdict is right,
                    "said_us": vote.said,
                    "committed": vote.record_id in said.ids,
                    "caught": built is not None
                    and (vote.verdict, built.commitment.outcome_of.get(victim)) in CONTRADICTED,
                },
            )

    def _add_nodes(self, newest: DistributionList | None) -> None:
        economy = self.simulation.scenario.economy
        conduct = conduct_of(
            standing_of(final.built.commitment)
            for final in self.observer.final.values()
            if final.built is not None and final.built.commitment.round < self.simulation.scenario.rounds
        )
        for node in self.nodes:
            meter = node.meter
            leaf = None if newest is None else newest.leaf(node.key)
            reward, slash = (0, 0) if leaf is None else (leaf.reward_total, leaf.slash_total)
            spent = meter.works * economy.work_cost + meter.audits * economy.audit_cost
            add_row(
                self.frames,
                {
                    "node": node.number,
                    "key": node.key.hex(),
                    "behaviour": node.group.behaviour,
                    "misbehaves": not node.honest,
                    "stake": economy.stake if node.group.staked else 0,
                    "sent_bytes": meter.sent_bytes,
                    "received_bytes": meter.received_bytes,
                    "sent_frames": meter.sent_frames,
                    "duplicates": meter.duplicates + (node.duplicates_now() if node.running else 0),
                    "heard": meter.heard,
                    "lost_frames": meter.lost_frames,
                    "verified": meter.verified,
                    "signed": meter.signed,
                    "audits": meter.audits,
                    "cpu_us": cpu_us(meter),
                    "transactions": meter.transactions,
                    "fees": meter.fees,
                    "reward": reward,
                    "slash": slash,
                    "spent": spent,
                    "profit": reward - slash - spent - meter.fees,
                    "overruled": conduct.overruled[node.key],
                    "reputation": conduct.scores.get(node.key, 0),
                },
            )


def tables_of(simulation: Simulation) -> dict[str, Frame]:
    """The tables of a simulation that was played, by name."""
    tables = _Tables(simulation)
    tables.make()
    rounds = simulation.scenario.rounds
    messages = empty(result.MESSAGES)
    for row in result.rows_of(simulation.observer.messages):
        if isinstance(row["round"], int) and row["round"] < rounds:
            add_row(messages, row)
    return {
        "rounds": tables.rounds,
        "submissions": tables.submissions,
        "nodes": tables.frames,
        "votes": tables.votes,
        "messages": messages,
    }


def _said(final: Final | None) -> _Said:
    if final is None or final.built is None:
        return _Said({}, frozenset())
    records = final.built.records
    authors, verdicts = records.authors, {}
    for auditor in {*records.ballots, *records.reveals}:
        for entry in records.votes_of(auditor):
            verdicts[DRAWN, auditor, authors.get(entry.submission_id, b"")] = entry.verdict
    for auditor, record in records.full_ballots.items():
        for entry in entries_of(record):
            verdicts[FULL_AUDIT, auditor, authors.get(entry.submission_id, b"")] = entry.verdict
    for (auditor, _seq), record in records.challenges.items():
        accused = authors.get(getattr(record.statement.body, "submission_id", b""), b"")
        if accused != auditor:
            verdicts[CHALLENGED, auditor, accused] = Verdict.INVALID
    ids = frozenset(record.id for section in records.sections.values() for record in section.values())
    return _Said(verdicts, ids)


def _counts(final: Final) -> dict[str, int]:
    assert final.built is not None
    return {name: len(section) for name, section in final.built.records.sections.items()}


def _slashed(listed: DistributionList | None, key: bytes) -> int:
    leaf = None if listed is None else listed.leaf(key)
    return 0 if leaf is None else leaf.slash_total


def _change(listed: DistributionList, before: DistributionList | None, key: bytes) -> int | None:
    leaf = listed.leaf(key)
    if leaf is None:
        return None
    old = None if before is None else before.leaf(key)
    rewards = leaf.reward_total - (0 if old is None else old.reward_total)
    return rewards - (leaf.slash_total - (0 if old is None else old.slash_total))
