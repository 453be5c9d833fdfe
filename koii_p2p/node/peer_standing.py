"""What the node's tasks think of its peers: P5 of the gossip score, as `rounds.peer_standings` finds it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import structlog
import trio

from koii_p2p.network.network import Network
from koii_p2p.rounds.commitment import BuiltRound
from koii_p2p.rounds.engine import RoundEngine
from koii_p2p.rounds.peer_standings import combined, standings_in_task
from koii_p2p.rounds.reputation import standing_of
from koii_p2p.rounds.roster import Roster

log = structlog.get_logger(__name__)

NOTED: Final = 4096
"""Keys of which other parts of the node think ill."""

LOOK_SECONDS: Final = 1.0
"""How often rosters and rounds are compared with those of the last time, which costs a few comparisons."""

Basis = tuple[tuple[int, Roster | None, BuiltRound | None, int], ...]
"""What a task's standings follow from: of each round its roster, its commitment and how many it convicts."""


class PeerStandings:
    """Hands the network P5 of every key, and the size of the net, when a roster or what is known of a round changed."""

    def __init__(self, engines: Callable[[], Mapping[str, RoundEngine]], network: Network) -> None:
        """`engines` are those of the open tasks, by name."""
        self._engines = engines
        self._network = network
        self._bases: dict[str, Basis] = {}
        self._by_task: dict[str, dict[bytes, float]] = {}
        self._stakers: dict[str, int] = {}
        self._noted: dict[bytes, float] = {}
        self._told: dict[bytes, float] = {}

    def note(self, key: bytes, value: float) -> None:
        """What ill another part of the node thinks of a key, beside what its tasks do; 0 forgets it.

        Nothing above 0: a place in the reserved part of a mesh takes a stake. Of more than `NOTED` keys, which are
        strangers' as well, the one that was noted first is forgotten.
        """
        value = min(value, 0.0)
        if self._noted.get(key, 0.0) == value:
            return
        self._noted[key] = value
        if not value:
            del self._noted[key]
        elif len(self._noted) > NOTED:
            del self._noted[next(iter(self._noted))]
        self._tell(self._combined())

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Look again every `LOOK_SECONDS` until cancelled."""
        task_status.started()
        while True:
            self.refresh()
            await trio.sleep(LOOK_SECONDS)

    def refresh(self) -> None:
        """Tell the network what is new. Keys nobody thinks anything of any more are forgotten."""
        engines = self._engines()
        changed = [name for name in self._bases if name not in engines]
        for name in changed:
            del self._bases[name], self._by_task[name], self._stakers[name]
        for name, engine in engines.items():
            basis = _basis(engine)
            if self._bases.get(name) != basis:
                self._bases[name] = basis
                self._by_task[name], self._stakers[name] = _judged(engine, basis)
                changed.append(name)
        if changed:
            self._tell(self._combined())
        if stakers := max(self._stakers.values(), default=0):
            self._network.expect_peers(stakers)

    def _combined(self) -> dict[bytes, float]:
        return combined([*self._by_task.values(), self._noted])

    def _tell(self, found: dict[bytes, float]) -> None:
        found.pop(self._network.key, None)
        for key in self._told.keys() - found.keys():
            self._network.set_application_score(key, 0.0)
        for key, value in found.items():
            if self._told.get(key) != value:
                self._network.set_application_score(key, value)
                if value < 0:
                    log.warning(
                        "a key stands below 0: its node leaves our meshes", key=key.hex(), score=value
                    )
        self._told = found


def _basis(engine: RoundEngine) -> Basis:
    states = [state for number in engine.rounds() if (state := engine.round(number)) is not None]
    return tuple((state.round, state.roster, state.built, len(state.evidence)) for state in states)


def _judged(engine: RoundEngine, basis: Basis) -> tuple[dict[bytes, float], int]:
    """What a task thinks of keys, and how many stakers it has; nothing while no roster was read."""
    roster = next((roster for _, roster, _, _ in reversed(basis) if roster is not None), None)
    if roster is None:
        return {}, 0
    rounds = [standing_of(built.commitment) for _, _, built, _ in basis if built is not None]
    states = [state for number in engine.rounds() if (state := engine.round(number)) is not None]
    convicted = {key for state in states for key in state.evidence}
    return standings_in_task(roster, rounds, convicted), len(roster)
