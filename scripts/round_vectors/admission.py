"""Vectors of admission: what one node, which knows this much, does with each record that comes.

Every verdict is written by hand. What is kept after it follows from a few lines of bookkeeping here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Final

from koii_p2p.records.envelope import Verified, sign
from koii_p2p.records.schema import (
    Ballot,
    BallotReveal,
    Statement,
    Submission,
    Verdict,
)
from koii_p2p.records.seals import seal_of
from koii_p2p.rounds.terms import TaskTerms
from round_vectors.scene import Scene, broken, file_about, named
from round_vectors.world import (
    ALL,
    CANARIES,
    GENESIS,
    HARDENED,
    KOII,
    POSP,
    ROUND,
    SEALED,
    SEVEN,
    SIGNERS,
    START,
    TASK,
    VectorFile,
    ballot,
    challenge,
    digest,
    drawn_for,
    full_ballot,
    opening_of,
    say,
    sealed_ballot,
    submission,
)

VALID, INVALID = Verdict.VALID, Verdict.INVALID


def windows() -> VectorFile:
    """Time, place, author and signature, shown with submissions."""
    file = file_about("When submissions are admitted. Round 3 is handed in at the offsets [100, 140).")
    n = SIGNERS
    (
        Scene(
            file,
            "the first and the last slot",
            "A window is half-open, and both slots count: own and receipt.",
        )
        .gets("n00 submits at 100", submission(n[0], offset=100), 100)
        .gets("n01 submits at 139", submission(n[1], offset=139), 139)
    )
    (
        Scene(
            file,
            "after the window",
            "Gossip is late when its window closes; reconciliation, when commitments do.",
        )
        .gets("n00 submits", submission(n[0]), 140, "late")
        .gets("n00 submits", submission(n[0]), 140, "late", "own")
        .gets("n00 submits", submission(n[0]), 140, "accept late", "sync")
        .gets("n01 submits", submission(n[1]), 239, "accept late", "sync")
        .gets("n02 submits", submission(n[2]), 240, "late", "sync")
    )
    (
        Scene(
            file, "reconciled in time", "What reconciliation brings inside the window is as good as gossip."
        ).gets("n00 submits", submission(n[0]), 139, "accept", "sync")
    )
    (
        Scene(
            file,
            "before the window",
            "Our slot may lag by 32: what is earlier is parked, and judged by the later slot.",
        )
        .gets("n00 submits", submission(n[0]), 67, "future")
        .gets("n00 submits", submission(n[0]), 68, "early")
        .gets("n01 submits", submission(n[1]), 99, "early", "sync")
        .again(100, "n00 submits", "n01 submits")
    )
    (
        Scene(
            file,
            "a slot of its own outside the window",
            "Everybody can see that, so it is counted against the sender.",
        )
        .gets("n00 submits at 99", submission(n[0], offset=99), 100, "slot_outside_window")
        .gets("n00 submits at 140", submission(n[0], offset=140), 139, "slot_outside_window")
        .gets("n00 submits at 140", submission(n[0], offset=140), 180, "slot_outside_window", "sync")
    )
    (
        Scene(
            file, "another round", "Rounds 2 and 4 have windows of their own: offsets [0, 40) and [200, 240)."
        )
        .gets("n00 submits in round 4", say(n[0], Submission("x"), 201, number=4), 139, "future")
        .gets("n00 submits in round 2", say(n[0], Submission("x"), 1, number=2), 100, "late")
        .gets(
            "n00 submits in 4 at 101", say(n[0], Submission("x"), 101, number=4), 101, "slot_outside_window"
        )
    )
    other_task = sign(Statement(digest("another"), ROUND, START + 101, 0, Submission("x")), GENESIS, n[0])
    (
        Scene(
            file, "another task", "The sender may work on more tasks than we do; nothing else is looked at."
        ).gets("n00 submits to another task", other_task, 101, "unknown_task")
    )
    other_chain = sign(Statement(TASK, ROUND, START + 101, 0, Submission("x")), digest("other genesis"), n[1])
    (
        Scene(file, "forgeries", "A signature is checked before a record is forwarded, and covers the chain.")
        .gets("n00's signature is broken", broken(submission(n[0])), 101, "bad_signature")
        .gets("n01 signs for another chain", other_chain, 101, "bad_signature")
        .gets("n00 submits", submission(n[0]), 101)
        .gets("n00's signature is broken", broken(submission(n[0])), 102, "bad_signature")
    )
    (
        Scene(file, "bytes that are no record", "The reasons are those of `tests/vectors/records`.").gets(
            "n00's record is cut", submission(n[0]).raw[:-1], 101, "truncated"
        )
    )
    (
        Scene(file, "the same again", "Gossip repeats itself.")
        .gets("n00 submits", submission(n[0]), 101)
        .gets("n00 submits", submission(n[0]), 102, "duplicate")
        .gets("n00 submits", submission(n[0]), 102, "duplicate", "sync")
    )
    (
        Scene(
            file,
            "something else in the same place",
            "The first one stays; the pair is evidence. A third adds nothing.",
        )
        .gets("n00 submits", submission(n[0]), 101)
        .gets("n00 submits B", submission(n[0], "B"), 102, "equivocation")
        .gets("n00 submits with seq 1", say(n[0], Submission("C"), 101, seq=1), 103, "equivocation")
    )
    file.cases[-1]["after"]["conflicts"] = ["n00 submits B"]  # type: ignore[index]
    (
        Scene(
            file,
            "a roster that is not read yet",
            "Kept until it is; then judged by the slot of receipt.",
            knows=(),
        )
        .gets("n00 submits", submission(n[0]), 139, "roster_unknown")
        .gets("n07 submits", submission(n[7]), 139, "roster_unknown")
        .learns("roster")
        .again(150, "n00 submits")
    )
    file.cases[-1]["after"]["parked"] = []  # type: ignore[index]
    (
        Scene(
            file,
            "nobody of the roster",
            "n07 has no stake in this round. The signature is not even looked at.",
        )
        .gets("n07 submits", submission(n[7]), 101, "not_in_roster")
        .gets("n07's signature is broken", broken(submission(n[7])), 101, "not_in_roster")
    )
    return file


def ballots() -> VectorFile:
    """Open ballots of those drawn and of full audits, by profile."""
    file = file_about(
        "Which open ballots are admitted. First ballots: offsets [140, 166); full audits: [166, 180)."
    )
    n = SIGNERS
    work = {place: submission(n[place]) for place in range(7)}
    one = {work[0].id: VALID}

    def scene(name: str, why: str, terms: TaskTerms = HARDENED, authors: Iterable[int] = (0,)) -> Scene:
        made = Scene(file, name, why, terms)
        for author in authors:
            made.gets(f"n{author:02} submits", work[author], 110)
        return made

    play = scene(
        "those drawn, in time", "Five of the six others are drawn for n00 in proportion to their stakes."
    )
    a, b, c, d, e = play.due(0)
    play.gets(f"{named(a)} at 140", ballot(a, one, 140), 140).gets(
        f"{named(b)} at 165", ballot(b, one, 165), 165
    )
    play.gets(f"{named(c)} on n00", ballot(c, one), 166, "late")
    play.gets(f"{named(d)} on n00", ballot(d, one), 239, "accept late", "sync")
    play.gets(f"{named(e)} at 166", ballot(e, one, 166), 165, "slot_outside_window")
    idle = play.idle(0)
    second = next(place for place in range(1, 7) if n[place] is not idle and idle in play.due(place))
    also = f"n{second:02}"
    why = "The draw is public: a vote that is not due is counted against the sender."
    play = scene("not drawn", why, authors=(0, second))
    play.gets(f"{named(idle)}, not drawn", ballot(idle, one), 141, "not_assigned")
    play.gets("n00 on itself", ballot(n[0], one), 141, "not_assigned")
    both = {work[second].id: VALID, work[0].id: VALID}
    play.gets(f"{named(idle)} on both", ballot(idle, both), 141, "not_assigned")
    play.gets(f"{named(idle)}, only on {also}", ballot(idle, {work[second].id: INVALID}), 141)
    (
        scene("a ballot without votes", "Who has nothing to vote on sends nothing.").gets(
            f"{named(a)} says nothing", ballot(a, {}), 141, "empty_ballot"
        )
    )
    (
        Scene(
            file,
            "auditors that are not known yet",
            "Without the beacon nobody knows who is due.",
            knows=["roster"],
        )
        .gets("n00 submits", work[0], 110)
        .gets(f"{named(a)} on n00", ballot(a, one), 141, "beacon_unknown")
        .gets(f"{named(b)} says nothing", ballot(b, {}), 141, "empty_ballot")
        .learns("beacon")
        .again(170, f"{named(a)} on n00")
    )
    (
        Scene(
            file,
            "a submission that is not here yet",
            "Parked if properly signed; one known submission is enough.",
        )
        .gets(f"{named(a)} on n00", ballot(a, one), 141, "submission_unknown")
        .gets(f"{named(b)} on n00, broken", broken(ballot(b, one)), 141, "bad_signature")
        .gets("n00 submits", work[0], 150, "accept late", "sync")
        .again(150, f"{named(a)} on n00")
        .gets(
            f"{named(c)} on n00 and on nothing",
            ballot(c, {work[0].id: VALID, digest("no submission"): VALID}),
            151,
        )
    )
    (
        scene("two ballots", "One for each stage; two for one stage are evidence, whatever they are about.")
        .gets(f"{named(a)} on n00", ballot(a, one), 141)
        .gets(f"{named(a)} changes its mind", ballot(a, {work[0].id: INVALID}), 142, "equivocation")
        .gets(f"{named(a)} in the full audit", full_ballot(a, {work[0].id: INVALID}), 167)
        .gets(f"{named(b)} on n00", ballot(b, one), 143)
        .gets(f"{named(b)} on nothing", ballot(b, {digest("no submission"): VALID}), 143, "equivocation")
    )
    (
        scene(
            "full audits",
            "The committee votes in the last third; whether there was an accusation is asked later.",
        )
        .gets(f"{named(idle)} early", full_ballot(idle, one, 166), 165, "early")
        .again(166, f"{named(idle)} early")
        .gets(f"{named(c)} at 165", full_ballot(c, one, 165), 166, "slot_outside_window")
        .gets("n00 on itself, full", full_ballot(n[0], one), 167, "not_assigned")
        .gets(f"{named(d)} full", full_ballot(d, one, 179), 179)
        .gets(f"{named(e)} full", full_ballot(e, one), 180, "late")
        .gets(f"{named(b)} with seq 2", say(b, ballot(b, one).statement.body, 167, 2), 167, "bad_attempt")
    )
    seal = seal_of(BallotReveal(digest("salt"), ()), TASK, ROUND, a.public_key)
    (
        scene("a sealed ballot where ballots are open", "The rules are fixed.")
        .gets(f"{named(a)} seals", say(a, Ballot(seal=seal), 141), 141, "not_played")
        .gets(f"{named(a)} reveals", say(a, opening_of(a, one), 161), 161, "not_played")
    )
    (
        scene(
            "profile koii",
            "Everybody may vote on everything but its own, in the whole audit, once.",
            KOII,
            (0, 1),
        )
        .gets("n01 on n00 at 140", ballot(n[1], one, 140), 140)
        .gets("n02 on n00 at 179", ballot(n[2], one, 179), 179)
        .gets("n00 on itself", ballot(n[0], one), 150, "not_assigned")
        .gets("n03 in a full audit", full_ballot(n[3], one), 170, "bad_attempt")
        .gets("n04 challenges n00", challenge(n[4], work[0]), 150, "not_played")
    )
    (
        scene(
            "profile all",
            "Everybody is due for everything but its own; there is no second stage to vote in.",
            ALL,
        )
        .gets("n06 on n00", ballot(n[6], one), 141)
        .gets("n00 on itself", ballot(n[0], one), 141, "not_assigned")
        .gets("n03 in a full audit", full_ballot(n[3], one), 170, "bad_attempt")
    )
    audited = drawn_for(POSP, SEVEN).is_audited
    skipped = next(place for place in range(7) if not audited(n[place].public_key))
    other = n[skipped - 1]
    play = scene(
        "profile posp",
        "Nobody is due for who is not drawn for; a full audit may follow a challenge.",
        POSP,
        [skipped],
    )
    play.due(skipped)
    (
        play.gets(
            f"{named(other)} on n{skipped:02}", ballot(other, {work[skipped].id: VALID}), 141, "not_assigned"
        )
        .gets(f"{named(other)} challenges n{skipped:02}", challenge(other, work[skipped]), 142)
        .gets(f"{named(other)}, full", full_ballot(other, {work[skipped].id: INVALID}), 167)
    )
    return file


def sealed() -> VectorFile:
    """Sealed ballots, reveals and canaries."""
    file = file_about("Sealed ballots [140, 153), canaries owned up to [153, 160), reveals [160, 166).")
    n = SIGNERS
    work = submission(n[0])
    one = {work.id: VALID}

    def scene(name: str, why: str, terms: TaskTerms = SEALED) -> Scene:
        return Scene(file, name, why, terms).gets("n00 submits", work, 110)

    play = scene("seal and reveal", "In their slots, and the votes are what was sealed.")
    a, b, c, d, _e = play.due(0)
    x, y = named(a), named(b)
    said = opening_of(a, one)
    reveal = say(a, said, 161)
    play.gets(f"{x} seals", sealed_ballot(a, said), 141).gets(f"{x} reveals", reveal, 161)
    play.gets(f"{y} seals", sealed_ballot(b, opening_of(b, one)), 153, "late")
    play.gets(f"{x} reveals", reveal, 162, "duplicate")
    (
        scene("an open ballot where ballots are sealed", "The rules are fixed. Full audits are open.")
        .gets(f"{x} on n00", ballot(a, one), 141, "not_played")
        .gets(f"{x} in the full audit", full_ballot(a, one), 167)
        .gets(f"{y} seals in the full audit", say(b, Ballot(seal=digest("s")), 167, 1), 167, "not_played")
    )
    (
        scene("a reveal before its time", "Somebody's slot is ahead of ours by two.")
        .gets(f"{x} seals", sealed_ballot(a, said), 141)
        .gets(f"{x} reveals at 160", say(a, said, 160), 158, "early")
        .again(160, f"{x} reveals at 160")
        .gets(f"{x} reveals", reveal, 161, "equivocation")
    )
    (
        scene("a reveal without its ballot", "Reconciliation may bring the ballot; the reveal was in time.")
        .gets(f"{x} reveals", reveal, 161, "ballot_unknown")
        .gets(f"{x} seals", sealed_ballot(a, said), 170, "accept late", "sync")
        .again(170, f"{x} reveals")
    )
    stolen = sealed_ballot(a, said).statement.body
    (
        scene("a reveal of something else", "A seal binds task, round, auditor, salt and votes.")
        .gets(f"{x} seals", sealed_ballot(a, said), 141)
        .gets(f"{x} reveals other votes", say(a, opening_of(a, {work.id: INVALID}), 161), 161, "seal_broken")
        .gets(
            f"{x} reveals another salt", say(a, replace(said, salt=digest("pepper")), 161), 161, "seal_broken"
        )
        .gets(f"{y} copies the seal", say(b, stolen, 142), 142)
        .gets(f"{y} copies the reveal", say(b, said, 162), 162, "seal_broken")
    )
    idle = play.idle(0)
    unknown, empty = opening_of(b, {digest("no submission"): VALID}), opening_of(c, {})
    (
        scene(
            "a reveal with votes that don't count", "The rules of open ballots, once the votes can be read."
        )
        .gets(f"{named(idle)} seals", sealed_ballot(idle, opening_of(idle, one)), 141)
        .gets(f"{named(idle)} reveals", say(idle, opening_of(idle, one), 161), 161, "not_assigned")
        .gets(f"{y} seals votes on nothing", sealed_ballot(b, unknown), 141)
        .gets(f"{y} reveals votes on nothing", say(b, unknown, 161), 161, "submission_unknown")
        .gets(f"{named(c)} seals", sealed_ballot(c, empty), 141)
        .gets(f"{named(c)} reveals", say(c, empty, 161), 161, "empty_ballot")
        .gets(f"{named(d)} seals", sealed_ballot(d, opening_of(d, one)), 141)
    )

    def owns_up(offset: int) -> Verified:
        return challenge(n[0], work, offset=offset)

    (
        scene(
            "owning up to a canary",
            "A challenge of one's own, after nobody can seal and before anybody reveals.",
            CANARIES,
        )
        .gets("n00 owns up at 152", owns_up(152), 153, "own_submission")
        .gets("n00 owns up at 160", owns_up(160), 160, "own_submission")
        .gets("n00 owns up at 153", owns_up(153), 153)
    )
    (
        scene(
            "owning up, seen late", "Received when reveals have begun: kept, but not in time.", CANARIES
        ).gets("n00 owns up at 159", owns_up(159), 160, "accept late")
    )
    (
        scene(
            "owning up, seen early",
            "A receiver whose slot lags may see it before the slots for it: in time.",
            CANARIES,
        ).gets("n00 owns up at 153", owns_up(153), 152)
    )
    (
        scene("owning up where there are no canaries", "A task without a canary rate has none.").gets(
            "n00 owns up at 153", owns_up(153), 153, "own_submission"
        )
    )
    return file


FILES: Final[dict[str, Callable[[], VectorFile]]] = {
    "windows": windows,
    "ballots": ballots,
    "sealed": sealed,
}
