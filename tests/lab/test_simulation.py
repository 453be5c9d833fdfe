"""The exact engine: bit-identical runs, shared work that nobody notices, rounds that settle in bad weather."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from functools import cache
from typing import Any

import pytest

from koii_p2p.lab.exact import play
from koii_p2p.lab.result import TABLES, Result
from koii_p2p.lab.scenario import Scenario
from koii_p2p.lab.scenario_file import scenario_of
from koii_p2p.lab.shared_work import SharedWork, shared
from koii_p2p.lab.simulation import Simulation
from koii_p2p.lab.standing import standing_scenario, violations
from koii_p2p.lab.tables import tables_of
from koii_p2p.lab.topology import shortest_ways
from koii_p2p.limits import Limits
from koii_p2p.node import exchange
from koii_p2p.records import cbor
from koii_p2p.rounds import anchoring, engine, record_book

COUNTED_ONLY_WHEN_SHARED = ("verified", "cpu_us")


def scenario(**tables: Any) -> Scenario:
    """A small net, without presences."""
    protocol = {"presence_seconds": 0, **tables.pop("protocol", {})}
    network = {"nodes": 8, **tables.pop("network", {})}
    return scenario_of({"rounds": 2, "network": network, "protocol": protocol, **tables})


STORMY = scenario(
    network={
        "nodes": 6,
        "loss": 0.05,
        "clock_skew_ms": 300,
        "bandwidth_kib": 256,
        "churn": {"per_minute": 1.0, "away_seconds": 5, "records_lost": 0.5},
        "partitions": [{"start": 1.2, "rounds": 0.3}],
    },
    protocol={"sealed": True, "presence_seconds": 20},
    population={"fraudulent": 0.12, "equivocator+lazy": 0.12},
    chain={"lag_slots": 2, "loss": 0.1},
)


@cache
def calm(seed: int) -> Result:
    """The small net, played once however many tests look at it; they change nothing of it."""
    return play(scenario(), seed)


def test_a_calm_round_of_honest_nodes() -> None:
    found = calm(1)
    assert found.rounds["attempt"] == [0, 0]
    assert found.rounds["transactions"] == [2, 2]
    assert found.rounds["submissions"] == [8, 8]
    assert found.rounds["votes_due"] == found.rounds["votes_cast"] == [40, 40]
    assert set(found.submissions["outcome"]) == {"APPROVED"}
    assert set(found.submissions["amount"]) == {1_000_000_000 // 8}
    assert found.metric("delivery").value == 1.0
    assert found.metric("splits").value == 0.0
    assert found.metric("detection").value is None
    # Every node holds the same list, and the newest one gives everybody both rewards.
    assert set(found.nodes["reward"]) == {250_000_000}


def test_two_runs_are_bit_identical_and_other_seeds_are_not() -> None:
    first, second = play(STORMY, 5), play(STORMY, 5)
    assert (first.digest, first.events) == (second.digest, second.events)
    assert first.metrics == second.metrics
    assert play(scenario(), 1).digest == calm(1).digest != calm(6).digest


def test_the_order_of_hashes_changes_nothing() -> None:
    code = (
        "from tests.lab.test_simulation import STORMY\n"
        "from koii_p2p.lab.exact import play\n"
        "print(play(STORMY, 5).digest)"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": str(number)},
            check=True,
            capture_output=True,
            text=True,
            timeout=120,
        ).stdout
        for number in (1, 2)
    }
    assert len(digests) == 1


def test_shared_work_changes_nothing_but_the_time_it_takes() -> None:
    found = []
    for sharing in (True, False):
        simulation = Simulation(STORMY, 3)
        simulation.play(sharing=sharing)
        tables = tables_of(simulation)
        for column in COUNTED_ONLY_WHEN_SHARED:
            tables["nodes"].pop(column)
        found.append((tables, simulation.clock.happened, simulation.chain.landed))
    assert found[0] == found[1]


def test_a_simulation_can_be_looked_at_when_it_is_over() -> None:
    simulation = Simulation(scenario(), 1)
    simulation.play()
    state = simulation.nodes[0].engine.round(1)
    assert state is not None
    assert len(state.records().submissions) == len(state.submissions()) == 8
    assert state.disputed(simulation.terms) == {}
    assert len(state.item_set()) == len(state.by_id)


def test_what_is_shared_is_given_back() -> None:
    before = (engine.RoundState, anchoring.build_commitment, record_book.decode_record)

    def fail() -> None:
        with shared(SharedWork()):
            assert engine.RoundState is not before[0]
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert (engine.RoundState, anchoring.build_commitment, record_book.decode_record) == before


@pytest.mark.parametrize("seed", range(12))
def test_the_honest_lose_nothing_and_agree_whatever_happens(seed: int) -> None:
    assert violations(play(standing_scenario(seed), seed)) == []


def test_the_standing_experiment_would_see_a_violation() -> None:
    found = calm(1)
    bad = {name: list(column) for name, column in found.rounds.items()}
    bad["wrongly_slashed"][0] = 2
    bad["lists"][1] = 2
    said = violations(replace(found, rounds=bad))
    assert len(said) == 2
    assert "round 0: 2 honest nodes lost stake" in said[0]


def test_koiis_client_of_today_slashes_the_honest_for_one_late_vote() -> None:
    found = play(
        scenario(network={"nodes": 10}, protocol={"profile": "koii-today"}, population={"late-accuser": 0.2}),
        1,
    )
    assert sum(count for count in found.rounds["wrongly_rejected"] if isinstance(count, int)) > 0
    hardened = play(scenario(network={"nodes": 10}, population={"late-accuser": 0.2}), 1)
    assert set(hardened.rounds["wrongly_rejected"]) == {0}


def test_a_net_in_two_halves_settles_when_it_is_whole_again() -> None:
    found = play(scenario(network={"nodes": 9, "partitions": [{"start": 1.35, "rounds": 0.4}]}), 2)
    assert None not in found.rounds["attempt"]
    assert found.rounds["lists"] == [1, 1]
    assert found.rounds["wrongly_slashed"] == [0, 0]


def test_records_that_gossip_loses_are_pulled() -> None:
    found = play(scenario(network={"nodes": 10, "loss": 0.3}), 1)
    assert found.metric("delivery").value == 1.0
    assert found.rounds["attempt"] == [0, 0]
    assert sum(lost for lost in found.nodes["lost_frames"] if isinstance(lost, int)) > 0
    alone = play(scenario(network={"nodes": 10, "loss": 0.3}, protocol={"reconcile_peers": 0}), 1)
    assert alone.digest != found.digest


def test_what_is_asked_of_peers_has_the_size_that_nodes_send() -> None:
    task, ids = b"t" * 32, (b"a" * 32, b"b" * 32)
    question = b"question"
    assert cbor.encode({0: task, 1: 3, 2: question}) == exchange.encode_reconcile(task, 3, question)
    request = exchange.RecordsRequest(task, 3, ids)
    assert cbor.encode({0: task, 1: 3, 2: list(ids)}) == exchange.encode_records_request(request)
    assert cbor.encode({0: list(ids)}) == exchange.encode_records(ids, Limits())
    assert cbor.encode({0: task, 1: 3}) == exchange.encode_artifacts_request(task, 3)


def test_results_have_the_columns_that_are_described() -> None:
    found = calm(1)
    for name, columns in TABLES.items():
        assert list(found.frame(name)) == list(columns)
        assert len(found.frame(name)[next(iter(columns))]) > 0
    with pytest.raises(ValueError, match="rounds"):
        Result(found.scenario, 1, {}, found.submissions, found.nodes, found.votes, found.messages)


def test_direct_transport_comes_to_the_same_rounds() -> None:
    population = {"fraudulent": 0.2}
    gossip = play(scenario(network={"nodes": 10}, population=population), 1)
    direct = play(scenario(network={"nodes": 10}, protocol={"transport": "direct"}, population=population), 1)
    for column in ("round", "node", "outcome", "looks", "finders", "amount", "committed"):
        assert direct.submissions[column] == gossip.submissions[column]
    assert direct.metric("duplicates").value == 0.0
    assert direct.metric("delivery").value == 1.0
    assert 3 * direct.events < 2 * gossip.events


def test_the_quickest_way_is_taken() -> None:
    latencies = {(0, 1): 5, (1, 2): 5, (0, 2): 20, (2, 3): 1}
    linked = {0: [1, 2], 1: [0, 2], 2: [0, 1, 3], 3: [2], 4: []}

    def latency(one: int, other: int) -> int:
        return latencies[min(one, other), max(one, other)]

    assert shortest_ways(0, linked, latency) == {0: (0, 0), 1: (5, 0), 2: (10, 1), 3: (11, 2)}


def test_a_round_is_reconciled_at_each_of_its_moments() -> None:
    """What was asked and answered is asked again: nothing waits for the deadline of a request that is over."""
    simulation = Simulation(scenario(network={"nodes": 4}), 1)
    asked: list[tuple[int, int]] = []
    request = simulation.request

    def noted(asker: Any, peer: int, *rest: Any) -> None:
        asked.append((asker.number, simulation.chain_slot))
        request(asker, peer, *rest)

    simulation.request = noted  # type: ignore[method-assign]
    simulation.play()
    state = simulation.nodes[0].engine.round(0)
    assert state is not None
    in_time = [moment for moment in state.moments if moment < simulation.terms.clock.settles_at(0)]
    slots = {slot for number, slot in asked if number == 0}
    assert set(in_time) <= slots
