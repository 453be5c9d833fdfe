"""K2's slot as the node's only clock: polled from K2, interpolated in between by a monotonic clock."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

import structlog
import trio

from koii_p2p.errors import ChainError

log = structlog.get_logger(__name__)

NOMINAL_SLOT_SECONDS = 0.4
"""Solana's and K2's nominal slot time (64 ticks at 160 per second)."""
POLL_SECONDS = 1.0
HOLDOVER_SECONDS = 60.0
"""How long the estimate is trusted without an answer from K2."""
DISAGREEMENT_SLOTS = 16
"""An estimate further than this from what K2 says was wrong: said aloud, and not acted on until K2 caught up."""
RATE_WEIGHT = 0.2


@dataclass(frozen=True, slots=True)
class SlotStatistics:
    """The estimate now (slots), seconds per slot, seconds since K2 last answered, and how often the two disagreed."""

    slot: int
    slot_seconds: float
    age: float
    trusted: bool
    disagreements: int
    failed_polls: int


class SlotClock:
    """Estimates K2's slot. `now()` never goes back; `trusted` is False while K2 has not been heard for too long."""

    def __init__(
        self, read_slot: Callable[[], Awaitable[int]], *, poll_seconds: float = POLL_SECONDS
    ) -> None:
        self._read_slot = read_slot
        self._poll_seconds = poll_seconds
        self._slot_seconds = NOMINAL_SLOT_SECONDS
        self._anchor_slot = 0
        self._anchor_time = float("-inf")
        self._highest = 0
        self._disagreements = 0
        self._failed_polls = 0
        self._calibrated = False

    def now(self) -> int:
        """The slot K2 is at, by our estimate; 0 before the first answer. An estimate that ran ahead is held."""
        self._highest = max(self._highest, self._interpolated())
        return self._highest

    def _interpolated(self) -> int:
        if self._anchor_time == float("-inf"):
            return 0
        elapsed = min(trio.current_time() - self._anchor_time, HOLDOVER_SECONDS)
        return self._anchor_slot + int(elapsed / self._slot_seconds)

    @property
    def trusted(self) -> bool:
        """Whether K2 answered recently, and agrees with our estimate, so that it may be acted on."""
        recent = trio.current_time() - self._anchor_time < HOLDOVER_SECONDS
        return recent and self._highest - self._interpolated() <= DISAGREEMENT_SLOTS

    @property
    def slot_seconds(self) -> float:
        """Seconds per slot, measured between polls."""
        return self._slot_seconds

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Poll K2 until cancelled. Ready after two answers, so that the slot time is measured, not assumed."""
        await self._poll()
        await trio.sleep(self._poll_seconds / 2)
        await self._poll()
        task_status.started()
        while True:
            await trio.sleep(self._poll_seconds)
            try:
                await self._poll()
            except ChainError as error:
                self._failed_polls += 1
                log.warning("K2 did not say its slot", error=str(error), trusted=self.trusted)

    async def _poll(self) -> None:
        asked = trio.current_time()
        slot = await self._read_slot()
        # The answer was true at some moment of the round trip; its middle is the best guess.
        moment = (asked + trio.current_time()) / 2
        if self._anchor_time != float("-inf"):
            self._measure(slot, moment)
        self._anchor_slot, self._anchor_time = slot, moment

    def _measure(self, slot: int, moment: float) -> None:
        elapsed, advanced = moment - self._anchor_time, slot - self._anchor_slot
        if advanced > 0 and elapsed > 0:
            rate = elapsed / advanced
            weight = RATE_WEIGHT if self._calibrated else 1.0
            self._slot_seconds += weight * (rate - self._slot_seconds)
            self._calibrated = True
        estimate = self.now()
        if self._calibrated and abs(estimate - slot) > DISAGREEMENT_SLOTS:
            self._disagreements += 1
            log.warning("our slot estimate disagreed with K2", estimate=estimate, slot=slot)

    async def each_slot(self) -> AsyncIterator[int]:
        """Yield the slot now and again whenever it has advanced, skipping those that passed while we were busy."""
        last = -1
        while True:
            slot = self.now()
            if slot > last:
                last = slot
                yield slot
            elapsed = trio.current_time() - self._anchor_time
            into_slot = elapsed % self._slot_seconds if elapsed < HOLDOVER_SECONDS else 0.0
            await trio.sleep(max(self._slot_seconds - into_slot, 0.005))

    def statistics(self) -> SlotStatistics:
        """Figures for `status`, metrics and tests."""
        return SlotStatistics(
            slot=self.now(),
            slot_seconds=self._slot_seconds,
            age=trio.current_time() - self._anchor_time,
            trusted=self.trusted,
            disagreements=self._disagreements,
            failed_polls=self._failed_polls,
        )
