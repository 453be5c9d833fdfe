"""What a testnet should end with: it follows from the task's rules, the draws, and how its nodes were told to behave.

The check has shown by then that every outcome follows from the records. Here it is asked whether these are the right
records and the right outcomes: that the honest were paid and kept their stake, that frauds were found wherever
somebody honest was due to look, and that lies changed nothing, or what the rules of Koii's client let them change.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from solders.pubkey import Pubkey

from koii_p2p.records.schema import Verdict
from koii_p2p.rounds.audit_rules import BASIS_POINTS, Profile
from koii_p2p.rounds.distribution import Leaf
from koii_p2p.rounds.eligibility import DRAWN
from koii_p2p.rounds.round_records import cast_in
from koii_p2p.rounds.tally import AuditorStatus, Outcome, koii_outcome
from koii_p2p.rounds.terms import TaskTerms
from koii_p2p.testnets.check import CheckedRound, CheckReport, Played
from koii_p2p.testnets.identity import EQUIVOCATING, LATE_ACCUSER, OMITTING_LEADER, NodeIdentity

CONDEMNED = frozenset({Outcome.REJECTED, Outcome.EQUIVOCATED})
"""Outcomes that cost a stake."""


@dataclass(frozen=True, slots=True)
class Money:
    """What a node should have been given and have lost, in Roe; `bonds` of attempts that it anchored in vain."""

    reward: int = 0
    slash: int = 0
    bonds: int = 0


def key_of(node: NodeIdentity) -> bytes:
    """The staking key of a node."""
    return bytes(Pubkey.from_string(node.key))


def who_is_who(nodes: Iterable[NodeIdentity]) -> dict[bytes, NodeIdentity]:
    """The nodes by staking key."""
    return {key_of(node): node for node in nodes}


# --- verdicts


def expected_outcome(played: Played, author: bytes, nodes: Mapping[bytes, NodeIdentity]) -> Outcome | None:
    """What should have become of a node's submission; None where the rules promise nothing.

    Work that the task made is approved. A node that signs two submissions is convicted by them. A wrong value is
    rejected if somebody was to look at it, or challenged it, who votes as its task says; if nobody was, it may pass.
    Under profile koii false votes count like any other: what they lead to is then what is expected.
    """
    node, cast = nodes[author], cast_in(played.records)
    if node.behaviour == EQUIVOCATING:
        return Outcome.EQUIVOCATED
    if author in cast.canaries:
        return Outcome.CANARY
    votes = cast.first.get(author, {})
    koii = played.assignment.rules.profile is Profile.KOII
    if not node.cheats:
        return (
            koii_outcome(votes.values()) if koii and lies_about(played, author, nodes) else Outcome.APPROVED
        )
    if _is_looked_at(played, author, nodes) or cast.challengers.get(author):
        return Outcome.REJECTED
    return None


def lies_about(played: Played, author: bytes, nodes: Mapping[bytes, NodeIdentity]) -> frozenset[bytes]:
    """Who called the good work of a node invalid; empty as well if anybody honest did, which is no lie but a fault."""
    against = {
        auditor
        for auditor, verdict in cast_in(played.records).first.get(author, {}).items()
        if verdict is Verdict.INVALID
    }
    honest = [auditor for auditor in against if auditor not in nodes or not _is_liar(nodes[auditor])]
    return frozenset() if honest or nodes[author].cheats else frozenset(against)


def _is_liar(node: NodeIdentity) -> bool:
    return node.behaviour == LATE_ACCUSER


def _is_looked_at(played: Played, author: bytes, nodes: Mapping[bytes, NodeIdentity]) -> bool:
    assignment, authors = played.assignment, played.records.submissions
    if assignment.rules.profile is Profile.KOII:
        looking = [key for key in assignment.roster.keys if author in assignment.sample_of(key, authors)]
    else:
        looking = list(assignment.auditors_of(author))
    return any(key != author and key in nodes and not _is_liar(nodes[key]) for key in looking)


# --- money


def expected_money(report: CheckReport, nodes: Iterable[NodeIdentity]) -> dict[bytes, Money]:
    """What the rounds' outcomes should have led to, counted anew from the rules, by staking key.

    A share of the bounty for approved work, and of a slash for whoever found the fraud; one slash at most, because
    it leaves less than the minimum stake, and a node with less is neither paid nor slashed. Bonds are lost by leaders
    that were told to lie, and by nobody else.
    """
    known = who_is_who(nodes)
    stakes = {key: node.stake for key, node in known.items()}
    bonds = {key: report.bonds.get(key, 0) for key in known if known[key].behaviour == OMITTING_LEADER}
    rewards: Counter[bytes] = Counter()
    slashes: Counter[bytes] = Counter()
    for checked in report.rounds:
        if report.state is not None and checked.list is not None and checked.played is not None:
            left = {key: stake - slashes[key] for key, stake in stakes.items()}
            earned, lost = _round_money(checked.played, report.state.terms, left)
            rewards.update(earned)
            slashes.update(lost)
    return {key: Money(rewards[key], slashes[key], bonds.get(key, 0)) for key in stakes}


def _round_money(
    played: Played, terms: TaskTerms, left: Mapping[bytes, int]
) -> tuple[Counter[bytes], Counter[bytes]]:
    """Roe earned and lost in one round; `left` is each node's stake less what was taken before."""
    tally, roster = played.tally, played.assignment.roster
    standing = {key for key, stake in left.items() if key in roster and stake >= terms.minimum_stake}
    condemned = {key for key, outcome in tally.outcomes.items() if outcome in CONDEMNED} | tally.equivocators
    lost = Counter(
        {key: left[key] * terms.slash_basis_points // BASIS_POINTS for key in standing & condemned}
    )
    approved = [key for key, outcome in tally.outcomes.items() if outcome is Outcome.APPROVED]
    paid = standing - tally.equivocators
    earned = Counter({key: terms.bounty_per_round // len(approved) for key in approved if key in paid})
    for author, finders in tally.finders.items():
        sides = [side for side in (finders.accusers, finders.voters) if side]
        pool = lost[author] * terms.audit.finders_share // BASIS_POINTS
        earned.update({key: pool // len(sides) // len(side) for side in sides for key in side if key in paid})
    return earned, lost


# --- what is not as it should be


def failures(report: CheckReport, nodes: Iterable[NodeIdentity], settled: int, first: int) -> Iterator[str]:
    """What was expected and is not so, in sentences. Of rounds before `first` nobody has to have taken part."""
    known = who_is_who(nodes)
    for checked in report.rounds[first:]:
        yield from _round_failures(checked)
    counted = len(report.rounds) - first
    if settled < counted:
        yield f"Only {settled} of {counted} rounds are settled in full."
    for checked in report.rounds:
        yield from _attempt_failures(checked, known)
        if checked.played is not None:
            yield from _verdict_failures(checked, checked.played, known, first)
    yield from _idle_accusers(report.rounds[first:], known)
    yield from _idle_leaders(report.rounds[first:], known)
    if report.state is None:
        return
    for key, money in expected_money(report, known.values()).items():
        yield from _money_failures(report, known[key], key, money)


def _round_failures(checked: CheckedRound) -> Iterator[str]:
    if checked.anchored is None:
        yield f"Round {checked.number} has no commitment on K2."
    elif checked.anchored.rejected:
        attempt = checked.anchored.attempt
        yield f"Round {checked.number} was rejected at attempt {attempt}, and nobody committed to it again."
    elif checked.anchored.list_root is None:
        yield f"Round {checked.number} has no distribution list on K2."


def _attempt_failures(checked: CheckedRound, nodes: Mapping[bytes, NodeIdentity]) -> Iterator[str]:
    for attempt in checked.attempts:
        place = f"attempt {attempt.number} at round {checked.number}"
        anchorers = [nodes[key] for key in attempt.anchorers if key in nodes]
        lies = [node.name for node in anchorers if node.behaviour == OMITTING_LEADER]
        if attempt.rejected and not lies:
            names = ", ".join(sorted(node.name for node in anchorers)) or "a stranger"
            yield f"{names} anchored {place} honestly, and it was rejected."
        committer = nodes.get(attempt.commitment_by)
        if not attempt.rejected and committer is not None and committer.behaviour == OMITTING_LEADER:
            yield f"{committer.name} left a submission out of {place}, and it stands."


def _verdict_failures(
    checked: CheckedRound, played: Played, nodes: Mapping[bytes, NodeIdentity], first: int
) -> Iterator[str]:
    for key, node in nodes.items():
        outcome = played.tally.outcomes.get(key)
        if outcome is None:
            missing = key in played.assignment.roster and not node.witness and not node.cheats
            if missing and checked.number >= first:
                yield f"{node.name} is honest and was not approved in round {checked.number} (no submission)."
            continue
        wanted = expected_outcome(played, key, nodes)
        if wanted is None or outcome is wanted:
            continue
        if node.cheats:
            what = (
                "was approved" if outcome is Outcome.APPROVED else f"was {outcome.name}, not {wanted.name},"
            )
            yield f"{node.name} cheats and {what} in round {checked.number}."
        elif wanted is not Outcome.APPROVED:
            yield f"{node.name} was {outcome.name}, not {wanted.name}, in round {checked.number}."
        elif checked.number >= first:
            yield f"{node.name} is honest and was not approved in round {checked.number} ({outcome.name})."


def _idle_accusers(rounds: Iterable[CheckedRound], nodes: Mapping[bytes, NodeIdentity]) -> Iterator[str]:
    """A demonstration of a false accusation without one shows nothing."""
    played = [checked.played for checked in rounds if checked.played is not None]
    for key, node in nodes.items():
        if not _is_liar(node):
            continue
        could = any(
            round_.assignment.may_vote(key, author, DRAWN)
            for round_ in played
            for author in round_.records.submissions
        )
        did = any(key in round_.records.ballots for round_ in played)
        if could and not did:
            yield f"{node.name} was to accuse somebody falsely, and no commitment has a vote of it."


def _idle_leaders(rounds: Iterable[CheckedRound], nodes: Mapping[bytes, NodeIdentity]) -> Iterator[str]:
    """Nor does a demonstration of an omission. K2 takes the fastest commitment, so that one of several is enough."""
    liars = {key: node.name for key, node in nodes.items() if node.behaviour == OMITTING_LEADER}
    attempts = (attempt for checked in rounds for attempt in checked.attempts)
    if liars and not any(attempt.commitment_by in liars for attempt in attempts):
        yield f"{_listed(liars, liars)} was to leave a submission out, and anchored no commitment."


def _money_failures(report: CheckReport, node: NodeIdentity, key: bytes, money: Money) -> Iterator[str]:
    leaf, stake = newest_leaf(report, key), report.stakes.get(key)
    paid, taken, left = (0, 0, 0) if stake is None else (stake.reward_total, stake.slash_total, stake.amount)
    if leaf.reward_total != money.reward or paid != money.reward:
        yield f"{node.name} was awarded {leaf.reward_total} and paid {paid} Roe, not {money.reward}."
    if leaf.slash_total != money.slash or taken != money.slash:
        yield f"{node.name} was slashed {leaf.slash_total} and lost {taken} Roe, not {money.slash}."
    expected = node.stake - money.slash - money.bonds
    if left != expected:
        yield f"{node.name} has {left} Roe staked, not {expected}."


def newest_leaf(report: CheckReport, key: bytes) -> Leaf:
    """What the newest list says of a key; nothing earned or lost if there is none."""
    for checked in reversed(report.rounds):
        if checked.list is not None:
            return checked.list.leaf(key) or Leaf(key, 0, 0)
    return Leaf(key, 0, 0)


# --- what is worth saying


def remarks(report: CheckReport, nodes: Iterable[NodeIdentity]) -> Iterator[str]:
    """What disputes came to, in sentences, round after round."""
    known = who_is_who(nodes)
    names = {key: node.name for key, node in known.items()}
    for checked in report.rounds:
        for text in (*_attempt_remarks(checked, names), *_dispute_remarks(checked.played, known, names)):
            yield f"round {checked.number}: {text}"


def _attempt_remarks(checked: CheckedRound, names: Mapping[bytes, str]) -> Iterator[str]:
    for attempt in checked.attempts:
        by = _listed(attempt.anchorers, names)
        if attempt.rejected:
            yield f"attempt {attempt.number} by {by} was rejected: vetoed by {_listed(attempt.vetoed_by, names)}"
        elif attempt.number:
            yield f"attempt {attempt.number} by {by} stands"


def _dispute_remarks(
    played: Played | None, nodes: Mapping[bytes, NodeIdentity], names: Mapping[bytes, str]
) -> Iterator[str]:
    if played is None:
        return
    cast = cast_in(played.records)
    for author, outcome in played.tally.outcomes.items():
        name = names.get(author, author.hex())
        lies = lies_about(played, author, nodes) if author in nodes else frozenset()
        if outcome is Outcome.EQUIVOCATED:
            yield f"{name} is convicted: it signed two submissions, and both are in the bundle"
        elif outcome is Outcome.CANARY:
            yield f"{name} handed in a canary, and {_listed(cast.accusers(author), names) or 'nobody'} found it first"
        elif lies and played.assignment.rules.profile is Profile.KOII:
            yield (
                f"{name} did its work and is {outcome.name}: the vote of {_listed(lies, names)} against it was "
                f"answered by {_answers(cast.first[author])}; as Koii's client codes it"
            )
        elif lies:
            overruled = [key for key in lies if played.tally.auditors.get(key) is AuditorStatus.OVERRULED]
            text = f"{_listed(lies, names)} called the good work of {name} invalid: {name} is {outcome.name}"
            yield f"{text}, and {_listed(overruled, names)} is OVERRULED" if overruled else text
        elif author in played.tally.finders:
            found = played.tally.finders[author]
            confirmed = f", confirmed by {_listed(found.voters, names)}" if found.voters else ""
            yield f"{name} is REJECTED: accused by {_listed(found.accusers, names)}{confirmed}"


def _answers(votes: Mapping[bytes, Verdict]) -> str:
    count = sum(verdict is Verdict.VALID for verdict in votes.values())
    return f"{count} for it" if count else "nobody"


def _listed(keys: Iterable[bytes], names: Mapping[bytes, str]) -> str:
    return ", ".join(sorted(names.get(key, key.hex()) for key in keys))
