"""One key, one task: what it said before, here or out of a newer copy of this home, is never contradicted."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from koii_p2p.node.own_words import EARLY_SLOTS, OwnWords
from koii_p2p.records.cid import cid_of
from koii_p2p.records.envelope import Verified, sign
from koii_p2p.records.equivocation import ONCE_PER_ATTEMPT, ONCE_PER_ROUND, equivocation_of, place_of
from koii_p2p.records.schema import (
    Ballot,
    BallotEntry,
    BallotReveal,
    Body,
    Challenge,
    CommitmentNotice,
    Kind,
    ListNotice,
    ListVote,
    Presence,
    Statement,
    Submission,
    Verdict,
)
from koii_p2p.rounds import events
from koii_p2p.rounds.admission import Source
from koii_p2p.rounds.engine import RoundEngine
from koii_p2p.storage import Database, SigningJournal
from koii_p2p.storage.journal import BelowFloor, Owner, SpokenElsewhere
from tests.rounds.net import GENESIS, TASK, TERMS, key, roster, secret, submission

KEY = secret(0)
OWNER = Owner(GENESIS, KEY.public_key)
ROUND = 3
SLOT = TERMS.clock.submission(ROUND).opens + 1
PERIOD = TERMS.clock.period(SLOT)
AHEAD = 150

ONE, TWO = (BallotEntry(bytes((number,)) * 32, Verdict.VALID) for number in (1, 2))
CID = cid_of(b"data")
PLACES: list[tuple[int, Body, Body]] = [
    (0, Submission("one"), Submission("two")),
    (0, Ballot((ONE,)), Ballot((TWO,))),
    (1, Ballot((ONE,)), Ballot((ONE, TWO))),
    (0, Ballot(seal=bytes(32)), Ballot((ONE,))),
    (0, BallotReveal(bytes(32), (ONE,)), BallotReveal(bytes(32), (TWO,))),
    (2, Challenge(bytes(32), bytes(32)), Challenge(b"x" * 32, bytes(32))),
    (0, CommitmentNotice(bytes(32), CID, bytes(64)), CommitmentNotice(b"x" * 32, CID, bytes(64))),
    (1, ListNotice(bytes(32), CID, 1, 0, bytes(64)), ListNotice(bytes(32), CID, 2, 0, bytes(64))),
    (1, ListVote(bytes(32), True, 0), ListVote(bytes(32), False, 1)),
]
every_place = pytest.mark.parametrize(
    ("seq", "first", "second"), PLACES, ids=[f"{first.kind.name}-{seq}" for seq, first, _ in PLACES]
)


def statement(body: Body, seq: int = 0, round_number: int = ROUND, slot: int = SLOT) -> Statement:
    return Statement(TASK, round_number, slot, seq, body)


def record(body: Body, seq: int = 0, round_number: int = ROUND, slot: int = SLOT) -> Verified:
    """What our key has signed, somewhere."""
    return sign(statement(body, seq, round_number, slot), GENESIS, KEY)


@contextmanager
def a_run(home: Path, slot: int = SLOT) -> Iterator[tuple[OwnWords, SigningJournal]]:
    """One run of a node from a home, beginning at a slot."""
    with Database.open(home / "db") as database:
        journal = SigningJournal(database)
        words = OwnWords(GENESIS, KEY, journal)
        words.begin(slot, TERMS.clock.period(slot), AHEAD)
        yield words, journal


def test_all_kinds_that_have_a_place_are_tried() -> None:
    assert {first.kind for _, first, _ in PLACES} == ONCE_PER_ROUND | ONCE_PER_ATTEMPT
    assert set(Kind) - ONCE_PER_ROUND - ONCE_PER_ATTEMPT == {Kind.EQUIVOCATION, Kind.PRESENCE}


# --- what this home has said


@every_place
def test_what_is_said_first_is_said_again_whatever_is_asked_for(
    tmp_path: Path, seq: int, first: Body, second: Body
) -> None:
    with a_run(tmp_path) as (words, _):
        said = words.sign(statement(first, seq))
        assert words.sign(statement(second, seq)) == said
        assert words.sign(statement(first, seq, slot=SLOT + 1)) == said
    with a_run(tmp_path, SLOT + 1) as (words, _):
        assert words.sign(statement(second, seq)) == said


@every_place
def test_what_was_promised_and_never_sent_is_still_the_first(
    tmp_path: Path, seq: int, first: Body, second: Body
) -> None:
    with Database.open(tmp_path / "db") as database:
        promised = statement(first, seq)
        SigningJournal(database).sign(promised, GENESIS, KEY)
    with a_run(tmp_path) as (words, _):
        assert words.sign(statement(second, seq)).statement == promised


def test_hearing_what_this_home_has_said_changes_nothing(tmp_path: Path) -> None:
    with a_run(tmp_path) as (words, journal):
        said = [words.sign(statement(Submission("one"), round_number=number)) for number in (2, 3)]
        for heard in said:
            words.hear(heard)
        assert journal.floors() == {}
        late = words.sign(statement(ListVote(bytes(32), True, 0), slot=SLOT + 10 * EARLY_SLOTS))
        words.hear(late)  # said since this node runs, and by it
        assert words.sign(statement(ListVote(bytes(32), True, 0), seq=1)).statement.seq == 1


# --- what a newer copy of this home has said


@every_place
def test_what_is_heard_of_our_own_key_is_not_contradicted(
    tmp_path: Path, seq: int, first: Body, second: Body
) -> None:
    heard = record(first, seq)
    with a_run(tmp_path) as (words, _):
        words.hear(heard)
        words.hear(heard)
        assert words.sign(statement(second, seq)) == heard
    with a_run(tmp_path, SLOT + 1) as (words, journal):
        assert words.sign(statement(second, seq)) == heard
        assert journal.owner() == OWNER


@every_place
def test_where_more_may_be_missing_nothing_is_said_until_a_new_round(
    tmp_path: Path, seq: int, first: Body, second: Body
) -> None:
    old = statement(Submission("old"), round_number=ROUND - 2)
    with a_run(tmp_path) as (words, _):
        words.sign(old)
        words.hear(record(ListVote(bytes(32), True, 0), round_number=ROUND - 1))
    with a_run(tmp_path) as (words, journal):
        assert journal.floor_of(TASK) == PERIOD - 1 == ROUND
        for number in (ROUND - 1, ROUND):
            with pytest.raises(BelowFloor):
                words.sign(statement(second, seq, round_number=number))
        assert words.sign(statement(first, seq, round_number=ROUND + 1)).round == ROUND + 1
        assert words.sign(replace(old, slot=SLOT)).statement == old


def test_a_word_of_a_later_round_moves_the_floor_there(tmp_path: Path) -> None:
    with a_run(tmp_path, SLOT) as (words, journal):
        words.hear(record(Submission("one"), round_number=PERIOD))
        assert journal.floor_of(TASK) == PERIOD
        words.hear(record(Submission("one"), round_number=PERIOD - 2))
        assert journal.floor_of(TASK) == PERIOD


def test_before_there_was_a_round_to_speak_about_the_floor_is_the_words_own(tmp_path: Path) -> None:
    with a_run(tmp_path, TERMS.starting_slot - 1) as (words, journal):
        words.hear(record(Submission("one"), round_number=0, slot=TERMS.starting_slot))
        assert journal.floor_of(TASK) == 0
        assert words.sign(statement(Submission("two"), round_number=1)).round == 1


def test_only_the_first_beginning_counts(tmp_path: Path) -> None:
    with a_run(tmp_path) as (words, journal):
        words.begin(SLOT + 1000, PERIOD + 10, 0)
        words.hear(record(Submission("one")))
        assert journal.floor_of(TASK) == PERIOD - 1


def test_the_words_of_others_are_nothing_to_us(tmp_path: Path) -> None:
    with a_run(tmp_path) as (words, journal):
        for slot in (SLOT, SLOT + 10 * EARLY_SLOTS):
            words.hear(sign(statement(Submission("theirs"), slot=slot), GENESIS, secret(1)))
        assert (journal.tasks(), journal.owner()) == ([], None)
        assert words.sign(statement(Submission("ours"))).author == KEY.public_key


# --- another node with this key


def test_what_is_said_while_this_node_runs_and_not_by_it_ends_it(tmp_path: Path) -> None:
    slot = SLOT + EARLY_SLOTS + 1
    with a_run(tmp_path) as (words, journal):
        words.hear(record(Submission("at the same time"), slot=slot - 1))
        with pytest.raises(SpokenElsewhere, match="slot") as caught:
            words.hear(record(ListVote(bytes(32), True, 0), slot=slot))
        assert str(slot) in caught.value.why
        assert caught.value.said.kind is Kind.LIST_VOTE
        assert journal.payload_of(TASK, ROUND, Kind.LIST_VOTE) is None
        for body in (Submission("one"), Presence((), 0, "", 0), ListVote(bytes(32), False, 1)):
            with pytest.raises(SpokenElsewhere):
                words.sign(statement(body, round_number=ROUND + 5))


@every_place
def test_another_word_than_the_journals_ends_this_node_unless_that_is_known(
    tmp_path: Path, seq: int, first: Body, second: Body
) -> None:
    with a_run(tmp_path) as (words, _):
        said = words.sign(statement(first, seq))
        with pytest.raises(SpokenElsewhere, match="has signed another"):
            words.hear(record(second, seq))
        with pytest.raises(SpokenElsewhere):
            words.sign(said.statement)
    with a_run(tmp_path) as (words, journal):
        journal.set_floor(OWNER, TASK, ROUND)  # as the error tells the operator
        words.hear(record(second, seq))
        assert words.sign(statement(first, seq)) == said
        assert words.sign(statement(second, seq, round_number=ROUND + 1)).round == ROUND + 1


def test_a_presence_of_another_run_is_told_from_that_of_another_node(tmp_path: Path) -> None:
    body = Presence(("/ip4/127.0.0.1/tcp/1",), 0, "", 0)
    with a_run(tmp_path) as (words, journal):
        for slot in (SLOT, SLOT + AHEAD + 1):
            own = words.sign(statement(body, slot, slot=slot))
            words.hear(own)
        # An earlier run may have said it, by a clock that ran ahead.
        words.hear(record(body, SLOT + AHEAD, slot=SLOT + AHEAD))
        assert journal.tasks() == []
        with pytest.raises(SpokenElsewhere, match="Another node runs"):
            words.hear(record(body, 0, slot=SLOT + AHEAD + 1))


def test_kinds_without_a_place_are_signed_as_often_as_asked(tmp_path: Path) -> None:
    one, other = submission(secret(1), "one"), submission(secret(1), "two")
    with a_run(tmp_path) as (words, journal):
        for body in (equivocation_of(one, other), Presence((), 0, "", 0)):
            said = [words.sign(statement(body, slot=slot)) for slot in (SLOT, SLOT + 1)]
            assert said[0] != said[1]
        assert journal.tasks() == []


# --- what the engine knows


def engine_at(slot: int, *, with_roster: bool = True) -> RoundEngine:
    engine = RoundEngine(TERMS, GENESIS, KEY.public_key)
    engine.handle(events.SlotAdvanced(slot))
    if with_roster:
        engine.handle(events.RosterRead(roster(5, ROUND)))
    return engine


@pytest.mark.parametrize("with_roster", [True, False], ids=["held", "parked"])
def test_what_the_engine_has_of_ours_is_heard(tmp_path: Path, with_roster: bool) -> None:
    engine = engine_at(SLOT + 1, with_roster=with_roster)
    ours, theirs = record(Submission("one")), submission(secret(1), "theirs")
    forged = bytearray(record(Submission("forged")).raw)
    forged[-1] ^= 1
    for raw in (bytes(forged), ours.raw, theirs.raw):
        engine.receive(raw, Source.SYNC)
    state = engine.round(ROUND)
    assert state is not None
    assert (len(state.held), len(state.parked)) == ((2, 0) if with_roster else (0, 2))
    with a_run(tmp_path) as (words, journal):
        words.catch_up(engine, [ROUND + 100, ROUND])
        place = place_of(ours.statement)
        assert [place for place, _ in journal.of_round(TASK, ROUND)] == [place]
        assert words.sign(statement(Submission("two"))) == ours


def test_of_other_rounds_nothing_is_heard(tmp_path: Path) -> None:
    engine = engine_at(SLOT + 1)
    engine.receive(record(Submission("one")).raw, Source.SYNC)
    with a_run(tmp_path) as (words, journal):
        words.catch_up(engine, [ROUND - 1, ROUND + 1])
        assert journal.tasks() == []


def test_two_words_of_ours_in_one_place_end_this_node_above_the_floor(tmp_path: Path) -> None:
    engine = engine_at(SLOT + 1)
    for author in (0, 1):
        for value in ("one", "two"):
            engine.receive(submission(secret(author), value, ROUND).raw, Source.GOSSIP)
    state = engine.round(ROUND)
    assert state is not None
    assert {author for _, author in state.equivocations} == {key(0), key(1)}
    with a_run(tmp_path) as (words, journal):
        with pytest.raises(SpokenElsewhere, match="has signed another submission of round 3"):
            words.refuse_doubles(engine)
        with pytest.raises(SpokenElsewhere):
            words.sign(statement(Submission("one")))
        journal.set_floor(OWNER, TASK, ROUND)
    with a_run(tmp_path) as (words, _):
        words.refuse_doubles(engine)
        assert words.sign(statement(Submission("x"), round_number=ROUND + 1)).round == ROUND + 1


def test_a_second_word_said_while_this_node_runs_ends_it_below_the_floor_as_well(tmp_path: Path) -> None:
    engine = engine_at(SLOT + 1)
    for value in ("one", "two"):
        engine.receive(submission(KEY, value, ROUND).raw, Source.GOSSIP)
    with a_run(tmp_path, SLOT - EARLY_SLOTS - 1) as (words, journal):
        journal.set_floor(OWNER, TASK, ROUND)
        with pytest.raises(SpokenElsewhere, match="Another node runs"):
            words.refuse_doubles(engine)


def test_two_words_of_others_in_one_place_do_not(tmp_path: Path) -> None:
    engine = engine_at(SLOT + 1)
    for value in ("one", "two"):
        engine.receive(submission(secret(1), value, ROUND).raw, Source.GOSSIP)
    with a_run(tmp_path) as (words, _):
        words.refuse_doubles(engine)
        assert words.sign(statement(Submission("one"))).author == KEY.public_key
