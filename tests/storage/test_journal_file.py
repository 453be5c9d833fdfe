from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import cbor2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from koii_p2p.errors import ConfigurationError
from koii_p2p.records import (
    Ballot,
    BallotEntry,
    Challenge,
    Kind,
    ListVote,
    Presence,
    SecretKey,
    Statement,
    Submission,
    Verdict,
    cbor,
    payload_bytes,
)
from koii_p2p.records.equivocation import Place, place_of
from koii_p2p.storage import Database, SigningJournal, StorageError
from koii_p2p.storage import journal_file as module
from koii_p2p.storage.journal import BelowFloor, OtherIdentity, Owner
from koii_p2p.storage.journal_file import (
    JournalContent,
    JournalFileError,
    content_of,
    decode_journal,
    encode_journal,
    read_journal,
    write_journal,
)

TASK, OTHER_TASK, GENESIS, KEY = b"t" * 32, b"u" * 32, b"g" * 32, SecretKey.from_seed(b"k" * 32)
OWNER = Owner(GENESIS, KEY.public_key)
SUBMISSION = Statement(TASK, 3, 700, 7, Submission("42"))
BALLOT = Statement(TASK, 3, 710, 0, Ballot((BallotEntry(bytes(32), Verdict.VALID),)))
VOTE = Statement(TASK, 2, 705, 1, ListVote(bytes(32), False, 4))


def entry(statement: Statement) -> tuple[Place, bytes]:
    place = place_of(statement)
    assert place is not None
    return place, payload_bytes(statement)


CONTENT = JournalContent(
    OWNER, {TASK: 1, OTHER_TASK: 2**64 - 1}, dict(map(entry, (VOTE, SUBMISSION, BALLOT)))
)


def fields(**changes: Any) -> dict[int, Any]:
    """The map of CONTENT's file, with some fields replaced: `f4=[]`; None removes one."""
    found: dict[int, Any] = cbor2.loads(encode_journal(CONTENT))
    found |= {int(name[1:]): value for name, value in changes.items()}
    return {number: value for number, value in found.items() if value is not None}


def row(statement: Statement, **changes: Any) -> list[Any]:
    """An entry of the file, with some of its parts replaced."""
    place, payload = entry(statement)
    parts = {"task": place.task, "round": place.round, "kind": int(place.kind), "attempt": place.attempt}
    return list((parts | {"payload": payload} | changes).values())


def signed(journal: SigningJournal) -> None:
    for statement in (SUBMISSION, BALLOT, VOTE):
        journal.sign(statement, GENESIS, KEY)


def test_the_file_is_this_to_the_byte() -> None:
    statement = Statement(TASK, 3, 700, 0, Submission("42"))
    file = encode_journal(JournalContent(OWNER, {TASK: 300}, dict([entry(statement)])))
    payload = payload_bytes(statement)
    assert file == (
        b"\xa6"
        + b"\x00\x78\x18koii-p2p signing journal"
        + b"\x01\x01"
        + (b"\x02\x58\x20" + GENESIS)
        + (b"\x03\x58\x20" + KEY.public_key)
        + (b"\x04\x81\x82\x58\x20" + TASK + b"\x19\x01\x2c")
        + (b"\x05\x81\x85\x58\x20" + TASK + b"\x03\x01\x00\x58" + bytes((len(payload),)) + payload)
    )


def test_what_is_written_is_read(tmp_path: Path) -> None:
    write_journal(tmp_path / "journal", CONTENT)
    assert (tmp_path / "journal").stat().st_mode & 0o777 == 0o600
    assert read_journal(tmp_path / "journal") == CONTENT
    assert list(tmp_path.iterdir()) == [tmp_path / "journal"]
    turned = JournalContent(
        OWNER, dict(reversed(CONTENT.floors.items())), dict(reversed(CONTENT.entries.items()))
    )
    assert encode_journal(turned) == encode_journal(CONTENT)
    empty = JournalContent(OWNER, {}, {})
    assert decode_journal(encode_journal(empty)) == empty


def test_another_implementation_reads_it_with_any_cbor_library() -> None:
    found = cbor2.loads(encode_journal(CONTENT))
    assert list(found) == [0, 1, 2, 3, 4, 5]
    assert found[5][0] == [TASK, 2, 7, 1, payload_bytes(VOTE)]
    assert cbor2.loads(found[5][1][4])[8] == "42"


def test_no_file_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "journal").write_bytes(b"precious")
    with pytest.raises(StorageError, match="There is a file of this name"):
        write_journal(tmp_path / "journal", CONTENT)
    assert (tmp_path / "journal").read_bytes() == b"precious"
    assert list(tmp_path.iterdir()) == [tmp_path / "journal"]


def test_a_journal_moves_to_another_database_and_says_nothing_twice(tmp_path: Path) -> None:
    with Database.open(tmp_path / "old") as database:
        journal = SigningJournal(database)
        signed(journal)
        journal.set_floor(OWNER, OTHER_TASK, 8)
        content = content_of(journal, OWNER)
        assert content.entries == CONTENT.entries
        assert content.floors == {OTHER_TASK: 8}
        with pytest.raises(OtherIdentity):
            content_of(journal, Owner(GENESIS, bytes(32)))
    with Database.open(tmp_path / "new") as database:
        journal = SigningJournal(database)
        moved = decode_journal(encode_journal(content))
        assert journal.merge(moved.owner, moved.entries, moved.floors).new == 3
        assert journal.owner() == OWNER
        held = journal.statement_of(TASK, 3, Kind.SUBMISSION)
        assert held == SUBMISSION
        assert journal.sign(held, GENESIS, KEY).statement == SUBMISSION
        for free in ((TASK, 3, Kind.LIST_VOTE), (TASK, 2, Kind.BALLOT), (OTHER_TASK, 8, Kind.BALLOT)):
            with pytest.raises(BelowFloor):
                journal.reserve(*free, b"new")
        again = content_of(journal, OWNER)
        assert again.entries == content.entries
        assert again.floors == {TASK: 3, OTHER_TASK: 8}


def test_the_newest_rounds_protect_as_much_as_all(tmp_path: Path) -> None:
    with Database.open(tmp_path / "old") as database:
        journal = SigningJournal(database)
        signed(journal)
        journal.sign(Statement(OTHER_TASK, 1, 9, 0, Submission("x")), GENESIS, KEY)
        assert {place.round for place in content_of(journal, OWNER, newest=1).entries} == {1, 3}
        assert content_of(journal, OWNER, newest=2) == content_of(journal, OWNER)
        content = content_of(journal, OWNER, newest=1)
    with Database.open(tmp_path / "new") as database:
        journal = SigningJournal(database)
        assert journal.merge(OWNER, content.entries, content.floors).floors == {TASK: 3, OTHER_TASK: 1}
        with pytest.raises(BelowFloor):
            journal.sign(VOTE, GENESIS, KEY)


def test_what_is_said_once_per_stage_or_number_has_entries_of_its_own(tmp_path: Path) -> None:
    said = [
        BALLOT,
        Statement(TASK, 3, 720, 1, BALLOT.body),
        *(Statement(TASK, 3, 711, number, Challenge(bytes(32), bytes(32))) for number in range(4)),
        Statement(OTHER_TASK, 3, 701, 0, Ballot(seal=bytes(32))),
    ]
    content = JournalContent(OWNER, {}, dict(map(entry, said)))
    assert len(content.entries) == len(said)
    write_journal(tmp_path / "journal", content)
    assert read_journal(tmp_path / "journal") == content


def test_no_file_is_larger_than_can_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size = len(encode_journal(CONTENT))
    monkeypatch.setattr(module, "LARGEST_FILE_BYTES", size)
    write_journal(tmp_path / "fits", CONTENT)
    assert read_journal(tmp_path / "fits") == CONTENT
    monkeypatch.setattr(module, "LARGEST_FILE_BYTES", size - 1)
    with pytest.raises(JournalFileError, match="--rounds"):
        write_journal(tmp_path / "more", CONTENT)
    with pytest.raises(JournalFileError, match=f"more than {size - 1} bytes"):
        read_journal(tmp_path / "fits")
    with pytest.raises(ValueError, match="allowed"):
        decode_journal(encode_journal(CONTENT))
    with Database.open(tmp_path / "db") as database:
        signed(SigningJournal(database))
        monkeypatch.setattr(module, "LARGEST_FILE_BYTES", 100)
        with pytest.raises(JournalFileError, match="--rounds"):
            content_of(SigningJournal(database), OWNER)
    assert not (tmp_path / "more").exists()


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        ([], "not a signing journal"),
        ({}, "not a signing journal"),
        (fields(f0="something else"), "not a signing journal"),
        (fields(f1=2), "version 2"),
        (fields(f1=True), "version True"),
        (fields(f1=None), "version None"),
        (fields(f2=None), "fields are not those"),
        (fields(f6=1), "fields are not those"),
        (fields(f4={}), "fields are not those"),
        (fields(f2=bytes(31)), "32 bytes"),
        (fields(f3=bytes(33)), "32 bytes"),
        (fields(f4=[[TASK]]), "floor"),
        (fields(f4=[[TASK, -1]]), "floor"),
        (fields(f4=[[TASK, True]]), "floor"),
        (fields(f4=[[bytes(31), 1]]), "floor"),
        (fields(f4=[[TASK, 1], [TASK, 2]]), "floors are not in ascending order"),
        (fields(f4=[[OTHER_TASK, 1], [TASK, 2]]), "floors are not in ascending order"),
        (fields(f5=[row(VOTE)[:4]]), "entry is not"),
        (fields(f5=[row(VOTE, round=-1)]), "entry is not"),
        (fields(f5=[row(VOTE, kind=True)]), "entry is not"),
        (fields(f5=[row(VOTE, payload="text")]), "entry is not"),
        (fields(f5=[row(VOTE, kind=0)]), "kind 0"),
        (fields(f5=[row(VOTE, kind=int(Kind.PRESENCE))]), "kind 9"),
        (fields(f5=[row(VOTE, kind=int(Kind.EQUIVOCATION))]), "kind 8"),
        (fields(f5=[row(VOTE, kind=2**64 - 1)]), "kind"),
        (fields(f5=[row(VOTE, payload=b"")]), "not a statement"),
        (fields(f5=[row(VOTE, payload=payload_bytes(VOTE) + b"\x00")]), "not a statement"),
        (fields(f5=[row(VOTE, attempt=0)]), "another place"),
        (fields(f5=[row(VOTE, round=3)]), "another place"),
        (fields(f5=[row(VOTE, task=OTHER_TASK)]), "another place"),
        (fields(f5=[row(SUBMISSION, attempt=7)]), "another place"),
        (fields(f5=[row(VOTE, kind=int(Kind.LIST_NOTICE))]), "another place"),
        (fields(f5=[row(VOTE, kind=int(Kind.CHALLENGE))]), "another place"),
        (
            fields(f5=[row(VOTE, payload=payload_bytes(Statement(TASK, 2, 1, 1, Presence((), 0, "", 0))))]),
            "another place",
        ),
        (
            fields(f5=[row(VOTE, payload=payload_bytes(Statement(TASK, 2, 1, 1, Challenge(TASK, TASK))))]),
            "another place",
        ),
        (fields(f5=[row(VOTE), row(VOTE)]), "entries are not in ascending order"),
        (fields(f5=[row(SUBMISSION), row(VOTE)]), "entries are not in ascending order"),
        (fields(f5=[[[[]]]]), "Arrays and maps|nested"),
    ],
)
def test_a_file_that_is_not_right_is_refused_with_one_error(bad: object, why: str, tmp_path: Path) -> None:
    path = tmp_path / "journal"
    path.write_bytes(cbor.encode(bad))
    path.chmod(0o600)
    with pytest.raises(JournalFileError, match=why) as caught:
        read_journal(path)
    assert isinstance(caught.value, ConfigurationError)
    assert str(path) in caught.value.what


def test_only_the_one_encoding_is_read() -> None:
    file = encode_journal(CONTENT)
    for changed in (
        file + b"\x00",
        file[:-1],
        b"\xbf" + file[1:] + b"\xff",  # a map of indefinite length
        file.replace(b"\x01\x01\x02\x58", b"\x01\x18\x01\x02\x58", 1),  # the version as a long integer
        b"\xa7" + file[1:3] + file[1:],  # a torn and doubled key
        cbor2.dumps(dict(reversed(fields().items()))),
        b"",
    ):
        with pytest.raises(ValueError):
            decode_journal(changed)


@settings(max_examples=200)
@given(st.binary(max_size=300), st.integers(0, len(encode_journal(CONTENT)) - 1), st.integers(0, 255))
def test_no_bytes_do_more_than_be_refused(noise: bytes, position: int, value: int) -> None:
    file = bytearray(encode_journal(CONTENT))
    file[position] = value
    for data in (noise, bytes(file), bytes(file[:position]), bytes(file[:position]) + noise):
        try:
            content = decode_journal(data)
        except ValueError:
            continue
        assert encode_journal(content) == data


def test_lengths_that_are_lies_cost_nothing() -> None:
    started = time.monotonic()
    for head in (
        b"\x9b" + b"\xff" * 8,
        b"\xbb" + b"\x7f" * 8,
        b"\x5b\x00\x00\x00\xff\xff\xff\xff\xff",
        b"\x81" * 10**6,
    ):
        with pytest.raises(ValueError):
            decode_journal(head)
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620])
def test_a_file_that_others_may_use_is_refused(mode: int, tmp_path: Path) -> None:
    write_journal(tmp_path / "journal", CONTENT)
    (tmp_path / "journal").chmod(mode)
    with pytest.raises(JournalFileError, match="chmod 600"):
        read_journal(tmp_path / "journal")


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe", 0o600)
    for path in (tmp_path / "pipe", tmp_path, tmp_path / "missing"):
        with pytest.raises(JournalFileError, match=str(path)):
            read_journal(path)
    with pytest.raises(StorageError):
        write_journal(tmp_path / "missing" / "journal", CONTENT)
