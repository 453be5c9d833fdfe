"""The settlement program in solders' virtual machine; every step is checked to conserve lamports."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from solders.account import Account
from solders.clock import Clock
from solders.compute_budget import set_compute_unit_limit
from solders.instruction import Instruction
from solders.keypair import Keypair
from solders.litesvm import LiteSVM
from solders.message import Message
from solders.pubkey import Pubkey
from solders.rpc.responses import RpcSimulateTransactionResult
from solders.transaction import Transaction
from solders.transaction_metadata import FailedTransactionMetadata

import koii_p2p.settlement
from koii_p2p.rounds import merkle
from koii_p2p.rounds.audit_rules import AuditRules
from koii_p2p.rounds.clock import RoundClock
from koii_p2p.rounds.distribution import Leaf
from koii_p2p.rounds.terms import TaskTerms
from koii_p2p.settlement import instructions as ix
from koii_p2p.settlement.interface import StakeAccount, TaskState
from koii_p2p.settlement.layouts import VAULT_LAYOUT, decode_stake, decode_task
from koii_p2p.settlement.refusals import ProgramError, program_error

PROGRAM_SO = Path(koii_p2p.settlement.__file__).parent / "program" / "settlement.so"
KOII = 1_000_000_000
SIGNATURE_FEE = 5000
COMPUTE_BUDGET_UNITS = 150


def keypair(name: str) -> Keypair:
    """A key that is the same in every run."""
    return Keypair.from_seed(hashlib.sha256(name.encode()).digest())


def address(key: Keypair) -> bytes:
    return bytes(key.pubkey())


@dataclass(frozen=True, slots=True)
class Result:
    """What a transaction did: its error (None if it succeeded) and what it cost."""

    err: object
    compute_units: int
    fee: int

    @property
    def error(self) -> ProgramError | None:
        match self.err:
            case {"InstructionError": [int(), {"Custom": int(code)}]}:
                return program_error(code)
        return None


@dataclass(frozen=True, slots=True)
class Landed:
    """A transaction as the chain keeps it."""

    slot: int
    wire: bytes
    result: Result
    keys: frozenset[bytes]


@dataclass
class VirtualChain:
    """A virtual machine with the program, a clock that tests set, and a rich main wallet."""

    slot: int = 1
    svm: LiteSVM = field(init=False)
    payer: Keypair = field(init=False)
    sent: int = 0
    units: dict[str, list[int]] = field(default_factory=dict)
    landed: list[Landed] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.svm = LiteSVM().with_blockhash_check(False).with_transaction_history(0)
        self.svm.add_program(Pubkey(ix.PROGRAM_ID), PROGRAM_SO.read_bytes())
        self.payer = self.rich("payer")
        self.at(self.slot)

    def at(self, slot: int) -> None:
        """Set the clock."""
        self.slot = slot
        self.svm.set_clock(Clock(slot, 0, 0, 0, 0))

    def rich(self, name: str, amount: int = 10_000 * KOII) -> Keypair:
        key = keypair(name)
        self.svm.airdrop(key.pubkey(), amount)
        return key

    def balance(self, key: bytes) -> int:
        return int(self.svm.get_balance(Pubkey(key)) or 0)

    def data(self, key: bytes) -> bytes:
        account = self.svm.get_account(Pubkey(key))
        return b"" if account is None else bytes(account.data)

    def owner(self, key: bytes) -> bytes | None:
        account = self.svm.get_account(Pubkey(key))
        return None if account is None else bytes(account.owner)

    def forge(self, key: bytes, data: bytes, owner: bytes = ix.PROGRAM_ID, lamports: int = KOII) -> None:
        """Put an account there that no transaction could have made."""
        self.svm.set_account(Pubkey(key), Account(lamports, data, Pubkey(owner)))

    def rent(self, size: int) -> int:
        return int(self.svm.minimum_balance_for_rent_exemption(size))

    def send(
        self, *instructions: Instruction, signers: Iterable[Keypair] = (), payer: Keypair | None = None
    ) -> Result:
        """Run one transaction. Lamports never appear or vanish; a refused one changes nothing but the fee."""
        self.sent += 1
        payer = payer or self.payer
        # The limit differs each time, so no two transactions are the same bytes.
        all_instructions = [set_compute_unit_limit(1_000_000 + self.sent), *instructions]
        message = Message(all_instructions, payer.pubkey())
        keys = {bytes(one.pubkey()): one for one in (payer, *signers)}
        required = message.account_keys[: message.header.num_required_signatures]
        transaction = Transaction(
            [keys[bytes(one)] for one in required], message, self.svm.latest_blockhash()
        )
        return self.run(transaction)

    def run(self, transaction: Transaction) -> Result:
        """Run a signed transaction, checking what it must not do."""
        message = transaction.message
        touched = [bytes(one) for one in message.account_keys]
        before = {one: (self.balance(one), self.data(one)) for one in touched}
        outcome = self.svm.send_transaction(transaction)
        after = {one: (self.balance(one), self.data(one)) for one in touched}
        result = self._result(outcome, SIGNATURE_FEE * message.header.num_required_signatures)
        self.landed.append(Landed(self.slot, bytes(transaction), result, frozenset(touched)))
        spent = sum(b for b, _ in before.values()) - sum(b for b, _ in after.values())
        assert spent == result.fee, "lamports appeared or vanished"
        if result.err is not None:
            balance, data = before[touched[0]]
            assert after == before | {touched[0]: (balance - result.fee, data)}
        elif len(message.instructions) == 2:  # the compute budget and one of ours
            name = ix.Tag(message.instructions[1].data[0]).name
            self.units.setdefault(name, []).append(result.compute_units)
        return result

    def _result(self, outcome: object, fee: int) -> Result:
        if isinstance(outcome, FailedTransactionMetadata):
            err = json.loads(RpcSimulateTransactionResult(err=outcome.err()).to_json())["err"]
            units = outcome.meta().compute_units_consumed()
            return Result(err, units - COMPUTE_BUDGET_UNITS, fee)
        units = outcome.compute_units_consumed()  # type: ignore[attr-defined]
        return Result(None, units - COMPUTE_BUDGET_UNITS, fee)

    def ok(
        self, *instructions: Instruction, signers: Iterable[Keypair] = (), payer: Keypair | None = None
    ) -> Result:
        result = self.send(*instructions, signers=signers, payer=payer)
        assert result.err is None, (result.err, result.error)
        return result


def default_terms(creator: bytes, nonce: int = 7) -> TaskTerms:
    return TaskTerms(
        task=ix.task_address(creator, nonce),
        creator=creator,
        name="hello world",
        program="examples.hello_world:HelloWorld",
        starting_slot=1000,
        round_time=100,
        submission_window=30,
        audit_window=40,
        bounty_per_round=3 * KOII,
        minimum_stake=2 * KOII,
        slash_basis_points=7000,
        allowed_failed_distributions=4,
        audit=AuditRules(auditors=5, quorum=3),
    )


class TaskChain(VirtualChain):
    """A virtual chain with a funded task and stakers; `terms` are changes to the default ones."""

    def __init__(self, stakers: int = 3, funds: int = 100 * KOII, nonce: int = 7, **terms: object) -> None:
        super().__init__()
        self.terms = replace(default_terms(address(self.payer), nonce), **terms)  # type: ignore[arg-type]
        self.task = self.terms.task
        self.vault = ix.vault_address(self.task)
        self.clock: RoundClock = self.terms.clock
        self.ok(ix.create_task(self.terms, nonce))
        if funds:
            self.ok(ix.fund(self.task, address(self.payer), funds))
        self.stakers = [keypair(f"staker {number}") for number in range(stakers)]
        self.beneficiaries = [keypair(f"beneficiary {number}") for number in range(stakers)]
        for index in range(stakers):
            self.add_stake(index, 5 * KOII)
        self.totals: dict[bytes, tuple[int, int]] = {address(one): (0, 0) for one in self.stakers}

    # -- state

    def state(self) -> TaskState:
        vault = self.balance(self.vault) - self.rent(VAULT_LAYOUT.size)
        return decode_task(self.task, self.data(self.task), vault=vault)

    def stake_of(self, index: int) -> StakeAccount:
        return decode_stake(self.data(self.stake_address(index)))

    def stake_address(self, index: int) -> bytes:
        return ix.stake_address(self.task, address(self.stakers[index]))

    # -- good transactions

    def add_stake(self, index: int, amount: int) -> Result:
        staker, beneficiary = self.stakers[index], self.beneficiaries[index]
        return self.ok(
            ix.stake(self.task, address(self.payer), address(staker), address(beneficiary), amount),
            signers=[staker],
        )

    def commit_instruction(self, round: int, staker: int = 0, attempt: int = 0) -> Instruction:
        digest = hashlib.sha256(b"commitment %d.%d" % (round, attempt)).digest()
        return ix.anchor_commitment(self.task, address(self.stakers[staker]), round, digest, attempt=attempt)

    def commit(self, round: int, staker: int = 0, attempt: int = 0) -> Result:
        """Anchor a commitment at the beginning of its window."""
        self.at(max(self.slot, self.clock.commitment(round, attempt).opens + 1))
        return self.ok(self.commit_instruction(round, staker, attempt), signers=[self.stakers[staker]])

    def earn(self, rewards: Sequence[int], slashes: Sequence[int] | None = None) -> list[Leaf]:
        """Add to the cumulative totals of the stakers, in order; the leaves of the next list."""
        slashes = slashes if slashes is not None else [0] * len(rewards)
        for staker, reward, slash in zip(self.stakers, rewards, slashes, strict=True):
            paid, taken = self.totals[address(staker)]
            self.totals[address(staker)] = (paid + reward, taken + slash)
        return sorted(
            (Leaf(key, reward, slash) for key, (reward, slash) in self.totals.items()),
            key=lambda leaf: leaf.staker,
        )

    def list_instruction(
        self,
        round: int,
        leaves: Sequence[Leaf],
        staker: int = 0,
        attempt: int = 0,
        *,
        rewards: int = 0,
        slashes: int = 0,
    ) -> Instruction:
        """An AnchorList of these leaves; `rewards` and `slashes` are added to the true totals."""
        return ix.anchor_list(
            self.task,
            address(self.stakers[staker]),
            round,
            merkle.root([leaf.encode() for leaf in leaves]),
            sum(leaf.reward_total for leaf in leaves) + rewards,
            sum(leaf.slash_total for leaf in leaves) + slashes,
            attempt=attempt,
        )

    def anchor_list(self, round: int, leaves: Sequence[Leaf], staker: int = 0, attempt: int = 0) -> Result:
        """Anchor a list at the beginning of its window."""
        self.at(max(self.slot, self.clock.distribution(round, attempt).opens + 1))
        return self.ok(self.list_instruction(round, leaves, staker, attempt), signers=[self.stakers[staker]])

    def veto_instruction(self, round: int, staker: int = 0, attempt: int = 0) -> Instruction:
        return self.veto_by(self.stakers[staker], round, attempt)

    def veto_by(self, key: Keypair, round: int, attempt: int = 0) -> Instruction:
        """A Veto with the stakes of who anchored the round; those of the first staker if nobody did."""
        anchored = self.state().rounds.get(round)
        committer = address(self.stakers[0]) if anchored is None else anchored.commitment_by
        lister = None if anchored is None else anchored.list_by
        return ix.veto(self.task, address(key), round, attempt, committer, lister)

    def veto(self, round: int, *stakers: int, attempt: int = 0) -> None:
        """Veto a list at the beginning of its audit, one staker after the other."""
        self.at(max(self.slot, self.clock.distribution_audit(round, attempt).opens))
        for staker in stakers:
            self.ok(self.veto_instruction(round, staker, attempt), signers=[self.stakers[staker]])

    def settle_instruction(
        self, round: int, leaves: Sequence[Leaf], index: int, *, pay: bool = True
    ) -> Instruction:
        key = address(self.stakers[index])
        position = next(place for place, leaf in enumerate(leaves) if leaf.staker == key)
        proof = merkle.prove([leaf.encode() for leaf in leaves], position)
        return ix.settle(
            self.task, round, leaves[position], proof, address(self.beneficiaries[index]), pay=pay
        )

    def unstake_instruction(self, index: int) -> Instruction:
        return ix.request_unstake(self.task, address(self.stakers[index]))

    def unstake(self, index: int) -> Result:
        return self.ok(self.unstake_instruction(index), signers=[self.stakers[index]])

    def withdraw_instruction(
        self, index: int, round: int = 0, leaves: Sequence[Leaf] | None = None
    ) -> Instruction:
        """A Withdraw with the staker's leaf of these leaves, or without one."""
        key, beneficiary = address(self.stakers[index]), address(self.beneficiaries[index])
        if leaves is None:
            return ix.withdraw(self.task, key, beneficiary)
        position = next(place for place, leaf in enumerate(leaves) if leaf.staker == key)
        proof = merkle.prove([leaf.encode() for leaf in leaves], position)
        return ix.withdraw(self.task, key, beneficiary, round, leaves[position], proof)

    def withdraw(self, index: int, round: int = 0, leaves: Sequence[Leaf] | None = None) -> Result:
        return self.ok(self.withdraw_instruction(index, round, leaves), signers=[self.stakers[index]])

    def set_active(self, active: bool) -> Result:
        return self.ok(ix.set_active(self.task, address(self.payer), active))

    def close_instruction(self) -> Instruction:
        return ix.close(self.task, address(self.payer))

    def settled_slot(self, round: int, attempt: int = 0) -> None:
        self.at(self.clock.settles_at(round, attempt))

    def run_round(
        self, round: int, rewards: Sequence[int], slashes: Sequence[int] | None = None
    ) -> list[Leaf]:
        """Commitment, list and the first settled slot of a round; returns its leaves."""
        self.commit(round)
        leaves = self.earn(rewards, slashes)
        self.anchor_list(round, leaves)
        self.settled_slot(round)
        return leaves


def use_every_instruction(chain: TaskChain, rounds: int = 3) -> None:
    """The life of a task of three stakers, from its rounds to its end: every instruction at least once, all good."""
    leaves: list[Leaf] = []
    for round in range(rounds):
        leaves = chain.run_round(round, [KOII, KOII, 0], [0, 0, KOII // 10])
        for index in range(3):
            chain.ok(chain.settle_instruction(round, leaves, index))
    chain.commit(rounds)
    chain.anchor_list(rounds, chain.earn([1, 1, 1]))
    chain.veto(rounds, 0, 1)
    chain.ok(ix.update_task(chain.task, address(chain.payer), "about", None))
    chain.set_active(False)
    for index in range(3):
        chain.unstake(index)
    last = chain.clock.period(chain.slot)
    chain.at(chain.clock.settles_at(last, chain.terms.allowed_failed_distributions))
    for index in range(3):
        chain.withdraw(index, rounds - 1, leaves)
    chain.ok(chain.close_instruction())
    for staker, beneficiary in zip(chain.stakers, chain.beneficiaries, strict=True):
        chain.ok(ix.close_stake(chain.task, address(staker), address(beneficiary)))


def changed(instruction: Instruction, **accounts: bytes) -> Instruction:
    """The instruction with accounts replaced: `account_0=...` puts another address in the first place."""
    metas = list(instruction.accounts)
    for name, key in accounts.items():
        place = int(name.removeprefix("account_"))
        metas[place] = type(metas[place])(Pubkey(key), metas[place].is_signer, metas[place].is_writable)
    return Instruction(instruction.program_id, bytes(instruction.data), metas)


def flagged(
    instruction: Instruction, place: int, *, signer: bool | None = None, writable: bool | None = None
) -> Instruction:
    """The instruction with one account's flags replaced."""
    metas = list(instruction.accounts)
    meta = metas[place]
    metas[place] = type(meta)(
        meta.pubkey,
        meta.is_signer if signer is None else signer,
        meta.is_writable if writable is None else writable,
    )
    return Instruction(instruction.program_id, bytes(instruction.data), metas)


def with_data(instruction: Instruction, data: bytes) -> Instruction:
    return Instruction(instruction.program_id, data, list(instruction.accounts))
