"""A testnet whose task distributes by a rule of its own: checked with its code, without it, and with another's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

from koii_p2p.limits import Limits
from koii_p2p.rounds.distribution import Submitter
from koii_p2p.rounds.tally import Outcome
from koii_p2p.rounds.verification import not_at_hand
from koii_p2p.testnets.check import check
from koii_p2p.testnets.evidence import Evidence, load_evidence, save_evidence
from koii_p2p.testnets.identity import EQUIVOCATING, WRONG_VALUE
from koii_p2p.testnets.outcome import outcome_json, outcome_of
from koii_p2p.testnets.run import outcome_from
from tests.testnets.played import SLASH, STAKE, Game, Role, played

REWARD = 123_456_789


def lesson(group: Sequence[Submitter], bounty: int, number: int) -> Mapping[bytes, int]:
    """A fixed reward, and the whole stake for what was rejected."""
    return {
        one.key: REWARD if one.outcome is Outcome.APPROVED else -one.stake * (one.outcome is Outcome.REJECTED)
        for one in group
    }


@cache
def own() -> Evidence:
    roles = [*(Role() for _ in range(4)), Role(WRONG_VALUE), Role(EQUIVOCATING)]
    return replace(Game(roles, 3, distribute=lesson).evidence(), own_distribution=True)


def test_with_the_tasks_distribution_everything_is_verified_and_as_expected() -> None:
    outcome = outcome_from(own(), lesson)
    assert (outcome.report.findings, outcome.failures) == ((), ())
    assert outcome.ok
    assert outcome.report.unrecomputed == {}
    for row in outcome.nodes[:4]:
        assert (row.paid, row.taken) == (3 * REWARD, 0)
    assert (outcome.nodes[4].paid, outcome.nodes[4].taken) == (0, STAKE)
    assert outcome.nodes[5].taken == SLASH, "a conviction costs what the terms say, whatever the task says"


def test_without_the_code_it_is_never_verified_and_nothing_is_called_wrong() -> None:
    outcome = outcome_from(own())
    assert outcome.report.findings == ()
    assert outcome.report.unrecomputed.keys() == {0, 1, 2}
    assert not outcome.report.verified
    assert not outcome.ok
    assert outcome.failures == (), "what nobody could compute is not expected either"
    shown = outcome_json(outcome)
    assert (shown["verified"], shown["findings"]) == (False, [])
    assert [one["round"] for one in shown["unrecomputed"]] == [0, 1, 2]
    assert "not at hand" in shown["unrecomputed"][0]["why"]


def test_another_rule_finds_every_leaf_that_it_would_not_have_made() -> None:
    report = check(own())
    assert {"list_leaf", "reward_total", "slash_total"} <= {finding.code for finding in report.findings}
    assert report.unrecomputed == {}


def test_a_rule_that_gives_no_list_proves_nothing_wrong() -> None:
    """As where the task's code at hand is broken, or of another version."""
    report = check(played(), not_at_hand)
    assert (report.findings, report.verified) == ((), False)
    assert outcome_of(report, played().nodes).failures == ()


def test_a_lie_in_what_every_list_has_to_keep_is_found_without_the_code() -> None:
    evidence = own()
    chain = evidence.chain
    report = check(
        replace(evidence, chain=replace(chain, rents=(chain.rents[0], chain.rents[1] + 1))), not_at_hand
    )
    assert {finding.code for finding in report.findings} == {"stake_account"}
    assert not report.verified


def test_evidence_says_whether_the_rule_is_the_tasks_own(tmp_path: Path) -> None:
    for name, evidence in (("own", own()), ("koii", played())):
        save_evidence(evidence, tmp_path / name)
        loaded = load_evidence(tmp_path / name, Limits())
        assert loaded == evidence
        assert outcome_from(loaded).report.verified is (name == "koii")
