from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from koii_p2p.rounds.clock import Phase, RoundClock, Window
from koii_p2p.rounds.terms import MAX_FAILED_DISTRIBUTIONS, SHORTEST_AUDIT

FIGURE = RoundClock(starting_slot=0, round_time=10, submission_window=4, audit_window=4)

clocks = st.integers(1, 500).flatmap(
    lambda rt: st.integers(1, max(rt - 1, 1)).flatmap(
        lambda sw: st.builds(
            RoundClock, st.integers(0, 10**9), st.just(rt + 1), st.just(sw), st.integers(1, rt + 1 - sw)
        )
    )
)


def test_the_stacking_rounds_figure() -> None:
    # Koii docs: S0=0, RT=10, x=45 -> period 4; work on 4, submissions and audits for 3, distribution for 2.
    x = 45
    assert FIGURE.period(x) == 4
    assert x in FIGURE.work(4)
    assert FIGURE.phase(4, x) is Phase.WORK
    assert x in FIGURE.audit(3)
    assert FIGURE.submission(3).opens <= x < FIGURE.delay(3).closes
    assert x in FIGURE.distribution_audit(2)
    assert (FIGURE.submission(3), FIGURE.audit(3), FIGURE.delay(3)) == (
        Window(40, 44),
        Window(44, 48),
        Window(48, 50),
    )
    assert (FIGURE.distribution(2), FIGURE.distribution_audit(2)) == (Window(40, 44), Window(44, 48))
    assert FIGURE.settles_at(2) == 48


def test_windows_are_half_open() -> None:
    window = FIGURE.submission(3)
    assert [slot in window for slot in (39, 40, 43, 44)] == [False, True, True, False]
    assert 5 not in Window(5, 5)


def test_periods_before_the_start_are_negative() -> None:
    late = RoundClock(100, 10, 4, 4)
    assert [late.period(slot) for slot in (99, 90, 89, 100)] == [-1, -1, -2, 0]
    assert late.phase(0, 99) is Phase.FUTURE


def test_commitment_window_lasts_until_the_distribution_window_ends() -> None:
    assert FIGURE.commitment(3) == Window(48, 54)


@given(clocks, st.integers(0, 10**6), st.integers(0, 10**4))
def test_every_slot_has_one_phase_and_it_matches_its_window(
    clock: RoundClock, number: int, offset: int
) -> None:
    slot = clock.work(number).opens + offset
    windows = {
        Phase.WORK: clock.work(number),
        Phase.SUBMISSION: clock.submission(number),
        Phase.AUDIT: clock.audit(number),
        Phase.DELAY: clock.delay(number),
        Phase.DISTRIBUTION: clock.distribution(number),
        Phase.DISTRIBUTION_AUDIT: clock.distribution_audit(number),
    }
    holding = [phase for phase, window in windows.items() if slot in window]
    assert holding in ([], [clock.phase(number, slot)])
    if not holding:
        assert clock.phase(number, slot) is Phase.SETTLED
        assert slot >= clock.settles_at(number)


@given(clocks, st.integers(0, 10**6))
def test_three_rounds_are_in_flight(clock: RoundClock, number: int) -> None:
    slot = clock.work(number + 2).opens
    assert slot in clock.work(number + 2)
    assert slot in clock.submission(number + 1)
    assert slot in clock.distribution(number)


# --- stages of the audit


STAGED = RoundClock(starting_slot=0, round_time=100, submission_window=30, audit_window=60)


def test_the_stages_of_an_audit_are_its_thirds_and_sixths() -> None:
    # Period 4 begins at 400; the audit of round 3 is [430, 490).
    assert STAGED.audit(3) == Window(430, 490)
    assert STAGED.first_ballots(3) == Window(430, 470)
    assert STAGED.seals(3) == Window(430, 450)
    assert STAGED.openings(3) == Window(450, 460)
    assert STAGED.reveals(3) == Window(460, 470)
    assert STAGED.full_audit(3) == Window(470, 490)


@given(clocks, st.integers(0, 10**6))
def test_stages_follow_one_another_without_a_gap(clock: RoundClock, number: int) -> None:
    seals, openings, reveals, full = (
        stage(number) for stage in (clock.seals, clock.openings, clock.reveals, clock.full_audit)
    )
    edges = [clock.audit(number).opens, seals.closes, openings.closes, reveals.closes, full.closes]
    assert edges == [seals.opens, openings.opens, reveals.opens, full.opens, clock.audit(number).closes]
    assert edges == sorted(edges)
    assert clock.first_ballots(number) == Window(seals.opens, reveals.closes)
    if clock.audit_window >= SHORTEST_AUDIT:
        assert len(set(edges)) == 5


# --- attempts


def test_a_second_attempt_shares_the_period_of_the_veto() -> None:
    # The list of round 3 is due in [500, 530) and voted on in [530, 590); the veto may come at any slot of that.
    assert STAGED.distribution_audit(3) == Window(530, 590)
    assert STAGED.commitment(3, 1) == STAGED.distribution(3, 1) == Window(530, 600)
    assert STAGED.distribution_audit(3, 1) == Window(630, 690)
    assert STAGED.commitment(3, 2) == STAGED.distribution(3, 2) == Window(630, 700)
    assert STAGED.settles_at(3, 2) == 790


@given(clocks, st.integers(0, 10**6), st.integers(1, MAX_FAILED_DISTRIBUTIONS))
def test_the_next_rounds_list_comes_after_every_attempt(clock: RoundClock, number: int, attempt: int) -> None:
    window = clock.distribution(number, attempt)
    assert window == clock.commitment(number, attempt)
    assert window.opens == clock.distribution_audit(number, attempt - 1).opens
    assert window.opens < window.closes == clock.distribution(number + attempt).opens
    # It is voted on, and settles, together with the first attempt of a later round.
    assert clock.distribution_audit(number, attempt) == clock.distribution_audit(number + attempt)
    assert clock.settles_at(number, attempt) == clock.settles_at(number + attempt)
    assert window.closes <= clock.distribution_audit(number, attempt).opens
