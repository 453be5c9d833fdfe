"""The attempts at one round: what was anchored, who vetoed it, and which copies belong to which attempt."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256

from koii_p2p.rounds.anchors import AnchoredRound
from koii_p2p.rounds.clock import RoundClock
from koii_p2p.rounds.commitment import Commitment, CommitmentError
from koii_p2p.rounds.distribution import DistributionError, DistributionList
from koii_p2p.settlement.history import ChainEntry
from koii_p2p.settlement.instructions import AnchorCommitment, AnchorList, Veto
from koii_p2p.testnets.evidence import ARTIFACTS, RoundCopies


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt at a round, as its transactions tell it. Keys and digests are 32 bytes; None for no list."""

    number: int
    commitment: bytes
    commitment_by: bytes
    list_root: bytes | None = None
    list_by: bytes | None = None
    vetoed_by: tuple[bytes, ...] = ()
    rejected: bool = False

    @property
    def anchorers(self) -> frozenset[bytes]:
        """Who anchored its commitment, and its list if it has one."""
        return frozenset(key for key in (self.commitment_by, self.list_by) if key is not None)


def attempts_of(entries: Iterable[ChainEntry], anchored: AnchoredRound) -> tuple[Attempt, ...]:
    """The attempts at a round in their order; `entries` are its transactions that succeeded, oldest first."""
    found: dict[int, Attempt] = {}
    for entry in entries:
        match entry.instruction:
            case AnchorCommitment(attempt=number, digest=digest, staker=by):
                rejected = number < anchored.attempt or anchored.rejected
                found[number] = Attempt(number, digest, by, rejected=rejected)
            case AnchorList(attempt=number, root=root, staker=by) if number in found:
                found[number] = replace(found[number], list_root=root, list_by=by)
            case Veto(attempt=number, staker=by) if number in found:
                found[number] = replace(found[number], vetoed_by=(*found[number].vetoed_by, by))
    return tuple(found[number] for number in sorted(found))


def final_slot(clock: RoundClock, number: int, anchored: AnchoredRound | None, failed_allowed: int) -> int:
    """First slot at which nothing can change a round any more, as far as K2's record of it says now.

    A round that was rejected has until the end of its next attempt's time for a commitment; with one, that attempt
    counts. `failed_allowed` is the task's `allowed_failed_distributions`.
    """
    if anchored is None:
        return clock.settles_at(number)
    if not anchored.rejected:
        return clock.settles_at(number, anchored.attempt)
    if anchored.attempt < failed_allowed:
        return clock.commitment(number, anchored.attempt + 1).closes
    return clock.settles_at(number, anchored.attempt)


def standing_copies(copies: RoundCopies, attempts: Sequence[Attempt]) -> RoundCopies:
    """The copies without those of attempts that were rejected: whoever still holds one of those did nothing wrong.

    A commitment and a list are known by their digest on the chain, a bundle by the commitment beside it.
    """
    rejected = [attempt for attempt in attempts if attempt.rejected]
    if not rejected:
        return copies
    # A lie in the list alone is rejected with a commitment that the next attempt may repeat.
    standing = [attempt for attempt in attempts if not attempt.rejected]
    digests = {attempt.commitment for attempt in rejected} - {attempt.commitment for attempt in standing}
    roots = {attempt.list_root for attempt in rejected} - {attempt.list_root for attempt in standing}
    kept = {name: dict(copies.of(name)) for name in ARTIFACTS}
    for holder, data in copies.commitment.items():
        if sha256(data).digest() in digests:
            del kept["commitment"][holder]
            if _holds_bundle_of(data, holder, copies.bundle):
                del kept["bundle"][holder]
    for holder, data in copies.list.items():
        if _root_of(data) in roots:
            del kept["list"][holder]
    return RoundCopies(*(kept[name] for name in ARTIFACTS))


def _holds_bundle_of(commitment: bytes, holder: str, bundles: Mapping[str, bytes]) -> bool:
    try:
        cid = Commitment.decode(commitment).bundle_cid
    except CommitmentError:
        return False
    return holder in bundles and cid[-32:] == sha256(bundles[holder]).digest()


def _root_of(data: bytes) -> bytes:
    try:
        return DistributionList.decode(data).root
    except DistributionError:
        return b""
