"""What an eclipse looks like from inside: those who were due to speak and were not heard."""

from __future__ import annotations

from collections.abc import Iterable

from koii_p2p.records.envelope import Verified
from koii_p2p.rounds import events
from koii_p2p.rounds.admission import Source
from koii_p2p.rounds.coverage import Coverage
from koii_p2p.rounds.engine import RoundEngine
from tests.rounds.net import BLOCKHASH, GENESIS, KOII, TERMS, key, play, secret

ROUND = 3
PLAYED = play(nodes=9, round_number=ROUND)
OVER = TERMS.clock.audit(ROUND).closes
OWN = secret(0).public_key
OTHERS = tuple(sorted(key(index) for index in range(1, 9)))


def listener(records: Iterable[Verified], slot: int = OVER, terms: object = TERMS) -> RoundEngine:
    """An engine that has got these records and was told everything of K2."""
    assert terms in (TERMS, KOII)
    engine = RoundEngine(KOII if terms is KOII else TERMS, GENESIS, OWN)
    for number in (slot - 1, slot):
        engine.handle(events.SlotAdvanced(number))
        engine.handle(events.AnchorsRead({}))
        engine.handle(events.RosterRead(PLAYED.roster))
        engine.handle(events.BlockhashRead(ROUND, BLOCKHASH))
    for record in records:
        engine.receive(record.raw, Source.SYNC, TERMS.clock.audit(ROUND).opens + 2)
    return engine


def seen_by(records: Iterable[Verified], slot: int = OVER, terms: object = TERMS) -> Coverage | None:
    return listener(records, slot, terms).coverage()


def test_whoever_hears_everybody_misses_nobody() -> None:
    seen = seen_by([*PLAYED.submissions.values(), *PLAYED.ballots.values()])
    assert seen is not None
    assert set(seen.expected) == PLAYED.ballots.keys() - {OWN}
    assert seen.unheard == ()
    assert not seen.suspicious


def test_one_silent_auditor_is_named_and_is_no_reason_for_suspicion() -> None:
    silent = next(author for author in PLAYED.ballots if author != OWN)
    votes = [record for author, record in PLAYED.ballots.items() if author != silent]
    seen = seen_by([*PLAYED.submissions.values(), *votes])
    assert seen is not None
    assert seen.unheard == (silent,)
    assert not seen.suspicious


def test_the_votes_that_somebody_keeps_from_us_are_suspicious() -> None:
    seen = seen_by([*PLAYED.submissions.values(), PLAYED.ballots[OWN]])
    assert seen is not None
    assert seen.unheard == seen.expected
    assert set(seen.expected) == PLAYED.ballots.keys() - {OWN}
    assert seen.suspicious


def test_who_hears_only_itself_misses_every_other_staker() -> None:
    for own in ([], [PLAYED.submissions[OWN]]):
        seen = seen_by(own)
        assert seen is not None
        assert seen.expected == seen.unheard == OTHERS
        assert seen.suspicious


def test_before_first_ballots_are_over_and_without_a_draw_nothing_is_known() -> None:
    assert seen_by([], OVER - 1) is None
    assert RoundEngine(TERMS, GENESIS, OWN).coverage() is None


def test_in_profile_koii_nobody_has_to_vote() -> None:
    seen = seen_by(PLAYED.submissions.values(), terms=KOII)
    assert seen is not None
    assert (seen.expected, seen.unheard, seen.suspicious) == ((), (), False)
