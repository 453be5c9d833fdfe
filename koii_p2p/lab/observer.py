"""What a simulation notes while it runs: who said what, when it reached whom, and what nodes did for it."""

from __future__ import annotations

from array import array
from collections import Counter
from dataclasses import dataclass, field

from koii_p2p.lab.result import MESSAGES, Frame, add_row, empty, quantile
from koii_p2p.lab.work import Work
from koii_p2p.records.envelope import Verified
from koii_p2p.records.schema import Ballot, BallotReveal, Challenge, Kind, Submission, Verdict
from koii_p2p.rounds.assignment import AuditAssignment
from koii_p2p.rounds.commitment import BuiltRound
from koii_p2p.rounds.distribution import DistributionList


@dataclass(slots=True)
class Meter:
    """What one node did and what passed through its links. Bytes are of frames and messages, without headers."""

    sent_bytes: int = 0
    received_bytes: int = 0
    sent_frames: int = 0
    received_frames: int = 0
    lost_frames: int = 0
    duplicates: int = 0
    heard: int = 0
    """Gossip messages that it had not, records of all kinds."""
    records: int = 0
    """Records that were judged."""
    verified: int = 0
    signed: int = 0
    audits: int = 0
    works: int = 0
    slots: int = 0
    transactions: int = 0
    fees: int = 0


@dataclass(slots=True)
class Spread:
    """One published record on its way: where and when it started, and after how long others had it."""

    round: int
    kind: Kind
    author: int
    size: int
    sent: int
    running: int
    delays: array[int] = field(default_factory=lambda: array("q"))


@dataclass(slots=True)
class Handed:
    """One submission: what it really is, and when it was published."""

    work: Work
    made: int
    record_id: bytes


@dataclass(slots=True)
class Vote:
    """One vote that somebody published; `stage` 2 is a challenge."""

    round: int
    auditor: int
    record_id: bytes
    submission_id: bytes
    stage: int
    verdict: Verdict
    said: int


@dataclass(frozen=True, slots=True)
class Final:
    """What an honest node held of a round when it knew its list final."""

    attempt: int
    list: DistributionList
    built: BuiltRound | None
    assignment: AuditAssignment | None


@dataclass(slots=True)
class Observer:
    """Notes of one run."""

    handed: dict[tuple[int, int], Handed] = field(default_factory=dict)
    """By round and author."""
    votes: list[Vote] = field(default_factory=list)
    looks: Counter[tuple[int, bytes]] = field(default_factory=Counter)
    """Honest looks at a submission, by round and its author's key."""
    settled: dict[int, dict[int, bytes]] = field(default_factory=dict)
    """By round and node: root of the list that it holds final."""
    settled_at: dict[int, int] = field(default_factory=dict)
    final: dict[int, Final] = field(default_factory=dict)
    """By round, as the first honest node saw it that had the commitment."""
    travelling: dict[bytes, Spread] = field(default_factory=dict)
    messages: Frame = field(default_factory=lambda: empty(MESSAGES))

    def published(self, record: Verified, author: int, now: int, running: int) -> None:
        """Note that a node published a record of its own."""
        if record.kind is Kind.PRESENCE or record.id in self.travelling:
            return
        self.travelling[record.id] = Spread(record.round, record.kind, author, len(record.raw), now, running)
        body, seq = record.statement.body, record.statement.seq
        match body:
            case Ballot(entries=entries) | BallotReveal(entries=entries):
                stage = seq if record.kind is Kind.BALLOT else 0
                for entry in entries:
                    self.votes.append(
                        Vote(record.round, author, record.id, entry.submission_id, stage, entry.verdict, now)
                    )
            case Challenge(submission_id=submission_id):
                vote = Vote(record.round, author, record.id, submission_id, 2, Verdict.INVALID, now)
                self.votes.append(vote)
            case Submission():
                handed = self.handed.get((record.round, author))
                if handed is not None and not handed.record_id:
                    handed.record_id, handed.made = record.id, now

    def arrived(self, record: Verified, now: int) -> None:
        """Note that another node took a record in."""
        spread = self.travelling.get(record.id)
        if spread is not None:
            spread.delays.append(now - spread.sent)

    def close(self, before: int) -> None:
        """Count up the messages of rounds before this one, whose records travel no more."""
        over = [record_id for record_id, spread in self.travelling.items() if spread.round < before]
        for record_id in over:
            self._note(self.travelling.pop(record_id))

    def _note(self, spread: Spread) -> None:
        delays = spread.delays
        add_row(
            self.messages,
            {
                "round": spread.round,
                "kind": spread.kind.name,
                "author": spread.author,
                "size": spread.size,
                "sent_us": spread.sent,
                "reached": len(delays),
                "running": spread.running,
                "p50_us": int(quantile(delays, 0.5)) if delays else None,
                "p99_us": int(quantile(delays, 0.99)) if delays else None,
                "last_us": max(delays) if delays else None,
            },
        )
