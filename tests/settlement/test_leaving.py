"""Unstaking, bonds and the end of a task, when all is well: exact amounts, rosters, locks, and what stays behind."""

from __future__ import annotations

import pytest
from solders.pubkey import Pubkey
from solders.system_program import TransferParams, transfer

from koii_p2p.rounds.distribution import Leaf
from koii_p2p.rounds.roster import Checkpoint, Roster, roster_at
from koii_p2p.settlement import instructions as ix
from koii_p2p.settlement.history import ChainEntry, check_history, read_entries, replay
from koii_p2p.settlement.layouts import (
    CLOSED_TASK_LAYOUT,
    STAKE_LAYOUT,
    TASK_LAYOUT,
    VAULT_LAYOUT,
    bond,
    decode_closed_task,
    newest_settled,
    unlock_slot,
)
from koii_p2p.settlement.refusals import ProgramError as E

from .virtual_chain import KOII, TaskChain, address, default_terms, keypair
from .virtual_rpc import VirtualRpc

SLASH = 5 * KOII * 7000 // 10_000
BOND = 2 * KOII // 10


@pytest.fixture
def chain() -> TaskChain:
    return TaskChain()


def roster(chain: TaskChain, round: int) -> Roster:
    return roster_at([chain.stake_of(index).history for index in range(3)], round, chain.terms)


def entries(chain: TaskChain) -> list[ChainEntry]:
    rpc = VirtualRpc(chain)
    found: list[ChainEntry] = []
    for one in chain.landed:
        if chain.task in one.keys:
            truth = rpc.truth(one)
            assert truth.line is not None
            found += read_entries(truth.line, truth.record, chain.task)
    return found


def check_points(chain: TaskChain, staker: int) -> None:
    """The checkpoints of the account are those that its transactions lead to."""
    told, held = replay(entries(chain)).stakes[address(chain.stakers[staker])], chain.stake_of(staker)
    points = [(point.slot, point.stake, point.slash_total) for point in held.history.checkpoints]
    assert points == [(slot, *told.points[slot]) for slot, _, _ in points]
    assert told.unstaking is (held.history.unstake_slot is not None)


# -- rosters


def test_an_unstaking_stake_leaves_the_roster_from_the_next_period_on(chain: TaskChain) -> None:
    key = address(chain.stakers[2])
    chain.at(chain.terms.starting_slot + 250)
    chain.unstake(2)
    history = chain.stake_of(2).history
    assert history.unstake_slot == 1250
    assert history.checkpoints[-1] == Checkpoint(1250, 0, 0)
    assert [key in roster(chain, round) for round in range(5)] == [True, True, True, False, False]
    assert chain.stake_of(2).amount == 5 * KOII
    assert chain.state().total_stake == 15 * KOII


def test_a_request_in_the_first_slot_of_a_period_is_of_that_period(chain: TaskChain) -> None:
    chain.at(chain.terms.starting_slot + 200)
    chain.unstake(2)
    assert [address(chain.stakers[2]) in roster(chain, round) for round in (2, 3)] == [True, False]


def test_a_top_up_takes_the_request_back_and_changes_no_roster_of_the_past(chain: TaskChain) -> None:
    chain.at(chain.terms.starting_slot + 250)
    chain.unstake(2)
    before = [roster(chain, round).root for round in range(5)]
    chain.at(chain.terms.starting_slot + 450)
    chain.add_stake(2, 1)
    assert chain.stake_of(2).history.unstake_slot is None
    assert [roster(chain, round).root for round in range(5)] == before
    assert roster(chain, 5).stake_of(address(chain.stakers[2])) == 5 * KOII + 1
    chain.unstake(2)  # in the same period: the lock begins anew
    assert chain.stake_of(2).history.unstake_slot == chain.slot
    assert address(chain.stakers[2]) not in roster(chain, 5)
    check_points(chain, 2)


def test_rosters_stay_what_they_were_when_the_stake_is_withdrawn(chain: TaskChain) -> None:
    chain.run_round(0, [1, 1, 1])
    chain.unstake(2)
    chain.run_round(1, [1, 1, 1])
    leaves = chain.run_round(2, [1, 1, 1])
    before = [roster(chain, round).root for round in range(8)]
    chain.at(1270 + 300)
    chain.withdraw(2, 2, leaves)
    assert [roster(chain, round).root for round in range(8)] == before


# -- withdrawing


def test_a_stake_is_paid_out_to_its_beneficiary(chain: TaskChain) -> None:
    chain.run_round(0, [1, 1, 1])
    chain.unstake(2)
    chain.run_round(1, [1, 1, 1])
    leaves = chain.run_round(2, [1, 1, KOII])
    assert unlock_slot(chain.state(), 1270) == 1570
    newest = newest_settled(chain.state(), 1570)
    assert newest is not None
    assert newest.round == 2
    chain.at(1570)
    chain.withdraw(2, 2, leaves)
    stake, state = chain.stake_of(2), chain.state()
    assert (stake.amount, stake.history.unstake_slot) == (0, None)
    assert (state.total_stake, state.withdrawn) == (10 * KOII, 5 * KOII)
    assert chain.balance(address(chain.beneficiaries[2])) == 5 * KOII
    assert chain.balance(chain.stake_address(2)) == chain.rent(STAKE_LAYOUT.size)
    # The reward is still claimable, once.
    for _ in range(2):
        chain.ok(chain.settle_instruction(2, leaves, 2))
    assert chain.balance(address(chain.beneficiaries[2])) == 6 * KOII + 2
    assert check_history(entries(chain), chain.state()) == ()


def test_anybody_may_pay_out_who_asked_and_went_away(chain: TaskChain) -> None:
    """Its stake would count against the half that a veto needs for ever; and it goes where it belongs."""
    chain.run_round(0, [1, 1, 1])
    chain.unstake(2)
    chain.run_round(1, [1, 1, 1])
    leaves = chain.run_round(2, [1, 1, 1])
    chain.at(1570)
    anybody = chain.rich("anybody")
    chain.ok(chain.withdraw_instruction(2, 2, leaves), payer=anybody)
    assert chain.balance(address(chain.beneficiaries[2])) == 5 * KOII
    assert chain.state().total_stake == 10 * KOII
    assert entries(chain)[-1].signer == address(anybody)


def test_who_is_caught_and_asks_at_once_still_loses_seventy_percent(chain: TaskChain) -> None:
    """It cheats in round 1, is caught in the audit in period 2, and asks its stake back before anything is anchored."""
    chain.run_round(0, [1, 1, 1])  # up to the end of the audits of period 2
    chain.unstake(2)
    chain.run_round(1, [1, 1, 0], [0, 0, SLASH])
    leaves = chain.run_round(2, [1, 1, 0])
    chain.at(1570)
    chain.withdraw(2, 2, leaves)
    assert chain.balance(address(chain.beneficiaries[2])) == 5 * KOII - SLASH == 15 * KOII // 10
    state = chain.state()
    assert (state.slashed, state.forgiven, state.withdrawn) == (SLASH, 0, 5 * KOII - SLASH)
    assert state.vault == 100 * KOII + SLASH
    assert check_history(entries(chain), state) == ()
    chain.ok(chain.settle_instruction(2, leaves, 2))
    assert chain.state().slashed == SLASH  # it does not land twice


def test_a_slash_in_a_late_attempt_lands_too(chain: TaskChain) -> None:
    """The list with the slash is rejected and comes three periods later: the lock awaits it."""
    chain.run_round(0, [1, 1, 1])
    chain.commit(1)
    chain.anchor_list(1, chain.earn([1, 1, 1]))
    chain.unstake(2)
    chain.veto(1, 0, 1)
    asked = chain.stake_of(2).history.unstake_slot
    assert asked is not None
    for attempt in (1, 2):
        staker = attempt % 2 + 1
        chain.commit(1, staker, attempt)
        guilty = [Leaf(address(one), 2, SLASH if one is chain.stakers[2] else 0) for one in chain.stakers]
        leaves = sorted(guilty, key=lambda leaf: leaf.staker)
        chain.anchor_list(1, leaves, staker, attempt)
        if attempt == 1:
            chain.veto(1, 0, 1, attempt=1)
    period = chain.clock.period(asked)
    assert unlock_slot(chain.state(), asked) == chain.clock.settles_at(period, 4)
    chain.settled_slot(1, 2)
    assert (
        chain.send(chain.withdraw_instruction(2, 1, leaves), signers=[chain.stakers[2]]).error
        is E.STILL_LOCKED
    )
    chain.at(unlock_slot(chain.state(), asked))
    had = chain.stake_of(2).amount
    chain.withdraw(2, 1, leaves)
    assert chain.state().slashed == SLASH
    assert chain.balance(address(chain.beneficiaries[2])) == had - SLASH


def test_a_list_that_settles_late_ends_the_lock(chain: TaskChain) -> None:
    """Its round and the next get no list; that of a later round tells on the second what the last attempt would."""
    chain.run_round(0, [1, 1, 1])
    chain.unstake(2)
    asked, last = 1270, chain.clock.settles_at(2, 4)
    assert chain.stake_of(2).history.unstake_slot == asked
    assert unlock_slot(chain.state(), asked) == last
    chain.commit(5)
    leaves = chain.earn([1, 1, 1])
    chain.anchor_list(5, leaves)
    unlocks = chain.clock.settles_at(5)
    assert asked + 300 < unlocks < last
    assert unlock_slot(chain.state(), asked) == unlocks
    chain.at(unlocks - 1)
    assert (
        chain.send(chain.withdraw_instruction(2, 5, leaves), signers=[chain.stakers[2]]).error
        is E.STILL_LOCKED
    )
    chain.at(unlocks)
    assert unlock_slot(chain.state(), asked) == unlocks
    chain.withdraw(2, 5, leaves)


def test_a_list_that_is_rejected_does_not_end_the_lock(chain: TaskChain) -> None:
    chain.run_round(0, [1, 1, 1])
    chain.unstake(2)
    chain.commit(2)
    chain.anchor_list(2, chain.earn([1, 1, 1]))
    assert unlock_slot(chain.state(), 1270) == 1570
    chain.veto(2, 0, 1)
    assert unlock_slot(chain.state(), 1270) == chain.clock.settles_at(2, 4)


def test_who_was_in_no_roster_needs_no_leaf(chain: TaskChain) -> None:
    chain.run_round(0, [1, 1, 1])
    chain.stakers.append(keypair("brief"))
    chain.beneficiaries.append(keypair("brief beneficiary"))
    chain.add_stake(3, 3 * KOII)
    chain.at(chain.slot + 5)
    chain.unstake(3)
    chain.at(chain.clock.settles_at(2, 4))
    chain.withdraw(3)
    assert chain.balance(address(chain.beneficiaries[3])) == 3 * KOII


def test_before_the_first_round_only_the_lock_counts(chain: TaskChain) -> None:
    chain.unstake(0)
    asked = chain.slot
    assert unlock_slot(chain.state(), asked) == asked + 300
    chain.at(asked + 299)
    assert chain.send(chain.withdraw_instruction(0), signers=[chain.stakers[0]]).error is E.STILL_LOCKED
    chain.at(asked + 300)
    chain.withdraw(0)
    assert chain.balance(address(chain.beneficiaries[0])) == 5 * KOII


def test_a_task_without_any_list_holds_nobody_longer_than_its_attempts(chain: TaskChain) -> None:
    chain.at(1250)
    chain.unstake(0)
    chain.at(chain.clock.settles_at(2, 4) - 1)
    assert chain.send(chain.withdraw_instruction(0), signers=[chain.stakers[0]]).error is E.STILL_LOCKED
    chain.at(chain.clock.settles_at(2, 4))
    chain.withdraw(0)
    assert chain.state().withdrawn == 5 * KOII


def test_an_abandoned_task_frees_its_stakes_without_a_leaf(chain: TaskChain) -> None:
    """Nobody has the lists any more, and no round was anchored for 64 round times."""
    chain.run_round(0, [1, 1, 1], [0, 0, SLASH])
    newest = chain.state().last_list
    assert newest is not None
    chain.unstake(2)
    chain.at(1270 + 64 * 100 - 1)
    assert chain.send(chain.withdraw_instruction(2), signers=[chain.stakers[2]]).error is E.LEAF_NEEDED
    chain.at(1270 + 64 * 100)
    chain.withdraw(2)
    assert chain.balance(address(chain.beneficiaries[2])) == 5 * KOII


def test_a_stake_comes_back_and_is_not_paid_twice(chain: TaskChain) -> None:
    chain.run_round(0, [1, 1, 1])
    chain.unstake(2)
    chain.run_round(1, [1, 1, 1])
    leaves = chain.run_round(2, [1, 1, KOII])
    chain.ok(chain.settle_instruction(2, leaves, 2))
    chain.at(1570)
    chain.withdraw(2, 2, leaves)
    chain.add_stake(2, 2 * KOII)
    chain.ok(chain.settle_instruction(2, leaves, 2))
    assert chain.balance(address(chain.beneficiaries[2])) == 6 * KOII + 2
    assert (chain.stake_of(2).amount, chain.state().stakers) == (2 * KOII, 3)
    assert address(chain.stakers[2]) in roster(chain, 6)
    check_points(chain, 2)
    assert check_history(entries(chain), chain.state()) == ()


# -- bonds


def test_who_anchored_what_is_rejected_loses_the_bond_to_the_vault(chain: TaskChain) -> None:
    assert bond(chain.terms.minimum_stake) == BOND
    chain.commit(0, 0)
    chain.anchor_list(0, chain.earn([1, 1, 1]), 1)
    chain.veto(0, 0)
    assert [chain.stake_of(index).amount for index in range(3)] == [5 * KOII] * 3
    chain.veto(0, 2)
    assert [chain.stake_of(index).amount for index in range(3)] == [
        5 * KOII - BOND,
        5 * KOII - BOND,
        5 * KOII,
    ]
    state = chain.state()
    assert (state.bonds, state.vault, state.slashed) == (2 * BOND, 100 * KOII + 2 * BOND, 0)
    assert state.total_stake == 15 * KOII - 2 * BOND
    assert check_history(entries(chain), state) == ()


def test_one_who_anchored_both_loses_both_bonds(chain: TaskChain) -> None:
    chain.commit(0, 0)
    chain.anchor_list(0, chain.earn([1, 1, 1]), 0)
    chain.veto(0, 0, 2)
    assert chain.stake_of(0).amount == 5 * KOII - 2 * BOND


def test_a_commitment_that_nobody_could_list_costs_its_bond(chain: TaskChain) -> None:
    chain.commit(0, 1)
    chain.veto(0, 0, 2)
    assert (chain.stake_of(1).amount, chain.state().bonds) == (5 * KOII - BOND, BOND)


def test_honest_rounds_move_no_bond_and_free_it_after_the_audit(chain: TaskChain) -> None:
    chain.run_round(0, [1, 1, 1])
    chain.unstake(0)
    chain.run_round(1, [1, 1, 1])
    leaves = chain.run_round(2, [1, 1, 1])
    chain.at(1570)
    chain.withdraw(0, 2, leaves)
    assert chain.state().bonds == 0
    assert chain.balance(address(chain.beneficiaries[0])) == 5 * KOII


# -- inactive, updated, closed


def test_an_inactive_task_settles_what_was_begun(chain: TaskChain) -> None:
    chain.at(1150)
    chain.set_active(False)
    state = chain.state()
    assert (state.active, state.idle) == (False, (2, None))
    chain.run_round(0, [1, 1, 1])
    leaves = chain.run_round(1, [1, 1, KOII])
    chain.ok(chain.settle_instruction(1, leaves, 2))
    chain.set_active(False)  # again changes nothing
    assert chain.state().idle == (2, None)
    chain.set_active(True)
    assert (chain.state().active, chain.state().idle) == (True, (2, 4))
    chain.run_round(4, [1, 1, 1])
    chain.add_stake(0, 1)


def test_a_pause_within_a_period_costs_no_round(chain: TaskChain) -> None:
    chain.at(1110)
    chain.set_active(False)
    chain.set_active(True)
    assert chain.state().idle is None
    chain.run_round(2, [1, 1, 1])


def test_a_task_names_its_successor(chain: TaskChain) -> None:
    terms = default_terms(address(chain.payer), 8)
    chain.ok(ix.create_task(terms, 8))
    chain.ok(ix.update_task(chain.task, address(chain.payer), "m" * 64, terms.task))
    state = chain.state()
    assert (state.successor, state.metadata, state.updated_slot) == (terms.task, "m" * 64, chain.slot)
    assert state.terms == chain.terms
    chain.ok(ix.update_task(chain.task, address(chain.payer), ""))
    assert (chain.state().successor, chain.state().metadata) == (None, "")


def test_text_that_is_none_makes_no_task_unreadable(chain: TaskChain) -> None:
    good = ix.update_task(chain.task, address(chain.payer), "")
    chain.ok(type(good)(good.program_id, bytes([ix.Tag.UPDATE_TASK]) + b"\xff" * 64, good.accounts))
    assert chain.state().metadata == "\ufffd" * 64
    assert entries(chain)[-1].fault is None


def test_a_closed_task_pays_everything_back_but_a_small_account(chain: TaskChain) -> None:
    creator = address(chain.payer)
    leaves = chain.run_round(0, [KOII, KOII, KOII])
    chain.set_active(False)
    for index in range(3):
        chain.ok(chain.settle_instruction(0, leaves, index))
        chain.unstake(index)
    chain.at(chain.clock.settles_at(2, 4))
    for index in range(3):
        chain.withdraw(index, 0, leaves)
    state, before = chain.state(), chain.balance(creator)
    result = chain.ok(chain.close_instruction())
    rents = chain.rent(TASK_LAYOUT.size) + chain.rent(VAULT_LAYOUT.size) - chain.rent(CLOSED_TASK_LAYOUT.size)
    assert chain.balance(creator) - before == 97 * KOII + rents - result.fee
    assert chain.owner(chain.vault) is None
    closed = decode_closed_task(chain.data(chain.task))
    assert (closed.creator, closed.nonce, closed.successor) == (creator, 7, None)
    assert (closed.head, closed.anchors, closed.closed_slot) == (state.head, state.anchors, chain.slot)
    for index in range(3):
        mine = address(chain.beneficiaries[index])
        chain.ok(ix.close_stake(chain.task, address(chain.stakers[index]), mine))
        assert chain.balance(mine) == 6 * KOII + chain.rent(STAKE_LAYOUT.size)
        assert chain.owner(chain.stake_address(index)) is None


def test_roe_sent_in_the_same_transaction_does_not_revive_what_is_closed(chain: TaskChain) -> None:
    chain.set_active(False)
    for index in range(3):
        chain.unstake(index)
    chain.at(chain.slot + 300)
    for index in range(3):
        chain.withdraw(index)
    send = transfer(
        TransferParams(from_pubkey=chain.payer.pubkey(), to_pubkey=Pubkey(chain.vault), lamports=KOII)
    )
    chain.ok(chain.close_instruction(), send)
    assert (chain.owner(chain.vault), chain.data(chain.vault)) == (bytes(32), b"")


def test_rewards_that_nobody_can_be_paid_lapse_with_the_task(chain: TaskChain) -> None:
    """A list promised more than its leaves hold: nobody can settle the rest, and the creator is not held for ever."""
    chain.commit(0)
    leaves = chain.earn([1, 1, 1])
    chain.at(chain.clock.distribution(0).opens)
    listed_at = chain.slot
    chain.ok(chain.list_instruction(0, leaves, rewards=KOII), signers=[chain.stakers[0]])
    chain.settled_slot(0)
    chain.set_active(False)
    for index in range(3):
        chain.unstake(index)
    chain.at(chain.clock.settles_at(2, 4))
    for index in range(3):
        chain.withdraw(index, 0, leaves)
        chain.ok(chain.settle_instruction(0, leaves, index))
    chain.at(listed_at + 64 * 100 - 1)
    assert chain.send(chain.close_instruction()).error is E.REWARDS_OWED
    chain.at(listed_at + 64 * 100)
    chain.ok(chain.close_instruction())


# -- addresses that somebody paid into first


def test_roe_sent_in_advance_hinders_nobody() -> None:
    """The classic: create_account fails for an address that holds anything."""
    chain = TaskChain(stakers=0, funds=0)
    terms = default_terms(address(chain.payer), 8)
    staker = keypair("early")
    targets = (terms.task, ix.vault_address(terms.task), ix.stake_address(terms.task, address(staker)))
    for target, amount in zip(targets, (900_000, 5 * KOII, 890_880), strict=True):
        send = TransferParams(from_pubkey=chain.payer.pubkey(), to_pubkey=Pubkey(target), lamports=amount)
        chain.ok(transfer(send))
    chain.ok(ix.create_task(terms, 8))
    chain.task, chain.vault = terms.task, ix.vault_address(terms.task)
    chain.stakers, chain.beneficiaries = [staker], [keypair("wallet")]
    chain.add_stake(0, 2 * KOII)
    assert chain.balance(terms.task) == chain.rent(TASK_LAYOUT.size)
    assert chain.balance(chain.stake_address(0)) == chain.rent(STAKE_LAYOUT.size) + 2 * KOII
    assert chain.state().vault == 5 * KOII - chain.rent(VAULT_LAYOUT.size)
