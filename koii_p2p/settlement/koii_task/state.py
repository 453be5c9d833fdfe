"""A Koii task's state as its account holds it: JSON text for native tasks, a binary struct for KPL tasks.

Field names and their meaning follow Koii's public types (namespace-wrapper src/types.ts); the order of the binary
fields is that of the names in create-task-cli's deserializer. Widths of the binary fields are not public: `StateForm`
and `Readings.fixed_text` say which are assumed. Everything is checked for its type; what is missing in JSON counts as
empty, since K2 leaves maps out that were not asked for.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final, TypeVar

import base58

from koii_p2p.rounds.terms import U64_MAX
from koii_p2p.settlement.koii_task.readings import Readings, StateForm

MAX_STATE_BYTES: Final = 50_000_000
"""The largest task account (create-task-cli: `space` is at most 50 MB)."""
MAX_ITEMS: Final = 1_000_000
_KEY_CHARACTERS: Final = 44
_TEXTS: Final = {"task_name": 24}
_TEXT_BYTES: Final = 64

T = TypeVar("T")


class StateError(ValueError):
    """Account data that is no task state, as far as this reading of the format goes."""


class PayoutRecord(Enum):
    """What became of a round's distribution; in the order of the binary enumeration."""

    UNINITIALIZED = "Uninitialized"
    SUCCESSFUL = "PayoutSuccessful"
    FAILED = "PayoutFailed"


@dataclass(frozen=True, slots=True)
class KoiiSubmission:
    """A value that a staker put on chain for a round: a text, or for lists the data account's key in base58."""

    value: str
    slot: int


@dataclass(frozen=True, slots=True)
class KoiiVote:
    """One explicit vote in an audit."""

    voter: bytes
    is_valid: bool
    slot: int


@dataclass(frozen=True, slots=True)
class KoiiAudit:
    """An audit that somebody raised, and the votes in it."""

    trigger_by: bytes
    slot: int
    votes: tuple[KoiiVote, ...]


Submissions = Mapping[int, Mapping[bytes, KoiiSubmission]]
Audits = Mapping[int, Mapping[bytes, KoiiAudit]]


@dataclass(frozen=True)
class KoiiTaskState:
    """The state; keys are 32 bytes, amounts base units, times slots."""

    task_name: str
    task_description: str
    task_manager: bytes
    is_allowlisted: bool
    is_active: bool
    task_audit_program: str
    stake_pot_account: bytes
    total_bounty_amount: int
    bounty_amount_per_round: int
    total_stake_amount: int
    minimum_stake_amount: int
    round_time: int
    starting_slot: int
    audit_window: int
    submission_window: int
    task_executable_network: str
    task_metadata: str
    task_vars: str
    is_migrated: bool
    migrated_to: str
    allowed_failed_distributions: int
    available_balances: Mapping[bytes, int] = field(default_factory=dict)
    stake_list: Mapping[bytes, int] = field(default_factory=dict)
    ip_address_list: Mapping[bytes, str] = field(default_factory=dict)
    submissions: Submissions = field(default_factory=dict)
    submissions_audit_trigger: Audits = field(default_factory=dict)
    distribution_rewards_submission: Submissions = field(default_factory=dict)
    distributions_audit_trigger: Audits = field(default_factory=dict)
    distributions_audit_record: Mapping[int, PayoutRecord] = field(default_factory=dict)
    token_type: bytes | None = None


def read_state(data: bytes, readings: Readings) -> KoiiTaskState:
    """Read account data in the form that the readings name. Raises StateError."""
    if len(data) > MAX_STATE_BYTES:
        raise StateError(f"it has {len(data)} bytes, more than any task account")
    return read_json(data) if readings.state is StateForm.JSON else read_binary(data, readings)


# -- JSON


def read_json(data: bytes) -> KoiiTaskState:
    """Read the JSON text of a native task, up to the first NUL. Raises StateError."""
    try:
        document = json.loads(data.split(b"\0", 1)[0])
    except (ValueError, RecursionError) as error:
        raise StateError(f"it is not JSON: {error}") from error
    values = _object(document, "the state")

    def number(name: str) -> int:
        return _integer(values.get(name), name)

    def words(name: str) -> str:
        return _text(values.get(name, ""), name)

    def truth(name: str) -> bool:
        return _truth(values.get(name, False), name)

    return KoiiTaskState(
        task_name=words("task_name"),
        task_description=words("task_description"),
        task_manager=_key(values.get("task_manager"), "task_manager"),
        is_allowlisted=truth("is_allowlisted"),
        is_active=truth("is_active"),
        task_audit_program=words("task_audit_program"),
        stake_pot_account=_key(values.get("stake_pot_account"), "stake_pot_account"),
        total_bounty_amount=number("total_bounty_amount"),
        bounty_amount_per_round=number("bounty_amount_per_round"),
        total_stake_amount=number("total_stake_amount"),
        minimum_stake_amount=number("minimum_stake_amount"),
        round_time=number("round_time"),
        starting_slot=number("starting_slot"),
        audit_window=number("audit_window"),
        submission_window=number("submission_window"),
        task_executable_network=words("task_executable_network"),
        task_metadata=words("task_metadata"),
        task_vars=words("task_vars"),
        is_migrated=truth("is_migrated"),
        migrated_to=words("migrated_to"),
        allowed_failed_distributions=number("allowed_failed_distributions"),
        available_balances=_by_key(values, "available_balances", _integer),
        stake_list=_by_key(values, "stake_list", _integer),
        ip_address_list=_by_key(values, "ip_address_list", _text),
        submissions=_by_round(values, "submissions", _submission),
        submissions_audit_trigger=_by_round(values, "submissions_audit_trigger", _audit),
        distribution_rewards_submission=_by_round(values, "distribution_rewards_submission", _submission),
        distributions_audit_trigger=_by_round(values, "distributions_audit_trigger", _audit),
        distributions_audit_record={
            _round(name): _record(value) for name, value in _map(values, "distributions_audit_record").items()
        },
    )


def _map(values: Mapping[str, Any], name: str) -> dict[str, Any]:
    return _object(values.get(name, {}), name)


def _by_key(values: Mapping[str, Any], name: str, read: Callable[[Any, str], T]) -> dict[bytes, T]:
    return {_key(key, name): read(value, name) for key, value in _map(values, name).items()}


def _by_round(
    values: Mapping[str, Any], name: str, read: Callable[[Any, str], T]
) -> dict[int, dict[bytes, T]]:
    return {_round(round): _by_key({name: inner}, name, read) for round, inner in _map(values, name).items()}


def _submission(value: Any, name: str) -> KoiiSubmission:
    one = _object(value, name)
    return KoiiSubmission(_text(one.get("submission_value"), name), _integer(one.get("slot"), name))


def _audit(value: Any, name: str) -> KoiiAudit:
    one = _object(value, name)
    votes = one.get("votes", [])
    if not isinstance(votes, list):
        raise StateError(f"the votes of {name} are no list")
    return KoiiAudit(
        _key(one.get("trigger_by"), name),
        _integer(one.get("slot"), name),
        tuple(_vote(vote, name) for vote in votes),
    )


def _vote(value: Any, name: str) -> KoiiVote:
    one = _object(value, name)
    return KoiiVote(
        _key(one.get("voter"), name), _truth(one.get("is_valid"), name), _integer(one.get("slot"), name)
    )


def _record(value: Any) -> PayoutRecord:
    try:
        return PayoutRecord(value)
    except ValueError as error:
        raise StateError(f"distributions_audit_record holds {value!r:.40}") from error


def _round(name: str) -> int:
    if not name.isascii() or not name.isdecimal() or len(name) > 20 or int(name) > U64_MAX:
        raise StateError(f"{name[:24]!r} is no round")
    return int(name)


def _object(value: Any, name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise StateError(f"{name} is not an object")
    return value


def _integer(value: Any, name: str) -> int:
    if type(value) is not int or not 0 <= value <= U64_MAX:
        raise StateError(f"{name} is {value!r:.40}, not an unsigned 64-bit integer")
    return value


def _truth(value: Any, name: str) -> bool:
    if not isinstance(value, bool):
        raise StateError(f"{name} is {value!r:.40}, not true or false")
    return value


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise StateError(f"{name} is {value!r:.40}, not text")
    return value.rstrip(" ")


def _key(value: Any, name: str) -> bytes:
    """A key: base58 text, or a list of 32 bytes (as K2 writes task_manager)."""
    if isinstance(value, list) and len(value) == 32:
        try:
            return bytes(value)
        except (TypeError, ValueError) as error:
            raise StateError(f"{name} is no list of bytes") from error
    # The length is checked first: base58 decoding is quadratic.
    if isinstance(value, str) and len(value) <= _KEY_CHARACTERS:
        try:
            key = bytes(base58.b58decode(value))
        except ValueError as error:
            raise StateError(f"{name} is not base58") from error
        if len(key) == 32:
            return key
    raise StateError(f"{name} is {value!r:.60}, not a key")


# -- binary


def read_binary(data: bytes, readings: Readings) -> KoiiTaskState:
    """Read the binary struct of a KPL task; what lies behind it in the account must be NUL. Raises StateError."""
    if readings.state is StateForm.JSON:
        raise StateError("JSON is not a binary form")
    read = _Reader(data, readings.state is StateForm.BINCODE, readings.fixed_text)
    values: dict[str, Any] = {}
    for name, kind in _BINARY_FIELDS:
        try:
            values[name] = kind(read, name)
        except _EndError as error:
            raise StateError(f"it ends within {name}") from error
    if data[read.at :].strip(b"\0"):
        raise StateError("there is something behind the last field")
    values.pop("stake_pot_seed")
    values.pop("stake_pot_bump")
    return KoiiTaskState(**values)


class _EndError(Exception):
    """The data ended too early."""


class _Reader:
    """Takes fields from account data, one after the other."""

    def __init__(self, data: bytes, wide: bool, fixed_text: bool) -> None:
        self.data = data
        self.at = 0
        self._length_bytes = 8 if wide else 4
        self._enum_bytes = 4 if wide else 1
        self._fixed_text = fixed_text

    def take(self, size: int) -> bytes:
        taken = self.data[self.at : self.at + size]
        if len(taken) != size:
            raise _EndError
        self.at += size
        return taken

    def number(self, size: int = 8) -> int:
        return int.from_bytes(self.take(size), "little")

    def truth(self, name: str) -> bool:
        value = self.number(1)
        if value > 1:
            raise StateError(f"{name} is {value}, not 0 or 1")
        return value == 1

    def count(self, name: str) -> int:
        value = self.number(self._length_bytes)
        if value > MAX_ITEMS:
            raise StateError(f"{name} has {value} items")
        return value

    def words(self, name: str, *, fixed: bool = False) -> str:
        if fixed and self._fixed_text:
            content = self.take(_TEXTS.get(name, _TEXT_BYTES))
        else:
            content = self.take(self.count(name))
        try:
            return content.rstrip(b"\0").decode().rstrip(" ")
        except UnicodeDecodeError as error:
            raise StateError(f"{name} is not UTF-8") from error

    def record(self, name: str) -> PayoutRecord:
        value = self.number(self._enum_bytes)
        if value >= len(PayoutRecord):
            raise StateError(f"{name} holds {value}")
        return tuple(PayoutRecord)[value]

    def pairs(self, name: str, key: Callable[[], Any], value: Callable[[], T]) -> dict[Any, T]:
        found: dict[Any, T] = {}
        last = None
        for _ in range(self.count(name)):
            one = key()
            if last is not None and one <= last:
                raise StateError(f"{name} is not sorted by its keys")
            last = one
            found[one] = value()
        return found

    def by_key(self, name: str, value: Callable[[], T]) -> dict[bytes, T]:
        return self.pairs(name, lambda: self.take(32), value)

    def by_round(self, name: str, value: Callable[[], T]) -> dict[int, dict[bytes, T]]:
        return self.pairs(name, self.number, lambda: self.by_key(name, value))

    def submission(self) -> KoiiSubmission:
        value, slot = self.words("submission_value"), self.number()
        self.number()  # the round, which the map says already
        return KoiiSubmission(value, slot)

    def listed(self) -> KoiiSubmission:
        value, slot = str(base58.b58encode(self.take(32)).decode()), self.number()
        self.number()
        return KoiiSubmission(value, slot)

    def audit(self) -> KoiiAudit:
        by, slot = self.take(32), self.number()
        return KoiiAudit(by, slot, tuple(self.vote() for _ in range(self.count("votes"))))

    def vote(self) -> KoiiVote:
        valid = self.truth("is_valid")
        return KoiiVote(self.take(32), valid, self.number())


_FieldReader = Callable[[_Reader, str], Any]


def _fixed_words(read: _Reader, name: str) -> str:
    return read.words(name, fixed=True)


def _plain_key(read: _Reader, name: str) -> bytes:
    return read.take(32)


def _plain_number(read: _Reader, name: str) -> int:
    return read.number()


_BINARY_FIELDS: Final[tuple[tuple[str, _FieldReader], ...]] = (
    ("is_allowlisted", _Reader.truth),
    ("is_active", _Reader.truth),
    ("task_name", _fixed_words),
    ("task_description", _fixed_words),
    ("task_manager", _plain_key),
    ("task_audit_program", _fixed_words),
    ("stake_pot_account", _plain_key),
    ("stake_pot_seed", _plain_key),
    ("stake_pot_bump", lambda read, name: read.number(1)),
    ("submissions", lambda read, name: read.by_round(name, read.submission)),
    ("submissions_audit_trigger", lambda read, name: read.by_round(name, read.audit)),
    ("total_bounty_amount", _plain_number),
    ("bounty_amount_per_round", _plain_number),
    ("token_type", _plain_key),
    ("total_stake_amount", _plain_number),
    ("minimum_stake_amount", _plain_number),
    ("available_balances", lambda read, name: read.by_key(name, read.number)),
    ("stake_list", lambda read, name: read.by_key(name, read.number)),
    ("ip_address_list", lambda read, name: read.by_key(name, lambda: read.words(name, fixed=True))),
    ("round_time", _plain_number),
    ("starting_slot", _plain_number),
    ("audit_window", _plain_number),
    ("submission_window", _plain_number),
    ("task_executable_network", _fixed_words),
    ("distribution_rewards_submission", lambda read, name: read.by_round(name, read.listed)),
    ("distributions_audit_trigger", lambda read, name: read.by_round(name, read.audit)),
    (
        "distributions_audit_record",
        lambda read, name: read.pairs(name, read.number, lambda: read.record(name)),
    ),
    ("task_metadata", _fixed_words),
    ("task_vars", _fixed_words),
    ("is_migrated", _Reader.truth),
    ("migrated_to", _fixed_words),
    ("allowed_failed_distributions", _plain_number),
)
