"""Reading the vectors of the rounds, and computing their digests and draws without the library."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import cbor2

from koii_p2p.records.envelope import Verified, decode_record, verify
from koii_p2p.rounds.audit_rules import AuditRules, Profile, Weights
from koii_p2p.rounds.roster import Roster, RosterEntry
from koii_p2p.rounds.terms import TaskTerms
from koii_p2p.settlement.layouts import encode_audit

Json = Mapping[str, Any]


# --- reading


@cache
def read(path: Path) -> Json:
    document: Json = json.loads(path.read_text(encoding="ascii"))
    return document


def octets(text: str) -> bytes:
    assert text == text.lower()
    return bytes.fromhex(text)


def rules_of(value: Json) -> AuditRules:
    named = {"profile": Profile[value["profile"].upper()], "weights": Weights[value["weights"].upper()]}
    rules = AuditRules(**{name: what for name, what in value.items() if name != "bytes"} | named)
    assert encode_audit(rules).hex() == value["bytes"]
    return rules


def terms_of(value: Json) -> TaskTerms:
    made = {
        "audit": rules_of(value["audit"]),
        "task": octets(value["task"]),
        "creator": octets(value["creator"]),
    }
    amounts = {name: int(value[name]) for name in ("bounty_per_round", "minimum_stake")}
    return TaskTerms(**{**value, **made, **amounts})


def roster_of(value: Json, weights: Weights = Weights.STAKE) -> Roster:
    entries = [
        RosterEntry(
            octets(entry["key"]),
            int(entry["stake"]),
            int(entry["slash_settled"]),
            octets(entry["beneficiary"]),
            int(entry["stake_time"]),
        )
        for entry in value["entries"]
    ]
    roster = Roster(value["round"], tuple(entries), weights)
    assert roster.root.hex() == value["root"] == roster_root(value["entries"]).hex()
    return roster


class Names:
    """The keys of a file by name, and back."""

    def __init__(self, file: Json) -> None:
        self.keys = {name: octets(key) for name, key in file["keys"].items()}
        self.names = {key: name for name, key in self.keys.items()}

    def of(self, keys: Iterable[bytes]) -> list[str]:
        return [self.names[key] for key in keys]

    def by_key(self, values: Mapping[str, Any]) -> dict[bytes, Any]:
        return {self.keys[name]: value for name, value in values.items()}

    def by_name(self, values: Mapping[bytes, Any]) -> dict[str, Any]:
        return {self.names[key]: value.name.lower() for key, value in values.items()}


def terms_in(file: Json, case: Json) -> TaskTerms:
    return terms_of(file["terms"][case["terms"]])


def roster_in(file: Json, case: Json, weights: Weights = Weights.STAKE) -> Roster:
    return roster_of(file["rosters"][case["roster"]], weights)


def record_of(raw: bytes, genesis: bytes) -> Verified:
    return verify(decode_record(raw), genesis)


# --- the same by other code


def tree(leaves: Sequence[bytes]) -> bytes:
    """RFC 6962 section 2.1, word by word."""
    if not leaves:
        return sha256(b"").digest()
    if len(leaves) == 1:
        return sha256(b"\x00" + leaves[0]).digest()
    split = 1
    while split * 2 < len(leaves):
        split *= 2
    return sha256(b"\x01" + tree(leaves[:split]) + tree(leaves[split:])).digest()


def path_of(index: int, leaves: Sequence[bytes]) -> list[tuple[str, bool]]:
    """RFC 6962 section 2.1.1: siblings from the leaf up, and whether each is on the left."""
    if len(leaves) == 1:
        return []
    split = 1
    while split * 2 < len(leaves):
        split *= 2
    if index < split:
        return [*path_of(index, leaves[:split]), (tree(leaves[split:]).hex(), False)]
    return [*path_of(index - split, leaves[split:]), (tree(leaves[:split]).hex(), True)]


def roster_root(entries: Sequence[Json]) -> bytes:
    return tree(
        [
            octets(entry["key"])
            + int(entry["stake"]).to_bytes(8, "little")
            + int(entry["slash_settled"]).to_bytes(8, "little")
            + octets(entry["beneficiary"])
            + int(entry["stake_time"]).to_bytes(16, "little")
            for entry in entries
        ]
    )


def weighed_draw(weights: Mapping[bytes, int], seed: bytes, author: bytes, count: int) -> list[bytes]:
    """Lay out the stretches of everybody left, walk to the point, take whom it hits away."""
    left = {key: weights[key] for key in sorted(weights) if key != author}
    if len(left) <= count:
        return list(left)
    drawn: list[bytes] = []
    for number in range(count):
        text = b"koii-p2p/1 auditor" + seed + author + number.to_bytes(4, "little")
        point = int.from_bytes(sha256(text).digest(), "big")
        if sum(left.values()) == 0:
            hit = list(left)[point % len(left)]
        else:
            point %= sum(left.values())
            line = iter(left.items())
            hit, weight = next(line)
            while point >= weight:
                point -= weight
                hit, weight = next(line)
        drawn.append(hit)
        del left[hit]
    return drawn


def recompute_commitment(
    file: Json, case: Json, terms: TaskTerms, names: Names, raws: Mapping[str, bytes]
) -> None:
    """The expected digests from the expected sections, outcomes and standings, without the library."""
    expect = case["expect"]
    sections = [
        [raws[name] for name in expect["sections"][section]]
        for section in ("submissions", "ballots", "reveals", "full_ballots", "challenges", "evidence")
    ]
    assert [tree(section).hex() for section in sections] == expect["roots"]
    bundle = cbor2.dumps(dict(enumerate(sections)), canonical=True)
    cid = bytes.fromhex("01551220") + sha256(bundle).digest()
    assert (bundle.hex(), cid.hex()) == (expect.get("bundle", bundle.hex()), expect["bundle_cid"])
    outcomes = ["", "approved", "rejected", "undecided", "unavailable", "canary", "equivocated"]
    standings = ["", "diligent", "absent", "overruled", "equivocated"]
    id_of = {}
    for raw in sections[0]:
        protected = cbor2.loads(cbor2.loads(raw).value[0])
        id_of[protected[4]] = sha256(raw).digest()
    said = sorted((names.keys[who], outcomes.index(what)) for who, what in expect["outcomes"].items())
    commitment = {
        0: terms.task,
        1: file["round"],
        2: octets(case["previous"]),
        3: octets(file["beacon"]),
        4: roster_root(file["rosters"][case["roster"]]["entries"]),
        5: [tree(section) for section in sections],
        6: [len(section) for section in sections],
        7: [[author, id_of[author], number] for author, number in said],
        8: [
            [key, number]
            for key, number in sorted(
                (names.keys[who], standings.index(what)) for who, what in expect["auditors"].items()
            )
        ],
        9: cid,
    }
    encoded = cbor2.dumps(commitment, canonical=True)
    assert sha256(encoded).hexdigest() == expect["digest"]
    assert encoded.hex() == expect.get("commitment", encoded.hex())


def leaf_of(key: bytes, totals: Json) -> bytes:
    return key + b"".join(int(totals[side]).to_bytes(8, "little") for side in ("reward", "slash"))


def recompute_list(names: Names, number: int, expect: Json) -> None:
    leaves = sorted(leaf_of(names.keys[who], totals) for who, totals in expect["leaves"].items())
    encoded = cbor2.dumps({0: number, 1: leaves}, canonical=True)
    assert tree(leaves).hex() == expect["root"]
    assert encoded.hex() == expect["bytes"]
    assert "01551220" + sha256(encoded).hexdigest() == expect["cid"]
    for side in ("reward", "slash"):
        assert sum(int(totals[side]) for totals in expect["leaves"].values()) == int(expect[f"{side}_total"])


def item(number: int) -> bytes:
    author = sha256(f"author {number % 50}".encode()).digest()
    return bytes([1 + number % 3]) + author + sha256(f"id {number}".encode()).digest()


def items(ranges: Sequence[Sequence[int]]) -> set[bytes]:
    return {item(number) for first, last in ranges for number in range(first, last)}
