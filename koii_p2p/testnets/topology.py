"""What a testnet is made of: a TOML file and flags become one checked, frozen value."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import koii_p2p
from koii_p2p.amounts import ROE_PER_KOII, roe
from koii_p2p.errors import ConfigurationError

EXAMPLE_TASK: Final = Path(koii_p2p.__file__).parent.parent / "examples" / "hello_world"
"""Koii's first task; it is part of the source tree, not of an installed wheel."""

MOST_NODES: Final = 200
MOST_ROUNDS: Final = 1000
_MOST_KOII: Final = 1_000_000
_MOST_FILE_BYTES: Final = 64 * 1024
_AMOUNTS: Final = ("stake", "bounty")
_INTEGERS: Final = {"nodes": (3, MOST_NODES), "rounds": (1, MOST_ROUNDS), "k2_port": (0, 65534)}
_WINDOWS: Final = ("round_time", "submission_window", "audit_window")


@dataclass(frozen=True, slots=True)
class Topology:
    """A testnet: `nodes` nodes of which the last `cheaters` submit a wrong value, for `rounds` audited rounds.

    `stake` (of each node, also the task's minimum) and `bounty` (of a round) are Roe. The three windows are
    slots; None lets `timing.round_lengths` choose. `k2_port` 0 picks free ports. Raises `ConfigurationError`.
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

    def __post_init__(self) -> None:
        for name, (low, high) in _INTEGERS.items():
            _require(name, getattr(self, name), low, high)
        _require("slot_ms", self.slot_ms, 20, 10_000)
        _require("cheaters", self.cheaters, 0, self.nodes)
        if 2 * self.cheaters >= self.nodes:
            raise _bad(
                f"cheaters = {self.cheaters} of nodes = {self.nodes}",
                "The honest nodes must be the majority, or nobody is there to catch the others.",
                f"Use at most {(self.nodes - 1) // 2} cheaters, or more nodes.",
            )
        for name in _AMOUNTS:
            _require(name, getattr(self, name), 1, _MOST_KOII * ROE_PER_KOII)
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
        if not self.task.exists():
            raise _bad(
                f"task = {str(self.task)!r}",
                "There is nothing at this path.",
                "Name a task's folder or file with --task; examples/hello_world of the source tree is one.",
            )

    @property
    def honest(self) -> int:
        """How many nodes do what the task says."""
        return self.nodes - self.cheaters

    def cheats(self, index: int) -> bool:
        """Whether the node of this index (from 0) is a cheater: the last ones are, so node 0 never is."""
        return index >= self.honest


def load_topology(file: Path | None, flags: Mapping[str, Any]) -> Topology:
    """Make a topology of a TOML file and flags, where given; a flag goes before the file.

    Flags that are None were not given. In the file amounts are KOII, a task's path is relative to the file.
    Raises `ConfigurationError` for a file that cannot be read, an unknown name or a value out of range.
    """
    values = {} if file is None else _read(file)
    values |= {name: value for name, value in flags.items() if value is not None}
    return Topology(**values)


def _read(file: Path) -> dict[str, Any]:
    what = f"The testnet file {file} cannot be used."
    try:
        with file.open("rb") as stream:
            text = stream.read(_MOST_FILE_BYTES + 1)
    except OSError as error:
        raise ConfigurationError(
            what, f"It cannot be read: {error.strerror}.", "Name the right file with --file."
        ) from error
    if len(text) > _MOST_FILE_BYTES:
        raise ConfigurationError(what, "It is too large.", "Name the right file with --file.")
    try:
        values: dict[str, Any] = tomllib.loads(text.decode(), parse_float=Decimal)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(what, f"It is not TOML: {error}.", "Correct this line.") from error
    known = {field.name for field in fields(Topology)}
    for name, value in values.items():
        if name not in known:
            remedy = f"There are: {', '.join(sorted(known))}."
            raise ConfigurationError(what, f"It has a setting `{name}`, which does not exist.", remedy)
        if name in _AMOUNTS:
            try:
                values[name] = roe(value if type(value) in (str, int, Decimal) else str(value))
            except ValueError as error:
                raise ConfigurationError(what, f"{name}: {error}.", "Write it like 1.9.") from error
        elif name == "task":
            values[name] = (file.parent / str(value)).resolve()
    return values


def _require(name: str, value: object, low: int, high: int) -> None:
    if type(value) is not int or not low <= value <= high:
        raise _bad(
            f"{name} = {value}", f"It is a whole number from {low} to {high}.", "Choose another value."
        )


def _bad(setting: str, why: str, remedy: str) -> ConfigurationError:
    return ConfigurationError(f"A testnet with {setting} is not possible.", why, remedy)
