"""Vectors of the draw: clock, roster, beacon, auditors, committees, witness seats, leaders."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final

from koii_p2p.rounds.assignment import AuditAssignment
from koii_p2p.rounds.audit_rules import AuditRules, Profile, Weights
from koii_p2p.rounds.beacon import beacon
from koii_p2p.rounds.leader import leader_order, turn
from koii_p2p.rounds.roster import Checkpoint, Roster, RosterEntry, StakeHistory, roster_at
from round_vectors.world import (
    BEACON,
    BLOCKHASH,
    CLOCK,
    COIN,
    HARDENED,
    NAMES,
    POSP,
    ROUND,
    SEVEN,
    SIGNERS,
    START,
    TASK,
    WITNESSES,
    VectorFile,
    digest,
    draw_json,
    drawn_for,
    history_json,
    roster_json,
    roster_of,
    rules_json,
    with_rules,
)


def clock() -> VectorFile:
    """Windows, all by hand."""
    file = VectorFile("The half-open windows of a round, [opens, closes), in slots.")

    def case(
        name: str, why: str, terms: tuple[int, int, int, int], number: int, attempt: int, **windows: list[int]
    ) -> None:
        names = ("starting_slot", "round_time", "submission_window", "audit_window")
        clock = dict(zip(names, terms, strict=True))
        file.case(name, why, clock=clock, round=number, attempt=attempt, expect=windows)

    usual = (1000, 100, 40, 40)
    case(
        "round 3",
        "Worked on in period 3, handed in and audited in period 4, paid in period 5.",
        usual,
        ROUND,
        0,
        work=[1300, 1400],
        submission=[1400, 1440],
        audit=[1440, 1480],
        first_ballots=[1440, 1466],
        seals=[1440, 1453],
        openings=[1453, 1460],
        reveals=[1460, 1466],
        full_audit=[1466, 1480],
        delay=[1480, 1500],
        commitment=[1480, 1540],
        distribution=[1500, 1540],
        distribution_audit=[1540, 1580],
    )
    case(
        "its second attempt",
        "Anchored from the veto of the first to the end of that period, voted on a period later.",
        usual,
        ROUND,
        1,
        commitment=[1540, 1600],
        distribution=[1540, 1600],
        distribution_audit=[1640, 1680],
    )
    case(
        "its third attempt",
        "A period later again.",
        usual,
        ROUND,
        2,
        commitment=[1640, 1700],
        distribution=[1640, 1700],
        distribution_audit=[1740, 1780],
    )
    case(
        "no delay, six slots of audit",
        "Every stage of the shortest audit has a slot.",
        (0, 10, 4, 6),
        0,
        0,
        work=[0, 10],
        submission=[10, 14],
        audit=[14, 20],
        first_ballots=[14, 18],
        seals=[14, 16],
        openings=[16, 17],
        reveals=[17, 18],
        full_audit=[18, 20],
        delay=[20, 20],
        commitment=[20, 24],
        distribution=[20, 24],
        distribution_audit=[24, 30],
    )
    return file


def rosters() -> VectorFile:
    """Who belongs to a round."""
    file = VectorFile(
        "The roster of round 3 from what K2 holds. Its period begins at slot 1300; the minimum is one coin."
    )
    file.plain["round"] = ROUND
    n = SIGNERS

    def case(
        name: str, why: str, weights: Weights, *expected: tuple[int, int, int, int], **stakes: object
    ) -> None:
        terms = with_rules(weights.name.lower(), weights=weights)
        histories = [
            StakeHistory(n[int(who[1:])].public_key, digest(who), *what)  # type: ignore[misc]
            for who, what in stakes.items()
        ]
        roster = roster_at(histories, ROUND, terms)
        entries = [
            {
                "key": n[place].public_key.hex(),
                "stake": str(stake),
                "slash_settled": str(settled),
                "beneficiary": digest(f"n{place:02}").hex(),
                "stake_time": str(time),
            }
            for place, stake, settled, time in expected
        ]
        file.case(
            name,
            why,
            terms=file.terms(terms),
            histories=[history_json(history) for history in histories],
            expect={"entries": entries, "root": roster.root.hex()},
        )

    def stake(*points: tuple[int, int, int], unstaked: int | None = None) -> tuple[object, ...]:
        return (tuple(Checkpoint(*point) for point in points), unstaked)

    case("nobody", "The root of no leaves is the hash of nothing.", Weights.STAKE)
    case(
        "before the period, not in it",
        "A stake of slot 1299 counts for round 3, one of slot 1300 does not.",
        Weights.STAKE,
        (1, COIN, 0, COIN),
        n01=stake((1299, COIN, 0)),
        n02=stake((1300, COIN, 0)),
    )
    case(
        "the minimum",
        "One Roe less is not enough, and a slash can bring it about.",
        Weights.STAKE,
        (0, COIN, 0, 4 * COIN),
        n00=stake((900, COIN, 0)),
        n01=stake((900, COIN - 1, 0)),
        n02=stake((900, 2 * COIN, 0), (1250, COIN - 1, COIN + 1)),
    )
    case(
        "who asked for its stake",
        "An unstake before the period ends the part in it; one in the period does not.",
        Weights.STAKE,
        (1, COIN, 0, 4 * COIN),
        n00=stake((900, COIN, 0), unstaked=1299),
        n01=stake((900, COIN, 0), unstaked=1300),
    )
    case(
        "lock time",
        "Stakes at the starts of the periods at 1300, 1200, 1100 and 1000; what is added counts from then on.",
        Weights.STAKE_TIME,
        (0, 5 * COIN, 0, 20 * COIN),
        (1, 5 * COIN, 0, 5 * COIN),
        (2, 4 * COIN, COIN, 11 * COIN),
        n00=stake((1, 5 * COIN, 0)),
        n01=stake((1250, 5 * COIN, 0)),
        n02=stake((1050, 2 * COIN, 0), (1150, 5 * COIN, 0), (1200, 4 * COIN, COIN)),
    )
    return file


def beacons() -> VectorFile:
    """The beacon, and what has a rule of its own."""
    file = VectorFile(
        "The beacon: SHA-256('koii-p2p/1 beacon' || blockhash || task || round as u64 little-endian)."
    )
    for name, why, blockhash, number in (
        ("round 3", "That of all other vectors.", BLOCKHASH, ROUND),
        ("round 4", "Another round of the same block.", BLOCKHASH, 4),
        ("round 256", "Little-endian.", BLOCKHASH, 256),
        ("zeros", "Nothing special about them.", bytes(32), 0),
    ):
        value = beacon(blockhash, TASK, number)
        file.case(
            name,
            why,
            blockhash=blockhash.hex(),
            task=TASK.hex(),
            round=number,
            expect={"beacon": value.hex()},
        )
    return file


def rules() -> VectorFile:
    """How many auditors there are, by hand."""
    file = VectorFile(
        "How many auditors are due for a submission, by the number of possible ones; the bytes K2 keeps."
    )

    def case(name: str, why: str, rules: AuditRules, *expected: tuple[int, int]) -> None:
        counts = [{"others": others, "auditors": auditors} for others, auditors in expected]
        file.case(name, why, rules=rules_json(rules), expect={"counts": counts})

    case(
        "five",
        "Or all others, when they are fewer.",
        AuditRules(),
        (0, 0),
        (4, 4),
        (5, 5),
        (6, 5),
        (19999, 5),
    )
    case(
        "confidence of 0.99",
        "The least m with (1/2)**m <= 0.01 is 7: 1/128, and 1/64 is more.",
        AuditRules(confidence=990_000, dishonest=5000),
        (6, 6),
        (7, 7),
        (1000, 7),
    )
    case(
        "a confidence that is met exactly",
        "(1/2)**2 is 0.25, which is not more than 1 - 0.75.",
        AuditRules(confidence=750_000, dishonest=5000),
        (1000, 2),
    )
    case(
        "confidence of 0.999999",
        "0.3333**12 is 1.88e-6, 0.3333**13 is 6.27e-7.",
        AuditRules(confidence=999_999),
        (12, 12),
        (1000, 13),
    )
    case(
        "nearly everybody dishonest",
        "No more than 255, whatever the confidence.",
        AuditRules(confidence=999_999, dishonest=9999),
        (254, 254),
        (10000, 255),
    )
    case("all", "Everybody else.", AuditRules(profile=Profile.ALL), (0, 0), (300, 300))
    return file


def draws() -> VectorFile:
    """Auditors and committees."""
    file = VectorFile(
        "Auditors of one submission in the order drawn, and the committee of a full audit. Beacon of round 3."
    )
    file.plain["beacon"] = BEACON.hex()
    file.name_keys(one.public_key for one in (*SIGNERS, *WITNESSES))

    def case(name: str, why: str, assignment: AuditAssignment, author: bytes, shared: str = "") -> None:
        file.case(
            name,
            why,
            rules=rules_json(assignment.rules),
            roster=file.share("rosters", shared or name, roster_json(assignment.roster)),
            author=NAMES[author],
            expect=draw_json(assignment, author),
        )

    for place in (0, 3, 6):
        case(
            f"seven stakes, n{place:02}",
            "Five of six others, by stake: 2 to 8 coins.",
            drawn_for(HARDENED, SEVEN),
            SIGNERS[place].public_key,
            "seven",
        )
    weighed = {
        "one node, one vote": with_rules("equal", weights=Weights.EQUAL),
        "stake times lock time": with_rules("time", weights=Weights.STAKE_TIME),
    }
    for name, terms in weighed.items():
        why = "The same roster, drawn by another weight."
        case(f"seven stakes, {name}", why, drawn_for(terms, SEVEN), SIGNERS[0].public_key, "seven")
    n = SIGNERS
    few = roster_of([COIN] * 5)
    case(
        "four others",
        "No more than are due: everybody else, by key, whatever the weights.",
        drawn_for(HARDENED, few),
        n[2].public_key,
    )
    case("alone", "Nobody is due.", drawn_for(HARDENED, roster_of([COIN])), n[0].public_key)
    case(
        "a stranger",
        "An author without stake: all seven may be drawn.",
        drawn_for(HARDENED, SEVEN),
        n[9].public_key,
        "seven",
    )
    whale = roster_of([COIN] * 9 + [10**18])
    two = with_rules("two", auditors=2)
    case(
        "a whale",
        "It has nearly all stake, and is drawn once.",
        drawn_for(two, whale),
        n[0].public_key,
        "a whale",
    )
    case("of a whale", "Its own stretch is cut out.", drawn_for(two, whale), n[9].public_key, "a whale")
    weightless = Roster(
        ROUND,
        tuple(replace(entry, stake_time=0) for entry in roster_of([COIN] * 8).entries),
        Weights.STAKE_TIME,
    )
    rules = replace(HARDENED.audit, weights=Weights.STAKE_TIME, auditors=3)
    why = "Where nobody left weighs anything, each has the same chance."
    case("no weight at all", why, AuditAssignment(BEACON, weightless, rules), n[0].public_key)
    every = with_rules("all", profile=Profile.ALL)
    case("profile all", "Everybody else, by key.", drawn_for(every, SEVEN), n[0].public_key, "seven")
    koii = with_rules("koii", profile=Profile.KOII, weights=Weights.EQUAL)
    case(
        "profile koii",
        "Nobody is due, and there are no committees.",
        drawn_for(koii, SEVEN),
        n[0].public_key,
        "seven",
    )
    for place in range(7):
        case(
            f"profile posp, n{place:02}",
            "Audited if SHA-256(domain || beacon || author) modulo 10000 is below 5000; the committee is there always.",
            drawn_for(POSP, SEVEN),
            n[place].public_key,
            "seven",
        )
    keys = sorted(digest(f"wide {place}") for place in range(120))
    wide = Roster(
        ROUND, tuple(RosterEntry(key, (1 + i % 7) * COIN, 0, key, COIN) for i, key in enumerate(keys))
    )
    NAMES.update((key, f"x{i:03}") for i, key in enumerate(keys))
    file.name_keys(keys)
    three = replace(HARDENED.audit, auditors=3)
    why = "111 of the others are drawn after the first three, so 5 of 119 are left out."
    case("a committee smaller than the rest", why, AuditAssignment(BEACON, wide, three), keys[7])
    return file


def choices() -> VectorFile:
    """Samples, witness seats and leaders: orders by a hash."""
    file = VectorFile("Who is sampled, seated and leads: orders by a hash with the beacon of round 3.")
    file.plain["beacon"] = BEACON.hex()
    file.name_keys(one.public_key for one in (*SIGNERS, *WITNESSES))
    keys, witnesses = [one.public_key for one in SIGNERS[:12]], [one.public_key for one in WITNESSES]
    drawn = drawn_for(HARDENED, SEVEN)

    def named(some: tuple[bytes, ...]) -> list[str]:
        return [NAMES[key] for key in some]

    for name, why, auditor in (
        ("a sample", "Five of twelve submissions, less its own; sorted.", keys[0]),
        ("another's sample", "The auditor's key is hashed as well.", keys[1]),
        ("a witness's sample", "Nobody draws it, so it picks for itself.", witnesses[0]),
    ):
        file.case(
            name,
            why,
            sample={"auditor": NAMES[auditor], "authors": named(tuple(keys))},
            expect=named(drawn.sample_of(auditor, keys)),
        )
    for seats in (1, 3, 6, 8):
        assignment = drawn_for(with_rules("seats", witness_seats=seats), SEVEN)
        file.case(
            f"{seats} seats for six",
            "Sorted by key; who gets one is drawn if they are too many.",
            seats={"seats": seats, "witnesses": named(tuple(witnesses))},
            expect=named(assignment.seated(witnesses)),
        )
    for name, why, scores in (
        ("leaders", "One ticket each.", {}),
        (
            "leaders by reputation",
            "1 to 8 tickets: n11 has all of them.",
            {keys[11]: 10_000, keys[10]: 5714, keys[9]: 1429},
        ),
    ):
        given = {NAMES[key]: score for key, score in scores.items()}
        order = named(leader_order(BEACON, keys, scores))
        file.case(name, why, leaders={"candidates": named(tuple(keys)), "scores": given}, expect=order)
    if turn(CLOCK.commitment(ROUND), 3, 4) != START + 192:
        raise ValueError("the fourth leader's turn is twelve slots after the first's")
    return file


FILES: Final[dict[str, Callable[[], VectorFile]]] = {
    "clock": clock,
    "rosters": rosters,
    "beacons": beacons,
    "rules": rules,
    "draws": draws,
    "choices": choices,
}
