"""What goes into a `RoundEngine` (events) and what comes out of it (actions).

Events are facts: a slot has come, K2 was read, a task function returned. Actions are requests to whoever
drives the engine, the node or the simulator. An action that fails is simply not answered by its event; the
engine asks again at a later slot where asking again makes sense.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from koii_p2p.records.envelope import Verified
from koii_p2p.records.schema import BallotReveal, Statement, Verdict
from koii_p2p.rounds.anchors import AnchoredRound
from koii_p2p.rounds.distribution import DistributionList, Submitter
from koii_p2p.rounds.roster import Roster

# --- events


@dataclass(frozen=True, slots=True)
class SlotAdvanced:
    """K2's slot, as the driver estimates it now. Never goes back; a lower slot than the last is ignored."""

    slot: int


@dataclass(frozen=True, slots=True)
class RosterRead:
    """The roster of a round, read from K2 at or after the start of its period."""

    roster: Roster


@dataclass(frozen=True, slots=True)
class BlockhashRead:
    """The K2 blockhash (32 bytes) of the first block at or after the end of the round's submission window."""

    round: int
    blockhash: bytes


@dataclass(frozen=True, slots=True)
class AnchorsRead:
    """The anchored rounds that K2 held at `slot`, by round; None is now.

    What can be known only when a window is over on K2 waits for a read from after it.
    """

    anchored: Mapping[int, AnchoredRound]
    slot: int | None = None


@dataclass(frozen=True, slots=True)
class SubmissionMade:
    """The task's `submission()` returned: a value of at most 512 bytes, or None for nothing to submit."""

    round: int
    value: str | bytes | None


@dataclass(frozen=True, slots=True)
class OpeningRead:
    """What an earlier run of this node sealed in a round, from its disk."""

    round: int
    opening: BallotReveal


@dataclass(frozen=True, slots=True)
class AuditMade:
    """The task's `audit()` gave a verdict on one submission; `evidence` goes with the vote: a digest (32 bytes), or
    nothing.
    """

    round: int
    submission_id: bytes
    verdict: Verdict
    evidence: bytes = b""


@dataclass(frozen=True, slots=True)
class DistributionMade:
    """The task's `distribution()` returned: signed Roe by staking key (negative is a slash)."""

    round: int
    amounts: Mapping[bytes, int]


@dataclass(frozen=True, slots=True)
class ArtifactsRead:
    """Commitment, bundle and list bytes of a round, from disk or a peer: unverified, each may be missing."""

    round: int
    commitment: bytes | None = None
    bundle: bytes | None = None
    list: bytes | None = None


@dataclass(frozen=True, slots=True)
class CommitmentAnchored:
    """Our own commitment transaction was confirmed (signature: 64 bytes)."""

    round: int
    signature: bytes


@dataclass(frozen=True, slots=True)
class ListAnchored:
    """Our own distribution-list transaction was confirmed (signature: 64 bytes)."""

    round: int
    signature: bytes


RoundEvent = (
    BlockhashRead
    | SubmissionMade
    | OpeningRead
    | AuditMade
    | DistributionMade
    | CommitmentAnchored
    | ListAnchored
)
"""Facts that concern one round only."""

Event = SlotAdvanced | RosterRead | AnchorsRead | ArtifactsRead | RoundEvent

# --- actions


@dataclass(frozen=True, slots=True)
class ReadRoster:
    """Read the stakes on K2 and answer with `RosterRead`."""

    round: int


@dataclass(frozen=True, slots=True)
class ReadBlockhash:
    """Answer with `BlockhashRead` of the first block at or after `slot`."""

    round: int
    slot: int


@dataclass(frozen=True, slots=True)
class RunTask:
    """Call the task's `task()` for this round; nothing is answered."""

    round: int


@dataclass(frozen=True, slots=True)
class MakeSubmission:
    """Call the task's `submission()` and answer with `SubmissionMade`; a `canary` with a value that is bad."""

    round: int
    canary: bool = False


@dataclass(frozen=True, slots=True)
class AuditSubmission:
    """Call the task's `audit()` and answer with `AuditMade`."""

    round: int
    submission_id: bytes
    author: bytes
    value: str | bytes


@dataclass(frozen=True, slots=True)
class SignAndPublish:
    """Journal, sign, store and gossip this statement; hand the record back through `RoundEngine.receive`.

    `opening` is what a sealed ballot seals. It is stored before anything is signed, unless one is there already, and
    given back by `OpeningRead` after a restart.
    """

    statement: Statement
    opening: BallotReveal | None = None


@dataclass(frozen=True, slots=True)
class Reconcile:
    """Ask some peers for the records of this round that we lack."""

    round: int


@dataclass(frozen=True, slots=True)
class AnchorCommitment:
    """Store the artifacts and anchor the digest on K2; answer with `CommitmentAnchored` if ours landed."""

    round: int
    attempt: int
    digest: bytes
    commitment: bytes = field(repr=False)
    bundle: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class KeepRecord:
    """Store a record that had been parked and is admitted now."""

    record: Verified


@dataclass(frozen=True, slots=True)
class KeepArtifacts:
    """Store what is known of a round: these bytes are verified against the chain or made by us."""

    round: int
    commitment: bytes | None = None
    bundle: bytes | None = None
    list: bytes | None = None


@dataclass(frozen=True, slots=True)
class FetchArtifacts:
    """Ask peers for the commitment, bundle and list of an anchored round; answer with `ArtifactsRead`."""

    round: int


@dataclass(frozen=True, slots=True)
class MakeDistribution:
    """Call the task's `distribution()` and answer with `DistributionMade`."""

    round: int
    submitters: tuple[Submitter, ...]
    bounty: int


@dataclass(frozen=True, slots=True)
class AnchorList:
    """Store the list and anchor its root on K2; answer with `ListAnchored` if it was ours that landed."""

    round: int
    attempt: int
    root: bytes
    reward_total: int
    slash_total: int
    list: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Veto:
    """Put our stake on K2 against this attempt at a round: most of the stake disagrees with it in gossip."""

    round: int
    attempt: int


@dataclass(frozen=True, slots=True)
class RoundSettled:
    """A round's list passed its audit window: what it says is final, and its leaves may be proved to K2.

    `rank` is our place in the leader order of the round (0 settles the slashes at once, the next ones wait),
    or None when we are not in its roster. `attempt` is the one whose list stands.
    """

    round: int
    list: DistributionList = field(repr=False)
    rank: int | None
    attempt: int = 0


Action = (
    ReadRoster
    | ReadBlockhash
    | RunTask
    | MakeSubmission
    | AuditSubmission
    | SignAndPublish
    | Reconcile
    | AnchorCommitment
    | KeepRecord
    | KeepArtifacts
    | FetchArtifacts
    | MakeDistribution
    | AnchorList
    | Veto
    | RoundSettled
)
