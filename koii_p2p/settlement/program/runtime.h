/* What the runtime offers a program: its syscalls, its input, memory, checked numbers, the clock, rent, and calls of
 * the system program. Upstream clang allows 512 bytes of stack, so everything big lives in S, at the start of the
 * virtual machine's 32 KiB heap. */
#ifndef KOII_P2P_RUNTIME_H
#define KOII_P2P_RUNTIME_H
#include "layout.h"

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

/* ---- what the runtime offers ------------------------------------------------------------------------------------ */

typedef struct { /* SolAccountInfo */
  u8 *key;
  u64 *lamports;
  u64 data_length;
  u8 *data;
  u8 *owner;
  u64 rent_epoch;
  u8 is_signer, is_writable, executable;
} Account;

typedef struct { /* SolBytes, SolSignerSeed */
  const void *start;
  u64 length;
} Slice;

typedef struct { /* SolSignerSeeds */
  const Slice *seeds;
  u64 count;
} SignerSeeds;

typedef struct { /* SolAccountMeta */
  u8 *key;
  u8 is_writable, is_signer;
} Meta;

typedef struct { /* SolInstruction */
  u8 *program;
  Meta *metas;
  u64 meta_count;
  u8 *data;
  u64 data_length;
} Call;

extern u64 sol_get_stack_height(void);
extern u64 sol_get_clock_sysvar(void *clock);
extern u64 sol_get_rent_sysvar(void *rent);
extern u64 sol_sha256(const Slice *slices, u64 count, u8 *digest);
extern u64 sol_create_program_address(const Slice *seeds, u64 count, const u8 *program, u8 *address);
extern u64 sol_try_find_program_address(const Slice *seeds, u64 count, const u8 *program, u8 *address, u8 *bump);
extern u64 sol_invoke_signed_c(const Call *call, const Account *accounts, u64 count, const SignerSeeds *seeds, u64 n);
extern u64 sol_memcpy_(void *to, const void *from, u64 length);
extern u64 sol_memset_(void *to, u8 value, u64 length);
extern u64 sol_memcmp_(const void *a, const void *b, u64 length, int *result);

#define MAX_ACCOUNTS 6
#define MAX_SEEDS 4
#define KEY 32
#define REALLOCATION_ROOM 10240 /* the runtime leaves this many bytes behind each account's data */
#define TRANSACTION_HEIGHT 1    /* stack height of an instruction that a transaction holds itself */

typedef struct {
  Account accounts[MAX_ACCOUNTS];
  u64 account_count;
  const u8 *data;
  u64 data_length;
  u8 *program;
  u64 slot;
  u64 clock[5];
  u64 rent[3];
  Slice seeds[MAX_SEEDS];
  u64 seed_count;
  u8 bump;
  u8 address[KEY];
  SignerSeeds signer;
  Meta metas[2];
  Call call;
  u8 call_data[56];
  Slice slices[3];
  u8 digest[KEY];
  u8 record[ANCHOR_RECORD_SIZE];
  u8 closed[CLOSED_TASK_SIZE] __attribute__((aligned(8)));
} Scratch;

#define S ((Scratch *)0x300000000ULL)

#define REQUIRE(condition, error) \
  do {                            \
    if (!(condition)) return (error); \
  } while (0)
#define TRY(expression)            \
  do {                             \
    u64 error_ = (expression);     \
    if (error_ != 0) return error_; \
  } while (0)

/* ---- bytes and numbers ------------------------------------------------------------------------------------------ */

/* Account data: every such field is aligned to its size. */
#define U16(data, offset) (*(const u16 *)((data) + (offset)))
#define U32(data, offset) (*(const u32 *)((data) + (offset)))
#define U64(data, offset) (*(u64 *)((data) + (offset)))

static u64 little_endian(const u8 *from, u64 size) { /* instruction data is not aligned */
  u64 value = 0;
  for (u64 i = 0; i < size; i++) value |= (u64)from[i] << (8 * i);
  return value;
}

static int same(const void *a, const void *b, u64 length) {
  int result = 1;
  sol_memcmp_(a, b, length, &result);
  return result == 0;
}

static int all_zero(const u8 *bytes, u64 length) {
  u8 any = 0;
  for (u64 i = 0; i < length; i++) any |= bytes[i];
  return any == 0;
}

static u64 add(u64 a, u64 b, u64 *sum) {
  *sum = a + b;
  return *sum < a ? ERR_ARITHMETIC : 0;
}

static u64 subtract(u64 a, u64 b, u64 *difference) {
  *difference = a - b;
  return b > a ? ERR_ARITHMETIC : 0;
}

/* By halves: clang turns the usual tests for overflow into a 128-bit product, which BPF cannot compute. */
static u64 multiply(u64 a, u64 b, u64 *product) {
  u64 a_high = a >> 32, b_high = b >> 32, low = (u32)a, middle;
  REQUIRE(a_high == 0 || b_high == 0, ERR_ARITHMETIC);
  middle = a_high * (u32)b + low * b_high; /* one of the two terms is zero */
  REQUIRE(middle >> 32 == 0, ERR_ARITHMETIC);
  return add(middle << 32, low * (u32)b, product);
}

/* Moves lamports between two accounts of ours, or from one of ours to anyone. They may be the same account. */
static u64 move_lamports(Account *from, Account *to, u64 amount) {
  TRY(subtract(*from->lamports, amount, from->lamports));
  return add(*to->lamports, amount, to->lamports);
}

/* ---- clock and rent --------------------------------------------------------------------------------------------- */

static u64 read_slot(void) {
  REQUIRE(sol_get_clock_sysvar(S->clock) == 0, ERR_SYSCALL);
  S->slot = S->clock[0];
  return 0;
}

/* What an account of this size must hold to be kept. The threshold is a double: two years classically, one since
 * rent per byte was doubled. */
static u64 rent_minimum(u64 data_length, u64 *minimum) {
  REQUIRE(sol_get_rent_sysvar(S->rent) == 0, ERR_SYSCALL);
  u64 years;
  if (S->rent[1] == 0x3ff0000000000000ULL) years = 1;
  else if (S->rent[1] == 0x4000000000000000ULL) years = 2;
  else return ERR_RENT_UNSUPPORTED;
  u64 per_year;
  TRY(multiply(data_length + 128, S->rent[0], &per_year));
  return multiply(per_year, years, minimum);
}

/* ---- the system program ----------------------------------------------------------------------------------------- */

#define SYSTEM_ASSIGN 1
#define SYSTEM_TRANSFER 2
#define SYSTEM_ALLOCATE 8

static u64 check_system_program(const Account *account) {
  REQUIRE(all_zero(account->key, KEY), ERR_WRONG_SYSTEM_PROGRAM);
  return 0;
}

static void put_call_data(u32 instruction, u64 number) {
  *(u32 *)S->call_data = instruction;
  sol_memcpy_(S->call_data + 4, &number, 8);
}

static u64 call_system(const Account *system, u64 meta_count, u64 data_length, u64 signers) {
  S->call.program = system->key;
  S->call.metas = S->metas;
  S->call.meta_count = meta_count;
  S->call.data = S->call_data;
  S->call.data_length = data_length;
  S->signer.seeds = S->seeds;
  S->signer.count = S->seed_count;
  REQUIRE(sol_invoke_signed_c(&S->call, S->accounts, S->account_count, &S->signer, signers) == 0, ERR_SYSCALL);
  return 0;
}

static u64 transfer(const Account *system, const Account *from, const Account *to, u64 amount) {
  S->metas[0].key = from->key;
  S->metas[0].is_writable = 1;
  S->metas[0].is_signer = 1;
  S->metas[1].key = to->key;
  S->metas[1].is_writable = 1;
  S->metas[1].is_signer = 0;
  put_call_data(SYSTEM_TRANSFER, amount);
  return call_system(system, 2, 12, 0);
}

/* ---- input ------------------------------------------------------------------------------------------------------ */

/* Reads the runtime's serialized input into S: accounts, instruction data, our own address. */
static u64 read_input(u8 *input) {
  u64 count = *(u64 *)input;
  input += 8;
  REQUIRE(count <= MAX_ACCOUNTS, ERR_ACCOUNT_COUNT);
  for (u64 i = 0; i < count; i++) {
    Account *account = &S->accounts[i];
    u8 first_use = *input;
    if (first_use != 0xff) { /* the same account again: share its balance and data */
      *account = S->accounts[first_use];
      input += 8;
      continue;
    }
    account->is_signer = input[1];
    account->is_writable = input[2];
    account->executable = input[3];
    account->key = input + 8;
    account->owner = input + 40;
    account->lamports = (u64 *)(input + 72);
    account->data_length = *(u64 *)(input + 80);
    account->data = input + 88;
    input += 88 + account->data_length + REALLOCATION_ROOM;
    input = (u8 *)(((u64)input + 7) & ~7ULL);
    account->rent_epoch = *(u64 *)input;
    input += 8;
  }
  S->account_count = count;
  S->data_length = *(u64 *)input;
  S->data = input + 8;
  S->program = input + 8 + S->data_length;
  return 0;
}

#endif
