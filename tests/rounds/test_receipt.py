from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from koii_p2p.records import cbor
from koii_p2p.records.envelope import Verified, sign
from koii_p2p.records.schema import ListVote, Statement, Verdict
from koii_p2p.rounds import merkle
from koii_p2p.rounds.anchors import AnchoredRound
from koii_p2p.rounds.commitment import Commitment
from koii_p2p.rounds.distribution import LEAF_BYTES, DistributionList, Leaf
from koii_p2p.rounds.merkle import Proof
from koii_p2p.rounds.receipt import (
    MAX_RECEIPT_BYTES,
    MAX_RECORDS,
    ROSTER_ENTRY_BYTES,
    ProvenLeaf,
    ProvenRecord,
    Receipt,
    ReceiptError,
    make_receipt,
)
from koii_p2p.rounds.receipt_check import ReceiptFault, ReceiptReport, verify_receipt
from koii_p2p.rounds.roster import MAX_ENTRIES, Roster
from koii_p2p.rounds.round_records import SECTIONS
from koii_p2p.rounds.tally import AuditorStatus, Outcome
from tests.rounds.net import (
    BAD,
    GENESIS,
    GOOD,
    STAKE,
    TASK,
    TERMS,
    Round,
    ballot,
    challenge,
    evidence_against,
    key,
    play,
    say,
    secret,
    submission,
    with_rules,
)

F = ReceiptFault
PROGRAM = b"p" * 32
VOTE_SLOT = TERMS.clock.distribution_audit(3).opens + 1
DOCUMENT = Path(__file__).parents[2] / "docs" / "explain.md"
NAMES = {key(index): f"node-{index}" for index in range(20)} | {TASK: "TASK", GENESIS: "CHAIN"}


def name(one: bytes) -> str:
    return NAMES.get(one, one.hex())


def everything() -> Round:
    """A round with a record in every section."""
    terms = with_rules(sealed=True, canary_rate=500, finders_share=3000, witness_seats=2)
    owned_up = challenge(secret(2), submission(secret(2), BAD))
    accused = challenge(secret(5), submission(secret(6), GOOD))
    twice = evidence_against(secret(0), submission(secret(7), GOOD), submission(secret(7), "other"))
    return play(10, (1, 2), terms, extra=(owned_up, accused, twice))


PLAYED = play(5, (0,))
EVERYTHING = everything()


def anchored(played: Round, **changes: Any) -> AnchoredRound:
    found = AnchoredRound(
        round=3,
        attempt=0,
        commitment=played.commitment.digest,
        commitment_slot=1500,
        commitment_by=key(1),
        list_root=played.list.root,
        reward_total=played.list.reward_total,
        slash_total=played.list.slash_total,
        list_slot=1510,
        list_by=key(2),
    )
    return replace(found, **changes)


def list_vote(index: int, root: bytes, agree: bool = True, seq: int = 0) -> Verified:
    return say(secret(index), ListVote(root, agree, 0 if agree else 2), 3, VOTE_SLOT, seq)


def made(played: Round = PLAYED, index: int = 0, **changes: Any) -> Receipt:
    """The receipt of one node, with the votes of nodes 1 to 3."""
    given: dict[str, Any] = {
        "genesis": GENESIS,
        "program": PROGRAM,
        "task": TASK,
        "anchored": anchored(played),
        "commitment": played.evidence.commitment,
        "bundle": played.evidence.bundle,
        "listed": played.list,
        "roster": played.roster,
        "votes": [list_vote(voter, played.list.root) for voter in (1, 2, 3)],
    }
    return make_receipt(key(index), **given | changes)


def check(
    receipt: Receipt, played: Round = PLAYED, genesis: bytes | None = GENESIS, **changes: Any
) -> ReceiptReport:
    return verify_receipt(receipt, anchored(played, **changes), genesis, name=name)


def faults(report: ReceiptReport) -> set[ReceiptFault]:
    assert not (report.findings and report.proves)
    return {finding.fault for finding in report.findings}


# --- receipts that hold


@pytest.mark.parametrize("played", [PLAYED, EVERYTHING], ids=["plain", "everything"])
def test_every_receipt_of_a_round_holds_and_survives_its_encoding(played: Round) -> None:
    for index in range(len(played.roster)):
        receipt = made(played, index)
        data = receipt.encode()
        assert Receipt.decode(data) == receipt
        report = check(Receipt.decode(data), played)
        assert report.findings == ()
        assert report.ok
        assert len(report.proves) >= 4


def test_what_a_receipt_proves_is_said_in_sentences() -> None:
    proves = check(made()).proves
    leaf = PLAYED.list.leaf(key(0))
    assert leaf is not None
    assert proves == (
        f"node-1 anchored the commitment {PLAYED.commitment.digest.hex()} to round 3 of task TASK in slot 1500.",
        f"node-0 handed in '{BAD}' in slot 1401 (record {PLAYED.submissions[key(0)].id.hex()}).",
        f"node-0 voted in slot 1441 (record {PLAYED.ballots[key(0)].id.hex()}): "
        + ", ".join(f"VALID on the work of {name(PLAYED.authors[id_])}" for id_ in sorted(PLAYED.authors) if
                    PLAYED.authors[id_] != key(0))
        + ".",
        "The outcome of the work of node-0 in this round is REJECTED.",
        "As an auditor of this round, node-0 counts as DILIGENT.",
        f"Up to round 3, the anchored list gives node-0 0 Roe and takes {leaf.slash_total} Roe from it, in total.",
        f"3 of 5 stakers, with {3 * STAKE} Roe of {5 * STAKE} Roe of the round's stake, signed that they agree with "
        "this list.",
    )  # fmt: skip


def test_every_kind_of_record_is_said() -> None:
    said = {index: " ".join(check(made(EVERYTHING, index), EVERYTHING).proves) for index in (2, 5, 7)}
    assert "node-2 called for a full audit" in said[2]
    assert "outcome of the work of node-2 in this round is CANARY" in said[2]
    assert "node-5 sealed its votes in slot" in said[5]
    assert "node-5 voted in slot" in said[5]
    assert "counts as OVERRULED" in said[5]
    assert "node-7 signed two different records for one place" in said[7]
    assert "is EQUIVOCATED" in said[7]


def test_a_receipt_without_bundle_list_or_roster_proves_less() -> None:
    bare = made(bundle=None, listed=None, roster=None)
    assert (bare.records, bare.leaf, bare.roster, bare.votes) == ((), None, (), ())
    assert len(check(bare).proves) == 3
    unlisted = anchored(PLAYED, list_root=None)
    assert verify_receipt(made(listed=None, anchored=unlisted), unlisted, GENESIS).ok


def test_a_witness_without_stake_gets_a_receipt_of_its_ballot() -> None:
    vote = ballot(secret(90), {submission(secret(0), GOOD).id: Verdict.VALID})
    played = play(5, (), with_rules(witness_seats=1), extra=(vote,))
    receipt = made(played, 90)
    assert receipt.leaf is None
    proves = check(receipt, played).proves
    assert "no work in this commitment" in " ".join(proves)


def test_only_votes_that_agree_with_this_list_are_taken_along() -> None:
    root = PLAYED.list.root
    votes = [
        list_vote(1, root),
        list_vote(2, root, agree=False),
        list_vote(3, bytes(32)),
        list_vote(4, root, seq=1),
        list_vote(9, root),
        PLAYED.submissions[key(0)],
    ]
    assert made(votes=votes).votes == (votes[0].raw,)
    none = made(votes=votes[1:])
    assert (none.votes, none.roster) == ((), ())


def test_a_large_round_has_a_small_receipt() -> None:
    played = play(60, (0,))
    assert (
        len(made(played, votes=[list_vote(index, played.list.root) for index in range(60)]).encode()) < 60_000
    )


def test_the_genesis_may_be_unknown() -> None:
    assert check(made(), genesis=None).ok
    other = replace(made(), genesis=bytes(32))
    assert faults(check(other, genesis=None)) == {F.RECORD_SIGNATURE, F.VOTE_SIGNATURE}


# --- receipts that do not


def changed_record(index: int = 0, **changes: Any) -> Receipt:
    receipt = made()
    records = list(receipt.records)
    records[index] = replace(records[index], **changes)
    return replace(receipt, records=tuple(records))


def of_another_task() -> Receipt:
    """A vote that is good for another task."""
    statement = Statement(bytes(32), 3, VOTE_SLOT, 0, ListVote(PLAYED.list.root, True, 0))
    return replace(made(), votes=(sign(statement, GENESIS, secret(1)).raw,))


def with_vote(vote: Verified) -> Receipt:
    return replace(made(), votes=(vote.raw,))


def flipped(data: bytes, at: int = -1) -> bytes:
    changed = bytearray(data)
    changed[at] ^= 1
    return bytes(changed)


def of_another_round() -> bytes:
    return replace(PLAYED.commitment, round=4).encode()


def evidence(receipt: Receipt) -> ProvenRecord:
    return next(one for one in receipt.records if one.section == "evidence")


def greedy() -> ProvenLeaf:
    leaf = made().leaf
    assert leaf is not None
    return replace(leaf, leaf=Leaf(key(0), 10**9, 0).encode())


WRONG: list[tuple[Callable[[], Receipt], set[ReceiptFault]]] = [
    (lambda: replace(made(), genesis=bytes(32)), {F.GENESIS, F.RECORD_SIGNATURE, F.VOTE_SIGNATURE}),
    (lambda: replace(made(), round=4), {F.NOT_ANCHORED}),
    (lambda: replace(made(), attempt=1), {F.ATTEMPT, F.VOTE_PLACE}),
    (
        lambda: replace(made(), commitment=flipped(made().commitment)),
        {F.COMMITMENT_DIGEST},
    ),
    (lambda: replace(made(), commitment=b""), {F.COMMITMENT_DIGEST, F.COMMITMENT_MALFORMED}),
    (lambda: replace(made(), commitment=of_another_round()), {F.COMMITMENT_DIGEST, F.COMMITMENT_PLACE}),
    (lambda: replace(made(), task=bytes(32)), {F.COMMITMENT_PLACE, F.RECORD_PLACE, F.VOTE_PLACE}),
    (lambda: replace(made(), leaf=made(PLAYED, 1).leaf), {F.LEAF_KEY}),
    (lambda: replace(made(), leaf=greedy()), {F.LEAF_PROOF}),
    (lambda: changed_record(raw=b"junk"), {F.RECORD_MALFORMED}),
    (lambda: changed_record(raw=flipped(made().records[0].raw)), {F.RECORD_SIGNATURE}),
    (lambda: changed_record(section="ballots"), {F.RECORD_PLACE, F.RECORD_PROOF}),
    (lambda: changed_record(section="evidence"), {F.RECORD_PLACE, F.RECORD_PROOF, F.EVIDENCE_IDLE}),
    (lambda: replace(made(), records=made(PLAYED, 1).records), {F.RECORD_AUTHOR, F.SUBMISSION_DIFFERS}),
    (lambda: changed_record(proof=Proof((), 0)), {F.RECORD_PROOF}),
    (lambda: replace(made(), records=made().records[:1] * 2), {F.RECORD_TWICE}),
    (
        lambda: changed_record(raw=submission(secret(0), GOOD).raw),
        {F.RECORD_PROOF, F.SUBMISSION_DIFFERS},
    ),
    (lambda: replace(made(), roster=made().roster[1:]), {F.ROSTER}),
    (lambda: replace(made(), roster=()), {F.ROSTER}),
    (lambda: replace(made(), roster=tuple(flipped(one, 32) for one in made().roster)), {F.ROSTER}),
    (lambda: replace(made(), votes=(b"junk",)), {F.VOTE_MALFORMED}),
    (lambda: with_vote(PLAYED.submissions[key(1)]), {F.VOTE_MALFORMED}),
    (lambda: replace(made(), votes=(flipped(made().votes[0]),)), {F.VOTE_SIGNATURE}),
    (of_another_task, {F.VOTE_PLACE}),
    (lambda: with_vote(list_vote(1, PLAYED.list.root, seq=1)), {F.VOTE_PLACE}),
    (lambda: with_vote(list_vote(1, bytes(32))), {F.VOTE_LIST}),
    (lambda: with_vote(list_vote(1, PLAYED.list.root, agree=False)), {F.VOTE_LIST}),
    (lambda: with_vote(list_vote(9, PLAYED.list.root)), {F.VOTE_AUTHOR}),
    (lambda: replace(made(), votes=made().votes[:1] * 2), {F.VOTE_AUTHOR}),
]


@pytest.mark.parametrize(("change", "expected"), WRONG)
def test_one_changed_thing_one_answer(change: Callable[[], Receipt], expected: set[ReceiptFault]) -> None:
    receipt = change()
    assert faults(check(receipt)) == expected
    assert Receipt.decode(receipt.encode()) == receipt


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"rejected": True}, {F.REJECTED}),
        ({"attempt": 1}, {F.ATTEMPT}),
        ({"commitment": bytes(32)}, {F.COMMITMENT_DIGEST}),
        ({"list_root": None}, {F.LIST_NOT_ANCHORED, F.VOTE_LIST}),
        ({"list_root": bytes(32)}, {F.LEAF_PROOF, F.VOTE_LIST}),
    ],
)
def test_what_k2_holds_decides(changes: dict[str, Any], expected: set[ReceiptFault]) -> None:
    assert faults(check(made(), **changes)) == expected


def test_a_round_that_k2_does_not_have() -> None:
    assert faults(verify_receipt(made(), None, GENESIS)) == {F.NOT_ANCHORED}


def test_evidence_against_another_key() -> None:
    receipt = made(EVERYTHING, 7)
    foreign = replace(made(EVERYTHING, 6), records=(evidence(receipt),))
    assert faults(check(foreign, EVERYTHING)) == {F.EVIDENCE_IDLE}


def test_a_commitment_that_names_another_submission() -> None:
    """The chain vouches for a lying commitment: its root has one submission, its outcomes name another."""
    first, *rest = PLAYED.commitment.outcomes
    lying: Commitment = replace(PLAYED.commitment, outcomes=(replace(first, submission_id=bytes(32)), *rest))
    index = next(index for index in range(5) if key(index) == first.author)
    receipt = replace(made(PLAYED, index), commitment=lying.encode())
    assert faults(check(receipt, commitment=lying.digest)) == {F.SUBMISSION_DIFFERS}


def test_every_fault_has_a_test_and_a_meaning() -> None:
    tested = set().union(*(expected for _change, expected in WRONG))
    tested |= {F.REJECTED, F.LIST_NOT_ANCHORED}
    assert tested == set(F)
    assert all(fault.__doc__ and fault.value == fault.name.lower() for fault in F)


# --- the page


def test_the_page_has_every_fault() -> None:
    rows = "\n".join(f"| `{fault.value}` | {fault.__doc__} |" for fault in ReceiptFault)
    assert f"| fault | meaning |\n|---|---|\n{rows}\n" in DOCUMENT.read_text()


def test_the_page_has_the_format() -> None:
    """Every field of the CDDL, in order, and the bounds of the code."""
    grammar = re.search(r"```cddl\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    assert grammar is not None
    receipt = grammar[1].partition("\n}\n")[0]
    assert [int(number) for number in re.findall(r"^  (\d+) =>", receipt, re.MULTILINE)] == list(
        fields_of(made())
    )
    for bound in (
        f"[0*{MAX_RECORDS} proven-record]",
        f"[0*{MAX_ENTRIES} roster-entry]",
        f"[0*{MAX_ENTRIES} bytes]",
        f"[0*{merkle.MAX_DEPTH} bytes .size 32]",
        f"section: 0..{len(SECTIONS) - 1}",
        f"bytes .size {ROSTER_ENTRY_BYTES}",
        f"bytes .size {LEAF_BYTES},",
        f"[{len(SECTIONS)}*{len(SECTIONS)} u64]",
        f"outcome: 1..{max(Outcome)}",
        f"status: 1..{max(AuditorStatus)}",
    ):
        assert bound in grammar[1], bound
    assert f"{MAX_RECEIPT_BYTES >> 20} MiB" in DOCUMENT.read_text()


# --- making one


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"commitment": b"other"}, "commitment is not the one"),
        ({"bundle": b"other"}, "bundle is not the one"),
        ({"listed": DistributionList(3, ())}, "list is not the one"),
    ],
)
def test_a_receipt_is_made_of_what_k2_vouches_for(changes: dict[str, Any], why: str) -> None:
    with pytest.raises(ReceiptError, match=why):
        made(**changes)


def test_there_is_no_receipt_for_a_stranger() -> None:
    with pytest.raises(ReceiptError, match="says anything of this key"):
        made(PLAYED, 19)


def test_another_roster_is_not_taken_along() -> None:
    other = Roster(3, PLAYED.roster.entries[1:])
    receipt = made(roster=other)
    assert (receipt.roster, receipt.votes) == ((), ())


# --- strict reading


def fields_of(receipt: Receipt) -> dict[int, Any]:
    found = cbor.decode(receipt.encode(), max_bytes=1 << 24)
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({0: "another file"}, "does not begin as one"),
        ({1: 2}, "version 2"),
        ({1: True}, "version True"),
        ({2: bytes(31)}, "32 bytes"),
        ({5: -1}, "from 0 to"),
        ({6: 256}, "from 0 to 255"),
        ({7: "key"}, "32 bytes"),
        ({8: None}, "byte string"),
        ({9: [bytes(47), 0, []]}, "48 bytes"),
        ({9: [bytes(48), 1, []]}, "from 0 to 0"),
        ({9: [bytes(48), 0, [bytes(32)] * 65]}, "0 to 64 items"),
        ({10: [[6, b"", 0, []]]}, "from 0 to 5"),
        ({10: [[0, b"", 0, []]] * (MAX_RECORDS + 1)}, f"0 to {MAX_RECORDS} items"),
        ({11: [bytes(95)]}, "96 bytes"),
        ({12: [1]}, "byte string"),
        ({13: [None]}, "2 to 2 items"),
        ({13: [bytes(63), None]}, "64 bytes"),
        ({14: None}, "fields 0 to 13"),
    ],
)
def test_other_bytes_are_no_receipt(changes: dict[int, Any], why: str) -> None:
    with pytest.raises(ReceiptError, match=re.escape(why)):
        Receipt.decode(cbor.encode(fields_of(made()) | changes))


def test_a_receipt_is_bounded() -> None:
    with pytest.raises(ReceiptError, match="are allowed"):
        Receipt.decode(bytes((1 << 24) + 1))
    with pytest.raises(ReceiptError, match="are allowed"):
        replace(made(), commitment=bytes(1 << 24)).encode()
    with pytest.raises(ReceiptError, match="not a receipt"):
        Receipt.decode(made().encode()[:-1])


@given(st.binary(max_size=400))
def test_arbitrary_bytes_are_no_receipt(data: bytes) -> None:
    with pytest.raises(ReceiptError):
        Receipt.decode(data)


def deep(depth: int) -> bytes:
    return b"\x81" * depth + b"\x00"


@pytest.mark.parametrize("head", [b"", b"\xae\x00"])
@pytest.mark.parametrize("size", [10, 1000, 1 << 20])
def test_depth_is_bounded(head: bytes, size: int) -> None:
    with pytest.raises(ReceiptError):
        Receipt.decode(head + deep(size))


@pytest.mark.parametrize("claimed", [1 << 16, 1 << 32, (1 << 64) - 1])
@pytest.mark.parametrize("major", [2, 3, 4, 5])
def test_lengths_that_are_only_claimed_cost_nothing(major: int, claimed: int) -> None:
    with pytest.raises(ReceiptError):
        Receipt.decode(bytes([major << 5 | 27]) + claimed.to_bytes(8, "big"))


def parts(receipt: Receipt) -> dict[str, st.SearchStrategy[Any]]:
    """For each field, what else could stand there: what decodes, but was never in a round, or was in another place."""
    keys = st.sampled_from([key(0), key(1), key(19), TASK, GENESIS, bytes(32)])
    raws = st.sampled_from(
        [b"", b"junk", *(one.raw for one in receipt.records), *receipt.votes, receipt.commitment]
    )
    proofs = st.builds(
        lambda siblings, directions: Proof(tuple(siblings), directions % (1 << len(siblings))),
        st.lists(st.binary(min_size=32, max_size=32), max_size=merkle.MAX_DEPTH),
        st.integers(0, (1 << 64) - 1),
    )
    leaves = st.builds(ProvenLeaf, st.binary(min_size=48, max_size=48), proofs)
    records = st.builds(ProvenRecord, st.sampled_from(SECTIONS), raws, proofs)
    entries = st.one_of(st.sampled_from(receipt.roster), st.binary(min_size=96, max_size=96))
    return {
        "genesis": keys,
        "program": keys,
        "task": keys,
        "round": st.integers(0, (1 << 64) - 1),
        "attempt": st.integers(0, 255),
        "key": keys,
        "commitment": st.one_of(st.binary(max_size=80), raws),
        "leaf": st.one_of(st.none(), leaves),
        "records": st.lists(records, max_size=MAX_RECORDS).map(tuple),
        "roster": st.lists(entries, max_size=6).map(tuple),
        "votes": st.lists(raws, max_size=6).map(tuple),
        "commitment_signature": st.one_of(st.none(), st.binary(min_size=64, max_size=64)),
    }


TRUE_OF_EVERYTHING = {
    sentence for index in range(10) for sentence in check(made(EVERYTHING, index), EVERYTHING).proves
}


@settings(max_examples=80)
@given(st.data())
def test_a_forged_receipt_is_refused_and_never_an_error(data: st.DataObject) -> None:
    """Any fields in place of the true ones: it proves something only if it still says what the round came to."""
    receipt = made(EVERYTHING, 5)
    fields = parts(receipt)
    chosen = data.draw(st.sets(st.sampled_from(sorted(fields)), min_size=1, max_size=3))
    forged = replace(receipt, **{name: data.draw(fields[name], label=name) for name in chosen})
    assert Receipt.decode(forged.encode()) == forged
    report = check(forged, EVERYTHING)
    outcomes = EVERYTHING.commitment.outcome_of
    for sentence in report.proves:
        if sentence.endswith("has no work in this commitment."):
            assert forged.key not in outcomes
        elif sentence.endswith("agree with this list."):
            assert int(sentence.split()[0]) <= 3
        else:
            assert sentence in TRUE_OF_EVERYTHING
    assert bool(report.proves) == report.ok


@settings(max_examples=120)
@given(st.data())
def test_any_changed_byte_is_found(data: st.DataObject) -> None:
    changed = bytearray(made().encode())
    at = data.draw(st.integers(0, len(changed) - 1))
    changed[at] ^= 1 << data.draw(st.integers(0, 7))
    try:
        receipt = Receipt.decode(bytes(changed))
    except ReceiptError:
        return
    # Nothing rests on the program's address, which is compared with the account's owner by who reads that.
    unbound = replace(receipt, program=PROGRAM) == made()
    assert check(receipt).ok == unbound
