"""Vectors of the tally: votes by name, and what they come to. Every result is written by hand.

Votes and standings are strings, one letter for each possible auditor: those drawn in the order drawn, a bar, then the
other stakers but the author, by key. V, I, U: verdicts. D, A, O, E: standings. "-": none.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from koii_p2p.rounds.audit_rules import Profile, Weights
from koii_p2p.rounds.terms import TaskTerms
from round_vectors.world import (
    ALL,
    BEACON,
    CANARIES,
    COIN,
    HARDENED,
    KOII,
    NAMES,
    ROUND,
    SEATS,
    SIGNERS,
    TWO_DRAWN,
    WITNESSES,
    Json,
    VectorFile,
    draw_json,
    drawn_for,
    roster_of,
    with_rules,
)

VERDICTS: Final = {"V": "valid", "I": "invalid", "U": "unavailable"}
STANDINGS: Final = {"D": "diligent", "A": "absent", "O": "overruled", "E": "equivocated"}

EQUAL: Final = with_rules("equal weights", weights=Weights.EQUAL)
STAKE_TIME: Final = with_rules("stake times lock time", weights=Weights.STAKE_TIME)
SEALED_EQUAL: Final = with_rules("canaries, equal", sealed=True, canary_rate=2000, weights=Weights.EQUAL)


@dataclass(frozen=True)
class Audit:
    """What was said about the submission of n00, and what has to come of it."""

    first: str
    expect: str
    standings: str
    full: str = ""
    challengers: Sequence[int] = ()
    """Places in the order of the strings."""
    counts: bool = False
    """Whether a full audit had enough votes."""
    found: tuple[Sequence[int], Sequence[int]] | None = None
    """Accusers and voters, as places, where it is rejected."""
    canary: bool = False
    convicted: Collection[str] = ()
    """Names of equivocators."""
    author: int = 0


class Tallies:
    """One file of tallies."""

    def __init__(self, about: str) -> None:
        self.file = VectorFile(about)
        self.file.plain |= {"beacon": BEACON.hex(), "round": ROUND}

    def case(self, name: str, why: str, terms: TaskTerms, coins: Sequence[int], audit: Audit) -> None:
        """A submission of one staker among some with these stakes."""
        roster = roster_of((amount * COIN for amount in coins), terms.audit.weights)
        drawn = drawn_for(terms, roster)
        author = SIGNERS[audit.author].public_key
        due = drawn.auditors_of(author)
        order = [
            NAMES[key] for key in (*due, *(key for key in roster.keys if key != author and key not in due))
        ]
        order += ["w00"] if terms is SEATS else []

        def votes(letters: str, words: Mapping[str, str]) -> dict[str, str]:
            letters = letters.replace("|", "")
            if len(letters) not in (0, len(order)):
                raise ValueError(f"{name}: {letters} is not about {order}")
            return {who: words[one] for who, one in zip(order, letters, strict=False) if one != "-"}

        who = NAMES[author]
        found: Json = {}
        if audit.found is not None:
            accusers, voters = (sorted(order[place] for place in places) for places in audit.found)
            found = {who: {"accusers": accusers, "voters": voters}}
        standings = votes(audit.standings, STANDINGS) | dict.fromkeys(audit.convicted, "equivocated")
        self.add(
            name,
            why,
            terms,
            coins,
            authors=[who],
            draws={who: draw_json(drawn, author)},
            first={who: votes(audit.first, VERDICTS)},
            full={who: votes(audit.full, VERDICTS)},
            challengers={who: sorted(order[place] for place in audit.challengers)},
            canaries=[who] if audit.canary else [],
            equivocators=sorted(audit.convicted),
            expect={
                "outcomes": {who: audit.expect},
                "auditors": standings,
                "full_audits": [who] if audit.counts else [],
                "finders": found,
            },
        )

    def add(self, name: str, why: str, terms: TaskTerms, coins: Sequence[int], **values: object) -> None:
        """A case as it is written."""
        roster = roster_of((amount * COIN for amount in coins), terms.audit.weights)
        self.file.name_keys([*roster.keys, WITNESSES[0].public_key])
        shared = self.file.roster(f"stakes {' '.join(map(str, coins))}", roster)
        self.file.case(name, why, terms=self.file.terms(terms), roster=shared, **values)


SIX: Final = (1,) * 6
SEVEN: Final = (1,) * 7


def first_ballots() -> VectorFile:
    """Nobody accuses: those drawn decide."""
    made = Tallies(
        "Without an accusation: five auditors, who are all others. More than half of what was cast decides."
    )
    case = made.case
    case("all approve", "The usual round.", EQUAL, SIX, Audit("VVVVV", "approved", "DDDDD"))
    case(
        "one votes",
        "Silence neither helps nor hurts the author.",
        EQUAL,
        SIX,
        Audit("-V---", "approved", "ADAAA"),
    )
    case("nobody votes", "No reward, no slash.", EQUAL, SIX, Audit("-----", "undecided", "AAAAA"))
    case(
        "most can't fetch it",
        "More than half of what was cast.",
        EQUAL,
        SIX,
        Audit("UUVVU", "unavailable", "DDDDD"),
    )
    case("a tie", "Exactly half is not more than half.", EQUAL, SIX, Audit("VVUU-", "undecided", "DDDDA"))
    heavy, half = (1, 10, 1, 1, 1, 1), (1, 4, 1, 1, 1, 1)
    case("one stake outweighs four", "10 of 14.", HARDENED, heavy, Audit("VUUUU", "approved", "DDDDD"))
    case("the same with one vote each", "1 of 5.", EQUAL, heavy, Audit("VUUUU", "unavailable", "DDDDD"))
    case(
        "half of the stake",
        "4 of 8 is not more than half.",
        HARDENED,
        half,
        Audit("VUUUU", "undecided", "DDDDD"),
    )
    case(
        "stake times lock time",
        "One coin each, locked for 2, 3, 4, 1 and 2 periods: 7 of 12 are for it.",
        STAKE_TIME,
        SIX,
        Audit("UVVUU", "approved", "DDDDD"),
    )
    case("the same by stake", "2 of 5 are for it.", HARDENED, SIX, Audit("UVVUU", "unavailable", "DDDDD"))
    case(
        "two drawn of six",
        "The others owe nothing. Who they are follows from the beacon.",
        TWO_DRAWN,
        SEVEN,
        Audit("VV|----", "approved", "DD|----"),
    )
    case(
        "a witness",
        "Its vote weighs nothing, opens no full audit, and is judged.",
        SEATS,
        SIX,
        Audit("VVVVV|I", "approved", "DDDDD|O"),
    )
    case(
        "a witness alone",
        "Weight 0 is not more than half of weight 0.",
        SEATS,
        SIX,
        Audit("-----|V", "undecided", "AAAAA|D"),
    )
    made.add(
        "the worst standing counts",
        "n01 votes on n00 and not on n02; n00 accuses n01 of what is approved and votes on n02.",
        EQUAL,
        (1, 1, 1, 1, 1, 1),
        authors=["n00", "n01", "n02"],
        draws={},
        first={
            "n00": dict.fromkeys(("n01", "n02", "n03", "n04", "n05"), "valid"),
            "n01": {"n00": "invalid"} | dict.fromkeys(("n02", "n03", "n04", "n05"), "valid"),
            "n02": dict.fromkeys(("n00", "n03", "n04", "n05"), "valid"),
        },
        full={},
        challengers={},
        canaries=[],
        equivocators=[],
        expect={
            "outcomes": dict.fromkeys(("n00", "n01", "n02"), "approved"),
            "auditors": {"n00": "overruled", "n01": "absent"}
            | dict.fromkeys(("n02", "n03", "n04", "n05"), "diligent"),
            "full_audits": ["n01"],
            "finders": {},
        },
    )
    return made.file


def full_audits() -> VectorFile:
    """Somebody accuses."""
    made = Tallies(
        "An accusation opens a full audit; it counts if more than half of the committee's weight voted. Quorum: 3."
    )
    case = made.case
    case(
        "accused and confirmed",
        "5 of 6 are against it. Who accused and who voted share the finders' part.",
        TWO_DRAWN,
        SEVEN,
        Audit("VI|----", "rejected", "OD|DDDD", "--|IIII", counts=True, found=([1], [2, 3, 4, 5])),
    )
    case(
        "accused and cleared",
        "5 of 6 are for it: the accuser is overruled.",
        TWO_DRAWN,
        SEVEN,
        Audit("IV|----", "approved", "OD|DDDD", "--|VVVV", counts=True),
    )
    case(
        "three against three",
        "Neither is more than half.",
        TWO_DRAWN,
        SEVEN,
        Audit("IV|----", "undecided", "DD|DDDD", "--|IIVV", counts=True),
    )
    case(
        "more than half against, with silence",
        "3 of 5 are more than half of the whole committee.",
        EQUAL,
        SIX,
        Audit("I----", "rejected", "DDDAA", "-II--", counts=True, found=([0], [1, 2])),
    )
    case(
        "half of the committee against",
        "3 of 6 is not more than half of the whole: silence never helps to slash.",
        TWO_DRAWN,
        SEVEN,
        Audit("I-|----", "undecided", "DA|DDDA", "--|IIU-", counts=True),
    )
    case(
        "the committee does not come",
        "2 of 6 voted. It did not happen: those drawn decide, and they are one against one.",
        TWO_DRAWN,
        SEVEN,
        Audit("IV|----", "undecided", "DD|----"),
    )
    case(
        "an accusation that nobody answers",
        "1 of 5 accuses and 2 approve: 3 of 6 is not more than half, and those drawn approve it, 2 of 3.",
        EQUAL,
        SEVEN,
        Audit("IVV--|-", "approved", "ODDAA|-"),
    )
    case(
        "all drawn accuse, nobody comes",
        "Nothing is rejected without the committee.",
        TWO_DRAWN,
        SEVEN,
        Audit("II|----", "undecided", "DD|----"),
    )
    case(
        "exactly half of the committee comes",
        "3 of 6 is not more than half: a vote in a full audit that does not count is not judged.",
        TWO_DRAWN,
        SEVEN,
        Audit("VV|----", "approved", "DD|O---", "--|I---", challengers=[2]),
    )
    case(
        "no majority of five",
        "One against it, two for it, two can't fetch it.",
        TWO_DRAWN,
        SEVEN,
        Audit("IU|----", "undecided", "DD|DDDA", "--|UVV-", counts=True),
    )
    case(
        "no majority of four",
        "2 of 4 are for it, whatever the other two say.",
        TWO_DRAWN,
        SEVEN,
        Audit("UI|----", "undecided", "DD|DDAA", "--|VV--", counts=True),
    )
    case(
        "no majority, and no more than a third against it",
        "2 of 5 are for it. 1 of 7 is against it, who accused it late: those drawn decide, and approve it.",
        TWO_DRAWN,
        SEVEN,
        Audit("VV|----", "approved", "DD|ODDA", "--|IUU-", counts=True, challengers=[2]),
    )
    case(
        "no majority, and more than a third against it",
        "3 of 7 are against it: that is more than a coalition of a third, and those drawn do not decide.",
        TWO_DRAWN,
        SEVEN,
        Audit("VV|----", "undecided", "DD|DDDD", "--|IIIU", counts=True, challengers=[2]),
    )
    case(
        "two of five confirm it, the others are silent",
        "2 of 5 is not more than half. Who only votes in a full audit that does not count is absent.",
        EQUAL,
        SIX,
        Audit("I----", "undecided", "DAAAA", "-I---"),
    )
    case(
        "too few voters",
        "Two hold most of the weight, and the quorum is three.",
        HARDENED,
        (1, 9, 9, 1, 1, 1),
        Audit("II---", "undecided", "DDAAA", counts=True),
    )
    case(
        "too few voters by one of a small committee",
        "Of three, all three have to agree.",
        TWO_DRAWN,
        (1,) * 4,
        Audit("I-|-", "undecided", "DA|D", "--|I", counts=True),
    )
    case(
        "all of a small committee",
        "A quorum is never more than there are.",
        TWO_DRAWN,
        (1,) * 3,
        Audit("II", "rejected", "DD", counts=True, found=([0, 1], [])),
    )
    case(
        "by stake",
        "Three with 24 of 28 are against it; two with 4 are overruled.",
        HARDENED,
        (1, 8, 8, 8, 2, 2),
        Audit("IIIVV", "rejected", "DDDOO", counts=True, found=([0, 1, 2], [])),
    )
    case(
        "most can't fetch it",
        "5 of 6 voters could not: not rejected, no reward.",
        TWO_DRAWN,
        SEVEN,
        Audit("IU|----", "unavailable", "DD|DDDD", "--|UUUU", counts=True),
    )
    case(
        "challenged and confirmed",
        "Whoever challenged is an accuser, drawn or not.",
        TWO_DRAWN,
        SEVEN,
        Audit(
            "VV|----", "rejected", "OO|DDDD", "--|IIII", challengers=[2], counts=True, found=([2], [3, 4, 5])
        ),
    )
    case(
        "challenged and cleared",
        "Overruled, whatever the challenger votes afterwards.",
        TWO_DRAWN,
        SEVEN,
        Audit("VV|----", "approved", "DD|ODDD", "--|VVVV", challengers=[2], counts=True),
    )
    case(
        "challenged without a vote, and confirmed",
        "The challenger does not vote in the full audit, and is absent.",
        TWO_DRAWN,
        SEVEN,
        Audit(
            "VI|----",
            "rejected",
            "OD|ADDD",
            "--|-III",
            challengers=[2],
            counts=True,
            found=([1, 2], [3, 4, 5]),
        ),
    )
    case(
        "challenged in vain",
        "So late that nobody could answer: those drawn decide, and the challenger is overruled.",
        TWO_DRAWN,
        SEVEN,
        Audit("VV|----", "approved", "DD|O---", challengers=[2]),
    )
    return made.file


def profiles() -> VectorFile:
    """The other profiles, canaries and equivocators."""
    made = Tallies("Profiles all, koii and posp; canaries; equivocators.")
    case = made.case
    all_equal = with_rules("all, equal", profile=Profile.ALL, weights=Weights.EQUAL)
    case("all: approved", "Everybody is due.", all_equal, SEVEN, Audit("VVVVV-", "approved", "DDDDDA"))
    case(
        "all: rejected",
        "Those drawn are the committee: the full audit counts at once.",
        all_equal,
        SEVEN,
        Audit("IIIIVV", "rejected", "DDDDOO", counts=True, found=([0, 1, 2, 3], [])),
    )
    case("all: a tie", "3 of 6.", all_equal, SEVEN, Audit("IIIVVV", "undecided", "DDDDDD", counts=True))
    case(
        "all: one against five",
        "Cleared.",
        all_equal,
        SEVEN,
        Audit("IVVVVV", "approved", "ODDDDD", counts=True),
    )
    case(
        "all: by stake",
        "16 of 29 are against it, by three.",
        ALL,
        (1, 6, 5, 5, 5, 4, 4),
        Audit("IIIVVV", "rejected", "DDDOOO", counts=True, found=([0, 1, 2], [])),
    )
    case(
        "koii: silence",
        "No vote against it, and it is approved.",
        KOII,
        SEVEN,
        Audit("------", "approved", "------"),
    )
    case("koii: one against it", "No quorum: -1.", KOII, SEVEN, Audit("I-----", "rejected", "D-----"))
    case("koii: a tie", "+1 - 1 = 0.", KOII, SEVEN, Audit("IV----", "undecided", "DD----"))
    case("koii: answered", "-1 + 1 + 1 = 1.", KOII, SEVEN, Audit("IVV---", "approved", "ODD---"))
    case("koii: outvoted", "-2 + 1 = -1.", KOII, SEVEN, Audit("IIV---", "rejected", "DDO---"))
    case(
        "koii: can't fetch",
        "Neither for nor against: -1.",
        KOII,
        SEVEN,
        Audit("IUU---", "rejected", "DDD---"),
    )
    case("koii: only can't fetch", "No vote against it.", KOII, SEVEN, Audit("UUU---", "approved", "DDD---"))
    posp = with_rules("posp, equal", profile=Profile.POSP, audit_rate=5000, weights=Weights.EQUAL)
    roster = roster_of((COIN,) * 7, posp.audit.weights)
    audited = drawn_for(posp, roster).is_audited
    turn = [audited(SIGNERS[place].public_key) for place in range(7)]
    skipped, drawn = turn.index(False), turn.index(True)
    case(
        "posp: not its turn",
        "Nobody is drawn for it: approved.",
        posp,
        SEVEN,
        Audit("------", "approved", "------", author=skipped),
    )
    case(
        "posp: its turn",
        "Five are drawn, as with hardened.",
        posp,
        SEVEN,
        Audit("VVV--|-", "approved", "DDDAA|-", author=drawn),
    )
    case(
        "posp: not its turn, challenged",
        "4 of 6 confirm it. The committee is there for everybody.",
        posp,
        SEVEN,
        Audit(
            "------",
            "rejected",
            "DDDDAA",
            "IIII--",
            challengers=[0],
            counts=True,
            found=([0], [1, 2, 3]),
            author=skipped,
        ),
    )
    case(
        "posp: not its turn, challenged in vain",
        "Nobody answers: approved as without the challenge.",
        posp,
        SEVEN,
        Audit("------", "approved", "O-----", challengers=[0], author=skipped),
    )
    case(
        "a canary, found",
        "Who approved known-bad work is overruled. No slash, so no finders.",
        SEALED_EQUAL,
        SIX,
        Audit("VIIII", "canary", "ODDDD", counts=True, canary=True),
    )
    case(
        "a canary that nobody accused, found in the full audit",
        "Owning up opens a full audit. By stake: 12 of 15.",
        CANARIES,
        (1, 3, 3, 3, 3, 3),
        Audit("V----", "canary", "ODDDD", "-IIII", counts=True, canary=True),
    )
    case(
        "a canary that is good work",
        "Approved by all it is no canary, and earns nothing: undecided.",
        SEALED_EQUAL,
        SIX,
        Audit("VVVVV", "undecided", "DDDDD", counts=True, canary=True),
    )
    case(
        "a canary that nobody looks at",
        "Nothing happened.",
        SEALED_EQUAL,
        SIX,
        Audit("-----", "undecided", "AAAAA", canary=True),
    )
    case(
        "an author convicted",
        "What auditors said decides nothing, and judges nobody.",
        EQUAL,
        SIX,
        Audit("VVVVV", "equivocated", "-----", convicted=["n00"]),
    )
    case(
        "an auditor convicted",
        "Its vote counts, and its standing is the worst.",
        EQUAL,
        SIX,
        Audit("VUU--", "unavailable", "EDDAA", convicted=["n01"]),
    )
    case(
        "a key without stake convicted",
        "It has nothing to lose, and is not named.",
        SEATS,
        SIX,
        Audit("VVVVV|V", "approved", "DDDDD|D"),
    )
    last = made.file.cases[-1]
    last["equivocators"] = ["w00"]
    return made.file


FILES: Final[dict[str, Callable[[], VectorFile]]] = {
    "first-ballots": first_ballots,
    "full-audits": full_audits,
    "profiles": profiles,
}
