from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from koii_p2p.amounts import roe
from koii_p2p.errors import ConfigurationError
from koii_p2p.testnets.topology import EXAMPLE_TASK, Topology, load_topology

FIVE = Path(__file__).parents[2] / "testnet" / "five.toml"


def test_the_file_that_ships_says_what_is_the_default_anyway() -> None:
    assert load_topology(FIVE, {}) == Topology()
    assert Topology().task == EXAMPLE_TASK


def test_a_flag_goes_before_the_file_and_none_is_no_flag() -> None:
    topology = load_topology(FIVE, {"nodes": 7, "cheaters": None, "stake": 5})
    assert (topology.nodes, topology.cheaters, topology.stake) == (7, 1, 5)


def test_the_last_nodes_cheat() -> None:
    topology = Topology(nodes=7, cheaters=2)
    assert [topology.cheats(index) for index in range(7)] == [False] * 5 + [True] * 2
    assert topology.honest == 5


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"nodes": 2}, "nodes = 2"),
        ({"nodes": 100_000}, "nodes = 100000"),
        ({"nodes": True}, "nodes = True"),
        ({"rounds": 0}, "rounds = 0"),
        ({"cheaters": -1}, "cheaters = -1"),
        ({"nodes": 6, "cheaters": 3}, "majority"),
        ({"slot_ms": 1}, "slot_ms"),
        ({"stake": 0}, "stake"),
        ({"bounty": 0}, "bounty"),
        ({"k2_port": 65535}, "k2_port"),
        ({"round_time": 100}, "chosen together"),
        ({"round_time": 100, "submission_window": 60, "audit_window": 60}, "shorter than"),
        ({"task": Path("/nowhere")}, "nothing at this path"),
    ],
)
def test_what_is_not_possible_is_said_in_one_sentence(values: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        load_topology(None, values)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("nodes = ", "not TOML"),
        ("nods = 5", "`nods`"),
        ('stake = "much"', "stake"),
        ("stake = 1.0000000001", "whole number of Roe"),
        ("bounty = true", "bounty"),
        ("nodes = 5.5", "nodes"),
        ("\xff", "not TOML"),
    ],
)
def test_a_file_that_is_wrong(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "net.toml"
    file.write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigurationError, match=words):
        load_topology(file, {})


def test_a_file_that_is_missing_or_huge(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be read"):
        load_topology(tmp_path / "none.toml", {})
    (tmp_path / "huge.toml").write_bytes(b"#" * 100_000)
    with pytest.raises(ConfigurationError, match="too large"):
        load_topology(tmp_path / "huge.toml", {})


def test_the_path_of_a_task_is_relative_to_its_file(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("")
    (tmp_path / "net.toml").write_text('task = "mine.py"')
    assert load_topology(tmp_path / "net.toml", {}).task == tmp_path / "mine.py"


def test_amounts_are_exact() -> None:
    assert roe("1.9") == 1_900_000_000
    assert roe("0.000000001") == 1
    assert roe(3) == 3_000_000_000
    for text in ("-1", "nan", "inf", "1e-10", "one", "", "1e30"):
        with pytest.raises(ValueError, match="KOII"):
            roe(text)


@given(st.integers(0, 10**18))
def test_every_amount_of_roe_can_be_written(amount: int) -> None:
    whole, part = divmod(amount, 10**9)
    assert roe(f"{whole}.{part:09d}") == amount
