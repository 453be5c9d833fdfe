"""The network of a node: one object that connects, gossips, asks and answers, and can only be ended by its owner."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import structlog
import trio

from koii_p2p.errors import NetworkError, operator_error_in
from koii_p2p.gossip.peers import ANNOUNCED
from koii_p2p.limits import Limits
from koii_p2p.network.address_book import AddressBook, AddressFile, keep_book, restore_book
from koii_p2p.network.containment import Guard, check_library
from koii_p2p.network.dht.service import Dht
from koii_p2p.network.discovery import Connector
from koii_p2p.network.gossip import GossipVerdict, PeerScore, Validator
from koii_p2p.network.gossip_settings import gossip_parameters
from koii_p2p.network.identity import key_of_peer_id, peer_id_bytes, peer_id_text
from koii_p2p.network.mdns import mdns
from koii_p2p.network.peer_table import PeerTable
from koii_p2p.network.reach.dial_back import ASK as DIAL_BACK
from koii_p2p.network.requests import Handler, RequestFailed, RequestReason, Requests
from koii_p2p.network.settings import NetworkSettings, PeerAddress, parse_listen, parse_peer_address
from koii_p2p.network.statistics import NetworkStatistics, PeerInfo, ReachReport
from koii_p2p.network.streams import (
    LinkDown,
    LinkEvent,
    LinkUp,
    LinkWatcher,
    PeerStream,
    StreamFailed,
    StreamHandler,
    StreamReason,
)
from koii_p2p.records.keys import SecretKey

if TYPE_CHECKING:
    from koii_p2p.network.gossip_driver import GossipDriver
    from koii_p2p.network.host import ContainedHost
    from koii_p2p.network.reach.ways_in import WaysIn
    from koii_p2p.network.shaping import Shaper

__all__ = [
    "GossipVerdict",
    "LinkDown",
    "LinkEvent",
    "LinkUp",
    "Network",
    "NetworkSettings",
    "NetworkStatistics",
    "PeerInfo",
    "PeerStream",
    "RequestFailed",
    "StreamFailed",
    "StreamReason",
]

log = structlog.get_logger(__name__)

WATCH_SECONDS = 1.0


class Network:
    """A libp2p node with the PeerId of the staking key.

    Handlers and topics may be given before or while it runs. libp2p is loaded by `run`, not by importing this.
    """

    def __init__(
        self,
        secret: SecretKey,
        settings: NetworkSettings,
        limits: Limits | None = None,
        address_file: AddressFile | None = None,
    ) -> None:
        """Check the settings. Raises `ConfigurationError` for an address that cannot be used.

        Known peers are kept in `address_file` from one run to the next, if it is given.
        """
        self.key = secret.public_key
        self.peer_id = peer_id_text(secret.public_key)
        self._secret = secret
        self._settings = settings
        self._limits = limits if limits is not None else Limits()
        self._listen = tuple(parse_listen(text) for text in settings.listen)
        self._announce = tuple(parse_listen(text) for text in settings.announce)
        self._guard = Guard()
        self._table = PeerTable(self._limits)
        self._requests = Requests(self._guard, self._limits)
        self._book = AddressBook(self.key, self._limits)
        self._address_file = address_file
        self._requests.serve(DIAL_BACK, self._dial_back)
        for text in settings.bootstrap:
            self._book.add_bootstrap(parse_peer_address(text))
        self._connector = Connector(
            self._book,
            settings.target_peers,
            self._limits,
            self._dial,
            self._connected_keys,
            self._allowed,
            self._within_reach,
        )
        self.dht = Dht(self.key, settings.dht, settings.target_peers, self._limits, self._guard)
        self._validators: dict[str, Validator] = {}
        self._application_scores: dict[bytes, float] = {}
        self._stream_handlers: dict[str, StreamHandler] = {}
        self._link_watchers: list[LinkWatcher] = []
        self._disconnects: Counter[str] = Counter()
        self._host: ContainedHost | None = None
        self._gossip: GossipDriver | None = None
        self._shaper: Shaper | None = None
        self._ways: WaysIn | None = None
        self._nursery: trio.Nursery | None = None

    # life

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run until cancelled; `task_status.started()` is called once it listens and its topics are joined.

        Raises `NetworkError` when an address cannot be listened on or the library is not the expected one,
        `ConfigurationError` when the file of conditions cannot be used.
        """
        check_library()
        try:
            await self._run(task_status)
        except BaseExceptionGroup as group:
            raise _clear_error(group) from group
        finally:
            self._host = self._gossip = self._shaper = self._ways = self._nursery = None
            self._requests.attach(None)
            for key in tuple(self._table.links):
                del self._table.links[key]
                self._tell(LinkDown(key))

    async def _run(self, task_status: trio.TaskStatus[None]) -> None:
        from koii_p2p.network.dht.wiring import dht_network
        from koii_p2p.network.gossip_driver import GossipDriver, PeerControl
        from koii_p2p.network.host import build_host, running_host
        from koii_p2p.network.link_events import LinkEvents
        from koii_p2p.network.reach.ways_in import WaysIn
        from koii_p2p.network.shaping import Shaper
        from koii_p2p.network.sockets import TcpSocket

        if self._address_file is not None:
            await restore_book(self._book, self._address_file)
        conditions = self._settings.conditions
        shaper = None if conditions is None else Shaper(self.key, conditions)
        make_socket = TcpSocket if shaper is None else shaper.shape
        host = build_host(self._secret.seed, self._settings, self._guard, self._limits, make_socket)
        host.swarm.gate = self._allowed
        host.swarm.register_notifee(LinkEvents(self._on_link_change))
        gossip = GossipDriver(
            self.key,
            gossip_parameters(self._settings, self._limits),
            host.open_stream,
            PeerControl(
                misbehaved=self._on_misbehaved,
                ban=self._on_ban,
                disconnect=self._disconnect_soon,
                learn=self._on_hint,
                record=host.peer_record,
            ),
            self._guard,
            self._limits,
            random.Random(),
        )
        for key, value in self._application_scores.items():
            gossip.set_application_score(key, value)
        async with AsyncExitStack() as stack:
            if shaper is not None:
                await stack.enter_async_context(shaper.running())
            await stack.enter_async_context(gossip.running())
            self._host, self._gossip, self._shaper = host, gossip, shaper
            self._ways = WaysIn(
                host,
                self._announce,
                lambda: self._table.links,
                self._ask,
                self._guard,
                self._limits,
                relay=self._settings.relay,
            )
            self._requests.attach(host)
            for protocol, handler in self._stream_handlers.items():
                host.serve(protocol, handler)
            for protocol in ANNOUNCED:
                host.serve(protocol, gossip.read)
            for topic, validator in self._validators.items():
                gossip.join(topic, validator)
            surroundings = dht_network(
                host,
                self._book,
                self._connector,
                own_addresses=lambda: self.addresses,
                learn=self._on_hint,
                disconnect=self._disconnect_soon,
                misbehaved=self._on_misbehaved,
            )
            await stack.enter_async_context(self.dht.running(surroundings))
            # Listening comes last, so that the first peer already finds everything served.
            await stack.enter_async_context(running_host(host, self._listen, self._limits))
            if self._settings.mdns:
                await stack.enter_async_context(mdns(self.key, self.addresses, self._on_hint))
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                nursery.start_soon(self._connector.run)
                nursery.start_soon(self._ways.run)
                if self._address_file is not None:
                    nursery.start_soon(
                        keep_book, self._book, self._address_file, self._limits.address_book_save_seconds
                    )
                nursery.start_soon(self._watch)
                log.info("network_listening", peer_id=self.peer_id, addresses=self.addresses)
                task_status.started()

    @property
    def addresses(self) -> tuple[str, ...]:
        """Return where others can dial this node, as far as it knows, each ending in its PeerId.

        Empty while it does not run. They change as peers dial it, or cannot, and with the relays it uses.
        """
        return () if self._ways is None else self._ways.addresses

    @property
    def listening(self) -> bool:
        """Whether it runs and takes connections, known to others or not."""
        return self._host is not None and bool(self._host.swarm.listeners)

    @property
    def observed(self) -> tuple[str, ...]:
        """Return where connected peers say they see this node, the most agreed on first; any of them may lie."""
        return () if self._host is None else self._host.observed()

    def reach(self) -> ReachReport | None:
        """Return how others get at this node; None while it does not run."""
        return None if self._ways is None else self._ways.report()

    async def ask_to_dial_back(self, key: bytes) -> None:
        """Have a connected peer try now whether it can dial this node; what it found is in `reach()`."""
        if self._ways is not None:
            await self._ways.ask(key)

    # messages

    async def join_topic(self, topic: str, validator: Validator) -> None:
        """Subscribe to a topic.

        `validator(sender_key, data)` is called for every new message of a peer (never for own ones) inside that
        peer's read loop; the key is the neighbour's, not the author's. Raises `ValueError` for a topic joined before.
        """
        if topic in self._validators:
            raise ValueError(f"The topic {topic!r} is joined already.")
        if self._gossip is not None:
            self._gossip.join(topic, validator)
        self._validators[topic] = validator

    async def publish(self, topic: str, data: bytes) -> int:
        """Send an own message to every subscribed neighbour, waiting for room in their queues.

        Returns how many neighbours there are; with 0 the message is held for the first that subscribes.
        Raises `ValueError` for a topic not joined or data above `Limits.gossip_message_bytes`, `NetworkError` while
        the network does not run.
        """
        return await self._running_gossip().publish(topic, data)

    def serve(self, protocol: str, handler: Handler) -> None:
        """Answer requests on a protocol: `handler(asker_key, request) -> response`.

        A handler that raises, or takes longer than `Limits.respond_deadline`, costs its own stream only.
        """
        self._requests.serve(protocol, handler)

    async def request(
        self, key: bytes, protocol: str, payload: bytes, *, deadline: float | None = None
    ) -> bytes:
        """Ask a peer and return its response, dialling it if it is known but not connected.

        `deadline` in seconds covers everything (default `Limits.request_deadline`). Raises `RequestFailed`.
        """
        seconds = self._limits.request_deadline if deadline is None else deadline
        ends = trio.current_time() + seconds
        if key not in self._table.links:
            with trio.move_on_after(seconds):
                await self._connector.dial_now(key)
        left = ends - trio.current_time()
        if left <= 0:
            raise RequestFailed(RequestReason.TIMED_OUT, f"No connection within {seconds:g} s.")
        return await self._requests.ask(key, protocol, payload, deadline=left)

    # streams

    def handle(self, protocol: str, handler: StreamHandler) -> None:
        """Give every stream on which a peer proposes `protocol` to `handler(stream)`.

        When the handler returns the stream is closed; when it raises it is reset, which costs that stream only.
        Raises `ValueError` when the protocol has a handler already.
        """
        if protocol in self._stream_handlers:
            raise ValueError(f"The protocol {protocol!r} has a handler already.")
        self._stream_handlers[protocol] = handler
        if self._host is not None:
            self._host.serve(protocol, handler)

    async def open_stream(self, key: bytes, protocols: Sequence[str], *, deadline: float) -> PeerStream:
        """Open a stream to a connected peer for the first of `protocols` that it speaks.

        `deadline` in seconds; it is never longer than `Limits.negotiation_deadline`. Raises `StreamFailed`.
        """
        if self._host is None:
            raise StreamFailed(StreamReason.NOT_CONNECTED, "The network does not run.")
        with trio.move_on_after(deadline):
            return await self._host.open_stream(key, protocols)
        raise StreamFailed(StreamReason.TIMED_OUT, f"No stream within {deadline:g} s.")

    def watch_links(self, watcher: LinkWatcher) -> None:
        """Tell `watcher` of every peer that connects (`LinkUp`) and of every one that is gone (`LinkDown`).

        The two alternate for each peer, however many connections it has; a stop of the network ends every link. The
        watcher must not block; what it raises is counted.
        """
        self._link_watchers.append(watcher)

    # the DHT, of which `dht` has the rest

    async def provide(self, key: bytes) -> None:
        """Tell the DHT that we provide what a CID, or any key up to 256 bytes, names: now and every few hours.

        Without peers it is told as soon as there are some. Raises `ValueError` for more keys than
        `Limits.dht_own_keys`, `NetworkError` when the DHT is off.
        """
        await self.dht.provide(key)

    async def find_providers(self, key: bytes, *, count: int, deadline: float) -> tuple[bytes, ...]:
        """Return up to `count` staking keys of others that say they provide what a key names; `request` can dial them.

        `deadline` in seconds. Raises `NetworkError` while the network does not run, or when the DHT is off.
        """
        return await self.dht.find_providers(key, count=count, deadline=deadline)

    # peers

    def add_bootstrap(self, peer: PeerAddress) -> None:
        """Call this peer first, and keep calling it, as those of the settings, if it is `WaysIn.within_reach`."""
        self._book.add_bootstrap(peer, named=False)
        self._connector.wake()

    def learn(self, key: bytes, addresses: Iterable[str]) -> None:
        """Remember where a peer says it can be dialled (from its signed Presence)."""
        self._book.learn(key, addresses, signed=True, now=trio.current_time())
        self._connector.wake()

    def set_application_score(self, key: bytes, value: float) -> None:
        """Set what the node thinks of a peer, connected or not, such as its stake and audit record; 0 forgets it.

        It is a term of the peer's gossip score (P5), next to which a message delivered first counts 1 and ten rejected
        ones -1000.
        """
        if value:
            self._application_scores[key] = value
        else:
            self._application_scores.pop(key, None)
        if self._gossip is not None:
            self._gossip.set_application_score(key, value)

    def scores(self) -> tuple[PeerScore, ...]:
        """Return what the gossip score of every connected peer is made of, sorted by key."""
        return () if self._gossip is None else self._gossip.scores()

    def expect_peers(self, count: int) -> None:
        """Let the meshes be as large as a net of `count` nodes wants, or of as many as are connected if that is more.

        Takes the place of `NetworkSettings.expected_peers`, which holds until the first call.
        """
        if self._gossip is not None:
            self._gossip.expect_peers(max(count, len(self._table.links) + 1))

    def peers(self) -> tuple[PeerInfo, ...]:
        """Return the connected peers, sorted by key."""
        now = trio.current_time()
        gossip = self._gossip
        result = []
        for key, link in sorted(self._table.links.items()):
            known = self._book.get(key)
            result.append(
                PeerInfo(
                    key=key,
                    peer_id=peer_id_text(key),
                    addresses=() if known is None else known.addresses,
                    remote=self._remote(key),
                    connected_seconds=now - link.since,
                    outgoing=link.outgoing,
                    connections=link.connections,
                    topics=() if gossip is None else gossip.subscriptions(key),
                    rejects=self._table.rejects(key),
                    score=0.0 if gossip is None else gossip.score(key),
                    bans=self._table.bans_of(key),
                )
            )
        return tuple(result)

    async def disconnect(self, key: bytes, reason: str = "asked") -> None:
        """Close all connections to a peer; it may come back."""
        host = self._host
        if host is None or key not in self._table.links:
            return
        from libp2p.peer.id import ID

        from koii_p2p.network.host import close_connections

        self._disconnects[reason] += 1
        log.info("peer_disconnected", peer_id=peer_id_text(key), reason=reason)
        with trio.move_on_after(self._limits.stop_deadline):
            await close_connections(host.swarm, ID(peer_id_bytes(key)))

    def statistics(self) -> NetworkStatistics:
        """Return the counters of everything."""
        host = self._host
        return NetworkStatistics(
            peers=len(self._table.links),
            connections=0 if host is None else host.swarm.get_total_connections(),
            inbound=0 if host is None else host.swarm.admission.total,
            pending_inbound=0 if host is None else host.swarm.admission.pending,
            banned=self._table.banned_count(trio.current_time()),
            bans=self._table.bans,
            disconnects=tuple(sorted(self._disconnects.items())),
            refused=() if host is None else tuple(sorted(host.swarm.refused.items())),
            contained=self._guard.statistics(),
            gossip=None if self._gossip is None else self._gossip.statistics(),
            requests=self._requests.statistics(),
            discovery=self._connector.statistics(),
            dht=self.dht.statistics(),
            shaping=None if self._shaper is None else self._shaper.statistics(),
            relay=None if self._ways is None else self._ways.relay_statistics,
        )

    # inside

    def _running_gossip(self) -> GossipDriver:
        if self._gossip is None:
            raise NetworkError(
                what="The message was not sent.",
                why="The network does not run.",
                remedy="Start the node first.",
            )
        return self._gossip

    def _connected_keys(self) -> frozenset[bytes]:
        return frozenset(self._table.links)

    def _allowed(self, key: bytes) -> bool:
        return not self._table.banned(key, trio.current_time())

    def _within_reach(self, address: str) -> bool:
        allowed = []
        with self._guard.contain("within_reach"):
            allowed = [self._ways is not None and self._ways.within_reach(address)]
        return any(allowed)

    async def _dial(self, key: bytes, address: str) -> None:
        if self._ways is not None:
            await self._ways.dial(key, address)

    async def _ask(self, key: bytes, protocol: str, payload: bytes, deadline: float) -> bytes:
        return await self._requests.ask(key, protocol, payload, deadline=deadline)

    async def _dial_back(self, key: bytes, request: bytes) -> bytes:
        assert self._ways is not None
        return await self._ways.dial_back.answer(key, request)

    def _remote(self, key: bytes) -> str:
        """Return the address of the other end of the preferred connection; empty when it has just closed."""
        host = self._host
        if host is None:
            return ""
        from libp2p.peer.id import ID

        connections = host.swarm.connections_to(ID(peer_id_bytes(key)))
        return host.swarm.muxer_of(connections[0]).place if connections else ""

    def _on_hint(self, key: bytes, addresses: tuple[str, ...]) -> None:
        self._book.learn(key, addresses, signed=False, now=trio.current_time())
        self._connector.wake()

    def _on_link_change(self, peer_id: bytes) -> None:
        """Note how many connections a peer has now."""
        host = self._host
        if host is None:
            return
        from libp2p.peer.id import ID

        key = key_of_peer_id(peer_id)
        connections = host.swarm.get_connections(ID(peer_id))
        if not connections:
            if self._table.lost(key):
                self._requests.forget(key)
                self._connector.lost(key)
                if self._ways is not None:
                    self._ways.lost(key)
                self._tell(LinkDown(key))
            return
        muxer = host.swarm.muxer_of(connections[0])
        outgoing = muxer.is_initiator
        if self._table.update(key, len(connections), outgoing=outgoing, now=trio.current_time()):
            self._tell(LinkUp(key, outgoing, muxer.place))

    def _tell(self, event: LinkEvent) -> None:
        if self._gossip is not None:
            self._gossip.link_changed(event)
        with self._guard.contain("dht_link"):
            self.dht.link_changed(event)
        for watcher in self._link_watchers:
            with self._guard.contain("link_watcher"):
                watcher(event)

    def _on_misbehaved(self, key: bytes, what: str) -> None:
        if self._table.misbehaved(key, trio.current_time()):
            self._banned(key, what)

    def _on_ban(self, key: bytes, why: str) -> None:
        if self._allowed(key):  # else it is banned already, and about to go
            self._table.ban(key, trio.current_time())
            self._banned(key, why)

    def _banned(self, key: bytes, why: str) -> None:
        log.warning("peer_banned", peer_id=peer_id_text(key), last=why, seconds=self._limits.ban_seconds)
        self._disconnect_soon(key, "banned")

    def _disconnect_soon(self, key: bytes, reason: str) -> None:
        if self._nursery is not None:
            self._nursery.start_soon(self.disconnect, key, reason)

    async def _watch(self) -> None:
        """Look after the links: the library never notices a peer that takes nothing or speaks one way only."""
        while True:
            await trio.sleep(WATCH_SECONDS)
            with self._guard.contain("watch"):
                self._reconcile()
                async with trio.open_nursery() as nursery:
                    for key, reason in self._unfit().items():
                        nursery.start_soon(self.disconnect, key, reason)
                    if self._host is not None:
                        for connection in self._host.swarm.surplus(trio.current_time()):
                            nursery.start_soon(connection.close)

    def _reconcile(self) -> None:
        """Compare the links with the swarm: it may be cancelled between closing a connection and telling us."""
        if self._host is None:
            return
        everybody = {peer_id.to_bytes() for peer_id in self._host.swarm.connections}
        everybody |= {peer_id_bytes(key) for key in self._table.links}
        for peer_id in everybody:
            self._on_link_change(peer_id)

    def _unfit(self) -> dict[bytes, str]:
        """Return the peers to disconnect, with the reason."""
        host, gossip = self._host, self._gossip
        if host is None or gossip is None:
            return {}
        now = trio.current_time()
        patience = self._limits.peer_stall_seconds
        unfit = dict.fromkeys(gossip.stalled(patience), "stalled")
        for key, link in self._table.links.items():
            if gossip.has_stream(key):
                link.deaf_since = None
            elif link.deaf_since is None:
                link.deaf_since = now
            elif now - link.deaf_since > patience:
                unfit[key] = "no gossip"
        unfit |= self._to_make_room(now)
        return unfit

    def _to_make_room(self, now: float) -> dict[bytes, str]:
        """When nearly full, let peers go, so that newcomers get in."""
        excess = len(self._table.links) - (self._settings.max_peers - self._settings.max_peers // 8)
        return dict.fromkeys(self._table.to_make_room(excess, self._settings.target_peers, now), "room")


def _clear_error(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return what to raise for a group that left the library's nurseries: our own error if one is in it."""
    own = operator_error_in(group)
    if own is not None:
        return own
    rest: BaseException = group
    while isinstance(rest, BaseExceptionGroup):
        rest = rest.exceptions[0]
    if not isinstance(rest, Exception):
        return rest
    return NetworkError(
        what="The network stopped.",
        why=f"{type(rest).__name__}: {rest}",
        remedy="Restart the node; if it happens again, report it with the log.",
    )
