"""How a number is described to Prometheus."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Kind(Enum):
    """What a number is to Prometheus."""

    COUNTER = "counter"
    GAUGE = "gauge"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Described:
    """How one field is shown; `label` names the keys of a field that holds several numbers by name."""

    name: str
    kind: Kind
    help: str
    label: str = ""


def counts(name: str, text: str, label: str = "") -> Described:
    """What only grows, since the start."""
    return Described(name, Kind.COUNTER, text, label)


def gauge(name: str, text: str) -> Described:
    """What is so now."""
    return Described(name, Kind.GAUGE, text)
