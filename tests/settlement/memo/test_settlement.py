"""The memo carrier as a `Settlement`: what it records, what it refuses, and races between nodes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from koii_p2p.errors import ConfigurationError
from koii_p2p.rounds.distribution import Leaf
from koii_p2p.rounds.merkle import Proof
from koii_p2p.rounds.roster import roster_at
from koii_p2p.settlement.interface import Settlement
from koii_p2p.settlement.memo.chain import LinkFault, MemoChain
from koii_p2p.settlement.memo.reader import HistoryIncomplete
from koii_p2p.settlement.memo.settlement import (
    LINK_ATTEMPTS,
    MemoSettlement,
    OtherGenesis,
    OvertakenError,
)
from koii_p2p.settlement.refusals import (
    AlreadyAnchored,
    AlreadyVetoed,
    NotCarried,
    PayerShort,
    ProgramError,
    ProgramRefused,
)
from koii_p2p.settlement.rpc import ConfirmedTransaction, TransactionFailed

from ..virtual_chain import KOII, address, keypair
from .memo_world import CLOCK, GENESIS, TASK, MemoWorld, PagedRpc, commitment, staker


@pytest.fixture
def world() -> MemoWorld:
    return MemoWorld()


def test_it_is_a_settlement(world: MemoWorld) -> None:
    settlement: Settlement = world.nodes[0]
    assert isinstance(settlement, MemoSettlement)


async def test_a_task_before_its_first_record(world: MemoWorld) -> None:
    state = await world.nodes[0].task_state(TASK)
    assert state.terms == GENESIS.terms
    assert (state.anchors, state.rounds, state.last_list, state.created_slot) == (0, {}, None, 1000)
    assert (state.vault, state.total_stake, state.stakers) == (1000 * KOII, 14 * KOII, 4)
    assert roster_at(await world.nodes[0].stakes(TASK), 0, state.terms).total_stake == 14 * KOII
    assert await world.nodes[0].history(TASK) == ()


async def test_what_an_anchor_costs(world: MemoWorld) -> None:
    world.at(CLOCK.delay(0).opens)
    before = world.chain.balance(world.nodes[0].payer)
    receipt = await world.nodes[0].anchor_commitment(TASK, 0, b"c" * 32)
    assert (receipt.slot, receipt.fee) == (CLOCK.delay(0).opens, 10_000)
    assert before - world.chain.balance(world.nodes[0].payer) == 10_000
    assert world.chain.data(TASK) == b""


async def test_anchoring_twice_is_refused_before_it_costs(world: MemoWorld) -> None:
    first, second = world.nodes[:2]
    world.at(CLOCK.delay(0).opens)
    await first.anchor_commitment(TASK, 0, b"c" * 32)
    sent = len(world.rpc.sent)
    with pytest.raises(AlreadyAnchored):
        await second.anchor_commitment(TASK, 0, b"d" * 32)
    world.at(CLOCK.distribution(0).opens)
    await second.anchor_list(TASK, 0, b"l" * 32, KOII, 0)
    with pytest.raises(AlreadyAnchored):
        await first.anchor_list(TASK, 0, b"l" * 32, KOII, 0)
    assert len(world.rpc.sent) == sent + 1


async def test_out_of_a_window_is_refused_before_it_costs(world: MemoWorld) -> None:
    with pytest.raises(ProgramRefused) as caught:
        await world.nodes[0].anchor_commitment(TASK, 0, b"c" * 32)
    assert caught.value.error is ProgramError.COMMITMENT_EARLY
    assert world.rpc.sent == []


async def test_a_majority_rejects_a_list_and_another_is_anchored(world: MemoWorld) -> None:
    thief, other, first, second = world.nodes[1], world.nodes[0], world.nodes[2], world.nodes[3]
    world.at(CLOCK.delay(0).opens)
    await thief.anchor_commitment(TASK, 0, b"c" * 32)
    world.at(CLOCK.distribution(0).opens)
    await thief.anchor_list(TASK, 0, b"l" * 32, KOII, 0)
    world.at(CLOCK.distribution_audit(0).opens)
    await other.veto(TASK, 0, 0)
    with pytest.raises(AlreadyVetoed):
        await other.veto(TASK, 0, 0)
    await first.veto(TASK, 0, 0)
    with pytest.raises(AlreadyVetoed):
        await second.veto(TASK, 0, 0)
    with pytest.raises(ProgramRefused) as caught:
        await thief.anchor_commitment(TASK, 0, b"d" * 32, attempt=1)
    assert caught.value.error is ProgramError.BARRED
    await second.anchor_commitment(TASK, 0, b"d" * 32, attempt=1)
    await first.anchor_list(TASK, 0, b"m" * 32, KOII, 0, attempt=1)
    held = (await other.task_state(TASK)).rounds[0]
    assert (held.attempt, held.list_root, held.rejected) == (1, b"m" * 32, False)


class Racing(PagedRpc):
    """Lets somebody else's record land just before each of the first `times` transactions."""

    def __init__(self, world: MemoWorld, post: Callable[[MemoChain, int], object], times: int) -> None:
        super().__init__(world.chain)
        self.world, self.post, self.times, self.raced = world, post, times, 0

    async def send_and_confirm(self, wire: bytes, **options: object) -> ConfirmedTransaction:
        if self.raced < self.times:
            history = await self.world.nodes[3]._history(TASK)
            self.post(history.chain, self.raced)
            self.raced += 1
        return await super().send_and_confirm(wire, **options)  # type: ignore[arg-type]


async def test_the_loser_of_a_race_for_one_place_is_told(world: MemoWorld) -> None:
    world.at(CLOCK.delay(0).opens)
    rpc = Racing(world, lambda chain, _: world.post(1, commitment(0, chain.link)), 1)
    with pytest.raises(AlreadyAnchored):
        await world.node(0, rpc).anchor_commitment(TASK, 0, b"d" * 32)
    assert len(rpc.sent) == 1
    assert (await world.nodes[3].task_state(TASK)).rounds[0].commitment == b"c" * 32


async def test_the_loser_of_a_race_for_the_head_signs_anew(world: MemoWorld) -> None:
    """While a rejected round is committed to anew, so is the next round for the first time: one comes first."""
    world.at(CLOCK.delay(0).opens)
    await world.nodes[3].anchor_commitment(TASK, 0, b"c" * 32)
    world.at(CLOCK.distribution_audit(0).opens)
    for node in world.nodes[:2]:
        await node.veto(TASK, 0, 0)
    slot = CLOCK.commitment(1).opens
    assert slot in CLOCK.commitment(0, 1)
    world.at(slot)
    rpc = Racing(world, lambda chain, _: world.post(1, commitment(1, chain.link)), 1)
    receipt = await world.node(0, rpc).anchor_commitment(TASK, 0, b"d" * 32, attempt=1)
    assert len(rpc.sent) == 2
    state = await world.nodes[3].task_state(TASK)
    assert (state.rounds[0].commitment, state.rounds[1].commitment) == (b"d" * 32, b"c" * 32)
    judged = await world.nodes[3].judged(TASK)
    assert [one.refusal for one in judged[-3:]] == [None, LinkFault.STALE, None]
    assert judged[-1].entry.signature == receipt.signature


async def test_a_flood_ends_in_an_error(world: MemoWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    world.at(CLOCK.delay(0).opens)

    class NewBlocks(PagedRpc):
        async def send_and_confirm(self, wire: bytes, **options: object) -> ConfirmedTransaction:
            landed = await super().send_and_confirm(wire, **options)  # type: ignore[arg-type]
            self.chain.svm.expire_blockhash()
            return landed

    rpc = NewBlocks(world.chain)
    node = world.node(1, rpc)
    monkeypatch.setattr(MemoChain, "_link_fault", lambda *_: LinkFault.STALE)
    with pytest.raises(OvertakenError):
        await node.anchor_commitment(TASK, 0, b"c" * 32)
    assert len(rpc.sent) == LINK_ATTEMPTS


async def test_a_node_that_never_lists_what_landed(
    world: MemoWorld, monkeypatch: pytest.MonkeyPatch, autojump_clock: object
) -> None:
    world.at(CLOCK.delay(0).opens)
    node = world.node(1)

    async def nothing(*_: object, **__: object) -> tuple[object, ...]:
        return ()

    monkeypatch.setattr(world.rpc, "get_signatures_for_address", nothing)
    with pytest.raises(HistoryIncomplete, match="does not list it"):
        await node.anchor_commitment(TASK, 0, b"c" * 32)


Call = Callable[[MemoSettlement], Awaitable[object]]
MONEY: dict[str, Call] = {
    "fund": lambda node: node.fund(TASK, KOII),
    "stake": lambda node: node.stake(TASK, KOII, b"b" * 32),
    "settle": lambda node: node.settle(TASK, 0, Leaf(b"s" * 32, 1, 0), Proof((), 0), b"b" * 32),
}


@pytest.mark.parametrize("call", MONEY.values(), ids=list(MONEY))
async def test_money_is_refused_and_says_why(world: MemoWorld, call: Call) -> None:
    with pytest.raises(NotCarried, match=r"memo carrier cannot .* Memos hold no Roe"):
        await call(world.nodes[0])
    assert world.rpc.sent == []


async def test_rounds_beyond_the_record_are_refused(world: MemoWorld) -> None:
    with pytest.raises(NotCarried, match="4294967295"):
        await world.nodes[0].anchor_commitment(TASK, 2**32, b"c" * 32)


async def test_another_task_is_refused(world: MemoWorld) -> None:
    with pytest.raises(OtherGenesis):
        await world.nodes[0].task_state(b"o" * 32)
    with pytest.raises(OtherGenesis):
        await world.nodes[0].veto(b"o" * 32, 0, 0)


async def test_anchoring_needs_the_staking_key_and_a_stake(world: MemoWorld) -> None:
    world.at(CLOCK.delay(0).opens)
    with pytest.raises(ConfigurationError, match="staking key"):
        await MemoSettlement(world.rpc, GENESIS, world.chain.payer).anchor_commitment(TASK, 0, b"c" * 32)
    stranger = MemoSettlement(world.rpc, GENESIS, world.chain.payer, keypair("stranger"))
    with pytest.raises(ProgramRefused) as caught:
        await stranger.anchor_commitment(TASK, 0, b"c" * 32)
    assert caught.value.error is ProgramError.ANCHORER_BELOW_MINIMUM


@pytest.mark.parametrize("err", ["AccountNotFound", {"InstructionError": [1, {"Custom": 1}]}], ids=str)
async def test_a_poor_payer_is_named(world: MemoWorld, monkeypatch: pytest.MonkeyPatch, err: object) -> None:
    async def refuse(wire: bytes, **_: object) -> ConfirmedTransaction:
        raise TransactionFailed(err, (), "s")

    monkeypatch.setattr(world.rpc, "send_and_confirm", refuse)
    world.at(CLOCK.delay(0).opens)
    with pytest.raises(PayerShort):
        await world.nodes[0].anchor_commitment(TASK, 0, b"c" * 32)


async def test_any_other_failure_is_passed_on(world: MemoWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(wire: bytes, **_: object) -> ConfirmedTransaction:
        raise TransactionFailed({"InstructionError": [0, "MissingRequiredSignature"]}, (), "s")

    monkeypatch.setattr(world.rpc, "send_and_confirm", refuse)
    world.at(CLOCK.delay(0).opens)
    with pytest.raises(TransactionFailed, match="MissingRequiredSignature"):
        await world.nodes[0].anchor_commitment(TASK, 0, b"c" * 32)


async def test_the_creator_announces_the_task(world: MemoWorld) -> None:
    creator = MemoSettlement(world.rpc, GENESIS, world.chain.payer)
    created = await creator.create_task(replace(GENESIS.terms, task=bytes(32), creator=bytes(32)), 0)
    assert created.task == TASK
    assert (await world.nodes[0].task_state(TASK)).created_slot == created.receipt.slot == 900
    for terms, nonce in ((replace(GENESIS.terms, name="x"), 0), (GENESIS.terms, 1)):
        with pytest.raises(ConfigurationError, match="cannot be announced"):
            await creator.create_task(terms, nonce)
    with pytest.raises(ConfigurationError, match="cannot be announced"):
        await world.nodes[0].create_task(GENESIS.terms, 0)


async def test_an_expired_blockhash_is_signed_anew(world: MemoWorld) -> None:
    world.at(CLOCK.delay(0).opens)
    world.rpc.expiries = 2
    await world.nodes[0].anchor_commitment(TASK, 0, b"c" * 32)
    assert len(world.rpc.sent) == 3
    assert await world.nodes[0].balance(address(staker(0))) == 0
