"""Why a record is refused: one enum member per rule, the same in every implementation."""

from __future__ import annotations

from koii_p2p.records.meanings import Meaning


class RecordReason(Meaning):
    """Why bytes are not a record. The value is the portable name used by test vectors and counters.

    Each of these can be decided from the bytes alone (and, for `BAD_SIGNATURE`, the genesis hash), so an
    honest node never sends such bytes: the cost to the sender is always a REJECT, counted against it.
    `RecordReason.X.__doc__` says what the member means.
    """

    TOO_LARGE = "too_large", "Longer than the limit for a record (or for whatever is being decoded)."
    TOO_DEEP = "too_deep", "Arrays and maps inside one another beyond the nesting limit."
    TRUNCATED = "truncated", "The bytes end before the declared item does, or declare more than they hold."
    TRAILING_BYTES = "trailing_bytes", "Bytes follow the end of the one item that there should be."
    INDEFINITE_LENGTH = "indefinite_length", "An indefinite length or a reserved head; lengths are definite."
    FORBIDDEN_TYPE = (
        "forbidden_type",
        "A float, tag, undefined or another simple value: never in a record.",
    )
    BAD_KEY = "bad_key", "A map key that is not an unsigned integer in 0..23."
    BAD_TEXT = "bad_text", "A text string that is not valid UTF-8."
    NOT_CANONICAL = (
        "not_canonical",
        "Not the deterministic encoding: long integers, unsorted or double keys.",
    )
    NOT_COSE = "not_cose", "Not a COSE_Sign1 message: tag 18 over [protected, {}, payload, signature]."
    BAD_HEADER = "bad_header", "The protected header is not exactly {1: -8, 4: 32-byte key}."
    UNKNOWN_KIND = "unknown_kind", "The payload is not a map with a kind of this version of the protocol."
    MISSING_FIELD = "missing_field", "The payload lacks a field that its kind must have."
    UNKNOWN_FIELD = "unknown_field", "The payload holds a field that its kind does not have."
    WRONG_TYPE = "wrong_type", "A field holds another CBOR type than the schema says."
    WRONG_LENGTH = "wrong_length", "A byte or text string is shorter or longer than the schema says."
    OUT_OF_RANGE = "out_of_range", "An integer is outside the range that the schema says."
    TOO_MANY = "too_many", "A list holds more elements than its limit."
    NOT_SORTED = "not_sorted", "Ballot entries are not in strictly ascending order of their submission id."
    BAD_CID = "bad_cid", "Not a binary CIDv1 of raw bytes with SHA-256."
    BAD_SIGNATURE = (
        "bad_signature",
        "Not the author's signature for this chain, task, kind and payload.",
    )
    NOT_A_CONFLICT = "not_a_conflict", "The two records of an equivocation do not contradict each other."


class RecordError(ValueError):
    """Bytes or values that are not a record, with the `reason`; `str(error)` is for a person."""

    def __init__(self, reason: RecordReason, detail: str = "") -> None:
        super().__init__(detail or reason.__doc__)
        self.reason = reason
