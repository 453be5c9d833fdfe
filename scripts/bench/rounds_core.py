"""How fast the pure core is: admission, assignment, commitment and list, for many stakers.

    python scripts/bench/rounds_core.py [--stakers 10000] [--out figures.json]

Each figure stands beside a peer measured in the same run, and the ratio is what counts: assignment beside full
rendezvous hashing, admission beside the one signature check that it cannot do without.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

from koii_p2p import __version__
from koii_p2p.limits import Limits
from koii_p2p.records.envelope import Verified, decode_record, sign, verify
from koii_p2p.records.keys import SecretKey
from koii_p2p.records.schema import Ballot, BallotEntry, Statement, Submission, Verdict
from koii_p2p.rounds.admission import Admitted, Source, admit
from koii_p2p.rounds.assignment import AuditAssignment
from koii_p2p.rounds.beacon import beacon
from koii_p2p.rounds.commitment import NO_PREVIOUS, build_commitment
from koii_p2p.rounds.distribution import default_distribution, next_list, submitters_of
from koii_p2p.rounds.record_book import RecordBook
from koii_p2p.rounds.roster import Roster, RosterEntry
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


def seconds(work: Callable[[], object], repeats: int = 3) -> float:
    """The best of some runs."""
    best = float("inf")
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - began)
    return best


def rendezvous(seed: bytes, submission: bytes, keys: tuple[bytes, ...], count: int) -> list[bytes]:
    """The peer of assignment: hash every key against the submission, take the highest."""
    return sorted(keys, key=lambda key: sha256(seed + submission + key).digest())[-count:]


def make_round(stakers: int) -> tuple[Roster, bytes, AuditAssignment, list[Verified], list[Verified]]:
    """A round in which everybody submits, and audits all that is due."""
    secrets = [SecretKey.from_seed(sha256(b"%d %d" % (SEED, index)).digest()) for index in range(stakers)]
    entries = (RosterEntry(s.public_key, 19 * 10**8 + i, 0, b"b" * 32) for i, s in enumerate(secrets))
    roster = Roster(ROUND, tuple(sorted(entries, key=lambda entry: entry.key)))
    seed = beacon(b"h" * 32, TERMS.task, ROUND)
    assignment = AuditAssignment(seed, roster, TERMS.auditors)
    submitting, auditing = TERMS.clock.submission(ROUND).opens, TERMS.clock.audit(ROUND).opens
    submissions = [
        sign(Statement(TERMS.task, ROUND, submitting, 0, Submission(f"value {index}")), GENESIS, secret)
        for index, secret in enumerate(secrets)
    ]
    due: dict[bytes, list[bytes]] = {}
    for record in submissions:
        for auditor in assignment.auditors_of(record.author):
            due.setdefault(auditor, []).append(record.id)
    ballots = [
        sign(
            Statement(
                TERMS.task,
                ROUND,
                auditing,
                0,
                Ballot(tuple(BallotEntry(id, Verdict.VALID) for id in sorted(due[secret.public_key]))),
            ),
            GENESIS,
            secret,
        )
        for secret in secrets
        if secret.public_key in due
    ]
    return roster, seed, assignment, submissions, ballots


def measure(stakers: int) -> dict[str, Any]:
    """Every figure for one number of stakers."""
    roster, seed, assignment, submissions, ballots = make_round(stakers)
    book = RecordBook(TERMS, GENESIS, Limits())
    state = book.rounds[ROUND] = RoundState(TERMS.task, ROUND, roster=roster, assignment=assignment)
    for record in submissions:
        state.hold(record, timely=True)
    raws = [record.raw for record in ballots]
    envelopes = [decode_record(raw) for raw in raws]
    now = TERMS.clock.audit(ROUND).opens + 1

    def admit_all() -> None:
        assert all(isinstance(admit(book, envelope, now, Source.GOSSIP), Admitted) for envelope in envelopes)

    def check_signatures() -> None:
        for envelope in envelopes:
            verify(envelope, GENESIS)

    admitting, signatures = seconds(admit_all), seconds(check_signatures)
    decoding = seconds(lambda: [decode_record(raw) for raw in raws])

    def assign() -> None:
        fresh = AuditAssignment(seed, roster, TERMS.auditors)
        for record in submissions:
            fresh.auditors_of(record.author)

    assigning = seconds(assign)
    sample = submissions[: max(1, min(20, stakers))]
    hashing = seconds(lambda: [rendezvous(seed, r.id, roster.keys, TERMS.auditors) for r in sample], 1)
    committing = seconds(
        lambda: build_commitment(TERMS, roster, seed, NO_PREVIOUS, submissions, ballots)[0].digest
    )
    commitment, _ = build_commitment(TERMS, roster, seed, NO_PREVIOUS, submissions, ballots)
    given = submitters_of(commitment.outcome_of, roster, None)
    amounts = default_distribution(given, TERMS.bounty_per_round, TERMS.slash_basis_points)
    listing = seconds(lambda: next_list(None, roster, amounts, TERMS, ROUND).root)
    rules = max(admitting - signatures, 1e-9)
    return {
        "stakers": stakers,
        "ballots_admitted_per_second": round(len(ballots) / admitting),
        "ballots_admitted_per_second_without_signatures": round(len(ballots) / rules),
        "admission_rules_per_signature_check": round(rules / signatures, 3),
        "ballots_decoded_per_second": round(len(ballots) / decoding),
        "assignment_ms": round(assigning * 1000, 1),
        "assignment_speed_over_rendezvous": round(hashing / len(sample) * stakers / assigning, 1),
        "commitment_ms": round(committing * 1000, 1),
        "list_ms": round(listing * 1000, 1),
    }


def main() -> None:
    """Measure, print, and write the figures if asked to."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--stakers", type=int, nargs="+", default=[100, 1000, 10_000])
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    figures = {
        "machine": platform.processor() or platform.machine(),
        "python": sys.version.split()[0],
        "version": __version__,
        "seed": SEED,
        "figures": [measure(stakers) for stakers in given.stakers],
    }
    text = json.dumps(figures, indent=1)
    print(text)
    if given.out:
        given.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
