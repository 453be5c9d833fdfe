"""The tables [network] and [expect] of a testnet file, chaos files, and what they come to when they are played."""

from __future__ import annotations

import io
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest
import trio
from rich.console import Console

from koii_p2p.cli.testnet_view import live_table
from koii_p2p.conditions import HANG, RESET, Link, read_conditions
from koii_p2p.errors import ConfigurationError, NetworkError
from koii_p2p.limits import Limits
from koii_p2p.rounds.clock import RoundClock
from koii_p2p.storage.home import Home
from koii_p2p.testnets.chaos import NAMED, Step, chaos_of, play_chaos, read_chaos
from koii_p2p.testnets.chaos_service import ask_for_chaos, serve_chaos
from koii_p2p.testnets.check import check
from koii_p2p.testnets.evidence import load_evidence, save_evidence
from koii_p2p.testnets.expect_table import NOTHING_MORE, Expect, expect_of
from koii_p2p.testnets.folder import NetFolder
from koii_p2p.testnets.identity import HONEST, NodeIdentity
from koii_p2p.testnets.net import NetNode, RunningNet
from koii_p2p.testnets.network_troubles import (
    NO_NETWORK_TROUBLES,
    Churn,
    NetworkTroubles,
    Partition,
    all_in_groups,
    network_of,
)
from koii_p2p.testnets.outcome import outcome_of
from koii_p2p.testnets.run import outcome_from
from koii_p2p.testnets.timing import round_lengths
from koii_p2p.testnets.topology import Topology, load_topology
from koii_p2p.testnets.watch import Snapshot
from tests.rounds.simulation import TERMS
from tests.testnets.played import played

FILES = Path(__file__).parents[2] / "testnet"
CLOCK = RoundClock(starting_slot=1000, round_time=100, submission_window=40, audit_window=40)
HALVES = (frozenset({0, 1}), frozenset({2, 3, 4}))


def test_links_partitions_and_churn_are_read_from_the_table(tmp_path: Path) -> None:
    file = tmp_path / "net.toml"
    file.write_text(
        "[network]\nlatency_ms = 100\njitter_ms = 20\nloss = 0.01\nbandwidth_kib = 64\nseed = 3\n"
        'partition = [{ at_round = 1, phase = "delay", for_slots = 50, groups = [[0, 1], [2, 3, 4]] }]\n'
        "churn = { share = 0.2, every_slots = 50 }\n"
        "[expect]\nvote_coverage = 0.9\nsettle_slots = 60\nno_honest_slash = true\n"
    )
    topology = load_topology(file, {})
    assert topology.network == NetworkTroubles(
        Link(100, 20, 0.01, 64), (Partition(1, "delay", 50, HALVES, HANG),), Churn(0.2, 50, 10), 3
    )
    assert topology.expect == Expect(vote_coverage=0.9, settle_slots=60, no_honest_slash=True)
    assert str(topology.network) == (
        "latency 100 ms ± 20, loss 0.01, 64 KiB/s, 2 groups cut off from the others in round 1, from its delay on, "
        "for 50 slots (hang), a share of 0.2 killed every 50 slots"
    )


@pytest.mark.parametrize("name", ["latency", "partition", "churn", "churn-long"])
def test_the_demonstrations_can_be_played_and_assert_something(name: str) -> None:
    topology = load_topology(FILES / f"{name}.toml", {})
    assert topology.network.any
    assert topology.expect.no_honest_slash
    assert round_lengths(topology).round_time > 0


def test_without_a_table_the_network_is_well() -> None:
    assert Topology().network is NO_NETWORK_TROUBLES
    assert not NO_NETWORK_TROUBLES.any
    assert str(NO_NETWORK_TROUBLES) == "as fast as this machine"
    assert Topology().expect is NOTHING_MORE
    assert network_of({"seed": 5}) == NetworkTroubles(seed=5)


@pytest.mark.parametrize(("phase", "begins"), [("submission", 1400), ("audit", 1440), ("delay", 1480)])
def test_a_partition_begins_with_a_phase_of_a_round_that_counts(phase: str, begins: int) -> None:
    assert Partition(1, phase, 50, HALVES).begins(CLOCK, 2) == begins


def test_whoever_is_in_no_group_is_in_one_with_the_others() -> None:
    assert all_in_groups((frozenset({0, 2}),), 5) == (frozenset({0, 2}), frozenset({1, 3, 4}))
    assert all_in_groups(HALVES, 5) == HALVES


PARTITION = {"at_round": 0, "phase": "delay", "for_slots": 5, "groups": [[0]]}
CHURN = {"share": Decimal("0.2"), "every_slots": 50}


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"latency": 1}, "`latency` does not exist"),
        ({"latency_ms": -1}, "latency_ms = -1"),
        ({"loss": Decimal("0.9")}, "loss = 0.9"),
        ({"jitter_ms": 5}, "more than latency_ms"),
        ({"bandwidth_kib": 0}, "bandwidth_kib = 0"),
        ({"seed": -1}, "seed = -1"),
        ({"partition": PARTITION}, "not a list"),
        ({"partition": [5]}, "not a table"),
        ({"partition": [{"at_round": 0}]}, "does not say phase"),
        ({"partition": [PARTITION | {"phase": "work"}]}, "phase = 'work'"),
        ({"partition": [PARTITION | {"for_slots": 0}]}, "for_slots = 0"),
        ({"partition": [PARTITION | {"at_round": -1}]}, "at_round = -1"),
        ({"partition": [PARTITION | {"groups": [0]}]}, "lists of nodes"),
        ({"partition": [PARTITION | {"groups": [[]]}]}, "lists of nodes"),
        ({"partition": [PARTITION | {"groups": [["node-00"]]}]}, "lists of nodes"),
        ({"partition": [PARTITION | {"cut": "bend"}]}, "cut = 'bend'"),
        ({"partition": [PARTITION | {"slots": 5}]}, "`slots` does not exist"),
        ({"churn": {"share": Decimal("0.2")}}, "does not say every_slots"),
        ({"churn": CHURN | {"share": Decimal("0.5")}}, "share = 0.5"),
        ({"churn": CHURN | {"every_slots": 5}}, "every_slots = 5"),
        ({"churn": CHURN | {"down_slots": 0}}, "down_slots = 0"),
    ],
)
def test_what_is_not_possible_is_said_before_anything_starts(table: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        network_of(table)


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"partition": [PARTITION | {"groups": [[5]]}]}, "no node 5"),
        ({"partition": [PARTITION | {"groups": [[0], [0]]}]}, "two groups"),
        ({"partition": [PARTITION | {"groups": [[0, 1, 2, 3, 4]]}]}, "one group"),
        ({"partition": [PARTITION | {"at_round": 3}]}, "at_round = 3"),
        ({"churn": CHURN | {"share": Decimal("0.49"), "every_slots": 10}}, None),
    ],
)
def test_what_a_testnet_of_five_has_no_nodes_for(table: dict[str, object], words: str | None) -> None:
    troubles = network_of(table)
    if words is None:
        assert Topology(network=troubles).network.any
    else:
        with pytest.raises(ConfigurationError, match=words):
            Topology(network=troubles)


def test_a_latency_that_leaves_no_time_is_refused() -> None:
    assert round_lengths(Topology(network=network_of({"latency_ms": 300}))).round_time == 150
    with pytest.raises(ConfigurationError, match="latency_ms = 3000"):
        round_lengths(Topology(network=network_of({"latency_ms": 3000})))


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"coverage": 1}, "`coverage` does not exist"),
        ({"vote_coverage": Decimal("1.1")}, "vote_coverage = 1.1"),
        ({"vote_coverage": True}, "vote_coverage = True"),
        ({"settle_slots": -1}, "settle_slots = -1"),
        ({"no_honest_slash": 1}, "no_honest_slash = 1"),
    ],
)
def test_assertions_that_make_no_sense(table: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        expect_of(table)


# --- assertions, on rounds that were played


ALL = Expect(vote_coverage=1.0, settle_slots=1000, no_honest_slash=True, one_commitment=True)


def test_assertions_that_hold_are_told_and_change_nothing() -> None:
    outcome = outcome_of(check(played()), played().nodes, expect=ALL)
    assert [one.name for one in outcome.expected if one.ok] == [
        "vote_coverage",
        "settle_slots",
        "no_honest_slash",
        "one_commitment",
    ]
    assert outcome.ok


def test_assertions_that_do_not_hold_are_failures() -> None:
    report, nodes = check(played()), played().nodes
    hasty = outcome_of(report, nodes, expect=Expect(settle_slots=0))
    assert not hasty.ok
    assert hasty.failures[-1].startswith("settle_slots: at most 0 slots was expected; round ")
    # Whoever was told to cheat is honest in this telling: so that somebody honest was slashed.
    told = tuple(replace(node, behaviour=HONEST) for node in nodes)
    slashed = outcome_of(report, told, expect=Expect(no_honest_slash=True)).expected[0]
    assert not slashed.ok
    assert "lost " in slashed.found
    nothing = outcome_of(report, nodes, len(report.rounds), Expect(vote_coverage=0.5, settle_slots=9))
    assert [one.ok for one in nothing.expected] == [False, False]


def test_a_node_with_other_bytes_and_a_round_without_commitment_are_found() -> None:
    evidence = replace(played(), rounds=5)
    found = outcome_of(check(evidence), evidence.nodes, expect=Expect(one_commitment=True)).expected[0]
    assert not found.ok
    assert "no commitment of round 4" in found.found


def test_assertions_are_kept_with_the_evidence(tmp_path: Path) -> None:
    evidence = replace(played(), expect=ALL)
    save_evidence(evidence, tmp_path)
    loaded = load_evidence(tmp_path, Limits())
    assert loaded.expect == ALL
    assert len(outcome_from(loaded).expected) == 4


# --- chaos


def test_every_named_chaos_can_be_played_by_any_testnet() -> None:
    for nodes in (3, 5, 40):
        for name, text in NAMED.items():
            assert chaos_of(text(nodes), nodes), name
    assert [bool(step.kill) for step in chaos_of(NAMED["all"](5), 5)] == [True, False, False]


def test_steps_are_read() -> None:
    text = (
        "[[step]]\nkill = [3, 1]\nfor_slots = 5\n[[step]]\nfor_slots = 6\n"
        '[[step]]\ncut = [[0, 1]]\nhow = "reset"\nfor_slots = 7\n'
        "[[step]]\nlink = { latency_ms = 50, loss = 0.1 }\nfor_slots = 8\n"
    )
    assert chaos_of(text, 5) == (
        Step(5, kill=(1, 3)),
        Step(6),
        Step(7, groups=(frozenset({0, 1}),), how=RESET),
        Step(8, link=Link(latency_ms=50, loss=0.1)),
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "not a list of"),
        ("step = 5", "not a list of"),
        ("nodes = 5\n[[step]]\nfor_slots = 1", "nothing else"),
        ("[[step]]", "for_slots = None"),
        ("[[step]]\nkill = [1]\ncut = [[1]]\nfor_slots = 1", "kill and cut"),
        ("[[step]]\nkill = [9]\nfor_slots = 1", "no node 9"),
        ("[[step]]\nkill = 1\nfor_slots = 1", "not a list of nodes"),
        ("[[step]]\nslow = 1\nfor_slots = 1", "`slow`"),
        ('[[step]]\ncut = [[1]]\nhow = "bend"\nfor_slots = 1', "cut = 'bend'"),
        ("[[step]]\nlink = { latency = 1 }\nfor_slots = 1", "`latency`"),
        ("[[step", "not TOML"),
        ("#" * 70_000, "more than"),
    ],
)
def test_chaos_that_makes_no_sense(text: str, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        chaos_of(text, 5)


def test_a_chaos_file_that_is_missing_names_those_that_have_names(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"none\.toml cannot be read") as found:
        read_chaos(tmp_path / "none.toml")
    assert "halves" in found.value.remedy


# --- played: the conditions that nodes watch are real, K2 is a counter


class Counter:
    """K2's slots, one every time that somebody asks."""

    def __init__(self) -> None:
        self.now = 0

    async def slot(self) -> int:
        self.now += 1
        return self.now


def net_of(tmp_path: Path, notes: list[str], **values: object) -> RunningNet:
    net = RunningNet(Topology(**values), NetFolder(tmp_path / "net"), {}, notes.append)  # type: ignore[arg-type]
    net.folder.path.mkdir()
    net._settlement = Counter()  # type: ignore[assignment]
    for number in range(net.topology.nodes):
        identity = NodeIdentity(f"node-{number:02d}", f"key{number}", f"wallet{number}", HONEST, 0, 0)
        net.nodes.append(NetNode(identity, Home(tmp_path / f"node-{number:02d}")))
    return net


async def test_steps_are_done_and_undone(autojump_clock: object, tmp_path: Path) -> None:
    notes: list[str] = []
    net = net_of(tmp_path, notes)
    net.network_play.begin()
    seen = []

    def look(_text: str) -> None:
        now = read_conditions(net.folder.conditions)
        seen.append((now.link.latency_ms, sorted(map(sorted, now.groups)), now.cut))

    steps = chaos_of(
        '[[step]]\ncut = [[0, 1]]\nhow = "reset"\nfor_slots = 7\n'
        "[[step]]\nlink = { latency_ms = 50 }\nfor_slots = 8\n",
        5,
    )
    with net.network_play.heard_by(look):
        await play_chaos(steps, net.network_play)
    parts = [["key0", "key1"], ["key2", "key3", "key4"]]
    assert seen == [(0, parts, RESET), (0, [], RESET), (50, [], RESET), (0, [], RESET)]
    assert notes == [
        "cut off from each other (reset): node-00, node-01 | node-02, node-03, node-04",
        "the network is whole again",
        "links from now on: latency 50 ms",
        "links from now on: as fast as this machine",
    ]
    assert net.network_play.counts == {"partitions": 1, "heals": 1}


async def test_a_partition_heals_when_it_is_cancelled(autojump_clock: object, tmp_path: Path) -> None:
    net = net_of(tmp_path, [])
    net.network_play.begin()
    with trio.move_on_after(1):
        await play_chaos((Step(1000, groups=(frozenset({0}),)),), net.network_play)
    assert read_conditions(net.folder.conditions).groups == ()


@asynccontextmanager
async def chaos_served(net: RunningNet, note: Callable[[str], None]) -> AsyncIterator[None]:
    net.network_play.begin()
    with net.folder.held():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve_chaos, net, note)
            with trio.fail_after(5):
                while (state := net.folder.read()) is None or state.control is None:
                    await trio.sleep(0.01)
            yield
            nursery.cancel_scope.cancel()


async def asked(net: RunningNet, text: str) -> list[object]:
    return [found async for found in ask_for_chaos(net.folder, text)]


async def test_chaos_is_asked_for_by_another_shell(tmp_path: Path) -> None:
    net = net_of(tmp_path, [])
    async with chaos_served(net, lambda _text: None):
        *notes, last = await asked(net, "[[step]]\ncut = [[0]]\nfor_slots = 2\n")
        assert [next(iter(found)) for found in notes] == ["note", "note"]  # type: ignore[call-overload]
        assert last == {"counts": {"partitions": 1, "heals": 1}}
        with pytest.raises(ConfigurationError, match="no node 9"):
            await asked(net, "[[step]]\nkill = [9]\nfor_slots = 2\n")
        long = "[[step]]\ncut = [[0]]\nfor_slots = 1000\n"
        with trio.move_on_after(0.5):
            await asked(net, long)
        with trio.fail_after(5):  # whoever asked has hung up: it heals
            while read_conditions(net.folder.conditions).groups:
                await trio.sleep(0.01)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(asked, net, long)
            with trio.fail_after(5):
                while not read_conditions(net.folder.conditions).groups:
                    await trio.sleep(0.01)
            with pytest.raises(ConfigurationError, match="chaos already"):
                await asked(net, long)
            nursery.cancel_scope.cancel()


async def test_chaos_needs_the_token_and_a_testnet(tmp_path: Path) -> None:
    net = net_of(tmp_path, [])
    with pytest.raises(ConfigurationError, match="None runs there"):
        await asked(net, NAMED["halves"](5))
    async with chaos_served(net, lambda _text: None):
        state = net.folder.read()
        assert state is not None
        assert state.control is not None
        host, port, _ = state.control
        for said in (
            b"\n",
            b"[" * 10_000 + b"\n",
            json.dumps({"token": "guess", "chaos": "x"}).encode() + b"\n",
        ):
            async with await trio.open_tcp_stream(host, port) as stream:
                await stream.send_all(said)
                with trio.fail_after(5):
                    assert await stream.receive_some(10) == b""
        net.folder.write(replace(state, control=(host, port, "guess")))
        with pytest.raises(NetworkError, match="does not answer"):
            await asked(net, NAMED["halves"](5))


def test_the_live_view_says_what_is_wrong_with_the_network(tmp_path: Path) -> None:
    net = RunningNet(
        Topology(network=network_of({"latency_ms": 100, "churn": CHURN})), NetFolder(tmp_path), {}, print
    )
    net.terms = TERMS
    console = Console(file=io.StringIO(), width=120)
    console.print(live_table(net, Snapshot(1, 0, {}, {}, {}, frozenset())))
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert [line.strip() for line in lines if line.startswith("network:")] == [
        "network: latency 100 ms, a share of 0.2 killed every 50 slots; no troubles yet"
    ]
