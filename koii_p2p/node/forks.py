"""What forks take back: K2 may undo a block that is not final, with every transaction in it. So a node looks again.

Anchors and vetoes need nothing of this: the engine asks for them as long as K2 does not hold them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

import structlog
import trio

from koii_p2p.errors import ChainError

log = structlog.get_logger(__name__)

FINAL_SLOTS = 32
"""Slots after which a block is final (https://solana.com/docs/terminology: the maximum lockout of a vote)."""


async def blockhashes_after(
    slot: int,
    read: Callable[[int], Awaitable[tuple[int, bytes] | None]],
    now: Callable[[], int],
    pause: Callable[[], float],
) -> AsyncIterator[bytes]:
    """The blockhash of the first block at or after `slot`, and each that takes its place before it is final.

    Ends without one if there is no block yet. `now` is the slot, `pause` seconds between two reads. Raises `ChainError`
    if the first read fails; what fails later is read again.
    """
    found = await read(slot)
    if found is None:
        return
    yield found[1]
    while now() <= found[0] + FINAL_SLOTS:
        await trio.sleep(pause())
        try:
            seen = await read(slot)
        except ChainError as error:
            log.info("the block is not confirmed again yet", slot=slot, why=error.why)
            continue
        if seen is not None and seen[1] != found[1]:
            log.warning("a fork took a block back: the round has another beacon", slot=slot)
            yield seen[1]
        found = seen or found
