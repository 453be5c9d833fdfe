"""Rewards and slashes: the default distribution, and the cumulative list whose root is anchored on K2."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from koii_p2p.limits import Limits
from koii_p2p.records import cbor
from koii_p2p.records.cid import cid_of
from koii_p2p.rounds import merkle
from koii_p2p.rounds.audit_rules import BASIS_POINTS
from koii_p2p.rounds.roster import Roster
from koii_p2p.rounds.tally import Finders, Outcome, Tally
from koii_p2p.rounds.terms import U64_MAX, TaskTerms

MAX_LIST_BYTES = Limits().artifact_bytes
LEAF_BYTES = 48

_ROUND = 0
_LEAVES = 1


class DistributionError(ValueError):
    """Amounts that are no valid distribution, or bytes that are no distribution list."""


@dataclass(frozen=True, slots=True)
class Submitter:
    """What a task's distribution sees of one submitter: key, outcome, stake in Roe still at risk."""

    key: bytes
    outcome: Outcome
    stake: int


@dataclass(frozen=True, slots=True)
class Leaf:
    """Everything one staker ever earned and ever lost in this task, in Roe. Both only grow."""

    staker: bytes
    reward_total: int
    slash_total: int

    def encode(self) -> bytes:
        """48 bytes, hashed into the tree and shown to the settlement program: key, two u64 little-endian."""
        return self.staker + self.reward_total.to_bytes(8, "little") + self.slash_total.to_bytes(8, "little")

    @classmethod
    def decode(cls, data: bytes) -> Leaf:
        """Inverse of `encode`. Raises DistributionError unless there are 48 bytes."""
        if len(data) != LEAF_BYTES:
            raise DistributionError(f"a leaf has {LEAF_BYTES} bytes, not {len(data)}")
        return cls(data[:32], int.from_bytes(data[32:40], "little"), int.from_bytes(data[40:], "little"))


@dataclass(frozen=True)
class DistributionList:
    """Cumulative leaves after one round, sorted by staker, each once. Raises DistributionError otherwise.

    Cumulative, so that a claim needs only the newest root and one proof, however many rounds were skipped
    (PROTOCOL §8).
    """

    round: int
    leaves: tuple[Leaf, ...]
    _position: dict[bytes, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not 0 <= self.round <= U64_MAX:
            raise DistributionError("round is an unsigned 64-bit integer")
        for leaf in self.leaves:
            if len(leaf.staker) != 32:
                raise DistributionError("a staker is a 32-byte key")
            if not 0 <= leaf.reward_total <= U64_MAX or not 0 <= leaf.slash_total <= U64_MAX:
                raise DistributionError(f"totals of {leaf.staker.hex()} are not unsigned 64-bit amounts")
        keys = [leaf.staker for leaf in self.leaves]
        if any(first >= second for first, second in itertools.pairwise(keys)):
            raise DistributionError("leaves are not sorted by staker, or one staker appears twice")
        if self.reward_total > U64_MAX or self.slash_total > U64_MAX:
            raise DistributionError("totals of the list do not fit the chain's unsigned 64-bit amounts")
        object.__setattr__(self, "_position", {key: index for index, key in enumerate(keys)})

    @cached_property
    def root(self) -> bytes:
        """Merkle root over the encoded leaves: what is anchored."""
        return merkle.root([leaf.encode() for leaf in self.leaves])

    @cached_property
    def reward_total(self) -> int:
        """All rewards ever listed, in Roe: anchored beside the root."""
        return sum(leaf.reward_total for leaf in self.leaves)

    @cached_property
    def slash_total(self) -> int:
        """All slashes ever listed, in Roe: anchored beside the root."""
        return sum(leaf.slash_total for leaf in self.leaves)

    def leaf(self, staker: bytes) -> Leaf | None:
        """Leaf of one staker, or None."""
        position = self._position.get(staker)
        return None if position is None else self.leaves[position]

    def proof(self, staker: bytes) -> merkle.Proof:
        """Proof of one staker's leaf against `root`. Raises KeyError for a staker without one."""
        return merkle.prove([leaf.encode() for leaf in self.leaves], self._position[staker])

    def proofs(self) -> dict[bytes, merkle.Proof]:
        """Proofs of all leaves by staker, hashing the tree once."""
        proofs = merkle.all_proofs([leaf.encode() for leaf in self.leaves])
        return {leaf.staker: proof for leaf, proof in zip(self.leaves, proofs, strict=True)}

    def encode(self) -> bytes:
        """Deterministic CBOR map: 0 round, 1 array of 48-byte leaves. DistributionError beyond 64 MiB."""
        data = cbor.encode({_ROUND: self.round, _LEAVES: [leaf.encode() for leaf in self.leaves]})
        if len(data) > MAX_LIST_BYTES:
            raise DistributionError(f"the list has {len(data)} bytes; {MAX_LIST_BYTES} are allowed")
        return data

    @classmethod
    def decode(cls, data: bytes) -> DistributionList:
        """Strict inverse of `encode`. Raises DistributionError for any other bytes."""
        try:
            value = cbor.decode(data, max_bytes=MAX_LIST_BYTES)
        except cbor.CborError as error:
            raise DistributionError(f"not a distribution list: {error}") from error
        if not isinstance(value, dict) or list(value) != [_ROUND, _LEAVES]:
            raise DistributionError("not a distribution list: other fields than round and leaves")
        round_number, leaves = value[_ROUND], value[_LEAVES]
        if type(round_number) is not int or not isinstance(leaves, list):
            raise DistributionError("not a distribution list: round or leaves of another type")
        return cls(round_number, tuple(Leaf.decode(_bytes(leaf)) for leaf in leaves))

    @property
    def cid(self) -> bytes:
        """Binary CID of the encoded list."""
        return cid_of(self.encode())


def default_distribution(
    submitters: Iterable[Submitter], bounty: int, slash_basis_points: int
) -> dict[bytes, int]:
    """Koii's default list: Roe per submitter, positive a reward, negative a slash, sorted by key.

    APPROVED gets `bounty // approved`; UNDECIDED and UNAVAILABLE get 0; REJECTED loses `stake *
    slash_basis_points // 10000`. The remainder stays in the vault. Koii docs: task template,
    `4-distribution.ts` (70 %). Its `Math.floor(stake * 0.7)` is 1 Roe lower than the integer rule for about
    2 % of stakes (90 -> 62 instead of 63): integers are the rule here. Raises DistributionError when one
    key submits twice.
    """
    ordered = sorted(submitters, key=lambda submitter: submitter.key)
    approved = sum(submitter.outcome is Outcome.APPROVED for submitter in ordered)
    amounts: dict[bytes, int] = {}
    for submitter in ordered:
        if submitter.key in amounts:
            raise DistributionError(f"{submitter.key.hex()} is listed twice")
        if submitter.outcome is Outcome.APPROVED:
            amounts[submitter.key] = bounty // approved
        elif submitter.outcome is Outcome.REJECTED:
            amounts[submitter.key] = -(submitter.stake * slash_basis_points // BASIS_POINTS)
        else:
            amounts[submitter.key] = 0
    return amounts


def effective_stake(previous: DistributionList | None, roster: Roster, staker: bytes) -> int:
    """Roe of one roster member still at risk: stake minus slashes listed but not yet taken by the chain.

    Never negative and never more than the stake, even if `previous` lists more than there is or less than the
    chain has taken. Such a list is a lie, but it may be anchored: later rounds have to go on from it, everywhere
    in the same way. Raises KeyError for a key that is not in the roster.
    """
    entry = roster.entry(staker)
    listed = previous.leaf(staker) if previous else None
    in_flight = (listed.slash_total if listed else 0) - entry.slash_settled
    return max(0, entry.stake - max(0, in_flight))


def submitters_of(
    outcomes: Mapping[bytes, Outcome], roster: Roster, previous: DistributionList | None
) -> tuple[Submitter, ...]:
    """What the task's distribution is given for a round, sorted by key; stakes are effective stakes."""
    return tuple(
        Submitter(key, outcomes[key], effective_stake(previous, roster, key)) for key in sorted(outcomes)
    )


def next_list(
    previous: DistributionList | None,
    roster: Roster,
    amounts: Mapping[bytes, int],
    terms: TaskTerms,
    counted: Tally,
) -> DistributionList:
    """List of the round of `roster`: the previous cumulative list plus `amounts` (Roe per roster member, see above).

    `counted` is what the round's records came to. Whoever is convicted of an equivocation earns nothing and
    loses what a rejected submission loses, whatever the task's amounts say. Where the terms give those who find a
    fraud a share of the slash, half of it goes to those who accused it, half to those who confirmed it in the full
    audit, in equal parts each; all of it to one side if the other is empty. (Koii docs: securing-task.md pays voters
    from slashes, "with a larger part for the initiator"; accusers are few. Who was first is not asked: slots
    can be claimed.) Remainders stay in the vault.

    Leaves cover the whole roster and everybody on the previous list. A key whose effective stake is below
    the minimum was already ejected by a slash still in flight: it is neither paid nor slashed again, so
    that one stake is slashed once while settlement lags (as Ethereum's `is_slashable_validator`). A slash
    never exceeds the effective stake. Raises DistributionError when an amount is not an integer, belongs to
    nobody in the roster, the rewards exceed the bounty, a total leaves 64 bits, or `previous` is not an
    earlier list.
    """
    _check_amounts(amounts, roster, terms)
    if previous is not None and previous.leaves and previous.round >= roster.round:
        raise DistributionError(f"the previous list is of round {previous.round}, not before {roster.round}")
    at_risk = {key: effective_stake(previous, roster, key) for key in roster.keys}
    standing = {key for key, stake in at_risk.items() if stake >= terms.minimum_stake}
    rewards = {key: max(amounts.get(key, 0), 0) for key in standing - counted.equivocators}
    slashes = {key: min(max(-amounts.get(key, 0), 0), at_risk[key]) for key in standing}
    for key in standing & counted.equivocators:
        slashes[key] = max(slashes[key], at_risk[key] * terms.slash_basis_points // BASIS_POINTS)
    for author, finders in counted.finders.items():
        pool = slashes.get(author, 0) * terms.audit.finders_share // BASIS_POINTS
        for key, share in shares_of(finders, pool).items():
            if key in rewards:
                rewards[key] += share
    totals = {leaf.staker: leaf for leaf in previous.leaves} if previous else {}
    for key in roster.keys:
        last = totals.get(key, Leaf(key, 0, 0))
        totals[key] = Leaf(
            key, last.reward_total + rewards.get(key, 0), last.slash_total + slashes.get(key, 0)
        )
    return DistributionList(roster.round, tuple(totals[key] for key in sorted(totals)))


def shares_of(finders: Finders, pool: int) -> dict[bytes, int]:
    """Roe for each of those who found one fraud, of `pool` Roe; the two sides have no key in common."""
    sides = [side for side in (finders.accusers, finders.voters) if side]
    return {key: pool // len(sides) // len(side) for side in sides for key in side}


def _check_amounts(amounts: Mapping[bytes, int], roster: Roster, terms: TaskTerms) -> None:
    rewards = 0
    for key, amount in amounts.items():
        # Koii docs: a non-integer reward or slash makes the list invalid. bool is an int only to Python.
        if type(amount) is not int:
            raise DistributionError(f"amount of {key.hex()} is {amount!r}, not an integer")
        if key not in roster:
            raise DistributionError(f"{key.hex()} is paid or slashed but is not in the roster")
        rewards += max(amount, 0)
    if rewards > terms.bounty_per_round:
        raise DistributionError(f"rewards of {rewards} Roe exceed the bounty of {terms.bounty_per_round}")


def _bytes(value: object) -> bytes:
    if not isinstance(value, bytes):
        raise DistributionError("a leaf is not a byte string")
    return value
