"""Attacks on gossip by peers that cost nothing, among real routers with their real scores.

After the evaluation of gossipsub v1.1 (PL-TechRep-2020-001) and its test plan (libp2p/gossipsub-hardening, `test/` and
`scripts/configs/1k-attack-*.json`): a thousand honest nodes, four thousand sybils that graft everybody and forward
nothing. A sybil here does what theirs does (`test/badboy.go`), and its choices are the fields of `scenario.Attack`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Final

from koii_p2p.gossip import wire
from koii_p2p.gossip.effects import Send
from koii_p2p.gossip.parameters import (
    Bounds,
    Degrees,
    GossipParameters,
    ScoreParameters,
    Thresholds,
    TopicScore,
    degrees_for,
)
from koii_p2p.gossip.peers import Protocol
from koii_p2p.gossip.wire import Control
from koii_p2p.lab.clockwork import SECOND
from koii_p2p.lab.gossip_net import TOPIC, GossipNet
from koii_p2p.lab.progress import Told, nobody
from koii_p2p.lab.scenario import Attack, Defence, Latency, Network

LINGERING: Final = 10 * SECOND
"""How long the last message has to arrive; what has not by then is lost."""

_MESSAGE, _CONTROL = 2 << 3 | 2, 3 << 3 | 2
_GRAFT, _PRUNE = 3 << 3 | 2, 4 << 3 | 2
_HELLO = wire.subscription(TOPIC, True) + wire.control_part(wire.graft_entry(TOPIC))
_GRAFTING = wire.control_part(wire.graft_entry(TOPIC))


COLD_BOOT: Final = Attack()
"""Sybils are there when the net starts, in twice the number of honest links (`1k-attack-cold-boot.json`)."""

COVERT_FLASH: Final = Attack(attack_at_seconds=120.0, run_seconds=300.0)
"""They behave for two minutes, and all at once do not (`1k-attack-cold-boot-covert-flash.json`)."""

SWARM: Final = Attack(sybil_links=100, sybils_at_seconds=30.0, warm_seconds=60.0, latency_ms=5.0)
"""They come when the net is up, with a hundred links each: ten to one of an honest node's (`1k-attack-4k.json`)."""


def defended(defence: Defence, honest: int) -> GossipParameters:
    """The parameters of honest nodes, of a net of so many."""
    report = Degrees(wanted=8, low=6, high=12, score=6, outbound=2, vouched=0, lazy=12)
    plain = ScoreParameters(other_topics=None, behaviour_weight=0.0, colocation_weight=0.0)
    match defence:
        case Defence.V1_0:
            degrees = replace(report, outbound=0, score=0)
            return GossipParameters(
                degrees=degrees, score=plain, flood_publish=False, peer_exchange=False, opportunistic_peers=0
            )
        case Defence.UNSCORED:
            return GossipParameters(degrees=report, score=plain, opportunistic_peers=0)
        case Defence.REPORT:
            return GossipParameters(degrees=report, score=report_scores())
        case Defence.OURS:
            return GossipParameters(degrees=degrees_for(honest))


def report_scores() -> ScoreParameters:
    """The score parameters of `1k-attack-cold-boot.json`; P7 is younger than they are, and ours."""
    topic = TopicScore(
        weight=0.25,
        time_weight=0.0027,
        time_quantum=1_000,
        time_cap=3600.0,
        first_weight=0.664,
        first_decay=0.9916,
        first_cap=1500.0,
        mesh_weight=-0.25,
        mesh_decay=0.997,
        mesh_cap=400.0,
        mesh_threshold=10.0,
        mesh_activation=60_000,
        mesh_window=5,
        failure_weight=-0.25,
        failure_decay=0.997,
        invalid_weight=-99.0,
        invalid_decay=0.9994,
    )
    return ScoreParameters(
        other_topics=topic,
        topic_cap=0.0,
        colocation_weight=0.0,
        retain=30_000,
        thresholds=Thresholds(
            gossip=-4000.0, publish=-5000.0, graylist=-10_000.0, accept_px=0.0, opportunistic=0.0
        ),
    )


class Sybil:
    """A peer that grafts whoever it is linked to, and forwards until it attacks. `test/badboy.go`."""

    def __init__(self, net: GossipNet, number: int, attack: Attack) -> None:
        self._net = net
        self._number = number
        self._attack = attack
        self._mesh: dict[int, None] = {}
        self._seen: set[bytes] = set()

    @property
    def attacking(self) -> bool:
        """Whether it forwards nothing any more."""
        return self._net.clock.now >= self._attack.attack_at_seconds * SECOND

    def greet(self, peers: Sequence[int]) -> None:
        """Subscribe, and graft these peers."""
        for peer in peers:
            self._graft(peer, _HELLO)

    def hears(self, send: Send) -> bool:
        """Whether a frame makes any difference to it: not what only advertises, nor messages while it attacks."""
        body = wire.unframed(send.frame)
        if not body or (body[0] == _MESSAGE and self.attacking):
            return False
        if body[0] != _CONTROL:
            return True
        first = 2 + (body[1] >= 0x80) + (len(body) > 1 << 14)
        return body[first] in (_GRAFT, _PRUNE)

    def receive(self, sender: int, rpc: bytes) -> None:
        """Take an RPC."""
        read = wire.decode_rpc(rpc, Bounds())
        for message in read.messages:
            self._forward(sender, message)
        if read.control is not None:
            self._obey(sender, read.control)

    def _forward(self, sender: int, message: bytes) -> None:
        if self.attacking or message in self._seen:
            return
        self._seen.add(message)
        rpc = wire.message_part(message)
        for peer in self._mesh:
            if peer != sender:
                self._net.send(self._number, peer, rpc)

    def _obey(self, sender: int, control: Control) -> None:
        if control.graft:
            self._mesh[sender] = None
        if control.prune:
            self._mesh.pop(sender, None)
            late = self._attack.regraft_delay_seconds * self._net.random.random()
            wait = (self._attack.regraft_back_off_seconds + late) * SECOND
            self._net.clock.after(int(wait), partial(self._graft, sender, _GRAFTING))

    def _graft(self, peer: int, rpc: bytes) -> None:
        self._mesh[peer] = None
        self._net.send(self._number, peer, rpc)


def played(attack: Attack, defence: Defence, seed: int, told: Told = nobody) -> GossipNet:
    """The net of an attack that was played to its end, and for `LINGERING` more. A function of its arguments."""
    latency = Latency(low_ms=attack.latency_ms, high_ms=attack.latency_ms)
    network = Network(nodes=max(3, attack.honest + attack.sybils), latency=latency, jitter=0.1)
    protocol = Protocol.MESHSUB_1_0 if defence is Defence.V1_0 else Protocol.MESHSUB_1_1
    net = GossipNet(network, seed, defended(defence, attack.honest), protocol, routers=attack.honest)
    sybils = {
        number: Sybil(net, number, attack) for number in range(attack.honest, attack.honest + attack.sybils)
    }
    net.hears = lambda node, send: sybils[node].hears(send)
    for number, sybil in sybils.items():
        net.play(number, sybil.receive)
    net.subscribe()
    net.connect_randomly(range(attack.honest), attack.links)
    net.clock.at(int(attack.sybils_at_seconds * SECOND), partial(_swarm, net, attack, sybils))
    end = (attack.warm_seconds + attack.run_seconds) * SECOND + LINGERING
    net.run(int(attack.warm_seconds * SECOND))
    for number in range(attack.messages):
        net.publish(number % min(attack.publishers, attack.honest), attack.message_bytes)
        net.run(int(SECOND / attack.messages_per_second))
        told(net.clock.now / end)
    net.run(LINGERING)
    return net


def _swarm(net: GossipNet, attack: Attack, sybils: dict[int, Sybil]) -> None:
    """Let the sybils come."""
    for number, sybil in sybils.items():
        victims = net.random.sample(range(attack.honest), min(attack.sybil_links, attack.honest))
        for victim in victims:
            net.connect(number, victim)
        sybil.greet(victims)
