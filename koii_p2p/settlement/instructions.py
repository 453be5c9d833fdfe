"""The settlement program's instructions: how each is encoded, which accounts it takes, and how to read one
back.

The first byte is the tag; integers are unsigned little-endian without padding. An address that the program
derives (PDA) has the seeds that `task_address`, `vault_address` and `stake_address` name.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache
from typing import Final, TypeAlias

from solders.instruction import AccountMeta, Instruction
from solders.pubkey import Pubkey
from solders.system_program import ID as SYSTEM_PROGRAM

from koii_p2p.rounds.distribution import LEAF_BYTES, Leaf
from koii_p2p.rounds.merkle import Proof
from koii_p2p.rounds.terms import TaskTerms
from koii_p2p.settlement.layouts import (
    AUDIT_LAYOUT,
    NAME_BYTES,
    PROGRAM_BYTES,
    LayoutError,
    decode_audit,
    encode_audit,
)

PROGRAM_ID: Final = hashlib.sha256(b"koii_p2p settlement program v1").digest()
"""Where the local K2 keeps the program, and the default everywhere: a 32-byte address."""
PROOF_SIBLINGS: Final = 24
"""The deepest Merkle path that Settle takes: 2^24 leaves, in a transaction of at most 1232 bytes."""
FIRST_ATTEMPT: Final = 0


class Tag(IntEnum):
    """The first byte of an instruction. Those marked reserved are refused (`RESERVED_TAG`)."""

    CREATE_TASK = 0
    FUND = 1
    SET_ACTIVE = 2
    """Reserved."""
    STAKE = 3
    REQUEST_UNSTAKE = 4
    """Reserved."""
    WITHDRAW = 5
    """Reserved."""
    ANCHOR_COMMITMENT = 6
    ANCHOR_LIST = 7
    VETO = 8
    SETTLE = 9
    CLOSE = 10
    """Reserved."""
    UPDATE_TASK = 11
    """Reserved."""


RESERVED_TAGS: Final = frozenset(
    {Tag.SET_ACTIVE, Tag.REQUEST_UNSTAKE, Tag.WITHDRAW, Tag.CLOSE, Tag.UPDATE_TASK}
)

CREATE_TASK_FORMAT: Final = struct.Struct(f"<BQ{NAME_BYTES}s{PROGRAM_BYTES}s6Q2H{AUDIT_LAYOUT.size}s")
FUND_FORMAT: Final = struct.Struct("<BQ")
STAKE_FORMAT: Final = struct.Struct("<BQ32s")
ANCHOR_COMMITMENT_FORMAT: Final = struct.Struct("<BBQ32s")
ANCHOR_LIST_FORMAT: Final = struct.Struct("<BBQ32sQQ")
VETO_FORMAT: Final = struct.Struct("<BBQ")
SETTLE_FORMAT: Final = struct.Struct(f"<BQ{LEAF_BYTES}sIB")
"""Followed by the siblings, 32 bytes each, from the leaf upwards."""


class InstructionError(ValueError):
    """Bytes that are no instruction of the settlement program, or values that none can carry."""


@dataclass(frozen=True, slots=True)
class CreateTask:
    """A task's terms, as the creator signed them. `terms.task` is the address that the instruction makes."""

    terms: TaskTerms
    nonce: int


@dataclass(frozen=True, slots=True)
class Fund:
    """`amount` Roe from `funder` into the vault of `task`."""

    task: bytes
    funder: bytes
    amount: int


@dataclass(frozen=True, slots=True)
class Stake:
    """`amount` Roe from `payer` into the stake of `staker`."""

    task: bytes
    payer: bytes
    staker: bytes
    beneficiary: bytes
    amount: int


@dataclass(frozen=True, slots=True)
class AnchorCommitment:
    """The digest of a round's commitment object."""

    task: bytes
    staker: bytes
    round: int
    attempt: int
    digest: bytes


@dataclass(frozen=True, slots=True)
class AnchorList:
    """The root of a round's distribution list and its cumulative totals in Roe."""

    task: bytes
    staker: bytes
    round: int
    attempt: int
    root: bytes
    reward_total: int
    slash_total: int


@dataclass(frozen=True, slots=True)
class Veto:
    """The stake of `staker` against the list of a round's attempt."""

    task: bytes
    staker: bytes
    round: int
    attempt: int


@dataclass(frozen=True, slots=True)
class Settle:
    """One leaf of a round's list, with its proof. `beneficiary` is where the reward goes."""

    task: bytes
    round: int
    leaf: Leaf
    proof: Proof
    beneficiary: bytes


ProgramInstruction: TypeAlias = CreateTask | Fund | Stake | AnchorCommitment | AnchorList | Veto | Settle


@lru_cache(maxsize=4096)
def task_address(creator: bytes, nonce: int, program_id: bytes = PROGRAM_ID) -> bytes:
    """The task that `creator` makes with `nonce`: PDA of ("task", creator, nonce u64)."""
    return _derive((b"task", creator, nonce.to_bytes(8, "little")), program_id)


@lru_cache(maxsize=4096)
def vault_address(task: bytes, program_id: bytes = PROGRAM_ID) -> bytes:
    """The vault that holds a task's bounty: PDA of ("vault", task)."""
    return _derive((b"vault", task), program_id)


@lru_cache(maxsize=65536)
def stake_address(task: bytes, staker: bytes, program_id: bytes = PROGRAM_ID) -> bytes:
    """The account that holds the stake of `staker` in `task`: PDA of ("stake", task, staker)."""
    return _derive((b"stake", task, staker), program_id)


def _derive(seeds: Sequence[bytes], program_id: bytes) -> bytes:
    address, _ = Pubkey.find_program_address(list(seeds), Pubkey(program_id))
    return bytes(address)


def create_task(terms: TaskTerms, nonce: int, *, program_id: bytes = PROGRAM_ID) -> Instruction:
    """CreateTask, signed and paid by `terms.creator`. `terms.task` is ignored: the address follows from the
    nonce.

    Raises `InstructionError` if a text or number does not fit into its place.
    """
    name, program = terms.name.encode(), terms.program.encode()
    if len(name) > NAME_BYTES or len(program) > PROGRAM_BYTES:
        raise InstructionError(
            f"A task's name has at most {NAME_BYTES} bytes and its program {PROGRAM_BYTES}."
        )
    try:
        audit = encode_audit(terms.audit)
    except LayoutError as error:
        raise InstructionError(str(error)) from error
    task = task_address(terms.creator, nonce, program_id)
    data = _pack(
        CREATE_TASK_FORMAT,
        Tag.CREATE_TASK,
        nonce,
        name,
        program,
        terms.starting_slot,
        terms.round_time,
        terms.submission_window,
        terms.audit_window,
        terms.bounty_per_round,
        terms.minimum_stake,
        terms.slash_basis_points,
        terms.allowed_failed_distributions,
        audit,
    )
    accounts = [
        _account(terms.creator, signer=True, writable=True),
        _account(task, writable=True),
        _account(vault_address(task, program_id), writable=True),
        _account(bytes(SYSTEM_PROGRAM)),
    ]
    return Instruction(Pubkey(program_id), data, accounts)


def fund(task: bytes, funder: bytes, amount: int, *, program_id: bytes = PROGRAM_ID) -> Instruction:
    """Fund: `amount` Roe from `funder`, who signs, into the task's vault."""
    accounts = [
        _account(funder, signer=True, writable=True),
        _account(task, writable=True),
        _account(vault_address(task, program_id), writable=True),
        _account(bytes(SYSTEM_PROGRAM)),
    ]
    return Instruction(Pubkey(program_id), _pack(FUND_FORMAT, Tag.FUND, amount), accounts)


def stake(
    task: bytes,
    payer: bytes,
    staker: bytes,
    beneficiary: bytes,
    amount: int,
    *,
    program_id: bytes = PROGRAM_ID,
) -> Instruction:
    """Stake, or top up: `amount` Roe from `payer`; `payer` and `staker` sign. The beneficiary is kept."""
    accounts = [
        _account(payer, signer=True, writable=True),
        _account(staker, signer=True),
        _account(task, writable=True),
        _account(stake_address(task, staker, program_id), writable=True),
        _account(bytes(SYSTEM_PROGRAM)),
    ]
    return Instruction(Pubkey(program_id), _pack(STAKE_FORMAT, Tag.STAKE, amount, beneficiary), accounts)


def anchor_commitment(
    task: bytes,
    staker: bytes,
    round: int,
    digest: bytes,
    *,
    attempt: int = FIRST_ATTEMPT,
    program_id: bytes = PROGRAM_ID,
) -> Instruction:
    """AnchorCommitment, signed by a staker of the task with at least the minimum stake."""
    data = _pack(ANCHOR_COMMITMENT_FORMAT, Tag.ANCHOR_COMMITMENT, attempt, round, _key(digest))
    return Instruction(Pubkey(program_id), data, _anchor_accounts(task, staker, program_id))


def anchor_list(
    task: bytes,
    staker: bytes,
    round: int,
    root: bytes,
    reward_total: int,
    slash_total: int,
    *,
    attempt: int = FIRST_ATTEMPT,
    program_id: bytes = PROGRAM_ID,
) -> Instruction:
    """AnchorList, signed by a staker. Its accounts are those of AnchorCommitment, then the vault."""
    data = _pack(ANCHOR_LIST_FORMAT, Tag.ANCHOR_LIST, attempt, round, _key(root), reward_total, slash_total)
    accounts = [*_anchor_accounts(task, staker, program_id), _account(vault_address(task, program_id))]
    return Instruction(Pubkey(program_id), data, accounts)


def veto(
    task: bytes, staker: bytes, round: int, attempt: int, *, program_id: bytes = PROGRAM_ID
) -> Instruction:
    """Veto, signed by a staker. Its accounts are those of AnchorCommitment, but the stake changes."""
    accounts = [
        _account(staker, signer=True),
        _account(task, writable=True),
        _account(stake_address(task, staker, program_id), writable=True),
    ]
    return Instruction(Pubkey(program_id), _pack(VETO_FORMAT, Tag.VETO, attempt, round), accounts)


def settle(
    task: bytes,
    round: int,
    leaf: Leaf,
    proof: Proof,
    beneficiary: bytes,
    *,
    pay: bool = True,
    program_id: bytes = PROGRAM_ID,
) -> Instruction:
    """Settle one leaf; anyone may send it, and nobody but the fee payer signs.

    With `pay=False` the beneficiary is only read: the slash is taken and the reward stays claimable. That
    way an account that cannot receive (a program, or one below the rent minimum) never keeps a slash from
    landing.

    Raises `InstructionError` if the proof is deeper than `PROOF_SIBLINGS`.
    """
    if len(proof.siblings) > PROOF_SIBLINGS:
        raise InstructionError(f"Settle takes at most {PROOF_SIBLINGS} siblings, not {len(proof.siblings)}.")
    data = _pack(SETTLE_FORMAT, Tag.SETTLE, round, leaf.encode(), proof.directions, len(proof.siblings))
    data += b"".join(_key(sibling) for sibling in proof.siblings)
    accounts = [
        _account(task, writable=True),
        _account(vault_address(task, program_id), writable=True),
        _account(stake_address(task, leaf.staker, program_id), writable=True),
        _account(beneficiary, writable=pay),
    ]
    return Instruction(Pubkey(program_id), data, accounts)


def decode_instruction(data: bytes, accounts: Sequence[bytes]) -> ProgramInstruction:
    """Read back an instruction from its data and account addresses.

    Raises `InstructionError` for a reserved or unknown tag, a wrong length, or a wrong number of accounts.
    """
    try:
        tag = Tag(data[0])
    except (IndexError, ValueError) as error:
        raise InstructionError(f"The instruction {data[:1].hex() or 'without data'} is not known.") from error
    if tag in RESERVED_TAGS:
        raise InstructionError(f"The instruction {tag.name} is reserved.")
    try:
        return _DECODERS[tag](data, accounts)
    except (struct.error, ValueError, IndexError, UnicodeDecodeError) as error:
        raise InstructionError(f"This is not a {tag.name} instruction: {error}") from error


def _decode_create_task(data: bytes, accounts: Sequence[bytes]) -> ProgramInstruction:
    creator, task, _, _ = accounts
    _, nonce, name, program, s0, rt, sw, aw, bounty, minimum, bps, failed, audit = CREATE_TASK_FORMAT.unpack(
        data
    )
    terms = TaskTerms(
        task=task,
        creator=creator,
        name=name.rstrip(b"\0").decode(),
        program=program.rstrip(b"\0").decode(),
        starting_slot=s0,
        round_time=rt,
        submission_window=sw,
        audit_window=aw,
        bounty_per_round=bounty,
        minimum_stake=minimum,
        slash_basis_points=bps,
        allowed_failed_distributions=failed,
        audit=decode_audit(audit),
    )
    return CreateTask(terms, nonce)


def _decode_fund(data: bytes, accounts: Sequence[bytes]) -> ProgramInstruction:
    funder, task, _, _ = accounts
    _, amount = FUND_FORMAT.unpack(data)
    return Fund(task, funder, amount)


def _decode_stake(data: bytes, accounts: Sequence[bytes]) -> ProgramInstruction:
    payer, staker, task, _, _ = accounts
    _, amount, beneficiary = STAKE_FORMAT.unpack(data)
    return Stake(task, payer, staker, beneficiary, amount)


def _decode_anchor_commitment(data: bytes, accounts: Sequence[bytes]) -> ProgramInstruction:
    staker, task, _ = accounts
    _, attempt, round, digest = ANCHOR_COMMITMENT_FORMAT.unpack(data)
    return AnchorCommitment(task, staker, round, attempt, digest)


def _decode_anchor_list(data: bytes, accounts: Sequence[bytes]) -> ProgramInstruction:
    staker, task, _, _ = accounts
    _, attempt, round, root, reward_total, slash_total = ANCHOR_LIST_FORMAT.unpack(data)
    return AnchorList(task, staker, round, attempt, root, reward_total, slash_total)


def _decode_veto(data: bytes, accounts: Sequence[bytes]) -> ProgramInstruction:
    staker, task, _ = accounts
    _, attempt, round = VETO_FORMAT.unpack(data)
    return Veto(task, staker, round, attempt)


def _decode_settle(data: bytes, accounts: Sequence[bytes]) -> ProgramInstruction:
    task, _, _, beneficiary = accounts
    _, round, leaf, directions, count = SETTLE_FORMAT.unpack_from(data)
    siblings = data[SETTLE_FORMAT.size :]
    if len(siblings) != 32 * count or count > PROOF_SIBLINGS:
        raise InstructionError("the siblings do not have the length they claim")
    proof = Proof(tuple(siblings[32 * i : 32 * i + 32] for i in range(count)), directions)
    return Settle(task, round, Leaf.decode(leaf), proof, beneficiary)


_DECODERS: Final[dict[Tag, Callable[[bytes, Sequence[bytes]], ProgramInstruction]]] = {
    Tag.CREATE_TASK: _decode_create_task,
    Tag.FUND: _decode_fund,
    Tag.STAKE: _decode_stake,
    Tag.ANCHOR_COMMITMENT: _decode_anchor_commitment,
    Tag.ANCHOR_LIST: _decode_anchor_list,
    Tag.VETO: _decode_veto,
    Tag.SETTLE: _decode_settle,
}


def _anchor_accounts(task: bytes, staker: bytes, program_id: bytes) -> list[AccountMeta]:
    return [
        _account(staker, signer=True),
        _account(task, writable=True),
        _account(stake_address(task, staker, program_id)),
    ]


def _account(address: bytes, *, signer: bool = False, writable: bool = False) -> AccountMeta:
    return AccountMeta(Pubkey(address), is_signer=signer, is_writable=writable)


def _key(value: bytes) -> bytes:
    if len(value) != 32:
        raise InstructionError(f"A digest has 32 bytes, not {len(value)}.")
    return value


def _pack(format: struct.Struct, *values: int | bytes) -> bytes:
    try:
        return format.pack(*values)
    except struct.error as error:
        raise InstructionError(f"A value does not fit into its place: {error}") from error
