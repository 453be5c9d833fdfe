"""Sending a transaction until its fate is known: landed, failed, expired for good, or not known in time.

A signature in the chain's eyes is a name: the same bytes may be sent any number of times and execute at most
once. So the loop here is: send, ask for the status, send again now and then, until the status is settled
enough or the blockhash has expired (then the transaction can never land, and signing a new one is safe).

A node's WebSocket only says when to ask: its notice is never taken for the status itself, and where there is
none, or it breaks, asking goes on as before, only more often.

When a transaction counts as expired: the finalized block height is beyond the last at which its blockhash is
accepted, the nodes no longer accept the blockhash, and a quorum of nodes that have come as far do not know the
transaction. Less is not enough. A blockhash that a node does not know may be new to a node that is behind, the same
node may not have seen yet what landed, and a block that is not finalized may be rolled back, after which the same
transaction lands again; whoever signs anew then pays twice.

When it counts as refused: no node has it, or may have it because its answer was lost. What one node holds can land
until it expires, whatever another node, or the same one later, thinks of it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import structlog
import trio
from solders.transaction import VersionedTransaction

from koii_p2p.errors import ChainError
from koii_p2p.settlement.jsonrpc import (
    HISTORY_NOT_AVAILABLE,
    INTERNAL_ERROR,
    PREFLIGHT_REFUSED,
    SIGNATURE_REFUSED,
    TRY_ELSEWHERE,
    RpcError,
    RpcProtocolError,
    RpcUnreachable,
)
from koii_p2p.settlement.rpc_nodes import RpcDisagreement
from koii_p2p.settlement.rpc_replies import Commitment, SignatureStatus, transaction_signature
from koii_p2p.settlement.websocket import WebSocketUnusable, wait_for_signature

if TYPE_CHECKING:
    from koii_p2p.settlement.rpc import RpcClient

_log = structlog.get_logger(__name__)

BLOCKHASH_BLOCKS = 150  # a blockhash is accepted in this many blocks after its own
_STATUS_BLOCKS = 300  # a node without history still knows what landed in so many (Solana's status cache)
_FIRST_POLL = 0.05
_LONGEST_POLL = 0.5
_LONGEST_POLL_IN_TROUBLE = 2.0  # who is told that it asks too much, or by nobody anything, asks less
_POLL_WHILE_LISTENING = 2.0
_RESEND_SECONDS = 2.0
_RESEND_SOON_SECONDS = 0.5
_SHOWN_LOGS = 3


@dataclass(frozen=True, slots=True)
class ConfirmedTransaction:
    """A transaction that landed and succeeded. `fee` is in Roe; None if the node would not tell."""

    signature: str
    slot: int
    fee: int | None


class TransactionFailed(ChainError):
    """The chain refused or failed the transaction: its error (the node's JSON) and the program's log.

    `slot` is where it landed (its fee was taken), or None if it was refused before it could land.
    """

    def __init__(self, err: Any, logs: Sequence[str], signature: str, slot: int | None = None) -> None:
        shown = "; ".join(logs[-_SHOWN_LOGS:]) or "the program left no log"
        super().__init__(
            f"K2 refused transaction {signature}: {_error_text(err)}.",
            f"{shown}.",
            "Nothing was changed"
            + (" but the fee was taken." if slot is not None else " and no fee was taken."),
        )
        self.err = err
        self.logs = tuple(logs)
        self.signature = signature
        self.slot = slot

    @property
    def custom_code(self) -> int | None:
        """The program's own error number, if that is what failed."""
        match self.err:
            case {"InstructionError": [int(), {"Custom": int(code)}]}:
                return code
        return None


class TransactionExpired(ChainError):
    """The blockhash ran out before the transaction landed: it never will. Signing a new one is safe."""

    def __init__(self, signature: str) -> None:
        super().__init__(
            f"Transaction {signature} was not taken into a block in time.",
            "Its blockhash has expired, so it can never land.",
            "Send it again; a new blockhash is signed.",
        )
        self.signature = signature


class TransactionUnconfirmed(ChainError):
    """Time ran out and it is not known whether the transaction landed. Look it up before signing another."""

    def __init__(self, signature: str, seconds: float, last_trouble: str = "") -> None:
        trouble = f" The last trouble: {last_trouble}" if last_trouble else ""
        super().__init__(
            f"It is not known whether transaction {signature} landed.",
            f"K2 gave no settled answer within {seconds:g} seconds.{trouble}",
            "Look the signature up when K2 answers again, before sending another.",
        )
        self.signature = signature


async def send_and_confirm(
    client: RpcClient,
    wire: bytes,
    *,
    commitment: Commitment,
    last_valid_block_height: int | None,
    seconds: float,
) -> ConfirmedTransaction:
    """See `RpcClient.send_and_confirm`."""
    signature = transaction_signature(wire)
    attempt = _Attempt(client, wire, signature, commitment, last_valid_block_height)
    with trio.move_on_after(seconds):
        return await attempt.run()
    raise TransactionUnconfirmed(signature, seconds, attempt.last_trouble)


class _Attempt:
    """The state of one `send_and_confirm`."""

    def __init__(
        self, client: RpcClient, wire: bytes, signature: str, commitment: Commitment, expiry: int | None
    ) -> None:
        self._client = client
        self._wire = wire
        self._signature = signature
        self._commitment = commitment
        self._expiry = expiry
        self._next_send = trio.current_time()
        self.last_trouble = ""
        self._may_land = False
        self._listening = False
        self._heard = trio.Event()

    async def run(self) -> ConfirmedTransaction:
        """Send and ask until the fate is known, with an ear on the node's WebSocket."""
        outcome: ConfirmedTransaction | ChainError
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._listen)
            try:
                outcome = await self._ask_until_settled()
            except ChainError as error:
                outcome = error  # raised below, where no exception group hides it
            nursery.cancel_scope.cancel()
        if isinstance(outcome, ChainError):
            raise outcome
        return outcome

    async def _listen(self) -> None:
        """Wake the asking when a node says that the transaction has settled."""

        def subscribed() -> None:
            self._listening = True

        for url in self._client.socket_urls():
            try:
                await wait_for_signature(url, self._signature, self._commitment, subscribed)
                self._heard.set()
            except WebSocketUnusable as error:
                _log.debug("confirmation_without_websocket", signature=self._signature, why=str(error))
                self._client.socket_failed(url)
            self._listening = False

    async def _ask_until_settled(self) -> ConfirmedTransaction:
        pause = _FIRST_POLL
        while True:
            longest = _LONGEST_POLL
            try:
                status = await self._step()
            except (RpcUnreachable, RpcProtocolError, RpcDisagreement) as error:
                # A node may be restarting or lying; what was sent may have landed. Ask until time is up.
                self._troubled(error)
                status, longest = None, _LONGEST_POLL_IN_TROUBLE
            except RpcError as error:
                if error.code not in TRY_ELSEWHERE and not self._may_land:
                    raise
                self._troubled(error)
                status, longest = None, _LONGEST_POLL_IN_TROUBLE
            if status is not None and status.reached(self._commitment):
                return await self._landed(status)
            with trio.move_on_after(_POLL_WHILE_LISTENING if self._listening else pause):
                await self._heard.wait()
                self._heard = trio.Event()
            pause = min(pause * 2, longest)

    def _troubled(self, error: ChainError) -> None:
        self.last_trouble = error.why
        _log.warning("confirmation_waits_for_k2", signature=self._signature, why=error.why)

    async def _step(self) -> SignatureStatus | None:
        if trio.current_time() >= self._next_send:
            self._next_send = trio.current_time() + _RESEND_SECONDS
            expired_at = await self._expired_at()
            if expired_at is None:
                await self._send()
            elif await self._never_landed(*expired_at):
                raise TransactionExpired(self._signature)
            else:
                return await self._status(search_history=True)
        return await self._status()

    async def _expired_at(self) -> tuple[int, int] | None:
        """Finalized height and slot at which no block can take the transaction any more, or None."""
        if self._expiry is None:
            # Not told when the blockhash expires: it is at least as old as the newest block, so this is late
            # enough.
            self._expiry = await self._client.get_block_height("processed") + BLOCKHASH_BLOCKS
            return None
        height, slot = await self._client.get_finalized()
        if height <= self._expiry:
            return None
        blockhash = _blockhash(self._wire)
        if blockhash is not None and await self._client.is_blockhash_valid(blockhash):
            return None
        return height, slot

    async def _never_landed(self, height: int, slot: int) -> bool:
        """Whether the transaction is in no block up to a finalized one, in none of which it can be missed."""
        try:
            return await self._client.is_unknown(self._signature, slot)
        except RpcError as error:
            if error.code != HISTORY_NOT_AVAILABLE or self._expiry is None:
                raise
            first = self._expiry - BLOCKHASH_BLOCKS
            kept = height < first + _STATUS_BLOCKS
            return kept and await self._client.is_unknown(self._signature, slot, search_history=False)

    async def _status(self, *, search_history: bool = False) -> SignatureStatus | None:
        try:
            (status,) = await self._client.get_signature_statuses(
                [self._signature], search_history=search_history
            )
        except RpcError as error:
            if error.code != HISTORY_NOT_AVAILABLE or not search_history:
                raise
            return await self._status()
        return status

    async def _send(self) -> None:
        try:
            await self._client.send_transaction(self._wire, commitment=self._commitment)
            self._may_land = True
        except RpcProtocolError:
            self._may_land = True  # the answer is worth nothing; the transaction may be under way
            raise
        except RpcUnreachable as error:
            self._may_land |= error.may_be_done
            raise
        except RpcError as error:
            self._may_land |= error.may_be_done or error.code == INTERNAL_ERROR
            if error.code in TRY_ELSEWHERE:
                _log.info("send_postponed", signature=self._signature, code=error.code, why=error.message)
            elif error.code == PREFLIGHT_REFUSED:
                await self._refused(error)
            elif self._may_land:
                self._troubled(error)
            elif error.code == SIGNATURE_REFUSED:
                raise TransactionFailed("SignatureFailure", (), self._signature) from error
            else:
                raise

    async def _refused(self, error: RpcError) -> None:
        """Preflight said no. Fatal unless the transaction is already there, may come, or the node is merely behind."""
        if await self._status(search_history=True) is not None:
            return
        data = error.data if isinstance(error.data, dict) else {}
        err = data.get("err", error.message)
        if err == "AlreadyProcessed" or (not data and "already been processed" in error.message):
            return
        if err == "BlockhashNotFound" or (not data and "lockhash not found" in error.message):
            self._next_send = trio.current_time() + _RESEND_SOON_SECONDS
            return
        if self._may_land:
            self._troubled(error)
            return
        raise TransactionFailed(err, _log_lines(data.get("logs")), self._signature) from error

    async def _landed(self, status: SignatureStatus) -> ConfirmedTransaction:
        record = None
        try:
            record = await self._client.get_transaction(self._signature)
        except ChainError as error:
            _log.info("fee_not_known", signature=self._signature, why=error.why)
        if status.err is not None:
            logs = record.logs if record is not None else ()
            raise TransactionFailed(status.err, logs, self._signature, status.slot)
        return ConfirmedTransaction(self._signature, status.slot, record.fee if record is not None else None)


def _blockhash(wire: bytes) -> bytes | None:
    """The blockhash that a transaction was signed with; None if the bytes do not decode."""
    try:
        return bytes(VersionedTransaction.from_bytes(wire).message.recent_blockhash)
    except ValueError:
        return None


def _log_lines(value: Any) -> tuple[str, ...]:
    return tuple(line for line in value if isinstance(line, str)) if isinstance(value, list) else ()


def _error_text(err: Any) -> str:
    match err:
        case {"InstructionError": [int(index), {"Custom": int(code)}]}:
            return f"instruction {index} failed with the program's error {code:#x}"
        case {"InstructionError": [int(index), str(name)]}:
            return f"instruction {index} failed with {name}"
        case str(name):
            return name
    return json.dumps(err)[:200]
