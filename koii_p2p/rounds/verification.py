"""Recomputing a round from what the chain and its holders keep, and saying exactly which thing is wrong."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256

from koii_p2p.records.cid import cid_of
from koii_p2p.records.envelope import Envelope, Verified, decode_record, verify
from koii_p2p.records.reasons import RecordError
from koii_p2p.records.schema import Ballot, Kind
from koii_p2p.rounds import merkle
from koii_p2p.rounds.assignment import AuditAssignment
from koii_p2p.rounds.beacon import beacon as beacon_of
from koii_p2p.rounds.commitment import Bundle, Commitment, CommitmentError, build_commitment
from koii_p2p.rounds.distribution import (
    DistributionError,
    DistributionList,
    Submitter,
    default_distribution,
    next_list,
    submitters_of,
)
from koii_p2p.rounds.eligibility import author_fault, ballot_fault, place_fault
from koii_p2p.rounds.findings import Finding, FindingCode
from koii_p2p.rounds.reasons import Reason
from koii_p2p.rounds.roster import Roster
from koii_p2p.rounds.tally import Outcome
from koii_p2p.rounds.terms import TaskTerms

__all__ = ["Distribute", "Finding", "FindingCode", "RoundEvidence", "RoundReport", "check_round"]

Distribute = Callable[[Sequence[Submitter], int, int], Mapping[bytes, int]]
"""A task's distribution: submitters sorted by key, bounty in Roe, round -> Roe per key."""


@dataclass(frozen=True, slots=True)
class RoundEvidence:
    """All there is about one round. From the chain: roster, blockhash, anchors. From holders: the bytes.

    `previous_digest` is the newest commitment anchored for an earlier round (32 zero bytes before the first).
    `anchored_root` and `list` are None while no list is anchored; the list is not checked then.
    """

    round: int
    roster: Roster
    blockhash: bytes
    commitment: bytes
    bundle: bytes
    list: bytes | None
    anchored_digest: bytes
    anchored_root: bytes | None
    anchored_reward_total: int
    anchored_slash_total: int
    previous_digest: bytes


@dataclass(frozen=True, slots=True)
class RoundReport:
    """Findings, none when everything agrees, and the list that the next round builds on.

    `list` is the recomputed list, or the anchored one where it could not be recomputed, or None.
    """

    findings: tuple[Finding, ...]
    list: DistributionList | None

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.findings

    @property
    def codes(self) -> frozenset[FindingCode]:
        """The kinds of things that are wrong."""
        return frozenset(finding.code for finding in self.findings)


def check_round(
    terms: TaskTerms,
    genesis: bytes,
    evidence: RoundEvidence,
    previous_list: DistributionList | None,
    distribute: Distribute | None = None,
) -> RoundReport:
    """Recompute a round, every signature, root, outcome and leaf, and compare. Never raises for bad bytes.

    `previous_list` is the newest anchored list of an earlier round, None before the first; `distribute` the
    task's distribution, Koii's default if None. Once something is found wrong, what merely follows from it
    is not reported as well: an altered bundle is not also a wrong outcome. Linear in the number of records.

    Raises ValueError when the roster is of another round than the evidence.
    """
    if evidence.roster.round != evidence.round:
        raise ValueError(f"a roster of round {evidence.roster.round} cannot check round {evidence.round}")
    return _Check(terms, genesis, evidence, previous_list, distribute).run()


@dataclass(slots=True)
class _Records:
    """What was found in the bundle: good records by author, and whether all were good."""

    submissions: dict[bytes, Verified] = field(default_factory=dict)
    ballots: dict[bytes, Verified] = field(default_factory=dict)
    good: bool = True


class _Check:
    """One run over one round's evidence; collects findings in the order of the protocol."""

    def __init__(
        self,
        terms: TaskTerms,
        genesis: bytes,
        evidence: RoundEvidence,
        previous_list: DistributionList | None,
        distribute: Distribute | None,
    ) -> None:
        self._terms = terms
        self._genesis = genesis
        self._evidence = evidence
        self._previous_list = previous_list
        self._distribute = distribute or self._default_distribution
        self._findings: list[Finding] = []
        self._roster_known = True

    def run(self) -> RoundReport:
        anchored, commitment = self._read_commitment()
        beacon = self._check_header(anchored, commitment)
        bundle, untouched = self._read_bundle(commitment)
        records = self._read_records(bundle, beacon, commitment) if bundle else _Records(good=False)
        if bundle and commitment:
            self._check_roots(bundle, commitment)
        outcomes: Mapping[bytes, Outcome] | None = None
        if anchored and commitment and not (untouched and records.good and self._roster_known):
            # The chain vouches for this commitment, and the bundle is not (or not provably) what it commits
            # to: what the records lead to says nothing.
            outcomes = commitment.outcome_of
        elif records.good and self._roster_known:
            expected = self._recompute(records, beacon)
            if expected and commitment:
                self._compare(expected, commitment)
            outcomes = expected.outcome_of if expected else None
        trusted = self._check_list(outcomes)
        return RoundReport(tuple(self._findings), trusted)

    # --- commitment

    def _read_commitment(self) -> tuple[bool, Commitment | None]:
        data = self._evidence.commitment
        digest = sha256(data).digest()
        anchored = digest == self._evidence.anchored_digest
        if not anchored:
            self._find(
                FindingCode.COMMITMENT_DIGEST,
                f"the commitment hashes to {digest.hex()}, "
                f"the chain has {self._evidence.anchored_digest.hex()}",
            )
        try:
            return anchored, Commitment.decode(data)
        except CommitmentError as error:
            self._find(FindingCode.COMMITMENT_MALFORMED, str(error))
            return False, None

    def _check_header(self, anchored: bool, commitment: Commitment | None) -> bytes:
        """Check task, round, previous, beacon and roster; return the beacon to audit with."""
        evidence, beacon = (
            self._evidence,
            beacon_of(self._evidence.blockhash, self._terms.task, self._evidence.round),
        )
        if commitment is None:
            return beacon
        self._same(FindingCode.COMMITMENT_TASK, "task", commitment.task, self._terms.task)
        if commitment.round != evidence.round:
            self._find(
                FindingCode.COMMITMENT_ROUND, f"commitment of round {commitment.round}, not {evidence.round}"
            )
        self._same(FindingCode.PREVIOUS, "previous commitment", commitment.previous, evidence.previous_digest)
        same_beacon = self._same(FindingCode.BEACON, "beacon", commitment.beacon, beacon)
        same_roster = self._same(
            FindingCode.ROSTER, "roster root", commitment.roster_root, evidence.roster.root
        )
        # If the chain vouches for the commitment, the doubt falls on the blockhash or stakes that we were
        # given; the rest is then checked against the commitment's own beacon, and without a roster.
        self._roster_known = same_roster or not anchored
        return commitment.beacon if anchored and not same_beacon else beacon

    def _check_roots(self, bundle: Bundle, commitment: Commitment) -> None:
        self._same(
            FindingCode.SUBMISSIONS_ROOT,
            "root of submissions",
            commitment.submissions_root,
            merkle.root(bundle.submissions),
        )
        self._same(
            FindingCode.BALLOTS_ROOT, "root of ballots", commitment.ballots_root, merkle.root(bundle.ballots)
        )
        empty = merkle.EMPTY_ROOT
        self._same(FindingCode.CHALLENGES_ROOT, "root of challenges", commitment.challenges_root, empty)
        self._same(FindingCode.EVIDENCE_ROOT, "root of evidence", commitment.evidence_root, empty)

    # --- bundle

    def _read_bundle(self, commitment: Commitment | None) -> tuple[Bundle | None, bool]:
        data = self._evidence.bundle
        untouched = commitment is None or self._same(
            FindingCode.BUNDLE_CID, "bundle CID", commitment.bundle_cid, cid_of(data)
        )
        try:
            return Bundle.decode(data), untouched
        except CommitmentError as error:
            self._find(FindingCode.BUNDLE_MALFORMED, str(error))
            return None, untouched

    def _read_records(self, bundle: Bundle, beacon: bytes, commitment: Commitment | None) -> _Records:
        before = len(self._findings)
        records = _Records()
        records.submissions = self._read_kind(Kind.SUBMISSION, bundle.submissions)
        all_good = len(records.submissions) == len(bundle.submissions)
        if commitment is not None:
            self._match_submissions(records.submissions, commitment, all_good)
        records.ballots = self._read_kind(Kind.BALLOT, bundle.ballots)
        if self._roster_known:
            self._check_ballots(records, beacon, commitment, all_good)
        records.good = len(self._findings) == before
        return records

    def _read_kind(self, kind: Kind, raws: Sequence[bytes]) -> dict[bytes, Verified]:
        found: dict[bytes, Verified] = {}
        last = b""
        for number, raw in enumerate(raws, 1):
            name = f"{kind.name.lower()} {number} of {len(raws)} (id {sha256(raw).hexdigest()})"
            try:
                envelope = decode_record(raw)
            except RecordError as error:
                self._find(FindingCode.RECORD_MALFORMED, f"{name}: {error}")
                continue
            name = f"{kind.name.lower()} {number} of {len(raws)} (of {envelope.author.hex()})"
            if envelope.author <= last:
                self._find(FindingCode.RECORD_ORDER, f"{name} is out of order", envelope.author)
                continue
            last = envelope.author
            record = self._check_record(kind, name, envelope)
            if record is not None:
                found[record.author] = record
        return found

    def _check_record(self, kind: Kind, name: str, envelope: Envelope) -> Verified | None:
        author, statement = envelope.author, envelope.statement
        try:
            record = verify(envelope, self._genesis)
        except RecordError as error:
            self._find(FindingCode.RECORD_SIGNATURE, f"{name}: {error}", author)
            return None
        if statement.kind is not kind:
            self._find(FindingCode.RECORD_KIND, f"{name} is a {statement.kind.name.lower()}", author)
            return None
        fault = place_fault(statement, self._terms)
        if fault is not None or statement.round != self._evidence.round:
            where = f"round {statement.round}, slot {statement.slot}, task {statement.task.hex()}"
            self._find(FindingCode.RECORD_PLACE, f"{name} does not belong here: {where}", author)
            return None
        if self._roster_known and author_fault(author, self._evidence.roster) is not None:
            self._find(FindingCode.RECORD_AUTHOR, f"{name} is not by a staker of the round", author)
            return None
        return record

    def _match_submissions(
        self, submissions: Mapping[bytes, Verified], commitment: Commitment, all_good: bool
    ) -> None:
        listed = {entry.author: entry.submission_id for entry in commitment.outcomes}
        for author, submission_id in listed.items():
            record = submissions.get(author)
            if record is not None and record.id != submission_id:
                self._find(
                    FindingCode.SUBMISSION_DIFFERS,
                    f"the commitment names {submission_id.hex()} of {author.hex()}, the bundle has "
                    f"{record.id.hex()}",
                    author,
                )
            elif record is None and all_good:
                self._find(
                    FindingCode.SUBMISSION_MISSING, f"no submission of {author.hex()} in the bundle", author
                )
        for author in sorted(submissions.keys() - listed.keys()):
            self._find(
                FindingCode.SUBMISSION_UNLISTED, f"no outcome for the submission of {author.hex()}", author
            )

    def _check_ballots(
        self, records: _Records, beacon: bytes, commitment: Commitment | None, all_good: bool
    ) -> None:
        assignment = AuditAssignment(beacon, self._evidence.roster, self._terms.auditors)
        authors = {record.id: author for author, record in records.submissions.items()}
        if commitment is not None:
            # Votes on a submission that the commitment names and the bundle lacks are not the auditor's fault.
            authors |= {entry.submission_id: entry.author for entry in commitment.outcomes}
        for auditor, record in records.ballots.items():
            body = record.statement.body
            fault = ballot_fault(body, auditor, authors, assignment) if isinstance(body, Ballot) else None
            if fault is Reason.SUBMISSION_UNKNOWN and not all_good:
                continue  # it may be the submission that was already found to be bad
            code = _BALLOT_FINDINGS.get(fault) if fault else None
            if code is not None:
                self._find(code, f"ballot of {auditor.hex()}: {code.__doc__}", auditor)

    # --- outcomes

    def _recompute(self, records: _Records, beacon: bytes) -> Commitment | None:
        try:
            expected, _ = build_commitment(
                self._terms,
                self._evidence.roster,
                beacon,
                self._evidence.previous_digest,
                records.submissions.values(),
                records.ballots.values(),
            )
        except CommitmentError as error:
            self._find(FindingCode.BUNDLE_MALFORMED, str(error))
            return None
        return expected

    def _compare(self, expected: Commitment, commitment: Commitment) -> None:
        committed = commitment.outcome_of
        for author, outcome in expected.outcome_of.items():
            if author in committed and committed[author] is not outcome:
                self._find(
                    FindingCode.OUTCOME,
                    f"{author.hex()} is committed as {committed[author].name}, "
                    f"the ballots say {outcome.name}",
                    author,
                )
        statuses, due = dict(commitment.auditors), dict(expected.auditors)
        for auditor in sorted(statuses.keys() | due.keys()):
            said, counted = statuses.get(auditor), due.get(auditor)
            if said is not counted:
                self._find(
                    FindingCode.AUDITOR_STATUS,
                    f"{auditor.hex()} is committed as {said.name if said else 'not due'}, the ballots say "
                    f"{counted.name if counted else 'not due'}",
                    auditor,
                )
        if commitment.counts != expected.counts:
            self._find(FindingCode.COUNTS, f"committed {commitment.counts}, the bundle has {expected.counts}")

    # --- list

    def _check_list(self, outcomes: Mapping[bytes, Outcome] | None) -> DistributionList | None:
        evidence = self._evidence
        if evidence.anchored_root is None:
            return None
        held = self._read_list()
        expected = self._expected_list(outcomes) if outcomes is not None and self._roster_known else None
        shown = held or expected
        if shown is not None:
            self._same(FindingCode.LIST_ROOT, "list root", evidence.anchored_root, shown.root)
        if held is not None and expected is not None:
            self._compare_leaves(held, expected)
        trusted = expected
        if trusted is None and held is not None and held.root == evidence.anchored_root:
            trusted = held
        if trusted is not None:
            self._check_totals(trusted)
        return trusted

    def _read_list(self) -> DistributionList | None:
        if self._evidence.list is None:
            self._find(FindingCode.LIST_MALFORMED, "the anchored list is missing")
            return None
        try:
            held = DistributionList.decode(self._evidence.list)
        except DistributionError as error:
            self._find(FindingCode.LIST_MALFORMED, str(error))
            return None
        if held.round != self._evidence.round:
            self._find(FindingCode.LIST_ROUND, f"list of round {held.round}, not {self._evidence.round}")
        return held

    def _expected_list(self, outcomes: Mapping[bytes, Outcome]) -> DistributionList | None:
        roster, terms = self._evidence.roster, self._terms
        try:
            submitters = submitters_of(outcomes, roster, self._previous_list)
            amounts = self._distribute(submitters, terms.bounty_per_round, self._evidence.round)
            return next_list(self._previous_list, roster, amounts, terms, self._evidence.round)
        except DistributionError as error:
            self._find(FindingCode.DISTRIBUTION, str(error))
            return None

    def _compare_leaves(self, held: DistributionList, expected: DistributionList) -> None:
        for leaf in expected.leaves:
            listed = held.leaf(leaf.staker)
            if listed is None:
                self._find(
                    FindingCode.LIST_LEAF_MISSING, f"{leaf.staker.hex()} is not on the list", leaf.staker
                )
            elif listed != leaf:
                self._find(
                    FindingCode.LIST_LEAF,
                    f"{leaf.staker.hex()} is listed with reward {listed.reward_total} and slash "
                    f"{listed.slash_total}, the outcomes lead to {leaf.reward_total} and {leaf.slash_total}",
                    leaf.staker,
                )
        for leaf in held.leaves:
            if expected.leaf(leaf.staker) is None:
                self._find(FindingCode.LIST_LEAF_EXTRA, f"{leaf.staker.hex()} is on the list", leaf.staker)

    def _check_totals(self, trusted: DistributionList) -> None:
        evidence = self._evidence
        if evidence.anchored_reward_total != trusted.reward_total:
            self._find(
                FindingCode.REWARD_TOTAL,
                f"the chain has {evidence.anchored_reward_total}, the list {trusted.reward_total}",
            )
        if evidence.anchored_slash_total != trusted.slash_total:
            self._find(
                FindingCode.SLASH_TOTAL,
                f"the chain has {evidence.anchored_slash_total}, the list {trusted.slash_total}",
            )

    # --- findings

    def _find(self, code: FindingCode, text: str, subject: bytes | None = None) -> None:
        self._findings.append(Finding(code, text, subject))

    def _same(self, code: FindingCode, name: str, said: bytes, found: bytes) -> bool:
        if said != found:
            self._find(code, f"{name} is {said.hex()}, recomputed it is {found.hex()}")
        return said == found

    def _default_distribution(
        self, submitters: Sequence[Submitter], bounty: int, round_number: int
    ) -> Mapping[bytes, int]:
        return default_distribution(submitters, bounty, self._terms.slash_basis_points)


_BALLOT_FINDINGS = {
    Reason.EMPTY_BALLOT: FindingCode.BALLOT_EMPTY,
    Reason.NOT_ASSIGNED: FindingCode.BALLOT_NOT_ASSIGNED,
    Reason.SUBMISSION_UNKNOWN: FindingCode.BALLOT_UNKNOWN_SUBMISSION,
}
