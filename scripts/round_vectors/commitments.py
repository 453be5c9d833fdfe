"""Vectors of commitments: records of a round, and the sections, roots, counts, outcomes and bytes they lead to."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Final

import cbor2

from koii_p2p.records.cid import cid_of
from koii_p2p.records.envelope import Verified
from koii_p2p.records.schema import CommitmentNotice, Submission, Verdict
from koii_p2p.rounds.audit_rules import Profile, Weights
from koii_p2p.rounds.commitment import NO_PREVIOUS, BuiltRound, build_commitment
from koii_p2p.rounds.round_records import SECTIONS, sort_records
from koii_p2p.rounds.terms import TaskTerms
from round_vectors.world import (
    BEACON,
    COIN,
    GENESIS,
    HARDENED,
    KOII,
    NAMES,
    ROUND,
    SIGNERS,
    WITNESSES,
    Json,
    VectorFile,
    ballot,
    challenge,
    conviction,
    digest,
    drawn_for,
    full_ballot,
    opening_of,
    roster_json,
    roster_of,
    say,
    sealed_ballot,
    submission,
    with_rules,
)

VALID, INVALID = Verdict.VALID, Verdict.INVALID
STANDINGS: Final = {"D": "diligent", "A": "absent", "O": "overruled", "E": "equivocated"}

EQUAL: Final = with_rules("equal weights", weights=Weights.EQUAL)
ONE_DRAWN: Final = with_rules("one drawn", auditors=1, weights=Weights.EQUAL)
SEALED: Final = with_rules("sealed", sealed=True, canary_rate=2000, weights=Weights.EQUAL)
SEATS: Final = with_rules("one seat", witness_seats=1, weights=Weights.EQUAL)

FOUR: Final = roster_of([COIN] * 4)
Records = Mapping[str, Verified]


def _file(about: str) -> VectorFile:
    file = VectorFile(about)
    file.plain |= {"genesis": GENESIS.hex(), "beacon": BEACON.hex(), "round": ROUND}
    file.name_keys(one.public_key for one in (*SIGNERS[:5], *WITNESSES[:3]))
    file.shared["rosters"] = {"four": roster_json(FOUR)}
    return file


def built(terms: TaskTerms, records: Iterable[Verified], previous: bytes = NO_PREVIOUS) -> BuiltRound:
    """What the library makes of these records."""
    roster = replace(FOUR, weights=terms.audit.weights)
    found = sort_records(records, terms, roster, GENESIS)
    return build_commitment(terms, roster, BEACON, previous, found, drawn_for(terms, FOUR))


def commitments() -> VectorFile:
    """Rounds of four stakers."""
    file = _file(
        "Records of round 3 in any order: which of them the bundle holds, in which section and order, by "
        "name, and what the commitment is. Sections, outcomes and standings are written by hand."
    )

    def case(
        name: str,
        why: str,
        terms: TaskTerms,
        records: Records,
        sections: Mapping[str, str],
        outcomes: Mapping[str, str],
        auditors: Mapping[str, str],
        *,
        previous: bytes = NO_PREVIOUS,
        in_full: bool = False,
    ) -> None:
        result = built(terms, records.values(), previous)
        expect: Json = {
            "sections": {section: sections.get(section, "").split() for section in SECTIONS},
            "outcomes": dict(outcomes),
            "auditors": {who: STANDINGS[letter] for who, letter in auditors.items()},
            "roots": [root.hex() for root in result.bundle.roots],
            "bundle_cid": result.bundle.cid.hex(),
            "digest": result.commitment.digest.hex(),
        }
        if in_full:
            expect |= {"bundle": result.bundle.encode().hex(), "commitment": result.commitment.encode().hex()}
        for one, record in records.items():
            file.record(one, record)
        file.case(
            name,
            why,
            terms=file.terms(terms),
            roster="four",
            previous=previous.hex(),
            records=list(records),
            expect=expect,
        )

    n, w = SIGNERS[:4], WITNESSES
    work = [submission(one) for one in n]
    handed_in = {f"s{place}": record for place, record in enumerate(work)}
    ids = [record.id for record in work]
    subs = "s0 s1 s2 s3"

    def on_others(auditor: int, *bad: int) -> dict[bytes, Verdict]:
        return {ids[who]: INVALID if who in bad else VALID for who in range(4) if who != auditor}

    votes = {f"b{place}": ballot(one, on_others(place)) for place, one in enumerate(n)}
    against = {f"b{place}-0": ballot(one, on_others(place, 0)) for place, one in enumerate(n)}
    approved = {f"n0{place}": "approved" for place in range(4)}
    diligent = {f"n0{place}": "D" for place in range(4)}
    case(
        "nothing",
        "The root of an empty section is the hash of nothing.",
        HARDENED,
        {},
        {},
        {},
        {},
        in_full=True,
    )
    case(
        "one submission",
        "Nobody voted.",
        HARDENED,
        {"s0": work[0]},
        {"submissions": "s0"},
        {"n00": "undecided"},
        {"n01": "A", "n02": "A", "n03": "A"},
        previous=digest("a commitment"),
        in_full=True,
    )
    shuffled = dict(reversed([*handed_in.items(), *votes.items()]))
    case(
        "an honest round",
        "Sorted by author, however the records came.",
        EQUAL,
        shuffled,
        {"submissions": subs, "ballots": "b0 b1 b2 b3"},
        approved,
        diligent,
        in_full=True,
    )
    case(
        "a fraud",
        "Accused by all three others, who are the committee.",
        EQUAL,
        handed_in | {"b0": votes["b0"]} | {name: against[name] for name in ("b1-0", "b2-0", "b3-0")},
        {"submissions": subs, "ballots": "b0 b1-0 b2-0 b3-0"},
        approved | {"n00": "rejected"},
        diligent,
    )
    draw = drawn_for(ONE_DRAWN, FOUR)
    (first,) = draw.auditors_of(n[0].public_key)
    by_key = {one.public_key: one for one in n}
    one = by_key[first]
    others = [other for other in n[1:] if other is not one]
    full = {f"f{NAMES[other.public_key][2:]}": full_ballot(other, {ids[0]: INVALID}) for other in others}
    accusation = ballot(one, {ids[0]: INVALID})
    full_sorted = " ".join(full)
    case(
        "a full audit",
        "One is drawn and accuses; the two others of the committee confirm it.",
        ONE_DRAWN,
        {"s0": work[0], "accusation": accusation} | full,
        {"submissions": "s0", "ballots": "accusation", "full_ballots": full_sorted},
        {"n00": "rejected"},
        {NAMES[other.public_key]: "D" for other in n[1:]},
    )
    approval = ballot(one, {ids[0]: VALID})
    case(
        "votes in a full audit that nobody opened",
        "They change nothing, and are left out.",
        ONE_DRAWN,
        {"s0": work[0], "approval": approval} | full,
        {"submissions": "s0", "ballots": "approval"},
        {"n00": "approved"},
        {NAMES[first]: "D"},
    )
    misled = ballot(others[0], {ids[0]: VALID})
    case(
        "a vote that was not due",
        "Admission may have parked it and not refused it; it counts for nothing.",
        ONE_DRAWN,
        {"s0": work[0], "approval": approval, "not due": misled},
        {"submissions": "s0", "ballots": "approval"},
        {"n00": "approved"},
        {NAMES[first]: "D"},
    )
    partly = ballot(n[1], {ids[0]: VALID, digest("a submission nobody has"): INVALID})
    case(
        "a vote on a submission that is not there",
        "The rest of the ballot counts; a ballot with nothing else is left out.",
        EQUAL,
        {
            "s0": work[0],
            "partly": partly,
            "nothing": ballot(n[2], {digest("a submission nobody has"): VALID}),
        },
        {"submissions": "s0", "ballots": "partly"},
        {"n00": "approved"},
        {"n01": "D", "n02": "A", "n03": "A"},
    )
    accused = challenge(n[1], work[0])
    case(
        "challenges",
        "One opens a full audit, one of something unknown is left out. What n01 votes afterwards doesn't help it.",
        EQUAL,
        {
            "s0": work[0],
            "c1": accused,
            "c2": challenge(n[1], work[0], 3, 143),
            "of nothing": challenge(n[2], submission(n[3])),
            "v2": ballot(n[2], {ids[0]: VALID}),
            "v3": ballot(n[3], {ids[0]: VALID}),
            "g1": full_ballot(n[1], {ids[0]: VALID}),
        },
        {"submissions": "s0", "ballots": "v2 v3", "full_ballots": "g1", "challenges": "c1 c2"},
        {"n00": "approved"},
        {"n01": "O", "n02": "D", "n03": "D"},
    )
    opened = {place: opening_of(n[place], {ids[0]: VALID}) for place in (1, 2, 3)}
    sealed = {f"seal{place}": sealed_ballot(n[place], opening) for place, opening in opened.items()}
    reveals = {f"open{place}": say(n[place], opening, 161) for place, opening in opened.items()}
    case(
        "sealed ballots",
        "n02 does not reveal and n03 never sealed: what is one without the other is left out.",
        SEALED,
        {"s0": work[0]}
        | {name: sealed[name] for name in ("seal1", "seal2")}
        | {name: reveals[name] for name in ("open1", "open3")},
        {"submissions": "s0", "ballots": "seal1", "reveals": "open1"},
        {"n00": "approved"},
        {"n01": "D", "n02": "A", "n03": "A"},
    )
    other_votes = say(n[1], opening_of(n[1], {ids[0]: INVALID}), 161)
    case(
        "a reveal of other votes",
        "Left out, and its ballot as one that was not revealed.",
        SEALED,
        {"s0": work[0], "seal1": sealed["seal1"], "other votes": other_votes},
        {"submissions": "s0"},
        {"n00": "undecided"},
        {"n01": "A", "n02": "A", "n03": "A"},
    )
    found = {place: opening_of(n[place], {ids[0]: INVALID}) for place in (1, 2)}
    case(
        "a canary",
        "Owned up to in time. Two of three accuse it, which is below the quorum: neither canary nor rejected.",
        SEALED,
        {
            "s0": work[0],
            "own": challenge(n[0], work[0], offset=153),
            "seal3": sealed["seal3"],
            "open3": reveals["open3"],
        }
        | {f"against{place}": sealed_ballot(n[place], opening) for place, opening in found.items()}
        | {f"why{place}": say(n[place], opening, 161) for place, opening in found.items()},
        {
            "submissions": "s0",
            "ballots": "against1 against2 seal3",
            "reveals": "why1 why2 open3",
            "challenges": "own",
        },
        {"n00": "undecided"},
        {"n01": "D", "n02": "D", "n03": "D"},
    )
    two = [submission(n[0], value) for value in "AB"]
    pieces = sorted((conviction(n[place], *two) for place in (1, 2, 3)), key=lambda record: record.id)
    case(
        "evidence",
        "Of three pieces the one with the smallest id. The ballot stays, decides nothing, and nobody is judged.",
        EQUAL,
        {"sA": two[0]}
        | {f"e{i}": piece for i, piece in enumerate(pieces[::-1])}
        | {"vote": ballot(n[1], {two[0].id: VALID})},
        {"submissions": "sA", "ballots": "vote", "evidence": "e2"},
        {"n00": "equivocated"},
        {"n00": "E"},
    )
    own_vote = {f"w{place}": ballot(w[place], {ids[0]: VALID}) for place in range(3)}
    (seated,) = drawn_for(SEATS, FOUR).seated(one.public_key for one in w[:3])
    holder = NAMES[seated]
    seat = f"w{holder[2:]}"
    case(
        "one witness seat",
        "Three want it; the draw gives it to one.",
        SEATS,
        {"s0": work[0], "v2": ballot(n[2], {ids[0]: VALID})}
        | {f"w{place}": own_vote[f"w{place}"] for place in range(3)},
        {"submissions": "s0", "ballots": f"v2 {seat}" if seated > n[2].public_key else f"{seat} v2"},
        {"n00": "approved"},
        {"n01": "A", "n02": "D", "n03": "A", holder: "D"},
    )
    case(
        "profile koii",
        "One vote against it and none for it: rejected. Silence judges nobody.",
        KOII,
        {"s0": work[0], "s1": work[1], "k": ballot(n[3], {ids[0]: INVALID})},
        {"submissions": "s0 s1", "ballots": "k"},
        {"n00": "rejected", "n01": "approved"},
        {"n03": "D"},
    )
    everybody = with_rules("all", profile=Profile.ALL)
    case(
        "profile all",
        "Each of them votes on the others; n03 says nothing.",
        everybody,
        handed_in | {name: votes[name] for name in ("b0", "b1", "b2")},
        {"submissions": subs, "ballots": "b0 b1 b2"},
        approved,
        diligent | {"n03": "A"},
    )
    return file


def misplaced() -> VectorFile:
    """Records that no commitment may include."""
    file = _file(
        "Records of which one belongs into no commitment of round 3 (profile hardened): it must not be built."
    )
    n = SIGNERS
    work = submission(n[0])
    file.terms(HARDENED)
    cases: dict[str, tuple[str, list[Verified]]] = {
        "another round": ("It has a commitment of its own.", [say(n[0], Submission("x"), 201, number=4)]),
        "a slot outside its window": ("Its author placed it there.", [submission(n[0], offset=140)]),
        "nobody of the roster": ("n04 has no stake in this round.", [submission(n[4])]),
        "two submissions": ("One place, one record; the pair is evidence.", [work, submission(n[0], "B")]),
        "two challenges with one number": (
            "One place, one record.",
            [work, challenge(n[1], work), challenge(n[1], work, offset=143)],
        ),
        "a fifth challenge": ("Four at most.", [work, challenge(n[1], work, 4)]),
        "a sealed ballot": (
            "Ballots are open here.",
            [sealed_ballot(n[1], opening_of(n[1], {work.id: VALID}))],
        ),
        "a notice": (
            "Not a kind that a commitment is about.",
            [say(n[0], CommitmentNotice(digest("d"), cid_of(b"b"), bytes(64)), 181)],
        ),
        "evidence against nobody of the roster": (
            "n04 has no stake in this round.",
            [conviction(n[0], submission(n[4], "A"), submission(n[4], "B"))],
        ),
        "evidence of another round": (
            "It convicts in round 2.",
            [conviction(n[0], *(say(n[1], Submission(x), 1, number=2) for x in "AB"))],
        ),
        "a ballot of a key without stake": (
            "The task has no witness seats.",
            [work, ballot(WITNESSES[0], {work.id: VALID})],
        ),
    }
    for name, (why, records) in cases.items():
        file.case(
            name, why, terms="hardened", roster="four", records=[record.raw.hex() for record in records]
        )
    return file


def malformed() -> VectorFile:
    """Bytes that are no commitment and no bundle."""
    file = VectorFile(
        "Bytes that must be refused as a commitment or as a bundle, whatever K2 and the commitment name."
    )
    n = SIGNERS
    result = built(HARDENED, [submission(n[0]), submission(n[1])])
    good: dict[int, object] = cbor2.loads(result.commitment.encode())
    key = n[0].public_key
    outcomes: list[object] = good[7]  # type: ignore[assignment]
    roots: list[bytes] = good[5]  # type: ignore[assignment]

    def commitment(name: str, why: str, **changes: object) -> None:
        value = good | {int(field[1:]): new for field, new in changes.items()}
        kept = {number: what for number, what in value.items() if what is not None}
        file.case(name, why, artifact="commitment", bytes=cbor2.dumps(kept, canonical=True).hex())

    def bundle(name: str, why: str, value: object) -> None:
        file.case(name, why, artifact="bundle", bytes=cbor2.dumps(value, canonical=True).hex())

    commitment("a field missing", "Keys are 0 to 9.", f9=None)
    commitment("a field more", "Keys are 0 to 9.", f10=0)
    commitment("a task of 31 bytes", "A task has 32.", f0=bytes(31))
    commitment("a negative round", "A round is unsigned.", f1=-1)
    commitment("round true", "A round is an integer.", f1=True)
    commitment("five roots", "There are six sections.", f5=roots[:5])
    commitment("seven counts", "There are six sections.", f6=[0] * 7)
    commitment("outcomes out of order", "Sorted by author.", f7=outcomes[::-1])
    commitment("one author twice", "Each once.", f7=[outcomes[0]] * 2)
    commitment("outcome 0", "Outcomes are 1 to 6.", f7=[[key, bytes(32), 0]])
    commitment("outcome 7", "Outcomes are 1 to 6.", f7=[[key, bytes(32), 7]])
    commitment("status 5", "Standings are 1 to 4.", f8=[[key, 5]])
    commitment("status true", "A standing is an integer.", f8=[[key, True]])
    commitment("a bundle's digest instead of its CID", "A CID has 36 bytes.", f9=bytes(32))
    commitment("a CID of another codec", "Raw bytes, SHA-256.", f9=b"\x01\x70\x12\x20" + bytes(32))
    file.case(
        "a byte behind it", "One item.", artifact="commitment", bytes=result.commitment.encode().hex() + "00"
    )
    late = "b80a" + result.commitment.encode().hex()[2:]
    file.case("a map head in two bytes", "The encoding is deterministic.", artifact="commitment", bytes=late)
    sections: dict[int, list[object]] = {number: [] for number in range(6)}
    bundle("five sections", "There are six.", {number: [] for number in range(5)})
    bundle("an array of sections", "It is a map.", [[]] * 6)
    bundle("a record of text", "Records are byte strings.", sections | {0: ["x"]})
    bundle("an empty record", "It has at least one byte.", sections | {0: [b""]})
    bundle("a section that is a map", "It is an array.", sections | {0: {}})
    file.case("no bytes", "Not CBOR.", artifact="bundle", bytes="")
    return file


FILES: Final[dict[str, Callable[[], VectorFile]]] = {
    "commitments": commitments,
    "misplaced": misplaced,
    "malformed": malformed,
}
