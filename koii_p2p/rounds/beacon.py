"""The beacon of a round: randomness nobody knew while submissions were made."""

from __future__ import annotations

from hashlib import sha256

_DOMAIN = b"koii-p2p/1 beacon"


def beacon(blockhash: bytes, task: bytes, round_number: int) -> bytes:
    """32 bytes: SHA-256 over a domain, the blockhash, the task and the round (u64, little-endian).

    `blockhash` (32 bytes) is that of the first K2 block at or after the end of the submission window, so
    that a submission cannot be ground for friendly auditors (PROTOCOL §6; Koii picks auditors with
    `Math.random()`). Raises ValueError when an argument has another size.
    """
    if len(blockhash) != 32 or len(task) != 32:
        raise ValueError("blockhash and task are 32 bytes each")
    if not 0 <= round_number < 1 << 64:
        raise ValueError("round is an unsigned 64-bit integer")
    return sha256(_DOMAIN + blockhash + task + round_number.to_bytes(8, "little")).digest()
