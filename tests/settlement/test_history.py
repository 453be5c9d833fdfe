"""The history proves itself: any transaction changed, added, left out, moved or misreported is found and named."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from solders.hash import Hash
from solders.message import Message
from solders.transaction import Transaction

from koii_p2p.rounds.anchors import AnchoredRound
from koii_p2p.settlement import instructions as ix
from koii_p2p.settlement.decoding import decode_instruction
from koii_p2p.settlement.history import (
    ChainEntry,
    HistoryFault,
    check_history,
    read_history,
    replay,
)
from koii_p2p.settlement.instructions import (
    AnchorCommitment,
    AnchorList,
    CreateTask,
    Fund,
    Settle,
    Stake,
    Veto,
)
from koii_p2p.settlement.rpc import (
    Commitment,
    RpcUnreachable,
    TransactionRecord,
    transaction_signature,
)

from .virtual_chain import KOII, Landed, TaskChain, address
from .virtual_rpc import Lie, VirtualRpc


@pytest.fixture(scope="module")
def chain() -> TaskChain:
    """Two settled rounds, and a commitment that was refused."""
    chain = TaskChain()
    for round in range(2):
        leaves = chain.run_round(round, [KOII, KOII, 0], [0, 0, KOII])
        for index in range(3):
            chain.ok(chain.settle_instruction(round, leaves, index))
    chain.send(chain.commit_instruction(1), signers=[chain.stakers[0]])
    return chain


BOND = 2 * KOII // 10


@pytest.fixture(scope="module")
def vetoed() -> TaskChain:
    """Round 0 slashes; round 1 is vetoed by three of four, of whom the slashed one does not tip it, and retried."""
    chain = TaskChain(stakers=4)
    leaves = chain.run_round(0, [KOII, KOII, KOII, 0], [0, 0, 0, 2 * KOII])
    chain.commit(1, 0)
    chain.anchor_list(1, chain.earn([KOII, 0, 0, 0]), 1)
    chain.ok(chain.settle_instruction(0, leaves, 3))
    chain.veto(1, 3)
    chain.add_stake(2, KOII)
    chain.veto(1, 0)
    chain.veto(1, 2)
    chain.send(chain.veto_instruction(1, 1), signers=[chain.stakers[1]])
    chain.commit(1, 2, attempt=1)
    chain.anchor_list(1, chain.earn([0, 0, 0, 0]), 2, attempt=1)
    chain.veto(1, 0, attempt=1)
    return chain


async def read(rpc: VirtualRpc, chain: TaskChain) -> tuple[ChainEntry, ...]:
    return await read_history(rpc, chain.task, limit=1000)


async def findings(rpc: VirtualRpc, chain: TaskChain) -> list[tuple[HistoryFault, str]]:
    found = check_history(await read(rpc, chain), chain.state())
    return [(one.fault, one.text) for one in found]


def landed(chain: TaskChain, kind: type, number: int = 0) -> Landed:
    """The transaction of the `number`th instruction of a kind that succeeded."""
    found = []
    for one in chain.landed:
        message = Transaction.from_bytes(one.wire).message
        accounts = [bytes(message.account_keys[place]) for place in message.instructions[1].accounts]
        instruction = decode_instruction(bytes(message.instructions[1].data), accounts)
        if isinstance(instruction, kind) and one.result.err is None:
            found.append(one)
    return found[number]


async def test_the_whole_history_is_read_and_is_good(chain: TaskChain) -> None:
    entries = await read(VirtualRpc(chain), chain)
    kinds = [type(entry.instruction) for entry in entries]
    round_kinds = [AnchorCommitment, AnchorList, Settle, Settle, Settle]
    assert kinds == [CreateTask, Fund, Stake, Stake, Stake, *round_kinds, *round_kinds, AnchorCommitment]
    assert [entry.err is None for entry in entries] == [True] * 15 + [False]
    assert [entry.slot for entry in entries] == sorted(entry.slot for entry in entries)
    assert {entry.signer for entry in entries} == {address(chain.payer)} | {
        address(one) for one in chain.stakers
    }
    assert sum(entry.fee or 0 for entry in entries) == sum(one.result.fee for one in chain.landed)
    assert check_history(entries, chain.state()) == ()


async def test_replay_gives_the_account(chain: TaskChain) -> None:
    replayed, state = replay(await read(VirtualRpc(chain), chain)), chain.state()
    assert (replayed.head, replayed.anchors, replayed.funded) == (state.head, 4, state.funded)
    assert replayed.rounds == state.rounds


async def test_twenty_rounds_beyond_the_ring() -> None:
    chain = TaskChain()
    for round in range(20):
        chain.run_round(round, [1, 1, 1])
    rpc = VirtualRpc(chain)
    assert await findings(rpc, chain) == []
    # A round that the ring no longer holds is still covered by the head.
    first = landed(chain, AnchorList)
    rpc.lies[transaction_signature(first.wire)] = Lie(None, None)
    faults = {fault for fault, _ in await findings(rpc, chain)}
    assert faults == {HistoryFault.ANCHORS_MISSING, HistoryFault.HEAD_DIFFERS}


async def test_a_transaction_left_out_is_missed(chain: TaskChain) -> None:
    rpc = VirtualRpc(chain)
    rpc.lies[transaction_signature(landed(chain, AnchorCommitment, 1).wire)] = Lie(None, None)
    found = await findings(rpc, chain)
    assert (
        HistoryFault.ANCHORS_MISSING,
        "The account counts 4 anchors; its transactions hold 3.",
    ) in found
    assert any(
        fault is HistoryFault.CHANGED_RECORD and "Round 1, commitment" in text for fault, text in found
    )


@pytest.mark.parametrize("kind", [AnchorCommitment, AnchorList, Fund, Stake, Settle, CreateTask])
async def test_one_changed_byte_is_found_in_its_transaction(chain: TaskChain, kind: type) -> None:
    rpc = VirtualRpc(chain)
    target = landed(chain, kind)
    wire = bytearray(target.wire)
    wire[-1] ^= 1
    rpc.lie(target, wire=bytes(wire))
    name = transaction_signature(target.wire)
    text = f"Transaction {name} in slot {target.slot}: a signature does not verify: its bytes were changed."
    assert (HistoryFault.UNREADABLE, text) in await findings(rpc, chain)


async def test_every_byte_counts(chain: TaskChain) -> None:
    rpc = VirtualRpc(chain)
    target = landed(chain, AnchorList)
    for place in range(0, len(target.wire), 7):
        wire = bytearray(target.wire)
        wire[place] ^= 0x10
        rpc.lie(target, wire=bytes(wire))
        faults = [fault for fault, _ in await findings(rpc, chain)]
        assert HistoryFault.UNREADABLE in faults, place
    rpc.lie(target, wire=target.wire + b"\0")
    assert (await findings(rpc, chain))[0][0] is HistoryFault.UNREADABLE


async def test_another_slot_is_found(chain: TaskChain) -> None:
    rpc = VirtualRpc(chain)
    target = landed(chain, AnchorCommitment)
    truth = rpc.truth(target)
    assert truth.line is not None
    assert truth.record is not None
    moved = Lie(replace(truth.line, slot=target.slot + 1), replace(truth.record, slot=target.slot + 1))
    rpc.lies[transaction_signature(target.wire)] = moved
    found = await findings(rpc, chain)
    assert (
        HistoryFault.CHANGED_RECORD,
        f"Round 0, commitment_slot: the transactions say {target.slot + 1}, the account {target.slot}.",
    ) in found
    assert HistoryFault.HEAD_DIFFERS in {fault for fault, _ in found}


def _no_record(rpc: VirtualRpc, target: Landed) -> None:
    rpc.lies[transaction_signature(target.wire)] = Lie(rpc.truth(target).line, None)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (_no_record, "the node lists the transaction but does not have it"),
        (lambda rpc, one: rpc.lie(one, slot=one.slot + 1), "the list says slot"),
        (lambda rpc, one: rpc.lie(one, err="AccountNotFound"), "disagree about whether it succeeded"),
        (lambda rpc, one: rpc.lie(one, wire=one.wire[:90]), "its bytes are not a transaction"),
        (lambda rpc, one: rpc.lie(one, wire=b""), "its bytes are not a transaction"),
    ],
)
async def test_contradictions_are_named(
    chain: TaskChain, change: Callable[[VirtualRpc, Landed], None], why: str
) -> None:
    rpc = VirtualRpc(chain)
    change(rpc, landed(chain, AnchorCommitment))
    assert why in (await findings(rpc, chain))[0][1]


async def test_a_success_told_as_a_failure_is_found(chain: TaskChain) -> None:
    rpc = VirtualRpc(chain)
    target = landed(chain, AnchorList, 1)
    truth = rpc.truth(target)
    assert truth.line is not None
    assert truth.record is not None
    err = {"InstructionError": [1, {"Custom": 1047}]}
    rpc.lies[transaction_signature(target.wire)] = Lie(
        replace(truth.line, err=err), replace(truth.record, err=err)
    )
    assert {fault for fault, _ in await findings(rpc, chain)} == {
        HistoryFault.CHANGED_RECORD,
        HistoryFault.ANCHORS_MISSING,
        HistoryFault.HEAD_DIFFERS,
    }


async def test_a_changed_account_is_found(chain: TaskChain) -> None:
    entries, state = await read(VirtualRpc(chain), chain), chain.state()
    other = bytes(32)
    changed: AnchoredRound = replace(state.rounds[1], list_root=other)
    found = check_history(entries, replace(state, rounds={**state.rounds, 1: changed}))
    assert [one.fault for one in found] == [HistoryFault.CHANGED_RECORD]
    assert found[0].text.startswith("Round 1, list_root: the transactions say ")
    assert found[0].text.endswith(f", the account {other.hex()}.")
    extra = replace(state, rounds={**state.rounds, 5: changed})
    assert "according to the account, but no transaction" in check_history(entries, extra)[0].text
    fewer = replace(state, rounds={0: state.rounds[0]})
    assert "according to a transaction, but not the account" in check_history(entries, fewer)[0].text
    found = check_history(entries, replace(state, funded=1, total_stake=1))
    assert [one.fault for one in found] == [HistoryFault.TOTALS_DIFFER] * 2


async def test_transactions_for_other_tasks_are_left_out(chain: TaskChain) -> None:
    rpc = VirtualRpc(chain)
    payer = address(chain.payer)
    other = ix.task_address(payer, 1234)
    both = Message.new_with_blockhash(
        [ix.fund(chain.task, payer, 1), ix.fund(other, payer, 2)], chain.payer.pubkey(), Hash.default()
    )
    wire = bytes(Transaction([chain.payer], both, Hash.default()))
    keys = frozenset(bytes(key) for key in both.account_keys)
    template = landed(chain, Fund)
    extra = replace(template, wire=wire, keys=keys, slot=chain.slot)
    chain.landed.append(extra)
    try:
        entries = await read(rpc, chain)
    finally:
        chain.landed.remove(extra)
    assert [entry.instruction for entry in entries[-1:]] == [Fund(chain.task, payer, 1)]
    assert len(entries) == 17


async def test_only_the_newest_are_read_when_limited(chain: TaskChain) -> None:
    entries = await read_history(VirtualRpc(chain), chain.task, limit=3)
    assert len(entries) == 3
    assert entries[-1].err is not None
    assert {one.fault for one in check_history(entries, chain.state())} >= {HistoryFault.ANCHORS_MISSING}


async def test_an_unreachable_node_is_one_plain_error(chain: TaskChain) -> None:
    class Away(VirtualRpc):
        async def get_transaction(
            self, signature: str, commitment: Commitment = "confirmed"
        ) -> TransactionRecord | None:
            raise RpcUnreachable("http://localhost:1", "getTransaction", "Gone")

    with pytest.raises(RpcUnreachable):
        await read(Away(chain), chain)


async def test_rejections_and_retries_are_read_and_good(vetoed: TaskChain) -> None:
    entries, state = await read(VirtualRpc(vetoed), vetoed), vetoed.state()
    vetoes = [entry for entry in entries if isinstance(entry.instruction, Veto)]
    assert [entry.err is None for entry in vetoes] == [True, True, True, False, True]
    assert vetoes[0].signer == address(vetoed.stakers[3])
    assert vetoes[0].instruction == Veto(vetoed.task, address(vetoed.stakers[3]), 1, 0)
    assert check_history(entries, state) == ()
    replayed = replay(entries)
    assert (replayed.rounds, replayed.last_list) == (state.rounds, state.last_list)
    assert replayed.anchors == state.anchors == 7  # two rounds, a rejection, an attempt of two
    retried = replayed.rounds[1]
    assert (retried.attempt, retried.veto_stake) == (1, 5 * KOII - BOND)
    assert (
        (replayed.bonds, replayed.total_stake)
        == (state.bonds, state.total_stake)
        == (2 * BOND, 19 * KOII - 2 * BOND)
    )
    for index, staker in enumerate(vetoed.stakers):
        told, held = replayed.stakes[address(staker)], vetoed.stake_of(index)
        assert (told.amount, told.slash_total, told.unstaking) == (held.amount, held.slash_total, False)
        points = [(point.slot, point.stake, point.slash_total) for point in held.history.checkpoints]
        assert points == [(slot, *told.points[slot]) for slot, _, _ in points]
    assert retried.barred == (address(vetoed.stakers[0]), address(vetoed.stakers[1]))


@pytest.mark.parametrize("number", [1, 2])
async def test_a_veto_left_out_is_missed(vetoed: TaskChain, number: int) -> None:
    """The one that rejected the list, or one without which it would not have."""
    rpc = VirtualRpc(vetoed)
    rpc.lies[transaction_signature(landed(vetoed, Veto, number).wire)] = Lie(None, None)
    faults = {fault for fault, _ in await findings(rpc, vetoed)}
    bonds_missed = {
        HistoryFault.TOTALS_DIFFER,
        HistoryFault.CHANGED_RECORD,
    }  # the later veto weighs less by one
    assert faults == {HistoryFault.ANCHORS_MISSING, HistoryFault.HEAD_DIFFERS} | bonds_missed


async def test_a_veto_that_rejected_nothing_is_missed_too(vetoed: TaskChain) -> None:
    rpc = VirtualRpc(vetoed)
    rpc.lies[transaction_signature(landed(vetoed, Veto, 3).wire)] = Lie(None, None)
    text = f"Round 1, veto_stake: the transactions say 0, the account {5 * KOII - BOND}."
    assert await findings(rpc, vetoed) == [(HistoryFault.CHANGED_RECORD, text)]


async def test_a_veto_in_the_wrong_place_is_found(vetoed: TaskChain) -> None:
    """Who tipped it is in the head, so that the order of vetoes cannot be changed."""
    entries = list(await read(VirtualRpc(vetoed), vetoed))
    second, third = [place for place, one in enumerate(entries) if isinstance(one.instruction, Veto)][1:3]
    entries[second], entries[third] = entries[third], entries[second]
    assert [one.fault for one in check_history(entries, vetoed.state())] == [HistoryFault.HEAD_DIFFERS]


async def test_an_account_that_hides_a_rejection_is_found(vetoed: TaskChain) -> None:
    entries, state = await read(VirtualRpc(vetoed), vetoed), vetoed.state()
    hidden = replace(state.rounds[1], rejected=True, barred=())
    found = check_history(entries, replace(state, rounds={**state.rounds, 1: hidden}))
    barred = ", ".join(address(vetoed.stakers[one]).hex() for one in (0, 1))
    assert [one.text for one in found] == [
        "Round 1, rejected: the transactions say False, the account True.",
        f"Round 1, barred: the transactions say {barred}, the account nothing.",
    ]
    (older,) = check_history(entries, replace(state, last_list=state.settled_list))
    assert older.fault is HistoryFault.CHANGED_RECORD
    assert older.text.startswith("The newest list that stands is that of round 1, attempt 1, in slot ")
    assert "that of round 0, attempt 0, in slot " in older.text
