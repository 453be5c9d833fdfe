from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import pytest
import trio

from koii_p2p.connections import ConnectionStatistics
from koii_p2p.data.collections.reading import ReadingStatistics
from koii_p2p.data.collections.replication import ReplicationStatistics
from koii_p2p.data.collections.service import CollectionsStatistics, CollectionStatistics
from koii_p2p.data.holders import HolderStatistics
from koii_p2p.data.repairing import UpkeepStatistics
from koii_p2p.data.service import DataStatistics
from koii_p2p.limits import Limits
from koii_p2p.network.network import Network, NetworkSettings, NetworkStatistics
from koii_p2p.node import resources
from koii_p2p.node.resources import (
    REFUSED,
    USED,
    TaskUse,
    Usage,
    folder_bytes,
    limit_uses,
    process_statistics,
    queue_lengths,
)
from koii_p2p.records.keys import SecretKey
from koii_p2p.rounds.record_book import BookStatistics
from koii_p2p.settlement.jsonrpc import JsonRpcConnection
from koii_p2p.storage.shards import BLOB_ENTRIES, ShardStoreStatistics
from koii_p2p.storage.task_store import TaskStoreStatistics
from koii_p2p.tasks.runner import TaskStatistics as RunnerStatistics


def task_use(rounds: int = 2, parked: int = 5, stored: int = 100, **refused: int) -> TaskUse:
    return TaskUse(
        rounds=rounds,
        presences=3,
        most_parked=parked,
        most_records=40,
        book=BookStatistics(9, refused, parked + 1),
        worker=RunnerStatistics("Task", True, True, 1, 8, {"TIMED_OUT": 2, "RAISED": 1}, "", 77),
        store=TaskStoreStatistics(4, stored, 1),
        unheard=3,
        eclipsed=True,
    )


def documents() -> CollectionsStatistics:
    """A task with one collection of 12 documents; of its versions four were refused."""
    return CollectionsStatistics(
        (CollectionStatistics("links", "ab", 64, 3, False, 16, 15, 12, 2, 4096, ("username",)),),
        stakers=12,
        stored=14,
        refused=(("not_here", 1), ("over_quota", 4)),
        written=3,
        readers=2,
        changes_told=9,
        reading=ReadingStatistics(1, 2, 3, 4, 5),
        replication=ReplicationStatistics(1, 2, 3, 4, 5, 6, 7, 8, 9, 10),
    )


def usage(*tasks: TaskUse) -> Usage:
    """What a node counts of which nothing happened yet, with these tasks."""

    async def network() -> NetworkStatistics:
        return Network(SecretKey.from_seed(bytes(32)), NetworkSettings()).statistics()

    return Usage(
        trio.run(network),
        JsonRpcConnection("http://127.0.0.1:1").statistics(),
        ConnectionStatistics(open=2, accepted=5, refused=6, faults=0),
        tasks,
    )


def test_every_limit_is_there_with_its_value_and_none_is_made_up() -> None:
    limits = replace(Limits(), presences=7)
    found = limit_uses(limits, usage(task_use()))
    names = [one.name for one in fields(Limits)]
    assert [one.name for one in found] == names
    assert {one.name: one.limit for one in found} == {name: getattr(limits, name) for name in names}
    assert set(USED) <= set(names)
    assert set(REFUSED) <= set(names)
    for one in found:
        assert (one.used is not None) == (one.name in USED)


def test_use_is_that_of_the_task_that_has_most_and_refusals_are_those_of_all() -> None:
    seen = usage(task_use(2, 5, 100, TOO_LARGE=3), task_use(4, 1, 300, TOO_LARGE=4, TOO_DEEP=1))
    found = {one.name: (one.used, one.refused) for one in limit_uses(Limits(), seen)}
    assert found["rounds_kept"] == (4, 0)
    assert found["parked_records"] == (5, None)
    assert found["record_bytes"] == (None, 7)
    assert found["record_depth"] == (None, 1)
    assert found["task_store_bytes"] == (300, 2)
    assert found["worker_call_seconds"] == (None, 4)
    assert found["worker_output_bytes"] == (None, 154)
    assert found["api_connections"] == (2, 6)
    assert found["dial_deadline"] == (None, None)


def test_counters_of_the_network_are_beside_the_limits_that_they_are_of() -> None:
    seen = usage()
    network = replace(
        seen.network,
        bans=2,
        pending_inbound=3,
        disconnects=(("asked", 9), ("no gossip", 1), ("stalled", 4)),
        refused=(("too many of one network", 5), ("too many of one peer", 6)),
        requests=replace(seen.network.requests, refused=7, open=2, failed=(("timed out", 8),)),
    )
    found = {
        one.name: (one.used, one.refused) for one in limit_uses(Limits(), replace(seen, network=network))
    }
    assert found["rejects_before_disconnect"] == (None, 2)
    assert found["pending_inbound"] == (3, 0)
    assert found["peer_stall_seconds"] == (None, 5)
    assert found["connections_per_range"] == (None, 5)
    assert found["connections_per_peer"] == (None, 6)
    assert found["streams_per_peer"] == (None, 7)
    assert found["request_deadline"] == (None, 8)
    queues = queue_lengths(replace(seen, network=network, tasks=(task_use(),)))
    assert queues["requests being answered"] == 2
    assert queues["connections shaking hands"] == 3
    assert queues["records parked"] == 6
    assert queues["gossip to be sent"] == 0


def test_documents_shards_and_the_dht_are_beside_their_limits(tmp_path: Path) -> None:
    seen = usage()
    dht = replace(
        seen.network.dht,
        values=3,
        values_bytes=900,
        provided_keys=4,
        providers=5,
        own_keys=6,
        refused=(("value_evicted", 1), ("value_size", 2), ("values_full", 3), ("values_per_peer", 4)),
    )
    store = ShardStoreStatistics(
        blobs=2, shards=16, bytes=5000, most_of_a_task=3000, pinned=0, refused=8, expired=0, evicted=0, damaged=0,
        left_behind=0,
    )  # fmt: skip
    data = DataStatistics(
        store, HolderStatistics(0, 0, 0, 0, ()), UpkeepStatistics(0, 0, 0, 0, 0, 0), events=()
    )
    seen = replace(
        seen, network=replace(seen.network, dht=dht), data=data, collections=(documents(), documents())
    )
    found = {one.name: (one.used, one.refused) for one in limit_uses(Limits(), seen)}
    assert [
        found[f"dht_{name}"] for name in ("values", "values_bytes", "value_bytes", "values_per_peer")
    ] == [
        *((3, 4), (900, None)),
        *((None, 2), (None, 4)),
    ]
    assert [found[f"dht_{name}"][0] for name in ("provided_keys", "provider_records", "own_keys")] == [
        4,
        5,
        6,
    ]
    assert (found["data_bytes"], found["data_task_bytes"], found["data_entries"]) == (
        (5000, 8),
        (3000, None),
        (16 + 2 * BLOB_ENTRIES, None),
    )
    assert found["collections"] == (1, 0)
    assert found["collection_bytes"] == (4096, 8)
    assert found["document_readers"] == (2, None)
    none = {one.name: one.used for one in limit_uses(Limits(), usage())}
    assert (none["data_bytes"], none["collections"], none["dht_values"]) == (0, 0, 0)


async def test_the_numbers_of_this_process_follow_it(tmp_path: Path) -> None:
    before = process_statistics()
    assert before.open_files is not None
    assert before.threads is not None
    assert before.resident_bytes is not None
    assert before.most_resident_bytes is not None
    assert 10 << 20 < before.resident_bytes <= before.most_resident_bytes
    assert before.trio_tasks >= 1
    with (tmp_path / "one").open("w"), (tmp_path / "two").open("w"):
        assert process_statistics().open_files == before.open_files + 2
    assert process_statistics().open_files == before.open_files <= before.most_open_files


async def test_where_there_is_no_proc_nothing_is_guessed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resources, "PROC", tmp_path)
    found = process_statistics()
    assert (found.open_files, found.threads, found.resident_bytes) == (None, None, None)
    assert found.most_open_files > 0


def test_the_bytes_of_a_folder_are_those_of_the_files_below_it(tmp_path: Path) -> None:
    assert folder_bytes(tmp_path / "none") == 0
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b").write_bytes(bytes(700))
    (tmp_path / "c").write_bytes(bytes(42))
    assert folder_bytes(tmp_path) == 742
