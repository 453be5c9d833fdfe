"""Troubles for a testnet that is up: a TOML file of steps, or one that has a name, and how they are played."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import trio

from koii_p2p.conditions import HANG, Link, link_of
from koii_p2p.errors import ConfigurationError
from koii_p2p.testnets.network_play import NetworkPlay
from koii_p2p.testnets.network_troubles import (
    MOST_SLOTS,
    check_cut,
    check_groups,
    check_numbers,
    groups_of,
    plain_numbers,
)

MOST_BYTES: Final = 64 * 1024
_MOST_STEPS: Final = 100
_DEEDS: Final = ("kill", "cut", "link")
_KNOWN: Final = (*_DEEDS, "how", "for_slots")


def _kill(nodes: int) -> str:
    return f"[[step]]\nkill = [{min(1, nodes - 1)}]\nfor_slots = 20\n"


def _halves(nodes: int) -> str:
    return f"[[step]]\ncut = [{list(range(nodes // 2))}]\nfor_slots = 60\n"


def _rough(nodes: int) -> str:
    return "[[step]]\nlink = { latency_ms = 150, jitter_ms = 50, loss = 0.02 }\nfor_slots = 100\n"


NAMED: Final[Mapping[str, Callable[[int], str]]] = {
    "kill": _kill,
    "halves": _halves,
    "rough": _rough,
    "all": lambda nodes: _kill(nodes) + _halves(nodes) + _rough(nodes),
}
"""Files of their own for so many nodes: one is killed and comes back; two halves are cut apart; links get bad."""


@dataclass(frozen=True, slots=True)
class Step:
    """One trouble, which ends after `for_slots`; without any of them nothing is done for so long.

    `kill` are nodes by number, which come back at the end; `groups` are cut off from each other and from the rest, in
    the way of `how`; `link` is what every link is like.
    """

    for_slots: int
    kill: tuple[int, ...] = ()
    groups: tuple[frozenset[int], ...] = ()
    how: str = HANG
    link: Link | None = None


def chaos_of(text: str, nodes: int) -> tuple[Step, ...]:
    """The steps of a chaos file for a testnet of so many nodes. Raises `ConfigurationError`."""
    if len(text) > MOST_BYTES:
        raise _bad(f"It has more than {MOST_BYTES} bytes", "Name the right file.")
    try:
        values = tomllib.loads(text, parse_float=Decimal)
    except tomllib.TOMLDecodeError as error:
        raise _bad(f"It is not TOML: {error}", "Correct this line.") from error
    steps = values.pop("step", None)
    if values or not isinstance(steps, list) or not 0 < len(steps) <= _MOST_STEPS:
        raise _bad(
            f"It is not a list of 1 to {_MOST_STEPS} steps, and nothing else", "Begin each with [[step]]."
        )
    return tuple(_step(step, nodes) for step in steps)


def read_chaos(file: Path) -> str:
    """The text of a chaos file. Raises `ConfigurationError`."""
    try:
        with file.open("rb") as stream:
            return stream.read(MOST_BYTES + 1).decode()
    except OSError as error:
        names = ", ".join(NAMED)
        raise _bad(f"{file} cannot be read: {error.strerror}", f"Name a file, or one of: {names}.") from error
    except UnicodeDecodeError as error:
        raise _bad(f"{file} is not TOML: {error}", "Name the right file.") from error


def _step(step: object, nodes: int) -> Step:
    if not isinstance(step, dict):
        raise _bad("A step is not a table", "Begin each with [[step]].")
    for name in step:
        if name not in _KNOWN:
            raise _bad(f"The setting `{name}` of a step does not exist", f"There are: {', '.join(_KNOWN)}.")
    deeds = [name for name in _DEEDS if name in step]
    if len(deeds) > 1:
        raise _bad(f"One step does {' and '.join(deeds)}", "Write a step for each.")
    slots = step.get("for_slots")
    if type(slots) is not int or not 0 < slots <= MOST_SLOTS:
        raise _bad(
            f"for_slots = {slots!r} is not a whole number from 1 to {MOST_SLOTS}",
            "Say how long each step lasts.",
        )
    if "kill" in step:
        return Step(slots, kill=_numbers(step["kill"], nodes))
    if "cut" in step:
        groups = groups_of(step["cut"])
        check_groups(groups, nodes)
        check_cut(step.get("how", HANG))
        return Step(slots, groups=groups, how=step.get("how", HANG))
    return Step(slots, link=_link(step["link"])) if "link" in step else Step(slots)


def _numbers(value: object, nodes: int) -> tuple[int, ...]:
    if not isinstance(value, list) or not value or any(type(one) is not int for one in value):
        raise _bad(f"kill = {value!r} is not a list of nodes", "Write it like kill = [1, 3].")
    check_numbers(value, nodes)
    return tuple(sorted(set(value)))


def _link(value: Any) -> Link:
    return link_of(plain_numbers(value) if isinstance(value, dict) else value)


async def play_chaos(steps: tuple[Step, ...], play: NetworkPlay) -> None:
    """Do one step after the other; whatever a step does is undone at its end, also when this is cancelled."""
    for step in steps:
        if step.kill:
            await play.kill_and_restart(step.kill, step.for_slots)
        elif step.groups:
            play.cut(step.groups, step.how)
            try:
                await play.sleep(step.for_slots)
            finally:
                play.heal()
        elif step.link is not None:
            play.change(step.link)
            try:
                await play.sleep(step.for_slots)
            finally:
                play.change(None)
        else:
            await play.sleep(step.for_slots)
        await trio.lowlevel.checkpoint()


def _bad(why: str, remedy: str) -> ConfigurationError:
    return ConfigurationError("This chaos cannot be played.", f"{why}.", remedy)
