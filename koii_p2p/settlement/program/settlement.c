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
#include "accounts.h"

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

/* ---- Stake ------------------------------------------------------------------------------------------------------ */

/* Remembers the stake after a change. Only the last change before the start of a period can matter to a roster, so
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
  U64(entry, CHECKPOINT_STAKE) = U64(stake, STAKE_AMOUNT);
  U64(entry, CHECKPOINT_SLASH_TOTAL) = U64(stake, STAKE_SLASH_TOTAL);
}

/* [payer SW, staker S, task W, stake W, system program] */
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
  checkpoint(task->data, stake->data);
  return transfer(system, payer, stake, amount);
}

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

/* [staker S, task W, stake W]: against a list under audit. More than half of all stake rejects it. */
static u64 veto(void) {
  REQUIRE(S->account_count == 3, ERR_ACCOUNT_COUNT);
  REQUIRE(S->data_length == VETO_LENGTH, ERR_DATA_LENGTH);
  TRY(check_staker());
  REQUIRE(S->accounts[2].is_writable, ERR_NOT_WRITABLE);
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
  TRY(mark_veto(stake, round, attempt));
  TRY(add(U64(place, ROUND_VETO_STAKE), U64(stake, STAKE_AMOUNT), &U64(place, ROUND_VETO_STAKE)));
  if (U64(place, ROUND_VETO_STAKE) <= U64(task, TASK_TOTAL_STAKE) / 2) return 0; /* doubled, it could overflow */

  place[ROUND_STATE] = ROUND_REJECTED;
  sol_memcpy_(task + TASK_NEWEST_LIST, newest_standing(task), LIST_SIZE);
  return append_to_head(task, round, place + ROUND_LIST_ROOT, 0, 0);
}

/* ---- Settle ----------------------------------------------------------------------------------------------------- */

/* The standing list of a round, from the ring or, after a long pause, from the header. */
static u64 find_list(u8 *task, u64 round, const u8 **list) {
  u8 *place = ring_place(task, round);
  *list = holds(place, round) ? place : task + TASK_SETTLED_LIST;
  REQUIRE(stands(*list) && U64(*list, LIST_ROUND) == round, ERR_NO_LIST);
  return 0;
}

/* RFC 6962: leaf hash SHA-256(0x00 || leaf), node hash SHA-256(0x01 || left || right). */
static u64 check_proof(const u8 *leaf, const u8 *root, u64 directions, u64 count, const u8 *siblings) {
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

/* [task W, vault W, stake W, beneficiary W]; nobody signs.
 * A slash never waits for the beneficiary: passed read-only, it is not paid and the reward stays claimable. */
static u64 settle(void) {
  Account *task = &S->accounts[0], *vault = &S->accounts[1], *stake = &S->accounts[2], *beneficiary = &S->accounts[3];
  REQUIRE(S->account_count == 4, ERR_ACCOUNT_COUNT);
  REQUIRE(S->data_length >= SETTLE_LENGTH, ERR_DATA_LENGTH);
  const u8 *leaf = S->data + 9, *siblings = S->data + SETTLE_LENGTH;
  u64 round = little_endian(S->data + 1, 8), directions = little_endian(S->data + 57, 4), count = S->data[61];
  REQUIRE(count <= PROOF_SIBLINGS && directions >> count == 0, ERR_PROOF_SHAPE);
  REQUIRE(S->data_length == SETTLE_LENGTH + KEY * count, ERR_DATA_LENGTH);
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
  TRY(check_proof(leaf, list + LIST_ROOT, directions, count, siblings));

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
    case TAG_SET_ACTIVE:
    case TAG_REQUEST_UNSTAKE:
    case TAG_WITHDRAW:
    case TAG_CLOSE:
    case TAG_UPDATE_TASK: return ERR_RESERVED_TAG;
    default: return ERR_UNKNOWN_TAG;
  }
}
