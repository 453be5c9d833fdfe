"""Tasks with a distribution of their own: lists held against it, and lists of which nobody can say what they follow."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from koii_p2p.rounds.distribution import (
    DistributionList,
    Leaf,
    Submitter,
    default_distribution,
    effective_stake,
    next_list,
    submitters_of,
)
from koii_p2p.rounds.findings import FindingCode as F
from koii_p2p.rounds.list_bounds import broken_bounds
from koii_p2p.rounds.objections import ListObjection
from koii_p2p.rounds.tally import Outcome
from koii_p2p.rounds.verification import Distribute, NotRecomputed, RoundReport, check_round, not_at_hand
from tests.rounds.net import (
    GENESIS,
    STAKE,
    TERMS,
    Round,
    challenge,
    key,
    play,
    secret,
    submission,
    with_rules,
)
from tests.rounds.simulation import BOUNTY, Net, Peer, records_read_once

SHARING = with_rules(finders_share=3000)
BY_THE_LESSON = 5_000_000


def lesson(group: Sequence[Submitter], bounty: int, number: int) -> dict[bytes, int]:
    """A fixed reward, and the whole stake for what was rejected."""
    gives = {Outcome.APPROVED: BY_THE_LESSON}
    return {
        one.key: -one.stake if one.outcome is Outcome.REJECTED else gives.get(one.outcome, 0) for one in group
    }


def relisted(played: Round, listed: DistributionList) -> Round:
    evidence = replace(
        played.evidence,
        list=listed.encode(),
        anchored_root=listed.root,
        anchored_reward_total=listed.reward_total,
        anchored_slash_total=listed.slash_total,
    )
    return replace(played, evidence=evidence)


def by(distribute: Distribute, played: Round, previous: DistributionList | None = None) -> Round:
    """The round with the list that another distribution leads to."""
    roster, terms = played.evidence.roster, played.terms
    group = submitters_of(played.commitment.outcome_of, roster, previous)
    amounts = distribute(group, terms.bounty_per_round, roster.round)
    return relisted(played, next_list(previous, roster, amounts, terms, played.tally))


def check(
    played: Round, distribute: Distribute | None, previous: DistributionList | None = None
) -> RoundReport:
    return check_round(played.terms, GENESIS, played.evidence, previous, distribute)


PLAYED = by(lesson, play(nodes=8, cheaters=(1, 4)))


def test_a_list_by_the_tasks_own_rule_is_right_by_that_rule_alone() -> None:
    report = check(PLAYED, lesson)
    assert (report.findings, report.unrecomputed) == ((), None)
    assert report.amounts is not None
    assert report.amounts[key(1)] == -STAKE
    assert report.list is not None
    assert report.list.leaf(key(0)) == Leaf(key(0), BY_THE_LESSON, 0)
    assert F.LIST_LEAF in check(PLAYED, None).codes
    assert check(PLAYED, None).amounts is None


def test_without_the_code_a_list_is_neither_right_nor_wrong() -> None:
    report = check(PLAYED, not_at_hand)
    assert report.findings == ()
    assert report.unrecomputed is not None
    assert "the task's code is not at hand" in report.unrecomputed
    assert report.amounts is None
    assert report.list is not None, "later rounds build on the anchored list"
    assert report.list.root == PLAYED.evidence.anchored_root


def test_a_distribution_that_cannot_be_run_says_why() -> None:
    def broken(group: Sequence[Submitter], bounty: int, number: int) -> Mapping[bytes, int]:
        raise NotRecomputed("its worker ran out of time")

    assert check(PLAYED, broken).unrecomputed == "its worker ran out of time"


def test_nothing_is_missing_where_no_list_is_anchored() -> None:
    bare = replace(PLAYED, evidence=replace(PLAYED.evidence, anchored_root=None, list=None))
    assert check(bare, not_at_hand).unrecomputed is None


def test_everything_else_is_checked_without_the_code_as_well() -> None:
    for change, code in (
        ({"anchored_reward_total": 1}, F.REWARD_TOTAL),
        ({"anchored_root": bytes(32)}, F.LIST_ROOT),
        ({"bundle": b""}, F.BUNDLE_CID),
    ):
        changed = replace(PLAYED, evidence=replace(PLAYED.evidence, **change))
        assert code in check(changed, not_at_hand).codes


# --- what every list has to keep


def changed(listed: DistributionList, staker: bytes, reward: int, slash: int) -> DistributionList:
    leaves = [Leaf(staker, reward, slash) if one.staker == staker else one for one in listed.leaves]
    return DistributionList(listed.round, tuple(leaves))


FRAUD = by(
    lesson,
    play(8, (1, 4), SHARING, extra=(challenge(secret(0), submission(secret(1), "Goodbye")),)),
)


@pytest.mark.parametrize(
    ("staker", "reward", "slash", "part"),
    [
        (0, TERMS.bounty_per_round, 0, "exceed the bounty"),
        (1, 0, STAKE + 1, "are taken from"),
        (0, BY_THE_LESSON, 1, None),  # the task's own affair
        (0, 0, 0, None),
    ],
)
def test_a_list_that_no_rule_could_lead_to(staker: int, reward: int, slash: int, part: str | None) -> None:
    listed = DistributionList.decode(PLAYED.evidence.list or b"")
    report = check(relisted(PLAYED, changed(listed, key(staker), reward, slash)), not_at_hand)
    assert report.unrecomputed is not None
    assert report.codes == ({F.LIST_BOUNDS} if part else set())
    assert part is None or part in report.findings[0].text


def test_a_staker_who_is_left_out_is_missed_without_the_code() -> None:
    listed = DistributionList.decode(PLAYED.evidence.list or b"")
    less = DistributionList(listed.round, listed.leaves[1:])
    (finding,) = check(relisted(PLAYED, less), not_at_hand).findings
    assert (finding.code, finding.subject) == (F.LIST_BOUNDS, listed.leaves[0].staker)


def test_totals_do_not_shrink_and_nobody_is_slashed_twice() -> None:
    first = next_list(None, PLAYED.evidence.roster, {key(0): 9, key(1): -STAKE}, PLAYED.terms, PLAYED.tally)
    before = DistributionList(PLAYED.evidence.roster.round - 1, first.leaves)
    roster, terms = PLAYED.evidence.roster, PLAYED.terms
    right = next_list(before, roster, {key(0): 1}, terms, PLAYED.tally)
    assert list(broken_bounds(right, before, roster, terms, PLAYED.tally)) == []
    for staker, reward, slash, part in (
        (0, 8, 0, "less than on the list before"),
        (1, 0, STAKE + 1, "no stake at risk"),
        (1, 5, STAKE, "no stake at risk"),
    ):
        wrong = changed(right, key(staker), reward, slash)
        (fault,) = broken_bounds(wrong, before, roster, terms, PLAYED.tally)
        assert part in fault[0]
        assert fault[1] == key(staker)


def test_who_found_a_fraud_gets_the_share_whatever_the_rule() -> None:
    assert check(FRAUD, lesson).findings == ()
    assert check(FRAUD, not_at_hand).findings == ()
    listed = DistributionList.decode(FRAUD.evidence.list or b"")
    finder = next(one for one in listed.leaves if one.reward_total > BY_THE_LESSON)
    less = changed(listed, finder.staker, 0, 0)
    report = check(relisted(FRAUD, less), not_at_hand)
    assert report.codes == {F.LIST_BOUNDS}
    assert "less than its share" in report.findings[0].text


@settings(max_examples=60)
@given(st.data())
def test_any_list_that_keeps_the_rules_keeps_the_bounds(data: st.DataObject) -> None:
    """The bounds are those of `next_list`: whatever a distribution may say leads to a list that breaks none."""
    played = data.draw(st.sampled_from([PLAYED, FRAUD]))
    roster, left = played.evidence.roster, played.terms.bounty_per_round
    previous = data.draw(
        st.sampled_from(
            [None, DistributionList(0, tuple(Leaf(one, 7, STAKE // 2) for one in roster.keys[:3]))]
        )
    )
    amounts = {}
    for one in played.commitment.outcome_of:
        amounts[one] = data.draw(st.integers(-effective_stake(previous, roster, one), left // 4))
        left -= max(amounts[one], 0)
    listed = next_list(previous, roster, amounts, played.terms, played.tally)
    assert list(broken_bounds(listed, previous, roster, played.terms, played.tally)) == []


# --- nodes that come to different lists


class Undecided(Peer):
    """A node whose task computes another list at every node, and at every call."""

    def distribution(self, number: int, submitters: Sequence[Submitter], bounty: int) -> Mapping[bytes, int]:
        amounts = default_distribution(submitters, bounty, self.net.terms.slash_basis_points)
        return {
            one: amount - self.random.randrange(1000) if amount > 0 else amount
            for one, amount in amounts.items()
        }


@pytest.fixture
def quick() -> Iterator[None]:
    with records_read_once():
        yield


@pytest.mark.usefixtures("quick")
def test_where_every_node_comes_to_another_list_the_round_pays_nobody() -> None:
    """Every attempt is vetoed by the others, until none is left: nobody is paid or slashed, and the net goes on."""
    net = Net(0, crew=[Undecided] * 4)
    attempts = net.terms.allowed_failed_distributions
    net.run_until_settled(0, attempts)
    anchored = net.chain.anchored[0]
    assert (anchored.attempt, anchored.rejected) == (attempts, True)
    assert net.chain.transactions.count(("list", 0)) == attempts + 1
    assert all(0 not in peer.settled for peer in net.peers)
    assert all(net.stake_of(peer) == 1_900_000_000 for peer in net.peers)
    said = [net.vote_of(peer, 0) for peer in net.peers]
    against = [vote for vote in said if vote is not None and not vote.agree]
    assert len(against) == 3
    assert {vote.reason for vote in against} == {ListObjection.WRONG_LIST}
    assert max(net.chain.anchored) >= attempts, "later rounds are committed to as ever"


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("odd", [1, 2])
def test_a_minority_that_comes_to_another_list_changes_nothing(odd: int) -> None:
    net = Net(5 - odd, crew=[partial(Undecided)] * odd)
    for number in range(2):
        net.run_until_settled(number, 1)
        anchored = net.chain.anchored[number]
        assert not anchored.rejected
        assert {peer.settled[number] for peer in net.peers} == {anchored.list_root}, "all go by what stands"
        assert anchored.reward_total == (number + 1) * (BOUNTY // 5 * 5)


@pytest.mark.usefixtures("quick")
def test_lists_that_break_a_rule_are_asked_for_again_and_never_anchored() -> None:
    """What one node's task says beyond its bounty is that node's affair: the others list the round."""

    class Greedy(Peer):
        asked = 0

        def distribution(
            self, number: int, submitters: Sequence[Submitter], bounty: int
        ) -> Mapping[bytes, int]:
            self.asked += 1
            return {self.key: bounty + 1}

    net = Net(4, crew=[Greedy])
    net.run_until_settled(0)
    (greedy,) = (peer for peer in net.peers if isinstance(peer, Greedy))
    assert greedy.asked > 1
    assert net.chain.anchored[0].list_by != greedy.key
    assert net.chain.anchored[0].reward_total == BOUNTY
    assert not net.chain.anchored[0].rejected
