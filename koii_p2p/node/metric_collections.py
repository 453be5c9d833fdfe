"""What is told Prometheus of a task's collections, field by field of their statistics."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from koii_p2p.node.metric_words import Described, counts, gauge

OF_A_TASK: Final[Mapping[str, Described]] = {
    "stakers": gauge("stakers", "Stakers among whom the shards of the task's collections are dealt out."),
    "stored": counts("documents_stored", "Versions of documents stored at this node."),
    "refused": counts("documents_refused", "Versions of documents not admitted.", "reason"),
    "written": counts("documents_written", "Documents that this node wrote or removed."),
    "readers": gauge("readers", "Peers that follow the changes of the task's collections here."),
    "changes_told": counts("changes_told", "Changes of documents told to those who follow them."),
}
"""`CollectionsStatistics`."""

OF_ONE: Final[Mapping[str, Described]] = {
    "shards": gauge("shards", "Shards that the collection is cut into."),
    "replicas": gauge("replicas", "Nodes that are to hold each shard."),
    "own_shards": gauge("own_shards", "Shards that this node is to hold."),
    "held_shards": gauge("held_shards", "Shards of which this node holds something."),
    "documents": gauge("documents", "Documents held here."),
    "tombstones": gauge("tombstones", "Removed documents whose tombstones are held here."),
    "bytes": gauge("bytes", "Bytes of the collection at this node."),
}
"""`CollectionStatistics`."""

READING: Final[Mapping[str, Described]] = {
    "questions": counts("questions", "Questions of this node's operator and task."),
    "asked": counts("asked", "Replicas asked, this node among them."),
    "failed": counts("failed", "Replicas that gave no answer."),
    "false": counts("false_documents", "Documents in answers that no honest node sends."),
    "fallbacks": counts("fallbacks", "Questions that others than the replicas were asked."),
}
"""`ReadingStatistics`."""

REPLICATION: Final[Mapping[str, Described]] = {
    "syncs": counts("syncs", "Reconciliations with a peer."),
    "failed": counts("failed", "Reconciliations that were not finished."),
    "bytes_sent": counts("bytes_sent", "Bytes of this node's questions."),
    "bytes_received": counts("bytes_received", "Bytes of the answers to them."),
    "served_bytes_sent": counts("served_bytes_sent", "Bytes of answers to peers' questions."),
    "served_bytes_received": counts("served_bytes_received", "Bytes of peers' questions."),
    "pulled": counts("versions_pulled", "Versions fetched from peers."),
    "pushed": counts("versions_pushed", "Versions brought to peers."),
    "handed_over": counts("versions_handed_over", "Versions brought to who holds a shard now."),
    "purged": counts("shards_purged", "Shards dropped here once all their replicas had them."),
}
"""`ReplicationStatistics`."""
