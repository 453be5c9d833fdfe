"""How fast the pure core is: admission, assignment, commitment and list, for many stakers, on one core.

    python scripts/bench/rounds_core.py [--stakers 10000] [--records 10000] [--out figures.json]

Each figure stands beside a peer measured in the same run, and the ratio is what counts on another machine: admission
beside the one signature check that it cannot do without, assignment beside full rendezvous hashing, commitment and
list beside the SHA-256 of as many bytes and leaves. The targets are printed with the figures.

Assignment. All stakes are laid out as one line; for each submission, draw j is a hash of (beacon, author, j), reduced
to a point of the line from which the author and those already drawn are cut out. A binary search on the running
totals finds whose stretch it is: O(m log N) per submission and O(N m log N) per round, where rendezvous hashing
asks for a hash per staker and submission. One auditor's assignment stays verifiable by itself: from the roster (its
root is in the commitment), the beacon and the author, anybody repeats the at most m draws of that submission,
and needs no other submission, no other auditor's duties and no table of the round.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from unittest import mock

from koii_p2p import __version__
from koii_p2p.limits import Limits
from koii_p2p.records.envelope import Verified, decode_record, sign, verify
from koii_p2p.records.keys import SecretKey
from koii_p2p.records.schema import Ballot, BallotEntry, Statement, Submission, Verdict
from koii_p2p.rounds import admission, merkle
from koii_p2p.rounds.admission import Admitted, Source, admit
from koii_p2p.rounds.assignment import AuditAssignment
from koii_p2p.rounds.beacon import beacon
from koii_p2p.rounds.commitment import NO_PREVIOUS, build_commitment
from koii_p2p.rounds.distribution import default_distribution, next_list, submitters_of
from koii_p2p.rounds.eligibility import DRAWN, FULL_AUDIT
from koii_p2p.rounds.record_book import RecordBook
from koii_p2p.rounds.roster import Roster, RosterEntry
from koii_p2p.rounds.round_records import sort_records
from koii_p2p.rounds.round_state import RoundState
from koii_p2p.rounds.terms import TaskTerms

GENESIS = bytes(range(32))
TERMS = TaskTerms(
    task=b"t" * 32,
    creator=b"c" * 32,
    name="bench",
    starting_slot=0,
    round_time=100,
    submission_window=40,
    audit_window=40,
    bounty_per_round=10**12,
    minimum_stake=10**9,
)
ROUND = 0
SEED = 1

ADMISSIONS = 25_000
"""Target: ballots admitted per second, without their signature checks."""
MILLISECONDS = 150
"""Target for the commitment to 10 000 records, and for the list of 10 000 stakers."""

Figures = dict[str, float]


def seconds(work: Callable[[], object], repeats: int = 5) -> float:
    """The best of some runs, in seconds of one core: what else runs on the machine does not count."""
    best = float("inf")
    for _ in range(repeats):
        began = time.process_time()
        work()
        best = min(best, time.process_time() - began)
    return best


def rendezvous(seed: bytes, submission: bytes, keys: tuple[bytes, ...], count: int) -> list[bytes]:
    """The peer of assignment: hash every key against the submission, take the highest."""
    return sorted(keys, key=lambda key: sha256(seed + submission + key).digest())[-count:]


@dataclass(frozen=True)
class Played:
    """A round in which everybody submits and audits all that is due; one fraud in a hundred is disputed."""

    roster: Roster
    seed: bytes
    submissions: list[Verified]
    ballots: list[Verified]
    full_ballots: list[Verified]

    @property
    def records(self) -> list[Verified]:
        """All that was said."""
        return [*self.submissions, *self.ballots, *self.full_ballots]

    def draw(self) -> AuditAssignment:
        """The assignment of the round, with nothing drawn yet."""
        return AuditAssignment(self.seed, self.roster, TERMS.audit)


def make_round(stakers: int, frauds: int = 0) -> Played:
    """A round of so many stakers, of whom the first `frauds` hand in something wrong."""
    secrets = {
        s.public_key: s
        for s in (SecretKey.from_seed(sha256(b"%d %d" % (SEED, i)).digest()) for i in range(stakers))
    }
    entries = (RosterEntry(key, 19 * 10**8 + i, 0, b"b" * 32, 4 * 10**9) for i, key in enumerate(secrets))
    roster = Roster(ROUND, tuple(sorted(entries, key=lambda entry: entry.key)))
    seed = beacon(b"h" * 32, TERMS.task, ROUND)
    assignment = AuditAssignment(seed, roster, TERMS.audit)
    clock = TERMS.clock
    submissions = {
        key: _say(secret, Submission(f"value {index}"), clock.submission(ROUND).opens)
        for index, (key, secret) in enumerate(secrets.items())
    }
    bad = set(list(secrets)[:frauds])
    first: dict[bytes, list[BallotEntry]] = {}
    full: dict[bytes, list[BallotEntry]] = {}
    for author, record in submissions.items():
        verdict = Verdict.INVALID if author in bad else Verdict.VALID
        drawn = assignment.auditors_of(author)
        for auditor in drawn:
            first.setdefault(auditor, []).append(BallotEntry(record.id, verdict))
        for auditor in assignment.committee_of(author)[len(drawn) :] if author in bad else ():
            full.setdefault(auditor, []).append(BallotEntry(record.id, verdict))
    return Played(
        roster,
        seed,
        list(submissions.values()),
        [
            _vote(secrets[key], first[key], clock.first_ballots(ROUND).opens, DRAWN)
            for key in secrets
            if key in first
        ],
        [
            _vote(secrets[key], full[key], clock.full_audit(ROUND).opens, FULL_AUDIT)
            for key in secrets
            if key in full
        ],
    )


def _say(secret: SecretKey, body: Submission | Ballot, slot: int, seq: int = 0) -> Verified:
    return sign(Statement(TERMS.task, ROUND, slot, seq, body), GENESIS, secret)


def _vote(secret: SecretKey, entries: list[BallotEntry], slot: int, stage: int) -> Verified:
    ordered = tuple(sorted(entries, key=lambda entry: entry.submission_id))
    return _say(secret, Ballot(ordered), slot, stage)


def measure_admission(played: Played) -> Figures:
    """Admission of all first ballots, beside the check of their signatures."""
    book = RecordBook(TERMS, GENESIS, Limits())
    state = RoundState(TERMS.task, ROUND, roster=played.roster, assignment=played.draw())
    book.rounds[ROUND] = state
    for record in played.submissions:
        state.hold(record, GENESIS, timely=True)
    envelopes = [record.envelope for record in played.ballots]
    verified = {record.id: record for record in played.ballots}
    now = TERMS.clock.first_ballots(ROUND).opens + 1

    def admit_all() -> None:
        for envelope in envelopes:
            if not isinstance(admit(book, envelope, now, Source.GOSSIP), Admitted):
                raise AssertionError("a ballot of the bench is not admitted")

    whole = seconds(admit_all)
    with mock.patch.object(admission, "verify", lambda envelope, _genesis: verified[envelope.id]):
        rules = seconds(admit_all)
    signatures = seconds(lambda: [verify(envelope, GENESIS) for envelope in envelopes])
    decoding = seconds(lambda: [decode_record(record.raw) for record in played.ballots])
    count = len(envelopes)
    return {
        "ballots_admitted_per_second": round(count / whole),
        "ballots_admitted_per_second_without_signatures": round(count / rules),
        "target_per_second": ADMISSIONS,
        "admission_rules_per_signature_check": round(rules / signatures, 3),
        "ballots_decoded_per_second": round(count / decoding),
    }


def measure_assignment(played: Played) -> Figures:
    """Auditors of every submission, drawn anew, beside rendezvous hashing of some of them."""
    authors = [record.author for record in played.submissions]

    def assign() -> None:
        fresh = played.draw()
        for author in authors:
            fresh.auditors_of(author)

    assigning = seconds(assign, 3)
    one = seconds(lambda: played.draw().auditors_of(authors[0]), 3)
    drawn = played.draw()
    again = seconds(lambda: [drawn.auditors_of(author) for author in authors[:500]], 1) / 500
    sample = played.submissions[:20]
    hashing = seconds(
        lambda: [rendezvous(played.seed, r.id, played.roster.keys, TERMS.audit.auditors) for r in sample], 1
    )
    return {
        "assignment_ms": round(assigning * 1000, 1),
        "assignment_speed_over_rendezvous": round(hashing / len(sample) * len(authors) / assigning, 1),
        "one_assignment_checked_us": round(again * 1e6, 1),
        "one_assignment_checked_from_the_roster_ms": round(one * 1000, 2),
    }


def measure_commitment(played: Played) -> Figures:
    """Commitment to the records of a round, beside hashing their bytes once."""
    records = sort_records(played.records, TERMS, played.roster, GENESIS)
    drawn = played.draw()

    def commit(assignment: AuditAssignment) -> bytes:
        built = build_commitment(TERMS, played.roster, played.seed, NO_PREVIOUS, records, assignment)
        return built.commitment.digest

    commit(drawn)
    committing = seconds(lambda: commit(drawn))
    drawing = seconds(lambda: commit(played.draw()), 3)
    sorting = seconds(lambda: sort_records(played.records, TERMS, played.roster, GENESIS), 3)
    raws = [record.raw for record in played.records]
    hashing = seconds(lambda: (merkle.root(raws), sha256(b"".join(raws))))
    return {
        "records": len(raws),
        "commitment_ms": round(committing * 1000, 1),
        "target_ms": MILLISECONDS,
        "commitment_with_assignment_ms": round(drawing * 1000, 1),
        "sorting_records_ms": round(sorting * 1000, 1),
        "commitment_per_hashing_the_records": round(committing / hashing, 1),
    }


def measure_list(played: Played) -> Figures:
    """The list after one round, from the outcomes to its root, beside the Merkle root of as many leaves."""
    records = sort_records(played.records, TERMS, played.roster, GENESIS)
    built = build_commitment(TERMS, played.roster, played.seed, NO_PREVIOUS, records)
    submitters = submitters_of(built.tally.outcomes, played.roster, None)
    amounts = default_distribution(submitters, TERMS.bounty_per_round, TERMS.slash_basis_points)
    before = next_list(None, replace(played.roster), amounts, TERMS, built.tally)
    later = replace(played.roster, round=ROUND + 1)

    def list_round() -> bytes:
        given = submitters_of(built.tally.outcomes, later, before)
        paid = default_distribution(given, TERMS.bounty_per_round, TERMS.slash_basis_points)
        return next_list(before, later, paid, TERMS, built.tally).root

    listing = seconds(list_round)
    leaves = [leaf.encode() for leaf in before.leaves]
    hashing = seconds(lambda: merkle.root(leaves))
    return {
        "list_ms": round(listing * 1000, 1),
        "target_ms": MILLISECONDS,
        "list_per_hashing_its_leaves": round(listing / hashing, 1),
        "all_proofs_ms": round(seconds(before.proofs, 3) * 1000, 1),
    }


def main() -> None:
    """Measure, print, and write the figures if asked to."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--stakers", type=int, default=10_000)
    parser.add_argument(
        "--records", type=int, default=10_000, help="records of the commitment, about half of them ballots"
    )
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    many, few = make_round(given.stakers), make_round(given.records * 9 // 20, frauds=given.records // 1000)
    figures = {
        "machine": platform.processor() or platform.machine(),
        "python": sys.version.split()[0],
        "version": __version__,
        "seed": SEED,
        "stakers": given.stakers,
        "admission": measure_admission(many),
        "assignment": measure_assignment(many),
        "commitment": measure_commitment(few),
        "list": measure_list(many),
    }
    text = json.dumps(figures, indent=1)
    print(text)
    if given.out:
        given.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
