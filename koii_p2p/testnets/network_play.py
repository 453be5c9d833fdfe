"""What is wrong with a testnet's network, done to it: links, cuts, nodes that are killed and come back."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import trio

from koii_p2p.conditions import HANG, Conditions, Link, encode_conditions
from koii_p2p.errors import ChainError, NetworkError
from koii_p2p.rounds.clock import RoundClock
from koii_p2p.storage.private_file import replace_private
from koii_p2p.testnets.network_troubles import Churn, Partition, all_in_groups

if TYPE_CHECKING:
    from koii_p2p.testnets.net import NetNode, RunningNet

LOOK_SECONDS: Final = 3.0
_SLOT_SECONDS: Final = 0.2
_HITS: Final = ("delayed_writes", "retransmissions", "resets")


class NetworkPlay:
    """Plays the network troubles of one testnet, and those of `testnet chaos`. `counts` says what happened, by name."""

    def __init__(self, net: RunningNet, note: Callable[[str], None]) -> None:
        self._net = net
        self._audience = [note]
        self._troubles = net.topology.network
        self._now = Conditions(link=self._troubles.link, seed=self._troubles.seed)
        self._counts: Counter[str] = Counter()
        self._hits: dict[tuple[str, int], Counter[str]] = {}

    @contextmanager
    def heard_by(self, note: Callable[[str], None]) -> Iterator[None]:
        """Tell somebody else as well, for the length of the block."""
        self._audience.append(note)
        try:
            yield
        finally:
            self._audience.remove(note)

    @property
    def file(self) -> Path:
        """The conditions that all nodes watch."""
        return self._net.folder.conditions

    @property
    def counts(self) -> dict[str, int]:
        """Partitions and heals, nodes killed and back, and what the shaped links came to, of all nodes together."""
        return dict(sum(self._hits.values(), self._counts))

    def begin(self) -> None:
        """Write down what the links are like, for nodes that are about to start."""
        self._write(self._now)
        if self._troubles.any:
            self._note(f"the network from now on: {self._troubles}; shaped in each node's sockets")

    async def run(self, clock: RoundClock, first: int) -> None:
        """Cut, heal, kill and bring back when it is time, until cancelled; nodes that are down then are brought back.

        `first` is the first round that counts.
        """
        if not self._troubles.any:
            return
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._look_again_and_again)
            nursery.start_soon(self._partition_in_turn, clock, first)
            if self._troubles.churn is not None:
                nursery.start_soon(self._churn_again_and_again, clock, self._troubles.churn)

    async def end(self) -> None:
        """Heal everything: what comes of it all is read from a network that is well."""
        if self._troubles.any:
            await self._look()
            self._write(Conditions())
            self._note(f"the network is well again; there were {self}")

    def __str__(self) -> str:
        shown = [f"{count} {name.replace('_', ' ')}" for name, count in self.counts.items() if count]
        return ", ".join(shown) or "no troubles yet"

    # --- what can be done to it

    def cut(self, groups: Sequence[frozenset[int]], cut: str = HANG) -> None:
        """Cut groups of nodes, by their numbers, off from each other; nodes in none are one group."""
        nodes = self._net.nodes
        parts = all_in_groups(groups, len(nodes))
        keys = tuple(frozenset(nodes[number].identity.key for number in part) for part in parts)
        self._write(replace(self._now, groups=keys, cut=cut))
        self._counts["partitions"] += 1
        self._note(f"cut off from each other ({cut}): {' | '.join(_named(nodes, part) for part in parts)}")

    def heal(self) -> None:
        """Let everybody reach everybody again."""
        self._write(replace(self._now, groups=()))
        self._counts["heals"] += 1
        self._note("the network is whole again")

    def change(self, link: Link | None) -> None:
        """Make every link like this; None is what the testnet's file says."""
        wanted = self._troubles.link if link is None else link
        self._write(replace(self._now, link=wanted))
        self._note(f"links from now on: {wanted}")

    async def kill_and_restart(self, numbers: Sequence[int], slots: int) -> None:
        """Kill nodes (SIGKILL); bring them back after so many slots, also when this is cancelled before."""
        nodes = [self._net.nodes[number] for number in numbers]
        running = [node for node in nodes if node.running]
        for node in running:
            await self._net.kill_node(node)
            self._counts["killed"] += 1
        self._note(f"killed: {_named(running, range(len(running))) or 'nobody'}")
        try:
            await self.sleep(slots)
        finally:
            with trio.CancelScope(shield=True):
                for node in running:
                    await self._net.start_node(node)
                    self._counts["came_back"] += 1
        self._note(f"back: {_named(running, range(len(running))) or 'nobody'}")

    async def sleep(self, slots: int) -> None:
        """Wait for so many slots of K2."""
        await self._until(await self._slot() + slots)

    # --- the topology's troubles

    async def _partition_in_turn(self, clock: RoundClock, first: int) -> None:
        due = [(one.begins(clock, first), place) for place, one in enumerate(self._troubles.partitions)]
        for slot, place in sorted(due):
            await self._partition(self._troubles.partitions[place], slot)

    async def _partition(self, partition: Partition, slot: int) -> None:
        slot = await self._until(slot)
        self.cut(partition.groups, partition.cut)
        try:
            await self._until(slot + partition.for_slots)
        finally:
            self.heal()

    async def _churn_again_and_again(self, clock: RoundClock, churn: Churn) -> None:
        """Everybody has a turn before anybody has a second one."""
        draw = random.Random(self._troubles.seed)
        nodes, waiting = len(self._net.nodes), list[int]()
        slot = max(clock.starting_slot, await self._slot())
        while True:
            # Counted from the starting slot, so that a multiple of the round time always hits the same phase.
            turns = (slot - clock.starting_slot) // churn.every_slots + 1
            await self._until(clock.starting_slot + turns * churn.every_slots)
            count = churn.victims(nodes)
            if len(waiting) < count:
                fresh = [number for number in range(nodes) if number not in waiting]
                waiting += draw.sample(fresh, len(fresh))
            victims, waiting = waiting[:count], waiting[count:]
            await self.kill_and_restart(victims, churn.down_slots)
            slot = await self._slot()

    # --- inside

    def _note(self, text: str) -> None:
        for note in self._audience:
            note(text)

    def _write(self, conditions: Conditions) -> None:
        self._now = conditions
        replace_private(self.file, encode_conditions(conditions))

    async def _look_again_and_again(self) -> None:
        while True:
            await trio.sleep(LOOK_SECONDS)
            await self._look()

    async def _look(self) -> None:
        """Ask every node what the conditions have done to it; one that is killed keeps what it had said."""
        for node in self._net.nodes:
            child = node.child
            if child is None or not node.addresses:
                continue
            with suppress(NetworkError):
                async with node.client() as client:
                    shaping = (await client.status())["network"].get("shaping") or {}
                self._hits[node.name, child.mark.pid] = Counter({name: int(shaping[name]) for name in _HITS})

    async def _slot(self) -> int:
        while True:
            with suppress(ChainError):
                return await self._net.settlement.slot()
            await trio.sleep(_SLOT_SECONDS)

    async def _until(self, due: int) -> int:
        while (slot := await self._slot()) < due:
            await trio.sleep(_SLOT_SECONDS)
        return slot


def _named(nodes: Sequence[NetNode], numbers: Iterable[int]) -> str:
    return ", ".join(nodes[number].name for number in sorted(numbers))
