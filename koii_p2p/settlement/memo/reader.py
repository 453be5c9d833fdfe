"""Reading a memo task: every transaction that names it, page by page, each verified, then folded into one chain.

The node that answers is not trusted with what a transaction says: its signatures are verified over its bytes. It is
trusted with which transactions there are and in what order, as far as the links in them do not contradict it.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import structlog
import trio
from solders.transaction import VersionedTransaction

from koii_p2p.errors import ChainError
from koii_p2p.settlement.history import Fetched, LaterVersion, fetch_transactions, is_genuine
from koii_p2p.settlement.memo.chain import Entry, MemoChain, fold
from koii_p2p.settlement.memo.genesis import Genesis
from koii_p2p.settlement.memo.records import may_hold_record, records_in
from koii_p2p.settlement.rpc import RpcClient, SignatureInfo

_log = structlog.get_logger(__name__)


class HistoryIncomplete(ChainError):
    """The node does not have, or does not show, all of a task's memos: what they say cannot be told from it."""

    def __init__(self, why: str) -> None:
        super().__init__(
            "The memo task's history cannot be read.",
            why,
            "Ask a K2 node that keeps the whole history; see docs/carriers.md.",
        )


@dataclass(frozen=True, slots=True)
class MemoHistory:
    """A task's transactions, oldest first, and the chain in them."""

    lines: tuple[SignatureInfo, ...]
    chain: MemoChain


class MemoReader:
    """Reads one task again and again: what is finalized is listed once, and what was verified is not fetched again.

    Keeps one line for every transaction that names the task, spam included, and its records; `limit` bounds both.
    """

    def __init__(self, rpc: RpcClient, genesis: Genesis, *, limit: int) -> None:
        self._rpc = rpc
        self._genesis = genesis
        self._limit = limit
        self._final: tuple[SignatureInfo, ...] = ()
        self._entries: dict[str, tuple[Entry, ...]] = {}
        self._last = MemoHistory((), MemoChain(genesis))
        self._turn = trio.Lock()

    async def read(self) -> MemoHistory:
        """The history as the node has it now. Raises `HistoryIncomplete`, or another `ChainError`."""
        async with self._turn:
            # Asked first, so that whatever was finalized then is in the list that follows.
            finalized = await self._rpc.get_slot("finalized")
            lines = await self._list()
            if lines != self._last.lines:
                await self._fetch(
                    [line for line in lines if _is_wanted(line) and line.signature not in self._entries]
                )
                self._last = MemoHistory(lines, self._fold(lines))
            self._final = tuple(line for line in lines if line.slot <= finalized)
            return self._last

    async def _list(self) -> tuple[SignatureInfo, ...]:
        newest_first = await self._rpc.get_address_history(
            self._genesis.terms.task,
            until=self._final[-1].signature if self._final else None,
            limit=self._limit + 1 - len(self._final),
        )
        known = {line.signature for line in self._final}
        if any(line.signature in known for line in newest_first):
            self._rpc.reject("getSignaturesForAddress", "A page repeats a transaction")
        lines = self._final + newest_first[::-1]
        if len(lines) > self._limit:
            raise HistoryIncomplete(
                f"More than {self._limit} transactions name it, and its first records are the oldest of them."
            )
        if any(first.slot > second.slot for first, second in pairwise(lines)):
            self._rpc.reject(
                "getSignaturesForAddress", "The transactions are not in the order of their slots"
            )
        return lines

    async def _fetch(self, lines: list[SignatureInfo]) -> None:
        # What was read stays read, also if the node fails before the last one.
        def take(line: SignatureInfo, record: Fetched) -> None:
            self._entries[line.signature] = read_entries(line, record, self._genesis.terms.task)

        await fetch_transactions(self._rpc, lines, take)

    def _fold(self, lines: tuple[SignatureInfo, ...]) -> MemoChain:
        wanted = [line.signature for line in lines if _is_wanted(line)]
        chain = fold(self._genesis, (entry for name in wanted for entry in self._entries[name]))
        doubted = chain.doubted_by
        if 2 * doubted > self._genesis.total_stake:
            raise HistoryIncomplete(
                f"Stakers with {doubted} of {self._genesis.total_stake} Roe follow records which this K2 node "
                "does not show."
            )
        if doubted:
            _log.warning("memo_follows_unknown_head", stake=doubted, of=self._genesis.total_stake)
        return chain


def read_entries(line: SignatureInfo, record: Fetched, task: bytes) -> tuple[Entry, ...]:
    """The task's records in one transaction that succeeded.

    Records count in legacy and version 0 transactions only, or one of a later version, which nobody here can read,
    would stop every reader. Raises `HistoryIncomplete` if the node contradicts itself about it: which record came
    first could not be told.
    """
    if record is LaterVersion.LATER_VERSION:
        return ()
    if record is None:
        raise HistoryIncomplete(f"The K2 node lists transaction {line.signature} but does not have it.")
    if record.slot != line.slot or record.err is not None:
        raise HistoryIncomplete(f"The K2 node contradicts its own list about transaction {line.signature}.")
    try:
        transaction = VersionedTransaction.from_bytes(record.wire)
    except ValueError as error:
        raise HistoryIncomplete(f"Transaction {line.signature} cannot be read: {error}.") from error
    if not is_genuine(transaction, record.wire, line.signature):
        raise HistoryIncomplete(f"Transaction {line.signature} was changed: a signature does not verify.")
    return tuple(
        Entry(line.slot, line.signature, author, found, record.fee)
        for author, found in records_in(transaction, task)
    )


def _is_wanted(line: SignatureInfo) -> bool:
    return line.err is None and may_hold_record(line.memo)
