"""What the DHT needs of a running network, out of its parts."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from libp2p.peer.id import ID

from koii_p2p.gossip.peers import ANNOUNCED
from koii_p2p.network.address_book import AddressBook
from koii_p2p.network.dht.links import DhtNetwork
from koii_p2p.network.dht.streams import PROTOCOL
from koii_p2p.network.discovery import Connector
from koii_p2p.network.host import ContainedHost
from koii_p2p.network.identity import peer_id_bytes
from koii_p2p.network.peer_records import BadPeerRecord, recorded_addresses

BYSTANDERS = frozenset(
    {*ANNOUNCED, PROTOCOL, "/ipfs/ping/1.0.0", "/ipfs/id/1.0.0", "/ipfs/id/push/1.0.0", "None"}
)
"""Protocols of streams that do not keep a connection open that was made for a search; `None` is not yet agreed on."""


def dht_network(
    host: ContainedHost,
    book: AddressBook,
    connector: Connector,
    *,
    own_addresses: Callable[[], tuple[str, ...]],
    learn: Callable[[bytes, tuple[str, ...]], None],
    disconnect: Callable[[bytes, str], None],
    misbehaved: Callable[[bytes, str], None],
) -> DhtNetwork:
    """Return the parts of a running network as the DHT wants them."""

    def addresses_of(key: bytes) -> tuple[str, ...]:
        known = book.get(key)
        return () if known is None else known.addresses

    def recorded(key: bytes) -> tuple[str, ...]:
        record = host.peer_record(key)
        with suppress(BadPeerRecord):
            return recorded_addresses(key, record) if record else ()
        return ()

    def in_use(key: bytes) -> bool:
        return any(
            str(stream.get_protocol()) not in BYSTANDERS
            for connection in host.swarm.get_connections(ID(peer_id_bytes(key)))
            for stream in connection.get_streams()
        )

    return DhtNetwork(
        open_stream=host.open_stream,
        dial=connector.dial_now,
        disconnect=disconnect,
        serve=host.serve,
        withdraw=host.withdraw,
        learn=learn,
        addresses_of=addresses_of,
        own_addresses=own_addresses,
        recorded=recorded,
        in_use=in_use,
        misbehaved=misbehaved,
    )
