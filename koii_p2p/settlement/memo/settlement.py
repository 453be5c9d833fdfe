"""`Settlement` over memos: commitments, lists and vetoes are recorded; what takes custody of money is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final, NoReturn

import base58
import trio
from solders.keypair import Keypair

from koii_p2p.errors import ChainError, ConfigurationError
from koii_p2p.limits import Limits
from koii_p2p.records.keys import SecretKey
from koii_p2p.rounds.distribution import Leaf
from koii_p2p.rounds.merkle import Proof
from koii_p2p.rounds.roster import StakeHistory
from koii_p2p.rounds.terms import TaskTerms
from koii_p2p.settlement.carrier import Carrier
from koii_p2p.settlement.history import ChainEntry
from koii_p2p.settlement.instructions import (
    AnchorCommitment,
    AnchorList,
    CreateTask,
    ProgramInstruction,
    Tag,
    Veto,
)
from koii_p2p.settlement.interface import CreatedTask, Receipt, TaskState
from koii_p2p.settlement.memo.chain import Entry, Judged, LinkFault, MemoChain, veto_target
from koii_p2p.settlement.memo.genesis import NO_KEY, Genesis
from koii_p2p.settlement.memo.reader import HistoryIncomplete, MemoHistory, MemoReader
from koii_p2p.settlement.memo.records import (
    MAX_ROUND,
    NO_LINK,
    TASK_BYTES,
    MemoRecord,
    RecordError,
    instructions,
)
from koii_p2p.settlement.priority_fees import PriorityFees
from koii_p2p.settlement.refusals import (
    AlreadyAnchored,
    AlreadyVetoed,
    NotCarried,
    ProgramError,
    ProgramRefused,
    UnknownTask,
)
from koii_p2p.settlement.rpc import RpcClient

LINK_ATTEMPTS: Final = 8
"""How often a record is signed anew because another one came first. Each time somebody else has anchored, and a round
has few places to anchor in."""
LISTING_POLLS: Final = 40
LISTING_SECONDS: Final = 0.25
"""A confirmed transaction appears in its address's history at once, or a little later on a busy node."""

_DONE_ALREADY: Final[dict[ProgramError, type[ProgramRefused]]] = {
    ProgramError.COMMITMENT_EXISTS: AlreadyAnchored,
    ProgramError.LIST_EXISTS: AlreadyAnchored,
    ProgramError.ALREADY_VETOED: AlreadyVetoed,
    ProgramError.ALREADY_REJECTED: AlreadyVetoed,
}
_NO_CUSTODY: Final = (
    "Memos hold no Roe: the stakes are those of the genesis document, and nobody can be made to pay."
)


class OtherGenesis(UnknownTask):
    """The task is not the one of this node's genesis document."""

    def __init__(self, task: bytes, own: bytes) -> None:
        ChainError.__init__(
            self,
            f"There is no memo task {base58.b58encode(task).decode()} here.",
            f"The genesis document given is that of {base58.b58encode(own).decode()}.",
            "Give the genesis document of the task that is meant.",
        )


class OvertakenError(ChainError):
    """Other records came first each time: the chain is busier than a task's rounds can make it."""

    def __init__(self, action: str) -> None:
        super().__init__(
            f"The memo carrier could not {action}.",
            f"Other records came first {LINK_ATTEMPTS} times.",
            "Try again; if it stays so, look at the task's history for a staker who floods it.",
        )


class MemoSettlement(Carrier):
    """`Settlement` over memos, for the one task of `genesis`. `payer` pays fees; `staker` signs for the node.

    Raises `NotCarried` for whatever moves money, and `OtherGenesis` for any other task.
    """

    def __init__(
        self,
        rpc: RpcClient,
        genesis: Genesis,
        payer: Keypair | SecretKey,
        staker: Keypair | SecretKey | None = None,
        *,
        limits: Limits = Limits(),  # noqa: B008 - a frozen value
        fees: PriorityFees = PriorityFees(),  # noqa: B008 - a frozen value
    ) -> None:
        super().__init__(rpc, payer, staker, fees=fees)
        self._memo_genesis = genesis
        self._reader = MemoReader(rpc, genesis, limit=limits.history_transactions)

    async def task_state(self, task: bytes) -> TaskState:
        """The task as its records leave it. `vault` and `funded` are what the creator pledged.

        `created_slot` is that of the creator's announcement, or the starting slot if there was none. Raises
        `HistoryIncomplete` if the node does not show all records.
        """
        chain = (await self._history(task)).chain
        genesis = self._memo_genesis
        return TaskState(
            terms=genesis.terms,
            nonce=genesis.nonce,
            created_slot=genesis.terms.starting_slot if chain.created_slot is None else chain.created_slot,
            vault=genesis.pledged,
            funded=genesis.pledged,
            paid=0,
            slashed=0,
            forgiven=0,
            total_stake=genesis.total_stake,
            stakers=len(genesis.stakes),
            head=chain.head,
            anchors=chain.anchors,
            rounds=dict(sorted(chain.rounds.items())),
            last_list=chain.last_list,
            settled_list=chain.settled_list,
        )

    async def stakes(self, task: bytes) -> tuple[StakeHistory, ...]:
        """The stakes of the genesis document, sorted by staker; they never change."""
        self._require_own(task)
        return self._memo_genesis.histories()

    async def balance(self, key: bytes) -> int:
        """What this key holds, in Roe; 0 if it does not exist."""
        return await self._rpc.get_balance(key)

    async def history(self, task: bytes) -> tuple[ChainEntry, ...]:
        """Every transaction that named the task, oldest first; records that do not count have an `err`.

        Transactions without a record have no instruction. The head is `history.replay` over these entries,
        except where stakes decide: a memo task's stakes have no transactions.
        """
        history = await self._history(task)
        judged: dict[str, list[Judged]] = {}
        for one in history.chain.judged:
            judged.setdefault(one.entry.signature, []).append(one)
        entries = []
        for line in history.lines:
            found = judged.get(line.signature)
            if found is None:
                entries.append(ChainEntry(line.slot, line.signature, line.err, None, None))
            else:
                entries += [self._chain_entry(one) for one in found]
        return tuple(entries)

    async def judged(self, task: bytes) -> tuple[Judged, ...]:
        """Every record and why it does not count: conflicts, records out of their window, of strangers, and so on."""
        return tuple((await self._history(task)).chain.judged)

    # -- writing

    async def create_task(self, terms: TaskTerms, nonce: int) -> CreatedTask:
        """Announce the task, so that its address leads to the digest of its document; signed by the creator.

        Nobody needs the announcement: the document is the task. `terms` and `nonce` must be the document's.
        """
        own = self._memo_genesis
        task = own.terms.task
        named = replace(
            terms,
            task=task if terms.task == NO_KEY else terms.task,
            creator=own.terms.creator if terms.creator == NO_KEY else terms.creator,
        )
        if named != own.terms or nonce != own.nonce or self.payer != own.terms.creator:
            raise ConfigurationError(
                "The memo task cannot be announced.",
                "Terms, nonce and paying wallet have to be those of the genesis document.",
                "Make a new document for other terms, or use the creator's wallet.",
            )
        digest = own.digest

        def make(chain: MemoChain) -> MemoRecord:
            return MemoRecord(Tag.CREATE_TASK, 0, 0, digest, NO_LINK, task[:TASK_BYTES])

        return CreatedTask(task, await self._anchor("announce the task", task, self._sender.payer, make))

    async def anchor_commitment(self, task: bytes, round: int, digest: bytes, attempt: int = 0) -> Receipt:
        """Record the commitment of a round's attempt. Raises `AlreadyAnchored` if it has one."""

        def make(chain: MemoChain) -> MemoRecord:
            return MemoRecord(Tag.ANCHOR_COMMITMENT, round, attempt, digest, chain.link, task[:TASK_BYTES])

        action = f"anchor the commitment of {_named(round, attempt)}"
        return await self._anchor(action, task, self._require_staker(), make)

    async def anchor_list(
        self, task: bytes, round: int, root: bytes, reward_total: int, slash_total: int, attempt: int = 0
    ) -> Receipt:
        """Record the list of a round's attempt. Raises `AlreadyAnchored` if it has one."""

        def make(chain: MemoChain) -> MemoRecord:
            totals = reward_total, slash_total
            return MemoRecord(Tag.ANCHOR_LIST, round, attempt, root, chain.link, task[:TASK_BYTES], *totals)

        action = f"anchor the list of {_named(round, attempt)}"
        return await self._anchor(action, task, self._require_staker(), make)

    async def veto(self, task: bytes, round: int, attempt: int) -> Receipt:
        """Record the staker's veto of the list that the round has now."""

        def make(chain: MemoChain) -> MemoRecord:
            held = chain.rounds.get(round)
            target = (NO_KEY, NO_LINK) if held is None else veto_target(held)
            return MemoRecord(Tag.VETO, round, attempt, *target, task[:TASK_BYTES])

        action = f"veto the list of {_named(round, attempt)}"
        return await self._anchor(action, task, self._require_staker(), make)

    async def fund(self, task: bytes, amount: int) -> Receipt:
        """Refused: there is no vault."""
        _refuse("fund a task", "Raise `pledged` in the genesis document, which makes a new task.")

    async def stake(self, task: bytes, amount: int, beneficiary: bytes) -> Receipt:
        """Refused: stakes are in the genesis document."""
        _refuse("stake", "Ask the creator for a place in the genesis document, which makes a new task.")

    async def settle(self, task: bytes, round: int, leaf: Leaf, proof: Proof, beneficiary: bytes) -> Receipt:
        """Refused: nothing can be paid or slashed."""
        _refuse("pay or slash", "Show the list's leaf and proof to whoever promised to pay.")

    # -- inside

    async def _anchor(
        self, action: str, task: bytes, author: Keypair, make: Callable[[MemoChain], MemoRecord]
    ) -> Receipt:
        """Send a record until it counts; sign it anew whenever another one came first."""
        key = bytes(author.pubkey())
        for _ in range(LINK_ATTEMPTS):
            chain = (await self._history(task)).chain
            record = _checked(action, make(chain))
            entry = Entry(await self.slot(), "", key, record)
            obstacle = chain.refusal(entry)
            if isinstance(obstacle, ProgramError):
                raise _DONE_ALREADY.get(obstacle, ProgramRefused)(action, obstacle)
            receipt = await self._sender.send(action, instructions(record, key, self.payer, task), author)
            # If it does not count, it is judged again as the next one: that says why, or that another link will do.
            if (await self._judgement(task, receipt.signature)).refusal is None:
                return receipt
        raise OvertakenError(action)

    async def _judgement(self, task: bytes, signature: str) -> Judged:
        for _ in range(LISTING_POLLS):
            for one in reversed((await self._history(task)).chain.judged):
                if one.entry.signature == signature:
                    return one
            await trio.sleep(LISTING_SECONDS)
        raise HistoryIncomplete(f"Transaction {signature} landed, but the K2 node does not list it.")

    async def _history(self, task: bytes) -> MemoHistory:
        self._require_own(task)
        return await self._reader.read()

    def _require_own(self, task: bytes) -> None:
        own = self._memo_genesis.terms.task
        if task != own:
            raise OtherGenesis(task, own)

    def _chain_entry(self, one: Judged) -> ChainEntry:
        entry = one.entry
        err = None if one.refusal is None else {"Memo": _reason(one.refusal)}
        instruction = self._instruction(entry.author, entry.record)
        return ChainEntry(entry.slot, entry.signature, err, instruction, entry.author, entry.fee)

    def _instruction(self, author: bytes, record: MemoRecord) -> ProgramInstruction:
        task = self._memo_genesis.terms.task
        match record.kind:
            case Tag.ANCHOR_COMMITMENT:
                return AnchorCommitment(task, author, record.round, record.attempt, record.digest)
            case Tag.ANCHOR_LIST:
                totals = record.reward_total, record.slash_total
                return AnchorList(task, author, record.round, record.attempt, record.digest, *totals)
            case Tag.VETO:
                return Veto(task, author, record.round, record.attempt)
        return CreateTask(self._memo_genesis.terms, self._memo_genesis.nonce)


def _checked(action: str, record: MemoRecord) -> MemoRecord:
    try:
        record.encode()
    except RecordError as error:
        raise NotCarried(
            "memo", action, f"A memo's record cannot hold it: {error}.", f"Rounds go up to {MAX_ROUND}."
        ) from error
    return record


def _refuse(action: str, remedy: str) -> NoReturn:
    raise NotCarried(
        "memo", action, _NO_CUSTODY, remedy + " The settlement program does hold stakes and pays."
    )


def _reason(refusal: ProgramError | LinkFault) -> str:
    return refusal.name.lower().replace("_", " ")


def _named(round: int, attempt: int) -> str:
    return f"round {round}, attempt {attempt}" if attempt else f"round {round}"
