"""What a round's list gives one key and takes from it, how that came about, and what K2 has done about it."""

from __future__ import annotations

from dataclasses import dataclass, replace

from koii_p2p.rounds.anchors import AnchoredRound
from koii_p2p.rounds.audit_rules import BASIS_POINTS
from koii_p2p.rounds.commitment import BuiltRound
from koii_p2p.rounds.distribution import (
    DistributionError,
    DistributionList,
    effective_stake,
    next_list,
    submitters_of,
)
from koii_p2p.rounds.roster import Roster, StakeHistory
from koii_p2p.rounds.tally import Outcome
from koii_p2p.rounds.terms import TaskTerms
from koii_p2p.rounds.verification import Distribute, NotRecomputed
from koii_p2p.rounds.why import APPROVED, Why


@dataclass(frozen=True, slots=True)
class Found:
    """A share of one slash, in Roe, for having found the fraud of `author`: by accusing it, or in the full audit."""

    author: bytes
    share: int
    accused: bool


@dataclass(frozen=True, slots=True)
class OwnRule:
    """What the task's own distribution gives the key when it is run again: Roe, negative a slash, before shares and
    convictions. `agrees`: it leads to the key's leaf of the anchored list. `amount` is None where it gave no list,
    and `why` says why.
    """

    amount: int | None
    agrees: bool
    why: str = ""


@dataclass(frozen=True, slots=True)
class AmountDetail:
    """All in Roe. `reward` and `slash` are what this round added, None where the list before is not at hand.

    `reward_total` and `slash_total` are the leaf, everything up to this round; `paid` and `taken` what K2 has settled
    of them. Of the reward, `found` is for frauds found, `distributed` is what the task's distribution gave: the equal
    split of Koii's default list (`bounty // approved`) if it is `equal_split`. A slash is `slash_basis_points` of the
    `effective_stake` by default: the stake less slashes that K2 has not taken yet. `own` is what a distribution of the
    task's own gives, None if it has none or was not run.
    """

    reward: int | None
    slash: int | None
    reward_total: int
    slash_total: int
    paid: int
    taken: int
    distributed: int | None
    found: tuple[Found, ...]
    bounty: int
    approved: int | None
    slash_basis_points: int
    effective_stake: int | None
    own: OwnRule | None = None

    @property
    def equal_split(self) -> bool:
        """Whether what was distributed is Koii's default: the bounty in equal parts to all approved."""
        return bool(self.approved) and self.distributed == self.bounty // (self.approved or 1)

    @property
    def default_slash(self) -> bool:
        """Whether the slash is Koii's default: a fixed share of the stake at risk."""
        if self.slash is None or self.effective_stake is None:
            return False
        return self.slash == self.effective_stake * self.slash_basis_points // BASIS_POINTS

    def without_previous(self) -> AmountDetail:
        """The same if the list before this one is not at hand; nothing was ever added where the totals are 0."""
        if not self.reward_total and not self.slash_total:
            return self
        return replace(
            self, reward=None, slash=None, distributed=None, found=(), effective_stake=None, own=None
        )


def amounts_of(
    terms: TaskTerms,
    roster: Roster | None,
    stake: StakeHistory | None,
    listed: DistributionList | None,
    previous: DistributionList | None,
    built: BuiltRound | None,
    key: bytes,
    distribute: Distribute | None = None,
) -> AmountDetail | None:
    """What the anchored list has for one key, None if there is no list or the key is not on it.

    `previous` is the list before this one, None if this is the first; `distribute` the task's own distribution, if it
    has one and it is at hand.
    """
    leaf = listed.leaf(key) if listed else None
    if listed is None or leaf is None:
        return None
    reward, slash = _added(previous, listed, key)
    found = _found(terms, roster, listed, previous, built, key)
    outcomes = built.tally.outcomes.values() if built else ()
    detail = AmountDetail(
        reward=reward,
        slash=slash,
        reward_total=leaf.reward_total,
        slash_total=leaf.slash_total,
        paid=stake.reward_paid if stake else 0,
        taken=stake.checkpoints[-1].slash_total if stake and stake.checkpoints else 0,
        distributed=reward - sum(one.share for one in found),
        found=found,
        bounty=terms.bounty_per_round,
        approved=sum(outcome is Outcome.APPROVED for outcome in outcomes) if built else None,
        slash_basis_points=terms.slash_basis_points,
        effective_stake=effective_stake(previous, roster, key) if roster and key in roster else None,
        own=_own_rule(terms, roster, listed, previous, built, key, distribute),
    )
    # Totals only grow: if they shrank, this is not the list that the round was built on.
    return detail if reward >= 0 and slash >= 0 else detail.without_previous()


def _own_rule(
    terms: TaskTerms,
    roster: Roster | None,
    listed: DistributionList,
    previous: DistributionList | None,
    built: BuiltRound | None,
    key: bytes,
    distribute: Distribute | None,
) -> OwnRule | None:
    if distribute is None or built is None or roster is None:
        return None
    submitters = submitters_of(built.tally.outcomes, roster, previous)
    try:
        amounts = distribute(submitters, terms.bounty_per_round, roster.round)
        expected = next_list(previous, roster, amounts, terms, built.tally)
    except (NotRecomputed, DistributionError) as error:
        return OwnRule(None, agrees=False, why=str(error))
    return OwnRule(amounts.get(key, 0), agrees=expected.leaf(key) == listed.leaf(key))


def _added(previous: DistributionList | None, listed: DistributionList, key: bytes) -> tuple[int, int]:
    before, after = (one.leaf(key) if one else None for one in (previous, listed))
    reward, slash = (after.reward_total, after.slash_total) if after else (0, 0)
    return reward - (before.reward_total if before else 0), slash - (before.slash_total if before else 0)


def _found(
    terms: TaskTerms,
    roster: Roster | None,
    listed: DistributionList,
    previous: DistributionList | None,
    built: BuiltRound | None,
    key: bytes,
) -> tuple[Found, ...]:
    """The key's shares of this round's slashes, by the rule of `distribution.next_list`."""
    if built is None or roster is None or key not in roster or key in built.tally.equivocators:
        return ()
    if effective_stake(previous, roster, key) < terms.minimum_stake:
        return ()
    shares = []
    for author, finders in built.tally.finders.items():
        _reward, slash = _added(previous, listed, author)
        sides = [side for side in (finders.accusers, finders.voters) if side]
        for side in sides:
            if key in side:
                pool = slash * terms.audit.finders_share // BASIS_POINTS
                shares.append(Found(author, pool // len(sides) // len(side), side is finders.accusers))
    return tuple(share for share in shares if share.share)


def reason_of_money(
    terms: TaskTerms,
    slot: int,
    anchored: AnchoredRound | None,
    listed: DistributionList | None,
    amounts: AmountDetail | None,
    work: Why,
) -> Why | None:
    """What became of the amount; None while nothing is anchored."""
    if anchored is None:
        return None
    clock, number, attempt = terms.clock, anchored.round, anchored.attempt
    if anchored.rejected:
        over = slot >= clock.commitment(number, attempt + 1).closes
        return Why.FORFEITED if over or attempt >= terms.allowed_failed_distributions else Why.LIST_REJECTED
    if anchored.list_root is None:
        if slot < clock.distribution(number, attempt).closes:
            return Why.AWAITING_LIST
        return Why.LIST_OVERDUE if slot < clock.settles_at(number, attempt) else Why.NO_LIST
    if slot < clock.settles_at(number, attempt):
        return Why.LIST_IN_AUDIT
    if listed is None:
        return Why.LIST_UNREAD
    return _settlement(amounts, work) if amounts is not None else Why.NOT_LISTED


def _settlement(amounts: AmountDetail, work: Why) -> Why:
    if amounts.reward is None or amounts.slash is None:
        return Why.AMOUNT_UNKNOWN
    if amounts.slash > 0 and amounts.taken < amounts.slash_total:
        return Why.SLASH_PENDING
    if amounts.reward > 0 and amounts.paid < amounts.reward_total:
        return Why.UNCLAIMED
    if amounts.slash > 0:
        return Why.SLASH_TAKEN
    if amounts.reward > 0:
        return Why.PAID
    return Why.GAVE_NOTHING if work in APPROVED else Why.NOTHING_DUE
