"""Attacks on gossip as scenarios: their settings, tables, metrics, run folders and reports."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pytest

from koii_p2p.errors import ConfigurationError
from koii_p2p.lab.comparison import compared
from koii_p2p.lab.engines import play
from koii_p2p.lab.experiment import Experiment, bundled, experiment_of, find, with_settings
from koii_p2p.lab.gossip_attacks import COLD_BOOT, COVERT_FLASH, SWARM
from koii_p2p.lab.gossip_attacks import played as net_of
from koii_p2p.lab.gossip_net import NOT_YET
from koii_p2p.lab.gossip_result import GOSSIP_TABLES, GossipResult, gossip_metrics
from koii_p2p.lab.plots import plots_of
from koii_p2p.lab.report import html_of
from koii_p2p.lab.result import Frame, Metric, empty
from koii_p2p.lab.runs import Findings, findings_of, load, run_into
from koii_p2p.lab.scenario import Attack, Defence, EngineKind
from koii_p2p.lab.scenario_file import changed, read_table, scenario_of, table_of
from koii_p2p.lab.workers import Processes, ThisProcess

NAMES = ("gossip-cold-boot", "gossip-covert-flash", "gossip-swarm")
TINY = {
    "attack.honest": 12,
    "attack.sybils": 24,
    "attack.links": 3,
    "attack.sybil_links": 4,
    "attack.warm_seconds": 5,
    "attack.run_seconds": 4,
    "seeds": 2,
}


def tiny(name: str = "gossip-cold-boot", **more: Any) -> Experiment:
    """A bundled attack on a dozen nodes for a few seconds."""
    given = TINY | {setting.replace("__", "."): value for setting, value in more.items()}
    return experiment_of(
        with_settings(read_table(find(name)), [(setting, [value]) for setting, value in given.items()])
    )


def silent(_done: float, _whole: int, _job: object) -> None:
    """Nobody watches."""


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Findings]:
    folder = tmp_path_factory.mktemp("gossip") / "tiny"
    return folder, run_into(folder, tiny(), ThisProcess(), silent)


# --- settings


@pytest.mark.parametrize("name", NAMES)
def test_each_attack_comes_with_the_package(name: str) -> None:
    experiment = experiment_of(read_table(bundled()[name]))
    assert experiment.engine is EngineKind.GOSSIP
    assert [arm.scenario.defence for arm in experiment.arms] == list(Defence)
    assert len({arm.scenario.attack for arm in experiment.arms}) == 1, "defences meet the same attack"
    attack = experiment.arms[0].scenario.attack
    assert attack.sybils == 4 * attack.honest
    assert "PL-TechRep-2020-001" in experiment.closed_form


@pytest.mark.parametrize(("name", "full"), list(zip(NAMES, (COLD_BOOT, COVERT_FLASH, SWARM), strict=True)))
def test_the_command_in_each_file_is_the_attack_in_full_size(name: str, full: Attack) -> None:
    head = find(name).read_text().partition("title =")[0]
    settings = dict(word.split("=") for word in head.split() if word.startswith("attack."))
    experiment = experiment_of(
        with_settings(
            read_table(find(name)), [(setting, [int(value)]) for setting, value in settings.items()]
        )
    )
    found = experiment.arms[0].scenario.attack
    for one in (
        "honest",
        "sybils",
        "links",
        "sybil_links",
        "sybils_at_seconds",
        "attack_at_seconds",
        "latency_ms",
    ):
        assert getattr(found, one) == getattr(full, one), one


def test_a_scenario_of_gossip_becomes_a_table_and_that_scenario() -> None:
    scenario = scenario_of(
        {"engine": "gossip", "defence": "v1.0", "attack": {"honest": 50, "run_seconds": 9}}
    )
    assert (scenario.defence, scenario.attack.honest, scenario.attack.messages) == (Defence.V1_0, 50, 18)
    table = table_of(scenario)
    assert scenario_of(table) == scenario
    assert not {"network", "protocol", "population", "chain", "economy", "rounds"} & table.keys()
    assert not {"attack", "defence"} & table_of(scenario_of({})).keys()
    assert changed(scenario, {"attack.sybils": 7}).attack.sybils == 7


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"network": {"nodes": 9}}, "`network` is a setting of the engines exact and fast"),
        ({"population": {"lazy": 0.1}}, "`population` is a setting of the engines exact and fast"),
        ({"rounds": 3}, "this scenario's engine is gossip"),
        ({"engine": "fast", "attack": {}}, "`attack` is a setting of the engine gossip"),
        ({"engine": "exact", "defence": "ours"}, "this scenario's engine is exact"),
        ({"attack": {"honst": 9}}, "Did you mean `honest`?"),
        ({"attack": {"honest": 1}}, "attack.honest = 1 is not a whole number from 2"),
        (
            {"attack": {"messages_per_second": 0}},
            "attack.messages_per_second = 0.0 is not a number from 0.01",
        ),
        ({"attack": {"run_seconds": 1, "messages_per_second": 0.5}}, "Nothing is published"),
        ({"attack": {"honest": 20_000, "run_seconds": 9000}}, "more than 20000000 deliveries"),
        ({"attack": 3}, "`attack` is no table"),
        ({"defence": "v1.1"}, "There are: v1.0, unscored, report, ours"),
    ],
)
def test_mistakes_are_named(table: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError) as error:
        scenario_of({"engine": "gossip", **table})
    assert said in str(error.value)


def test_rounds_and_gossip_are_not_compared_in_one_experiment() -> None:
    arms = [{"name": "one", "engine": "gossip"}, {"name": "other", "engine": "fast"}]
    with pytest.raises(ConfigurationError, match="others of gossip alone"):
        experiment_of({"name": "both", "arms": arms})


@pytest.mark.parametrize(
    ("published", "said"),
    [(3, "is no table"), ({"latencyp99": 3}, "does not exist"), ({"latency_p99": "10 s"}, "is no number")],
)
def test_what_was_published_is_a_number_of_a_metric(published: object, said: str) -> None:
    arm = {"name": "one", "published": published}
    with pytest.raises(ConfigurationError, match=said):
        experiment_of({"name": "x", "engine": "gossip", "arms": [arm]})


# --- tables and metrics


def test_tables_are_what_happened_in_the_net() -> None:
    scenario = tiny().arms[0].scenario
    found = play(scenario, 3)
    assert isinstance(found, GossipResult)
    for name, columns in GOSSIP_TABLES.items():
        assert list(found.frames[name]) == list(columns)
    assert found.digest == play(scenario, 3).digest != play(scenario, 4).digest
    metrics = {one.name: one.value for one in gossip_metrics(found.frames)}
    net = net_of(scenario.attack, scenario.defence, 3)
    latencies = [
        time - sent
        for (author, sent), times in zip(net.published, net.arrivals, strict=True)
        for node, time in enumerate(times)
        if time != NOT_YET and node != author
    ]
    assert len(found.published["message"]) == scenario.attack.messages == 8
    assert metrics["delivered"] == len(latencies) / (8 * 11)
    assert metrics["latency_last"] == max(latencies) / 1000
    assert {one.name for one in found.metrics} == set(scenario.metrics)
    with pytest.raises(ValueError, match="the table meshes"):
        GossipResult(scenario, 1, found.published, found.deliveries, {})


def tables(
    latencies_us: list[int], due: list[int], reached: list[int], sent_s: list[int]
) -> dict[str, Frame]:
    """Tables of so many messages, of which all latencies are of the first."""
    count = len(due)
    return {
        "published": {
            "message": list(range(count)),
            "author": [0] * count,
            "sent_us": [one * 1_000_000 for one in sent_s],
            "due": list(due),
            "reached": list(reached),
        },
        "deliveries": {
            "message": [0] * len(latencies_us),
            "node": list(range(len(latencies_us))),
            "latency_us": list(latencies_us),
        },
        "meshes": {
            "node": [0, 1],
            "links": [9, 9],
            "honest_links": [3, 3],
            "mesh": [4, 4],
            "honest_mesh": [3, 0],
            "copies": [20, 10],
        },
    }


def test_metrics_are_what_their_definitions_say() -> None:
    late = [5_000_000, 6_000_000, 6_000_001, 20_000, 10_000]
    found: dict[str, Metric] = {
        one.name: one for one in gossip_metrics(tables(late, [5, 5, 5], [4, 1, 5], [30, 39, 40]))
    }
    assert found["delivered"].value == pytest.approx(10 / 15)
    assert found["in_time"].value == pytest.approx(4 / 15)
    assert found["delivered_worst"].value == pytest.approx(5 / 10), "of the seconds from 30 to 40"
    assert (found["latency_p50"].value, found["latency_last"].value) == (5000.0, 6000.001)
    assert found["honest_mesh"].value == 3 / 8
    assert found["eclipsed"].value == 1 / 2
    assert found["copies"].value == 30 / 10
    assert all(one.definition and one.unit for one in found.values())
    nothing = gossip_metrics({name: empty(columns) for name, columns in GOSSIP_TABLES.items()})
    assert {one.value for one in nothing} == {None}


# --- run folders and reports


def test_a_run_folder_holds_the_tables_of_gossip(played: tuple[Path, Findings]) -> None:
    folder, found = played
    names = {file.stem for file in folder.glob("*.parquet")}
    assert names == {"published", "deliveries", "meshes", "seeds", "metrics"}
    assert found.published.height == 4 * 2 * 8
    assert found.meshes.height == 4 * 2 * 12
    assert found.deliveries.height == found.published["reached"].sum()
    assert load(folder).digests == found.digests
    assert pl.read_parquet(folder / "meshes.parquet").columns == ["arm", "seed", *GOSSIP_TABLES["meshes"]]


def test_a_run_goes_on_and_is_the_same_from_several_processes(
    played: tuple[Path, Findings], tmp_path: Path
) -> None:
    folder, experiment = tmp_path / "again", tiny()

    class Interrupted(ThisProcess):
        def play(self, experiment: Experiment, jobs: Any, *more: Any) -> Any:
            yield from super().play(experiment, jobs[:3], *more)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_into(folder, experiment, Interrupted(), silent)
    assert len(list((folder / "parts").iterdir())) == 3
    found = run_into(folder, experiment, Processes(2), silent)
    assert found.digests == played[1].digests
    assert compared(found, played[1]).same_tables


def test_a_report_says_what_was_attacked_and_what_others_measured(played: tuple[Path, Findings]) -> None:
    _, found = played
    plots = plots_of(found)
    assert [plot.name for plot in plots] == ["shares", "latencies", "course", "meshes"]
    page = html_of(found, plots)
    for words in (
        "published: 10,000",
        "published: 96",
        "24, each linked to 4 honest nodes. They are there from the start, and forward nothing",
        "the engine gossip",
        "8 runs with 64 messages",
        "deliveries.parquet",
        "attack.honest",
    ):
        assert words in page, words
    assert "In a round" not in page
    assert "honest nodes that have nobody honest" in page.lower()


def test_a_sweep_of_sybils_has_curves() -> None:
    table = with_settings(
        read_table(find("gossip-cold-boot")), [(name, [value]) for name, value in TINY.items()]
    )
    experiment = experiment_of(with_settings(table, [("attack.sybils", [0, 12]), ("seeds", [1])]))
    found = findings_of(experiment, ThisProcess().play(experiment, experiment.jobs))
    assert found.metrics_of("ours, sybils 0")["honest_mesh"].value == 1.0
    assert "curve-honest_mesh" in [plot.name for plot in plots_of(found)]
