from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from koii_p2p.records import (
    Ballot,
    BallotEntry,
    Kind,
    ListVote,
    Presence,
    RecordError,
    SecretKey,
    Statement,
    Submission,
    Verdict,
    payload_bytes,
    sign,
)
from koii_p2p.storage import AlreadySigned, Database, SigningJournal, StorageCorrupt, StorageFull
from tests.storage.conftest import SmallDisk

TASK, GENESIS, KEY = b"t" * 32, bytes(32), SecretKey.from_seed(b"k" * 32)
YES = Statement(TASK, 3, 700, 0, Ballot((BallotEntry(bytes(32), Verdict.VALID),)))
NO = Statement(TASK, 3, 701, 0, Ballot((BallotEntry(bytes(32), Verdict.INVALID),)))


class Interrupted(BaseException):
    """The process ends here."""


class EndsBeforeSigning:
    public_key = KEY.public_key

    def sign(self, message: bytes) -> bytes:
        raise Interrupted


def test_a_place_is_taken_once_and_for_ever(tmp_path: Path) -> None:
    for _ in range(2):  # the second time after a restart
        with Database.open(tmp_path / "db") as database:
            journal = SigningJournal(database)
            journal.reserve(TASK, 3, Kind.BALLOT, b"one")
            journal.reserve(TASK, 3, Kind.BALLOT, b"one")
            with pytest.raises(AlreadySigned) as caught:
                journal.reserve(TASK, 3, Kind.BALLOT, b"two")
            assert caught.value.place == (TASK, 3, Kind.BALLOT, 0)
            assert "ballot of round 3" in caught.value.what
            assert journal.payload_of(TASK, 3, Kind.BALLOT) == b"one"
            assert journal.statistics().refused == 1


def test_places_are_apart(tmp_path: Path) -> None:
    with Database.open(tmp_path / "db") as database:
        journal = SigningJournal(database)
        journal.reserve(TASK, 3, Kind.LIST_VOTE, b"one")
        journal.reserve(TASK, 4, Kind.LIST_VOTE, b"two")
        journal.reserve(b"u" * 32, 3, Kind.LIST_VOTE, b"three")
        journal.reserve(TASK, 3, Kind.BALLOT, b"four")
        journal.reserve(TASK, 3, Kind.LIST_VOTE, b"five", attempt=1)
        assert journal.payload_of(TASK, 3, Kind.LIST_VOTE) == b"one"
        assert journal.payload_of(TASK, 3, Kind.LIST_VOTE, attempt=1) == b"five"
        assert journal.payload_of(TASK, 5, Kind.LIST_VOTE) is None
        assert journal.statement_of(TASK, 5, Kind.LIST_VOTE) is None
        assert journal.statistics().reserved == 5
        with pytest.raises(ValueError, match="32 bytes"):
            journal.reserve(b"short", 3, Kind.BALLOT, b"one")


def test_a_crash_between_journal_and_sending_signs_identical_bytes_again(tmp_path: Path) -> None:
    with Database.open(tmp_path / "db") as database, pytest.raises(Interrupted):
        SigningJournal(database).sign(YES, GENESIS, EndsBeforeSigning())
    with Database.open(tmp_path / "db") as database:
        journal = SigningJournal(database)
        with pytest.raises(AlreadySigned):
            journal.sign(NO, GENESIS, KEY)
        held = journal.statement_of(TASK, 3, Kind.BALLOT)
        assert held == YES
        again = journal.sign(held, GENESIS, KEY)
        assert again.raw == sign(YES, GENESIS, KEY).raw
        assert journal.sign(held, GENESIS, KEY).raw == again.raw


def test_the_journal_is_written_before_the_signer_is_asked(tmp_path: Path) -> None:
    with Database.open(tmp_path / "db") as database:
        journal = SigningJournal(database)
        synced: list[int] = []

        class Looks:
            public_key = KEY.public_key

            def sign(self, message: bytes) -> bytes:
                assert journal.payload_of(TASK, 3, Kind.BALLOT) == payload_bytes(YES)
                synced.append(database.statistics().synced_writes)
                return KEY.sign(message)

        assert journal.sign(YES, GENESIS, Looks()).statement == YES
        assert synced == [1]


def test_kinds_that_are_said_again_take_no_place(tmp_path: Path) -> None:
    with Database.open(tmp_path / "db") as database:
        journal = SigningJournal(database)
        for free in range(3):
            journal.sign(Statement(TASK, 3, 700, free, Presence((), 0, "", free)), GENESIS, KEY)
        assert journal.payload_of(TASK, 3, Kind.PRESENCE) is None
        assert journal.statistics().reserved == 0
        journal.sign(Statement(TASK, 3, 700, 0, ListVote(bytes(32), True, 0)), GENESIS, KEY)
        journal.sign(Statement(TASK, 3, 700, 1, ListVote(bytes(32), False, 0)), GENESIS, KEY)
        with pytest.raises(AlreadySigned):
            journal.sign(Statement(TASK, 3, 700, 1, ListVote(bytes(32), True, 0)), GENESIS, KEY)


def test_a_seq_gives_no_second_submission(tmp_path: Path) -> None:
    with Database.open(tmp_path / "db") as database:
        journal = SigningJournal(database)
        journal.sign(Statement(TASK, 3, 700, 0, Submission("x")), GENESIS, KEY)
        with pytest.raises(AlreadySigned):
            journal.sign(Statement(TASK, 3, 700, 1, Submission("x")), GENESIS, KEY)


def test_of_many_threads_one_takes_the_place(tmp_path: Path) -> None:
    with Database.open(tmp_path / "db") as database:
        journal = SigningJournal(database)

        def take(number: int) -> bool:
            try:
                journal.reserve(TASK, 3, Kind.BALLOT, bytes((number,)))
            except AlreadySigned:
                return False
            return True

        with ThreadPoolExecutor(8) as threads:
            taken = list(threads.map(take, range(64)))
        assert taken.count(True) == 1
        assert journal.payload_of(TASK, 3, Kind.BALLOT) == bytes((taken.index(True),))


def test_a_damaged_entry_is_said_to_be(tmp_path: Path) -> None:
    with Database.open(tmp_path / "db") as database:
        journal = SigningJournal(database)
        journal.reserve(TASK, 3, Kind.BALLOT, b"not a payload")
        with pytest.raises(StorageCorrupt):
            journal.statement_of(TASK, 3, Kind.BALLOT)


def test_on_a_full_disk_nothing_is_signed_and_nothing_forgotten(small_disk: SmallDisk) -> None:
    signed: list[bytes] = []

    class Counts:
        public_key = KEY.public_key

        def sign(self, message: bytes) -> bytes:
            signed.append(message)
            return KEY.sign(message)

    statements = [Statement(TASK, round, 5, 0, Submission("x" * 512)) for round in range(5000)]
    acknowledged = 0

    def sign_until_it_fails() -> None:
        nonlocal acknowledged
        for statement in statements:
            journal.sign(statement, GENESIS, Counts())
            acknowledged += 1

    database = Database.open(small_disk.path / "db")
    journal = SigningJournal(database)
    with pytest.raises(StorageFull):
        sign_until_it_fails()
    assert len(signed) == acknowledged > 100
    database.close()
    small_disk.enlarge()
    with Database.open(small_disk.path / "db") as database:
        journal = SigningJournal(database)
        for statement in statements[:acknowledged]:
            with pytest.raises(AlreadySigned):
                journal.reserve(TASK, statement.round, Kind.SUBMISSION, b"other")


def test_a_confused_signer_does_not_free_the_place(tmp_path: Path) -> None:
    class Confused:
        public_key = bytes(32)

        def sign(self, message: bytes) -> bytes:
            return bytes(64)

    with Database.open(tmp_path / "db") as database:
        journal = SigningJournal(database)
        with pytest.raises(RecordError):
            journal.sign(YES, GENESIS, Confused())
        with pytest.raises(AlreadySigned):
            journal.sign(NO, GENESIS, KEY)
