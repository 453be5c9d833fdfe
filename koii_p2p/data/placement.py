"""Which node holds which shard of a block, and what to copy or make again when nodes come and go.

Rendezvous hashing (Thaler and Ravishankar, "Using name-based mappings to increase hit rates", 1998), in lanes: the
hash of (seed, block, key) puts every node of the roster into one of n lanes, one for each shard, and ranks it there;
the first of lane i holds shard i. Holders differ by construction, since nobody is in two lanes. A node that leaves
hands its shard to the next of its lane, and one that comes takes over the lane whose first it is: nothing else moves.
Taking the n best of one list would be as even, but then everybody behind a leaver moves up and gets another shard.

A lane may be empty when there are few nodes (of 100 nodes and 8 shards, once in 80 000 blocks; of 20, often). It
borrows the node that ranks best for it among those who hold nothing. With fewer nodes than shards, shards are dealt in
runs as long as the roster: nobody has more than one shard more than another.

Every node counts once, whatever its stake. A shard is the same work for everybody; stake says nothing of disks; shares
by stake would gather shards on few nodes, and it is different holders that make loss improbable; and every stake or
slash would move data. The price: one who splits a stake into many minimum stakes has as many places, and it takes
n - k + 1 of a block's n holders to destroy it. Keys that were staked before the seed was drawn cannot have been made
for a block; one who stakes later can try keys, about N of them, until one is the first of a lane.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from hashlib import sha256
from typing import Final

from koii_p2p.data.durability import repair_margin
from koii_p2p.data.erasure import Code
from koii_p2p.data.reasons import DataError, DataReason
from koii_p2p.rounds.roster import MAX_ENTRIES

_LANE: Final = b"koii-p2p/1 data lane"
_LENT: Final = b"koii-p2p/1 data lent"


def holders_of(seed: bytes, block: bytes, keys: Collection[bytes], shards: int) -> tuple[bytes, ...]:
    """Key of the node that is to hold each shard of the block with this CID: one for each shard, in their order.

    `seed` is public and not known before the keys are fixed, such as the beacon of the round in which the blob is put;
    who is looking for a shard must have the same. Takes one hash for each key. Holders differ if there are as many
    keys as shards. Raises `DataError` for no keys, or more than a roster has.
    """
    names = sorted(set(keys))
    if not names:
        raise DataError(DataReason.NO_HOLDERS)
    if len(names) > MAX_ENTRIES:
        raise DataError(
            DataReason.TOO_MANY_HOLDERS, f"{len(names)} holders; a roster has {MAX_ENTRIES} at most."
        )
    found: list[bytes] = []
    while len(found) < shards:
        found += _run(seed + block, names, min(len(names), shards - len(found)))
    return tuple(found)


def _run(domain: bytes, names: Sequence[bytes], lanes: int) -> list[bytes]:
    """Different holders for as many shards; there are no more lanes than names."""
    first: list[tuple[bytes, bytes] | None] = [None] * lanes
    for name in names:
        digest = sha256(_LANE + domain + name).digest()
        lane = int.from_bytes(digest[:16], "big") % lanes
        rank = (digest[16:], name)
        standing = first[lane]
        if standing is None or rank > standing:
            first[lane] = rank
    holders = {lane: rank[1] for lane, rank in enumerate(first) if rank is not None}
    empty = [lane for lane in range(lanes) if lane not in holders]
    if empty:
        _lend(domain, names, empty, holders)
    return [holders[lane] for lane in range(lanes)]


def _lend(domain: bytes, names: Sequence[bytes], empty: Sequence[int], holders: dict[int, bytes]) -> None:
    """Give every empty lane one of those who hold nothing: of all such pairs the one with the best hash, and so on."""
    busy = set(holders.values())
    offers = sorted(
        (sha256(_LENT + domain + lane.to_bytes(2, "big") + name).digest(), lane, name)
        for name in names
        if name not in busy
        for lane in empty
    )
    for _, lane, name in reversed(offers):
        if lane not in holders and name not in busy:
            holders[lane] = name
            busy.add(name)


class Health(Enum):
    """How a block is doing. Better first."""

    PLACED = "placed"
    """Every shard is live where it belongs."""
    SCATTERED = "scattered"
    """Shards are missing or elsewhere, but so few that it can wait: k + margin are live."""
    WEAK = "weak"
    """Fewer than k + margin are live: what is missing is to be made again now."""
    LOST = "lost"
    """Fewer than k are live: the block cannot be read, unless a holder comes back."""


@dataclass(frozen=True, slots=True)
class Copy:
    """One shard to be fetched by `target`, where it belongs, from `source`, which has it."""

    shard: int
    source: bytes
    target: bytes


@dataclass(frozen=True, slots=True)
class Repair:
    """What there is to do for one block.

    `copies` are shards that are live, but not where they belong; whoever has them may drop them afterwards. `rebuilt`
    are shards that are nowhere, with the holders that they belong to; they are made of those in `read`, k shards with
    one holder of each. These two are empty unless the block is weak.
    """

    health: Health
    live: int
    copies: tuple[Copy, ...] = ()
    rebuilt: tuple[tuple[int, bytes], ...] = ()
    read: tuple[tuple[int, bytes], ...] = ()

    @property
    def shards_sent(self) -> int:
        """Shards that cross the network when one node, who is a holder of none, does all of it."""
        return len(self.copies) + len(self.read) + len(self.rebuilt)


def plan_repair(
    code: Code, due: Sequence[bytes], held: Mapping[int, Collection[bytes]], margin: int | None = None
) -> Repair:
    """What to copy and what to make again, given the due holder of each shard and the live holders of each.

    `margin` spare shards are wanted; half of n - k, as in `durability.repair_margin`, when it is left out. The same
    facts give the same plan, so nodes that repair at the same time do the same. Raises `DataError` for another number
    of due holders than shards, or a shard that the code does not have.
    """
    if len(due) != code.shards or any(not 0 <= shard < code.shards for shard in held):
        raise DataError(DataReason.UNKNOWN_SHARD, f"Holders of other shards than those of {code}.")
    sources = {
        shard: due[shard] if due[shard] in keys else min(keys) for shard, keys in sorted(held.items()) if keys
    }
    live = len(sources)
    if live < code.needed:
        return Repair(Health.LOST, live)
    astray = [shard for shard in sources if due[shard] not in held[shard]]
    missing = [shard for shard in range(code.shards) if shard not in sources]
    copies = tuple(Copy(shard, sources[shard], due[shard]) for shard in astray)
    wanted = code.needed + (repair_margin(code) if margin is None else margin)
    if live >= min(wanted, code.shards):
        return Repair(Health.SCATTERED if astray or missing else Health.PLACED, live, copies)
    return Repair(
        Health.WEAK,
        live,
        copies,
        tuple((shard, due[shard]) for shard in missing),
        tuple(sources.items())[: code.needed],
    )
