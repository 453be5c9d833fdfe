"""What the node tells Prometheus, and under which names; `metrics.py` reads the numbers.

Each section is one statistics dataclass. What its table describes has a name, a kind and a help text; a number that the
dataclass has and the table does not appears all the same, untyped, under the name of its field. Names of
gossip are those of rust-libp2p (protocols/gossipsub/src/metrics.rs) with `koii_` before them, where it counts the same.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from koii_p2p.conditions import ShapingStatistics
from koii_p2p.connections import ConnectionStatistics
from koii_p2p.data.collections.reading import ReadingStatistics
from koii_p2p.data.collections.replication import ReplicationStatistics
from koii_p2p.data.collections.service import CollectionsStatistics, CollectionStatistics
from koii_p2p.data.holders import HolderStatistics
from koii_p2p.data.repairing import UpkeepStatistics
from koii_p2p.data.service import DataStatistics
from koii_p2p.network.dht.statistics import DhtStatistics
from koii_p2p.network.discovery import BootstrapStatus, DiscoveryStatistics
from koii_p2p.network.gossip import GossipStatistics, TopicStatistics
from koii_p2p.network.network import NetworkStatistics
from koii_p2p.network.requests import RequestStatistics
from koii_p2p.network.statistics import RelayStatistics
from koii_p2p.node import metric_collections
from koii_p2p.node.metric_words import Described, Kind
from koii_p2p.node.metric_words import counts as _counts
from koii_p2p.node.metric_words import gauge as _is
from koii_p2p.node.resources import LimitUse, ProcessStatistics, TaskUse
from koii_p2p.node.slots import SlotStatistics
from koii_p2p.node.supervisor import SupervisorStatistics
from koii_p2p.node.task_service import TaskStatistics
from koii_p2p.rounds.record_book import BookStatistics
from koii_p2p.settlement.jsonrpc import RpcStatistics
from koii_p2p.settlement.rpc_nodes import NodeStatistics
from koii_p2p.storage.database import DatabaseStatistics
from koii_p2p.storage.journal import JournalStatistics
from koii_p2p.storage.record_log import RecordLogStatistics
from koii_p2p.storage.shards import ShardStoreStatistics
from koii_p2p.storage.task_store import TaskStoreStatistics
from koii_p2p.tasks.runner import TaskStatistics as RunnerStatistics


@dataclass(frozen=True, slots=True)
class About:
    """The node as a whole: who it is, since when, and the sizes of its folders."""

    version: str
    key: str
    peer_id: str
    uptime_seconds: float
    database_bytes: int


@dataclass(frozen=True, slots=True)
class TaskNumbers:
    """The statistics of one task, which is named by its base58 id."""

    task: str
    period: int
    actions: TaskStatistics
    use: TaskUse
    collections: CollectionsStatistics | None = None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Every statistic of a node at one moment."""

    about: About
    process: ProcessStatistics
    network: NetworkStatistics
    slot: SlotStatistics
    supervisor: SupervisorStatistics
    rpc: RpcStatistics
    rpc_nodes: tuple[NodeStatistics, ...]
    database: DatabaseStatistics
    journal: JournalStatistics
    records: RecordLogStatistics
    api: ConnectionStatistics
    tasks: tuple[TaskNumbers, ...]
    limits: tuple[LimitUse, ...]
    data: DataStatistics | None = None
    """None on a node whose task data cannot be read."""


Values = Iterable[tuple[tuple[str, ...], object]]
"""Label values, and the statistics they belong to."""


@dataclass(frozen=True, slots=True)
class Section:
    """One statistics dataclass: its prefix, where it is found, what its fields mean, and what has no number."""

    of: type
    prefix: str
    read: Callable[[Snapshot], Values]
    fields: Mapping[str, Described]
    labels: tuple[str, ...] = ()
    elsewhere: frozenset[str] = frozenset()
    """Fields that are texts, labels, or sections of their own."""

    def described(self) -> Iterator[tuple[str, Described]]:
        """Every field that is shown, with its description; one without is of unknown kind."""
        for field in dataclasses.fields(self.of):
            if field.name not in self.elsewhere:
                text = f"`{field.name}` of `{self.of.__name__}`."
                yield field.name, self.fields.get(field.name) or Described(field.name, Kind.UNKNOWN, text)


def _gossip(snapshot: Snapshot) -> Values:
    return [] if snapshot.network.gossip is None else [((), snapshot.network.gossip)]


def _relay(snapshot: Snapshot) -> Values:
    return [] if snapshot.network.relay is None else [((), snapshot.network.relay)]


def _data(pick: Callable[[DataStatistics], object]) -> Callable[[Snapshot], Values]:
    return lambda snapshot: [] if snapshot.data is None else [((), pick(snapshot.data))]


def _shaping(snapshot: Snapshot) -> Values:
    return [] if snapshot.network.shaping is None else [((), snapshot.network.shaping)]


def _topics(snapshot: Snapshot) -> Values:
    gossip = snapshot.network.gossip
    return [] if gossip is None else [((one.topic,), one) for one in gossip.topics]


def _of_tasks(pick: Callable[[TaskNumbers], object]) -> Callable[[Snapshot], Values]:
    return lambda snapshot: [((one.task,), pick(one)) for one in snapshot.tasks]


def _collections(pick: Callable[[CollectionsStatistics], object]) -> Callable[[Snapshot], Values]:
    return lambda snapshot: [
        ((one.task,), pick(one.collections)) for one in snapshot.tasks if one.collections is not None
    ]


def _each_collection(snapshot: Snapshot) -> Values:
    return [
        ((task.task, one.name, one.id), one)
        for task in snapshot.tasks
        if task.collections is not None
        for one in task.collections.collections
    ]


SECTIONS: Final = (
    Section(
        About,
        "koii_",
        lambda snapshot: [((), snapshot.about)],
        {
            "uptime_seconds": _is("uptime_seconds", "Seconds since the node was started."),
            "database_bytes": _is("database_bytes", "Bytes of the database's files."),
        },
        elsewhere=frozenset({"version", "key", "peer_id"}),
    ),
    Section(
        ProcessStatistics,
        "",
        lambda snapshot: [((), snapshot.process)],
        {
            "open_files": _is("process_open_fds", "Open files and sockets."),
            "most_open_files": _is("process_max_fds", "How many open files there may be."),
            "threads": _is("process_threads", "Threads of the process."),
            "resident_bytes": _is("process_resident_memory_bytes", "Memory in use."),
            "most_resident_bytes": _is("process_max_resident_memory_bytes", "The most memory in use so far."),
            "cpu_seconds": _counts("process_cpu_seconds", "CPU time used."),
            "trio_tasks": _is("koii_trio_tasks", "Concurrent tasks of the node's event loop."),
        },
    ),
    Section(
        NetworkStatistics,
        "koii_network_",
        lambda snapshot: [((), snapshot.network)],
        {
            "peers": _is("peers", "Connected peers."),
            "connections": _is("connections", "Connections to peers."),
            "inbound": _is("inbound_sockets", "Incoming sockets being served."),
            "pending_inbound": _is(
                "pending_inbound_sockets", "Incoming sockets that have not proved who they are."
            ),
            "banned": _is("banned_peers", "Peers banned now."),
            "bans": _counts("bans", "Bans for misbehaviour."),
            "disconnects": _counts("disconnects", "Peers disconnected by this node.", "reason"),
            "refused": _counts("refused_connections", "Connections refused.", "reason"),
            "contained": _counts("contained_faults", "Faults of peers that were contained.", "fault"),
        },
        elsewhere=frozenset({"gossip", "requests", "discovery", "dht", "shaping", "relay"}),
    ),
    Section(
        GossipStatistics,
        "koii_gossipsub_",
        _gossip,
        {
            "peers": _is("peers", "Peers that messages can be sent to."),
            "graylisted": _is(
                "graylisted_peers", "Peers whose score is so low that nothing of theirs is read."
            ),
            "queued": _is("queue_size", "What waits in all outgoing queues."),
            "queued_bytes": _is("queue_bytes", "Bytes that wait in all outgoing queues."),
            "received": _counts("received_messages", "Messages received, copies included."),
            "duplicates": _counts("duplicate_messages", "Copies of messages known before."),
            "forwarded": _counts("forwarded_messages", "Copies of accepted messages sent on."),
            "forwards_dropped": _counts(
                "forward_messages_dropped", "Forwarded messages that a full outgoing queue kept from a peer."
            ),
            "own_waiting": _is("own_messages_waiting", "Own messages held for a first neighbour."),
            "own_dropped": _counts("publish_messages_dropped", "Own messages given up: too many were held."),
            "lost_with_peers": _counts("messages_lost_with_peers", "What waited for a peer that went away."),
            "recommended": _counts("recommended_peers", "Peers that others recommended with a valid record."),
            "refused": _counts("refused", "What the router refused or gave up.", "reason"),
        },
        elsewhere=frozenset({"topics"}),
    ),
    Section(
        TopicStatistics,
        "koii_gossipsub_",
        _topics,
        {
            "neighbours": _is("topic_peers_counts", "Connected peers subscribed to the topic."),
            "mesh": _is("mesh_peer_counts", "Peers in our mesh of the topic."),
            "published": _counts("topic_msg_published", "Own messages published."),
            "accepted": _counts("accepted_messages_per_topic", "Messages of others that were accepted."),
            "ignored": _counts(
                "ignored_messages_per_topic", "Messages that were ignored: late, or not for us."
            ),
            "rejected": _counts("rejected_messages_per_topic", "Messages that nobody honest sends."),
            "duplicates": _counts("topic_msg_duplicates", "Copies of messages known before."),
        },
        labels=("hash",),
        elsewhere=frozenset({"topic"}),
    ),
    Section(
        RequestStatistics,
        "koii_requests_",
        lambda snapshot: [((), snapshot.network.requests)],
        {
            "asked": _counts("asked", "Requests to peers."),
            "answered": _counts("answered", "Requests to peers that got a response."),
            "failed": _counts("failed", "Requests to peers that got none.", "reason"),
            "served": _counts("served", "Requests of peers that were answered."),
            "refused": _counts("refused", "Requests of peers turned away: they had too many open."),
            "serving_failed": _counts("serving_failed", "Requests of peers that ended without a response."),
            "open": _is("open", "Requests of peers being answered now."),
        },
    ),
    Section(
        ShapingStatistics,
        "koii_shaping_",
        _shaping,
        {
            "changes": _counts("changes", "Conditions of the network read, on a node that has such a file."),
            "refused_changes": _counts(
                "refused_changes", "Conditions that made no sense, and changed nothing."
            ),
            "delayed_writes": _counts("delayed_writes", "Writes that were held back."),
            "retransmissions": _counts("retransmissions", "Segments that were lost on purpose."),
            "resets": _counts("resets", "Connections reset on purpose."),
            "cut_links": _is("cut_links", "Connections that are cut now."),
        },
        elsewhere=frozenset({"conditions"}),
    ),
    Section(
        RelayStatistics,
        "koii_relay_",
        _relay,
        {
            "reservations": _is(
                "reservations", "Peers that can be reached through this node, if it is a relay."
            ),
            "circuits": _is("circuits", "Connections being carried now."),
            "carried": _counts("circuits_carried", "Connections carried."),
            "bytes": _counts("bytes", "Bytes carried."),
            "refused": _counts("refused", "Requests turned down.", "status"),
            "ended": _counts("circuits_ended", "Connections that ended.", "reason"),
        },
    ),
    Section(
        DhtStatistics,
        "koii_dht_",
        lambda snapshot: [((), snapshot.network.dht)],
        {
            "server": _is("server", "Whether this node answers others in the DHT (1 or 0)."),
            "table": _is("routing_table_peers", "Peers in the routing table."),
            "waiting": _is("waiting_peers", "Peers that wait for a place in it."),
            "values": _is("values", "Values held for others."),
            "values_bytes": _is("values_bytes", "Bytes of them and their keys."),
            "provided_keys": _is("provided_keys", "Keys of others whose providers are known."),
            "providers": _is("providers", "Provider records held."),
            "own_values": _is("own_values", "Values of this node that are stored again and again."),
            "own_keys": _is("own_keys", "Keys that this node provides."),
            "connections": _is("connections", "Connections made for searches and still open."),
            "searches": _counts("searches", "Searches begun."),
            "asked": _counts("questions", "Questions to peers."),
            "failed": _counts("questions_failed", "Questions without an answer.", "reason"),
            "served": _counts("served", "Requests of peers.", "type"),
            "refused": _counts("refused", "What was refused or given up.", "reason"),
        },
        elsewhere=frozenset({"buckets"}),
    ),
    Section(
        DiscoveryStatistics,
        "koii_discovery_",
        lambda snapshot: [((), snapshot.network.discovery)],
        {
            "known_peers": _is("known_peers", "Peers in the address book."),
            "dials": _counts("dials", "Addresses dialled."),
            "dials_failed": _counts("dials_failed", "Dials without a connection."),
            "addresses_refused": _counts("addresses_refused", "Addresses told to us that nobody could dial."),
        },
        elsewhere=frozenset({"bootstrap"}),
    ),
    Section(
        BootstrapStatus,
        "koii_discovery_bootstrap_",
        lambda snapshot: [((one.address,), one) for one in snapshot.network.discovery.bootstrap],
        {
            "connected": _is("connected", "Whether there is a connection to this bootstrap peer (1 or 0)."),
            "attempts": _counts("attempts", "Addresses of this bootstrap peer dialled."),
        },
        labels=("address",),
        elsewhere=frozenset({"address", "last_error"}),
    ),
    Section(
        SlotStatistics,
        "koii_k2_",
        lambda snapshot: [((), snapshot.slot)],
        {
            "slot": _is("slot", "K2's slot by this node's clock."),
            "slot_seconds": _is("slot_seconds", "Measured length of a slot."),
            "age": _is("silence_seconds", "Seconds since K2 last said its slot."),
            "trusted": _is("trusted", "Whether the slot is acted on (1 or 0); at 0 the node stands still."),
            "disagreements": _counts("slot_disagreements", "Times the clock and K2 disagreed."),
            "failed_polls": _counts("failed_polls", "Times K2 did not say its slot."),
        },
    ),
    Section(
        RpcStatistics,
        "koii_k2_rpc_",
        lambda snapshot: [((), snapshot.rpc)],
        {
            "calls": _counts("calls", "Questions to K2's RPC nodes."),
            "attempts": _counts("attempts", "Times questions to K2 were sent."),
            "retries": _counts("retries", "Times questions to K2 were sent again."),
            "unreachable": _counts("unreachable", "Questions to K2 without any answer."),
            "refused": _counts("refused", "Questions to K2 answered with an error."),
            "protocol_errors": _counts("protocol_errors", "Answers of K2 that cannot be used."),
            "received_bytes": _counts("received_bytes", "Bytes of K2's answers."),
        },
    ),
    Section(
        NodeStatistics,
        "koii_k2_rpc_node_",
        lambda snapshot: [((one.url,), one) for one in snapshot.rpc_nodes],
        {
            "resting": _is("resting", "Whether this RPC node is passed over now (1 or 0)."),
            "failures": _is("failures", "Failures in a row of this RPC node."),
            "outvoted": _counts("outvoted", "Times a quorum contradicted this RPC node."),
        },
        labels=("url",),
        elsewhere=frozenset({"url"}),
    ),
    Section(
        SupervisorStatistics,
        "koii_supervisor_",
        lambda snapshot: [((), snapshot.supervisor)],
        {"restarts": _counts("restarts", "Services that failed and were started again.", "service")},
        elsewhere=frozenset({"last_errors"}),
    ),
    Section(
        DatabaseStatistics,
        "koii_database_",
        lambda snapshot: [((), snapshot.database)],
        {
            "writes": _counts("writes", "Batches written to the database."),
            "synced_writes": _counts("synced_writes", "Batches that waited for the disk."),
            "failures": _counts("failures", "Reads and writes of the database that failed."),
        },
    ),
    Section(
        JournalStatistics,
        "koii_journal_",
        lambda snapshot: [((), snapshot.journal)],
        {
            "reserved": _counts("reserved", "New statements noted before they were signed."),
            "repeated": _counts("repeated", "Statements said again."),
            "refused": _counts("refused", "Statements that would have contradicted an earlier one."),
            "below_floor": _counts("below_floor", "Statements not made because of a task's floor."),
        },
    ),
    Section(
        RecordLogStatistics,
        "koii_records_",
        lambda snapshot: [((), snapshot.records)],
        {
            "stored": _counts("stored", "Records written to disk."),
            "repeated": _counts("repeated", "Records to store that were on disk already."),
            "forgotten": _counts("forgotten", "Records removed with their rounds."),
        },
    ),
    Section(
        ConnectionStatistics,
        "koii_api_",
        lambda snapshot: [((), snapshot.api)],
        {
            "open": _is("connections", "Connections to the operator's API."),
            "accepted": _counts("connections_accepted", "Connections to the API ever accepted."),
            "refused": _counts("connections_refused", "Connections to the API refused: too many were open."),
            "faults": _counts("connection_faults", "Connections to the API ended by a fault."),
        },
    ),
    Section(
        TaskNumbers,
        "koii_task_",
        lambda snapshot: [((one.task,), one) for one in snapshot.tasks],
        {"period": _is("period", "The period that the task is in.")},
        labels=("task",),
        elsewhere=frozenset({"task", "actions", "use", "collections"}),
    ),
    Section(
        TaskUse,
        "koii_task_",
        _of_tasks(lambda one: one.use),
        {
            "rounds": _is("rounds", "Rounds in memory."),
            "presences": _is("presences", "Nodes whose presence is known."),
            "most_parked": _is("parked_in_a_round", "Records that wait, in the round with the most."),
            "most_records": _is("records_in_a_round", "Records held, of the round with the most."),
            "unheard": _is("unheard", "Stakers that were due to speak in the last round and were not heard."),
            "eclipsed": _is(
                "eclipsed", "Whether so many were not heard that this node may be cut off (1 or 0)."
            ),
        },
        labels=("task",),
        elsewhere=frozenset({"book", "worker", "store"}),
    ),
    Section(
        TaskStatistics,
        "koii_task_",
        _of_tasks(lambda one: one.actions),
        {
            "done": _counts("actions", "What the rounds asked for and the node did.", "action"),
            "failed": _counts("actions_failed", "What they asked for and the node could not do.", "action"),
        },
        labels=("task",),
        elsewhere=frozenset({"last_failures", "not_carried"}),
    ),
    Section(
        BookStatistics,
        "koii_task_records_",
        _of_tasks(lambda one: one.use.book),
        {
            "accepted": _counts("accepted", "Records admitted."),
            "refused": _counts("refused", "Records not admitted.", "reason"),
            "parked": _is("parked", "Records that wait until more is known."),
        },
        labels=("task",),
    ),
    Section(
        RunnerStatistics,
        "koii_task_worker_",
        _of_tasks(lambda one: one.use.worker),
        {
            "running": _is("running", "Whether the task's worker process runs (1 or 0)."),
            "confined": _is("confined", "Whether the system confines the worker (1 or 0)."),
            "starts": _counts("starts", "Times the task's worker was started."),
            "calls": _counts("calls", "Calls of the task's functions."),
            "failures": _counts("failures", "Calls that gave nothing.", "failure"),
            "dropped_output_bytes": _counts(
                "dropped_output_bytes", "Bytes that the task printed beyond the limit."
            ),
        },
        labels=("task",),
        elsewhere=frozenset({"class_name", "last_failure", "workers", "protections"}),
    ),
    Section(
        TaskStoreStatistics,
        "koii_task_store_",
        _of_tasks(lambda one: one.use.store),
        {
            "entries": _is("entries", "Keys that the task stores."),
            "bytes": _is("bytes", "Bytes of the task's keys and values."),
            "refused": _counts("refused", "Writes of the task refused at a limit."),
        },
        labels=("task",),
    ),
    Section(
        DataStatistics,
        "koii_data_",
        _data(lambda one: one),
        {"events": _counts("events", "What was put, read, served, moved, repaired and refused.", "event")},
        elsewhere=frozenset({"store", "holders", "upkeep"}),
    ),
    Section(
        ShardStoreStatistics,
        "koii_data_",
        _data(lambda one: one.store),
        {
            "blobs": _is("blobs", "Blobs of which something is stored here."),
            "shards": _is("shards", "Shards stored here."),
            "bytes": _is("bytes", "Bytes of shards and manifests, as they count against the quota."),
            "most_of_a_task": _is("task_bytes", "Bytes of the task that has most of them."),
            "pinned": _is("pinned_blobs", "Blobs pinned here."),
            "refused": _counts("writes_refused", "Writes refused because a quota was full."),
            "expired": _counts("blobs_expired", "Blobs removed when their term was over."),
            "evicted": _counts("evicted", "Blobs and shards removed to make room."),
            "damaged": _counts("damaged", "Shards and manifests dropped because their bytes were wrong."),
            "left_behind": _counts("left_behind_shards", "Shards of unfinished blobs removed at the start."),
        },
    ),
    Section(
        HolderStatistics,
        "koii_data_holders_",
        _data(lambda one: one.holders),
        {
            "resting": _is("resting", "Holders left alone for a while since they did not answer."),
            "gone": _is("gone", "Holders whose shards are brought to others."),
            "liars": _is("liars", "Holders that sent wrong bytes lately."),
            "suspects": _is("suspects", "Holders that failed two challenges in a row lately."),
            "blamed": _counts("blamed", "What holders were blamed for.", "what"),
        },
    ),
    Section(
        UpkeepStatistics,
        "koii_data_upkeep_",
        _data(lambda one: one.upkeep),
        {
            "turns": _counts("turns", "Times this node looked after what it stores."),
            "counted": _counts("blobs_counted", "Blobs whose holders this node asked what they have."),
            "placed": _is("blocks_placed", "Blocks of the last turn whose shards all are where they belong."),
            "scattered": _is(
                "blocks_scattered", "Blocks of the last turn that lack some shards, but not many."
            ),
            "weak": _is(
                "blocks_weak", "Blocks of the last turn with so few live shards that they were repaired."
            ),
            "lost": _is("blocks_lost", "Blocks of the last turn that could not be read."),
        },
    ),
    Section(
        CollectionsStatistics,
        "koii_collections_",
        _collections(lambda one: one),
        metric_collections.OF_A_TASK,
        labels=("task",),
        elsewhere=frozenset({"collections", "reading", "replication"}),
    ),
    Section(
        CollectionStatistics,
        "koii_collection_",
        _each_collection,
        metric_collections.OF_ONE,
        labels=("task", "name", "id"),
        elsewhere=frozenset({"name", "id", "full", "indexes"}),
    ),
    Section(
        ReadingStatistics,
        "koii_collections_reading_",
        _collections(lambda one: one.reading),
        metric_collections.READING,
        labels=("task",),
    ),
    Section(
        ReplicationStatistics,
        "koii_collections_replication_",
        _collections(lambda one: one.replication),
        metric_collections.REPLICATION,
        labels=("task",),
    ),
    Section(
        LimitUse,
        "koii_limit",
        lambda snapshot: [((one.name,), one) for one in snapshot.limits],
        {
            "limit": _is("", "A named limit, in its own unit."),
            "used": _is("_used", "How much of a limit is in use, where that is measured."),
            "refused": _counts("_refused", "What was refused because of a limit, where that is counted."),
        },
        labels=("name",),
        elsewhere=frozenset({"name"}),
    ),
)
