"""The fast engine against the exact one, where both can play, and against closed forms where only it can."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from random import Random

import numpy as np
import pytest

from koii_p2p.errors import ConfigurationError
from koii_p2p.gossip.parameters import GossipParameters, degrees_for
from koii_p2p.lab import closed_forms as forms
from koii_p2p.lab import exact, fast
from koii_p2p.lab.clockwork import MILLISECOND, SECOND
from koii_p2p.lab.fast.mesh import arrivals, formed
from koii_p2p.lab.gossip_net import GossipNet, spread_of
from koii_p2p.lab.result import Result
from koii_p2p.lab.scenario import (
    Chain,
    Churn,
    Group,
    Latency,
    Network,
    Partition,
    Protocol,
    Scenario,
    Transport,
)
from koii_p2p.lab.topology import random_dials
from koii_p2p.rounds.audit_rules import AuditRules, Profile, Weights
from tests.sigma import within_three_sigma

KOII = Protocol(audit=AuditRules(profile=Profile.KOII, weights=Weights.EQUAL))
SEALED = Protocol(
    audit=AuditRules(sealed=True, canary_rate=3000), audit_window=60, round_time=120, canary_players=0.5
)
ALL_CANARIES = replace(
    SEALED, audit=AuditRules(sealed=True, canary_rate=10_000, reputation_floor=2000), canary_players=0.2
)
POSP = Protocol(audit=AuditRules(profile=Profile.POSP, audit_rate=5000))
SAME = (
    "round",
    "staked",
    "submissions",
    "frauds",
    "found",
    "rejected",
    "wrongly_rejected",
    "wrongly_slashed",
    "approved_frauds",
    "votes_due",
    "votes_cast",
    "ballots",
    "challenges",
    "attempt",
    "commitment_slot",
    "list_slot",
    "settled_us",
    "lists",
    "transactions",
    "chain_bytes",
    "fees",
    "vetoes",
    "settlements",
)


def scenario(*groups: Group, nodes: int = 25, rounds: int = 2, protocol: Protocol | None = None) -> Scenario:
    return Scenario(
        rounds=rounds,
        network=Network(nodes=nodes, degree=6),
        protocol=protocol or Protocol(),
        population=groups,
    )


def direct(played: Scenario) -> Scenario:
    """The same without gossip and presences, which take the exact engine most of its time and change no outcome."""
    return replace(
        played, protocol=replace(played.protocol, transport=Transport.DIRECT, presence_seconds=0.0)
    )


def outcomes(result: Result) -> list[tuple[object, ...]]:
    table = result.submissions
    return list(
        zip(
            *(table[name] for name in ("round", "node", "fraud", "auditors", "outcome", "amount")),
            strict=True,
        )
    )


# --- against the exact engine


@pytest.mark.parametrize(
    "played",
    [
        scenario(Group("fraudulent", 0.2)),
        scenario(Group("colluder", 0.3), Group("equivocator", 0.08)),
        scenario(Group("accuser", 0.1), Group("late-accuser", 0.1)),
        scenario(
            Group("grinder", 0.2, parameters={"grinder": 16}),
            Group("rational", 0.2, parameters={"rational": 0.9}),
            protocol=POSP,
        ),
        scenario(Group("fraudulent", 0.2), Group("late-accuser", 0.08), protocol=KOII),
        scenario(Group("fraudulent", 0.12), Group("lazy", 0.2), nodes=15, rounds=3, protocol=ALL_CANARIES),
    ],
    ids=["frauds", "colluders", "accusers", "posp", "koii", "canaries"],
)
def test_where_no_chance_is_left_but_the_draw_both_engines_say_the_same(played: Scenario) -> None:
    """Keys, stakes and block hashes are alike, so that the draws are: then every number of every round is."""
    quick, slow = (run(direct(played), 3) for run in (fast.run, exact.play))
    for column in SAME:
        assert quick.rounds[column] == slow.rounds[column], column
    assert outcomes(quick) == outcomes(slow)
    for column in ("key", "behaviour", "stake", "reward", "slash", "overruled", "reputation"):
        assert quick.nodes[column] == slow.nodes[column], column
    for column in ("looks", "finders", "made_us", "found_us"):
        assert quick.submissions[column] == slow.submissions[column], column


def test_messages_take_as_long_in_both_engines() -> None:
    quick, slow = (play(scenario(nodes=30, rounds=1), 5) for play in (fast.run, exact.play))
    for name in ("p50_us", "p99_us", "last_us"):
        medians = [
            float(np.median([value for value in table[name] if isinstance(value, int)]))
            for table in (quick.messages, slow.messages)
        ]
        assert medians[0] == pytest.approx(medians[1], rel=0.1), name
    kinds = [sorted(table["kind"], key=str) for table in (quick.messages, slow.messages)]
    assert kinds[0] == kinds[1]
    for name in ("size", "reached"):
        totals = [sum(int(value or 0) for value in table[name]) for table in (quick.messages, slow.messages)]
        assert totals[0] == pytest.approx(totals[1], rel=0.01), name


@pytest.mark.slow
@pytest.mark.parametrize(
    "played",
    [
        scenario(Group("fraudulent", 0.2), Group("late-accuser", 0.08), Group("lazy", 0.5), protocol=KOII),
        scenario(Group("subtle", 0.2), Group("copier", 0.3), Group("non-revealer", 0.1), protocol=SEALED),
    ],
    ids=["koii", "sealed"],
)
def test_where_chance_decides_the_exact_engine_is_as_likely_as_the_fast_one(played: Scenario) -> None:
    """What the exact engine came to in one run lies within three sigma of many runs of the fast one."""
    slow = exact.play(direct(played), 0)
    many = [fast.run(direct(played), seed) for seed in range(40)]
    for column in ("found", "rejected", "approved_frauds", "wrongly_rejected", "votes_cast"):
        totals = [sum(int(value or 0) for value in one.rounds[column]) for one in many]
        mean, sigma = float(np.mean(totals)), float(np.std(totals))
        exactly = sum(int(value or 0) for value in slow.rounds[column])
        assert abs(exactly - mean) <= 3 * sigma + 1, (column, exactly, mean, sigma)


# --- against real routers


@pytest.mark.parametrize("flood", [False, True])
def test_arrivals_are_those_of_a_net_of_routers(flood: bool) -> None:
    nodes = 100
    network = Network(nodes=nodes, degree=10, latency=Latency(low_ms=20.0, high_ms=120.0), jitter=0.1)
    net = GossipNet(network, 1, GossipParameters(degrees=degrees_for(nodes), flood_publish=flood))
    net.subscribe()
    net.connect_randomly(range(nodes), 10)
    net.run(8 * SECOND)
    for number in range(20):
        net.publish(number * 5)
        net.run(300 * MILLISECOND)
    net.run(3 * SECOND)
    routed = spread_of(net)
    random = Random(1)
    mesh = formed(nodes, random_dials(nodes, 10, random), degrees_for(nodes), random)
    assert mesh.mean_degree == pytest.approx(routed.mean_mesh, rel=0.05)
    found = arrivals(network, mesh, 1, record_bytes=512, flood=flood)
    others = found[~np.eye(nodes, dtype=np.bool_)]
    for share, off in ((0.05, 0.15), (0.5, 0.1), (0.9, 0.1), (0.99, 0.1)):
        ours, theirs = np.quantile(others, share), np.quantile(np.array(routed.latencies), share)
        assert ours == pytest.approx(theirs, rel=off), share


def test_arrivals_of_a_direct_net_are_no_later_and_a_narrow_uplink_is_slower() -> None:
    network = Network(nodes=60, degree=8, jitter=0.0)
    random = Random(2)
    mesh = formed(60, random_dials(60, 8, random), degrees_for(60), random)
    gossiped = arrivals(network, mesh, 1, record_bytes=300, flood=True)
    direct = arrivals(network, mesh, 1, record_bytes=300, flood=True, direct=True)
    narrow = arrivals(replace(network, bandwidth_kib=20), mesh, 1, record_bytes=300, flood=True)
    lossy = arrivals(replace(network, loss=0.2), mesh, 1, record_bytes=300, flood=True)
    assert (direct <= gossiped).all()
    assert narrow.mean() > gossiped.mean() * 1.1
    assert (lossy >= gossiped).all()
    assert lossy.sum() > gossiped.sum()
    assert np.diag(gossiped).sum() == 0.0


# --- against closed forms


def total(result: Result, column: str) -> int:
    return sum(int(value or 0) for value in result.rounds[column])


def test_a_thousand_nodes_find_as_many_frauds_as_the_form_says() -> None:
    """Nine of ten are lazy, frauds among them: whoever is found has a diligent one among its five auditors."""
    played = scenario(
        Group("lazy", 0.88), Group("fraudulent+lazy", 0.02), nodes=1000, rounds=3, protocol=Protocol()
    )
    result = fast.run(played, 1)
    frauds = total(result, "frauds")
    assert frauds == 60
    assert within_three_sigma(total(result, "found"), frauds, forms.caught_by_auditors(999, 100, 5))
    assert total(result, "rejected") == 0, "a full audit by the lazy slashes nobody"


def test_a_thousand_self_samplers_see_as_much_as_the_form_says() -> None:
    played = scenario(Group("lazy", 0.8), Group("fraudulent+lazy", 0.1), nodes=1000, rounds=2, protocol=KOII)
    result = fast.run(played, 2)
    chance = forms.seen_by_somebody(1000, 5, 100)
    assert within_three_sigma(total(result, "found"), total(result, "frauds"), chance)
    assert total(result, "rejected") == total(result, "found"), (
        "one vote against is enough, and nobody answers"
    )


def test_grinding_pays_as_the_form_says_and_only_in_the_draw() -> None:
    played = [
        scenario(Group("grinder", 0.5, parameters={"grinder": tries}), nodes=40, rounds=30)
        for tries in (1, 64)
    ]
    passed = [total(fast.run(one, 3), "approved_frauds") for one in played]
    chance = forms.hypergeometric(39, 19, 5, 5)
    first = fast.run(played[0], 3)
    assert passed[1] > passed[0]
    assert within_three_sigma(passed[0], total(first, "frauds"), chance)


def test_whoever_weighs_its_cost_cheats_where_the_form_says_that_it_pays() -> None:
    """With a tenth of submissions audited and a slash of 1.33 KOII for a reward of 0.025, p > C / (R + S) holds."""
    protocol = Protocol(audit=AuditRules(profile=Profile.POSP, audit_rate=1000))
    threshold = forms.honesty_threshold(Fraction(1, 2), Fraction(1), Fraction(1330, 25), Fraction(0))
    assert threshold < Fraction(1, 10)
    dear = scenario(Group("rational", 0.5, parameters={"rational": 0.5}), nodes=40, protocol=protocol)
    assert total(fast.run(dear, 1), "frauds") == 0
    cheap = replace(dear, economy=replace(dear.economy, slash=0.0, bounty=10**10))
    assert total(fast.run(cheap, 1), "frauds") > 0


# --- the engine itself


def test_the_same_seed_is_the_same_result_and_another_is_not() -> None:
    played = scenario(Group("fraudulent", 0.3, parameters={"fraudulent": 0.5}), Group("lazy", 0.3))
    assert fast.run(played, 1).digest == fast.run(played, 1).digest
    assert fast.run(played, 1).digest != fast.run(played, 2).digest


def test_a_group_behaves_well_until_its_round() -> None:
    result = fast.run(scenario(Group("fraudulent", 0.2, start_round=1), rounds=3), 1)
    assert result.rounds["frauds"] == [0, 5, 5]


def test_who_was_slashed_is_out_of_the_roster_when_its_list_is_settled() -> None:
    result = fast.run(scenario(Group("fraudulent", 0.2), rounds=5), 1)
    assert result.rounds["staked"] == [25, 25, 25, 20, 20]
    assert result.rounds["settlements"] == [5, 0, 0, 0, 0]
    assert result.rounds["wrongly_slashed"] == [0] * 5


def test_patrols_find_what_no_auditor_was_drawn_for() -> None:
    protocol = Protocol(audit=AuditRules(profile=Profile.POSP, audit_rate=1), patrols=5)
    result = fast.run(scenario(Group("fraudulent", 0.2), protocol=protocol), 1)
    assert total(result, "challenges") > 0
    assert total(result, "found") == total(result, "rejected") > 0
    without = fast.run(scenario(Group("fraudulent", 0.2), protocol=replace(protocol, patrols=0)), 1)
    assert total(without, "found") == 0


def test_canaries_are_found_and_nobody_is_slashed_for_one() -> None:
    result = fast.run(scenario(Group("lazy", 0.2), protocol=SEALED, rounds=4), 1)
    found = {
        outcome
        for canary, outcome in zip(result.submissions["canary"], result.submissions["outcome"], strict=True)
        if canary
    }
    assert found == {"CANARY"}
    assert total(result, "wrongly_slashed") == 0
    assert "OVERRULED" not in result.submissions["outcome"]


def test_a_net_too_slow_for_its_windows_loses_votes() -> None:
    still = scenario(nodes=25)
    slow = replace(
        still,
        network=replace(still.network, latency=Latency(low_ms=4000.0, high_ms=6000.0)),
        chain=Chain(slot_ms=100),
    )
    assert total(fast.run(still, 1), "votes_cast") == total(fast.run(still, 1), "votes_due")
    assert total(fast.run(slow, 1), "votes_cast") < total(fast.run(slow, 1), "votes_due")


@pytest.mark.parametrize("transport", Transport)
def test_a_direct_net_sends_each_record_once(transport: Transport) -> None:
    result = fast.run(scenario(protocol=Protocol(transport=transport)), 1)
    duplicates = sum(int(value or 0) for value in result.nodes["duplicates"])
    assert (duplicates == 0) is (transport is Transport.DIRECT)
    assert all(int(value or 0) > 0 for value in result.nodes["cpu_us"])


@pytest.mark.parametrize(
    ("refused", "why"),
    [
        (scenario(Group("censor", 0.1)), "censor"),
        (scenario(Group("sybil", 0.1)), "sybil"),
        (replace(scenario(), network=Network(nodes=25, churn=Churn(per_minute=1.0))), "churn"),
        (replace(scenario(), network=Network(nodes=25, partitions=(Partition(),))), "partitions"),
        (replace(scenario(), chain=Chain(loss=0.1)), "lost transactions"),
        (scenario(protocol=Protocol(audit=AuditRules(witness_seats=3))), "witnesses"),
        (replace(scenario(), network=Network(nodes=30_000)), "30000"),
        (scenario(nodes=2000, protocol=Protocol(audit=AuditRules(profile=Profile.ALL))), "audit everything"),
    ],
)
def test_what_it_does_not_play_it_refuses(refused: Scenario, why: str) -> None:
    with pytest.raises(ConfigurationError, match=why):
        fast.run(refused, 1)
