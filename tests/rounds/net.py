"""A small net for the tests of `rounds`: deterministic keys, terms, rosters and really signed records."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from hashlib import sha256

from koii_p2p.records.envelope import Verified, sign
from koii_p2p.records.keys import SecretKey
from koii_p2p.records.schema import Ballot, BallotEntry, Body, Statement, Submission, Verdict
from koii_p2p.rounds.assignment import AuditAssignment
from koii_p2p.rounds.beacon import beacon as beacon_of
from koii_p2p.rounds.commitment import NO_PREVIOUS, Bundle, Commitment, build_commitment
from koii_p2p.rounds.distribution import DistributionList, default_distribution, next_list, submitters_of
from koii_p2p.rounds.roster import Roster, RosterEntry
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


@cache
def secret(index: int) -> SecretKey:
    return SecretKey.from_seed(sha256(b"seed %d" % index).digest())


def key(index: int) -> bytes:
    return secret(index).public_key


@cache
def secrets_by_key(nodes: int) -> dict[bytes, SecretKey]:
    return {key(index): secret(index) for index in range(nodes)}


def roster(nodes: int = 5, round_number: int = 3, stakes: Mapping[int, int] | None = None) -> Roster:
    chosen = stakes or {}
    entries = [
        RosterEntry(key(index), chosen.get(index, STAKE), 0, sha256(b"wallet %d" % index).digest())
        for index in range(nodes)
    ]
    return Roster(round_number, tuple(sorted(entries, key=lambda entry: entry.key)))


def say(
    signer: SecretKey, body: Body, round_number: int, slot: int, seq: int = 0, task: bytes = TASK
) -> Verified:
    return sign(Statement(task, round_number, slot, seq, body), GENESIS, signer)


def submission(signer: SecretKey, value: str, round_number: int = 3) -> Verified:
    return say(signer, Submission(value), round_number, TERMS.clock.submission(round_number).opens + 1)


def ballot(signer: SecretKey, verdicts: Mapping[bytes, Verdict], round_number: int = 3) -> Verified:
    entries = tuple(BallotEntry(key, verdicts[key]) for key in sorted(verdicts))
    return say(signer, Ballot(entries), round_number, TERMS.clock.audit(round_number).opens + 1)


@dataclass(frozen=True)
class Round:
    """One finished round: `submissions` and `ballots` by author, and what followed from them."""

    terms: TaskTerms
    roster: Roster
    beacon: bytes
    submissions: dict[bytes, Verified]
    ballots: dict[bytes, Verified]
    commitment: Commitment
    bundle: Bundle
    list: DistributionList
    evidence: RoundEvidence

    @property
    def assignment(self) -> AuditAssignment:
        return AuditAssignment(self.beacon, self.roster, self.terms.auditors)

    @property
    def authors(self) -> dict[bytes, bytes]:
        return {record.id: author for author, record in self.submissions.items()}


def honest_ballots(
    assignment: AuditAssignment,
    submissions: Mapping[bytes, Verified],
    secrets: Mapping[bytes, SecretKey],
    round_number: int = 3,
) -> dict[bytes, Verified]:
    ballots = {}
    for auditor, signer in secrets.items():
        due = assignment.authors_for(auditor, submissions)
        verdicts = {submissions[author].id: verdict_on(submissions[author]) for author in due}
        if verdicts:
            ballots[auditor] = ballot(signer, verdicts, round_number)
    return ballots


def verdict_on(record: Verified) -> Verdict:
    body = record.statement.body
    return Verdict.VALID if isinstance(body, Submission) and body.value == GOOD else Verdict.INVALID


def play(
    nodes: int = 5,
    cheaters: Iterable[int] = (0,),
    terms: TaskTerms = TERMS,
    previous: DistributionList | None = None,
    previous_digest: bytes = NO_PREVIOUS,
    round_number: int = 3,
    members: Roster | None = None,
) -> Round:
    """Play one round among honest auditors, in which `cheaters` submit something wrong."""
    members = members or roster(nodes, round_number)
    secrets = secrets_by_key(nodes)
    wrong = {key(index) for index in cheaters}
    submissions = {
        author: submission(signer, BAD if author in wrong else GOOD, round_number)
        for author, signer in secrets.items()
    }
    beacon = beacon_of(BLOCKHASH, terms.task, round_number)
    assignment = AuditAssignment(beacon, members, terms.auditors)
    ballots = honest_ballots(assignment, submissions, secrets, round_number)
    return conclude(terms, members, beacon, submissions, ballots, previous, previous_digest)


def conclude(
    terms: TaskTerms,
    members: Roster,
    beacon: bytes,
    submissions: dict[bytes, Verified],
    ballots: dict[bytes, Verified],
    previous: DistributionList | None = None,
    previous_digest: bytes = NO_PREVIOUS,
) -> Round:
    commitment, bundle = build_commitment(
        terms, members, beacon, previous_digest, submissions.values(), ballots.values()
    )
    amounts = default_distribution(
        submitters_of(commitment.outcome_of, members, previous),
        terms.bounty_per_round,
        terms.slash_basis_points,
    )
    listed = next_list(previous, members, amounts, terms, members.round)
    evidence = RoundEvidence(
        round=members.round,
        roster=members,
        blockhash=BLOCKHASH,
        commitment=commitment.encode(),
        bundle=bundle.encode(),
        list=listed.encode(),
        anchored_digest=commitment.digest,
        anchored_root=listed.root,
        anchored_reward_total=listed.reward_total,
        anchored_slash_total=listed.slash_total,
        previous_digest=previous_digest,
    )
    return Round(terms, members, beacon, submissions, ballots, commitment, bundle, listed, evidence)


def with_commitment(played: Round, commitment: Commitment, *, anchored: bool) -> RoundEvidence:
    """The evidence of `played` with another commitment, which the chain vouches for or not."""
    digest = commitment.digest if anchored else played.commitment.digest
    return replace(played.evidence, commitment=commitment.encode(), anchored_digest=digest)
