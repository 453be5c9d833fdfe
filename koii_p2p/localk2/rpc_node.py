"""What the RPC node shows of the chain, and what it does with transactions: rightly, or with the faults it is told.

The methods talk to this and not to the ledger, so that one place says what a node that lags behind knows.
Writing is not behind: as on a real cluster, what a lagging node is given goes to the leader, which is up to
date.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from solders.account import Account
from solders.keypair import Keypair
from solders.pubkey import Pubkey
from solders.transaction import VersionedTransaction

from koii_p2p.localk2.bank import Bank, Simulation, UnknownLookupTable
from koii_p2p.localk2.faults import NO_FAULTS, Faults, FaultSwitches
from koii_p2p.localk2.ledger import BLOCKHASH_SLOTS, Ledger, SlotFull, Status
from koii_p2p.localk2.params import NODE_UNHEALTHY, RpcFailure
from koii_p2p.localk2.store import Store
from koii_p2p.localk2.task_reader import JsonTaskReader, TaskReader
from koii_p2p.localk2.transactions import Incoming, decode
from koii_p2p.settlement.rpc_replies import Commitment

HEALTHY_SLOTS = 128
"""Solana's nodes call themselves unhealthy when they are further behind (`--health-check-slot-distance`)."""

MOST_HELD = 100_000


@dataclass(frozen=True, slots=True)
class _Held:
    """A transaction that waits for its slot."""

    due: int
    incoming: Incoming


class RpcNode:
    """One RPC node of one ledger. Synchronous; used from the task that owns the ledger."""

    def __init__(
        self, ledger: Ledger, faults: Faults = NO_FAULTS, task_readers: Sequence[TaskReader] = ()
    ) -> None:
        """Put a node in front of a ledger. `task_readers` are asked before the one for JSON accounts."""
        self.ledger = ledger
        self.switches = FaultSwitches(faults)
        self.task_readers: tuple[TaskReader, ...] = (*task_readers, JsonTaskReader())
        self._held: list[_Held] = []
        self.set_faults(faults)

    # -- faults

    def set_faults(self, faults: Faults) -> None:
        """Switch to other faults. `history` concerns the chain, and so all its nodes."""
        self.switches.set(faults)
        self.ledger.keep_history(faults.history)

    def check_health(self) -> None:
        """Raise the error of a node that is behind or ill."""
        behind = self.switches.now.lag
        if self.switches.now.unhealthy or behind > HEALTHY_SLOTS:
            said = f"Node is behind by {behind} slots" if behind else "Node is unhealthy"
            raise RpcFailure(NODE_UNHEALTHY, said, {"numSlotsBehind": behind or None})

    # -- the chain as this node knows it

    @property
    def genesis(self) -> bytes:
        """The chain's name (32 bytes)."""
        return self.ledger.genesis

    @property
    def faucet(self) -> Keypair:
        """Who pays airdrops; it also stands for the node's own identity."""
        return self.ledger.faucet

    @property
    def store(self) -> Store:
        """The sealed slots. It has those that a lagging node does not know yet: compare with `slot_at`."""
        return self.ledger.store

    @property
    def bank(self) -> Bank:
        """The virtual machine, for what does not depend on the slot."""
        return self.ledger.bank

    @property
    def slot(self) -> int:
        """The slot this node takes for the open one."""
        return self.slot_at("processed")

    def slot_at(self, commitment: Commitment) -> int:
        """The newest slot this node knows at a commitment."""
        slot = self.ledger.slot_at(commitment)
        lag = self.switches.now.lag
        return self.ledger.skipped.block_at_or_before(max(slot - lag, 0)) if lag else slot

    def height_at(self, commitment: Commitment) -> int:
        """The block height of `slot_at`."""
        return self.ledger.skipped.height(self.slot_at(commitment))

    def commitment_of(self, slot: int) -> Commitment:
        """How settled this node takes a slot to be."""
        if slot <= self.slot_at("finalized"):
            return "finalized"
        return "confirmed" if slot <= self.slot_at("confirmed") else "processed"

    def latest_blockhash(self, commitment: Commitment) -> tuple[bytes, int]:
        """The newest blockhash this node knows, and the last block height at which it is accepted."""
        sealed = self.store.slot(self.slot_at(commitment)) if self.switches.now.lag else None
        if sealed is None:
            return self.ledger.latest_blockhash(commitment)
        return sealed.blockhash, self.ledger.skipped.height(sealed.slot) + BLOCKHASH_SLOTS

    def blockhash_valid(self, blockhash: bytes) -> bool:
        """Whether this node would take a transaction with this blockhash."""
        if not self.switches.now.lag:
            return self.ledger.blockhash_valid(blockhash)
        slot = self.ledger.blockhash_slot(blockhash)
        if slot is None or slot > self.slot:
            return False
        return self.height_at("processed") - self.ledger.skipped.height(slot) <= BLOCKHASH_SLOTS

    def account(self, key: Pubkey, commitment: Commitment) -> Account | None:
        """An account as this node has it at a commitment, or None."""
        return self.ledger.account_after(key, self._slot_read(commitment))

    def program_accounts(self, program: Pubkey, commitment: Commitment) -> list[tuple[Pubkey, Account]]:
        """Every account a program owns as this node has it, sorted by address."""
        return self.ledger.program_accounts_after(program, self._slot_read(commitment))

    def status(self, signature: bytes, *, search_history: bool = True) -> Status | None:
        """Where a transaction landed, if this node knows."""
        status = self.ledger.status(signature, search_history=search_history)
        return None if status is None or status.slot > self.slot else status

    def _slot_read(self, commitment: Commitment) -> int | None:
        """The slot at whose end a state is read; None is the state of now."""
        if commitment == "processed" and not self.switches.now.lag:
            return None
        return self.slot_at(commitment)

    # -- transactions

    def obstacle(self, incoming: Incoming) -> str | None:
        """Why this node takes a transaction for impossible now: a TransactionError's name, or None."""
        if self.status(incoming.signature, search_history=False) is not None:
            return "AlreadyProcessed"
        return None if self.blockhash_valid(incoming.blockhash) else "BlockhashNotFound"

    def simulate(self, transaction: VersionedTransaction, *, check_signatures: bool) -> Simulation:
        """Execute on the newest state (also when the node lags) and forget."""
        return self.ledger.simulate(transaction, check_signatures=check_signatures)

    def submit(self, incoming: Incoming) -> None:
        """Pass a transaction on: it is executed at once, or later, or lost.

        Raises:
            SlotFull, UnknownLookupTable, ChainError: as `Ledger.submit`.
        """
        if self.switches.drops_transaction():
            return
        now = self.switches.now
        if not (now.delay_slots or now.reorder):
            self.ledger.submit(incoming)
        elif len(self._held) >= MOST_HELD:
            raise SlotFull
        else:
            self.switches.count("held_transactions")
            self._held.append(_Held(self.ledger.slot + now.delay_slots, incoming))

    def airdrop(self, to: Pubkey, lamports: int) -> tuple[bytes, Any]:
        """Send Roe from the faucet. Its signature, and its error (JSON) or None. Never lost or late."""
        return self.ledger.airdrop(to, lamports)

    def before_seal(self) -> None:
        """Execute what has waited for the slot that is about to be sealed."""
        due = [one for one in self._held if one.due <= self.ledger.slot]
        if not due:
            return
        self._held = [one for one in self._held if one.due > self.ledger.slot]
        for one in self.switches.shuffled(due) if self.switches.now.reorder else due:
            try:
                self.ledger.submit(one.incoming)
            except SlotFull:
                self._held.append(one)
            except UnknownLookupTable:
                continue  # the leader drops what it cannot load

    def roll_back(self, slots: int, land_again: float) -> tuple[int, int]:
        """Undo slots; a share of their transactions, drawn from the seed, is sent again in their order.

        Returns how many transactions were undone and how many of them landed again at once.

        Raises:
            ConfigurationError, ChainError: as `Ledger.roll_back`.
        """
        undone = self.ledger.roll_back(slots)
        again = 0
        for wire in undone:
            incoming = decode(wire)
            if self.switches.chance(land_again):
                self.ledger.submit(incoming)
                again += self.ledger.status(incoming.signature) is not None
        return len(undone), again
