"""What every distribution list has to keep, whatever rule a task distributes by."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from koii_p2p.rounds.audit_rules import BASIS_POINTS
from koii_p2p.rounds.distribution import DistributionList, Leaf, effective_stake, shares_of
from koii_p2p.rounds.roster import Roster
from koii_p2p.rounds.tally import Tally
from koii_p2p.rounds.terms import TaskTerms


def broken_bounds(
    listed: DistributionList,
    previous: DistributionList | None,
    roster: Roster,
    terms: TaskTerms,
    counted: Tally,
) -> Iterator[tuple[str, bytes | None]]:
    """What is wrong with the list of the round of `roster` by any rule: sentences, with the key that each is about.

    The part of `distribution.next_list` that does not depend on the task's amounts, for whoever cannot run the task's
    code: totals only grow, everybody is on it, the bounty suffices, no slash exceeds the stake at risk, whoever was
    ejected or did not submit gets and loses nothing, who is convicted is paid nothing and loses the default slash, and
    those who found a fraud get their share. `counted` is what the records came to. Linear in the leaves.
    """
    before = {leaf.staker: leaf for leaf in previous.leaves} if previous else {}
    for key in sorted({*before, *roster.keys} - {leaf.staker for leaf in listed.leaves}):
        yield f"{key.hex()} is not on the list", key
    added = {leaf.staker: _added(leaf, before.get(leaf.staker)) for leaf in listed.leaves}
    found = _found(added, counted, terms)
    bounty = 0
    for key, (reward, slash) in added.items():
        if reward < 0 or slash < 0:
            yield f"the totals of {key.hex()} are less than on the list before", key
            continue
        standing = key in roster and effective_stake(previous, roster, key) >= terms.minimum_stake
        convicted = key in counted.equivocators
        share = found[key] if standing and not convicted else 0
        bounty += reward - share
        if not standing and (reward or slash):
            yield f"{key.hex()} has no stake at risk, and is paid {reward} and slashed {slash} Roe", key
        elif standing:
            yield from _fault_of(key, reward - share, slash, convicted, previous, roster, terms, counted)
    if bounty > terms.bounty_per_round:
        yield f"rewards of {bounty} Roe exceed the bounty of {terms.bounty_per_round}", None


def _fault_of(
    key: bytes,
    given: int,
    slash: int,
    convicted: bool,
    previous: DistributionList | None,
    roster: Roster,
    terms: TaskTerms,
    counted: Tally,
) -> Iterator[tuple[str, bytes]]:
    at_risk = effective_stake(previous, roster, key)
    due = at_risk * terms.slash_basis_points // BASIS_POINTS if convicted else 0
    if given < 0:
        yield f"{key.hex()} found a fraud and gets {-given} Roe less than its share", key
    if slash > at_risk:
        yield f"{slash} Roe are taken from {key.hex()}, who has {at_risk} at risk", key
    if convicted and (given > 0 or slash < due):
        yield f"{key.hex()} is convicted: it is paid {given} and loses {slash} Roe, and {due} are due", key
    if key not in counted.outcomes and not convicted and (given > 0 or slash):
        yield f"{key.hex()} did not submit, and is paid {given} and slashed {slash} Roe", key


def _added(leaf: Leaf, last: Leaf | None) -> tuple[int, int]:
    if last is None:
        return leaf.reward_total, leaf.slash_total
    return leaf.reward_total - last.reward_total, leaf.slash_total - last.slash_total


def _found(added: dict[bytes, tuple[int, int]], counted: Tally, terms: TaskTerms) -> Counter[bytes]:
    shares: Counter[bytes] = Counter()
    for author, finders in counted.finders.items():
        _reward, slash = added.get(author, (0, 0))
        shares.update(shares_of(finders, max(slash, 0) * terms.audit.finders_share // BASIS_POINTS))
    return shares
