"""Virtual time: order, repetition, bounds."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from koii_p2p.errors import CheckFailed
from koii_p2p.lab.clockwork import Clockwork


@given(st.lists(st.integers(0, 20), max_size=60))
def test_events_happen_in_order_of_time_and_then_of_asking(times: list[int]) -> None:
    clock, happened = Clockwork(), list[tuple[int, int]]()

    def note(number: int) -> None:
        happened.append((clock.now, number))

    for number, when in enumerate(times):
        clock.at(when, partial(note, number))
    clock.run(20)
    assert happened == sorted((when, number) for number, when in enumerate(times))
    assert (clock.happened, clock.now, len(clock)) == (len(times), 20, 0)


def test_time_stops_where_it_was_told_and_goes_on_from_there() -> None:
    clock, happened = Clockwork(), list[int]()
    for when in (5, 10, 15):
        clock.at(when, lambda: happened.append(clock.now))
    clock.run(10)
    assert (happened, clock.now) == ([5, 10], 10)
    clock.run(30)
    assert (happened, clock.now) == ([5, 10, 15], 30)


def test_what_is_asked_for_too_late_happens_at_once_after_what_is_due() -> None:
    clock, happened = Clockwork(), list[str]()

    def first() -> None:
        happened.append("first")
        clock.at(1, lambda: happened.append("late"))

    clock.at(10, first)
    clock.at(10, lambda: happened.append("second"))
    clock.run(10)
    assert happened == ["first", "second", "late"]


def test_repetitions() -> None:
    clock, times = Clockwork(), list[int]()
    clock.every(7, lambda: times.append(clock.now), first=3)
    clock.run(25)
    assert times == [3, 10, 17, 24]
    with pytest.raises(ValueError, match="at least a microsecond"):
        clock.every(0, lambda: None, first=0)


def test_a_flood_ends_with_a_sentence() -> None:
    clock = Clockwork(most_waiting=100)

    def flood() -> None:
        for _ in range(2):
            clock.after(1, flood)

    again: Callable[[], None] = flood
    clock.at(0, again)
    with pytest.raises(CheckFailed, match="100 events wait"):
        clock.run(1000)
