"""More vectors of admission: challenges, evidence, notices, list votes, presences, keys without stake.

As in `admission.py`, every verdict is written by hand.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from koii_p2p.records.cid import cid_of
from koii_p2p.records.envelope import Verified
from koii_p2p.records.keys import SecretKey
from koii_p2p.records.schema import (
    CommitmentNotice,
    Equivocation,
    ListNotice,
    ListVote,
    Presence,
    Submission,
    Verdict,
)
from round_vectors.scene import Scene, broken, file_about
from round_vectors.world import (
    NAMES,
    SEALED_SEATS,
    SEATS,
    SIGNERS,
    WITNESSES,
    VectorFile,
    ballot,
    challenge,
    conviction,
    digest,
    full_ballot,
    opening_of,
    say,
    sealed_ballot,
    submission,
)

VALID, INVALID = Verdict.VALID, Verdict.INVALID


def accusations() -> VectorFile:
    """Challenges and evidence of equivocations."""
    file = file_about(
        "Challenges: offsets [140, 166). Evidence: from the first submission to the audit's end, [100, 180)."
    )
    n = SIGNERS
    work = submission(n[0])

    def scene(name: str, why: str) -> Scene:
        return Scene(file, name, why).gets("n00 submits", work, 110)

    play = scene("challenges", "Any staker, drawn or not, four times a round at most.")
    for seq in range(4):
        play.gets(f"n01's challenge {seq}", challenge(n[1], work, seq), 142 + seq)
    play.gets("n01's challenge 4", challenge(n[1], work, 4), 146, "bad_attempt")
    play.gets("n07's challenge", challenge(n[7], work), 146, "not_in_roster")
    play.gets("n02's challenge", challenge(n[2], work), 166, "late")
    play.gets("n00's challenge of itself", challenge(n[0], work), 146, "own_submission")
    (
        Scene(file, "a challenge of something unknown", "Parked until the submission comes.")
        .gets("n01's challenge 0", challenge(n[1], work), 142, "submission_unknown")
        .gets("n00 submits", work, 150, "accept late", "sync")
        .again(150, "n01's challenge 0")
    )
    (
        scene("two challenges with one number", "One place, two records: the first stays.")
        .gets("n01's challenge 0", challenge(n[1], work), 142)
        .gets("n01's challenge 0 at 143", challenge(n[1], work, offset=143), 143, "equivocation")
    )
    one, other, third = (submission(n[2], value) for value in "ABC")
    pieces = sorted(
        (
            conviction(n[place], *pair)
            for place, pair in ((3, (one, other)), (4, (one, third)), (5, (other, third)))
        ),
        key=lambda record: record.id,
    )
    small, middle, large = pieces
    s, m, g = (f"{NAMES[piece.author]} convicts n02" for piece in pieces)
    (
        Scene(
            file,
            "evidence",
            "Of several pieces against one key, the one with the smallest id is kept everywhere.",
        )
        .gets(m, middle, 151)
        .gets(g, large, 152, "convicted")
        .gets(m, middle, 152, "duplicate")
        .gets(s, small, 153, replaces=m)
        .gets(m, middle, 154, "convicted")
    )
    (
        Scene(file, "better evidence that comes late", "Somebody was convicted in time; that stays true.")
        .gets(m, middle, 151)
        .gets(s, small, 185, "accept late", "sync", replaces=m)
    )
    file.cases[-1]["after"]["timely"] = [s]  # type: ignore[index]
    (
        Scene(
            file, "evidence, and when", "It comes up between the first submission and the end of the audit."
        )
        .gets("n03 convicts at 100", conviction(n[3], one, other, offset=100), 100)
        .gets(
            "n04 convicts n01 at 180", conviction(n[4], *_two(n[1]), offset=180), 181, "slot_outside_window"
        )
        .gets("n04 convicts n01", conviction(n[4], *_two(n[1])), 180, "late")
        .gets("n04 convicts n01", conviction(n[4], *_two(n[1])), 200, "accept late", "sync")
    )
    in_two = [say(n[2], Submission(value), 1, number=2) for value in "AB"]
    votes = [say(n[2], ListVote(digest(root), True, 0), 241) for root in "AB"]
    again = [say(n[5], ListVote(digest(root), True, 0), 141, seq=1, number=1) for root in "AB"]
    too_soon = [say(n[5], ListVote(digest(root), True, 0), 241, seq=1, number=2) for root in "AB"]
    before = [say(n[2], ListVote(digest(root), True, 0), 141, number=2) for root in "AB"]
    forged = sorted((broken(one), other.raw))
    (
        Scene(
            file,
            "evidence that convicts nobody here",
            "One offence convicts in one round: its own; after the commitment the next, one later per attempt.",
        )
        .gets("n03 convicts n07, without stake", conviction(n[3], *_two(n[7])), 151, "bad_evidence")
        .gets("n03 convicts for round 2", conviction(n[3], *in_two), 151, "bad_evidence")
        .gets("n03 convicts for list votes of round 3", conviction(n[3], *votes), 151, "bad_evidence")
        .gets("n03 convicts by a forgery", say(n[3], Equivocation(*forged), 151), 151, "bad_evidence")
        .gets("n03 convicts for list votes of round 2", conviction(n[3], *before), 151)
        .gets("n03 convicts for 2, second attempt", conviction(n[3], *too_soon), 151, "bad_evidence")
        .gets("n03 convicts for 1, second attempt", conviction(n[3], *again), 151)
    )
    return file


def _two(signer: SecretKey) -> tuple[Verified, Verified]:
    return submission(signer, "A"), submission(signer, "B")


def notices() -> VectorFile:
    """What is said about anchors, and presences."""
    file = file_about(
        "Notices of a commitment: offsets [180, 280), of a list: [200, 280); list votes: [240, 280)."
    )
    n = SIGNERS
    root, cid, paid = digest("a root"), cid_of(b"an artifact"), digest("a transaction") * 2

    def committed(signer: SecretKey, offset: int, attempt: int = 0) -> Verified:
        return say(signer, CommitmentNotice(root, cid, paid), offset, attempt)

    def listed(signer: SecretKey, offset: int, attempt: int = 0) -> Verified:
        return say(signer, ListNotice(root, cid, 5, 0, paid), offset, attempt)

    def vote(signer: SecretKey, offset: int, attempt: int = 0) -> Verified:
        return say(signer, ListVote(root, True, 0), offset, attempt)

    (
        Scene(file, "notices", "Welcome from the first slot of the anchor's window until the round settles.")
        .gets("n00 commits at 179", committed(n[0], 179), 180, "slot_outside_window")
        .gets("n00 commits at 180", committed(n[0], 180), 180)
        .gets("n01 commits at 279", committed(n[1], 279), 279)
        .gets("n02 commits at 279", committed(n[2], 279), 280, "late")
        .gets("n00 lists at 199", listed(n[0], 199), 200, "slot_outside_window")
        .gets("n00 lists at 200", listed(n[0], 200), 200)
        .gets("n07 lists at 201", listed(n[7], 201), 201, "not_in_roster")
    )
    (
        Scene(file, "list votes", "One for each attempt, in the distribution audit.")
        .gets("n00 votes at 239", vote(n[0], 239), 240, "slot_outside_window")
        .gets("n00 votes at 240", vote(n[0], 240), 240)
        .gets("n00 votes at 241", vote(n[0], 241), 241, "equivocation")
        .gets("n01 votes at 279", vote(n[1], 279), 280, "late")
        .gets("n02 votes at 280", vote(n[2], 280), 280, "slot_outside_window")
    )
    (
        Scene(
            file,
            "later attempts",
            "A second attempt is anchored in [240, 300) and voted on in [340, 380); three may follow the first.",
        )
        .gets("n00 votes at 240", vote(n[0], 240), 240)
        .gets("n00 commits again at 240", committed(n[0], 240, 1), 240)
        .gets("n00 lists again at 299", listed(n[0], 299, 1), 299)
        .gets("n00 votes again at 279", vote(n[0], 279, 1), 279, "slot_outside_window")
        .gets("n00 votes again at 340", vote(n[0], 340, 1), 340)
        .gets("n01 votes on attempt 4", vote(n[1], 340, 4), 340, "bad_attempt")
    )

    def here(signer: SecretKey, offset: int, seq: int) -> Verified:
        return say(signer, Presence(("/ip4/192.0.2.1/tcp/4001",), 1, "koii_p2p", 0), offset, seq)

    (
        Scene(
            file,
            "presences",
            "Anybody may say where it listens, at most 1500 slots from now; the newest number stays.",
        )
        .gets("n00 is here, 1", here(n[0], 101, 1), 101)
        .gets("n00 is here, 1", here(n[0], 101, 1), 102, "duplicate")
        .gets("n00 is there, 1", here(n[0], 102, 1), 102, "duplicate")
        .gets("n00 is here, 2", here(n[0], 103, 2), 103)
        .gets("n00 is here, 1", here(n[0], 101, 1), 104, "duplicate")
        .gets("n07 is here", here(n[7], 101, 0), 1601)
        .gets("n01 is here", here(n[1], 101, 0), 1602, "stale_presence")
        .gets("n01's presence is broken", broken(here(n[1], 101, 0)), 101, "bad_signature")
    )
    return file


def seats() -> VectorFile:
    """Keys without stake."""
    file = file_about("What keys without stake may say: ballots, where the task has witness seats.")
    n, w = SIGNERS, WITNESSES
    work = submission(n[0])
    one = {work.id: VALID}
    play = Scene(
        file, "one seat", "Twice as many ballots as seats are held, so that a draw can choose.", SEATS
    )
    play.gets("n00 submits", work, 110)
    for place in range(3):
        record = ballot(w[place], one)
        play.gets(f"w{place:02} on n00", record, 141 + place, "accept" if place < 2 else "seats_taken")
    play.gets("w03 submits", submission(w[3]), 110, "not_in_roster")
    play.gets("w03 challenges n00", challenge(w[3], work), 142, "not_in_roster")
    play.gets("w03 in the full audit", full_ballot(w[3], one), 167, "not_in_roster")
    (
        Scene(file, "no seats", "Without seats a ballot is for stakers.")
        .gets("n00 submits", work, 110)
        .gets("w00 on n00", ballot(w[0], one), 141, "not_in_roster")
    )
    said = opening_of(w[0], one)
    (
        Scene(file, "one seat, sealed", "Sealed as everybody's. A reveal takes no seat.", SEALED_SEATS)
        .gets("n00 submits", work, 110)
        .gets("w00 seals", sealed_ballot(w[0], said), 141)
        .gets("w01 seals", sealed_ballot(w[1], opening_of(w[1], one)), 141)
        .gets("w00 reveals", say(w[0], said, 161), 161)
    )
    return file


FILES: Final[dict[str, Callable[[], VectorFile]]] = {
    "accusations": accusations,
    "notices": notices,
    "seats": seats,
}
