/* Leaves of settled lists: what they pay and slash, and how a stake leaves with the newest one. */
#ifndef KOII_P2P_LEAVES_H
#define KOII_P2P_LEAVES_H
#include "stakes.h"

/* ---- leaves of a list: shown, taken, paid ----------------------------------------------------------------------------------------------------- */

/* The standing list of a round, from the ring or, after a long pause, from the header. */
static u64 find_list(u8 *task, u64 round, const u8 **list) {
  u8 *place = ring_place(task, round);
  *list = holds(place, round) ? place : task + TASK_SETTLED_LIST;
  REQUIRE(stands(*list) && U64(*list, LIST_ROUND) == round, ERR_NO_LIST);
  return 0;
}

/* A leaf is shown as round u64, leaf, directions u32, number of siblings u8, siblings, behind the tag. */
static u64 check_shape(void) {
  REQUIRE(S->data_length >= SETTLE_LENGTH, ERR_DATA_LENGTH);
  u64 directions = little_endian(S->data + 57, 4), count = S->data[61];
  REQUIRE(count <= PROOF_SIBLINGS && directions >> count == 0, ERR_PROOF_SHAPE);
  REQUIRE(S->data_length == SETTLE_LENGTH + KEY * count, ERR_DATA_LENGTH);
  return 0;
}

/* RFC 6962: leaf hash SHA-256(0x00 || leaf), node hash SHA-256(0x01 || left || right). */
static u64 check_proof(const u8 *root) {
  const u8 *leaf = S->data + 9, *siblings = S->data + SETTLE_LENGTH;
  u64 directions = little_endian(S->data + 57, 4), count = S->data[61];
  static const u8 leaf_domain = 0, node_domain = 1;
  Slice *slices = S->slices;
  slices[0].start = &leaf_domain;
  slices[0].length = 1;
  slices[1].start = leaf;
  slices[1].length = LEAF_LENGTH;
  REQUIRE(sol_sha256(slices, 2, S->digest) == 0, ERR_SYSCALL);
  slices[0].start = &node_domain;
  slices[1].length = KEY;
  slices[2].length = KEY;
  for (u64 i = 0; i < count; i++) {
    int sibling_is_left = directions >> i & 1;
    slices[1].start = sibling_is_left ? siblings + KEY * i : S->digest;
    slices[2].start = sibling_is_left ? S->digest : siblings + KEY * i;
    REQUIRE(sol_sha256(slices, 3, S->digest) == 0, ERR_SYSCALL);
  }
  REQUIRE(same(S->digest, root, KEY), ERR_PROOF_INVALID);
  return 0;
}

/* Takes what the leaf slashes beyond the last time; a stake that no longer covers it is forgiven the rest. */
static u64 take_slash(Account *task, Account *vault, Account *stake, u64 slash, u64 limit) {
  u64 amount = U64(stake->data, STAKE_AMOUNT), taken = slash < amount ? slash : amount;
  u64 settled;
  TRY(add(U64(task->data, TASK_SLASHED), U64(task->data, TASK_FORGIVEN), &settled));
  TRY(add(settled, slash, &settled));
  REQUIRE(settled <= limit, ERR_SLASHES_ABOVE_LIST);
  TRY(move_lamports(stake, vault, taken));
  TRY(subtract(U64(task->data, TASK_TOTAL_STAKE), taken, &U64(task->data, TASK_TOTAL_STAKE)));
  U64(task->data, TASK_SLASHED) += taken;           /* both bounded by `settled` above */
  U64(task->data, TASK_FORGIVEN) += slash - taken;
  U64(stake->data, STAKE_AMOUNT) = amount - taken;
  U64(stake->data, STAKE_SLASH_TOTAL) += slash;     /* up to the leaf's total */
  checkpoint(task->data, stake->data);
  return 0;
}

static u64 pay_reward(u8 *task, Account *vault, Account *beneficiary, u64 reward, u64 limit) {
  u64 paid, available, after, minimum;
  TRY(add(U64(task, TASK_PAID), reward, &paid));
  REQUIRE(paid <= limit, ERR_REWARDS_ABOVE_LIST);
  TRY(vault_available(vault, &available));
  REQUIRE(reward <= available, ERR_VAULT_SHORT);
  TRY(add(*beneficiary->lamports, reward, &after));
  TRY(rent_minimum(beneficiary->data_length, &minimum));
  REQUIRE(after >= minimum, ERR_BENEFICIARY_BELOW_RENT);
  TRY(move_lamports(vault, beneficiary, reward));
  U64(task, TASK_PAID) = paid;
  return 0;
}

/* ---- Settle ----------------------------------------------------------------------------------------------------- */

/* [task W, vault W, stake W, beneficiary W]; nobody signs.
 * A slash never waits for the beneficiary: passed read-only, it is not paid and the reward stays claimable. */
static u64 settle(void) {
  Account *task = &S->accounts[0], *vault = &S->accounts[1], *stake = &S->accounts[2], *beneficiary = &S->accounts[3];
  REQUIRE(S->account_count == 4, ERR_ACCOUNT_COUNT);
  TRY(check_shape());
  const u8 *leaf = S->data + 9;
  u64 round = little_endian(S->data + 1, 8);
  REQUIRE(vault->is_writable && stake->is_writable, ERR_NOT_WRITABLE);
  TRY(check_task(task));
  TRY(check_vault(task, vault));
  TRY(check_stake(task, stake));
  TRY(read_slot());

  const u8 *list = 0;
  u8 *bounds = 0;
  int past = 0;
  TRY(find_list(task->data, round, &list));
  TRY(is_past_audit(task->data, list, &past));
  REQUIRE(past, ERR_SETTLE_EARLY);
  TRY(newest_settled(task->data, &bounds));
  REQUIRE(same(leaf, stake->data + STAKE_STAKER, KEY), ERR_LEAF_OF_ANOTHER_STAKER);
  REQUIRE(same(beneficiary->key, stake->data + STAKE_BENEFICIARY, KEY), ERR_WRONG_BENEFICIARY);
  TRY(check_proof(list + LIST_ROOT));

  /* Totals only grow, so a leaf of an older list than the one settled last moves nothing. */
  u64 reward_total = little_endian(leaf + 32, 8), slash_total = little_endian(leaf + 40, 8);
  u64 rewarded = U64(stake->data, STAKE_REWARD_TOTAL), slashed = U64(stake->data, STAKE_SLASH_TOTAL);
  u64 reward = reward_total > rewarded ? reward_total - rewarded : 0;
  u64 slash = slash_total > slashed ? slash_total - slashed : 0;
  if (slash > 0) TRY(take_slash(task, vault, stake, slash, U64(bounds, LIST_SLASH_TOTAL)));
  if (reward > 0 && beneficiary->is_writable) {
    TRY(pay_reward(task->data, vault, beneficiary, reward, U64(bounds, LIST_REWARD_TOTAL)));
    U64(stake->data, STAKE_REWARD_TOTAL) = reward_total;
  }
  REQUIRE(reward == 0 || slash > 0 || beneficiary->is_writable, ERR_NOT_WRITABLE);
  return 0;
}

/* ---- Withdraw and CloseStake -------------------------------------------------------------------------------------- */

/* A stake is held back until nothing can be known against it any more that the newest settled list does not hold.
 *
 * Who asked in period p was in the rosters of the rounds up to p. Lists are anchored in ascending order of rounds and a
 * settled one is never rejected: once a settled list is of round p or a later one, no list of those rounds can come any
 * more, and its leaf holds every slash that they led to. If no such list comes, the last attempt of round p is
 * awaited. In either case LOCK_PERIODS at least. A veto and an anchor hold the stake as long as they count: else
 * one stake could veto twice under two keys, and an anchorer leave with its bond. */
static u64 check_unlocked(u8 *task, const u8 *stake, const u8 *list) {
  u64 requested = U64(stake, STAKE_UNSTAKE_SLOT), opens, ends, started;
  REQUIRE(requested != 0, ERR_NOT_UNSTAKING);
  TRY(multiply(LOCK_PERIODS, U64(task, TASK_ROUND_TIME), &ends));
  TRY(add(ends, requested, &ends));
  REQUIRE(S->slot >= ends, ERR_STILL_LOCKED);
  started = roster_interval(task, requested);
  if (started > 0 && !(stands(list) && U64(list, LIST_ROUND) >= started - 1)) {
    TRY(list_audit(task, started - 1, U16(task, TASK_ALLOWED_FAILED_DISTRIBUTIONS), &opens, &ends));
    REQUIRE(S->slot >= ends, ERR_STILL_LOCKED);
  }
  if (U64(stake, STAKE_VETO_WINDOW) != 0) {
    TRY(slot_of(task, U64(stake, STAKE_VETO_WINDOW), 1, both_windows(task), &ends));
    REQUIRE(S->slot >= ends, ERR_VETO_STILL_OPEN);
  }
  return check_bonds_free(task, stake + STAKE_STAKER);
}

/* The slot at which a task whose newest list was anchored at `since` counts as abandoned. */
static u64 abandoned_at(const u8 *task, u64 since, u64 *slot) {
  TRY(multiply(ESCAPE_PERIODS, U64(task, TASK_ROUND_TIME), slot));
  return add(since, *slot, slot);
}

/* Without a leaf only a stake leaves that no list can name, or one of a task in which no list was anchored for so long
 * that everybody had the time to take what is due. */
static u64 check_leaf_not_needed(const u8 *task, const u8 *stake, const u8 *list) {
  if (!stands(list)) return 0; /* check_unlocked awaited every list that could name it */
  u64 requested = U64(stake, STAKE_UNSTAKE_SLOT), created = U64(stake, STAKE_CREATED_SLOT), since = requested, escapes;
  if (roster_interval(task, created) == roster_interval(task, requested)) return 0; /* it was in no roster */
  const u8 *newest = task + TASK_NEWEST_LIST;
  if (U64(newest, LIST_SLOT) > since) since = U64(newest, LIST_SLOT);
  TRY(abandoned_at(task, since, &escapes));
  REQUIRE(S->slot >= escapes, ERR_LEAF_NEEDED);
  return 0;
}

/* What the leaf of the newest settled list slashes beyond the last time; 0 if it is settled. */
static u64 check_newest_leaf(const u8 *stake, const u8 *list, u64 *slash) {
  const u8 *leaf = S->data + 9;
  REQUIRE(stands(list) && U64(list, LIST_ROUND) == little_endian(S->data + 1, 8), ERR_NOT_THE_NEWEST_LIST);
  REQUIRE(same(leaf, stake + STAKE_STAKER, KEY), ERR_LEAF_OF_ANOTHER_STAKER);
  TRY(check_proof(list + LIST_ROOT));
  u64 slash_total = little_endian(leaf + 40, 8), slashed = U64(stake, STAKE_SLASH_TOTAL);
  *slash = slash_total > slashed ? slash_total - slashed : 0;
  return 0;
}

/* [staker, task W, vault W, stake W, beneficiary W]; nobody signs: the rest of the stake to its beneficiary. Until then it
 * counts against the half that a veto needs, so whoever asked and went away can be paid out by anybody. The account stays:
 * it remembers what was paid and taken, so that the same leaf can't be paid to a new stake of the same key. */
static u64 withdraw(void) {
  Account *staker = &S->accounts[0], *task = &S->accounts[1], *vault = &S->accounts[2];
  Account *stake = &S->accounts[3], *beneficiary = &S->accounts[4];
  int has_leaf = S->data_length != WITHDRAW_LENGTH;
  REQUIRE(S->account_count == 5, ERR_ACCOUNT_COUNT);
  if (has_leaf) TRY(check_shape());
  REQUIRE(vault->is_writable && stake->is_writable && beneficiary->is_writable, ERR_NOT_WRITABLE);
  TRY(check_task(task));
  TRY(check_vault(task, vault));
  TRY(check_stake(task, stake));
  REQUIRE(same(stake->data + STAKE_STAKER, staker->key, KEY), ERR_NOT_THE_STAKER);
  REQUIRE(same(beneficiary->key, stake->data + STAKE_BENEFICIARY, KEY), ERR_WRONG_BENEFICIARY);
  TRY(read_slot());

  u8 *list = 0;
  u64 slash = 0, after, minimum;
  TRY(newest_settled(task->data, &list));
  TRY(check_unlocked(task->data, stake->data, list));
  if (has_leaf) TRY(check_newest_leaf(stake->data, list, &slash));
  else TRY(check_leaf_not_needed(task->data, stake->data, list));
  if (slash > 0) TRY(take_slash(task, vault, stake, slash, U64(list, LIST_SLASH_TOTAL)));

  u64 amount = U64(stake->data, STAKE_AMOUNT);
  TRY(add(*beneficiary->lamports, amount, &after));
  TRY(rent_minimum(beneficiary->data_length, &minimum));
  REQUIRE(amount == 0 || after >= minimum, ERR_BENEFICIARY_BELOW_RENT);
  TRY(move_lamports(stake, beneficiary, amount));
  TRY(subtract(U64(task->data, TASK_TOTAL_STAKE), amount, &U64(task->data, TASK_TOTAL_STAKE)));
  TRY(add(U64(task->data, TASK_WITHDRAWN), amount, &U64(task->data, TASK_WITHDRAWN)));
  U64(stake->data, STAKE_AMOUNT) = 0;
  U64(stake->data, STAKE_UNSTAKE_SLOT) = 0;
  checkpoint(task->data, stake->data);
  return 0;
}

/* [task, stake W, beneficiary W]; nobody signs. When the task is closed nothing can be paid to the stake any more, and no
 * other task can ever have its address: the account's rent goes to its beneficiary. */
static u64 close_stake(void) {
  Account *task = &S->accounts[0], *stake = &S->accounts[1], *beneficiary = &S->accounts[2];
  REQUIRE(S->account_count == 3, ERR_ACCOUNT_COUNT);
  REQUIRE(S->data_length == CLOSE_STAKE_LENGTH, ERR_DATA_LENGTH);
  REQUIRE(stake->is_writable && beneficiary->is_writable, ERR_NOT_WRITABLE);
  TRY(check_closed_task(task));
  TRY(check_stake(task, stake));
  REQUIRE(same(beneficiary->key, stake->data + STAKE_BENEFICIARY, KEY), ERR_WRONG_BENEFICIARY);
  TRY(move_lamports(stake, beneficiary, *stake->lamports));
  wipe(stake);
  return 0;
}

#endif
