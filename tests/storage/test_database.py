from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import plyvel
import pytest

from koii_p2p.storage import Database, StorageCorrupt, StorageError, StorageFull, StorageLocked
from koii_p2p.storage.faults import database_fault, os_fault
from tests.storage.conftest import SmallDisk


def test_tables_do_not_see_each_other(tmp_path: Path) -> None:
    with Database.open(tmp_path / "db") as database:
        one, other = database.prefixed(b"one/"), database.prefixed(b"other/")
        one.put(b"key", b"1")
        other.put(b"key", b"2", sync=True)
        assert (one.get(b"key"), other.get(b"key"), one.get(b"none")) == (b"1", b"2", None)
        one.delete(b"key")
        one.delete(b"key")
        assert one.get(b"key") is None
        assert list(other.scan()) == [(b"key", b"2")]
        assert one.first_from(b"") is None
        assert database.statistics().writes == 4
        assert database.statistics().synced_writes == 1


def test_scans_are_in_order_and_see_one_moment(tmp_path: Path) -> None:
    with Database.open(tmp_path / "db") as database:
        table = database.prefixed(b"t/")
        for number in (3, 1, 2, 255):
            table.put(bytes((number,)), b"x")
        scan = table.scan()
        assert next(scan) == (b"\x01", b"x")
        table.put(b"\x04", b"x")
        assert [key for key, _ in scan] == [b"\x02", b"\x03", b"\xff"]
        assert [key for key, _ in table.scan(b"\x04", values=False)] == [b"\x04"]
        assert list(table.scan(b"\x05")) == []
        assert table.first_from(b"\x05") == b"\xff"


def test_many_changes_are_one(tmp_path: Path) -> None:
    with Database.open(tmp_path / "db") as database:
        one, other = database.prefixed(b"one/"), database.prefixed(b"other/")
        one.put(b"a", b"1")
        database.write([one.change(b"a", None), other.change(b"b", b"2")], sync=True)
        assert (one.get(b"a"), other.get(b"b")) == (None, b"2")


def test_a_database_is_opened_once(tmp_path: Path) -> None:
    with Database.open(tmp_path / "db") as database:
        with pytest.raises(StorageLocked) as caught:
            Database.open(tmp_path / "db")
        assert str(tmp_path / "db") in caught.value.why
        database.prefixed(b"t/").put(b"still", b"works")
    database.close()
    with Database.open(tmp_path / "db") as database:
        assert database.prefixed(b"t/").get(b"still") == b"works"


def test_a_database_where_none_can_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "file", tmp_path / "missing" / "db"):
        with pytest.raises(StorageError) as caught:
            Database.open(path)
        assert str(path) in caught.value.what


def filled(path: Path) -> Path:
    """Return a table file of a database with 1000 values."""
    with Database.open(path) as database:
        table = database.prefixed(b"t/")
        for number in range(1000):
            table.put(number.to_bytes(4, "big"), os.urandom(100))
    Database.open(path).close()  # moves the log into a table file
    return next(path.glob("*.ldb"))


def test_damaged_values_are_not_returned(tmp_path: Path) -> None:
    file = filled(tmp_path / "db")
    data = bytearray(file.read_bytes())
    data[1000] ^= 1
    file.write_bytes(data)
    with Database.open(tmp_path / "db") as database:
        table = database.prefixed(b"t/")
        with pytest.raises(StorageCorrupt) as caught:
            table.get((5).to_bytes(4, "big"))
        assert "damaged" in caught.value.why
        assert "journal" in caught.value.remedy
        with pytest.raises(StorageCorrupt):
            list(table.scan())
        assert table.get((999).to_bytes(4, "big")) is not None
        assert database.statistics().failures == 2


@pytest.mark.parametrize("pattern", ["CURRENT", "MANIFEST-*"])
def test_a_damaged_database_is_not_opened(tmp_path: Path, pattern: str) -> None:
    filled(tmp_path / "db")
    next((tmp_path / "db").glob(pattern)).write_bytes(b"damaged")
    with pytest.raises(StorageCorrupt):
        Database.open(tmp_path / "db")


def test_errors_of_the_system_are_named() -> None:
    path = Path("somewhere")
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    quota = OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))
    assert isinstance(os_fault("It failed.", path, full), StorageFull)
    assert isinstance(os_fault("It failed.", path, quota), StorageFull)
    denied = os_fault("It failed.", path, PermissionError(errno.EACCES, "Permission denied"))
    assert (denied.what, denied.why) == ("It failed.", "The system says: Permission denied.")
    text = "IO error: 000003.log: No space left on device"
    assert isinstance(database_fault("It failed.", path, plyvel.IOError(text)), StorageFull)
    assert type(database_fault("It failed.", path, plyvel.IOError("IO error: gone"))) is StorageError
    assert isinstance(database_fault("It failed.", path, plyvel.CorruptionError("x")), StorageCorrupt)


@pytest.mark.parametrize("sync", [False, True])
def test_a_full_disk_loses_nothing_that_was_acknowledged(small_disk: SmallDisk, sync: bool) -> None:
    path, value = small_disk.path / "db", os.urandom(3000)
    database = Database.open(path)
    table = database.prefixed(b"t/")
    stored = 0

    def store_until_it_fails() -> None:
        nonlocal stored
        while True:
            table.put(stored.to_bytes(4, "big"), value, sync=sync)
            stored += 1

    with pytest.raises(StorageFull) as caught:
        store_until_it_fails()
    assert stored > 100
    assert "full" in caught.value.why
    assert "Make room" in caught.value.remedy
    small_disk.enlarge()
    # Half an entry may be in the log: a write after it would be lost, so there must be none.
    with pytest.raises(StorageFull):
        table.put(b"later", b"value")
    assert all(table.get(number.to_bytes(4, "big")) == value for number in range(stored))
    database.close()
    with Database.open(path) as reopened:
        table = reopened.prefixed(b"t/")
        assert all(table.get(number.to_bytes(4, "big")) == value for number in range(stored))
        table.put(b"later", b"value", sync=True)
        assert table.get(b"later") == b"value"


def test_a_database_is_not_made_on_a_full_disk(small_disk: SmallDisk) -> None:
    (small_disk.path / "db").mkdir()
    small_disk.fill()
    with pytest.raises(StorageFull):
        Database.open(small_disk.path / "db")


WRITER = """
import sys
from pathlib import Path
from koii_p2p.limits import Limits
from koii_p2p.records import Kind, SecretKey, Statement, Submission, sign
from koii_p2p.storage import Artifact, Artifacts, Database, RecordLog, SigningJournal, TaskStore
task, genesis, key = b"t" * 32, bytes(32), SecretKey.from_seed(b"k" * 32)
database = Database.open(Path(sys.argv[1]))
log, journal = RecordLog(database), SigningJournal(database)
artifacts, store = Artifacts(database, Limits()), TaskStore(database, task, Limits())
for round in range(int(sys.argv[2]), 2**32):
    record = journal.sign(Statement(task, round, 5, 0, Submission("x" * 500)), genesis, key)
    log.put(record, round)
    artifacts.put(task, round, Artifact.BUNDLE, record.raw * 20)
    store.set(round.to_bytes(4, "big"), record.id)
    sys.stdout.write(f"{round}\\n")
    sys.stdout.flush()
"""


def test_what_was_acknowledged_survives_kill_9(tmp_path: Path) -> None:
    from koii_p2p.limits import Limits
    from koii_p2p.records import Kind, SecretKey, Statement, Submission, sign
    from koii_p2p.storage import Artifact, Artifacts, RecordLog, SigningJournal, TaskStore

    task, key = b"t" * 32, SecretKey.from_seed(b"k" * 32)
    acknowledged: list[int] = []
    for rounds in (7, 40, 90):
        start = str(acknowledged[-1] + 1 if acknowledged else 0)
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path / "db"), start], stdout=subprocess.PIPE, text=True
        ) as writer:
            assert writer.stdout is not None
            acknowledged += [int(writer.stdout.readline()) for _ in range(rounds)]
            writer.send_signal(signal.SIGKILL)
            acknowledged += [int(line) for line in writer.stdout if line.endswith("\n")]
        with Database.open(tmp_path / "db") as database:
            log, journal = RecordLog(database), SigningJournal(database)
            artifacts, store = Artifacts(database, Limits()), TaskStore(database, task, Limits())
            for round in acknowledged:
                held = journal.statement_of(task, round, Kind.SUBMISSION)
                assert held == Statement(task, round, 5, 0, Submission("x" * 500))
                record = sign(held, bytes(32), key)
                logged = log.get(record.id)
                assert logged is not None
                assert (logged.raw, logged.slot_received) == (record.raw, round)
                assert artifacts.get(task, round, Artifact.BUNDLE) == record.raw * 20
                assert store.get(round.to_bytes(4, "big")) == record.id
    assert acknowledged == list(range(len(acknowledged)))
