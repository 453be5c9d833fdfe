"""What a testnet's K2 does wrong, done to it: faults, `kill -9` and a new start, slots rolled back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

import trio

from koii_p2p.errors import ChainError
from koii_p2p.localk2.faults import FaultStatistics
from koii_p2p.rounds.clock import RoundClock

if TYPE_CHECKING:
    from koii_p2p.testnets.net import RunningNet

_SLOT_SECONDS: Final = 0.2
_LOOK_SECONDS: Final = 2.0


class K2Play:
    """Plays the troubles of one testnet. `counts` says what happened so far, by name."""

    def __init__(self, net: RunningNet, note: Callable[[str], None]) -> None:
        self._net = net
        self._note = note
        self._troubles = net.topology.k2
        self._counts: Counter[str] = Counter()
        self._hits: Counter[str] = Counter()
        self._reading = trio.Lock()

    @property
    def counts(self) -> dict[str, int]:
        """Restarts, roll-backs, transactions undone, and what the faults have hit."""
        return dict(self._counts + self._hits)

    async def begin(self) -> None:
        """Switch the faults on, once a K2 that lags would tell of the task and the stakes."""
        if self._troubles.any:
            await self._until(await self._net.settlement.slot() + self._troubles.faults.lag)
            await self._admin("setFaults", self._troubles.faults.as_json())
            self._note(f"K2 from now on: {self._troubles}")

    async def run(self, clock: RoundClock) -> None:
        """Kill and roll back when it is time, until cancelled; a restart that has begun is brought to its end."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._look_again_and_again)
            nursery.start_soon(self._restart_again_and_again, clock)
            nursery.start_soon(self._roll_back_again_and_again, clock)

    async def end(self) -> None:
        """Switch the faults off: what comes of it all is read from a K2 that is well."""
        if self._troubles.any:
            await self._look()
            await self._admin("clearFaults")
            self._note(f"K2 is well again; there were {self}")

    def __str__(self) -> str:
        shown = [f"{count} {name.replace('_', ' ')}" for name, count in self.counts.items() if count]
        return ", ".join(shown) or "no troubles yet"

    async def _look(self) -> None:
        """Read what the faults have hit since K2 started."""
        async with self._reading:
            found = await self._admin("getFaults")
            names = FaultStatistics.__dataclass_fields__
            self._hits = Counter({name: int(found["statistics"][name]) for name in names})

    async def _look_again_and_again(self) -> None:
        while self._troubles.any:
            with suppress(ChainError):
                await self._look()
            await trio.sleep(_LOOK_SECONDS)

    async def _restart_again_and_again(self, clock: RoundClock) -> None:
        slot = clock.starting_slot
        while (due := self._troubles.restart_moment(clock, slot)) is not None:
            slot = await self._until(due)
            with trio.CancelScope(shield=True):
                async with self._reading:
                    await self._net.restart_k2()
                    # It counts from nothing again.
                    self._counts += self._hits
                    self._hits.clear()
            self._counts["restarts"] += 1
            self._note(f"K2 was killed in slot {slot}, in the {self._troubles.restart_in_phase}, and is back")

    async def _roll_back_again_and_again(self, clock: RoundClock) -> None:
        every, slot = self._troubles.roll_back_every, clock.starting_slot
        while every is not None:
            slot = await self._until(slot + every)
            options = {"landAgain": self._troubles.land_again}
            try:
                found = await self._admin("rollBack", self._troubles.roll_back_slots, options)
            except ChainError as error:
                self._note(f"K2 did not roll back: {error.why}")
                continue
            undone, again = int(found["undone"]), int(found["landedAgain"])
            self._counts["roll_backs"] += 1
            self._counts["undone_transactions"] += undone
            if undone:
                self._note(f"K2 rolled back to slot {found['slot']}: {undone} undone, {again} landed again")

    async def _until(self, due: int) -> int:
        while True:
            try:
                slot = await self._net.settlement.slot()
            except ChainError:
                slot = -1  # it is being started
            if slot >= due:
                return slot
            await trio.sleep(_SLOT_SECONDS)

    async def _admin(self, method: str, *params: Any) -> Any:
        return await self._net.rpc.ask(method, params, lambda value: value, retry=method != "rollBack")
