"""What strangers say in a round, over sockets, to a node in a process of its own: cases 1 to 5, 18 and 19.

`docs/network-cases.md` lists the cases. The node judges by a real engine; whoever sends is an unmodified libp2p host.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import cbor2
import pytest
from libp2p.exceptions import BaseLibp2pError

from koii_p2p.limits import Limits
from koii_p2p.network.frames import encode_varint
from koii_p2p.node import exchange
from koii_p2p.records import cbor
from koii_p2p.records.envelope import Envelope, Verified, sign, verify
from koii_p2p.records.schema import Presence, Verdict
from koii_p2p.rounds import admission
from koii_p2p.rounds.eligibility import FULL_AUDIT
from tests.faults.victim import MIB, PRESENCE_TOPIC, Seen, Victim, judge_of, raw_ids, victim
from tests.network.attacker import MESHSUB, Attacker, attacker
from tests.network.nets import QUICK, net, until
from tests.node.peers import BALLOTS, NOW, PLAYED, ROUND, SUBMISSIONS, engine_with, held
from tests.rounds.net import TERMS, ballot, key, say, secret

VECTORS = Path(__file__).parents[1] / "vectors" / "records"
SIGNERS = {key(index): secret(index) for index in range(9)}
PATIENT = {"rejects_before_disconnect": 1_000_000}
BOUND = 24 * MIB
"""More memory than before, at most: what allocators keep of what passed through, and the tables' first entries."""


@asynccontextmanager
async def attacked(**limits: float) -> AsyncIterator[tuple[Victim, Attacker, Seen]]:
    """A victim, somebody with a link to it, and how it was before; at the end it still takes an honest record."""
    async with victim(**(PATIENT | limits)) as target, attacker(target) as enemy:
        await enemy.publish(
            enemy.message(b"of no kind")
        )  # what is loaded at the first message is not the attack's
        before = await target.until(lambda seen: sum(seen.judged.values()) == 1)
        yield target, enemy, before
        async with attacker(target) as honest:
            await honest.publish(honest.message(BALLOTS[-1].raw))
            await target.until(lambda seen: BALLOTS[-1].id.hex() in seen.records)
        after = await target.until(lambda seen: seen.files <= before.files)
        assert after.rss - before.rss < BOUND


def rejected(seen: Seen, before: Seen) -> int:
    """How many messages were rejected since then."""
    return seen.refused.get("rejected", 0) - before.refused.get("rejected", 0)


def refused_vectors(*names: str) -> Iterator[bytes]:
    """The bytes of every vector that no reader may take."""
    for name in names:
        for one in json.loads((VECTORS / f"{name}.json").read_text())["vectors"]:
            assert one["verdict"] == "refused"
            yield bytes.fromhex(one["record"])


NESTED = bytes.fromhex("d284") + b"\x81" * 100_000
HUGE_LENGTHS = [
    bytes.fromhex("d284") + head + b"\xff\xff\xff\xff" for head in (b"\x9a", b"\x5a", b"\xba", b"\x7a")
]


@pytest.mark.slow
async def test_case_1_garbage_is_rejected_in_bounded_memory_and_costs_its_sender() -> None:
    """1: random bytes, cut and deeply nested CBOR, lengths of 4 GiB: rejected one by one, and whoever sends it pays."""
    whole = BALLOTS[-2].raw
    junk = [bytes([number, *range(200)]) for number in range(10)]
    junk += [whole[:end] for end in range(1, len(whole), 13)]
    junk += [NESTED + bytes([number]) for number in range(6)]
    junk += HUGE_LENGTHS
    junk += refused_vectors("malformed-encoding", "malformed-message")
    junk = list(dict.fromkeys(junk))
    async with attacked() as (target, enemy, before):
        for start in range(0, len(junk), 10):
            # Each ten by another: eleven of one would graylist it, and the rest would not even be read.
            async with attacker(target) as another:
                await another.publish(*map(another.message, junk[start : start + 10]))
                due = min(start + 10, len(junk))
                await target.until(lambda seen, due=due: rejected(seen, before) == due)  # type: ignore[misc]
        assert (await target.look()).records == before.records
        # As frames: a length of 4 GiB ends the link before anything is kept for it.
        stream = await enemy.stream(MESHSUB)
        await stream.write(encode_varint(2**32) + bytes(1000))
        seen = await target.until(lambda seen: enemy.key.hex() not in seen.peers)
        assert seen.disconnects["malformed gossip"] == 1
        # As requests, on the protocols that nodes answer.
        async with attacker(target) as asker:
            for protocol in (exchange.RECONCILE_PROTOCOL, exchange.RECORDS_PROTOCOL):
                for data in (junk[0], NESTED, HUGE_LENGTHS[0], encode_varint(2**32)):
                    with suppress(BaseLibp2pError):  # it may be cut before all of it is sent
                        stream = await asker.stream(protocol)
                        await stream.write(data)
                        await stream.close()
            await target.until(lambda seen: seen.rss - before.rss < BOUND)


async def test_case_1_and_19_who_keeps_sending_garbage_is_banned() -> None:
    """1, 19: twenty rejected messages or a score below the graylist threshold, and the sender is out for a while."""
    async with attacked(rejects_before_disconnect=20) as (target, enemy, before):
        await enemy.publish(*(enemy.message(b"junk %d" % number) for number in range(300)))
        seen = await target.until(lambda seen: seen.bans == 1 and enemy.key.hex() not in seen.peers)
        # With the one at the start, eleven bring the score below the threshold, and nothing is judged after that.
        assert rejected(seen, before) == 10
        assert seen.refused["graylisted"] == 290


def longer(record: Verified) -> list[bytes]:
    """A record in other bytes that mean the same: every one of them is a lax reader's second message."""
    protected = bytes.fromhex("a20127045820") + record.author
    payload, signature = record.envelope.payload, record.envelope.signature
    good = cbor.encode([protected, {}, payload, signature], tag=18)
    assert good == record.raw
    fields = cbor2.loads(payload)
    pairs = b"".join(cbor2.dumps(name) + cbor2.dumps(value, canonical=True) for name, value in fields.items())
    again = cbor2.dumps(0) + cbor2.dumps(fields[0], canonical=True)
    payloads = [
        payload + b"\x00",  # a trailing byte
        bytes([0xA0 + len(fields) + 1]) + again + pairs,  # a key twice
        bytes([0xBF]) + pairs + b"\xff",  # of indefinite length
        payload[:1] + b"\x18\x00" + payload[2:],  # the first key, 0, in two bytes
    ]
    others = [cbor.encode([protected, {}, other, signature], tag=18) for other in payloads]
    return [*others, good + b"\x00", b"\xd8\x12" + good[1:], good[:1] + b"\x98\x04" + good[2:]]


async def test_case_2_a_vote_has_one_encoding_and_is_known_once() -> None:
    """2: the same vote with a key twice, a long integer, a trailing byte: rejected; one record is known."""
    vote = BALLOTS[0]
    others = longer(vote)
    assert len(set(others)) == 7
    async with attacked() as (target, enemy, before):
        await enemy.publish(enemy.message(vote.raw), *map(enemy.message, others))
        seen = await target.until(lambda seen: rejected(seen, before) == 7)
        assert set(seen.records) - set(before.records) == raw_ids(vote)
        assert seen.known - before.known == 1
        # The very same bytes again, by somebody else, are one message still.
        async with attacker(target) as other:
            await other.publish(other.message(vote.raw), other.message(BALLOTS[-2].raw))
            seen = await target.until(lambda seen: BALLOTS[-2].id.hex() in seen.records)
        assert seen.known - before.known == 2


SMALL_ORDER = [
    bytes.fromhex(text)
    for text in (
        "0100000000000000000000000000000000000000000000000000000000000000",  # order 1
        "0100000000000000000000000000000000000000000000000000000000000080",  # the same, with a sign
        "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",  # the same, not canonical
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",  # order 2
        "0000000000000000000000000000000000000000000000000000000000000000",  # order 4
        "0000000000000000000000000000000000000000000000000000000000000080",  # order 4
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",  # order 8
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",  # order 8
    )
]
GROUP_ORDER = 2**252 + 27742317777372353535851937790883648493


def signed_by_small_order(public_key: bytes) -> bytes:
    """A presence under a key for which lax verifiers take any message: R is the neutral element and S is 0."""
    model = say(secret(50), Presence((), 0, "", 0), 4, NOW, NOW)
    protected = bytes.fromhex("a20127045820") + public_key
    return cbor.encode([protected, {}, model.envelope.payload, SMALL_ORDER[0] + bytes(32)], tag=18)


def malleable(record: Verified) -> bytes:
    """The record under its second signature (S + L), which a lax verifier takes as well."""
    protected = bytes.fromhex("a20127045820") + record.author
    signature = record.envelope.signature
    beyond = int.from_bytes(signature[32:], "little") + GROUP_ORDER
    payload = record.envelope.payload
    return cbor.encode([protected, {}, payload, signature[:32] + beyond.to_bytes(32, "little")], tag=18)


async def test_case_3_signatures_that_lax_verifiers_take_are_rejected() -> None:
    """3: keys of small order, keys that are not canonical, S beyond the group order (as in the vectors): rejected."""
    async with attacked() as (target, enemy, before):
        await enemy.publish(
            *(enemy.message(signed_by_small_order(one), topic=PRESENCE_TOPIC) for one in SMALL_ORDER),
            enemy.message(malleable(BALLOTS[-2])),
        )
        seen = await target.until(lambda seen: rejected(seen, before) == len(SMALL_ORDER) + 1)
        assert seen.judged["BAD_SIGNATURE"] == len(SMALL_ORDER) + 1
        assert seen.records == before.records
        async with attacker(target) as other:  # whose first signature is as good as ever
            await other.publish(other.message(BALLOTS[-2].raw))
            await target.until(lambda seen: BALLOTS[-2].id.hex() in seen.records)


async def test_case_4_words_of_other_rounds_tasks_and_networks_are_not_counted() -> None:
    """4: an old round's vote is ignored, as is another task's; another network's is rejected, as is a copied slot."""
    vote = BALLOTS[-2]
    signer = SIGNERS[vote.author]
    body, slot = vote.statement.body, vote.statement.slot
    old = say(signer, body, ROUND - 1, TERMS.clock.first_ballots(ROUND - 1).opens + 1)
    other_task = say(signer, body, ROUND, slot, task=bytes(32))
    other_network = sign(vote.statement, bytes(32), signer)
    relabelled = say(signer, body, ROUND, old.statement.slot)  # the old slot, in the new round
    async with attacked() as (target, enemy, before):
        for record in (old, other_task, other_network, relabelled):
            await enemy.publish(enemy.message(record.raw))
        seen = await target.until(
            lambda seen: rejected(seen, before) == 2 and seen.refused.get("ignored") == 2
        )
        counted = {name: seen.judged.get(name, 0) for name in ("LATE", "UNKNOWN_TASK", "BAD_SIGNATURE")}
        assert counted == {"LATE": 1, "UNKNOWN_TASK": 1, "BAD_SIGNATURE": 1}
        assert seen.judged["SLOT_OUTSIDE_WINDOW"] == 1
        assert seen.records == before.records
        assert enemy.key.hex() in seen.peers  # two faults are no reason to ban anybody


async def test_case_5_votes_of_those_who_were_not_drawn_are_rejected() -> None:
    """5: ballots of stakers who are not due, and of strangers: rejected, never held, a penalty each."""
    not_due: list[Verified] = []
    for index in range(9):
        due = PLAYED.assignment.authors_for(key(index), PLAYED.submissions)
        others = [one for one in SUBMISSIONS if one.author not in due and one.author != key(index)]
        not_due += [ballot(secret(index), {others[0].id: Verdict.VALID})] if others else []
    assert len(not_due) >= 3
    stranger = ballot(secret(40), {SUBMISSIONS[0].id: Verdict.VALID})
    async with attacked() as (target, enemy, before):
        sent = [*not_due[:4], stranger]
        await enemy.publish(*(enemy.message(record.raw) for record in sent))
        seen = await target.until(lambda seen: rejected(seen, before) == len(sent))
        assert seen.judged["NOT_ASSIGNED"] == len(sent) - 1
        assert seen.judged["NOT_IN_ROSTER"] == 1
        assert seen.records == before.records
        assert seen.rejects[enemy.key.hex()] == len(sent) + 1  # and what it had said at the start


@pytest.mark.slow
async def test_case_18_a_flood_from_one_key_is_one_record_and_stops_nobody() -> None:
    """18: thousands of properly signed votes of one staker: one counts, a bounded number waits, other topics go on."""
    flooder, careful = (SIGNERS[record.author] for record in BALLOTS[:2])
    flood = [ballot(flooder, {number.to_bytes(32, "big"): Verdict.VALID}) for number in range(1000)]
    forged = [in_the_name_of_another(number) for number in range(200)]
    async with attacked() as (target, enemy, before):
        await enemy.publish(*(enemy.message(one.raw) for one in flood))
        for start in range(0, len(forged), 40):
            await enemy.publish(*map(enemy.message, forged[start : start + 40]))
        async with attacker(target) as honest:  # in the middle of it
            presence = say(secret(60), Presence((), 0, "", 0), 4, NOW, NOW)
            await honest.publish(
                honest.message(BALLOTS[-2].raw), honest.message(presence.raw, topic=PRESENCE_TOPIC)
            )
            await target.until(lambda seen: BALLOTS[-2].id.hex() in seen.records and seen.presences == 1)
        seen = await target.until(
            lambda seen: (
                seen.judged.get("SUBMISSION_UNKNOWN") == len(flood)
                and seen.judged.get("EARLY") == len(forged)
            )
        )
        assert set(seen.records) - set(before.records) == raw_ids(BALLOTS[-2])
        assert seen.parked == Limits().parked_per_author
        assert (
            enemy.key.hex() in seen.peers
        )  # honest nodes would have forwarded them: it costs the author, not them
        # An honest auditor's vote on a submission that is yet to come waits for it in spite of all that.
        async with attacker(target) as other:
            await other.publish(other.message(ballot(careful, {bytes(31) + b"x": Verdict.VALID}).raw))
            await target.until(lambda now: now.parked == seen.parked + 1)


def in_the_name_of_another(number: int) -> bytes:
    """A large ballot for a window that is about to open, as if a staker had signed it."""
    ids = {(1000 * number + place).to_bytes(32, "big"): Verdict.VALID for place in range(500)}
    record = ballot(secret(2), ids, stage=FULL_AUDIT)
    return record.raw[:-1] + bytes([record.raw[-1] ^ 1])


async def test_case_19_poison_costs_a_bounded_number_of_signature_checks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """19: forged votes among good ones in one RPC: the good ones are taken, and a poisoner costs eleven checks."""
    checks: list[bytes] = []

    def counted(envelope: Envelope, genesis: bytes) -> Verified:
        checks.append(envelope.id)
        return verify(envelope, genesis)

    monkeypatch.setattr(admission, "verify", counted)
    engine = engine_with(SUBMISSIONS)
    good = {record.id for record in BALLOTS}
    poison = [
        record.raw[:-2] + bytes([number // 256, number % 256])
        for number, record in enumerate(list(BALLOTS) * 40)
    ]
    async with net() as running:
        node = await running.add(1, judge=judge_of(engine, "audits"), limits=QUICK)
        checks.clear()
        for poisoner in range(5):
            async with attacker(node) as enemy:
                mine = poison[poisoner * 50 : poisoner * 50 + 50]
                honest = [BALLOTS[poisoner].raw] if poisoner < len(BALLOTS) else []
                await enemy.publish(*map(enemy.message, [*mine[:5], *honest, *mine[5:]]))
                await until(lambda: enemy.key not in node.peers(), 60)
        assert node.network.statistics().bans == 5
        taken = held(engine) & good
        assert len(taken) == min(5, len(BALLOTS))  # each stood behind five forgeries, in the same RPC
        assert (
            len(checks) - len(taken) == 5 * 11
        )  # with the eleventh forgery a peer is below the graylist threshold
        # The same forgeries again, from others, are known for what they are, and are not checked.
        before = len(checks)
        async with attacker(node) as enemy:
            await enemy.publish(*map(enemy.message, poison[:5]))
            await until(lambda: _refused(node.network.statistics().gossip).get("rejected_before", 0) >= 5)
        assert len(checks) == before


def _refused(gossip: object) -> dict[str, int]:
    return dict(getattr(gossip, "refused", ()))
