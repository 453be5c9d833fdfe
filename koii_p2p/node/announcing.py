"""Where this node listens, said to the others of a task: often while it is new, later every few minutes (PROTOCOL 3).

Each presence reaches every node by gossip, so that what they cost a node grows with the net. What keeps them rare
keeps large nets cheap; who comes new asks a peer for all of them.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from typing import Final

import trio

from koii_p2p.limits import Limits
from koii_p2p.records.schema import Presence, Statement
from koii_p2p.rounds.engine import RoundEngine

FIRST_SECONDS: Final = 1.0
LONGEST_SECONDS: Final = 180.0
LOOK_SECONDS: Final = 5.0
"""How often a node looks whether it listens somewhere else, which it says at once."""


async def announce(
    engine: RoundEngine,
    listening_at: Callable[[], tuple[str, ...] | None],
    say: Callable[[Statement], None],
    learn: Callable[[], Awaitable[None]],
    slot_seconds: Callable[[], float],
    random_source: random.Random,
    limits: Limits,
) -> None:
    """Say where we are, and `learn` from somebody where the others are, until cancelled.

    The pause doubles from 1 s to 3 minutes, or to a quarter of what a presence is valid for, where that is less.
    `listening_at()` is None while the node takes no connections: it says nothing then.
    """
    pause = FIRST_SECONDS
    while True:
        addresses, slot = listening_at(), engine.slot
        if addresses is not None and slot >= 0:
            body = Presence(
                addresses[: limits.presence_addresses], roles=0, software="koii_p2p", free_bytes=0
            )
            period = max(engine.terms.clock.period(slot), 0)
            say(Statement(engine.terms.task, period, slot, slot, body))
        await learn()
        with trio.move_on_after(pause * (0.5 + random_source.random())):
            while listening_at() == addresses:
                await trio.sleep(LOOK_SECONDS)
        pause = min(2 * pause, LONGEST_SECONDS, limits.presence_slots * slot_seconds() / 4)
