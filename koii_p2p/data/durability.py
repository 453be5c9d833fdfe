"""Named durability levels, and the exact probability of losing a block at each of them."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from fractions import Fraction
from math import comb
from typing import Final

from koii_p2p.data.erasure import Code


class Level(Enum):
    """How much loss a blob survives, by name (as Swarm's redundancy levels: people choose words, not numbers)."""

    NONE = Code(1, 1)
    STANDARD = Code(4, 8)
    STRONG = Code(8, 24)
    PARANOID = Code(8, 32)

    @property
    def code(self) -> Code:
        """The code behind the name."""
        return self.value

    @property
    def title(self) -> str:
        """The name as people write it, in lower case."""
        return self.name.lower()


DEFAULT_LEVEL: Final = Level.STANDARD


def level_of(code: Code) -> Level | None:
    """The level that has this code, or None: manifests may come with codes of other versions."""
    return next((level for level in Level if level.code == code), None)


def manifest_code(code: Code) -> Code:
    """Copies of the manifest of a blob: as many holders may be lost as of a block, so 1 of n - k + 1."""
    return Code(1, code.shards - code.needed + 1)


def repair_margin(code: Code) -> int:
    """Spare shards below which lost ones are made again: half of n - k, rounded up.

    Repairing at every loss would read k shards for each; waiting reads them once for many. With fewer than k + margin
    live shards it is time.
    """
    return (code.shards - code.needed + 1) // 2


def loss_probability(code: Code, loss: Fraction, holdings: Sequence[int] | None = None) -> Fraction:
    """Probability that fewer than k shards of one block are left, exactly.

    Each holder is lost within the interval with probability `loss`, whatever happens to others. `holdings` are the
    numbers of shards of each holder; without, every shard has a holder of its own, and the result is
    sum over i < k of C(n, i) * (1 - loss)^i * loss^(n - i). Raises ValueError for a probability outside of 0..1.
    """
    if not 0 <= loss <= 1:
        raise ValueError("A probability is between 0 and 1.")
    left = [Fraction(1)]  # left[i]: probability that i shards are left of those counted so far
    for count in holdings if holdings is not None else (1,) * code.shards:
        counted = [Fraction(0)] * (len(left) + count)
        for shards, probability in enumerate(left):
            counted[shards] += probability * loss
            counted[shards + count] += probability * (1 - loss)
        left = counted
    return sum(left[: code.needed], Fraction(0))


def loss_of_some(code: Code, nodes: int, lost: int) -> Fraction:
    """Probability that fewer than k shards of one block are left when exactly `lost` of all `nodes` are lost, exactly.

    Each set of so many nodes is as likely; shards are with as many nodes as there are, dealt out evenly. So with n
    nodes or more it is the upper tail of the hypergeometric distribution. One that sends wrong bytes counts as lost:
    a shard that does not fit its hash is passed over like one that is not there. Raises ValueError for more than all.
    """
    if not 0 <= lost <= nodes:
        raise ValueError(f"{lost} of {nodes} nodes cannot be lost.")
    each, more = divmod(code.shards, nodes)
    ways = 0
    for heavy in range(max(0, lost - (nodes - more)), min(more, lost) + 1):
        gone = heavy * (each + 1) + (lost - heavy) * each
        if code.shards - gone < code.needed:
            ways += comb(more, heavy) * comb(nodes - more, lost - heavy)
    return Fraction(ways, comb(nodes, lost))


def loss_at_worst(code: Code, loss: Fraction) -> Fraction:
    """`loss_probability` of a block that has just not been repaired: k + margin of its shards are live."""
    return loss_probability(Code(code.needed, code.needed + repair_margin(code)), loss)


def loss_bound(per_block: Fraction, blocks: int, intervals: int = 1) -> Fraction:
    """Upper bound on losing any of a blob's blocks within so many repair intervals: the sum, and 1 at most.

    It holds however the blocks' losses depend on each other.
    """
    return min(Fraction(1), per_block * blocks * intervals)


def spread_evenly(shards: int, holders: int) -> tuple[int, ...]:
    """How many shards each holder has when placement shares them out: numbers that differ by one at most."""
    each, more = divmod(shards, holders)
    counts = (each + 1,) * more + (each,) * (holders - more)
    return tuple(count for count in counts if count)
