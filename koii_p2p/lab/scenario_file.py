"""Scenarios as people write them: a TOML file becomes a `Scenario`, and back to a plain table.

Strict: a name that does not exist is an error that says which one was probably meant. Amounts are KOII. Shares, rates
and confidences of the audit rules are fractions of one, written beside the task's windows in [protocol].
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from decimal import Decimal
from enum import StrEnum
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, TypeVar

from koii_p2p.amounts import ROE_PER_KOII, roe
from koii_p2p.errors import ConfigurationError
from koii_p2p.lab.behaviours.catalogue import BEHAVIOURS, JOINED
from koii_p2p.lab.scenario import (
    OF_GOSSIP,
    OF_ROUNDS,
    Attack,
    Chain,
    Churn,
    Defence,
    Economy,
    EngineKind,
    Group,
    Latency,
    LatencyModel,
    Network,
    Partition,
    Protocol,
    Scenario,
    Transport,
    bad,
    nearest,
)
from koii_p2p.rounds.audit_rules import AuditRules, Profile, RulesError
from koii_p2p.rounds.audit_table import FRACTIONS, PROFILES, rules_in, written
from koii_p2p.toml_file import read_bounded, toml_of

_MOST_FILE_BYTES: Final = 4 * 1024 * 1024
"""Room for a latency matrix."""

_KOII_TODAY: Final = "koii-today"
_PROFILES: Final = {_KOII_TODAY if one is Profile.KOII else name: one for name, one in PROFILES.items()}

_AMOUNTS: Final = ("stake", "bounty", "work_cost", "audit_cost")
_Value = TypeVar("_Value")


def read_table(file: Path) -> dict[str, Any]:
    """The table of an experiment's TOML file, or of the JSON of a run folder, with the file's name if it says none.

    Raises `ConfigurationError`.
    """
    what = f"The scenario {file} cannot be used."
    data = read_bounded(file, what, _MOST_FILE_BYTES, "Name the right file.")
    table = _json(data, what) if file.suffix == ".json" else toml_of(data, what)
    return {"name": file.stem[:64], **table}


def _json(data: bytes, what: str) -> dict[str, Any]:
    remedy = "Name the experiment.json of a run folder."
    try:
        table = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ConfigurationError(what, f"It is not JSON: {error}.", remedy) from error
    if not isinstance(table, dict):
        raise ConfigurationError(what, "It is no table.", remedy)
    return table


def read_scenario(file: Path) -> Scenario:
    """Read a scenario from a TOML file. Raises `ConfigurationError`."""
    return scenario_of(read_table(file))


def scenario_of(table: Mapping[str, Any]) -> Scenario:
    """The scenario that a table says, with the names and forms of a file. Raises `ConfigurationError`."""
    tables: dict[str, Callable[[dict[str, Any]], Any]] = {
        "network": _network,
        "protocol": _protocol,
        "population": _population,
        "chain": lambda values: _made(Chain, values, "[chain]"),
        "economy": _economy,
        "attack": lambda values: _made(Attack, values, "[attack]"),
    }
    rest = {name: value for name, value in table.items() if name not in tables}
    _known_names(rest, _names(Scenario), "the scenario")
    if "engine" in rest:
        rest["engine"] = _choice(EngineKind, rest["engine"], "engine")
    _require_own(table, rest.get("engine", EngineKind.EXACT))
    values = {name: make(_table(table, name)) for name, make in tables.items()}
    if "defence" in rest:
        rest["defence"] = _choice(Defence, rest["defence"], "defence")
    if "metrics" in rest:
        rest["metrics"] = _texts(rest["metrics"], "metrics")
    if not isinstance(rest.get("name", ""), str):
        raise bad(f"name = {rest['name']!r} is no text", "Write it in quotes.")
    return Scenario(**{**_plain(rest), **values})


def table_of(scenario: Scenario) -> dict[str, Any]:
    """A scenario as a table of JSON values: what `scenario_of` reads back, and a run folder keeps.

    It has what its engine has to do with, and nothing else.
    """
    found: dict[str, Any] = _said(scenario)
    for name in _foreign(scenario.engine):
        del found[name]
    if scenario.engine is EngineKind.GOSSIP:
        return found
    protocol, economy = found["protocol"], found["economy"]
    audit = scenario.protocol.audit
    rules = {one.name: getattr(audit, one.name) for one in fields(AuditRules)}
    rules |= {name: rules[name] / parts for name, parts in FRACTIONS.items()}
    rules["profile"] = next(name for name, one in _PROFILES.items() if one is audit.profile)
    rules["weights"] = written(audit.weights)
    del protocol["audit"]
    found["protocol"] = {**protocol, **rules}
    found["economy"] = {**economy, **{name: str(Decimal(economy[name]) / ROE_PER_KOII) for name in _AMOUNTS}}
    if not scenario.network.latency.matrix:
        del found["network"]["latency"]["matrix"]
    if scenario.network.bandwidth_kib is None:
        del found["network"]["bandwidth_kib"]
    found["population"] = {
        group.behaviour: {
            "share": group.share,
            "start_round": group.start_round,
            **{f"{name}-{_parameter_of(name)}": value for name, value in sorted(group.parameters.items())},
        }
        for group in scenario.population
    }
    return found


def changed(scenario: Scenario, changes: Mapping[str, Any]) -> Scenario:
    """A scenario with other values, by dotted name: {"protocol.auditors": 7}. Raises `ConfigurationError`."""
    table = table_of(scenario)
    for name, value in changes.items():
        *path, last = name.split(".")
        place = table
        for part in path:
            inner = place.setdefault(part, {})
            if not isinstance(inner, dict):
                raise bad(f"`{name}`: {part} has no settings", "Name one as in a file, with dots for tables.")
            place = inner
        place[last] = value
    return scenario_of(table)


def digest_of(scenario: Scenario) -> str:
    """SHA-256 (hexadecimal) over all that decides a run of this scenario but its seed: what a run folder names."""
    table = table_of(scenario)
    for name in ("name", "seed", "seeds", "metrics"):
        del table[name]
    return sha256(json.dumps(table, sort_keys=True).encode()).hexdigest()


# --- the tables


def _foreign(engine: EngineKind) -> tuple[str, ...]:
    """Settings that an engine has nothing to do with."""
    return OF_ROUNDS if engine is EngineKind.GOSSIP else OF_GOSSIP


def _require_own(table: Mapping[str, Any], engine: EngineKind) -> None:
    """Raise `ConfigurationError` for a setting that only other engines have."""
    for name in _foreign(engine):
        if name in table:
            others = "the engines exact and fast" if name in OF_ROUNDS else "the engine gossip"
            own = OF_GOSSIP if name in OF_ROUNDS else OF_ROUNDS
            raise bad(
                f"`{name}` is a setting of {others}, and this scenario's engine is {engine.value}",
                f"Leave it out, or choose another engine. {engine.value} has: {', '.join(own)}.",
            )


def _network(table: dict[str, Any]) -> Network:
    latency = table.get("latency", {})
    match latency:
        case int() | Decimal() | float():
            table["latency"] = Latency(low_ms=float(latency), high_ms=float(latency))
        case [low, high]:
            table["latency"] = _made(Latency, {"low_ms": low, "high_ms": high}, "latency")
        case str():
            table["latency"] = Latency(_choice(LatencyModel, latency, "latency"))
        case dict():
            table["latency"] = _latency(dict(latency))
        case _:
            raise bad(
                f"latency = {latency!r} is no latency",
                'Write milliseconds (50), a range ([20, 120]), "cities", or a table [network.latency]',
            )
    table["churn"] = _made(Churn, _table(table, "churn"), "[network.churn]")
    partitions = table.get("partitions", [])
    if not isinstance(partitions, list):
        raise bad("`partitions` is no list of tables", "Write [[network.partitions]] for each.")
    table["partitions"] = tuple(
        _made(Partition, _as_table(one, "partitions"), "[[network.partitions]]") for one in partitions
    )
    return _made(Network, table, "[network]")


def _latency(table: dict[str, Any]) -> Latency:
    if "model" in table:
        table["model"] = _choice(LatencyModel, table["model"], "latency.model")
    if "cities" in table:
        table["cities"] = _texts(table["cities"], "latency.cities")
    if "matrix" in table:
        rows = table["matrix"]
        if not isinstance(rows, list) or not all(
            isinstance(row, list) and all(type(ms) in (int, float, Decimal) for ms in row) for row in rows
        ):
            raise bad("latency.matrix is no list of rows of milliseconds", "Write [[0, 20], [20, 0]].")
        table["matrix"] = tuple(tuple(float(ms) for ms in row) for row in rows)
    return _made(Latency, table, "[network.latency]")


def _protocol(table: dict[str, Any]) -> Protocol:
    rules = {name: table.pop(name) for name in _names(AuditRules) if name in table}
    if "audit" in table:
        raise bad("`audit` is no setting of [protocol]", "Write the audit rules into [protocol] itself.")
    if "transport" in table:
        table["transport"] = _choice(Transport, table["transport"], "protocol.transport")
    known = [name for name in _names(Protocol) if name != "audit"] + list(_names(AuditRules))
    _known_names(table, known, "[protocol]")
    return _made(Protocol, {**table, "audit": _rules(rules)}, "[protocol]")


def _rules(rules: dict[str, Any]) -> AuditRules:
    try:
        return rules_in(rules, _PROFILES)
    except RulesError as error:
        raise bad(f"The audit rules: {error}", "Correct them in [protocol].") from error


def _population(table: dict[str, Any]) -> tuple[Group, ...]:
    groups = []
    for behaviour, value in table.items():
        for name in behaviour.split(JOINED):
            if name not in BEHAVIOURS:
                raise bad(
                    f"The behaviour `{name}` does not exist",
                    f"Did you mean {nearest(name, BEHAVIOURS)}? There are: {', '.join(BEHAVIOURS)}.",
                )
        said = {"share": value} if type(value) in (int, float, Decimal) else _as_table(value, behaviour)
        groups.append(_group(behaviour, dict(said)))
    return tuple(groups)


def _group(behaviour: str, table: dict[str, Any]) -> Group:
    known: dict[str, str] = {}
    for name in behaviour.split(JOINED):
        if BEHAVIOURS[name].parameter is not None:
            known[f"{name}-{_parameter_of(name)}"] = name
            known.setdefault(_parameter_of(name), name)
    where = f"[population.{behaviour}]"
    _known_names(table, ["share", "start_round", *known], where)
    parameters = {known[name]: value for name, value in _plain(table).items() if name in known}
    rest = {name: value for name, value in table.items() if name not in known}
    return _made(Group, {**rest, "behaviour": behaviour, "parameters": parameters}, where)


def _parameter_of(behaviour: str) -> str:
    parameter = BEHAVIOURS[behaviour].parameter
    return "" if parameter is None else parameter.name


def _economy(table: dict[str, Any]) -> Economy:
    for name in _AMOUNTS:
        if name in table:
            value = table[name]
            try:
                table[name] = roe(value if type(value) in (str, int, Decimal) else str(value))
            except ValueError as error:
                raise bad(f"economy.{name}: {error}", "Write an amount in KOII, such as 1.9.") from error
    return _made(Economy, table, "[economy]")


# --- values


def _made(kind: type[_Value], table: Mapping[str, Any], where: str) -> _Value:
    """A dataclass of its named values; numbers that are to be floats become floats."""
    _known_names(table, _names(kind), where)
    values = _plain(table)
    for one in fields(kind):  # type: ignore[arg-type]
        # 10 and 10.0 are the same scenario, and have to have the same digest.
        if isinstance(one.metadata.get("low"), float) and type(values.get(one.name)) is int:
            values[one.name] = float(values[one.name])
    return kind(**values)


def _plain(table: Mapping[str, Any]) -> dict[str, Any]:
    return {name: float(value) if isinstance(value, Decimal) else value for name, value in table.items()}


def _said(value: object) -> Any:
    if isinstance(value, StrEnum):
        return value.value
    if isinstance(value, tuple):
        return [_said(one) for one in value]
    if hasattr(type(value), "__dataclass_fields__"):
        return {one.name: _said(getattr(value, one.name)) for one in fields(value)}  # type: ignore[arg-type]
    return value


def _names(kind: type) -> tuple[str, ...]:
    return tuple(one.name for one in fields(kind))


def _known_names(found: Iterable[str], known: Iterable[str], where: str) -> None:
    names = tuple(known)
    for name in found:
        if name not in names:
            raise bad(
                f"The setting `{name}` of {where} does not exist",
                f"Did you mean {nearest(name, names)}? There are: {', '.join(sorted(names))}.",
            )


def _table(found: Mapping[str, Any], name: str) -> dict[str, Any]:
    return dict(_as_table(found.get(name, {}), name))


def _as_table(value: object, name: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise bad(f"`{name}` is no table", f"Write [{name}] on a line of its own, and its settings below.")
    return value


def _texts(value: object, name: str) -> tuple[str, ...]:
    if not isinstance(value, list | tuple) or not all(isinstance(one, str) for one in value):
        raise bad(f"`{name}` is no list of texts", 'Write it like ["one", "two"].')
    return tuple(value)


_Choice = TypeVar("_Choice", bound=StrEnum)


def _choice(kind: type[_Choice], value: object, name: str) -> _Choice:
    for member in kind:
        if value == member.value:
            return member
    known = [member.value for member in kind]
    raise bad(
        f"{name} = {value!r} does not exist",
        f"Did you mean {nearest(str(value), known)}? There are: {', '.join(known)}.",
    )
