"""Recomputing a round from what the chain and its holders keep, and saying exactly which thing is wrong."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256

from koii_p2p.records.cid import cid_of
from koii_p2p.rounds.assignment import AuditAssignment
from koii_p2p.rounds.beacon import beacon as beacon_of
from koii_p2p.rounds.bundle_check import check_records
from koii_p2p.rounds.commitment import Bundle, Commitment, CommitmentError, build_commitment
from koii_p2p.rounds.distribution import (
    DistributionError,
    DistributionList,
    Submitter,
    default_distribution,
    next_list,
    submitters_of,
)
from koii_p2p.rounds.findings import Finding, FindingCode
from koii_p2p.rounds.list_bounds import broken_bounds
from koii_p2p.rounds.reputation import Reputation, audit_rate
from koii_p2p.rounds.roster import Roster
from koii_p2p.rounds.round_records import SECTIONS
from koii_p2p.rounds.tally import Outcome, Tally
from koii_p2p.rounds.terms import TaskTerms

__all__ = [
    "Distribute",
    "Finding",
    "FindingCode",
    "NotRecomputed",
    "RoundEvidence",
    "RoundReport",
    "check_round",
    "not_at_hand",
]

Distribute = Callable[[Sequence[Submitter], int, int], Mapping[bytes, int]]
"""A task's distribution: submitters sorted by key, bounty in Roe, round -> Roe per key. May raise `NotRecomputed`."""


class NotRecomputed(Exception):
    """A task's own distribution cannot be run here, so that nothing is known of its lists; the text says why."""


def not_at_hand(submitters: Sequence[Submitter], bounty: int, round_number: int) -> Mapping[bytes, int]:
    """The distribution of a task that has one of its own, for whoever does not have the task's code."""
    raise NotRecomputed("the rule is the task's own, and the task's code is not at hand")


@dataclass(frozen=True, slots=True)
class RoundEvidence:
    """All there is about one round. From the chain: roster, blockhash, anchors. From holders: the bytes.

    `previous_digest` is the newest commitment of an earlier round that stood at its first attempt (32 zero bytes
    before the first). `anchored_root` and `list` are None while no list is anchored; the list is not checked then.
    `reputations` are those of this round by key (`reputation.reputations`): where the rules have a floor, the less
    a submitter is audited the more it is trusted.
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
    reputations: Mapping[bytes, Reputation] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RoundReport:
    """Findings, none when everything agrees, and the list that the next round builds on.

    `list` is the recomputed list, or the anchored one where it could not be recomputed, or None. `amounts` are what
    `distribute` gave, None without one. `unrecomputed` says why the anchored list could not be held against its rule:
    then it only keeps what every list has to keep, and whether it is right is not known.
    """

    findings: tuple[Finding, ...]
    list: DistributionList | None
    amounts: Mapping[bytes, int] | None = None
    unrecomputed: str | None = None

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
    task's distribution, Koii's default if None, `not_at_hand` if it is the task's own and cannot be run. Once
    something is found wrong, what merely follows from it is not reported as well: an altered bundle is not also a
    wrong outcome. Linear in the number of records.

    Raises ValueError when the roster is of another round than the evidence, or weighs stakes by other rules than
    the terms.
    """
    if evidence.roster.round != evidence.round:
        raise ValueError(f"a roster of round {evidence.roster.round} cannot check round {evidence.round}")
    if evidence.roster.weights is not terms.audit.weights:
        raise ValueError(
            f"a roster weighed by {evidence.roster.weights.name} cannot check a task of {terms.audit.weights.name}"
        )
    return _Check(terms, genesis, evidence, previous_list, distribute).run()


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
        self._own_rule = distribute is not None
        self._amounts: Mapping[bytes, int] | None = None
        self._unrecomputed: str | None = None
        self._findings: list[Finding] = []
        self._roster_known = True

    def run(self) -> RoundReport:
        anchored, commitment = self._read_commitment()
        beacon = self._check_header(anchored, commitment)
        bundle, untouched = self._read_bundle(commitment)
        assignment = self._assign(beacon) if self._roster_known else None
        records = (
            check_records(
                bundle,
                self._terms,
                self._genesis,
                self._evidence.round,
                assignment,
                commitment,
                self._find,
            )
            if bundle
            else None
        )
        if bundle and commitment:
            self._check_roots(bundle, commitment)
        counted: Tally | None = None
        if anchored and commitment and not (untouched and records and assignment):
            # The chain vouches for this commitment, and the bundle is not (or not provably) what it commits
            # to: what the records lead to says nothing.
            counted = self._committed_tally(commitment)
        elif records and assignment:
            built = build_commitment(
                self._terms,
                self._evidence.roster,
                beacon,
                self._evidence.previous_digest,
                records,
                assignment,
            )
            if commitment:
                self._compare(built.commitment, commitment)
            counted = built.tally
        trusted = self._check_list(counted)
        return RoundReport(tuple(self._findings), trusted, self._amounts, self._unrecomputed)

    def _assign(self, beacon: bytes) -> AuditAssignment:
        rules, rates = self._terms.audit, {}
        if rules.reputation_floor:
            rates = {key: audit_rate(known, rules) for key, known in self._evidence.reputations.items()}
        return AuditAssignment(beacon, self._evidence.roster, rules, rates)

    def _committed_tally(self, commitment: Commitment) -> Tally | None:
        """The count that a commitment stands for; None if its list depends on more: on who found a fraud."""
        outcomes = commitment.outcome_of
        if self._terms.audit.finders_share and Outcome.REJECTED in outcomes.values():
            return None
        return Tally(outcomes, dict(commitment.auditors), frozenset(), {})

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
        for section, said, found in zip(SECTIONS, commitment.roots, bundle.roots, strict=True):
            self._same(FindingCode[f"{section.upper()}_ROOT"], f"root of {section}", said, found)

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

    # --- outcomes

    def _compare(self, expected: Commitment, commitment: Commitment) -> None:
        committed = commitment.outcome_of
        for author, outcome in expected.outcome_of.items():
            if author in committed and committed[author] is not outcome:
                self._find(
                    FindingCode.OUTCOME,
                    f"{author.hex()} is committed as {committed[author].name}, "
                    f"the records say {outcome.name}",
                    author,
                )
        statuses, due = dict(commitment.auditors), dict(expected.auditors)
        for auditor in sorted(statuses.keys() | due.keys()):
            said, counted = statuses.get(auditor), due.get(auditor)
            if said is not counted:
                self._find(
                    FindingCode.AUDITOR_STATUS,
                    f"{auditor.hex()} is committed as {said.name if said else 'not due'}, the records say "
                    f"{counted.name if counted else 'not due'}",
                    auditor,
                )
        if commitment.counts != expected.counts:
            self._find(FindingCode.COUNTS, f"committed {commitment.counts}, the bundle has {expected.counts}")

    # --- list

    def _check_list(self, counted: Tally | None) -> DistributionList | None:
        evidence = self._evidence
        if evidence.anchored_root is None:
            return None
        held = self._read_list()
        expected = self._expected_list(counted) if counted is not None and self._roster_known else None
        shown = held or expected
        if shown is not None:
            self._same(FindingCode.LIST_ROOT, "list root", evidence.anchored_root, shown.root)
        if held is not None and expected is not None:
            self._compare_leaves(held, expected)
        elif held is not None and counted is not None and self._unrecomputed:
            self._check_bounds(held, counted)
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

    def _expected_list(self, counted: Tally) -> DistributionList | None:
        roster, terms = self._evidence.roster, self._terms
        try:
            submitters = submitters_of(counted.outcomes, roster, self._previous_list)
            amounts = self._distribute(submitters, terms.bounty_per_round, self._evidence.round)
            if self._own_rule:
                self._amounts = amounts
            return next_list(self._previous_list, roster, amounts, terms, counted)
        except NotRecomputed as why:
            self._unrecomputed = str(why)
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

    def _check_bounds(self, held: DistributionList, counted: Tally) -> None:
        """Of a list whose rule cannot be run: what every list has to keep."""
        for text, key in broken_bounds(
            held, self._previous_list, self._evidence.roster, self._terms, counted
        ):
            self._find(FindingCode.LIST_BOUNDS, text, key)

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
