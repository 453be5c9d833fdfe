"""The program's client: what it signs, what it reads back, and the errors that callers see."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest
from solders.keypair import Keypair
from solders.transaction import Transaction

from koii_p2p.errors import ChainError, ConfigurationError
from koii_p2p.records.keys import SecretKey
from koii_p2p.rounds import merkle
from koii_p2p.rounds.distribution import Leaf
from koii_p2p.settlement import instructions as ix
from koii_p2p.settlement.history import check_history
from koii_p2p.settlement.interface import Settlement
from koii_p2p.settlement.layouts import unlock_slot
from koii_p2p.settlement.program import EMPTY_KEY, ProgramSettlement
from koii_p2p.settlement.refusals import (
    AlreadyAnchored,
    AlreadyVetoed,
    ClosedTask,
    DamagedAccount,
    PayerShort,
    ProgramError,
    ProgramRefused,
    UnknownTask,
)
from koii_p2p.settlement.rpc import Account, TransactionExpired, TransactionFailed
from koii_p2p.settlement.sending import SIGNING_ATTEMPTS

from .virtual_chain import KOII, TaskChain, VirtualChain, address, default_terms, keypair
from .virtual_rpc import VirtualRpc


@pytest.fixture
def chain() -> TaskChain:
    return TaskChain()


@pytest.fixture
def rpc(chain: TaskChain) -> VirtualRpc:
    return VirtualRpc(chain)


def client(rpc: VirtualRpc, chain: TaskChain, staker: int = 0) -> ProgramSettlement:
    return ProgramSettlement(rpc, chain.payer, chain.stakers[staker])


def secret(key: Keypair) -> SecretKey:
    return SecretKey.from_solana_bytes(bytes(key))


async def test_a_round_from_creation_to_settlement() -> None:
    chain = VirtualChain()
    rpc = VirtualRpc(chain)
    payer, staker = secret(chain.payer), SecretKey.from_seed(b"s" * 32)
    settlement: Settlement = ProgramSettlement(rpc, payer, staker)
    beneficiary = keypair("beneficiary")
    terms = replace(default_terms(payer.public_key), task=EMPTY_KEY, creator=EMPTY_KEY)
    created = await settlement.create_task(terms, 7)
    assert created.task == ix.task_address(payer.public_key, 7)
    assert created.receipt.fee == 5000
    await settlement.fund(created.task, 10 * KOII)
    receipt = await settlement.stake(created.task, 2 * KOII, address(beneficiary))
    assert receipt.fee == 10_000  # two signatures
    clock = (await settlement.task_state(created.task)).terms.clock
    chain.at(clock.commitment(0).opens)
    receipt = await settlement.anchor_commitment(created.task, 0, b"c" * 32)
    assert receipt.slot == chain.slot
    leaf = Leaf(staker.public_key, KOII, 0)
    chain.at(clock.distribution(0).opens)
    await settlement.anchor_list(created.task, 0, merkle.root([leaf.encode()]), KOII, 0)
    chain.at(clock.settles_at(0))
    proof = merkle.prove([leaf.encode()], 0)
    await settlement.settle(created.task, 0, leaf, proof, address(beneficiary))
    assert await settlement.balance(address(beneficiary)) == KOII
    state = await settlement.task_state(created.task)
    assert (state.vault, state.paid) == (9 * KOII, KOII)
    assert state.rounds[0].commitment == b"c" * 32
    (stake,) = await settlement.stakes(created.task)
    assert (stake.staker, stake.reward_paid) == (staker.public_key, KOII)
    assert check_history(await settlement.history(created.task), state) == ()


async def test_reads(rpc: VirtualRpc, chain: TaskChain) -> None:
    settlement = client(rpc, chain)
    assert await settlement.genesis() == await settlement.genesis() == b"g" * 32
    chain.at(123)
    assert await settlement.slot() == 123
    assert await settlement.blockhash_after(5) == (6, b"b" * 32)
    assert await settlement.blockhash_after(123) is None
    assert await settlement.balance(address(keypair("nobody"))) == 0
    assert await settlement.task_state(chain.task) == chain.state()
    stakes = await settlement.stake_accounts(chain.task)
    assert [one.history.staker for one in stakes] == sorted(address(one) for one in chain.stakers)
    assert {one.amount for one in stakes} == {5 * KOII}
    assert (settlement.payer, settlement.staker) == (address(chain.payer), address(chain.stakers[0]))


async def test_the_second_anchor_learns_that_it_was_second(rpc: VirtualRpc, chain: TaskChain) -> None:
    digest = hashlib.sha256(b"digest").digest()
    chain.at(chain.clock.commitment(0).opens)
    await client(rpc, chain).anchor_commitment(chain.task, 0, digest)
    with pytest.raises(AlreadyAnchored) as refusal:
        await client(rpc, chain, 1).anchor_commitment(chain.task, 0, digest)
    assert refusal.value.error is ProgramError.COMMITMENT_EXISTS
    chain.at(chain.clock.distribution(0).opens)
    await client(rpc, chain).anchor_list(chain.task, 0, digest, 0, 0)
    with pytest.raises(AlreadyAnchored):
        await client(rpc, chain, 1).anchor_list(chain.task, 0, digest, 0, 0)


async def test_a_veto_learns_when_nothing_is_left_to_do(rpc: VirtualRpc, chain: TaskChain) -> None:
    nodes = [client(rpc, chain, index) for index in range(3)]
    chain.commit(0)
    chain.anchor_list(0, chain.earn([KOII, KOII, KOII]))
    with pytest.raises(ProgramRefused) as early:
        await nodes[0].veto(chain.task, 0, 0)
    assert early.value.error is ProgramError.VETO_EARLY
    assert not isinstance(early.value, AlreadyVetoed)
    assert "veto the list of round 0" in early.value.what
    chain.at(chain.clock.distribution_audit(0).opens)
    receipt = await nodes[0].veto(chain.task, 0, 0)
    assert (receipt.slot, receipt.fee) == (chain.slot, 10_000)  # two signatures
    with pytest.raises(AlreadyVetoed) as again:
        await nodes[0].veto(chain.task, 0, 0)
    assert again.value.error is ProgramError.ALREADY_VETOED
    await nodes[1].veto(chain.task, 0, 0)
    with pytest.raises(AlreadyVetoed) as late:
        await nodes[2].veto(chain.task, 0, 0)
    assert late.value.error is ProgramError.ALREADY_REJECTED

    await nodes[2].anchor_commitment(chain.task, 0, b"c" * 32, attempt=1)
    with pytest.raises(AlreadyAnchored):
        await nodes[2].anchor_commitment(chain.task, 0, b"d" * 32, attempt=1)
    with pytest.raises(ProgramRefused) as barred:
        await nodes[0].anchor_list(chain.task, 0, b"l" * 32, KOII, 0, attempt=1)
    assert barred.value.error is ProgramError.BARRED
    assert "anchor the list of round 0, attempt 1" in barred.value.what
    await nodes[2].anchor_list(chain.task, 0, b"l" * 32, KOII, 0, attempt=1)
    state = await nodes[0].task_state(chain.task)
    assert state.last_list is not None
    assert (state.last_list.root, state.last_list.attempt) == (b"l" * 32, 1)
    assert state.rounds[0].commitment == b"c" * 32
    assert check_history(await nodes[0].history(chain.task), state) == ()


async def test_a_stake_leaves_and_the_task_ends_through_the_client(rpc: VirtualRpc, chain: TaskChain) -> None:
    nodes = [client(rpc, chain, index) for index in range(3)]
    wallets = [address(one) for one in chain.beneficiaries]
    chain.run_round(0, [KOII, KOII, KOII])
    await nodes[2].unstake(chain.task)
    with pytest.raises(ProgramRefused) as early:
        await nodes[2].withdraw(chain.task, nodes[2].staker or b"", wallets[2])
    assert early.value.error is ProgramError.STILL_LOCKED
    assert "withdraw the stake" in early.value.what
    chain.run_round(1, [0, 0, 0])
    leaves = chain.run_round(2, [0, 0, 0], [0, 0, KOII])
    (asked,) = [one.unstake_slot for one in await nodes[2].stakes(chain.task) if one.unstake_slot]
    chain.at(unlock_slot(await nodes[2].task_state(chain.task), asked))
    place = next(place for place, leaf in enumerate(leaves) if leaf.staker == nodes[2].staker)
    proof = merkle.prove([leaf.encode() for leaf in leaves], place)
    await nodes[1].withdraw(chain.task, leaves[place].staker, wallets[2], 2, leaves[place], proof)
    assert await nodes[2].balance(wallets[2]) == 4 * KOII
    assert check_history(await nodes[0].history(chain.task), await nodes[0].task_state(chain.task)) == ()

    await nodes[0].update(chain.task, "bafy", None)
    with pytest.raises(ConfigurationError, match="at most 64 bytes"):
        await nodes[0].update(chain.task, "x" * 65)
    await nodes[0].set_active(chain.task, False)
    state = await nodes[0].task_state(chain.task)
    assert (state.active, state.metadata, state.withdrawn, state.slashed) == (False, "bafy", 4 * KOII, KOII)
    with pytest.raises(ProgramRefused) as inactive:
        await nodes[2].stake(chain.task, 5 * KOII, wallets[2])
    assert inactive.value.error is ProgramError.TASK_INACTIVE
    for node in nodes[:2]:
        await node.unstake(chain.task)
    chain.at(chain.clock.settles_at(chain.clock.period(chain.slot), 4))
    for index, leaf in enumerate(leaves):
        proof = merkle.prove([one.encode() for one in leaves], index)
        wallet = next(
            one.beneficiary for one in await nodes[0].stakes(chain.task) if one.staker == leaf.staker
        )
        await nodes[0].settle(chain.task, 2, leaf, proof, wallet)
        for node in nodes[:2]:
            if node.staker == leaf.staker:
                await node.withdraw(chain.task, leaf.staker, wallet, 2, leaf, proof)
    await nodes[0].close(chain.task)
    with pytest.raises(ClosedTask, match="was closed in slot") as closed:
        await nodes[0].task_state(chain.task)
    assert closed.value.state.closed_slot == chain.slot
    for index, node in enumerate(nodes):
        assert node.staker is not None
        await nodes[0].close_stake(chain.task, node.staker, wallets[index])
    assert await nodes[0].stake_accounts(chain.task) == ()


async def test_refusals_name_their_reason(rpc: VirtualRpc, chain: TaskChain) -> None:
    settlement = client(rpc, chain)
    with pytest.raises(ProgramRefused) as refusal:
        await settlement.anchor_commitment(chain.task, 0, bytes(32))
    assert refusal.value.error is ProgramError.COMMITMENT_EARLY
    assert not isinstance(refusal.value, AlreadyAnchored)
    assert "anchor the commitment of round 0" in refusal.value.what
    assert refusal.value.why == ProgramError.COMMITMENT_EARLY.meaning
    assert refusal.value.exit_code == 5
    assert "`koii-p2p task show`" in refusal.value.remedy


async def test_a_wallet_without_money_is_told_so(rpc: VirtualRpc, chain: TaskChain) -> None:
    poor = chain.rich("poor", KOII)
    with pytest.raises(PayerShort):
        await ProgramSettlement(rpc, poor).fund(chain.task, 5 * KOII)


async def test_other_failures_stay_what_they_are(rpc: VirtualRpc, chain: TaskChain) -> None:
    rpc_failure = TransactionFailed({"InstructionError": [0, {"Custom": 1043}]}, (), "signature")

    async def fail(*_: object, **__: object) -> None:
        raise rpc_failure

    rpc.send_and_confirm = fail  # type: ignore[method-assign, assignment]
    with pytest.raises(TransactionFailed) as failure:  # the code is not from the program's instruction
        await client(rpc, chain).fund(chain.task, 1)
    assert failure.value is rpc_failure


async def test_an_expired_transaction_is_signed_anew(rpc: VirtualRpc, chain: TaskChain) -> None:
    rpc.expiries = SIGNING_ATTEMPTS - 1
    await client(rpc, chain).fund(chain.task, KOII)
    assert chain.state().funded == 101 * KOII
    rpc.expiries = SIGNING_ATTEMPTS
    with pytest.raises(TransactionExpired):
        await client(rpc, chain).fund(chain.task, KOII)


async def test_equal_payments_are_different_transactions(rpc: VirtualRpc, chain: TaskChain) -> None:
    settlement = client(rpc, chain)
    for _ in range(3):
        await settlement.fund(chain.task, KOII)
    assert len(set(rpc.sent)) == 3
    assert chain.state().funded == 103 * KOII


async def test_payer_pays_and_staker_signs(rpc: VirtualRpc, chain: TaskChain) -> None:
    chain.at(chain.clock.commitment(0).opens)
    await client(rpc, chain, 1).anchor_commitment(chain.task, 0, bytes(32))
    message = Transaction.from_bytes(rpc.sent[-1]).message
    signers = message.account_keys[: message.header.num_required_signatures]
    assert [bytes(one) for one in signers] == [address(chain.payer), address(chain.stakers[1])]
    assert len(rpc.sent[-1]) <= 1232


async def test_one_key_may_be_both(rpc: VirtualRpc, chain: TaskChain) -> None:
    key = chain.rich("both")
    settlement = ProgramSettlement(rpc, key, key)
    receipt = await settlement.stake(chain.task, 2 * KOII, address(key))
    assert receipt.fee == 5000


async def test_without_a_staking_key_nothing_is_staked_or_anchored(rpc: VirtualRpc, chain: TaskChain) -> None:
    settlement = ProgramSettlement(rpc, chain.payer)
    assert settlement.staker is None
    with pytest.raises(ConfigurationError):
        await settlement.stake(chain.task, 2 * KOII, bytes(32))
    with pytest.raises(ConfigurationError):
        await settlement.anchor_commitment(chain.task, 0, bytes(32))
    with pytest.raises(ConfigurationError):
        await settlement.anchor_list(chain.task, 0, bytes(32), 0, 0)
    with pytest.raises(ConfigurationError):
        await settlement.veto(chain.task, 0, 0)


async def test_terms_of_another_creator_are_not_created(rpc: VirtualRpc, chain: TaskChain) -> None:
    settlement = client(rpc, chain)
    with pytest.raises(ConfigurationError):
        await settlement.create_task(default_terms(address(keypair("other")), 9), 9)
    with pytest.raises(ConfigurationError):  # the address of another nonce
        await settlement.create_task(default_terms(address(chain.payer), 9), 10)
    with pytest.raises(ProgramRefused) as refusal:
        await settlement.create_task(chain.terms, 7)
    assert refusal.value.error is ProgramError.ALREADY_EXISTS


async def test_a_slash_lands_though_the_reward_cannot(rpc: VirtualRpc, chain: TaskChain) -> None:
    leaves = chain.run_round(0, [0, 5, 5], [0, 0, KOII])
    settlement = client(rpc, chain)

    async def settle(index: int) -> None:
        key = address(chain.stakers[index])
        place = next(number for number, leaf in enumerate(leaves) if leaf.staker == key)
        proof = merkle.prove([leaf.encode() for leaf in leaves], place)
        await settlement.settle(chain.task, 0, leaves[place], proof, address(chain.beneficiaries[index]))

    await settle(2)
    assert (chain.stake_of(2).slash_total, chain.stake_of(2).reward_total) == (KOII, 0)
    for index in (1, 2):  # no slash is due: the refusal is the one that matters
        with pytest.raises(ProgramRefused) as refusal:
            await settle(index)
        assert refusal.value.error is ProgramError.BENEFICIARY_BELOW_RENT


async def test_what_is_no_task_is_unknown(rpc: VirtualRpc, chain: TaskChain) -> None:
    settlement = client(rpc, chain)
    for nothing in (bytes(31) + b"\1", address(chain.payer)):
        with pytest.raises(UnknownTask) as caught:
            await settlement.task_state(nothing)
        assert all(option in caught.value.remedy for option in ("--url", "--cluster"))
    stake = chain.stake_address(0)  # an account of the program, but no task
    rpc.accounts[ix.vault_address(stake)] = rpc._account(chain.vault)
    with pytest.raises(DamagedAccount, match="5120 bytes"):
        await settlement.task_state(stake)


async def test_a_lying_node_is_noticed(rpc: VirtualRpc, chain: TaskChain) -> None:
    settlement = client(rpc, chain)
    vault = rpc._account(chain.vault)
    assert vault is not None
    rpc.accounts[chain.vault] = None
    with pytest.raises(DamagedAccount, match="no vault"):
        await settlement.task_state(chain.task)
    rpc.accounts.clear()
    task = rpc._account(chain.task)
    assert task is not None
    elsewhere = address(keypair("elsewhere"))
    rpc.accounts = {elsewhere: task, ix.vault_address(elsewhere): vault}
    with pytest.raises(DamagedAccount, match="creator and nonce"):
        await settlement.task_state(elsewhere)
    stake = rpc._account(chain.stake_address(0))
    assert stake is not None
    rpc.accounts = {elsewhere: stake}
    with pytest.raises(DamagedAccount, match="task and staker"):
        await settlement.stakes(chain.task)
    broken = stake.data[:8] + b"\x09" + stake.data[9:]
    rpc.accounts = {elsewhere: Account(1, stake.owner, broken, False)}
    with pytest.raises(ChainError, match="version 9"):
        await settlement.stakes(chain.task)
