"""The commitment to a round, whose digest is anchored on K2, and the bundle of records that it commits to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from itertools import pairwise

from koii_p2p.limits import Limits
from koii_p2p.records import cbor
from koii_p2p.records.cid import cid_of, is_cid
from koii_p2p.records.envelope import Verified
from koii_p2p.records.schema import Ballot, Kind, Verdict
from koii_p2p.rounds import merkle
from koii_p2p.rounds.assignment import AuditAssignment
from koii_p2p.rounds.eligibility import author_fault, ballot_fault, place_fault
from koii_p2p.rounds.roster import MAX_ENTRIES, Roster
from koii_p2p.rounds.tally import AuditorStatus, Outcome, tally
from koii_p2p.rounds.terms import U64_MAX, TaskTerms

NO_PREVIOUS = bytes(32)
"""`previous` of the first commitment of a task."""

MAX_BUNDLE_BYTES = Limits().artifact_bytes
MAX_COMMITMENT_BYTES = Limits().commitment_bytes
MAX_RECORD_BYTES = Limits().record_bytes


class CommitmentError(ValueError):
    """Records that no commitment may include, or bytes that are no commitment or no bundle."""


@dataclass(frozen=True, slots=True)
class SubmissionOutcome:
    """What was decided about the submission (32-byte record id) of one author."""

    author: bytes
    submission_id: bytes
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class Counts:
    """How many records of each kind the bundle holds."""

    submissions: int
    ballots: int
    challenges: int = 0
    evidence: int = 0


@dataclass(frozen=True)
class Bundle:
    """All records of a round that count: raw bytes, each kind sorted by author, one per author."""

    submissions: tuple[bytes, ...]
    ballots: tuple[bytes, ...]

    def __post_init__(self) -> None:
        for raws in (self.submissions, self.ballots):
            if len(raws) > MAX_ENTRIES:
                raise CommitmentError(f"{len(raws)} records of one kind; a round holds {MAX_ENTRIES}")
            if any(not 0 < len(raw) <= MAX_RECORD_BYTES for raw in raws):
                raise CommitmentError(f"a record has 1 to {MAX_RECORD_BYTES} bytes")

    def encode(self) -> bytes:
        """Deterministic CBOR map: 0 submissions, 1 ballots. Raises CommitmentError beyond 64 MiB."""
        return self._encoded

    @cached_property
    def _encoded(self) -> bytes:
        data = cbor.encode({0: list(self.submissions), 1: list(self.ballots)})
        if len(data) > MAX_BUNDLE_BYTES:
            raise CommitmentError(f"the bundle has {len(data)} bytes; {MAX_BUNDLE_BYTES} are allowed")
        return data

    @classmethod
    def decode(cls, data: bytes) -> Bundle:
        """Strict inverse of `encode`; the records inside stay unread. Raises CommitmentError."""
        fields = _decode_map(data, MAX_BUNDLE_BYTES, "bundle", 2)
        submissions, ballots = _array(fields[0]), _array(fields[1])
        return cls(tuple(map(_octets, submissions)), tuple(map(_octets, ballots)))

    @cached_property
    def cid(self) -> bytes:
        """Binary CID of the encoded bundle."""
        return cid_of(self.encode())


@dataclass(frozen=True)
class Commitment:
    """What a round came to. Checked on construction: sizes, ranges, and both lists sorted, each key once.

    `previous` is the digest of the newest anchored commitment of an earlier round, or 32 zero bytes.
    `roster_root` tells apart a node that reads other stakes on K2 from one that counts differently. The
    trees of submissions and ballots have whole raw records as leaves, in the order of the bundle; those of
    challenges and evidence are empty in this version.
    """

    task: bytes
    round: int
    previous: bytes
    beacon: bytes
    roster_root: bytes
    submissions_root: bytes
    ballots_root: bytes
    challenges_root: bytes
    evidence_root: bytes
    outcomes: tuple[SubmissionOutcome, ...]
    auditors: tuple[tuple[bytes, AuditorStatus], ...]
    counts: Counts
    bundle_cid: bytes

    def __post_init__(self) -> None:
        for digest in (self.task, self.previous, self.beacon, *self.roots):
            _octets(digest, 32)
        _uint(self.round)
        if not is_cid(self.bundle_cid):
            raise CommitmentError("bundle_cid is not a CID of raw bytes")
        for entry in self.outcomes:
            _octets(entry.submission_id, 32)
        _check_sorted("outcomes", [entry.author for entry in self.outcomes])
        _check_sorted("auditors", [key for key, _ in self.auditors])
        for count in (
            self.counts.submissions,
            self.counts.ballots,
            self.counts.challenges,
            self.counts.evidence,
        ):
            _uint(count)

    @property
    def roots(self) -> tuple[bytes, bytes, bytes, bytes, bytes]:
        """Roots of roster, submissions, ballots, challenges and evidence."""
        return (
            self.roster_root,
            self.submissions_root,
            self.ballots_root,
            self.challenges_root,
            self.evidence_root,
        )

    @property
    def outcome_of(self) -> dict[bytes, Outcome]:
        """Outcome by author, sorted by author."""
        return {entry.author: entry.outcome for entry in self.outcomes}

    def encode(self) -> bytes:
        """Deterministic CBOR map, keys 0..12 in the order of the fields. CommitmentError when too large."""
        return self._encoded

    @cached_property
    def _encoded(self) -> bytes:
        counts = self.counts
        data = cbor.encode(
            {
                0: self.task,
                1: self.round,
                2: self.previous,
                3: self.beacon,
                4: self.roster_root,
                5: self.submissions_root,
                6: self.ballots_root,
                7: self.challenges_root,
                8: self.evidence_root,
                9: [[entry.author, entry.submission_id, int(entry.outcome)] for entry in self.outcomes],
                10: [[key, int(status)] for key, status in self.auditors],
                11: [counts.submissions, counts.ballots, counts.challenges, counts.evidence],
                12: self.bundle_cid,
            }
        )
        if len(data) > MAX_COMMITMENT_BYTES:
            raise CommitmentError(f"the commitment has {len(data)} bytes; {MAX_COMMITMENT_BYTES} are allowed")
        return data

    @classmethod
    def decode(cls, data: bytes) -> Commitment:
        """Strict inverse of `encode`. Raises CommitmentError for any other bytes."""
        fields = _decode_map(data, MAX_COMMITMENT_BYTES, "commitment", 13)
        task, previous, beacon, *roots = (_octets(fields[key], 32) for key in (0, 2, 3, 4, 5, 6, 7, 8))
        try:
            return cls(
                task,
                _uint(fields[1]),
                previous,
                beacon,
                roots[0],
                roots[1],
                roots[2],
                roots[3],
                roots[4],
                tuple(_decode_outcome(_array(entry, 3)) for entry in _array(fields[9])),
                tuple(_decode_auditor(_array(entry, 2)) for entry in _array(fields[10])),
                Counts(*(_uint(count) for count in _array(fields[11], 4))),
                _octets(fields[12], 36),
            )
        except CommitmentError:
            raise
        except ValueError as error:  # an outcome or status that does not exist
            raise CommitmentError(f"not a commitment: {error}") from error

    @cached_property
    def digest(self) -> bytes:
        """SHA-256 of the encoded commitment: what is anchored on K2."""
        return sha256(self.encode()).digest()


def build_commitment(
    terms: TaskTerms,
    roster: Roster,
    beacon: bytes,
    previous: bytes,
    submissions: Iterable[Verified],
    ballots: Iterable[Verified],
    assignment: AuditAssignment | None = None,
) -> tuple[Commitment, Bundle]:
    """Commit to the round of `roster` with these records, in whatever order they come.

    Ballots that are empty, vote on none of `submissions`, or vote without being due
    are left out of the bundle. Any other record that does not belong (other task, kind or round, slot
    outside its window, author not in the roster, two different records of one author) is the caller's
    mistake and raises CommitmentError, as does a bundle that is too large.

    `assignment`: that of this beacon and roster, from a caller who has drawn it already; it is half of the work.
    """
    if assignment is None:
        assignment = AuditAssignment(beacon, roster, terms.auditors)
    included = _by_author(Kind.SUBMISSION, submissions, terms, roster)
    authors = {record.id: author for author, record in included.items()}
    offered = _by_author(Kind.BALLOT, ballots, terms, roster)
    cast = {
        auditor: record
        for auditor, record in offered.items()
        if ballot_fault(_ballot(record), auditor, authors, assignment) is None
    }
    counted = tally(included, votes_by_author(cast, authors), assignment, roster, terms.quorum)
    bundle = Bundle(
        tuple(record.raw for record in included.values()), tuple(record.raw for record in cast.values())
    )
    commitment = Commitment(
        task=terms.task,
        round=roster.round,
        previous=previous,
        beacon=beacon,
        roster_root=roster.root,
        submissions_root=merkle.root(bundle.submissions),
        ballots_root=merkle.root(bundle.ballots),
        challenges_root=merkle.EMPTY_ROOT,
        evidence_root=merkle.EMPTY_ROOT,
        outcomes=tuple(
            SubmissionOutcome(author, record.id, counted.outcomes[author])
            for author, record in included.items()
        ),
        auditors=tuple(counted.auditors.items()),
        counts=Counts(len(bundle.submissions), len(bundle.ballots)),
        bundle_cid=bundle.cid,
    )
    return commitment, bundle


def votes_by_author(
    ballots: Mapping[bytes, Verified], authors: Mapping[bytes, bytes]
) -> dict[bytes, dict[bytes, Verdict]]:
    """Votes as `tally` wants them, from ballots by auditor and `authors` (submission id to author).

    Votes on submissions that are not among `authors` count for nothing.
    """
    votes: dict[bytes, dict[bytes, Verdict]] = {}
    for auditor, record in ballots.items():
        for entry in _ballot(record).entries:
            author = authors.get(entry.submission_id)
            if author is not None:
                votes.setdefault(author, {})[auditor] = entry.verdict
    return votes


def _by_author(
    kind: Kind, records: Iterable[Verified], terms: TaskTerms, roster: Roster
) -> dict[bytes, Verified]:
    found: dict[bytes, Verified] = {}
    for record in records:
        if record.kind is not kind or record.round != roster.round:
            raise CommitmentError(f"record {record.id.hex()} is not a {kind.name} of round {roster.round}")
        fault = place_fault(record.statement, terms) or author_fault(record.author, roster)
        if fault is not None:
            raise CommitmentError(f"record {record.id.hex()} of {record.author.hex()}: {fault.value}")
        if found.setdefault(record.author, record).id != record.id:
            raise CommitmentError(f"two different {kind.name} records of {record.author.hex()}")
    return {author: found[author] for author in sorted(found)}


def _ballot(record: Verified) -> Ballot:
    body = record.statement.body
    if not isinstance(body, Ballot):
        raise CommitmentError(f"record {record.id.hex()} is not an open ballot")
    return body


def _check_sorted(name: str, keys: Sequence[bytes]) -> None:
    if len(keys) > MAX_ENTRIES:
        raise CommitmentError(f"{len(keys)} {name}; a round holds {MAX_ENTRIES}")
    for key in keys:
        _octets(key, 32)
    if any(first >= second for first, second in pairwise(keys)):
        raise CommitmentError(f"{name} are not sorted by key, or one key appears twice")


def _decode_map(data: bytes, max_bytes: int, name: str, size: int) -> dict[int, object]:
    try:
        value = cbor.decode(data, max_bytes=max_bytes)
    except cbor.CborError as error:
        raise CommitmentError(f"not a {name}: {error}") from error
    if not isinstance(value, dict) or list(value) != list(range(size)):
        raise CommitmentError(f"not a {name}: not a map with the keys 0 to {size - 1}")
    return value


def _decode_outcome(entry: list[object]) -> SubmissionOutcome:
    author, submission_id, outcome = entry
    return SubmissionOutcome(_octets(author, 32), _octets(submission_id, 32), Outcome(_uint(outcome)))


def _decode_auditor(entry: list[object]) -> tuple[bytes, AuditorStatus]:
    key, status = entry
    return _octets(key, 32), AuditorStatus(_uint(status))


def _array(value: object, size: int | None = None) -> list[object]:
    if not isinstance(value, list) or (size is not None and len(value) != size):
        raise CommitmentError(f"an array{f' of {size}' if size else ''} is missing")
    return value


def _octets(value: object, size: int | None = None) -> bytes:
    if not isinstance(value, bytes) or (size is not None and len(value) != size):
        raise CommitmentError(f"a byte string{f' of {size} bytes' if size else ''} is missing")
    return value


def _uint(value: object) -> int:
    if type(value) is not int or not 0 <= value <= U64_MAX:
        raise CommitmentError(f"{value!r} is not an unsigned 64-bit integer")
    return value
