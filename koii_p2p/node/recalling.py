"""What a node learns before it speaks: what its key has said of the rounds that were there before it ran."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import trio

from koii_p2p.errors import CheckFailed
from koii_p2p.network.network import Network
from koii_p2p.node.pulling import RECONCILE_PEERS, Puller
from koii_p2p.rounds.engine import RoundEngine

RECALL_SECONDS = 10.0
"""How long a statement waits for a peer that tells what our key has said before; it is tried again later."""
PATIENCE_SECONDS = 2.0
"""How long a node that starts waits for more than one such peer, and for what it takes to judge what they tell."""
FIRST_PAUSE_SECONDS = 0.1


class Recall:
    """Our key's words of earlier runs, from peers: this home may be an older copy, whose journal lacks them.

    What peers tell goes through `puller` into the engine, and `catch_up` takes it from there. Until one has answered
    nothing is to be said of the rounds it may be about; without peers nobody would hear it.
    """

    def __init__(
        self,
        engine: RoundEngine,
        network: Network,
        puller: Puller,
        catch_up: Callable[[Iterable[int]], None],
    ) -> None:
        self._engine = engine
        self._network = network
        self._puller = puller
        self._catch_up = catch_up
        self._unspoken_from = 0
        self._done = trio.Event()

    def begin(self) -> None:
        """Note which rounds our key may have spoken of. Work is handed in after its period: those before this one."""
        self._unspoken_from = self._engine.clock.period(self._engine.slot)
        self._done = trio.Event()

    async def run(self) -> None:
        """Learn what there is to learn; returns when a peer has answered about every round still in flight."""
        spoken_of = [number for number in self._engine.rounds() if number < self._unspoken_from]
        async with trio.open_nursery() as nursery:
            for number in spoken_of:
                nursery.start_soon(self._ask, number)
        self._catch_up(spoken_of)
        self._done.set()

    async def known(self, number: int) -> None:
        """Return once it is known what our key has said of a round. Raises `CheckFailed` if that takes long."""
        if number >= self._unspoken_from:
            return
        with trio.move_on_after(RECALL_SECONDS):
            await self._done.wait()
        if not self._done.is_set():
            raise CheckFailed(
                f"Nothing is signed yet for round {number}.",
                "No peer has told what this key has said of it before this node started, and its home may be old.",
                f"Check that peers can be reached; from round {self._unspoken_from} on it takes part in any case.",
            )

    async def _ask(self, number: int) -> None:
        """Ask some peers for the records of a round until one has answered, and without hurry as many as we can."""
        with trio.move_on_after(PATIENCE_SECONDS):
            while not self._can_judge(number) or len(self._network.peers()) < RECONCILE_PEERS:
                await trio.sleep(0.05)
        pause = FIRST_PAUSE_SECONDS
        while self._engine.round(number) is not None and not await self._puller.records(number):
            await trio.sleep(pause)
            pause = min(2 * pause, RECALL_SECONDS) if self._network.peers() else FIRST_PAUSE_SECONDS

    def _can_judge(self, number: int) -> bool:
        """Whether records of a round would be admitted or refused now, and not put aside."""
        state, ends = self._engine.round(number), self._engine.clock.submission(number).closes
        if state is None:
            return True
        return state.roster is not None and (state.assignment is not None or self._engine.slot < ends)
