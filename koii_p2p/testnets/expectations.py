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
from koii_p2p.settlement.history import replay
from koii_p2p.settlement.instructions import RequestUnstake, Settle, Withdraw
from koii_p2p.settlement.layouts import bond
from koii_p2p.testnets.attempts import Attempt, attempts_of
from koii_p2p.testnets.check import CheckedRound, CheckReport, Played, round_of
from koii_p2p.testnets.identity import (
    EQUIVOCATING,
    LATE_ACCUSER,
    OMITTING_LEADER,
    PAYING_ITSELF,
    NodeIdentity,
)

CONDEMNED = frozenset({Outcome.REJECTED, Outcome.EQUIVOCATED})
"""Outcomes that cost a stake."""


@dataclass(frozen=True, slots=True)
class Money:
    """What a node should have been given and have lost, in Roe; `bonds` of attempts that it anchored in vain.

    `withdrawn` is what it took out of its stake, if it was told to.
    """

    reward: int = 0
    slash: int = 0
    bonds: int = 0
    withdrawn: int = 0


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

    A share of the bounty for approved work (or what the task's own distribution gives, where it was run), and of a
    slash for whoever found the fraud; whoever has less than the minimum stake left is neither paid nor slashed. Bonds
    are lost by leaders that were told to lie, and by whoever anchored the other half of what they anchored.
    """
    known = who_is_who(nodes)
    stakes = {key: node.stake for key, node in known.items()}
    bonds = _bonds(report, known)
    out = {
        key: report.replayed[key].withdrawn for key in known if known[key].flees and key in report.replayed
    }
    rewards: Counter[bytes] = Counter()
    slashes: Counter[bytes] = Counter()
    for checked in report.rounds:
        if report.state is not None and checked.list is not None and checked.played is not None:
            left = {key: stake - slashes[key] for key, stake in stakes.items()}
            earned, lost = _round_money(checked.played, report.state.terms, left, checked.amounts)
            rewards.update(earned)
            slashes.update(lost)
    return {key: Money(rewards[key], slashes[key], bonds[key], out.get(key, 0)) for key in stakes}


def _bonds(report: CheckReport, nodes: Mapping[bytes, NodeIdentity]) -> Counter[bytes]:
    """Roe that lies of leaders have cost by staking key; in rounds after those checked, whatever was lost."""
    lost: Counter[bytes] = Counter()
    if report.state is None:
        return lost
    one = bond(report.state.terms.minimum_stake)
    for number, anchored in replay(report.entries).rounds.items():
        entries = (entry for entry in report.entries if entry.err is None and round_of(entry) == number)
        for attempt in attempts_of(entries, anchored):
            if attempt.rejected and (number >= len(report.rounds) or _liars(attempt, nodes)):
                lost.update({attempt.commitment_by: one})
                if attempt.list_by is not None:
                    lost.update({attempt.list_by: one})
    return lost


def _liars(attempt: Attempt, nodes: Mapping[bytes, NodeIdentity]) -> list[NodeIdentity]:
    """Who of those that anchored an attempt was told to lie with it."""
    committer, lister = nodes.get(attempt.commitment_by), nodes.get(attempt.list_by or b"")
    omits = [committer] if committer is not None and committer.behaviour == OMITTING_LEADER else []
    # Who pays itself is barred from the next attempt; in one that somebody else spoiled it may lead honestly.
    takes = lister is not None and lister.behaviour == PAYING_ITSELF and not attempt.number
    return [*omits, lister] if takes and lister is not None else omits


def _round_money(
    played: Played, terms: TaskTerms, left: Mapping[bytes, int], amounts: Mapping[bytes, int] | None
) -> tuple[Counter[bytes], Counter[bytes]]:
    """Roe earned and lost in one round; `left` is each node's stake less what was taken before.

    `amounts` are those of the task's own distribution, None by Koii's default.
    """
    tally, roster = played.tally, played.assignment.roster
    standing = {key for key, stake in left.items() if key in roster and stake >= terms.minimum_stake}
    condemned = {key for key, outcome in tally.outcomes.items() if outcome in CONDEMNED} | tally.equivocators
    if amounts is not None:
        condemned = set(tally.equivocators)
    lost = Counter(
        {key: left[key] * terms.slash_basis_points // BASIS_POINTS for key in standing & condemned}
    )
    paid = standing - tally.equivocators
    if amounts is None:
        approved = [key for key, outcome in tally.outcomes.items() if outcome is Outcome.APPROVED]
        earned = Counter({key: terms.bounty_per_round // len(approved) for key in approved if key in paid})
    else:
        earned = Counter({key: max(amounts.get(key, 0), 0) for key in paid})
        lost |= Counter({key: min(-amounts.get(key, 0), left[key]) for key in standing})
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
    yield from _idle_fugitives(report, known)
    if report.state is None or report.unrecomputed:
        return  # what a rule leads to that nobody could run, nobody knows
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
        liars = _liars(attempt, nodes)
        if attempt.rejected and not liars:
            names = sorted(nodes[key].name for key in attempt.anchorers if key in nodes)
            yield f"{', '.join(names) or 'a stranger'} anchored {place} honestly, and it was rejected."
        for node in () if attempt.rejected else liars:
            did = (
                "left a submission out of"
                if node.behaviour == OMITTING_LEADER
                else "paid itself by the list of"
            )
            yield f"{node.name} {did} {place}, and it stands."


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
        if checked.number < first and outcome is not Outcome.APPROVED:
            continue  # who was to audit it may not have been up yet
        if node.cheats:
            what = (
                "was approved" if outcome is Outcome.APPROVED else f"was {outcome.name}, not {wanted.name},"
            )
            yield f"{node.name} cheats and {what} in round {checked.number}."
        elif wanted is not Outcome.APPROVED:
            yield f"{node.name} was {outcome.name}, not {wanted.name}, in round {checked.number}."
        else:
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
    attempts = [attempt for checked in rounds for attempt in checked.attempts]
    told = {node.behaviour for attempt in attempts for node in _liars(attempt, nodes)}
    for behaviour, what in (
        (OMITTING_LEADER, "leave a submission out, and anchored no commitment"),
        (PAYING_ITSELF, "pay itself, and anchored no list"),
    ):
        names = [node.name for node in nodes.values() if node.behaviour == behaviour]
        if names and behaviour not in told:
            yield f"{', '.join(sorted(names))} was to {what}."


def _idle_fugitives(report: CheckReport, nodes: Mapping[bytes, NodeIdentity]) -> Iterator[str]:
    """Nor one of a flight that did not take place."""
    for key, node in nodes.items():
        if node.flees and not _slots_of(report, key, RequestUnstake):
            yield f"{node.name} was to flee, and did not ask its stake back."
        elif node.flees and not _slots_of(report, key, Withdraw):
            yield f"{node.name} asked its stake back, and has not got out by the end."


def _slots_of(report: CheckReport, staker: bytes, kind: type[RequestUnstake | Withdraw]) -> list[int]:
    """Slots in which a stake was asked back, or withdrawn."""
    succeeded = ((entry.slot, entry.instruction) for entry in report.entries if entry.err is None)
    return [slot for slot, made in succeeded if isinstance(made, kind) and made.staker == staker]


def _money_failures(report: CheckReport, node: NodeIdentity, key: bytes, money: Money) -> Iterator[str]:
    leaf, stake = newest_leaf(report, key), report.stakes.get(key)
    paid, taken, left = (0, 0, 0) if stake is None else (stake.reward_total, stake.slash_total, stake.amount)
    # A round after those checked may be settled before the end, where one of them was tried again.
    later = _settled_later(report, key)
    reward = max([money.reward, *(one.reward_total for one in later)])
    slash = max([money.slash, *(one.slash_total for one in later)])
    if leaf.reward_total != money.reward or paid != reward:
        yield f"{node.name} was awarded {leaf.reward_total} and paid {paid} Roe, not {money.reward}."
    if leaf.slash_total != money.slash or taken != slash:
        yield f"{node.name} was slashed {leaf.slash_total} and lost {taken} Roe, not {money.slash}."
    expected = node.stake - slash - money.bonds - money.withdrawn
    if left != expected:
        yield f"{node.name} has {left} Roe staked, not {expected}."


def _settled_later(report: CheckReport, key: bytes) -> list[Leaf]:
    """The leaves of a key that were settled by lists of rounds after those checked."""
    settles = (entry.instruction for entry in report.entries if entry.err is None)
    return [
        one.leaf
        for one in settles
        if isinstance(one, Settle) and one.leaf.staker == key and one.round >= len(report.rounds)
    ]


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
    for key, node in known.items():
        if node.flees:
            yield from _flight_remarks(report, key, node)


def _flight_remarks(report: CheckReport, key: bytes, node: NodeIdentity) -> Iterator[str]:
    asked, out = _slots_of(report, key, RequestUnstake), _slots_of(report, key, Withdraw)
    if not asked or not out or report.state is None or key not in report.replayed:
        return
    stake, period = report.replayed[key], report.state.terms.clock.period
    yield (
        f"{node.name} asked its stake of {node.stake} Roe back in period {period(asked[0])}, and took out "
        f"{stake.withdrawn} in period {period(out[-1])}: {stake.slash_total} were slashed before"
    )


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
