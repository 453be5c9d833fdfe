"""Looking after blobs: terms, re-placement, repair and audits, in turns.

Every node brings what does not belong to it (any more) to where it belongs. Making lost shards anew is for one node:
the holders of a blob have an order that all of them know, and the first takes a census of the others now and then. Who
is asked in a census thereby knows that somebody looks after the blob; when that has not been heard for as many turns as
a holder's place in the order, and one, it is its turn. Each looks for itself now and then, whatever it hears, so that
one who counts and does nothing keeps a blob from being repaired for a while only.

Between a census and the repair that follows from it lies the repair of everything before. So a blob is counted again
right before each block that is made anew: what others have brought meanwhile is seen, and they hear that somebody is at
work. One who took its turn although another comes before it, and hears that one count, leaves the blob to it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

import structlog
import trio

from koii_p2p.data.auditing import Auditor
from koii_p2p.data.blob import Verdict, check_shard
from koii_p2p.data.erasure import rebuild
from koii_p2p.data.fetching import Reader, holdings
from koii_p2p.data.manifest import Manifest
from koii_p2p.data.placement import Health, Repair, plan_repair
from koii_p2p.data.putting import Placer
from koii_p2p.data.reasons import DataError
from koii_p2p.data.room import Found, Room, in_thread
from koii_p2p.storage.faults import StorageError
from koii_p2p.storage.shards import Place, StoredBlob

log = structlog.get_logger(__name__)

_LOOKS_ANYWAY: Final = 8
"""Turns after which a holder takes a census though others do."""
_AUDITS_A_TURN: Final = 32


@dataclass(slots=True)
class _Looked:
    """When a blob was counted last, by anybody and by this node."""

    heard: float
    own: float
    leaders: frozenset[bytes] = frozenset()
    """Who comes before this node in the order of the blob's holders."""
    led: float = float("-inf")
    """When one of these counted it last."""


@dataclass(slots=True)
class _Case:
    """One blob that this node looks after now."""

    task: bytes
    cid: bytes
    until: int
    manifest: Manifest
    due: tuple[tuple[bytes, ...], ...]
    held: dict[Place, set[bytes]] = field(default_factory=dict)
    without: set[bytes] = field(default_factory=set)
    """Who is to have the manifest, answered, and does not know the blob."""
    unshown: set[tuple[Place, bytes]] = field(default_factory=set)
    """Shards that a holder says it has, and did not show."""
    since: float = 0.0
    """When this node took its turn."""
    anyway: bool = False
    """Whether it did so although others count."""


@dataclass(frozen=True, slots=True)
class UpkeepStatistics:
    """Turns taken, blobs counted by this node, and the state in which it found blocks in its last turn."""

    turns: int
    counted: int
    placed: int
    scattered: int
    weak: int
    lost: int


class Pace:
    """Spends at most so many bytes a second in the long run."""

    def __init__(self, bytes_per_second: int) -> None:
        self._rate = bytes_per_second
        self._free_at = 0.0

    async def ready(self) -> None:
        """Wait for what was spent before."""
        await trio.sleep(max(self._free_at - trio.current_time(), 0.0))

    async def spend(self, count: int) -> None:
        """Wait for what was spent before, then spend this."""
        now = trio.current_time()
        wait, self._free_at = self._free_at - now, max(now, self._free_at) + count / self._rate
        await trio.sleep(max(wait, 0.0))


class Upkeep:
    """The turns of one node."""

    def __init__(self, room: Room, auditor: Auditor) -> None:
        self._room = room
        self._auditor = auditor
        self._looked: dict[bytes, _Looked] = {}
        self._pace = Pace(room.limits.data_repair_bytes_per_second)
        self._next = b""
        self._turns = self._counted = 0
        self._lasted = 0.0
        self._health: dict[Health, int] = {}

    def counted(self, asker: bytes, cid: bytes) -> None:
        """Hear that another node took a census of a blob."""
        looked = self._looked.get(cid)
        if looked is not None:
            looked.heard = trio.current_time()
            if asker in looked.leaders:
                looked.led = looked.heard

    async def run(self) -> None:
        """Take turns until cancelled. A disk that fails ends a turn, and nothing else of the node."""
        while True:
            await trio.sleep(self._room.limits.data_upkeep_seconds)
            began = trio.current_time()
            try:
                await self.turn()
                self._lasted = trio.current_time() - began
            except StorageError as error:
                self._room.counts["turns ended by the disk"] += 1
                log.error("task data was not looked after", error=str(error))

    async def turn(self) -> None:
        """Remove what is over; bring, count, audit and repair some of the blobs that are here."""
        room = self._room
        self._turns += 1
        self._health = {}
        await room.collect()
        blobs = self._slice(await in_thread(room.store.blobs))
        by_task: dict[bytes, list[_Case]] = {}
        for blob in blobs:
            if not room.members(blob.task):
                continue
            manifest = await room.manifest(blob.cid)
            if manifest is None:
                continue
            await self._renew(blob)
            try:
                await self._bring(blob, manifest)
                due = await room.due(blob.task, blob.cid, manifest)
            except DataError as error:
                log.info("not looked after", error=str(error))
                continue
            case = _Case(blob.task, blob.cid, blob.until, manifest, due)
            if self._is_our_turn(case):
                by_task.setdefault(blob.task, []).append(case)
        for task, cases in by_task.items():
            await self._census(task, cases)
            await self._audit(task, cases)
            for case in cases:
                await self._repair(case)

    async def held(self, found: Found, *, until: int) -> dict[Place, set[bytes]]:
        """Who says that it has which shard of one blob, asked now; holders are to keep it to the round `until`."""
        room, task = self._room, found.task
        if task is None or not room.members(task):
            return {}
        due = await room.due(task, found.cid, found.manifest)
        case = _Case(task, found.cid, until, found.manifest, due)
        await self._census(task, [case])
        return case.held

    def statistics(self) -> UpkeepStatistics:
        """What was done, and found."""
        return UpkeepStatistics(
            self._turns, self._counted, *(self._health.get(health, 0) for health in Health)
        )

    # --- inside

    def _slice(self, everything: list[StoredBlob]) -> list[StoredBlob]:
        """The blobs of this turn: some, going on where the last turn ended."""
        known = {blob.cid for blob in everything}
        for cid in [cid for cid in self._looked if cid not in known]:
            del self._looked[cid]
        most = self._room.limits.data_upkeep_blobs
        after = [blob for blob in everything if blob.cid > self._next]
        some = (after + everything[: len(everything) - len(after)])[:most]
        self._next = some[-1].cid if some and len(everything) > most else b""
        return some

    async def _renew(self, blob: StoredBlob) -> None:
        """Extend the term of what is pinned here, well before it ends; the next census tells the holders."""
        room = self._room
        now, most = room.spaces[blob.task].round(), room.limits.data_most_rounds
        if blob.pinned and blob.until < now + most // 2:
            await in_thread(lambda: room.store.set_term(blob.cid, now + most))
            looked = self._looked.get(blob.cid)
            if looked is not None:
                looked.own = float("-inf")

    async def _bring(self, blob: StoredBlob, manifest: Manifest) -> None:
        """Bring what is here and belongs elsewhere to where it belongs."""
        room = self._room
        due = await room.due(blob.task, blob.cid, manifest)
        astray = sum(length for (block, shard), length in blob.held.items() if due[block][shard] != room.own)
        if not astray or blob.cid in room.placing:
            return
        await self._pace.spend(astray)
        placer = Placer(room, blob.task, blob.cid, manifest, blob.until)
        placed = await placer.place()
        room.counts["bytes moved"] += placer.sent
        if placed.waiting:
            log.info("shards wait for their holders", shards=placed.waiting)

    def _is_our_turn(self, case: _Case) -> bool:
        """Whether this node is to count this blob now."""
        room, now = self._room, trio.current_time()
        looked = self._looked.setdefault(case.cid, _Looked(now, now))
        order = room.keepers(case.cid, (key for block in case.due for key in block))
        rank = order.index(room.own) if room.own in order else len(order)
        # Where turns take long here, those of others do as well: nobody is silent because there is much to repair.
        turn = room.limits.data_upkeep_seconds + 2 * self._lasted
        looked.leaders = frozenset(order[:rank])
        others_count = rank > 0 and now - looked.heard < (1 + rank) * turn
        if others_count and now - looked.own < (_LOOKS_ANYWAY + rank) * turn:
            return False
        case.since, case.anyway = now, others_count
        looked.heard = looked.own = now
        return True

    async def _census(self, task: bytes, cases: list[_Case]) -> None:
        """Ask all holders of some blobs what they have, each once for all blobs."""
        room = self._room
        asked: dict[bytes, list[_Case]] = {}
        for case in cases:
            keys = {key for block in case.due for key in block}
            keys |= await room.index_of(task, case.cid, case.manifest)
            for key in keys - {room.own}:
                asked.setdefault(key, []).append(case)
            for place in blob.held if (blob := room.store.blob(case.cid)) is not None else ():
                case.held.setdefault(place, set()).add(room.own)

        async def ask(key: bytes, about: list[_Case]) -> None:
            question = [(case.cid, case.until, case.manifest) for case in about]
            found = await holdings(room, key, task, question)
            for case in about:
                if case.cid not in found and not room.holders.rests(key):
                    case.without.add(key)
                for place in found.get(case.cid, ()):
                    case.held.setdefault(place, set()).add(key)

        async with trio.open_nursery() as nursery:
            for key in room.holders.best_first(asked):
                nursery.start_soon(ask, key, asked[key])
        self._counted += len(cases)

    async def _audit(self, task: bytes, cases: list[_Case]) -> None:
        """Challenge one holder of each blob, and note as not there what it does not show."""
        room, beacon = self._room, self._room.spaces[task].seed()
        chosen: list[tuple[_Case, Place, bytes]] = []
        for case in cases:
            claims = sorted(
                (place, key) for place, keys in case.held.items() for key in keys if key != room.own
            )
            if claims:
                chosen.append((case, *claims[(self._turns * 7919 + len(chosen)) % len(claims)]))

        async def challenge(case: _Case, place: Place, key: bytes) -> None:
            if not await self._auditor.challenge(
                key, case.cid, case.manifest, place, beacon, self._turns % 2**32
            ):
                case.unshown.add((place, key))

        start = self._turns * _AUDITS_A_TURN % max(len(chosen), 1)
        async with trio.open_nursery() as nursery:
            for case, place, key in (chosen[start:] + chosen[:start])[:_AUDITS_A_TURN]:
                nursery.start_soon(challenge, case, place, key)

    async def _repair(self, case: _Case) -> None:
        """Make anew what is missing of each block that is weak; tell those with whom the manifest is looked for."""
        manifest = case.manifest
        told = Placer(self._room, case.task, case.cid, manifest, case.until)
        for key in case.without & await self._room.index_of(case.task, case.cid, manifest):
            await told.send(key, [])
        for block in range(len(manifest.blocks)):
            plan = self._plan(case, block)
            self._health[plan.health] = self._health.get(plan.health, 0) + 1
            if not plan.rebuilt:
                continue
            try:
                await self._pace.ready()
                await self._count_again(case)
                lost = [shard for shard, _ in self._plan(case, block).rebuilt]
                if lost and self._is_led(case):
                    self._room.counts["repairs left to others"] += 1
                elif lost:
                    await self._make_anew(case, block, lost)
            except (DataError, StorageError) as error:
                self._room.counts["repairs failed"] += 1
                log.warning("a block was not repaired", block=block, error=str(error))

    def _plan(self, case: _Case, block: int) -> Repair:
        """What there is to do for a block, by what its holders said last."""
        held: dict[int, set[bytes]] = {}
        for shard in range(case.manifest.code.shards):
            place = (block, shard)
            held[shard] = {
                key
                for key in case.held.get(place, ())
                if (place, key) not in case.unshown and self._counts_as_live(key)
            }
        return plan_repair(case.manifest.code, case.due[block], held)

    def _counts_as_live(self, key: bytes) -> bool:
        return key == self._room.own or not self._room.holders.is_gone(key)

    async def _count_again(self, case: _Case) -> None:
        """Take a census of one blob right before a block of it is made anew. Raises `DataError` if nobody is there."""
        case.due = await self._room.due(case.task, case.cid, case.manifest)
        case.held = {}
        await self._census(case.task, [case])

    def _is_led(self, case: _Case) -> bool:
        """Whether one who comes before this node has begun to look after the blob since this node did."""
        looked = self._looked.get(case.cid)
        return looked is not None and not case.anyway and looked.led >= case.since

    async def _make_anew(self, case: _Case, block: int, lost: list[int]) -> None:
        room, manifest = self._room, case.manifest
        length = manifest.shard_length(block)
        await self._pace.spend(length * (manifest.code.needed + len(lost)))
        have = await Reader(room, Found(case.cid, manifest, case.task)).block(block)
        made = await in_thread(lambda: rebuild(manifest.code, have, lost, length))
        room.counts["repair bytes read"] += length * len(have)
        for shard, data in zip(lost, made, strict=True):
            if check_shard(manifest, block, shard, data) is not Verdict.TAKEN:
                room.counts["false manifests"] += 1
                log.warning("a blob's author lied: its shards do not make up each other", block=block)
                return
        placer = Placer(room, case.task, case.cid, manifest, case.until)
        for place, data in zip(((block, shard) for shard in lost), made, strict=True):
            if await self._hand_over(case, placer, place, data):
                room.counts["shards repaired"] += 1
        room.counts["repair bytes sent"] += placer.sent

    async def _hand_over(self, case: _Case, placer: Placer, place: Place, data: bytes) -> bool:
        """Bring one shard to its holder, or to the next who takes it."""
        room, task = self._room, case.task
        refusing = frozenset(_unable(room, task))
        for _ in range(3):
            if not room.members(task, refusing):
                return False
            due = await room.due(task, case.cid, case.manifest, refusing)
            holder = due[place[0]][place[1]]
            if holder == room.own:
                await room.keep(task, lambda: room.store.put_shards(case.cid, {place: data}))
                return True
            if await placer.send(holder, [(place, data)]):
                return True
            refusing |= {holder}
        return False


def _unable(room: Room, task: bytes) -> Iterable[bytes]:
    return (key for key in room.members(task) if key != room.own and not room.holders.takes(key))
