"""The byte layouts of the settlement program's accounts: one table, used by Python and, generated, by the C
source.

All integers are unsigned and little-endian, every 8-byte field lies at a multiple of 8, text is padded with
NUL, and reserved bytes are zero. `scripts/build_program.py` writes the offsets into `program/layout.h`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from koii_p2p.rounds.anchors import AnchoredRound
from koii_p2p.rounds.audit_rules import AuditRules, Profile, RulesError, Weights
from koii_p2p.rounds.roster import Checkpoint, StakeHistory
from koii_p2p.rounds.terms import TaskTerms, TermsError
from koii_p2p.settlement.interface import AnchoredList, ClosedTaskState, StakeAccount, TaskState

TASK_MAGIC: Final = b"K2TASK01"
VAULT_MAGIC: Final = b"K2VALT01"
STAKE_MAGIC: Final = b"K2STAK01"
CLOSED_MAGIC: Final = b"K2GONE01"

ROUND_RING: Final = 16
"""Rounds that a task account remembers in full; a round's slot in the ring is `round % ROUND_RING`."""
CHECKPOINT_RING: Final = 8
"""Stake changes that a stake account remembers: at most one per period, so never fewer than eight periods."""
NAME_BYTES: Final = 24
PROGRAM_BYTES: Final = 64
METADATA_BYTES: Final = 64
LAST_ATTEMPT: Final = ROUND_RING - 1
"""The last attempt that a round can have, whatever its terms allow: when the audit of this one's list is over, the
round's place in the ring goes to a later round. A list without its place could not be vetoed."""
NOBODY: Final = bytes(32)
"""Where no key is written; it is nobody's, since no signature can be made with it."""

LOCK_PERIODS: Final = 3
"""Round times that a stake stays locked after it was asked back, at least (Koii docs: three rounds)."""
ESCAPE_PERIODS: Final = 64
"""Round times without any anchored list after which a task counts as abandoned."""
BOND_DIVISOR: Final = 10
"""A bond is the task's minimum stake divided by this, rounded down: see docs/settlement.md."""
NEVER: Final = (1 << 64) - 1
"""The round until which an inactive task is idle."""

ROUND_EMPTY: Final = 0
ROUND_COMMITTED: Final = 1
ROUND_LISTED: Final = 2
ROUND_REJECTED: Final = 3

_SIZES: Final = {"u8": 1, "u16": 2, "u32": 4, "u64": 8, "key": 32}


class LayoutError(ValueError):
    """Account data that the settlement program cannot have written."""


@dataclass(frozen=True, slots=True)
class Field:
    """One field: where it starts, its size in bytes, and its kind (`u8 u16 u32 u64 key text bytes reserved`)."""

    name: str
    offset: int
    size: int
    kind: str


@dataclass(frozen=True, slots=True)
class Layout:
    """The fields of one account or record, in order and without gaps. `size` is in bytes."""

    name: str
    fields: tuple[Field, ...]
    size: int

    def __iter__(self) -> Iterator[Field]:
        return iter(self.fields)

    def field(self, name: str) -> Field:
        """The field of this name; `KeyError` if there is none."""
        for field in self.fields:
            if field.name == name:
                return field
        raise KeyError(name)

    def pack(self, values: Mapping[str, int | bytes]) -> bytes:
        """The bytes of a record with these values, one for each field; integers little-endian.

        Raises `LayoutError` if a field is missing or a value does not have its size.
        """
        out = bytearray()
        for field in self.fields:
            value = values.get(field.name)
            try:
                data = value if isinstance(value, bytes) else (value or 0).to_bytes(field.size, "little")
            except OverflowError as error:
                raise LayoutError(f"{self.name}.{field.name} does not hold {value!r}.") from error
            if value is None or len(data) != field.size:
                raise LayoutError(f"{self.name}.{field.name} needs a value of {field.size} bytes.")
            out += data
        return bytes(out)

    def values(self, data: bytes, base: int = 0) -> Values:
        """The fields of `data` from byte `base` on. Raises `LayoutError` if it is too short."""
        if len(data) < base + self.size:
            raise LayoutError(f"A {self.name} takes {self.size} bytes; there are {max(0, len(data) - base)}.")
        return Values(self, data, base)


@dataclass(frozen=True, slots=True)
class Values:
    """Reads the fields of one layout out of account data."""

    layout: Layout
    data: bytes
    base: int

    def raw(self, name: str) -> bytes:
        """The bytes of a field."""
        field = self.layout.field(name)
        return self.data[self.base + field.offset : self.base + field.offset + field.size]

    def integer(self, name: str) -> int:
        """An unsigned integer field."""
        return int.from_bytes(self.raw(name), "little")

    def text(self, name: str) -> str:
        """A NUL-padded UTF-8 field. Raises `LayoutError` if it is not UTF-8."""
        try:
            return self.raw(name).rstrip(b"\0").decode()
        except UnicodeDecodeError as error:
            raise LayoutError(f"{self.layout.name}.{name} is not UTF-8.") from error


def _layout(name: str, *fields: tuple[str, str] | tuple[str, str, int]) -> Layout:
    placed: list[Field] = []
    offset = 0
    for field in fields:
        kind = field[1]
        size = field[2] if len(field) == 3 else _SIZES[kind]
        placed.append(Field(field[0], offset, size, kind))
        offset += size
    return Layout(name, tuple(placed), offset)


# A round begins with what a list is, byte for byte: so a round is a list, and a list is copied out of its round.
ROUND_LAYOUT: Final = _layout(
    "round",
    ("number", "u64"),
    ("attempt", "u8"),
    ("state", "u8"),  # ROUND_EMPTY, ROUND_COMMITTED, ROUND_LISTED, ROUND_REJECTED
    ("reserved_flags", "reserved", 6),
    ("list_root", "key"),
    ("reward_total", "u64"),
    ("slash_total", "u64"),
    ("list_slot", "u64"),
    ("list_by", "key"),
    ("commitment", "key"),
    ("commitment_slot", "u64"),
    ("commitment_by", "key"),
    ("veto_stake", "u64"),  # Roe of the stakes that vetoed this attempt's list
    ("barred_committer", "key"),  # who anchored the rejected attempt before this one; zero for attempt 0
    ("barred_lister", "key"),
    ("reserved", "reserved", 8),
)

LIST_LAYOUT: Final = _layout(
    "list",
    ("round", "u64"),
    ("attempt", "u8"),
    ("state", "u8"),  # ROUND_LISTED, or ROUND_EMPTY if there is no list
    ("reserved_flags", "reserved", 6),
    ("root", "key"),
    ("reward_total", "u64"),
    ("slash_total", "u64"),
    ("slot", "u64"),
)

AUDIT_LAYOUT: Final = _layout(
    # `AuditRules`, as the task's account and CreateTask hold them.
    "audit",
    ("profile", "u8"),
    ("weights", "u8"),
    ("sealed", "u8"),  # 0 or 1
    ("reserved", "reserved", 1),
    ("auditors", "u16"),
    ("quorum", "u16"),
    ("confidence", "u32"),  # millionths
    ("dishonest", "u16"),  # basis points, as the next four
    ("audit_rate", "u16"),
    ("canary_rate", "u16"),
    ("reputation_floor", "u16"),
    ("finders_share", "u16"),
    ("witness_seats", "u16"),
)

TASK_LAYOUT: Final = _layout(
    "task",
    ("magic", "bytes", 8),
    ("version", "u8"),
    ("bump", "u8"),
    ("vault_bump", "u8"),
    ("active", "u8"),
    ("reserved_flags", "reserved", 4),
    ("creator", "key"),
    ("nonce", "u64"),
    # terms
    ("name", "text", NAME_BYTES),
    ("program", "text", PROGRAM_BYTES),
    ("starting_slot", "u64"),
    ("round_time", "u64"),
    ("submission_window", "u64"),
    ("audit_window", "u64"),
    ("bounty_per_round", "u64"),
    ("minimum_stake", "u64"),
    ("slash_basis_points", "u16"),
    ("allowed_failed_distributions", "u16"),
    ("audit", "bytes", AUDIT_LAYOUT.size),
    ("reserved_terms", "reserved", 4),
    # totals, Roe
    ("created_slot", "u64"),
    ("funded", "u64"),  # ever paid in by Fund
    ("paid", "u64"),  # rewards ever paid out by Settle
    ("slashed", "u64"),  # slashes ever moved from stakes into the vault
    ("forgiven", "u64"),  # slashes that a stake no longer covered
    ("total_stake", "u64"),  # in all stake accounts, also where it was asked back
    ("stakers", "u64"),  # stake accounts ever opened
    # anchors
    ("head", "key"),  # SHA-256 chain over every anchor, see ANCHOR_RECORD_LAYOUT
    ("anchors", "u64"),  # records in that chain
    ("newest_list", "bytes", LIST_LAYOUT.size),  # the list of the highest round that was not rejected
    (
        "settled_list",
        "bytes",
        LIST_LAYOUT.size,
    ),  # the newest one past its audit when a round was begun last
    ("withdrawn", "u64"),  # ever paid back by Withdraw, Roe
    ("bonds", "u64"),  # ever moved from stakes into the vault because an attempt was rejected, Roe
    # what the creator said last
    ("idle_from", "u64"),  # from this round on, and
    ("idle_until", "u64"),  # before this one, rounds are not committed to; NEVER while the task is inactive
    ("updated_slot", "u64"),  # 0: never
    ("successor", "key"),  # the task that takes over, zero if none
    ("metadata", "text", METADATA_BYTES),
    ("reserved", "reserved", 424),
    ("rounds", "bytes", ROUND_RING * ROUND_LAYOUT.size),
)

VAULT_LAYOUT: Final = _layout("vault", ("magic", "bytes", 8), ("task", "key"))

CHECKPOINT_LAYOUT: Final = _layout(
    "checkpoint",
    ("slot", "u64"),
    ("stake", "u64"),  # what a roster may count: 0 from the slot on in which the stake was asked back
    ("slash_total", "u64"),
)

STAKE_LAYOUT: Final = _layout(
    "stake",
    ("magic", "bytes", 8),
    ("version", "u8"),
    ("bump", "u8"),
    ("reserved_flags", "reserved", 6),
    ("task", "key"),
    ("staker", "key"),
    ("beneficiary", "key"),
    ("amount", "u64"),  # Roe held by this account above its rent
    ("reward_total", "u64"),  # rewards paid so far: the part of the leaf that is settled
    ("slash_total", "u64"),  # slashes settled so far, taken or forgiven
    ("unstake_slot", "u64"),  # when the stake was asked back; 0: no request
    ("created_slot", "u64"),
    ("checkpoint_count", "u64"),  # entries ever begun; the newest is at (count - 1) % CHECKPOINT_RING
    # Lists that are audited in the same slots differ in their attempt, so these two name every veto of that time.
    ("veto_window", "u64"),  # round + attempt + 1 of the last vetoed list, 0: none
    ("vetoes", "u64"),  # bit k: the list of attempt k in that window
    ("reserved", "reserved", 80),
    ("checkpoints", "bytes", CHECKPOINT_RING * CHECKPOINT_LAYOUT.size),
)

CLOSED_TASK_LAYOUT: Final = _layout(
    # What remains of a task's account: its address is not used again, and its history can still be proved.
    "closed_task",
    ("magic", "bytes", 8),
    ("version", "u8"),
    ("bump", "u8"),
    ("reserved_flags", "reserved", 6),
    ("creator", "key"),
    ("nonce", "u64"),
    ("head", "key"),
    ("anchors", "u64"),
    ("closed_slot", "u64"),
    ("successor", "key"),
)

ANCHOR_RECORD_LAYOUT: Final = _layout(
    "anchor_record",
    # Not an account: what `head = SHA-256(head || record)` is taken over, for commitments, lists and the vetoes
    # that reject a list alike.
    ("tag", "u8"),  # the instruction's tag
    ("attempt", "u8"),
    ("round", "u64"),
    ("slot", "u64"),
    ("by", "key"),  # the staker who signed
    ("digest", "key"),  # commitment digest, list root or rejected list root
    ("reward_total", "u64"),  # this and the next 0 unless it is a list
    ("slash_total", "u64"),
)

LAYOUTS: Final = (
    TASK_LAYOUT,
    AUDIT_LAYOUT,
    ROUND_LAYOUT,
    LIST_LAYOUT,
    VAULT_LAYOUT,
    STAKE_LAYOUT,
    CHECKPOINT_LAYOUT,
    CLOSED_TASK_LAYOUT,
    ANCHOR_RECORD_LAYOUT,
)
VERSION: Final = 1


def decode_task(address: bytes, data: bytes, *, vault: int) -> TaskState:
    """Decode the task account at `address`; `vault` is the vault's balance above its rent, in Roe.

    Raises `LayoutError` for anything that the program cannot have written.
    """
    if len(data) != TASK_LAYOUT.size:
        raise LayoutError(f"A task account has {TASK_LAYOUT.size} bytes, not {len(data)}.")
    values = TASK_LAYOUT.values(data)
    _check_header(values, TASK_MAGIC)
    return TaskState(
        terms=_decode_terms(address, values),
        nonce=values.integer("nonce"),
        created_slot=values.integer("created_slot"),
        vault=vault,
        funded=values.integer("funded"),
        paid=values.integer("paid"),
        slashed=values.integer("slashed"),
        forgiven=values.integer("forgiven"),
        total_stake=values.integer("total_stake"),
        stakers=values.integer("stakers"),
        head=values.raw("head"),
        anchors=values.integer("anchors"),
        rounds=_decode_rounds(data),
        last_list=_decode_list(data, "newest_list"),
        settled_list=_decode_list(data, "settled_list"),
        active=_decode_flag(values, "active"),
        idle=_decode_idle(values),
        withdrawn=values.integer("withdrawn"),
        bonds=values.integer("bonds"),
        successor=values.raw("successor") if values.raw("successor") != NOBODY else None,
        # The program does not ask for UTF-8, and what a creator says later must not make its task unreadable.
        metadata=values.raw("metadata").rstrip(b"\0").decode(errors="replace"),
        updated_slot=values.integer("updated_slot") or None,
    )


def decode_closed_task(data: bytes) -> ClosedTaskState:
    """Decode what remains of a closed task. Raises `LayoutError` for anything that the program cannot have written."""
    if len(data) != CLOSED_TASK_LAYOUT.size:
        raise LayoutError(f"A closed task has {CLOSED_TASK_LAYOUT.size} bytes, not {len(data)}.")
    values = CLOSED_TASK_LAYOUT.values(data)
    _check_header(values, CLOSED_MAGIC)
    return ClosedTaskState(
        creator=values.raw("creator"),
        nonce=values.integer("nonce"),
        head=values.raw("head"),
        anchors=values.integer("anchors"),
        closed_slot=values.integer("closed_slot"),
        successor=values.raw("successor") if values.raw("successor") != NOBODY else None,
    )


def bond(minimum_stake: int) -> int:
    """What each of those who anchored an attempt loses of its stake if the attempt is rejected, in Roe."""
    return minimum_stake // BOND_DIVISOR


def unlock_slot(state: TaskState, unstake_slot: int) -> int:
    """The first slot in which a stake that was asked back in `unstake_slot` is unlocked, by the anchors in `state`.

    The program's rule (`check_unlocked` in `leaves.h`) without vetoes and bonds: three round times, and until a list of
    the round of the request, or of a later one, is settled, or the last attempt of the former is past its audit. So a
    list that is anchored later can bring it forward, and one that is rejected put it off; a slot that is not before it
    is unlocked in any case.
    """
    clock, terms = state.terms.clock, state.terms
    soonest = unstake_slot + LOCK_PERIODS * terms.round_time
    period = clock.period(unstake_slot)
    if period < 0 or (state.settled_list is not None and state.settled_list.round >= period):
        return soonest
    settle = [
        clock.settles_at(one.round, one.attempt)
        for one in state.rounds.values()
        if one.round >= period and one.list_root is not None and not one.rejected
    ]
    return max(soonest, min([*settle, clock.settles_at(period, terms.allowed_failed_distributions)]))


def newest_settled(state: TaskState, slot: int) -> AnchoredList | None:
    """The newest list that is past its audit at `slot`: whose leaf Withdraw takes. None if there is none."""
    clock = state.terms.clock
    final = [] if state.settled_list is None else [state.settled_list]
    for one in state.rounds.values():
        if one.list_root is None or one.rejected or slot < clock.settles_at(one.round, one.attempt):
            continue
        totals = (one.reward_total, one.slash_total)
        final.append(AnchoredList(one.round, one.attempt, one.list_root, *totals, one.list_slot))
    return max(final, key=lambda one: one.round, default=None)


def decode_stake(data: bytes) -> StakeAccount:
    """Decode a stake account. Raises `LayoutError` for anything that the program cannot have written."""
    if len(data) != STAKE_LAYOUT.size:
        raise LayoutError(f"A stake account has {STAKE_LAYOUT.size} bytes, not {len(data)}.")
    values = STAKE_LAYOUT.values(data)
    _check_header(values, STAKE_MAGIC)
    unstake_slot = values.integer("unstake_slot")
    staker, beneficiary = values.raw("staker"), values.raw("beneficiary")
    reward_total = values.integer("reward_total")
    return StakeAccount(
        task=values.raw("task"),
        amount=values.integer("amount"),
        reward_total=reward_total,
        slash_total=values.integer("slash_total"),
        history=StakeHistory(
            staker=staker,
            beneficiary=beneficiary,
            checkpoints=_decode_checkpoints(values),
            unstake_slot=unstake_slot or None,
            reward_paid=reward_total,
        ),
    )


def _decode_flag(values: Values, name: str) -> bool:
    if values.integer(name) > 1:
        raise LayoutError(f"{values.layout.name}.{name} is neither 0 nor 1.")
    return values.integer(name) == 1


def _decode_idle(values: Values) -> tuple[int, int | None] | None:
    first, end = values.integer("idle_from"), values.integer("idle_until")
    if (end == NEVER) is (values.integer("active") == 1):
        raise LayoutError("The task account contradicts itself about being active.")
    return None if first >= end else (first, None if end == NEVER else end)


def _check_header(values: Values, magic: bytes) -> None:
    if values.raw("magic") != magic:
        raise LayoutError(
            f"This is not a {values.layout.name} account: the magic is {values.raw('magic')!r}."
        )
    if values.integer("version") != VERSION:
        raise LayoutError(f"This {values.layout.name} account has version {values.integer('version')}.")


def _decode_terms(address: bytes, values: Values) -> TaskTerms:
    try:
        return TaskTerms(
            task=address,
            creator=values.raw("creator"),
            name=values.text("name"),
            program=values.text("program"),
            starting_slot=values.integer("starting_slot"),
            round_time=values.integer("round_time"),
            submission_window=values.integer("submission_window"),
            audit_window=values.integer("audit_window"),
            bounty_per_round=values.integer("bounty_per_round"),
            minimum_stake=values.integer("minimum_stake"),
            slash_basis_points=values.integer("slash_basis_points"),
            allowed_failed_distributions=values.integer("allowed_failed_distributions"),
            audit=decode_audit(values.raw("audit")),
        )
    except (TermsError, RulesError) as error:
        raise LayoutError(f"The terms in the task account are not usable: {error}") from error


def encode_audit(rules: AuditRules) -> bytes:
    """The audit rules as `AUDIT_LAYOUT` says. Raises `LayoutError` for a number that its field does not hold."""
    return AUDIT_LAYOUT.pack(
        {field.name: getattr(rules, field.name) for field in AUDIT_LAYOUT if field.kind != "reserved"}
        | {"reserved": bytes(1)}
    )


def decode_audit(data: bytes) -> AuditRules:
    """Inverse of `encode_audit`. Raises `RulesError` for rules that the program does not accept."""
    values = AUDIT_LAYOUT.values(data)
    sealed = values.integer("sealed")
    try:
        profile, weights = Profile(values.integer("profile")), Weights(values.integer("weights"))
    except ValueError as error:
        raise RulesError(str(error)) from error
    if sealed > 1 or values.integer("reserved"):
        raise RulesError(f"sealed is {sealed} and the byte behind it {values.integer('reserved')}")
    return AuditRules(
        profile=profile,
        weights=weights,
        auditors=values.integer("auditors"),
        confidence=values.integer("confidence"),
        dishonest=values.integer("dishonest"),
        quorum=values.integer("quorum"),
        audit_rate=values.integer("audit_rate"),
        sealed=sealed == 1,
        canary_rate=values.integer("canary_rate"),
        reputation_floor=values.integer("reputation_floor"),
        finders_share=values.integer("finders_share"),
        witness_seats=values.integer("witness_seats"),
    )


def _decode_rounds(data: bytes) -> dict[int, AnchoredRound]:
    rounds: dict[int, AnchoredRound] = {}
    ring = TASK_LAYOUT.field("rounds").offset
    for position in range(ROUND_RING):
        values = ROUND_LAYOUT.values(data, ring + position * ROUND_LAYOUT.size)
        state, number = values.integer("state"), values.integer("number")
        if state == ROUND_EMPTY:
            continue
        attempt = values.integer("attempt")
        if state > ROUND_REJECTED or attempt > LAST_ATTEMPT or number % ROUND_RING != position:
            raise LayoutError(f"Place {position} of the task account's rounds is damaged.")
        # A round is also rejected for having no list in time.
        listed = values.raw("list_by") != NOBODY
        barred = (values.raw("barred_committer"), values.raw("barred_lister"))
        rounds[number] = AnchoredRound(
            round=number,
            attempt=attempt,
            commitment=values.raw("commitment"),
            commitment_slot=values.integer("commitment_slot"),
            commitment_by=values.raw("commitment_by"),
            list_root=values.raw("list_root") if listed else None,
            reward_total=values.integer("reward_total"),
            slash_total=values.integer("slash_total"),
            list_slot=values.integer("list_slot"),
            list_by=values.raw("list_by") if listed else None,
            veto_stake=values.integer("veto_stake"),
            rejected=state == ROUND_REJECTED,
            barred=tuple(key for key in dict.fromkeys(barred) if key != NOBODY),
        )
    return dict(sorted(rounds.items()))


def _decode_list(data: bytes, name: str) -> AnchoredList | None:
    values = LIST_LAYOUT.values(data, TASK_LAYOUT.field(name).offset)
    if values.integer("state") == ROUND_EMPTY:
        return None
    if values.integer("state") != ROUND_LISTED:
        raise LayoutError(f"The task account's {name} is damaged.")
    return AnchoredList(
        round=values.integer("round"),
        attempt=values.integer("attempt"),
        root=values.raw("root"),
        reward_total=values.integer("reward_total"),
        slash_total=values.integer("slash_total"),
        slot=values.integer("slot"),
    )


def _decode_checkpoints(values: Values) -> tuple[Checkpoint, ...]:
    count = values.integer("checkpoint_count")
    ring = STAKE_LAYOUT.field("checkpoints").offset
    checkpoints = []
    for index in range(max(0, count - CHECKPOINT_RING), count):
        place = ring + index % CHECKPOINT_RING * CHECKPOINT_LAYOUT.size
        entry = CHECKPOINT_LAYOUT.values(values.data, place)
        checkpoints.append(
            Checkpoint(entry.integer("slot"), entry.integer("stake"), entry.integer("slash_total"))
        )
    return tuple(checkpoints)
