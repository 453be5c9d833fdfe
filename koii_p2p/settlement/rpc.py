"""The trio client of K2's RPC nodes: thin, typed methods, and sending a transaction until its fate is known.

Behind it are one or several nodes (`rpc_nodes`): what money or a verdict hangs on is believed when a quorum
says it, the rest is asked of whichever node is well, and transactions are sent to all.

Every method returns plain ints, bytes, text or the frozen values of `rpc_replies`; keys and blockhashes are
32 bytes, amounts Roe, times slots. Every failure is a `ChainError`: `RpcUnreachable` (no answer),
`RpcProtocolError` (an answer that cannot be used), `RpcError` (the node refused), `RpcDisagreement` (the nodes
contradict each other), `BlockPruned`, `TransactionFailed`, `TransactionExpired`, `TransactionUnconfirmed`.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import base58
import trio

from koii_p2p.errors import ChainError
from koii_p2p.settlement import rpc_replies as replies
from koii_p2p.settlement.confirmation import (
    ConfirmedTransaction,
    TransactionExpired,
    TransactionFailed,
    TransactionUnconfirmed,
    send_and_confirm,
)
from koii_p2p.settlement.jsonrpc import (
    BLOCK_NOT_AVAILABLE,
    METHOD_NOT_FOUND,
    SLOT_SKIPPED,
    RpcError,
    RpcProtocolError,
    RpcStatistics,
    RpcUnreachable,
)
from koii_p2p.settlement.rpc_nodes import (
    NodeConnection,
    NodeStatistics,
    RpcDisagreement,
    RpcNodes,
    highest_of_quorum,
)
from koii_p2p.settlement.rpc_replies import (
    Account,
    BlockRecord,
    Commitment,
    ReplyError,
    SignatureInfo,
    SignatureStatus,
    TransactionRecord,
    transaction_signature,
)

__all__ = [
    "Account",
    "BlockPruned",
    "BlockRecord",
    "Commitment",
    "ConfirmedTransaction",
    "DataSize",
    "Memcmp",
    "NodeReport",
    "NodeStatistics",
    "RpcClient",
    "RpcDisagreement",
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
MAXIMUM_RECENT_BLOCKS = 150


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


class BlockPruned(ChainError):
    """The nodes have forgotten the block that was asked for."""

    def __init__(self, url: str, slot: int, first: int) -> None:
        super().__init__(
            f"K2 at {url} no longer has the first block from slot {slot} on.",
            f"The oldest it has now is that of slot {first}.",
            "Use a node that keeps older blocks.",
        )
        self.slot = slot
        self.first = first


@dataclass(frozen=True, slots=True)
class NodeReport:
    """How one node is when asked: the chain's genesis (32 bytes), its confirmed slot, or why it gave none.

    `ill` is what the health check said, or None if it is well.
    """

    url: str
    genesis: bytes | None
    slot: int | None
    ill: str | None


class RpcClient(RpcNodes):
    """K2 as methods. `RpcClient(url)`, or several URLs; use `async with`, or call `aclose()`."""

    async def __aenter__(self) -> RpcClient:
        return self

    # -- the chain

    async def get_health(self) -> str:
        """`ok`. A node that is behind answers with `RpcError` -32005; of several, one that is well answers."""
        return await self.ask("getHealth", [], replies.text)

    async def survey(self) -> tuple[NodeReport, ...]:
        """How each node is, in the order in which they were named; all are asked at once."""
        reports: dict[NodeConnection, NodeReport] = {}

        async def look_at(node: NodeConnection) -> None:
            genesis = slot = None
            ill = None
            try:
                genesis = await node.read("getGenesisHash", [], replies.key, retry=True)
                params = [{"commitment": "confirmed"}]
                slot = await node.read("getSlot", params, replies.integer, retry=True)
                await node.read("getHealth", [], replies.text, retry=True)
            except ChainError as error:
                ill = error.why
            reports[node] = NodeReport(node.url, genesis, slot, ill)

        async with trio.open_nursery() as nursery:
            for node in self._nodes:
                nursery.start_soon(look_at, node)
        return tuple(reports[node] for node in self._nodes)

    async def get_genesis_hash(self) -> bytes:
        """The 32 bytes that name this chain."""
        return await self.agree("getGenesisHash", [], replies.key)

    async def get_slot(self, commitment: Commitment = "confirmed") -> int:
        """The newest slot at this commitment that a quorum of the nodes has reached."""
        params = [{"commitment": commitment}]
        return await self.agree("getSlot", params, replies.integer, highest_of_quorum)

    async def get_block_height(self, commitment: Commitment = "confirmed") -> int:
        """Blocks so far at this commitment: what a blockhash's last valid height is compared with."""
        params = [{"commitment": commitment}]
        return await self.agree("getBlockHeight", params, replies.integer, highest_of_quorum)

    async def get_finalized(self) -> tuple[int, int]:
        """Block height and slot of the newest finalized block that a quorum of the nodes has reached.

        Both are of one answer: asked one after the other, they could be those of two nodes behind one URL.
        """

        def read(value: Any) -> tuple[int, int]:
            return (
                replies.integer(replies.field(value, "blockHeight"), "blockHeight"),
                replies.integer(replies.field(value, "absoluteSlot"), "absoluteSlot"),
            )

        def reached(values: Sequence[tuple[int, int]], quorum: int) -> tuple[int, int]:
            return sorted(values, reverse=True)[quorum - 1]

        return await self.agree("getEpochInfo", [{"commitment": "finalized"}], read, reached)

    async def get_latest_blockhash(self, commitment: Commitment = "confirmed") -> tuple[bytes, int]:
        """A blockhash to sign with (32 bytes), and the last block height at which it is accepted.

        Of several nodes' blockhashes, the newest that a quorum has reached and accepts: with one that a node made
        up, nothing would ever land.
        """

        def offer(value: Any) -> list[tuple[bytes, int]]:
            inner = replies.contextual(value)
            blockhash = replies.key(replies.field(inner, "blockhash"), "blockhash")
            height = replies.integer(replies.field(inner, "lastValidBlockHeight"), "lastValidBlockHeight")
            return [(blockhash, height)]

        def reached_first(values: Sequence[list[tuple[bytes, int]]], quorum: int) -> list[tuple[bytes, int]]:
            ordered = sorted((one for value in values for one in value), key=lambda one: one[1], reverse=True)
            return ordered[quorum - 1 :] + ordered[: quorum - 1]

        params = [{"commitment": commitment}]
        offered = await self.agree("getLatestBlockhash", params, offer, reached_first)
        for one in offered:
            if len(offered) == 1 or await self.is_blockhash_valid(one[0]) is not False:
                return one
        raise RpcDisagreement("getLatestBlockhash", self.quorum, [_base58(one[0]) for one in offered])

    async def is_blockhash_valid(self, blockhash: bytes, commitment: Commitment = "processed") -> bool | None:
        """Whether transactions signed with a blockhash (32 bytes) may still land; None if no node can tell."""
        params = [_base58(blockhash), {"commitment": commitment}]
        try:
            return await self.agree(
                "isBlockhashValid", params, lambda v: replies.boolean(replies.contextual(v))
            )
        except RpcError as error:
            if error.code == METHOD_NOT_FOUND:
                return None
            raise

    async def get_block_hash(self, slot: int, commitment: Commitment = "confirmed") -> bytes | None:
        """The blockhash (32 bytes) of the block in exactly this slot, or None if it is not there (yet)."""
        block = await self._block(slot, commitment)
        return None if block is None else block[0]

    async def _block(self, slot: int, commitment: Commitment) -> tuple[bytes, int] | None:
        """Blockhash and parent slot of the block in exactly this slot."""
        options = {
            "commitment": commitment,
            "transactionDetails": "none",
            "rewards": False,
            "maxSupportedTransactionVersion": 0,
        }

        def read(value: Any) -> tuple[bytes, int] | None:
            if value is None:
                return None
            return (
                replies.key(replies.field(value, "blockhash"), "blockhash"),
                replies.integer(replies.field(value, "parentSlot"), "parentSlot"),
            )

        try:
            return await self.agree("getBlock", [slot, options], read)
        except RpcError as error:
            if error.code in (BLOCK_NOT_AVAILABLE, SLOT_SKIPPED):
                return None
            raise

    async def get_block_time(self, slot: int) -> int | None:
        """When the block in exactly this slot was made, in unix seconds as one node says; None if it does not."""
        try:
            return await self.ask(
                "getBlockTime",
                [slot],
                lambda value: replies.optional(value, replies.signed_integer, "result"),
            )
        except RpcError as error:
            if error.code in (BLOCK_NOT_AVAILABLE, SLOT_SKIPPED):
                return None
            raise

    async def get_block(self, slot: int, commitment: Commitment = "confirmed") -> BlockRecord | None:
        """The block in exactly this slot with its transactions, or None if it is not there (yet)."""
        options = {
            "commitment": commitment,
            "encoding": "base64",
            "transactionDetails": "full",
            "rewards": False,
            "maxSupportedTransactionVersion": 0,
        }

        def read(value: Any) -> BlockRecord | None:
            return None if value is None else replies.block_record(value, slot)

        try:
            return await self.agree("getBlock", [slot, options], read)
        except RpcError as error:
            if error.code in (BLOCK_NOT_AVAILABLE, SLOT_SKIPPED):
                return None
            raise

    async def get_first_block(
        self, slot: int, commitment: Commitment = "confirmed"
    ) -> tuple[int, bytes] | None:
        """Slot and blockhash of the first block at or after `slot`, or None while there is none.

        A slot may have no block at all (its leader was away), so asking for exactly `slot` is not enough.

        Raises:
            BlockPruned: it was forgotten; the node names a later one instead.
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
        found = await self.agree("getBlocksWithLimit", params, read)
        if found is None:
            return None
        block = await self._block(found, commitment)
        if block is None:
            return None
        blockhash, parent = block
        # A node that forgot the block lists the oldest it has: then the block before is not before `slot`.
        if found > slot and parent >= slot:
            raise BlockPruned(self.url, slot, found)
        return found, blockhash

    # -- accounts

    async def get_balance(self, address: bytes, commitment: Commitment = "confirmed") -> int:
        """Roe held by an address; 0 if it has no account."""
        params = [_base58(address), {"commitment": commitment}]
        return await self.agree("getBalance", params, lambda v: replies.integer(replies.contextual(v)))

    async def get_account(self, address: bytes, commitment: Commitment = "confirmed") -> Account | None:
        """The account at an address, or None."""
        params = [_base58(address), _account_options(commitment)]
        return await self.agree(
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
            found += await self.agree("getMultipleAccounts", params, read)
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

        found = await self.agree("getProgramAccounts", [_base58(program), options], read)
        return tuple(sorted(found, key=lambda item: item[0]))

    async def get_minimum_balance_for_rent_exemption(self, size: int) -> int:
        """Roe an account with `size` bytes of data must hold to be kept."""
        return await self.agree("getMinimumBalanceForRentExemption", [size], replies.integer)

    async def get_recent_prioritization_fees(self, addresses: Sequence[bytes] = ()) -> tuple[int, ...]:
        """What recent blocks (at most 150) asked of transactions that write all these addresses.

        Each number is the least price, in micro-Roe a compute unit, that got in; oldest block first.
        """

        def read(value: Any) -> tuple[int, ...]:
            lines = replies.array(value, at_most=MAXIMUM_RECENT_BLOCKS)
            found = [
                (
                    replies.integer(replies.field(line, "slot"), "slot"),
                    replies.integer(replies.field(line, "prioritizationFee"), "prioritizationFee"),
                )
                for line in lines
            ]
            return tuple(fee for _, fee in sorted(found))

        params = [[_base58(address) for address in addresses]]
        return await self.ask("getRecentPrioritizationFees", params, read)

    async def request_airdrop(self, address: bytes, lamports: int) -> str:
        """Ask a test chain's faucet for Roe; returns the transaction's signature. Never tried twice."""
        params = [_base58(address), lamports]
        return await self.ask("requestAirdrop", params, replies.signature, retry=False)

    # -- transactions

    async def get_fee_for_message(self, message: bytes, commitment: Commitment = "confirmed") -> int | None:
        """Roe the chain would charge for a serialized message, or None if its blockhash has expired."""
        params = [base64.b64encode(message).decode(), {"commitment": commitment}]
        return await self.agree(
            "getFeeForMessage",
            params,
            lambda v: replies.optional(replies.contextual(v), replies.integer, "fee"),
        )

    async def send_transaction(
        self, wire: bytes, *, skip_preflight: bool = False, commitment: Commitment = "confirmed"
    ) -> str:
        """Hand a signed transaction to all nodes; returns its signature. Taken does not mean landed.

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

        return await self.tell("sendTransaction", [base64.b64encode(wire).decode(), options], read)

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
            told: list[SignatureStatus | None] = await self.agree(
                "getSignatureStatuses", params, read, replies.agreed_statuses
            )
            found += told
        return tuple(found)

    async def is_unknown(self, signature: str, slot: int, *, search_history: bool = True) -> bool:
        """Whether a quorum of the nodes that have come to `slot` do not know a transaction.

        The word of a node that is not there yet counts for nothing: it may not have seen what landed before.
        """

        def read(value: Any) -> bool:
            (status,) = replies.array(replies.contextual(value), length=1)
            at = replies.integer(replies.field(replies.field(value, "context"), "slot"), "context.slot")
            return replies.optional(status, replies.signature_status, "status") is None and at >= slot

        def enough(values: Sequence[bool], quorum: int) -> bool:
            return sum(values) >= quorum

        params = [[signature], {"searchTransactionHistory": search_history}]
        return await self.agree("getSignatureStatuses", params, read, enough)

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

        return await self.agree("getSignaturesForAddress", [_base58(address), options], read)

    async def get_address_history(
        self, address: bytes, *, until: str | None = None, limit: int, commitment: Commitment = "confirmed"
    ) -> tuple[SignatureInfo, ...]:
        """The newest `limit` transactions that name an address, newest first, page by page down to `until`.

        A node may give pages shorter than asked for, so only an empty one is the last.

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
            if not page:
                break
            names = {line.signature for line in page}
            if len(names) < len(page) or names & seen:
                self.reject("getSignaturesForAddress", "A page repeats a transaction")
            seen |= names
            found += page
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

        return await self.agree("getTransaction", [signature, options], read)

    async def send_and_confirm(
        self,
        wire: bytes,
        *,
        commitment: Commitment = "confirmed",
        last_valid_block_height: int | None = None,
    ) -> ConfirmedTransaction:
        """Send a signed transaction, again where needed, until it is settled at `commitment` or can never be.

        `last_valid_block_height` is what `get_latest_blockhash` gave with the blockhash; without it, expiry
        is noticed up to 150 blocks late. A node's WebSocket, where there is one, says when to look.
        Takes at most `limits.confirmation_seconds`. Safe to call again with the same bytes, also after a
        crash.

        Raises:
            TransactionFailed: refused or failed; the error, the program's log and the signature are in it.
            TransactionExpired: it never landed and never will.
            TransactionUnconfirmed: time ran out, fate unknown. Nodes that are away, behind or answer nonsense
            are asked again until then; once a node may have the transaction, also those that refuse.
            RpcError: the nodes refused the call itself, and none can have the transaction.
        """
        return await send_and_confirm(
            self,
            wire,
            commitment=commitment,
            last_valid_block_height=last_valid_block_height,
            seconds=self._limits.confirmation_seconds,
        )


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
