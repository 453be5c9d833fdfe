"""A receipt verifier written from docs/explain.md and records.cddl alone: it shares no code with the project's."""

from __future__ import annotations

import hashlib
from typing import Any

import base58
import cbor2
from nacl.exceptions import BadSignatureError
from nacl.signing import VerifyKey

OUTCOMES = ("APPROVED", "REJECTED", "UNDECIDED", "UNAVAILABLE", "CANARY", "EQUIVOCATED")
KINDS = ((1, None), (2, 0), (3, None), (2, 1), (4, None), (8, None))
"""Kind, and number if it matters, of the records of each section."""


def sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def leads_to(root: bytes, leaf: bytes, directions: int, siblings: list[bytes]) -> bool:
    node = sha256(b"\0" + leaf)
    for height, sibling in enumerate(siblings):
        pair = sibling + node if directions >> height & 1 else node + sibling
        node = sha256(b"\1" + pair)
    return node == root


def root_of(leaves: list[bytes]) -> bytes:
    """RFC 6962, section 2.1, as it is written there."""
    if not leaves:
        return sha256(b"")
    if len(leaves) == 1:
        return sha256(b"\0" + leaves[0])
    split = 1 << (len(leaves) - 1).bit_length() - 1
    return sha256(b"\1" + root_of(leaves[:split]) + root_of(leaves[split:]))


def opened(raw: bytes, genesis: bytes) -> tuple[bytes, dict[int, Any]]:
    """Author and statement of a record; ValueError if its signature is not good."""
    protected, _, payload, signature = cbor2.loads(raw).value
    author, statement = cbor2.loads(protected)[4], cbor2.loads(payload)
    aad = b"koii-p2p/1" + genesis + statement[1] + bytes([statement[0]])
    signed = cbor2.dumps(["Signature1", protected, aad, payload])
    try:
        VerifyKey(author).verify(signed, signature)
    except BadSignatureError as error:
        raise ValueError("signature") from error
    return author, statement


def verify(data: bytes, account: bytes) -> dict[str, Any]:
    """What a receipt proves: outcome, totals in Roe, sections of its records, votes. ValueError if it does not hold."""
    receipt = cbor2.loads(data)
    genesis, task, number, attempt, key = (receipt[field] for field in (2, 4, 5, 6, 7))

    def must(holds: bool, what: str) -> None:
        if not holds:
            raise ValueError(what)

    must(receipt[0] == "koii-p2p receipt" and receipt[1] == 1, "no receipt")
    must(len(account) == 5120 and account.startswith(b"K2TASK01"), "account")
    place = account[1024 + 256 * (number % 16) :][:256]
    must(int.from_bytes(place[:8], "little") == number, "round")
    must(place[8] == attempt and place[9] in (1, 2), "attempt or state")
    must(sha256(receipt[8]) == place[104:136], "commitment")
    commitment = cbor2.loads(receipt[8])
    must((commitment[0], commitment[1]) == (task, number), "commitment's place")
    outcomes = {author: (id_, outcome) for author, id_, outcome in commitment[7]}
    found: dict[str, Any] = {
        "outcome": OUTCOMES[outcomes[key][1] - 1] if key in outcomes else None,
        "key": base58.b58encode(key).decode(),
        "totals": None,
        "sections": [],
        "votes": len(receipt[12]),
    }
    if receipt[9] is not None:
        leaf, directions, siblings = receipt[9]
        must(leaf[:32] == key and leads_to(place[16:48], leaf, directions, siblings), "leaf")
        found["totals"] = tuple(int.from_bytes(leaf[at : at + 8], "little") for at in (32, 40))
    for section, raw, directions, siblings in receipt[10]:
        author, statement = opened(raw, genesis)
        kind, seq = KINDS[section]
        must(statement[0] == kind and seq in (None, statement[4]), "section")
        must((statement[1], statement[2]) == (task, number), "record's place")
        must(leads_to(commitment[5][section], raw, directions, siblings), "record's path")
        if section == 5:
            pair = [opened(one, genesis) for one in (statement[8], statement[9])]
            must(statement[8] != statement[9], "two different records")
            must(pair[0][1][0] == pair[1][1][0] and pair[0][0] == pair[1][0] == key, "evidence")
        else:
            must(author == key, "author")
        must(section != 0 or outcomes[key][0] == sha256(raw), "submission")
        found["sections"].append(section)
    if receipt[12]:
        must(root_of(receipt[11]) == commitment[4], "roster")
        voters: set[bytes] = set()
        for raw in receipt[12]:
            author, statement = opened(raw, genesis)
            must((statement[1], statement[2], statement[4]) == (task, number, attempt), "vote's place")
            must(statement[8] == place[16:48] and statement[9] is True, "vote")
            must(author in {entry[:32] for entry in receipt[11]} - voters, "voter")
            voters.add(author)
    return found
