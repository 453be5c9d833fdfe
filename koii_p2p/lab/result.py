"""What a run came to: tables of plain columns, and metrics with definition, unit and confidence interval.

A table (`Frame`) maps the names of its columns to lists of equal length; `polars.DataFrame(frame)` takes it as it is.
The columns of each are fixed below, so that both engines, run folders and reports mean the same by them. Times are
microseconds of virtual time since the start of the run (`_us`), or slots; amounts are Roe.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from koii_p2p.lab.scenario import Scenario

Cell = int | float | str | bool | None
Frame = dict[str, list[Cell]]

ROUNDS: Final[Mapping[str, str]] = {
    "round": "number of the round",
    "staked": "stakers in its roster",
    "submissions": "submissions that some node held in time",
    "frauds": "submissions that are wrong, canaries not among them",
    "found": "frauds that an honest node called INVALID, in a ballot or challenge, in the committed records",
    "rejected": "frauds that were REJECTED",
    "wrongly_rejected": "right submissions that were REJECTED",
    "wrongly_slashed": "honest nodes that the list takes more from than the list before",
    "approved_frauds": "frauds that were APPROVED, and are paid",
    "votes_due": "audits that the assignment gave to honest nodes in the first ballots",
    "votes_cast": "of those, votes that are in the committed records",
    "ballots": "ballots and reveals in the committed records",
    "challenges": "challenges in the committed records",
    "attempt": "the attempt that stands; None if none does",
    "commitment_slot": "when the commitment that stands landed",
    "list_slot": "when its list landed",
    "settled_us": "when the first honest node knew the list final",
    "lists": "different lists that honest nodes hold final; more than one is a split",
    "transactions": "transactions that landed for it: commitments, lists, vetoes; no settlements",
    "chain_bytes": "bytes of those transactions",
    "fees": "fees of those, in Roe",
    "vetoes": "vetoes that landed",
    "settlements": "leaves proved to K2 to take what the list takes, one transaction each",
}
SUBMISSIONS: Final[Mapping[str, str]] = {
    "round": "number of the round",
    "node": "number of the author",
    "behaviour": "of the author",
    "fraud": "whether it is wrong, and no canary",
    "canary": "whether it is known-bad work that its author owns up to",
    "catch": "the chance that one honest look finds it wrong; 0 for right ones",
    "auditors": "how many the assignment gave it",
    "looks": "honest audit functions that were called on it",
    "finders": "honest nodes that called it INVALID in the committed records",
    "outcome": "name of the outcome; None if it was not committed to",
    "made_us": "when it was published",
    "found_us": "when the first honest node had published a ballot or challenge against it; None: nobody",
    "committed": "whether it is in the commitment that stands",
    "amount": "Roe by which the list changed what its author has: below 0 a slash; None without a list",
}
NODES: Final[Mapping[str, str]] = {
    "node": "number of the node",
    "key": "staking key, hexadecimal",
    "behaviour": "names of its behaviours",
    "misbehaves": "whether any of them breaks the rules",
    "stake": "Roe it started with",
    "sent_bytes": "bytes that it sent to peers, frames and answers",
    "received_bytes": "bytes that it received from peers",
    "sent_frames": "gossip frames that it sent",
    "duplicates": "gossip messages that it had already",
    "heard": "gossip messages that it had not, presences among them",
    "lost_frames": "frames to it that were lost",
    "verified": "signatures that it checked",
    "signed": "records that it signed",
    "audits": "calls of its task's audit function",
    "cpu_us": "modelled time of its processor; see `costs`",
    "transactions": "transactions for rounds of the run that it sent and that landed",
    "fees": "fees of those, in Roe",
    "reward": "Roe that the newest final list gives it",
    "slash": "Roe that the newest final list takes from it",
    "spent": "Roe that its work and its audits cost it",
    "profit": "reward - slash - spent - fees",
    "overruled": "rounds in which it is OVERRULED as an auditor",
    "reputation": "its score (basis points, docs/reputation.md) by the rounds of the run, when all have settled",
}
VOTES: Final[Mapping[str, str]] = {
    "round": "number of the round",
    "auditor": "number of the node that voted",
    "author": "number of the author of what it voted on",
    "stage": "0: first ballot, 1: full audit, 2: challenge",
    "verdict": "name of the verdict",
    "due": "whether the assignment gave it to this auditor",
    "right": "whether the verdict is what a diligent look comes to",
    "said_us": "when it was published; of a sealed vote, when it was revealed",
    "committed": "whether it is in the commitment that stands",
    "caught": "whether the outcome contradicts it: VALID on REJECTED or CANARY, INVALID on APPROVED",
}
MESSAGES: Final[Mapping[str, str]] = {
    "round": "number of the round",
    "kind": "name of the record's kind",
    "author": "number of the node that signed it",
    "size": "bytes of the record",
    "sent_us": "when it was published",
    "reached": "other nodes that took it in, by gossip or reconciliation",
    "running": "other nodes that ran when it was published",
    "p50_us": "time until half of those it reached had it; None if it reached nobody",
    "p99_us": "time until 99 of 100 of those had it",
    "last_us": "time until the last of those had it",
}
TABLES: Final[Mapping[str, Mapping[str, str]]] = {
    "rounds": ROUNDS,
    "submissions": SUBMISSIONS,
    "nodes": NODES,
    "votes": VOTES,
    "messages": MESSAGES,
}
"""Columns of each table, with what they mean."""


def empty(columns: Iterable[str]) -> Frame:
    """A table without rows."""
    return {name: [] for name in columns}


def add_row(frame: Frame, row: Mapping[str, Cell]) -> None:
    """Add a row that has a value for each column. Raises ValueError for others."""
    if row.keys() != frame.keys():
        raise ValueError(f"a row has {sorted(row)}, its table {sorted(frame)}")
    for name, value in row.items():
        frame[name].append(value)


def rows_of(frame: Frame) -> Iterable[dict[str, Cell]]:
    """The rows of a table."""
    for values in zip(*frame.values(), strict=True):
        yield dict(zip(frame, values, strict=True))


@dataclass(frozen=True, slots=True)
class Metric:
    """One number of a report. `low` and `high` bound it with 95 % confidence where that can be said.

    `value` is None where there was nothing to measure; `count` is how many observations it is of. `closed_form` is what
    theory says, where it says something, and `formula` how it is computed.
    """

    name: str
    value: float | None
    unit: str
    definition: str
    count: int = 0
    low: float | None = None
    high: float | None = None
    closed_form: float | None = None
    formula: str = ""


@dataclass(frozen=True, slots=True)
class Result:
    """One run of a scenario with one seed: its tables, as described above, and its metrics.

    `events` is how many events of virtual time it took; 0 for the fast engine.
    """

    scenario: Scenario
    seed: int
    rounds: Frame
    submissions: Frame
    nodes: Frame
    votes: Frame
    messages: Frame
    metrics: tuple[Metric, ...] = ()
    events: int = 0

    def __post_init__(self) -> None:
        require_columns(self.frames, TABLES)

    @property
    def frames(self) -> dict[str, Frame]:
        """All tables by name."""
        return {name: getattr(self, name) for name in TABLES}

    def frame(self, name: str) -> Frame:
        """A table by name. Raises KeyError."""
        if name not in TABLES:
            raise KeyError(name)
        found: Frame = getattr(self, name)
        return found

    def metric(self, name: str) -> Metric:
        """A metric by name. Raises KeyError."""
        for one in self.metrics:
            if one.name == name:
                return one
        raise KeyError(name)

    @property
    def digest(self) -> str:
        """SHA-256 (hexadecimal) over all tables: equal for equal (code, scenario, seed)."""
        return digest_of_frames(self.frames)


def require_columns(frames: Mapping[str, Frame], tables: Mapping[str, Mapping[str, str]]) -> None:
    """Raise ValueError unless the frames have the columns of these tables, each as long as the others of its table."""
    for name, columns in tables.items():
        frame = frames[name]
        if frame.keys() != columns.keys():
            raise ValueError(f"the table {name} has the columns {sorted(frame)}, not {sorted(columns)}")
        if len({len(column) for column in frame.values()}) > 1:
            raise ValueError(f"the columns of the table {name} are of different lengths")


def digest_of_frames(frames: Mapping[str, Frame]) -> str:
    """SHA-256 (hexadecimal) over tables in their order."""
    hasher = sha256()
    for frame in frames.values():
        hasher.update(json.dumps(frame, sort_keys=True).encode())
    return hasher.hexdigest()


# --- statistics of metrics


def wilson(successes: int, trials: int, z: float = 1.959964) -> tuple[float, float]:
    """Wilson's score interval of a proportion, 95 % by default; (0, 1) without a trial.

    E. B. Wilson, "Probable Inference, the Law of Succession, and Statistical Inference", JASA 22 (1927). It does not
    claim certainty where all trials went the same way, as the normal approximation does.
    """
    if not trials:
        return 0.0, 1.0
    share, square = successes / trials, z * z / trials
    centre = (share + square / 2) / (1 + square)
    half = z * math.sqrt(share * (1 - share) / trials + square / (4 * trials)) / (1 + square)
    return max(0.0, centre - half), min(1.0, centre + half)


def mean_interval(values: Sequence[float], z: float = 1.959964) -> tuple[float, float, float]:
    """(mean, low, high) of a sample, by the normal approximation. Raises ValueError for no values."""
    if not values:
        raise ValueError("there is no mean of nothing")
    mean = math.fsum(values) / len(values)
    if len(values) == 1:
        return mean, mean, mean
    variance = math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)
    half = z * math.sqrt(variance / len(values))
    return mean, mean - half, mean + half


def quantile(values: Sequence[float], share: float) -> float:
    """The least value that at least this share of the values does not exceed. Raises ValueError for no values."""
    if not values:
        raise ValueError("there is no quantile of nothing")
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def proportion(name: str, successes: int, trials: int, definition: str) -> Metric:
    """A share of trials, with Wilson's interval; its value is None without a trial."""
    low, high = wilson(successes, trials)
    value = successes / trials if trials else None
    return Metric(name, value, "share", definition, trials, low, high)
