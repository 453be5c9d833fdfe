"""Reading memos back from a node: pages of any size, spam, and a node that hides, changes or reorders transactions."""

from __future__ import annotations

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from solders.instruction import Instruction
from solders.pubkey import Pubkey
from solders.system_program import TransferParams, transfer

from koii_p2p.limits import Limits
from koii_p2p.settlement.memo.reader import HistoryIncomplete, MemoReader
from koii_p2p.settlement.memo.records import MEMO_PROGRAM, instructions
from koii_p2p.settlement.memo.settlement import MemoSettlement
from koii_p2p.settlement.refusals import ProgramError
from koii_p2p.settlement.rpc import RpcError, RpcProtocolError, transaction_signature

from ..virtual_chain import KOII, address, keypair
from ..virtual_rpc import Lie
from .memo_world import CLOCK, GENESIS, TASK, MemoWorld, PagedRpc, commitment, staker

STRANGER = keypair("stranger")


def _spam(world: MemoWorld, text: bytes) -> str:
    """A memo of nobody in a transaction that names the task."""
    _, reference = instructions(commitment(0, bytes(16)), address(STRANGER), address(STRANGER), TASK)
    memo = Instruction(Pubkey(MEMO_PROGRAM), text, [])
    return world.post_instructions([memo, reference], [STRANGER])


async def _play(world: MemoWorld, rounds: int) -> list[str]:
    """Honest rounds through the carrier, with spam and conflicts around them; returns the honest transactions."""
    world.chain.rich("stranger")
    honest = []
    for round in range(rounds):
        committer, lister = world.nodes[round % 4], world.nodes[(round + 1) % 4]
        world.at(CLOCK.delay(round).opens)
        _spam(world, b"spam %d" % round)
        link = (await committer._history(TASK)).chain.link
        world.post(STRANGER, commitment(round, bytes(16)), payer=STRANGER)
        honest.append((await committer.anchor_commitment(TASK, round, b"%032d" % round)).signature)
        rival = commitment(round, link, digest=b"conflict".ljust(32))
        world.post((round + 2) % 4, rival)
        world.at(CLOCK.distribution(round).opens)
        honest.append(
            (await lister.anchor_list(TASK, round, b"%032d" % round, KOII * (round + 1), 0)).signature
        )
        _spam(world, commitment(round, bytes(16)).encode())
    return honest


@pytest.fixture
async def world() -> MemoWorld:
    world = MemoWorld()
    await _play(world, 3)
    return world


async def test_the_chain_is_read_out_of_the_spam(world: MemoWorld) -> None:
    state = await world.node(3).task_state(TASK)
    assert state.anchors == 6
    assert {number: one.commitment for number, one in state.rounds.items()} == {
        n: b"%032d" % n for n in range(3)
    }
    assert state.last_list is not None
    assert (state.last_list.round, state.last_list.reward_total) == (2, 3 * KOII)
    reasons = {one.refusal for one in await world.node(3).judged(TASK)}
    assert reasons == {None, ProgramError.ANCHORER_BELOW_MINIMUM, ProgramError.COMMITMENT_EXISTS}


@pytest.mark.parametrize("page", [1, 2, 7, 17, 18, 19, 1000])
async def test_any_page_limit_gives_the_same(world: MemoWorld, page: int) -> None:
    expected = await world.node(3).task_state(TASK)
    world.rpc.page_limit = page
    assert await world.node(3).task_state(TASK) == expected
    assert await world.nodes[0].task_state(TASK) == expected


async def test_a_node_without_memos_in_its_lists_gives_the_same(world: MemoWorld) -> None:
    expected = await world.node(3).task_state(TASK)
    world.rpc.memos = False
    assert await world.node(3).task_state(TASK) == expected


async def test_only_what_is_new_is_fetched(world: MemoWorld) -> None:
    node = world.node(3)
    await node.task_state(TASK)
    first = len(world.rpc.fetched)
    await node.task_state(TASK)
    assert len(world.rpc.fetched) == first
    world.at(CLOCK.delay(3).opens)
    sent = await world.nodes[0].anchor_commitment(TASK, 3, b"d" * 32)
    world.rpc.fetched.clear()
    world.rpc.pages = 0
    assert (await node.task_state(TASK)).rounds[3].commitment == b"d" * 32
    assert world.rpc.fetched == [sent.signature]
    assert world.rpc.pages == 2


async def test_plain_spam_is_not_fetched(world: MemoWorld) -> None:
    name = _spam(world, b"nothing")
    await world.node(3).task_state(TASK)
    assert name not in world.rpc.fetched


async def test_history_shows_everything(world: MemoWorld) -> None:
    entries = await world.node(3).history(TASK)
    assert len(entries) == len([one for one in world.chain.landed if TASK in one.keys])
    assert len([one for one in entries if one.err is None and one.instruction is not None]) == 6
    assert len([one for one in entries if one.err == {"Memo": "commitment exists"}]) == 3
    assert len([one for one in entries if one.instruction is None]) == 6
    assert all(
        one.fee == 10_000
        for one in entries
        if one.instruction is not None and one.signer != address(STRANGER)
    )


async def test_failed_transactions_do_not_count(world: MemoWorld) -> None:
    world.at(CLOCK.delay(3).opens)
    chain = (await MemoReader(world.rpc, GENESIS, limit=1000).read()).chain
    wallet = keypair("main wallet 0")
    both = instructions(commitment(3, chain.link), address(staker(0)), address(wallet), TASK)
    params = TransferParams(from_pubkey=wallet.pubkey(), to_pubkey=STRANGER.pubkey(), lamports=10**18)
    name = world.post_instructions([*both, transfer(params)], [wallet, staker(0)], fails=True)
    assert 3 not in (await world.node(3).task_state(TASK)).rounds
    assert name not in world.rpc.fetched
    assert (await world.node(3).history(TASK))[-1].err is not None


async def test_a_history_cut_off_at_its_beginning_is_noticed() -> None:
    world = MemoWorld()
    await _play(world, 5)
    first = [transaction_signature(one.wire) for one in world.chain.landed if TASK in one.keys][:7]
    world.rpc.hidden = set(first)
    with pytest.raises(HistoryIncomplete, match="does not show"):
        await world.node(3).task_state(TASK)


async def test_one_liar_cannot_stop_the_reader(world: MemoWorld) -> None:
    expected = await world.node(3).task_state(TASK)
    world.at(CLOCK.delay(3).opens)
    world.post(1, commitment(3, b"?" * 16))
    state = await world.node(3).task_state(TASK)
    assert (state.head, state.rounds) == (expected.head, expected.rounds)


async def test_a_listed_transaction_that_the_node_lacks(world: MemoWorld) -> None:
    world.rpc.lies[transaction_signature(world.chain.landed[-2].wire)] = Lie(None, None)
    with pytest.raises(HistoryIncomplete, match="does not have it"):
        await world.node(3).task_state(TASK)


@pytest.mark.parametrize("change", ["slot", "err", "wire", "garbage"])
async def test_a_changed_transaction_is_refused(world: MemoWorld, change: str) -> None:
    landed = world.chain.landed[-2]
    wire = bytearray(landed.wire)
    wire[-20] ^= 1
    lies = {"slot": landed.slot + 1, "err": "x", "wire": bytes(wire), "garbage": landed.wire[:70]}
    world.rpc.lie(landed, **{"wire" if change == "garbage" else change: lies[change]})
    with pytest.raises(HistoryIncomplete):
        await world.node(3).task_state(TASK)


@pytest.mark.parametrize("error", [-32015, -32603])
async def test_a_transaction_of_a_later_version_stops_nobody(world: MemoWorld, error: int) -> None:
    expected = await world.node(3).task_state(TASK)
    name = _spam(world, commitment(3, bytes(16)).encode())

    class Later(PagedRpc):
        async def get_transaction(self, signature, commitment="confirmed"):  # type: ignore[no-untyped-def]
            if signature == name:
                raise RpcError(error, "unsupported")
            return await super().get_transaction(signature, commitment)

    node = world.node(3, Later(world.chain))
    if error == -32015:
        assert await node.task_state(TASK) == expected
    else:
        with pytest.raises(RpcError):
            await node.task_state(TASK)


async def test_pages_that_repeat_are_refused(world: MemoWorld) -> None:
    class Repeating(PagedRpc):
        async def get_signatures_for_address(self, address, **options):  # type: ignore[no-untyped-def]
            return await super().get_signatures_for_address(address, limit=options["limit"])

    with pytest.raises(RpcProtocolError, match="repeats"):
        await world.node(3, Repeating(world.chain)).task_state(TASK)


async def test_slots_out_of_order_are_refused(world: MemoWorld) -> None:
    class Reversing(PagedRpc):
        async def get_signatures_for_address(self, address, **options):  # type: ignore[no-untyped-def]
            page = await super().get_signatures_for_address(address, limit=1000)
            return page[::-1] if options["before"] is None else ()

    with pytest.raises(RpcProtocolError, match="order of their slots"):
        await world.node(3, Reversing(world.chain)).task_state(TASK)


async def test_more_transactions_than_the_limit_are_refused_not_cut(world: MemoWorld) -> None:
    node = MemoSettlement(
        world.rpc, GENESIS, keypair("main wallet 0"), staker(0), limits=Limits(history_transactions=9)
    )
    with pytest.raises(HistoryIncomplete, match="More than 9 transactions"):
        await node.task_state(TASK)


async def test_what_a_fork_took_back_is_forgotten(world: MemoWorld) -> None:
    world.at(CLOCK.delay(3).opens)
    node = world.node(3)
    await world.nodes[0].anchor_commitment(TASK, 3, b"d" * 32)
    assert 3 in (await node.task_state(TASK)).rounds
    del world.chain.landed[-1]
    assert 3 not in (await node.task_state(TASK)).rounds


@settings(max_examples=25)
@given(pages=st.integers(1, 40), missing=st.sets(st.integers(0, 29), max_size=8))
async def test_missing_transactions_give_a_prefix_or_an_error(pages: int, missing: set[int]) -> None:
    """Whatever a node leaves out of its list: the rounds read are the first ones, or the reader says so."""
    world, names = PLAYED
    rpc = PagedRpc(world.chain)
    rpc.page_limit = pages
    rpc.hidden = {name for place, name in enumerate(names) if place in missing}
    try:
        state = await world.node(3, rpc).task_state(TASK)
    except HistoryIncomplete:
        assert missing
        return
    assert [state.rounds[number].commitment for number in sorted(state.rounds)] == [
        b"%032d" % number for number in range(len(state.rounds))
    ] or missing, "a hidden record may let a conflict into its place, and nothing behind it"
    if not missing & HONEST_PLACES:
        assert len(state.rounds) == 5


def _played() -> tuple[MemoWorld, list[str], set[int]]:
    world = MemoWorld()
    honest = trio.run(_play, world, 5)
    names = [transaction_signature(one.wire) for one in world.chain.landed if TASK in one.keys]
    return world, names, {names.index(name) for name in honest}


_WORLD, _NAMES, HONEST_PLACES = _played()
PLAYED = (_WORLD, _NAMES)
