"""What the rest of the node asks of K2, whatever carries it: our program, memos, or Koii's own program."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from koii_p2p.rounds.anchors import AnchoredRound
from koii_p2p.rounds.distribution import Leaf
from koii_p2p.rounds.merkle import Proof
from koii_p2p.rounds.roster import StakeHistory
from koii_p2p.rounds.terms import TaskTerms

__all__ = [
    "AnchoredList",
    "AnchoredRound",
    "ClosedTaskState",
    "CreatedTask",
    "Receipt",
    "Settlement",
    "StakeAccount",
    "TaskState",
]


@dataclass(frozen=True, slots=True)
class Receipt:
    """A transaction that landed: its signature (base58), its slot, and the fee that the payer paid, in Roe.

    `fee` is None if the K2 node did not tell.
    """

    signature: str
    slot: int
    fee: int | None


@dataclass(frozen=True, slots=True)
class CreatedTask:
    """A new task: its address (32 bytes) and the transaction that made it."""

    task: bytes
    receipt: Receipt


@dataclass(frozen=True, slots=True)
class AnchoredList:
    """A distribution list as anchored. Totals are cumulative since the task began, in Roe."""

    round: int
    attempt: int
    root: bytes
    reward_total: int
    slash_total: int
    slot: int


@dataclass(frozen=True, slots=True)
class StakeAccount:
    """One stake of a task. `amount` is the Roe it holds now; the totals are what has been settled so far."""

    task: bytes
    amount: int
    reward_total: int
    slash_total: int
    history: StakeHistory


@dataclass(frozen=True, slots=True)
class TaskState:
    """A task as K2 holds it now.

    `vault` is what the vault can pay (above its rent); `funded`, `paid`, `slashed` and `forgiven` are sums
    since the task began, as `withdrawn` (stakes paid back) and `bonds` (taken from those who anchored what was
    rejected); `total_stake` is what all stake accounts hold together: all in Roe. `head` is the
    SHA-256 chain over all `anchors` ever accepted: commitments, lists and rejections. `rounds` holds the newest rounds
    (16 with the program), by round.
    """

    terms: TaskTerms
    nonce: int
    created_slot: int
    vault: int
    funded: int
    paid: int
    slashed: int
    forgiven: int
    total_stake: int
    stakers: int
    head: bytes
    anchors: int
    rounds: Mapping[int, AnchoredRound]
    last_list: AnchoredList | None
    """The anchored list of the highest round that was not rejected; its audit may still be open."""
    settled_list: AnchoredList | None
    """The newest list that was past its audit when a round was first committed to last; it may be `last_list`."""
    active: bool = True
    """Whether the task takes stakes and goes on with new rounds."""
    idle: tuple[int, int | None] | None = None
    """The rounds [first, end) that are not committed to, since their work would have begun while the task was inactive;
    end is None while it is. None if there are none."""
    withdrawn: int = 0
    bonds: int = 0
    successor: bytes | None = None
    """The task that the creator names as the one that takes over."""
    metadata: str = ""
    updated_slot: int | None = None


@dataclass(frozen=True, slots=True)
class ClosedTaskState:
    """What K2 keeps of a closed task: enough to prove its history, and so that its address is never used again."""

    creator: bytes
    nonce: int
    head: bytes
    anchors: int
    closed_slot: int
    successor: bytes | None


class Settlement(Protocol):
    """What the rounds of a task ask of K2, whatever carries it.

    Stakers and creators use `ProgramSettlement`, which has more. Tasks, keys and digests are 32 bytes, times are slots,
    amounts are Roe. Every method raises `ChainError` (or a subclass) when K2 cannot be reached or refuses.
    """

    async def slot(self) -> int:
        """The current slot."""
        ...

    async def blockhash_after(self, slot: int) -> tuple[int, bytes] | None:
        """Slot and blockhash of the first block at or after `slot`, or None while there is none."""
        ...

    async def task_state(self, task: bytes) -> TaskState:
        """The task as it is now. Raises `UnknownTask` if there is none at this address."""
        ...

    async def stakes(self, task: bytes) -> tuple[StakeHistory, ...]:
        """Every stake of the task, sorted by staker."""
        ...

    async def stake(self, task: bytes, amount: int, beneficiary: bytes) -> Receipt:
        """Stake `amount` of the payer for the staking key, or add it; rewards go to `beneficiary`."""
        ...

    async def anchor_commitment(self, task: bytes, round: int, digest: bytes, attempt: int = 0) -> Receipt:
        """Anchor a round's commitment; attempt k follows the rejection of attempt k - 1.

        Raises `AlreadyAnchored` if this attempt has one.
        """
        ...

    async def anchor_list(
        self, task: bytes, round: int, root: bytes, reward_total: int, slash_total: int, attempt: int = 0
    ) -> Receipt:
        """Anchor the distribution list of a round's attempt. Raises `AlreadyAnchored` if it has one.

        Lists are anchored in ascending order of rounds: one that is not above the newest standing list is refused.
        """
        ...

    async def veto(self, task: bytes, round: int, attempt: int) -> Receipt:
        """Put the staking key's stake against the list of a round's attempt; more than half of all rejects it.

        Raises `AlreadyVetoed` if nothing is left to do: this key vetoed it before, or it is rejected.
        """
        ...

    async def settle(self, task: bytes, round: int, leaf: Leaf, proof: Proof, beneficiary: bytes) -> Receipt:
        """Pay and slash one staker up to its leaf of the round's list. Doing it again moves nothing."""
        ...
