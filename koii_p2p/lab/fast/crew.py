"""The population of a scenario as arrays: what each node is like, and what each does of its own accord in a round."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from koii_p2p.lab.fast.mesh import MOST_NODES
from koii_p2p.lab.scenario import Group, Scenario, bad
from koii_p2p.rounds.audit_rules import Profile

Flags = NDArray[np.bool_]
Numbers = NDArray[np.int64]
Shares = NDArray[np.float64]

PLAYED: Final = (
    "honest",
    "fraudulent",
    "subtle",
    "lazy",
    "copier",
    "colluder",
    "accuser",
    "late-accuser",
    "equivocator",
    "non-revealer",
    "freeloader",
    "grinder",
    "rational",
)
"""Behaviours that this engine plays. The others are about links, data or anchors, which it does not play out.

Of a colluder it plays submissions and votes on submissions, and of a freeloader that it does not vote: they anchor
and forward as others do.
"""

MOST_DUE_BY_EVERYBODY: Final = 1_000
"""Nodes of a task in which everybody audits everything: their votes are a million a round."""

ALONE: Final = -1
"""The ring of a node that is in none."""

_GRINDERS: Final = 1_000_000
"""The ring of all grinders; colluders have smaller numbers."""


def require_played(scenario: Scenario) -> None:
    """Raise `ConfigurationError` for what only the exact engine plays."""
    exact = 'Write engine = "exact", or leave it out.'
    for group in scenario.population:
        for name in group.names:
            if name not in PLAYED and group.share:
                raise bad(f"The fast engine does not play `{name}`", exact)
    network, protocol = scenario.network, scenario.protocol
    if network.nodes > MOST_NODES:
        raise bad(
            f"The fast engine plays {MOST_NODES} nodes, not {network.nodes}",
            "Take fewer: shares of the population matter more than its size.",
        )
    if network.churn.per_minute or network.partitions:
        raise bad("The fast engine plays no churn and no partitions", exact)
    if scenario.chain.loss:
        raise bad("The fast engine plays no lost transactions", exact)
    if protocol.audit.witness_seats:
        raise bad("The fast engine plays no witnesses", "Write audit.witness_seats = 0, or engine = exact.")
    if protocol.audit.profile is Profile.ALL and network.nodes > MOST_DUE_BY_EVERYBODY:
        raise bad(
            f"With {network.nodes} nodes that all audit everything, a round has {network.nodes**2} votes",
            f"Take {MOST_DUE_BY_EVERYBODY} nodes at most, or another profile.",
        )


@dataclass(frozen=True, slots=True)
class Crew:
    """What each node is like, by its number, once its `start` has come; all of them honest nodes before that."""

    names: tuple[str, ...]
    misbehaves: Flags
    start: Numbers
    wrong: Shares
    """How often it submits a wrong value."""
    catch: Shares
    """The chance that one look finds that wrong."""
    diligence: Shares
    """The share of its audits that it does."""
    copies: Flags
    """Whether it votes like others where it does no audit."""
    ring: Numbers
    """The ring that it calls VALID without looking: of colluders, or of grinders; `ALONE`: none."""
    accuses: Shares
    """The share of right submissions that it calls INVALID."""
    late: Numbers
    """Slots before first ballots close at which it accuses; 0: in its ballot."""
    equivocates: Shares
    """The share of others to whom it shows a second submission."""
    hides: Shares
    """The share of its sealed ballots that it does not reveal."""
    casts: Shares
    """The share of rounds in which it votes."""
    tries: Numbers
    """Block hashes that it chooses from; 0: none."""
    cost: Shares
    """What work costs it, as a share of the reward; NaN: it does not weigh that."""

    def active(self, number: int) -> Flags:
        """Who is what its group is, by a round."""
        return self.start <= number


def crew_of(scenario: Scenario) -> Crew:
    """The population of a scenario as arrays. Raises `ConfigurationError` for what is not played."""
    require_played(scenario)
    groups = scenario.crew()

    def numbers(of: Callable[[Group], float]) -> Shares:
        known: dict[int, float] = {}
        return np.array([known.setdefault(id(group), of(group)) for group in groups], np.float64)

    def parameter(name: str, otherwise: float) -> Shares:
        return numbers(
            lambda group: (
                float(group.parameter(name)) if name in group.names else otherwise
            )  # of numbers only
        )

    def has(*names: str) -> Flags:
        return numbers(lambda group: any(name in group.names for name in names)).astype(np.bool_)

    always_wrong = has("subtle", "colluder", "grinder").astype(np.float64)
    rings = parameter("colluder", 0.0).astype(np.int64)
    ring = np.where(rings > 0, np.arange(len(groups)) % np.maximum(rings, 1), ALONE)
    return Crew(
        names=tuple(group.behaviour for group in groups),
        misbehaves=numbers(lambda group: group.misbehaves).astype(np.bool_),
        start=numbers(lambda group: group.start_round).astype(np.int64),
        wrong=np.maximum(parameter("fraudulent", 0.0), always_wrong),
        catch=parameter("subtle", 1.0),
        diligence=np.minimum(parameter("lazy", 1.0), parameter("copier", 1.0)),
        copies=has("copier"),
        ring=np.where(has("grinder"), _GRINDERS, ring),
        accuses=np.maximum(parameter("accuser", 0.0), has("late-accuser").astype(np.float64)),
        late=parameter("late-accuser", 0.0).astype(np.int64),
        equivocates=parameter("equivocator", 0.0),
        hides=parameter("non-revealer", 0.0),
        casts=parameter("freeloader", 1.0),
        tries=parameter("grinder", 0.0).astype(np.int64),
        cost=parameter("rational", np.nan),
    )
