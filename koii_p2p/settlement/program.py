"""K2 through the settlement program: reads accounts, signs and sends instructions, names refusals."""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass, replace
from typing import Any, Final

from solders.compute_budget import set_compute_unit_limit
from solders.instruction import Instruction
from solders.keypair import Keypair

from koii_p2p.errors import ChainError, ConfigurationError
from koii_p2p.limits import Limits
from koii_p2p.records.keys import SecretKey
from koii_p2p.rounds.distribution import Leaf
from koii_p2p.rounds.merkle import Proof
from koii_p2p.rounds.roster import StakeHistory
from koii_p2p.rounds.terms import TaskTerms
from koii_p2p.settlement import history
from koii_p2p.settlement import instructions as encode
from koii_p2p.settlement.carrier import Carrier
from koii_p2p.settlement.history import ChainEntry
from koii_p2p.settlement.instructions import PROGRAM_ID, InstructionError
from koii_p2p.settlement.interface import ClosedTaskState, CreatedTask, Receipt, StakeAccount, TaskState
from koii_p2p.settlement.layouts import (
    CLOSED_TASK_LAYOUT,
    STAKE_LAYOUT,
    STAKE_MAGIC,
    VAULT_LAYOUT,
    LayoutError,
    decode_closed_task,
    decode_stake,
    decode_task,
)
from koii_p2p.settlement.priority_fees import PriorityFees, priority_fee
from koii_p2p.settlement.refusals import (
    AlreadyAnchored,
    AlreadyVetoed,
    ClosedTask,
    DamagedAccount,
    PayerShort,
    ProgramError,
    ProgramRefused,
    UnknownTask,
    program_error,
)
from koii_p2p.settlement.rpc import DataSize, Memcmp, RpcClient, TransactionFailed
from koii_p2p.settlement.sending import reserved_units

COMPUTE_UNITS: Final = 200_000
"""Far above what any instruction takes (about 15 000), because finding an address takes 1500 per try."""
EMPTY_KEY: Final = bytes(32)

_SYSTEM_SHORT_OF_ROE: Final = 1  # the system program's ResultWithNegativeLamports
_NOTHING_LEFT_TO_DO: Final[dict[ProgramError, type[ProgramRefused]]] = {
    ProgramError.COMMITMENT_EXISTS: AlreadyAnchored,
    ProgramError.LIST_EXISTS: AlreadyAnchored,
    ProgramError.ALREADY_VETOED: AlreadyVetoed,
    ProgramError.ALREADY_REJECTED: AlreadyVetoed,
}
_INSTRUCTION_INDEX: Final = 1  # behind the compute budget
_MOST_QUOTES: Final = 64


@dataclass(frozen=True, slots=True)
class Quote:
    """What a transaction costs, in Roe: `fee` as it is bid now, `most` if it has to be sent again and bid more."""

    fee: int
    most: int


@dataclass(frozen=True, slots=True)
class _Draft:
    """A transaction before it is signed; `price` is None if nobody was told one."""

    instructions: tuple[Instruction, ...]
    price: int | None


class ProgramSettlement(Carrier):
    """`Settlement` over the program; see `Carrier` for the keys."""

    def __init__(
        self,
        rpc: RpcClient,
        payer: Keypair | SecretKey,
        staker: Keypair | SecretKey | None = None,
        *,
        program_id: bytes = PROGRAM_ID,
        limits: Limits = Limits(),  # noqa: B008 - a frozen value
        fees: PriorityFees = PriorityFees(),  # noqa: B008 - a frozen value
    ) -> None:
        super().__init__(rpc, payer, staker, fees=fees)
        self._program_id = program_id
        self._limits = limits
        self._vault_rent: int | None = None
        # Two transactions with the same instructions and blockhash would be one and the same to the chain:
        # each gets another compute limit. It starts anywhere, so that processes with one payer do not meet
        # either.
        self._unique = itertools.count(random.SystemRandom().randrange(100_000))
        self._quoted: dict[bytes, _Draft] = {}

    async def task_state(self, task: bytes) -> TaskState:
        """The task and its vault, read in one call. Raises `UnknownTask`, `ClosedTask`, or `DamagedAccount`."""
        if self._vault_rent is None:
            self._vault_rent = await self._rpc.get_minimum_balance_for_rent_exemption(VAULT_LAYOUT.size)
        vault_address = encode.vault_address(task, self._program_id)
        account, vault = await self._rpc.get_multiple_accounts([task, vault_address])
        if account is None or account.owner != self._program_id:
            raise UnknownTask(task)
        if len(account.data) == CLOSED_TASK_LAYOUT.size:
            raise ClosedTask(task, _closed(task, account.data))
        if vault is None or vault.owner != self._program_id:
            raise DamagedAccount(vault_address, "The task has no vault.")
        try:
            state = decode_task(task, account.data, vault=max(0, vault.lamports - self._vault_rent))
        except LayoutError as error:
            raise DamagedAccount(task, str(error)) from error
        if encode.task_address(state.terms.creator, state.nonce, self._program_id) != task:
            raise DamagedAccount(task, "Its address is not that of its creator and nonce.")
        return state

    async def stake_accounts(self, task: bytes) -> tuple[StakeAccount, ...]:
        """Every stake account of the task, sorted by staker. Raises `DamagedAccount`."""
        offset = STAKE_LAYOUT.field("task").offset
        filters: list[DataSize | Memcmp] = [
            DataSize(STAKE_LAYOUT.size),
            Memcmp(0, STAKE_MAGIC),
            Memcmp(offset, task),
        ]
        stakes = []
        for address, account in await self._rpc.get_program_accounts(self._program_id, filters):
            try:
                stake = decode_stake(account.data)
            except LayoutError as error:
                raise DamagedAccount(address, str(error)) from error
            if encode.stake_address(task, stake.history.staker, self._program_id) != address:
                raise DamagedAccount(address, "Its address is not that of its task and staker.")
            stakes.append(stake)
        return tuple(sorted(stakes, key=lambda stake: stake.history.staker))

    async def stakes(self, task: bytes) -> tuple[StakeHistory, ...]:
        """What rosters are made of: every stake of the task, sorted by staker."""
        return tuple(stake.history for stake in await self.stake_accounts(task))

    async def balance(self, key: bytes) -> int:
        """What this key holds, in Roe; 0 if it does not exist."""
        return await self._rpc.get_balance(key)

    async def history(self, task: bytes) -> tuple[ChainEntry, ...]:
        """Every transaction of the task, oldest first, each verified by itself; `history.check_history` does
        the rest.

        Bounded by `Limits.history_transactions`; what is older is left out, which the check then notices.
        """
        return await history.read_history(
            self._rpc, task, limit=self._limits.history_transactions, program_id=self._program_id
        )

    # -- writing

    async def quote(self, instruction: Instruction) -> Quote:
        """What sending this instruction costs. The next transaction with it costs just that.

        Raises:
            ChainError: K2 does not say what it takes.
        """
        instructions = self._budgeted(instruction)
        price = await self._sender.price(instructions)
        fee = await self._sender.fee(instructions, price)
        units = reserved_units(instructions)
        more = priority_fee(units, self._sender.highest_price(price)) - priority_fee(units, price)
        while len(self._quoted) >= _MOST_QUOTES:
            del self._quoted[next(iter(self._quoted))]
        self._quoted[bytes(instruction)] = _Draft(instructions, price)
        return Quote(fee, fee + more)

    async def create_task(self, terms: TaskTerms, nonce: int) -> CreatedTask:
        """Put a task on K2, signed and paid by the payer.

        `terms.task` and `terms.creator` are the derived ones, or 32 zero bytes for "not known yet". Raises
        `ConfigurationError` otherwise, `ProgramRefused` if there is a task with this nonce.
        """
        task = encode.task_address(self.payer, nonce, self._program_id)
        if terms.creator not in (self.payer, EMPTY_KEY) or terms.task not in (task, EMPTY_KEY):
            raise ConfigurationError(
                "The task cannot be created.",
                "Its terms name another creator or task address than this wallet and nonce give.",
                "Leave both empty, or use the creator's wallet.",
            )
        terms = replace(terms, task=task, creator=self.payer)
        try:
            instruction = encode.create_task(terms, nonce, program_id=self._program_id)
        except InstructionError as error:
            raise ConfigurationError(
                "The task cannot be created.", str(error), "Correct the task's settings."
            ) from error
        return CreatedTask(task, await self._send("create the task", instruction))

    async def fund(self, task: bytes, amount: int) -> Receipt:
        """Move `amount` Roe from the payer into the task's vault."""
        instruction = encode.fund(task, self.payer, amount, program_id=self._program_id)
        return await self._send("fund the task", instruction)

    async def stake(self, task: bytes, amount: int, beneficiary: bytes) -> Receipt:
        """Stake `amount` Roe of the payer for the staking key, or add it; rewards go to `beneficiary`."""
        staker = self._require_staker()
        instruction = encode.stake(
            task, self.payer, bytes(staker.pubkey()), beneficiary, amount, program_id=self._program_id
        )
        return await self._send("stake", instruction, staker)

    async def unstake(self, task: bytes) -> Receipt:
        """Ask the staking key's stake back: from the next period on it is in no roster, and the lock begins."""
        staker = self._require_staker()
        instruction = encode.request_unstake(task, bytes(staker.pubkey()), program_id=self._program_id)
        return await self._send("ask the stake back", instruction, staker)

    async def withdraw(
        self,
        task: bytes,
        staker: bytes,
        beneficiary: bytes,
        round: int = 0,
        leaf: Leaf | None = None,
        proof: Proof | None = None,
    ) -> Receipt:
        """Pay a stake that was asked back out to its beneficiary, when the lock is over. Anyone may.

        `leaf` and `proof` are those of the newest settled list, which is that of `round`: what it slashes is taken
        first. Without a leaf only a stake leaves that no list names, or after the task was abandoned. Rewards are
        not paid by it: settle them before or after.
        """
        instruction = encode.withdraw(
            task, staker, beneficiary, round, leaf, proof, program_id=self._program_id
        )
        return await self._send("withdraw the stake", instruction)

    async def set_active(self, task: bytes, active: bool) -> Receipt:
        """Let the payer's task go on (True), or take no stakes and no rounds after the one that is worked on now."""
        instruction = encode.set_active(task, self.payer, active, program_id=self._program_id)
        return await self._send("make the task active" if active else "make the task inactive", instruction)

    async def update(self, task: bytes, metadata: str, successor: bytes | None = None) -> Receipt:
        """Replace the metadata and successor of the payer's task. Raises `ConfigurationError` for too long a text."""
        try:
            instruction = encode.update_task(
                task, self.payer, metadata, successor, program_id=self._program_id
            )
        except InstructionError as error:
            raise ConfigurationError(
                "The task cannot be updated.", str(error), "Give a shorter text, such as a CID."
            ) from error
        return await self._send("update the task", instruction)

    async def close(self, task: bytes) -> Receipt:
        """Close the payer's task, if nobody has a stake or a claim left.

        The rest of the vault and the rent are paid back to the payer.
        """
        instruction = encode.close(task, self.payer, program_id=self._program_id)
        return await self._send("close the task", instruction)

    async def close_stake(self, task: bytes, staker: bytes, beneficiary: bytes) -> Receipt:
        """Pay the rent of a stake account of a closed task back to its beneficiary. Anyone may."""
        instruction = encode.close_stake(task, staker, beneficiary, program_id=self._program_id)
        return await self._send("close the stake account", instruction)

    async def anchor_commitment(self, task: bytes, round: int, digest: bytes, attempt: int = 0) -> Receipt:
        """Anchor a round's commitment; attempt k follows the rejection of attempt k - 1.

        Raises `AlreadyAnchored` if this attempt has one.
        """
        staker = self._require_staker()
        instruction = encode.anchor_commitment(
            task, bytes(staker.pubkey()), round, digest, attempt=attempt, program_id=self._program_id
        )
        return await self._send(f"anchor the commitment of {_named(round, attempt)}", instruction, staker)

    async def anchor_list(
        self, task: bytes, round: int, root: bytes, reward_total: int, slash_total: int, attempt: int = 0
    ) -> Receipt:
        """Anchor the list of a round's attempt, above all standing lists. Raises `AlreadyAnchored` if it has one."""
        staker = self._require_staker()
        instruction = encode.anchor_list(
            task,
            bytes(staker.pubkey()),
            round,
            root,
            reward_total,
            slash_total,
            attempt=attempt,
            program_id=self._program_id,
        )
        return await self._send(f"anchor the list of {_named(round, attempt)}", instruction, staker)

    async def veto(self, task: bytes, round: int, attempt: int) -> Receipt:
        """Put the staking key's stake against a list. Raises `AlreadyVetoed` if nothing is left to do.

        The task is read first: the veto names the stakes of those who anchored the attempt.
        """
        staker = self._require_staker()
        anchored = (await self.task_state(task)).rounds.get(round)
        # Without an anchored round K2 names the reason; whose stakes are passed does not matter then.
        committer = bytes(staker.pubkey()) if anchored is None else anchored.commitment_by
        lister = None if anchored is None else anchored.list_by
        instruction = encode.veto(
            task, bytes(staker.pubkey()), round, attempt, committer, lister, program_id=self._program_id
        )
        return await self._send(f"veto the list of {_named(round, attempt)}", instruction, staker)

    async def settle(self, task: bytes, round: int, leaf: Leaf, proof: Proof, beneficiary: bytes) -> Receipt:
        """Pay and slash one staker up to its leaf.

        A slash lands even if the reward cannot be paid now (the vault is short, or the beneficiary cannot
        receive it): then it is taken alone, and the reward stays claimable.
        """
        action = f"settle a leaf of round {round}"
        try:
            instruction = encode.settle(task, round, leaf, proof, beneficiary, program_id=self._program_id)
            return await self._send(action, instruction)
        except (ProgramRefused, TransactionFailed) as error:
            if leaf.slash_total == 0 or not _concerns_payment(error):
                raise
            slash_only = encode.settle(
                task, round, leaf, proof, beneficiary, pay=False, program_id=self._program_id
            )
            try:
                return await self._send(action, slash_only)
            except ProgramRefused as second:
                if (
                    second.error is ProgramError.NOT_WRITABLE
                ):  # no slash was due: the first refusal is the reason
                    raise error from None
                raise

    async def _send(self, action: str, instruction: Instruction, *signers: Keypair) -> Receipt:
        draft = self._quoted.pop(bytes(instruction), None) or _Draft(self._budgeted(instruction), None)
        try:
            return await self._sender.send(action, draft.instructions, *signers, price=draft.price)
        except TransactionFailed as failure:
            raise self._refusal(action, failure) from failure

    def _budgeted(self, instruction: Instruction) -> tuple[Instruction, ...]:
        return set_compute_unit_limit(COMPUTE_UNITS + next(self._unique) % 100_000), instruction

    def _refusal(self, action: str, failure: TransactionFailed) -> ChainError:
        code = _custom_code(failure.err)
        error = None if code is None else program_error(code)
        if error is not None:
            return _NOTHING_LEFT_TO_DO.get(error, ProgramRefused)(action, error)
        if code == _SYSTEM_SHORT_OF_ROE:
            return PayerShort(action, self.payer)
        return failure


_UNPAYABLE: Final = frozenset(
    {
        ProgramError.BENEFICIARY_BELOW_RENT,
        ProgramError.VAULT_SHORT,
        ProgramError.NOT_WRITABLE,
        ProgramError.REWARDS_ABOVE_LIST,
    }
)


def _named(round: int, attempt: int) -> str:
    return f"round {round}, attempt {attempt}" if attempt else f"round {round}"


def _concerns_payment(error: ProgramRefused | TransactionFailed) -> bool:
    # A failure that is not the program's own comes from the runtime, which did not let the beneficiary be
    # paid.
    return isinstance(error, TransactionFailed) or error.error in _UNPAYABLE


def _custom_code(err: Any) -> int | None:
    match err:
        case {"InstructionError": [int(index), {"Custom": int(code)}]} if index == _INSTRUCTION_INDEX:
            return code
    return None


def _closed(task: bytes, data: bytes) -> ClosedTaskState:
    try:
        return decode_closed_task(data)
    except LayoutError as error:
        raise DamagedAccount(task, str(error)) from error
