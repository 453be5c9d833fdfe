"""A hostile peer: an unmodified libp2p host whose streams carry whatever a test wants."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Protocol

import trio
from libp2p import new_host
from libp2p.abc import IHost, INetStream
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.crypto.keys import KeyPair
from libp2p.crypto.x25519 import create_new_key_pair as create_noise_key_pair
from libp2p.peer.id import ID
from libp2p.pubsub.pb import rpc_pb2
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE
from libp2p.security.noise.transport import Transport as NoiseTransport
from libp2p.stream_muxer.yamux.yamux import PROTOCOL_ID as YAMUX
from libp2p.stream_muxer.yamux.yamux import Yamux
from multiaddr import Multiaddr

from koii_p2p.network.frames import varint_frame
from koii_p2p.network.identity import peer_id_bytes
from tests.network.nets import TOPIC, until

MESHSUB = "/meshsub/1.1.0"


class Target(Protocol):
    """Whom an attacker can be set on: a node of this process, or of another."""

    @property
    def key(self) -> bytes: ...

    @property
    def address(self) -> str: ...

    def peers(self) -> set[bytes]: ...


class Attacker:
    def __init__(self, host: IHost, victim: Target) -> None:
        self.host = host
        self.victim = victim
        self.victim_id = ID(peer_id_bytes(victim.key))

    @property
    def key(self) -> bytes:
        return self.host.get_public_key().to_bytes()

    async def connect(self) -> Any:
        address = Multiaddr(self.victim.address.partition("/p2p/")[0])
        swarm: Any = self.host.get_network()
        return await swarm.dial_addr(address, self.victim_id)

    async def stream(self, protocol: str) -> INetStream:
        return await self.host.new_stream(self.victim_id, [protocol])  # type: ignore[list-item]

    async def raw_stream(self) -> INetStream:
        """A stream on which nothing has been negotiated."""
        return await self.host.get_network().new_stream(self.victim_id)

    async def gossip(self, *frames: bytes) -> INetStream:
        """Send frames, each behind its length, on a gossip stream of its own."""
        stream = await self.stream(MESHSUB)
        for frame in frames:
            await stream.write(varint_frame(frame))
        return stream

    async def thrown_out(self) -> None:
        """Wait until the victim has ended the link, and connect again."""
        await until(lambda: self.key not in self.victim.peers())
        await self.connect()

    def message(self, data: bytes, *, topic: str = TOPIC, **fields: Any) -> rpc_pb2.Message:
        """A message as it should be, without author fields, unless `fields` say otherwise."""
        return rpc_pb2.Message(data=data, topicIDs=[topic], **fields)

    def signed(self, data: bytes, *, number: int = 1, **fields: Any) -> rpc_pb2.Message:
        """A message as it is elsewhere: with an author, and correctly signed unless `fields` say otherwise."""
        message = self.message(data, from_id=self.host.get_id().to_bytes(), seqno=number.to_bytes(8, "big"))
        message.signature = self.host.get_private_key().sign(b"libp2p-pubsub:" + message.SerializeToString())
        for name, value in fields.items():
            setattr(message, name, value)
        return message

    async def publish(self, *messages: rpc_pb2.Message) -> INetStream:
        return await self.gossip(rpc_pb2.RPC(publish=messages).SerializeToString())


async def swallow(stream: INetStream) -> None:
    """Take whatever the victim's gossip sends: it listens only to peers that listen to it."""
    while True:
        await stream.read(65_536)


@asynccontextmanager
async def attacker(
    victim: Target, *, keys: KeyPair | None = None, connect: bool = True
) -> AsyncIterator[Attacker]:
    pair = keys or create_new_key_pair()
    noise = NoiseTransport(pair, noise_privkey=create_noise_key_pair().private_key)
    host = new_host(
        key_pair=pair,
        sec_opt={NOISE: noise},
        muxer_opt={YAMUX: Yamux},  # type: ignore[dict-item]
        listen_addrs=[Multiaddr("/ip4/127.0.0.1/tcp/0")],
    )
    host.set_stream_handler(MESHSUB, swallow)  # type: ignore[arg-type]
    async with host.run([Multiaddr("/ip4/127.0.0.1/tcp/0")]):
        attacking = Attacker(host, victim)
        if connect:
            await attacking.connect()
        yield attacking
        with trio.move_on_after(2) as scope:
            scope.shield = True
            await host.close()
