"""Whom we know, where they can be reached, and when to dial them (again)."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator
from dataclasses import dataclass

import structlog
import trio

from koii_p2p.errors import ConfigurationError
from koii_p2p.limits import Limits
from koii_p2p.network.identity import peer_id_text
from koii_p2p.network.settings import PeerAddress, parse_listen, parse_peer_address

log = structlog.get_logger(__name__)

#: The peer with the higher key waits so long for the lower one to dial, so that they do not dial at once.
GRACE_SECONDS = 3.0
TICK_SECONDS = 1.0
STAGGER_SECONDS = 0.25

#: `dial(key, address)`: connect or raise; the address is a multiaddr without its `/p2p/` part.
Dial = Callable[[bytes, str], Awaitable[None]]


@dataclass(slots=True)
class KnownPeer:
    """A peer we could dial."""

    key: bytes
    addresses: tuple[str, ...]
    bootstrap: bool
    not_before: float
    """`trio.current_time()` before which it is not dialled."""
    attempts: int = 0
    failures: int = 0
    """Dials in a row that failed."""
    last_error: str = ""
    dialling: bool = False


@dataclass(frozen=True, slots=True)
class BootstrapStatus:
    """How it stands with one bootstrap peer."""

    address: str
    connected: bool
    attempts: int
    last_error: str


@dataclass(frozen=True, slots=True)
class DiscoveryStatistics:
    """Counters since the start."""

    known_peers: int
    dials: int
    dials_failed: int
    addresses_refused: int
    """Addresses told to us that nobody could dial."""
    bootstrap: tuple[BootstrapStatus, ...]


class AddressBook:
    """Known peers, bounded; the ones that fail most are forgotten first, bootstrap peers never."""

    def __init__(self, own_key: bytes, limits: Limits) -> None:
        self._own_key = own_key
        self._limits = limits
        self._peers: dict[bytes, KnownPeer] = {}
        self.refused = 0

    def __len__(self) -> int:
        return len(self._peers)

    def __iter__(self) -> Iterator[KnownPeer]:
        return iter(tuple(self._peers.values()))

    def get(self, key: bytes) -> KnownPeer | None:
        """Return what is known of a peer."""
        return self._peers.get(key)

    def add_bootstrap(self, address: PeerAddress) -> None:
        """Remember a peer the operator named."""
        if address.key == self._own_key:
            return
        peer = self._peers.setdefault(address.key, KnownPeer(address.key, (), True, not_before=0.0))
        peer.bootstrap = True
        peer.addresses = tuple(dict.fromkeys((*peer.addresses, address.transport)))

    def learn(self, key: bytes, addresses: Iterable[str], *, signed: bool, now: float) -> None:
        """Remember the addresses of a peer. Signed ones (its own statement) replace what was known before;
        others are added behind. What cannot be dialled is counted and left out.
        """
        if key == self._own_key:
            return
        usable = self._usable(key, addresses)
        if not usable:
            return
        peer = self._peers.get(key)
        if peer is None:
            wait = GRACE_SECONDS * random.uniform(1, 2) if self._own_key > key else 0.0
            self._peers[key] = KnownPeer(key, usable, False, not_before=now + wait)
            self._make_room()
            return
        keep_old = peer.bootstrap or not signed
        merged = (*peer.addresses, *usable) if keep_old else usable
        merged = tuple(dict.fromkeys(merged))[: self._limits.presence_addresses]
        if set(merged) != set(peer.addresses):
            peer.failures = 0
            peer.not_before = min(peer.not_before, now + GRACE_SECONDS)
        peer.addresses = merged

    def _usable(self, key: bytes, addresses: Iterable[str]) -> tuple[str, ...]:
        usable: dict[str, None] = {}
        for text in addresses:
            if len(usable) >= self._limits.presence_addresses:
                break
            try:
                if len(text) > self._limits.address_bytes:
                    raise ValueError("too long")
                if "/p2p/" in text:
                    parsed = parse_peer_address(text)
                    if parsed.key != key:
                        raise ValueError("of another peer")
                    usable[parsed.transport] = None
                else:
                    usable[parse_listen(text)] = None
            except (ConfigurationError, ValueError):
                self.refused += 1
        return tuple(usable)

    def _make_room(self) -> None:
        if len(self._peers) <= self._limits.address_book_peers:
            return
        removable = [peer for peer in self._peers.values() if not peer.bootstrap and not peer.dialling]
        if removable:
            del self._peers[max(removable, key=lambda peer: peer.failures).key]


class Connector:
    """Keeps the node connected: to a bootstrap peer always, to other known peers up to a target."""

    def __init__(
        self,
        book: AddressBook,
        target: int,
        limits: Limits,
        dial: Dial,
        connected: Callable[[], Collection[bytes]],
        allowed: Callable[[bytes], bool],
    ) -> None:
        self._book = book
        self._target = target
        self._limits = limits
        self._dial = dial
        self._connected = connected
        self._allowed = allowed
        self._wake = trio.Event()
        self._dials = 0
        self._dials_failed = 0

    def wake(self) -> None:
        """Look at once whom to dial, because something changed."""
        self._wake.set()

    async def run(self) -> None:
        """Dial whoever is due, for ever."""
        async with trio.open_nursery() as nursery:
            while True:
                for peer in self._due(trio.current_time()):
                    peer.dialling = True
                    nursery.start_soon(self._dial_peer, peer)
                self._wake = trio.Event()
                with trio.move_on_after(self._pause(trio.current_time())):
                    await self._wake.wait()

    def lost(self, key: bytes) -> None:
        """Note that a connection ended; the peer is dialled again after a while."""
        peer = self._book.get(key)
        if peer is not None:
            peer.not_before = max(peer.not_before, trio.current_time() + self._backoff(peer.failures))
        self.wake()

    async def dial_now(self, key: bytes) -> bool:
        """Dial a known peer although it is not due; return whether it is connected now."""
        peer = self._book.get(key)
        if peer is None or not self._allowed(key):
            return False
        if not peer.dialling:
            peer.dialling = True
            await self._dial_peer(peer)
        while peer.dialling:
            await trio.sleep(0.02)
        return key in self._connected()

    def _pause(self, now: float) -> float:
        """Return how long nothing will be due, within bounds."""
        soonest = min(
            (peer.not_before for peer in self._book if peer.not_before > now), default=now + TICK_SECONDS
        )
        return min(TICK_SECONDS, max(TICK_SECONDS / 20, soonest - now))

    def _due(self, now: float) -> list[KnownPeer]:
        connected = self._connected()
        dialling = sum(peer.dialling for peer in self._book)
        free = self._limits.dials_at_once - dialling
        lacking = self._target - len(connected) - dialling
        at_home = any(peer.bootstrap and peer.key in connected for peer in self._book)
        homeward: list[KnownPeer] = []
        others: list[KnownPeer] = []
        for peer in self._book:
            if peer.not_before > now or peer.key in connected or peer.dialling or not self._allowed(peer.key):
                continue
            (homeward if peer.bootstrap and not at_home else others).append(peer)
        for group in (homeward, others):
            random.shuffle(group)
            group.sort(key=lambda peer: peer.failures)
        chosen = homeward[: max(0, free)]
        chosen += others[: max(0, min(free, lacking) - len(chosen))]
        return chosen

    async def _dial_peer(self, peer: KnownPeer) -> None:
        try:
            if await self._try_all(peer):
                peer.failures = 0
                peer.last_error = ""
                return
            peer.failures += 1
            peer.not_before = trio.current_time() + self._backoff(peer.failures)
            if peer.bootstrap:
                log.warning(
                    "bootstrap_unreachable",
                    peer_id=peer_id_text(peer.key),
                    addresses=peer.addresses,
                    error=peer.last_error,
                    attempts=peer.attempts,
                )
        finally:
            peer.dialling = False

    async def _try_all(self, peer: KnownPeer) -> bool:
        """Dial the addresses of a peer, each a little after the one before or as soon as that has failed; the first
        that answers ends the others (RFC 8305, "happy eyeballs").
        """
        answered = False

        async def attempt(address: str, failed: trio.Event) -> None:
            nonlocal answered
            self._dials += 1
            peer.attempts += 1
            error = await self._try(peer.key, address)
            if error is None:
                answered = True
                nursery.cancel_scope.cancel()
                return
            self._dials_failed += 1
            peer.last_error = error
            failed.set()

        async with trio.open_nursery() as nursery:
            for address in peer.addresses:
                failed = trio.Event()
                nursery.start_soon(attempt, address, failed)
                with trio.move_on_after(STAGGER_SECONDS):
                    await failed.wait()
        return answered

    async def _try(self, key: bytes, address: str) -> str | None:
        """Dial one address; return None, or why it failed."""
        with trio.move_on_after(self._limits.dial_deadline) as scope:
            try:
                await self._dial(key, address)
            except Exception as error:  # noqa: BLE001 - whatever the library raises, it is a dial that failed
                return _innermost(error)
        return f"no answer within {self._limits.dial_deadline:g} s" if scope.cancelled_caught else None

    def _backoff(self, failures: int) -> float:
        longest = self._limits.dial_backoff_longest
        return min(longest, self._limits.dial_backoff_first * 2.0 ** min(failures, 16)) * random.uniform(
            0.5, 1.0
        )

    def statistics(self) -> DiscoveryStatistics:
        """Return the counters."""
        connected = self._connected()
        return DiscoveryStatistics(
            known_peers=len(self._book),
            dials=self._dials,
            dials_failed=self._dials_failed,
            addresses_refused=self._book.refused,
            bootstrap=tuple(
                BootstrapStatus(
                    address=f"{peer.addresses[0]}/p2p/{peer_id_text(peer.key)}",
                    connected=peer.key in connected,
                    attempts=peer.attempts,
                    last_error=peer.last_error,
                )
                for peer in self._book
                if peer.bootstrap
            ),
        )


def _innermost(error: BaseException) -> str:
    """Return the sentence of the exception that started it: the library wraps "connection refused" three times."""
    while (cause := error.__cause__) is not None or isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0] if isinstance(error, BaseExceptionGroup) else cause  # type: ignore[assignment]
    return str(error) or type(error).__name__
