"""Keeping the library's faults where they happen: one stream or one peer, never the node.

In trio an exception that leaves a child task cancels everything beside it, and py-libp2p 0.8.1 lets several
exceptions leave that any connected peer can provoke. Each is caught by overriding one method of a subclass of ours
(`host.py`, `sockets.py`, `upgrader.py`); nothing is patched into the library.
`check_library` refuses to start on a library whose seams are not the ones these overrides were written for.
"""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module, metadata

import structlog
import trio

from koii_p2p.errors import NetworkError

log = structlog.get_logger(__name__)

PINNED_VERSION = "0.8.1"


class Guard:
    """Absorbs ordinary exceptions and counts them; cancellation and interrupts always pass."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    @contextmanager
    def contain(self, place: str) -> Iterator[None]:
        """Absorb any ordinary exception of the block and count it under `place:ExceptionName`.

        Of a group that mixes ordinary exceptions with cancellation, only the cancellation goes on.
        """
        try:
            yield
        except Exception as error:  # noqa: BLE001 - this is the one place whose purpose is to absorb
            self.count(place, error)
        except BaseExceptionGroup as group:
            ordinary, rest = group.split(Exception)
            if ordinary is not None:
                self.count(place, ordinary)
            if rest is not None:
                raise rest from None

    def count(self, place: str, error: BaseException | str) -> None:
        """Count a fault without having raised it."""
        name = error if isinstance(error, str) else _name_of(error)
        self._counts[f"{place}:{name}"] += 1
        log.debug("contained", place=place, error=name)

    def statistics(self) -> tuple[tuple[str, int], ...]:
        """Return `(place:error, times)` sorted by name."""
        return tuple(sorted(self._counts.items()))


def at_most(seconds: float) -> trio.CancelScope:
    """Return a scope for closing things: it ends after `seconds`, and cancellation from outside waits for it."""
    return trio.CancelScope(deadline=trio.current_time() + seconds, shield=True)


def _name_of(error: BaseException) -> str:
    """Name an exception; a group is named by its first leaf, which is what a reader looks for."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return type(error).__name__


@dataclass(frozen=True, slots=True)
class Seam:
    """One overridden method: where it is, how it must be called, and the fault the override contains."""

    owner: str
    method: str
    parameters: tuple[str, ...]
    fault: str


SEAMS = (
    Seam(
        "libp2p.host.basic_host.BasicHost",
        "_swarm_stream_handler",
        ("self", "net_stream"),
        "An exception of any stream handler, or bytes in multistream that are not UTF-8, ends the swarm.",
    ),
    Seam(
        "libp2p.host.basic_host.BasicHost",
        "_identify_peer",
        ("self", "peer_id", "reason"),
        "It runs as a system task of trio, where an exception ends the process.",
    ),
    Seam(
        "libp2p.host.basic_host.BasicHost",
        "new_stream",
        ("self", "peer_id", "protocol_ids"),
        "It reads lines of any length, a byte at a time, and negotiates in two more round trips than needed.",
    ),
    Seam(
        "libp2p.host.basic_host.BasicHost",
        "get_addrs",
        ("self",),
        "It tells others every address it listens on, also those that nobody can dial.",
    ),
    Seam(
        "libp2p.network.swarm.Swarm",
        "_handle_inbound_connection",
        ("self", "read_write_closer", "maddr"),
        "The slot of an inbound connection is held until the swarm stops: after 250 connections nobody gets in.",
    ),
    Seam(
        "libp2p.network.swarm.Swarm",
        "notify_opened_stream",
        ("self", "stream"),
        "A task for each listener and stream, and no listener does anything.",
    ),
    Seam(
        "libp2p.network.swarm.Swarm",
        "notify_closed_stream",
        ("self", "stream"),
        "A task for each listener and stream, and no listener does anything.",
    ),
    Seam(
        "libp2p.network.swarm.Swarm",
        "add_conn",
        ("self", "muxed_conn", "direction"),
        "Banned peers and identities without an ed25519 key must be refused in both directions.",
    ),
    Seam(
        "libp2p.network.swarm.Swarm",
        "dial_peer",
        ("self", "peer_id"),
        "Opening a stream dials behind our back, waits 251 ms each time and remembers failures for a minute.",
    ),
    Seam(
        "libp2p.network.swarm.Swarm",
        "_schedule_auto_connect",
        ("self",),
        "It dials whatever addresses other peers put into the peerstore.",
    ),
    Seam(
        "libp2p.transport.upgrader.TransportUpgrader",
        "upgrade_security",
        ("self", "raw_conn", "is_initiator", "peer_id"),
        "Lines of any length are read before anybody has said who they are; plaintext is taken; each frame is read "
        "with two system calls.",
    ),
    Seam(
        "libp2p.transport.upgrader.TransportUpgrader",
        "upgrade_connection",
        ("self", "conn", "peer_id"),
        "The library's muxer waits for ever, keeps all that it is sent, and takes 400 microseconds for a frame.",
    ),
    Seam(
        "libp2p.transport.tcp.tcp.TCPListener",
        "get_addrs",
        ("self",),
        "While it is being closed it raises for its sockets, and whoever asks a node for its state gets an error.",
    ),
    Seam(
        "libp2p.transport.tcp.tcp.TCP",
        "dial",
        ("self", "maddr"),
        "Noise reads its socket twice per frame; the raw connection is given a buffered reader here.",
    ),
    Seam(
        "libp2p.transport.tcp.tcp.TCPListener",
        "listen",
        ("self", "maddr"),
        "It sets SO_REUSEPORT: two nodes share a port in silence, each getting half of the connections.",
    ),
)


def check_library() -> None:
    """Check that libp2p is the version these overrides were written for, and that every seam is there.

    Raises `NetworkError` naming the first difference.
    """
    version = metadata.version("libp2p")
    if version != PINNED_VERSION:
        raise _wrong_library(f"Version {version} is installed and {PINNED_VERSION} is needed.")
    for seam in SEAMS:
        module, _, name = seam.owner.rpartition(".")
        method = getattr(getattr(import_module(module), name, None), seam.method, None)
        if method is None:
            raise _wrong_library(f"{name}.{seam.method} is missing.")
        found = tuple(inspect.signature(method).parameters)
        if found != seam.parameters:
            raise _wrong_library(f"{name}.{seam.method} takes {found} instead of {seam.parameters}.")


def _wrong_library(why: str) -> NetworkError:
    return NetworkError(
        what="The installed libp2p is not the one this node knows how to contain.",
        why=why,
        remedy=f"Install libp2p=={PINNED_VERSION}.",
    )
