from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from koii_p2p.errors import CheckFailed, OperatorError
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
from koii_p2p.records.equivocation import Place
from koii_p2p.storage import AlreadySigned, Database, SigningJournal, StorageCorrupt, StorageFull
from koii_p2p.storage.journal import BelowFloor, JournalConflict, Merged, OtherIdentity, Owner
from tests.storage.conftest import SmallDisk

TASK, GENESIS, KEY = b"t" * 32, bytes(32), SecretKey.from_seed(b"k" * 32)
YES = Statement(TASK, 3, 700, 0, Ballot((BallotEntry(bytes(32), Verdict.VALID),)))
OWNER, OTHER_TASK = Owner(GENESIS, KEY.public_key), b"u" * 32
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
        public_key = KEY.public_key

        def sign(self, message: bytes) -> bytes:
            return bytes(64)

    with Database.open(tmp_path / "db") as database:
        journal = SigningJournal(database)
        with pytest.raises(RecordError):
            journal.sign(YES, GENESIS, Confused())
        with pytest.raises(AlreadySigned):
            journal.sign(NO, GENESIS, KEY)


def vote(round: int, attempt: int = 0, task: bytes = TASK) -> tuple[Place, bytes]:
    """A list vote as an entry of a journal."""
    statement = Statement(task, round, 700, attempt, ListVote(bytes(32), True, 0))
    return Place(task, round, Kind.LIST_VOTE, attempt), payload_bytes(statement)


def contents(journal: SigningJournal) -> dict[Place, bytes]:
    return {
        place: payload
        for task in journal.tasks()
        for round in journal.rounds(task)
        for place, payload in journal.of_round(task, round)
    }


def test_a_journal_has_one_owner_from_its_first_statement_on(tmp_path: Path) -> None:
    stranger = SecretKey.from_seed(b"s" * 32)
    with Database.open(tmp_path / "db") as database:
        journal = SigningJournal(database)
        journal.sign(Statement(TASK, 3, 700, 0, Presence((), 0, "", 0)), GENESIS, stranger)
        assert journal.owner() is None
        journal.sign(YES, GENESIS, KEY)
    with Database.open(tmp_path / "db") as database:
        journal = SigningJournal(database)
        assert journal.owner() == OWNER
        for genesis, key, said in ((GENESIS, stranger, "another key"), (b"g" * 32, KEY, "another chain")):
            with pytest.raises(OtherIdentity, match=said):
                journal.sign(YES, genesis, key)
            other = Owner(genesis, key.public_key)
            with pytest.raises(OtherIdentity):
                journal.merge(other, dict([vote(9)]), {})
            with pytest.raises(OtherIdentity):
                journal.set_floor(other, TASK, 9)
        assert list(contents(journal)) == [Place(TASK, 3, Kind.BALLOT, 0)]
        assert journal.floors() == {}


def test_a_refused_first_statement_gives_no_owner(tmp_path: Path) -> None:
    with Database.open(tmp_path / "db") as database:
        journal = SigningJournal(database)
        journal.reserve(TASK, 3, Kind.BALLOT, payload_bytes(NO))
        with pytest.raises(AlreadySigned):
            journal.sign(YES, GENESIS, KEY)
        assert journal.owner() is None


def test_at_and_below_the_floor_only_what_was_said_is_said(tmp_path: Path) -> None:
    with Database.open(tmp_path / "db") as database:
        journal = SigningJournal(database)
        journal.sign(YES, GENESIS, KEY)
        journal.set_floor(OWNER, TASK, 5)
    with Database.open(tmp_path / "db") as database:  # it is as durable as an entry
        journal = SigningJournal(database)
        for round in (0, 3, 5):
            with pytest.raises(BelowFloor, match=f"submission of round {round} was not signed") as caught:
                journal.reserve(TASK, round, Kind.SUBMISSION, b"one")
            assert caught.value.place == Place(TASK, round, Kind.SUBMISSION, 0)
            assert caught.value.floor == 5
            assert journal.payload_of(TASK, round, Kind.SUBMISSION) is None
        assert isinstance(caught.value, CheckFailed)
        assert journal.sign(YES, GENESIS, KEY).statement == YES
        with pytest.raises(AlreadySigned):
            journal.sign(NO, GENESIS, KEY)
        journal.reserve(TASK, 6, Kind.SUBMISSION, b"one")
        journal.reserve(OTHER_TASK, 0, Kind.SUBMISSION, b"one")
        counts = journal.statistics()
        assert (counts.reserved, counts.repeated, counts.refused, counts.below_floor) == (2, 1, 1, 3)


def test_below_the_floor_no_signer_is_asked(tmp_path: Path) -> None:
    with Database.open(tmp_path / "db") as database:
        journal = SigningJournal(database)
        journal.set_floor(OWNER, TASK, 3)
        with pytest.raises(BelowFloor):
            journal.sign(YES, GENESIS, EndsBeforeSigning())
        with pytest.raises(Interrupted):
            journal.sign(Statement(TASK, 4, 700, 0, YES.body), GENESIS, EndsBeforeSigning())


def test_a_floor_falls_only_when_asked_to(tmp_path: Path) -> None:
    with Database.open(tmp_path / "db") as database:
        journal = SigningJournal(database)
        for round in (5, 5, 7):
            journal.set_floor(OWNER, TASK, round)
            assert journal.floor_of(TASK) == round
        with pytest.raises(CheckFailed, match="at round 7"):
            journal.set_floor(OWNER, TASK, 6)
        assert journal.floors() == {TASK: 7}
        journal.set_floor(OWNER, TASK, 0, lower=True)
        assert (journal.floor_of(TASK), journal.floor_of(OTHER_TASK)) == (0, None)
        assert journal.owner() == OWNER
        with pytest.raises(ValueError, match="32 bytes"):
            journal.set_floor(OWNER, b"short", 9)
        with pytest.raises(OverflowError):
            journal.set_floor(OWNER, TASK, 2**64)
        journal.set_floor(OWNER, TASK, 2**64 - 1)
        with pytest.raises(BelowFloor):
            journal.reserve(TASK, 2**64 - 1, Kind.BALLOT, b"one")


def test_a_merge_takes_all_over_and_raises_the_floors(tmp_path: Path) -> None:
    entries = dict([vote(4), vote(9), vote(9, 1), vote(2, task=OTHER_TASK)])
    with Database.open(tmp_path / "db") as database:
        journal = SigningJournal(database)
        place, payload = vote(9)
        journal.reserve(*place[:3], payload)
        journal.set_floor(OWNER, OTHER_TASK, 6)
        before = database.statistics()
        merged = journal.merge(OWNER, entries, {b"v" * 32: 8})
        assert merged == Merged(3, 1, {TASK: 9, OTHER_TASK: 6, b"v" * 32: 8})
        assert database.statistics().synced_writes == before.synced_writes + 1
        assert contents(journal) == entries
        assert journal.tasks() == [TASK, OTHER_TASK, b"v" * 32]
        assert journal.floors() == merged.floors
        assert journal.merge(OWNER, entries, {}) == Merged(0, 4, {TASK: 9, OTHER_TASK: 6})
        for free in ((TASK, 9, Kind.BALLOT), (TASK, 5, Kind.LIST_VOTE), (OTHER_TASK, 6, Kind.BALLOT)):
            with pytest.raises(BelowFloor):
                journal.reserve(*free, b"new")
        journal.reserve(TASK, 10, Kind.BALLOT, b"new")
    with Database.open(tmp_path / "other") as database:
        journal = SigningJournal(database)
        assert journal.merge(OWNER, {}, {}) == Merged(0, 0, {})
        assert journal.tasks() == []
        assert journal.merge(OWNER, dict([vote(0)]), {}).floors == {TASK: 0}


def test_a_contradiction_leaves_everything_as_it_was(tmp_path: Path) -> None:
    with Database.open(tmp_path / "db") as database:
        journal = SigningJournal(database)
        for round in range(7):
            journal.reserve(TASK, round, Kind.LIST_VOTE, b"other")
        held = contents(journal)
        with pytest.raises(JournalConflict) as caught:
            journal.merge(OWNER, dict(vote(round) for round in range(9)), {OTHER_TASK: 3})
        assert caught.value.places == tuple(vote(round)[0] for round in range(7))
        assert "in 7 places" in caught.value.what
        assert "list vote of round 4" in caught.value.why
        assert "and 2 more" in caught.value.why
        assert (contents(journal), journal.floors(), journal.owner()) == (held, {}, None)


def test_no_thread_slips_below_a_merge(tmp_path: Path) -> None:
    with Database.open(tmp_path / "db") as database:
        journal = SigningJournal(database)

        def take(round: int) -> bool:
            try:
                journal.reserve(TASK, round, Kind.BALLOT, b"mine")
            except OperatorError:
                return False
            return True

        with ThreadPoolExecutor(8) as threads:
            taken = [threads.submit(take, round) for round in range(64)]
            merging = threads.submit(journal.merge, OWNER, dict([vote(40)]), {})
            late = [threads.submit(take, round) for round in range(64, 80)]
        assert merging.result().new == 1
        held = {place.round for place in contents(journal) if place.kind is Kind.BALLOT}
        done = {round for round, future in enumerate([*taken, *late]) if future.result()}
        assert held == done
        assert set(range(41, 80)) <= done


def test_what_no_journal_wrote_is_said_to_be_damage(tmp_path: Path) -> None:
    with Database.open(tmp_path / "db") as database:
        journal = SigningJournal(database)
        for key, value in ((b"journal-owner/", b"x"), (b"journal-floor/" + TASK, b"x")):
            database.write([(key, value)])
            with pytest.raises(StorageCorrupt):
                journal.set_floor(OWNER, TASK, 3)
            database.write([(key, None)])
        for end in (b"\x63" + bytes(8), b"\x02"):
            key = b"journal/" + TASK + bytes(8) + end
            database.write([(key, b"x")])
            with pytest.raises(StorageCorrupt):
                contents(journal)
            database.write([(key, None)])
        assert contents(journal) == {}


def test_on_a_full_disk_a_merge_is_nothing_at_all(small_disk: SmallDisk) -> None:
    entries = {}
    for round in range(4000):
        statement = Statement(TASK, round, 5, 0, Submission("x" * 512))
        entries[Place(TASK, round, Kind.SUBMISSION, 0)] = payload_bytes(statement)
    with Database.open(small_disk.path / "db") as database:
        SigningJournal(database).reserve(TASK, 3, Kind.BALLOT, b"held")
        with pytest.raises(StorageFull):
            SigningJournal(database).merge(OWNER, entries, {})
    small_disk.enlarge()
    with Database.open(small_disk.path / "db") as database:
        journal = SigningJournal(database)
        assert contents(journal) == {Place(TASK, 3, Kind.BALLOT, 0): b"held"}
        assert (journal.owner(), journal.floors()) == (None, {})
        assert journal.merge(OWNER, entries, {}).new == 4000
