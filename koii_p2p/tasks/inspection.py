"""What a task's functions are like, before one of them is called: which it defines itself, and whether they fit.

Runs in the worker process, where the task is imported; what it found goes to the node as plain values.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from koii_p2p.tasks.sdk import Task

_ARGUMENTS: Final = {
    "setup": ("ctx",),
    "task": ("ctx", "round"),
    "submission": ("ctx", "round"),
    "audit": ("ctx", "submission", "round", "submitter"),
    "distribution": ("ctx", "submitters", "bounty", "round"),
    "routes": ("ctx",),
}
"""What a node calls each function with, after `self`."""

_CLASSIC: Final = {
    "task": (("Submission", "task", ("round",)),),
    "submission": (
        ("Submission", "fetch_submission", ("round",)),
        ("Submission", "submit_task", ("round",)),
    ),
    "audit": (
        ("Audit", "validate_node", ("submission_value", "round")),
        ("Audit", "audit_task", ("round",)),
    ),
    "distribution": (
        ("Distribution", "generate_distribution_list", ("round",)),
        ("Distribution", "submit_distribution_list", ("round",)),
    ),
}
"""The methods of Koii's classic classes that stand for each function."""

_NEEDED: Final = ("submission", "audit")


@dataclass(frozen=True, slots=True)
class FunctionFacts:
    """One function of a task: whether the task defines it itself, and what is wrong with it; empty if nothing is."""

    name: str
    own: bool
    fault: str


def described(task: Task) -> list[list[object]]:
    """Name, whether it is the task's own, and its fault, of each of the functions that a node calls."""
    return [[one.name, one.own, one.fault] for one in _facts(task)]


def facts_of(value: object) -> tuple[FunctionFacts, ...]:
    """Inverse of `described`, for what a worker sent. Raises ValueError for anything else."""
    found = []
    for item in value if isinstance(value, list) else [None]:
        match item:
            case [str(name), bool(own), str(fault)]:
                found.append(FunctionFacts(name, own, fault))
            case _:
                raise ValueError("a worker described its task in another form")
    return tuple(found)


def _facts(task: Task) -> Iterator[FunctionFacts]:
    parts = _classic_parts(task)
    for name, arguments in _ARGUMENTS.items():
        if parts and name in _CLASSIC:
            yield _classic_facts(name, parts)
            continue
        own = _is_own(task, Task, name)
        fault = _fault(name, getattr(task, name), arguments) if own else ""
        if not own and name in _NEEDED:
            fault = f"{name}() is missing: write `async def {name}(self, {', '.join(arguments)})`"
        yield FunctionFacts(name, own, fault)


def _classic_parts(task: Task) -> dict[str, Any]:
    """The classic classes' instances behind a task, by the name of their base; empty for another task."""
    from koii_p2p.tasks import classic  # only where a task is described: workers start fast

    if not isinstance(task, classic.ClassicTask):
        return {}
    return {
        type_.__name__: getattr(task, f"_{type_.__name__.lower()}")
        for type_ in (classic.Submission, classic.Audit, classic.Distribution)
    }


def _classic_facts(name: str, parts: dict[str, Any]) -> FunctionFacts:
    from koii_p2p.tasks import classic

    own, faults = False, []
    for part, method, arguments in _CLASSIC[name]:
        if _is_own(parts[part], getattr(classic, part), method):
            own = True
            fault = _fault(f"{part}.{method}", getattr(parts[part], method), arguments)
            if fault and method == "validate_node":
                fault = _fault(f"{part}.{method}", getattr(parts[part], method), (*arguments, "submitter"))
            faults += [fault] if fault else []
    if name == "audit" and not own:
        faults.append(
            "Audit.validate_node() is missing: write `async def validate_node(self, submission, round)`"
        )
    return FunctionFacts(name, own, "; ".join(faults))


def _is_own(one: object, base: type, name: str) -> bool:
    return getattr(type(one), name, None) is not getattr(base, name) or name in getattr(one, "__dict__", {})


def _fault(name: str, function: object, arguments: Sequence[str]) -> str:
    """Why a node cannot call `function` with so many arguments in their order; empty if it can."""
    if not callable(function):
        return f"{name} is no function"
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        return f"{name}() yields: a node takes what it returns"
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return ""  # one written in C, such as a partial of one: only a call shows
    try:
        signature.bind(*arguments)
    except TypeError as error:
        return f"{name}{signature} does not fit: nodes call it with ({', '.join(arguments)}), {error}"
    return ""
