"""The record log, artifacts and task stores: what is kept by task and round."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from koii_p2p.limits import Limits
from koii_p2p.records import SecretKey, Statement, Submission, Verified, sign
from koii_p2p.storage import (
    Artifact,
    Artifacts,
    Database,
    LimitExceeded,
    RecordLog,
    StorageCorrupt,
    TaskStore,
)

TASK, OTHER, GENESIS = b"t" * 32, b"u" * 32, bytes(32)


def record(number: int, *, task: bytes = TASK, round: int = 3) -> Verified:
    key = SecretKey.from_seed(bytes(31) + bytes((number,)))
    return sign(Statement(task, round, 700, 0, Submission("x")), GENESIS, key)


def test_records_come_back_with_the_slot_of_their_first_receipt(tmp_path: Path) -> None:
    records = sorted((record(number) for number in range(5)), key=lambda item: item.id)
    with Database.open(tmp_path / "db") as database:
        log = RecordLog(database)
        assert all(log.put(item, 700 + slot) for slot, item in enumerate(records))
        assert not log.put(records[0], 999)
        assert (log.statistics().stored, log.statistics().repeated) == (5, 1)
    with Database.open(tmp_path / "db") as database:
        log = RecordLog(database)
        assert log.of_round(TASK, 3) == [(item.raw, 700 + slot) for slot, item in enumerate(records)]
        assert log.ids_of_round(TASK, 3) == [item.id for item in records]
        assert log.get(records[2].id) == (records[2].raw, 702)
        assert log.get(bytes(32)) is None
        assert log.of_round(TASK, 4) == log.of_round(OTHER, 3) == []


def test_old_rounds_are_forgotten(tmp_path: Path) -> None:
    with Database.open(tmp_path / "db") as database:
        log = RecordLog(database)
        old = [record(number, round=round) for number in range(3) for round in (0, 1, 255, 256)]
        kept = [record(1, round=300), record(1, task=OTHER, round=1), record(1, round=2**64 - 1)]
        for item in old + kept:
            log.put(item, 1)
        assert log.rounds(TASK) == [0, 1, 255, 256, 300, 2**64 - 1]
        assert log.forget_before(TASK, 300) == len(old)
        assert log.forget_before(TASK, 300) == 0
        assert log.rounds(TASK) == [300, 2**64 - 1]
        assert log.rounds(OTHER) == [1]
        assert all(log.get(item.id) is None for item in old)
        assert all(log.get(item.id) is not None for item in kept)
        assert log.statistics().forgotten == len(old)
        assert log.put(old[0], 2)


def test_forgetting_many_goes_in_steps(tmp_path: Path) -> None:
    with Database.open(tmp_path / "db") as database:
        artifacts = Artifacts(database, Limits())
        table = database.prefixed(b"artifacts/")
        changes = [
            table.change(TASK + round.to_bytes(8, "big") + artifact.value.encode(), b"x")
            for round in range(1000)
            for artifact in Artifact
        ]
        database.write(changes)
        before = database.statistics().writes
        assert artifacts.forget_before(TASK, 999) == 999 * len(Artifact)
        assert database.statistics().writes - before == len(Artifact)
        assert artifacts.rounds(TASK) == [999]


def test_a_damaged_log_is_said_to_be(tmp_path: Path) -> None:
    with Database.open(tmp_path / "db") as database:
        log, item = RecordLog(database), record(1)
        log.put(item, 1)
        place = TASK + (3).to_bytes(8, "big")
        table = database.prefixed(b"records/")
        table.put(place + item.id, b"short")
        with pytest.raises(StorageCorrupt):
            log.of_round(TASK, 3)
        table.delete(place + item.id)
        with pytest.raises(StorageCorrupt):
            log.get(item.id)


def test_artifacts(tmp_path: Path) -> None:
    with Database.open(tmp_path / "db") as database:
        artifacts = Artifacts(database, replace(Limits(), artifact_bytes=10))
        artifacts.put(TASK, 3, Artifact.COMMITMENT, b"commitment")
        artifacts.put(TASK, 3, Artifact.LIST, b"list")
        artifacts.put(TASK, 3, Artifact.LIST, b"newer list")
        assert artifacts.get(TASK, 3, Artifact.LIST) == b"newer list"
        assert artifacts.get(TASK, 3, Artifact.BUNDLE) is None
        assert artifacts.get(TASK, 4, Artifact.LIST) is None
        assert artifacts.of_round(TASK, 3) == {Artifact.COMMITMENT, Artifact.LIST}
        with pytest.raises(LimitExceeded) as caught:
            artifacts.put(TASK, 3, Artifact.BUNDLE, bytes(11))
        assert "11 bytes" in caught.value.why
        assert artifacts.get(TASK, 3, Artifact.BUNDLE) is None


def test_a_task_store(tmp_path: Path) -> None:
    for visit in range(2):
        with Database.open(tmp_path / "db") as database:
            store, other = TaskStore(database, TASK, Limits()), TaskStore(database, OTHER, Limits())
            if visit == 0:
                store.set(b"value", b"old")
                store.set(b"value", b"Hello, World!")
                store.set(b"vase", b"")
                store.set(b"gone", b"x")
                store.delete(b"gone")
                store.delete(b"gone")
            assert store.get(b"value") == b"Hello, World!"
            assert store.get(b"vase") == b""
            assert store.get(b"gone") is other.get(b"value") is None
            assert store.keys() == [b"value", b"vase"]
            assert store.keys(b"val") == [b"value"]
            assert (store.statistics().entries, store.statistics().bytes) == (2, 5 + 13 + 4)
    with Database.open(tmp_path / "db") as database, pytest.raises(ValueError, match="32 bytes"):
        TaskStore(database, b"short", Limits())


def test_a_task_store_has_limits(tmp_path: Path) -> None:
    limits = replace(Limits(), task_key_bytes=4, task_value_bytes=10, task_store_bytes=24)
    with Database.open(tmp_path / "db") as database:
        store = TaskStore(database, TASK, limits)
        store.set(b"key1", bytes(10))
        store.set(b"key2", bytes(6))
        for key, value in (
            (b"", b""),
            (b"longer", b""),
            (b"k", bytes(11)),
            (b"key3", b""),
            (b"key2", bytes(7)),
        ):
            with pytest.raises(LimitExceeded):
                store.set(key, value)
        assert store.statistics().refused == 5
        assert store.get(b"key2") == bytes(6)
        store.set(b"key1", b"")
        store.set(b"key3", bytes(6))
        with pytest.raises(LimitExceeded):
            store.set(b"k", b"")
        store.delete(b"key1")
        store.set(b"k", b"")
