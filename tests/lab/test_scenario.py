"""Scenarios: what a file may say, what it becomes, and what is said about mistakes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from koii_p2p.errors import ConfigurationError
from koii_p2p.lab.behaviours.catalogue import BEHAVIOURS
from koii_p2p.lab.behaviours.rules import KINDS
from koii_p2p.lab.scenario import EngineKind, Group, LatencyModel, Scenario, Transport
from koii_p2p.lab.scenario_file import changed, digest_of, read_scenario, scenario_of, table_of
from koii_p2p.rounds.audit_rules import Profile, Weights

FILE = """
rounds = 20
seed = 7
seeds = 3
engine = "fast"
metrics = ["detection"]

[network]
nodes = 30
latency = [10, 150]
bandwidth_kib = 512

[network.churn]
per_minute = 0.2

[[network.partitions]]
start = 1.5
share = 0.25

[protocol]
profile = "hardened"
auditors = 7
confidence = 0.999
sealed = true
canary_rate = 0.05

[population]
fraudulent = 0.1
"subtle+lazy" = { share = 0.2, start_round = 4, catch = 0.25, diligence = 0.5 }

[population.withholder]
share = 0.1
what = "list"

[chain]
slot_ms = 408

[economy]
stake = 1.9
bounty = 0.5
"""


def test_a_file_becomes_a_scenario(tmp_path: Path) -> None:
    file = tmp_path / "first.toml"
    file.write_text(FILE)
    found = read_scenario(file)
    assert found.name == "first"
    assert (found.rounds, found.seed, found.seeds, found.engine) == (20, 7, 3, EngineKind.FAST)
    assert (found.network.nodes, found.network.latency.low_ms, found.network.latency.high_ms) == (30, 10, 150)
    assert found.network.partitions[0].share == 0.25
    assert found.protocol.audit.profile is Profile.HARDENED
    assert (found.protocol.audit.auditors, found.protocol.audit.confidence) == (7, 999_000)
    assert found.protocol.audit.canary_rate == 500
    assert (found.economy.stake, found.economy.bounty) == (1_900_000_000, 500_000_000)
    both = found.population[1]
    assert (both.names, both.start_round) == (("subtle", "lazy"), 4)
    assert (both.parameter("subtle"), both.parameter("lazy")) == (0.25, 0.5)
    assert found.population[2].parameter("withholder") == "list"


def test_a_scenario_becomes_a_table_and_the_table_that_scenario(tmp_path: Path) -> None:
    file = tmp_path / "first.toml"
    file.write_text(FILE)
    for scenario in (Scenario(), read_scenario(file)):
        assert scenario_of(table_of(scenario)) == scenario


@pytest.mark.parametrize(
    ("latency", "model", "low"),
    [
        (50, LatencyModel.UNIFORM, 50.0),
        (2.5, LatencyModel.UNIFORM, 2.5),
        ([5, 9], LatencyModel.UNIFORM, 5.0),
        ("cities", LatencyModel.CITIES, 20.0),
        ({"model": "lognormal", "median_ms": 80}, LatencyModel.LOGNORMAL, 20.0),
        ({"model": "cities", "cities": ["tokyo", "berlin"]}, LatencyModel.CITIES, 20.0),
        ({"model": "matrix", "matrix": [[0, 20], [20, 0]]}, LatencyModel.MATRIX, 20.0),
    ],
)
def test_latencies_are_written_in_many_ways(latency: Any, model: LatencyModel, low: float) -> None:
    scenario = scenario_of({"network": {"latency": latency}})
    assert scenario.network.latency.model is model
    assert scenario.network.latency.low_ms == low
    assert scenario_of(table_of(scenario)) == scenario


def test_koii_today_is_what_its_client_plays() -> None:
    audit = scenario_of({"protocol": {"profile": "koii-today"}}).protocol.audit
    assert (audit.profile, audit.weights) == (Profile.KOII, Weights.EQUAL)


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"netwrk": {}}, "Did you mean `network`?"),
        ({"network": {"nods": 3}}, "Did you mean `nodes`?"),
        ({"network": {"nodes": 2}}, "network.nodes = 2 is not a whole number from 3"),
        ({"network": {"nodes": 4.0}}, "network.nodes = 4.0 is not a whole number"),
        ({"network": {"nodes": True}}, "network.nodes = True is not a whole number"),
        ({"network": {"loss": 0.95}}, "network.loss = 0.95 is not a number from 0 to 0.9"),
        ({"network": {"latency": "citys"}}, "Did you mean `cities`?"),
        ({"network": {"latency": [9, 5]}}, "from 9 to 5 ms is empty"),
        ({"network": {"latency": {"model": "matrix"}}}, "belong together"),
        ({"network": {"latency": {"model": "matrix", "matrix": [[1]] * 2}}}, "not square"),
        ({"network": {"partitions": {}}}, "no list of tables"),
        ({"network": {"partitions": [{"begin": 1}]}}, "`begin` of [[network.partitions]]"),
        ({"network": {"churn": 3}}, "`churn` is no table"),
        ({"protocol": {"profile": "koii"}}, "there are: koii-today, hardened"),
        ({"protocol": {"auditor": 5}}, "Did you mean `auditors`?"),
        ({"protocol": {"auditors": 0}}, "auditors is 0"),
        ({"protocol": {"audit": {}}}, "Write the audit rules into [protocol] itself"),
        ({"protocol": {"canary_rate": 0.1}}, "canary_rate needs sealed ballots"),
        ({"protocol": {"confidence": 0.9999999}}, "finer than 1/1000000"),
        ({"protocol": {"round_time": 30}}, "shorter than both windows"),
        ({"protocol": {"canary_players": 0.5}}, "without audit.canary_rate"),
        ({"population": {"fraudlent": 0.1}}, "Did you mean `fraudulent`?"),
        ({"population": {"fraudulent": 1.5}}, "population.fraudulent.share = 1.5"),
        ({"population": {"fraudulent": 0.6, "lazy": 0.6}}, "more than 1 together"),
        ({"population": {"fraudulent": {"share": 0.1, "catch": 0.5}}}, "`catch` of [population.fraudulent]"),
        ({"population": {"fraudulent": {"share": 0.1, "rate": 2}}}, "is not from 0 to 1"),
        ({"population": {"withholder": {"share": 0.1, "what": "all"}}}, "There are: data, commitment, list"),
        ({"population": {"late-accuser": {"share": 0.1, "slots": 1.5}}}, "is not a whole number"),
        ({"network": {"nodes": 4}, "population": {"sybil": 0.9}}, "Fewer than three nodes have a stake"),
        ({"economy": {"stake": "many"}}, "economy.stake"),
        ({"engine": "exat"}, "Did you mean `exact`?"),
        ({"metrics": "detection"}, "no list of texts"),
        ({"name": 3}, "is no text"),
    ],
)
def test_mistakes_are_named(table: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError) as error:
        scenario_of(table)
    assert said in str(error.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    broken = tmp_path / "broken.toml"
    broken.write_text("rounds = ")
    for file, said in ((tmp_path / "none.toml", "cannot be read"), (broken, "not TOML")):
        with pytest.raises(ConfigurationError) as error:
            read_scenario(file)
        assert said in str(error.value)


def test_values_are_changed_by_their_dotted_names() -> None:
    scenario = scenario_of({"population": {"fraudulent": 0.1}})
    found = changed(
        scenario,
        {"network.nodes": 80, "protocol.auditors": 9, "population.fraudulent.share": 0.3, "rounds": 2},
    )
    assert (found.network.nodes, found.protocol.audit.auditors, found.rounds) == (80, 9, 2)
    assert found.population[0].share == 0.3
    with pytest.raises(ConfigurationError, match="auditrs"):
        changed(scenario, {"protocol.auditrs": 9})
    with pytest.raises(ConfigurationError, match="has no settings"):
        changed(scenario, {"rounds.more": 9})


def test_digests_name_what_decides_a_run() -> None:
    plain = scenario_of({"network": {"loss": 0}})
    assert digest_of(plain) == digest_of(scenario_of({"network": {"loss": 0.0}, "seed": 9, "name": "other"}))
    assert digest_of(plain) != digest_of(scenario_of({"network": {"loss": 0.1}}))


def test_the_crew_begins_with_the_honest_and_rounds_to_whole_nodes() -> None:
    scenario = scenario_of({"network": {"nodes": 10}, "population": {"lazy": 0.25, "sybil": 0.2}})
    names = [group.behaviour for group in scenario.crew()]
    assert names == ["honest"] * 5 + ["lazy"] * 3 + ["sybil"] * 2
    assert not Group("lazy+sybil", 0.1).staked
    assert Group("rational").misbehaves is False


def test_every_behaviour_of_the_catalogue_has_a_rule() -> None:
    assert list(KINDS) == list(BEHAVIOURS)
    assert scenario_of({"protocol": {"transport": "direct"}}).protocol.transport is Transport.DIRECT
