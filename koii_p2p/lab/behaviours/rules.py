"""The rule of every behaviour of the catalogue, and the rules of one node."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from koii_p2p.lab.behaviours import auditors, leaders, peers, submitters
from koii_p2p.lab.behaviours.behaviour import Actor, Behaviour
from koii_p2p.lab.scenario import Group

KINDS: Final[Mapping[str, type[Behaviour]]] = {
    "honest": Behaviour,
    "fraudulent": submitters.Fraudulent,
    "subtle": submitters.Subtle,
    "lazy": auditors.Lazy,
    "copier": auditors.Copier,
    "colluder": auditors.Colluder,
    "accuser": auditors.Accuser,
    "late-accuser": auditors.LateAccuser,
    "equivocator": submitters.Equivocator,
    "non-revealer": auditors.NonRevealer,
    "withholder": leaders.Withholder,
    "censor": peers.Censor,
    "sybil": peers.Sybil,
    "eclipse": peers.Eclipse,
    "freeloader": auditors.Freeloader,
    "grinder": submitters.Grinder,
    "rational": submitters.Rational,
}
"""The rule of every behaviour of the catalogue."""


def behaviours_of(actor: Actor, group: Group) -> tuple[Behaviour, ...]:
    """The behaviours of a node, in the order in which they are named."""
    return tuple(
        KINDS[name](actor, group.parameter(name) if _has_parameter(group, name) else 0.0)
        for name in group.names
    )


def _has_parameter(group: Group, name: str) -> bool:
    try:
        group.parameter(name)
    except KeyError:
        return False
    return True
