"""What a task may ask its node about the task itself: its state, submissions, lists and nodes.

The node answers with JSON (`encode_fact`), the worker reads it into these values. They are one node's view at one
moment: nothing that `distribution` computes may depend on them, or nodes would come to different lists.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from enum import StrEnum
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from koii_p2p.rounds.tally import Outcome


class Fact(StrEnum):
    """Names of what can be asked; those in `OF_A_ROUND` are of one round."""

    TASK_STATE = "task_state"
    SUBMISSIONS = "submissions"
    RESULTS = "results"
    LIST = "list"
    NODES = "nodes"


OF_A_ROUND = frozenset({Fact.SUBMISSIONS, Fact.RESULTS, Fact.LIST})


@dataclass(frozen=True, slots=True)
class TaskState:
    """A task as this node knows it, under Koii's names: keys in base58, amounts in Roe, times in slots.

    `total_bounty_amount` is what is left in the vault, `stake_list` the roster of `roster_round`, the newest round
    that has one (None and empty before the first); `slot_ms` the measured length of a slot. `migrated_to` is the task
    that takes over, or None.
    """

    task_id: str
    task_name: str
    task_manager: str
    is_active: bool
    task_audit_program: str
    task_metadata: str
    starting_slot: int
    round_time: int
    submission_window: int
    audit_window: int
    total_bounty_amount: int
    bounty_amount_per_round: int
    total_stake_amount: int
    minimum_stake_amount: int
    allowed_failed_distributions: int
    slash_basis_points: int
    current_round: int
    roster_round: int | None
    stake_list: Mapping[str, int]
    migrated_to: str | None
    slot_ms: float


@dataclass(frozen=True, slots=True)
class SubmissionSeen:
    """One submission of a round as this node holds it: its text or bytes, and the slot that its author gave."""

    public_key: str
    value: str | bytes
    slot: int


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one submission of a round: its text or bytes, and the outcome that the round's list follows."""

    public_key: str
    value: str | bytes
    outcome: Outcome

    @property
    def approved(self) -> bool:
        """Whether the auditors found it right."""
        return self.outcome.name == "APPROVED"


@dataclass(frozen=True, slots=True)
class ListedAmounts:
    """What a key's leaf of an anchored list says: Roe earned and lost since the task began."""

    reward_total: int
    slash_total: int


@dataclass(frozen=True, slots=True)
class PeerSeen:
    """Where another node of this task says that it listens (multiaddrs), and its software."""

    public_key: str
    addresses: tuple[str, ...]
    software: str

    @property
    def urls(self) -> tuple[str, ...]:
        """Where it says that the REST of its tasks is: `http://203.0.113.7:30017` for each `/ip4/.../tcp/.../http`."""
        return http_urls(self.addresses)


def http_urls(addresses: Iterable[str]) -> tuple[str, ...]:
    """The URLs, without a path, of the multiaddrs among these that end in `/http`; others are passed over."""
    return tuple(url for address in addresses if (url := _http_url(address)))


def _http_url(address: str) -> str:
    match address.split("/"):
        case ["", "ip4" | "ip6" as version, host, "tcp", port, "http"] if port.isdecimal() and len(port) <= 5:
            pass
        case _:
            return ""
    try:
        place = ip_address(host)
    except ValueError:
        return ""
    if place.version != int(version[2:]) or not 0 < int(port) <= 0xFFFF or "%" in host:
        return ""
    return f"http://[{place}]:{int(port)}" if place.version == 6 else f"http://{place}:{int(port)}"


def encode_fact(value: object) -> bytes:
    """What the node sends: JSON, in which bytes are {"hex": ...}. Raises `TypeError` for anything else."""
    return json.dumps(value, separators=(",", ":"), default=_bytes_as_hex).encode()


def read_task_state(data: bytes) -> TaskState:
    """Read the answer to `Fact.TASK_STATE`. Raises `ValueError`."""
    return _made(TaskState, _read(data))


def read_submissions(data: bytes) -> dict[str, SubmissionSeen]:
    """Read the answer to `Fact.SUBMISSIONS`: by key. Raises `ValueError`."""
    found = [SubmissionSeen(key, _text_or_bytes(value), slot) for key, value, slot in _read(data)]
    return {one.public_key: one for one in found}


def read_results(data: bytes) -> dict[str, Result] | None:
    """Read the answer to `Fact.RESULTS`: by key, or None while there are none. Raises `ValueError`."""
    from koii_p2p.rounds.tally import Outcome

    found = _read(data)
    if found is None:
        return None
    results = [Result(key, _text_or_bytes(value), Outcome(outcome)) for key, value, outcome in found]
    return {one.public_key: one for one in results}


def read_list(data: bytes) -> dict[str, ListedAmounts] | None:
    """Read the answer to `Fact.LIST`: by key, or None while the node has none. Raises `ValueError`."""
    found = _read(data)
    if found is None:
        return None
    return {key: ListedAmounts(reward, slash) for key, reward, slash in found}


def read_nodes(data: bytes) -> tuple[PeerSeen, ...]:
    """Read the answer to `Fact.NODES`. Raises `ValueError`."""
    return tuple(PeerSeen(key, tuple(addresses), software) for key, addresses, software in _read(data))


_Value = TypeVar("_Value")


def _made(kind: type[_Value], found: Mapping[str, Any]) -> _Value:
    names = [field.name for field in fields(kind)]  # type: ignore[arg-type]
    if sorted(found) != sorted(names):
        raise ValueError(f"the node's answer is no {kind.__name__}")
    return kind(**found)


def _read(data: bytes) -> Any:
    return json.loads(data)


def _bytes_as_hex(value: object) -> object:
    if isinstance(value, bytes):
        return {"hex": value.hex()}
    raise TypeError(f"{type(value).__name__} is not sent to tasks")


def _text_or_bytes(value: str | Mapping[str, str]) -> str | bytes:
    return value if isinstance(value, str) else bytes.fromhex(value["hex"])
