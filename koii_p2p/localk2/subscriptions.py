"""WebSocket subscriptions: who asked to hear of what, and what each hears when a slot is sealed.

Notices are sent when a slot is sealed (`processed` and `confirmed`) or `finality` slots later
(`finalized`). A reader that falls behind by more than `limits.localk2_notices` is cut off: it must not hold
up the chain or its memory.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import structlog
import trio
from solders.pubkey import Pubkey

from koii_p2p.limits import Limits
from koii_p2p.localk2.ledger import Ledger
from koii_p2p.localk2.methods_accounts import Filter, program_filters
from koii_p2p.localk2.params import (
    INVALID_REQUEST,
    METHOD_NOT_FOUND,
    Options,
    Params,
    RpcFailure,
    invalid,
    key_of,
)
from koii_p2p.localk2.rpc import NO_CALLER, JsonObject, LocalRpc, error_reply, params_of
from koii_p2p.localk2.shapes import account_json, contextual
from koii_p2p.localk2.store import SealedSlot, StoredTransaction
from koii_p2p.localk2.transactions import LandedTransaction, signature_text
from koii_p2p.settlement.rpc_replies import COMMITMENT_RANK, Commitment

KINDS: Final = frozenset({"slot", "root", "signature", "account", "program", "logs"})
_SUBSCRIBE: Final = "Subscribe"
_UNSUBSCRIBE: Final = "Unsubscribe"

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class SubscriptionStatistics:
    """Open sockets and subscriptions; notices sent; sockets cut off for not reading; notices that failed."""

    sockets: int
    subscriptions: int
    notices: int
    cut_off: int
    failed: int


@dataclass(eq=False, slots=True)
class Socket:
    """One WebSocket: where its notices go, and how to end it."""

    outgoing: trio.MemorySendChannel[JsonObject]
    cut: Callable[[], None]
    subscriptions: set[int] = field(default_factory=set)


@dataclass(eq=False, slots=True)
class Subscription:
    """One wish: its kind, the commitment at which it hears, and what it is about."""

    id: int
    socket: Socket
    kind: str
    commitment: Commitment
    options: Options
    key: Pubkey | None = None
    signature: bytes = b""
    filters: list[Filter] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Line:
    """What a logs subscriber hears of one transaction."""

    signature: bytes
    keys: frozenset[Pubkey]
    err: Any
    logs: list[str]


class Subscriptions:
    """All subscriptions of one ledger. Synchronous; the server's tasks call it."""

    def __init__(self, ledger: Ledger, rpc: LocalRpc, limits: Limits) -> None:
        self._ledger = ledger
        self._rpc = rpc
        self._limits = limits
        self._sockets: set[Socket] = set()
        self._subscriptions: dict[int, Subscription] = {}
        self._last_id = 0
        self._counts = {"notices": 0, "cut_off": 0, "failed": 0}
        self._root = ledger.slot_at("finalized")
        ledger.listeners.append(self._slot_sealed)

    def statistics(self) -> SubscriptionStatistics:
        """Counts since the server started."""
        return SubscriptionStatistics(len(self._sockets), len(self._subscriptions), **self._counts)

    def connect(self, socket: Socket) -> bool:
        """Take a socket in; False if there are too many."""
        if len(self._sockets) >= self._limits.localk2_connections:
            return False
        self._sockets.add(socket)
        return True

    def disconnect(self, socket: Socket) -> None:
        """Forget a socket and all it subscribed to."""
        self._sockets.discard(socket)
        for name in socket.subscriptions:
            self._subscriptions.pop(name, None)

    def answer(self, socket: Socket, request: Any, *, stranger: str | None = NO_CALLER) -> JsonObject:
        """The reply to a call on a WebSocket: a subscription, or any other method."""
        name = request.get("method") if isinstance(request, dict) else None
        if not isinstance(name, str) or not name.endswith((_SUBSCRIBE, _UNSUBSCRIBE)):
            return self._rpc.answer(request, stranger=stranger)
        try:
            params = Params(params_of(request))
            result: Any
            if name.endswith(_UNSUBSCRIBE):
                result = self._unsubscribe(socket, params)
            else:
                result = self._subscribe(socket, name.removesuffix(_SUBSCRIBE), params)
        except RpcFailure as failure:
            return error_reply(request.get("id"), failure)
        return {"jsonrpc": "2.0", "result": result, "id": request.get("id")}

    def after_answer(self) -> None:
        """Tell signature subscribers what already happened, once they have their subscription's number."""
        for one in list(self._subscriptions.values()):
            if one.kind == "signature":
                self._check_signature(one)

    def _subscribe(self, socket: Socket, kind: str, params: Params) -> int:
        if kind not in KINDS:
            raise RpcFailure(METHOD_NOT_FOUND, "Method not found")
        if len(socket.subscriptions) >= self._limits.localk2_subscriptions:
            most = self._limits.localk2_subscriptions
            raise RpcFailure(INVALID_REQUEST, f"A socket has at most {most} subscriptions")
        options = params.options(1)
        self._last_id += 1
        one = Subscription(self._last_id, socket, kind, options.commitment, options)
        if kind in ("account", "program"):
            one.key = params.key(0)
            one.filters = program_filters(options)
            account_json(None, options)
        elif kind == "signature":
            one.signature = params.signature(0)
        elif kind == "logs":
            one.key = _mentioned(params.get(0))
        self._subscriptions[one.id] = one
        socket.subscriptions.add(one.id)
        return one.id

    def _unsubscribe(self, socket: Socket, params: Params) -> bool:
        name = params.integer(0)
        if name not in socket.subscriptions:
            raise invalid("Invalid subscription id")
        self._end(self._subscriptions[name])
        return True

    def _end(self, one: Subscription) -> None:
        self._subscriptions.pop(one.id, None)
        one.socket.subscriptions.discard(one.id)

    # -- what happens

    def _slot_sealed(self, sealed: SealedSlot, landed: list[LandedTransaction]) -> None:
        if not self._subscriptions:
            self._root = self._ledger.slot_at("finalized")
            return
        root, self._root = self._root, self._ledger.slot_at("finalized")
        finalized = self._root if self._root > root else None
        heard = {
            "confirmed": (sealed.slot, [_line_of_landed(one) for one in landed]),
            "finalized": (finalized, self._lines_of(finalized)),
        }
        for one in list(self._subscriptions.values()):
            slot, lines = heard["finalized" if one.commitment == "finalized" else "confirmed"]
            try:
                self._tell(one, sealed.slot, slot, lines)
            except RpcFailure as failure:
                self._counts["failed"] += 1
                _log.warning("local_k2_notice_failed", kind=one.kind, why=failure.message)

    def _tell(self, one: Subscription, sealed: int, changed_in: int | None, lines: list[_Line]) -> None:
        match one.kind:
            case "slot":
                self._notify(one, {"parent": sealed, "root": self._root, "slot": sealed + 1})
            case "signature":
                self._check_signature(one)
            case "root" if self._root == changed_in or one.commitment != "finalized":
                self._notify(one, self._root)
            case "logs":
                for line in lines:
                    if one.key is None or one.key in line.keys:
                        value = {
                            "signature": signature_text(line.signature),
                            "err": line.err,
                            "logs": line.logs,
                        }
                        self._notify(one, contextual(self._ledger, value, one.commitment))
            case "account" | "program" if changed_in is not None:
                self._tell_changes(one, changed_in)

    def _tell_changes(self, one: Subscription, slot: int) -> None:
        level: Commitment = "finalized" if one.commitment == "finalized" else "confirmed"
        changed = self._ledger.keys_changed_in(slot)
        if one.kind == "account":
            if one.key in changed:
                account = self._ledger.account(one.key, level)
                self._notify(one, contextual(self._ledger, account_json(account, one.options), level))
            return
        for key in sorted(changed, key=bytes):
            account = self._ledger.account(key, level)
            if account is None or account.owner != one.key:
                continue
            if all(test(bytes(account.data)) for test in one.filters):
                value = {"pubkey": str(key), "account": account_json(account, one.options)}
                self._notify(one, contextual(self._ledger, value, level))

    def _check_signature(self, one: Subscription) -> None:
        status = self._ledger.status(one.signature)
        if status is None:
            return
        reached = self._ledger.commitment_of(status.slot)
        if COMMITMENT_RANK[reached] >= COMMITMENT_RANK[one.commitment]:
            self._notify(one, contextual(self._ledger, {"err": status.err}, one.commitment))
            self._end(one)

    def _lines_of(self, slot: int | None) -> list[_Line]:
        wanted = any(
            one.kind == "logs" and one.commitment == "finalized" for one in self._subscriptions.values()
        )
        if slot is None or not wanted:
            return []
        return [_line_of_stored(one) for one in self._ledger.store.transactions_of(slot)]

    def _notify(self, one: Subscription, result: Any) -> None:
        notice = {
            "jsonrpc": "2.0",
            "method": f"{one.kind}Notification",
            "params": {"result": result, "subscription": one.id},
        }
        try:
            one.socket.outgoing.send_nowait(notice)
        except trio.WouldBlock:
            self._counts["cut_off"] += 1
            _log.warning("local_k2_slow_reader_cut_off", waiting=self._limits.localk2_notices)
            self.disconnect(one.socket)
            one.socket.cut()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self.disconnect(one.socket)
        else:
            self._counts["notices"] += 1


def _mentioned(value: Any) -> Pubkey | None:
    """The address a logs subscriber wants, or None for all transactions."""
    if value in ("all", "allWithVotes"):
        return None
    mentions = value.get("mentions") if isinstance(value, dict) else None
    if not isinstance(mentions, list) or len(mentions) != 1:
        raise invalid('logsSubscribe takes "all" or {"mentions": [one address]}')
    return key_of(mentions[0])


def _line_of_landed(one: LandedTransaction) -> _Line:
    return _Line(one.signature, frozenset(Pubkey(key) for key in one.keys), one.err, one.meta["logMessages"])


def _line_of_stored(one: StoredTransaction) -> _Line:
    keys = frozenset(Pubkey(key) for key in one.named_keys())
    return _Line(one.signature, keys, one.meta["err"], one.meta["logMessages"])
