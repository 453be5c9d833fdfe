"""Availability audits: asking holders for leaves that nobody could know before, and what that says of a blob."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256
from typing import Final, TypeAlias

import trio

from koii_p2p.data import protocol
from koii_p2p.data.challenge import Finding, challenged_leaf, decode_answer, judge
from koii_p2p.data.fetching import MOST_ASKED, find, holdings
from koii_p2p.data.manifest import Manifest
from koii_p2p.data.protocol import ProtocolError
from koii_p2p.data.reasons import DataError
from koii_p2p.data.room import Found, Room
from koii_p2p.network.requests import RequestFailed
from koii_p2p.storage.shards import Place

BLOCKS_DRAWN: Final = 4
"""Blocks of a blob that an audit looks at; all of one that has no more."""
_DRAWN: Final = b"koii-p2p/1 data drawn"

_Claim: TypeAlias = tuple[bytes, Place]
"""A peer, and a shard that it holds, or is to hold."""


@dataclass(frozen=True, slots=True)
class Availability:
    """Whether a blob can be read, as far as k holders of each block drawn have shown their leaf; and why not."""

    available: bool
    why: str = ""


class Auditor:
    """Challenges holders and keeps count of how they do."""

    def __init__(self, room: Room) -> None:
        self._room = room

    async def challenge(
        self,
        holder: bytes,
        cid: bytes,
        manifest: Manifest,
        place: Place,
        beacon: bytes,
        draw: int = 0,
        *,
        claimed: bool = True,
    ) -> bool:
        """Whether a holder shows the leaf that it cannot have known before. No answer in time is a no.

        If it `claimed` to have the shard, two in a row lower its standing; bytes that are not the shard's do at once.
        """
        room, (block, shard) = self._room, place
        root, length = manifest.blocks[block].roots[shard], manifest.shard_length(block)
        if holder == room.own:
            return await room.shard(cid, place, manifest) is not None
        leaf = challenged_leaf(beacon, room.own, holder, root, length, draw)
        held = False
        try:
            reply = await room.ask(holder, protocol.CHALLENGE, protocol.encode_challenge(cid, place, leaf))
            shown = protocol.decode_shown(reply)
            if shown is not None:
                held = judge(decode_answer(shown), root, length, leaf) is Finding.HELD
                if not held:
                    room.blame(holder, "leaf")
        except (ProtocolError, DataError):
            room.blame(holder, "answer")
        except RequestFailed:
            held = False
        room.counts["challenges held" if held else "challenges failed"] += 1
        if claimed or held:
            room.holders.shown(holder, held)
        return held

    async def availability(self, task: bytes, cid: bytes, beacon: bytes) -> Availability:
        """Whether the blob with this CID, its manifest's or its bytes', can be read by whoever wants to.

        Of blocks drawn with the beacon, k shards must be held: each holder shows a leaf that is drawn with it as well.
        Holders are those that are to have a shard by the roster; where that does not do, because the roster has changed
        since the blob was put, also stakers that say they have it. Of these, none counts for more shards of a block
        than its part of the roster: who keeps a whole blob to itself has not put it.
        """
        room = self._room
        try:
            found = await find(room, cid)
            due = await room.due(task, found.cid, found.manifest)
        except DataError as error:
            return Availability(False, str(error))
        code, drawn = found.manifest.code, _drawn(beacon, cid, len(found.manifest.blocks))
        by_roster = {(due[block][shard], (block, shard)) for block in drawn for shard in range(code.shards)}
        shown = await self._shown(found, by_roster, beacon, claimed=False)
        counted = {place for _, place in shown}
        lacking = _lacking(counted, drawn, code.needed)
        if lacking:
            claims = await self._claims(task, found, {*lacking}) - by_roster
            claims = {claim for claim in claims if claim[1] not in counted}
            part = -(-code.shards // max(1, len(room.members(task))))
            counted |= _parts(await self._shown(found, claims, beacon, claimed=True), part)
            lacking = _lacking(counted, drawn, code.needed)
        if not lacking:
            return Availability(True)
        block, count = next(iter(lacking.items()))
        return Availability(
            False, f"{count} holders of block {block} showed their leaf; {code.needed} are needed."
        )

    async def _shown(
        self, found: Found, asked: Iterable[_Claim], beacon: bytes, *, claimed: bool
    ) -> set[_Claim]:
        """Which holders showed their leaf. Who is to hold a shard may have been away when it was put, and has not
        `claimed` to have it.
        """
        shown: set[_Claim] = set()

        async def ask(holder: bytes, place: Place) -> None:
            if await self.challenge(holder, found.cid, found.manifest, place, beacon, claimed=claimed):
                shown.add((holder, place))

        async with trio.open_nursery() as nursery:
            for holder, place in asked:
                nursery.start_soon(ask, holder, place)
        return shown

    async def _claims(self, task: bytes, found: Found, blocks: set[int]) -> set[_Claim]:
        """What stakers say that they hold of some blocks."""
        claims: set[_Claim] = set()

        async def ask(key: bytes) -> None:
            said = await holdings(self._room, key, task, [(found.cid, 0, found.manifest)])
            claims.update((key, place) for place in said.get(found.cid, ()) if place[0] in blocks)

        room = self._room
        async with trio.open_nursery() as nursery:
            for key in room.holders.best_first(room.members(task) - {room.own})[:MOST_ASKED]:
                nursery.start_soon(ask, key)
        return claims


def _lacking(held: set[Place], drawn: list[int], needed: int) -> dict[int, int]:
    """Of which blocks too few shards are held, and how many."""
    counts = {block: sum(place[0] == block for place in held) for block in drawn}
    return {block: count for block, count in counts.items() if count < needed}


def _parts(shown: set[_Claim], part: int) -> set[Place]:
    """The shards that were shown, where nobody counts for more than its part of a block; the rarest are given first."""
    holders = Counter(place for _, place in shown)
    given: Counter[tuple[bytes, int]] = Counter()
    counted: set[Place] = set()
    for holder, place in sorted(shown, key=lambda one: (holders[one[1]], one)):
        if place not in counted and given[holder, place[0]] < part:
            given[holder, place[0]] += 1
            counted.add(place)
    return counted


def _drawn(beacon: bytes, cid: bytes, blocks: int) -> list[int]:
    """Some blocks that nobody could choose."""
    return sorted(
        range(blocks), key=lambda one: sha256(_DRAWN + beacon + cid + one.to_bytes(4, "big")).digest()
    )[:BLOCKS_DRAWN]
