"""The chain: slots, blockhashes, duplicate detection, commitment levels and the faucet.

A transaction executes at once in the open slot (`processed`). `seal` closes the slot: it gets its blockhash
and goes to disk in one database transaction (`confirmed`); `finality` slots later it is `finalized`. There
are no forks: only `roll_back` leaves slots without a block, and block heights behind slot numbers.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import structlog
from solders.account import Account
from solders.compute_budget import set_compute_unit_limit
from solders.hash import Hash
from solders.keypair import Keypair
from solders.message import Message
from solders.pubkey import Pubkey
from solders.system_program import ID as SYSTEM_PROGRAM
from solders.system_program import TransferParams, transfer
from solders.transaction import VersionedTransaction

from koii_p2p.errors import ChainError, ConfigurationError
from koii_p2p.limits import Limits
from koii_p2p.localk2.bank import Bank, Simulation
from koii_p2p.localk2.changes import RecentChanges
from koii_p2p.localk2.faults import MOST_LAG_SLOTS
from koii_p2p.localk2.settings import LocalK2Settings
from koii_p2p.localk2.skipped import SkippedSlots
from koii_p2p.localk2.store import SealedSlot, Store
from koii_p2p.localk2.transactions import Incoming, LandedTransaction, decode, memo_text, unit_price
from koii_p2p.settlement.rpc_replies import Commitment

BLOCKHASH_SLOTS: Final = 150
"""A blockhash is accepted in this many slots after the one that gave it."""

FAUCET_LAMPORTS: Final = 10**17
_STATUS_SLOTS: Final = 2 * BLOCKHASH_SLOTS
_AIRDROP_UNITS: Final = 100_000
_UNITS_RANGE: Final = 1_000_000

_log = structlog.get_logger(__name__)


class SlotFull(Exception):
    """The open slot already holds as many transactions as `limits.localk2_slot_transactions`."""


@dataclass(frozen=True, slots=True)
class Status:
    """The slot a transaction landed in, and its error (JSON) or None."""

    slot: int
    err: Any


@dataclass(frozen=True, slots=True)
class LedgerStatistics:
    """Where the chain is and what it keeps. `transactions` counts those in sealed slots that are kept."""

    slot: int
    transactions: int
    executed: int
    refused: int
    full_slots: int
    recent_changes: int
    recent_statuses: int


class Ledger:
    """One chain in one folder. Synchronous and not re-entrant: run it from one task."""

    def __init__(
        self,
        settings: LocalK2Settings,
        *,
        programs: Mapping[bytes, bytes],
        limits: Limits,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Open the chain of a folder, or begin one.

        `programs` maps addresses to ELF bytes; they are loaded at every start, so a new version of the
        package brings its new program to an old chain.

        Raises:
            ConfigurationError: the folder is in use, not accessible, or its database is damaged.
            ChainError: the disk is full.
        """
        self._limits = limits
        self._clock = clock
        self._programs = dict(programs)
        self.finality = settings.finality
        # Only a K2 that may be told to lag is asked for states older than the finalized one.
        self._lag_kept = MOST_LAG_SLOTS if settings.allow_faults else settings.faults.lag
        self._keep_slots = limits.localk2_history_slots
        self.skipped = SkippedSlots()
        self.bank = Bank()
        self.store = Store(settings.path)
        self.changes = RecentChanges()
        self.listeners: list[Callable[[SealedSlot, list[LandedTransaction]], None]] = []
        self._open_transactions: list[LandedTransaction] = []
        self._dirty: set[Pubkey] = set()
        self._prices: OrderedDict[int, list[tuple[int, frozenset[Pubkey]]]] = OrderedDict()
        self._statuses: OrderedDict[bytes, Status] = OrderedDict()
        self._blockhashes: OrderedDict[bytes, int] = OrderedDict()
        self._counts = {"executed": 0, "refused": 0, "full_slots": 0}
        self._airdrops = 0
        self._failure: BaseException | None = None
        self._closed = False
        try:
            self._begin_or_restore()
            self._load_programs()
        except BaseException:
            self.store.close()
            raise

    # -- the chain

    def slot_at(self, commitment: Commitment) -> int:
        """The newest slot at a commitment. The open slot is `processed`."""
        if commitment == "processed":
            return self.slot
        if commitment == "confirmed":
            return self._previous.slot
        return self.skipped.block_at_or_before(max(self.slot - 1 - self.finality, 0))

    def commitment_of(self, slot: int) -> Commitment:
        """How settled a slot is."""
        if slot <= self.slot_at("finalized"):
            return "finalized"
        return "confirmed" if slot < self.slot else "processed"

    def latest_blockhash(self, commitment: Commitment) -> tuple[bytes, int]:
        """The newest blockhash at a commitment, and the last block height at which it is accepted."""
        sealed = self._previous
        if commitment == "finalized":
            sealed = self.store.slot(self.slot_at("finalized")) or sealed
        return sealed.blockhash, self.skipped.height(sealed.slot) + BLOCKHASH_SLOTS

    def blockhash_slot(self, blockhash: bytes) -> int | None:
        """The slot that gave a recent blockhash, or None."""
        return self._blockhashes.get(blockhash)

    def least_prices(self, writes: frozenset[Pubkey], last: int) -> list[tuple[int, int]]:
        """(slot, price) of the newest blocks up to slot `last`, oldest first.

        The price, in micro-Roe a compute unit, is the greatest of the least that any transaction of the block paid and
        the least that was paid for writing each of these accounts; 0 if there was none (Agave,
        `PrioritizationFeeCache::get_prioritization_fees`).
        """
        found = []
        for slot in [at for at in self._blockhashes.values() if at <= last][-BLOCKHASH_SLOTS:]:
            paid = self._prices.get(slot, ())
            least = [min((price for price, _ in paid), default=0)]
            least += [min((price for price, written in paid if key in written), default=0) for key in writes]
            found.append((slot, max(least)))
        return found

    def blockhash_valid(self, blockhash: bytes) -> bool:
        """Whether a transaction with this blockhash is accepted in the open slot."""
        slot = self._blockhashes.get(blockhash)
        return slot is not None and self._height() - self.skipped.height(slot) <= BLOCKHASH_SLOTS

    def _height(self) -> int:
        return self.skipped.height(self.slot)

    def seal(self) -> SealedSlot:
        """Close the open slot, write it to disk and open the next one.

        Raises:
            ChainError: the disk is full or broken, or an earlier fault left the ledger unusable; it must be
            stopped.
        """
        self._check_usable()
        landed = self._open_transactions
        digest = hashlib.sha256(self._previous.blockhash + self.slot.to_bytes(8, "little"))
        for one in landed:
            digest.update(one.signature)
        now = max(int(self._clock()), self._previous.time)
        sealed = SealedSlot(self.slot, digest.digest(), self._previous.slot, now, len(landed))
        accounts = {key: self.bank.account(key) for key in self._dirty}
        keep_from = self.slot - self._keep_slots
        try:
            self.store.seal(sealed, landed, accounts, keep_from)
        except BaseException as error:
            self._failure = error
            raise
        self._open_transactions = []
        self._dirty = set()
        self._transactions += len(landed)
        self._open_after(sealed)
        for listener in self.listeners:
            listener(sealed, landed)
        return sealed

    def roll_back(self, slots: int) -> list[bytes]:
        """Undo the open slot and the newest `slots` sealed ones, as a fork that lost does.

        State, transactions and blockhashes become those of before; the undone slots keep their numbers and
        have no block. Returns the undone transactions (wire bytes) in their order: they may be sent again.

        Raises:
            ConfigurationError: one of the slots is finalized, or was sealed before this start.
            ChainError: the disk is full or broken; the ledger must be stopped.
        """
        self._check_usable()
        to = self._previous.slot
        for _ in range(min(slots, self.slot)):
            to = self.skipped.block_at_or_before(to - 1)
        oldest = max(self.slot_at("finalized"), self._opened_after)
        if to < oldest:
            raise ConfigurationError(
                f"{slots} slots cannot be rolled back.",
                f"Slot {oldest} is finalized, or was sealed before this start, and stays.",
                f"Roll back at most {self.skipped.height(self._previous.slot) - self.skipped.height(oldest)}.",
            )
        try:
            accounts = {key: self.changes.at_end_of(to, key, None) for key in self.changes.keys_after(to)}
            skipped = self.skipped.with_range(to + 1, self.slot - 1)
            undone = self.store.rewind(to, accounts, {"skipped": skipped.encode()})
            undone += [one.wire for one in self._open_transactions]
            self.skipped = skipped
            self._forget_after(to)
        except BaseException as error:
            self._failure = error
            raise
        _log.info("local_k2_rolled_back", to=to, undone=len(undone), slot=self.slot)
        return undone

    def _forget_after(self, slot: int) -> None:
        self.changes.drop_after(slot)
        self._open_transactions = []
        self._dirty = set()
        for later in [at for at in self._prices if at > slot]:
            del self._prices[later]
        for signature in [name for name, status in self._statuses.items() if status.slot > slot]:
            del self._statuses[signature]
        for blockhash in [name for name, at in self._blockhashes.items() if at > slot]:
            del self._blockhashes[blockhash]
        previous = self.store.slot(slot)
        if previous is None:
            raise ValueError(f"slot {slot} is missing")
        self._previous = previous
        self._transactions = self.store.transaction_count()
        # A new virtual machine, because the old one cannot unload a program that was deployed meanwhile.
        self.bank = Bank()
        self.bank.restore(self.store.accounts())
        self._load_programs()
        self.bank.set_clock(self.slot, max(int(self._clock()), previous.time))

    def prune(self, before: int) -> int:
        """Forget the blocks and transactions of slots before `before`, at once; what is not finalized stays.

        Returns the oldest slot that is left.
        """
        self._check_usable()
        self._transactions = self.store.prune(min(before, self.slot_at("finalized")))
        return self.store.first_slot()

    def keep_history(self, slots: int | None) -> None:
        """Keep only so many slots from now on; None: as many as the limits say."""
        self._keep_slots = self._limits.localk2_history_slots if slots is None else slots
        if slots is not None:
            self.prune(self.slot - slots)

    def close(self) -> None:
        """Seal the open slot and close the folder. Closing twice is allowed."""
        try:
            if self._failure is None and not self._closed:
                self.seal()
        finally:
            self._closed = True
            self.store.close()

    def statistics(self) -> LedgerStatistics:
        """Where the chain is and what it keeps."""
        return LedgerStatistics(
            slot=self.slot,
            transactions=self._transactions,
            recent_changes=self.changes.size(),
            recent_statuses=len(self._statuses),
            **self._counts,
        )

    # -- accounts

    def account(self, key: Pubkey, commitment: Commitment) -> Account | None:
        """An account as it was at a commitment, or None. (A restart forgets what was before it.)"""
        return self.account_after(key, None if commitment == "processed" else self.slot_at(commitment))

    def account_after(self, key: Pubkey, slot: int | None) -> Account | None:
        """An account as it was at the end of a slot, or as it is now; None if there was none."""
        account = self.bank.account(key)
        if slot is not None:
            account = self.changes.at_end_of(slot, key, account)
        if account is not None and account.lamports == 0 and not account.data:
            return None
        return account

    def keys_changed_in(self, slot: int) -> frozenset[Pubkey]:
        """Accounts that a slot may have changed; known from the finalized slot on."""
        return frozenset(self.changes.keys_of(slot))

    def program_accounts(self, program: Pubkey, commitment: Commitment) -> list[tuple[Pubkey, Account]]:
        """Every account a program owned at a commitment, sorted by address."""
        slot = None if commitment == "processed" else self.slot_at(commitment)
        return self.program_accounts_after(program, slot)

    def program_accounts_after(self, program: Pubkey, slot: int | None) -> list[tuple[Pubkey, Account]]:
        """Every account a program owned at the end of a slot, or owns now, sorted by address."""
        keys = {key for key, _ in self.bank.program_accounts(program)}
        if slot is not None:
            keys |= self.changes.keys_after(slot)
        found = ((key, self.account_after(key, slot)) for key in sorted(keys, key=bytes))
        return [(key, account) for key, account in found if account is not None and account.owner == program]

    # -- transactions

    def status(self, signature: bytes, *, search_history: bool = True) -> Status | None:
        """Where a transaction landed, or None. Recent ones are in memory, older ones on disk."""
        status = self._statuses.get(signature)
        if status is None and search_history:
            stored = self.store.status(signature)
            if stored is not None:
                return Status(*stored)
        return status

    def obstacle(self, incoming: Incoming) -> str | None:
        """Why a transaction cannot be executed now, whatever it does: a TransactionError's name, or None."""
        if self.status(incoming.signature, search_history=False) is not None:
            return "AlreadyProcessed"
        if not self.blockhash_valid(incoming.blockhash):
            return "BlockhashNotFound"
        return None

    def simulate(self, transaction: VersionedTransaction, *, check_signatures: bool) -> Simulation:
        """Execute on the newest state and forget."""
        return self.bank.simulate(transaction, check_signatures=check_signatures)

    def submit(self, incoming: Incoming) -> Any:
        """Execute a transaction in the open slot. Returns its error (JSON), or None.

        As on a real chain, one that cannot pay, is a duplicate, or has an unknown blockhash leaves no trace;
        one that fails while it runs is recorded and pays its fee.

        Raises:
            SlotFull: the open slot takes no more.
            UnknownLookupTable: an address table it names does not exist.
            ChainError: the ledger is unusable after an earlier fault.
        """
        self._check_usable()
        obstacle = self.obstacle(incoming)
        if obstacle is not None:
            self._counts["refused"] += 1
            return obstacle
        if len(self._open_transactions) >= self._limits.localk2_slot_transactions:
            self._counts["full_slots"] += 1
            raise SlotFull
        keys = self.bank.keys_of(incoming.message)
        try:
            execution = self.bank.execute(incoming, keys)
            if not execution.landed:
                self._counts["refused"] += 1
                return execution.err
            self.changes.record(self.slot, execution.before)
            self._dirty.update(keys.writable)
            self._open_transactions.append(
                LandedTransaction(
                    signature=incoming.signature,
                    index=len(self._open_transactions),
                    wire=incoming.wire,
                    err=execution.err,
                    memo=memo_text(incoming, keys),
                    meta=execution.meta,
                    keys=tuple(bytes(key) for key in keys.all),
                )
            )
            self._statuses[incoming.signature] = Status(self.slot, execution.err)
            price = (unit_price(incoming, keys), frozenset(keys.writable))
            self._prices.setdefault(self.slot, []).append(price)
        except BaseException as error:
            # Executed but perhaps not recorded: the state and the history no longer agree.
            self._failure = error
            raise
        self._counts["executed"] += 1
        return execution.err

    def airdrop(self, to: Pubkey, lamports: int) -> tuple[bytes, Any]:
        """Send Roe from the faucet, as any transaction. Its signature, and its error (JSON) or None."""
        # Two equal airdrops in one slot would be the same transaction: a changing compute limit tells them
        # apart.
        self._airdrops += 1
        units = _AIRDROP_UNITS + self._airdrops % _UNITS_RANGE
        payment = TransferParams(from_pubkey=self.faucet.pubkey(), to_pubkey=to, lamports=lamports)
        message = Message.new_with_blockhash(
            [set_compute_unit_limit(units), transfer(payment)],
            self.faucet.pubkey(),
            Hash(self._previous.blockhash),
        )
        incoming = decode(bytes(VersionedTransaction(message, [self.faucet])))
        # Checked first, so that the faucet does not pay for what cannot work.
        simulation = self.simulate(incoming.transaction, check_signatures=False)
        err = simulation.err if simulation.err is not None else self.submit(incoming)
        return incoming.signature, err

    # -- beginning

    def _load_programs(self) -> None:
        for address, elf in self._programs.items():
            self.bank.load_program(address, elf)

    def _begin_or_restore(self) -> None:
        with self.store.reading():
            secret = self.store.fact("faucet")
            newest = self.store.newest_slots(_STATUS_SLOTS)
        if secret is None or not newest:
            self._begin()
        else:
            with self.store.reading():
                self._restore(secret, newest)
        self._opened_after = self._previous.slot
        _log.info("local_k2_opened", slot=self.slot, genesis=str(Hash(self.genesis)))

    def _begin(self) -> None:
        self.faucet = Keypair()
        self.genesis = hashlib.sha256(b"koii_p2p local K2" + os.urandom(32)).digest()
        self.store.put_facts({"faucet": bytes(self.faucet), "genesis": self.genesis})
        self.slot = 0
        self._transactions = 0
        self._previous = SealedSlot(0, self.genesis, 0, int(self._clock()), 0)
        self.bank.set_clock(0, self._previous.time)
        funded = Account(FAUCET_LAMPORTS, b"", SYSTEM_PROGRAM)
        self.bank.restore([(bytes(self.faucet.pubkey()), funded)])
        self._dirty.add(self.faucet.pubkey())
        self.seal()

    def _restore(self, secret: bytes, newest: list[SealedSlot]) -> None:
        self.faucet = Keypair.from_bytes(secret)
        genesis = self.store.fact("genesis")
        if genesis is None or len(genesis) != 32:
            raise ValueError("the genesis hash is missing")
        self.genesis = genesis
        self.skipped = SkippedSlots.decode(self.store.fact("skipped"))
        self._transactions = self.store.transaction_count()
        self.bank.restore(self.store.accounts())
        for signature, slot, err in self.store.statuses_since(newest[0].slot):
            self._statuses[signature] = Status(slot, err)
        for sealed in newest:
            self._open_after(sealed)
        # A crash right after a roll-back: the numbers of the undone slots are still taken.
        self.slot = max(self.slot, self.skipped.last + 1)
        self.bank.set_clock(self.slot, max(int(self._clock()), self._previous.time))

    def _open_after(self, sealed: SealedSlot) -> None:
        """Make the slot after a sealed one the open slot."""
        self._blockhashes[sealed.blockhash] = sealed.slot
        while len(self._blockhashes) > BLOCKHASH_SLOTS + 1:
            self._blockhashes.popitem(last=False)
        while self._prices and next(iter(self._prices)) < sealed.slot - _STATUS_SLOTS:
            self._prices.popitem(last=False)
        oldest = sealed.slot - _STATUS_SLOTS
        while self._statuses and next(iter(self._statuses.values())).slot < oldest:
            self._statuses.popitem(last=False)
        self._previous = sealed
        self.slot = sealed.slot + 1
        # States at the end of the finalized slot are still asked for, and which accounts it changed.
        self.changes.forget_through(self.slot_at("finalized") - 1 - self._lag_kept)
        self.bank.set_clock(self.slot, max(int(self._clock()), sealed.time))

    def _check_usable(self) -> None:
        if self._failure is not None or self._closed:
            why = "It is closed" if self._failure is None else f"A fault left it unusable: {self._failure!r}"
            raise ChainError(
                "The local K2 has stopped.",
                f"{why}.",
                "Start it again; every sealed slot is kept.",
            ) from self._failure
