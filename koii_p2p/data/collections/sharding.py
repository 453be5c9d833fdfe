"""Which shard a key is in, and which nodes hold a shard."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from koii_p2p.data.collections.definition import Definition
from koii_p2p.data.placement import holders_of

Placement = tuple[tuple[bytes, ...], ...]
"""Of each shard, the keys of the nodes that hold it."""

_SHARD: Final = b"koii-p2p/1 collection shard"


def shard_of(definition: Definition, digest: bytes) -> int:
    """The shard of a key with this digest (`document.key_digest`)."""
    return int.from_bytes(digest[:8], "big") % definition.shards


def replicas_of(definition: Definition, shard: int, stakers: Collection[bytes]) -> tuple[bytes, ...]:
    """Keys of the nodes that hold a shard, by rendezvous over the stakers (`placement.holders_of`); empty without any.

    As many as the definition says, or as there are; all of them if every staker holds everything. Takes one hash for
    each staker. The collection's id is the seed: a staker who leaves or comes moves its own shards only. Anybody who
    may choose keys can try keys before staking until one holds a certain shard; so a replica is never believed alone.
    """
    if not stakers:
        return ()
    if definition.full:
        return tuple(sorted(set(stakers)))
    found = holders_of(definition.id, _SHARD + bytes((shard,)), stakers, definition.replicas)
    return tuple(dict.fromkeys(found))


def placement_of(definition: Definition, stakers: Collection[bytes]) -> Placement:
    """`replicas_of` of every shard."""
    if definition.full:
        return (replicas_of(definition, 0, stakers),) * definition.shards
    return tuple(replicas_of(definition, shard, stakers) for shard in range(definition.shards))
