"""How many copies of a message gossip sends, beside a tree's one: whole nets of routers in virtual time.

    python scripts/bench/gossip_copies.py [--nodes 10,30,50,200] [--messages 100] [--json] [--quick]

Every node has a router, eight links, each with a latency of its own between 10 and 100 ms, and an uplink of
20 Mbit/s on which frames leave one after the other, control first; so IDONTWANT can be in time, or not, as on the
Internet. Nothing is random but the seed. One node after the other publishes, twenty messages a second.

Printed per delivery (one message at one node that did not publish it): messages sent, which in a tree is one; bytes
sent with all control; and bytes of control alone. `excess` is what is sent beyond one copy of each message.
"""

from __future__ import annotations

import argparse
import heapq
import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Final

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from koii_p2p.gossip.effects import Deliver, Effect, Send, Verdict
from koii_p2p.gossip.message_id import content_id
from koii_p2p.gossip.parameters import GossipParameters, degrees_for
from koii_p2p.gossip.peers import Protocol
from koii_p2p.gossip.router import GossipRouter
from koii_p2p.gossip.wire import unframed

TOPIC: Final = "koii/bench/submissions"
SIZES: Final = (300, 2048, 16 * 1024)
LINKS: Final = 4
"""How many others each node dials, so that it has twice as many links."""
LATENCY_MS: Final = (10.0, 100.0)
BYTES_A_MS: Final = 20e6 / 8 / 1000
EVERY_MS: Final = 50.0
"""Between two messages, whoever publishes them."""
FORMING_MS: Final = 10_000.0
CALM_MS: Final = 5_000.0
SEED: Final = 1


@dataclass(frozen=True, slots=True)
class Figure:
    """Per delivery, but for the first two; `delivered` is the share of all deliveries."""

    mean_mesh: float
    delivered: float
    sends: float
    bytes: float
    control_bytes: float
    excess_bytes: float
    """Of copies beyond the first."""


class Uplink:
    """The frames of one node that wait for its uplink."""

    def __init__(self) -> None:
        self.urgent: list[tuple[bytes, bytes, int]] = []
        self.rest: list[tuple[bytes, bytes, int]] = []
        self.busy = False


class Net:
    """Routers, links and what is under way. Times are milliseconds."""

    def __init__(self, nodes: int, seed: int) -> None:
        random = Random(seed)
        parameters = GossipParameters(degrees=degrees_for(nodes))
        self.keys = [b"node-%04d" % number for number in range(nodes)]
        self.routers = {
            key: GossipRouter(parameters, Random(f"{seed}{key!r}"), content_id) for key in self.keys
        }
        self.latency: dict[tuple[bytes, bytes], float] = {}
        self.uplinks = {key: Uplink() for key in self.keys}
        self.now = 0.0
        self.delivered = self.messages = self.message_bytes = self.control_bytes = 0
        self._events: list[tuple[float, int, str, bytes, bytes, bytes]] = []
        self._count = 0
        for index, key in enumerate(self.keys):
            others = [other for other in self.keys if other != key and (key, other) not in self.latency]
            ring = self.keys[(index + 1) % nodes]
            for other in {ring, *random.sample(others, min(LINKS - 1, len(others)))} - {key}:
                if (key, other) not in self.latency:
                    self.latency[key, other] = self.latency[other, key] = random.uniform(*LATENCY_MS)
                    for one, peer, dialled in ((key, other, True), (other, key, False)):
                        router = self.routers[one]
                        self._perform(one, router.peer_joined(peer, Protocol.MESHSUB_1_2, dialled, None, 0))
        for key, router in self.routers.items():
            self._perform(key, router.subscribe(TOPIC, 0))
            self.at(random.uniform(0, 1000), "beat", key)

    def at(self, when: float, what: str, key: bytes, peer: bytes = b"", frame: bytes = b"") -> None:
        """Let something happen later."""
        self._count += 1
        heapq.heappush(self._events, (when, self._count, what, key, peer, frame))

    def run_until(self, when: float) -> None:
        """Let everything happen that is due before a time."""
        while self._events and self._events[0][0] <= when:
            self.now, _, what, key, peer, frame = heapq.heappop(self._events)
            router, now = self.routers[key], int(self.now)
            if what == "beat":
                self._perform(key, router.heartbeat(now))
                self.at(self.now + 1000, "beat", key)
            elif what == "publish":
                self._perform(key, router.publish(TOPIC, frame, now))
            elif what == "sent":
                self.uplinks[key].busy = False
                self._send_next(key)
            else:
                self._perform(key, router.receive(peer, unframed(frame), now))
        self.now = when

    def _perform(self, key: bytes, effects: list[Effect]) -> None:
        uplink = self.uplinks[key]
        for effect in effects:
            if isinstance(effect, Send):
                # An own message has no ids: it is told from control by its urgency.
                (uplink.urgent if effect.urgent else uplink.rest).append(
                    (effect.peer, effect.frame, effect.urgent)
                )
            elif isinstance(effect, Deliver):
                self.delivered += 1
                self._perform(key, self.routers[key].judge(effect.message_id, Verdict.ACCEPT, int(self.now)))
        self._send_next(key)

    def _send_next(self, key: bytes) -> None:
        uplink = self.uplinks[key]
        queue = uplink.urgent or uplink.rest
        if uplink.busy or not queue:
            return
        peer, frame, urgent = queue.pop(0)
        if urgent:
            self.control_bytes += len(frame)
        else:
            self.messages += 1
            self.message_bytes += len(frame)
        uplink.busy = True
        takes = len(frame) / BYTES_A_MS
        self.at(self.now + takes, "sent", key)
        self.at(self.now + takes + self.latency[key, peer], "received", peer, key, frame)


def measure(nodes: int, size: int, messages: int, seed: int = SEED) -> Figure:
    """Publish messages in a net that has formed, and return what was sent for them."""
    net, random = Net(nodes, seed), Random(seed)
    net.run_until(FORMING_MS)
    before = net.messages, net.message_bytes, net.control_bytes
    for number in range(messages):
        data = random.randbytes(size)
        net.at(FORMING_MS + number * EVERY_MS, "publish", net.keys[number % nodes], frame=data)
    net.run_until(FORMING_MS + messages * EVERY_MS + CALM_MS)
    sent, size_sent, control = (
        now - earlier
        for now, earlier in zip((net.messages, net.message_bytes, net.control_bytes), before, strict=True)
    )
    count = max(1, net.delivered)
    mesh = sum(len(router.mesh(TOPIC)) for router in net.routers.values()) / nodes
    return Figure(
        mean_mesh=mesh,
        delivered=net.delivered / (messages * (nodes - 1)),
        sends=sent / count,
        bytes=(size_sent + control) / count,
        control_bytes=control / count,
        excess_bytes=size_sent / count * (1 - count / max(1, sent)),
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--nodes", default="10,30,50,200", help="how many, one net after the other")
    parser.add_argument("--messages", type=int, default=100, help="how many are published in each net")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.add_argument("--quick", action="store_true", help="one small net, to see that it works")
    options = parser.parse_args()
    sizes = [10] if options.quick else [int(text) for text in options.nodes.split(",")]
    found = {
        (nodes, size): measure(nodes, size, 20 if options.quick else options.messages)
        for nodes in sizes
        for size in SIZES
    }
    if options.json:
        print(json.dumps([{"nodes": n, "size": s, **asdict(one)} for (n, s), one in found.items()], indent=1))
        return
    print(
        f"{'nodes':>5} {'bytes':>6} {'mesh':>5} {'delivered':>9} {'sends':>6} {'B/delivery':>10}"
        f" {'control':>8} {'excess':>8}"
    )
    for (nodes, size), one in found.items():
        print(
            f"{nodes:5} {size:6} {one.mean_mesh:5.1f} {one.delivered:9.4f} {one.sends:6.2f} {one.bytes:10.0f}"
            f" {one.control_bytes:8.0f} {one.excess_bytes:8.0f}"
        )


if __name__ == "__main__":
    main()
