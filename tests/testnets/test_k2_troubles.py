"""The table [k2] of a testnet file."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest

from koii_p2p.errors import ConfigurationError
from koii_p2p.localk2.faults import Faults
from koii_p2p.rounds.clock import RoundClock
from koii_p2p.testnets.k2_troubles import NO_TROUBLES, Troubles, troubles_of
from koii_p2p.testnets.timing import round_lengths
from koii_p2p.testnets.topology import Topology, load_topology

CLOCK = RoundClock(starting_slot=1000, round_time=100, submission_window=40, audit_window=40)


def test_faults_and_what_happens_to_k2_are_read_from_the_table(tmp_path: Path) -> None:
    file = tmp_path / "net.toml"
    file.write_text(
        "[k2]\ndrop = 0.2\nlag = 10\nreorder = true\nseed = 7\n"
        'restart_in_phase = "delay"\nroll_back_every = 20\nroll_back_slots = 6\nland_again = 1\n'
    )
    topology = load_topology(file, {})
    assert topology.k2 == Troubles(Faults(drop=0.2, lag=10, reorder=True, seed=7), 1, "delay", 20, 6, 1)
    assert str(topology.k2) == (
        "drop 0.2, reorder, lag 10, killed and restarted every round, in its delay, 6 slots rolled back every 20"
    )


def test_without_a_table_k2_is_well() -> None:
    assert Topology().k2 is NO_TROUBLES
    assert not NO_TROUBLES.any
    assert str(NO_TROUBLES) == "none"
    assert NO_TROUBLES.restart_moment(CLOCK, 0) is None
    assert troubles_of({"delay_ms": 5}).any
    assert troubles_of({"restart_every": 3}).any


@pytest.mark.parametrize(
    ("phase", "every", "after", "moment"),
    [
        ("submission", 1, 1000, 1120),
        ("submission", 1, 1120, 1220),
        ("audit", 1, 1000, 1160),
        ("audit", 2, 1160, 1360),
        ("delay", 1, 1000, 1190),
        ("delay", 3, 1190, 1490),
    ],
)
def test_k2_is_killed_in_the_middle_of_a_phase(phase: str, every: int, after: int, moment: int) -> None:
    assert Troubles(restart_every=every, restart_in_phase=phase).restart_moment(CLOCK, after) == moment


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"dropp": 1}, "`dropp` does not exist"),
        ({"unhealthy": True}, "`unhealthy` does not exist"),
        ({"wrong": ["id"]}, "`wrong` does not exist"),
        ({"drop": Decimal("1.5")}, "drop = 1.5"),
        ({"drop": "much"}, "drop = much"),
        ({"drop": 1}, "no transaction"),
        ({"drop_requests": 1}, "no request"),
        ({"lag": -1}, "lag = -1"),
        ({"restart_every": 0}, "restart_every = 0"),
        ({"restart_every": True}, "restart_every = True"),
        ({"restart_in_phase": "work"}, "submission, audit, delay"),
        ({"roll_back_every": 1}, "roll_back_every = 1"),
        ({"roll_back_every": 50, "roll_back_slots": 32}, "roll_back_slots = 32"),
        ({"roll_back_every": 10, "roll_back_slots": 6}, "leaves no time"),
        ({"roll_back_every": 50, "land_again": Decimal("1.1")}, "land_again = 1.1"),
        ({"roll_back_slots": 3}, "how often K2 rolls back"),
        ({"land_again": 0}, "how often K2 rolls back"),
    ],
)
def test_what_is_not_possible_is_said_before_anything_starts(table: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        troubles_of(table)


def test_k2_may_not_be_so_far_behind_that_its_windows_are_over() -> None:
    lagging = Topology(k2=troubles_of({"lag": 30}))
    assert round_lengths(lagging).submission_window > 30
    with pytest.raises(ConfigurationError, match="lag = 60"):
        round_lengths(Topology(k2=troubles_of({"lag": 60})))


def test_a_phase_that_has_no_slots_cannot_be_restarted_in() -> None:
    windows = {"round_time": 80, "submission_window": 40, "audit_window": 40}
    with pytest.raises(ConfigurationError, match="no delay"):
        round_lengths(Topology(k2=troubles_of({"restart_in_phase": "delay"}), **windows))
