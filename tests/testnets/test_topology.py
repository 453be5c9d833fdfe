from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from koii_p2p.amounts import roe
from koii_p2p.errors import ConfigurationError
from koii_p2p.rounds.audit_rules import AuditRules, Profile, Weights
from koii_p2p.testnets.identity import (
    EQUIVOCATING,
    HONEST,
    LATE_ACCUSER,
    OMITTING_LEADER,
    PAYING_ITSELF,
    WRONG_VALUE,
)
from koii_p2p.testnets.topology import EXAMPLE_TASK, NodePlan, Topology, load_topology
from tests.testnets.played import KOII_RULES

FIVE = Path(__file__).parents[2] / "testnet" / "five.toml"


def test_the_file_that_ships_says_what_is_the_default_anyway() -> None:
    assert load_topology(FIVE, {}) == Topology()
    assert Topology().task == EXAMPLE_TASK


def test_a_flag_goes_before_the_file_and_none_is_no_flag() -> None:
    topology = load_topology(FIVE, {"nodes": 7, "cheaters": None, "stake": 5})
    assert (topology.nodes, topology.cheaters, topology.stake) == (7, 1, 5)


def test_the_network_of_a_task_is_a_flag_and_a_line(tmp_path: Path) -> None:
    assert not Topology().task_network
    assert load_topology(FIVE, {"task_network": True}).task_network
    file = tmp_path / "net.toml"
    file.write_text("task_network = true\n")
    assert load_topology(file, {"task_network": None}).task_network
    file.write_text("task_network = 1\n")
    with pytest.raises(ConfigurationError, match="It is true or false"):
        load_topology(file, {})


def test_a_testnet_may_be_traced(tmp_path: Path) -> None:
    assert not Topology().trace
    assert load_topology(FIVE, {"trace": True}).trace
    file = tmp_path / "net.toml"
    file.write_text("trace = true\n")
    assert load_topology(file, {"trace": None}).trace
    file.write_text('trace = "yes"\n')
    with pytest.raises(ConfigurationError, match="trace = yes"):
        load_topology(file, {})


def test_the_last_nodes_cheat() -> None:
    topology = Topology(nodes=7, cheaters=2)
    assert [node.behaviour for node in topology.plan()] == [HONEST] * 5 + [WRONG_VALUE] * 2
    assert topology.honest == 5


def test_nodes_are_in_the_order_of_their_roles() -> None:
    rules = AuditRules(sealed=True, canary_rate=2500, witness_seats=1)
    topology = Topology(
        nodes=9,
        cheaters=1,
        audit=rules,
        behaviours={EQUIVOCATING: 1, OMITTING_LEADER: 1},
        witnesses=1,
        unstaked_witnesses=1,
        canaries=2,
    )
    assert topology.plan() == (
        *(NodePlan(),) * 2,
        *(NodePlan(canaries=True),) * 2,
        NodePlan(witness=True),
        NodePlan(witness=True, staked=False),
        NodePlan(EQUIVOCATING),
        NodePlan(OMITTING_LEADER),
        NodePlan(WRONG_VALUE),
    )


def test_a_watcher_has_neither_stake_nor_seat(tmp_path: Path) -> None:
    file = tmp_path / "net.toml"
    file.write_text("nodes = 5\n[roles]\nwatchers = 2\n")
    watcher = NodePlan(witness=True, staked=False)
    assert load_topology(file, {}).plan() == (NodePlan(), NodePlan(), watcher, watcher, NodePlan(WRONG_VALUE))
    file.write_text("nodes = 5\n[roles]\nwatchers = 4\n")
    with pytest.raises(ConfigurationError, match="majority"):
        load_topology(file, {})
    file.write_text("nodes = 5\n[audit]\nwitness_seats = 1\n[roles]\nwatchers = 1\n")
    with pytest.raises(ConfigurationError, match="a node without one votes"):
        load_topology(file, {})


@pytest.mark.parametrize("file", sorted(FIVE.parent.glob("*.toml")), ids=lambda file: file.stem)
def test_every_file_that_ships_can_be_used_and_names_its_own_command(file: Path) -> None:
    topology = load_topology(file, {})
    assert topology.nodes == len(topology.plan())
    assert f"koii-p2p testnet up --file testnet/{file.name}" in file.read_text()


def test_tables_say_how_work_is_audited_and_who_misbehaves(tmp_path: Path) -> None:
    file = tmp_path / "net.toml"
    file.write_text(
        'nodes = 7\n[audit]\nprofile = "posp"\naudit_rate = 0.25\nweights = "stake-time"\n'
        "[behaviours]\nequivocating = 1\n[roles]\nwitnesses = 2\npatrols = 3\n"
    )
    topology = load_topology(file, {})
    assert topology.audit == AuditRules(Profile.POSP, Weights.STAKE_TIME, audit_rate=2500)
    assert (topology.behaviours, topology.witnesses, topology.patrols) == ({EQUIVOCATING: 1}, 2, 3)
    flagged = load_topology(file, {"profile": "hardened", "sealed": True, "nodes": None})
    assert flagged.audit == AuditRules(Profile.HARDENED, Weights.STAKE_TIME, audit_rate=2500, sealed=True)


def test_flags_change_the_audit_without_a_file() -> None:
    assert load_topology(None, {"profile": "koii"}).audit == KOII_RULES
    assert load_topology(None, {"sealed": True}).audit == AuditRules(sealed=True)


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ('profile = "koi"', "profile = 'koi' does not exist"),
        ('profile = "posp"', "audit_rate = 0.5"),
        ('profile = "koii"\nsealed = true', "koii has no sealed"),
        ("finders_share = 1.5", "not from 0 to 1"),
        ("finders_share = 0.00001", "finer than 1/10000"),
        ("finders_share = true", "not a number"),
        ("finders_share = nan", "not from 0 to 1"),
        ("canary_rate = 0.5", "sealed"),
        ("sealed = 1", "sealed is 1"),
        ("auditors = 0", "auditors"),
        ("auditors = true", "auditors"),
        ("auditor = 5", "`auditor` does not exist"),
    ],
)
def test_audit_rules_that_are_not_possible(tmp_path: Path, table: str, words: str) -> None:
    file = tmp_path / "net.toml"
    file.write_text(f"[audit]\n{table}\n")
    with pytest.raises(ConfigurationError, match=words):
        load_topology(file, {})


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
        ({"behaviours": {"lazy": 1}}, "No node behaves like this"),
        ({"behaviours": {WRONG_VALUE: 1}}, "`cheaters`"),
        ({"behaviours": {EQUIVOCATING: -1}}, "equivocating = -1"),
        ({"behaviours": {EQUIVOCATING: 2}}, "majority"),
        ({"nodes": 11, "behaviours": {OMITTING_LEADER: 4}}, "at most 3"),
        (
            {"nodes": 11, "cheaters": 0, "behaviours": {OMITTING_LEADER: 2, PAYING_ITSELF: 2}},
            "paying-itself = 2",
        ),
        ({"nodes": 7, "unstaked_witnesses": 1}, "witness_seats = 1"),
        ({"witnesses": 4}, "nothing but the task's work"),
        ({"canaries": 1}, "no canaries"),
        ({"patrols": 101}, "patrols"),
        ({"patrols": 1, "profile": "koii"}, "no challenges"),
        ({"cheaters": 0, "behaviours": {LATE_ACCUSER: 1}, "sealed": True}, "sealed ballots"),
        ({"round_time": 100, "submission_window": 60, "audit_window": 5}, "stages"),
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
        ("audit = 5", "not a table"),
        ("k2 = 5", "not a table"),
        ("[k2]\nlagg = 5", "`lagg`"),
        ("[roles]\nnodes = 5", r"in \[roles\] a setting `nodes`"),
        ("witnesses = 1", "`witnesses`"),
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
