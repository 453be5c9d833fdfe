"""Database keys of one task and round, in an order in which rounds ascend."""

from __future__ import annotations

from collections.abc import Iterator

from koii_p2p.storage.database import Table

TASK_BYTES = 32
ROUND_KEY_BYTES = TASK_BYTES + 8

_DELETED_AT_ONCE = 1024


def round_key(task: bytes, round: int) -> bytes:
    """Return the 40 bytes that begin every key of a round: the task's id and the round, big-endian."""
    if len(task) != TASK_BYTES:
        raise ValueError(f"A task id has {TASK_BYTES} bytes, not {len(task)}.")
    return task + round.to_bytes(8, "big")


def rounds_of(table: Table, task: bytes) -> Iterator[int]:
    """Yield the rounds of a task that have keys in a table, ascending. One seek per round."""
    key = table.first_from(round_key(task, 0))
    while key is not None and key.startswith(task):
        found = int.from_bytes(key[TASK_BYTES:ROUND_KEY_BYTES], "big")
        yield found
        if found == 2**64 - 1:
            return
        key = table.first_from(round_key(task, found + 1))


def keys_before(table: Table, task: bytes, round: int) -> Iterator[list[bytes]]:
    """Yield the keys of a task's rounds before `round`, in lists small enough to be deleted at once."""
    keys: list[bytes] = []
    for earlier in list(rounds_of(table, task)):
        if earlier >= round:
            break
        for key, _ in table.scan(round_key(task, earlier), values=False):
            keys.append(key)
            if len(keys) == _DELETED_AT_ONCE:
                yield keys
                keys = []
    if keys:
        yield keys
