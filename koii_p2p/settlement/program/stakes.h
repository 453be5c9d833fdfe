/* Stakes: opened, topped up, asked back; and the bonds of those who anchor, which are a part of them. */
#ifndef KOII_P2P_STAKES_H
#define KOII_P2P_STAKES_H
#include "accounts.h"

/* ---- Stake and RequestUnstake ------------------------------------------------------------------------------------------------------ */

/* What a roster may count: nothing once unstaking was requested. */
static u64 active_stake(const u8 *stake) {
  return U64(stake, STAKE_UNSTAKE_SLOT) == 0 ? U64(stake, STAKE_AMOUNT) : 0;
}

/* Remembers the active stake after a change. Only the last change before the start of a period can matter to a roster, so
 * changes of one period share an entry: nobody can push the entry that a running round needs out of the ring. */
static void checkpoint(const u8 *task, u8 *stake) {
  u64 count = U64(stake, STAKE_CHECKPOINT_COUNT);
  u8 *ring = stake + STAKE_CHECKPOINTS;
  u8 *entry = ring + (count - 1) % CHECKPOINT_RING * CHECKPOINT_SIZE;
  if (count == 0 || roster_interval(task, U64(entry, CHECKPOINT_SLOT)) != roster_interval(task, S->slot)) {
    entry = ring + count % CHECKPOINT_RING * CHECKPOINT_SIZE;
    U64(stake, STAKE_CHECKPOINT_COUNT) = count + 1;
  }
  U64(entry, CHECKPOINT_SLOT) = S->slot;
  U64(entry, CHECKPOINT_STAKE) = active_stake(stake);
  U64(entry, CHECKPOINT_SLASH_TOTAL) = U64(stake, STAKE_SLASH_TOTAL);
}

/* [payer SW, staker S, task W, stake W, system program]. A top-up takes a request to unstake back: from the next period
 * on the stake counts again, and a later request begins its lock anew. */
static u64 stake_or_top_up(void) {
  Account *payer = &S->accounts[0], *staker = &S->accounts[1], *task = &S->accounts[2];
  Account *stake = &S->accounts[3], *system = &S->accounts[4];
  REQUIRE(S->account_count == 5, ERR_ACCOUNT_COUNT);
  REQUIRE(S->data_length == STAKE_LENGTH, ERR_DATA_LENGTH);
  REQUIRE(payer->is_signer && staker->is_signer, ERR_MISSING_SIGNATURE);
  REQUIRE(payer->is_writable && stake->is_writable, ERR_NOT_WRITABLE);
  TRY(check_system_program(system));
  TRY(check_task(task));
  TRY(read_slot());
  REQUIRE(task->data[TASK_ACTIVE], ERR_TASK_INACTIVE);
  u64 amount = little_endian(S->data + 1, 8);
  const u8 *beneficiary = S->data + 9;
  REQUIRE(amount > 0, ERR_ZERO_AMOUNT);

  if (same(stake->owner, S->program, KEY)) {
    TRY(check_stake(task, stake));
    REQUIRE(same(stake->data + STAKE_STAKER, staker->key, KEY), ERR_NOT_THE_STAKER);
    REQUIRE(same(stake->data + STAKE_BENEFICIARY, beneficiary, KEY), ERR_BENEFICIARY_CHANGED);
  } else {
    REQUIRE(!all_zero(beneficiary, KEY), ERR_BENEFICIARY_EMPTY);
    stake_seeds(task->key, staker->key);
    TRY(find_address(stake, ERR_WRONG_STAKE_ADDRESS));
    u8 bump = S->bump;
    TRY(open_account(system, payer, stake, STAKE_SIZE));
    U64(stake->data, STAKE_MAGIC) = STAKE_MAGIC_VALUE;
    stake->data[STAKE_VERSION] = LAYOUT_VERSION;
    stake->data[STAKE_BUMP] = bump;
    sol_memcpy_(stake->data + STAKE_TASK, task->key, KEY);
    sol_memcpy_(stake->data + STAKE_STAKER, staker->key, KEY);
    sol_memcpy_(stake->data + STAKE_BENEFICIARY, beneficiary, KEY);
    U64(stake->data, STAKE_CREATED_SLOT) = S->slot;
    TRY(add(U64(task->data, TASK_STAKERS), 1, &U64(task->data, TASK_STAKERS)));
  }
  TRY(add(U64(stake->data, STAKE_AMOUNT), amount, &U64(stake->data, STAKE_AMOUNT)));
  TRY(add(U64(task->data, TASK_TOTAL_STAKE), amount, &U64(task->data, TASK_TOTAL_STAKE)));
  REQUIRE(U64(stake->data, STAKE_AMOUNT) >= U64(task->data, TASK_MINIMUM_STAKE), ERR_STAKE_BELOW_MINIMUM);
  U64(stake->data, STAKE_UNSTAKE_SLOT) = 0;
  checkpoint(task->data, stake->data);
  return transfer(system, payer, stake, amount);
}

/* [staker S, task W, stake W]: from the next period on the stake is in no roster. */
static u64 request_unstake(void) {
  Account *staker = &S->accounts[0], *task = &S->accounts[1], *stake = &S->accounts[2];
  REQUIRE(S->account_count == 3, ERR_ACCOUNT_COUNT);
  REQUIRE(S->data_length == REQUEST_UNSTAKE_LENGTH, ERR_DATA_LENGTH);
  REQUIRE(staker->is_signer, ERR_MISSING_SIGNATURE);
  REQUIRE(stake->is_writable, ERR_NOT_WRITABLE);
  TRY(check_task(task));
  TRY(check_stake(task, stake));
  REQUIRE(same(stake->data + STAKE_STAKER, staker->key, KEY), ERR_NOT_THE_STAKER);
  REQUIRE(U64(stake->data, STAKE_UNSTAKE_SLOT) == 0, ERR_ALREADY_UNSTAKING);
  REQUIRE(U64(stake->data, STAKE_AMOUNT) > 0, ERR_NOTHING_STAKED);
  TRY(read_slot());
  U64(stake->data, STAKE_UNSTAKE_SLOT) = S->slot;
  checkpoint(task->data, stake->data);
  return 0;
}

/* ---- bonds ------------------------------------------------------------------------------------------------------ */

/* Whoever anchors stands in for it with a part of the minimum stake, until the attempt is past its audit: nothing moves
 * in honest rounds. The veto that rejects the attempt moves the bond into the vault. Not to those who vetoed, nor to
 * whoever anchors next: nobody may gain by a rejection. */
static u64 take_bond(Account *task, Account *vault, Account *stake) {
  u64 bond = U64(task->data, TASK_MINIMUM_STAKE) / BOND_DIVISOR, amount = U64(stake->data, STAKE_AMOUNT);
  if (bond > amount) bond = amount;
  TRY(move_lamports(stake, vault, bond));
  TRY(subtract(U64(task->data, TASK_TOTAL_STAKE), bond, &U64(task->data, TASK_TOTAL_STAKE)));
  TRY(add(U64(task->data, TASK_BONDS), bond, &U64(task->data, TASK_BONDS)));
  U64(stake->data, STAKE_AMOUNT) = amount - bond;
  checkpoint(task->data, stake->data);
  return 0;
}

/* Whether an attempt that this staker anchored can still be rejected. An attempt's place in the ring is kept for as
 * long as it can. */
static u64 check_bonds_free(u8 *task, const u8 *staker) {
  for (u64 i = 0; i < ROUND_RING; i++) {
    u8 *place = ring_place(task, i);
    int past = 0;
    if (place[ROUND_STATE] == ROUND_EMPTY || place[ROUND_STATE] == ROUND_REJECTED) continue;
    if (!same(place + ROUND_COMMITMENT_BY, staker, KEY) && !same(place + ROUND_LIST_BY, staker, KEY)) continue;
    TRY(is_past_audit(task, place, &past));
    REQUIRE(past, ERR_BOND_STILL_LOCKED);
  }
  return 0;
}

#endif
