"""Random nets, random orders of events, random bytes: no exception, bounds hold, the same seed is the same run."""

from __future__ import annotations

import subprocess
import sys
from hashlib import sha256
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from koii_p2p.gossip import wire
from koii_p2p.gossip.effects import Deliver, Send, Verdict
from koii_p2p.gossip.message_id import content_id
from koii_p2p.gossip.parameters import Bounds, GossipParameters, degrees_for
from koii_p2p.gossip.peers import Protocol
from koii_p2p.gossip.router import GossipRouter
from koii_p2p.gossip.wire import Message, Prune
from tests.gossip.net import TOPIC, Net
from tests.gossip.talk import id_of

ROOT = Path(__file__).parents[2]
QUICK = settings(max_examples=40, derandomize=True)
"""The same nets in every run: where queues lose 30 %, chance can keep any message from anybody."""

SMALL = Bounds(
    peers=6,
    topics_per_peer=3,
    ihave_ids=8,
    iwant_ids=8,
    idontwant_ids=8,
    promises=6,
    back_offs=6,
    seen=12,
    rejected=4,
    ignored=4,
    cached=8,
    cached_bytes=4_000,
    pending=5,
    pending_bytes=3_000,
    pending_per_peer=3,
    held=2,
    missed=3,
    px_connects=2,
    retained_scores=4,
    message_bytes=2_000,
    rpc_bytes=8_192,
)


# --- nets


class Story:
    """A random net: what happens to it is drawn from the seed."""

    def __init__(self, seed: int) -> None:
        random = Random(f"story {seed}")
        self.count = random.randint(2, 14)
        self.net = Net(
            self.count,
            seed,
            parameters=GossipParameters(degrees=degrees_for(self.count), flood_publish=random.random() < 0.7),
            delay=(1, random.choice((1, 50, 400))),
            loss=random.choice((0.0, 0.0, 0.1, 0.3)),
            verdict_delay=random.choice(((0, 0), (0, 0), (10, 1_000))),
            protocols=random.choice(((Protocol.MESHSUB_1_2,), tuple(Protocol)[1:], tuple(Protocol))),
        )
        self.random = random
        self.published: list[bytes] = []

    def play(self) -> Story:
        """Let nodes link up, join, leave, publish; then settle, publish once each, and settle."""
        net, random = self.net, self.random
        net.connect_randomly(random.randint(1, 4))
        net.subscribe(number for number in range(self.count) if random.random() < 0.8)
        for step in range(random.randint(5, 40)):
            one, other = random.randrange(self.count), random.randrange(self.count)
            match random.randrange(6):
                case 0:
                    net.connect(one, other)
                case 1:
                    net.disconnect(one, other)
                case 2:
                    node = net.node(one)
                    net.perform(node, node.router.unsubscribe(TOPIC, net.now))
                case 3:
                    net.subscribe([one])
                case _:
                    net.publish(one, b"in between %d" % step)
            net.run(random.choice((0, 1, 20, 700, 3_000)))
            self.check_bounds()
        net.connect_randomly(2)
        net.subscribe()
        net.run(40_000)  # longer than any back-off
        for number in range(self.count):
            self.published.append(b"in the end %d" % number)
            net.publish(number, self.published[-1])
            net.run(random.choice((0, 50, 900)))
        net.run(15_000)
        self.check_bounds()
        return self

    def check_bounds(self) -> None:
        """Nothing is larger than it may be, and no mesh holds whom it must not."""
        for node in self.net.nodes.values():
            router = node.router
            mesh = router.mesh(TOPIC)
            assert len(set(mesh)) == len(mesh)
            assert set(mesh) <= set(router.neighbours(TOPIC)) <= set(node.links)
            assert node.key not in mesh
            statistics = router.statistics()
            assert statistics.peers == len(node.links)
            assert statistics.pending <= router.parameters.bounds.pending

    def undelivered(self) -> list[tuple[bytes, bytes]]:
        """(node, payload) of what a neighbour had and the node did not get, without being lost on its way enough.

        A message is offered for as long as it is cached by every neighbour that has it, which takes several losses;
        but floodsub has no offers, and what a full queue keeps from such a peer is lost at once.
        """
        missing = []
        for node in self.net.nodes.values():
            for data in (data for data in self.published if data not in node.delivered):
                having = [peer for peer in node.links if data in self.net.nodes[peer].delivered]
                offered = any(self.net.protocol[node.key, peer] is not Protocol.FLOODSUB for peer in having)
                losses = self.net.losses[node.key, id_of(data)]
                if having and losses < (3 if offered else 1):
                    missing.append((node.key, data))
        return missing

    def trace(self) -> bytes:
        """A digest of every frame that was sent, when and between whom."""
        return sha256(repr(self.net.log).encode()).digest()


@QUICK
@given(st.integers(0, 2**32))
def test_a_random_net_delivers_everything_to_all_that_are_connected(seed: int) -> None:
    story = Story(seed).play()
    net = story.net
    assert story.undelivered() == []
    if not net.loss:
        assert [net.reached(data) for data in story.published] == [story.count] * story.count
    if net.asymmetries():
        net.run(500)  # a GRAFT may have been on its way
    assert net.asymmetries() == []
    assert all(not node.graylisted and not node.disconnects for node in net.nodes.values())
    assert all(node.router.statistics().pending == 0 for node in net.nodes.values())


@settings(QUICK, max_examples=8)
@given(st.integers(0, 2**32))
def test_the_same_seed_is_the_same_run_to_the_byte(seed: int) -> None:
    one, other = Story(seed).play(), Story(seed).play()
    assert one.trace() == other.trace()
    for key, node in one.net.nodes.items():
        assert node.router.statistics() == other.net.nodes[key].router.statistics()


def test_a_run_does_not_hang_on_how_python_orders_its_sets() -> None:
    script = "from tests.gossip.test_properties import Story; print(Story(5).play().trace().hex())"
    traces = [
        subprocess.run(
            [sys.executable, "-c", script],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=True,
            timeout=120,
        ).stdout
        for seed in ("1", "2")
    ]
    assert traces[0] == traces[1] == Story(5).play().trace().hex() + "\n"


# --- one router against anything


PEERS = [b"p%d" % number for number in range(8)]
TOPICS = ["koii/test", "other", "third", "x" * 130]
payload = st.sampled_from([b"a", b"b", b"c", bytes(900), bytes(1_500), bytes(2_001)])
topic = st.sampled_from(TOPICS)
some_ids = st.lists(
    st.sampled_from([id_of(b"a"), id_of(b"b"), b"short", *(bytes([n]) * 20 for n in range(12))]), max_size=14
)
message = st.one_of(
    st.builds(lambda name, data: wire.message_part(wire.encode_message(Message(name, data))), topic, payload),
    st.builds(
        lambda data: wire.message_part(wire.encode_message(Message(TOPIC, data, b"who", b"1", b"s"))), payload
    ),
    st.binary(max_size=30).map(wire.message_part),
)
entry = st.one_of(
    st.builds(wire.ihave_entry, topic, some_ids),
    some_ids.map(wire.iwant_entry),
    topic.map(wire.graft_entry),
    st.builds(
        lambda name, back_off, peers: wire.prune_entry(Prune(name, back_off, tuple(peers))),
        topic,
        st.none() | st.integers(0, 2**64 - 1),
        st.lists(st.tuples(st.binary(max_size=70), st.binary(max_size=20)), max_size=3),
    ),
    some_ids.map(wire.idontwant_entry),
)
rpc = st.one_of(
    st.lists(
        st.one_of(
            message,
            st.lists(entry, max_size=4).map(lambda entries: wire.control_part(b"".join(entries))),
            st.builds(wire.subscription, topic, st.booleans()),
        ),
        max_size=4,
    ).map(b"".join),
    st.binary(max_size=60),
)
event = st.one_of(
    st.tuples(st.just("join"), st.sampled_from(PEERS), st.sampled_from(list(Protocol)), st.booleans()),
    st.tuples(st.just("leave"), st.sampled_from(PEERS)),
    st.tuples(st.just("receive"), st.sampled_from(PEERS), rpc),
    st.tuples(st.just("receive"), st.sampled_from(PEERS), rpc),
    st.tuples(st.just("receive"), st.sampled_from(PEERS), rpc),
    st.tuples(st.just("judge"), st.integers(0, 9), st.sampled_from(list(Verdict))),
    st.tuples(st.just("publish"), st.sampled_from(TOPICS[:3]), st.sampled_from([b"a", b"own", bytes(1_500)])),
    st.tuples(st.just("subscribe"), st.sampled_from(TOPICS[:3])),
    st.tuples(st.just("unsubscribe"), st.sampled_from(TOPICS[:3])),
    st.tuples(st.just("score"), st.sampled_from(PEERS), st.sampled_from([-3_000.0, -200.0, 0.0, 50.0])),
    st.tuples(st.just("beat")),
    st.tuples(st.just("beat")),
    st.tuples(st.just("wait"), st.sampled_from([1, 500, 20_000])),
)


def check(router: GossipRouter) -> None:
    state, bounds = router._state, router.parameters.bounds
    statistics = router.statistics()
    assert statistics.peers <= bounds.peers
    assert statistics.cached <= bounds.cached
    assert statistics.cached_bytes <= bounds.cached_bytes
    assert statistics.cached_bytes == sum(len(part) for part in state.cache.by_part)
    assert len(state.cache.by_part) == statistics.cached
    assert statistics.seen <= bounds.seen
    assert len(state.rejected) <= bounds.rejected
    assert len(state.ignored) <= bounds.ignored
    assert statistics.pending <= bounds.pending
    assert statistics.pending_bytes <= bounds.pending_bytes
    assert statistics.promises <= bounds.promises
    assert statistics.back_offs <= bounds.back_offs
    assert statistics.held <= bounds.held
    assert statistics.scores <= bounds.peers + bounds.retained_scores
    for peer in state.peers.values():
        assert len(peer.topics) <= bounds.topics_per_peer
        assert len(peer.missed) <= bounds.missed
        assert len(peer.unwanted) <= bounds.idontwant_ids * (router.parameters.idontwant + 1)
    for ours in state.topics.values():
        assert set(ours.subscribers) == {key for key, peer in state.peers.items() if ours.name in peer.topics}
        assert set(ours.mesh) <= set(ours.subscribers)
        assert set(ours.fanout) <= set(ours.subscribers)
        assert set(ours.beside) == {
            key for key, peer in ours.subscribers.items() if peer.direct or not peer.has_control
        }
        assert not set(ours.mesh) & set(ours.beside)
        assert ours.joined or not ours.mesh


@settings(max_examples=150)
@given(st.lists(event, max_size=60), st.integers(0, 3), st.booleans())
def test_whatever_peers_do_nothing_raises_and_every_bound_holds(
    events: list[tuple[object, ...]], seed: int, flood: bool
) -> None:
    parameters = GossipParameters(degrees=degrees_for(4), bounds=SMALL, flood_publish=flood)
    router = GossipRouter(parameters, Random(seed), content_id, own=b"us", direct=[PEERS[0]])
    now = 0
    delivered: list[bytes] = []
    for kind, *arguments in events:
        effects = []
        match kind, arguments:
            case "join", [bytes(peer), Protocol() as protocol, bool(outbound)]:
                effects = router.peer_joined(peer, protocol, outbound, peer[:1], now)
            case "leave", [bytes(peer)]:
                effects = router.peer_left(peer, now)
            case "receive", [bytes(peer), bytes(data)]:
                effects = router.receive(peer, data, now)
            case "judge", [int(index), Verdict() as verdict]:
                chosen = delivered[index % len(delivered)] if delivered else b"none"
                effects = router.judge(chosen, verdict, now)
            case "publish", [str(where), bytes(data)]:
                effects = router.publish(where, data, now)
            case "subscribe", [str(where)]:
                effects = router.subscribe(where, now)
            case "unsubscribe", [str(where)]:
                effects = router.unsubscribe(where, now)
            case "score", [bytes(peer), float(value)]:
                router.set_application_score(peer, value)
            case "beat", []:
                now += parameters.heartbeat
                effects = router.heartbeat(now)
            case "wait", [int(duration)]:
                now += duration
            case _:
                raise AssertionError(kind)
        for effect in effects:
            if isinstance(effect, Deliver):
                delivered.append(effect.message_id)
            elif isinstance(effect, Send):
                body = wire.unframed(effect.frame)
                assert 0 < len(body) <= SMALL.rpc_bytes
                wire.decode_rpc(body, Bounds())
                if effect.message_ids and len(effect.frame) % 3 == 0:
                    router.not_sent(effect)
        check(router)


@pytest.mark.slow
@pytest.mark.parametrize("block", range(10))
def test_many_random_nets(block: int) -> None:
    for seed in range(1_000 * block, 1_000 * block + 20):
        story = Story(seed).play()
        assert story.undelivered() == [], seed
        assert story.net.asymmetries() == [], seed


def test_stories_meet_loss_late_verdicts_and_every_protocol() -> None:
    stories = [Story(seed) for seed in range(60)]
    assert {story.net.loss for story in stories} == {0.0, 0.1, 0.3}
    assert {story.net.verdict_delay for story in stories} == {(0, 0), (10, 1_000)}
    assert {len(story.net.protocols) for story in stories} == {1, 3, 4}
    assert {story.count for story in stories} == set(range(2, 15))
    flooding = {
        node.router.parameters.flood_publish for story in stories for node in story.net.nodes.values()
    }
    assert flooding == {True, False}
