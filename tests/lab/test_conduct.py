"""What becomes of auditors that do not look: votes that are proved wrong, reputation, and the forms beside them."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from itertools import product

import pytest

from koii_p2p.lab import closed_forms as forms
from koii_p2p.lab import exact, fast
from koii_p2p.lab.conduct import conduct_of
from koii_p2p.lab.frames import frame_of
from koii_p2p.lab.pooling import metrics_of_frames
from koii_p2p.lab.result import TABLES, Result, rows_of
from koii_p2p.lab.scenario import Economy, Group, Network, Protocol, Scenario, Transport
from koii_p2p.lab.theory import theory_of
from koii_p2p.records.schema import Verdict
from koii_p2p.rounds.audit_rules import AuditRules, Weights
from koii_p2p.rounds.reputation import RoundStanding
from koii_p2p.rounds.tally import CONTRADICTED, AuditorStatus, Cast, Outcome, tally
from tests.lab.test_closed_forms import drawn, name
from tests.sigma import within_three_sigma

LOOKING, LAZY, PLAYERS = 9, 3, 3


def scenario(canaries: int, *, rounds: int, floor: int = 0, lazy: int = LAZY, nodes: int = 12) -> Scenario:
    """A quarter of all never looks; a quarter hands in canaries at this rate (basis points)."""
    return Scenario(
        rounds=rounds,
        network=Network(nodes=nodes, degree=4),
        protocol=Protocol(
            audit=AuditRules(sealed=True, canary_rate=canaries, reputation_floor=floor),
            canary_players=PLAYERS / 12 if canaries else 0.0,
            presence_seconds=0.0,
            transport=Transport.DIRECT,
        ),
        population=(Group("lazy", lazy / nodes),),
        economy=Economy(audit_cost=1_000_000),
    )


@cache
def quick(canaries: int, rounds: int, floor: int = 0) -> Result:
    return fast.run(scenario(canaries, rounds=rounds, floor=floor), 1)


def value(result: Result, metric: str) -> float:
    found = result.metric(metric).value
    assert found is not None
    return found


@pytest.mark.parametrize("run", [fast.run, exact.play], ids=["fast", "exact"])
def test_a_canary_a_round_proves_every_time_who_does_not_look(run: object) -> None:
    found = run(scenario(10_000, rounds=2), 1)  # type: ignore[operator]
    assert found.nodes["overruled"] == [0] * LOOKING + [2] * LAZY
    assert set(found.nodes["reputation"][LOOKING:]) == {0} != set(found.nodes["reputation"][:LOOKING])
    assert value(found, "overruled.lazy") == 1.0
    assert value(found, "overruled.honest") == value(found, "caught_votes.honest") == 0.0
    assert value(found, "caught_votes.lazy") == value(found, "wrong_votes.lazy")
    # Each of them votes on each canary, and on nothing else that is bad.
    caught = [row for row in rows_of(found.votes) if row["caught"]]
    assert len(caught) == 2 * PLAYERS * LAZY
    assert {row["verdict"] for row in caught} == {"VALID"}
    # Owning up is no vote, and no detection.
    assert all(row["auditor"] != row["author"] for row in rows_of(found.votes))
    assert value(found, "wrong_work") == 0.0


def test_without_canaries_nobody_is_proved_wrong_and_nothing_else_differs_in_coins() -> None:
    without, played = quick(0, 20), quick(10_000, 20)
    assert value(without, "overruled.lazy") == value(without, "caught_votes.lazy") == 0.0
    assert value(without, "reputation.lazy") == value(without, "reputation.honest") == 10_000
    assert value(played, "reputation.lazy") == 0
    # The rules take no coins for a vote that was wrong: what players are not paid goes to all others.
    assert value(played, "profit.lazy") > value(without, "profit.lazy") > value(without, "profit.honest")
    assert value(played, "profit.honest") < value(without, "profit.honest")


def test_those_who_are_proved_wrong_are_audited_as_often_as_newcomers() -> None:
    found = quick(10_000, 20, 2000)
    assert value(found, "audited.lazy") == 1.0
    assert value(found, "audited.honest") < 0.7


def test_reputation_and_audits_follow_the_forms() -> None:
    """Of forty runs, in each of which all lazy auditors meet the same canaries."""
    played = scenario(1000, rounds=14, floor=2000)
    said = theory_of(played)
    runs = [fast.run(played, seed) for seed in range(40)]
    rounds = sum(int(run.nodes["overruled"][-1] or 0) for run in runs)
    chance = forms.overruled_by_canaries(PLAYERS, 0.1)
    assert said["overruled.lazy"][0] == pytest.approx(chance)
    assert within_three_sigma(rounds, 40 * 14, chance)
    for metric, sigma in (("reputation.lazy", 3300), ("audited.lazy", 0.1)):
        mean = sum(value(run, metric) for run in runs) / len(runs)
        assert abs(mean - said[metric][0]) < 3 * sigma / len(runs) ** 0.5, metric


def test_the_share_of_votes_that_canaries_prove_follows_its_form() -> None:
    played = scenario(3000, rounds=30)
    found = fast.run(played, 2).metric("caught_votes.lazy")
    assert found.value is not None
    form = theory_of(played)["caught_votes.lazy"][0]
    assert form == pytest.approx(forms.caught_share(PLAYERS, 0.3, 5, 11))
    # The number of canaries is what varies: 90 draws of three tenths.
    assert found.value == pytest.approx(form, abs=3 * form * (0.7 / 0.3 / 90) ** 0.5)


def test_where_half_do_not_look_canaries_prove_nothing() -> None:
    played = scenario(10_000, rounds=2, lazy=7)
    assert theory_of(played)["overruled.lazy"][0] == 0.0
    found = fast.run(played, 1)
    assert value(found, "overruled.lazy") == 0.0
    assert "CANARY" not in found.submissions["outcome"]


def test_seeds_are_pooled_without_mixing_their_votes() -> None:
    """Node 3's canary in one run is node 3's good work in another."""
    played = scenario(3000, rounds=4)
    runs = [fast.run(played, seed) for seed in (1, 2)]
    frames = {
        table: frame_of(table, runs[0].frame(table)).vstack(frame_of(table, runs[1].frame(table)))
        for table in TABLES
    }
    pooled = {one.name: one for one in metrics_of_frames(frames, played)}
    for metric in ("caught_votes.lazy", "overruled.lazy", "wrong_work"):
        counts = [run.metric(metric).count for run in runs]
        caught = sum(value(run, metric) * count for run, count in zip(runs, counts, strict=True))
        assert pooled[metric].count == sum(counts)
        assert pooled[metric].value == pytest.approx(caught / sum(counts))


# --- by the rules themselves


@pytest.mark.parametrize(("verdict", "outcome"), list(product(Verdict, Outcome)))
def test_what_contradicts_an_outcome_is_what_the_tally_overrules(verdict: Verdict, outcome: Outcome) -> None:
    """One auditor of nine says it, against what the other eight make of the submission."""
    assignment = drawn(9, AuditRules(auditors=9, weights=Weights.EQUAL, sealed=True, canary_rate=1))
    author = b"a" * 32
    others = {
        Outcome.APPROVED: Verdict.VALID,
        Outcome.REJECTED: Verdict.INVALID,
        Outcome.CANARY: Verdict.INVALID,
        Outcome.UNAVAILABLE: Verdict.UNAVAILABLE,
    }.get(outcome)
    if others is None:
        assert (verdict, outcome) not in CONTRADICTED
        return
    votes = {name(index): others for index in range(1, 9)} | {name(0): verdict}
    cast = Cast({author: votes}, canaries=[author] if outcome is Outcome.CANARY else ())
    counted = tally([author], cast, assignment)
    assert counted.outcomes[author] is outcome
    overruled = counted.auditors[name(0)] is AuditorStatus.OVERRULED
    assert overruled is ((verdict, outcome) in CONTRADICTED)


def test_a_score_is_that_of_the_round_in_which_the_newest_counts() -> None:
    """docs/reputation.md: flawless, then overruled once."""
    good = [RoundStanding(number, {}, {b"k": AuditorStatus.DILIGENT}) for number in range(12)]
    found = conduct_of([*good[:11], replace(good[11], auditors={b"k": AuditorStatus.OVERRULED})])
    assert (found.scores[b"k"], found.overruled[b"k"]) == (4736, 1)
    assert conduct_of([]).scores == {}


def test_mean_scores() -> None:
    assert [forms.mean_score(rounds, 0.0) for rounds in (0, 1, 4, 12, 99)] == [0, 1818, 5714, 10_000, 10_000]
    assert forms.mean_score(12, 1.0) == 0
    # Of two rounds, each overruled in half of all cases: by the weights of ages 0 and 1.
    flawless, new, old = 360413, 65536, 55108
    scores = [
        (new + old) / flawless,
        old / (flawless + 4 * new),
        new / (flawless + 4 * old),
        0,
    ]
    assert forms.mean_score(2, 0.5) == pytest.approx(10_000 * sum(scores) / 4, abs=1)
    for chance in (0.05, 0.2):
        assert forms.mean_score(12, chance) == pytest.approx(
            10_000 * (1 - chance) / (1 + 4 * chance), rel=0.15
        )
    assert forms.overruled_by_canaries(30, 0.05) == pytest.approx(1 - 0.95**30)
    assert forms.overruled_by_canaries(30, 0.05, 1.0) == 0.0
    with pytest.raises(ValueError, match="chance"):
        forms.mean_score(3, 1.5)
