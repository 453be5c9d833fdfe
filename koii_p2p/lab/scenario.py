"""Scenarios: everything about an experiment, as one frozen, checked value.

`scenario_file` reads it from TOML. Times have their unit in their name, shares and chances are from 0 to 1, amounts are
Roe. (code, scenario, seed) decides every bit of a run.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import Field, dataclass, field, fields, replace
from difflib import get_close_matches
from enum import StrEnum
from typing import Any, Final

from koii_p2p.amounts import ROE_PER_KOII
from koii_p2p.errors import ConfigurationError
from koii_p2p.lab.behaviours.catalogue import BEHAVIOURS, HONEST, JOINED
from koii_p2p.rounds.audit_rules import AuditRules, Profile
from koii_p2p.rounds.terms import HARDENED, SHORTEST_AUDIT

MOST_NODES: Final = 100_000
MOST_ROUNDS: Final = 100_000
MOST_PARTITIONS: Final = 64
MOST_MATRIX: Final = 4096
MOST_DELIVERIES: Final = 20_000_000
"""Of messages to honest nodes, in one run of gossip: each is a row of a table."""


def bad(why: str, remedy: str) -> ConfigurationError:
    """What is wrong with a scenario."""
    return ConfigurationError("Such a scenario is not possible.", f"{why}.", remedy)


# --- what a setting may be


def _whole(default: int, low: int, high: int) -> Any:
    return field(default=default, metadata={"low": low, "high": high})


def _number(default: float, low: float, high: float) -> Any:
    return field(default=default, metadata={"low": low, "high": high})


def _share(default: float) -> Any:
    return _number(default, 0.0, 1.0)


def _check(value: object, where: str) -> None:
    """Check the ranges of all fields of a dataclass that have one."""
    for one in fields(value):  # type: ignore[arg-type]
        if one.metadata:
            _check_one(one, getattr(value, one.name), where)


def _check_one(one: Field[Any], value: object, where: str) -> None:
    name, low, high = f"{where}{one.name}", one.metadata["low"], one.metadata["high"]
    if value is None and one.default is None:
        return
    # bool is an int to Python, and True nodes would pass every comparison.
    if isinstance(low, float):
        if type(value) not in (int, float) or not low <= value <= high:  # type: ignore[operator]
            raise bad(f"{name} = {value!r} is not a number from {low:g} to {high:g}", "Choose another value.")
    elif type(value) is not int or not low <= value <= high:
        raise bad(f"{name} = {value!r} is not a whole number from {low} to {high}", "Choose another value.")


# --- the network


class LatencyModel(StrEnum):
    """How the latency of a link is found. Each link has one, the same both ways, drawn once."""

    UNIFORM = "uniform"
    """Evenly between `low_ms` and `high_ms`; constant if they are equal."""
    LOGNORMAL = "lognormal"
    """With the median `median_ms`, and `sigma` of the natural logarithm."""
    EXPONENTIAL = "exponential"
    """`low_ms`, and an exponential of mean `median_ms` on top."""
    CITIES = "cities"
    """Nodes are spread evenly over `cities` (all if empty); see `lab.cities`."""
    MATRIX = "matrix"
    """`matrix[i][j]` ms between nodes i and j; node numbers are taken modulo its size."""


@dataclass(frozen=True, slots=True)
class Latency:
    """One-way latencies of links, in milliseconds. Raises `ConfigurationError`."""

    model: LatencyModel = LatencyModel.UNIFORM
    low_ms: float = _number(20.0, 0.0, 60_000.0)
    high_ms: float = _number(120.0, 0.0, 60_000.0)
    median_ms: float = _number(50.0, 0.0, 60_000.0)
    sigma: float = _number(0.5, 0.0, 5.0)
    cities: tuple[str, ...] = ()
    matrix: tuple[tuple[float, ...], ...] = ()

    def __post_init__(self) -> None:
        _check(self, "latency.")
        if self.low_ms > self.high_ms and self.model is LatencyModel.UNIFORM:
            raise bad(f"A latency from {self.low_ms:g} to {self.high_ms:g} ms is empty", "Swap the two.")
        if (self.model is LatencyModel.MATRIX) != bool(self.matrix):
            raise bad("The latency model matrix and a matrix belong together", "Give both or none.")
        if len(self.matrix) > MOST_MATRIX:
            raise bad(f"A matrix of {len(self.matrix)} rows", f"Write at most {MOST_MATRIX}.")
        for row in self.matrix:
            if len(row) != len(self.matrix) or not all(0 <= ms <= 60_000 for ms in row):
                raise bad("The latency matrix is not square, or not from 0 to 60000 ms", "Correct it.")


@dataclass(frozen=True, slots=True)
class Churn:
    """Nodes that come and go: each goes so often in a minute, and is away for an exponential time of this mean.

    `records_lost` is the share of them that come back with nothing but their key and their signing journal.
    """

    per_minute: float = _number(0.0, 0.0, 60.0)
    away_seconds: float = _number(20.0, 0.1, 86_400.0)
    records_lost: float = _share(0.0)

    def __post_init__(self) -> None:
        _check(self, "network.churn.")


@dataclass(frozen=True, slots=True)
class Partition:
    """The net falls in two for a while: this share of the nodes, drawn by chance, is cut off from the others.

    Times are in rounds from the start of the task: 2.5 is in the middle of period 2. K2 is reached by everybody.
    """

    start: float = _number(1.0, 0.0, float(MOST_ROUNDS))
    rounds: float = _number(0.5, 0.0, float(MOST_ROUNDS))
    share: float = _share(0.5)

    def __post_init__(self) -> None:
        _check(self, "network.partitions.")


@dataclass(frozen=True, slots=True)
class Network:
    """Nodes and what lies between them.

    `degree` is how many others each node dials; links work both ways, so that a node has about twice as many.
    `jitter` is the share by which a message may be slower or faster than its link. `loss` is the chance that a frame is
    lost for good, as by a connection that ends; TCP's own repetitions belong into the latency. `bandwidth_kib` is
    what a node can send, in KiB a second, to all peers together; None is without limit. Clocks of nodes are wrong by
    up to `clock_skew_ms`.
    """

    nodes: int = _whole(50, 3, MOST_NODES)
    degree: int = _whole(10, 1, 1000)
    latency: Latency = field(default_factory=Latency)
    jitter: float = _share(0.1)
    loss: float = _number(0.0, 0.0, 0.9)
    bandwidth_kib: int | None = field(default=None, metadata={"low": 1, "high": 100_000_000})
    clock_skew_ms: int = _whole(0, 0, 3_600_000)
    churn: Churn = field(default_factory=Churn)
    partitions: tuple[Partition, ...] = ()

    def __post_init__(self) -> None:
        _check(self, "network.")
        if len(self.partitions) > MOST_PARTITIONS:
            raise bad(f"{len(self.partitions)} partitions", f"Write at most {MOST_PARTITIONS}.")


# --- the protocol


class Transport(StrEnum):
    """How records travel in the exact engine."""

    GOSSIP = "gossip"
    """By a real `GossipRouter` at every node."""
    DIRECT = "direct"
    """Once to every node, by the quickest way over the links: no duplicates, no mesh, and none of their cost.

    What nodes do in gossip (censors, sybils, eclipses) has no effect then.
    """


@dataclass(frozen=True, slots=True)
class Protocol:
    """The rules that are played by: the task's windows (in slots) and audit rules, and what nodes choose themselves.

    `patrols`: submissions a round that each honest node looks at beyond those that it is due for. `canary_players`: the
    share of honest nodes that hand in known-bad work when it is their turn, where `audit.canary_rate` is set.
    `reconcile_peers` are asked at each of a round's moments for records that are lacking; 0 never asks.
    `mesh_degree` is gossip's D; 0 goes by the number of nodes, as nodes do. Nodes say where they are every
    `presence_seconds`; 0 never.
    """

    audit: AuditRules = HARDENED
    round_time: int = _whole(60, 3, 1_000_000)
    submission_window: int = _whole(20, 1, 1_000_000)
    audit_window: int = _whole(24, 1, 1_000_000)
    patrols: int = _whole(0, 0, 100)
    canary_players: float = _share(0.0)
    reconcile_peers: int = _whole(3, 0, 1000)
    artifact_peers: int = _whole(4, 1, 1000)
    transport: Transport = Transport.GOSSIP
    mesh_degree: int = _whole(0, 0, 100)
    flood_publish: bool = True
    heartbeat_ms: int = _whole(1000, 10, 60_000)
    presence_seconds: float = _number(20.0, 0.0, 3600.0)

    def __post_init__(self) -> None:
        _check(self, "protocol.")
        if self.submission_window + self.audit_window > self.round_time:
            raise bad(
                f"protocol.round_time = {self.round_time} is shorter than both windows together",
                "Make the round longer or the windows shorter.",
            )
        if self.audit.profile is not Profile.KOII and self.audit_window < SHORTEST_AUDIT:
            raise bad(
                f"protocol.audit_window = {self.audit_window} is shorter than the stages of an audit",
                f"They need {SHORTEST_AUDIT} slots.",
            )
        if self.patrols and self.audit.profile is Profile.KOII:
            raise bad("protocol.patrols and profile koii-today", "Koii's client knows no challenges.")
        if self.canary_players and not self.audit.canary_rate:
            raise bad("protocol.canary_players without audit.canary_rate", "Write a rate, or no players.")


# --- the population


@dataclass(frozen=True, slots=True)
class Group:
    """A part of the population: a share of all nodes that behaves in one way from `start_round` on.

    `behaviour` is a name of `behaviours.catalogue`, or several joined by "+". `parameters` are theirs, by name of the
    behaviour; what is left out has its default.
    """

    behaviour: str
    share: float = _share(0.0)
    start_round: int = _whole(0, 0, MOST_ROUNDS)
    parameters: Mapping[str, float | str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check(self, f"population.{self.behaviour}.")
        for name in self.names:
            if name not in BEHAVIOURS:
                raise bad(
                    f"The behaviour `{name}` does not exist",
                    f"Did you mean {nearest(name, BEHAVIOURS)}? There are: {', '.join(BEHAVIOURS)}.",
                )
        for name, value in self.parameters.items():
            self._check_parameter(name, value)

    def _check_parameter(self, name: str, value: float | str) -> None:
        parameter = BEHAVIOURS[name].parameter if name in self.names else None
        if parameter is None:
            raise bad(
                f"population.{self.behaviour} has a parameter of {name}", "It has none of that behaviour."
            )
        where = f"population.{self.behaviour}.{parameter.name} = {value!r}"
        if parameter.choices:
            if value not in parameter.choices:
                raise bad(f"{where} does not exist", f"There are: {', '.join(parameter.choices)}.")
        elif type(value) not in (int, float) or not parameter.low <= value <= parameter.high:  # type: ignore[operator]
            raise bad(f"{where} is not from {parameter.low:g} to {parameter.high:g}", "Choose another value.")
        elif parameter.whole and value != int(value):
            raise bad(f"{where} is not a whole number", "Choose another value.")

    @property
    def names(self) -> tuple[str, ...]:
        """The behaviours that are joined in this one."""
        return tuple(self.behaviour.split(JOINED))

    @property
    def misbehaves(self) -> bool:
        """Whether any of them breaks the rules."""
        return any(BEHAVIOURS[name].misbehaves for name in self.names)

    @property
    def staked(self) -> bool:
        """Whether its nodes have a stake."""
        return all(BEHAVIOURS[name].staked for name in self.names)

    def parameter(self, name: str) -> float | str:
        """The parameter of one of its behaviours. Raises KeyError for one that has none."""
        described = BEHAVIOURS[name].parameter
        if described is None:
            raise KeyError(name)
        return self.parameters.get(name, described.default)


# --- the chain and the money


@dataclass(frozen=True, slots=True)
class Chain:
    """A simulated K2: slots of `slot_ms`; a transaction lands `delay_slots` after it was sent, if at all.

    `fee_roe` is K2's fee for each signature of a transaction. `loss` is the chance that one never lands, as when a
    leader is down. Nodes read the chain every `read_every` slots, and what they read is up to `lag_slots` old.
    """

    slot_ms: int = _whole(400, 10, 60_000)
    delay_slots: int = _whole(1, 0, 1000)
    fee_roe: int = _whole(5000, 0, ROE_PER_KOII)
    loss: float = _number(0.0, 0.0, 0.99)
    read_every: int = _whole(5, 1, 1000)
    lag_slots: int = _whole(0, 0, 1000)

    def __post_init__(self) -> None:
        _check(self, "chain.")


@dataclass(frozen=True, slots=True)
class Economy:
    """Roe: what a node stakes, what a round pays, what work and one audit cost whoever does them.

    `slash` is the share of its stake that a rejected submission costs; a node with less than `minimum` of what it
    staked at first is in no roster any more.
    """

    stake: int = _whole(1_900_000_000, 1, 10**18)
    bounty: int = _whole(1_000_000_000, 0, 10**18)
    slash: float = _share(0.7)
    minimum: float = _share(0.5)
    work_cost: int = _whole(0, 0, 10**18)
    audit_cost: int = _whole(0, 0, 10**18)

    def __post_init__(self) -> None:
        _check(self, "economy.")


# --- attacks on gossip alone


class Defence(StrEnum):
    """What honest nodes run where gossip is attacked."""

    V1_0 = "v1.0"
    """GossipSub v1.0: a mesh and gossip; no scores, no flood publishing, no quotas."""
    UNSCORED = "unscored"
    """Ours without scores: flood publishing and the quota of dialled peers are left."""
    REPORT = "report"
    """Ours with the degrees and score parameters of the report's cold boot."""
    OURS = "ours"
    """What nodes of ours run."""


@dataclass(frozen=True, slots=True)
class Attack:
    """An attack by sybils on gossip, and the net it is on. Times are seconds of virtual time since the start.

    Honest nodes dial `links` others each, sybils `sybil_links` honest ones. Sybils come at `sybils_at_seconds`, and
    forward as they should until `attack_at_seconds`; from then on, and from the start if it is not later, they forward
    nothing. One that is pruned grafts again after `regraft_back_off_seconds` and up to `regraft_delay_seconds` more.
    From `warm_seconds` on, `messages_per_second` of `message_bytes` are published for `run_seconds`, by the first
    `publishers` honest nodes in turn. Links take `latency_ms` one way, and up to a tenth more or less. The defaults are
    those of the report's cold boot. Raises `ConfigurationError`.
    """

    honest: int = _whole(1000, 2, 20_000)
    sybils: int = _whole(4000, 0, 100_000)
    links: int = _whole(20, 1, 1000)
    sybil_links: int = _whole(20, 0, 1000)
    sybils_at_seconds: float = _number(0.0, 0.0, 86_400.0)
    attack_at_seconds: float = _number(0.0, 0.0, 86_400.0)
    regraft_back_off_seconds: float = _number(60.0, 0.0, 3600.0)
    regraft_delay_seconds: float = _number(15.0, 0.0, 3600.0)
    warm_seconds: float = _number(30.0, 0.0, 86_400.0)
    run_seconds: float = _number(180.0, 1.0, 86_400.0)
    messages_per_second: float = _number(2.0, 0.01, 1000.0)
    message_bytes: int = _whole(2048, 4, 1_000_000)
    publishers: int = _whole(100, 1, 20_000)
    latency_ms: float = _number(25.0, 0.0, 60_000.0)

    def __post_init__(self) -> None:
        _check(self, "attack.")
        due = self.messages * (self.honest - 1)
        if not self.messages:
            raise bad("Nothing is published", "Make attack.run_seconds longer.")
        if due > MOST_DELIVERIES:
            raise bad(
                f"{self.messages} messages to {self.honest} honest nodes are more than {MOST_DELIVERIES} deliveries",
                "Publish for a shorter time, or more slowly.",
            )

    @property
    def messages(self) -> int:
        """How many are published."""
        return int(self.run_seconds * self.messages_per_second)

    def shrunk(self, factor: int) -> Attack:
        """The same with a `factor`th of all nodes."""
        return replace(
            self,
            honest=max(2, self.honest // factor),
            sybils=self.sybils // factor,
            publishers=max(1, self.publishers // factor),
        )


# --- all of it


class EngineKind(StrEnum):
    """What plays a scenario."""

    EXACT = "exact"
    """The round engine that nodes run, at every node, over simulated links."""
    FAST = "fast"
    """Arrays of what the rules come to, for nets and numbers of rounds that the exact one takes too long for."""
    GOSSIP = "gossip"
    """The gossip router that nodes run, at every node and alone: messages under attack, and no rounds."""


OF_ROUNDS: Final = ("rounds", "network", "protocol", "population", "chain", "economy")
"""Settings that only engines that play rounds have."""
OF_GOSSIP: Final = ("defence", "attack")
"""Settings that only the engine gossip has."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """An experiment: `rounds` audited rounds, or one attack on gossip, played for each of `seeds` seeds from `seed` on.

    `metrics` are those to report; all if empty. What is in `OF_ROUNDS` means nothing to the engine gossip, and what is
    in `OF_GOSSIP` nothing to the others. Raises `ConfigurationError`.
    """

    name: str = "scenario"
    rounds: int = _whole(5, 1, MOST_ROUNDS)
    seed: int = _whole(1, 0, 2**63 - 1)
    seeds: int = _whole(1, 1, 1_000_000)
    engine: EngineKind = EngineKind.EXACT
    metrics: tuple[str, ...] = ()
    network: Network = field(default_factory=Network)
    protocol: Protocol = field(default_factory=Protocol)
    population: tuple[Group, ...] = ()
    chain: Chain = field(default_factory=Chain)
    economy: Economy = field(default_factory=Economy)
    defence: Defence = Defence.OURS
    attack: Attack = field(default_factory=Attack)

    def __post_init__(self) -> None:
        _check(self, "")
        if not 0 < len(self.name) <= 64:
            raise bad(f"name = {self.name!r} has not 1 to 64 characters", "Choose another one.")
        if sum(group.share for group in self.population) > 1 + 1e-9:
            raise bad("The shares of the population are more than 1 together", "Make some smaller.")
        names = [group.behaviour for group in self.population]
        if len(names) != len(set(names)):
            raise bad("A behaviour is in the population twice", "Write it once, with the sum of both shares.")
        if sum(1 for group in self.crew() if group.staked) < 3:
            raise bad("Fewer than three nodes have a stake", "Use more nodes, or fewer without a stake.")

    def crew(self) -> tuple[Group, ...]:
        """The group of every node: honest ones first, so that node 0 is honest if any is; then as written.

        Shares are rounded to whole nodes, half up.
        """
        plain = Group(HONEST)
        others = [
            group
            for group in self.population
            for _ in range(int(group.share * self.network.nodes + 0.5))
            if group.behaviour != HONEST
        ][: self.network.nodes]
        return (*[plain] * (self.network.nodes - len(others)), *others)


def nearest(name: str, known: Iterable[str]) -> str:
    """The known name that is written most like one that is not."""
    found = get_close_matches(name, list(known), n=1, cutoff=0.0)
    return f"`{found[0]}`" if found else "another one"
