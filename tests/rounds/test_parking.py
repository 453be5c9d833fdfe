"""What may wait until more is known: properly signed records, so many of a round and of one author."""

from __future__ import annotations

from dataclasses import replace

import pytest

from koii_p2p.limits import Limits
from koii_p2p.records import envelope as envelopes
from koii_p2p.records.envelope import Envelope, Verified
from koii_p2p.records.schema import Submission, Verdict
from koii_p2p.rounds import events, record_book
from koii_p2p.rounds.admission import Source
from koii_p2p.rounds.engine import RoundEngine
from koii_p2p.rounds.round_state import RoundState
from tests.rounds.net import GENESIS, GOOD, TERMS, ballot, roster, say, secret, submission

EARLY = TERMS.clock.submission(3).opens - 1


def engine_at(
    slot: int, limits: Limits | None = None, *, with_roster: bool = True
) -> tuple[RoundEngine, RoundState]:
    engine = RoundEngine(TERMS, GENESIS, secret(0).public_key, limits=limits)
    engine.handle(events.SlotAdvanced(slot))
    engine.handle(events.AnchorsRead({}))
    if with_roster:
        engine.handle(events.RosterRead(roster(5, 3)))
    state = engine.round(3)
    assert state is not None
    return engine, state


@pytest.mark.parametrize("with_roster", [True, False])
def test_nobody_takes_the_room_of_another_by_forging_its_name(with_roster: bool) -> None:
    engine, state = engine_at(EARLY, with_roster=with_roster)
    good = submission(secret(1), GOOD)
    for number in range(100):
        engine.receive(good.raw[:-1] + bytes([(good.raw[-1] + 1 + number) % 256]), Source.GOSSIP)
    assert not state.parked
    engine.receive(good.raw, Source.GOSSIP)
    assert set(state.parked) == {good.id}
    stranger = submission(secret(70), GOOD)
    engine.receive(stranger.raw, Source.GOSSIP)
    assert (stranger.id in state.parked) is not with_roster  # without a roster it may be a staker


def test_one_author_has_so_many_places_and_the_others_have_theirs() -> None:
    engine, state = engine_at(TERMS.clock.audit(3).opens)
    for number in range(50):
        vote = ballot(secret(1), {number.to_bytes(32, "big"): Verdict.VALID})
        engine.receive(vote.raw, Source.GOSSIP)
        engine.receive(vote.raw, Source.GOSSIP)
    assert len(state.parked) == state.parked_of[secret(1).public_key] == Limits().parked_per_author
    other = ballot(secret(2), {bytes(32): Verdict.VALID})
    engine.receive(other.raw, Source.GOSSIP)
    assert other.id in state.parked


def test_what_waits_has_a_bounded_size_and_gives_its_room_back() -> None:
    limits = replace(Limits(), parked_bytes=1000)
    engine, state = engine_at(EARLY, limits)
    slot = TERMS.clock.submission(3).opens
    early = [say(secret(index), Submission("x" * 400), 3, slot) for index in range(4)]
    for record in early:
        engine.receive(record.raw, Source.GOSSIP)
    assert set(state.parked) == {early[0].id}
    assert state.parked_bytes == len(early[0].raw)
    engine.handle(events.SlotAdvanced(slot))
    assert {record.id for record in state.held.values()} == {early[0].id}
    assert (state.parked, state.parked_bytes, state.parked_of.total()) == ({}, 0, 0)


def test_what_waits_is_judged_again_and_its_signature_not_checked_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else a few thousand early records would cost as many checks in every slot."""
    checked: list[bytes] = []

    def verify(envelope: Envelope, genesis: bytes) -> Verified:
        checked.append(envelope.id)
        return envelopes.verify(envelope, genesis)

    monkeypatch.setattr(record_book, "verify", verify)
    start = TERMS.clock.submission(3).opens - 30
    engine, state = engine_at(start, with_roster=False)
    early = [submission(secret(index), GOOD) for index in (1, 2, 70)]
    for record in early:
        engine.receive(record.raw, Source.GOSSIP)
    for slot in range(start, start + 4 * record_book.PARK_SLOTS // 2):
        engine.handle(events.SlotAdvanced(slot))
    assert checked == [record.id for record in early]
    assert set(state.parked) == set(checked)
    engine.handle(events.RosterRead(roster(5, 3)))
    assert set(state.parked) == {early[0].id, early[1].id}
    assert len(checked) == 3
