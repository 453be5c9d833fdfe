/* The settlement program of koii_p2p for Solana-family chains (sBPF v0): it holds a task's bounty and stakes and
 * enforces what must not be left to peers. Freestanding C: no libc, no SDK, only the runtime's syscalls.
 *
 * Offsets, sizes, tags and error codes come from layout.h, which scripts/build_program.py writes from
 * koii_p2p/settlement/layouts.py, instructions.py and refusals.py. What each instruction takes is documented there.
 *
 * Rules that hold for every instruction:
 *  - A transaction calls us directly, never another program: so the list of transactions is the whole history.
 *  - An account counts only with the right owner, size, magic and address; the address is derived again each time.
 *  - A new account's address is the canonical one of its seeds. With any other bump one staker could open several
 *    stake accounts and have one leaf paid into each.
 *  - A new account is funded, allocated and assigned in three steps. Anyone can send lamports to an address in
 *    advance, which would make the system program's create_account fail for ever.
 *  - Every sum, difference and product is checked. A refusal changes nothing.
 */
#include "anchors.h"
#include "leaves.h"

/* ---- CreateTask and Fund ---------------------------------------------------------------------------------------- */

/* The rules of koii_p2p/rounds/audit_rules.py: what no node could play must not be staked on. */
static u64 check_audit_rules(const u8 *rules) {
  u64 profile = rules[AUDIT_PROFILE], weights = rules[AUDIT_WEIGHTS], sealed = rules[AUDIT_SEALED];
  u64 auditors = U16(rules, AUDIT_AUDITORS), quorum = U16(rules, AUDIT_QUORUM);
  u64 audit_rate = U16(rules, AUDIT_AUDIT_RATE), canary_rate = U16(rules, AUDIT_CANARY_RATE);
  u64 floor = U16(rules, AUDIT_REPUTATION_FLOOR), finders_share = U16(rules, AUDIT_FINDERS_SHARE);
  u64 witness_seats = U16(rules, AUDIT_WITNESS_SEATS);
  REQUIRE(profile <= PROFILE_POSP && weights <= WEIGHTS_STAKE_TIME, ERR_TERMS_AUDIT);
  REQUIRE(sealed <= 1 && rules[AUDIT_RESERVED] == 0, ERR_TERMS_AUDIT);
  REQUIRE(auditors > 0 && auditors <= MAX_AUDITORS, ERR_TERMS_AUDIT);
  REQUIRE(quorum > 0 && quorum <= MAX_AUDITORS, ERR_TERMS_AUDIT);
  REQUIRE(U32(rules, AUDIT_CONFIDENCE) < MILLIONTHS, ERR_TERMS_AUDIT);
  REQUIRE(U16(rules, AUDIT_DISHONEST) < BASIS_POINTS, ERR_TERMS_AUDIT);
  REQUIRE(audit_rate > 0 && audit_rate <= BASIS_POINTS, ERR_TERMS_AUDIT);
  REQUIRE(canary_rate <= BASIS_POINTS && floor <= BASIS_POINTS, ERR_TERMS_AUDIT);
  REQUIRE(finders_share <= BASIS_POINTS && witness_seats <= MAX_WITNESS_SEATS, ERR_TERMS_AUDIT);
  REQUIRE(canary_rate == 0 || sealed, ERR_TERMS_AUDIT);
  if (profile == PROFILE_POSP) REQUIRE(audit_rate < BASIS_POINTS, ERR_TERMS_AUDIT);
  if (profile == PROFILE_KOII || profile == PROFILE_ALL)
    REQUIRE(audit_rate == BASIS_POINTS && floor == 0, ERR_TERMS_AUDIT);
  if (profile == PROFILE_KOII)
    REQUIRE(weights == WEIGHTS_EQUAL && !sealed && finders_share == 0 && witness_seats == 0, ERR_TERMS_AUDIT);
  return 0;
}

static u64 check_terms(const u8 *task) {
  u64 round_time = U64(task, TASK_ROUND_TIME);
  u64 submission = U64(task, TASK_SUBMISSION_WINDOW), audit = U64(task, TASK_AUDIT_WINDOW);
  REQUIRE(U64(task, TASK_STARTING_SLOT) <= MAX_STARTING_SLOT, ERR_TERMS_TIMING);
  REQUIRE(round_time > 0 && round_time <= MAX_ROUND_TIME, ERR_TERMS_TIMING);
  REQUIRE(submission > 0 && submission <= round_time, ERR_TERMS_TIMING);
  REQUIRE(audit > 0 && audit <= round_time - submission, ERR_TERMS_TIMING);
  REQUIRE(U64(task, TASK_MINIMUM_STAKE) > 0, ERR_TERMS_STAKE);
  REQUIRE(U16(task, TASK_SLASH_BASIS_POINTS) <= BASIS_POINTS, ERR_TERMS_STAKE);
  REQUIRE(U16(task, TASK_ALLOWED_FAILED_DISTRIBUTIONS) <= MAX_FAILED_DISTRIBUTIONS, ERR_TERMS_AUDIT);
  TRY(check_audit_rules(task + TASK_AUDIT));
  REQUIRE(task[TASK_AUDIT + AUDIT_PROFILE] == PROFILE_KOII || audit >= SHORTEST_AUDIT, ERR_TERMS_TIMING);
  REQUIRE(task[TASK_NAME] != 0, ERR_TERMS_NAME);
  return 0;
}

/* [creator SW, task W, vault W, system program] */
static u64 create_task(void) {
  Account *creator = &S->accounts[0], *task = &S->accounts[1], *vault = &S->accounts[2], *system = &S->accounts[3];
  const u8 *nonce = S->data + 1, *terms = S->data + 9;
  REQUIRE(S->account_count == 4, ERR_ACCOUNT_COUNT);
  REQUIRE(S->data_length == CREATE_TASK_LENGTH, ERR_DATA_LENGTH);
  REQUIRE(creator->is_signer, ERR_MISSING_SIGNATURE);
  REQUIRE(creator->is_writable && task->is_writable && vault->is_writable, ERR_NOT_WRITABLE);
  TRY(check_system_program(system));
  TRY(read_slot());

  task_seeds(creator->key, nonce);
  TRY(find_address(task, ERR_WRONG_TASK_ADDRESS));
  u8 task_bump = S->bump;
  TRY(open_account(system, creator, task, TASK_SIZE));
  vault_seeds(task->key);
  TRY(find_address(vault, ERR_WRONG_VAULT_ADDRESS));
  u8 vault_bump = S->bump;
  TRY(open_account(system, creator, vault, VAULT_SIZE));

  U64(task->data, TASK_MAGIC) = TASK_MAGIC_VALUE;
  task->data[TASK_VERSION] = LAYOUT_VERSION;
  task->data[TASK_BUMP] = task_bump;
  task->data[TASK_VAULT_BUMP] = vault_bump;
  task->data[TASK_ACTIVE] = 1;
  sol_memcpy_(task->data + TASK_CREATOR, creator->key, KEY);
  sol_memcpy_(task->data + TASK_NONCE, nonce, 8);
  sol_memcpy_(task->data + TASK_NAME, terms, TERMS_LENGTH); /* the instruction holds the terms as the account does */
  U64(task->data, TASK_CREATED_SLOT) = S->slot;
  U64(vault->data, VAULT_MAGIC) = VAULT_MAGIC_VALUE;
  sol_memcpy_(vault->data + VAULT_TASK, task->key, KEY);
  return check_terms(task->data);
}

/* [funder SW, task W, vault W, system program] */
static u64 fund(void) {
  Account *funder = &S->accounts[0], *task = &S->accounts[1], *vault = &S->accounts[2], *system = &S->accounts[3];
  REQUIRE(S->account_count == 4, ERR_ACCOUNT_COUNT);
  REQUIRE(S->data_length == FUND_LENGTH, ERR_DATA_LENGTH);
  REQUIRE(funder->is_signer, ERR_MISSING_SIGNATURE);
  REQUIRE(funder->is_writable && vault->is_writable, ERR_NOT_WRITABLE);
  TRY(check_system_program(system));
  TRY(check_task(task));
  TRY(check_vault(task, vault));
  u64 amount = little_endian(S->data + 1, 8);
  REQUIRE(amount > 0, ERR_ZERO_AMOUNT);
  TRY(add(U64(task->data, TASK_FUNDED), amount, &U64(task->data, TASK_FUNDED)));
  return transfer(system, funder, vault, amount);
}

/* ---- SetActive, UpdateTask and Close ------------------------------------------------------------------------------ */

/* [creator S, task W, ...]: the task, and that its creator asks. */
static u64 check_creator(void) {
  Account *creator = &S->accounts[0], *task = &S->accounts[1];
  REQUIRE(creator->is_signer, ERR_MISSING_SIGNATURE);
  TRY(check_task(task));
  REQUIRE(same(task->data + TASK_CREATOR, creator->key, KEY), ERR_NOT_THE_CREATOR);
  return read_slot();
}

/* [creator S, task W]. An inactive task takes no stakes, and no commitment to a round whose work began later: whoever
 * has worked by then is paid, and whoever has cheated is slashed. Active again, it goes on with the next round. */
static u64 set_active(void) {
  REQUIRE(S->account_count == 2, ERR_ACCOUNT_COUNT);
  REQUIRE(S->data_length == SET_ACTIVE_LENGTH, ERR_DATA_LENGTH);
  TRY(check_creator());
  u8 *task = S->accounts[1].data, active = S->data[1];
  REQUIRE(active <= 1, ERR_NOT_A_FLAG);
  if (active == task[TASK_ACTIVE]) return 0;
  task[TASK_ACTIVE] = active;
  if (active) {
    U64(task, TASK_IDLE_UNTIL) = roster_interval(task, S->slot);
  } else {
    U64(task, TASK_IDLE_FROM) = roster_interval(task, S->slot); /* the round after the one that is worked on */
    U64(task, TASK_IDLE_UNTIL) = NEVER;
  }
  return 0;
}

/* [creator S, task W, successor], the task itself as successor for none. Terms never change: who wants others creates
 * another task and names it here. Stakers go there themselves. */
static u64 update_task(void) {
  Account *task = &S->accounts[1], *successor = &S->accounts[2];
  REQUIRE(S->account_count == 3, ERR_ACCOUNT_COUNT);
  REQUIRE(S->data_length == UPDATE_TASK_LENGTH, ERR_DATA_LENGTH);
  TRY(check_creator());
  if (same(successor->key, task->key, KEY)) {
    sol_memset_(task->data + TASK_SUCCESSOR, 0, KEY);
  } else {
    REQUIRE(check_genuine_task(successor) == 0, ERR_WRONG_SUCCESSOR);
    sol_memcpy_(task->data + TASK_SUCCESSOR, successor->key, KEY);
  }
  sol_memcpy_(task->data + TASK_METADATA, S->data + 1, UPDATE_TASK_LENGTH - 1);
  U64(task->data, TASK_UPDATED_SLOT) = S->slot;
  return 0;
}

/* [creator SW, task W, vault W]: what is left of the bounty, and the rent, to the creator. What remains is a small account
 * that keeps the address from being used again, and the head that proves the history. */
static u64 close_task(void) {
  Account *creator = &S->accounts[0], *task = &S->accounts[1], *vault = &S->accounts[2];
  REQUIRE(S->account_count == 3, ERR_ACCOUNT_COUNT);
  REQUIRE(S->data_length == CLOSE_LENGTH, ERR_DATA_LENGTH);
  REQUIRE(creator->is_writable && vault->is_writable, ERR_NOT_WRITABLE);
  TRY(check_creator());
  TRY(check_vault(task, vault));
  REQUIRE(!task->data[TASK_ACTIVE], ERR_TASK_ACTIVE);
  REQUIRE(U64(task->data, TASK_TOTAL_STAKE) == 0, ERR_STAKES_REMAIN);
  u64 rounds = U64(task->data, TASK_IDLE_FROM), opens, ends, owed = 0, minimum;
  if (rounds > 0) {
    TRY(list_audit(task->data, rounds - 1, U16(task->data, TASK_ALLOWED_FAILED_DISTRIBUTIONS), &opens, &ends));
    REQUIRE(S->slot >= ends, ERR_ROUNDS_OPEN);
  }
  u8 *list = 0;
  TRY(newest_settled(task->data, &list));
  if (stands(list)) {
    TRY(subtract(U64(list, LIST_REWARD_TOTAL), U64(task->data, TASK_PAID), &owed));
    TRY(abandoned_at(task->data, U64(list, LIST_SLOT), &ends));
    REQUIRE(owed == 0 || S->slot >= ends, ERR_REWARDS_OWED);
  }

  u8 *kept = S->closed;
  sol_memset_(kept, 0, CLOSED_TASK_SIZE);
  U64(kept, CLOSED_TASK_MAGIC) = CLOSED_MAGIC_VALUE;
  kept[CLOSED_TASK_VERSION] = LAYOUT_VERSION;
  kept[CLOSED_TASK_BUMP] = task->data[TASK_BUMP];
  sol_memcpy_(kept + CLOSED_TASK_CREATOR, task->data + TASK_CREATOR, KEY + 8); /* and the nonce behind it */
  sol_memcpy_(kept + CLOSED_TASK_HEAD, task->data + TASK_HEAD, KEY + 8);       /* and the number of anchors */
  U64(kept, CLOSED_TASK_CLOSED_SLOT) = S->slot;
  sol_memcpy_(kept + CLOSED_TASK_SUCCESSOR, task->data + TASK_SUCCESSOR, KEY);
  wipe_but(task, CLOSED_TASK_SIZE);
  sol_memcpy_(task->data, kept, CLOSED_TASK_SIZE);
  TRY(rent_minimum(CLOSED_TASK_SIZE, &minimum));
  TRY(subtract(*task->lamports, minimum, &ends));
  TRY(move_lamports(task, creator, ends));
  TRY(move_lamports(vault, creator, *vault->lamports));
  wipe(vault);
  return 0;
}

/* ---- entry ------------------------------------------------------------------------------------------------------ */

__attribute__((section(".text"))) u64 entrypoint(u8 *input) {
  TRY(read_input(input));
  REQUIRE(sol_get_stack_height() == TRANSACTION_HEIGHT, ERR_CALLED_BY_PROGRAM);
  REQUIRE(S->data_length >= 1, ERR_DATA_LENGTH);
  switch (S->data[0]) {
    case TAG_CREATE_TASK: return create_task();
    case TAG_FUND: return fund();
    case TAG_STAKE: return stake_or_top_up();
    case TAG_ANCHOR_COMMITMENT: return anchor_commitment();
    case TAG_ANCHOR_LIST: return anchor_list();
    case TAG_VETO: return veto();
    case TAG_SETTLE: return settle();
    case TAG_SET_ACTIVE: return set_active();
    case TAG_REQUEST_UNSTAKE: return request_unstake();
    case TAG_WITHDRAW: return withdraw();
    case TAG_CLOSE: return close_task();
    case TAG_UPDATE_TASK: return update_task();
    case TAG_CLOSE_STAKE: return close_stake();
    default: return ERR_UNKNOWN_TAG;
  }
}
