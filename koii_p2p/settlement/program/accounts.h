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
  REQUIRE(account->data_length == size, ERR_WRONG_SIZE);
  REQUIRE(U64(account->data, 0) == magic, ERR_WRONG_MAGIC);
  return 0;
}

static u64 check_task(const Account *task) {
  REQUIRE(task->is_writable, ERR_NOT_WRITABLE);
  TRY(check_kind(task, TASK_SIZE, TASK_MAGIC_VALUE));
  REQUIRE(task->data[TASK_VERSION] == LAYOUT_VERSION, ERR_WRONG_MAGIC);
  task_seeds(task->data + TASK_CREATOR, task->data + TASK_NONCE);
  return check_address(task, task->data[TASK_BUMP], ERR_WRONG_TASK_ADDRESS);
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

/* ---- windows of a task ------------------------------------------------------------------------------------------ */

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

/* When the audit of a round's list is over and leaves may be settled. */
static u64 settles_at(const u8 *task, u64 round, u64 *slot) {
  return slot_of(task, round, 2, both_windows(task), slot);
}

/* 0 before the first round, then 1, 2, ...: rosters are taken where this number changes, and nowhere else. */
static u64 roster_interval(const u8 *task, u64 slot) {
  u64 start = U64(task, TASK_STARTING_SLOT);
  return slot < start ? 0 : 1 + (slot - start) / U64(task, TASK_ROUND_TIME);
}

#endif
