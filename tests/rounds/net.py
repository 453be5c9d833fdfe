"""A small net for the tests of `rounds`: deterministic keys, terms, rosters and really signed records."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache, cached_property
from hashlib import sha256
from typing import Any

from koii_p2p.records.envelope import Verified, sign
from koii_p2p.records.equivocation import equivocation_of
from koii_p2p.records.keys import SecretKey
from koii_p2p.records.schema import (
    Ballot,
    BallotEntry,
    BallotReveal,
    Body,
    Challenge,
    Statement,
    Submission,
    Verdict,
)
from koii_p2p.records.seals import seal_of
from koii_p2p.rounds.assignment import AuditAssignment
from koii_p2p.rounds.audit_rules import Profile, Weights
from koii_p2p.rounds.beacon import beacon as beacon_of
from koii_p2p.rounds.commitment import NO_PREVIOUS, Bundle, Commitment, build_commitment
from koii_p2p.rounds.distribution import DistributionList, default_distribution, next_list, submitters_of
from koii_p2p.rounds.eligibility import DRAWN, FULL_AUDIT
from koii_p2p.rounds.reputation import Reputation, audit_rate
from koii_p2p.rounds.roster import LOCK_PERIODS, Roster, RosterEntry
from koii_p2p.rounds.round_records import RoundRecords, disputed, select, sort_records
from koii_p2p.rounds.tally import Tally
from koii_p2p.rounds.terms import TaskTerms
from koii_p2p.rounds.verification import RoundEvidence

GENESIS = sha256(b"genesis").digest()
TASK = sha256(b"task").digest()
BLOCKHASH = sha256(b"blockhash").digest()
STAKE = 1_900_000_000
GOOD = "Hello, World!"
BAD = "Goodbye"

TERMS = TaskTerms(
    task=TASK,
    creator=sha256(b"creator").digest(),
    name="hello",
    starting_slot=1000,
    round_time=100,
    submission_window=40,
    audit_window=40,
    bounty_per_round=100_000_000,
    minimum_stake=STAKE,
)


def with_rules(**changes: Any) -> TaskTerms:
    """The terms with other audit rules."""
    return replace(TERMS, audit=replace(TERMS.audit, **changes))


KOII = with_rules(profile=Profile.KOII, weights=Weights.EQUAL)


@cache
def secret(index: int) -> SecretKey:
    return SecretKey.from_seed(sha256(b"seed %d" % index).digest())


def key(index: int) -> bytes:
    return secret(index).public_key


@cache
def secrets_by_key(nodes: int) -> dict[bytes, SecretKey]:
    return {key(index): secret(index) for index in range(nodes)}


def roster(
    nodes: int = 5,
    round_number: int = 3,
    stakes: Mapping[int, int] | None = None,
    weights: Weights = Weights.STAKE,
) -> Roster:
    """Stakers 0 to `nodes` - 1 with these stakes, which have been locked for long."""
    amounts = [(stakes or {}).get(index, STAKE) for index in range(nodes)]
    entries = [
        RosterEntry(key(index), stake, 0, sha256(b"wallet %d" % index).digest(), LOCK_PERIODS * stake)
        for index, stake in enumerate(amounts)
    ]
    return Roster(round_number, tuple(sorted(entries, key=lambda entry: entry.key)), weights)


# --- records, each in a slot of its window


def say(
    signer: SecretKey, body: Body, round_number: int, slot: int, seq: int = 0, task: bytes = TASK
) -> Verified:
    return sign(Statement(task, round_number, slot, seq, body), GENESIS, signer)


def submission(signer: SecretKey, value: str, round_number: int = 3) -> Verified:
    return say(signer, Submission(value), round_number, TERMS.clock.submission(round_number).opens + 1)


def entries_for(verdicts: Mapping[bytes, Verdict]) -> tuple[BallotEntry, ...]:
    return tuple(BallotEntry(id_, verdicts[id_]) for id_ in sorted(verdicts))


def ballot(
    signer: SecretKey, verdicts: Mapping[bytes, Verdict], round_number: int = 3, stage: int = DRAWN
) -> Verified:
    """An open ballot; `verdicts` are by submission id."""
    clock = TERMS.clock
    window = clock.full_audit(round_number) if stage else clock.first_ballots(round_number)
    return say(signer, Ballot(entries_for(verdicts)), round_number, window.opens + 1, stage)


def sealed(
    signer: SecretKey, verdicts: Mapping[bytes, Verdict], round_number: int = 3
) -> tuple[Verified, Verified]:
    """A sealed ballot and its reveal."""
    opening = BallotReveal(sha256(b"salt" + signer.public_key).digest(), entries_for(verdicts))
    seal = seal_of(opening, TASK, round_number, signer.public_key)
    clock = TERMS.clock
    return (
        say(signer, Ballot(seal=seal), round_number, clock.seals(round_number).opens + 1),
        say(signer, opening, round_number, clock.reveals(round_number).opens + 1),
    )


def challenge(signer: SecretKey, accused: Verified, seq: int = 0, slot: int | None = None) -> Verified:
    """A challenge of a submission. Of one's own it owns up to a canary."""
    clock, own = TERMS.clock, accused.author == signer.public_key
    window = clock.openings(accused.round) if own else clock.first_ballots(accused.round)
    body = Challenge(accused.id, sha256(b"look here").digest())
    return say(signer, body, accused.round, window.opens if slot is None else slot, seq)


def evidence_against(
    signer: SecretKey, one: Verified, other: Verified, round_number: int | None = None
) -> Verified:
    """What convicts the author of two records, by default in their round."""
    number = one.round if round_number is None else round_number
    return say(signer, equivocation_of(one, other), number, TERMS.clock.audit(number).opens + 1)


# --- whole rounds


@dataclass(frozen=True)
class Round:
    """One finished round: its records, and what followed from them."""

    terms: TaskTerms
    roster: Roster
    beacon: bytes
    records: RoundRecords
    commitment: Commitment
    bundle: Bundle
    tally: Tally
    list: DistributionList
    evidence: RoundEvidence

    @cached_property
    def assignment(self) -> AuditAssignment:
        return assignment_of(self.terms, self.roster, self.beacon, self.evidence.reputations)

    @property
    def submissions(self) -> Mapping[bytes, Verified]:
        return self.records.submissions

    @property
    def ballots(self) -> Mapping[bytes, Verified]:
        return self.records.ballots

    @property
    def authors(self) -> dict[bytes, bytes]:
        return self.records.authors


def assignment_of(
    terms: TaskTerms, members: Roster, beacon: bytes, reputations: Mapping[bytes, Reputation] | None = None
) -> AuditAssignment:
    rates = {author: audit_rate(known, terms.audit) for author, known in (reputations or {}).items()}
    return AuditAssignment(beacon, members, terms.audit, rates)


def records_of(terms: TaskTerms, members: Roster, *groups: Iterable[Verified]) -> RoundRecords:
    return sort_records([record for group in groups for record in group], terms, members, GENESIS)


def verdict_on(record: Verified) -> Verdict:
    body = record.statement.body
    return Verdict.VALID if isinstance(body, Submission) and body.value == GOOD else Verdict.INVALID


def honest_ballots(
    terms: TaskTerms,
    assignment: AuditAssignment,
    submissions: Mapping[bytes, Verified],
    secrets: Mapping[bytes, SecretKey],
) -> list[Verified]:
    """What honest nodes say first, sealed ballots with their reveals. With profile koii, votes against only."""
    said: list[Verified] = []
    koii = terms.audit.profile is Profile.KOII
    for auditor, signer in secrets.items():
        looks_at = (
            assignment.sample_of(auditor, submissions)
            if koii
            else assignment.authors_for(auditor, submissions)
        )
        verdicts = {submissions[author].id: verdict_on(submissions[author]) for author in looks_at}
        if koii:
            verdicts = {id_: verdict for id_, verdict in verdicts.items() if verdict is Verdict.INVALID}
        if not verdicts:
            continue
        number = assignment.roster.round
        said += sealed(signer, verdicts, number) if terms.audit.sealed else [ballot(signer, verdicts, number)]
    return said


def honest_full_ballots(
    terms: TaskTerms,
    assignment: AuditAssignment,
    records: RoundRecords,
    secrets: Mapping[bytes, SecretKey],
) -> list[Verified]:
    """What honest nodes say in the full audits that these records open; those drawn do not vote twice."""
    verdicts: dict[bytes, dict[bytes, Verdict]] = {}
    for id_, author in disputed(select(records, terms, assignment), assignment).items():
        for auditor in assignment.committee_of(author):
            if not assignment.is_due(auditor, author):
                verdicts.setdefault(auditor, {})[id_] = verdict_on(records.submissions[author])
    number = assignment.roster.round
    return [
        ballot(secrets[auditor], verdicts[auditor], number, FULL_AUDIT)
        for auditor in sorted(verdicts)
        if auditor in secrets
    ]


def play(
    nodes: int = 5,
    cheaters: Iterable[int] = (0,),
    terms: TaskTerms = TERMS,
    previous: DistributionList | None = None,
    previous_digest: bytes = NO_PREVIOUS,
    round_number: int = 3,
    members: Roster | None = None,
    extra: Collection[Verified] = (),
    reputations: Mapping[bytes, Reputation] | None = None,
) -> Round:
    """Play one round among honest auditors, in which `cheaters` submit something wrong.

    `extra` are more records of the round: challenges, evidence, ballots of keys without stake.
    """
    members = members or roster(nodes, round_number, weights=terms.audit.weights)
    secrets = secrets_by_key(nodes)
    wrong = {key(index) for index in cheaters}
    submissions = {
        author: submission(signer, BAD if author in wrong else GOOD, round_number)
        for author, signer in secrets.items()
    }
    beacon = beacon_of(BLOCKHASH, terms.task, round_number)
    assignment = assignment_of(terms, members, beacon, reputations)
    said = [*submissions.values(), *honest_ballots(terms, assignment, submissions, secrets), *extra]
    if terms.audit.profile in (Profile.HARDENED, Profile.POSP):
        said += honest_full_ballots(terms, assignment, records_of(terms, members, said), secrets)
    return conclude(
        terms, members, beacon, records_of(terms, members, said), previous, previous_digest, reputations
    )


def conclude(
    terms: TaskTerms,
    members: Roster,
    beacon: bytes,
    records: RoundRecords,
    previous: DistributionList | None = None,
    previous_digest: bytes = NO_PREVIOUS,
    reputations: Mapping[bytes, Reputation] | None = None,
) -> Round:
    """What an honest leader commits to and lists."""
    assignment = assignment_of(terms, members, beacon, reputations)
    built = build_commitment(terms, members, beacon, previous_digest, records, assignment)
    amounts = default_distribution(
        submitters_of(built.tally.outcomes, members, previous),
        terms.bounty_per_round,
        terms.slash_basis_points,
    )
    listed = next_list(previous, members, amounts, terms, built.tally)
    evidence = RoundEvidence(
        round=members.round,
        roster=members,
        blockhash=BLOCKHASH,
        commitment=built.commitment.encode(),
        bundle=built.bundle.encode(),
        list=listed.encode(),
        anchored_digest=built.commitment.digest,
        anchored_root=listed.root,
        anchored_reward_total=listed.reward_total,
        anchored_slash_total=listed.slash_total,
        previous_digest=previous_digest,
        reputations=reputations or {},
    )
    return Round(
        terms, members, beacon, records, built.commitment, built.bundle, built.tally, listed, evidence
    )


def with_commitment(played: Round, commitment: Commitment, *, anchored: bool) -> RoundEvidence:
    """The evidence of `played` with another commitment, which the chain vouches for or not."""
    digest = commitment.digest if anchored else played.commitment.digest
    return replace(played.evidence, commitment=commitment.encode(), anchored_digest=digest)
