"""A net of simulated nodes, the links between them, and K2: the exact engine of the lab.

Everything random follows from the seed, everything happens in the order of `clockwork`, and nothing depends on the
order of hashes: a run is bit-identical for (code, scenario, seed).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from hashlib import sha256
from random import Random
from typing import Final, TypeVar

from koii_p2p.gossip.parameters import GossipParameters
from koii_p2p.lab.behaviours.rules import behaviours_of
from koii_p2p.lab.chain import SimulatedChain
from koii_p2p.lab.clockwork import MILLISECOND, SECOND, Clockwork
from koii_p2p.lab.links import Full, Links
from koii_p2p.lab.observer import Final as FinalRound
from koii_p2p.lab.observer import Observer
from koii_p2p.lab.progress import Told, nobody
from koii_p2p.lab.scenario import Group, Partition, Scenario, Transport
from koii_p2p.lab.shared_work import SharedWork, shared
from koii_p2p.lab.simulated_node import SimulatedNode
from koii_p2p.lab.topology import degrees_of, random_dials, shortest_ways
from koii_p2p.lab.transactions import signatures_of, transactions_of
from koii_p2p.limits import Limits
from koii_p2p.records.envelope import Verified
from koii_p2p.records.keys import SecretKey
from koii_p2p.rounds.admission import Source
from koii_p2p.rounds.audit_rules import BASIS_POINTS
from koii_p2p.rounds.commitment import BuiltRound
from koii_p2p.rounds.events import RoundSettled
from koii_p2p.rounds.peer_standings import standings_in_task
from koii_p2p.rounds.reputation import standing_of
from koii_p2p.rounds.role import Role
from koii_p2p.rounds.roster import Roster
from koii_p2p.rounds.terms import TaskTerms
from koii_p2p.rounds.topics import TOPICS, topic_name

FIRST_SLOT: Final = 10
"""K2's slot at the start of a run."""
WARM_UP: Final = 6 * SECOND
"""Time for meshes to form before the task starts."""
LINKING: Final = SECOND
"""Links come up within this time."""
MOST_RANKS: Final = 8
"""Leaders after which nobody is asked any more to prove what a list takes."""
FORGET_ROUNDS: Final = Limits().rounds_kept

Answer = TypeVar("Answer")


def terms_of(scenario: Scenario) -> TaskTerms:
    """The terms of the task that a scenario's nodes work on."""
    protocol, economy = scenario.protocol, scenario.economy
    warm_up = math.ceil(WARM_UP / (scenario.chain.slot_ms * MILLISECOND))
    return TaskTerms(
        task=sha256(b"koii-p2p/lab task").digest(),
        creator=sha256(b"koii-p2p/lab creator").digest(),
        name="lab",
        starting_slot=FIRST_SLOT + warm_up,
        round_time=protocol.round_time,
        submission_window=protocol.submission_window,
        audit_window=protocol.audit_window,
        bounty_per_round=economy.bounty,
        minimum_stake=max(1, int(economy.stake * economy.minimum)),
        slash_basis_points=round(economy.slash * BASIS_POINTS),
        audit=protocol.audit,
    )


class Simulation:
    """One run of a scenario with one seed. `play` plays it; what came of it is in its attributes."""

    def __init__(self, scenario: Scenario, seed: int) -> None:
        self.scenario = scenario
        self.seed = seed
        self.random = Random(f"koii-p2p/lab {seed}")
        self.clock = Clockwork()
        self.terms = terms_of(scenario)
        self.shared = SharedWork()
        self.observer = Observer()
        self.links = Links(scenario.network, seed)
        self.running = 0
        self.direct = scenario.protocol.transport is Transport.DIRECT
        self._slot_us = scenario.chain.slot_ms * MILLISECOND
        task = self.terms.task.hex()[:44]
        self.topic_names = {topic: topic_name(task, topic) for topic in TOPICS}
        self.topics = {full: name for name, full in self.topic_names.items()}
        self.gossip_parameters = _gossip_parameters(scenario)
        crew = scenario.crew()
        secrets = [SecretKey.from_seed(sha256(b"lab %d %d" % (seed, n)).digest()) for n in range(len(crew))]
        self.number_of = {secret.public_key: number for number, secret in enumerate(secrets)}
        self.cast: Mapping[bytes, tuple[str, ...]] = {
            secret.public_key: group.names for secret, group in zip(secrets, crew, strict=True)
        }
        stakes = {
            secret.public_key: scenario.economy.stake if group.staked else 0
            for secret, group in zip(secrets, crew, strict=True)
        }
        self.chain = SimulatedChain(self.terms, stakes, seed)
        self.nodes: list[SimulatedNode] = []
        players = round(scenario.protocol.canary_players * len(crew))
        for number, (secret, group) in enumerate(zip(secrets, crew, strict=True)):
            skew = self._drawn_skew()
            node = SimulatedNode(self, number, secret, group, skew)
            honest = not group.misbehaves
            node.role = Role(
                submits=group.staked,
                patrols=scenario.protocol.patrols if honest else 0,
                canaries=honest and number < players,
            )
            node.behaviours = behaviours_of(node, group)
            self.nodes.append(node)
        self._lags = [self.random.randint(0, scenario.chain.lag_slots) for _ in self.nodes]
        self._dials = self._drawn_dials(crew)
        self._dialled_by: dict[int, list[tuple[int, bool]]] = {number: [] for number in range(len(crew))}
        for one, other in self._dials:
            self._dialled_by[one].append((other, True))
            self._dialled_by[other].append((one, False))
        self._standings: tuple[object, Mapping[bytes, float], object] = (None, {}, None)
        self._beacons: set[int] = set()
        self._ways: dict[int, dict[int, tuple[int, int]]] = {}

    # --- time

    def slot_of(self, node: SimulatedNode) -> int:
        """The slot by a node's clock."""
        return FIRST_SLOT + (self.clock.now + node.skew) // self._slot_us

    @property
    def chain_slot(self) -> int:
        """K2's slot."""
        return FIRST_SLOT + self.clock.now // self._slot_us

    def lag_of(self, node: SimulatedNode) -> int:
        """How many slots old what a node reads of K2 is."""
        return self._lags[node.number]

    def time_of(self, slot: int) -> int:
        """When a slot of K2 begins, in microseconds."""
        return (slot - FIRST_SLOT) * self._slot_us

    # --- the run

    @property
    def ends_at(self) -> int:
        """When the list of the last round has passed its audit, and everybody has seen it."""
        last = self.terms.clock.settles_at(self.scenario.rounds - 1)
        patience = 3 * self.scenario.chain.read_every + self.scenario.chain.lag_slots + 5
        return self.time_of(last + patience)

    def play(self, told: Told = nobody, *, sharing: bool = True) -> None:
        """Play all rounds; those that are tried again, because a list was vetoed, to their end too.

        Without `sharing` every node does all its work itself, which takes many times as long and comes to the same.
        """
        with shared(self.shared) if sharing else nullcontext():
            self._begin()
            self._run(self.ends_at, told)
            clock = self.terms.clock
            for attempt in range(1, self.terms.allowed_failed_distributions + 1):
                if not any(self._is_open(number, attempt) for number in range(self.scenario.rounds)):
                    break
                ends = (
                    clock.settles_at(self.scenario.rounds - 1, attempt) + 3 * self.scenario.chain.read_every
                )
                self._run(self.time_of(ends), told)
        self.observer.close(self.scenario.rounds + FORGET_ROUNDS)

    def _run(self, until: int, told: Told) -> None:
        """Let time pass slot by slot, which comes to the same as all at once, and say how far it is."""
        for time in range(self.clock.now, until, self._slot_us):
            self.clock.run(time)
            told(time / until)
        self.clock.run(until)

    def _is_open(self, number: int, attempt: int) -> bool:
        anchored = self.chain.newest.get(number)
        return anchored is not None and anchored.attempt + anchored.rejected >= attempt

    def _begin(self) -> None:
        for node in self.nodes:
            self._start(node)
        for one, other in self._dials:
            self.clock.at(self.random.randrange(LINKING), partial(self.connect, one, other))
        presence = round(self.scenario.protocol.presence_seconds * SECOND)
        heartbeat = self.gossip_parameters.heartbeat * MILLISECOND
        for node in self.nodes:
            self.clock.every(self._slot_us, node.tick, -node.skew % self._slot_us)
            if not self.direct:
                self.clock.every(heartbeat, node.heartbeat, self.random.randrange(1, heartbeat))
            if presence:
                self.clock.every(presence, node.announce, LINKING + self.random.randrange(presence))
        for partition in self.scenario.network.partitions:
            self._plan(partition)
        if self.scenario.network.churn.per_minute:
            for node in self.nodes:
                self._plan_absence(node)
        round_us = self.terms.round_time * self._slot_us
        first = self.time_of(self.terms.clock.work(FORGET_ROUNDS).opens)
        self.clock.every(round_us, self._forget, first)

    def _forget(self) -> None:
        period = self.terms.clock.period(self.chain_slot)
        self.observer.close(period - FORGET_ROUNDS)
        for node in self.nodes:
            node.forget_before(period - FORGET_ROUNDS)
        self.chain.forget_before(self.chain_slot - self.scenario.chain.lag_slots - 1)

    def _start(self, node: SimulatedNode) -> None:
        self.running += 1
        node.start()

    # --- links

    def connect(self, one: int, other: int) -> None:
        """Link two nodes, if both run and they are not linked; the first one dials."""
        dialler, dialled = self.nodes[one], self.nodes[other]
        if (
            not (dialler.running and dialled.running)
            or other in dialler.links
            or self.links.is_cut(one, other)
        ):
            return
        dialler.links[other], dialled.links[one] = True, False
        dialler.linked(other, True)
        dialled.linked(one, False)

    def disconnect(self, one: int, other: int) -> None:
        """End the link of two nodes; what is on its way is lost."""
        for node, peer in ((self.nodes[one], other), (self.nodes[other], one)):
            node.unlinked(peer)

    def spread(self, sender: SimulatedNode, record: Verified, to: frozenset[int] | None) -> None:
        """Bring a record to every node once, by the quickest way over the links (`Transport.DIRECT`).

        It is as lossy as one frame; cuts hold it up as they stand now. What a node passes on is counted at it.
        """
        ways = self._ways.get(sender.number)
        if ways is None:
            linked = {number: [peer for peer, _ in peers] for number, peers in self._dialled_by.items()}
            ways = self._ways[sender.number] = shortest_ways(sender.number, linked, self.links.latency)
        size, loss = len(record.raw), self.scenario.network.loss
        for number, (delay, before) in ways.items():
            if number == sender.number or (to is not None and number not in to):
                continue
            if self.links.is_cut(sender.number, number) or (loss and self.random.random() < loss):
                self.nodes[number].meter.lost_frames += 1
                continue
            meter = self.nodes[before].meter
            meter.sent_bytes += size
            meter.sent_frames += 1
            self.clock.after(delay, partial(self._brought, self.nodes[number], record.raw))

    def _brought(self, node: SimulatedNode, raw: bytes) -> None:
        if node.running:
            node.meter.received_bytes += len(raw)
            node.meter.received_frames += 1
            node.hear(raw, Source.GOSSIP)

    def request(
        self,
        asker: SimulatedNode,
        peer: int,
        size: int,
        answer: Callable[[SimulatedNode], Answer],
        size_of: Callable[[Answer], int],
        take: Callable[[Answer], None],
    ) -> None:
        """Ask a linked peer something of `size` bytes; its answer, if there is one, is taken when it arrives.

        Both ways may fail as any frame does: nothing comes then.
        """
        other, asked_in = self.nodes[peer], asker.incarnation

        def arrive() -> None:
            if not other.running or asker.number not in other.links:
                return
            other.meter.received_bytes += size
            if not all(behaviour.answers() for behaviour in other.hooks(other.period)):
                return
            reply = answer(other)
            if not self._pass(other, asker, size_of(reply), partial(arrive_back, reply)):
                asker.meter.lost_frames += 1

        def arrive_back(reply: Answer) -> None:
            if asker.running and asker.incarnation == asked_in:
                asker.meter.received_bytes += size_of(reply)
                take(reply)

        self._pass(asker, other, size, arrive)

    def _pass(
        self, sender: SimulatedNode, receiver: SimulatedNode, size: int, then: Callable[[], None]
    ) -> bool:
        try:
            arrives = self.links.arrival(sender.number, receiver.number, size, self.clock.now)
        except Full:
            return False
        sender.meter.sent_bytes += size
        if arrives is None:
            return False
        self.clock.at(arrives, then)
        return True

    # --- K2

    def send_transaction(self, sender: SimulatedNode, execute: Callable[[int], bool]) -> None:
        """Send a transaction, which lands some slots later, unless it is lost; `execute` says whether K2 took it."""
        chain = self.scenario.chain
        if chain.loss and self.random.random() < chain.loss:
            return

        def land() -> None:
            if not execute(self.chain_slot):
                return
            landed = self.chain.landed[-1]
            # Rounds after the last only carry what is left of it to its end, as in the fast engine, which has none.
            if landed.round < self.scenario.rounds:
                sender.meter.transactions += transactions_of(landed)
                sender.meter.fees += signatures_of(landed) * chain.fee_roe

        self.clock.after(chain.delay_slots * self._slot_us, land)

    def settled(self, node: SimulatedNode, action: RoundSettled) -> None:
        """A node holds a list final; in the leader order, nodes have its slashes taken."""
        number = action.round
        self.observer.settled.setdefault(number, {})[node.number] = action.list.root
        if node.honest:
            self.observer.settled_at.setdefault(number, self.clock.now)
            state, known = node.engine.round(number), self.observer.final.get(number)
            if state is not None and (known is None or known.attempt < action.attempt or known.built is None):
                self.observer.final[number] = FinalRound(
                    action.attempt, action.list, state.built, state.assignment
                )
        if action.rank is None or action.rank >= MOST_RANKS or not self.chain.owed(action.list):
            return
        # As in a node: the first in the order proves what the list takes from others, the next ones what is left.
        step = max(4, self.terms.audit_window // 10)
        slot = self.terms.clock.settles_at(number, action.attempt) + 1 + action.rank * step
        self.clock.at(self.time_of(slot), partial(self._settle, node, action))

    def _settle(self, node: SimulatedNode, action: RoundSettled) -> None:
        if node.running and self.chain.owed(action.list):
            self.send_transaction(node, lambda slot: self.chain.settle(slot, node.key, action))

    def before_beacon(self, number: int, slot: int) -> None:
        """Let whoever may choose a block hash choose it, right before it is read for the first time."""
        if number in self._beacons:
            return
        self._beacons.add(number)
        for node in self.nodes:
            for behaviour in node.hooks(number):
                behaviour.chooses_beacon(number, slot)

    # --- what nodes think of peers

    def standings(
        self, roster: Roster, built: Sequence[BuiltRound], convicted: frozenset[bytes]
    ) -> Mapping[bytes, float]:
        """P5 by key; computed once for all nodes that know the same."""
        key = (id(roster), tuple(map(id, built)), convicted)
        if self._standings[0] != key:
            rounds = [standing_of(one.commitment) for one in built]
            # What the key names by its identity is kept for as long as the key.
            self._standings = (key, standings_in_task(roster, rounds, convicted), (roster, built))
        return self._standings[1]

    # --- trouble

    def _plan(self, partition: Partition) -> None:
        begin = self.time_of(self.terms.starting_slot) + int(
            partition.start * self.terms.round_time * self._slot_us
        )
        end = begin + int(partition.rounds * self.terms.round_time * self._slot_us)
        apart = set(self.random.sample(range(len(self.nodes)), round(partition.share * len(self.nodes))))
        sides = [int(number in apart) for number in range(len(self.nodes))]
        self.clock.at(begin, partial(self.links.cut, sides))
        self.clock.at(end, partial(self.links.cut, ()))

    def _plan_absence(self, node: SimulatedNode) -> None:
        churn = self.scenario.network.churn
        away = int(node.random.expovariate(churn.per_minute / 60) * SECOND)
        self.clock.after(away, partial(self._leave, node))

    def _leave(self, node: SimulatedNode) -> None:
        churn = self.scenario.network.churn
        for peer in list(node.links):
            self.disconnect(node.number, peer)
        node.stop(records_lost=node.random.random() < churn.records_lost)
        self.running -= 1
        pause = max(1, int(node.random.expovariate(1 / churn.away_seconds) * SECOND))
        self.clock.after(pause, partial(self._come_back, node))

    def _come_back(self, node: SimulatedNode) -> None:
        self._start(node)
        for peer, outbound in self._dialled_by[node.number]:
            one, other = (node.number, peer) if outbound else (peer, node.number)
            self.connect(one, other)
        self._plan_absence(node)

    # --- drawing the net

    def _drawn_skew(self) -> int:
        most = self.scenario.network.clock_skew_ms * MILLISECOND
        return self.random.randint(-most, most) if most else 0

    def _drawn_dials(self, crew: Sequence[Group]) -> list[tuple[int, int]]:
        network = self.scenario.network
        dials = random_dials(network.nodes, network.degree, self.random)
        linked = {frozenset(dial) for dial in dials}
        for node in self.nodes:
            for behaviour in node.behaviours:
                for peer in behaviour.dials(network.nodes, network.degree, self.random):
                    pair = frozenset((node.number, peer))
                    if len(pair) == 2 and pair not in linked:
                        linked.add(pair)
                        dials.append((node.number, peer))
        return dials


def _gossip_parameters(scenario: Scenario) -> GossipParameters:
    protocol = scenario.protocol
    degrees = degrees_of(protocol.mesh_degree, scenario.network.nodes)
    return GossipParameters(
        degrees=degrees, heartbeat=protocol.heartbeat_ms, flood_publish=protocol.flood_publish
    )
