/* Rounds: committed to, listed, rejected and tried again. */
#ifndef KOII_P2P_ANCHORS_H
#define KOII_P2P_ANCHORS_H
#include "stakes.h"

/* ---- AnchorCommitment, AnchorList and Veto ---------------------------------------------------------------------- */

/* [staker S, task W, stake]: a staker of the task that still holds the minimum stake. */
static u64 check_staker(void) {
  Account *staker = &S->accounts[0], *task = &S->accounts[1], *stake = &S->accounts[2];
  REQUIRE(staker->is_signer, ERR_MISSING_SIGNATURE);
  TRY(check_task(task));
  TRY(check_stake(task, stake));
  REQUIRE(same(stake->data + STAKE_STAKER, staker->key, KEY), ERR_NOT_THE_STAKER);
  REQUIRE(U64(stake->data, STAKE_AMOUNT) >= U64(task->data, TASK_MINIMUM_STAKE), ERR_ANCHORER_BELOW_MINIMUM);
  return read_slot();
}

/* Appends an anchor or rejection to the chain of heads: head = SHA-256(head || record). */
static u64 append_to_head(u8 *task, u64 round, const u8 *digest, u64 reward_total, u64 slash_total) {
  u8 *record = S->record;
  record[ANCHOR_RECORD_TAG] = S->data[0];
  record[ANCHOR_RECORD_ATTEMPT] = S->data[1];
  sol_memcpy_(record + ANCHOR_RECORD_ROUND, &round, 8);
  sol_memcpy_(record + ANCHOR_RECORD_SLOT, &S->slot, 8);
  sol_memcpy_(record + ANCHOR_RECORD_BY, S->accounts[0].key, KEY);
  sol_memcpy_(record + ANCHOR_RECORD_DIGEST, digest, KEY);
  sol_memcpy_(record + ANCHOR_RECORD_REWARD_TOTAL, &reward_total, 8);
  sol_memcpy_(record + ANCHOR_RECORD_SLASH_TOTAL, &slash_total, 8);
  S->slices[0].start = task + TASK_HEAD;
  S->slices[0].length = KEY;
  S->slices[1].start = record;
  S->slices[1].length = ANCHOR_RECORD_SIZE;
  REQUIRE(sol_sha256(S->slices, 2, S->digest) == 0, ERR_SYSCALL);
  sol_memcpy_(task + TASK_HEAD, S->digest, KEY);
  return add(U64(task, TASK_ANCHORS), 1, &U64(task, TASK_ANCHORS));
}

/* A round whose list was rejected is committed to anew, by somebody else, as often as the terms allow. The place
 * remembers who anchored the rejected attempt, and forgets everything else of it. */
static u64 begin_retry(const u8 *task, u8 *place, u64 round, u64 attempt) {
  const u8 *signer = S->accounts[0].key;
  REQUIRE(attempt <= U16(task, TASK_ALLOWED_FAILED_DISTRIBUTIONS) && attempt <= LAST_ATTEMPT, ERR_ATTEMPTS_USED_UP);
  REQUIRE(holds(place, round), ERR_WRONG_ATTEMPT);
  REQUIRE(attempt > place[ROUND_ATTEMPT], ERR_COMMITMENT_EXISTS);
  REQUIRE(attempt == (u64)place[ROUND_ATTEMPT] + 1 && place[ROUND_STATE] == ROUND_REJECTED, ERR_WRONG_ATTEMPT);
  REQUIRE(!same(place + ROUND_COMMITMENT_BY, signer, KEY), ERR_BARRED);
  REQUIRE(!same(place + ROUND_LIST_BY, signer, KEY), ERR_BARRED);
  sol_memcpy_(place + ROUND_BARRED_COMMITTER, place + ROUND_COMMITMENT_BY, KEY);
  sol_memcpy_(place + ROUND_BARRED_LISTER, place + ROUND_LIST_BY, KEY);
  sol_memset_(place, 0, ROUND_BARRED_COMMITTER);
  return 0;
}

/* [staker S, task W, stake] */
static u64 anchor_commitment(void) {
  REQUIRE(S->account_count == 3, ERR_ACCOUNT_COUNT);
  REQUIRE(S->data_length == ANCHOR_COMMITMENT_LENGTH, ERR_DATA_LENGTH);
  TRY(check_staker());
  u8 *task = S->accounts[1].data;
  u64 attempt = S->data[1], round = little_endian(S->data + 2, 8);
  const u8 *digest = S->data + 10;

  u64 opens, closes;
  TRY(commitment_window(task, round, attempt, &opens, &closes));
  REQUIRE(S->slot >= opens, ERR_COMMITMENT_EARLY);
  REQUIRE(S->slot < closes, ERR_COMMITMENT_LATE);
  u8 *place = ring_place(task, round);
  if (attempt == FIRST_ATTEMPT) {
    REQUIRE(!is_idle(task, round), ERR_TASK_INACTIVE);
    REQUIRE(!holds(place, round), ERR_COMMITMENT_EXISTS);
    TRY(keep_settled(task));
    sol_memset_(place, 0, ROUND_SIZE);
  } else TRY(begin_retry(task, place, round, attempt));

  U64(place, ROUND_NUMBER) = round;
  place[ROUND_ATTEMPT] = attempt;
  place[ROUND_STATE] = ROUND_COMMITTED;
  sol_memcpy_(place + ROUND_COMMITMENT, digest, KEY);
  U64(place, ROUND_COMMITMENT_SLOT) = S->slot;
  sol_memcpy_(place + ROUND_COMMITMENT_BY, S->accounts[0].key, KEY);
  return append_to_head(task, round, digest, 0, 0);
}

/* The chain cannot look into a list, so it bounds what all its leaves together may be paid. */
static u64 check_totals(const Account *vault, u8 *task, u64 reward_total, u64 slash_total) {
  u8 *last = task + TASK_NEWEST_LIST;
  u64 rewards, slashes, allowed;
  REQUIRE(reward_total >= U64(last, LIST_REWARD_TOTAL), ERR_TOTALS_DECREASE);
  REQUIRE(slash_total >= U64(last, LIST_SLASH_TOTAL), ERR_TOTALS_DECREASE);
  rewards = reward_total - U64(last, LIST_REWARD_TOTAL);
  slashes = slash_total - U64(last, LIST_SLASH_TOTAL);
  TRY(add(U64(task, TASK_BOUNTY_PER_ROUND), slashes, &allowed));
  REQUIRE(rewards <= allowed, ERR_REWARDS_ABOVE_BOUNTY);

  u64 unpaid, untaken, backing;
  TRY(subtract(reward_total, U64(task, TASK_PAID), &unpaid));
  TRY(subtract(slash_total, U64(task, TASK_SLASHED), &untaken));
  TRY(subtract(untaken, U64(task, TASK_FORGIVEN), &untaken));
  REQUIRE(untaken <= U64(task, TASK_TOTAL_STAKE), ERR_SLASHES_ABOVE_STAKES);
  TRY(vault_available(vault, &backing));
  TRY(add(backing, untaken, &backing));
  REQUIRE(unpaid <= backing, ERR_REWARDS_ABOVE_VAULT);
  return 0;
}

/* [staker S, task W, stake, vault] */
static u64 anchor_list(void) {
  REQUIRE(S->account_count == 4, ERR_ACCOUNT_COUNT);
  REQUIRE(S->data_length == ANCHOR_LIST_LENGTH, ERR_DATA_LENGTH);
  TRY(check_staker());
  TRY(check_vault(&S->accounts[1], &S->accounts[3]));
  u8 *task = S->accounts[1].data, *signer = S->accounts[0].key;
  u64 attempt = S->data[1], round = little_endian(S->data + 2, 8);
  const u8 *root = S->data + 10;
  u64 reward_total = little_endian(S->data + 42, 8), slash_total = little_endian(S->data + 50, 8);

  u64 opens, closes;
  TRY(list_window(task, round, attempt, &opens, &closes));
  REQUIRE(S->slot >= opens, ERR_LIST_EARLY);
  REQUIRE(S->slot < closes, ERR_LIST_LATE);
  u8 *place = ring_place(task, round), *newest = task + TASK_NEWEST_LIST;
  REQUIRE(holds(place, round), ERR_NO_COMMITMENT);
  REQUIRE(attempt == place[ROUND_ATTEMPT], ERR_WRONG_ATTEMPT);
  REQUIRE(place[ROUND_STATE] == ROUND_COMMITTED, ERR_LIST_EXISTS);
  REQUIRE(!same(place + ROUND_BARRED_COMMITTER, signer, KEY), ERR_BARRED);
  REQUIRE(!same(place + ROUND_BARRED_LISTER, signer, KEY), ERR_BARRED);
  REQUIRE(!stands(newest) || U64(newest, LIST_ROUND) < round, ERR_LIST_ORDER);
  TRY(check_totals(&S->accounts[3], task, reward_total, slash_total));

  place[ROUND_STATE] = ROUND_LISTED;
  sol_memcpy_(place + ROUND_LIST_ROOT, root, KEY);
  U64(place, ROUND_REWARD_TOTAL) = reward_total;
  U64(place, ROUND_SLASH_TOTAL) = slash_total;
  U64(place, ROUND_LIST_SLOT) = S->slot;
  sol_memcpy_(place + ROUND_LIST_BY, signer, KEY);
  sol_memcpy_(newest, place, LIST_SIZE);
  return append_to_head(task, round, root, reward_total, slash_total);
}

/* Lists that are audited in the same slots are of different rounds and therefore of different attempts. So one window
 * and a bit for each attempt in it are all that a stake has to remember to count once against each list. */
static u64 mark_veto(u8 *stake, u64 round, u64 attempt) {
  u64 window, bit = 1ULL << attempt; /* at most LAST_ATTEMPT */
  TRY(add(round, attempt + 1, &window));
  if (U64(stake, STAKE_VETO_WINDOW) != window) {
    U64(stake, STAKE_VETO_WINDOW) = window;
    U64(stake, STAKE_VETOES) = 0;
  }
  REQUIRE((U64(stake, STAKE_VETOES) & bit) == 0, ERR_ALREADY_VETOED);
  U64(stake, STAKE_VETOES) |= bit;
  return 0;
}

/* The stake of who anchored a part of the attempt; its bond may have to be taken. */
static u64 check_anchorer(const Account *task, const Account *stake, const u8 *anchored_by) {
  REQUIRE(stake->is_writable, ERR_NOT_WRITABLE);
  REQUIRE(check_stake(task, stake) == 0, ERR_WRONG_ANCHORER);
  REQUIRE(same(stake->data + STAKE_STAKER, anchored_by, KEY), ERR_WRONG_ANCHORER);
  return 0;
}

/* [staker S, task W, stake W, vault W, committer's stake W, lister's stake W], the committer's again if there is no list.
 * Against a list under audit. More than half of all stake rejects it; then those who anchored it lose their bonds. */
static u64 veto(void) {
  Account *vault = &S->accounts[3], *committer = &S->accounts[4], *lister = &S->accounts[5];
  REQUIRE(S->account_count == 6, ERR_ACCOUNT_COUNT);
  REQUIRE(S->data_length == VETO_LENGTH, ERR_DATA_LENGTH);
  TRY(check_staker());
  REQUIRE(S->accounts[2].is_writable && vault->is_writable, ERR_NOT_WRITABLE);
  TRY(check_vault(&S->accounts[1], vault));
  u8 *task = S->accounts[1].data, *stake = S->accounts[2].data;
  u64 attempt = S->data[1], round = little_endian(S->data + 2, 8);

  u64 opens, closes;
  TRY(list_audit(task, round, attempt, &opens, &closes));
  REQUIRE(S->slot >= opens, ERR_VETO_EARLY);
  REQUIRE(S->slot < closes, ERR_VETO_LATE);
  u8 *place = ring_place(task, round);
  REQUIRE(holds(place, round), ERR_NO_COMMITMENT);
  REQUIRE(attempt <= place[ROUND_ATTEMPT], ERR_WRONG_ATTEMPT);
  REQUIRE(attempt == place[ROUND_ATTEMPT] && place[ROUND_STATE] != ROUND_REJECTED, ERR_ALREADY_REJECTED);
  int has_list = place[ROUND_STATE] == ROUND_LISTED;
  TRY(check_anchorer(&S->accounts[1], committer, place + ROUND_COMMITMENT_BY));
  TRY(check_anchorer(&S->accounts[1], lister, place + (has_list ? ROUND_LIST_BY : ROUND_COMMITMENT_BY)));
  TRY(mark_veto(stake, round, attempt));
  TRY(add(U64(place, ROUND_VETO_STAKE), U64(stake, STAKE_AMOUNT), &U64(place, ROUND_VETO_STAKE)));
  if (U64(place, ROUND_VETO_STAKE) <= U64(task, TASK_TOTAL_STAKE) / 2) return 0; /* doubled, it could overflow */

  place[ROUND_STATE] = ROUND_REJECTED;
  TRY(take_bond(&S->accounts[1], vault, committer));
  if (has_list) TRY(take_bond(&S->accounts[1], vault, lister));
  sol_memcpy_(task + TASK_NEWEST_LIST, newest_standing(task), LIST_SIZE);
  return append_to_head(task, round, place + ROUND_LIST_ROOT, 0, 0);
}

#endif
