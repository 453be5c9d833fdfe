"""Whom to dial, and when (again)."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass

import structlog
import trio

from koii_p2p.limits import Limits
from koii_p2p.network.address_book import AddressBook, KnownPeer
from koii_p2p.network.identity import peer_id_text
from koii_p2p.network.reach.dial_back import innermost
from koii_p2p.network.settings import is_relayed

log = structlog.get_logger(__name__)

TICK_SECONDS = 1.0
STAGGER_SECONDS = 0.25

#: `dial(key, address)`: connect or raise; the address is a multiaddr without its `/p2p/` part.
Dial = Callable[[bytes, str], Awaitable[None]]


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
        within_reach: Callable[[str], bool] = lambda address: True,
    ) -> None:
        """`within_reach(address)` says whether an address that others told may be dialled from where we are."""
        self._book = book
        self._target = target
        self._limits = limits
        self._dial = dial
        self._connected = connected
        self._allowed = allowed
        self._within_reach = within_reach
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
            group.sort(key=lambda peer: (peer.failures, all(map(is_relayed, peer.addresses))))
        chosen = homeward[: max(0, free)]
        chosen += others[: max(0, min(free, lacking) - len(chosen))]
        return chosen

    async def _dial_peer(self, peer: KnownPeer) -> None:
        try:
            if await self._try_all(peer):
                self._book.succeeded(peer)
                return
            pause = self._backoff(peer.failures + 1)
            self._book.failed(peer, trio.current_time() + pause)
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
            for address in sorted(self._dialable(peer), key=is_relayed):
                failed = trio.Event()
                nursery.start_soon(attempt, address, failed)
                with trio.move_on_after(STAGGER_SECONDS):
                    await failed.wait()
        return answered

    def _dialable(self, peer: KnownPeer) -> list[str]:
        found = [one for one in peer.addresses if one in peer.named or self._within_reach(one)]
        if not found:
            peer.last_error = "it is said to be on this machine or its local network only"
        return found

    async def _try(self, key: bytes, address: str) -> str | None:
        """Dial one address; return None, or why it failed."""
        with trio.move_on_after(self._limits.dial_deadline) as scope:
            try:
                await self._dial(key, address)
            except Exception as error:  # noqa: BLE001 - whatever the library raises, it is a dial that failed
                return innermost(error)
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
