"""What a caller asks, checked: JSON-RPC parameters, and the error codes that Solana's nodes answer."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Any, Final

import base58
from solders.pubkey import Pubkey
from solders.signature import Signature

from koii_p2p.localk2.transactions import PACKET_BYTES
from koii_p2p.settlement.rpc_replies import Commitment

PARSE_ERROR: Final = -32700
INVALID_REQUEST: Final = -32600
METHOD_NOT_FOUND: Final = -32601
INVALID_PARAMS: Final = -32602
INTERNAL_ERROR: Final = -32603
PREFLIGHT_FAILURE: Final = -32002
SIGNATURE_FAILURE: Final = -32003
BLOCK_CLEANED_UP: Final = -32001
BLOCK_NOT_AVAILABLE: Final = -32004
NODE_UNHEALTHY: Final = -32005
SLOT_SKIPPED: Final = -32007
UNSUPPORTED_VERSION: Final = -32015
MINIMUM_CONTEXT_SLOT: Final = -32016

_HIGHEST: Final = 2**64 - 1
_BASE58_TRANSACTION: Final = 1700  # characters of 1232 bytes, and some; decoding base58 is quadratic
_SHOWN: Final = 60
# Old names that clients still send.
_COMMITMENTS: Final[Mapping[str, Commitment]] = {
    "processed": "processed",
    "recent": "processed",
    "confirmed": "confirmed",
    "single": "confirmed",
    "singleGossip": "confirmed",
    "finalized": "finalized",
    "root": "finalized",
    "max": "finalized",
}


class RpcFailure(Exception):
    """A JSON-RPC error to answer with."""

    def __init__(self, code: int, message: str, data: Any = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.data = data


def invalid(message: str) -> RpcFailure:
    """The caller's parameters cannot be used."""
    return RpcFailure(INVALID_PARAMS, f"Invalid params: {message}")


class Options:
    """The last parameter of most methods: an object of named options, or nothing."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = values

    def __contains__(self, name: str) -> bool:
        return self._values.get(name) is not None

    @property
    def commitment(self) -> Commitment:
        """`finalized` unless given, as on every Solana node."""
        return self.commitment_or("finalized")

    def commitment_or(self, default: Commitment, name: str = "commitment") -> Commitment:
        """The commitment named, or a default."""
        text = self.text(name)
        if text is None:
            return default
        if text not in _COMMITMENTS:
            raise invalid(f"unknown commitment {text[:_SHOWN]!r}")
        return _COMMITMENTS[text]

    def settled(self) -> Commitment:
        """The commitment named, for what only sealed slots can answer."""
        commitment = self.commitment
        return "confirmed" if commitment == "processed" else commitment

    def text(self, name: str) -> str | None:
        """A text option, or None."""
        value = self._values.get(name)
        if value is not None and not isinstance(value, str):
            raise invalid(f"{name} is not text")
        return value

    def integer(self, name: str) -> int | None:
        """An unsigned option, or None."""
        value = self._values.get(name)
        return None if value is None else _integer(value, name, _HIGHEST)

    def signed_integer(self, name: str, *, default: int, at_least: int) -> int:
        """An option that may be negative down to `at_least`."""
        value = self._values.get(name)
        if value is None:
            return default
        if type(value) is not int or not at_least <= value <= _HIGHEST:
            raise invalid(f"{name} is not an integer from {at_least} to {_HIGHEST}")
        return value

    def number(self, name: str, *, default: float, at_most: float) -> float:
        """An option from 0 to `at_most`, whole or not."""
        value = self._values.get(name)
        if value is None:
            return default
        if type(value) not in (int, float) or not 0 <= value <= at_most:
            raise invalid(f"{name} is not a number from 0 to {at_most:g}")
        return float(value)

    def boolean(self, name: str, default: bool = False) -> bool:
        """A true-or-false option."""
        value = self._values.get(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise invalid(f"{name} is not true or false")
        return value

    def items(self, name: str, at_most: int) -> list[Any]:
        """A list option; empty if not given."""
        value = self._values.get(name)
        return [] if value is None else _items(value, name, at_most)

    def options(self, name: str) -> Options | None:
        """An object within the options, or None."""
        value = self._values.get(name)
        if value is None:
            return None
        if not isinstance(value, dict):
            raise invalid(f"{name} is not an object")
        return Options(value)

    def signature(self, name: str) -> bytes | None:
        """A transaction signature (64 bytes), or None."""
        value = self._values.get(name)
        return None if value is None else signature_of(value)


class Params:
    """The positional parameters of one call."""

    def __init__(self, values: list[Any]) -> None:
        self._values = values

    def get(self, index: int) -> Any:
        """A parameter as it came, or None if there are not so many."""
        return self._values[index] if index < len(self._values) else None

    def key(self, index: int) -> Pubkey:
        """A base58 key."""
        return key_of(self.get(index))

    def signature(self, index: int) -> bytes:
        """A base58 transaction signature (64 bytes)."""
        return signature_of(self.get(index))

    def integer(self, index: int, *, at_most: int = _HIGHEST) -> int:
        """An unsigned number."""
        return _integer(self.get(index), f"parameter {index + 1}", at_most)

    def text(self, index: int) -> str:
        """A text."""
        value = self.get(index)
        if not isinstance(value, str):
            raise invalid(f"parameter {index + 1} is not text")
        return value

    def items(self, index: int, *, at_most: int, default: list[Any] | None = None) -> list[Any]:
        """A list; `default`, if there is one, where it is left out."""
        value = self.get(index)
        return _items(default if value is None else value, f"parameter {index + 1}", at_most)

    def options(self, index: int) -> Options:
        """The options object, empty if there is none. A bare text is the old way to name an encoding."""
        value = self.get(index)
        if value is None:
            return Options({})
        if isinstance(value, str):
            return Options({"encoding": value})
        if not isinstance(value, dict):
            raise invalid(f"parameter {index + 1} is not an object")
        return Options(value)


def key_of(value: Any) -> Pubkey:
    """A key from its base58 text."""
    try:
        return Pubkey.from_string(value)
    except (TypeError, ValueError) as error:
        raise invalid(f"{str(value)[:_SHOWN]!r} is not a key") from error


def signature_of(value: Any) -> bytes:
    """The 64 bytes of a signature from its base58 text."""
    try:
        return bytes(Signature.from_string(value))
    except (TypeError, ValueError) as error:
        raise invalid(f"{str(value)[:_SHOWN]!r} is not a signature") from error


def transaction_bytes(text: str, encoding: str) -> bytes:
    """The bytes of a transaction in base64 or base58."""
    if encoding == "base64":
        return base64_bytes(text)
    if encoding != "base58":
        raise invalid(f"unsupported encoding {encoding[:_SHOWN]!r}; use base64 or base58")
    if len(text) > _BASE58_TRANSACTION:
        raise invalid(f"encoded transaction too large: {len(text)} characters (max: {PACKET_BYTES} bytes)")
    return base58_bytes(text)


def base64_bytes(text: str) -> bytes:
    """Bytes from base64."""
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise invalid("invalid base64 encoding") from error


def base58_bytes(text: str) -> bytes:
    """Bytes from base58. The caller bounds the length."""
    try:
        return bytes(base58.b58decode(text))
    except ValueError as error:
        raise invalid("invalid base58 encoding") from error


def _integer(value: Any, name: str, at_most: int) -> int:
    if type(value) is not int or not 0 <= value <= at_most:
        raise invalid(f"{name} is not an integer from 0 to {at_most}")
    return value


def _items(value: Any, name: str, at_most: int) -> list[Any]:
    if not isinstance(value, list):
        raise invalid(f"{name} is not an array")
    if len(value) > at_most:
        raise invalid(f"Too many inputs provided; max {at_most}")
    return value
