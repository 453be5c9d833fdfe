"""Keeps the replicas of each shard the same: range-based reconciliation (PROTOCOL §7) between those who share shards.

Two nodes first compare one digest over the shards they share; only if it differs, the fingerprints of the shards; then
what differs is narrowed down by `rounds.reconcile`, all shards at once. Whoever asks pushes what the other lacks and
fetches what it lacks itself, so one exchange makes both the same, with bytes in proportion to the difference.
"""

from __future__ import annotations

import random
from collections import Counter, OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

import structlog
import trio

from koii_p2p.data.collections import wire
from koii_p2p.data.collections.definition import Definition
from koii_p2p.data.collections.holding import TOKEN_HALF, Holding, Outcome
from koii_p2p.data.collections.reasons import DocumentError, DocumentReason
from koii_p2p.limits import Limits
from koii_p2p.network.network import LinkEvent, LinkUp, Network
from koii_p2p.network.requests import RequestFailed
from koii_p2p.rounds.range_messages import ReconcileError
from koii_p2p.rounds.reconcile import Reconciler

log = structlog.get_logger(__name__)

PEER_FAULTS: Final = (RequestFailed, DocumentError, ReconcileError)
"""What may go wrong with a peer, and costs no more than what was being asked of it."""

SYNC_SECONDS: Final = 10.0
SYNC_PEER_SECONDS: Final = 60.0
"""For one peer at a time: what it gave stays, and it is asked for the rest the next time. Others wait for it."""
SYNC_PEERS: Final = 3
SYNC_AT_ONCE: Final = 2
"""With whom at a time: what one peer gave need not be asked of the next."""
_DECLINED: Final = 65_536
_REMOVED_AT_ONCE: Final = 256


@dataclass(frozen=True, slots=True)
class ReplicationStatistics:
    """Counts since start. Bytes are those of questions and answers, without what the transport adds."""

    syncs: int
    failed: int
    bytes_sent: int
    bytes_received: int
    served_bytes_sent: int
    served_bytes_received: int
    pulled: int
    pushed: int
    handed_over: int
    purged: int


class Replicator:
    """Reconciles with peers: with each that connects, with a few every `pause` seconds, and when stakers change."""

    def __init__(
        self,
        holding: Holding,
        network: Network,
        random_source: random.Random,
        limits: Limits,
        *,
        pause: float = SYNC_SECONDS,
    ) -> None:
        self._holding = holding
        self._network = network
        self._random = random_source
        self._limits = limits
        self._pause = pause
        self.heard: dict[bytes, Definition] = {}
        """Collections that peers keep: the newest heard last."""
        self._declined: OrderedDict[bytes, None] = OrderedDict()
        self._due: set[bytes] = set()
        self._wake = trio.Event()
        self._in_step: dict[tuple[bytes, int], set[bytes]] = {}
        self._counts: Counter[str] = Counter()
        network.watch_links(self._on_link)

    # --- asking

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Reconcile until cancelled."""
        self._due = {peer.key for peer in self._network.peers()}
        task_status.started()
        while True:
            due = sorted(self._due & self._holding.stakers)
            self._due.clear()
            await self.sync(due)
            await self._purge()
            await self._hand_over()
            with trio.move_on_after(self._pause * (0.5 + self._random.random())) as scope:
                await self._wake.wait()
            self._wake = trio.Event()
            if scope.cancelled_caught:
                keys = sorted(peer.key for peer in self._network.peers())
                keys = [key for key in keys if key in self._holding.stakers]
                self._due |= set(self._random.sample(keys, min(SYNC_PEERS, len(keys))))

    def sync_soon(self, keys: Iterable[bytes]) -> None:
        """Reconcile with these peers next."""
        self._due.update(keys)
        self._wake.set()

    async def sync(self, keys: Sequence[bytes]) -> int:
        """Reconcile with peers, two at a time; returns with how many it was done. Raises `StorageError`."""
        done = 0
        room = trio.CapacityLimiter(SYNC_AT_ONCE)

        async def one(key: bytes) -> None:
            nonlocal done
            async with room:
                try:
                    with trio.fail_after(SYNC_PEER_SECONDS):
                        await self.sync_with(key)
                    done += 1
                except (*PEER_FAULTS, trio.TooSlowError) as error:
                    self._counts["failed"] += 1
                    self._due.add(key)  # next time again
                    log.debug("reconciliation failed", error=str(error))

        async with trio.open_nursery() as nursery:
            for key in keys:
                nursery.start_soon(one, key)
        return done

    async def sync_with(self, key: bytes) -> None:
        """Make the shards that we share with a peer the same, in every collection. Raises what `PEER_FAULTS` has."""
        for definition in await self._collections_of_both(key):
            await self._holding.place(definition)
            shards = self._shared(definition, key)
            if shards:
                await self._sync_collection(definition, shards, key)
        self._counts["syncs"] += 1

    def _shared(self, definition: Definition, key: bytes) -> list[int]:
        """Shards that the peer is to hold and we are to hold, or still have."""
        replicas = self._holding.replicas(definition)
        ours = self._holding.own_shards(definition) | self._holding.store.shard_counts(definition.id).keys()
        return [shard for shard in sorted(ours) if key in replicas[shard]]

    async def _collections_of_both(self, key: bytes) -> list[Definition]:
        """What we keep, and what the peer keeps: the first document that we are given of it opens it here."""
        ours = self._holding.store.definitions()
        question = wire.encode_collections(self._holding.task, _digest_of(ours))
        answer = await self._ask(key, wire.COLLECTIONS_PROTOCOL, question)
        theirs = wire.decode_definitions(answer, self._limits)
        for one in theirs:
            self.heard[one.id] = one
        while len(self.heard) > 4 * self._limits.collections:
            del self.heard[next(iter(self.heard))]
        return list({one.id: one for one in (*ours, *theirs)}.values())

    async def _sync_collection(self, definition: Definition, shards: list[int], key: bytes) -> None:
        own = self._holding.own_shards(definition)
        views = {shard: Reconciler(self._holding.view(definition, shard), self._limits) for shard in shards}
        questions = {shard: reconciler.initiate() for shard, reconciler in views.items()}
        request = wire.DifferRequest(
            self._holding.task, definition.id, bytes(shards), digest=_digest(questions.values())
        )
        answer = await self._ask(key, wire.DIFFER_PROTOCOL, wire.encode_differ(request))
        if wire.decode_strings(answer, 1, self._limits) != [b"same"]:
            while questions:
                questions = await self._round_trip(definition, questions, views, own, key)
        held = self._holding.store.shard_counts(definition.id)
        for shard in shards:
            # Only what is to be handed over: peers tell of any number of others.
            if shard in held and shard not in own:
                self._in_step.setdefault((definition.id, shard), set()).add(key)

    async def _round_trip(
        self,
        definition: Definition,
        questions: dict[int, bytes],
        views: dict[int, Reconciler],
        own: frozenset[int],
        key: bytes,
    ) -> dict[int, bytes]:
        """Ask about as many shards as have room, deal with what differs; returns the questions that are left."""
        asked = _first_that_fit(questions, self._limits)
        request = wire.DifferRequest(
            self._holding.task, definition.id, bytes(asked), tuple(questions[shard] for shard in asked)
        )
        reply = await self._ask(key, wire.DIFFER_PROTOCOL, wire.encode_differ(request))
        answers = wire.decode_strings(reply, len(asked), self._limits)
        if not answers:
            raise DocumentError(DocumentReason.BAD_MESSAGE, "No question was answered.")
        have: dict[int, list[bytes]] = {}
        need: dict[int, list[bytes]] = {}
        left = {shard: questions[shard] for shard in questions if shard not in asked[: len(answers)]}
        for shard, answer in zip(asked, answers, strict=False):
            step = views[shard].receive(answer)
            have[shard], need[shard] = list(step.have), list(step.need)
            if step.message is not None:
                left[shard] = step.message
        settled = await self._push(definition, need, key)
        for shard, tokens in have.items():
            if shard in own:
                await self._fetch(
                    definition, shard, [one for one in tokens if one[:TOKEN_HALF] not in settled], key
                )
        return dict(sorted(left.items()))

    async def _push(self, definition: Definition, need: dict[int, list[bytes]], key: bytes) -> set[bytes]:
        """Send what the peer lacks; returns (first halves of) the tokens of keys of which ours was the newer."""
        settled: set[bytes] = set()
        waiting = (
            (token, raw)
            for shard, tokens in need.items()
            for token in tokens
            if key + token not in self._declined
            for raw in self._holding.newest(definition, shard, token[:TOKEN_HALF])
        )
        for chunk in _chunks(waiting, self._limits):
            records = tuple(raw for _, raw in chunk)
            request = wire.PutRequest(self._holding.task, definition, records)
            answer = await self._ask(key, wire.PUT_PROTOCOL, wire.encode_put(request))
            outcomes = wire.decode_outcomes(answer, len(records), self._limits)
            for (token, _), outcome in zip(chunk, outcomes, strict=True):
                if outcome is True:
                    self._counts["pushed"] += 1
                    settled.add(token[:TOKEN_HALF])
                elif outcome is not False and outcome is not DocumentReason.TOO_EARLY:
                    self._decline(key + token)
        return settled

    async def _fetch(self, definition: Definition, shard: int, tokens: list[bytes], key: bytes) -> None:
        # Another peer may have sent some of them meanwhile.
        wanted = [
            token
            for token in tokens
            if key + token not in self._declined and not self._holding.has(definition, shard, token)
        ]
        position = 0
        while position < len(wanted):
            asked = wanted[position : position + self._limits.documents_per_request]
            request = wire.FetchRequest(
                self._holding.task, definition.id, shard, tuple(token[:TOKEN_HALF] for token in asked)
            )
            answer = await self._ask(key, wire.FETCH_PROTOCOL, wire.encode_fetch(request))
            records = wire.decode_strings(answer, len(asked), self._limits)
            outcomes = await self._holding.receive(definition, records, key)
            self._counts["pulled"] += sum(outcome is True for outcome in outcomes)
            for token, outcome in zip(asked, outcomes, strict=False):
                if isinstance(outcome, DocumentReason) and outcome is not DocumentReason.TOO_EARLY:
                    self._decline(key + token)
            position += max(len(records), 1)

    async def _ask(self, key: bytes, protocol: str, payload: bytes) -> bytes:
        self._counts["bytes_sent"] += len(payload)
        answer = await self._network.request(key, protocol, payload, deadline=self._limits.request_deadline)
        self._counts["bytes_received"] += len(answer)
        return answer

    def _decline(self, token: bytes) -> None:
        """Do not ask for, or offer, what was refused: it would be refused each time."""
        self._declined[token] = None
        while len(self._declined) > _DECLINED:
            self._declined.popitem(last=False)

    def _on_link(self, event: LinkEvent) -> None:
        # One exchange serves both, so it is the one who dialled that asks.
        if isinstance(event, LinkUp) and event.outgoing:
            self.sync_soon([event.key])

    # --- upkeep

    def placement_changed(self) -> None:
        """The stakers are others now: reconcile with all who share shards."""
        self._in_step.clear()
        self._declined.clear()
        self.sync_soon(peer.key for peer in self._network.peers())

    async def _purge(self) -> None:
        before = self._holding.slot() - self._limits.tombstone_slots
        for definition in self._holding.store.definitions() if before > 0 else ():
            for shard, count in self._holding.store.purge(definition.id, before).items():
                self._counts["purged"] += count
                self._holding.forget_view(definition.id, shard)
            await trio.lowlevel.checkpoint()

    async def _hand_over(self) -> None:
        """Drop a shard that is no longer ours once each of its replicas was in step with us since."""
        store, stakers = self._holding.store, self._holding.stakers
        for definition in store.definitions() if self._holding.stakers else ():
            await self._holding.place(definition)
            replicas, own = self._holding.replicas(definition), self._holding.own_shards(definition)
            for shard in sorted(store.shard_counts(definition.id).keys() - own):
                if replicas[shard] and set(replicas[shard]) <= self._in_step.get(
                    (definition.id, shard), set()
                ):
                    digests = [head.digest for head in store.heads(definition.id, shard)]
                    for start in range(0, len(digests), _REMOVED_AT_ONCE):
                        some = digests[start : start + _REMOVED_AT_ONCE]
                        self._counts["handed_over"] += store.remove(definition.id, shard, some)
                        self._holding.forget_view(definition.id, shard)
                        await trio.lowlevel.checkpoint()
                        if stakers is not self._holding.stakers:
                            return  # it may be ours again
                    self._in_step.pop((definition.id, shard), None)

    # --- answering

    async def collections(self, _asker: bytes, data: bytes) -> bytes:
        """Answer which collections we keep."""
        definitions = self._holding.store.definitions()
        if wire.decode_collections(data, self._limits) == _digest_of(definitions):
            definitions = ()
        return self._served(data, wire.encode_definitions(definitions, self._limits))

    async def put(self, asker: bytes, data: bytes) -> bytes:
        """Admit records. A collection that is not kept is opened for what a staker brings, or once one told of it."""
        request = wire.decode_put(data, self._limits)
        known = request.definition.id in self.heard or self._holding.store.definition(request.definition.id)
        if not known and not self._holding.store.was_staker(asker):
            refused: list[Outcome] = [DocumentReason.NOT_AN_AUTHOR] * len(request.records)
            return self._served(data, wire.encode_outcomes(refused))
        outcomes = await self._holding.receive(request.definition, request.records, asker)
        return self._served(data, wire.encode_outcomes(outcomes))

    async def differ(self, _asker: bytes, data: bytes) -> bytes:
        """Answer how shards differ. Of a collection or a shard that is not kept, there is nothing."""
        request = wire.decode_differ(data, self._limits)
        definition = self._holding.store.definition(request.collection)
        views: list[Reconciler] = []
        for shard in request.shards:
            known = definition is not None and shard < definition.shards
            items = self._holding.view(definition, shard) if known and definition is not None else ()
            views.append(Reconciler(items, self._limits))
            await trio.lowlevel.checkpoint()
        if not request.questions:
            same = _digest(view.initiate() for view in views) == request.digest
            return self._served(data, wire.encode_strings([b"same" if same else b"other"], self._limits))
        answers = (view.respond(question) for view, question in zip(views, request.questions, strict=True))
        return self._served(data, wire.encode_strings(answers, self._limits))

    async def fetch(self, _asker: bytes, data: bytes) -> bytes:
        """Answer with the newest versions of keys."""
        request = wire.decode_fetch(data, self._limits)
        definition = self._holding.store.definition(request.collection)
        if definition is None or request.shard >= definition.shards:
            return self._served(data, wire.encode_strings((), self._limits))
        found = (
            raw
            for digest in request.digests
            for raw in self._holding.newest(definition, request.shard, digest)
        )
        return self._served(data, wire.encode_strings(found, self._limits))

    def _served(self, question: bytes, answer: bytes) -> bytes:
        self._counts["served_bytes_received"] += len(question)
        self._counts["served_bytes_sent"] += len(answer)
        return answer

    def statistics(self) -> ReplicationStatistics:
        """Return the counts."""
        names = ReplicationStatistics.__dataclass_fields__
        return ReplicationStatistics(**{name: self._counts[name] for name in names})


def _first_that_fit(questions: dict[int, bytes], limits: Limits) -> list[int]:
    """Shards, ascending, whose questions and likely answers have room in one message; at least one."""
    chosen: list[int] = []
    room = limits.document_message_bytes // 4
    for shard, question in sorted(questions.items()):
        room -= max(wire.record_bytes(question), 2048)
        if chosen and room < 0:
            break
        chosen.append(shard)
    return chosen


def _chunks(waiting: Iterable[tuple[bytes, bytes]], limits: Limits) -> Iterable[list[tuple[bytes, bytes]]]:
    """What fits into one request each."""
    chunk: list[tuple[bytes, bytes]] = []
    size = 0
    most = limits.document_message_bytes - 2 * 64 * 1024
    for token, raw in waiting:
        if chunk and (len(chunk) == limits.documents_per_request or size + wire.record_bytes(raw) > most):
            yield chunk
            chunk, size = [], 0
        chunk.append((token, raw))
        size += wire.record_bytes(raw)
    if chunk:
        yield chunk


def _digest_of(definitions: Iterable[Definition]) -> bytes:
    return sha256(b"".join(sorted(one.id for one in definitions))).digest()


def _digest(questions: Iterable[bytes]) -> bytes:
    return sha256(b"".join(sha256(question).digest() for question in questions)).digest()
