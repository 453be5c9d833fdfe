"""Serves the REST of a node's tasks on a socket of its own, and says to other nodes where that is."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import trio
from hypercorn.config import Config

from koii_p2p.connections import Connections
from koii_p2p.errors import NetworkError, raise_operator_error
from koii_p2p.limits import Limits
from koii_p2p.network.gossip import GossipVerdict
from koii_p2p.node.carriers import PROGRAM
from koii_p2p.node.reach import Place, place_of
from koii_p2p.node.task_gate import crowd_of
from koii_p2p.node.task_http import ServedTask, TaskHttp
from koii_p2p.node.views import base58, plain
from koii_p2p.records.cose import Signer
from koii_p2p.records.schema import Presence
from koii_p2p.rounds.engine import RoundEngine
from koii_p2p.settlement.instructions import PROGRAM_ID
from koii_p2p.tasks.facts import http_urls

if TYPE_CHECKING:
    from koii_p2p.node.task_service import TaskService

KOII_PORT: Final = 30017
"""Where Koii's nodes serve their tasks."""

HTTP: Final = "/http"
"""The end of a multiaddr at which HTTP is spoken; nodes that do not know it do not dial it."""

_PROC: Final = Path("/proc")
_LISTENING: Final = "0A"  # proc(5), net/tcp


@dataclass(frozen=True, slots=True)
class TaskHttpPlace:
    """Where the REST of tasks is served; `port` 0 picks a free one."""

    host: str = "127.0.0.1"
    port: int = KOII_PORT


class TaskServer:
    """The public server of one node: off if it has no `place`.

    `services` are the node's tasks by id, `addresses` where its peers find it, `now` the slot, None while that is not
    known.
    """

    def __init__(
        self,
        place: TaskHttpPlace | None,
        signer: Signer,
        services: Mapping[str, TaskService],
        addresses: Callable[[], tuple[str, ...]],
        now: Callable[[], int | None],
        limits: Limits,
    ) -> None:
        self._place = place
        self._signer = signer
        self._services = services
        self._addresses = addresses
        self._now = now
        self._limits = limits
        self._port = 0
        self._http: TaskHttp | None = None
        self._connections: Connections | None = None

    @property
    def on(self) -> bool:
        """Whether REST is served."""
        return self._place is not None

    @property
    def url(self) -> str:
        """Where it is served, on this machine; empty while it is not."""
        if self._place is None or not self._port:
            return ""
        host = f"[{self._place.host}]" if ":" in self._place.host else self._place.host
        return f"http://{host}:{self._port}"

    def announced(self) -> tuple[str, ...]:
        """The multiaddrs that other nodes are told: `/ip4/.../tcp/.../http`."""
        if self._place is None or not self._port:
            return ()
        return announced(self._place.host, self._port, self._addresses())

    def statistics(self) -> dict[str, Any]:
        """Where it is, its connections, and what was answered and refused; empty if it is off."""
        if self._http is None or self._connections is None:
            return {}
        connections = plain(self._connections.statistics())
        return {"url": self.url, "connections": connections, **self._http.statistics()}

    async def run(
        self, carrier: str, genesis: bytes, *, task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Serve until cancelled; ready with the URL, and at once with an empty one if it is off.

        `/id` says the carrier's name and the genesis hash. Raises `NetworkError` when the port is taken.
        """
        if self._place is None:
            task_status.started("")
            return
        about = {
            "id": base58(PROGRAM_ID) if carrier == PROGRAM else None,
            "carrier": carrier,
            "genesis": base58(genesis),
            "key": base58(self._signer.public_key),
        }
        self._http = TaskHttp(self._signer, self._served, self._now, about, self._limits)
        try:
            async with trio.open_nursery() as nursery:
                self._port, self._connections = await nursery.start(
                    serve_tasks, self._http, self._place, self._limits
                )
                task_status.started(self.url)
        except BaseExceptionGroup as group:
            raise_operator_error(group)

    def _served(self) -> dict[str, ServedTask]:
        return {
            name: ServedTask(
                service.terms.task,
                service.terms.name,
                service.runner,
                service.terms.clock.period,
                partial(nodes, service.engine, name, self._limits.task_http_nodes),
                partial(_register, service),
            )
            for name, service in self._services.items()
            if service.closed is None
        }


async def serve_tasks(
    http: TaskHttp,
    place: TaskHttpPlace,
    limits: Limits,
    *,
    task_status: trio.TaskStatus[tuple[int, Connections]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve on a socket until cancelled; ready with the port and the connections. Raises `NetworkError`."""
    listeners = await _listeners(place)
    connections = Connections(
        http.app,
        _config(limits),
        most=limits.task_http_connections,
        crowd=partial(crowd_of, limits=limits),
        seconds=limits.task_http_connection_seconds,
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(connections.run, listeners)
        task_status.started((listeners[0].socket.getsockname()[1], connections))


def announced(host: str, port: int, addresses: tuple[str, ...]) -> tuple[str, ...]:
    """Where others find what listens at `host`, by where they find this node: at every address of it, if that is all of
    them. What listens on loopback only is said to nodes of this machine only.
    """
    places = [place for text in addresses if (place := place_of(text)) is not None]
    own = ip_address(host)
    if own.is_unspecified:
        hosts = [place.host for place in places if place.host.version == own.version or own.version == 6]
    elif own.is_loopback and not (places and all(place.host.is_loopback for place in places)):
        hosts = []
    else:
        hosts = [own]
    return tuple(dict.fromkeys(Place(one, port).multiaddr + HTTP for one in hosts))


def nodes(engine: RoundEngine, name: str, most: int) -> list[dict[str, Any]]:
    """The nodes of a task in the form of Koii's `/nodes/:task`, those with REST first, at most so many.

    `timestamp` is the slot of the presence that says it; `record` is that presence in hex, signed by the node.
    """
    found = [
        (record, body, http_urls(body.addresses))
        for record in engine.presences()
        if isinstance(body := record.statement.body, Presence)
    ]
    found.sort(key=lambda one: not one[2])
    return [
        {
            "data": {"url": urls[0] if urls else None, "timestamp": record.statement.slot},
            "submitterPubkey": base58(record.author),
            "task": name,
            "addresses": list(body.addresses),
            "record": record.raw.hex(),
        }
        for record, body, urls in found[:most]
    ]


def _register(service: TaskService, record: bytes) -> bool:
    return service.hear_presence(record) is GossipVerdict.ACCEPT


def _config(limits: Limits) -> Config:
    config = Config()
    config.loglevel = "ERROR"
    config.accesslog = None
    config.include_server_header = False
    config.h11_max_incomplete_size = limits.task_http_head_bytes
    config.h2_max_header_list_size = limits.task_http_head_bytes
    config.h2_max_concurrent_streams = limits.task_http_streams
    config.keep_alive_timeout = limits.task_http_idle_seconds
    return config


async def _listeners(place: TaskHttpPlace) -> list[trio.SocketListener]:
    try:
        return await trio.open_tcp_listeners(place.port, host=place.host)
    except OSError as error:
        owner = who_listens(place.port)
        raise NetworkError(
            f"The REST of tasks cannot be served on {place.host}:{place.port}.",
            f"{owner or 'The system'} {'listens there' if owner else 'says: ' + str(error.strerror or error)}.",
            "Stop that process, or choose another port with --task-port (0 picks a free one).",
        ) from error


def who_listens(port: int, proc: Path = _PROC) -> str:
    """The process of this user that listens on a TCP port, as "name (process 123)"; empty if none is found."""
    sockets = set()
    for table in ("tcp", "tcp6"):
        try:
            lines = (proc / "net" / table).read_text().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            words = line.split()
            if len(words) > 9 and words[3] == _LISTENING and int(words[1].rpartition(":")[2], 16) == port:
                sockets.add(f"socket:[{words[9]}]")
    for process in proc.glob("[0-9]*") if sockets else ():
        with suppress(OSError):  # it has ended, or is another user's
            if any(_link(one) in sockets for one in (process / "fd").iterdir()):
                return f"{(process / 'comm').read_text().strip()} (process {process.name})"
    return ""


def _link(path: Path) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""  # closed meanwhile
