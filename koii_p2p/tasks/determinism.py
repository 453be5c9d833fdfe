"""Whether a task answers the same wherever it is asked: the same calls in several workers, each in other surroundings.

Nodes whose tasks differ contradict each other, and honest work is then neither paid nor safe. Nothing here proves that
a task is deterministic; it finds what usually makes one differ, and says which.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Final, TypeVar

import base58
import trio
from nacl.exceptions import BadSignatureError
from nacl.signing import SigningKey, VerifyKey

from koii_p2p.errors import raise_operator_error
from koii_p2p.limits import Limits
from koii_p2p.records.schema import Verdict
from koii_p2p.rounds.distribution import Submitter
from koii_p2p.rounds.tally import Outcome
from koii_p2p.tasks.inspection import FunctionFacts
from koii_p2p.tasks.process import Surroundings
from koii_p2p.tasks.runner import TaskRunner
from koii_p2p.tasks.services import TaskServices

TASK_SECONDS: Final = 20.0
"""For task(): what a task does in its ten minutes is not what is looked at."""

_TASK_ID: Final = sha256(b"koii-p2p/check").digest()
_ROUND: Final = 0
_SHOWN: Final = 60
_TIMES: Final = 4
"""How often one worker is asked the same: a coin that falls alike so often is not noticed."""
_AHEAD: Final = 34_752_197
"""Seconds: a year, 37 days, 5:23:17, so that every part of the date and of the time is another."""


_Asked = TypeVar("_Asked")


class Change(Enum):
    """What is different around a worker, and what to do about a task to which that makes a difference."""

    NOTHING = "here", ""
    AGAIN = (
        "when it is asked again, in another order",
        "Use no randomness and no clock, and keep nothing between calls: a draw can follow from the round.",
    )
    SETS = (
        "where Python orders sets differently, as in every process",
        "Sort a set before its order matters: sorted(...).",
    )
    CLOCK = (
        "at another time, in another time zone",
        "Use no clock: the round, and what the submission says, are the same everywhere.",
    )
    NODE = (
        "at another node",
        "Leave out what differs between nodes: ctx.submitter, ctx.main_account, ctx.store, files.",
    )

    def __init__(self, place: str, remedy: str) -> None:
        self.place = place
        self.remedy = remedy


@dataclass(frozen=True, slots=True)
class CodeCheck:
    """What came of it. `findings` are sentences on what would go wrong in a network, `notes` on what was not tried.

    `calls` is how many calls of audit and distribution were compared, each in every worker.
    """

    class_name: str
    functions: tuple[FunctionFacts, ...]
    calls: int
    findings: tuple[str, ...]
    notes: tuple[str, ...]


@dataclass(slots=True, eq=False)
class _Copy:
    change: Change
    runner: TaskRunner
    key: bytes
    submitted: str | bytes | None = None
    audits: dict[tuple[str | bytes, bytes], list[tuple[Verdict, str]]] = field(default_factory=dict)
    lists: dict[int, list[tuple[dict[bytes, int] | None, str]]] = field(default_factory=dict)


async def check_code(
    path: Path, folder: Path, *, bounty: int, slash_basis_points: int, limits: Limits | None = None
) -> CodeCheck:
    """Call audit and distribution of the task at `path` in workers that differ, in folders below `folder`.

    `bounty` is that of a round in Roe. Takes a few seconds where the task is quick. Raises `ConfigurationError` if the
    task cannot be imported.
    """
    chosen = limits or Limits()
    copies = [
        _copy(path, folder / str(place), change, around, node, chosen, slash_basis_points)
        for place, (change, around, node) in enumerate(_places())
    ]
    found = _Findings()
    try:
        async with trio.open_nursery() as nursery:
            first = copies[0].runner
            await nursery.start(first.run)  # before the others: a task that cannot be imported is told once
            async with trio.open_nursery() as starting:
                for copy in copies[1:]:
                    starting.start_soon(nursery.start, copy.runner.run)
            functions = await first.functions()
            for one in functions:
                if one.fault:
                    found.add(f"{one.fault}.")
            calls = 0
            if not found.sentences:
                calls = await _compare(copies, bounty, found)
            name = first.statistics().class_name
            nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        raise_operator_error(group)
    return CodeCheck(name, functions, calls, tuple(found.sentences), tuple(found.notes))


@dataclass(slots=True)
class _Findings:
    sentences: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, sentence: str) -> None:
        if sentence not in self.sentences:
            self.sentences.append(sentence)

    def note(self, sentence: str) -> None:
        if sentence not in self.notes:
            self.notes.append(sentence)


def _places() -> Iterator[tuple[Change, Surroundings, int]]:
    """What each worker differs in from the first, its surroundings, and which node it is at."""
    yield Change.NOTHING, Surroundings(1, 0, "UTC0"), 0
    yield Change.AGAIN, Surroundings(1, 0, "UTC0"), 0
    yield Change.SETS, Surroundings(2, 0, "UTC0"), 0
    yield Change.SETS, Surroundings(3, 0, "UTC0"), 0
    yield Change.SETS, Surroundings(4, 0, "UTC0"), 0
    yield Change.CLOCK, Surroundings(1, _AHEAD, "<+14>-14"), 0
    yield Change.NODE, Surroundings(1, 0, "UTC0"), 1


def _copy(
    path: Path, folder: Path, change: Change, around: Surroundings, node: int, limits: Limits, slash: int
) -> _Copy:
    secret = SigningKey(sha256(b"koii-p2p/check node %d" % node).digest())
    key, store = bytes(secret.verify_key), dict[bytes, bytes]()

    def forget(name: bytes) -> None:
        store.pop(name, None)

    services = TaskServices(
        submitter=key,
        main_account=sha256(key).digest(),
        store_get=store.get,
        store_set=store.__setitem__,
        store_delete=forget,
        sign=lambda message: secret.sign(message).signature,
        verify=_signature_is_good,
    )
    runner = TaskRunner(
        path, _TASK_ID, folder, services, limits, slash_basis_points=slash, surroundings=around
    )
    return _Copy(change, runner, key)


def _signature_is_good(message: bytes, signature: bytes, key: bytes) -> bool:
    try:
        VerifyKey(key).verify(message, signature)
    except (BadSignatureError, ValueError):
        return False
    return True


# --- the calls


async def _compare(copies: Sequence[_Copy], bounty: int, found: _Findings) -> int:
    await _at_all(copies, partial(_work, found=found))
    audited = _audited(copies)
    await _at_all(copies, partial(_audit, audited=audited))
    groups = tuple(_groups())
    await _at_all(copies, partial(_distribute, groups=groups, bounty=bounty))
    _judge_audits(copies, audited, found)
    _judge_lists(copies, groups, found)
    return len(audited) + len(groups)


async def _at_all(copies: Sequence[_Copy], do: Callable[[_Copy], Awaitable[None]]) -> None:
    async with trio.open_nursery() as nursery:
        for copy in copies:
            nursery.start_soon(do, copy)


async def _work(copy: _Copy, *, found: _Findings) -> None:
    runner = copy.runner
    if not await runner.task(_ROUND, deadline=TASK_SECONDS):
        found.note(f"task() did not finish here ({runner.statistics().last_failure}).")
    failed = sum(runner.statistics().failures.values())
    copy.submitted = await runner.submission(_ROUND)
    if sum(runner.statistics().failures.values()) > failed:
        why = runner.statistics().last_failure
        if "submission() returned" in why or "submission() gave" in why:
            found.add(f"submission() cannot be used: {why}.")
        else:
            found.note(f"submission() gave nothing here ({why}).")


def _audited(copies: Sequence[_Copy]) -> tuple[tuple[str | bytes, bytes], ...]:
    """What audit() is asked about: what the copies submitted, and what nobody did; each with its submitter."""
    pairs: dict[tuple[str | bytes, bytes], None] = {}
    for copy in copies:
        if copy.submitted is not None:
            pairs[copy.submitted, copy.key] = None
            pairs[_other(copy.submitted), copy.key] = None
    return tuple(pairs) or (("made up", copies[0].key),)


def _other(value: str | bytes) -> str | bytes:
    return f"not {value}"[:500] if isinstance(value, str) else (b"not " + value)[:500]


async def _audit(copy: _Copy, *, audited: Sequence[tuple[str | bytes, bytes]]) -> None:
    for value, author in _in_order(copy, audited):
        copy.audits.setdefault((value, author), []).append(await copy.runner.audit(value, _ROUND, author))


async def _distribute(copy: _Copy, *, groups: Sequence[Sequence[Submitter]], bounty: int) -> None:
    for number, group in _in_order(copy, list(enumerate(groups))):
        amounts = await copy.runner.distribution(group, bounty, number)
        why = "" if amounts is not None else copy.runner.statistics().last_failure
        copy.lists.setdefault(number, []).append((amounts, why))


def _in_order(copy: _Copy, asked: Sequence[_Asked]) -> Sequence[_Asked]:
    """What a worker is asked, one after the other."""
    return asked if copy.change is not Change.AGAIN else [*reversed(asked)] * _TIMES


def _groups() -> Iterator[tuple[Submitter, ...]]:
    """Submitters of rounds: none, one, all of one outcome, and mixed, with other keys and stakes in each."""
    kinds = (Outcome.APPROVED, Outcome.REJECTED, Outcome.UNDECIDED, Outcome.UNAVAILABLE)
    yield ()
    for kind in kinds[:3]:
        yield (_submitter(f"alone {kind.name}", kind),)
    for number in range(8):
        group = [_submitter(f"{number} {place}", kinds[place % 4 if place > 4 else 0]) for place in range(9)]
        yield tuple(sorted(group, key=lambda one: one.key))


def _submitter(name: str, outcome: Outcome) -> Submitter:
    key = sha256(b"koii-p2p/check submitter " + name.encode()).digest()
    return Submitter(key, outcome, 1_900_000_000 + key[0])


# --- what they show


def _judge_audits(
    copies: Sequence[_Copy], audited: Sequence[tuple[str | bytes, bytes]], found: _Findings
) -> None:
    for copy in copies[1:]:
        for asked in audited:
            verdict, _ = copies[0].audits[asked][0]
            for other, reason in copy.audits[asked]:
                if other is not verdict:
                    more = f" ({reason})" if reason else ""
                    text = f"{_shown(asked[0])} is {verdict.name}, and {other.name}{more} {copy.change.place}"
                    found.add(f"audit() is not the same everywhere: {text}. {copy.change.remedy}")
                    return
    for value, author in audited:
        verdict, why = copies[0].audits[value, author][0]
        if verdict is Verdict.UNAVAILABLE and "audit() returned" in why and why != "audit() returned None":
            found.add(f"audit() cannot be used: {why}.")
            return
        if verdict is Verdict.UNAVAILABLE:
            found.note(
                f"audit() came to no verdict of {_shown(value)} here ({why or 'it says UNAVAILABLE'})."
            )
            return


def _judge_lists(copies: Sequence[_Copy], groups: Sequence[Sequence[Submitter]], found: _Findings) -> None:
    for copy in copies[1:]:
        for number, group in enumerate(groups):
            amounts, why = copies[0].lists[number][0]
            for other, reason in copy.lists[number]:
                if other != amounts:
                    text = f"{_about(number, group)}, {_difference(amounts, other, why, reason)} {copy.change.place}"
                    found.add(f"distribution() is not the same everywhere: {text}. {copy.change.remedy}")
                    return
    for number, group in enumerate(groups):
        amounts, why = copies[0].lists[number][0]
        if amounts is None:
            found.add(f"distribution() gives no list {_about(number, group)}: {why}.")
            return


def _about(number: int, group: Sequence[Submitter]) -> str:
    return f"of {len(group)} submitters in round {number}"


def _shown(value: str | bytes) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…"


def _difference(one: dict[bytes, int] | None, other: dict[bytes, int] | None, why: str, reason: str) -> str:
    if one is None or other is None:
        return f"it gives {_given(one, why)}, and {_given(other, reason)}"
    key = next(key for key in sorted({*one, *other}) if one.get(key) != other.get(key))
    name = base58.b58encode(key).decode("ascii")
    return f"{name} gets {_roe(one.get(key))}, and {_roe(other.get(key))}"


def _given(amounts: dict[bytes, int] | None, why: str) -> str:
    return f"no list ({why})" if amounts is None else "a list"


def _roe(amount: int | None) -> str:
    return "nothing said of it" if amount is None else f"{amount} Roe"
