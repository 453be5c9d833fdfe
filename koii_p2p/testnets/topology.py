"""What a testnet is made of: a TOML file and flags become one checked, frozen value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import koii_p2p
from koii_p2p.amounts import ROE_PER_KOII, roe
from koii_p2p.errors import ConfigurationError
from koii_p2p.rounds.audit_rules import AuditRules, Profile, RulesError
from koii_p2p.rounds.audit_table import rules_in
from koii_p2p.rounds.role import MOST_PATROLS
from koii_p2p.rounds.terms import HARDENED, SHORTEST_AUDIT
from koii_p2p.testnets.expect_table import NOTHING_MORE, Expect, expect_of
from koii_p2p.testnets.identity import (
    HONEST,
    LATE_ACCUSER,
    MISBEHAVIOURS,
    OMITTING_LEADER,
    PAYING_ITSELF,
    WRONG_VALUE,
)
from koii_p2p.testnets.k2_troubles import NO_TROUBLES, Troubles, troubles_of
from koii_p2p.testnets.network_troubles import NO_NETWORK_TROUBLES, NetworkTroubles, network_of
from koii_p2p.toml_file import read_bounded, toml_of

EXAMPLE_TASK: Final = Path(koii_p2p.__file__).parent.parent / "examples" / "hello_world"
"""Koii's first task; it is part of the source tree, not of an installed wheel."""

MOST_NODES: Final = 200
MOST_ROUNDS: Final = 1000
FAILED_LISTS: Final = 3
"""How often a round may be tried again after its list was rejected: the task's `allowed_failed_distributions`."""
_MOST_KOII: Final = 1_000_000
_MOST_FILE_BYTES: Final = 64 * 1024
_AMOUNTS: Final = ("stake", "bounty")
_INTEGERS: Final = {"nodes": (3, MOST_NODES), "rounds": (1, MOST_ROUNDS), "k2_port": (0, 65534)}
_WINDOWS: Final = ("round_time", "submission_window", "audit_window")
_ROLES: Final = ("witnesses", "unstaked_witnesses", "watchers", "patrols", "canaries")
_AUDIT_FLAGS: Final = ("profile", "sealed")
"""Settings of the table [audit] that are flags of the command as well."""
_TABLES: Final = ("audit", "behaviours", "roles", "k2", "network", "expect")
_BEHAVIOURS: Final = tuple(name for name in MISBEHAVIOURS if name != WRONG_VALUE)


@dataclass(frozen=True, slots=True)
class NodePlan:
    """What one node is to be; see `NodeIdentity`."""

    behaviour: str = HONEST
    staked: bool = True
    witness: bool = False
    canaries: bool = False


@dataclass(frozen=True, slots=True)
class Topology:
    """A testnet: `nodes` nodes of which the last `cheaters` submit a wrong value, for `rounds` audited rounds.

    `stake` (of each node, twice the task's minimum) and `bounty` (of a round) are Roe. The three windows are
    slots; None lets `timing.round_lengths` choose. `k2_port` 0 picks free ports. `audit` are the task's rules, `k2`
    is what its K2 does wrong, `network` what is wrong between its nodes, and `expect` what has to be so at the end.

    `behaviours` has a number of nodes for each other way to misbehave. Of the honest nodes `witnesses` submit no
    work, `unstaked_witnesses` have no stake either, `watchers` neither stake nor vote, and `canaries` of those who
    submit hand in known-bad work now and then; every honest node looks at `patrols` more submissions a round than it
    is due for. With `task_network` a task that asks for the internet gets it, and may reach what is on this machine;
    with `trace` each node notes when it signs a record or first hears it.
    Raises `ConfigurationError`.
    """

    nodes: int = 5
    cheaters: int = 1
    rounds: int = 3
    slot_ms: int = 100
    stake: int = 1_900_000_000
    bounty: int = 1_000_000_000
    task: Path = EXAMPLE_TASK
    k2_port: int = 0
    round_time: int | None = None
    submission_window: int | None = None
    audit_window: int | None = None
    audit: AuditRules = HARDENED
    k2: Troubles = NO_TROUBLES
    network: NetworkTroubles = NO_NETWORK_TROUBLES
    expect: Expect = NOTHING_MORE
    behaviours: Mapping[str, int] = field(default_factory=dict)
    witnesses: int = 0
    unstaked_witnesses: int = 0
    watchers: int = 0
    patrols: int = 0
    canaries: int = 0
    task_network: bool = False
    trace: bool = False

    def __post_init__(self) -> None:
        for name, (low, high) in _INTEGERS.items():
            _require(name, getattr(self, name), low, high)
        _require("slot_ms", self.slot_ms, 20, 10_000)
        for name in ("task_network", "trace"):
            if type(value := getattr(self, name)) is not bool:
                raise _bad(f"{name} = {value}", "It is true or false.", "Choose one of them.")
        for name in ("cheaters", "witnesses", "unstaked_witnesses", "watchers", "canaries"):
            _require(name, getattr(self, name), 0, self.nodes)
        _require("patrols", self.patrols, 0, MOST_PATROLS)
        self._check_behaviours()
        self._check_roles()
        for name in _AMOUNTS:
            _require(name, getattr(self, name), 1, _MOST_KOII * ROE_PER_KOII)
        self._check_windows()
        self.network.check_nodes(self.nodes, self.rounds)
        if not self.task.exists():
            raise _bad(
                f"task = {str(self.task)!r}",
                "There is nothing at this path.",
                "Name a task's folder or file with --task; examples/hello_world of the source tree is one.",
            )

    def _check_behaviours(self) -> None:
        for name, count in self.behaviours.items():
            if name not in _BEHAVIOURS:
                remedy = f"There are {', '.join(_BEHAVIOURS)}; {WRONG_VALUE} is the setting `cheaters`."
                raise _bad(f"the behaviour {name!r}", "No node behaves like this.", remedy)
            _require(name, count, 0, self.nodes)
        stakers = self.nodes - self.unstaked_witnesses - self.watchers
        if 2 * self.misbehaving >= stakers:
            raise _bad(
                f"{self.misbehaving} misbehaving nodes of {stakers} with a stake",
                "The honest nodes must be the majority, or nobody is there to catch the others.",
                f"Use at most {max(0, stakers - 1) // 2} that misbehave, or more nodes.",
            )
        leaders = {name: self.behaviours.get(name, 0) for name in (OMITTING_LEADER, PAYING_ITSELF)}
        if sum(leaders.values()) > FAILED_LISTS:
            raise _bad(
                " and ".join(f"{name} = {count}" for name, count in leaders.items() if count),
                f"A round is tried again {FAILED_LISTS} times: so many leaders could spoil every attempt.",
                f"Use at most {FAILED_LISTS}.",
            )
        if self.behaviours.get(LATE_ACCUSER) and self.audit.sealed:
            raise _bad(
                f"{LATE_ACCUSER} = {self.behaviours[LATE_ACCUSER]} and sealed ballots",
                "With sealed ballots nobody can vote after the others: such a node would have nothing to do.",
                "Leave one of them out.",
            )

    def _check_roles(self) -> None:
        idle = {name: getattr(self, name) for name in ("witnesses", "unstaked_witnesses", "watchers")}
        submitters = self.honest - sum(idle.values())
        if submitters < 1 or self.canaries >= submitters:
            raise _bad(
                ", ".join(f"{name} = {count}" for name, count in idle.items())
                + f" and canaries = {self.canaries} of {self.honest} honest nodes",
                "At least one honest node must do nothing but the task's work.",
                "Use more nodes, or fewer of those.",
            )
        if self.canaries and not self.audit.canary_rate:
            raise _bad(
                f"canaries = {self.canaries}",
                "The task's audit rules have no canaries.",
                "Write sealed = true and a canary_rate, such as 0.25, into the table [audit].",
            )
        if self.unstaked_witnesses > self.audit.witness_seats:
            raise _bad(
                f"unstaked_witnesses = {self.unstaked_witnesses}",
                f"The task's audit rules have {self.audit.witness_seats} seats for keys without stake.",
                f"Write witness_seats = {self.unstaked_witnesses} into the table [audit].",
            )
        if self.watchers and self.audit.witness_seats:
            raise _bad(
                f"watchers = {self.watchers} and witness_seats = {self.audit.witness_seats}",
                "Where there are seats for keys without stake, a node without one votes.",
                "Use unstaked_witnesses instead, or no seats.",
            )
        if self.patrols and self.audit.profile is Profile.KOII:
            raise _bad(
                f"patrols = {self.patrols} and profile koii",
                "Patrols challenge what they find, and Koii's client knows no challenges.",
                "Leave patrols out, or choose another profile.",
            )

    def _check_windows(self) -> None:
        given = [name for name in _WINDOWS if getattr(self, name) is not None]
        if given and len(given) < len(_WINDOWS):
            raise _bad(
                " and ".join(given),
                "The round time and its two windows are chosen together.",
                f"Set all of {', '.join(_WINDOWS)}, or none.",
            )
        for name in given:
            _require(name, getattr(self, name), 1, 1_000_000)
        if given and (self.submission_window or 0) + (self.audit_window or 0) > (self.round_time or 0):
            raise _bad(
                f"round_time = {self.round_time}",
                "It is shorter than the submission and audit windows together.",
                "Make the round longer or the windows shorter.",
            )
        if given and self.audit.profile is not Profile.KOII and (self.audit_window or 0) < SHORTEST_AUDIT:
            raise _bad(
                f"audit_window = {self.audit_window}",
                f"An audit has stages, and they need {SHORTEST_AUDIT} slots.",
                "Make the audit window longer.",
            )

    @property
    def misbehaving(self) -> int:
        """How many nodes misbehave."""
        return self.cheaters + sum(self.behaviours.values())

    @property
    def honest(self) -> int:
        """How many nodes do what they should."""
        return self.nodes - self.misbehaving

    def plan(self) -> tuple[NodePlan, ...]:
        """What each node is to be, by index: submitters, then witnesses, and those who misbehave at the end.

        So node 0 is always honest. Nodes with canaries are the last of the honest submitters.
        """
        unstaked = self.unstaked_witnesses + self.watchers
        plain = self.honest - self.witnesses - unstaked - self.canaries
        counts = {**self.behaviours, WRONG_VALUE: self.cheaters}
        return (
            *(NodePlan() for _ in range(plain)),
            *(NodePlan(canaries=True) for _ in range(self.canaries)),
            *(NodePlan(witness=True) for _ in range(self.witnesses)),
            *(NodePlan(witness=True, staked=False) for _ in range(unstaked)),
            *(NodePlan(name) for name in MISBEHAVIOURS for _ in range(counts.get(name, 0))),
        )


def load_topology(file: Path | None, flags: Mapping[str, Any]) -> Topology:
    """Make a topology of a TOML file and flags, where given; a flag goes before the file.

    Flags that are None were not given; `profile` and `sealed` are those of the table [audit]. In the file amounts
    are KOII, a task's path is relative to the file. Raises `ConfigurationError` for a file that cannot be read, an
    unknown name or a value out of range.
    """
    values = {} if file is None else _read(file)
    given = {name: value for name, value in flags.items() if value is not None}
    audit = {**values.pop("audit", {}), **{name: given.pop(name) for name in _AUDIT_FLAGS if name in given}}
    k2 = troubles_of(values.pop("k2", {}))
    network, expect = network_of(values.pop("network", {})), expect_of(values.pop("expect", {}))
    return Topology(**{**values, **given}, audit=_audit_rules(audit), k2=k2, network=network, expect=expect)


def _audit_rules(table: Mapping[str, Any]) -> AuditRules:
    try:
        return rules_in(table)
    except RulesError as error:
        raise ConfigurationError(
            "A testnet with these audit rules is not possible.",
            f"{error}.",
            "Correct the table [audit], or the flags that change it.",
        ) from error


def _read(file: Path) -> dict[str, Any]:
    what = f"The testnet file {file} cannot be used."
    values = toml_of(read_bounded(file, what, _MOST_FILE_BYTES, "Name the right file with --file."), what)
    tables = {name: _table(what, name, values) for name in _TABLES}
    _check_names(what, tables["roles"], _ROLES, "in [roles] ")
    _check_names(what, values, {one.name for one in fields(Topology)} - {*tables, *_ROLES}, "")
    for name, value in values.items():
        if name in _AMOUNTS:
            try:
                values[name] = roe(value if type(value) in (str, int, Decimal) else str(value))
            except ValueError as error:
                raise ConfigurationError(what, f"{name}: {error}.", "Write it like 1.9.") from error
        elif name == "task":
            values[name] = (file.parent / str(value)).resolve()
    return {**values, **tables.pop("roles"), **tables}


def _table(what: str, name: str, values: dict[str, Any]) -> dict[str, Any]:
    table = values.pop(name, {})
    if not isinstance(table, dict):
        raise ConfigurationError(what, f"`{name}` is not a table.", f"Write [{name}] on a line of its own.")
    return table


def _check_names(
    what: str, found: Mapping[str, object], known: set[str] | tuple[str, ...], where: str
) -> None:
    for name in found:
        if name not in known:
            remedy = f"There are: {', '.join(sorted(known))}."
            why = f"It has {where}a setting `{name}`, which does not exist."
            raise ConfigurationError(what, why, remedy)


def _require(name: str, value: object, low: int, high: int) -> None:
    if type(value) is not int or not low <= value <= high:
        raise _bad(
            f"{name} = {value}", f"It is a whole number from {low} to {high}.", "Choose another value."
        )


def _bad(setting: str, why: str, remedy: str) -> ConfigurationError:
    return ConfigurationError(f"A testnet with {setting} is not possible.", why, remedy)
