"""The schema of every record: what a node may state, as values that cannot be built wrong.

Constructors check every size and range and raise `RecordError`, so that a statement that exists has an
encoding. `payload.py` has that encoding, `records.cddl` both for other implementations. Lengths are in bytes,
slots are K2 slots, amounts are Roe.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from itertools import pairwise
from typing import ClassVar, Final

from koii_p2p.limits import Limits
from koii_p2p.records.cbor import U64_MAX
from koii_p2p.records.cid import is_cid
from koii_p2p.records.reasons import RecordError, RecordReason

LIMITS: Final = Limits()
"""The bounds of this file are part of the protocol: every node has the same, so they are not a setting."""

DIGEST_BYTES: Final = 32
TASK_BYTES: Final = 32
CHAIN_SIGNATURE_BYTES: Final = 64
SALT_BYTES: Final = 32


class Kind(IntEnum):
    """What a record states. The number is key 0 of the payload and the last byte of the signing domain."""

    SUBMISSION = 1
    BALLOT = 2
    BALLOT_REVEAL = 3
    CHALLENGE = 4
    COMMITMENT_NOTICE = 5
    LIST_NOTICE = 6
    LIST_VOTE = 7
    EQUIVOCATION = 8
    PRESENCE = 9


class Verdict(IntEnum):
    """What an auditor says of a submission. Only the task's explicit "no" is INVALID."""

    VALID = 1
    INVALID = 2
    UNAVAILABLE = 3


@dataclass(frozen=True, slots=True)
class Submission:
    """A result: at most 512 bytes of text or bytes (the type is kept), and where bigger data is found."""

    kind: ClassVar[Kind] = Kind.SUBMISSION
    value: str | bytes
    data_cid: bytes | None = None

    def __post_init__(self) -> None:
        size = len(self.value) if isinstance(self.value, bytes) else _text_bytes(self.value)
        if size > LIMITS.submission_value_bytes:
            raise RecordError(RecordReason.WRONG_LENGTH, f"A submission of {size} bytes; Koii allows 512.")
        if self.data_cid is not None:
            _check_cid(self.data_cid)


@dataclass(frozen=True, slots=True)
class BallotEntry:
    """One vote: a verdict on the submission record with this id, and 0 or 32 bytes of evidence digest."""

    submission_id: bytes
    verdict: Verdict
    evidence: bytes = b""

    def __post_init__(self) -> None:
        _check_length(self.submission_id, DIGEST_BYTES)
        if self.evidence:
            _check_length(self.evidence, DIGEST_BYTES)


@dataclass(frozen=True, slots=True)
class Ballot:
    """All votes of one auditor at one stage of a round, in ascending order of submission id, each submission once.

    A sealed ballot has a `seal` (32 bytes, see `seals.py`) instead of entries. `seq` 0 of its statement is the ballot
    of those drawn, 1 that of a full audit.
    """

    kind: ClassVar[Kind] = Kind.BALLOT
    entries: tuple[BallotEntry, ...] = ()
    seal: bytes | None = None

    def __post_init__(self) -> None:
        if self.seal is not None:
            _check_length(self.seal, DIGEST_BYTES)
            check_entry_count(len(self.entries), 0)
        _check_entries(self.entries)


@dataclass(frozen=True, slots=True)
class BallotReveal:
    """The salt (32 bytes) and the votes of a ballot that was sealed."""

    kind: ClassVar[Kind] = Kind.BALLOT_REVEAL
    salt: bytes
    entries: tuple[BallotEntry, ...]

    def __post_init__(self) -> None:
        _check_length(self.salt, SALT_BYTES)
        _check_entries(self.entries)


@dataclass(frozen=True, slots=True)
class Challenge:
    """A call for a full audit of a submission. Evidence is a 32-byte digest or a 36-byte CID."""

    kind: ClassVar[Kind] = Kind.CHALLENGE
    submission_id: bytes
    evidence: bytes

    def __post_init__(self) -> None:
        _check_length(self.submission_id, DIGEST_BYTES)
        if len(self.evidence) != DIGEST_BYTES:
            _check_cid(self.evidence)


@dataclass(frozen=True, slots=True)
class CommitmentNotice:
    """A leader's word that this commitment is on K2 (transaction signature), and where its bundle is."""

    kind: ClassVar[Kind] = Kind.COMMITMENT_NOTICE
    digest: bytes
    bundle_cid: bytes
    signature: bytes

    def __post_init__(self) -> None:
        _check_length(self.digest, DIGEST_BYTES)
        _check_cid(self.bundle_cid)
        _check_length(self.signature, CHAIN_SIGNATURE_BYTES)


@dataclass(frozen=True, slots=True)
class ListNotice:
    """A leader's word that the list with this root and these totals (Roe) is on K2."""

    kind: ClassVar[Kind] = Kind.LIST_NOTICE
    root: bytes
    list_cid: bytes
    reward_total: int
    slash_total: int
    signature: bytes

    def __post_init__(self) -> None:
        _check_length(self.root, DIGEST_BYTES)
        _check_cid(self.list_cid)
        _check_range(self.reward_total, U64_MAX)
        _check_range(self.slash_total, U64_MAX)
        _check_length(self.signature, CHAIN_SIGNATURE_BYTES)


@dataclass(frozen=True, slots=True)
class ListVote:
    """A staker's opinion of an anchored list. `reason` (0..65535) is 0 or the number of an objection."""

    kind: ClassVar[Kind] = Kind.LIST_VOTE
    root: bytes
    agree: bool
    reason: int

    def __post_init__(self) -> None:
        _check_length(self.root, DIGEST_BYTES)
        _check_range(self.reason, 0xFFFF)


@dataclass(frozen=True, slots=True)
class Equivocation:
    """Two signed records of one author for one place; `equivocation.py` checks that they are."""

    kind: ClassVar[Kind] = Kind.EQUIVOCATION
    first: bytes
    second: bytes

    def __post_init__(self) -> None:
        for raw in (self.first, self.second):
            if not 0 < len(raw) <= LIMITS.record_bytes:
                raise RecordError(RecordReason.WRONG_LENGTH, f"{len(raw)} bytes cannot be a record.")


@dataclass(frozen=True, slots=True)
class Presence:
    """Where a node listens (multiaddrs), what it does (bit set), its software and free space in bytes."""

    kind: ClassVar[Kind] = Kind.PRESENCE
    addresses: tuple[str, ...]
    roles: int
    software: str
    free_bytes: int

    def __post_init__(self) -> None:
        if len(self.addresses) > LIMITS.presence_addresses:
            raise RecordError(RecordReason.TOO_MANY, f"More than {LIMITS.presence_addresses} addresses.")
        for address in self.addresses:
            _check_text(address, LIMITS.address_bytes)
        _check_range(self.roles, 0xFFFF_FFFF)
        _check_text(self.software, LIMITS.software_bytes)
        _check_range(self.free_bytes, U64_MAX)


Body = (
    Submission
    | Ballot
    | BallotReveal
    | Challenge
    | CommitmentNotice
    | ListNotice
    | ListVote
    | Equivocation
    | Presence
)


@dataclass(frozen=True, slots=True)
class Statement:
    """What an author signs: a body, placed in a task (32-byte id), a round and a slot.

    `seq` counts what may be stated more than once per round: presences, stages of ballots, challenges, attempts at
    an anchor.
    """

    task: bytes
    round: int
    slot: int
    seq: int
    body: Body

    def __post_init__(self) -> None:
        _check_length(self.task, TASK_BYTES)
        _check_range(self.round, U64_MAX)
        _check_range(self.slot, U64_MAX)
        _check_range(self.seq, U64_MAX)

    @property
    def kind(self) -> Kind:
        """The kind of the body."""
        return self.body.kind


def _check_entries(entries: tuple[BallotEntry, ...]) -> None:
    check_entry_count(len(entries))
    for before, after in pairwise(entries):
        if before.submission_id >= after.submission_id:
            raise RecordError(RecordReason.NOT_SORTED)


def check_entry_count(count: int, most: int = LIMITS.ballot_entries) -> None:
    """Raise `RecordError(TOO_MANY)` for more votes than a ballot may hold; a sealed one holds none."""
    if count > most:
        raise RecordError(RecordReason.TOO_MANY, f"{count} votes; {most} are allowed.")


def _check_length(value: bytes, length: int) -> None:
    if len(value) != length:
        raise RecordError(RecordReason.WRONG_LENGTH, f"{len(value)} bytes where there must be {length}.")


def _check_text(value: str, limit: int) -> None:
    size = _text_bytes(value)
    if size > limit:
        raise RecordError(RecordReason.WRONG_LENGTH, f"Text of {size} bytes; {limit} are allowed.")


def _text_bytes(value: str) -> int:
    try:
        return len(value.encode())
    except UnicodeEncodeError as error:
        raise RecordError(RecordReason.BAD_TEXT) from error


def _check_range(value: int, largest: int) -> None:
    if not 0 <= value <= largest:
        raise RecordError(RecordReason.OUT_OF_RANGE, f"{value} is not in 0..{largest}.")


def _check_cid(value: bytes) -> None:
    if not is_cid(value):
        raise RecordError(RecordReason.BAD_CID)
