"""Explaining a round to one key: why it was or was not paid, and everything that this follows from. Pure.

`explain` takes facts from wherever they come (the chain, a node, files) and rests only on what K2 vouches for: a
commitment counts if it hashes to the anchored digest and follows from its own records, a list if it hashes to the
anchored root. What one node merely saw (`RoundFacts.seen`) is told as that.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256

from koii_p2p.records.cid import cid_of
from koii_p2p.records.envelope import Verified
from koii_p2p.records.schema import CommitmentNotice, Equivocation, Kind, ListNotice, ListVote
from koii_p2p.rounds.anchors import AnchoredRound
from koii_p2p.rounds.assignment import AuditAssignment
from koii_p2p.rounds.clock import Phase
from koii_p2p.rounds.commitment import BuiltRound, Bundle, Commitment, CommitmentError, rebuild_commitment
from koii_p2p.rounds.distribution import DistributionList, Leaf, effective_stake
from koii_p2p.rounds.explain_audit import AuditDetail, Duty, audit_of, duties_of, reason_of
from koii_p2p.rounds.explain_money import AmountDetail, amounts_of, reason_of_money
from koii_p2p.rounds.merkle import Proof
from koii_p2p.rounds.objections import ListObjection
from koii_p2p.rounds.reputation import Reputation, audit_rates
from koii_p2p.rounds.roster import Roster, StakeHistory
from koii_p2p.rounds.tally import AuditorStatus, Outcome
from koii_p2p.rounds.terms import TaskTerms
from koii_p2p.rounds.verification import Distribute
from koii_p2p.rounds.why import Why

__all__ = ["Anchors", "Explanation", "LeafProof", "ListOpinion", "RoundFacts", "Seen", "Why", "explain"]


@dataclass(frozen=True, slots=True)
class Seen:
    """A record that one node holds; `timely`: it received it inside its window."""

    record: Verified
    timely: bool


@dataclass(frozen=True, slots=True)
class RoundFacts:
    """What is known of one round of one task at `slot`.

    From K2: `terms`, `roster` (None before the round's period), the key's own `stake` (None without one), `anchored`
    and, where the block is still there, `beacon`. From whoever has them, checked against K2: `commitment`, `bundle`,
    `list`, and the `previous` list, that of the newest earlier round whose list stands; None if there is none, and
    `previous_known` is False if there is one that is not at hand. `reputations` are those of this round by key, None
    if they could not be computed; they matter only where the terms have a floor. `seen` is what one node holds.
    """

    terms: TaskTerms
    genesis: bytes
    round: int
    slot: int
    roster: Roster | None
    stake: StakeHistory | None = None
    anchored: AnchoredRound | None = None
    beacon: bytes | None = None
    commitment: bytes | None = None
    bundle: bytes | None = None
    list: DistributionList | None = None
    previous: DistributionList | None = None
    previous_known: bool = True
    reputations: Mapping[bytes, Reputation] | None = field(default_factory=dict)
    seen: tuple[Seen, ...] = ()


@dataclass(frozen=True, slots=True)
class ListOpinion:
    """What one staker said of the anchored attempt: 32-byte key, stake in Roe."""

    author: bytes
    stake: int
    agree: bool
    objection: ListObjection | None


@dataclass(frozen=True, slots=True)
class LeafProof:
    """One leaf of the anchored list, and the path from it to the anchored root."""

    leaf: Leaf
    proof: Proof
    root: bytes


@dataclass(frozen=True, slots=True)
class Anchors:
    """What K2 holds of the round, and when its list is (or would be) final.

    The signatures are those of the two transactions as their senders announced them, None where nobody did.
    `next_attempt` is the slots in which a rejected attempt may be followed by another, None if it may not.
    """

    anchored: AnchoredRound
    settles_at: int
    commitment_signature: bytes | None
    list_signature: bytes | None
    next_attempt: tuple[int, int] | None


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why one key was or was not paid for one round, and what that follows from.

    `work` says what the round came to for the key, `money` what became of the amount, None until something is
    anchored. `doubt` is a sentence on what is wrong with, or missing of, the commitment. `outcome` and `status` are
    what the commitment says of the key; `submission` is its submission there, or else the one that the node held.
    `duties` are the audits that were due from the key, `equivocation` the ids of the two records that convict it.
    """

    task: bytes
    round: int
    key: bytes
    slot: int
    phase: Phase
    work: Why
    money: Why | None
    doubt: str | None
    stake: int
    minimum_stake: int
    submission: Verified | None
    outcome: Outcome | None
    audit: AuditDetail | None
    status: AuditorStatus | None
    duties: tuple[Duty, ...]
    equivocation: tuple[bytes, bytes] | None
    amounts: AmountDetail | None
    proof: LeafProof | None
    anchors: Anchors | None
    opinions: tuple[ListOpinion, ...]


def explain(facts: RoundFacts, key: bytes, distribute: Distribute | None = None) -> Explanation:
    """Say why `key` (32 bytes) was or was not paid. Linear in the round's records; never raises for what is anchored.
    `distribute` is the task's own distribution, where it has one and it is at hand.

    The first that applies is the reason, in the order of `Why`: whether the key may take part, whether the commitment
    can be relied on, what it says of the key; then the list, then the amount. Raises ValueError for a roster of
    another round.
    """
    if facts.roster is not None and facts.roster.round != facts.round:
        raise ValueError(f"a roster of round {facts.roster.round} cannot explain round {facts.round}")
    read = _read_commitment(facts)
    built, assignment = read.built, read.assignment
    audit = audit_of(built, assignment, key, _rates(facts)) if built and assignment else None
    work = _work(facts, key, read, audit)
    listed = _anchored_list(facts)
    amounts = amounts_of(
        facts.terms, facts.roster, facts.stake, listed, facts.previous, built, key, distribute
    )
    if not facts.previous_known and amounts is not None:
        amounts = amounts.without_previous()
    in_commitment = built.records.submissions.get(key) if built else None
    held = _held_submission(facts.seen, key)
    return Explanation(
        task=facts.terms.task,
        round=facts.round,
        key=key,
        slot=facts.slot,
        phase=facts.terms.clock.phase(facts.round, facts.slot),
        work=work,
        money=reason_of_money(facts.terms, facts.slot, facts.anchored, listed, amounts, work),
        doubt=read.doubt,
        stake=facts.roster.stake_of(key) if facts.roster else 0,
        minimum_stake=facts.terms.minimum_stake,
        submission=in_commitment or (held.record if held else None),
        outcome=read.commitment.outcome_of.get(key) if read.commitment else None,
        audit=audit,
        status=dict(read.commitment.auditors).get(key) if read.commitment else None,
        duties=duties_of(built, assignment, key) if built and assignment else (),
        equivocation=_convicting(built, key),
        amounts=amounts,
        proof=_leaf_proof(listed, key),
        anchors=_anchors(facts),
        opinions=_opinions(facts),
    )


# --- the commitment


@dataclass(frozen=True, slots=True)
class _Read:
    """A commitment as far as it can be relied on; `why` is the reason if it can't, `doubt` that in a sentence."""

    commitment: Commitment | None = None
    built: BuiltRound | None = None
    assignment: AuditAssignment | None = None
    why: Why | None = None
    doubt: str | None = None
    same_roster: bool = True


def _read_commitment(facts: RoundFacts) -> _Read:
    """Recompute the anchored commitment from its bundle, as every node does before it agrees to a list."""
    data, anchored = facts.commitment, facts.anchored
    if anchored is None:
        return _Read()
    if data is None or sha256(data).digest() != anchored.commitment:
        return _Read(
            why=Why.COMMITMENT_UNREAD, doubt="Nobody who was asked has the bytes that K2 vouches for."
        )
    try:
        commitment = Commitment.decode(data)
    except CommitmentError as error:
        return _Read(why=Why.COMMITMENT_FALSE, doubt=f"What is anchored is no commitment: {error}.")
    if commitment.task != facts.terms.task or commitment.round != facts.round:
        return _Read(why=Why.COMMITMENT_FALSE, doubt="It is the commitment of another task or round.")
    if facts.beacon is not None and commitment.beacon != facts.beacon:
        return _Read(
            commitment, why=Why.COMMITMENT_FALSE, doubt="Its beacon does not follow from K2's block."
        )
    if facts.roster is None or facts.roster.root != commitment.roster_root:
        doubt = "It was made with other stakes than those that K2 still shows."
        return _Read(commitment, why=Why.UNVERIFIABLE, doubt=doubt, same_roster=False)
    if facts.bundle is None or cid_of(facts.bundle) != commitment.bundle_cid:
        doubt = "Nobody who was asked has the records that it is about."
        return _Read(commitment, why=Why.UNVERIFIABLE, doubt=doubt)
    if facts.terms.audit.reputation_floor and facts.reputations is None:
        doubt = (
            "Who audits follows from reputations, and the commitments that those follow from are not at hand."
        )
        return _Read(commitment, why=Why.UNVERIFIABLE, doubt=doubt)
    return _rebuilt(facts, facts.roster, commitment, facts.bundle)


def _rebuilt(facts: RoundFacts, roster: Roster, commitment: Commitment, bundle_bytes: bytes) -> _Read:
    assignment = AuditAssignment(commitment.beacon, roster, facts.terms.audit, _rates(facts))
    try:
        built = rebuild_commitment(
            facts.terms,
            facts.genesis,
            Bundle.decode(bundle_bytes),
            commitment.beacon,
            commitment.previous,
            assignment,
        )
    except CommitmentError as error:
        return _Read(commitment, why=Why.COMMITMENT_FALSE, doubt=f"Its records are not in order: {error}.")
    if built.commitment.digest != commitment.digest:
        doubt = "Its records lead to another commitment: other outcomes, standings or records."
        return _Read(commitment, why=Why.COMMITMENT_FALSE, doubt=doubt)
    return _Read(commitment, built, assignment)


def _rates(facts: RoundFacts) -> dict[bytes, int]:
    rules = facts.terms.audit
    if not rules.reputation_floor:
        return {}
    return audit_rates(facts.reputations or {}, rules)


# --- the work


def _work(facts: RoundFacts, key: bytes, read: _Read, audit: AuditDetail | None) -> Why:
    clock = facts.terms.clock
    if facts.roster is None or facts.slot < clock.work(facts.round).opens:
        return Why.NOT_BEGUN
    if key not in facts.roster and read.same_roster:
        if read.built is not None and key in read.built.records.ballots:
            return Why.WITNESSED_WITHOUT_STAKE
        return _absence(facts.stake, clock.work(facts.round).opens)
    if facts.anchored is None:
        return _uncommitted(facts)
    if read.why is not None or read.built is None:
        return read.why or Why.COMMITMENT_UNREAD
    if effective_stake(facts.previous, facts.roster, key) < facts.terms.minimum_stake:
        return Why.EJECTED
    if key in read.built.tally.equivocators:
        return Why.EQUIVOCATED
    if key not in read.built.records.submissions or audit is None:
        return _without_work(facts.seen, read.built, key)
    return reason_of(audit, read.built.tally.outcomes[key])


def _absence(stake: StakeHistory | None, opens: int) -> Why:
    """Why a key is not in the roster of a round that began in slot `opens`."""
    if stake is None or not stake.checkpoints:
        return Why.NO_STAKE
    if stake.unstake_slot is not None and stake.unstake_slot < opens:
        return Why.UNSTAKING
    if all(point.slot >= opens for point in stake.checkpoints):
        return Why.STAKED_LATER
    return Why.BELOW_MINIMUM


def _uncommitted(facts: RoundFacts) -> Why:
    clock = facts.terms.clock
    if facts.slot >= clock.commitment(facts.round).closes:
        return Why.NO_COMMITMENT
    running = {Phase.WORK: Why.WORKING, Phase.SUBMISSION: Why.SUBMITTING, Phase.AUDIT: Why.AUDITING}
    return running.get(clock.phase(facts.round, facts.slot), Why.AWAITING_COMMITMENT)


def _without_work(seen: Iterable[Seen], built: BuiltRound, key: bytes) -> Why:
    held = _held_submission(seen, key)
    if held is not None:
        return Why.SUBMISSION_OMITTED if held.timely else Why.SUBMISSION_LATE
    audited = key in built.records.ballots or key in built.records.full_ballots
    return Why.AUDITED_ONLY if audited else Why.NOTHING_SUBMITTED


def _held_submission(seen: Iterable[Seen], key: bytes) -> Seen | None:
    return next(
        (one for one in seen if one.record.kind is Kind.SUBMISSION and one.record.author == key), None
    )


def _convicting(built: BuiltRound | None, key: bytes) -> tuple[bytes, bytes] | None:
    evidence = built.records.evidence.get(key) if built else None
    body = evidence.statement.body if evidence else None
    if not isinstance(body, Equivocation):
        return None
    return sha256(body.first).digest(), sha256(body.second).digest()


# --- the list and the anchors


def _anchored_list(facts: RoundFacts) -> DistributionList | None:
    anchored, listed = facts.anchored, facts.list
    if anchored is None or listed is None or listed.root != anchored.list_root:
        return None
    return listed


def _leaf_proof(listed: DistributionList | None, key: bytes) -> LeafProof | None:
    leaf = listed.leaf(key) if listed else None
    return LeafProof(leaf, listed.proof(key), listed.root) if listed and leaf else None


def _anchors(facts: RoundFacts) -> Anchors | None:
    anchored, clock = facts.anchored, facts.terms.clock
    if anchored is None:
        return None
    commitment = listing = None
    for seen in facts.seen:
        body = seen.record.statement.body
        if isinstance(body, CommitmentNotice) and seen.record.author == anchored.commitment_by:
            commitment = body.signature if body.digest == anchored.commitment else commitment
        elif isinstance(body, ListNotice) and seen.record.author == anchored.list_by:
            listing = body.signature if body.root == anchored.list_root else listing
    retry = None
    if anchored.rejected and anchored.attempt < facts.terms.allowed_failed_distributions:
        window = clock.commitment(facts.round, anchored.attempt + 1)
        retry = (window.opens, window.closes)
    settles_at = clock.settles_at(facts.round, anchored.attempt)
    return Anchors(anchored, settles_at, commitment, listing, retry)


def _opinions(facts: RoundFacts) -> tuple[ListOpinion, ...]:
    """The list votes of stakers on the anchored attempt, as far as the node that was asked has heard them."""
    if facts.anchored is None or facts.roster is None:
        return ()
    found = []
    for seen in facts.seen:
        body, author = seen.record.statement.body, seen.record.author
        if not isinstance(body, ListVote) or seen.record.statement.seq != facts.anchored.attempt:
            continue
        if author in facts.roster:
            known = ListObjection(body.reason) if body.reason in set(ListObjection) else None
            found.append(ListOpinion(author, facts.roster.stake_of(author), body.agree, known))
    return tuple(sorted(found, key=lambda opinion: opinion.author))
