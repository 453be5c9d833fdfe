from __future__ import annotations

import pytest

from koii_p2p.rounds.audit_rules import AuditRules
from koii_p2p.rounds.clock import RoundClock
from koii_p2p.testnets.timing import (
    STAGE_SECONDS,
    STAGE_SLOTS,
    first_counted_round,
    lead_slots,
    round_lengths,
    stretch_for,
    stretched,
)
from koii_p2p.testnets.topology import Topology


@pytest.mark.parametrize("nodes", [3, 5, 15, 40, 200])
@pytest.mark.parametrize("slot_ms", [50, 100, 400])
def test_a_round_grows_with_the_nodes_and_its_parts_fit(nodes: int, slot_ms: int) -> None:
    lengths = round_lengths(Topology(nodes=nodes, cheaters=1, slot_ms=slot_ms))
    assert lengths.seconds(lengths.round_time) == pytest.approx(
        max(12 + 0.6 * nodes, 0.04 * slot_ms), abs=0.5
    )
    assert lengths.submission_window == lengths.audit_window
    # Two tries of the engine, ten slots apart, fit into the delay.
    assert lengths.delay >= 10
    assert lengths.submission_window + lengths.audit_window + lengths.delay == lengths.round_time


def test_five_nodes_and_three_rounds_fit_into_ninety_seconds() -> None:
    topology = Topology()
    lengths = round_lengths(topology)
    slots = lead_slots(topology, node_start_seconds=2.5, cores=2) + lengths.slots_until_settled(3)
    assert 60 < lengths.seconds(slots) < 90


@pytest.mark.parametrize("nodes", [3, 5, 40])
@pytest.mark.parametrize("slot_ms", [50, 100, 400, 1000])
def test_every_stage_of_a_sealed_audit_has_time(nodes: int, slot_ms: int) -> None:
    sealed = round_lengths(Topology(nodes=nodes, slot_ms=slot_ms, audit=AuditRules(sealed=True)))
    plain = round_lengths(Topology(nodes=nodes, slot_ms=slot_ms))
    clock = RoundClock(0, sealed.round_time, sealed.submission_window, sealed.audit_window)
    for window in (clock.seals(0), clock.openings(0), clock.reveals(0), clock.full_audit(0)):
        assert window.closes - window.opens >= STAGE_SLOTS
        assert sealed.seconds(window.closes - window.opens) >= STAGE_SECONDS
    assert sealed.audit_window >= plain.audit_window
    assert (sealed.delay, sealed.submission_window) == (plain.delay, plain.submission_window)


def test_lengths_that_are_given_are_used() -> None:
    lengths = round_lengths(Topology(round_time=300, submission_window=100, audit_window=120))
    assert (lengths.round_time, lengths.submission_window, lengths.audit_window, lengths.delay) == (
        300,
        100,
        120,
        80,
    )
    assert "300 slots (30 s): 100 to submit, 120 to audit, 80 to reconcile" in str(lengths)


def test_the_slots_until_settled_are_those_of_the_clock() -> None:
    lengths = round_lengths(Topology())
    clock = RoundClock(1000, lengths.round_time, lengths.submission_window, lengths.audit_window)
    for rounds in (1, 3, 7):
        assert 1000 + lengths.slots_until_settled(rounds) == clock.settles_at(rounds - 1)


@pytest.mark.parametrize(
    ("nodes", "cores", "stretch"),
    [(3, 1, 1), (8, 1, 1), (9, 1, 2), (16, 2, 1), (20, 2, 2), (50, 2, 4), (50, 8, 1)],
)
def test_slots_are_longer_where_many_nodes_share_a_core(nodes: int, cores: int, stretch: int) -> None:
    assert stretch_for(nodes, cores) == stretch


def test_longer_slots_make_the_same_rounds_longer() -> None:
    topology = Topology(nodes=20, cheaters=2, rounds=4, audit=AuditRules(sealed=True))
    usual, longer = round_lengths(topology), round_lengths(stretched(topology, 3))
    assert longer.slot_ms == 3 * usual.slot_ms
    assert (longer.round_time, longer.submission_window, longer.audit_window) == (
        usual.round_time,
        usual.submission_window,
        usual.audit_window,
    )
    assert round_lengths(stretched(topology, 1)) == usual
    assert (stretched(topology, 3).cheaters, stretched(topology, 3).rounds) == (2, 4)


def test_a_slow_machine_gets_a_longer_lead() -> None:
    topology = Topology(nodes=15, cheaters=3)
    assert lead_slots(topology, 4.0, 2) > lead_slots(topology, 2.0, 2) > lead_slots(topology, 2.0, 8)


def test_rounds_that_began_before_the_nodes_were_ready_do_not_count() -> None:
    clock = RoundClock(1000, 100, 40, 40)
    assert first_counted_round(clock, 500) == 0
    assert first_counted_round(clock, 1089) == 0
    # Too close to the first submissions: the task may not have had its turn.
    assert first_counted_round(clock, 1091) == 1
    assert first_counted_round(clock, 1250) == 2
