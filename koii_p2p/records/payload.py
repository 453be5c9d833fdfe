"""The payload of a record: a `Statement` as one CBOR map, and back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from koii_p2p.records import cbor
from koii_p2p.records.reasons import RecordError, RecordReason
from koii_p2p.records.schema import (
    LIMITS,
    Ballot,
    BallotEntry,
    BallotReveal,
    Body,
    Challenge,
    CommitmentNotice,
    Equivocation,
    Kind,
    ListNotice,
    ListVote,
    Presence,
    Statement,
    Submission,
    Verdict,
    check_entry_count,
)

_KIND, _TASK, _ROUND, _SLOT, _SEQ = range(5)
_VERDICTS: Final = {verdict.value: verdict for verdict in Verdict}


def payload_bytes(statement: Statement) -> bytes:
    """Return the payload that is signed: one CBOR map. Equal statements have equal bytes."""
    fields: dict[int, object] = {
        _KIND: int(statement.kind),
        _TASK: statement.task,
        _ROUND: statement.round,
        _SLOT: statement.slot,
        _SEQ: statement.seq,
    }
    match statement.body:
        case Submission(value, data_cid):
            fields[8] = value
            if data_cid is not None:
                fields[9] = data_cid
        case Ballot(entries, None):
            fields[8] = entry_arrays(entries)
        case Ballot(_, seal):
            fields[9] = seal
        case BallotReveal(salt, entries):
            fields |= {8: salt, 9: entry_arrays(entries)}
        case Challenge(submission_id, evidence):
            fields |= {8: submission_id, 9: evidence}
        case CommitmentNotice(digest, bundle_cid, signature):
            fields |= {8: digest, 9: bundle_cid, 10: signature}
        case ListNotice(root, list_cid, reward_total, slash_total, signature):
            fields |= {8: root, 9: list_cid, 10: reward_total, 11: slash_total, 12: signature}
        case ListVote(root, agree, reason):
            fields |= {8: root, 9: agree, 10: reason}
        case Equivocation(first, second):
            fields |= {8: first, 9: second}
        case Presence(addresses, roles, software, free_bytes):
            fields |= {8: list(addresses), 9: roles, 10: software, 11: free_bytes}
    return cbor.encode(fields)


def decode_payload(payload: bytes) -> Statement:
    """Read a payload back, strictly. Raises `RecordError`, and nothing else, for any bytes."""
    try:
        value = cbor.decode(payload, max_bytes=LIMITS.equivocation_bytes, max_depth=LIMITS.record_depth)
    except cbor.CborError as error:
        raise RecordError(error.reason, str(error)) from error
    if not isinstance(value, dict):
        raise RecordError(RecordReason.UNKNOWN_KIND, "The payload is not a map.")
    fields = _Fields(value)
    number = value.get(_KIND)
    if type(number) is not int or number not in _READERS:
        raise RecordError(RecordReason.UNKNOWN_KIND)
    fields.uint(_KIND)
    task, round_, slot, seq = (
        fields.octets(_TASK),
        fields.uint(_ROUND),
        fields.uint(_SLOT),
        fields.uint(_SEQ),
    )
    body = _READERS[Kind(number)](fields)
    fields.finish()
    return Statement(task, round_, slot, seq, body)


class _Fields:
    """Takes typed fields out of a decoded map, and knows which were not asked for."""

    __slots__ = ("_left",)

    def __init__(self, fields: dict[int, object]) -> None:
        self._left = dict(fields)

    def __contains__(self, key: int) -> bool:
        return key in self._left

    def _take(self, key: int) -> object:
        if key not in self._left:
            raise RecordError(RecordReason.MISSING_FIELD, f"Field {key} is missing.")
        return self._left.pop(key)

    def octets(self, key: int) -> bytes:
        value = self._take(key)
        if not isinstance(value, bytes):
            raise _wrong_type(f"Field {key}", "bytes")
        return value

    def text(self, key: int) -> str:
        value = self._take(key)
        if not isinstance(value, str):
            raise _wrong_type(f"Field {key}", "text")
        return value

    def uint(self, key: int) -> int:
        value = self._take(key)
        if type(value) is not int:  # a bool is an int in Python, and is not one in CBOR
            raise _wrong_type(f"Field {key}", "an integer")
        return value

    def boolean(self, key: int) -> bool:
        value = self._take(key)
        if not isinstance(value, bool):
            raise _wrong_type(f"Field {key}", "a boolean")
        return value

    def array(self, key: int) -> list[object]:
        value = self._take(key)
        if not isinstance(value, list):
            raise _wrong_type(f"Field {key}", "an array")
        return value

    def octets_or_text(self, key: int) -> bytes | str:
        value = self._take(key)
        if not isinstance(value, bytes | str):
            raise _wrong_type(f"Field {key}", "bytes or text")
        return value

    def finish(self) -> None:
        if self._left:
            raise RecordError(RecordReason.UNKNOWN_FIELD, f"Field {min(self._left)} is not known.")


def _read_submission(fields: _Fields) -> Submission:
    return Submission(fields.octets_or_text(8), fields.octets(9) if 9 in fields else None)


def _read_presence(fields: _Fields) -> Presence:
    addresses = fields.array(8)
    texts = tuple(address for address in addresses if isinstance(address, str))
    if len(texts) != len(addresses):
        raise _wrong_type("An address", "text")
    return Presence(texts, fields.uint(9), fields.text(10), fields.uint(11))


_READERS: Final[dict[Kind, Callable[[_Fields], Body]]] = {
    Kind.SUBMISSION: _read_submission,
    Kind.BALLOT: lambda f: Ballot(seal=f.octets(9)) if 9 in f else Ballot(read_entries(f.array(8))),
    Kind.BALLOT_REVEAL: lambda f: BallotReveal(f.octets(8), read_entries(f.array(9))),
    Kind.CHALLENGE: lambda f: Challenge(f.octets(8), f.octets(9)),
    Kind.COMMITMENT_NOTICE: lambda f: CommitmentNotice(f.octets(8), f.octets(9), f.octets(10)),
    Kind.LIST_NOTICE: lambda f: ListNotice(f.octets(8), f.octets(9), f.uint(10), f.uint(11), f.octets(12)),
    Kind.LIST_VOTE: lambda f: ListVote(f.octets(8), f.boolean(9), f.uint(10)),
    Kind.EQUIVOCATION: lambda f: Equivocation(f.octets(8), f.octets(9)),
    Kind.PRESENCE: _read_presence,
}


def entry_arrays(entries: tuple[BallotEntry, ...]) -> list[list[object]]:
    """Votes as they are encoded: [[submission id, verdict, evidence], ...]."""
    return [[entry.submission_id, int(entry.verdict), entry.evidence] for entry in entries]


def read_entries(arrays: list[object]) -> tuple[BallotEntry, ...]:
    """Inverse of `entry_arrays`. Raises `RecordError`."""
    check_entry_count(len(arrays))
    return tuple(_read_entry(array) for array in arrays)


def _read_entry(array: object) -> BallotEntry:
    match array:
        case [bytes(submission_id), int(number), bytes(evidence)] if not isinstance(number, bool):
            if number not in _VERDICTS:
                raise RecordError(RecordReason.OUT_OF_RANGE, f"{number} is not a verdict.")
            return BallotEntry(submission_id, _VERDICTS[number], evidence)
    raise _wrong_type("A ballot entry", "[bytes, verdict, bytes]")


def _wrong_type(what: str, wanted: str) -> RecordError:
    return RecordError(RecordReason.WRONG_TYPE, f"{what} is not {wanted}.")
