"""One simulated node: a real `RoundEngine` and a real `GossipRouter`, and what a node does to carry out their actions.

What it does is what `node.task_service`, `node.pulling` and `network.gossip_driver` do, without trio, sockets and
disks. Its processor takes no time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from hashlib import sha256
from random import Random
from typing import TYPE_CHECKING, Final

from koii_p2p.gossip.effects import Deliver, Disconnect, Effect, Send
from koii_p2p.gossip.effects import Verdict as Judged
from koii_p2p.gossip.message_id import content_id
from koii_p2p.gossip.peers import Protocol
from koii_p2p.gossip.router import GossipRouter
from koii_p2p.gossip.wire import unframed
from koii_p2p.lab.behaviours.behaviour import Behaviour
from koii_p2p.lab.chain import SimulatedChain
from koii_p2p.lab.clockwork import MILLISECOND
from koii_p2p.lab.links import Full
from koii_p2p.lab.observer import Handed, Meter
from koii_p2p.lab.pulling import Puller
from koii_p2p.lab.scenario import Group
from koii_p2p.lab.work import Truth, Work, looked
from koii_p2p.records.envelope import Verified, sign
from koii_p2p.records.equivocation import Place, place_of
from koii_p2p.records.keys import SecretKey
from koii_p2p.records.schema import BallotReveal, Kind, Presence, Statement, Verdict
from koii_p2p.rounds import events
from koii_p2p.rounds.admission import Action as Judgement
from koii_p2p.rounds.admission import Source
from koii_p2p.rounds.commitment import BuiltRound
from koii_p2p.rounds.distribution import default_distribution
from koii_p2p.rounds.engine import RoundEngine
from koii_p2p.rounds.role import Role
from koii_p2p.rounds.roster import Roster
from koii_p2p.rounds.terms import TaskTerms
from koii_p2p.rounds.topics import KINDS_OF_TOPIC, TOPIC_OF_KIND

if TYPE_CHECKING:
    from koii_p2p.lab.simulation import Simulation

GENESIS: Final = sha256(b"koii-p2p/lab").digest()

_JUDGED: Final = {
    Judgement.ACCEPT: Judged.ACCEPT,
    Judgement.IGNORE: Judged.IGNORE,
    Judgement.REJECT: Judged.REJECT,
}
_MEASURES: Final = 1 << 16


class _Wire:
    """One direction of one link, from when it comes up until it ends: what is on its way then does not arrive."""

    __slots__ = ("is_open", "receiver")

    def __init__(self, receiver: SimulatedNode) -> None:
        self.receiver = receiver
        self.is_open = True


class SimulatedNode:
    """A node of a simulation. `number` is its place in the scenario's crew."""

    def __init__(
        self,
        simulation: Simulation,
        number: int,
        secret: SecretKey,
        group: Group,
        skew: int,
    ) -> None:
        self.simulation = simulation
        self.number = number
        self.secret = secret
        self.key = secret.public_key
        self.group = group
        self.skew = skew
        self.random = Random(f"{simulation.seed} node {number}")
        self.meter = Meter()
        self.running = False
        self.incarnation = 0
        """How often it was started: what was asked by an earlier run is not answered to a later one."""
        self.links: dict[int, bool] = {}
        """Linked nodes -> whether we dialled them."""
        self._wires: dict[bytes, _Wire] = {}
        self.behaviours: tuple[Behaviour, ...] = ()
        self.role = Role()
        self.stored: dict[bytes, tuple[bytes, int]] = {}
        self.openings: dict[int, BallotReveal] = {}
        self.signed: dict[Place, Statement] = {}
        self.artifacts: dict[int, events.KeepArtifacts] = {}
        self.proposed: dict[int, events.KeepArtifacts] = {}
        self._framed: tuple[bytes, bytes] = (b"", b"")
        self._basis: tuple[tuple[int, Roster | None, BuiltRound | None, int], ...] = ()
        self._told: Mapping[bytes, float] = {}
        self._puller: Puller
        self.engine: RoundEngine
        self.router: GossipRouter

    # --- facts

    @property
    def terms(self) -> TaskTerms:
        """Terms of the task."""
        return self.simulation.terms

    @property
    def chain(self) -> SimulatedChain:
        """K2."""
        return self.simulation.chain

    @property
    def cast(self) -> Mapping[bytes, tuple[str, ...]]:
        """Names of the behaviours of every node, by key."""
        return self.simulation.cast

    @property
    def genesis(self) -> bytes:
        """K2's genesis hash."""
        return GENESIS

    @property
    def numbers(self) -> Mapping[bytes, int]:
        """Numbers of all nodes, by key."""
        return self.simulation.number_of

    def is_adversary(self, key: bytes) -> bool:
        """Whether the node of a key breaks the rules."""
        return not self.simulation.nodes[self.simulation.number_of[key]].honest

    @property
    def honest(self) -> bool:
        """Whether it breaks no rules."""
        return not self.group.misbehaves

    def neighbours(self) -> tuple[int, ...]:
        """Numbers of the nodes that it is linked to now, sorted."""
        return tuple(sorted(self.links))

    def hooks(self, number: int) -> tuple[Behaviour, ...]:
        """The behaviours that are in force in a round."""
        return self.behaviours if number >= self.group.start_round else ()

    @property
    def period(self) -> int:
        """The period that its slot is in."""
        return self.terms.clock.period(self.engine.slot)

    @property
    def _now_ms(self) -> int:
        return self.simulation.clock.now // MILLISECOND

    # --- life

    def start(self) -> None:
        """Start, or start again with what was stored."""
        simulation = self.simulation
        self.running = True
        self.incarnation += 1
        self._puller = Puller(self)
        self._basis, self._told = (), {}
        self.engine = RoundEngine(
            self.terms, GENESIS, self.key, private=sha256(self.secret.seed).digest(), role=self.role
        )
        router_seed = f"{simulation.seed} router {self.number} {self.incarnation}"
        parameters = simulation.gossip_parameters
        self.router = GossipRouter(parameters, Random(router_seed), content_id, own=self.key)
        for topic in simulation.topics:
            self.perform(self.router.subscribe(topic, self._now_ms))
        self.feed(events.SlotAdvanced(simulation.slot_of(self)))
        for raw, received in self.stored.values():
            self._judge_record(raw, Source.SYNC, received)
        for number, opening in self.openings.items():
            self.feed(events.OpeningRead(number, opening))
        self.read_chain()
        for number in sorted(self.artifacts):
            self._read_own_artifacts(number)

    def stop(self, *, records_lost: bool = False) -> None:
        """Stop as by a crash; with `records_lost` nothing is left but the key and the signing journal."""
        self.running = False
        self.meter.duplicates += self.duplicates_now()
        if records_lost:
            self.stored.clear()

    def duplicates_now(self) -> int:
        """Messages that the router of this run had already when they came."""
        return sum(topic.duplicates for topic in self.router.statistics().topics)

    def tick(self) -> None:
        """A slot begins, by this node's clock."""
        if not self.running:
            return
        slot = self.simulation.slot_of(self)
        self.meter.slots += 1
        self.feed(events.SlotAdvanced(slot))
        for behaviour in self.hooks(self.period):
            behaviour.tick(slot)
        if (slot + self.number) % self.simulation.scenario.chain.read_every == 0:
            self.read_chain()
        self._score_peers()

    def read_chain(self) -> None:
        """Read what K2 holds."""
        slot = self.simulation.chain_slot - self.simulation.lag_of(self)
        self.feed(events.AnchorsRead(self.chain.at(slot), slot))

    def forget_before(self, number: int) -> None:
        """Forget what was stored of rounds before this one."""
        oldest = self.terms.clock.work(max(number, 0)).opens
        self.stored = {key: kept for key, kept in self.stored.items() if kept[1] >= oldest}
        self.openings = {kept: opening for kept, opening in self.openings.items() if kept >= number}
        for artifacts in (self.artifacts, self.proposed):
            for old in [old for old in artifacts if old < number]:
                del artifacts[old]

    # --- links

    def linked(self, peer: int, outbound: bool) -> None:
        """A link to a peer is there."""
        self.links[peer] = outbound
        if self.simulation.direct:
            return
        other = self.simulation.nodes[peer]
        key, now = other.key, self._now_ms
        self._wires[key] = _Wire(other)
        self.perform(self.router.peer_joined(key, Protocol.MESHSUB_1_2, outbound, None, now))
        if score := self._told.get(key):
            self.router.set_application_score(key, score)

    def unlinked(self, peer: int) -> None:
        """A link is gone."""
        if self.links.pop(peer, None) is None:
            return
        key = self.simulation.nodes[peer].key
        if (wire := self._wires.pop(key, None)) is not None:
            wire.is_open = False
            if self.running:
                self.perform(self.router.peer_left(key, self._now_ms))

    def heartbeat(self) -> None:
        """Let the router keep its meshes up."""
        if self.running:
            self.perform(self.router.heartbeat(self._now_ms))

    def _score_peers(self) -> None:
        """Tell the router what the task thinks of its peers (P5), when it thinks anew."""
        states = [
            state for number in self.engine.rounds() if (state := self.engine.round(number)) is not None
        ]
        basis = tuple((state.round, state.roster, state.built, len(state.evidence)) for state in states)
        if all(
            old[0] == new[0] and old[1] is new[1] and old[2] is new[2] and old[3] == new[3]
            for old, new in zip(self._basis, basis, strict=False)
        ) and len(basis) == len(self._basis):
            return
        self._basis = basis
        roster = next((state.roster for state in reversed(states) if state.roster is not None), None)
        if roster is None:
            return
        built = [state.built for state in states if state.built is not None]
        convicted = {key for state in states for key in state.evidence}
        found = self.simulation.standings(roster, built, frozenset(convicted))
        for peer in self.links:
            key = self.simulation.nodes[peer].key
            if self._told.get(key, 0.0) != found.get(key, 0.0):
                self.router.set_application_score(key, found.get(key, 0.0))
        self._told = found

    # --- gossip

    def perform(self, effects: Iterable[Effect]) -> None:
        """Carry out what the router asks for."""
        for effect in effects:
            kind = type(effect)
            if kind is Send:
                self._send(effect)  # type: ignore[arg-type]
            elif kind is Deliver:
                self._deliver(effect)  # type: ignore[arg-type]
            elif kind is Disconnect:
                self.simulation.disconnect(self.number, self.simulation.number_of[effect.peer])

    def _send(self, send: Send) -> None:
        wire = self._wires.get(send.peer)
        if wire is None:
            return
        frame, rpc = self._framed
        if frame is not send.frame:
            # A frame for several peers is one object: it is taken out of its length once.
            rpc = unframed(send.frame)
            self._framed = (send.frame, rpc)
        size, simulation, meter = len(send.frame), self.simulation, self.meter
        try:
            arrives = simulation.links.arrival(self.number, wire.receiver.number, size, simulation.clock.now)
        except Full:
            if send.message_ids:
                self.router.not_sent(send)
            return
        meter.sent_bytes += size
        meter.sent_frames += 1
        if arrives is None:
            wire.receiver.meter.lost_frames += 1
        else:
            simulation.clock.at(arrives, partial(self._arrive, wire, rpc, size))

    def _arrive(self, wire: _Wire, rpc: bytes, size: int) -> None:
        """A frame of ours reaches the other end of a link, if that is still there."""
        receiver = wire.receiver
        if not wire.is_open or not receiver.running:
            return
        meter = receiver.meter
        meter.received_bytes += size
        meter.received_frames += 1
        effects = receiver.router.receive(self.key, rpc, self.simulation.clock.now // MILLISECOND)
        if effects:
            receiver.perform(effects)

    def _deliver(self, deliver: Deliver) -> None:
        kinds = KINDS_OF_TOPIC[self.simulation.topics[deliver.topic]]
        judgement, record = self._judge_record(deliver.data, Source.GOSSIP, kinds=kinds)
        verdict = _JUDGED[judgement]
        if record is not None and not all(one.forwards(record) for one in self.hooks(record.round)):
            verdict = Judged.IGNORE
        self.perform(self.router.judge(deliver.message_id, verdict, self._now_ms))

    # --- records

    def hear(self, raw: bytes, source: Source) -> Verified | None:
        """Take in one record, and store it if it is admitted."""
        return self._judge_record(raw, source)[1]

    def _judge_record(
        self,
        raw: bytes,
        source: Source,
        slot: int | None = None,
        *,
        kinds: frozenset[Kind] | None = None,
    ) -> tuple[Judgement, Verified | None]:
        meter, counted = self.meter, self.simulation.shared
        before = counted.verified
        judgement, record = self.engine.receive(raw, source, slot, kinds=kinds)
        meter.records += 1
        meter.heard += source is Source.GOSSIP
        meter.verified += counted.verified - before
        if record is not None and slot is None:
            self._keep(record, heard=source is not Source.OWN)
        return judgement, record

    def _keep(self, record: Verified, *, heard: bool = True) -> None:
        if record.kind is Kind.PRESENCE:
            return
        self.stored[record.id] = (record.raw, self.engine.slot)
        if heard and record.author != self.key:
            self.simulation.observer.arrived(record, self.simulation.clock.now)

    def say(self, statement: Statement) -> Verified:
        """Sign as a node with its journal does: what was said for a place is said again to the letter."""
        place = place_of(statement)
        if place is not None:
            statement = self.signed.setdefault(place, statement)
        self.meter.signed += 1
        return sign(statement, GENESIS, self.secret)

    def publish(self, record: Verified, to: frozenset[int] | None = None) -> None:
        """Gossip a record; straight to some nodes only, if they are named."""
        simulation = self.simulation
        simulation.observer.published(record, self.number, simulation.clock.now, simulation.running - 1)
        if simulation.direct:
            simulation.spread(self, record, to)
            return
        topic = simulation.topic_names[TOPIC_OF_KIND[record.kind]]
        effects = self.router.publish(topic, record.raw, self._now_ms)
        if to is not None:
            effects = [
                one for one in effects if not isinstance(one, Send) or simulation.number_of[one.peer] in to
            ]
        self.perform(effects)

    def take_in(self, record: Verified, slot: int) -> None:
        """Hold an own record as if it had been received in that slot."""
        _judgement, held = self.engine.receive(record.raw, Source.OWN, slot)
        if held is not None:
            self.stored[record.id] = (record.raw, slot)

    def announce(self) -> None:
        """Say that this node is there."""
        slot = self.engine.slot
        if self.running and slot >= 0:
            addresses = (
                f"/ip4/10.{self.number >> 16}.{self.number >> 8 & 255}.{self.number & 255}/tcp/4000",
            )
            body = Presence(addresses, roles=0, software="koii_p2p", free_bytes=0)
            self.do(events.SignAndPublish(Statement(self.terms.task, max(self.period, 0), slot, slot, body)))

    # --- the engine

    def feed(self, event: events.Event) -> None:
        """Tell the engine a fact, and carry out what it asks for."""
        counted = self.simulation.shared
        before = counted.verified
        actions = self.engine.handle(event)
        self.meter.verified += counted.verified - before
        for action in actions:
            self.do(action)

    def do(self, action: events.Action) -> None:
        """Carry out an action."""
        match action:
            case events.ReadRoster(round=number):
                if (
                    self.simulation.chain_slot - self.simulation.lag_of(self)
                    >= self.terms.clock.work(number).opens
                ):
                    self.feed(events.RosterRead(self.chain.roster(number)))
            case events.ReadBlockhash(round=number, slot=wanted):
                if self.simulation.chain_slot - self.simulation.lag_of(self) >= wanted:
                    self.simulation.before_beacon(number, wanted)
                    self.feed(events.BlockhashRead(number, self.chain.blockhash(wanted)))
            case events.MakeSubmission():
                self._submit(action)
            case events.AuditSubmission():
                self._audit(action)
            case events.MakeDistribution(round=number, submitters=submitters, bounty=bounty):
                amounts = default_distribution(submitters, bounty, self.terms.slash_basis_points)
                self.feed(events.DistributionMade(number, amounts))
            case events.SignAndPublish():
                self._speak(action)
            case events.Reconcile(round=number):
                self._puller.records(number, self.simulation.scenario.protocol.reconcile_peers)
            case events.FetchArtifacts(round=number):
                self._read_own_artifacts(number)
                self._puller.artifacts(number, self.simulation.scenario.protocol.artifact_peers)
            case events.KeepRecord(record=record):
                self._keep(record)
            case events.KeepArtifacts():
                self._merge(self.artifacts, action)
            case events.AnchorCommitment():
                self._anchor_commitment(action)
            case events.AnchorList():
                self._anchor_list(action)
            case events.Veto():
                self.simulation.send_transaction(self, partial(self._vetoed, action))
            case events.RoundSettled():
                self.simulation.settled(self, action)
            case events.RunTask():
                pass

    def _submit(self, action: events.MakeSubmission) -> None:
        number = action.round
        if number >= self.simulation.scenario.rounds:
            # The experiment is over; what is left of it is settled in the rounds after the last.
            self.feed(events.SubmissionMade(number, None))
            return
        work = Work(Truth.CANARY if action.canary else Truth.RIGHT, number, self.number)
        for behaviour in self.hooks(number):
            work = behaviour.work(number, work)
        observer = self.simulation.observer
        if (number, self.number) not in observer.handed:
            self.meter.works += work.truth is Truth.RIGHT
            observer.handed[number, self.number] = Handed(work, self.simulation.clock.now, b"")
        self.feed(events.SubmissionMade(number, work.value()))

    def _audit(self, action: events.AuditSubmission) -> None:
        look: Callable[[], Verdict] = partial(self._look, action)
        for behaviour in self.hooks(action.round):
            look = behaviour.verdict(action, look)
        self.feed(events.AuditMade(action.round, action.submission_id, look()))

    def _look(self, action: events.AuditSubmission) -> Verdict:
        self.meter.audits += 1
        if self.honest:
            self.simulation.observer.looks[action.round, action.author] += 1
        return looked(action.value, self.number, self.simulation.seed)

    def _speak(self, action: events.SignAndPublish) -> None:
        said: events.SignAndPublish | None = action
        number = action.statement.round
        for behaviour in self.hooks(number):
            said = None if said is None else behaviour.says(said)
        if said is None:
            return
        if said.opening is not None:
            self.openings.setdefault(number, said.opening)
        record = self.say(said.statement)
        self.hear(record.raw, Source.OWN)
        self.publish(record)
        for behaviour in self.hooks(number):
            behaviour.said(record)

    # --- K2

    def _anchor_commitment(self, asked: events.AnchorCommitment) -> None:
        action: events.AnchorCommitment | None = asked
        for behaviour in self.hooks(asked.round):
            action = None if action is None else behaviour.commits(action)
        if action is None:
            return
        kept = events.KeepArtifacts(action.round, action.commitment, action.bundle)
        self._merge(self.proposed, kept)
        self.simulation.send_transaction(self, partial(self._committed, action))

    def _committed(self, action: events.AnchorCommitment, slot: int) -> bool:
        if not self.chain.commit(slot, self.key, action):
            return False
        if self.running:
            self.feed(events.CommitmentAnchored(action.round, sha256(action.digest).digest() * 2))
            self.read_chain()
        return True

    def _anchor_list(self, asked: events.AnchorList) -> None:
        action: events.AnchorList | None = asked
        for behaviour in self.hooks(asked.round):
            action = None if action is None else behaviour.lists(action)
        if action is None:
            return
        self._merge(self.proposed, events.KeepArtifacts(action.round, list=action.list))
        self.simulation.send_transaction(self, partial(self._listed, action))

    def _listed(self, action: events.AnchorList, slot: int) -> bool:
        if not self.chain.list(slot, self.key, action):
            return False
        if self.running:
            self.feed(events.ListAnchored(action.round, sha256(action.root).digest() * 2))
            self.read_chain()
        return True

    def _vetoed(self, action: events.Veto, slot: int) -> bool:
        return self.chain.veto(slot, self.key, action)

    # --- artifacts

    def _merge(self, into: dict[int, events.KeepArtifacts], found: events.KeepArtifacts) -> None:
        kept = into.get(found.round, events.KeepArtifacts(found.round))
        into[found.round] = events.KeepArtifacts(
            found.round,
            found.commitment or kept.commitment,
            found.bundle or kept.bundle,
            found.list or kept.list,
        )

    def _read_own_artifacts(self, number: int) -> None:
        for kept in (self.artifacts.get(number), self.proposed.get(number)):
            if kept is not None:
                self.feed(events.ArtifactsRead(number, kept.commitment, kept.bundle, kept.list))

    def serve(self, number: int) -> events.KeepArtifacts | None:
        """The artifacts of a round that it hands out to who asks."""
        kept = self.artifacts.get(number)
        for behaviour in self.hooks(number):
            kept = None if kept is None else behaviour.serves(kept)
        return kept
