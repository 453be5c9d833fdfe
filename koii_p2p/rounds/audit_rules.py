"""How a task's submissions are audited: the part of its terms that the audit game is played by (PROTOCOL §6)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

BASIS_POINTS = 10_000
MILLIONTHS = 1_000_000

MAX_AUDITORS = 255
MAX_WITNESS_SEATS = 1024


class RulesError(ValueError):
    """Audit rules that contradict themselves or do not fit the chain's integers."""


class Profile(IntEnum):
    """Who audits what, and how it is counted. The number is the byte that the chain keeps."""

    KOII = 0
    """As Koii's public client codes it: everybody looks at five submissions of its own choice, writes a vote
    only against a submission or in answer to one, every vote counts the same, and silence approves."""
    HARDENED = 1
    """Auditors are drawn from the beacon and vote openly on what is theirs; an accusation opens a full audit."""
    ALL = 2
    """Everybody is due for every submission but its own."""
    POSP = 3
    """Proof of sampling (arXiv:2405.00295): hardened, but a submission is audited only with `audit_rate`."""


class Weights(IntEnum):
    """What a vote, and a place in the draw, is worth. The number is the byte that the chain keeps."""

    EQUAL = 0
    """One node, one vote: what all of Koii's public code does."""
    STAKE = 1
    """In proportion to the stake (Koii docs: designing-tasks/staking-and-voting.md)."""
    STAKE_TIME = 2
    """Stake times how long it has been locked (the same page, "originally"); see `roster.roster_at`."""


@dataclass(frozen=True, slots=True)
class AuditRules:
    """Audit rules of one task, checked on construction.

    `auditors` are due per submission; with `confidence` (millionths, 0 for none) as many as it takes for at
    least one honest one among them with that probability, if `dishonest` (basis points of the weight) is not.
    `quorum` is how many INVALID votes a slash needs at least. `audit_rate` (basis points) is how often a
    submission is audited at all. With `sealed` ballots are sealed first and revealed later; `canary_rate` (basis
    points) lets willing stakers hand in known-bad work, which needs sealed ballots. With `reputation_floor` (basis
    points, 0 for none) a trusted submitter is audited less often, but not less than this. `finders_share` (basis
    points) of a slash goes to the auditors who found the fraud. `witness_seats` is how many keys without stake
    may audit for reputation alone.

    Raises RulesError.
    """

    profile: Profile = Profile.HARDENED
    weights: Weights = Weights.STAKE
    auditors: int = 5
    confidence: int = 0
    dishonest: int = 3333
    quorum: int = 3
    audit_rate: int = BASIS_POINTS
    sealed: bool = False
    canary_rate: int = 0
    reputation_floor: int = 0
    finders_share: int = 0
    witness_seats: int = 0

    def __post_init__(self) -> None:
        for name, kind in (("profile", Profile), ("weights", Weights)):
            if not isinstance(getattr(self, name), kind):
                raise RulesError(f"{name} {getattr(self, name)!r} is not one this version works with")
        if type(self.sealed) is not bool:
            raise RulesError(f"sealed is {self.sealed!r}, not true or false")
        _require("auditors", self.auditors, 1, MAX_AUDITORS)
        _require("confidence", self.confidence, 0, MILLIONTHS - 1)
        _require("dishonest", self.dishonest, 0, BASIS_POINTS - 1)
        _require("quorum", self.quorum, 1, MAX_AUDITORS)
        _require("audit_rate", self.audit_rate, 1, BASIS_POINTS)
        _require("canary_rate", self.canary_rate, 0, BASIS_POINTS)
        _require("reputation_floor", self.reputation_floor, 0, BASIS_POINTS)
        _require("finders_share", self.finders_share, 0, BASIS_POINTS)
        _require("witness_seats", self.witness_seats, 0, MAX_WITNESS_SEATS)
        if self.canary_rate and not self.sealed:
            # A canary is owned up to before anybody's votes are seen, or owning up would insure every fraud.
            raise RulesError("canary_rate needs sealed ballots")
        if self.profile is Profile.POSP and self.audit_rate == BASIS_POINTS:
            raise RulesError("profile posp needs an audit_rate below 10000; at 10000 it is hardened")
        if self.profile in (Profile.KOII, Profile.ALL):
            self._require_plain()

    def _require_plain(self) -> None:
        if self.audit_rate != BASIS_POINTS or self.reputation_floor:
            raise RulesError(
                f"profile {self.profile.name.lower()} audits everything alike: no rate, no floor"
            )
        if self.profile is not Profile.KOII:
            return
        for name, plain in (
            ("weights", Weights.EQUAL),
            ("sealed", False),
            ("finders_share", 0),
            ("witness_seats", 0),
        ):
            if getattr(self, name) != plain:
                raise RulesError(f"profile koii has no {name}: it plays the rules of Koii's public client")

    def auditors_among(self, others: int) -> int:
        """How many of `others` possible auditors are due for one submission; never more than there are.

        With a confidence c and a dishonest share f of the weight of those others, the least m with `f**m <= 1 - c`,
        in whole numbers. Exact for draws from many; drawing without replacement only finds fewer dishonest
        auditors, so that the bound holds for any number and any weights (iExec's trust level asks in the same way).
        """
        if self.profile is Profile.ALL:
            return others
        if not self.confidence:
            return min(self.auditors, others)
        wanted, miss, scale = 1, self.dishonest * MILLIONTHS, BASIS_POINTS
        while miss > (MILLIONTHS - self.confidence) * scale and wanted < min(others, MAX_AUDITORS):
            wanted, miss, scale = wanted + 1, miss * self.dishonest, scale * BASIS_POINTS
        return min(wanted, others)


def _require(name: str, value: object, low: int, high: int) -> None:
    # bool is an int to Python, and True auditors would pass every comparison.
    if type(value) is not int or not low <= value <= high:
        raise RulesError(f"{name} is {value!r}, not an integer from {low} to {high}")
