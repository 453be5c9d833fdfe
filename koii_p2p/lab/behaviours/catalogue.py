"""The behaviours that a scenario's population may have: names, one parameter each, and what they do.

Names are joined by "+" where a node has several: "fraudulent+equivocator". The rules are in the modules beside this
one, which nothing needs that only reads a scenario.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

HONEST: Final = "honest"
JOINED: Final = "+"


@dataclass(frozen=True, slots=True)
class Parameter:
    """The parameter of a behaviour: a number from `low` to `high`, whole if `whole`, or one of `choices`."""

    name: str
    default: float | str
    low: float = 0.0
    high: float = 1.0
    whole: bool = False
    choices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Description:
    """One behaviour: what it does in a sentence, its parameter if it has one, and whether it breaks the rules.

    `staked` is False for keys that have no stake, which are no part of the roster.
    """

    name: str
    does: str
    parameter: Parameter | None = None
    misbehaves: bool = True
    staked: bool = True


def _rate(name: str, default: float = 1.0) -> Parameter:
    return Parameter(name, default)


_ALL: Final = (
    Description(HONEST, "does what the task and the protocol say", misbehaves=False),
    Description(
        "fraudulent",
        "submits a wrong value in this share of its rounds; whoever looks sees it",
        _rate("rate"),
    ),
    Description(
        "subtle",
        "submits a value that is wrong in few places: an honest look finds it with this chance",
        _rate("catch", 0.5),
    ),
    Description(
        "lazy",
        "does this share of its audits and calls everything else VALID without looking",
        _rate("diligence", 0.0),
    ),
    Description(
        "copier",
        "does this share of its audits, and else votes as the ballots say that have arrived",
        _rate("diligence", 0.0),
    ),
    Description(
        "colluder",
        "submits a wrong value, calls its ring VALID and agrees with what it anchors; there are so many rings",
        Parameter("rings", 1, 1, 1000, whole=True),
    ),
    Description(
        "accuser",
        "calls this share of the honest submissions that it audits INVALID, in time",
        _rate("rate"),
    ),
    Description(
        "late-accuser",
        "calls honest submissions INVALID so many slots before first ballots close",
        Parameter("slots", 1, 1, 10_000, whole=True),
    ),
    Description(
        "equivocator",
        "signs two submissions in each round, and shows the second to this share of its neighbours",
        _rate("shown", 0.5),
    ),
    Description("non-revealer", "keeps this share of its sealed ballots sealed", _rate("rate")),
    Description(
        "withholder",
        "keeps to itself the data of its submissions, or the bundles or lists that it anchors before its turn",
        Parameter("what", "data", choices=("data", "commitment", "list")),
    ),
    Description(
        "censor",
        "forwards no records of a kind, or none of the first honest node's key",
        Parameter("what", "key", choices=("key", "submissions", "audits")),
    ),
    Description(
        "sybil",
        "has no stake, links to so many times as many peers as others, and forwards nothing",
        Parameter("links", 5, 1, 1000, whole=True),
        staked=False,
    ),
    Description(
        "eclipse",
        "has no stake, takes so many honest nodes' links, and lets nothing pass",
        Parameter("victims", 1, 1, 10_000, whole=True),
        staked=False,
    ),
    Description(
        "freeloader",
        "does its work to be paid, casts this share of its ballots, and forwards nothing",
        _rate("ballots", 0.0),
    ),
    Description(
        "grinder",
        "submits a wrong value, and chooses the best of so many block hashes for the beacon",
        Parameter("tries", 2, 1, 4096, whole=True),
    ),
    Description(
        "rational",
        "does the work only while that pays better than a wrong value, at this cost as a share of the reward",
        Parameter("cost", 0.5, 0.0, 10.0),
        misbehaves=False,
    ),
)

BEHAVIOURS: Final[Mapping[str, Description]] = {one.name: one for one in _ALL}
"""Every behaviour, by name."""
