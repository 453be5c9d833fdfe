/* The program's own accounts: their addresses, what makes one genuine, how one is opened, and the windows of a task. */
#ifndef KOII_P2P_ACCOUNTS_H
#define KOII_P2P_ACCOUNTS_H
#include "runtime.h"

/* ---- addresses -------------------------------------------------------------------------------------------------- */

static void seed(const void *start, u64 length) {
  S->seeds[S->seed_count].start = start;
  S->seeds[S->seed_count].length = length;
  S->seed_count++;
}

static void task_seeds(const u8 *creator, const u8 *nonce) {
  S->seed_count = 0;
  seed("task", 4);
  seed(creator, KEY);
  seed(nonce, 8);
}

static void vault_seeds(const u8 *task) {
  S->seed_count = 0;
  seed("vault", 5);
  seed(task, KEY);
}

static void stake_seeds(const u8 *task, const u8 *staker) {
  S->seed_count = 0;
  seed("stake", 5);
  seed(task, KEY);
  seed(staker, KEY);
}

/* The canonical address of the seeds; leaves its bump in S->bump and appends it to the seeds. */
static u64 find_address(const Account *account, u64 error) {
  REQUIRE(sol_try_find_program_address(S->seeds, S->seed_count, S->program, S->address, &S->bump) == 0, error);
  REQUIRE(same(S->address, account->key, KEY), error);
  seed(&S->bump, 1);
  return 0;
}

static u64 check_address(const Account *account, u8 bump, u64 error) {
  S->bump = bump;
  seed(&S->bump, 1);
  REQUIRE(sol_create_program_address(S->seeds, S->seed_count, S->program, S->address) == 0, error);
  REQUIRE(same(S->address, account->key, KEY), error);
  return 0;
}

/* ---- accounts of ours ------------------------------------------------------------------------------------------- */

static u64 check_kind(const Account *account, u64 size, u64 magic) {
  REQUIRE(same(account->owner, S->program, KEY), ERR_WRONG_OWNER);
  REQUIRE(size != TASK_SIZE || account->data_length != CLOSED_TASK_SIZE, ERR_TASK_CLOSED);
  REQUIRE(account->data_length == size, ERR_WRONG_SIZE);
  REQUIRE(U64(account->data, 0) == magic, ERR_WRONG_MAGIC);
  return 0;
}

static u64 check_genuine_task(const Account *task) {
  TRY(check_kind(task, TASK_SIZE, TASK_MAGIC_VALUE));
  REQUIRE(task->data[TASK_VERSION] == LAYOUT_VERSION, ERR_WRONG_MAGIC);
  task_seeds(task->data + TASK_CREATOR, task->data + TASK_NONCE);
  return check_address(task, task->data[TASK_BUMP], ERR_WRONG_TASK_ADDRESS);
}

/* Every instruction takes its task as an account to change, so that the task's transactions are its whole history. */
static u64 check_task(const Account *task) {
  REQUIRE(task->is_writable, ERR_NOT_WRITABLE);
  return check_genuine_task(task);
}

static u64 check_closed_task(const Account *task) {
  REQUIRE(!same(task->owner, S->program, KEY) || task->data_length != TASK_SIZE, ERR_TASK_NOT_CLOSED);
  TRY(check_kind(task, CLOSED_TASK_SIZE, CLOSED_MAGIC_VALUE));
  task_seeds(task->data + CLOSED_TASK_CREATOR, task->data + CLOSED_TASK_NONCE);
  return check_address(task, task->data[CLOSED_TASK_BUMP], ERR_WRONG_TASK_ADDRESS);
}

static u64 check_vault(const Account *task, const Account *vault) {
  TRY(check_kind(vault, VAULT_SIZE, VAULT_MAGIC_VALUE));
  vault_seeds(task->key);
  return check_address(vault, task->data[TASK_VAULT_BUMP], ERR_WRONG_VAULT_ADDRESS);
}

static u64 check_stake(const Account *task, const Account *stake) {
  TRY(check_kind(stake, STAKE_SIZE, STAKE_MAGIC_VALUE));
  REQUIRE(stake->data[STAKE_VERSION] == LAYOUT_VERSION, ERR_WRONG_MAGIC);
  REQUIRE(same(stake->data + STAKE_TASK, task->key, KEY), ERR_STAKE_OF_ANOTHER_TASK);
  stake_seeds(task->key, stake->data + STAKE_STAKER);
  return check_address(stake, stake->data[STAKE_BUMP], ERR_WRONG_STAKE_ADDRESS);
}

/* What the vault can pay: its lamports above the rent minimum. */
static u64 vault_available(const Account *vault, u64 *available) {
  u64 minimum;
  TRY(rent_minimum(VAULT_SIZE, &minimum));
  *available = *vault->lamports > minimum ? *vault->lamports - minimum : 0;
  return 0;
}

/* Turns an unused address into an account of ours with `size` zero bytes; S->seeds must hold its seeds and bump. */
static u64 open_account(const Account *system, const Account *payer, Account *account, u64 size) {
  REQUIRE(same(account->owner, system->key, KEY) && account->data_length == 0, ERR_ALREADY_EXISTS);
  u64 minimum;
  TRY(rent_minimum(size, &minimum));
  if (*account->lamports < minimum) TRY(transfer(system, payer, account, minimum - *account->lamports));
  S->metas[0].key = account->key;
  S->metas[0].is_writable = 1;
  S->metas[0].is_signer = 1;
  put_call_data(SYSTEM_ALLOCATE, size);
  TRY(call_system(system, 1, 12, 1));
  account->data_length = size; /* the runtime compares this with what it allocated in the next call */
  put_call_data(SYSTEM_ASSIGN, 0);
  sol_memcpy_(S->call_data + 4, S->program, KEY);
  return call_system(system, 1, 36, 1);
}

/* Zeroes an account of ours and cuts it to `size` bytes. */
static void wipe_but(Account *account, u64 size) {
  sol_memset_(account->data, 0, account->data_length);
  account->data_length = size;
  *(u64 *)(account->data - 8) = size; /* where the runtime reads it */
}

/* Gives an emptied account back to the system program: Roe that anyone sends it in the same transaction would
 * otherwise keep it alive with its old bytes. */
static void wipe(Account *account) {
  wipe_but(account, 0);
  sol_memset_(account->owner, 0, KEY);
}

/* ---- windows of a task: those of koii_p2p/rounds/clock.py ------------------------------------------------------- */

/* The first slot of period `round + later`, plus `offset`. */
static u64 slot_of(const u8 *task, u64 round, u64 later, u64 offset, u64 *slot) {
  u64 period, length, start;
  TRY(add(round, later, &period));
  TRY(multiply(period, U64(task, TASK_ROUND_TIME), &length));
  TRY(add(U64(task, TASK_STARTING_SLOT), length, &start));
  return add(start, offset, slot);
}

static u64 both_windows(const u8 *task) { /* cannot overflow: at most one round */
  return U64(task, TASK_SUBMISSION_WINDOW) + U64(task, TASK_AUDIT_WINDOW);
}

/* Where an attempt after the first is committed to and listed: from the opening of the audit in which the attempt
 * before it was rejected to the end of that period. */
static u64 retry_window(const u8 *task, u64 round, u64 attempt, u64 *opens, u64 *closes) {
  TRY(slot_of(task, round, attempt + 1, U64(task, TASK_SUBMISSION_WINDOW), opens));
  return slot_of(task, round, attempt + 2, 0, closes);
}

static u64 commitment_window(const u8 *task, u64 round, u64 attempt, u64 *opens, u64 *closes) {
  if (attempt != FIRST_ATTEMPT) return retry_window(task, round, attempt, opens, closes);
  TRY(slot_of(task, round, 1, both_windows(task), opens));
  return slot_of(task, round, 2, U64(task, TASK_SUBMISSION_WINDOW), closes);
}

static u64 list_window(const u8 *task, u64 round, u64 attempt, u64 *opens, u64 *closes) {
  if (attempt != FIRST_ATTEMPT) return retry_window(task, round, attempt, opens, closes);
  TRY(slot_of(task, round, 2, 0, opens));
  return slot_of(task, round, 2, U64(task, TASK_SUBMISSION_WINDOW), closes);
}

/* Where a list may be vetoed; when it closes, the list is final and leaves may be settled. */
static u64 list_audit(const u8 *task, u64 round, u64 attempt, u64 *opens, u64 *closes) {
  TRY(slot_of(task, round, attempt + 2, U64(task, TASK_SUBMISSION_WINDOW), opens));
  return slot_of(task, round, attempt + 2, both_windows(task), closes);
}

/* 0 before the first round, then 1, 2, ...: rosters are taken where this number changes, and nowhere else. */
static u64 roster_interval(const u8 *task, u64 slot) {
  u64 start = U64(task, TASK_STARTING_SLOT);
  return slot < start ? 0 : 1 + (slot - start) / U64(task, TASK_ROUND_TIME);
}

/* Whether the work of this round began, or would have, while the task was inactive. Of several such times the last one
 * counts: rounds of one before it are past their windows, or nobody has worked in them. */
static int is_idle(const u8 *task, u64 round) {
  return round >= U64(task, TASK_IDLE_FROM) && round < U64(task, TASK_IDLE_UNTIL);
}

/* ---- rounds and lists of a task --------------------------------------------------------------------------------- */

/* A round's place begins with what a list is, byte for byte: LIST_ fields can be read from either. */

static u8 *ring_place(u8 *task, u64 round) {
  return task + TASK_ROUNDS + round % ROUND_RING * ROUND_SIZE;
}

/* Whether the ring still remembers this round: each place serves every sixteenth round. */
static int holds(const u8 *place, u64 round) {
  return place[ROUND_STATE] != ROUND_EMPTY && U64(place, ROUND_NUMBER) == round;
}

/* A list stands from when it is anchored unless it is rejected. */
static int stands(const u8 *list) {
  return list[LIST_STATE] == ROUND_LISTED;
}

static int is_newer(const u8 *list, const u8 *other) {
  return stands(list) && (!stands(other) || U64(list, LIST_ROUND) > U64(other, LIST_ROUND));
}

static u64 is_past_audit(const u8 *task, const u8 *list, int *past) {
  u64 opens, closes;
  TRY(list_audit(task, U64(list, LIST_ROUND), list[LIST_ATTEMPT], &opens, &closes));
  *past = S->slot >= closes;
  return 0;
}

/* The ring holds every list that can still be rejected; of the lists that it has forgotten, the header holds the newest
 * (keep_settled). The next two look there, so it does not matter how many rounds are retried at once. */

/* The standing list of the highest round. */
static u8 *newest_standing(u8 *task) {
  u8 *newest = task + TASK_SETTLED_LIST;
  for (u64 i = 0; i < ROUND_RING; i++) {
    u8 *place = ring_place(task, i);
    if (is_newer(place, newest)) newest = place;
  }
  return newest;
}

/* The newest list that is past its audit: its totals bound everything ever paid and taken, whatever lists the leaves
 * came from, and nothing can reject it any more. */
static u64 newest_settled(u8 *task, u8 **newest) {
  *newest = task + TASK_SETTLED_LIST;
  for (u64 i = 0; i < ROUND_RING; i++) {
    u8 *place = ring_place(task, i);
    int past = 0;
    if (is_newer(place, *newest)) TRY(is_past_audit(task, place, &past));
    if (past) *newest = place;
  }
  return 0;
}

/* Before a place of the ring goes to another round: the list in it, or a newer one past its audit, is kept. All
 * attempts of a round are over when its place is wanted (LAST_ATTEMPT), so a list in it is past its audit. */
static u64 keep_settled(u8 *task) {
  u8 *list;
  TRY(newest_settled(task, &list));
  if (list != task + TASK_SETTLED_LIST) sol_memcpy_(task + TASK_SETTLED_LIST, list, LIST_SIZE);
  return 0;
}

#endif
