"""What `koii-p2p status` makes of a node's own words: what stands in a task's way is said."""

from __future__ import annotations

from typing import Any

import pytest
from rich.console import Console

from koii_p2p.cli.status import status_table
from koii_p2p.node.carriers import ByMemos, ByProgram, CarrierChoice


def status(carrier: CarrierChoice = ByProgram(), **task: Any) -> dict[str, Any]:  # noqa: B008 - a frozen value
    view = {
        "task": "TASK",
        "name": "hello",
        "period": 9,
        "state": "active",
        "idle": None,
        "successor": None,
        "rounds": [],
        "actions": {"last_failures": {}, "not_carried": {}},
    }
    return {
        "version": "1",
        "pid": 7,
        "uptime_seconds": 1.0,
        "key": "KEY",
        "wallet": "WALLET",
        "peer_id": "PEER",
        "addresses": [],
        "behaviour": "honest",
        "cluster": {"url": "http://127.0.0.1:1", "genesis": "G"},
        "carrier": {"name": carrier.name, "settles": carrier.settles, "note": carrier.note},
        "slot": {"slot": 1, "slot_seconds": 0.4, "age": 0.0, "trusted": True},
        "network": {"peers": 0, "banned": 0},
        "supervisor": {"restarts": {}, "last_errors": {}},
        "tasks": [view | task],
        "closed_tasks": [],
    }


def printed(found: dict[str, Any]) -> str:
    console = Console(width=200)
    with console.capture() as capture:
        console.print(status_table(found))
    return capture.get()


def test_nothing_is_said_of_what_is_as_it_should_be() -> None:
    shown = printed(status())
    for word in ("carrier", "inactive", "takes over", "closed", "not carried"):
        assert word not in shown


def test_a_carrier_that_does_not_pay_says_so() -> None:
    assert "memo: Rewards and slashes are recorded, not paid" in printed(status(ByMemos(())))


@pytest.mark.parametrize(
    ("idle", "words"),
    [
        ([7, None], "inactive: no rounds from 7 on"),
        ([5, 9], "was inactive: no rounds from 5 to 8"),
        ([2, 7], None),
    ],
)
def test_idle_rounds_are_shown_while_they_matter(idle: list[int | None], words: str | None) -> None:
    shown = printed(status(idle=idle))
    assert words in shown if words else "inactive" not in shown


def test_what_takes_over_and_what_is_not_carried_is_shown() -> None:
    actions = {"last_failures": {"Veto": "too late"}, "not_carried": {"AnchorList": "no second submission"}}
    shown = printed(status(successor="OTHER", actions=actions))
    assert "takes over: OTHER" in shown
    assert "not done: Veto: too late" in shown
    assert "not carried: AnchorList: no second submission" in shown


def test_a_closed_task_is_shown_with_what_is_left_to_do() -> None:
    found = status() | {"tasks": []}
    assert "no tasks" in printed(found)
    closed = {"task": "GONE", "closed_slot": 5, "successor": None, "remedy": "`koii-p2p withdraw GONE` pays."}
    shown = printed(found | {"closed_tasks": [closed]})
    assert "GONE  closed in slot 5" in shown
    assert "koii-p2p withdraw GONE" in shown
    assert "no tasks" not in shown


def test_the_name_that_a_task_has_on_k2_is_shown_harmlessly() -> None:
    assert "\ufffd[2Jowned  TASK" in printed(status(name="\x1b[2Jowned"))
