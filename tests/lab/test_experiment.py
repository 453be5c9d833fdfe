from __future__ import annotations

import json
from pathlib import Path

import pytest

from koii_p2p.errors import ConfigurationError
from koii_p2p.lab.experiment import (
    MOST_ARMS,
    bundled,
    experiment_of,
    find,
    read_experiment,
    read_table,
    settings_given,
    to_json,
    with_settings,
)
from koii_p2p.lab.scenario import EngineKind
from koii_p2p.lab.scenario_file import read_scenario
from koii_p2p.lab.words import is_metric
from koii_p2p.rounds.audit_rules import Profile
from tests.lab.small import FILE, TABLE, small, small_file


def test_arms_are_the_scenario_with_settings_of_their_own() -> None:
    found = small()
    assert [arm.name for arm in found.arms] == ["koii-today", "hardened"]
    assert [arm.scenario.protocol.audit.profile for arm in found.arms] == [Profile.KOII, Profile.HARDENED]
    assert found.arms[0].scenario.network == found.arms[1].scenario.network
    assert found.arms[0].settings == (("protocol.profile", "koii-today"),)
    assert [(job.arm, job.seed) for job in found.jobs] == [(0, 1), (1, 1), (0, 2), (1, 2)]


def test_a_plain_scenario_file_is_an_experiment_of_one_arm(tmp_path: Path) -> None:
    plain = tmp_path / "plain.toml"
    plain.write_text(FILE.split("metrics")[1].partition("\n")[2])
    found = read_experiment(str(plain))
    assert [arm.name for arm in found.arms] == ["all"]
    assert found.arms[0].scenario == read_scenario(plain)
    assert (found.name, found.title) == ("plain", "plain")


def test_axes_make_arms_of_all_combinations() -> None:
    found = small(protocol__reconcile_peers=[1, 2], population__fraudulent=[0.1, 0.25])
    assert len(found.arms) == 2 * 2 * 2
    assert found.groups == ("koii-today", "hardened")
    assert found.arms[3].name == "koii-today, reconcile peers 2, fraudulent 0.25"
    assert found.arms[3].scenario.protocol.reconcile_peers == 2
    assert found.arms[3].scenario.population[0].share == 0.25
    assert [axis.values for axis in found.axes] == [(1, 2), (0.1, 0.25)]


def test_one_value_replaces_what_the_file_says() -> None:
    found = small(seeds=5, network__nodes=20, population__fraudulent=0.5)
    assert found.arms[0].scenario.network.nodes == 20
    assert found.arms[1].scenario.population[0].share == 0.5
    assert len(found.jobs) == 10
    assert TABLE["seeds"] == 2


def test_the_share_of_a_group_with_settings_of_its_own() -> None:
    table = {"population": {"lazy": {"share": 0.1, "diligence": 0.5}}}
    found = experiment_of(with_settings(table, [("population.lazy", [0.3])]))
    group = found.arms[0].scenario.population[0]
    assert (group.share, group.parameter("lazy")) == (0.3, 0.5)
    found = experiment_of(
        with_settings({"population": {"lazy": 0.1}}, [("population.lazy.diligence", [0.25])])
    )
    group = found.arms[0].scenario.population[0]
    assert (group.share, group.parameter("lazy")) == (0.1, 0.25)


def test_an_experiment_survives_its_json(tmp_path: Path) -> None:
    found = small(population__fraudulent=[0.1, 0.2])
    file = tmp_path / "experiment.json"
    file.write_text(to_json(found))
    assert read_experiment(str(file)) == found
    assert experiment_of(json.loads(to_json(found))).arms == found.arms


@pytest.mark.parametrize(
    ("text", "name", "values"),
    [
        ("protocol.auditors=3", "protocol.auditors", (3,)),
        ("protocol.auditors=1,2,3", "protocol.auditors", (1, 2, 3)),
        ("protocol.profile=posp,koii-today", "protocol.profile", ("posp", "koii-today")),
        ("protocol.sealed=true", "protocol.sealed", (True,)),
        ("network.latency=[20, 120]", "network.latency", ([20, 120],)),
        ("population.lazy = 0.1, 0.2", "population.lazy", (0.1, 0.2)),
    ],
)
def test_settings_of_a_command_line(text: str, name: str, values: tuple[object, ...]) -> None:
    assert settings_given(text) == (name, values)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"arms": [{"name": "a"}, {"name": "a"}]}, "name"),
        ({"arms": [{}]}, "name"),
        ({"arms": {"name": "a"}}, "list of tables"),
        ({"arms": [{"name": "a", "seeds": 3}]}, "the same for all arms"),
        ({"arms": [{"name": "a", "protocol": {"auditor": 3}}]}, "auditors"),
        ({"axes": {"protocol.auditors": 3}}, "no list"),
        ({"axes": {"protocol.auditors": [3, 3]}}, "twice"),
        ({"axes": {"protocol.profile": ["posp"]}}, "an axis, and set by the arm"),
        ({"axes": {"protocol.auditors": list(range(1, 200)), "seed": list(range(100))}}, str(MOST_ARMS)),
        ({"axes": {"seeds": [1, 2]}}, "the same for all arms"),
        ({"axes": {"rounds.more": [1, 2]}}, "has no settings"),
        ({"axes": {"network": [1, 2]}}, "is a table"),
        ({"title": 3}, "title"),
        ({"question": "x" * 5000}, "question"),
        ({"seeds": 1_000_000}, "runs"),
        ({"titel": "a"}, "title"),
    ],
)
def test_what_is_not_possible_is_said(change: dict[str, object], why: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        experiment_of({**TABLE, **change})
    assert why in str(caught.value)


def test_a_setting_that_an_arm_has_cannot_be_set_from_outside() -> None:
    with pytest.raises(ConfigurationError, match="is set by the arm 'koii-today'"):
        with_settings(TABLE, [("protocol.profile", ["posp"])])


@pytest.mark.parametrize("text", ["protocol.auditors", "=3", "protocol.auditors="])
def test_a_setting_without_a_value(text: str) -> None:
    with pytest.raises(ConfigurationError, match="is no setting"):
        settings_given(text)


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="koii-today-vs-hardened"):
        find("koii-today-hardened")
    with pytest.raises(ConfigurationError, match="cannot be read"):
        read_table(tmp_path / "none.toml")
    wrong = tmp_path / "wrong.toml"
    wrong.write_text("nodes = = 3")
    with pytest.raises(ConfigurationError, match="not TOML"):
        read_table(wrong)
    listed = tmp_path / "list.json"
    listed.write_text("[1]")
    with pytest.raises(ConfigurationError, match="no table"):
        read_table(listed)
    assert read_table(small_file(tmp_path))["name"] == "small"


@pytest.mark.parametrize("name", list(bundled()))
def test_a_bundled_scenario_says_what_it_asks_and_what_theory_says(name: str) -> None:
    found = read_experiment(name)
    assert found.name == name
    assert found.title != name
    assert found.question.endswith("?")
    assert len(found.closed_form) > 50
    assert all(map(is_metric, found.metrics))
    assert len(found.jobs) <= 100


def test_there_are_scenarios_for_every_question_that_the_lab_is_for() -> None:
    names = set(bundled())
    assert {"koii-today", "hardened", "koii-today-vs-hardened", "detection", "proof-of-sampling"} <= names
    assert {"collusion", "reputation", "churn", "partition", "withholding", "economics", "scale"} <= names
    engines = {read_experiment(name).arms[0].scenario.engine for name in names}
    assert engines == set(EngineKind)
