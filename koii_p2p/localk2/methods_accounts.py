"""JSON-RPC methods about accounts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from koii_p2p.localk2.methods_chain import Method, require_context_slot
from koii_p2p.localk2.params import Options, Params, base58_bytes, base64_bytes, invalid, key_of
from koii_p2p.localk2.rpc_node import RpcNode
from koii_p2p.localk2.shapes import account_json, contextual

_ACCOUNTS_PER_CALL: Final = 100
_FILTERS: Final = 4
_COMPARED_BYTES: Final = 128
_COMPARED_CHARACTERS: Final = 180
_LARGEST_ACCOUNT: Final = 10 * 1024 * 1024

Filter = Callable[[bytes], bool]


def _get_balance(node: RpcNode, params: Params) -> Any:
    options = params.options(1)
    require_context_slot(node, options)
    account = node.account(params.key(0), options.commitment)
    return contextual(node, 0 if account is None else account.lamports, options.commitment)


def _get_account_info(node: RpcNode, params: Params) -> Any:
    options = params.options(1)
    require_context_slot(node, options)
    account = node.account(params.key(0), options.commitment)
    return contextual(node, account_json(account, options), options.commitment)


def _get_multiple_accounts(node: RpcNode, params: Params) -> Any:
    options = params.options(1)
    require_context_slot(node, options)
    keys = [key_of(item) for item in params.items(0, at_most=_ACCOUNTS_PER_CALL)]
    found = [node.account(key, options.commitment) for key in keys]
    value = [account_json(account, options, "base64") for account in found]
    return contextual(node, value, options.commitment)


def _get_program_accounts(node: RpcNode, params: Params) -> Any:
    options = params.options(1)
    require_context_slot(node, options)
    tests = program_filters(options)
    found = [
        {"pubkey": str(key), "account": account_json(account, options)}
        for key, account in node.program_accounts(params.key(0), options.commitment)
        if all(test(bytes(account.data)) for test in tests)
    ]
    return contextual(node, found, options.commitment) if options.boolean("withContext") else found


def _get_minimum_balance(node: RpcNode, params: Params) -> Any:
    return node.bank.rent_exempt_minimum(params.integer(0, at_most=_LARGEST_ACCOUNT))


def program_filters(options: Options) -> list[Filter]:
    """The `filters` option: what an account's data must pass."""
    return [_filter(item) for item in options.items("filters", _FILTERS)]


def _filter(item: Any) -> Filter:
    if not isinstance(item, dict) or len(item) != 1:
        raise invalid("a filter is one of dataSize and memcmp")
    fields = Options(item)
    size = fields.integer("dataSize")
    if size is not None:
        return lambda data: len(data) == size
    compare = fields.options("memcmp")
    if compare is None:
        raise invalid("a filter is one of dataSize and memcmp")
    offset = compare.integer("offset")
    text = compare.text("bytes")
    if offset is None or text is None or len(text) > _COMPARED_CHARACTERS:
        raise invalid("memcmp needs an offset and at most 128 encoded bytes")
    content = base64_bytes(text) if compare.text("encoding") == "base64" else base58_bytes(text)
    if len(content) > _COMPARED_BYTES:
        raise invalid("memcmp compares at most 128 bytes")
    return lambda data: data[offset : offset + len(content)] == content


METHODS: Final[Mapping[str, Method]] = {
    "getBalance": _get_balance,
    "getAccountInfo": _get_account_info,
    "getMultipleAccounts": _get_multiple_accounts,
    "getProgramAccounts": _get_program_accounts,
    "getMinimumBalanceForRentExemption": _get_minimum_balance,
}
