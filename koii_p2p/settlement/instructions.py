"""The settlement program's instructions: how each is encoded, and which accounts it takes.

The first byte is the tag; integers are unsigned little-endian without padding. An address that the program
derives (PDA) has the seeds that `task_address`, `vault_address` and `stake_address` name. `decoding.py` reads
instructions back.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
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
    METADATA_BYTES,
    NAME_BYTES,
    PROGRAM_BYTES,
    LayoutError,
    encode_audit,
)

PROGRAM_ID: Final = hashlib.sha256(b"koii_p2p settlement program v1").digest()
"""Where the local K2 keeps the program, and the default everywhere: a 32-byte address."""
PROOF_SIBLINGS: Final = 24
"""The deepest Merkle path that Settle takes: 2^24 leaves, in a transaction of at most 1232 bytes."""
FIRST_ATTEMPT: Final = 0


class Tag(IntEnum):
    """The first byte of an instruction."""

    CREATE_TASK = 0
    FUND = 1
    SET_ACTIVE = 2
    STAKE = 3
    REQUEST_UNSTAKE = 4
    WITHDRAW = 5
    ANCHOR_COMMITMENT = 6
    ANCHOR_LIST = 7
    VETO = 8
    SETTLE = 9
    CLOSE = 10
    UPDATE_TASK = 11
    CLOSE_STAKE = 12


CREATE_TASK_FORMAT: Final = struct.Struct(f"<BQ{NAME_BYTES}s{PROGRAM_BYTES}s6Q2H{AUDIT_LAYOUT.size}s")
FUND_FORMAT: Final = struct.Struct("<BQ")
STAKE_FORMAT: Final = struct.Struct("<BQ32s")
ANCHOR_COMMITMENT_FORMAT: Final = struct.Struct("<BBQ32s")
ANCHOR_LIST_FORMAT: Final = struct.Struct("<BBQ32sQQ")
VETO_FORMAT: Final = struct.Struct("<BBQ")
SETTLE_FORMAT: Final = struct.Struct(f"<BQ{LEAF_BYTES}sIB")
"""Followed by the siblings, 32 bytes each, from the leaf upwards. Withdraw has the same, or its tag alone."""
SET_ACTIVE_FORMAT: Final = struct.Struct("<BB")
UPDATE_TASK_FORMAT: Final = struct.Struct(f"<B{METADATA_BYTES}s")
TAG_FORMAT: Final = struct.Struct("<B")
"""RequestUnstake, Withdraw without a leaf, Close and CloseStake have no data but their tag."""


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


@dataclass(frozen=True, slots=True)
class RequestUnstake:
    """The stake of `staker` is asked back."""

    task: bytes
    staker: bytes


@dataclass(frozen=True, slots=True)
class Withdraw:
    """The stake of `staker` to its `beneficiary`, with its leaf of the newest settled list (`round`) or without."""

    task: bytes
    staker: bytes
    beneficiary: bytes
    round: int = 0
    leaf: Leaf | None = None
    proof: Proof | None = None


@dataclass(frozen=True, slots=True)
class SetActive:
    """The creator lets the task go on, or end."""

    task: bytes
    creator: bytes
    active: bool


@dataclass(frozen=True, slots=True)
class UpdateTask:
    """What the creator says of the task now, and which one takes over."""

    task: bytes
    creator: bytes
    metadata: str
    successor: bytes | None


@dataclass(frozen=True, slots=True)
class Close:
    """The end of a task; what is left goes to its creator."""

    task: bytes
    creator: bytes


@dataclass(frozen=True, slots=True)
class CloseStake:
    """The rent of a stake account at `stake` of a closed task, to its beneficiary."""

    task: bytes
    stake: bytes
    beneficiary: bytes


ProgramInstruction: TypeAlias = (
    CreateTask
    | Fund
    | Stake
    | AnchorCommitment
    | AnchorList
    | Veto
    | Settle
    | RequestUnstake
    | Withdraw
    | SetActive
    | UpdateTask
    | Close
    | CloseStake
)


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
    task: bytes,
    staker: bytes,
    round: int,
    attempt: int,
    committer: bytes,
    lister: bytes | None,
    *,
    program_id: bytes = PROGRAM_ID,
) -> Instruction:
    """Veto, signed by a staker. `committer` and `lister` (None without a list) anchored the attempt: their stakes are
    passed because the veto that rejects it takes their bonds."""
    accounts = [
        _account(staker, signer=True),
        _account(task, writable=True),
        _account(stake_address(task, staker, program_id), writable=True),
        _account(vault_address(task, program_id), writable=True),
        _account(stake_address(task, committer, program_id), writable=True),
        _account(stake_address(task, lister or committer, program_id), writable=True),
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
    accounts = [
        _account(task, writable=True),
        _account(vault_address(task, program_id), writable=True),
        _account(stake_address(task, leaf.staker, program_id), writable=True),
        _account(beneficiary, writable=pay),
    ]
    return Instruction(Pubkey(program_id), _with_leaf(Tag.SETTLE, round, leaf, proof), accounts)


def request_unstake(task: bytes, staker: bytes, *, program_id: bytes = PROGRAM_ID) -> Instruction:
    """RequestUnstake, signed by the staker."""
    accounts = [
        _account(staker, signer=True),
        _account(task, writable=True),
        _account(stake_address(task, staker, program_id), writable=True),
    ]
    return Instruction(Pubkey(program_id), _pack(TAG_FORMAT, Tag.REQUEST_UNSTAKE), accounts)


def withdraw(
    task: bytes,
    staker: bytes,
    beneficiary: bytes,
    round: int = 0,
    leaf: Leaf | None = None,
    proof: Proof | None = None,
    *,
    program_id: bytes = PROGRAM_ID,
) -> Instruction:
    """Withdraw, with the leaf of the newest settled list, that of `round`, and its proof, or without a leaf.

    Anyone may send it, and nobody but the fee payer signs.

    Raises `InstructionError` if there is a leaf without a proof, or the proof is deeper than `PROOF_SIBLINGS`.
    """
    if (leaf is None) is not (proof is None):
        raise InstructionError("A leaf needs its proof, and a proof its leaf.")
    data = _pack(TAG_FORMAT, Tag.WITHDRAW)
    if leaf is not None and proof is not None:
        data = _with_leaf(Tag.WITHDRAW, round, leaf, proof)
    accounts = [
        _account(staker),
        _account(task, writable=True),
        _account(vault_address(task, program_id), writable=True),
        _account(stake_address(task, staker, program_id), writable=True),
        _account(beneficiary, writable=True),
    ]
    return Instruction(Pubkey(program_id), data, accounts)


def set_active(task: bytes, creator: bytes, active: bool, *, program_id: bytes = PROGRAM_ID) -> Instruction:
    """SetActive, signed by the creator."""
    accounts = [_account(creator, signer=True), _account(task, writable=True)]
    return Instruction(Pubkey(program_id), _pack(SET_ACTIVE_FORMAT, Tag.SET_ACTIVE, active), accounts)


def update_task(
    task: bytes,
    creator: bytes,
    metadata: str,
    successor: bytes | None = None,
    *,
    program_id: bytes = PROGRAM_ID,
) -> Instruction:
    """UpdateTask, signed by the creator; the task itself stands for no successor.

    Raises `InstructionError` if the text does not fit.
    """
    text = metadata.encode()
    if len(text) > METADATA_BYTES:
        raise InstructionError(f"A task's metadata has at most {METADATA_BYTES} bytes, not {len(text)}.")
    accounts = [_account(creator, signer=True), _account(task, writable=True), _account(successor or task)]
    return Instruction(Pubkey(program_id), _pack(UPDATE_TASK_FORMAT, Tag.UPDATE_TASK, text), accounts)


def close(task: bytes, creator: bytes, *, program_id: bytes = PROGRAM_ID) -> Instruction:
    """Close, signed by the creator, who gets what is left."""
    accounts = [
        _account(creator, signer=True, writable=True),
        _account(task, writable=True),
        _account(vault_address(task, program_id), writable=True),
    ]
    return Instruction(Pubkey(program_id), _pack(TAG_FORMAT, Tag.CLOSE), accounts)


def close_stake(
    task: bytes, staker: bytes, beneficiary: bytes, *, program_id: bytes = PROGRAM_ID
) -> Instruction:
    """CloseStake; anyone may send it, and nobody but the fee payer signs."""
    accounts = [
        _account(task),
        _account(stake_address(task, staker, program_id), writable=True),
        _account(beneficiary, writable=True),
    ]
    return Instruction(Pubkey(program_id), _pack(TAG_FORMAT, Tag.CLOSE_STAKE), accounts)


def _with_leaf(tag: Tag, round: int, leaf: Leaf, proof: Proof) -> bytes:
    if len(proof.siblings) > PROOF_SIBLINGS:
        raise InstructionError(f"A proof has at most {PROOF_SIBLINGS} siblings, not {len(proof.siblings)}.")
    data = _pack(SETTLE_FORMAT, tag, round, leaf.encode(), proof.directions, len(proof.siblings))
    return data + b"".join(_key(sibling) for sibling in proof.siblings)


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
