"""The stand-in's state, and what Koii's forms of it would be: JSON text and the binary struct.

The stand-in keeps a table (see standin.c). Rendering it as Koii's forms is what lets the carrier's readers be run
against transactions that were really executed.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import base58

from koii_p2p.settlement.koii_task.readings import (
    Dialect,
    Readings,
    Resubmission,
    StateForm,
    UploadForm,
)
from koii_p2p.settlement.koii_task.state import (
    KoiiAudit,
    KoiiSubmission,
    KoiiTaskState,
    KoiiVote,
    PayoutRecord,
)

ELF: Final = Path(__file__).with_name("standin.so")
HEADER_BYTES: Final = 512
MEMBERS: Final = 128
MEMBER_BYTES: Final = 120
ROWS_AT: Final = HEADER_BYTES + MEMBERS * MEMBER_BYTES
ROW_BYTES: Final = 600
LETTERS: Final = "standin "

_SUBMISSION, _LIST, _SUBMISSION_VOTE, _LIST_VOTE, _PAID, _FAILED = range(1, 7)


def local_vars(readings: Readings, *, submitters_only: bool = False) -> str:
    """The `local_vars` that make the stand-in behave by these readings.

    `submitters_only`: a list may name, and be submitted by, only who submitted in its round; not for the carrier to
    choose, since it would meet one or the other.
    """
    letters = {
        "R": readings.resubmission is Resubmission.REPLACES,
        "W": readings.upload is UploadForm.RAW_512,
        "V": not readings.raise_is_vote,
        "A": not readings.stake_names_address and readings.dialect is Dialect.KOII,
        "L": submitters_only,
    }
    return (LETTERS + "".join(letter for letter, chosen in letters.items() if chosen)).strip()


def account_bytes(rows: int) -> int:
    """Size of a task account that takes this many submissions, votes and lists together."""
    return ROWS_AT + rows * ROW_BYTES


def decode(data: bytes) -> KoiiTaskState:
    """The table as a task state. Raises ValueError if it is no stand-in's."""
    if data[:8] != b"KSTANDIN":
        raise ValueError("this is not an account of the stand-in")
    numbers: dict[str, Any] = {name: _u64(data, place) for name, place in _NUMBERS.items()}
    texts: dict[str, Any] = {}
    at = 160
    for name, size in _TEXTS.items():
        texts[name] = data[at : at + size].decode().rstrip(" ")
        at += size
    members = [
        data[HEADER_BYTES + i * MEMBER_BYTES : HEADER_BYTES + (i + 1) * MEMBER_BYTES]
        for i in range(int.from_bytes(data[152:156], "little"))
    ]
    stakes = {one[:32]: _u64(one, 32) for one in sorted(members) if _u64(one, 32)}
    maps = _Maps(data)
    return KoiiTaskState(
        **numbers,
        **texts,
        task_manager=data[8:40],
        is_allowlisted=False,
        is_active=_u64(data, 144) == 1,
        stake_pot_account=data[40:72],
        total_stake_amount=sum(stakes.values()),
        is_migrated=False,
        migrated_to="",
        available_balances={one[:32]: _u64(one, 40) for one in sorted(members) if _u64(one, 40)},
        stake_list=stakes,
        ip_address_list={one[:32]: one[56:120].decode().rstrip(" \0") for one in sorted(members)},
        submissions=_sorted(maps.submissions),
        submissions_audit_trigger=_sorted(maps.audits[_SUBMISSION_VOTE]),
        distribution_rewards_submission=_sorted(maps.lists),
        distributions_audit_trigger=_sorted(maps.audits[_LIST_VOTE]),
        distributions_audit_record=dict(sorted(maps.records.items())),
    )


_NUMBERS: Final = {
    "total_bounty_amount": 72,
    "bounty_amount_per_round": 80,
    "round_time": 88,
    "audit_window": 96,
    "submission_window": 104,
    "minimum_stake_amount": 112,
    "allowed_failed_distributions": 120,
    "starting_slot": 128,
}
_TEXTS: Final = {
    "task_name": 24,
    "task_description": 64,
    "task_audit_program": 64,
    "task_executable_network": 64,
    "task_metadata": 64,
    "task_vars": 64,
}


class _Maps:
    """The rows of the table, by round and key."""

    def __init__(self, data: bytes) -> None:
        self.submissions: dict[int, dict[bytes, KoiiSubmission]] = defaultdict(dict)
        self.lists: dict[int, dict[bytes, KoiiSubmission]] = defaultdict(dict)
        self.audits: dict[int, dict[int, dict[bytes, KoiiAudit]]] = {
            _SUBMISSION_VOTE: defaultdict(dict),
            _LIST_VOTE: defaultdict(dict),
        }
        self.records: dict[int, PayoutRecord] = {}
        for place in range(int.from_bytes(data[156:160], "little")):
            self._add(data[ROWS_AT + place * ROW_BYTES : ROWS_AT + (place + 1) * ROW_BYTES])

    def _add(self, row: bytes) -> None:
        kind, valid, raised = row[:3]
        round, slot, author, other = _u64(row, 8), _u64(row, 16), row[24:56], row[56:88]
        if kind == _SUBMISSION:
            value = row[88:].decode(errors="replace").rstrip(" ")
            self.submissions[round][author] = KoiiSubmission(value, slot)
        elif kind == _LIST:
            self.lists[round][author] = KoiiSubmission(_base58(other), slot)
        elif kind in self.audits:
            vote = KoiiVote(author, bool(valid), slot)
            found = self.audits[kind][round].get(other)
            # The raise is told by `trigger_by`; whether it also is a vote is for the reader to know.
            audit = KoiiAudit(author, slot, ()) if raised or found is None else found
            votes = audit.votes if raised else (*audit.votes, vote)
            self.audits[kind][round][other] = KoiiAudit(audit.trigger_by, audit.slot, votes)
        else:
            self.records[round] = PayoutRecord.SUCCESSFUL if kind == _PAID else PayoutRecord.FAILED


def _sorted(maps: Mapping[int, Mapping[bytes, Any]]) -> dict[int, dict[bytes, Any]]:
    return {round: dict(sorted(inner.items())) for round, inner in sorted(maps.items())}


def render(state: KoiiTaskState, readings: Readings) -> bytes:
    """The account data that a task with this state would have, in the form that the readings name."""
    if readings.state is StateForm.JSON:
        return to_json(state).encode().ljust(64, b"\0") + b"\0" * 16
    return _Writer(readings).state(state) + b"\0" * 16


def to_json(state: KoiiTaskState) -> str:
    """The state as K2 writes it: maps by base58 keys, the manager as a list of bytes, no `round` in submissions."""

    def audits(maps: Mapping[int, Mapping[bytes, KoiiAudit]]) -> Any:
        return _nested(
            maps,
            lambda one: {
                "trigger_by": _base58(one.trigger_by),
                "slot": one.slot,
                "votes": [
                    {"is_valid": vote.is_valid, "voter": _base58(vote.voter), "slot": vote.slot}
                    for vote in one.votes
                ],
            },
        )

    def submissions(maps: Mapping[int, Mapping[bytes, KoiiSubmission]]) -> Any:
        return _nested(maps, lambda one: {"submission_value": one.value, "slot": one.slot})

    values = {
        "is_allowlisted": state.is_allowlisted,
        "is_active": state.is_active,
        **{name: getattr(state, name) for name in (*_TEXTS, *_NUMBERS)},
        "task_manager": list(state.task_manager),
        "stake_pot_account": _base58(state.stake_pot_account),
        "total_stake_amount": state.total_stake_amount,
        "is_migrated": state.is_migrated,
        "migrated_to": state.migrated_to,
        "available_balances": {_base58(key): value for key, value in state.available_balances.items()},
        "stake_list": {_base58(key): value for key, value in state.stake_list.items()},
        "ip_address_list": {_base58(key): value for key, value in state.ip_address_list.items()},
        "submissions": submissions(state.submissions),
        "submissions_audit_trigger": audits(state.submissions_audit_trigger),
        "distribution_rewards_submission": submissions(state.distribution_rewards_submission),
        "distributions_audit_trigger": audits(state.distributions_audit_trigger),
        "distributions_audit_record": {
            str(round): record.value for round, record in state.distributions_audit_record.items()
        },
    }
    return json.dumps(values, separators=(",", ":"))


def _nested(maps: Mapping[int, Mapping[bytes, Any]], show: Callable[[Any], Any]) -> Any:
    return {
        str(round): {_base58(key): show(one) for key, one in inner.items()} for round, inner in maps.items()
    }


class _Writer:
    """Writes the binary struct: fields in the order of the names in Koii's deserializer."""

    def __init__(self, readings: Readings) -> None:
        self._wide = readings.state is StateForm.BINCODE
        self._fixed = readings.fixed_text

    def state(self, one: KoiiTaskState) -> bytes:
        return b"".join(
            (
                bytes([one.is_allowlisted, one.is_active]),
                self._words(one.task_name, 24),
                self._words(one.task_description),
                one.task_manager,
                self._words(one.task_audit_program),
                one.stake_pot_account,
                bytes(32),
                b"\xff",
                self._rounds(one.submissions, self._submission),
                self._rounds(one.submissions_audit_trigger, self._audit),
                self._number(one.total_bounty_amount),
                self._number(one.bounty_amount_per_round),
                one.token_type or bytes(32),
                self._number(one.total_stake_amount),
                self._number(one.minimum_stake_amount),
                self._map(one.available_balances, lambda _, value: self._number(value)),
                self._map(one.stake_list, lambda _, value: self._number(value)),
                self._map(one.ip_address_list, lambda _, value: self._words(value)),
                *map(
                    self._number, (one.round_time, one.starting_slot, one.audit_window, one.submission_window)
                ),
                self._words(one.task_executable_network),
                self._rounds(one.distribution_rewards_submission, self._listed),
                self._rounds(one.distributions_audit_trigger, self._audit),
                self._map(
                    {self._number(round): one for round, one in one.distributions_audit_record.items()},
                    lambda _, record: self._enum(list(PayoutRecord).index(record)),
                ),
                self._words(one.task_metadata),
                self._words(one.task_vars),
                bytes([one.is_migrated]),
                self._words(one.migrated_to),
                self._number(one.allowed_failed_distributions),
            )
        )

    def _number(self, value: int) -> bytes:
        return value.to_bytes(8, "little")

    def _length(self, value: int) -> bytes:
        return value.to_bytes(8 if self._wide else 4, "little")

    def _enum(self, value: int) -> bytes:
        return value.to_bytes(4 if self._wide else 1, "little")

    def _words(self, text: str, size: int = 64) -> bytes:
        return text.encode().ljust(size) if self._fixed else self._sized(text)

    def _sized(self, text: str) -> bytes:
        return self._length(len(text.encode())) + text.encode()

    def _map(self, values: Mapping[bytes, Any], write: Callable[[bytes, Any], bytes]) -> bytes:
        return self._length(len(values)) + b"".join(key + write(key, one) for key, one in values.items())

    def _rounds(self, maps: Mapping[int, Mapping[bytes, Any]], write: Callable[[int, Any], bytes]) -> bytes:
        return self._length(len(maps)) + b"".join(
            self._number(round) + self._map(inner, lambda _, one, round=round: write(round, one))  # type: ignore[misc]
            for round, inner in maps.items()
        )

    def _submission(self, round: int, one: KoiiSubmission) -> bytes:
        return self._sized(one.value) + self._number(one.slot) + self._number(round)

    def _listed(self, round: int, one: KoiiSubmission) -> bytes:
        return bytes(base58.b58decode(one.value)) + self._number(one.slot) + self._number(round)

    def _audit(self, round: int, one: KoiiAudit) -> bytes:
        votes = b"".join(bytes([vote.is_valid]) + vote.voter + self._number(vote.slot) for vote in one.votes)
        return one.trigger_by + self._number(one.slot) + self._length(len(one.votes)) + votes


def _u64(data: bytes, place: int) -> int:
    return int.from_bytes(data[place : place + 8], "little")


def _base58(key: bytes) -> str:
    return str(base58.b58encode(key).decode())
