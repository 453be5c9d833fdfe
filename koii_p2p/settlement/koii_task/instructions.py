"""The task program's instructions, as Koii's public clients encode them.

The first byte is the number of the instruction; numbers are signed 64-bit little-endian ("ns64"), texts are UTF-8
padded with spaces. Sources: create-task-cli src/koii_task_contract and src/kpl_task_contract/instructions,
koii-node; where they differ or are silent, `Readings` says which way it goes. Account orders of the native program's
SubmitTask, audits, lists and Payout are those of the KPL program: the native client's code for them is not public.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

import base58
from solders.instruction import AccountMeta, Instruction
from solders.pubkey import Pubkey
from solders.system_program import ID as SYSTEM_PROGRAM

from koii_p2p.settlement.koii_task.readings import Dialect, Readings, UploadForm

CLOCK: Final = bytes(base58.b58decode("SysvarC1ock11111111111111111111111111111111"))
RENT: Final = bytes(base58.b58decode("SysvarRent111111111111111111111111111111111"))
TOKEN_PROGRAM: Final = bytes(base58.b58decode("TokenkegQfeZyiNwAJbNbGKPFXCWuBvf9Ss623VQ5DA"))
SUBMISSION_BYTES: Final = 512
RAW_CHUNK_BYTES: Final = 512
NUMBERED_CHUNK_BYTES: Final = 508
MAX_NUMBER: Final = (1 << 63) - 1
MAX_CHUNKS: Final = 1 << 16
TEXT_BYTES: Final = {
    "task_name": 24,
    "task_description": 64,
    "task_audit_program": 64,
    "task_executable_network": 64,
    "task_metadata": 64,
    "local_vars": 64,
}
ADDRESS_BYTES: Final = 64


class KoiiTag(IntEnum):
    """The first byte. Both programs agree on these; UpdateTask, where they do not, is not written here."""

    CREATE_TASK = 0
    SUBMIT_TASK = 1
    AUDIT_SUBMISSIONS = 2
    AUDIT_DISTRIBUTION = 3
    PAYOUT = 4
    SET_ACTIVE = 6
    CLAIM_REWARD = 7
    FUND_TASK = 8
    STAKE = 9
    WITHDRAW = 10
    UPLOAD_DISTRIBUTION_LIST = 11
    SUBMIT_DISTRIBUTION_LIST = 12


class EncodingError(ValueError):
    """A value that the task program's instruction cannot carry."""


@dataclass(frozen=True, slots=True)
class NewTask:
    """What CreateTask carries. Times in slots, amounts in Roe or the token's base units; texts as `TEXT_BYTES` says."""

    task_name: str
    task_description: str
    task_audit_program: str
    task_executable_network: str
    total_bounty_amount: int
    bounty_amount_per_round: int
    round_time: int
    audit_window: int
    submission_window: int
    minimum_stake_amount: int
    task_metadata: str
    local_vars: str
    allowed_failed_distributions: int


@dataclass(frozen=True, slots=True)
class TokenAccounts:
    """What KPL instructions name besides: the signer's token account, the mint, and the stake pot's authority."""

    owner_account: bytes
    mint: bytes
    authority: bytes
    authority_seed: bytes


@dataclass(frozen=True, slots=True)
class KoiiInstructions:
    """Encodes every instruction for one program address and one reading. Raises EncodingError."""

    readings: Readings
    program: bytes

    def create_task(
        self, payer: bytes, task: bytes, stake_pot: bytes, new: NewTask, tokens: TokenAccounts | None = None
    ) -> Instruction:
        """CreateTask: `task` signs, and is made by the system program in the same transaction."""
        data = _byte(KoiiTag.CREATE_TASK) + b"".join(
            (
                _text(new.task_name, "task_name"),
                _text(new.task_description, "task_description"),
                _text(new.task_audit_program, "task_audit_program"),
                _text(new.task_executable_network, "task_executable_network"),
                _number(new.total_bounty_amount),
                _number(new.bounty_amount_per_round),
                _number(new.round_time),
                _number(new.audit_window),
                _number(new.submission_window),
                _number(new.minimum_stake_amount),
                _text(new.task_metadata, "task_metadata"),
                _text(new.local_vars, "local_vars"),
                _number(new.allowed_failed_distributions),
            )
        )
        if self._is_native:
            accounts = [_meta(payer, "sw"), _meta(task, "sw"), _meta(stake_pot, "w"), _meta(CLOCK)]
            return self._instruction(data, accounts)
        token = _required(tokens, "CreateTask")
        accounts = [
            _meta(payer, "sw"),
            _meta(token.owner_account, "w"),
            _meta(task, "sw"),
            _meta(stake_pot, "sw"),
            _meta(token.authority, "w"),
            _meta(token.mint),
            _meta(CLOCK),
            _meta(RENT),
            _meta(bytes(SYSTEM_PROGRAM)),
            _meta(TOKEN_PROGRAM),
        ]
        return self._instruction(data + _bytes(token.authority_seed, 32), accounts)

    def submit_task(self, task: bytes, submitter: bytes, round: int, submission: bytes) -> Instruction:
        """SubmitTask: up to 512 bytes of text for a round; trailing spaces are padding and do not survive."""
        data = (
            _byte(KoiiTag.SUBMIT_TASK) + _padded(submission, SUBMISSION_BYTES, "submission") + _number(round)
        )
        return self._instruction(data, [_meta(task, "w"), _meta(submitter, "sw"), _meta(CLOCK)])

    def audit_submission(
        self, task: bytes, voter: bytes, candidate: bytes, round: int, *, valid: bool
    ) -> Instruction:
        """AuditSubmissions: raises an audit of the candidate's submission, or votes in it."""
        data = _byte(KoiiTag.AUDIT_SUBMISSIONS) + self._flag(valid) + _number(round)
        written = "w" if self.readings.audit_writes_candidate else ""
        accounts = [_meta(task, "w"), _meta(voter, "sw"), _meta(candidate, written), _meta(CLOCK)]
        return self._instruction(data, accounts)

    def audit_distribution(
        self, task: bytes, voter: bytes, candidate: bytes, round: int, *, valid: bool
    ) -> Instruction:
        """AuditDistribution: the same for the candidate's distribution list."""
        data = _byte(KoiiTag.AUDIT_DISTRIBUTION) + self._flag(valid) + _number(round)
        accounts = [_meta(task, "w"), _meta(voter, "sw"), _meta(candidate, "w"), _meta(CLOCK)]
        return self._instruction(data, accounts)

    def upload_list(
        self, task: bytes, data_account: bytes, round: int, place: int, piece: bytes
    ) -> Instruction:
        """UploadDistributionList: one piece; `place` counts them from 0, and RAW_512 does not carry it."""
        tag = _byte(KoiiTag.UPLOAD_DISTRIBUTION_LIST)
        if self.readings.upload is UploadForm.RAW_512:
            data = tag + _zero_padded(piece, RAW_CHUNK_BYTES)
        else:
            if not 0 <= place < MAX_CHUNKS:
                raise EncodingError(f"piece {place} of a list: its number has 16 bits")
            header = struct.pack("<HH", place, NUMBERED_CHUNK_BYTES)
            data = tag + header + _zero_padded(piece, NUMBERED_CHUNK_BYTES) + _number(round)
        written = "w" if self.readings.upload_writes_task else ""
        return self._instruction(data, [_meta(task, written), _meta(data_account, "sw")])

    def submit_list(self, task: bytes, submitter: bytes, data_account: bytes, round: int) -> Instruction:
        """SubmitDistributionList: the list in the data account is the submitter's list of the round."""
        data = _byte(KoiiTag.SUBMIT_DISTRIBUTION_LIST) + _number(round)
        accounts = [_meta(task, "w"), _meta(submitter, "sw"), _meta(data_account, "sw"), _meta(CLOCK)]
        return self._instruction(data, accounts)

    def payout(self, task: bytes, data_account: bytes, round: int) -> Instruction:
        """Payout: apply the round's list. Nobody but the fee payer signs."""
        data = _byte(KoiiTag.PAYOUT) + _number(round)
        return self._instruction(data, [_meta(task, "w"), _meta(CLOCK), _meta(data_account, "w")])

    def stake(
        self,
        task: bytes,
        staker: bytes,
        stake_pot: bytes,
        amount: int,
        address: str = "",
        tokens: TokenAccounts | None = None,
    ) -> Instruction:
        """Stake: `amount` out of the staking account into the pot; `address` is where the node serves, if carried."""
        data = _byte(KoiiTag.STAKE) + _number(amount)
        if self.readings.stake_names_address or not self._is_native:
            data += _padded(address.encode(), ADDRESS_BYTES, "address")
        accounts = [_meta(task, "w"), _meta(staker, "sw")]
        if self._is_native:
            return self._instruction(data, [*accounts, _meta(stake_pot, "w"), _meta(CLOCK)])
        token = _required(tokens, "Stake")
        accounts += [_meta(token.owner_account, "w"), _meta(stake_pot, "w"), _meta(TOKEN_PROGRAM)]
        return self._instruction(data, accounts)

    def withdraw(self, task: bytes, staker: bytes) -> Instruction:
        """Withdraw: the stake becomes claimable, once the lock is over."""
        return self._instruction(
            _byte(KoiiTag.WITHDRAW), [_meta(task, "w"), _meta(staker, "sw"), _meta(CLOCK)]
        )

    def claim_reward(
        self,
        task: bytes,
        claimer: bytes,
        stake_pot: bytes,
        beneficiary: bytes,
        tokens: TokenAccounts | None = None,
    ) -> Instruction:
        """ClaimReward: everything claimable of the claimer, out of the pot to `beneficiary`."""
        accounts = [_meta(task, "w"), _meta(claimer, "sw"), _meta(stake_pot, "w"), _meta(beneficiary, "w")]
        if not self._is_native:
            accounts += [_meta(_required(tokens, "ClaimReward").authority), _meta(TOKEN_PROGRAM)]
        return self._instruction(_byte(KoiiTag.CLAIM_REWARD), accounts)

    def fund_task(
        self, task: bytes, funder: bytes, stake_pot: bytes, amount: int, tokens: TokenAccounts | None = None
    ) -> Instruction:
        """FundTask: `amount` of the funder into the pot, as bounty."""
        data = _byte(KoiiTag.FUND_TASK) + _number(amount)
        accounts = [_meta(task, "w"), _meta(funder, "sw")]
        if self._is_native:
            accounts += [_meta(stake_pot, "w"), _meta(bytes(SYSTEM_PROGRAM)), _meta(CLOCK)]
        else:
            token = _required(tokens, "FundTask")
            accounts += [_meta(token.owner_account, "w"), _meta(stake_pot, "w"), _meta(TOKEN_PROGRAM)]
        return self._instruction(data, accounts)

    def set_active(self, task: bytes, owner: bytes, *, active: bool) -> Instruction:
        """SetActive: the owner opens or closes the task."""
        written = "s" if self._is_native else "sw"
        accounts = [_meta(task, "w"), _meta(owner, written), _meta(self.manager())]
        return self._instruction(_byte(KoiiTag.SET_ACTIVE) + self._flag(active), accounts)

    def manager(self) -> bytes:
        """The program's manager account: PDA of ("manager")."""
        address, _ = Pubkey.find_program_address([b"manager"], Pubkey(self.program))
        return bytes(address)

    @property
    def _is_native(self) -> bool:
        return self.readings.dialect is Dialect.KOII

    def _flag(self, value: bool) -> bytes:
        return _number(int(value)) if self._is_native else bytes([value])

    def _instruction(self, data: bytes, accounts: Sequence[AccountMeta]) -> Instruction:
        return Instruction(Pubkey(self.program), data, list(accounts))


def pieces_of(content: bytes, form: UploadForm) -> tuple[bytes, ...]:
    """A list's bytes as they are uploaded, piece by piece. Raises EncodingError if there are too many."""
    size = RAW_CHUNK_BYTES if form is UploadForm.RAW_512 else NUMBERED_CHUNK_BYTES
    if len(content) > size * MAX_CHUNKS:
        raise EncodingError(
            f"a list of {len(content)} bytes; {size * MAX_CHUNKS} is the most that pieces can number"
        )
    return tuple(content[start : start + size] for start in range(0, len(content), size))


def _byte(tag: KoiiTag) -> bytes:
    return bytes([tag])


def _number(value: int) -> bytes:
    if type(value) is not int or not 0 <= value <= MAX_NUMBER:
        raise EncodingError(f"{value!r} is not a number from 0 to {MAX_NUMBER}")
    return value.to_bytes(8, "little")


def _text(value: str, name: str) -> bytes:
    return _padded(value.encode(), TEXT_BYTES[name], name)


def _padded(value: bytes, size: int, name: str) -> bytes:
    if len(value) > size or value != value.rstrip(b" "):
        raise EncodingError(f"{name} has {len(value)} bytes: at most {size}, and the last is no space")
    return value.ljust(size, b" ")


def _zero_padded(piece: bytes, size: int) -> bytes:
    if not 0 < len(piece) <= size:
        raise EncodingError(f"a piece of a list has 1 to {size} bytes, not {len(piece)}")
    return piece.ljust(size, b"\0")


def _bytes(value: bytes, size: int) -> bytes:
    if len(value) != size:
        raise EncodingError(f"{size} bytes were expected, not {len(value)}")
    return value


def _required(tokens: TokenAccounts | None, name: str) -> TokenAccounts:
    if tokens is None:
        raise EncodingError(f"{name} of the KPL program names token accounts")
    return tokens


def _meta(key: bytes, flags: str = "") -> AccountMeta:
    return AccountMeta(Pubkey(_bytes(key, 32)), is_signer="s" in flags, is_writable="w" in flags)
