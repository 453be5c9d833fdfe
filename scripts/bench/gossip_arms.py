"""The Python nodes of the gossip benchmark: ours, and those of an unmodified py-libp2p."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Protocol

import trio
from libp2p import new_host
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.crypto.x25519 import create_new_key_pair as create_noise_key_pair
from libp2p.network.config import ConnectionConfig
from libp2p.network.swarm import Swarm
from libp2p.peer.peerinfo import info_from_p2p_addr
from libp2p.pubsub.gossipsub import GossipSub
from libp2p.pubsub.pubsub import Pubsub
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE
from libp2p.security.noise.transport import Transport as NoiseTransport
from libp2p.stream_muxer.yamux.yamux import PROTOCOL_ID as YAMUX
from libp2p.stream_muxer.yamux.yamux import Yamux
from libp2p.tools.anyio_service import background_trio_service
from multiaddr import Multiaddr

from koii_p2p.gossip.parameters import Degrees, GossipParameters
from koii_p2p.network.gossip import GossipVerdict
from koii_p2p.network.network import Network, NetworkSettings
from koii_p2p.network.settings import parse_peer_address
from koii_p2p.records.keys import SecretKey

TOPIC = "bench"
LOOPBACK = "/ip4/127.0.0.1/tcp/0"

Deliver = Callable[[bytes], None]
"""Take note of a payload that a node received."""


class Node(Protocol):
    """One node of a net. `run` starts it; it is then at `address`, and hears `TOPIC`."""

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run until cancelled."""

    @property
    def address(self) -> str:
        """Where to dial it."""

    async def dial(self, address: str) -> None:
        """Connect to another node."""

    async def publish(self, data: bytes) -> None:
        """Publish a message."""


class OurNode:
    """A node of ours."""

    def __init__(self, number: int, nodes: int, _degrees: Degrees, deliver: Deliver) -> None:
        settings = NetworkSettings(listen=(LOOPBACK,), expected_peers=nodes, target_peers=0, dht="off")
        self._network = Network(SecretKey.from_seed(bytes([number + 1]) * 32), settings)
        self._deliver = deliver

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run until cancelled."""
        await self._network.join_topic(TOPIC, self._judge)
        await self._network.run(task_status=task_status)

    def _judge(self, _sender: bytes, data: bytes) -> GossipVerdict:
        self._deliver(data)
        return GossipVerdict.ACCEPT

    @property
    def address(self) -> str:
        """Where to dial it."""
        return self._network.addresses[0]

    async def dial(self, address: str) -> None:
        """Connect to another node at once, and not when the connector finds it fit."""
        target = parse_peer_address(address)
        await self._network._dial(target.key, target.transport)

    async def publish(self, data: bytes) -> None:
        """Publish a message."""
        await self._network.publish(TOPIC, data)


class StockNode:
    """A node of py-libp2p with its own GossipSub, as it comes.

    What a setting turns off is off where it would end the comparison at once: its limit of ten messages a second, its
    heartbeat of two minutes and the one that slows down by itself, signatures, and the versions of the protocol above
    1.1, whose IDONTWANT it sends for messages of any size and which costs it twice the CPU.
    """

    def __init__(self, number: int, _nodes: int, degrees: Degrees, deliver: Deliver) -> None:
        keys = create_new_key_pair(bytes([number + 1]) * 32)
        noise = NoiseTransport(keys, noise_privkey=create_noise_key_pair().private_key)
        self._host = new_host(
            key_pair=keys,
            sec_opt={NOISE: noise},
            muxer_opt={YAMUX: Yamux},  # type: ignore[dict-item]
            listen_addrs=[Multiaddr(LOOPBACK)],
            connection_config=ConnectionConfig(
                min_connections=0,
                low_watermark=0,
                high_watermark=1000,
                max_connections=1000,
                auto_connect_interval=3600.0,
            ),
        )
        parameters = GossipParameters()
        self._router = GossipSub(
            protocols=["/meshsub/1.1.0", "/meshsub/1.0.0"],  # type: ignore[list-item]
            degree=degrees.wanted,
            degree_low=degrees.low,
            degree_high=degrees.high,
            heartbeat_interval=parameters.heartbeat // 1000,
            heartbeat_initial_delay=0.1,
            gossip_window=parameters.history_gossip,
            gossip_history=parameters.history,
            adaptive_gossip_enabled=False,
            spam_protection_enabled=False,
            eclipse_protection_enabled=False,
        )
        self._pubsub = Pubsub(self._host, self._router, strict_signing=False)
        self._deliver = deliver

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run until cancelled, or until a fault of the library has ended it: then alone, and not the process."""
        try:
            async with (
                self._host.run([Multiaddr(LOOPBACK)]),
                background_trio_service(self._pubsub),
                background_trio_service(self._router),
            ):
                await self._pubsub.wait_until_ready()
                subscription = await self._pubsub.subscribe(TOPIC)
                task_status.started()
                while True:
                    self._deliver((await subscription.get()).data)
        except* Exception as fault:  # noqa: BLE001 - whatever the library lets escape
            logging.getLogger("bench").error("a node of py-libp2p ended: %r", fault.exceptions)

    @property
    def address(self) -> str:
        """Where to dial it."""
        return str(self._host.get_addrs()[0])

    async def dial(self, address: str) -> None:
        """Connect to another node, without the 251 ms that `connect` always takes."""
        target = info_from_p2p_addr(Multiaddr(address))
        self._host.get_peerstore().add_addrs(target.peer_id, target.addrs, 3600)
        swarm = self._host.get_network()
        assert isinstance(swarm, Swarm)
        await swarm.dial_addr(target.addrs[0], target.peer_id)

    async def publish(self, data: bytes) -> None:
        """Publish a message."""
        await self._pubsub.publish(TOPIC, data)
