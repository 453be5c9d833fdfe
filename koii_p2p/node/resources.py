"""What a node uses of its machine and of its own limits: numbers of this process, and every named limit.

The numbers of the process are Linux's (proc(5)); a system that has no /proc gets None for them, never a guess.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import trio

from koii_p2p.connections import ConnectionStatistics
from koii_p2p.data.collections.service import CollectionsStatistics
from koii_p2p.data.service import DataStatistics
from koii_p2p.limits import Limits
from koii_p2p.network.network import NetworkStatistics
from koii_p2p.rounds.engine import RoundEngine
from koii_p2p.rounds.record_book import BookStatistics
from koii_p2p.settlement.jsonrpc import RpcStatistics
from koii_p2p.storage.shards import BLOB_ENTRIES, ShardStoreStatistics
from koii_p2p.storage.task_store import TaskStoreStatistics
from koii_p2p.tasks.runner import TaskStatistics as RunnerStatistics

PROC = Path("/proc/self")


@dataclass(frozen=True, slots=True)
class ProcessStatistics:
    """This process now: open files and how many it may have, threads, bytes of memory (now, at most), CPU seconds."""

    open_files: int | None
    most_open_files: int
    threads: int | None
    resident_bytes: int | None
    most_resident_bytes: int | None
    cpu_seconds: float
    trio_tasks: int


@dataclass(frozen=True, slots=True)
class TaskUse:
    """What is held of one task: rounds and presences in memory, and the counters of what keeps them."""

    rounds: int
    presences: int
    most_parked: int
    """Records that wait in the round that has the most of them."""
    most_records: int
    """Records held of the round that has the most of them."""
    book: BookStatistics
    worker: RunnerStatistics
    store: TaskStoreStatistics
    unheard: int = 0
    """Of those who were due to speak in the newest round that is over, how many were not heard."""
    eclipsed: bool = False
    """Whether these are so many that this node may be cut off (`rounds.coverage`)."""


@dataclass(frozen=True, slots=True)
class Usage:
    """The statistics that limits are compared with."""

    network: NetworkStatistics
    rpc: RpcStatistics
    api: ConnectionStatistics
    tasks: tuple[TaskUse, ...]
    data: DataStatistics | None = None
    """None on a node whose task data cannot be read."""
    collections: tuple[CollectionsStatistics, ...] = ()
    task_http: Mapping[str, Any] = field(default_factory=dict)
    """Of the public server (`TaskServer.statistics`); empty on a node that serves no REST."""


@dataclass(frozen=True, slots=True)
class LimitUse:
    """One named limit, in its own unit: its value, how much of it is in use now, and what was refused because of it.

    None is not counted: nothing accumulates under a bound on the size of one message or on the time of one call, and
    what was refused for it is in a counter of several limits.
    """

    name: str
    limit: float
    used: float | None
    refused: int | None


def process_statistics() -> ProcessStatistics:
    """Read the numbers of this process. Call it within trio."""
    said = _proc_status()
    soft, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    open_files: int | None = None
    with suppress(OSError):
        open_files = len(os.listdir(PROC / "fd")) - 1  # one of them reads the list
    times = os.times()
    return ProcessStatistics(
        open_files=open_files,
        most_open_files=soft,
        threads=said.get("Threads"),
        resident_bytes=_bytes(said.get("VmRSS")),
        most_resident_bytes=_bytes(said.get("VmHWM")),
        cpu_seconds=times.user + times.system,
        trio_tasks=trio.lowlevel.current_statistics().tasks_living,
    )


def task_use(engine: RoundEngine, worker: RunnerStatistics, store: TaskStoreStatistics) -> TaskUse:
    """What is held of a task."""
    rounds = [state for number in engine.rounds() if (state := engine.round(number)) is not None]
    heard = engine.coverage()
    return TaskUse(
        rounds=len(rounds),
        presences=len(engine.presences()),
        most_parked=_most(len(state.parked) for state in rounds),
        most_records=_most(len(state.by_id) for state in rounds),
        book=engine.statistics(),
        worker=worker,
        store=store,
        unheard=0 if heard is None else len(heard.unheard),
        eclipsed=heard is not None and heard.suspicious,
    )


def folder_bytes(folder: Path) -> int:
    """Bytes of the files in a folder and below; files that go away meanwhile count nothing."""
    total = 0
    for place, _folders, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                total += os.lstat(os.path.join(place, name)).st_size
    return total


def queue_lengths(usage: Usage) -> dict[str, int]:
    """How much is waiting now, by what it waits for."""
    return {
        "gossip to be sent": _gossip(usage, "queued"),
        "own messages without a neighbour": _gossip(usage, "own_waiting"),
        "requests being answered": usage.network.requests.open,
        "connections shaking hands": usage.network.pending_inbound,
        "records parked": sum(task.book.parked for task in usage.tasks),
    }


def limit_uses(limits: Limits, usage: Usage) -> tuple[LimitUse, ...]:
    """Every limit of `Limits`, in its order, with what is known of its use."""
    return tuple(
        LimitUse(
            one.name,
            getattr(limits, one.name),
            USED[one.name](usage) if one.name in USED else None,
            REFUSED[one.name](usage) if one.name in REFUSED else None,
        )
        for one in fields(limits)
    )


def _proc_status() -> Mapping[str, int]:
    """The numbers of /proc/self/status by name; memory in KiB."""
    found = {}
    with suppress(OSError):
        for line in (PROC / "status").read_text().splitlines():
            name, _, value = line.partition(":")
            words = value.split()
            if words and words[0].isdecimal():
                found[name] = int(words[0])
    return found


def _bytes(kib: int | None) -> int | None:
    return None if kib is None else 1024 * kib


def _most(values: Iterable[int]) -> int:
    return max(values, default=0)


def _said(pairs: Sequence[tuple[str, int]], *names: str) -> int:
    """The sum of named counters."""
    return sum(count for name, count in pairs if name in names)


def _gossip(usage: Usage, name: str) -> int:
    """A number of gossip, 0 while it does not run or where it has no such number."""
    found = getattr(usage.network.gossip, name, 0)
    return found if isinstance(found, int) else 0


def _gossip_refused(reason: str) -> Callable[[Usage], int | None]:
    """What the gossip router refused for a reason; None if its statistics name no reasons."""

    def read(usage: Usage) -> int | None:
        refused = getattr(usage.network.gossip, "refused", None)
        return None if refused is None else _said(refused, reason)

    return read


def _book_refused(*reasons: str) -> Callable[[Usage], int]:
    return lambda usage: sum(task.book.refused.get(reason, 0) for task in usage.tasks for reason in reasons)


def _worker_failed(failure: str) -> Callable[[Usage], int]:
    return lambda usage: sum(task.worker.failures.get(failure, 0) for task in usage.tasks)


def _dht_refused(*reasons: str) -> Callable[[Usage], int]:
    return lambda usage: _said(usage.network.dht.refused, *reasons)


def _documents_refused(reason: str) -> Callable[[Usage], int]:
    return lambda usage: sum(_said(one.refused, reason) for one in usage.collections)


def _http_refused(reason: str) -> Callable[[Usage], int]:
    return lambda usage: usage.task_http.get("refused", {}).get(reason, 0)


def _stored(pick: Callable[[ShardStoreStatistics], int]) -> Callable[[Usage], int]:
    return lambda usage: 0 if usage.data is None else pick(usage.data.store)


USED: Mapping[str, Callable[[Usage], float]] = {
    "parked_records": lambda usage: _most(task.most_parked for task in usage.tasks),
    "rounds_kept": lambda usage: _most(task.rounds for task in usage.tasks),
    "round_records": lambda usage: _most(task.most_records for task in usage.tasks),
    "presences": lambda usage: _most(task.presences for task in usage.tasks),
    "task_store_bytes": lambda usage: _most(task.store.bytes for task in usage.tasks),
    "api_connections": lambda usage: usage.api.open,
    "own_messages_held": lambda usage: _gossip(usage, "own_waiting"),
    "pending_inbound": lambda usage: usage.network.pending_inbound,
    "address_book_peers": lambda usage: usage.network.discovery.known_peers,
    "collections": lambda usage: _most(len(one.collections) for one in usage.collections),
    "collection_bytes": lambda usage: _most(
        one.bytes for task in usage.collections for one in task.collections
    ),
    "document_readers": lambda usage: _most(one.readers for one in usage.collections),
    "data_bytes": _stored(lambda store: store.bytes),
    "data_task_bytes": _stored(lambda store: store.most_of_a_task),
    "data_entries": _stored(lambda store: store.shards + BLOB_ENTRIES * store.blobs),
    "dht_values": lambda usage: usage.network.dht.values,
    "dht_values_bytes": lambda usage: usage.network.dht.values_bytes,
    "dht_provided_keys": lambda usage: usage.network.dht.provided_keys,
    "dht_provider_records": lambda usage: usage.network.dht.providers,
    "dht_own_keys": lambda usage: usage.network.dht.own_keys,
    "dht_connections": lambda usage: usage.network.dht.connections,
    "task_http_connections": lambda usage: usage.task_http.get("connections", {}).get("open", 0),
}
"""How much of a limit is in use; of one on each task, by the task that uses most. One on each peer is not here:
`queue_lengths` has what waits for all of them."""

REFUSED: Mapping[str, Callable[[Usage], int | None]] = {
    "record_bytes": _book_refused("TOO_LARGE"),
    "record_depth": _book_refused("TOO_DEEP"),
    "ballot_entries": _book_refused("TOO_MANY"),
    "presences": _book_refused("TOO_MANY_PRESENCES"),
    "rounds_kept": _book_refused("ROUND_NOT_KEPT"),
    "task_store_bytes": lambda usage: sum(task.store.refused for task in usage.tasks),
    "rpc_retries": lambda usage: usage.rpc.unreachable,
    "api_connections": lambda usage: usage.api.refused,
    "gossip_queue": lambda usage: _gossip(usage, "forwards_dropped"),
    "own_messages_held": lambda usage: _gossip(usage, "own_dropped"),
    "gossip_message_bytes": _gossip_refused("message_too_large"),
    "gossip_topic_bytes": _gossip_refused("topic_too_long"),
    "gossip_topics_per_peer": _gossip_refused("topics_per_peer"),
    "gossip_seen_ids": _gossip_refused("seen_full"),
    "gossip_rpc_messages": _gossip_refused("messages_per_rpc"),
    "request_bytes": lambda usage: _said(usage.network.requests.failed, "too large"),
    "request_deadline": lambda usage: _said(usage.network.requests.failed, "timed out"),
    "streams_per_peer": lambda usage: usage.network.requests.refused,
    "rejects_before_disconnect": lambda usage: usage.network.bans,
    "peer_stall_seconds": lambda usage: _said(usage.network.disconnects, "stalled", "no gossip"),
    "connections_per_peer": lambda usage: _said(usage.network.refused, "too many of one peer"),
    "connections_per_range": lambda usage: _said(usage.network.refused, "too many of one network"),
    "pending_inbound": lambda usage: _said(usage.network.refused, "handshake made room"),
    "presence_addresses": lambda usage: usage.network.discovery.addresses_refused,
    "worker_call_seconds": _worker_failed("TIMED_OUT"),
    "collections": _documents_refused("too_many_collections"),
    "collection_bytes": _documents_refused("over_quota"),
    "data_bytes": _stored(lambda store: store.refused),
    "dht_value_bytes": _dht_refused("value_size"),
    "dht_values": _dht_refused("values_full", "value_evicted"),
    "dht_values_per_peer": _dht_refused("values_per_peer"),
    "dht_provided_keys": _dht_refused("provided_full"),
    "dht_providers_per_key": _dht_refused("providers_per_key"),
    "dht_provided_per_peer": _dht_refused("provided_per_peer"),
    "task_http_connections": lambda usage: usage.task_http.get("connections", {}).get("refused", 0),
    "task_http_head_bytes": _http_refused("head_too_large"),
    "task_http_requests_per_second": _http_refused("too_many_requests"),
    "task_request_bytes": _http_refused("body_too_large"),
    "task_request_seconds": _http_refused("too_slow"),
    "task_routes_at_once": _http_refused("busy"),
    "task_route_seconds": _http_refused("timed_out"),
    "dht_ask_deadline": lambda usage: _said(usage.network.dht.failed, "timed out"),
    "worker_output_bytes": lambda usage: sum(task.worker.dropped_output_bytes for task in usage.tasks),
}
"""What was refused, dropped or ended at a limit since the start; where two limits share a counter, at the nearer."""
