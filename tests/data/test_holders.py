from __future__ import annotations

from dataclasses import replace

from koii_p2p.data.holders import Holders
from koii_p2p.limits import Limits

LIMITS = replace(Limits(), data_patience_seconds=100.0, data_liar_seconds=600.0, data_upkeep_seconds=60.0)
A, B, C = b"a", b"b", b"c"


class Seen:
    def __init__(self) -> None:
        self.now = 0.0
        self.scores: dict[bytes, float] = {}
        self.holders = Holders(LIMITS, lambda: self.now, self.scores.__setitem__)


def test_who_fails_rests_twice_as_long_each_time_and_an_answer_forgives_all() -> None:
    seen = Seen()
    rests: list[float] = []
    for _ in range(9):
        seen.holders.failed(A)
        began = seen.now
        while seen.holders.rests(A):
            seen.now += 0.5
        rests.append(seen.now - began)
    assert rests == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0]
    assert seen.holders.is_gone(A), "it has not answered for longer than patience"
    seen.holders.answered(A, 0.1)
    assert not seen.holders.is_gone(A)
    assert seen.scores == {}, "being away is no offence"


def test_a_liar_is_not_asked_for_a_time_whatever_it_answers() -> None:
    seen = Seen()
    seen.holders.lied(A, "wrong_hash")
    seen.holders.answered(A, 0.001)
    assert seen.holders.best_first([A, B]) == [B]
    assert seen.holders.is_gone(A)
    assert seen.scores[A] < 0
    seen.now = 601.0
    assert seen.holders.best_first([A]) == [A]
    assert seen.holders.statistics().blamed == (("wrong_hash", 1),)


def test_two_failed_challenges_in_a_row_count_and_one_does_not() -> None:
    seen = Seen()
    for held in (False, True, False, True):
        assert not seen.holders.shown(A, held)
    assert not seen.holders.is_gone(A)
    assert not seen.holders.shown(A, False)
    assert seen.holders.shown(A, False)
    assert seen.holders.is_gone(A)
    assert seen.scores[A] == -1.0
    seen.holders.shown(A, True)
    assert not seen.holders.is_gone(A)
    assert seen.scores[A] == 0.0


def test_a_good_answer_to_a_challenge_does_not_excuse_a_lie() -> None:
    seen = Seen()
    seen.holders.lied(A, "leaf")
    seen.holders.shown(A, True)
    assert seen.scores[A] < 0
    assert seen.holders.is_gone(A)


def test_the_fastest_is_asked_first_and_who_rests_last() -> None:
    seen = Seen()
    for _ in range(20):
        seen.holders.answered(A, 0.5)
        seen.holders.answered(B, 0.01)
        seen.holders.answered(C, 0.1)
    assert seen.holders.best_first([A, B, C]) == [B, C, A]
    seen.holders.failed(B)
    assert seen.holders.best_first([A, B, C]) == [C, A, B]


def test_who_is_full_is_brought_nothing_for_a_turn() -> None:
    seen = Seen()
    seen.holders.full(A)
    assert not seen.holders.takes(A)
    assert not seen.holders.is_gone(A), "what it holds still counts"
    seen.now = 61.0
    assert seen.holders.takes(A)


def test_no_more_peers_are_remembered_than_a_roster_has() -> None:
    holders = Holders(replace(LIMITS, roster_entries=2), lambda: 0.0, lambda key, score: None)
    assert holders.best_first([A, B, C]) == [A, B, C]
    for key in (A, B, C):
        holders.lied(key, "leaf")
    assert [holders.is_trusted(key) for key in (A, B, C)] == [True, False, False]
    assert holders.gone() == {B, C}
