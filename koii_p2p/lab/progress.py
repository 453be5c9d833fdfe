"""How far runs are: engines say it in virtual time, and whoever waits for them is told now and then."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

Told = Callable[[float], None]
"""Told how far a run is, from 0 to 1: once a slot at most. What it does changes nothing of the run."""

EVERY_SECONDS: Final = 0.5
"""Time between two looks of whoever waits."""


def nobody(_share: float) -> None:
    """Nobody is told."""


def now_and_then(told: Told) -> Told:
    """The same, but told twice a second at most, however often an engine says something."""
    last = time.monotonic()

    def tell(share: float) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= EVERY_SECONDS:
            last = now
            told(share)

    return tell
