"""Vectors of reputation: anchored outcomes, and the good, bad and score that follow. All by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from round_vectors.world import HARDENED, NAMES, SIGNERS, Json, VectorFile, digest, terms_json

SUBMITTED: Final = {
    "S": "approved",
    "B": "approved",
    "R": "rejected",
    "U": "undecided",
    "N": "unavailable",
    "C": "canary",
    "E": "equivocated",
}
AUDITED: Final = {"D": "diligent", "B": "diligent", "A": "absent", "O": "overruled", "Q": "equivocated"}
NEWEST: Final = 18
"""Rounds 7 to 18 count in round 20."""


def _standings(rounds: dict[str, str]) -> list[Json]:
    """What each round says: one letter for each round and name, the last one for round `NEWEST`."""
    standings: dict[int, Json] = {}
    for who, letters in rounds.items():
        for age, letter in enumerate(reversed(letters)):
            outcomes: dict[str, str] = {}
            standing = standings.setdefault(
                NEWEST - age, {"round": NEWEST - age, "outcomes": {}, "auditors": {}}
            )
            for section, words in (("outcomes", SUBMITTED), ("auditors", AUDITED)):
                outcomes = standing[section]  # type: ignore[assignment]
                if letter in words:
                    outcomes[who] = words[letter]
    return [standings[number] for number in sorted(standings)]


def scores() -> VectorFile:
    """Scores."""
    file = VectorFile(
        "Reputations in a round, from the standings of the rounds before it; in round 20 the rounds 7 to 18 count. "
        "Keys without an entry in `expect` have none."
    )
    file.name_keys(one.public_key for one in SIGNERS[:2])
    who = NAMES[SIGNERS[0].public_key]
    table: list[tuple[str, str, str, int, int, int]] = [
        ("the example", "Four approved rounds, then absent.", "SSSSA", 173183, 65536, 4065),
        ("a newcomer", "One observation of 5.5.", "B", 65536, 0, 1818),
        ("four good rounds", "Submitting and auditing are one observation.", "BBBB", 205951, 0, 5714),
        ("submitting alone", "As good as both.", "SSSS", 205951, 0, 5714),
        ("auditing alone", "A witness can have all of it.", "D" * 12, 360413, 0, 10000),
        ("every other round", "What was not observed counts as bad.", "B-B-B-B-B-B-", 164630, 0, 4567),
        ("rounds that say nothing", "Undecided, unavailable, canary.", "BBBBBBBBUCUN", 154462, 0, 4285),
        ("absent once", "1 bad.", "B" * 11 + "A", 294877, 65536, 6922),
        ("overruled once", "4 bad.", "B" * 11 + "O", 294877, 262144, 4736),
        ("rejected", "8 bad, and the good up to it is gone.", "B" * 11 + "R", 0, 524288, 0),
        ("convicted as a submitter", "As bad as rejected.", "B" * 11 + "E", 0, 524288, 0),
        ("convicted as an auditor", "As bad as rejected.", "B" * 11 + "Q", 0, 524288, 0),
        (
            "rejected four rounds ago",
            "Half as bad, and four good rounds.",
            "BBBBBBBRBBBB",
            205951,
            262144,
            3308,
        ),
        ("rejected eight rounds ago", "A quarter.", "BBBRBBBBBBBB", 308926, 131072, 6285),
        (
            "too old",
            "The thirteenth round does not count, not even a fault.",
            "R" + "B" * 12,
            360413,
            0,
            10000,
        ),
    ]
    for name, why, letters, good, bad, score in table:
        expect = {who: {"good": good, "bad": bad, "score": score}}
        file.case(name, why, round=20, standings=_standings({who: letters}), expect=expect)
    file.case(
        "nothing",
        "Neither good nor bad: no reputation.",
        round=20,
        standings=_standings({who: "U"}),
        expect={},
    )
    late = _standings({who: "BB"})
    late[1]["round"] = 19
    file.case(
        "too new",
        "The list of round 19 is not through its audit when that of round 20 opens. Round 17 has age 1.",
        round=20,
        standings=late,
        expect={who: {"good": 55108, "bad": 0, "score": 1529}},
    )
    standing: Json = {
        "round": 18,
        "outcomes": {who: "approved"},
        "auditors": {who: "absent", "n01": "diligent"},
    }
    file.case(
        "the worst of a round counts",
        "Approved, and absent as an auditor: absent.",
        round=20,
        standings=[standing],
        expect={
            who: {"good": 0, "bad": 65536, "score": 0},
            "n01": {"good": 65536, "bad": 0, "score": 1818},
        },
    )
    faulty: Json = {"round": 18, "outcomes": {who: "rejected"}, "auditors": {who: "diligent"}}
    file.case(
        "a fault beside a diligent audit",
        "A fault.",
        round=20,
        standings=[faulty],
        expect={who: {"good": 0, "bad": 524288, "score": 0}},
    )
    return file


def rates() -> VectorFile:
    """What a score changes."""
    file = VectorFile(
        "How often a submitter is audited (basis points) and how many tickets it has, by its score."
    )
    for score, good, audited, tickets in (
        (0, 0, 10000, 1),
        (1818, 65536, 8546, 2),
        (5714, 205951, 5429, 4),
        (10000, 360413, 2000, 8),
    ):
        file.case(
            f"score {score}",
            "Audit rate 10000, floor 2000.",
            audit_rate=10000,
            reputation_floor=2000,
            reputation={"good": good, "bad": 0, "score": score},
            expect={"audited": audited, "tickets": tickets},
        )
    for name, why, rate, floor, audited in (
        ("no floor", "Reputation changes nothing.", 10000, 0, 10000),
        ("a floor above the rate", "The rate is the rate.", 3000, 4000, 3000),
        ("a floor that is the rate", "The rate is the rate.", 3000, 3000, 3000),
        ("the full score at another rate", "Down to the floor.", 3000, 1000, 1000),
    ):
        file.case(
            name,
            why,
            audit_rate=rate,
            reputation_floor=floor,
            reputation={"good": 360413, "bad": 0, "score": 10000},
            expect={"audited": audited, "tickets": 8},
        )
    return file


def anchors() -> VectorFile:
    """Which anchored rounds count."""
    file = VectorFile("Whether what K2 holds of a round counts in a later round. Attempts: one period each.")
    file.shared["terms"] = {"hardened": terms_json(HARDENED)}
    root = digest("a list").hex()
    for name, why, number, attempt, listed, rejected, counts in (
        (
            "two rounds before",
            "Its list was through its audit at 2380, and the audit opens at 2440.",
            11,
            0,
            True,
            False,
            True,
        ),
        ("one round before", "Its list is through at 2480.", 12, 0, True, False, False),
        ("a second attempt", "One round later: through at 2480.", 11, 1, True, False, False),
        ("a second attempt of the round before", "Through at 2380.", 10, 1, True, False, True),
        ("no list", "There was nothing to veto a false commitment by.", 11, 0, False, False, False),
        ("rejected", "Most of the stake was against it.", 11, 0, True, True, False),
    ):
        file.case(
            name,
            why,
            terms="hardened",
            round=13,
            anchored={
                "round": number,
                "attempt": attempt,
                "list_root": root if listed else None,
                "rejected": rejected,
            },
            expect={"counts": counts},
        )
    return file


FILES: Final[dict[str, Callable[[], VectorFile]]] = {"scores": scores, "rates": rates, "anchors": anchors}
