"""Receipts: a file that proves what one round came to for one key, against what K2 holds of that round.

A receipt is deterministic CBOR (RFC 8949 section 4.2.1) by the CDDL of docs/explain.md. It carries the anchored
commitment whole, and of everything else only what is about its key, each with its Merkle path: so it needs neither
the bundle nor the list, nor a node. `rounds.receipt_check` verifies it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from koii_p2p.records import cbor
from koii_p2p.records.cid import cid_of
from koii_p2p.records.envelope import Verified, decode_record
from koii_p2p.records.reasons import RecordError
from koii_p2p.records.schema import CHAIN_SIGNATURE_BYTES, Equivocation, ListVote
from koii_p2p.rounds import merkle
from koii_p2p.rounds.anchors import AnchoredRound
from koii_p2p.rounds.commitment import Bundle, Commitment, CommitmentError
from koii_p2p.rounds.distribution import LEAF_BYTES, DistributionList
from koii_p2p.rounds.eligibility import MAX_CHALLENGES
from koii_p2p.rounds.merkle import Proof
from koii_p2p.rounds.roster import MAX_ENTRIES, Roster
from koii_p2p.rounds.round_records import SECTIONS
from koii_p2p.rounds.terms import U64_MAX

MAX_RECEIPT_BYTES: Final = 16 * 1024 * 1024
"""A round of 20 000 stakers needs about 11 MiB with all list votes, 5 MiB without; one of 100, 60 KiB."""
MAX_RECORDS: Final = len(SECTIONS) - 1 + MAX_CHALLENGES
"""One record of each section, and as many challenges as one staker has."""
ROSTER_ENTRY_BYTES: Final = 96
VERSION: Final = 1

_NAME: Final = "koii-p2p receipt"
_FIELDS: Final = 14
_KEY_BYTES: Final = 32


class ReceiptError(ValueError):
    """Bytes that are no receipt, or facts that there is no receipt of."""


@dataclass(frozen=True, slots=True)
class ProvenRecord:
    """A record of the bundle, and the path from it to the committed root of its section."""

    section: str
    raw: bytes
    proof: Proof


@dataclass(frozen=True, slots=True)
class ProvenLeaf:
    """48 bytes of the distribution list, and the path from them to the anchored root."""

    leaf: bytes
    proof: Proof


@dataclass(frozen=True, slots=True)
class Receipt:
    """What one round came to for `key`. Keys, digests and the genesis hash are 32 bytes.

    `program` is the settlement program. `records` are those that the key signed, and the evidence against it.
    `roster` has every entry (96 bytes, in order) if there are `votes`: signed list votes. The signatures (64 bytes)
    of the two anchoring transactions are None where they are not known; nothing rests on them.
    """

    genesis: bytes
    program: bytes
    task: bytes
    round: int
    attempt: int
    key: bytes
    commitment: bytes
    leaf: ProvenLeaf | None
    records: tuple[ProvenRecord, ...] = ()
    roster: tuple[bytes, ...] = ()
    votes: tuple[bytes, ...] = ()
    commitment_signature: bytes | None = None
    list_signature: bytes | None = None

    def encode(self) -> bytes:
        """Deterministic CBOR map. Raises ReceiptError beyond 16 MiB."""
        leaf = None if self.leaf is None else [self.leaf.leaf, *_proof_items(self.leaf.proof)]
        data = cbor.encode(
            {
                0: _NAME,
                1: VERSION,
                2: self.genesis,
                3: self.program,
                4: self.task,
                5: self.round,
                6: self.attempt,
                7: self.key,
                8: self.commitment,
                9: leaf,
                10: [
                    [SECTIONS.index(one.section), one.raw, *_proof_items(one.proof)] for one in self.records
                ],
                11: list(self.roster),
                12: list(self.votes),
                13: [self.commitment_signature, self.list_signature],
            }
        )
        if len(data) > MAX_RECEIPT_BYTES:
            raise ReceiptError(f"the receipt has {len(data)} bytes; {MAX_RECEIPT_BYTES} are allowed")
        return data

    @classmethod
    def decode(cls, data: bytes) -> Receipt:
        """Strict inverse of `encode`; what is inside stays unread. Raises ReceiptError for any other bytes."""
        try:
            fields = cbor.decode(data, max_bytes=MAX_RECEIPT_BYTES)
        except cbor.CborError as error:
            raise ReceiptError(f"not a receipt: {error}") from error
        if not isinstance(fields, dict) or fields.get(0) != _NAME:
            raise ReceiptError("not a receipt: it does not begin as one")
        if fields.get(1) != VERSION or type(fields.get(1)) is not int:
            raise ReceiptError(
                f"a receipt of version {fields.get(1)!r}; this program reads version {VERSION}"
            )
        if list(fields) != list(range(_FIELDS)):
            raise ReceiptError(f"not a receipt: it does not have the fields 0 to {_FIELDS - 1}")
        signatures = _array(fields[13], 2, 2)
        return cls(
            genesis=_octets(fields[2], _KEY_BYTES),
            program=_octets(fields[3], _KEY_BYTES),
            task=_octets(fields[4], _KEY_BYTES),
            round=_uint(fields[5], U64_MAX),
            attempt=_uint(fields[6], 255),
            key=_octets(fields[7], _KEY_BYTES),
            commitment=_octets(fields[8]),
            leaf=None if fields[9] is None else _decode_leaf(_array(fields[9], 3, 3)),
            records=tuple(_decode_record(_array(one, 4, 4)) for one in _array(fields[10], 0, MAX_RECORDS)),
            roster=tuple(_octets(one, ROSTER_ENTRY_BYTES) for one in _array(fields[11], 0, MAX_ENTRIES)),
            votes=tuple(_octets(one) for one in _array(fields[12], 0, MAX_ENTRIES)),
            commitment_signature=_signature(signatures[0]),
            list_signature=_signature(signatures[1]),
        )


def make_receipt(
    key: bytes,
    *,
    genesis: bytes,
    program: bytes,
    task: bytes,
    anchored: AnchoredRound,
    commitment: bytes,
    bundle: bytes | None,
    listed: DistributionList | None,
    roster: Roster | None = None,
    votes: Iterable[Verified] = (),
    commitment_signature: bytes | None = None,
    list_signature: bytes | None = None,
) -> Receipt:
    """Make the receipt of one key from what holders gave, which has to be what K2 vouches for.

    Without `bundle` it has no records, without `listed` no leaf, without the committed `roster` no list votes. Of the
    `votes`, those are taken that agree with the anchored list. Raises ReceiptError, with the reason, where something
    is not what K2 has, or where there is nothing to prove about the key.
    """
    if sha256(commitment).digest() != anchored.commitment:
        raise ReceiptError("the commitment is not the one that K2 has")
    try:
        committed = Commitment.decode(commitment)
    except CommitmentError as error:
        raise ReceiptError(f"what K2 has is no commitment: {error}") from error
    if listed is not None and listed.root != anchored.list_root:
        raise ReceiptError("the list is not the one that K2 has")
    records = _records_of(key, committed, bundle) if bundle is not None else ()
    leaf = None
    if listed is not None and (found := listed.leaf(key)) is not None:
        leaf = ProvenLeaf(found.encode(), listed.proof(key))
    if (
        leaf is None
        and not records
        and key not in committed.outcome_of
        and key not in dict(committed.auditors)
    ):
        raise ReceiptError("neither the commitment nor the list says anything of this key")
    agreeing: tuple[bytes, ...] = ()
    entries: tuple[bytes, ...] = ()
    if roster is not None and roster.root == committed.roster_root:
        agreeing = _agreeing(votes, anchored, roster)
        entries = tuple(entry.encode() for entry in roster.entries) if agreeing else ()
    return Receipt(
        genesis=genesis,
        program=program,
        task=task,
        round=anchored.round,
        attempt=anchored.attempt,
        key=key,
        commitment=commitment,
        leaf=leaf,
        records=records,
        roster=entries,
        votes=agreeing,
        commitment_signature=commitment_signature,
        list_signature=list_signature,
    )


def _records_of(key: bytes, commitment: Commitment, data: bytes) -> tuple[ProvenRecord, ...]:
    if cid_of(data) != commitment.bundle_cid:
        raise ReceiptError("the bundle is not the one that the commitment names")
    try:
        bundle = Bundle.decode(data)
    except CommitmentError as error:
        raise ReceiptError(f"the commitment names a bundle that is none: {error}") from error
    return tuple(
        ProvenRecord(section, raw, merkle.prove(raws, index))
        for section, raws in bundle.sections.items()
        for index, raw in enumerate(raws)
        if _is_about(section, raw, key)
    )


def _is_about(section: str, raw: bytes, key: bytes) -> bool:
    try:
        record = decode_record(raw)
        body = record.statement.body
        if section == "evidence" and isinstance(body, Equivocation):
            return decode_record(body.first).author == key  # both records inside are of one author
    except RecordError:
        return False
    return record.author == key


def _agreeing(votes: Iterable[Verified], anchored: AnchoredRound, roster: Roster) -> tuple[bytes, ...]:
    wanted = (anchored.round, anchored.attempt, anchored.list_root)
    found: dict[bytes, bytes] = {}
    for record in votes:
        body, statement = record.statement.body, record.statement
        if not isinstance(body, ListVote) or not body.agree or record.author not in roster:
            continue
        if (statement.round, statement.seq, body.root) == wanted:
            found[record.author] = record.raw
    return tuple(found[author] for author in sorted(found))


# --- strict reading


def _proof_items(proof: Proof) -> tuple[int, list[bytes]]:
    return proof.directions, list(proof.siblings)


def _decode_proof(directions: object, siblings: object) -> Proof:
    path = tuple(_octets(one, _KEY_BYTES) for one in _array(siblings, 0, merkle.MAX_DEPTH))
    return Proof(path, _uint(directions, (1 << len(path)) - 1))


def _decode_leaf(items: list[object]) -> ProvenLeaf:
    leaf, directions, siblings = items
    return ProvenLeaf(_octets(leaf, LEAF_BYTES), _decode_proof(directions, siblings))


def _decode_record(items: list[object]) -> ProvenRecord:
    section, raw, directions, siblings = items
    name = SECTIONS[_uint(section, len(SECTIONS) - 1)]
    return ProvenRecord(name, _octets(raw), _decode_proof(directions, siblings))


def _signature(value: object) -> bytes | None:
    return None if value is None else _octets(value, CHAIN_SIGNATURE_BYTES)


def _array(value: object, least: int, most: int) -> list[object]:
    if not isinstance(value, list) or not least <= len(value) <= most:
        raise ReceiptError(f"not a receipt: an array of {least} to {most} items is missing")
    return value


def _octets(value: object, size: int | None = None) -> bytes:
    if not isinstance(value, bytes) or (size is not None and len(value) != size):
        raise ReceiptError(f"not a receipt: a byte string{f' of {size} bytes' if size else ''} is missing")
    return value


def _uint(value: object, most: int) -> int:
    if type(value) is not int or not 0 <= value <= most:
        raise ReceiptError(f"not a receipt: {value!r} is not an integer from 0 to {most}")
    return value
