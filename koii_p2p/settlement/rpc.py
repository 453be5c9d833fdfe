"""The trio client of a K2 node: thin, typed methods, and sending a transaction until its fate is known.

Every method returns plain ints, bytes, text or the frozen values of `rpc_replies`; keys and blockhashes are
32 bytes, amounts Roe, times slots. Every failure is a `ChainError`: `RpcUnreachable` (no answer),
`RpcProtocolError` (an answer that cannot be used), `RpcError` (the node refused), `TransactionFailed`,
`TransactionExpired`, `TransactionUnconfirmed`.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import base58

from koii_p2p.settlement import rpc_replies as replies
from koii_p2p.settlement.confirmation import (
    ConfirmedTransaction,
    TransactionExpired,
    TransactionFailed,
    TransactionUnconfirmed,
    send_and_confirm,
)
from koii_p2p.settlement.jsonrpc import (
    JsonRpcConnection,
    RpcError,
    RpcProtocolError,
    RpcStatistics,
    RpcUnreachable,
)
from koii_p2p.settlement.rpc_replies import (
    Account,
    Commitment,
    ReplyError,
    SignatureInfo,
    SignatureStatus,
    TransactionRecord,
    transaction_signature,
)

__all__ = [
    "Account",
    "Commitment",
    "ConfirmedTransaction",
    "DataSize",
    "Memcmp",
    "RpcClient",
    "RpcError",
    "RpcProtocolError",
    "RpcStatistics",
    "RpcUnreachable",
    "SignatureInfo",
    "SignatureStatus",
    "TransactionExpired",
    "TransactionFailed",
    "TransactionRecord",
    "TransactionUnconfirmed",
    "transaction_signature",
]

MAXIMUM_ACCOUNTS_PER_CALL = 100
MAXIMUM_STATUSES_PER_CALL = 256
MAXIMUM_SIGNATURES_PER_CALL = 1000
BLOCK_NOT_AVAILABLE = -32004

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class DataSize:
    """A getProgramAccounts filter: accounts whose data is exactly `size` bytes."""

    size: int

    def as_json(self) -> dict[str, Any]:
        """The filter as the node wants it."""
        return {"dataSize": self.size}


@dataclass(frozen=True, slots=True)
class Memcmp:
    """A getProgramAccounts filter: accounts whose data holds `content` (at most 128 bytes) at `offset`."""

    offset: int
    content: bytes

    def as_json(self) -> dict[str, Any]:
        """The filter as the node wants it."""
        text = base58.b58encode(self.content).decode()
        return {"memcmp": {"offset": self.offset, "bytes": text, "encoding": "base58"}}


class RpcClient(JsonRpcConnection):
    """One K2 node, as methods. `RpcClient(url, limits=Limits())`; use `async with`, or call `aclose()`."""

    async def __aenter__(self) -> RpcClient:
        return self

    # -- the chain

    async def get_health(self) -> str:
        """`ok`. A node that is behind answers with `RpcError` -32005."""
        return await self._read_result("getHealth", [], replies.text)

    async def get_genesis_hash(self) -> bytes:
        """The 32 bytes that name this chain."""
        return await self._read_result("getGenesisHash", [], replies.key)

    async def get_slot(self, commitment: Commitment = "confirmed") -> int:
        """The newest slot at this commitment."""
        return await self._read_result("getSlot", [{"commitment": commitment}], replies.integer)

    async def get_block_height(self, commitment: Commitment = "confirmed") -> int:
        """Blocks so far at this commitment: what a blockhash's last valid height is compared with."""
        return await self._read_result("getBlockHeight", [{"commitment": commitment}], replies.integer)

    async def get_latest_blockhash(self, commitment: Commitment = "confirmed") -> tuple[bytes, int]:
        """A blockhash to sign with (32 bytes), and the last block height at which it is accepted."""

        def read(value: Any) -> tuple[bytes, int]:
            inner = replies.contextual(value)
            return (
                replies.key(replies.field(inner, "blockhash"), "blockhash"),
                replies.integer(replies.field(inner, "lastValidBlockHeight"), "lastValidBlockHeight"),
            )

        return await self._read_result("getLatestBlockhash", [{"commitment": commitment}], read)

    async def get_block_hash(self, slot: int, commitment: Commitment = "confirmed") -> bytes | None:
        """The blockhash (32 bytes) of the block in exactly this slot, or None if it is not there (yet)."""
        options = {
            "commitment": commitment,
            "transactionDetails": "none",
            "rewards": False,
            "maxSupportedTransactionVersion": 0,
        }

        def read(value: Any) -> bytes | None:
            if value is None:
                return None
            return replies.key(replies.field(value, "blockhash"), "blockhash")

        try:
            return await self._read_result("getBlock", [slot, options], read)
        except RpcError as error:
            if error.code == BLOCK_NOT_AVAILABLE:
                return None
            raise

    async def get_first_block(
        self, slot: int, commitment: Commitment = "confirmed"
    ) -> tuple[int, bytes] | None:
        """Slot and blockhash of the first block at or after `slot`, or None while there is none.

        A slot may have no block at all (its leader was away), so asking for exactly `slot` is not enough.
        """

        def read(value: Any) -> int | None:
            slots = replies.array(value, at_most=1)
            if not slots:
                return None
            found = replies.integer(slots[0], "slot")
            if found < slot:
                raise ReplyError(f"slot {found} is before the slot asked for, {slot}")
            return found

        params = [slot, 1, {"commitment": commitment}]
        found = await self._read_result("getBlocksWithLimit", params, read)
        if found is None:
            return None
        blockhash = await self.get_block_hash(found, commitment)
        return None if blockhash is None else (found, blockhash)

    # -- accounts

    async def get_balance(self, address: bytes, commitment: Commitment = "confirmed") -> int:
        """Roe held by an address; 0 if it has no account."""
        params = [_base58(address), {"commitment": commitment}]
        return await self._read_result("getBalance", params, lambda v: replies.integer(replies.contextual(v)))

    async def get_account(self, address: bytes, commitment: Commitment = "confirmed") -> Account | None:
        """The account at an address, or None."""
        params = [_base58(address), _account_options(commitment)]
        return await self._read_result(
            "getAccountInfo",
            params,
            lambda v: replies.optional(replies.contextual(v), replies.account, "account"),
        )

    async def get_multiple_accounts(
        self, addresses: Sequence[bytes], commitment: Commitment = "confirmed"
    ) -> tuple[Account | None, ...]:
        """The accounts at these addresses, in their order; asks in groups of 100, each group of one slot."""
        found: list[Account | None] = []
        for start in range(0, len(addresses), MAXIMUM_ACCOUNTS_PER_CALL):
            group = addresses[start : start + MAXIMUM_ACCOUNTS_PER_CALL]

            def read(value: Any, size: int = len(group)) -> list[Account | None]:
                items = replies.array(replies.contextual(value), length=size)
                return [replies.optional(item, replies.account, "account") for item in items]

            params = [[_base58(address) for address in group], _account_options(commitment)]
            found += await self._read_result("getMultipleAccounts", params, read)
        return tuple(found)

    async def get_program_accounts(
        self,
        program: bytes,
        filters: Sequence[DataSize | Memcmp] = (),
        commitment: Commitment = "confirmed",
    ) -> tuple[tuple[bytes, Account], ...]:
        """A program's accounts that pass all (at most 4) filters, as (address, account) sorted by address."""
        options = _account_options(commitment)
        if filters:
            options["filters"] = [one.as_json() for one in filters]

        def read(value: Any) -> list[tuple[bytes, Account]]:
            found = [replies.keyed_account(item) for item in replies.array(value)]
            for _, account in found:
                if account.owner != program or not all(_passes(account.data, one) for one in filters):
                    raise ReplyError("an account that was not asked for is in the list")
            return found

        found = await self._read_result("getProgramAccounts", [_base58(program), options], read)
        return tuple(sorted(found, key=lambda item: item[0]))

    async def get_minimum_balance_for_rent_exemption(self, size: int) -> int:
        """Roe an account with `size` bytes of data must hold to be kept."""
        return await self._read_result("getMinimumBalanceForRentExemption", [size], replies.integer)

    async def request_airdrop(self, address: bytes, lamports: int) -> str:
        """Ask a test chain's faucet for Roe; returns the transaction's signature. Never tried twice."""
        params = [_base58(address), lamports]
        return await self._read_result("requestAirdrop", params, replies.signature, retry=False)

    # -- transactions

    async def get_fee_for_message(self, message: bytes, commitment: Commitment = "confirmed") -> int | None:
        """Roe the chain would charge for a serialized message, or None if its blockhash has expired."""
        params = [base64.b64encode(message).decode(), {"commitment": commitment}]
        return await self._read_result(
            "getFeeForMessage",
            params,
            lambda v: replies.optional(replies.contextual(v), replies.integer, "fee"),
        )

    async def send_transaction(
        self, wire: bytes, *, skip_preflight: bool = False, commitment: Commitment = "confirmed"
    ) -> str:
        """Hand a signed transaction to the node; returns its signature. Taken does not mean landed.

        Sending the same bytes again is harmless, so a lost answer is retried. A refused preflight is
        `RpcError` -32002; `send_and_confirm` does the rest.
        """
        expected = transaction_signature(wire)
        options = {
            "encoding": "base64",
            "skipPreflight": skip_preflight,
            "preflightCommitment": commitment,
            "maxRetries": 0,
        }

        def read(value: Any) -> str:
            if replies.signature(value) != expected:
                raise ReplyError("the signature is not that of the transaction sent")
            return expected

        return await self._read_result("sendTransaction", [base64.b64encode(wire).decode(), options], read)

    async def get_signature_statuses(
        self, signatures: Sequence[str], *, search_history: bool = False
    ) -> tuple[SignatureStatus | None, ...]:
        """Where each transaction is, in order; None = unknown. `search_history` also finds old ones."""
        found: list[SignatureStatus | None] = []
        for start in range(0, len(signatures), MAXIMUM_STATUSES_PER_CALL):
            group = list(signatures[start : start + MAXIMUM_STATUSES_PER_CALL])

            def read(value: Any, size: int = len(group)) -> list[SignatureStatus | None]:
                items = replies.array(replies.contextual(value), length=size)
                return [replies.optional(item, replies.signature_status, "status") for item in items]

            params = [group, {"searchTransactionHistory": search_history}]
            found += await self._read_result("getSignatureStatuses", params, read)
        return tuple(found)

    async def get_signatures_for_address(
        self,
        address: bytes,
        *,
        before: str | None = None,
        until: str | None = None,
        limit: int = MAXIMUM_SIGNATURES_PER_CALL,
        commitment: Commitment = "confirmed",
    ) -> tuple[SignatureInfo, ...]:
        """One page (at most 1000) of what names an address, newest first, older than `before`."""
        options: dict[str, Any] = {"limit": limit, "commitment": commitment}
        if before is not None:
            options["before"] = before
        if until is not None:
            options["until"] = until

        def read(value: Any) -> tuple[SignatureInfo, ...]:
            return tuple(replies.signature_info(item) for item in replies.array(value, at_most=limit))

        return await self._read_result("getSignaturesForAddress", [_base58(address), options], read)

    async def get_address_history(
        self, address: bytes, *, until: str | None = None, limit: int, commitment: Commitment = "confirmed"
    ) -> tuple[SignatureInfo, ...]:
        """The newest `limit` transactions that name an address, newest first, page by page down to `until`.

        Raises:
            RpcProtocolError: a page repeats a transaction (a node that would keep us paging for ever).
        """
        found: list[SignatureInfo] = []
        seen: set[str] = set()
        before = None
        while len(found) < limit:
            size = min(MAXIMUM_SIGNATURES_PER_CALL, limit - len(found))
            page = await self.get_signatures_for_address(
                address, before=before, until=until, limit=size, commitment=commitment
            )
            names = {line.signature for line in page}
            if len(names) < len(page) or names & seen:
                self.reject("getSignaturesForAddress", "A page repeats a transaction")
            seen |= names
            found += page
            if len(page) < size:
                break
            before = page[-1].signature
        return tuple(found)

    async def get_transaction(
        self, signature: str, commitment: Commitment = "confirmed"
    ) -> TransactionRecord | None:
        """A transaction in a block, with its wire bytes, fee and logs; None if the node does not have it."""
        options = {"commitment": commitment, "encoding": "base64", "maxSupportedTransactionVersion": 0}

        def read(value: Any) -> TransactionRecord | None:
            if value is None:
                return None
            record = replies.transaction_record(value)
            try:
                found = transaction_signature(record.wire)
            except ValueError as error:
                raise ReplyError(str(error)) from error
            if found != signature:
                raise ReplyError("the transaction is not the one asked for")
            return record

        return await self._read_result("getTransaction", [signature, options], read)

    async def send_and_confirm(
        self,
        wire: bytes,
        *,
        commitment: Commitment = "confirmed",
        last_valid_block_height: int | None = None,
    ) -> ConfirmedTransaction:
        """Send a signed transaction, again where needed, until it is settled at `commitment` or can never be.

        `last_valid_block_height` is what `get_latest_blockhash` gave with the blockhash; without it, expiry
        is noticed up to 150 blocks late. Takes at most `limits.confirmation_seconds`. Safe to call again with
        the same bytes, also after a crash.

        Raises:
            TransactionFailed: refused or failed; the error, the program's log and the signature are in it.
            TransactionExpired: it never landed and never will.
            TransactionUnconfirmed: time ran out, fate unknown.
            RpcError, RpcProtocolError: the node refused the call itself, or answers nonsense.
        """
        return await send_and_confirm(
            self,
            wire,
            commitment=commitment,
            last_valid_block_height=last_valid_block_height,
            seconds=self._limits.confirmation_seconds,
        )

    async def _read_result(
        self, method: str, params: Sequence[Any], read: Callable[[Any], T], *, retry: bool = True
    ) -> T:
        result = await self.call(method, params, retry=retry)
        try:
            return read(result)
        except ReplyError as error:
            self.reject(method, f"In the reply, {error}")


def _base58(value: bytes) -> str:
    if len(value) != 32:
        raise ValueError(f"a key is 32 bytes, not {len(value)}")
    return base58.b58encode(value).decode()


def _account_options(commitment: Commitment) -> dict[str, Any]:
    return {"commitment": commitment, "encoding": "base64"}


def _passes(data: bytes, one: DataSize | Memcmp) -> bool:
    if isinstance(one, DataSize):
        return len(data) == one.size
    return data[one.offset : one.offset + len(one.content)] == one.content
