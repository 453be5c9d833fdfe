"""Admin methods: faults of a running local K2, for tests and for the command line.

They are refused unless the local K2 was started with `allow_faults`, to callers that are not on this machine,
and to pages in a browser. A chain for development has no secrets, but a page should not be able to break it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any, Final

from koii_p2p.errors import ConfigurationError
from koii_p2p.localk2.faults import Faults
from koii_p2p.localk2.params import Params, RpcFailure, invalid
from koii_p2p.localk2.rpc_node import RpcNode

ADMIN_REFUSED: Final = -32050

_HIGHEST_ROLL_BACK: Final = 1000


def _set_faults(node: RpcNode, params: Params) -> Any:
    node.set_faults(node.switches.now.changed(params.get(0)))
    return _get_faults(node, params)


def _clear_faults(node: RpcNode, params: Params) -> Any:
    node.set_faults(Faults())
    return _get_faults(node, params)


def _get_faults(node: RpcNode, params: Params) -> Any:
    return {"faults": node.switches.now.as_json(), "statistics": asdict(node.switches.statistics())}


def _roll_back(node: RpcNode, params: Params) -> Any:
    slots = params.integer(0, at_most=_HIGHEST_ROLL_BACK)
    share = params.options(1).number("landAgain", default=0.0, at_most=1.0)
    undone, again = node.roll_back(slots, share)
    return {"slot": node.ledger.slot_at("confirmed"), "undone": undone, "landedAgain": again}


def _prune_history(node: RpcNode, params: Params) -> Any:
    return {"firstSlot": node.ledger.prune(params.integer(0, at_most=2**63 - 1))}


METHODS: Final[Mapping[str, Callable[[RpcNode, Params], Any]]] = {
    "setFaults": _set_faults,
    "clearFaults": _clear_faults,
    "getFaults": _get_faults,
    "rollBack": _roll_back,
    "pruneHistory": _prune_history,
}


def answer(node: RpcNode, name: str, params: Params) -> Any:
    """The result of an admin method. Its caller has been found fit."""
    try:
        return METHODS[name](node, params)
    except ConfigurationError as error:
        raise invalid(f"{error.what} {error.why} {error.remedy}") from error


def refused(why: str) -> RpcFailure:
    """The error for a caller who may not use these methods."""
    return RpcFailure(ADMIN_REFUSED, f"Admin methods are refused: {why}")
