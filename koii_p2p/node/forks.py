"""What forks take back: K2 may undo a block that is not final, with every transaction in it. So a node looks again."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

import structlog
import trio

from koii_p2p.errors import ChainError
from koii_p2p.rounds.anchors import AnchoredRound
from koii_p2p.rounds.clock import RoundClock
from koii_p2p.rounds.events import Action, AnchorCommitment

log = structlog.get_logger(__name__)

MISSING_SLOTS = 5
"""What has just landed may not be in what is read yet: it counts as taken back after so many slots."""
FINAL_SLOTS = 32
"""Slots after which a block is final (https://solana.com/docs/terminology: the maximum lockout of a vote)."""


class OwnCommitments:
    """What this node has anchored. The others go by it already when K2 has taken it back, and none commits again.

    (Lists and vetoes need nothing of this: they are asked for as long as K2 does not hold them.)
    """

    def __init__(self, clock: RoundClock) -> None:
        self._clock = clock
        self._held_at: dict[AnchorCommitment, int] = {}

    def landed(self, action: AnchorCommitment, slot: int) -> None:
        """Note that K2 has just taken it."""
        self._held_at[action] = slot

    def undone(self, held: Mapping[int, AnchoredRound], slot: int) -> list[Action]:
        """Those that K2, which holds `held` now, has not had for `MISSING_SLOTS`, and could still take."""
        for one in list(self._held_at):
            if slot >= self._clock.commitment(one.round, one.attempt).closes:
                del self._held_at[one]
            elif one.round in held and held[one.round].attempt >= one.attempt:
                self._held_at[one] = slot
        return [one for one, seen in self._held_at.items() if slot >= seen + MISSING_SLOTS]


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
