"""`Settlement` over Koii's own task program, so that nodes can run beside today's tasks. Never run against the real K2.

What fits into Koii's instructions is sent: creating, funding, staking, anchoring as submissions, vetoing as audits of
them. Koii's way of paying (upload the list, submit it, Payout, ClaimReward) needs the whole list, which `Settlement`
does not hand over; it has methods of its own here.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import base58
from solders.instruction import Instruction
from solders.keypair import Keypair
from solders.pubkey import Pubkey
from solders.system_program import CreateAccountParams, create_account

from koii_p2p.errors import ChainError, ConfigurationError
from koii_p2p.limits import Limits
from koii_p2p.records.keys import SecretKey
from koii_p2p.rounds.anchors import AnchoredRound
from koii_p2p.rounds.audit_rules import AuditRules
from koii_p2p.rounds.clock import Window
from koii_p2p.rounds.distribution import Leaf
from koii_p2p.rounds.merkle import Proof
from koii_p2p.rounds.roster import StakeHistory
from koii_p2p.rounds.terms import HARDENED, TaskTerms, TermsError
from koii_p2p.settlement.carrier import Carrier
from koii_p2p.settlement.history import EMPTY_HEAD, ChainEntry
from koii_p2p.settlement.interface import CreatedTask, Receipt, TaskState
from koii_p2p.settlement.koii_task.anchors import ROUND_OFFSET, newest_list, rounds_of, stakes_of, terms_of
from koii_p2p.settlement.koii_task.instructions import (
    EncodingError,
    KoiiInstructions,
    NewTask,
    pieces_of,
)
from koii_p2p.settlement.koii_task.readings import DataAccount, Dialect, Readings, Resubmission
from koii_p2p.settlement.koii_task.state import KoiiTaskState, StateError, read_state
from koii_p2p.settlement.koii_task.submission import ListAnchor, RoundAnchor, SubmissionError
from koii_p2p.settlement.priority_fees import PriorityFees
from koii_p2p.settlement.refusals import (
    AlreadyAnchored,
    AlreadyVetoed,
    DamagedAccount,
    NotCarried,
    ProgramError,
    ProgramRefused,
    UnknownTask,
)
from koii_p2p.settlement.rpc import RpcClient

STAKING_SPACE: Final = 100
"""Bytes of a staking account (koii-node)."""
STAKING_PAD: Final = 10_000
"""Roe that koii-node adds to its rent."""
RENT_SPACE: Final = 1000
"""Bytes whose rent koii-node pays for a staking account."""

StateReader = Callable[[bytes, Readings], KoiiTaskState]


@dataclass(frozen=True, slots=True)
class KoiiTaskSettings:
    """How the carrier is to read Koii's program; nothing about the program is assumed silently.

    `slash_basis_points` and `audit` are what Koii's state does not say about the task: all its nodes must agree.
    `task_space` and `staking_space` are the bytes of new accounts; `network` and `description` are texts of a new
    task. `program` replaces the reading's own address, for clusters where a stand-in is deployed elsewhere, and
    `read_state` the reader of task accounts.
    """

    readings: Readings
    slash_basis_points: int = 7000
    audit: AuditRules = HARDENED
    task_space: int = 1_000_000
    staking_space: int = STAKING_SPACE
    network: str = "DEVELOPMENT"
    description: str = ""
    metadata: str = ""
    local_vars: str = ""
    total_bounty: int = 0
    program: bytes | None = None
    read_state: StateReader = read_state


class ListNotAnchorable(NotCarried):
    """This key has its one submission of the round on chain already: another staker has to anchor the list."""

    def __init__(self, round: int) -> None:
        super().__init__(
            "koii-task",
            f"anchor the list of round {round}",
            "This staker has submitted in these slots already, and by the reading in use K2 takes no second.",
            "Another staker anchors the list, or set the reading `resubmission` to REPLACES if K2 is known to.",
        )


class KoiiTaskSettlement(Carrier):
    """`Settlement` over Koii's task program. `payer` pays fees; `staker` is the staking key, owner of its account.

    Raises `NotCarried` for what Koii's program has no instruction for.
    """

    def __init__(
        self,
        rpc: RpcClient,
        settings: KoiiTaskSettings,
        payer: Keypair | SecretKey,
        staker: Keypair | SecretKey | None = None,
        *,
        limits: Limits = Limits(),  # noqa: B008 - a frozen value
        fees: PriorityFees = PriorityFees(),  # noqa: B008 - a frozen value
    ) -> None:
        if settings.readings.dialect is Dialect.KPL:
            raise NotCarried(
                "koii-task",
                "run a KPL task",
                "KPL tasks stake and pay in tokens, whose accounts this carrier does not manage.",
                "Use a KOII task; KoiiInstructions encodes KPL instructions for those who manage the accounts.",
            )
        super().__init__(rpc, payer, staker, fees=fees)
        self._settings = settings
        self._readings = settings.readings
        self._program = settings.program or settings.readings.program
        self._encode = KoiiInstructions(settings.readings, self._program)
        self._limits = limits

    async def koii_state(self, task: bytes) -> KoiiTaskState:
        """The task as Koii's program keeps it. Raises `UnknownTask`, or `DamagedAccount`."""
        account = await self._rpc.get_account(task)
        if account is None or account.owner != self._program:
            raise UnknownTask(task)
        try:
            return self._settings.read_state(account.data, self._readings)
        except StateError as error:
            raise DamagedAccount(task, f"Read as {self._readings.state.value}: {error}.") from error

    async def task_state(self, task: bytes) -> TaskState:
        """The task in our terms. There is no head, and of the totals only what Koii keeps: see docs/carriers.md."""
        state = await self.koii_state(task)
        try:
            terms = terms_of(task, state, self._settings.slash_basis_points, self._settings.audit)
        except TermsError as error:
            raise DamagedAccount(
                task, f"Its terms are not ones that rounds can be run by: {error}."
            ) from error
        rounds = rounds_of(state, raise_is_vote=self._readings.raise_is_vote)
        slot = await self.slot()
        settled = [one for one in rounds.values() if terms.clock.settles_at(one.round) <= slot]
        return TaskState(
            terms=terms,
            nonce=0,
            created_slot=state.starting_slot,
            vault=state.total_bounty_amount,
            funded=state.total_bounty_amount,
            paid=0,
            slashed=0,
            forgiven=0,
            total_stake=sum(state.stake_list.values()),
            stakers=len(state.stake_list),
            head=EMPTY_HEAD,
            anchors=sum(1 + (one.list_root is not None) for one in rounds.values()),
            rounds=rounds,
            last_list=newest_list(rounds.values()),
            settled_list=newest_list(settled),
            active=state.is_active,
        )

    async def stakes(self, task: bytes) -> tuple[StakeHistory, ...]:
        """Every stake as it is now, sorted by staker; each its own beneficiary, as claims name one only then."""
        return stakes_of(await self.koii_state(task))

    async def balance(self, key: bytes) -> int:
        """What this key holds, in Roe; 0 if it does not exist."""
        return await self._rpc.get_balance(key)

    async def history(self, task: bytes) -> tuple[ChainEntry, ...]:
        """Every transaction that named the task, oldest first, without instructions: no head can check them."""
        lines = await self._rpc.get_address_history(task, limit=self._limits.history_transactions)
        return tuple(ChainEntry(line.slot, line.signature, line.err, None, None) for line in reversed(lines))

    # -- writing: what `Settlement` asks

    async def create_task(self, terms: TaskTerms, nonce: int) -> CreatedTask:
        """CreateTask. The addresses of task and pot are those of keys made from the payer's and `nonce`.

        Koii's program sets the starting slot itself. The pot is an account of the program here; on K2 it is an
        address of which nobody has the key, made otherwise (create-task-cli).
        """
        task, pot = self._derived(b"task", nonce), self._derived(b"pot", nonce)
        try:
            instruction = self._encode.create_task(
                self.payer, bytes(task.pubkey()), bytes(pot.pubkey()), self._new_task(terms)
            )
        except EncodingError as error:
            raise ConfigurationError(
                "The task cannot be created.", f"{error}.", "Correct the task's settings."
            ) from error
        made = [
            await self._new_account(task, self._settings.task_space, 0),
            await self._new_account(pot, 0, self._settings.total_bounty),
        ]
        receipt = await self._sender.send("create the task", [*made, instruction], task, pot)
        return CreatedTask(bytes(task.pubkey()), receipt)

    async def fund(self, task: bytes, amount: int) -> Receipt:
        """FundTask, out of an account made for it in the same transaction (koii-node)."""
        pot = (await self.koii_state(task)).stake_pot_account
        funder = Keypair()
        made = await self._new_account(funder, STAKING_SPACE, amount)
        instruction = self._encode.fund_task(task, bytes(funder.pubkey()), pot, amount)
        return await self._sender.send("fund the task", [made, instruction], funder)

    async def stake(self, task: bytes, amount: int, beneficiary: bytes) -> Receipt:
        """Stake, after making the staking account if there is none. K2 keeps no beneficiary: claims name one."""
        staker = self._require_staker()
        key = bytes(staker.pubkey())
        pot = (await self.koii_state(task)).stake_pot_account
        account = await self._rpc.get_account(key)
        if account is not None and account.owner != self._program:
            raise ConfigurationError(
                "The staking key cannot stake.",
                f"{_base58(key)} is an account of another program.",
                "Use a new staking key: on Koii it is an account of the task program.",
            )
        instructions = [self._encode.stake(task, key, pot, amount)]
        if account is None:
            instructions.insert(0, await self._new_account(staker, self._settings.staking_space, amount))
        return await self._sender.send("stake", instructions, staker)

    async def anchor_commitment(self, task: bytes, round: int, digest: bytes, attempt: int = 0) -> Receipt:
        """SubmitTask with the commitment. Raises `AlreadyAnchored` if somebody's counts already."""
        _require_first(attempt)
        held, terms = await self._held(task, round)
        action = f"anchor the commitment of round {round}"
        if held is not None:
            raise AlreadyAnchored(action, ProgramError.COMMITMENT_EXISTS)
        slot, window = await self.slot(), terms.clock.distribution(round)
        _require_open(action, slot, window, ProgramError.COMMITMENT_EARLY, ProgramError.COMMITMENT_LATE)
        receipt = await self._submit(action, task, RoundAnchor(round, digest))
        if (await self._round_after(action, task, round)).commitment_by != self.staker:
            raise AlreadyAnchored(action, ProgramError.COMMITMENT_EXISTS)
        return receipt

    async def anchor_list(
        self, task: bytes, round: int, root: bytes, reward_total: int, slash_total: int, attempt: int = 0
    ) -> Receipt:
        """SubmitTask with the commitment that counts and this list. Raises `AlreadyAnchored`, `ListNotAnchorable`."""
        _require_first(attempt)
        held, terms = await self._held(task, round)
        action = f"anchor the list of round {round}"
        if held is None:
            raise ProgramRefused(action, ProgramError.NO_COMMITMENT)
        if held.list_root is not None:
            raise AlreadyAnchored(action, ProgramError.LIST_EXISTS)
        slot, window = await self.slot(), terms.clock.distribution(round)
        _require_open(action, slot, window, ProgramError.LIST_EARLY, ProgramError.LIST_LATE)
        own = (await self.koii_state(task)).submissions.get(round + ROUND_OFFSET, {})
        if self.staker in own and not self._may_resubmit:
            raise ListNotAnchorable(round)
        listed = ListAnchor(root, reward_total, slash_total)
        receipt = await self._submit(action, task, RoundAnchor(round, held.commitment, listed))
        if (await self._round_after(action, task, round)).list_by != self.staker:
            raise AlreadyAnchored(action, ProgramError.LIST_EXISTS)
        return receipt

    async def veto(self, task: bytes, round: int, attempt: int) -> Receipt:
        """AuditSubmissions against the submission that holds the list, or the commitment if there is none."""
        _require_first(attempt)
        staker = self._require_staker()
        held, terms = await self._held(task, round)
        action = f"veto the list of round {round}"
        if held is None:
            raise ProgramRefused(action, ProgramError.NO_COMMITMENT)
        window = terms.clock.distribution_audit(round)
        _require_open(action, await self.slot(), window, ProgramError.VETO_EARLY, ProgramError.VETO_LATE)
        if held.rejected:
            raise AlreadyVetoed(action, ProgramError.ALREADY_REJECTED)
        key, candidate = bytes(staker.pubkey()), held.list_by or held.commitment_by
        audit = (
            (await self.koii_state(task))
            .submissions_audit_trigger.get(round + ROUND_OFFSET, {})
            .get(candidate)
        )
        if audit is not None and key in {audit.trigger_by, *(vote.voter for vote in audit.votes)}:
            raise AlreadyVetoed(action, ProgramError.ALREADY_VETOED)
        instruction = self._encode.audit_submission(task, key, candidate, round + ROUND_OFFSET, valid=False)
        return await self._sender.send(action, [instruction], staker)

    async def settle(self, task: bytes, round: int, leaf: Leaf, proof: Proof, beneficiary: bytes) -> Receipt:
        """Refused: Koii's program pays by whole lists, not by proofs."""
        raise NotCarried(
            "koii-task",
            "settle a leaf",
            "Koii's program knows no roots: it pays by a list that is on chain in full.",
            "Use submit_list, payout and claim_reward.",
        )

    # -- writing: Koii's own way

    async def submit_list(self, task: bytes, round: int, amounts: Mapping[bytes, int]) -> tuple[Receipt, ...]:
        """Put a round's list on chain in Koii's form and submit it: rewards positive, slashes negative, in Roe.

        One transaction per piece and one for the list, and one before them for a separate data account.
        """
        staker = self._require_staker()
        key, content = bytes(staker.pubkey()), encode_list(amounts)
        action = f"submit the list of round {round}"
        receipts, holder = [], staker
        if self._readings.data_account is DataAccount.SEPARATE:
            holder = Keypair()
            made = await self._new_account(holder, len(content) + 1, 0)
            receipts.append(await self._sender.send(action, [made], holder))
        for place, piece in enumerate(pieces_of(content, self._readings.upload)):
            upload = self._encode.upload_list(task, bytes(holder.pubkey()), round, place, piece)
            receipts.append(await self._sender.send(action, [upload], holder))
        submit = self._encode.submit_list(task, key, bytes(holder.pubkey()), round)
        receipts.append(await self._sender.send(action, [submit], staker, holder))
        return tuple(receipts)

    async def payout(self, task: bytes, round: int, submitter: bytes) -> Receipt:
        """Payout of the list that `submitter` submitted; anyone may send it after the list's audit."""
        lists = (await self.koii_state(task)).distribution_rewards_submission.get(round, {})
        action = f"pay out round {round}"
        if submitter not in lists:
            raise ProgramRefused(action, ProgramError.NO_LIST)
        holder = bytes(base58.b58decode(lists[submitter].value))
        return await self._sender.send(action, [self._encode.payout(task, holder, round)])

    async def vote_on_list(self, task: bytes, round: int, submitter: bytes, *, valid: bool) -> Receipt:
        """AuditDistribution: a vote on the list that `submitter` submitted."""
        staker = self._require_staker()
        key = bytes(staker.pubkey())
        instruction = self._encode.audit_distribution(task, key, submitter, round, valid=valid)
        return await self._sender.send(f"vote on the list of round {round}", [instruction], staker)

    async def claim_reward(self, task: bytes, beneficiary: bytes) -> Receipt:
        """ClaimReward: all that the staking key can claim, to `beneficiary`."""
        staker = self._require_staker()
        pot = (await self.koii_state(task)).stake_pot_account
        instruction = self._encode.claim_reward(task, bytes(staker.pubkey()), pot, beneficiary)
        return await self._sender.send("claim the rewards", [instruction], staker)

    async def withdraw(self, task: bytes) -> Receipt:
        """Withdraw: the stake becomes claimable, once no submission is recent."""
        staker = self._require_staker()
        instruction = self._encode.withdraw(task, bytes(staker.pubkey()))
        return await self._sender.send("withdraw the stake", [instruction], staker)

    async def set_active(self, task: bytes, *, active: bool) -> Receipt:
        """SetActive, by the payer as the task's owner."""
        instruction = self._encode.set_active(task, self.payer, active=active)
        return await self._sender.send("switch the task", [instruction])

    # -- inside

    @property
    def _may_resubmit(self) -> bool:
        return self._readings.resubmission is Resubmission.REPLACES

    async def _held(self, task: bytes, round: int) -> tuple[AnchoredRound | None, TaskTerms]:
        state = await self.task_state(task)
        return state.rounds.get(round), state.terms

    async def _submit(self, action: str, task: bytes, anchor: RoundAnchor) -> Receipt:
        staker = self._require_staker()
        try:
            text = anchor.encode().encode()
        except SubmissionError as error:
            raise NotCarried(
                "koii-task", action, f"{error}.", "Rounds and totals are unsigned 64-bit."
            ) from error
        key = bytes(staker.pubkey())
        instruction = self._encode.submit_task(task, key, anchor.round + ROUND_OFFSET, text)
        return await self._sender.send(action, [instruction], staker)

    async def _round_after(self, action: str, task: bytes, round: int) -> AnchoredRound:
        held, _ = await self._held(task, round)
        if held is None:
            raise ChainError(
                f"K2 took the transaction to {action}, but does not show it.",
                "The task account has no such submission.",
                "Look at the task again; if it stays so, the readings in use do not fit this cluster.",
            )
        return held

    async def _new_account(self, key: Keypair, space: int, extra: int) -> Instruction:
        rent = await self._rpc.get_minimum_balance_for_rent_exemption(max(space, RENT_SPACE))
        params = CreateAccountParams(
            from_pubkey=self._sender.payer.pubkey(),
            to_pubkey=key.pubkey(),
            lamports=rent + STAKING_PAD + extra,
            space=space,
            owner=Pubkey(self._program),
        )
        return create_account(params)

    def _derived(self, use: bytes, nonce: int) -> Keypair:
        secret = bytes(self._sender.payer)[:32]
        seed = hashlib.sha256(b"koii-p2p koii task 1\0" + use + nonce.to_bytes(8, "little") + secret).digest()
        return Keypair.from_seed(seed)

    def _new_task(self, terms: TaskTerms) -> NewTask:
        settings = self._settings
        return NewTask(
            task_name=terms.name,
            task_description=settings.description,
            task_audit_program=terms.program,
            task_executable_network=settings.network,
            total_bounty_amount=settings.total_bounty,
            bounty_amount_per_round=terms.bounty_per_round,
            round_time=terms.round_time,
            audit_window=terms.audit_window,
            submission_window=terms.submission_window,
            minimum_stake_amount=terms.minimum_stake,
            task_metadata=settings.metadata,
            local_vars=settings.local_vars,
            allowed_failed_distributions=terms.allowed_failed_distributions,
        )


def encode_list(amounts: Mapping[bytes, int]) -> bytes:
    """A list as Koii's nodes write it: JSON without spaces, base58 keys sorted by key, whole numbers."""
    ordered = {_base58(key): amount for key, amount in sorted(amounts.items())}
    return json.dumps(ordered, separators=(",", ":")).encode()


def _require_first(attempt: int) -> None:
    if attempt:
        raise NotCarried(
            "koii-task",
            f"anchor or veto attempt {attempt} of a round",
            "K2 takes no submissions in the slots of a second attempt.",
            "A round whose list was rejected is forfeited on this carrier.",
        )


def _require_open(action: str, slot: int, window: Window, early: ProgramError, late: ProgramError) -> None:
    if slot not in window:
        raise ProgramRefused(action, early if slot < window.opens else late)


def _base58(key: bytes) -> str:
    return str(base58.b58encode(key).decode())
