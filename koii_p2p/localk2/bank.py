"""The accounts and the virtual machine: LiteSVM, with what it leaves to its user done once, here.

LiteSVM executes transactions as a Solana validator does, but knows one blockhash, no slots, no history and no
packet limit. Those checks are off here and live in `ledger`. A transaction takes about 50 microseconds and
holds the interpreter while it runs, so it is simply called from the one task that owns the ledger.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

import base58
from solders.account import Account
from solders.clock import Clock
from solders.litesvm import LiteSVM
from solders.message import Message, MessageV0
from solders.pubkey import Pubkey
from solders.signature import Signature
from solders.transaction import VersionedTransaction
from solders.transaction_metadata import FailedTransactionMetadata

from koii_p2p.localk2.transactions import AccountKeys, Incoming, error_json, writable_indexes

SLOTS_PER_EPOCH: Final = 432_000
_LOG_BYTES: Final = 10_000
_LAMPORTS_PER_SIGNATURE: Final = 5000
_LOOKUP_TABLE_PROGRAM: Final = Pubkey.from_string("AddressLookupTab1e1111111111111111111111111")
_LOOKUP_TABLE_HEADER: Final = 56
_KEY_BYTES: Final = 32


class UnknownLookupTable(ValueError):
    """A transaction names an address lookup table that does not exist, or an index beyond its end."""


@dataclass(frozen=True, slots=True)
class Execution:
    """What executing a transaction gave: `err` and `meta` as JSON; `landed` = its fee was taken."""

    err: Any
    landed: bool
    meta: dict[str, Any]
    before: dict[Pubkey, Account | None]


@dataclass(frozen=True, slots=True)
class Simulation:
    """What executing a transaction would give. `accounts` are the states it would leave, by address."""

    err: Any
    logs: tuple[str, ...]
    compute_units: int
    fee: int
    return_data: dict[str, Any] | None
    accounts: dict[Pubkey, Account]


class Bank:
    """The state after everything executed so far. Synchronous; used from one task."""

    def __init__(self) -> None:
        self._vm = LiteSVM().with_blockhash_check(False).with_transaction_history(0)
        self._vm = self._vm.with_log_bytes_limit(_LOG_BYTES)

    def restore(self, accounts: Iterable[tuple[bytes, Account]]) -> int:
        """Put saved accounts back; returns how many.

        A program account must come after the account that holds its code: LiteSVM silently loads nothing
        otherwise.
        """
        count = 0
        for key, account in accounts:
            self._vm.set_account(Pubkey(key), account)
            count += 1
        return count

    def load_program(self, program: bytes, elf: bytes) -> None:
        """Put a program's code at a fixed address, replacing what was there."""
        self._vm.add_program(Pubkey(program), elf)

    def set_clock(self, slot: int, unix_time: int) -> None:
        """What programs read from the clock sysvar."""
        epoch = slot // SLOTS_PER_EPOCH
        self._vm.set_clock(Clock(slot, 0, epoch, epoch + 1, unix_time))

    def account(self, key: Pubkey) -> Account | None:
        """The account at an address, or None."""
        found: Account | None = self._vm.get_account(key)
        return found

    def program_accounts(self, program: Pubkey) -> list[tuple[Pubkey, Account]]:
        """Every account a program owns."""
        return list(self._vm.get_program_accounts(program))

    def rent_exempt_minimum(self, size: int) -> int:
        """Lamports that keep an account of `size` bytes."""
        return int(self._vm.minimum_balance_for_rent_exemption(size))

    def keys_of(self, message: Message | MessageV0) -> AccountKeys:
        """The accounts a message names, lookup tables resolved.

        Raises:
            UnknownLookupTable: a table or an index in it does not exist.
        """
        static = tuple(message.account_keys)
        writable: list[Pubkey] = []
        readonly: list[Pubkey] = []
        for lookup in getattr(message, "address_table_lookups", ()):
            table = self.account(lookup.account_key)
            if table is None or table.owner != _LOOKUP_TABLE_PROGRAM:
                raise UnknownLookupTable(f"address lookup table {lookup.account_key} does not exist")
            addresses = bytes(table.data)[_LOOKUP_TABLE_HEADER:]
            writable += [_address_at(addresses, index) for index in lookup.writable_indexes]
            readonly += [_address_at(addresses, index) for index in lookup.readonly_indexes]
        own = tuple(static[index] for index in writable_indexes(message))
        return AccountKeys(static, tuple(writable), tuple(readonly), own + tuple(writable))

    def execute(self, incoming: Incoming, keys: AccountKeys) -> Execution:
        """Execute a transaction for good. Signatures are checked by the virtual machine again."""
        before = {key: self.account(key) for key in keys.writable}
        pre = [self._balance(key) for key in keys.all]
        result = self._vm.send_transaction(incoming.transaction)
        post = [self._balance(key) for key in keys.all]
        if isinstance(result, FailedTransactionMetadata):
            metadata, err = result.meta(), error_json(result.err())
            # A transaction that fails still pays its fee, unless it was refused before it began.
            landed = post[0] != pre[0]
        else:
            metadata, err, landed = result, None, True
        return Execution(err, landed, _meta_json(err, metadata, pre, post, keys), before)

    def simulate(self, transaction: VersionedTransaction, *, check_signatures: bool) -> Simulation:
        """Execute a transaction and forget it."""
        if not check_signatures:
            self._vm.with_sigverify(False)
        try:
            result = self._vm.simulate_transaction(transaction)
        finally:
            self._vm.with_sigverify(True)
        metadata = result.meta()
        if isinstance(result, FailedTransactionMetadata):
            err, accounts = error_json(result.err()), {}
        else:
            err, accounts = None, dict(result.post_accounts())
        return Simulation(
            err=err,
            logs=tuple(metadata.logs()),
            compute_units=metadata.compute_units_consumed(),
            fee=metadata.fee(),
            return_data=_return_data_json(metadata),
            accounts=accounts,
        )

    def fee_of(self, message: Message | MessageV0) -> int:
        """Lamports the message would cost: signatures, and compute units it bids for."""
        signatures = message.header.num_required_signatures
        unsigned = VersionedTransaction.populate(message, [Signature.default()] * signatures)
        return self.simulate(unsigned, check_signatures=False).fee or _LAMPORTS_PER_SIGNATURE * signatures

    def _balance(self, key: Pubkey) -> int:
        return int(self._vm.get_balance(key) or 0)


def instruction_json(instruction: Any, stack_height: int | None = None) -> dict[str, Any]:
    """A compiled instruction in the RPC's `json` encoding."""
    return {
        "programIdIndex": instruction.program_id_index,
        "accounts": list(instruction.accounts),
        "data": base58.b58encode(bytes(instruction.data)).decode(),
        "stackHeight": stack_height,
    }


def _address_at(addresses: bytes, index: int) -> Pubkey:
    entry = addresses[_KEY_BYTES * index : _KEY_BYTES * (index + 1)]
    if len(entry) != _KEY_BYTES:
        raise UnknownLookupTable(f"index {index} is beyond the end of an address lookup table")
    return Pubkey(entry)


def _return_data_json(metadata: Any) -> dict[str, Any] | None:
    returned = metadata.return_data()
    data = bytes(returned.data)
    if not data:
        return None
    return {"programId": str(returned.program_id), "data": [base64.b64encode(data).decode(), "base64"]}


def _meta_json(err: Any, metadata: Any, pre: list[int], post: list[int], keys: AccountKeys) -> dict[str, Any]:
    inner = [
        {
            "index": index,
            "instructions": [instruction_json(one.instruction(), one.stack_height()) for one in group],
        }
        for index, group in enumerate(metadata.inner_instructions())
        if group
    ]
    meta: dict[str, Any] = {
        "err": err,
        "status": {"Ok": None} if err is None else {"Err": err},
        "fee": metadata.fee(),
        "preBalances": pre,
        "postBalances": post,
        "innerInstructions": inner,
        "logMessages": metadata.logs(),
        "preTokenBalances": [],
        "postTokenBalances": [],
        "rewards": [],
        "loadedAddresses": {
            "writable": [str(key) for key in keys.loaded_writable],
            "readonly": [str(key) for key in keys.loaded_readonly],
        },
        "computeUnitsConsumed": metadata.compute_units_consumed(),
    }
    returned = _return_data_json(metadata)
    if returned is not None:
        meta["returnData"] = returned
    return meta
