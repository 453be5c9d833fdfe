"""Deliberate misbehaviour of a real node, for local clusters only: what a testnet's cheaters do."""

from __future__ import annotations

from enum import Enum


class Behaviour(Enum):
    """How a node behaves. Everything but HONEST is refused outside local clusters."""

    HONEST = "honest"
    """Does what its task says."""
    WRONG_VALUE = "wrong-value"
    """Submits a value that its task did not produce, and does all else as an honest node."""


def submitted_value(behaviour: Behaviour, value: str | bytes | None) -> str | bytes | None:
    """The value that a node with this behaviour submits when its task produced `value`."""
    if behaviour is not Behaviour.WRONG_VALUE or value is None:
        return value
    return f"not {value}"[:512] if isinstance(value, str) else b"not " + value[:508]
