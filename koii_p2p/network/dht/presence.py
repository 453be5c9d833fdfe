"""Presence records in the DHT: where a staker can be dialled, signed by it, under its staking key.

The key is `/koii/presence/<staking key in base58>`, the value one Presence record (PROTOCOL section 3) of any task on
this chain. So anybody who knows a staking key finds its holder, without knowing anybody who is connected with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import base58

from koii_p2p.records.envelope import Envelope, decode_record, verify
from koii_p2p.records.reasons import RecordError
from koii_p2p.records.schema import Presence

NAMESPACE: Final = "koii"
_PREFIX: Final = b"/koii/presence/"


def presence_key(key: bytes) -> bytes:
    """Return the DHT key of the presence of a 32-byte staking key."""
    return _PREFIX + base58.b58encode(key)


class PresenceRules:
    """Only the holder of a staking key writes under it, and its newest word counts."""

    def __init__(self, genesis: bytes) -> None:
        """`genesis` is the 32-byte genesis hash of the chain, which every signature is for."""
        self._genesis = genesis

    def validate(self, key: bytes, value: bytes) -> bool:
        """Say whether a value is a presence, signed for this chain by the very key it stands under."""
        try:
            envelope = decode_record(value)
            if not isinstance(envelope.statement.body, Presence) or presence_key(envelope.author) != key:
                return False
            verify(envelope, self._genesis)
        except RecordError:
            return False
        return True

    def select(self, key: bytes, values: Sequence[bytes]) -> int:
        """Return the index of the presence with the highest slot, then sequence number, then id."""
        found = [decode_record(value) for value in values]
        return max(range(len(found)), key=lambda index: _order(found[index]))


def presence_addresses(value: bytes) -> tuple[str, ...]:
    """Return the multiaddrs in a valid presence."""
    body = decode_record(value).statement.body
    return body.addresses if isinstance(body, Presence) else ()


def _order(envelope: Envelope) -> tuple[int, int, bytes]:
    return envelope.statement.slot, envelope.statement.seq, envelope.id
