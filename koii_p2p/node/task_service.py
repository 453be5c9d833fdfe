"""One task at one node: drives its `RoundEngine` and carries out what the engine asks for."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from hashlib import sha256

import structlog
import trio
from solders.pubkey import Pubkey
from solders.signature import Signature

from koii_p2p.errors import ChainError
from koii_p2p.limits import Limits
from koii_p2p.network.gossip import GossipVerdict
from koii_p2p.network.network import Network
from koii_p2p.node import behaviours, exchange
from koii_p2p.node.announcing import announce
from koii_p2p.node.behaviours import Behaviour
from koii_p2p.node.data_spaces import TaskData
from koii_p2p.node.forks import blockhashes_after
from koii_p2p.node.own_words import OwnWords
from koii_p2p.node.pulling import PEER_FAULTS, Puller
from koii_p2p.node.recalling import Recall
from koii_p2p.node.record_trace import untraced
from koii_p2p.node.settling import settle_round
from koii_p2p.node.slots import HOLDOVER_SECONDS, SlotClock
from koii_p2p.node.staking import stake_when_active
from koii_p2p.node.task_life import is_idle, rests, say_changes, say_closed, say_unheard
from koii_p2p.node.turns import LateTurns
from koii_p2p.records.envelope import Verified, sign
from koii_p2p.records.keys import SecretKey
from koii_p2p.records.schema import Kind, Presence
from koii_p2p.records.seals import decode_opening, encode_opening
from koii_p2p.records.sightings import Way
from koii_p2p.rounds import events
from koii_p2p.rounds.admission import Action as Judgement
from koii_p2p.rounds.admission import Source
from koii_p2p.rounds.engine import SUBMITTER, RoundEngine
from koii_p2p.rounds.events import Action, Event
from koii_p2p.rounds.reconcile import Reconciler
from koii_p2p.rounds.role import Role
from koii_p2p.rounds.roster import roster_at
from koii_p2p.rounds.terms import TaskTerms
from koii_p2p.rounds.topics import KINDS_OF_TOPIC, PRESENCE, TOPIC_OF_KIND, TOPICS, topic_name
from koii_p2p.settlement.interface import ClosedTaskState, Settlement, TaskState
from koii_p2p.settlement.refusals import AlreadyAnchored, AlreadyVetoed, ClosedTask, NotCarried
from koii_p2p.storage.artifacts import Artifact, Artifacts
from koii_p2p.storage.faults import StorageError
from koii_p2p.storage.journal import BelowFloor, SigningJournal
from koii_p2p.storage.record_log import RecordLog
from koii_p2p.tasks.audit_reasons import evidence_of
from koii_p2p.tasks.runner import TaskRunner
from koii_p2p.tasks.runner import TaskStatistics as RunnerStatistics

log = structlog.get_logger(__name__)

_PRIVATE = b"koii-p2p/1 private"

TASK_AGAIN_SECONDS = 1.0
"""After a task's work failed, so long until it is tried again in the same period; twice as long each time."""
CHAIN_POLL_SLOTS = 5
CHAIN_POLL_SECONDS = 0.5
"""The chain is read every `CHAIN_POLL_SLOTS` slots, but not more often than this."""

ANCHORED = (Artifact.COMMITMENT, Artifact.BUNDLE, Artifact.LIST)
PROPOSED = (Artifact.PROPOSED_COMMITMENT, Artifact.PROPOSED_BUNDLE, Artifact.PROPOSED_LIST)

VERDICTS = {
    Judgement.ACCEPT: GossipVerdict.ACCEPT,
    Judgement.IGNORE: GossipVerdict.IGNORE,
    Judgement.REJECT: GossipVerdict.REJECT,
}


@dataclass(frozen=True, slots=True)
class TaskStores:
    """Where one node keeps what its tasks say and decide."""

    records: RecordLog
    journal: SigningJournal
    artifacts: Artifacts


@dataclass(frozen=True, slots=True)
class TaskSettings:
    """`claim_every`: rounds between claims of our own reward; slashes are proved as they fall due.

    `settles`: whether leaves can be proved to K2 at all; `commits_late`: whether K2 takes commitments in the
    distribution window only. `stake` brings our stake up to what is wanted as soon as the task takes stakes; None if
    nothing is left to be staked. `also_at` are addresses to be told beside those of the network; `trace` is
    told of each record that is published (way None) or admitted.
    """

    behaviour: Behaviour = Behaviour.HONEST
    role: Role = SUBMITTER
    claim_every: int = 10
    settles: bool = True
    commits_late: bool = False
    stake: Callable[[], Awaitable[None]] | None = None
    also_at: Callable[[], tuple[str, ...]] = tuple
    trace: Callable[[Verified, Way | None], None] = untraced


@dataclass(frozen=True, slots=True)
class TaskStatistics:
    """Counts since start: actions carried out and failed by name, and the last failure of each.

    `not_carried`: actions that the carrier has no means for, and why; they are not failures.
    """

    done: dict[str, int]
    failed: dict[str, int]
    last_failures: dict[str, str]
    not_carried: dict[str, str]


class TaskService:
    """Feeds the engine slots, chain state, records and results; performs its actions, each contained to itself."""

    def __init__(
        self,
        terms: TaskTerms,
        *,
        genesis: bytes,
        secret: SecretKey,
        settlement: Settlement,
        network: Network,
        runner: TaskRunner,
        stores: TaskStores,
        slots: SlotClock,
        settings: TaskSettings,
        random_source: random.Random,
        limits: Limits,
    ) -> None:
        self.terms = terms
        self.name = str(Pubkey(terms.task))
        self.engine = RoundEngine(
            terms,
            genesis,
            secret.public_key,
            private=sha256(_PRIVATE + secret.seed).digest(),
            role=settings.role,
            limits=limits,
        )
        self.runner = runner
        self.state: TaskState | None = None
        self.closed: ClosedTaskState | None = None
        self.data: TaskData | None = None
        self._genesis = genesis
        self._secret = secret
        self._settlement = settlement
        self._network = network
        self._stores = stores
        self._slots = slots
        self._settings = settings
        self._random = random_source
        self._limits = limits
        self._puller = Puller(
            terms.task,
            self.engine,
            network,
            random_source,
            limits,
            keep=partial(self._keep, way=Way.RECONCILIATION),
            handle=self._handle,
            failed=self._count_failure,
        )
        self.hear_presence = partial(self._validate, PRESENCE, b"")
        self._own_words = OwnWords(genesis, secret, stores.journal)
        self._late_turns = LateTurns(terms.clock, late=settings.commits_late)
        self._recall = Recall(self.engine, network, self._puller, self._catch_up)
        self._doing: set[Action] = set()
        self._done: dict[str, int] = {}
        self._failed: dict[str, int] = {}
        self._last_failures: dict[str, str] = {}
        self._not_carried: dict[str, str] = {}
        self._chain_stale = trio.Event()
        self._joined = False
        self._over = trio.Event()
        self._disk_error: StorageError | None = None
        self._nursery: trio.Nursery | None = None

    # --- life

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Work on every round until cancelled, or until the task is closed: then `closed` says so.

        Ready when the task's worker runs and the chain was read.
        """
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            try:
                await nursery.start(self.runner.run)
                self._handle(events.SlotAdvanced(self._slots.now()))
                self._begin()
                self._restore()
                await self._read_chain()
                await self._join_topics()
                nursery.start_soon(self._recall.run)
                nursery.start_soon(self._follow_slots)
                nursery.start_soon(self._follow_chain)
                nursery.start_soon(self._announce)
                if (stake := self._settings.stake) is not None:
                    nursery.start_soon(stake_when_active, stake, self._is_active, self._count_failure)
                nursery.start_soon(self._flee)
                task_status.started()
                await self._over.wait()
                if self._disk_error is not None:
                    raise self._disk_error
                nursery.cancel_scope.cancel()
            finally:
                self._nursery = None

    async def _join_topics(self) -> None:
        if not self._joined:
            self._joined = True
            for topic in TOPICS:
                await self._network.join_topic(topic_name(self.name, topic), partial(self._validate, topic))

    def _restore(self) -> None:
        """Feed the engine what an earlier run of this node stored of the rounds still in flight."""
        for number in self.engine.rounds():
            for raw, slot in self._stores.records.of_round(self.terms.task, number):
                # As from reconciliation: some came that way, after their windows.
                self.engine.receive(raw, Source.SYNC, slot)
            opening = self._stores.artifacts.get(self.terms.task, number, Artifact.OPENING)
            if opening is not None:
                self._handle(events.OpeningRead(number, decode_opening(opening)))

    def _begin(self) -> None:
        """Note from when on our key speaks here, and nowhere else: before a word of it is heard from a peer."""
        slot, period = self.engine.slot, self.terms.clock.period(self.engine.slot)
        self._own_words.begin(slot, period, int(HOLDOVER_SECONDS / self._slots.slot_seconds))
        self._recall.begin()

    def _catch_up(self, numbers: Iterable[int]) -> None:
        if self._listens:
            self._own_words.catch_up(self.engine, numbers)

    @property
    def _listens(self) -> bool:
        """Whether this node listens for words of its key that it didn't say. One that lies twice would hear itself."""
        return self._settings.behaviour is not Behaviour.EQUIVOCATING

    def statistics(self) -> TaskStatistics:
        """Counters for `status`, metrics and tests."""
        return TaskStatistics(
            dict(self._done), dict(self._failed), dict(self._last_failures), dict(self._not_carried)
        )

    def worker_statistics(self) -> RunnerStatistics:
        """Counters of the task's worker process."""
        return self.runner.statistics()

    # --- facts into the engine

    def _handle(self, event: Event) -> None:
        behaviours.excuse_own_lies(self._settings.behaviour, self.engine, self._secret.public_key)
        self._dispatch(self.engine.handle(event))

    async def _follow_slots(self) -> None:
        period = -1
        async for slot in self._slots.each_slot():
            # Without K2's word on the slot, lateness cannot be judged: stand still rather than vote.
            if not self._slots.trusted:
                continue
            self._handle(events.SlotAdvanced(slot))
            if self._settings.behaviour is Behaviour.HONEST:
                self._own_words.refuse_doubles(self.engine)
            self._misbehave()
            if self.terms.clock.period(slot) > period:
                period = self.terms.clock.period(slot)
                say_unheard(self.name, self.engine.coverage())
                self._forget(period)
            self.runner.set_clock(slot, max(period, 0))

    def _forget(self, period: int) -> None:
        task, limits = self.terms.task, self._limits
        self._stores.records.forget_before(task, max(period - limits.rounds_kept, 0))
        self._stores.artifacts.forget_before(task, max(period - limits.artifact_rounds_kept, 0))
        self._late_turns.forget_before(period - limits.rounds_kept)

    async def _follow_chain(self) -> None:
        while True:
            with trio.move_on_after(self._chain_pause()):
                await self._chain_stale.wait()
            self._chain_stale = trio.Event()
            try:
                await self._read_chain()
            except ChainError as error:
                self._count_failure("read chain", error)

    def _chain_pause(self) -> float:
        return max(CHAIN_POLL_SECONDS, CHAIN_POLL_SLOTS * self._slots.slot_seconds)

    async def _read_chain(self) -> None:
        before = self.state
        try:
            self.state = await self._settlement.task_state(self.terms.task)
        except ClosedTask as error:
            if self.closed is None:
                self.closed = error.state
                say_closed(self.name, error.state)
            self._over.set()
            return
        say_changes(self.name, before, self.state)
        self._handle(events.AnchorsRead(self.state.rounds))
        if before is None:
            for number in sorted(self.state.rounds):
                self._read_own_artifacts(number)

    def _is_active(self) -> bool:
        return self.state is not None and self.state.active

    def _read_own_artifacts(self, number: int) -> None:
        """Give the engine what we stored of a round: what K2 vouched for, or our proposal, which may have landed."""
        for kinds in (ANCHORED, PROPOSED):
            self._handle(self._stored(number, kinds))

    def _stored(self, number: int, kinds: tuple[Artifact, Artifact, Artifact]) -> events.ArtifactsRead:
        commitment, bundle, distribution = (self.artifact(number, kind) for kind in kinds)
        return events.ArtifactsRead(number, commitment, bundle, distribution)

    async def _work(self, number: int) -> None:
        # Again, for what may have failed is not the task's: a node that has just started knows nobody yet.
        wait = TASK_AGAIN_SECONDS
        while not await self.runner.task(number) and self.terms.clock.period(self.engine.slot) <= number:
            await trio.sleep(wait)
            wait *= 2

    # --- records from peers

    def _validate(self, topic: str, _sender: bytes, data: bytes) -> GossipVerdict:
        if not self._slots.trusted or self.closed is not None:
            return GossipVerdict.IGNORE
        judgement, record = self.engine.receive(data, Source.GOSSIP, kinds=KINDS_OF_TOPIC[topic])
        if record is not None:
            self._keep(record, Way.GOSSIP)
        return VERDICTS[judgement]

    def _keep(self, record: Verified, way: Way | None = None) -> None:
        body = record.statement.body
        if way is not None:
            self._settings.trace(record, way)
        try:
            if self._listens:
                self._own_words.hear(record)
            if isinstance(body, Presence):
                if record.author != self._secret.public_key:
                    self._network.learn(record.author, body.addresses)
                return
            self._stores.records.put(record, self.engine.slot)
        except StorageError as error:
            # We may be inside the network's read loop, which contains errors; this one must end the node.
            self._disk_error = error
            self._over.set()
            return
        if record.kind in (Kind.COMMITMENT_NOTICE, Kind.LIST_NOTICE):
            self._chain_stale.set()

    # --- actions out of the engine

    def _dispatch(self, actions: list[Action]) -> None:
        for action in actions:
            if not behaviours.withholds(self._settings.behaviour, action):
                self._start(action)

    def _start(self, action: Action) -> None:
        held_back = rests(self.state, action) or self._late_turns.is_early(action, self.engine.slot)
        if self._nursery is not None and action not in self._doing and not held_back:
            self._doing.add(action)
            self._nursery.start_soon(self._perform, action)

    async def _perform(self, action: Action) -> None:
        name = type(action).__name__
        try:
            await self._carry_out(action)
            self._done[name] = self._done.get(name, 0) + 1
        except StorageError:
            raise
        except BelowFloor as silence:  # asked for again until the window ends: what the operator wants
            log.info("not signed", task=self.name, action=name, why=str(silence))
        except NotCarried as error:
            self._say_not_carried(name, error)
        except PEER_FAULTS as error:
            self._count_failure(name, error)
        finally:
            self._doing.discard(action)

    def _count_failure(self, name: str, error: Exception) -> None:
        self._failed[name] = self._failed.get(name, 0) + 1
        self._last_failures[name] = str(error)
        log.warning("not done", task=self.name, action=name, error=str(error))

    def _say_not_carried(self, name: str, error: NotCarried) -> None:
        """Say once what the carrier cannot do. It is no failure, and whatever else the round needs goes on."""
        if name not in self._not_carried:
            log.warning("not carried", task=self.name, action=name, error=str(error))
        self._not_carried[name] = str(error)

    async def _carry_out(self, action: Action) -> None:
        match action:
            case events.ReadRoster():
                await self._read_roster(action)
            case events.ReadBlockhash():
                read, now = self._settlement.blockhash_after, self._slots.now
                async for blockhash in blockhashes_after(action.slot, read, now, self._chain_pause):
                    self._handle(events.BlockhashRead(action.round, blockhash))
            case events.RunTask():
                await self._work(action.round)
            case events.MakeSubmission():
                made = await self.runner.submission(action.round)
                value = behaviours.submitted_value(self._settings.behaviour, made)
                if action.canary:
                    value = behaviours.bad_value(made)
                self._handle(events.SubmissionMade(action.round, value))
            case events.AuditSubmission():
                audit = partial(self.runner.audit, action.value, action.round, action.author)
                verdict, detail = await (
                    audit() if self.data is None else self.data.audited(action.value, audit)
                )
                if detail:
                    log.info(
                        "audited", task=self.name, round=action.round, verdict=verdict.name, detail=detail
                    )
                why = evidence_of(detail)
                self._handle(events.AuditMade(action.round, action.submission_id, verdict, why))
            case events.MakeDistribution():
                amounts = await self.runner.distribution(action.submitters, action.bounty, action.round)
                if amounts is not None:
                    self._handle(events.DistributionMade(action.round, amounts))
            case events.SignAndPublish():
                await self._sign_and_publish(action)
            case events.Reconcile():
                await self._puller.records(action.round)
            case events.FetchArtifacts():
                self._read_own_artifacts(action.round)
                await self._puller.artifacts(action.round)
            case events.KeepArtifacts():
                parts = (action.commitment, action.bundle, action.list)
                self._store(action.round, dict(zip(ANCHORED, parts, strict=True)))
                if self.data is not None:
                    await self.data.keep_evidence(parts[:2])
            case events.KeepRecord():
                self._keep(action.record, Way.LATER)
            case events.AnchorCommitment():
                await self._anchor_commitment(action)
            case events.AnchorList():
                await self._anchor_list(action)
            case events.Veto():
                await self._veto(action)
            case events.RoundSettled() if self._settings.settles:
                own, claim_every = self._secret.public_key, self._settings.claim_every
                chain, until = self._settlement, self._sleep_until
                await settle_round(action, self.terms, chain, own, claim_every, until)

    async def _read_roster(self, action: events.ReadRoster) -> None:
        opens = self.terms.clock.work(action.round).opens
        # Only a chain that has reached the period can say who was staked when it began.
        if await self._settlement.slot() < opens:
            return
        # What was read before the period began may be from before its creator paused the task, or went on with it.
        if is_idle(await self._settlement.task_state(self.terms.task), action.round):
            return
        histories = await self._settlement.stakes(self.terms.task)
        roster = roster_at(histories, action.round, self.terms)
        self._handle(events.RosterRead(roster))

    async def _sign_and_publish(self, action: events.SignAndPublish) -> None:
        statement = action.statement
        if statement.kind is not Kind.PRESENCE:
            await self._recall.known(statement.round)
            self._catch_up([statement.round])
            if self._listens:
                self._own_words.refuse_doubles(self.engine)
        if action.opening is not None and self.artifact(statement.round, Artifact.OPENING) is None:
            self._store(statement.round, {Artifact.OPENING: encode_opening(action.opening)})
        record = self._own_words.sign(statement)
        _judgement, accepted = self.engine.receive(record.raw, Source.OWN)
        if accepted is not None:
            self._keep(accepted)
        await self._publish(record)
        second = behaviours.second_statement(self._settings.behaviour, statement)
        if second is not None:
            await self._publish(sign(second, self._genesis, self._secret))

    async def _publish(self, record: Verified) -> None:
        self._settings.trace(record, None)
        await self._network.publish(topic_name(self.name, TOPIC_OF_KIND[record.kind]), record.raw)

    def _misbehave(self) -> None:
        behaviour, key = self._settings.behaviour, self._secret.public_key
        for statement in behaviours.late_accusations(behaviour, self.engine, key):
            self._start(events.SignAndPublish(statement))
        self._dispatch(behaviours.hasty_anchors(behaviour, self.engine, key))

    async def _flee(self) -> None:
        behaviour, key = self._settings.behaviour, self._secret.public_key
        await behaviours.flee(behaviour, self.engine, self._settlement, key, self._slots, self._count_failure)

    def _store(self, number: int, found: Mapping[Artifact, bytes | None]) -> None:
        for kind, data in found.items():
            if data is not None:
                self._stores.artifacts.put(self.terms.task, number, kind, data)

    # --- answering peers

    def reconcile(self, number: int, question: bytes) -> bytes:
        """The answer to a peer's question on how our records of a round differ. Raises `ReconcileError`."""
        return Reconciler(self.engine.item_set(number), self._limits).respond(question)

    def records(self, request: exchange.RecordsRequest) -> bytes:
        """The encoded records that a peer asked for, as far as we hold them."""
        return exchange.encode_records(self.engine.records_of(request.round, request.ids), self._limits)

    def artifacts(self, number: int) -> bytes:
        """The encoded artifacts we hold of a round."""
        found = self._stored(number, ANCHORED)
        return exchange.encode_artifacts(exchange.Artifacts(found.commitment, found.bundle, found.list))

    def artifact(self, number: int, kind: Artifact) -> bytes | None:
        """One stored artifact of a round, or None."""
        return self._stores.artifacts.get(self.terms.task, number, kind)

    def presences(self) -> bytes:
        """The encoded presences we know."""
        return exchange.encode_records((record.raw for record in self.engine.presences()), self._limits)

    async def _announce(self) -> None:
        await announce(
            self.engine,
            self._listening_at,
            lambda statement: self._dispatch([events.SignAndPublish(statement)]),
            self._puller.presences,
            lambda: self._slots.slot_seconds,
            self._random,
            self._limits,
        )

    def _listening_at(self) -> tuple[str, ...] | None:
        return (*self._settings.also_at(), *self._network.addresses) if self._network.listening else None

    # --- anchors and settlement

    async def _anchor_commitment(self, asked: events.AnchorCommitment) -> None:
        behaviour, key = self._settings.behaviour, self._secret.public_key
        action = behaviours.committed_instead(behaviour, asked, self.engine, key)
        self._store(
            action.round,
            {Artifact.PROPOSED_COMMITMENT: action.commitment, Artifact.PROPOSED_BUNDLE: action.bundle},
        )
        try:
            receipt = await self._settlement.anchor_commitment(
                self.terms.task, action.round, action.digest, action.attempt
            )
        except AlreadyAnchored:
            log.info("the round was committed by another leader", task=self.name, round=action.round)
        else:
            log.info("commitment anchored", task=self.name, round=action.round, signature=receipt.signature)
            signature = bytes(Signature.from_string(receipt.signature))
            self._handle(events.CommitmentAnchored(action.round, signature))
        self._chain_stale.set()

    async def _anchor_list(self, action: events.AnchorList) -> None:
        self._store(action.round, {Artifact.PROPOSED_LIST: action.list})
        try:
            receipt = await self._settlement.anchor_list(
                self.terms.task,
                action.round,
                action.root,
                action.reward_total,
                action.slash_total,
                action.attempt,
            )
        except AlreadyAnchored:
            log.info("the list was anchored by another leader", task=self.name, round=action.round)
        else:
            log.info("list anchored", task=self.name, round=action.round, signature=receipt.signature)
            signature = bytes(Signature.from_string(receipt.signature))
            self._handle(events.ListAnchored(action.round, signature))
        self._chain_stale.set()

    async def _veto(self, action: events.Veto) -> None:
        try:
            receipt = await self._settlement.veto(self.terms.task, action.round, action.attempt)
        except AlreadyVetoed:
            log.info("the list was rejected without us", task=self.name, round=action.round)
        else:
            log.info("vetoed", task=self.name, round=action.round, signature=receipt.signature)
        self._chain_stale.set()

    async def _sleep_until(self, slot: int) -> None:
        while (left := slot - self._slots.now()) > 0:
            await trio.sleep(max(left * self._slots.slot_seconds, 0.02))
