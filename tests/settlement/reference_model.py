"""A plain model of the settlement program: what each instruction checks, in which order, and what it changes.

Written from docs/settlement.md, with the clock of `rounds/clock.py` and Python's integers. Only the places of the
fields are shared with the program (`layouts.py`): so a step is compared byte by byte, over every account.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import lru_cache

from solders.pubkey import Pubkey

from koii_p2p.rounds import merkle
from koii_p2p.rounds.clock import RoundClock
from koii_p2p.rounds.distribution import Leaf
from koii_p2p.rounds.roster import Checkpoint, StakeHistory
from koii_p2p.rounds.terms import U64_MAX, TaskTerms
from koii_p2p.settlement import instructions as ix
from koii_p2p.settlement import layouts as at
from koii_p2p.settlement.refusals import ProgramError as E

EMPTY, COMMITTED, LISTED, REJECTED = range(4)
NOBODY = bytes(32)


class Refused(Exception):
    """The program refuses with this code, and changes nothing."""

    def __init__(self, error: E) -> None:
        super().__init__(error.name)
        self.error = error


def require(condition: bool, error: E) -> None:
    if not condition:
        raise Refused(error)


@dataclass(frozen=True)
class Shown:
    """A leaf that is shown to the program: as a leaf of the list of `round`, with the proof of `tree`."""

    round: int
    leaf: Leaf
    tree: tuple[Leaf, ...]

    @property
    def root(self) -> bytes:
        """Where the proof leads."""
        return root_of(self.tree)

    @property
    def proof(self) -> merkle.Proof:
        return merkle.prove([one.encode() for one in self.tree], self.tree.index(self.leaf))


@lru_cache(maxsize=4096)
def root_of(leaves: tuple[Leaf, ...]) -> bytes:
    return merkle.root([one.encode() for one in leaves])


@dataclass(frozen=True)
class ModelRound:
    """A place of the ring, and a list: a list is what a round begins with."""

    number: int = 0
    attempt: int = 0
    state: int = EMPTY
    list_root: bytes = NOBODY
    reward_total: int = 0
    slash_total: int = 0
    list_slot: int = 0
    list_by: bytes = NOBODY
    commitment: bytes = NOBODY
    commitment_slot: int = 0
    commitment_by: bytes = NOBODY
    veto_stake: int = 0
    barred_committer: bytes = NOBODY
    barred_lister: bytes = NOBODY

    @property
    def stands(self) -> bool:
        return self.state == LISTED


NO_LIST = ModelRound()


@dataclass
class ModelStake:
    """A stake account; `points` are all its checkpoints ever, each with the period it is of."""

    staker: bytes
    beneficiary: bytes
    created_slot: int
    bump: int
    amount: int = 0
    reward_total: int = 0
    slash_total: int = 0
    unstake_slot: int = 0
    veto_window: int = 0
    vetoes: int = 0
    points: list[tuple[int, Checkpoint]] = field(default_factory=list)

    @property
    def history(self) -> StakeHistory:
        points = tuple(point for _, point in self.points[-at.CHECKPOINT_RING :])
        return StakeHistory(
            self.staker, self.beneficiary, points, self.unstake_slot or None, self.reward_total
        )


class Model:
    """One task, its vault and stakes, and the balances of everybody. Every instruction is a method that raises
    `Refused` before it changes anything. Keys sign for themselves unless a method says otherwise."""

    def __init__(
        self, terms: TaskTerms, nonce: int, rent: Callable[[int], int], balances: dict[bytes, int]
    ) -> None:
        self.terms, self.nonce, self.rent, self.balances = terms, nonce, rent, balances
        self.clock: RoundClock = terms.clock
        self.slot = 0
        self.task = terms.task
        self.vault, self.vault_bump = _derive(b"vault", self.task)
        _, self.bump = _derive(b"task", terms.creator, nonce.to_bytes(8, "little"))
        self.exists = self.closed = False
        self.closed_slot = 0
        self.created_slot = 0
        self.active = True
        self.funded = self.paid = self.slashed = self.forgiven = 0
        self.withdrawn = self.bonds = 0
        self.idle_from = self.idle_until = self.updated_slot = 0
        self.successor, self.metadata = NOBODY, b""
        self.head, self.anchors = bytes(32), 0
        self.newest = self.settled = NO_LIST
        self.ring: dict[int, ModelRound] = {}
        self.stakes: dict[bytes, ModelStake] = {}
        self.stakers = 0

    def copy(self) -> Model:
        """A model that can be tried out."""
        other = copy.copy(self)
        other.balances, other.ring = dict(self.balances), dict(self.ring)
        other.stakes = {key: replace(one, points=list(one.points)) for key, one in self.stakes.items()}
        return other

    # -- what several instructions ask

    @property
    def total_stake(self) -> int:
        return sum(one.amount for one in self.stakes.values())

    @property
    def available(self) -> int:
        """What the vault can pay."""
        return max(0, self.balances.get(self.vault, 0) - self.rent(at.VAULT_LAYOUT.size))

    def stake_address(self, staker: bytes) -> bytes:
        return ix.stake_address(self.task, staker)

    def interval(self, slot: int) -> int:
        """How many periods began up to this slot."""
        return max(0, self.clock.period(slot) + 1)

    def held(self, round: int) -> ModelRound | None:
        place = self.ring.get(round % at.ROUND_RING)
        return place if place is not None and place.number == round else None

    def is_final(self, one: ModelRound) -> bool:
        return one.stands and self.slot >= self.clock.settles_at(one.number, one.attempt)

    def final(self) -> ModelRound:
        """The newest settled list."""
        known = [one for one in self.ring.values() if self.is_final(one)]
        return max([self.settled, *known], key=lambda one: (one.stands, one.number))

    def move(self, source: bytes, to: bytes, amount: int) -> None:
        assert self.balances.get(source, 0) >= amount
        self.balances[source] = self.balances.get(source, 0) - amount
        self.balances[to] = self.balances.get(to, 0) + amount

    def require_task(self) -> None:
        require(self.exists or self.closed, E.WRONG_OWNER)
        require(not self.closed, E.TASK_CLOSED)

    def require_stake(self, staker: bytes) -> ModelStake:
        require(staker in self.stakes, E.WRONG_OWNER)
        return self.stakes[staker]

    def require_staker(self, signer: bytes) -> ModelStake:
        self.require_task()
        stake = self.require_stake(signer)
        require(stake.amount >= self.terms.minimum_stake, E.ANCHORER_BELOW_MINIMUM)
        return stake

    def checkpoint(self, stake: ModelStake) -> None:
        active = 0 if stake.unstake_slot else stake.amount
        point = (self.interval(self.slot), Checkpoint(self.slot, active, stake.slash_total))
        if stake.points and stake.points[-1][0] == point[0]:
            stake.points.pop()
        stake.points.append(point)

    def chain(self, tag: int, by: bytes, one: ModelRound, digest: bytes, totals: tuple[int, int]) -> None:
        record = bytes([tag, one.attempt])
        record += b"".join(number.to_bytes(8, "little") for number in (one.number, self.slot))
        record += by + digest + b"".join(total.to_bytes(8, "little") for total in totals)
        self.head = hashlib.sha256(self.head + record).digest()
        self.anchors += 1

    # -- tasks

    def create(self) -> None:
        require(not self.exists and not self.closed, E.ALREADY_EXISTS)
        self.exists, self.created_slot = True, self.slot
        for address, size in ((self.task, at.TASK_LAYOUT.size), (self.vault, at.VAULT_LAYOUT.size)):
            self._open(self.terms.creator, address, size)

    def _open(self, payer: bytes, address: bytes, size: int) -> None:
        self.move(payer, address, max(0, self.rent(size) - self.balances.get(address, 0)))

    def fund(self, funder: bytes, amount: int) -> None:
        self.require_task()
        require(amount > 0, E.ZERO_AMOUNT)
        require(self.funded + amount <= U64_MAX, E.ARITHMETIC)
        self.move(funder, self.vault, amount)
        self.funded += amount

    def require_creator(self, signer: bytes) -> None:
        self.require_task()
        require(signer == self.terms.creator, E.NOT_THE_CREATOR)

    def set_active(self, signer: bytes, value: int) -> None:
        self.require_creator(signer)
        require(value <= 1, E.NOT_A_FLAG)
        if bool(value) is self.active:
            return
        self.active = bool(value)
        if self.active:
            self.idle_until = self.interval(self.slot)
        else:
            self.idle_from, self.idle_until = self.interval(self.slot), at.NEVER

    def update(self, signer: bytes, metadata: bytes, successor: bytes | None, genuine: bool) -> None:
        self.require_creator(signer)
        require(successor is None or genuine, E.WRONG_SUCCESSOR)
        self.successor, self.metadata, self.updated_slot = successor or NOBODY, metadata, self.slot

    def close(self, signer: bytes) -> None:
        self.require_creator(signer)
        require(not self.active, E.TASK_ACTIVE)
        require(self.total_stake == 0, E.STAKES_REMAIN)
        if self.idle_from > 0:
            last = self.clock.settles_at(self.idle_from - 1, self.terms.allowed_failed_distributions)
            require(self.slot >= last, E.ROUNDS_OPEN)
        final = self.final()
        lapsed = self.slot >= final.list_slot + at.ESCAPE_PERIODS * self.terms.round_time
        require(not final.stands or final.reward_total == self.paid or lapsed, E.REWARDS_OWED)
        self.exists, self.closed, self.closed_slot = False, True, self.slot
        self.move(self.task, signer, self.balances[self.task] - self.rent(at.CLOSED_TASK_LAYOUT.size))
        self.move(self.vault, signer, self.balances[self.vault])

    def close_stake(self, staker: bytes, beneficiary: bytes) -> None:
        require(self.closed, E.TASK_NOT_CLOSED if self.exists else E.WRONG_OWNER)
        stake = self.require_stake(staker)
        require(beneficiary == stake.beneficiary, E.WRONG_BENEFICIARY)
        address = self.stake_address(staker)
        self.move(address, beneficiary, self.balances[address])
        del self.stakes[staker]

    # -- stakes

    def stake(self, payer: bytes, staker: bytes, beneficiary: bytes, amount: int) -> None:
        self.require_task()
        require(self.active, E.TASK_INACTIVE)
        require(amount > 0, E.ZERO_AMOUNT)
        address, stake = self.stake_address(staker), self.stakes.get(staker)
        if stake is not None:
            require(stake.beneficiary == beneficiary, E.BENEFICIARY_CHANGED)
        else:
            require(beneficiary != NOBODY, E.BENEFICIARY_EMPTY)
        held = amount + (0 if stake is None else stake.amount)
        require(held >= self.terms.minimum_stake, E.STAKE_BELOW_MINIMUM)
        if stake is None:
            _, bump = _derive(b"stake", self.task, staker)
            stake = self.stakes[staker] = ModelStake(staker, beneficiary, self.slot, bump)
            self.stakers += 1
            self._open(payer, address, at.STAKE_LAYOUT.size)
        self.move(payer, address, amount)
        stake.amount, stake.unstake_slot = held, 0
        self.checkpoint(stake)

    def unstake(self, signer: bytes, staker: bytes) -> None:
        """`signer` asks for the stake of `staker`."""
        self.require_task()
        stake = self.require_stake(staker)
        require(signer == staker, E.NOT_THE_STAKER)
        require(stake.unstake_slot == 0, E.ALREADY_UNSTAKING)
        require(stake.amount > 0, E.NOTHING_STAKED)
        stake.unstake_slot = self.slot
        self.checkpoint(stake)

    def withdraw(self, signer: bytes, staker: bytes, beneficiary: bytes, shown: Shown | None) -> None:
        self.require_task()
        stake = self.require_stake(staker)
        require(signer == staker, E.NOT_THE_STAKER)
        require(beneficiary == stake.beneficiary, E.WRONG_BENEFICIARY)
        final = self.final()
        self._require_unlocked(stake, final)
        slash = 0
        if shown is None:
            self._require_no_leaf_is_needed(stake, final)
        else:
            require(final.stands and final.number == shown.round, E.NOT_THE_NEWEST_LIST)
            require(shown.leaf.staker == staker, E.LEAF_OF_ANOTHER_STAKER)
            require(shown.root == final.list_root, E.PROOF_INVALID)
            slash = max(0, shown.leaf.slash_total - stake.slash_total)
        limit = self.slashed + self.forgiven + slash <= final.slash_total
        require(slash == 0 or limit, E.SLASHES_ABOVE_LIST)
        left = stake.amount - min(slash, stake.amount)
        kept = self.balances.get(beneficiary, 0) + left >= self.rent(0)
        require(left == 0 or kept, E.BENEFICIARY_BELOW_RENT)
        if slash:
            self._slash(stake, slash)
        self.move(self.stake_address(staker), beneficiary, left)
        self.withdrawn += left
        stake.amount = stake.unstake_slot = 0
        self.checkpoint(stake)

    def _require_unlocked(self, stake: ModelStake, final: ModelRound) -> None:
        asked = stake.unstake_slot
        require(asked != 0, E.NOT_UNSTAKING)
        require(self.slot >= asked + at.LOCK_PERIODS * self.terms.round_time, E.STILL_LOCKED)
        period = self.clock.period(asked)
        if period >= 0 and not (final.stands and final.number >= period):
            last = self.clock.settles_at(period, self.terms.allowed_failed_distributions)
            require(self.slot >= last, E.STILL_LOCKED)
        if (
            stake.veto_window
        ):  # the window of round r and attempt k is r + k + 1, and of every such pair the same
            require(self.slot >= self.clock.settles_at(stake.veto_window - 1), E.VETO_STILL_OPEN)
        for one in self.ring.values():
            mine = stake.staker in (one.commitment_by, one.list_by)
            over = self.slot >= self.clock.settles_at(one.number, one.attempt)
            require(over or one.state == REJECTED or not mine, E.BOND_STILL_LOCKED)

    def _require_no_leaf_is_needed(self, stake: ModelStake, final: ModelRound) -> None:
        if not final.stands or self.interval(stake.created_slot) == self.interval(stake.unstake_slot):
            return
        since = max(stake.unstake_slot, self.newest.list_slot)
        require(self.slot >= since + at.ESCAPE_PERIODS * self.terms.round_time, E.LEAF_NEEDED)

    def _slash(self, stake: ModelStake, slash: int) -> None:
        taken = min(slash, stake.amount)
        self.move(self.stake_address(stake.staker), self.vault, taken)
        self.slashed += taken
        self.forgiven += slash - taken
        stake.amount -= taken
        stake.slash_total += slash
        self.checkpoint(stake)

    # -- anchors

    def commit(self, signer: bytes, round: int, attempt: int, digest: bytes) -> None:
        self.require_staker(signer)
        window = self.clock.commitment(round, attempt)
        require(self.slot >= window.opens, E.COMMITMENT_EARLY)
        require(self.slot < window.closes, E.COMMITMENT_LATE)
        before = self.held(round)
        barred = (NOBODY, NOBODY)
        if attempt == 0:
            require(not self.idle_from <= round < self.idle_until, E.TASK_INACTIVE)
            require(before is None, E.COMMITMENT_EXISTS)
            self.settled = self._as_list(self.final())
        else:
            allowed = min(self.terms.allowed_failed_distributions, at.LAST_ATTEMPT)
            require(attempt <= allowed, E.ATTEMPTS_USED_UP)
            if before is None:
                raise Refused(E.WRONG_ATTEMPT)
            require(attempt > before.attempt, E.COMMITMENT_EXISTS)
            require(attempt == before.attempt + 1 and before.state == REJECTED, E.WRONG_ATTEMPT)
            barred = (before.commitment_by, before.list_by)
            require(signer not in barred, E.BARRED)
        made = ModelRound(
            number=round,
            attempt=attempt,
            state=COMMITTED,
            commitment=digest,
            commitment_slot=self.slot,
            commitment_by=signer,
            barred_committer=barred[0],
            barred_lister=barred[1],
        )
        self.ring[round % at.ROUND_RING] = made
        self.chain(ix.Tag.ANCHOR_COMMITMENT, signer, made, digest, (0, 0))

    @staticmethod
    def _as_list(one: ModelRound) -> ModelRound:
        """Only what a list holds of its round."""
        if not one.stands:
            return NO_LIST
        return ModelRound(
            one.number,
            one.attempt,
            one.state,
            one.list_root,
            one.reward_total,
            one.slash_total,
            one.list_slot,
        )

    def anchor(
        self, signer: bytes, round: int, attempt: int, root: bytes, reward_total: int, slash_total: int
    ) -> None:
        self.require_staker(signer)
        window = self.clock.distribution(round, attempt)
        require(self.slot >= window.opens, E.LIST_EARLY)
        require(self.slot < window.closes, E.LIST_LATE)
        place = self.held(round)
        if place is None:
            raise Refused(E.NO_COMMITMENT)
        require(attempt == place.attempt, E.WRONG_ATTEMPT)
        require(place.state == COMMITTED, E.LIST_EXISTS)
        require(signer not in (place.barred_committer, place.barred_lister), E.BARRED)
        require(not self.newest.stands or self.newest.number < round, E.LIST_ORDER)
        more_rewards = reward_total - self.newest.reward_total
        more_slashes = slash_total - self.newest.slash_total
        require(more_rewards >= 0 and more_slashes >= 0, E.TOTALS_DECREASE)
        require(more_rewards <= self.terms.bounty_per_round + more_slashes, E.REWARDS_ABOVE_BOUNTY)
        untaken = slash_total - self.slashed - self.forgiven
        require(reward_total >= self.paid and untaken >= 0, E.ARITHMETIC)
        require(untaken <= self.total_stake, E.SLASHES_ABOVE_STAKES)
        require(reward_total - self.paid <= self.available + untaken, E.REWARDS_ABOVE_VAULT)
        listed = replace(place, reward_total=reward_total, slash_total=slash_total)
        made = replace(listed, state=LISTED, list_root=root, list_slot=self.slot, list_by=signer)
        self.ring[round % at.ROUND_RING] = made
        self.newest = self._as_list(made)
        self.chain(ix.Tag.ANCHOR_LIST, signer, made, root, (reward_total, slash_total))

    def veto(self, signer: bytes, round: int, attempt: int, committer: bytes, lister: bytes | None) -> None:
        stake = self.require_staker(signer)
        window = self.clock.distribution_audit(round, attempt)
        require(self.slot >= window.opens, E.VETO_EARLY)
        require(self.slot < window.closes, E.VETO_LATE)
        place = self.held(round)
        if place is None:
            raise Refused(E.NO_COMMITMENT)
        require(attempt <= place.attempt, E.WRONG_ATTEMPT)
        require(attempt == place.attempt and place.state != REJECTED, E.ALREADY_REJECTED)
        anchorers = [place.commitment_by] + [place.list_by] * place.stands
        require([committer, lister or committer] == [anchorers[0], anchorers[-1]], E.WRONG_ANCHORER)
        window_number = round + attempt + 1
        marks = stake.vetoes if stake.veto_window == window_number else 0
        require(not marks >> attempt & 1, E.ALREADY_VETOED)
        stake.veto_window, stake.vetoes = window_number, marks | 1 << attempt
        against = place.veto_stake + stake.amount
        rejected = 2 * against > self.total_stake
        made = replace(place, veto_stake=against, state=REJECTED if rejected else place.state)
        self.ring[round % at.ROUND_RING] = made
        if not rejected:
            return
        for key in anchorers:
            self._take_bond(self.stakes[key])
        standing = [one for one in (self.settled, *self.ring.values()) if one.stands]
        self.newest = self._as_list(max(standing, key=lambda one: one.number, default=NO_LIST))
        self.chain(ix.Tag.VETO, signer, made, made.list_root, (0, 0))

    def _take_bond(self, stake: ModelStake) -> None:
        bond = min(self.terms.minimum_stake // 10, stake.amount)
        self.move(self.stake_address(stake.staker), self.vault, bond)
        stake.amount -= bond
        self.bonds += bond
        self.checkpoint(stake)

    def settle(self, staker: bytes, beneficiary: bytes, shown: Shown, pay: bool) -> None:
        """The leaf `shown` for the stake of `staker`; without `pay` the beneficiary is passed read-only."""
        self.require_task()
        stake = self.require_stake(staker)
        place = self.held(shown.round)
        listed = self.settled if place is None else place
        require(listed.stands and listed.number == shown.round, E.NO_LIST)
        require(self.is_final(listed), E.SETTLE_EARLY)
        final = self.final()
        require(shown.leaf.staker == staker, E.LEAF_OF_ANOTHER_STAKER)
        require(beneficiary == stake.beneficiary, E.WRONG_BENEFICIARY)
        require(shown.root == listed.list_root, E.PROOF_INVALID)
        reward = max(0, shown.leaf.reward_total - stake.reward_total)
        slash = max(0, shown.leaf.slash_total - stake.slash_total)
        limit = self.slashed + self.forgiven + slash <= final.slash_total
        require(slash == 0 or limit, E.SLASHES_ABOVE_LIST)
        if reward and pay:
            require(self.paid + reward <= final.reward_total, E.REWARDS_ABOVE_LIST)
            require(reward <= self.available + min(slash, stake.amount), E.VAULT_SHORT)
            kept = self.balances.get(beneficiary, 0) + reward >= self.rent(0)
            require(kept, E.BENEFICIARY_BELOW_RENT)
        require(reward == 0 or slash > 0 or pay, E.NOT_WRITABLE)
        if slash:
            self._slash(stake, slash)
        if reward and pay:
            self.move(self.vault, beneficiary, reward)
            self.paid += reward
            stake.reward_total = shown.leaf.reward_total

    # -- accounts as the chain holds them

    def accounts(self) -> Iterator[tuple[bytes, bytes]]:
        """Address and bytes of every account of the program."""
        if self.exists:
            yield self.task, self._task_bytes()
            yield self.vault, at.VAULT_LAYOUT.pack({"magic": at.VAULT_MAGIC, "task": self.task})
        if self.closed:
            yield self.task, self._closed_bytes()
            yield self.vault, b""
        for stake in self.stakes.values():
            yield self.stake_address(stake.staker), self._stake_bytes(stake)

    def _task_bytes(self) -> bytes:
        terms = {
            one.name: getattr(self.terms, one.name)
            for one in at.TASK_LAYOUT
            if hasattr(self.terms, one.name) and one.kind not in ("text", "bytes")
        }
        rounds = b"".join(_round_bytes(self.ring.get(place)) for place in range(at.ROUND_RING))
        values: dict[str, int | bytes] = {
            **terms,
            "magic": at.TASK_MAGIC,
            "version": 1,
            "bump": self.bump,
            "vault_bump": self.vault_bump,
            "active": int(self.active),
            "nonce": self.nonce,
            "name": self.terms.name.encode().ljust(at.NAME_BYTES, b"\0"),
            "program": self.terms.program.encode().ljust(at.PROGRAM_BYTES, b"\0"),
            "audit": at.encode_audit(self.terms.audit),
            "newest_list": _list_bytes(self.newest),
            "settled_list": _list_bytes(self.settled),
            "metadata": self.metadata.ljust(at.METADATA_BYTES, b"\0"),
            "rounds": rounds,
        }
        return at.TASK_LAYOUT.pack(_reserved(at.TASK_LAYOUT) | self._numbers(at.TASK_LAYOUT) | values)

    def _numbers(self, layout: at.Layout) -> dict[str, int | bytes]:
        return {one.name: getattr(self, one.name) for one in layout if hasattr(self, one.name)}

    def _closed_bytes(self) -> bytes:
        values: dict[str, int | bytes] = {
            "magic": at.CLOSED_MAGIC,
            "version": 1,
            "creator": self.terms.creator,
        }
        layout = at.CLOSED_TASK_LAYOUT
        return layout.pack(_reserved(layout) | self._numbers(layout) | values)

    def _stake_bytes(self, stake: ModelStake) -> bytes:
        ring = [bytes(at.CHECKPOINT_LAYOUT.size)] * at.CHECKPOINT_RING
        for place, (_, point) in enumerate(stake.points):
            numbers = (point.slot, point.stake, point.slash_total)
            ring[place % at.CHECKPOINT_RING] = b"".join(one.to_bytes(8, "little") for one in numbers)
        known = {one.name: getattr(stake, one.name) for one in at.STAKE_LAYOUT if hasattr(stake, one.name)}
        values: dict[str, int | bytes] = {
            **known,
            "magic": at.STAKE_MAGIC,
            "version": 1,
            "task": self.task,
            "checkpoint_count": len(stake.points),
            "checkpoints": b"".join(ring),
        }
        return at.STAKE_LAYOUT.pack(_reserved(at.STAKE_LAYOUT) | values)


def _derive(*seeds: bytes) -> tuple[bytes, int]:
    address, bump = Pubkey.find_program_address(list(seeds), Pubkey(ix.PROGRAM_ID))
    return bytes(address), bump


def _reserved(layout: at.Layout) -> dict[str, int | bytes]:
    return {one.name: bytes(one.size) for one in layout if one.kind == "reserved"}


def _round_bytes(one: ModelRound | None) -> bytes:
    known = one or NO_LIST
    values = {name.name: getattr(known, name.name) for name in at.ROUND_LAYOUT if hasattr(known, name.name)}
    return at.ROUND_LAYOUT.pack(_reserved(at.ROUND_LAYOUT) | values)


def _list_bytes(one: ModelRound) -> bytes:
    return _round_bytes(one)[: at.LIST_LAYOUT.size]
