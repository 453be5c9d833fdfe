"""The table [network] of a testnet file: links between its nodes, who is cut off, who comes and goes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from decimal import Decimal
from typing import Any, Final

from koii_p2p.conditions import CUTS, HANG, PLAIN, Link, bad, link_of
from koii_p2p.errors import ConfigurationError
from koii_p2p.rounds.clock import RoundClock

PHASES: Final = ("submission", "audit", "delay")
"""Every slot belongs to one of these; those of the lists have the same slots a period later."""

LINK: Final = tuple(one.name for one in fields(Link))
_OTHERS: Final = ("seed", "partition", "churn")
_PARTITION: Final = ("at_round", "phase", "for_slots", "groups", "cut")
_CHURN: Final = ("share", "every_slots", "down_slots")
_MOST_PARTITIONS: Final = 32
_MOST_ROUNDS: Final = 1000
MOST_SLOTS: Final = 10_000


@dataclass(frozen=True, slots=True)
class Partition:
    """From the first slot of a phase on, for so many slots, `groups` are cut off from each other.

    Nodes have numbers, as in node-03; those in no group are one more group, together. `at_round` 0 is the first round
    that counts. `cut` is what becomes of connections across the cut: see `koii_p2p.conditions`.
    """

    at_round: int
    phase: str
    for_slots: int
    groups: tuple[frozenset[int], ...]
    cut: str = HANG

    def begins(self, clock: RoundClock, first: int) -> int:
        """Its first slot; `first` is the first round that counts."""
        window = {"submission": clock.submission, "audit": clock.audit, "delay": clock.delay}[self.phase]
        return window(first + self.at_round).opens

    def __str__(self) -> str:
        return (
            f"{len(self.groups)} groups cut off from the others in round {self.at_round}, from its {self.phase} on, "
            f"for {self.for_slots} slots ({self.cut})"
        )


@dataclass(frozen=True, slots=True)
class Churn:
    """Every `every_slots` a `share` of the nodes, one at least, is killed, and comes back after `down_slots`."""

    share: float
    every_slots: int
    down_slots: int = 10

    def victims(self, nodes: int) -> int:
        """How many of so many nodes are killed at a time."""
        return max(1, round(self.share * nodes))


@dataclass(frozen=True, slots=True)
class NetworkTroubles:
    """What is wrong with the network, from when the nodes start to when the last round is final.

    Chances, and whom churn hits, are drawn from `seed`.
    """

    link: Link = PLAIN
    partitions: tuple[Partition, ...] = ()
    churn: Churn | None = None
    seed: int = 0

    @property
    def any(self) -> bool:
        """Whether anything is wrong at all."""
        return self.link != PLAIN or bool(self.partitions) or self.churn is not None

    def check_nodes(self, nodes: int, rounds: int) -> None:
        """Refuse what such a testnet has no nodes or rounds for. Raises `ConfigurationError`."""
        for partition in self.partitions:
            check_groups(partition.groups, nodes)
            if partition.at_round >= rounds:
                raise bad(
                    f"at_round = {partition.at_round} is not one of {rounds} rounds",
                    "Rounds count from 0: choose an earlier one, or play more rounds.",
                )
        if self.churn is not None and 2 * self.churn.victims(nodes) >= nodes:
            raise bad(
                f"share = {self.churn.share} kills {self.churn.victims(nodes)} of {nodes} nodes at a time",
                "Leave a majority alive: write a smaller share.",
            )

    def __str__(self) -> str:
        said = [] if self.link == PLAIN else [str(self.link)]
        said += map(str, self.partitions)
        if self.churn is not None:
            said.append(f"a share of {self.churn.share} killed every {self.churn.every_slots} slots")
        return ", ".join(said) or "as fast as this machine"


NO_NETWORK_TROUBLES: Final = NetworkTroubles()


def network_of(table: Mapping[str, Any]) -> NetworkTroubles:
    """What a table [network] names. Raises `ConfigurationError`."""
    _check_names(table, (*LINK, *_OTHERS), "The setting")
    seed = table.get("seed", 0)
    _whole("seed", seed, 0, 2**64 - 1)
    partitions = table.get("partition", [])
    if not isinstance(partitions, list) or len(partitions) > _MOST_PARTITIONS:
        raise bad(
            f"`partition` is not a list of at most {_MOST_PARTITIONS} tables",
            'Write it like partition = [{ at_round = 0, phase = "delay", for_slots = 50, groups = [[0, 1]] }].',
        )
    churn = table.get("churn")
    return NetworkTroubles(
        link=link_of(plain_numbers({name: table[name] for name in LINK if name in table})),
        partitions=tuple(_partition(one) for one in partitions),
        churn=None if churn is None else _churn(churn),
        seed=seed,
    )


def groups_of(value: object) -> tuple[frozenset[int], ...]:
    """Groups of nodes, as lists of their numbers. Raises `ConfigurationError`."""
    if not isinstance(value, list) or not value or not all(_are_numbers(group) for group in value):
        raise bad(
            "`groups` is not a list of lists of nodes",
            "Write it like groups = [[0, 1], [2, 3]]: 3 is node-03.",
        )
    return tuple(frozenset(group) for group in value)


def check_groups(groups: Sequence[frozenset[int]], nodes: int) -> None:
    """Refuse groups that so many nodes cannot be cut into. Raises `ConfigurationError`."""
    named = [node for group in groups for node in group]
    check_numbers(named, nodes)
    if len(named) != len(set(named)):
        raise bad("A node is in two groups", "It is on one side of a cut: name it once.")
    if len(groups) == 1 and len(named) == nodes:
        raise bad("All nodes are in one group", "Name at least two groups, or fewer nodes.")


def check_numbers(numbers: Iterable[int], nodes: int) -> None:
    """Refuse numbers of nodes that do not exist. Raises `ConfigurationError`."""
    for number in numbers:
        if not 0 <= number < nodes:
            raise bad(f"There is no node {number}", f"The nodes are 0 to {nodes - 1}.")


def all_in_groups(groups: Sequence[frozenset[int]], nodes: int) -> tuple[frozenset[int], ...]:
    """The groups, and one of all nodes that are in none of them."""
    rest = frozenset(range(nodes)).difference(*groups)
    return (*groups, rest) if rest else tuple(groups)


def plain_numbers(table: Mapping[str, Any]) -> dict[str, Any]:
    """A TOML table with its decimal fractions as floats."""
    return {name: float(value) if isinstance(value, Decimal) else value for name, value in table.items()}


def _partition(table: object) -> Partition:
    values = _table("partition", table, _PARTITION, ("at_round", "phase", "for_slots", "groups"))
    _whole("at_round", values["at_round"], 0, _MOST_ROUNDS)
    _whole("for_slots", values["for_slots"], 1, MOST_SLOTS)
    if values["phase"] not in PHASES:
        raise bad(f"phase = {values['phase']!r} does not exist", f"There are: {', '.join(PHASES)}.")
    check_cut(values.get("cut", HANG))
    return Partition(**{**values, "groups": groups_of(values["groups"])})


def check_cut(value: object) -> None:
    """Refuse a way of cutting that does not exist. Raises `ConfigurationError`."""
    if value not in CUTS:
        raise bad(f"cut = {value!r} does not exist", f"There are: {', '.join(CUTS)}.")


def _churn(table: object) -> Churn:
    values = plain_numbers(_table("churn", table, _CHURN, ("share", "every_slots")))
    share = values["share"]
    if type(share) not in (int, float) or not 0 < share < 0.5:
        raise bad(f"share = {share!r} is not between 0 and 0.5", "Write a share, such as 0.2.")
    _whole("every_slots", values["every_slots"], 10, MOST_SLOTS)
    made = Churn(**values)
    _whole("down_slots", made.down_slots, 1, MOST_SLOTS)
    return made


def _table(name: str, value: object, known: Sequence[str], needed: Sequence[str]) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise bad(f"`{name}` is not a table", f"Give it {', '.join(needed)}.")
    _check_names(value, known, f"In {name} the setting")
    for one in needed:
        if one not in value:
            raise bad(f"`{name}` does not say {one}", f"It needs {', '.join(needed)}.")
    return value


def _check_names(found: Iterable[str], known: Sequence[str], what: str) -> None:
    for name in found:
        if name not in known:
            raise bad(f"{what} `{name}` does not exist", f"There are: {', '.join(known)}.")


def _are_numbers(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(type(one) is int for one in value)


def _whole(name: str, value: object, low: int, high: int) -> None:
    if type(value) is not int or not low <= value <= high:
        raise bad(f"{name} = {value!r} is not a whole number from {low} to {high}", "Choose another value.")


def check_network_windows(troubles: NetworkTroubles, slot_ms: int, delay: int, shortest: int) -> None:
    """Refuse what leaves no time in a round: all in slots but the milliseconds of one. Raises `ConfigurationError`."""
    # A record takes a hop or two of gossip, each with its request and answer: four trips at least.
    needed = -(-4 * (troubles.link.latency_ms + troubles.link.jitter_ms) // slot_ms)
    most = min(delay, shortest) if delay else shortest
    if needed > most:
        raise bad(
            f"latency_ms = {troubles.link.latency_ms} takes {needed} slots for two round trips, and the shortest part "
            f"of a round has {most}",
            "Write a smaller latency, or make the round longer.",
        )
    for partition in troubles.partitions:
        if partition.phase == "delay" and not delay:
            raise _no_delay()


def _no_delay() -> ConfigurationError:
    return bad("There is no delay to cut in", "Make round_time longer, or name another phase.")
