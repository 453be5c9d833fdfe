"""Audits that many tasks need, as pure functions: they judge what another node submitted, and say why.

Each returns an `Audited`, which `Task.audit` may return as it is. INVALID is only ever said of what is proved wrong;
what cannot be looked at is UNAVAILABLE, which costs nobody a stake (PROTOCOL section 2). An audit has to come to the
same verdict on every honest node: give these functions what is the same everywhere, and no clock.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from hashlib import sha256
from typing import TypeVar

from koii_p2p.records.schema import Verdict
from koii_p2p.rounds import merkle

Value = TypeVar("Value")
Number = int | float

MOST_ITEMS = 2**63
"""Of a list that samples are drawn from."""


class AuditReason(StrEnum):
    """Why a submission was judged as it was; the first part of what the node logs and `explain` can show."""

    AS_EXPECTED = "as expected"
    DIFFERENT = "different from what was computed again"
    MALFORMED = "not of the form that the task submits"
    OUT_OF_TOLERANCE = "further from the expected number than is tolerated"
    TOO_FEW = "fewer items than the task asks for"
    WRONG_ITEM = "an item of the sample is wrong"
    WRONG_PROOF = "a proof does not lead to the root that was submitted"
    NOT_SIGNED = "not signed by whom it is said to be from"
    OUT_OF_ORDER = "not in the order that the task asks for"
    NOT_SERVED = "what was asked for could not be had"
    NO_NETWORK = "this task has no network here"
    NO_ADDRESS = "the node does not say where its REST is"
    WRONG_STAMP = "the node's stamp is missing, or is not of this reply"
    NOT_FRESH = "the stamp is of another slot"
    TOO_SLOW = "the reply took more slots than the task allows"
    WRONG_ANSWER = "the node signed an answer that the task does not allow"


@dataclass(frozen=True, slots=True)
class Audited:
    """A verdict with its reason, and one line for people. True as a condition exactly if it is VALID."""

    verdict: Verdict
    reason: AuditReason
    detail: str = ""

    def __bool__(self) -> bool:
        return self.verdict is Verdict.VALID

    def line(self) -> str:
        """Reason and detail on one line."""
        return f"{self.reason.value}: {self.detail}" if self.detail else self.reason.value


AS_EXPECTED = Audited(Verdict.VALID, AuditReason.AS_EXPECTED)


def invalid(reason: AuditReason, detail: str = "") -> Audited:
    """INVALID: the submission is proved wrong."""
    return Audited(Verdict.INVALID, reason, detail)


def unavailable(detail: str) -> Audited:
    """UNAVAILABLE: nothing is proved."""
    return Audited(Verdict.UNAVAILABLE, AuditReason.NOT_SERVED, detail)


def recompute(submission: Value, work: Callable[[], Value]) -> Audited:
    """Do the work again and compare for equality (type and value). What `work` raises is raised: UNAVAILABLE."""
    expected = work()
    if type(submission) is type(expected) and submission == expected:
        return AS_EXPECTED
    return invalid(AuditReason.DIFFERENT, f"expected {expected!r:.80}, got {submission!r:.80}")


def within(submission: object, expected: Number, *, tolerance: Number) -> Audited:
    """Whether a number is at most `tolerance` away from the expected one.

    A submission may be the text of a number. NaN, infinities and what is no number are MALFORMED. Raises `ValueError`
    for a tolerance below 0 or not finite.
    """
    if not (math.isfinite(tolerance) and tolerance >= 0):
        raise ValueError(f"a tolerance of {tolerance} means nothing")
    number = _number(submission)
    if number is None:
        return invalid(AuditReason.MALFORMED, f"{submission!r:.80} is no number")
    try:
        if abs(number - expected) <= tolerance:
            return AS_EXPECTED
    except OverflowError:
        pass  # a whole number beyond those of a double is further away than any tolerance
    return invalid(AuditReason.OUT_OF_TOLERANCE, f"{number} is more than {tolerance} from {expected}")


def sample_indices(count: int, size: int, *, seed: bytes) -> tuple[int, ...]:
    """`min(size, count)` different indices below `count`, ascending, drawn by SHA-256 over seed and a counter.

    The same seed draws the same everywhere. Take one that the submitter cannot foresee: `ctx.seed(round, submitter)`.
    A seed of keys and rounds is foreseen, with all that can come to audit. Draws without bias (rejection of what lies
    above the largest multiple).
    """
    if not 0 <= count <= MOST_ITEMS or size < 0:
        raise ValueError(f"counts are from 0 to {MOST_ITEMS}, and sizes not negative")
    order: dict[int, int] = {}
    for place in range(min(size, count)):
        chosen = place + _draw_below(count - place, seed, place)
        order[place], order[chosen] = order.get(chosen, chosen), order.get(place, place)
    return tuple(sorted(order[place] for place in range(min(size, count))))


def sample_items(
    items: Sequence[Value],
    check: Callable[[Value], bool | None],
    *,
    size: int,
    seed: bytes,
    at_least: int = 0,
) -> Audited:
    """Look at a sample of a list: INVALID at the first item that `check` says False of, or if it has too few items.

    `check` returning None means that the item could not be looked at: UNAVAILABLE, unless another is wrong. A fraction
    f of wrong items goes unseen by one auditor with probability about (1 - f)^size.
    """
    if len(items) < at_least:
        return invalid(AuditReason.TOO_FEW, f"{len(items)} of at least {at_least}")
    unseen: int | None = None
    for index in sample_indices(len(items), size, seed=seed):
        right = check(items[index])
        if right is False:
            return invalid(AuditReason.WRONG_ITEM, f"item {index} is {items[index]!r:.80}")
        if right is None and unseen is None:
            unseen = index
    if unseen is not None:
        return unavailable(f"item {unseen} could not be looked at")
    return AS_EXPECTED


def merkle_root(leaves: Sequence[bytes]) -> bytes:
    """What to submit for a list of leaves that others may spot-check: the root of its RFC 6962 tree (32 bytes)."""
    return merkle.root(leaves)


def merkle_proof(leaves: Sequence[bytes], index: int) -> Mapping[str, object]:
    """What a submitter hands out for one leaf, ready for JSON. Raises `IndexError` if there is no such leaf."""
    proof = merkle.prove(leaves, index)
    return {
        "index": index,
        "leaf": leaves[index].hex(),
        "siblings": [sibling.hex() for sibling in proof.siblings],
        "directions": proof.directions,
    }


def spot_check(
    root: bytes,
    count: int,
    served: Callable[[int], Mapping[str, object] | None],
    check: Callable[[int, bytes], bool | None],
    *,
    size: int,
    seed: bytes,
) -> Audited:
    """Look at a sample of the `count` leaves behind a submitted root: each must prove that it is in, and be right.

    `count` is how many the task asks for. A count that the submitter names is no more than its word: hold it against
    the task's own first, or one right leaf passes for all. One that cannot be is MALFORMED, and none are TOO_FEW.

    `served` fetches what `merkle_proof` made for an index, or None if the submitter did not hand it out: UNAVAILABLE,
    since silence proves nothing; a proof of another place, a wrong proof or a wrong leaf is INVALID. `check` gets the
    index with the leaf: what is right at one place, repeated at all others, is not.
    """
    if not 0 <= count <= MOST_ITEMS:
        return invalid(AuditReason.MALFORMED, "a number of leaves that cannot be")
    if count == 0:
        return invalid(AuditReason.TOO_FEW, "no leaves")
    missing: int | None = None
    for index in sample_indices(count, size, seed=seed):
        found = served(index)
        if found is None:
            missing = index if missing is None else missing
            continue
        leaf = _proved_leaf(root, count, index, found)
        if leaf is None:
            return invalid(AuditReason.WRONG_PROOF, f"of leaf {index}")
        right = check(index, leaf)
        if right is False:
            return invalid(AuditReason.WRONG_ITEM, f"leaf {index}")
        if right is None:
            missing = index if missing is None else missing
    if missing is not None:
        return unavailable(f"leaf {missing}")
    return AS_EXPECTED


def _proved_leaf(root: bytes, count: int, index: int, found: Mapping[str, object]) -> bytes | None:
    """The leaf at `index` if the proof leads from there to the root; None for whatever else was served."""
    match found:
        case {"leaf": str(leaf), "siblings": [*siblings], "directions": int(directions)}:
            pass
        case _:
            return None
    try:
        data = bytes.fromhex(leaf)
        proof = merkle.Proof(tuple(bytes.fromhex(str(one)) for one in siblings), directions)
    except ValueError:
        return None
    # The path itself says where a leaf is: another place's leaf with its own good proof must not pass.
    if (len(proof.siblings), proof.directions) != merkle.place_of(index, count):
        return None
    return data if merkle.verify(root, data, proof) else None


def _draw_below(bound: int, seed: bytes, place: int) -> int:
    limit = (1 << 64) - (1 << 64) % bound
    attempt = 0
    while True:
        text = seed + place.to_bytes(8, "big") + attempt.to_bytes(4, "big")
        drawn = int.from_bytes(sha256(text).digest()[:8], "big")
        if drawn < limit:
            return drawn % bound
        attempt += 1


def _number(submission: object) -> Number | None:
    if isinstance(submission, bool):
        return None
    if isinstance(submission, int):
        return submission
    if isinstance(submission, str) and len(submission) <= 64:
        try:
            return int(submission)
        except ValueError:
            pass
        try:
            submission = float(submission)
        except ValueError:
            return None
    if isinstance(submission, float) and math.isfinite(submission):
        return submission
    return None
