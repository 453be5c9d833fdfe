"""The terms of a task: everything about it that is fixed on K2 and that every node computes with."""

from __future__ import annotations

from dataclasses import dataclass

from koii_p2p.rounds.audit_rules import BASIS_POINTS, AuditRules, Profile
from koii_p2p.rounds.clock import RoundClock

U64_MAX = (1 << 64) - 1

HARDENED = AuditRules()
"""The rules of a task that names none."""

MAX_STARTING_SLOT = (1 << 63) - 1
MAX_ROUND_TIME = (1 << 32) - 1
"""Bounds that keep every window of the first 2**31 rounds inside the chain's unsigned 64-bit slots."""

SHORTEST_AUDIT = 6
"""Slots: where audits have stages, each must have at least one slot (PROTOCOL §6)."""

MAX_FAILED_DISTRIBUTIONS = 15
"""K2 keeps 16 rounds: a later attempt would lose its place to another round before it could be vetoed."""

MAX_NAME_BYTES = 24
MAX_PROGRAM_BYTES = 64


class TermsError(ValueError):
    """The terms of a task contradict themselves or do not fit the chain's integers."""


@dataclass(frozen=True, slots=True)
class TaskTerms:
    """Terms of one task, checked on construction.

    Slots: `starting_slot`, `round_time`, `submission_window`, `audit_window`. Roe: `bounty_per_round`,
    `minimum_stake`. `slash_basis_points` is the slashed share in 1/10000 (Koii's default 70 %), `audit` the rules
    of the audit game. `program` names what the workers run (an import path or a CID), at most 64 bytes.

    Koii docs: config-task.yml (names, `round_time >= submission_window + audit_window`, both windows > 0,
    task name of at most 24 bytes). Raises TermsError.
    """

    task: bytes
    creator: bytes
    name: str
    starting_slot: int
    round_time: int
    submission_window: int
    audit_window: int
    bounty_per_round: int
    minimum_stake: int
    slash_basis_points: int = 7000
    allowed_failed_distributions: int = 3
    audit: AuditRules = HARDENED
    program: str = ""

    def __post_init__(self) -> None:
        if len(self.task) != 32 or len(self.creator) != 32:
            raise TermsError("task and creator are 32-byte keys")
        _require_text("name", self.name, 1, MAX_NAME_BYTES)
        _require_text("program", self.program, 0, MAX_PROGRAM_BYTES)
        _require_between("starting_slot", self.starting_slot, 0, MAX_STARTING_SLOT)
        _require_between("round_time", self.round_time, 1, MAX_ROUND_TIME)
        _require_between("submission_window", self.submission_window, 1, self.round_time)
        _require_between("audit_window", self.audit_window, 1, self.round_time)
        if self.submission_window + self.audit_window > self.round_time:
            raise TermsError(
                f"submission_window {self.submission_window} + audit_window {self.audit_window} "
                f"is longer than round_time {self.round_time}"
            )
        _require_between("bounty_per_round", self.bounty_per_round, 0, U64_MAX)
        # A roster admits whoever has the minimum stake: with 0 it would admit keys that have nothing to lose.
        _require_between("minimum_stake", self.minimum_stake, 1, U64_MAX)
        _require_between("slash_basis_points", self.slash_basis_points, 0, BASIS_POINTS)
        _require_between(
            "allowed_failed_distributions", self.allowed_failed_distributions, 0, MAX_FAILED_DISTRIBUTIONS
        )
        if self.audit.profile is not Profile.KOII and self.audit_window < SHORTEST_AUDIT:
            raise TermsError(
                f"audit_window {self.audit_window} is shorter than the {SHORTEST_AUDIT} slots that its stages need"
            )

    @property
    def clock(self) -> RoundClock:
        """The round clock of this task."""
        return RoundClock(self.starting_slot, self.round_time, self.submission_window, self.audit_window)


def _require_between(name: str, value: int, low: int, high: int) -> None:
    # bool is an int to Python, and True slots would pass every comparison.
    if type(value) is not int or not low <= value <= high:
        raise TermsError(f"{name} is {value!r}, not an integer from {low} to {high}")


def _require_text(name: str, value: str, low: int, high: int) -> None:
    try:
        size = len(value.encode())
    except UnicodeEncodeError as error:
        raise TermsError(f"{name} is not valid text") from error
    if not low <= size <= high:
        raise TermsError(f"{name} has {size} bytes, not {low} to {high}")
