"""The commitment to a round, whose digest is anchored on K2, and the bundle of records that it commits to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from itertools import chain, pairwise
from typing import NamedTuple

from koii_p2p.limits import Limits
from koii_p2p.records import cbor
from koii_p2p.records.cid import cid_of, is_cid
from koii_p2p.records.envelope import Verified, decode_record, verify
from koii_p2p.records.reasons import RecordError
from koii_p2p.rounds import merkle
from koii_p2p.rounds.assignment import AuditAssignment
from koii_p2p.rounds.audit_rules import MAX_WITNESS_SEATS
from koii_p2p.rounds.eligibility import MAX_CHALLENGES
from koii_p2p.rounds.roster import MAX_ENTRIES, Roster
from koii_p2p.rounds.round_records import SECTIONS, MisplacedRecord, RoundRecords, select_cast, sort_records
from koii_p2p.rounds.tally import AuditorStatus, Outcome, Tally, tally
from koii_p2p.rounds.terms import U64_MAX, TaskTerms

NO_PREVIOUS = bytes(32)
"""`previous` of the first commitment of a task."""

MAX_BUNDLE_BYTES = Limits().artifact_bytes
MAX_COMMITMENT_BYTES = Limits().commitment_bytes
MAX_RECORD_BYTES = Limits().record_bytes
MAX_EVIDENCE_BYTES = Limits().equivocation_bytes


class CommitmentError(ValueError):
    """Records that no commitment may include, or bytes that are no commitment or no bundle."""


@dataclass(frozen=True, slots=True)
class SubmissionOutcome:
    """What was decided about the submission (32-byte record id) of one author."""

    author: bytes
    submission_id: bytes
    outcome: Outcome


@dataclass(frozen=True)
class Bundle:
    """All records of a round that count, as raw bytes, in six sections; each is sorted and has nothing twice.

    `submissions`, `ballots` (of those drawn), `reveals` and `full_ballots` have one record per author, sorted by
    author; `challenges` are sorted by (author, seq), `evidence` by whom it convicts, one for each.
    """

    submissions: tuple[bytes, ...] = ()
    ballots: tuple[bytes, ...] = ()
    reveals: tuple[bytes, ...] = ()
    full_ballots: tuple[bytes, ...] = ()
    challenges: tuple[bytes, ...] = ()
    evidence: tuple[bytes, ...] = ()

    def __post_init__(self) -> None:
        for name, raws in self.sections.items():
            most = _most_records(name)
            if len(raws) > most:
                raise CommitmentError(f"{len(raws)} {name}; a round holds {most}")
            longest = MAX_EVIDENCE_BYTES if name == "evidence" else MAX_RECORD_BYTES
            if any(not 0 < len(raw) <= longest for raw in raws):
                raise CommitmentError(f"a record of the {name} has 1 to {longest} bytes")

    @property
    def sections(self) -> dict[str, tuple[bytes, ...]]:
        """The records by name of their section, in the order of the encoding."""
        return {name: getattr(self, name) for name in SECTIONS}

    @property
    def records(self) -> Iterator[bytes]:
        """Every record of every section."""
        return chain.from_iterable(self.sections.values())

    @cached_property
    def roots(self) -> tuple[bytes, ...]:
        """Merkle root of each section; leaves are whole raw records in their order."""
        return tuple(merkle.root(raws) for raws in self.sections.values())

    def encode(self) -> bytes:
        """Deterministic CBOR map: the sections by number, 0 to 5. Raises CommitmentError beyond 64 MiB."""
        return self._encoded

    @cached_property
    def _encoded(self) -> bytes:
        data = cbor.encode({number: list(raws) for number, raws in enumerate(self.sections.values())})
        if len(data) > MAX_BUNDLE_BYTES:
            raise CommitmentError(f"the bundle has {len(data)} bytes; {MAX_BUNDLE_BYTES} are allowed")
        return data

    @classmethod
    def decode(cls, data: bytes) -> Bundle:
        """Strict inverse of `encode`; the records inside stay unread. Raises CommitmentError."""
        fields = _decode_map(data, MAX_BUNDLE_BYTES, "bundle", len(SECTIONS))
        return cls(*(tuple(map(_octets, _array(fields[number]))) for number in range(len(SECTIONS))))

    @cached_property
    def cid(self) -> bytes:
        """Binary CID of the encoded bundle."""
        return cid_of(self.encode())


@dataclass(frozen=True)
class Commitment:
    """What a round came to. Checked on construction: sizes, ranges, and both lists sorted, each key once.

    `previous` is the digest of the newest commitment of an earlier round that stood at its first attempt, or 32 zero
    bytes. (A retried round is left out: when its second commitment lands, the next round's may have been built.)
    `roster_root` tells apart a node that reads other stakes on K2 from one that counts differently. `roots` and
    `counts` are of the bundle's sections, in their order.
    """

    task: bytes
    round: int
    previous: bytes
    beacon: bytes
    roster_root: bytes
    roots: tuple[bytes, ...]
    counts: tuple[int, ...]
    outcomes: tuple[SubmissionOutcome, ...]
    auditors: tuple[tuple[bytes, AuditorStatus], ...]
    bundle_cid: bytes

    def __post_init__(self) -> None:
        for digest in (self.task, self.previous, self.beacon, self.roster_root, *self.roots):
            _octets(digest, 32)
        if not len(self.roots) == len(self.counts) == len(SECTIONS):
            raise CommitmentError(f"a bundle has {len(SECTIONS)} roots and counts")
        for number in (self.round, *self.counts):
            _uint(number)
        if not is_cid(self.bundle_cid):
            raise CommitmentError("bundle_cid is not a CID of raw bytes")
        for entry in self.outcomes:
            _octets(entry.submission_id, 32)
        _check_sorted("outcomes", [entry.author for entry in self.outcomes], MAX_ENTRIES)
        _check_sorted("auditors", [key for key, _ in self.auditors], MAX_ENTRIES + MAX_WITNESS_SEATS)

    @property
    def outcome_of(self) -> dict[bytes, Outcome]:
        """Outcome by author, sorted by author."""
        return {entry.author: entry.outcome for entry in self.outcomes}

    def encode(self) -> bytes:
        """Deterministic CBOR map, keys 0..9 in the order of the fields. CommitmentError when too large."""
        return self._encoded

    @cached_property
    def _encoded(self) -> bytes:
        data = cbor.encode(
            {
                0: self.task,
                1: self.round,
                2: self.previous,
                3: self.beacon,
                4: self.roster_root,
                5: list(self.roots),
                6: list(self.counts),
                7: [[entry.author, entry.submission_id, int(entry.outcome)] for entry in self.outcomes],
                8: [[key, int(status)] for key, status in self.auditors],
                9: self.bundle_cid,
            }
        )
        if len(data) > MAX_COMMITMENT_BYTES:
            raise CommitmentError(f"the commitment has {len(data)} bytes; {MAX_COMMITMENT_BYTES} are allowed")
        return data

    @classmethod
    def decode(cls, data: bytes) -> Commitment:
        """Strict inverse of `encode`. Raises CommitmentError for any other bytes."""
        fields = _decode_map(data, MAX_COMMITMENT_BYTES, "commitment", 10)
        try:
            return cls(
                _octets(fields[0], 32),
                _uint(fields[1]),
                _octets(fields[2], 32),
                _octets(fields[3], 32),
                _octets(fields[4], 32),
                tuple(_octets(root, 32) for root in _array(fields[5], len(SECTIONS))),
                tuple(_uint(count) for count in _array(fields[6], len(SECTIONS))),
                tuple(_decode_outcome(_array(entry, 3)) for entry in _array(fields[7])),
                tuple(_decode_auditor(_array(entry, 2)) for entry in _array(fields[8])),
                _octets(fields[9], 36),
            )
        except CommitmentError:
            raise
        except ValueError as error:  # an outcome or status that does not exist
            raise CommitmentError(f"not a commitment: {error}") from error

    @cached_property
    def digest(self) -> bytes:
        """SHA-256 of the encoded commitment: what is anchored on K2."""
        return sha256(self.encode()).digest()


class BuiltRound(NamedTuple):
    """What the records of a round lead to: the commitment, the bundle under it, its records, and their count."""

    commitment: Commitment
    bundle: Bundle
    records: RoundRecords
    tally: Tally


def build_commitment(
    terms: TaskTerms,
    roster: Roster,
    beacon: bytes,
    previous: bytes,
    records: RoundRecords,
    assignment: AuditAssignment | None = None,
) -> BuiltRound:
    """Commit to the round of `roster` with these records, which belong to it: see `round_records.sort_records`.

    Those that can change nothing are left out of the bundle: see `round_records.select_cast`. Raises
    CommitmentError for a bundle that is too large.

    `assignment`: that of this beacon and roster, from a caller who has drawn it already (it is half of the work), or
    with audit rates that follow from reputation.
    """
    drawn = assignment or AuditAssignment(beacon, roster, terms.audit)
    chosen, cast = select_cast(records, terms, drawn)
    counted = tally(chosen.submissions, cast, drawn, chosen.evidence)
    bundle = Bundle(
        *(tuple(record.raw for record in section.values()) for section in chosen.sections.values())
    )
    commitment = Commitment(
        task=terms.task,
        round=roster.round,
        previous=previous,
        beacon=beacon,
        roster_root=roster.root,
        roots=bundle.roots,
        counts=tuple(len(raws) for raws in bundle.sections.values()),
        outcomes=tuple(
            SubmissionOutcome(author, record.id, counted.outcomes[author])
            for author, record in chosen.submissions.items()
        ),
        auditors=tuple(counted.auditors.items()),
        bundle_cid=bundle.cid,
    )
    return BuiltRound(commitment, bundle, chosen, counted)


def rebuild_commitment(
    terms: TaskTerms,
    genesis: bytes,
    bundle: Bundle,
    beacon: bytes,
    previous: bytes,
    assignment: AuditAssignment,
    held: Mapping[bytes, Verified] | None = None,
) -> BuiltRound:
    """The round that a bundle's own records lead to, whatever anybody else's view is: `build_commitment` of them.

    The round's roster is that of `assignment`, drawn with this `beacon`. `held` are records by their id whose
    signatures were checked before. Whether it is the round that was committed to, its digest says. Raises
    CommitmentError, with what is wrong, for a record that is none or that does not belong to the round.
    """
    roster, known = assignment.roster, held or {}
    try:
        envelopes = [decode_record(raw) for raw in bundle.records]
        records = [known.get(envelope.id) or verify(envelope, genesis) for envelope in envelopes]
        ordered = sort_records(records, terms, roster, genesis)
    except (RecordError, MisplacedRecord) as error:
        raise CommitmentError(str(error)) from error
    return build_commitment(terms, roster, beacon, previous, ordered, assignment)


def _most_records(section: str) -> int:
    """How many records of a section a round holds: stakers speak in all of them, keys without stake audit."""
    if section == "challenges":
        return MAX_ENTRIES * MAX_CHALLENGES
    return MAX_ENTRIES + (MAX_WITNESS_SEATS if section in ("ballots", "reveals") else 0)


def _check_sorted(name: str, keys: Sequence[bytes], most: int) -> None:
    if len(keys) > most:
        raise CommitmentError(f"{len(keys)} {name}; a round holds {most}")
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
