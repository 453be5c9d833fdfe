"""The task of simulated nodes: what submissions say about themselves, and what an audit function finds.

A value is "kind:catch:round:node" and filling up to the size that task authors give theirs, a CID's. That it names its
own truth is no help to anybody but the audit function: behaviours see verdicts only.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from hashlib import blake2b
from typing import Final

from koii_p2p.records.schema import Verdict

VALUE_BYTES: Final = 59
"""Length of a CIDv1 in base32."""


class Truth(StrEnum):
    """What a submission really is."""

    RIGHT = "right"
    WRONG = "wrong"
    """Wrong, and whoever looks finds it with a chance."""
    CANARY = "canary"
    """Known-bad work that its author will own up to; whoever looks finds it."""
    WITHHELD = "withheld"
    """Its data can be fetched by nobody."""


@dataclass(frozen=True, slots=True)
class Work:
    """What a submission says: its truth, the chance that one look finds it wrong, and whose and when it was made."""

    truth: Truth
    round: int
    node: int
    catch: float = 1.0

    def value(self) -> str:
        """The submission's value."""
        said = f"{self.truth}:{self.catch!r}:{self.round}:{self.node}:"
        return said.ljust(VALUE_BYTES, "-")

    @property
    def is_fraud(self) -> bool:
        """Whether whoever hands it in wants to be paid for what it did not do."""
        return self.truth is Truth.WRONG


def read_work(value: str | bytes) -> Work | None:
    """What a submission says; None for a value that no simulated node makes."""
    try:
        truth, catch, number, node, _filling = str(value).split(":")
        return Work(Truth(truth), int(number), int(node), float(catch))
    except ValueError:
        return None


def looked(value: str | bytes, auditor: int, seed: int) -> Verdict:
    """What a diligent auditor finds: a draw for each auditor and submission where a look may miss it."""
    work = read_work(value)
    if work is None:
        return Verdict.INVALID
    match work.truth:
        case Truth.RIGHT:
            return Verdict.VALID
        case Truth.WITHHELD:
            return Verdict.UNAVAILABLE
        case Truth.CANARY:
            return Verdict.INVALID
        case Truth.WRONG:
            text = f"look {seed} {auditor} {work.round} {work.node}"
            draw = int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big") / (1 << 64)
            return Verdict.INVALID if draw < work.catch else Verdict.VALID
