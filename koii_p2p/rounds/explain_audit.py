"""The audit of one submission, seen from outside: who was due, who voted how, and which rule decided."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from koii_p2p.records.schema import Verdict
from koii_p2p.rounds.assignment import AuditAssignment
from koii_p2p.rounds.audit_rules import Profile
from koii_p2p.rounds.commitment import BuiltRound
from koii_p2p.rounds.round_records import cast_in, entries_of
from koii_p2p.rounds.tally import Outcome
from koii_p2p.rounds.why import Why


@dataclass(frozen=True, slots=True)
class Vote:
    """One auditor of one submission: what it was due for and what it said, None where it said nothing.

    `first` is its vote among those drawn (or of its own choice, where nobody draws it), `full` that in a full audit;
    who voted first need not vote again. `challenged`: it called for the full audit. `weight` is 0 without stake.
    `evidence` is what it gave with its vote: 32 bytes, or nothing.
    """

    auditor: bytes
    weight: int
    drawn: bool
    in_committee: bool
    first: Verdict | None
    full: Verdict | None
    challenged: bool
    evidence: bytes = b""

    @property
    def missing(self) -> bool:
        """Whether it was due and said nothing."""
        return (self.drawn or self.in_committee) and self.first is None and self.full is None


@dataclass(frozen=True, slots=True)
class FullAudit:
    """A full audit: of `committee_weight`, `voted_weight` voted, `against_weight` (and `against` auditors) INVALID.

    It counts if more than half voted. A slash needs INVALID from more than half of the committee's weight, and from
    at least `quorum` auditors. `valid_weight` and `unavailable_weight` are of those who voted.
    """

    committee_weight: int
    voted_weight: int
    valid_weight: int
    against_weight: int
    unavailable_weight: int
    against: int
    quorum: int
    counted: bool


@dataclass(frozen=True, slots=True)
class AuditDetail:
    """How one submission was audited. `rate` is how often its author is, in basis points.

    `votes` has everybody who was due or spoke up, those drawn first, then by key. `accusers` are the stakers who
    opened the full audit; `canary`: its author owned up to it. `full` is None where no full audit was opened.
    With profile koii nobody is due: `votes` are those who voted, and `score` is votes for less votes against.
    """

    profile: Profile
    audited: bool
    rate: int
    votes: tuple[Vote, ...]
    accusers: tuple[bytes, ...]
    canary: bool
    full: FullAudit | None
    score: int

    @property
    def drawn(self) -> tuple[Vote, ...]:
        """The auditors drawn, in the order drawn."""
        return tuple(vote for vote in self.votes if vote.drawn)

    @property
    def missing(self) -> tuple[bytes, ...]:
        """Who was due and said nothing."""
        return tuple(vote.auditor for vote in self.votes if vote.missing)


@dataclass(frozen=True, slots=True)
class Duty:
    """One audit that was due from a key: whose submission, and what it said of it, or None."""

    author: bytes
    verdict: Verdict | None
    in_full_audit: bool


def audit_of(
    built: BuiltRound, assignment: AuditAssignment, author: bytes, rates: Mapping[bytes, int]
) -> AuditDetail | None:
    """How the submission of `author` was audited, by the rules of `tally`; None without a submission."""
    if author not in built.records.submissions:
        return None
    rules, roster, cast = assignment.rules, assignment.roster, cast_in(built.records)
    first, full = cast.first.get(author, {}), cast.full.get(author, {})
    challengers = cast.challengers.get(author, ())
    koii = rules.profile is Profile.KOII
    accusers = () if koii else tuple(sorted(key for key in cast.accusers(author) if key in roster))
    canary = author in cast.canaries
    drawn = assignment.auditors_of(author)
    committee = assignment.committee_of(author) if accusers or canary else ()
    order = dict.fromkeys((*drawn, *sorted({*committee, *first, *full, *challengers} - set(drawn))))
    members, given = set(committee), _evidence_on(built, author)
    votes = tuple(
        Vote(
            auditor=key,
            weight=roster.weight_of(key),
            drawn=key in drawn,
            in_committee=key in members,
            first=first.get(key),
            full=full.get(key),
            challenged=key in challengers,
            evidence=given.get(key, b""),
        )
        for key in order
    )
    return AuditDetail(
        profile=rules.profile,
        audited=koii or assignment.is_audited(author),
        rate=rates.get(author, rules.audit_rate),
        votes=votes,
        accusers=accusers,
        canary=canary,
        full=_full_audit(votes, rules.quorum, author in built.tally.full_audits) if committee else None,
        score=sum((vote.first is Verdict.VALID) - (vote.first is Verdict.INVALID) for vote in votes),
    )


def _evidence_on(built: BuiltRound, author: bytes) -> dict[bytes, bytes]:
    """What each auditor gave with its vote on a submission; a first vote's before that in a full audit."""
    records, found = built.records, dict[bytes, bytes]()
    for section in (records.full_ballots, records.reveals, records.ballots):
        for auditor, record in section.items():
            for entry in entries_of(record):
                if entry.submission_id == records.submissions[author].id and entry.evidence:
                    found[auditor] = entry.evidence
    return found


def _full_audit(votes: tuple[Vote, ...], quorum: int, counted: bool) -> FullAudit:
    weights = dict.fromkeys(Verdict, 0)
    against = 0
    for vote in votes:
        # As in the count: who was drawn has voted already, anybody else's first vote is none of the committee's.
        verdict = vote.first if vote.drawn and vote.first is not None else vote.full
        if vote.in_committee and verdict is not None:
            weights[verdict] += vote.weight
            against += verdict is Verdict.INVALID
    committee = [vote for vote in votes if vote.in_committee]
    return FullAudit(
        committee_weight=sum(vote.weight for vote in committee),
        voted_weight=sum(weights.values()),
        valid_weight=weights[Verdict.VALID],
        against_weight=weights[Verdict.INVALID],
        unavailable_weight=weights[Verdict.UNAVAILABLE],
        against=against,
        quorum=min(quorum, len(committee)),
        counted=counted,
    )


def reason_of(audit: AuditDetail, outcome: Outcome) -> Why:
    """The rule that made this outcome of a submission whose author is not convicted of anything."""
    if audit.profile is Profile.KOII:
        return _koii_reason(audit, outcome)
    if audit.canary:
        return Why.CANARY_FOUND if outcome is Outcome.CANARY else Why.CANARY_NOT_FOUND
    if audit.full is None:
        return _reason_without_dispute(audit, outcome)
    if not audit.full.counted:
        return {
            Outcome.APPROVED: Why.APPROVED_ACCUSATION_LAPSED,
            Outcome.UNAVAILABLE: Why.UNAVAILABLE_ACCUSATION_LAPSED,
        }.get(outcome, Why.UNDECIDED_ACCUSATION_LAPSED)
    full = audit.full
    return {
        Outcome.APPROVED: Why.APPROVED_BY_FULL_AUDIT
        if full.valid_weight * 2 > full.voted_weight
        else Why.APPROVED_FEW_AGAINST,
        Outcome.REJECTED: Why.REJECTED_BY_FULL_AUDIT,
        Outcome.UNAVAILABLE: Why.UNAVAILABLE_IN_FULL_AUDIT
        if full.unavailable_weight * 2 > full.voted_weight
        else Why.UNAVAILABLE_FEW_AGAINST,
    }.get(
        outcome,
        Why.UNDECIDED_QUORUM if full.against_weight * 2 > full.committee_weight else Why.UNDECIDED_FULL_AUDIT,
    )


def _koii_reason(audit: AuditDetail, outcome: Outcome) -> Why:
    if not any(vote.first is Verdict.INVALID for vote in audit.votes):
        return Why.KOII_UNOPPOSED
    return {Outcome.APPROVED: Why.KOII_APPROVED, Outcome.REJECTED: Why.KOII_REJECTED}.get(
        outcome, Why.KOII_TIED
    )


def _reason_without_dispute(audit: AuditDetail, outcome: Outcome) -> Why:
    if not audit.audited:
        return Why.NOT_AUDITED
    if outcome is Outcome.APPROVED:
        return Why.APPROVED_BY_DRAWN
    if outcome is Outcome.UNAVAILABLE:
        return Why.UNAVAILABLE_TO_DRAWN
    if not audit.drawn:
        return Why.UNDECIDED_ALONE
    return Why.UNDECIDED_SILENCE if all(vote.missing for vote in audit.drawn) else Why.UNDECIDED_TIE


def duties_of(built: BuiltRound, assignment: AuditAssignment, auditor: bytes) -> tuple[Duty, ...]:
    """The audits that were due from a key in the committed round, by author, and what it said of each."""
    cast = cast_in(built.records)
    duties = []
    for author in built.records.submissions:
        verdict = cast.first.get(author, {}).get(auditor)
        full = cast.full.get(author, {}).get(auditor)
        drawn = assignment.is_due(auditor, author)
        in_full_audit = author in built.tally.full_audits and auditor in assignment.committee_of(author)
        if drawn or in_full_audit or verdict is not None:
            duties.append(Duty(author, verdict if verdict is not None else full, in_full_audit and not drawn))
    return tuple(duties)
