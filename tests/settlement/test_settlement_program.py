"""What the settlement program does when all is well: exact amounts, rings, checkpoints, idempotence, rent."""

from __future__ import annotations

from dataclasses import replace

import pytest
from solders.instruction import Instruction
from solders.system_program import TransferParams, transfer

from koii_p2p.rounds import merkle
from koii_p2p.rounds.distribution import Leaf
from koii_p2p.rounds.roster import Checkpoint, roster_at
from koii_p2p.rounds.terms import MAX_ROUND_TIME, MAX_STARTING_SLOT, U64_MAX
from koii_p2p.settlement import instructions as ix
from koii_p2p.settlement.decoding import decode_instruction
from koii_p2p.settlement.history import EMPTY_HEAD, Anchor, next_head
from koii_p2p.settlement.layouts import CHECKPOINT_RING, ROUND_RING, STAKE_LAYOUT, TASK_LAYOUT, VAULT_LAYOUT
from koii_p2p.settlement.refusals import ProgramError

from .virtual_chain import (
    KOII,
    TaskChain,
    VirtualChain,
    address,
    default_terms,
    keypair,
    use_every_instruction,
)

SLASH = 5 * KOII * 7000 // 10_000


@pytest.fixture
def chain() -> TaskChain:
    return TaskChain()


def test_create_task_keeps_the_terms_and_costs_only_rent() -> None:
    chain = VirtualChain(slot=77)
    terms = default_terms(address(chain.payer))
    before = chain.balance(address(chain.payer))
    result = chain.ok(ix.create_task(terms, 7))
    rent = chain.rent(TASK_LAYOUT.size) + chain.rent(VAULT_LAYOUT.size)
    assert before - chain.balance(address(chain.payer)) == rent + result.fee
    task = TaskChain.state(_view(chain, terms.task))
    assert task.terms == terms
    assert (task.nonce, task.created_slot, task.vault, task.anchors) == (7, 77, 0, 0)
    assert (task.head, task.rounds, task.last_list, task.settled_list) == (EMPTY_HEAD, {}, None, None)


def _view(chain: VirtualChain, task: bytes) -> TaskChain:
    """A task of a bare chain, to read its state through."""
    view = object.__new__(TaskChain)
    view.svm, view.task, view.vault = chain.svm, task, ix.vault_address(task)
    return view


def test_one_creator_makes_many_tasks() -> None:
    chain = VirtualChain()
    for nonce in (0, 1, U64_MAX):
        chain.ok(ix.create_task(default_terms(address(chain.payer), nonce), nonce))
    assert len({ix.task_address(address(chain.payer), nonce) for nonce in (0, 1, U64_MAX)}) == 3


@pytest.mark.parametrize(
    "bounds",
    [
        {"starting_slot": MAX_STARTING_SLOT},
        {"round_time": MAX_ROUND_TIME, "submission_window": MAX_ROUND_TIME - 6, "audit_window": 6},
        {"round_time": 7, "submission_window": 1, "audit_window": 6, "minimum_stake": 1},
        {"slash_basis_points": 10_000, "allowed_failed_distributions": 15},
        {"slash_basis_points": 0, "allowed_failed_distributions": 0},
        {"bounty_per_round": U64_MAX, "minimum_stake": U64_MAX, "program": ""},
    ],
)
def test_terms_may_be_at_their_bounds(bounds: dict[str, int]) -> None:
    chain = VirtualChain()
    terms = replace(default_terms(address(chain.payer)), **bounds)  # type: ignore[arg-type]
    chain.ok(ix.create_task(terms, 7))
    assert TaskChain.state(_view(chain, terms.task)).terms == terms


def test_a_staker_with_exactly_the_minimum_may_anchor() -> None:
    chain = TaskChain(stakers=0)
    chain.stakers, chain.beneficiaries = [keypair("small")], [keypair("small")]
    chain.add_stake(0, chain.terms.minimum_stake)
    chain.commit(0)
    assert chain.state().rounds[0].commitment_by == address(chain.stakers[0])


def test_the_vault_pays_out_its_last_roe() -> None:
    chain = TaskChain(funds=3 * KOII)
    leaves = chain.run_round(0, [3 * KOII - 890_880, 890_880, 0])
    for index in range(2):
        chain.ok(chain.settle_instruction(0, leaves, index))
    assert chain.state().vault == 0
    assert chain.balance(address(chain.beneficiaries[1])) == chain.rent(0) == 890_880


def test_fund_adds_up_and_anyone_may(chain: TaskChain) -> None:
    donor = chain.rich("donor")
    chain.ok(ix.fund(chain.task, address(donor), 5 * KOII), payer=donor)
    chain.ok(ix.fund(chain.task, address(chain.payer), 1))
    assert chain.state().funded == chain.state().vault == 105 * KOII + 1


def test_a_plain_transfer_to_the_vault_can_be_paid_out_too(chain: TaskChain) -> None:
    from solders.pubkey import Pubkey

    chain.send(
        transfer(
            TransferParams(from_pubkey=chain.payer.pubkey(), to_pubkey=Pubkey(chain.vault), lamports=KOII)
        )
    )
    assert (chain.state().vault, chain.state().funded) == (101 * KOII, 100 * KOII)


def test_stake_is_held_by_its_account(chain: TaskChain) -> None:
    stake = chain.stake_of(0)
    assert stake.amount == 5 * KOII
    assert chain.balance(chain.stake_address(0)) == 5 * KOII + chain.rent(STAKE_LAYOUT.size)
    assert stake.task == chain.task
    assert stake.history.staker == address(chain.stakers[0])
    assert stake.history.beneficiary == address(chain.beneficiaries[0])
    assert stake.history.unstake_slot is None
    assert (chain.state().total_stake, chain.state().stakers) == (15 * KOII, 3)


def test_the_staking_key_may_pay_for_itself() -> None:
    chain = TaskChain(stakers=0)
    staker = chain.rich("self-paying")
    key = address(staker)
    chain.ok(ix.stake(chain.task, key, key, key, 2 * KOII), payer=staker)
    assert chain.state().total_stake == 2 * KOII


def test_top_up_adds_one_checkpoint_per_period(chain: TaskChain) -> None:
    chain.at(500)
    chain.add_stake(0, KOII)  # before the first round: still the same interval as the first stake
    chain.add_stake(0, KOII)
    assert chain.stake_of(0).history.checkpoints == (Checkpoint(500, 7 * KOII, 0),)
    chain.at(1000)
    chain.add_stake(0, 1)
    chain.at(1099)
    chain.add_stake(0, 1)
    chain.at(1100)
    chain.add_stake(0, 1)
    assert chain.stake_of(0).history.checkpoints == (
        Checkpoint(500, 7 * KOII, 0),
        Checkpoint(1099, 7 * KOII + 2, 0),
        Checkpoint(1100, 7 * KOII + 3, 0),
    )
    assert chain.stake_of(0).amount == 7 * KOII + 3
    assert chain.state().stakers == 3


def test_nobody_can_push_a_roster_out_of_the_checkpoints(chain: TaskChain) -> None:
    def roster(round: int) -> int:
        history = [chain.stake_of(0).history]
        return roster_at(history, round, chain.terms).total_stake

    chain.at(1250)
    assert roster(2) == 5 * KOII
    for _ in range(3 * CHECKPOINT_RING):
        chain.add_stake(0, 1)
    assert roster(2) == 5 * KOII
    assert roster(3) == 5 * KOII + 3 * CHECKPOINT_RING


def test_the_checkpoint_ring_keeps_the_newest_periods(chain: TaskChain) -> None:
    for period in range(12):
        chain.at(1000 + 100 * period)
        chain.add_stake(0, 1)
    kept = chain.stake_of(0).history.checkpoints
    assert [point.slot for point in kept] == [1000 + 100 * period for period in range(4, 12)]
    assert kept[-1].stake == 5 * KOII + 12


def test_a_round_pays_and_slashes_to_the_roe(chain: TaskChain) -> None:
    leaves = chain.run_round(0, [KOII, KOII + 1, 0], [0, 0, SLASH])
    for index in (0, 1, 2):
        chain.ok(chain.settle_instruction(0, leaves, index))
    paid = [chain.balance(address(one)) for one in chain.beneficiaries]
    assert paid == [KOII, KOII + 1, 0]
    assert SLASH == 3_500_000_000
    assert [chain.stake_of(index).amount for index in range(3)] == [5 * KOII, 5 * KOII, 5 * KOII - SLASH]
    assert chain.balance(chain.stake_address(2)) == 5 * KOII - SLASH + chain.rent(STAKE_LAYOUT.size)
    state = chain.state()
    assert state.vault == 100 * KOII - 2 * KOII - 1 + SLASH
    assert (state.paid, state.slashed, state.forgiven) == (2 * KOII + 1, SLASH, 0)
    assert state.total_stake == 15 * KOII - SLASH
    assert chain.stake_of(2).history.checkpoints[-1] == Checkpoint(chain.slot, 5 * KOII - SLASH, SLASH)
    assert chain.stake_of(0).history.reward_paid == KOII


def test_settling_again_moves_nothing(chain: TaskChain) -> None:
    leaves = chain.run_round(0, [KOII, 0, 0], [0, 0, SLASH])
    for index in (0, 2):
        chain.ok(chain.settle_instruction(0, leaves, index))
        state, stake = chain.state(), chain.stake_of(index)
        balance = chain.balance(address(chain.beneficiaries[index]))
        chain.ok(chain.settle_instruction(0, leaves, index))
        assert (chain.state(), chain.stake_of(index)) == (state, stake)
        assert chain.balance(address(chain.beneficiaries[index])) == balance


def test_a_claim_can_wait_for_years(chain: TaskChain) -> None:
    for round in range(20):
        leaves = chain.run_round(round, [KOII, KOII, KOII])
    chain.ok(chain.settle_instruction(19, leaves, 1))
    assert chain.balance(address(chain.beneficiaries[1])) == 20 * KOII
    assert chain.state().paid == 20 * KOII


def test_leaves_of_an_older_list_are_good_until_a_newer_one_was_settled(chain: TaskChain) -> None:
    first = chain.run_round(0, [KOII, KOII, 0])
    second = chain.run_round(1, [KOII, KOII, 0])
    chain.ok(chain.settle_instruction(1, second, 0))
    # The second list bounds what is paid, so the first one's leaf of somebody else still counts.
    chain.ok(chain.settle_instruction(0, first, 1))
    chain.ok(chain.settle_instruction(0, first, 0))  # older than what is settled: nothing moves
    assert [chain.balance(address(one)) for one in chain.beneficiaries] == [2 * KOII, KOII, 0]


def test_an_older_list_is_settled_while_the_newest_is_audited(chain: TaskChain) -> None:
    first = chain.run_round(0, [KOII, KOII, 0])
    chain.commit(1)
    chain.anchor_list(1, chain.earn([KOII, 0, 0]))
    chain.ok(chain.settle_instruction(0, first, 0))
    assert chain.balance(address(chain.beneficiaries[0])) == KOII


def test_the_last_list_survives_many_rounds_without_one(chain: TaskChain) -> None:
    leaves = chain.run_round(0, [KOII, 0, 0])
    for round in range(1, 18):
        chain.commit(round)
    assert 0 not in chain.state().rounds
    chain.ok(chain.settle_instruction(0, leaves, 0))
    assert chain.balance(address(chain.beneficiaries[0])) == KOII


def test_the_ring_of_rounds_wraps_and_the_head_covers_all(chain: TaskChain) -> None:
    head = EMPTY_HEAD
    for round in range(20):
        commitment = chain.commit_instruction(round)
        chain.commit(round)
        head = next_head(head, *_anchor(commitment, chain.slot))
        leaves = chain.earn([1, 2, 3])
        chain.anchor_list(round, leaves)
        head = next_head(head, *_anchor(chain.list_instruction(round, leaves), chain.slot))
    state = chain.state()
    assert (state.head, state.anchors) == (head, 40)
    assert list(state.rounds) == list(range(20 - ROUND_RING, 20))
    last = state.rounds[19]
    assert last.commitment_slot == chain.clock.commitment(19).opens + 1
    assert (last.list_slot, last.reward_total) == (chain.slot, 120)
    assert last.list_by == last.commitment_by == address(chain.stakers[0])
    assert state.last_list is not None
    assert state.settled_list is not None
    assert (state.last_list.round, state.settled_list.round) == (19, 18)
    assert state.last_list.root == last.list_root


def _anchor(instruction: Instruction, slot: int) -> tuple[Anchor, int, bytes]:
    accounts = [bytes(one.pubkey) for one in instruction.accounts]
    anchor = decode_instruction(bytes(instruction.data), accounts)
    assert isinstance(anchor, ix.AnchorCommitment | ix.AnchorList)
    return anchor, slot, anchor.digest if isinstance(anchor, ix.AnchorCommitment) else anchor.root


def test_the_window_bounds_are_half_open(chain: TaskChain) -> None:
    commitment = chain.clock.commitment(0)
    chain.at(commitment.closes - 1)
    chain.ok(chain.commit_instruction(0), signers=[chain.stakers[0]])
    distribution = chain.clock.distribution(0)
    chain.at(distribution.opens)
    leaves = chain.earn([1, 1, 1])
    chain.ok(chain.list_instruction(0, leaves, 1), signers=[chain.stakers[1]])
    assert chain.state().rounds[0].list_by == address(chain.stakers[1])
    chain.at(chain.clock.commitment(1).opens)
    chain.ok(chain.commit_instruction(1), signers=[chain.stakers[0]])
    assert list(chain.state().rounds) == [0, 1]


def test_a_slash_beyond_the_stake_takes_what_is_there(chain: TaskChain) -> None:
    leaves = chain.run_round(0, [0, 0, 0], [0, 0, 9 * KOII])
    chain.ok(chain.settle_instruction(0, leaves, 2))
    state, stake = chain.state(), chain.stake_of(2)
    assert (stake.amount, stake.slash_total) == (0, 9 * KOII)
    assert (state.slashed, state.forgiven, state.vault) == (5 * KOII, 4 * KOII, 105 * KOII)
    assert chain.balance(chain.stake_address(2)) == chain.rent(STAKE_LAYOUT.size)
    chain.add_stake(2, 2 * KOII)  # staking again begins anew; the settled slash is not taken twice
    chain.ok(chain.settle_instruction(0, leaves, 2))
    assert chain.stake_of(2).amount == 2 * KOII


def test_all_stakes_may_be_slashed(chain: TaskChain) -> None:
    leaves = chain.run_round(0, [0, 0, 0], [5 * KOII] * 3)
    for index in range(3):
        chain.ok(chain.settle_instruction(0, leaves, index))
    state = chain.state()
    assert (state.total_stake, state.slashed, state.vault) == (0, 15 * KOII, 115 * KOII)


def test_rewards_come_out_of_slashes_when_the_vault_alone_is_short() -> None:
    chain = TaskChain(funds=2 * KOII)
    leaves = chain.run_round(0, [3 * KOII, 0, 0], [0, 0, SLASH])
    assert chain.send(chain.settle_instruction(0, leaves, 0)).error is ProgramError.VAULT_SHORT
    chain.ok(chain.settle_instruction(0, leaves, 2))
    chain.ok(chain.settle_instruction(0, leaves, 0))
    assert chain.state().vault == 2 * KOII + SLASH - 3 * KOII


def test_a_slash_lands_though_the_reward_cannot_be_received(chain: TaskChain) -> None:
    leaves = chain.run_round(0, [0, 0, 5], [0, 0, SLASH])  # 5 Roe cannot make an account
    refused = chain.send(chain.settle_instruction(0, leaves, 2))
    assert refused.error is ProgramError.BENEFICIARY_BELOW_RENT
    chain.ok(chain.settle_instruction(0, leaves, 2, pay=False))
    assert chain.stake_of(2).slash_total == SLASH
    assert chain.stake_of(2).reward_total == 0
    chain.rich("beneficiary 2", KOII)
    chain.ok(chain.settle_instruction(0, leaves, 2))
    assert chain.balance(address(chain.beneficiaries[2])) == KOII + 5


@pytest.mark.parametrize("prefund", [1, 890_880, 10 * KOII])
def test_lamports_sent_in_advance_block_nothing(prefund: int) -> None:
    from solders.pubkey import Pubkey

    chain = TaskChain(stakers=1)
    nonce, staker = 99, keypair("late staker")
    task = ix.task_address(address(chain.payer), nonce)
    targets = [task, ix.vault_address(task), ix.stake_address(task, address(staker))]
    for target in targets:
        chain.svm.airdrop(Pubkey(target), prefund)
    chain.ok(ix.create_task(default_terms(address(chain.payer), nonce), nonce))
    stake = ix.stake(task, address(chain.payer), address(staker), address(staker), 3 * KOII)
    chain.ok(stake, signers=[staker])
    sizes = (TASK_LAYOUT.size, VAULT_LAYOUT.size, STAKE_LAYOUT.size)
    floors = [max(prefund, chain.rent(size)) for size in sizes]
    assert [chain.balance(target) for target in targets] == [floors[0], floors[1], floors[2] + 3 * KOII]


@pytest.mark.parametrize("count", [1, 2, 3, 5, 8, 13, 100])
def test_proofs_of_any_tree_are_accepted(count: int) -> None:
    chain = TaskChain(stakers=1)
    others = [Leaf(bytes([number]) * 32, number, 0) for number in range(count - 1)]
    leaves = [*others, Leaf(address(chain.stakers[0]), KOII, 0)]
    encoded = [leaf.encode() for leaf in leaves]
    chain.commit(0)
    chain.at(chain.clock.distribution(0).opens)
    root = merkle.root(encoded)
    total = sum(leaf.reward_total for leaf in leaves)
    signer = chain.stakers[0]
    chain.ok(ix.anchor_list(chain.task, address(signer), 0, root, total, 0), signers=[signer])
    chain.settled_slot(0)
    proof = merkle.prove(encoded, count - 1)
    chain.ok(ix.settle(chain.task, 0, leaves[-1], proof, address(chain.beneficiaries[0])))
    assert chain.balance(address(chain.beneficiaries[0])) == KOII


def test_the_deepest_proof_fits_into_a_transaction(chain: TaskChain) -> None:
    leaf = Leaf(address(chain.stakers[0]), KOII, 0)
    siblings = tuple(bytes([number]) * 32 for number in range(ix.PROOF_SIBLINGS))
    directions = 0b101010101010101010101010
    root = merkle.leaf_hash(leaf.encode())
    for place, sibling in enumerate(siblings):
        on_the_left = directions >> place & 1
        root = merkle.node_hash(sibling, root) if on_the_left else merkle.node_hash(root, sibling)
    chain.commit(0)
    chain.at(chain.clock.distribution(0).opens)
    signer = chain.stakers[0]
    chain.ok(ix.anchor_list(chain.task, address(signer), 0, root, KOII, 0), signers=[signer])
    chain.settled_slot(0)
    proof = merkle.Proof(siblings, directions)
    chain.ok(ix.settle(chain.task, 0, leaf, proof, address(chain.beneficiaries[0])))
    assert len(chain.landed[-1].wire) <= 1232
    assert chain.balance(address(chain.beneficiaries[0])) == KOII


def test_compute_units_stay_small(chain: TaskChain) -> None:
    """Run with `-s` to see them."""
    use_every_instruction(chain)
    for name, units in sorted(chain.units.items()):
        print(f"{name:18} {min(units):6} to {max(units):6} compute units in {len(units)} runs")
    assert set(chain.units) == {tag.name for tag in ix.Tag}
    # Opening an account searches for its address at 1500 units per try; nothing else is above 15 000.
    opening = {"CREATE_TASK", "STAKE"}
    assert all(max(chain.units[name]) < 40_000 for name in opening)
    assert all(max(units) < 15_000 for name, units in chain.units.items() if name not in opening)
