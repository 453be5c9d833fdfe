"""JSON-RPC methods about the node, its slots and its blocks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from solders.hash import Hash, ParseHashError

from koii_p2p.localk2.bank import SLOTS_PER_EPOCH
from koii_p2p.localk2.params import (
    BLOCK_CLEANED_UP,
    BLOCK_NOT_AVAILABLE,
    MINIMUM_CONTEXT_SLOT,
    SLOT_SKIPPED,
    Options,
    Params,
    RpcFailure,
    invalid,
    key_of,
)
from koii_p2p.localk2.rpc_node import RpcNode
from koii_p2p.localk2.shapes import API_VERSION, contextual, transaction_json
from koii_p2p.localk2.store import SealedSlot
from koii_p2p.localk2.transactions import signature_text

Method = Callable[[RpcNode, Params], Any]

_ACCOUNTS_PER_CALL: Final = 128
_BLOCKS_PER_CALL: Final = 500_000
_DETAILS: Final = frozenset({"full", "signatures", "none"})


def require_context_slot(node: RpcNode, options: Options) -> None:
    """Refuse if the caller wants a state newer than the commitment it names can give."""
    wanted = options.integer("minContextSlot")
    reached = node.slot_at(options.commitment)
    if wanted is not None and wanted > reached:
        raise RpcFailure(
            MINIMUM_CONTEXT_SLOT, "Minimum context slot has not been reached", {"contextSlot": reached}
        )


def _get_health(node: RpcNode, params: Params) -> Any:
    node.check_health()
    return "ok"


def _get_version(node: RpcNode, params: Params) -> Any:
    return {"solana-core": API_VERSION, "feature-set": 0}


def _get_genesis_hash(node: RpcNode, params: Params) -> Any:
    return str(Hash(node.genesis))


def _get_identity(node: RpcNode, params: Params) -> Any:
    return {"identity": str(node.faucet.pubkey())}


def _get_slot_leader(node: RpcNode, params: Params) -> Any:
    return str(node.faucet.pubkey())


def _get_slot(node: RpcNode, params: Params) -> Any:
    options = params.options(0)
    require_context_slot(node, options)
    return node.slot_at(options.commitment)


def _get_block_height(node: RpcNode, params: Params) -> Any:
    options = params.options(0)
    require_context_slot(node, options)
    return node.height_at(options.commitment)


def _get_first_available_block(node: RpcNode, params: Params) -> Any:
    return node.store.first_slot()


def _get_transaction_count(node: RpcNode, params: Params) -> Any:
    return node.ledger.statistics().transactions


def _get_epoch_info(node: RpcNode, params: Params) -> Any:
    slot = node.slot_at(params.options(0).commitment)
    return {
        "absoluteSlot": slot,
        "blockHeight": node.height_at(params.options(0).commitment),
        "epoch": slot // SLOTS_PER_EPOCH,
        "slotIndex": slot % SLOTS_PER_EPOCH,
        "slotsInEpoch": SLOTS_PER_EPOCH,
        "transactionCount": node.ledger.statistics().transactions,
    }


def _get_epoch_schedule(node: RpcNode, params: Params) -> Any:
    return {
        "slotsPerEpoch": SLOTS_PER_EPOCH,
        "leaderScheduleSlotOffset": SLOTS_PER_EPOCH,
        "warmup": False,
        "firstNormalEpoch": 0,
        "firstNormalSlot": 0,
    }


def _get_block_time(node: RpcNode, params: Params) -> Any:
    return _sealed(node, params.integer(0)).time


def _get_blocks(node: RpcNode, params: Params) -> Any:
    first = params.integer(0)
    # The end slot may be left out, and the options come in its place.
    named_end = type(params.get(1)) is int
    options = params.options(2 if named_end or params.get(1) is None else 1)
    newest = node.slot_at(options.settled())
    last = min(params.integer(1), newest) if named_end else newest
    if last - first >= _BLOCKS_PER_CALL:
        raise invalid(f"Slot range too large; max {_BLOCKS_PER_CALL}")
    return node.store.slots_between(_storable(first), last, _BLOCKS_PER_CALL)


def _get_blocks_with_limit(node: RpcNode, params: Params) -> Any:
    first = params.integer(0)
    limit = params.integer(1, at_most=_BLOCKS_PER_CALL)
    newest = node.slot_at(params.options(2).settled())
    return node.store.slots_between(_storable(first), newest, limit)


def _get_block(node: RpcNode, params: Params) -> Any:
    options = params.options(1)
    sealed = _sealed(node, params.integer(0))
    if sealed.slot > node.slot_at(options.settled()):
        raise _not_available(sealed.slot)
    parent = node.store.slot(sealed.parent) if sealed.slot else None
    details = options.text("transactionDetails") or "full"
    if details not in _DETAILS:
        raise invalid("transactionDetails is full, signatures or none here")
    block: dict[str, Any] = {
        "blockhash": str(Hash(sealed.blockhash)),
        "previousBlockhash": str(Hash(node.genesis if parent is None else parent.blockhash)),
        "parentSlot": sealed.parent,
        "blockTime": sealed.time,
        "blockHeight": node.ledger.skipped.height(sealed.slot),
    }
    if options.boolean("rewards", default=True):
        block["rewards"] = []
    if details == "signatures":
        names = [one.signature for one in node.store.transactions_of(sealed.slot)]
        block["signatures"] = [signature_text(name) for name in names]
    elif details == "full":
        stored = node.store.transactions_of(sealed.slot)
        block["transactions"] = [transaction_json(one, options) for one in stored]
    return block


def _get_latest_blockhash(node: RpcNode, params: Params) -> Any:
    options = params.options(0)
    require_context_slot(node, options)
    blockhash, last_valid = node.latest_blockhash(options.commitment)
    value = {"blockhash": str(Hash(blockhash)), "lastValidBlockHeight": last_valid}
    return contextual(node, value, options.commitment)


def _is_blockhash_valid(node: RpcNode, params: Params) -> Any:
    try:
        blockhash = bytes(Hash.from_string(params.text(0)))
    except ParseHashError as error:
        raise invalid("parameter 1 is not a blockhash") from error
    return contextual(node, node.blockhash_valid(blockhash), params.options(1).commitment)


def _get_recent_prioritization_fees(node: RpcNode, params: Params) -> Any:
    writes = frozenset(key_of(item) for item in params.items(0, at_most=_ACCOUNTS_PER_CALL, default=[]))
    prices = node.ledger.least_prices(writes, node.slot_at("confirmed"))
    return [{"slot": slot, "prioritizationFee": price} for slot, price in prices]


def _sealed(node: RpcNode, slot: int) -> SealedSlot:
    sealed = node.store.slot(slot) if slot < node.slot else None
    if sealed is not None:
        return sealed
    first = node.store.first_slot()
    if slot < first:
        raise RpcFailure(
            BLOCK_CLEANED_UP,
            f"Block {slot} cleaned up, does not exist on node. First available block: {first}",
        )
    if slot < node.slot and node.ledger.skipped.block_at_or_before(slot) != slot:
        raise RpcFailure(
            SLOT_SKIPPED, f"Slot {slot} was skipped, or missing due to ledger jump to recent snapshot"
        )
    raise _not_available(slot)


def _not_available(slot: int) -> RpcFailure:
    return RpcFailure(BLOCK_NOT_AVAILABLE, f"Block not available for slot {slot}")


def _storable(slot: int) -> int:
    """A slot number that fits the database's signed integers; nothing is sealed beyond that anyway."""
    return min(slot, 2**63 - 1)


METHODS: Final[Mapping[str, Method]] = {
    "getHealth": _get_health,
    "getVersion": _get_version,
    "getGenesisHash": _get_genesis_hash,
    "getIdentity": _get_identity,
    "getSlotLeader": _get_slot_leader,
    "getSlot": _get_slot,
    "getBlockHeight": _get_block_height,
    "minimumLedgerSlot": _get_first_available_block,
    "getFirstAvailableBlock": _get_first_available_block,
    "getTransactionCount": _get_transaction_count,
    "getEpochInfo": _get_epoch_info,
    "getEpochSchedule": _get_epoch_schedule,
    "getBlockTime": _get_block_time,
    "getBlocks": _get_blocks,
    "getBlocksWithLimit": _get_blocks_with_limit,
    "getBlock": _get_block,
    "getLatestBlockhash": _get_latest_blockhash,
    "isBlockhashValid": _is_blockhash_valid,
    "getRecentPrioritizationFees": _get_recent_prioritization_fees,
}
