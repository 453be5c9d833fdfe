"""Whom we know and where they can be reached; kept on disk, so that a node finds its net without bootstrap peers.

Saved are peers that answered a dial of ours, and those whose addresses they signed themselves: what strangers say of
others is not worth keeping. The file is JSON, version 1:

    {"version": 1, "peers": [{"peer_id": "12D3...", "addresses": ["/ip4/..."], "last_success": 1790000000,
                              "failures": 0}]}

`last_success` is seconds since 1970, 0 if it was never dialled with success; `failures` are dials in a row that failed.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final, Protocol

import structlog
import trio

from koii_p2p.errors import ConfigurationError, OperatorError
from koii_p2p.limits import Limits
from koii_p2p.network.containment import at_most
from koii_p2p.network.identity import key_of_peer_id, peer_id_text
from koii_p2p.network.settings import PeerAddress, parse_dialable

log = structlog.get_logger(__name__)

#: The peer with the higher key waits so long for the lower one to dial, so that they do not dial at once.
GRACE_SECONDS = 3.0
FILE_VERSION: Final = 1
HEARSAY_FAILURES: Final = 8
"""A peer that only others speak of is forgotten after so many dials in a row: some minutes."""
FORGOTTEN_SECONDS: Final = 60 * 86_400
"""A saved peer that was not reached for so long is forgotten."""


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
    signed: bool = False
    """Whether it has said itself, signed, where it is."""
    named: tuple[str, ...] = ()
    """Addresses that the operator gave: they are dialled wherever they lead."""
    last_success: int = 0
    """When a dial last reached it, in seconds since 1970; 0 for never."""

    @property
    def hearsay(self) -> bool:
        """Whether nothing is known of it but what others have said."""
        return not (self.bootstrap or self.signed or self.last_success)


class AddressFile(Protocol):
    """Where the book is kept; both block and raise `OperatorError`."""

    def read(self) -> bytes | None:
        """Return what was written last; None if nothing was."""

    def write(self, data: bytes) -> None:
        """Replace it, whole or not at all."""


class AddressBook:
    """Known peers, bounded; hearsay is forgotten first, then the ones that fail most, bootstrap peers never."""

    def __init__(self, own_key: bytes, limits: Limits) -> None:
        self._own_key = own_key
        self._limits = limits
        self._peers: dict[bytes, KnownPeer] = {}
        self.refused = 0
        self.changes = 0
        """How often something worth saving has changed."""

    def __len__(self) -> int:
        return len(self._peers)

    def __iter__(self) -> Iterator[KnownPeer]:
        return iter(tuple(self._peers.values()))

    def get(self, key: bytes) -> KnownPeer | None:
        """Return what is known of a peer."""
        return self._peers.get(key)

    def add_bootstrap(self, address: PeerAddress, *, named: bool = True) -> None:
        """Remember a peer to be called first; `named` if the operator has named it, and not the task's record."""
        if address.key == self._own_key:
            return
        peer = self._peers.setdefault(address.key, KnownPeer(address.key, (), True, not_before=0.0))
        peer.bootstrap = True
        if named:
            peer.named = (*peer.named, address.transport)
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
            self._peers[key] = KnownPeer(key, usable, False, not_before=now + wait, signed=signed)
            self._make_room()
            self.changes += signed
            return
        keep_old = peer.bootstrap or not signed
        merged = (*peer.addresses, *usable) if keep_old else usable
        merged = tuple(dict.fromkeys(merged))[: self._limits.presence_addresses]
        if set(merged) != set(peer.addresses):
            peer.failures = 0
            peer.not_before = min(peer.not_before, now + GRACE_SECONDS)
            self.changes += signed
        peer.addresses = merged
        peer.signed = peer.signed or signed

    def failed(self, peer: KnownPeer, not_before: float) -> None:
        """Note that no dial reached a peer. Hearsay that has failed again and again is forgotten."""
        peer.failures += 1
        peer.not_before = not_before
        if peer.hearsay and peer.failures >= HEARSAY_FAILURES:
            self._peers.pop(peer.key, None)

    def succeeded(self, peer: KnownPeer) -> None:
        """Note that a dial reached a peer."""
        peer.failures = 0
        peer.last_error = ""
        peer.last_success = int(time.time())
        self.changes += 1

    def encoded(self) -> bytes:
        """Return the content of the file: the peers reached most recently, up to `Limits.address_book_saved`."""
        worth = [peer for peer in self._peers.values() if peer.last_success or peer.signed]
        worth.sort(key=lambda peer: (-peer.last_success, peer.failures))
        peers = [
            {
                "peer_id": peer_id_text(peer.key),
                "addresses": [f"{address}/p2p/{peer_id_text(peer.key)}" for address in peer.addresses],
                "last_success": peer.last_success,
                "failures": peer.failures,
            }
            for peer in worth[: self._limits.address_book_saved]
        ]
        return json.dumps({"version": FILE_VERSION, "peers": peers}, indent=1).encode()

    def restore(self, data: bytes, now: float) -> int:
        """Take the peers of a file, to be dialled the last reached first; return how many.

        Raises `ValueError` for what is no such file; single peers that make no sense are left out.
        """
        found = json.loads(data)
        if not isinstance(found, dict) or found.get("version") != FILE_VERSION:
            raise ValueError(f"it is not a list of addresses of version {FILE_VERSION}")
        peers = found.get("peers")
        if not isinstance(peers, list):
            raise ValueError("it has no list of peers")
        restored = 0
        for one in peers[: self._limits.address_book_saved]:
            peer = self._restored(one, now + 0.01 * restored)
            if peer is not None and peer.key not in self._peers and peer.key != self._own_key:
                self._peers[peer.key] = peer
                restored += 1
        return restored

    def _restored(self, one: Any, due: float) -> KnownPeer | None:
        try:
            key = key_of_peer_id(str(one["peer_id"]))
            addresses = self._usable(key, map(str, one["addresses"]), names=True)
            reached, failures = int(one["last_success"]), int(one["failures"])
        except (KeyError, TypeError, ValueError, OverflowError):
            return None
        if not addresses or (reached and reached < time.time() - FORGOTTEN_SECONDS):
            return None
        return KnownPeer(
            key, addresses, False, due, failures=max(0, min(failures, 16)), signed=True, last_success=reached
        )

    def _usable(self, key: bytes, addresses: Iterable[str], *, names: bool = False) -> tuple[str, ...]:
        usable: dict[str, None] = {}
        for text in addresses:
            if len(usable) >= self._limits.presence_addresses:
                break
            if text.endswith("/http"):
                continue  # the REST of a node's tasks, which nobody dials for libp2p
            try:
                if len(text) > self._limits.address_bytes:
                    raise ValueError("too long")
                transport, named = parse_dialable(text, names=names)
                if named not in (None, key):
                    raise ValueError("of another peer")
                usable[transport] = None
            except (ConfigurationError, ValueError):
                self.refused += 1
        return tuple(usable)

    def _make_room(self) -> None:
        if len(self._peers) <= self._limits.address_book_peers:
            return
        removable = [peer for peer in self._peers.values() if not peer.bootstrap and not peer.dialling]
        if removable:
            # A flood of inventions must not push out those that were reached or that said themselves where they are.
            del self._peers[max(removable, key=lambda peer: (peer.hearsay, peer.failures)).key]


async def restore_book(book: AddressBook, file: AddressFile) -> None:
    """Fill a book from its file. A file that cannot be read or understood costs a warning, and the book is empty."""
    try:
        data = await trio.to_thread.run_sync(file.read)
        if data is not None:
            log.info("addresses_restored", peers=book.restore(data, trio.current_time()))
    except (OperatorError, ValueError, RecursionError) as error:
        why = f"{error.what} {error.why}" if isinstance(error, OperatorError) else str(error)
        log.warning("addresses_not_restored", error=why, effect="only bootstrap peers are called at first")


async def keep_book(book: AddressBook, file: AddressFile, seconds: float) -> None:
    """Save a book whenever it has changed, at most once in `seconds`, and once more when cancelled."""
    saved = book.changes
    try:
        while True:
            await trio.sleep(seconds)
            if book.changes != saved:
                saved = book.changes
                await _save(book, file)
    finally:
        if book.changes != saved:
            with at_most(seconds):
                await _save(book, file)


async def _save(book: AddressBook, file: AddressFile) -> None:
    try:
        await trio.to_thread.run_sync(file.write, book.encoded())
    except OperatorError as error:
        log.warning("addresses_not_saved", error=f"{error.what} {error.why}")
