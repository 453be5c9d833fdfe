"""JSON-RPC 2.0 over the ledger: requests and batches in, replies out. No sockets here.

Every call of every transport passes `LocalRpc.answer`. What faults do to whole requests (lost, late, over the
rate, answered wrongly) is done by the transports, who can see a request as a whole.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import structlog

from koii_p2p.errors import ChainError
from koii_p2p.limits import Limits
from koii_p2p.localk2 import (
    methods_accounts,
    methods_admin,
    methods_chain,
    methods_tasks,
    methods_transactions,
)
from koii_p2p.localk2.methods_chain import Method
from koii_p2p.localk2.params import (
    INTERNAL_ERROR,
    INVALID_REQUEST,
    METHOD_NOT_FOUND,
    PARSE_ERROR,
    Params,
    RpcFailure,
    invalid,
)
from koii_p2p.localk2.rpc_node import RpcNode

_log = structlog.get_logger(__name__)

METHODS: Final[Mapping[str, Method]] = {
    **methods_chain.METHODS,
    **methods_accounts.METHODS,
    **methods_transactions.METHODS,
    **methods_tasks.METHODS,
}

JsonObject = dict[str, Any]

NO_CALLER: Final = "their caller is not known"


@dataclass(frozen=True, slots=True)
class RpcServerStatistics:
    """Calls answered, those answered with an error, and those that met a bug in a method."""

    calls: int
    failed: int
    internal_errors: int


class LocalRpc:
    """The methods of one node. `admin` says whether the admin methods are there at all."""

    def __init__(self, node: RpcNode, limits: Limits, *, admin: bool = False) -> None:
        self.node = node
        self._admin = admin
        self._limits = limits
        self._counts = {"calls": 0, "failed": 0, "internal_errors": 0}

    def statistics(self) -> RpcServerStatistics:
        """Counts since the server started."""
        return RpcServerStatistics(**self._counts)

    def answer_text(self, body: bytes | str) -> JsonObject | list[JsonObject]:
        """The reply to the body of a request: one call or a batch."""
        requests = self.parse(body)
        if isinstance(requests, RpcFailure):
            return error_reply(None, requests)
        return self.answer_all(requests)

    def answer_all(
        self, requests: Requests, *, stranger: str | None = NO_CALLER
    ) -> JsonObject | list[JsonObject]:
        """The reply to one call or a batch."""
        replies = [self.answer(request, stranger=stranger) for request in requests.calls]
        return replies if requests.batch else replies[0]

    def parse(self, body: bytes | str) -> Requests | RpcFailure:
        """The calls in a body, or why there are none."""
        try:
            value = json.loads(body)
        except (ValueError, RecursionError):
            return RpcFailure(PARSE_ERROR, "Parse error")
        if not isinstance(value, list):
            return Requests((value,), batch=False)
        if not value:
            return RpcFailure(INVALID_REQUEST, "Invalid request: an empty batch")
        if len(value) > self._limits.rpc_batch:
            return RpcFailure(
                INVALID_REQUEST, f"Invalid request: a batch has at most {self._limits.rpc_batch} calls"
            )
        return Requests(tuple(value), batch=True)

    def answer(self, request: Any, *, stranger: str | None = NO_CALLER) -> JsonObject:
        """The reply to one call; `stranger` says why its caller may not use admin methods, if that is so."""
        self._counts["calls"] += 1
        request_id = request.get("id") if isinstance(request, dict) else None
        try:
            return {"jsonrpc": "2.0", "result": self._result(request, stranger), "id": request_id}
        except RpcFailure as failure:
            self._counts["failed"] += 1
            return error_reply(request_id, failure)
        except ChainError as error:
            self._counts["failed"] += 1
            return error_reply(request_id, RpcFailure(INTERNAL_ERROR, str(error)))
        except Exception as error:  # noqa: BLE001 - a bug in one method must not end the chain
            self._counts["internal_errors"] += 1
            _log.exception("local_k2_method_failed", method=request.get("method"))
            return error_reply(
                request_id, RpcFailure(INTERNAL_ERROR, f"Internal error: {type(error).__name__}")
            )

    def _result(self, request: Any, stranger: str | None) -> Any:
        if not isinstance(request, dict) or request.get("jsonrpc") != "2.0":
            raise RpcFailure(INVALID_REQUEST, "Invalid request")
        name = request.get("method")
        if not isinstance(name, str):
            raise RpcFailure(INVALID_REQUEST, "Invalid request: no method")
        params = Params(params_of(request))
        if name in methods_admin.METHODS:
            if not self._admin:
                raise methods_admin.refused("this K2 was started without --allow-faults")
            if stranger is not None:
                raise methods_admin.refused(stranger)
            return methods_admin.answer(self.node, name, params)
        method = METHODS.get(name)
        if method is None:
            raise RpcFailure(METHOD_NOT_FOUND, "Method not found")
        return method(self.node, params)


@dataclass(frozen=True, slots=True)
class Requests:
    """The calls in one body, and whether their replies go back as a list."""

    calls: tuple[Any, ...]
    batch: bool

    def only_admin(self) -> bool:
        """Whether this is one call of an admin method: it passes whatever fault is on."""
        call = self.calls[0]
        return not self.batch and isinstance(call, dict) and call.get("method") in methods_admin.METHODS


def params_of(request: JsonObject) -> list[Any]:
    """The positional parameters of a call."""
    values = request.get("params")
    if values is None:
        return []
    if not isinstance(values, list):
        raise invalid("expected an array")
    return values


def error_reply(request_id: Any, failure: RpcFailure) -> JsonObject:
    """A JSON-RPC error object."""
    error: JsonObject = {"code": failure.code, "message": failure.message}
    if failure.data is not None:
        error["data"] = failure.data
    return {"jsonrpc": "2.0", "error": error, "id": request_id}
