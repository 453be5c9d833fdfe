from __future__ import annotations

from dataclasses import replace
from hashlib import sha256

from koii_p2p.rounds.anchors import AnchoredRound
from koii_p2p.rounds.clock import RoundClock
from koii_p2p.testnets.attempts import Attempt, attempts_of, final_slot, standing_copies
from koii_p2p.testnets.check import check
from koii_p2p.testnets.evidence import RoundCopies
from koii_p2p.testnets.identity import OMITTING_LEADER
from tests.testnets.played import game, played, played_with

CLOCK = RoundClock(1000, 100, 35, 35)
ANCHORED = AnchoredRound(2, 0, b"c" * 32, 1380, b"k" * 32)


def test_a_round_is_final_when_the_audit_of_its_newest_attempt_is_over() -> None:
    assert final_slot(CLOCK, 2, None, 3) == CLOCK.settles_at(2) == 1470
    assert final_slot(CLOCK, 2, ANCHORED, 3) == 1470
    assert final_slot(CLOCK, 2, replace(ANCHORED, attempt=2), 3) == 1670


def test_a_rejected_round_is_final_when_nobody_can_try_again() -> None:
    rejected = replace(ANCHORED, rejected=True)
    assert final_slot(CLOCK, 2, rejected, 3) == CLOCK.commitment(2, 1).closes == 1500
    # The last attempt that is allowed: what is left is the end of its own audit.
    assert final_slot(CLOCK, 2, replace(rejected, attempt=3), 3) == CLOCK.settles_at(2, 3)
    assert final_slot(CLOCK, 2, rejected, 0) == CLOCK.settles_at(2)


def test_a_quiet_round_has_one_attempt() -> None:
    for checked in check(played()).rounds:
        (attempt,) = checked.attempts
        assert (attempt.number, attempt.vetoed_by, attempt.rejected) == (0, (), False)
        assert attempt.anchorers == {game().players[checked.number % 2].key}


def test_the_attempts_are_told_by_the_transactions() -> None:
    checked = check(played_with(OMITTING_LEADER)).rounds[0]
    first, second = checked.attempts
    assert (first.rejected, len(first.vetoed_by)) == (True, 3)
    assert (second.rejected, second.vetoed_by) == (False, ())
    assert not first.anchorers & second.anchorers
    assert checked.anchored is not None
    assert second.commitment == checked.anchored.commitment
    assert second.list_root == checked.anchored.list_root
    # Seen before anybody tried again, the first attempt is the newest one.
    earlier = [entry for entry in checked.entries if getattr(entry.instruction, "attempt", 1) == 0]
    before = replace(checked.anchored, attempt=0, rejected=True)
    assert attempts_of(earlier, before) == (first,)
    assert not attempts_of(earlier, replace(before, rejected=False))[0].rejected


def test_copies_of_rejected_attempts_are_left_out() -> None:
    evidence = played_with(OMITTING_LEADER)
    attempts = check(evidence).rounds[0].attempts
    copies = evidence.copies[0]
    honest = [f"node-{index:02d}" for index in range(4)]
    standing = standing_copies(copies, attempts)
    for name in ("commitment", "bundle", "list"):
        assert list(standing.of(name)) == honest
    assert standing_copies(copies, attempts[1:]) == copies


def test_bytes_that_are_no_commitment_are_left_in() -> None:
    attempts = (Attempt(0, sha256(b"junk").digest(), b"k" * 32, list_root=b"r" * 32, rejected=True),)
    copies = RoundCopies({"node-00": b"junk"}, {"node-00": b"more"}, {"node-00": b"junk"})
    assert standing_copies(copies, attempts).bundle == {"node-00": b"more"}
    assert standing_copies(copies, attempts).list == {"node-00": b"junk"}
