"""The table [expect] of a testnet file: what has to be so at its end, beyond what is checked anyway."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from decimal import Decimal
from typing import Any, Final

from koii_p2p.errors import ConfigurationError

_MOST_SLOTS: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class Expect:
    """Assertions about the rounds that count; None and False assert nothing. Raises `ConfigurationError`.

    `vote_coverage` is the least share of audits due to honest nodes that are in the commitments. `settle_slots` is how
    many slots after a round's list can be final its first settlement lands, at most. With `no_honest_slash` no
    honest node lost any stake to a verdict; with `one_commitment` each attempt at a round has one commitment and at
    most one list on K2, and every node holds the same bytes of those that stand.
    """

    vote_coverage: float | None = None
    settle_slots: int | None = None
    no_honest_slash: bool = False
    one_commitment: bool = False

    def __post_init__(self) -> None:
        share, slots = self.vote_coverage, self.settle_slots
        if share is not None and (type(share) not in (int, float) or not 0 <= share <= 1):
            raise _bad(f"vote_coverage = {share!r} is not from 0 to 1", "Write a share, such as 0.95.")
        if slots is not None and (type(slots) is not int or not 0 <= slots <= _MOST_SLOTS):
            raise _bad(f"settle_slots = {slots!r} is not a whole number", "Write it in slots, such as 60.")
        for name in ("no_honest_slash", "one_commitment"):
            if type(getattr(self, name)) is not bool:
                raise _bad(f"{name} = {getattr(self, name)!r} is not true or false", "Write true or false.")


NOTHING_MORE: Final = Expect()


def expect_of(table: Mapping[str, Any]) -> Expect:
    """What a table [expect] names. Raises `ConfigurationError`."""
    known = [one.name for one in fields(Expect)]
    for name in table:
        if name not in known:
            raise _bad(f"The setting `{name}` does not exist", f"There are: {', '.join(known)}.")
    values: dict[str, Any] = {
        name: float(value) if isinstance(value, Decimal) else value for name, value in table.items()
    }
    return Expect(**values)


def _bad(why: str, remedy: str) -> ConfigurationError:
    return ConfigurationError("A testnet with such expectations is not possible.", f"{why}.", remedy)
