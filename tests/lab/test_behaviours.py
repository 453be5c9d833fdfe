"""Each behaviour does what the catalogue says of it, and comes to what the protocol makes of it."""

from __future__ import annotations

from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from koii_p2p.lab.behaviours.catalogue import BEHAVIOURS
from koii_p2p.lab.exact import play
from koii_p2p.lab.result import Result, rows_of
from koii_p2p.lab.scenario_file import scenario_of
from koii_p2p.lab.simulation import Simulation

NODES = 10
IN_GOSSIP = ("censor", "sybil", "eclipse", "freeloader", "equivocator")
"""Behaviours that are about links and who forwards what; records of the others travel by the cheaper way."""


@cache
def played(
    behaviour: str, *, share: float = 0.2, sealed: bool = False, audit_rate: float = 1.0, **said: Any
) -> Result:
    """Two rounds of ten nodes, two of which behave so."""
    protocol = {
        "presence_seconds": 0,
        "sealed": sealed,
        "auditors": said.pop("auditors", 5),
        "transport": "gossip" if behaviour in IN_GOSSIP else "direct",
    }
    if audit_rate < 1:
        protocol |= {"profile": "posp", "audit_rate": audit_rate}
    return play(
        scenario_of(
            {
                "rounds": said.pop("rounds", 2),
                "network": {"nodes": NODES},
                "protocol": protocol,
                "economy": {"minimum": 0.0001},
                "population": {behaviour: {"share": share, **said}},
            }
        ),
        3,
    )


def outcomes(result: Result, behaviour: str) -> set[object]:
    return {row["outcome"] for row in rows_of(result.submissions) if row["behaviour"] == behaviour}


def verdicts(result: Result, behaviour: str, stage: int = 0) -> list[dict[str, Any]]:
    """Votes of the nodes that behave so, with the author's behaviour."""
    of_node = dict(zip(result.nodes["node"], result.nodes["behaviour"], strict=True))
    return [
        {**row, "of": of_node[row["author"]]}
        for row in rows_of(result.votes)
        if of_node[row["auditor"]] == behaviour and row["stage"] == stage
    ]


def test_honest_nodes_are_paid() -> None:
    found = played("honest")
    assert outcomes(found, "honest") == {"APPROVED"}


def test_fraud_that_everybody_sees_is_found_and_slashed() -> None:
    found = played("fraudulent")
    assert outcomes(found, "fraudulent") == {"REJECTED"}
    assert outcomes(found, "honest") == {"APPROVED"}
    assert found.metric("detection").value == found.metric("punishment").value == 1.0
    assert found.metric("profit.fraudulent").value < 0  # type: ignore[operator]
    assert all(isinstance(row["found_us"], int) for row in rows_of(found.submissions) if row["fraud"])


def test_fraud_at_a_rate_and_from_a_round_on() -> None:
    found = played("fraudulent", rate=0.5, rounds=4, start_round=2)
    frauds = [row for row in rows_of(found.submissions) if row["fraud"]]
    assert 0 < len(frauds) < 2 * 2 + 1
    assert {row["round"] for row in frauds} <= {2, 3}


def test_subtle_fraud_is_missed_by_some_looks() -> None:
    found = played("subtle", catch=0.3)
    votes = [row for row in rows_of(found.votes) if row["author"] in (8, 9) and row["auditor"] < 8]
    assert {row["verdict"] for row in votes} == {"VALID", "INVALID"}


def test_lazy_auditors_approve_what_they_did_not_look_at() -> None:
    both = played("fraudulent+lazy")
    assert {row["verdict"] for row in verdicts(both, "fraudulent+lazy")} == {"VALID"}
    audits = [row["audits"] for row in rows_of(both.nodes) if row["misbehaves"]]
    assert set(audits) == {0}


def test_copiers_vote_as_the_others_once_they_can() -> None:
    found = played("fraudulent+copier")
    votes = verdicts(found, "fraudulent+copier")
    assert votes
    assert all(row["right"] for row in votes)  # they have seen what the diligent found
    assert all(row["audits"] == 0 for row in rows_of(found.nodes) if row["misbehaves"])
    first = min(row["said_us"] for row in rows_of(found.votes) if row["auditor"] < 8 and row["stage"] == 0)
    assert min(row["said_us"] for row in votes) > first
    sealed = played("fraudulent+copier", sealed=True)
    wrong = [row for row in verdicts(sealed, "fraudulent+copier") if row["of"] != "honest"]
    assert all(not row["right"] for row in wrong)  # behind seals there is nothing to copy


def test_a_ring_covers_its_own_only() -> None:
    found = played("colluder", auditors=9)
    votes = verdicts(found, "colluder")
    assert {row["verdict"] for row in votes if row["of"] == "colluder"} == {"VALID"}
    assert {row["verdict"] for row in votes if row["of"] == "honest"} == {"VALID"}
    assert outcomes(found, "colluder") == {"REJECTED"}
    two = verdicts(played("colluder", auditors=9, rings=2), "colluder")
    assert {row["verdict"] for row in two if row["of"] == "colluder"} == {"INVALID"}


def test_false_accusations_cost_the_honest_nothing() -> None:
    found = played("accuser")
    assert {row["verdict"] for row in verdicts(found, "accuser")} == {"INVALID", "VALID"}  # not of each other
    assert {row["verdict"] for row in verdicts(found, "accuser") if row["of"] == "honest"} == {"INVALID"}
    assert outcomes(found, "honest") == {"APPROVED"}
    assert set(found.rounds["wrongly_slashed"]) == {0}


def test_late_accusers_wait_for_the_end_of_first_ballots() -> None:
    found = played("late-accuser", slots=1)
    late = min(row["said_us"] for row in verdicts(found, "late-accuser"))
    early = min(row["said_us"] for row in verdicts(found, "honest"))
    assert late > early
    assert outcomes(found, "honest") == {"APPROVED"}


def test_equivocators_are_convicted() -> None:
    found = played("equivocator")
    assert outcomes(found, "equivocator") == {"EQUIVOCATED"}
    assert found.metric("profit.equivocator").value < 0  # type: ignore[operator]


def test_seals_that_are_not_opened_count_as_absent() -> None:
    found = played("non-revealer", sealed=True)
    assert verdicts(found, "non-revealer") == []
    assert found.metric("vote_coverage").value == 1.0  # of the honest
    assert outcomes(found, "honest") == {"APPROVED"}


@pytest.mark.parametrize("what", ["commitment", "list"])
def test_what_is_anchored_and_not_shown_is_vetoed(what: str) -> None:
    found = played("withholder", share=0.1, what=what, rounds=1)
    assert found.rounds["attempt"] == [1]
    assert found.rounds["vetoes"][0] > 0  # type: ignore[operator]
    assert outcomes(found, "honest") == {"APPROVED"}


def test_work_whose_data_nobody_can_fetch_earns_nothing_and_costs_nothing() -> None:
    found = played("withholder", what="data")
    assert outcomes(found, "withholder") == {"UNAVAILABLE"}
    assert {row["amount"] for row in rows_of(found.submissions) if row["behaviour"] == "withholder"} == {0}


@pytest.mark.parametrize("what", ["key", "submissions", "audits"])
def test_a_censor_keeps_nothing_from_anybody(what: str) -> None:
    found = played("censor", what=what)
    assert found.metric("delivery").value == 1.0
    assert found.metric("vote_coverage").value == 1.0


@pytest.mark.parametrize("behaviour", ["sybil", "eclipse"])
def test_those_who_pass_nothing_on_have_no_stake_and_stop_nothing(behaviour: str) -> None:
    found = played(behaviour)
    assert found.rounds["staked"] == [8, 8]
    assert found.metric("delivery").value == 1.0
    assert set(found.rounds["attempt"]) == {0}


def test_sybils_and_eclipses_are_linked_as_they_want() -> None:
    scenario = scenario_of(
        {
            "network": {"nodes": 40, "degree": 2},
            "population": {"sybil": {"share": 0.1, "links": 10}, "eclipse": 0.2},
        }
    )
    simulation = Simulation(scenario, 1)
    dialled = Counter(one for one, _other in simulation._dials)
    assert (
        min(dialled[number] for number in range(28, 32)) > 10 > max(dialled[number] for number in range(28))
    )
    assert {one for one, other in simulation._dials if other == 0} >= set(range(32, 40))


def test_freeloaders_are_paid_and_vote_on_nothing() -> None:
    found = played("freeloader")
    assert verdicts(found, "freeloader") == []
    assert outcomes(found, "freeloader") == {"APPROVED"}


def test_grinders_get_the_beacon_that_suits_them() -> None:
    """With m = 1, a friend as its only auditor covers a fraud: more tries, more covered frauds."""
    covered = {}
    for tries in (1, 64):
        found = played("grinder", tries=tries, auditors=1)
        covered[tries] = sum(1 for row in rows_of(found.submissions) if row["fraud"] and not row["finders"])
    assert covered[1] < covered[64] == 4


def test_the_rational_cheat_as_soon_as_it_pays() -> None:
    """p (R + S) against C: R = 0.1 KOII of ten nodes, S = 1.33; with 5 % audited they flip at C / R = 0.715."""
    honest = played("rational", cost=0.70, audit_rate=0.05)
    assert not any(row["fraud"] for row in rows_of(honest.submissions))
    cheating = played("rational", cost=0.73, audit_rate=0.05)
    assert [
        row["behaviour"] for row in rows_of(cheating.submissions) if row["fraud"] and row["round"] == 0
    ] == [
        "rational",
        "rational",
    ]


def test_every_behaviour_is_tried_here() -> None:
    text = Path(__file__).read_text()
    assert [name for name in BEHAVIOURS if f'"{name}' not in text and f"+{name}" not in text] == []
