from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import plyvel
import pytest

from koii_p2p.limits import Limits
from koii_p2p.records.cid import cid_of
from koii_p2p.storage.faults import LimitExceeded, StorageCorrupt, StorageFull
from koii_p2p.storage.shard_use import BLOB_ENTRIES, ShareFull
from koii_p2p.storage.shards import ENTRY_BYTES, SEEDS_KEPT, ShardStore

TASK = bytes(range(32))
OTHER = bytes(range(1, 33))
MANIFEST = b"a manifest" * 30
CID = cid_of(MANIFEST)
CONTENT = cid_of(b"content")
SHARDS = {(block, shard): bytes([block, shard]) * 500 for block in range(3) for shard in range(4)}


def made(store: ShardStore, *, until: int = 9, pinned: bool = False) -> None:
    number = store.begin(TASK)
    store.stage(number, SHARDS)
    store.commit(number, CID, CONTENT, MANIFEST, until=until, pinned=pinned)


def test_a_blob_is_there_from_its_commit_on(tmp_path: Path) -> None:
    with ShardStore.open(tmp_path / "data", Limits()) as store:
        number = store.begin(TASK)
        store.stage(number, SHARDS)
        assert store.blob(CID) is None
        assert store.used(TASK) == ENTRY_BYTES + 12 * (1000 + ENTRY_BYTES)
        store.commit(number, CID, CONTENT, MANIFEST, until=9, pinned=True)
        assert store.shard(CID, (2, 3)) == SHARDS[2, 3]
    with ShardStore.open(tmp_path / "data", Limits()) as store:
        blob = store.blob(CID)
        assert blob is not None
        assert (blob.task, blob.until, blob.pinned, len(blob.held)) == (TASK, 9, True, 12)
        assert (store.manifest(CID), store.shard(CID, (0, 0))) == (MANIFEST, SHARDS[0, 0])
        assert [one.cid for one in store.with_content(CONTENT)] == [CID]
        assert store.used() == blob.bytes


def test_what_was_not_committed_is_gone_after_a_restart(tmp_path: Path) -> None:
    with ShardStore.open(tmp_path / "data", Limits()) as store:
        store.stage(store.begin(TASK), SHARDS)
    with ShardStore.open(tmp_path / "data", Limits()) as store:
        assert (store.used(), store.statistics().left_behind) == (0, 12)
    with ShardStore.open(tmp_path / "data", Limits()) as store:
        assert store.statistics().left_behind == 0


def test_putting_it_again_takes_its_place_and_keeps_term_and_pin(tmp_path: Path) -> None:
    with ShardStore.open(tmp_path / "data", Limits()) as store:
        made(store, until=20, pinned=True)
        store.drop_shards(CID, [(0, 0)])
        made(store, until=9)
        blob = store.blob(CID)
        assert blob is not None
        assert (blob.until, blob.pinned, len(blob.held)) == (20, True, 12)
        assert store.used() == blob.bytes


@pytest.mark.parametrize("limits", [{"data_bytes": 5000}, {"data_task_bytes": 5000}, {"data_entries": 9}])
def test_a_full_quota_refuses_and_loses_nothing(tmp_path: Path, limits: dict[str, int]) -> None:
    with ShardStore.open(tmp_path / "data", replace(Limits(), **limits)) as store:
        store.add(TASK, CID, CONTENT, MANIFEST, until=9)
        store.put_shards(CID, {(0, 0): b"x" * 100})
        before = store.used()
        with pytest.raises(LimitExceeded):
            store.put_shards(CID, SHARDS)
        number = store.begin(TASK)
        with pytest.raises(LimitExceeded):
            store.stage(number, SHARDS)
        store.abandon(number)
        assert (store.used(), store.shard(CID, (0, 0))) == (before, b"x" * 100)
        assert store.statistics().refused == 2


def test_blobs_without_shards_are_bounded_as_well(tmp_path: Path) -> None:
    with ShardStore.open(tmp_path / "data", replace(Limits(), data_entries=3 * BLOB_ENTRIES)) as store:
        for number in range(2):
            store.add(TASK, cid_of(b"%d" % number), CONTENT, MANIFEST, until=9)
        begun = store.begin(TASK)
        with pytest.raises(LimitExceeded, match="counts as 4"):
            store.add(TASK, CID, CONTENT, MANIFEST, until=9)
        with pytest.raises(LimitExceeded):
            store.begin(TASK)
        store.abandon(begun)
        store.add(TASK, CID, CONTENT, MANIFEST, until=9)


def test_what_is_held_can_be_looked_at_while_it_changes(tmp_path: Path) -> None:
    """Peers' shards are stored by other threads: a look at a blob must not break when some come or go."""
    with ShardStore.open(tmp_path / "data", Limits()) as store:
        blob = store.add(TASK, CID, CONTENT, MANIFEST, until=9, shards={(0, 0): b"x"})
        look = iter(blob.held.items())
        store.put_shards(CID, SHARDS)
        store.drop_shards(CID, [(0, 0)])
        assert list(look) == [((0, 0), 1)]
        assert (0, 0) not in blob.held
        assert len(blob.held) == len(SHARDS) - 1


def test_one_task_does_not_use_up_the_room_of_another(tmp_path: Path) -> None:
    with ShardStore.open(tmp_path / "data", replace(Limits(), data_task_bytes=20_000)) as store:
        made(store)
        with pytest.raises(LimitExceeded):
            store.put_shards(CID, {(9, 9): b"x" * 19_000})
        number = store.begin(OTHER)
        store.stage(number, {(0, 0): b"x" * 19_000})
        assert store.used(OTHER) == 19_000 + 2 * ENTRY_BYTES


def test_terms_and_pins(tmp_path: Path) -> None:
    with ShardStore.open(tmp_path / "data", Limits()) as store:
        made(store, until=9)
        assert store.expired(TASK, 9) == []
        assert store.expired(TASK, 10) == [CID]
        assert store.expired(OTHER, 10) == []
        store.set_pin(CID, True)
        assert store.expired(TASK, 10) == []
        store.set_pin(CID, False)
        store.set_term(CID, 12)
        assert store.expired(TASK, 12) == []
        assert store.remove(CID, why="expired")
        assert not store.remove(CID)
        assert (store.used(), store.statistics().expired, store.with_content(CONTENT)) == (0, 1, [])


def test_one_who_brings_data_has_a_share_and_no_more(tmp_path: Path) -> None:
    limits = replace(Limits(), data_task_bytes=40_000, data_author_part=4)
    one, other = b"1" * 32, b"2" * 32
    with ShardStore.open(tmp_path / "data", limits) as store:
        store.add(TASK, CID, CONTENT, MANIFEST, until=9, bringer=one)
        store.put_shards(CID, {(0, 0): b"x" * 9000})
        with pytest.raises(ShareFull, match="10000 bytes"):
            store.put_shards(CID, {(0, 1): b"x" * 1000})
        with pytest.raises(ShareFull):
            store.add(TASK, cid_of(b"more"), CONTENT, b"x" * 700, until=9, bringer=one)
        assert store.statistics().refused == 2
    with ShardStore.open(tmp_path / "data", limits) as store:
        with pytest.raises(ShareFull):
            store.add(TASK, cid_of(b"more"), CONTENT, b"x" * 700, until=9, bringer=one)
        store.add(TASK, cid_of(b"more"), CONTENT, b"x" * 700, until=9, bringer=other)
        store.add(TASK, cid_of(b"ours"), CONTENT, b"x" * 700, until=9)
        store.add(OTHER, cid_of(b"of another task"), CONTENT, b"x" * 700, until=9, bringer=one)
        store.remove(CID)
        store.add(TASK, cid_of(b"again"), CONTENT, b"x" * 700, until=9, bringer=one)
        for blob in store.blobs():
            store.remove(blob.cid)
        assert (store.used(), store.statistics().most_of_a_task) == (0, 0)


def test_small_blobs_count_against_the_share_as_well(tmp_path: Path) -> None:
    limits = replace(Limits(), data_entries=8 * BLOB_ENTRIES, data_author_part=4)
    with ShardStore.open(tmp_path / "data", limits) as store:
        for number in range(2):
            store.add(TASK, cid_of(b"%d" % number), CONTENT, MANIFEST, until=9, bringer=b"1" * 32)
        with pytest.raises(ShareFull, match="8 shards"):
            store.add(TASK, CID, CONTENT, MANIFEST, until=9, bringer=b"1" * 32)
        store.add(TASK, CID, CONTENT, MANIFEST, until=9, bringer=b"2" * 32)


def test_numbers_are_told_while_a_write_is_under_way(tmp_path: Path) -> None:
    with ShardStore.open(tmp_path / "data", Limits()) as store:
        made(store, pinned=True)
        held, over = threading.Event(), threading.Event()

        def write() -> None:
            with store._lock:
                held.set()
                over.wait(60)

        writer = threading.Thread(target=write)
        writer.start()
        held.wait(60)
        said = store.statistics()  # would wait for the writer, and the writer for us
        over.set()
        writer.join()
        assert (said.blobs, said.shards, said.pinned) == (1, 12, 1)
        assert said.bytes == said.most_of_a_task == store.used()
        store.set_pin(CID, False)
        assert store.statistics().pinned == 0


def test_the_newest_beacons_are_remembered(tmp_path: Path) -> None:
    seeds = [sha256(b"%d" % number).digest() for number in range(SEEDS_KEPT + 3)]
    with ShardStore.open(tmp_path / "data", Limits()) as store:
        for seed in seeds:
            store.note_seed(TASK, seed)
        store.note_seed(TASK, seeds[-1])
        with pytest.raises(ValueError, match="32 bytes"):
            store.note_seed(TASK, b"short")
    with ShardStore.open(tmp_path / "data", Limits()) as store:
        assert [store.knows_seed(TASK, seed) for seed in (seeds[2], seeds[3], seeds[-1])] == [
            False,
            True,
            True,
        ]
        assert not store.knows_seed(OTHER, seeds[-1])
        assert not store.knows_seed(TASK, None)
        store.note_seed(TASK, seeds[0])
        assert not store.knows_seed(TASK, seeds[3])


def test_a_damaged_database_is_named_and_left_alone(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    with ShardStore.open(folder, Limits()) as store:
        made(store)
    handle = plyvel.DB(str(folder))
    handle.compact_range()
    handle.close()
    for table in folder.glob("*.ldb"):
        table.write_bytes(b"\x5a" * table.stat().st_size)
    before = {file.name: file.read_bytes() for file in folder.glob("*.ldb")}
    with pytest.raises(StorageCorrupt) as damaged:
        ShardStore.open(folder, Limits())
    assert str(folder) in damaged.value.remedy
    assert {file.name: file.read_bytes() for file in folder.glob("*.ldb")} == before


def test_a_record_that_nobody_wrote_is_damage(tmp_path: Path) -> None:
    handle = plyvel.DB(str(tmp_path / "data"), create_if_missing=True)
    handle.put(b"blob/" + bytes(8), b"\xa0")
    handle.close()
    with pytest.raises(StorageCorrupt):
        ShardStore.open(tmp_path / "data", Limits())


CHILD = """
import json, os, signal, sys
from pathlib import Path
from koii_p2p.limits import Limits
from koii_p2p.storage import database
from koii_p2p.storage.shards import ShardStore
from tests.storage.test_shards import SCENARIOS

folder, scenario, at, when = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]
writes, real = 0, database.Database.write

def write(self, changes, *, sync=False):
    global writes
    writes += 1
    if writes == at and when == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    real(self, changes, sync=sync)
    if sync:
        synced = {file.name: file.stat().st_size for file in Path(folder).glob("*.log")}
        Path(folder + ".synced").write_text(json.dumps(synced))
    if writes == at:
        os.kill(os.getpid(), signal.SIGKILL)

with ShardStore.open(folder, Limits()) as store:
    database.Database.write = write
    SCENARIOS[scenario](store)
print(json.dumps(writes))
"""


def putting(store: ShardStore) -> None:
    number = store.begin(TASK)
    parts = [{place: data for place, data in SHARDS.items() if place[0] == block} for block in range(3)]
    for part in parts[:2]:
        store.stage(number, part)
    store.commit(number, CID, CONTENT, MANIFEST, until=9, pinned=False, shards=parts[2])
    for shard in range(1, 4):  # handed over to their holders
        store.drop_shards(CID, [(block, shard) for block in range(3)])


def repairing(store: ShardStore) -> None:
    store.add(TASK, CID, CONTENT, MANIFEST, until=9, shards={(2, 3): SHARDS[2, 3]})
    for place, data in list(SHARDS.items())[:4]:
        store.put_shards(CID, {place: data})
    store.set_term(CID, 30)
    store.put_shards(CID, SHARDS)


def evicting(store: ShardStore) -> None:
    made(store)
    store.set_pin(CID, True)
    store.set_pin(CID, False)
    for cid in store.expired(TASK, 10):
        store.remove(cid, why="expired")
    store.stage(store.begin(TASK), SHARDS)


SCENARIOS = {"putting": putting, "repairing": repairing, "evicting": evicting}


def run(folder: Path, scenario: str, at: int, when: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-c", CHILD, str(folder), scenario, str(at), when]
    root = Path(__file__).parents[2]
    return subprocess.run(
        line, capture_output=True, text=True, timeout=60, env={**os.environ, "PYTHONPATH": str(root)}
    )


def lose_power(folder: Path) -> None:
    """Take back what was written after the last write that was waited for: it never left the page cache."""
    noted = Path(f"{folder}.synced")
    synced = json.loads(noted.read_text()) if noted.exists() else {}
    for log in folder.glob("*.log"):
        os.truncate(log, min(synced.get(log.name, 0), log.stat().st_size))


@pytest.mark.slow
@pytest.mark.parametrize("scenario", list(SCENARIOS))
def test_kill_at_every_write_leaves_nothing_wrong_and_no_leak(tmp_path: Path, scenario: str) -> None:
    whole = run(tmp_path / "whole", scenario, 0, "never")
    assert whole.returncode == 0, whole.stderr
    writes = json.loads(whole.stdout)
    assert writes >= 4
    for at in range(1, writes + 1):
        for when in ("before", "after", "power"):
            folder = tmp_path / f"{at}-{when}"
            assert run(folder, scenario, at, when).returncode == -signal.SIGKILL
            if when == "power":
                lose_power(folder)
            with ShardStore.open(folder, Limits()) as store:
                blobs = store.blobs()
                assert store.used() == sum(blob.bytes for blob in blobs), "what is counted is what is there"
                for blob in blobs:
                    manifest = store.manifest(blob.cid)
                    assert manifest is not None
                    assert sha256(manifest).digest() == blob.cid[4:]
                    for place in blob.held:
                        assert store.shard(blob.cid, place) == SHARDS[place], (at, when, place)
                stored = {key[: key.index(b"/")] for key, _ in store._database.scan(b"shard/", values=False)}
                assert bool(stored) == any(blob.held for blob in blobs), (
                    "no shard of a blob that is not there"
                )
                shards = sum(1 for _ in store._database.scan(b"shard/", values=False))
                assert shards == sum(len(blob.held) for blob in blobs)
                for blob in blobs:
                    store.remove(blob.cid)
                assert store.used() == 0
                SCENARIOS[scenario](store)  # and it goes on as if nothing had been


def test_a_full_disk_is_said_and_what_was_there_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import resource

    with ShardStore.open(tmp_path / "data", Limits()) as store:
        store.add(TASK, CID, CONTENT, MANIFEST, until=9)
        store.put_shards(CID, {(0, 0): b"x" * 100})
    line = [sys.executable, "-c", FULL, str(tmp_path / "data")]
    root = Path(__file__).parents[2]
    done = subprocess.run(
        line, capture_output=True, text=True, timeout=60, env={**os.environ, "PYTHONPATH": str(root)}
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() in {StorageFull.__name__, "StorageError"}
    with ShardStore.open(tmp_path / "data", Limits()) as store:
        assert store.shard(CID, (0, 0)) == b"x" * 100
        assert store.used() == sum(blob.bytes for blob in store.blobs())
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 200_000


FULL = """
import resource, signal, sys
from koii_p2p.limits import Limits
from koii_p2p.storage.faults import StorageError
from koii_p2p.storage.shards import ShardStore
from tests.storage.test_shards import CID, TASK

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
with ShardStore.open(sys.argv[1], Limits()) as store:
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
    try:
        for block in range(1, 10):
            store.put_shards(CID, {(block, 0): b"y" * 100_000})
    except StorageError as error:
        assert "x" * 0 == "" and store.shard(CID, (0, 0)) == b"x" * 100
        print(type(error).__name__)
"""
