"""Attacks on small nets of real routers: what scores are worth. `scripts/bench/lab_attacks.py` plays large ones."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from koii_p2p import lab
from koii_p2p.errors import ConfigurationError
from koii_p2p.gossip import wire
from koii_p2p.gossip.effects import Send
from koii_p2p.gossip.parameters import GossipParameters
from koii_p2p.gossip.wire import Prune
from koii_p2p.lab import gossip_engine
from koii_p2p.lab.clockwork import SECOND
from koii_p2p.lab.gossip_attacks import (
    COLD_BOOT,
    COVERT_FLASH,
    SWARM,
    Sybil,
    defended,
    report_scores,
)
from koii_p2p.lab.gossip_net import TOPIC, GossipNet, peer_id, published_network
from koii_p2p.lab.gossip_result import GossipResult
from koii_p2p.lab.scenario import Attack, Defence, EngineKind, Scenario

SMALL = {
    "honest": 30,
    "sybils": 90,
    "links": 3,
    "sybil_links": 6,
    "publishers": 10,
    "warm_seconds": 20.0,
    "run_seconds": 20.0,
    "messages_per_second": 1.0,
}
COLD = replace(COLD_BOOT, **SMALL)
FLASH = replace(COVERT_FLASH, **{**SMALL, "attack_at_seconds": 40.0, "run_seconds": 60.0})
TEN_TO_ONE = replace(
    SWARM, **{**SMALL, "sybils": 120, "sybils_at_seconds": 10.0, "sybil_links": 15, "warm_seconds": 90.0}
)


def run(attack: Attack, defence: Defence, seed: int = 1) -> GossipResult:
    return gossip_engine.run(Scenario(engine=EngineKind.GOSSIP, attack=attack, defence=defence), seed)


def held(attack: Attack) -> Iterator[dict[str, float]]:
    """What an attack does to v1.0, and to what nodes run."""
    for defence in (Defence.V1_0, Defence.OURS):
        yield {one.name: one.value for one in run(attack, defence).metrics if one.value is not None}


@pytest.mark.parametrize("attack", [COLD, FLASH, TEN_TO_ONE], ids=["cold boot", "covert flash", "swarm"])
def test_sybils_cost_old_gossip_seconds_and_ours_next_to_nothing(attack: Attack) -> None:
    """In v1.0 meshes are the sybils', and messages go by gossip, a heartbeat a hop; scores keep honest mesh links."""
    old, ours = held(attack)
    assert ours["delivered"] >= 0.99
    assert ours["delivered_worst"] >= 0.99
    assert old["latency_p99"] > 1000
    assert ours["latency_p99"] < old["latency_p99"] / 3
    assert ours["latency_p50"] < 200
    assert ours["honest_mesh"] > 0.3 > old["honest_mesh"]


def test_without_sybils_both_are_quick() -> None:
    calm = replace(COLD, sybils=0)
    for found in held(calm):
        assert found["delivered"] == 1.0
        assert found["latency_p99"] < 500
        assert found["honest_mesh"] == 1.0


def test_an_attack_is_a_function_of_its_seed() -> None:
    short = replace(COLD, run_seconds=5.0)
    again, other = run(short, Defence.REPORT, 3), run(short, Defence.REPORT, 4)
    assert run(short, Defence.REPORT, 3).digest == again.digest != other.digest


def test_the_attacks_are_those_of_the_report() -> None:
    for attack in (COLD_BOOT, COVERT_FLASH, SWARM):
        assert (attack.honest, attack.sybils, attack.publishers, attack.links) == (1000, 4000, 100, 20)
    assert COVERT_FLASH.attack_at_seconds == 120.0
    assert SWARM.sybils * SWARM.sybil_links == 10 * SWARM.honest * 2 * SWARM.links
    tenth = SWARM.shrunk(10)
    assert (tenth.honest, tenth.sybils, tenth.publishers) == (100, 400, 10)
    for wrong in ({"honest": 0}, {"sybils": -1}, {"messages_per_second": 0.0}, {"attack_at_seconds": -1.0}):
        with pytest.raises(ConfigurationError):
            replace(COLD, **wrong)


def test_each_defence_is_what_it_says() -> None:
    old, unscored, report, ours = (defended(one, 1000) for one in Defence)
    assert not old.flood_publish
    assert old.degrees.outbound == 0
    assert old.score.other_topics is unscored.score.other_topics is None
    assert unscored.flood_publish
    assert report.score == report_scores()
    assert ours.score == GossipParameters().score
    assert (report.degrees.wanted, report.degrees.low, report.degrees.high, report.degrees.lazy) == (
        8,
        6,
        12,
        12,
    )


# --- one sybil


def lonely(attack: Attack) -> tuple[GossipNet, Sybil, list[tuple[int, bytes]]]:
    """A sybil, number 2, linked to nodes 0 and 1, and what it sends them."""
    net = GossipNet(published_network(3), 1, GossipParameters(), routers=2)
    sybil = Sybil(net, 2, attack)
    sent: list[tuple[int, bytes]] = []
    net.send = lambda sender, receiver, rpc: sent.append((receiver, rpc))  # type: ignore[method-assign]
    net.connect(2, 0)
    net.connect(2, 1)
    return net, sybil, sent


MESSAGE = wire.message_part(wire.encode_message(wire.Message(TOPIC, b"data")))
PRUNED = wire.control_part(wire.prune_entry(Prune(TOPIC, 15)))


def test_a_sybil_forwards_until_it_attacks() -> None:
    net, sybil, sent = lonely(replace(COLD, attack_at_seconds=5.0))
    sybil.greet([0, 1])
    sent.clear()
    sybil.receive(0, MESSAGE)
    sybil.receive(1, MESSAGE)
    assert sent == [(1, MESSAGE)], "once, and not back"
    net.run(5 * SECOND)
    sybil.receive(0, MESSAGE + MESSAGE)
    assert len(sent) == 1


def test_a_sybil_that_is_pruned_grafts_again_when_it_can_do_so_unpunished() -> None:
    net, sybil, sent = lonely(replace(COLD, regraft_back_off_seconds=60.0, regraft_delay_seconds=15.0))
    sybil.greet([0])
    assert [receiver for receiver, _rpc in sent] == [0]
    sybil.receive(0, PRUNED)
    net.run(60 * SECOND)
    assert len(sent) == 1
    net.run(16 * SECOND)
    assert [receiver for receiver, _rpc in sent] == [0, 0]


def test_what_makes_no_difference_to_a_sybil_is_not_played() -> None:
    _net, sybil, _sent = lonely(COLD)
    ids = [number.to_bytes(20, "big") for number in range(40)]
    for entries, heard in (
        (wire.graft_entry(TOPIC), True),
        (wire.prune_entry(Prune(TOPIC)), True),
        (wire.prune_entry(Prune(TOPIC, 15, tuple((bytes(32), bytes(1500)) for _ in range(14)))), True),
        (wire.ihave_entry(TOPIC, ids[:2]), False),
        (wire.ihave_entry(TOPIC, ids), False),
        (wire.graft_entry(TOPIC) + wire.ihave_entry(TOPIC, ids), True),
    ):
        assert sybil.hears(Send(peer_id(2), wire.frame(wire.control_part(entries)))) is heard
    assert not sybil.hears(Send(peer_id(2), wire.frame(MESSAGE)))
    assert sybil.hears(Send(peer_id(2), wire.frame(wire.subscription(TOPIC, True))))
    _net, behaving, _sent = lonely(replace(COLD, attack_at_seconds=5.0))
    assert behaving.hears(Send(peer_id(2), wire.frame(MESSAGE)))


def test_the_example_of_the_page_runs() -> None:
    page = Path(__file__).parents[2] / "docs" / "experiments-gossip.md"
    lines = page.read_text().splitlines()
    shown = [line.removeprefix("    ") for line in lines if line.startswith("    ")]
    example = [line for line in shown if not line.startswith("koii-p2p ")]
    assert len(example) == 4
    names: dict[str, object] = {}
    exec("\n".join(example[:2]), names)
    histogram, metrics = (eval(line, names) for line in example[2:])
    assert sum(histogram) == 990
    assert set(metrics["arm"]) == {arm.name for arm in lab.read("gossip-cold-boot").arms}
