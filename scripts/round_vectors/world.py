"""The small world that the vectors live in: keys, terms, rosters and signed records, and how each looks in JSON.

Keys are named in the order of their bytes, so that `n00`, `n01`, ... is the order of every roster. In JSON, bytes are
lower-case hex, amounts in Roe decimal text (they may not fit a JavaScript number), enum members lower-case names.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from enum import Enum
from hashlib import sha256
from typing import Final

from koii_p2p.records.envelope import Verified, sign
from koii_p2p.records.equivocation import equivocation_of
from koii_p2p.records.keys import SecretKey
from koii_p2p.records.schema import (
    Ballot,
    BallotEntry,
    BallotReveal,
    Body,
    Challenge,
    Statement,
    Submission,
    Verdict,
)
from koii_p2p.records.seals import seal_of
from koii_p2p.rounds.assignment import AuditAssignment
from koii_p2p.rounds.audit_rules import AuditRules, Profile, Weights
from koii_p2p.rounds.beacon import beacon
from koii_p2p.rounds.roster import Roster, RosterEntry, StakeHistory
from koii_p2p.rounds.terms import TaskTerms
from koii_p2p.settlement.layouts import encode_audit

Json = dict[str, object]


def digest(name: str) -> bytes:
    """32 bytes that stand for whatever has this name."""
    return sha256(name.encode()).digest()


GENESIS: Final = digest("genesis of the vectors")
TASK: Final = digest("task of the vectors")
BLOCKHASH: Final = digest("blockhash of the vectors")
ROUND: Final = 3
BEACON: Final = beacon(BLOCKHASH, TASK, ROUND)
COIN: Final = 1_000_000_000

SIGNERS: Final = tuple(
    sorted((SecretKey.from_seed(digest(f"staker {i}")) for i in range(20)), key=lambda one: one.public_key)
)
WITNESSES: Final = tuple(
    sorted((SecretKey.from_seed(digest(f"witness {i}")) for i in range(6)), key=lambda one: one.public_key)
)
NAMES: Final = {one.public_key: f"n{i:02}" for i, one in enumerate(SIGNERS)} | {
    one.public_key: f"w{i:02}" for i, one in enumerate(WITNESSES)
}

HARDENED: Final = TaskTerms(
    task=TASK,
    creator=digest("creator of the vectors"),
    name="hardened",
    starting_slot=1000,
    round_time=100,
    submission_window=40,
    audit_window=40,
    bounty_per_round=100_000_007,
    minimum_stake=COIN,
)


def with_rules(name: str, **changes: object) -> TaskTerms:
    """The terms `HARDENED` under another name, with other audit rules."""
    return replace(HARDENED, name=name, audit=replace(HARDENED.audit, **changes))  # type: ignore[arg-type]


KOII: Final = with_rules("koii", profile=Profile.KOII, weights=Weights.EQUAL)
ALL: Final = with_rules("all", profile=Profile.ALL)
POSP: Final = with_rules("posp", profile=Profile.POSP, audit_rate=5000)
SEALED: Final = with_rules("sealed", sealed=True)
CANARIES: Final = with_rules("canaries", sealed=True, canary_rate=2000)
SEATS: Final = with_rules("one witness seat", witness_seats=1)
SEALED_SEATS: Final = with_rules("one seat, sealed", sealed=True, witness_seats=1)
TWO_DRAWN: Final = with_rules("two drawn", auditors=2, weights=Weights.EQUAL)

CLOCK: Final = HARDENED.clock
START: Final = CLOCK.work(ROUND).opens
"""Slot that every offset is counted from: the first one of period 3."""


def roster_of(stakes: Iterable[int], weights: Weights = Weights.STAKE, number: int = ROUND) -> Roster:
    """The first signers with these stakes, each locked for as many periods as its place says, four at most."""
    entries = (
        RosterEntry(
            signer.public_key,
            stake,
            0,
            digest(f"wallet of {NAMES[signer.public_key]}"),
            stake * (1 + place % 4),
        )
        for place, (signer, stake) in enumerate(zip(SIGNERS, stakes, strict=False))
    )
    return Roster(number, tuple(entries), weights)


SEVEN: Final = roster_of((index + 2) * COIN for index in range(7))


def drawn_for(terms: TaskTerms, roster: Roster) -> AuditAssignment:
    """The auditors of the round, all submitters audited as often as the rules say."""
    return AuditAssignment(BEACON, replace(roster, weights=terms.audit.weights), terms.audit)


def draw_json(assignment: AuditAssignment, author: bytes) -> Json:
    """Who is drawn for an author, in the order drawn, and who may vote in a full audit."""
    return {
        "audited": assignment.is_audited(author),
        "auditors": [NAMES[key] for key in assignment.auditors_of(author)],
        "committee": [NAMES[key] for key in assignment.committee_of(author)],
    }


# --- records


def say(signer: SecretKey, body: Body, offset: int, seq: int = 0, number: int = ROUND) -> Verified:
    """A record about the round `number` with the slot `START + offset`."""
    return sign(Statement(TASK, number, START + offset, seq, body), GENESIS, signer)


def submission(signer: SecretKey, value: str | None = None, offset: int = 101) -> Verified:
    """What a staker hands in, by default something of its own."""
    return say(signer, Submission(value or f"work of {NAMES[signer.public_key]}"), offset)


def entries_of(verdicts: Mapping[bytes, Verdict]) -> tuple[BallotEntry, ...]:
    """Votes by submission id, as ballots hold them."""
    return tuple(BallotEntry(id_, verdicts[id_]) for id_ in sorted(verdicts))


def ballot(signer: SecretKey, verdicts: Mapping[bytes, Verdict], offset: int = 141) -> Verified:
    """An open ballot of those drawn; `verdicts` are by submission id."""
    return say(signer, Ballot(entries_of(verdicts)), offset)


def full_ballot(signer: SecretKey, verdicts: Mapping[bytes, Verdict], offset: int = 167) -> Verified:
    """A ballot of a full audit."""
    return say(signer, Ballot(entries_of(verdicts)), offset, seq=1)


def opening_of(signer: SecretKey, verdicts: Mapping[bytes, Verdict]) -> BallotReveal:
    """Salt and votes of a sealed ballot."""
    return BallotReveal(digest(f"salt of {NAMES[signer.public_key]}"), entries_of(verdicts))


def sealed_ballot(signer: SecretKey, opening: BallotReveal, offset: int = 141) -> Verified:
    """The ballot that seals this opening."""
    return say(signer, Ballot(seal=seal_of(opening, TASK, ROUND, signer.public_key)), offset)


def challenge(signer: SecretKey, accused: Verified, seq: int = 0, offset: int = 142) -> Verified:
    """A call for a full audit."""
    return say(signer, Challenge(accused.id, digest("what is wrong with it")), offset, seq)


def conviction(signer: SecretKey, one: Verified, other: Verified, *, offset: int = 150) -> Verified:
    """Evidence of round 3 against the author of two records."""
    return say(signer, equivocation_of(one, other), offset)


# --- JSON


def name_of(member: Enum) -> str:
    """An enum member as the vectors name it."""
    return member.name.lower()


def names_of(keys: Iterable[bytes]) -> list[str]:
    """Keys by name, sorted by their bytes."""
    return [NAMES[key] for key in sorted(keys)]


def by_name(values: Mapping[bytes, Enum]) -> Json:
    """A mapping from keys to enum members."""
    return {NAMES[key]: name_of(value) for key, value in values.items()}


def amounts_by_name(values: Mapping[bytes, int]) -> Json:
    """A mapping from keys to Roe."""
    return {NAMES[key]: str(value) for key, value in values.items()}


def rules_json(rules: AuditRules) -> Json:
    """Audit rules, and the 24 bytes that K2 keeps of them."""
    values = {one.name: getattr(rules, one.name) for one in fields(rules)}
    named: Json = {
        name: name_of(value) if isinstance(value, Enum) else value for name, value in values.items()
    }
    return named | {"bytes": encode_audit(rules).hex()}


def terms_json(terms: TaskTerms) -> Json:
    """The terms of a task."""
    return {
        "task": terms.task.hex(),
        "creator": terms.creator.hex(),
        "name": terms.name,
        "program": terms.program,
        "starting_slot": terms.starting_slot,
        "round_time": terms.round_time,
        "submission_window": terms.submission_window,
        "audit_window": terms.audit_window,
        "bounty_per_round": str(terms.bounty_per_round),
        "minimum_stake": str(terms.minimum_stake),
        "slash_basis_points": terms.slash_basis_points,
        "allowed_failed_distributions": terms.allowed_failed_distributions,
        "audit": rules_json(terms.audit),
    }


def roster_json(roster: Roster) -> Json:
    """A roster: its entries in order, and the root over them."""
    return {
        "round": roster.round,
        "root": roster.root.hex(),
        "entries": [
            {
                "key": entry.key.hex(),
                "stake": str(entry.stake),
                "slash_settled": str(entry.slash_settled),
                "beneficiary": entry.beneficiary.hex(),
                "stake_time": str(entry.stake_time),
            }
            for entry in roster.entries
        ],
    }


def history_json(history: StakeHistory) -> Json:
    """What K2 holds about one staker."""
    return {
        "staker": history.staker.hex(),
        "beneficiary": history.beneficiary.hex(),
        "checkpoints": [
            {"slot": point.slot, "stake": str(point.stake), "slash_total": str(point.slash_total)}
            for point in history.checkpoints
        ],
        "unstake_slot": history.unstake_slot,
    }


@dataclass
class VectorFile:
    """One file of vectors: what its cases share, by name, and the cases."""

    about: str
    shared: dict[str, Json] = field(default_factory=dict)
    plain: Json = field(default_factory=dict)
    cases: list[Json] = field(default_factory=list)

    def share(self, kind: str, name: str, value: object) -> str:
        """Give something a name that cases can use. Raises ValueError if the name has another meaning."""
        known = self.shared.setdefault(kind, {}).setdefault(name, value)
        if known != value:
            raise ValueError(f"two {kind} have the name {name!r}")
        return name

    def terms(self, terms: TaskTerms) -> str:
        """The name of these terms."""
        return self.share("terms", terms.name, terms_json(terms))

    def roster(self, name: str, roster: Roster) -> str:
        """The name of this roster; its weights are those of the terms."""
        return self.share("rosters", name, roster_json(roster))

    def record(self, name: str, record: Verified) -> str:
        """The name of this record."""
        return self.share("records", name, record.raw.hex())

    def name_keys(self, keys: Iterable[bytes]) -> None:
        """Say which keys the names in this file stand for."""
        for key in keys:
            self.share("keys", NAMES[key], key.hex())

    def case(self, name: str, why: str, **values: object) -> None:
        """Add a case."""
        self.cases.append({"name": name, "why": why, **values})

    def render(self) -> str:
        """The text of the file. Raises ValueError if two cases have one name."""
        names = [case["name"] for case in self.cases]
        if len(set(names)) != len(names):
            raise ValueError(f"two cases have one name: {sorted(map(str, names))}")
        document = {
            "about": self.about,
            "protocol": "koii-p2p/1",
            **self.plain,
            "cases": self.cases,
            **self.shared,
        }
        return _lines(document, "") + "\n"


def _lines(value: object, indent: str) -> str:
    """JSON of which what fits on a line is on one, so that a case can be read."""
    short = json.dumps(value, ensure_ascii=True)
    if len(short) + len(indent) <= 110 or not isinstance(value, dict | list) or not value:
        return short
    inner = indent + " "
    if isinstance(value, dict):
        parts = [f"{json.dumps(key)}: {_lines(value[key], inner)}" for key in value]
        return "{\n" + ",\n".join(inner + part for part in parts) + f"\n{indent}}}"
    if all(isinstance(item, int) for item in value):
        return short
    return "[\n" + ",\n".join(inner + _lines(item, inner) for item in value) + f"\n{indent}]"
