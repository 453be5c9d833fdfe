"""The table [k2] of a testnet file: what its local K2 does wrong while rounds are played."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

from koii_p2p.errors import ConfigurationError
from koii_p2p.localk2.faults import NO_FAULTS, Faults
from koii_p2p.rounds.clock import RoundClock, Window

FAULTS: Final = ("drop", "drop_requests", "delay_ms", "delay_slots", "reorder", "lag", "rate", "seed")
"""Faults of `docs/local-k2.md` that a testnet can go on with; the others make every answer useless."""

RESTART_PHASES: Final = ("submission", "audit", "delay")
"""Every slot belongs to one of these; those of the lists have the same slots a period later."""

_HAPPENINGS: Final = ("restart_every", "restart_in_phase", "roll_back_every", "roll_back_slots", "land_again")
_MOST_ROUNDS: Final = 1000
_MOST_SLOTS: Final = 100_000
_FINALITY: Final = 32


@dataclass(frozen=True, slots=True)
class Troubles:
    """What K2 does wrong, from when the nodes start to when the last round is final.

    `faults` are on all the time. In every `restart_every`-th round K2 is killed in the middle of `restart_in_phase`,
    and started from its ledger. Every `roll_back_every` slots the newest `roll_back_slots` are undone, and a share
    `land_again` of their transactions is sent anew. None is never.
    """

    faults: Faults = NO_FAULTS
    restart_every: int | None = None
    restart_in_phase: str = "audit"
    roll_back_every: int | None = None
    roll_back_slots: int = 4
    land_again: float = 0.5

    @property
    def any(self) -> bool:
        """Whether anything is wrong at all."""
        return self != NO_TROUBLES

    def __str__(self) -> str:
        faults = {name: getattr(self.faults, name) for name in FAULTS if name != "seed"}
        said = [
            name.replace("_", " ") if value is True else f"{name.replace('_', ' ')} {value}"
            for name, value in faults.items()
            if value != getattr(NO_FAULTS, name)
        ]
        if self.restart_every:
            which = "every round" if self.restart_every == 1 else f"every {self.restart_every} rounds"
            said.append(f"killed and restarted {which}, in its {self.restart_in_phase}")
        if self.roll_back_every:
            said.append(f"{self.roll_back_slots} slots rolled back every {self.roll_back_every}")
        return ", ".join(said) or "none"

    def restart_moment(self, clock: RoundClock, after: int) -> int | None:
        """The first slot after `after` at which K2 is to be killed; None for never."""
        if self.restart_every is None:
            return None
        number = max(0, clock.period(after) - 1)
        while True:
            window = self._phase(clock, number)
            middle = (window.opens + window.closes) // 2
            if number % self.restart_every == 0 and window.opens < window.closes and middle > after:
                return middle
            number += 1

    def _phase(self, clock: RoundClock, number: int) -> Window:
        return {"submission": clock.submission, "audit": clock.audit, "delay": clock.delay}[
            self.restart_in_phase
        ](number)


NO_TROUBLES: Final = Troubles()


def troubles_of(table: Mapping[str, Any]) -> Troubles:
    """What a table [k2] names. Raises `ConfigurationError`."""
    known = (*FAULTS, *_HAPPENINGS)
    for name in table:
        if name not in known:
            raise _bad(f"The setting `{name}` does not exist", f"There are: {', '.join(known)}.")
    values: dict[str, Any] = {
        name: float(value) if isinstance(value, Decimal) else value for name, value in table.items()
    }
    try:
        faults = NO_FAULTS.changed({name: values[name] for name in FAULTS if name in values})
    except ConfigurationError as error:
        raise _bad(f"{error.what} {error.why}".rstrip("."), error.remedy) from error
    for name, what in (("drop", "transaction"), ("drop_requests", "request")):
        if getattr(faults, name) == 1:
            raise _bad(f"{name} = 1 leaves no {what} to anybody", "Write a smaller share, such as 0.2.")
    _whole(values, "restart_every", 1, _MOST_ROUNDS)
    _whole(values, "roll_back_every", 2, _MOST_SLOTS)
    _whole(values, "roll_back_slots", 1, _FINALITY - 1)
    phase = values.get("restart_in_phase", "audit")
    if phase not in RESTART_PHASES:
        raise _bad(f"restart_in_phase = {phase!r} does not exist", f"There are: {', '.join(RESTART_PHASES)}.")
    if "restart_in_phase" in values:
        values.setdefault("restart_every", 1)
    land_again = values.get("land_again", NO_TROUBLES.land_again)
    if type(land_again) not in (int, float) or not 0 <= land_again <= 1:
        raise _bad(f"land_again = {land_again!r} is not from 0 to 1", "Write a share, such as 0.5.")
    happenings: dict[str, Any] = {name: values[name] for name in _HAPPENINGS if name in values}
    made = Troubles(faults, **happenings)
    if made.roll_back_every is None and {"roll_back_slots", "land_again"} & values.keys():
        raise _bad("It is not said how often K2 rolls back", "Write roll_back_every = 50, in slots.")
    if made.roll_back_every is not None and made.roll_back_every < 2 * made.roll_back_slots:
        raise _bad(
            f"roll_back_every = {made.roll_back_every} leaves no time between undoing {made.roll_back_slots} slots",
            f"Write at least roll_back_every = {2 * made.roll_back_slots}, or fewer roll_back_slots.",
        )
    return made


def check_windows(troubles: Troubles, submission_window: int, audit_window: int, delay: int) -> None:
    """Refuse what leaves no time in a round: all three in slots. Raises `ConfigurationError`."""
    most = min(submission_window, audit_window) * 3 // 5
    if troubles.faults.lag > most:
        raise _bad(
            f"lag = {troubles.faults.lag} is too much for windows of {submission_window} and {audit_window} slots: "
            "they would be over before anybody knows that they are open",
            f"Write at most lag = {most}, or make the windows longer.",
        )
    if troubles.restart_every and troubles.restart_in_phase == "delay" and not delay:
        raise _bad("There is no delay to restart in", "Make round_time longer, or name another phase.")


def _whole(values: Mapping[str, Any], name: str, low: int, high: int) -> None:
    value = values.get(name)
    if name in values and (type(value) is not int or not low <= value <= high):
        raise _bad(f"{name} = {value!r} is not a whole number from {low} to {high}", "Choose another value.")


def _bad(why: str, remedy: str) -> ConfigurationError:
    return ConfigurationError("A testnet with such a K2 is not possible.", f"{why}.", remedy)
