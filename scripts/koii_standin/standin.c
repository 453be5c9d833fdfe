/* NOT Koii's program. A stand-in for its task program, whose source is not public: it takes the same instruction bytes
 * and accounts, so that a client written for them executes real transactions. What it makes of them is our reading of
 * Koii's documents; where they are open it implements both readings, chosen by letters behind "standin " in the
 * local_vars of CreateTask (see READINGS in state.py). It was never compared with the real program on K2.
 *
 * It differs knowingly: its state is the table below, not Koii's JSON or Borsh (state.py renders those); the stake pot
 * and whoever pays into it are accounts of this program, since an sBPF program cannot debit others; with the KPL
 * dialect no token moves, only the numbers; nothing is ever dropped from the state; nobody is selected to submit the list.
 */
typedef unsigned char u8;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef long long i64;

typedef struct {
  u8 *key;
  u64 *lamports;
  u64 length;
  u8 *data, *owner;
  u8 is_signer, is_writable;
} Account;

extern u64 sol_get_clock_sysvar(void *clock);
extern u64 sol_memcpy_(void *to, const void *from, u64 length);
extern u64 sol_memcmp_(const void *a, const void *b, u64 length, int *result);

#define MAX_ACCOUNTS 10
typedef struct {
  Account accounts[MAX_ACCOUNTS];
  u64 count, length, slot;
  u64 clock[5];
  const u8 *data;
  u8 *program;
  u8 key[32];
  u32 limbs[8];
} Scratch;
#define S ((Scratch *)0x300000000ULL)

#define REQUIRE(condition, error)     \
  do {                                \
    if (!(condition)) return (error); \
  } while (0)
#define TRY(expression)             \
  do {                              \
    u64 error_ = (expression);      \
    if (error_ != 0) return error_; \
  } while (0)

enum { /* errors: 0x100 + */
  E_ACCOUNTS = 0x101, E_LENGTH, E_SIGNER, E_OWNER, E_WRITABLE, E_STATE, E_WINDOW, E_NOT_STAKED, E_TWICE, E_NO_CANDIDATE,
  E_FULL, E_AMOUNT, E_LOCKED, E_BAD_LIST, E_UNKNOWN, E_NOT_OWNER, E_INACTIVE, E_DIALECT
};

/* state: the header, room for MEMBERS members, then rows as they came */
#define H_MAGIC 0
#define H_MANAGER 8
#define H_POT 40
#define H_TOTAL_BOUNTY 72
#define H_BOUNTY 80
#define H_ROUND_TIME 88
#define H_AUDIT_WINDOW 96
#define H_SUBMISSION_WINDOW 104
#define H_MINIMUM_STAKE 112
#define H_ALLOWED_FAILED 120
#define H_STARTING_SLOT 128
#define H_FLAGS 136
#define H_ACTIVE 144
#define H_MEMBERS 152
#define H_ROWS 156
#define H_TEXTS 160 /* name 24, description 64, audit program 64, network 64, metadata 64, local vars 64 */
#define MEMBERS_AT 512
#define MEMBERS 128
#define MEMBER 120 /* key 32, stake, balance, last round + 1, address 64 */
#define ROWS_AT (MEMBERS_AT + MEMBERS * MEMBER)
#define ROW 600 /* kind, valid, raise; round at 8, slot 16, author 24, candidate or data account 56, value 88 */
#define MAGIC 0x4e49444e4154534bULL /* "KSTANDIN" */

enum { SUBMISSION = 1, LIST, SUBMISSION_VOTE, LIST_VOTE, PAID, FAILED };
#define F_KPL 1      /* one-byte flags; set by CreateTask's length */
#define F_REPLACES 2 /* R: a second submission replaces the first */
#define F_RAW 4      /* W: pieces of 512 bytes without number or round */
#define F_NO_VOTE 8  /* V: raising an audit is no vote */
#define F_NO_ADDRESS 16 /* A: Stake without an address */
#define F_SUBMITTERS 32 /* L: list keys, and who submits the list, must have submitted in the round */

#define U64(data, offset) (*(u64 *)((data) + (offset)))
#define U32(data, offset) (*(u32 *)((data) + (offset)))

static u64 number(const u8 *from) {
  u64 value = 0;
  for (u64 i = 0; i < 8; i++) value |= (u64)from[i] << (8 * i);
  return value;
}

static int same(const void *a, const void *b) {
  int result = 1;
  sol_memcmp_(a, b, 32, &result);
  return result == 0;
}

static u8 *member(u8 *task, const u8 *key) {
  for (u64 i = 0; i < U32(task, H_MEMBERS); i++) {
    u8 *one = task + MEMBERS_AT + i * MEMBER;
    if (same(one, key)) return one;
  }
  return 0;
}

static u8 *row(u8 *task, u64 kind, u64 round, const u8 *author, const u8 *candidate) {
  for (u64 i = 0; i < U32(task, H_ROWS); i++) {
    u8 *one = task + ROWS_AT + i * ROW;
    if (one[0] != kind || U64(one, 8) != round) continue;
    if ((!author || same(one + 24, author)) && (!candidate || same(one + 56, candidate))) return one;
  }
  return 0;
}

static u64 new_row(Account *task, u64 kind, u64 round, const u8 *author, const u8 *candidate, u8 **made) {
  u64 count = U32(task->data, H_ROWS);
  REQUIRE(ROWS_AT + (count + 1) * ROW <= task->length, E_FULL);
  u8 *one = task->data + ROWS_AT + count * ROW;
  one[0] = kind;
  U64(one, 8) = round;
  U64(one, 16) = S->slot;
  sol_memcpy_(one + 24, author, 32);
  if (candidate) sol_memcpy_(one + 56, candidate, 32);
  U32(task->data, H_ROWS) = count + 1;
  *made = one;
  return 0;
}

/* Half-open, in slots: [start of period round + later, + from) to its + to. */
static u64 window(const u8 *task, u64 round, u64 later, u64 from, u64 to) {
  REQUIRE(round < (1ULL << 31), E_WINDOW);
  u64 start = U64(task, H_STARTING_SLOT) + (round + later) * U64(task, H_ROUND_TIME);
  REQUIRE(S->slot >= start + from && S->slot < start + to, E_WINDOW);
  return 0;
}

static u64 check_task(Account *task) {
  REQUIRE(task->is_writable, E_WRITABLE);
  REQUIRE(same(task->owner, S->program), E_OWNER);
  REQUIRE(task->length >= ROWS_AT && U64(task->data, H_MAGIC) == MAGIC, E_STATE);
  return 0;
}

static u64 check_signer(const Account *account) {
  REQUIRE(account->is_signer, E_SIGNER);
  REQUIRE(account->is_writable, E_WRITABLE);
  return 0;
}

static u64 move(Account *from, Account *to, u64 amount) {
  REQUIRE(same(from->owner, S->program), E_OWNER);
  REQUIRE(from->is_writable && to->is_writable, E_WRITABLE);
  REQUIRE(*from->lamports >= amount, E_AMOUNT);
  *from->lamports -= amount;
  *to->lamports += amount;
  return 0;
}

/* native: payer SW, task SW, pot W, clock; KPL: payer SW, token W, task SW, pot SW, authority W, mint, clock, ... */
static u64 create_task(void) {
  int kpl = S->length == 433;
  REQUIRE(kpl || S->length == 401, E_LENGTH);
  REQUIRE(S->count >= (kpl ? 10 : 4), E_ACCOUNTS);
  Account *payer = &S->accounts[0], *task = &S->accounts[kpl ? 2 : 1], *pot = &S->accounts[kpl ? 3 : 2];
  TRY(check_signer(payer));
  TRY(check_signer(task));
  REQUIRE(pot->is_writable, E_WRITABLE);
  REQUIRE(same(task->owner, S->program) && same(pot->owner, S->program), E_OWNER);
  u8 *state = task->data;
  REQUIRE(task->length >= ROWS_AT && U64(state, H_MAGIC) == 0, E_STATE);
  const u8 *d = S->data + 1;
  U64(state, H_MAGIC) = MAGIC;
  sol_memcpy_(state + H_MANAGER, payer->key, 32);
  sol_memcpy_(state + H_POT, pot->key, 32);
  sol_memcpy_(state + H_TEXTS, d, 24 + 64 + 64 + 64);
  d += 216;
  U64(state, H_TOTAL_BOUNTY) = number(d);
  U64(state, H_BOUNTY) = number(d + 8);
  U64(state, H_ROUND_TIME) = number(d + 16);
  U64(state, H_AUDIT_WINDOW) = number(d + 24);
  U64(state, H_SUBMISSION_WINDOW) = number(d + 32);
  U64(state, H_MINIMUM_STAKE) = number(d + 40);
  sol_memcpy_(state + H_TEXTS + 216, d + 48, 128);
  U64(state, H_ALLOWED_FAILED) = number(d + 176);
  U64(state, H_STARTING_SLOT) = S->slot;
  U64(state, H_ACTIVE) = 1;
  u64 rt = U64(state, H_ROUND_TIME), aw = U64(state, H_AUDIT_WINDOW), sw = U64(state, H_SUBMISSION_WINDOW);
  REQUIRE(rt < (1ULL << 32) && sw > 0 && aw > 0 && sw <= rt && aw <= rt - sw, E_WINDOW);
  u64 flags = kpl ? F_KPL : 0;
  for (const u8 *c = d + 48 + 64 + 8, *end = d + 48 + 128; c < end; c++) { /* behind "standin " */
    if (*c == 'R') flags |= F_REPLACES;
    if (*c == 'W') flags |= F_RAW;
    if (*c == 'V') flags |= F_NO_VOTE;
    if (*c == 'A') flags |= F_NO_ADDRESS;
    if (*c == 'L') flags |= F_SUBMITTERS;
  }
  U64(state, H_FLAGS) = flags;
  return 0;
}

static u64 staked(u8 *task, const Account *who, u8 **found) {
  TRY(check_signer(who));
  u8 *one = member(task, who->key);
  REQUIRE(one && U64(one, 32) > 0, E_NOT_STAKED);
  *found = one;
  return 0;
}

/* task W, submitter SW, clock */
static u64 submit_task(void) {
  Account *task = &S->accounts[0], *submitter = &S->accounts[1];
  REQUIRE(S->count == 3, E_ACCOUNTS);
  REQUIRE(S->length == 521, E_LENGTH);
  u8 *state = task->data, *one, *made;
  u64 round = number(S->data + 513);
  REQUIRE(U64(state, H_ACTIVE), E_INACTIVE);
  TRY(staked(state, submitter, &one));
  TRY(window(state, round, 1, 0, U64(state, H_SUBMISSION_WINDOW)));
  made = row(state, SUBMISSION, round, submitter->key, 0);
  REQUIRE(!made || (U64(state, H_FLAGS) & F_REPLACES), E_TWICE);
  if (!made) TRY(new_row(task, SUBMISSION, round, submitter->key, 0, &made));
  U64(made, 16) = S->slot;
  sol_memcpy_(made + 88, S->data + 1, 512);
  U64(one, 48) = round + 1;
  return 0;
}

/* task W, voter SW, candidate, clock */
static u64 audit(u64 kind) {
  Account *task = &S->accounts[0], *voter = &S->accounts[1], *candidate = &S->accounts[2];
  u8 *state = task->data, *one, *made;
  u64 kpl = U64(state, H_FLAGS) & F_KPL, vote = kind == SUBMISSION ? SUBMISSION_VOTE : LIST_VOTE;
  REQUIRE(S->count == 4, E_ACCOUNTS);
  REQUIRE(S->length == (kpl ? 10 : 17), E_LENGTH);
  u64 valid = kpl ? S->data[1] : number(S->data + 1), round = number(S->data + (kpl ? 2 : 9));
  REQUIRE(valid <= 1, E_AMOUNT);
  TRY(staked(state, voter, &one));
  u64 opens = U64(state, H_SUBMISSION_WINDOW);
  TRY(window(state, round, kind == SUBMISSION ? 1 : 2, opens, opens + U64(state, H_AUDIT_WINDOW)));
  REQUIRE(row(state, kind, round, candidate->key, 0), E_NO_CANDIDATE);
  REQUIRE(!row(state, vote, round, voter->key, candidate->key), E_TWICE);
  int raised = row(state, vote, round, 0, candidate->key) == 0;
  TRY(new_row(task, vote, round, voter->key, candidate->key, &made));
  made[1] = valid;
  made[2] = raised;
  return 0;
}

/* task, data account SW */
static u64 upload(void) {
  Account *task = &S->accounts[0], *data = &S->accounts[1];
  REQUIRE(S->count == 2, E_ACCOUNTS);
  REQUIRE(same(task->owner, S->program) && task->length >= ROWS_AT && U64(task->data, H_MAGIC) == MAGIC, E_STATE);
  TRY(check_signer(data));
  REQUIRE(same(data->owner, S->program), E_OWNER);
  u64 at = 0, size;
  const u8 *piece;
  if (U64(task->data, H_FLAGS) & F_RAW) { /* behind what is there already: a list has no NUL */
    REQUIRE(S->length == 513, E_LENGTH);
    while (at < data->length && data->data[at] != 0) at++;
    piece = S->data + 1;
    size = 512;
  } else {
    REQUIRE(S->length == 521, E_LENGTH);
    size = S->data[3] | S->data[4] << 8;
    REQUIRE(size <= 508, E_LENGTH);
    at = (u64)(S->data[1] | S->data[2] << 8) * size;
    piece = S->data + 5;
  }
  while (size > 0 && piece[size - 1] == 0) size--;
  REQUIRE(at + size <= data->length, E_FULL);
  sol_memcpy_(data->data + at, piece, size);
  return 0;
}

/* task W, submitter SW, data account SW, clock */
static u64 submit_list(void) {
  Account *task = &S->accounts[0], *submitter = &S->accounts[1], *data = &S->accounts[2];
  REQUIRE(S->count == 4, E_ACCOUNTS);
  REQUIRE(S->length == 9, E_LENGTH);
  u8 *state = task->data, *one, *made;
  u64 round = number(S->data + 1);
  TRY(staked(state, submitter, &one));
  TRY(check_signer(data));
  REQUIRE(same(data->owner, S->program), E_OWNER);
  TRY(window(state, round, 2, 0, U64(state, H_SUBMISSION_WINDOW)));
  if (U64(state, H_FLAGS) & F_SUBMITTERS) REQUIRE(row(state, SUBMISSION, round, submitter->key, 0), E_NO_CANDIDATE);
  REQUIRE(!row(state, LIST, round, submitter->key, 0), E_TWICE);
  return new_row(task, LIST, round, submitter->key, data->key, &made);
}

/* base58 digit of each character from '1' to 'z', 58 for those that are none */
static const u8 DIGITS[] = {
    0, 1, 2, 3, 4, 5, 6, 7, 8, 58, 58, 58, 58, 58, 58, 58, 9, 10, 11, 12, 13, 14, 15, 16,
    58, 17, 18, 19, 20, 21, 58, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31, 32, 58, 58, 58, 58, 58, 58,
    33, 34, 35, 36, 37, 38, 39, 40, 41, 42, 43, 58, 44, 45, 46, 47, 48, 49, 50, 51, 52, 53, 54, 55,
    56, 57};

/* Five digits at a time: 58^5 times a limb still fits into 64 bits. */
static u64 base58_key(const u8 *text, u64 length) {
  for (u64 i = 0; i < 8; i++) S->limbs[i] = 0;
  for (u64 at = 0; at < length;) {
    u64 carry = 0, scale = 1;
    for (u64 group = 0; group < 5 && at < length; group++, at++) {
      REQUIRE(text[at] >= '1' && text[at] <= 'z', E_BAD_LIST);
      u64 digit = DIGITS[text[at] - '1'];
      REQUIRE(digit < 58, E_BAD_LIST);
      carry = carry * 58 + digit;
      scale *= 58;
    }
    for (u64 i = 0; i < 8; i++) {
      carry += S->limbs[i] * scale;
      S->limbs[i] = (u32)carry;
      carry >>= 32;
    }
    REQUIRE(carry == 0, E_BAD_LIST);
  }
  for (u64 i = 0; i < 32; i++) S->key[i] = S->limbs[7 - i / 4] >> (8 * (3 - i % 4));
  return 0;
}

/* {"key":amount,...} as JSON.stringify writes it, up to the first NUL. Checks, or applies, all of it. */
static u64 read_list(u8 *state, u64 round, const Account *data, int apply) {
  const u8 *at = data->data, *end = data->data + data->length;
  u64 rewards = 0;
  REQUIRE(at < end && *at++ == '{', E_BAD_LIST);
  while (1) {
    REQUIRE(at + 48 < end && *at++ == '"', E_BAD_LIST);
    const u8 *text = at;
    while (at < end && at - text <= 44 && *at != '"') at++;
    REQUIRE(at + 3 < end && *at == '"' && at[1] == ':', E_BAD_LIST);
    TRY(base58_key(text, at - text));
    at += 2;
    int slash = *at == '-';
    at += slash;
    const u8 *digits = at;
    u64 amount = 0;
    while (at < end && *at >= '0' && *at <= '9' && at - digits <= 18) amount = amount * 10 + (*at++ - '0');
    REQUIRE(at > digits && at < end, E_BAD_LIST);
    u8 *one = member(state, S->key);
    REQUIRE(one, E_BAD_LIST);
    if (U64(state, H_FLAGS) & F_SUBMITTERS) REQUIRE(row(state, SUBMISSION, round, S->key, 0), E_BAD_LIST);
    if (!slash) rewards += amount;
    if (apply && slash) U64(one, 32) -= amount < U64(one, 32) ? amount : U64(one, 32);
    if (apply && !slash) U64(one, 40) += amount;
    if (*at == '}') break;
    REQUIRE(*at++ == ',', E_BAD_LIST);
  }
  REQUIRE(rewards <= U64(state, H_BOUNTY) && rewards <= U64(state, H_TOTAL_BOUNTY), E_BAD_LIST);
  if (apply) U64(state, H_TOTAL_BOUNTY) -= rewards;
  return 0;
}

/* task W, clock, data account W; anyone */
static u64 payout(void) {
  Account *task = &S->accounts[0], *data = &S->accounts[2];
  REQUIRE(S->count == 3, E_ACCOUNTS);
  REQUIRE(S->length == 9, E_LENGTH);
  u8 *state = task->data, *list, *made;
  u64 round = number(S->data + 1);
  u64 both = U64(state, H_SUBMISSION_WINDOW) + U64(state, H_AUDIT_WINDOW);
  TRY(window(state, round, 2, both, 1ULL << 40));
  list = row(state, LIST, round, 0, data->key);
  REQUIRE(list, E_NO_CANDIDATE);
  REQUIRE(!row(state, PAID, round, 0, 0), E_TWICE);
  REQUIRE(!row(state, FAILED, round, list + 24, 0), E_TWICE);
  i64 tally = 0;
  for (u64 i = 0; i < U32(state, H_ROWS); i++) {
    u8 *vote = state + ROWS_AT + i * ROW;
    if (vote[0] != LIST_VOTE || U64(vote, 8) != round || !same(vote + 56, list + 24)) continue;
    if (vote[2] && (U64(state, H_FLAGS) & F_NO_VOTE)) continue;
    tally += vote[1] ? 1 : -1;
  }
  u64 bad = tally < 0 || read_list(state, round, data, 0) != 0;
  TRY(new_row(task, bad ? FAILED : PAID, round, list + 24, data->key, &made));
  return bad ? 0 : read_list(state, round, data, 1);
}

/* task W, owner S, manager account */
static u64 set_active(void) {
  u8 *state = S->accounts[0].data;
  u64 kpl = U64(state, H_FLAGS) & F_KPL;
  REQUIRE(S->count == 3, E_ACCOUNTS);
  REQUIRE(S->length == (kpl ? 2 : 9), E_LENGTH);
  REQUIRE(S->accounts[1].is_signer && same(S->accounts[1].key, state + H_MANAGER), E_NOT_OWNER);
  U64(state, H_ACTIVE) = kpl ? S->data[1] : number(S->data + 1);
  return 0;
}

/* native: task W, staker SW, pot W, clock; KPL: task W, staker SW, token W, pot W, token program */
static u64 stake(void) {
  u8 *state = S->accounts[0].data;
  u64 flags = U64(state, H_FLAGS), kpl = flags & F_KPL, amount = number(S->data + 1);
  u64 plain = !kpl && (flags & F_NO_ADDRESS);
  REQUIRE(S->count == (kpl ? 5 : 4), E_ACCOUNTS);
  REQUIRE(S->length == (plain ? 9 : 73), E_LENGTH);
  Account *staker = &S->accounts[1], *pot = &S->accounts[kpl ? 3 : 2];
  TRY(check_signer(staker));
  REQUIRE(same(pot->key, state + H_POT), E_STATE);
  u8 *one = member(state, staker->key);
  if (!one) {
    REQUIRE(U32(state, H_MEMBERS) < MEMBERS, E_FULL);
    one = state + MEMBERS_AT + U32(state, H_MEMBERS)++ * MEMBER;
    sol_memcpy_(one, staker->key, 32);
  }
  if (!plain) sol_memcpy_(one + 56, S->data + 9, 64);
  U64(one, 32) += amount;
  REQUIRE(amount > 0 && U64(one, 32) >= U64(state, H_MINIMUM_STAKE), E_AMOUNT);
  return kpl ? 0 : move(staker, pot, amount);
}

/* task W, staker SW, clock: three rounds after the last submission */
static u64 withdraw(void) {
  u8 *state = S->accounts[0].data, *one;
  REQUIRE(S->count == 3, E_ACCOUNTS);
  REQUIRE(S->length == 1, E_LENGTH);
  TRY(staked(state, &S->accounts[1], &one));
  u64 period = (S->slot - U64(state, H_STARTING_SLOT)) / U64(state, H_ROUND_TIME);
  REQUIRE(U64(one, 48) == 0 || period > U64(one, 48) - 1 + 3, E_LOCKED);
  U64(one, 40) += U64(one, 32);
  U64(one, 32) = 0;
  return 0;
}

/* task W, claimer SW, pot W, beneficiary W [, authority, token program] */
static u64 claim_reward(void) {
  u8 *state = S->accounts[0].data;
  u64 kpl = U64(state, H_FLAGS) & F_KPL;
  REQUIRE(S->count == (kpl ? 6 : 4), E_ACCOUNTS);
  REQUIRE(S->length == 1, E_LENGTH);
  TRY(check_signer(&S->accounts[1]));
  REQUIRE(same(S->accounts[2].key, state + H_POT), E_STATE);
  u8 *one = member(state, S->accounts[1].key);
  REQUIRE(one && U64(one, 40) > 0, E_AMOUNT);
  u64 amount = U64(one, 40);
  U64(one, 40) = 0;
  return kpl ? 0 : move(&S->accounts[2], &S->accounts[3], amount);
}

/* native: task W, funder SW, pot W, system, clock; KPL: task W, funder SW, token W, pot W, token program */
static u64 fund_task(void) {
  u8 *state = S->accounts[0].data;
  u64 kpl = U64(state, H_FLAGS) & F_KPL, amount = number(S->data + 1);
  REQUIRE(S->count == 5, E_ACCOUNTS);
  REQUIRE(S->length == 9, E_LENGTH);
  Account *pot = &S->accounts[kpl ? 3 : 2];
  TRY(check_signer(&S->accounts[1]));
  REQUIRE(same(pot->key, state + H_POT), E_STATE);
  U64(state, H_TOTAL_BOUNTY) += amount;
  return kpl ? 0 : move(&S->accounts[1], pot, amount);
}

static u64 read_input(u8 *input) {
  u64 count = *(u64 *)input;
  input += 8;
  REQUIRE(count >= 1 && count <= MAX_ACCOUNTS, E_ACCOUNTS);
  for (u64 i = 0; i < count; i++) {
    Account *account = &S->accounts[i];
    if (*input != 0xff) {
      *account = S->accounts[*input];
      input += 8;
      continue;
    }
    account->is_signer = input[1];
    account->is_writable = input[2];
    account->key = input + 8;
    account->owner = input + 40;
    account->lamports = (u64 *)(input + 72);
    account->length = *(u64 *)(input + 80);
    account->data = input + 88;
    input += 88 + account->length + 10240;
    input = (u8 *)((((u64)input + 7) & ~7ULL) + 8);
  }
  S->count = count;
  S->length = *(u64 *)input;
  S->data = input + 8;
  S->program = input + 8 + S->length;
  return 0;
}

__attribute__((section(".text"))) u64 entrypoint(u8 *input) {
  TRY(read_input(input));
  REQUIRE(S->length >= 1, E_LENGTH);
  REQUIRE(sol_get_clock_sysvar(S->clock) == 0, E_STATE);
  S->slot = S->clock[0];
  if (S->data[0] == 0) return create_task();
  if (S->data[0] == 11) return upload();
  TRY(check_task(&S->accounts[0]));
  switch (S->data[0]) {
    case 1: return submit_task();
    case 2: return audit(SUBMISSION);
    case 3: return audit(LIST);
    case 4: return payout();
    case 6: return set_active();
    case 7: return claim_reward();
    case 8: return fund_task();
    case 9: return stake();
    case 10: return withdraw();
    case 12: return submit_list();
    default: return E_UNKNOWN;
  }
}
