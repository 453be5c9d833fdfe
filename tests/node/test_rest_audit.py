"""Koii's three-step audit: the worker of one node asks the public server of another, which stamps what it answers."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import trio

from koii_p2p.node.views import base58
from koii_p2p.records.keys import SecretKey
from koii_p2p.records.schema import Verdict
from koii_p2p.tasks.facts import Fact, TaskState
from koii_p2p.tasks.runner import TaskRunner
from tests.node.test_task_http import LIMITS, NODE, TASK, Served, services_of, serving
from tests.tasks.conftest import FIXTURES, TASK_ID

pytestmark = pytest.mark.timeout(120)

AUDITOR = SecretKey.from_seed(b"a" * 32)
HERE = "/ip4/127.0.0.1/tcp/4001"


@asynccontextmanager
async def auditing(
    folder: Path, addresses: Callable[[], list[str]], *, network: bool = True, own: str = HERE
) -> AsyncIterator[TaskRunner]:
    """The task of another node, which knows where NODE says that it is."""

    def fact(name: Fact, _round: int | None) -> object:
        if name is Fact.NODES:
            return [(base58(AUDITOR.public_key), (own,), "t"), (base58(NODE.public_key), addresses(), "t")]
        known: dict[str, Any] = {one.name: None for one in fields(TaskState)}
        return {**known, "task_id": TASK, "starting_slot": 0, "round_time": 100}

    services = replace(services_of(AUDITOR), fact=fact)
    runner = TaskRunner(FIXTURES / "asks.py", TASK_ID, folder / "auditor", services, LIMITS, network=network)
    runner.set_clock(1234, 12)
    async with trio.open_nursery() as nursery:
        await nursery.start(runner.run)
        yield runner
        nursery.cancel_scope.cancel()


def at(served: Served, host: str = "127.0.0.1") -> list[str]:
    return [f"/ip4/{host}/tcp/{served.url.rpartition(':')[2]}/http"]


async def judged(
    runner: TaskRunner, path: str = "/hello?name=a", hello: str = "a", **more: Any
) -> tuple[Any, str]:
    asked = json.dumps({"path": path, "hello": hello, **more})
    return await runner.audit(asked, 12, NODE.public_key)


async def test_a_signed_and_fresh_answer_is_judged_by_the_rule(tmp_path: Path) -> None:
    async with serving(tmp_path) as served, auditing(tmp_path, lambda: at(served)) as auditor:
        assert await judged(auditor) == (Verdict.VALID, "as expected")
        verdict, why = await judged(auditor, hello="b")
        assert (verdict, why.partition(":")[0]) == (
            Verdict.INVALID,
            "the node signed an answer that the task does not allow",
        )
        assert (await judged(auditor, "/thread"))[0] is Verdict.UNAVAILABLE, "the rule cannot tell"
        verdict, why = await judged(auditor, "/kept/nothing")
        assert verdict is Verdict.UNAVAILABLE
        assert "status 404" in why
        served.slot = 1234 + 32
        assert (await judged(auditor))[0] is Verdict.VALID, "two nodes' views of K2 may be so far apart"
        verdict, why = await judged(auditor, within=31)
        assert (verdict, why) == (
            Verdict.UNAVAILABLE,
            "the reply took more slots than the task allows: 32 of 31 slots",
        )


@pytest.mark.parametrize("slot", [1234 - 33, 1234 + 33])
async def test_a_stamp_of_another_time_counts_for_nothing(tmp_path: Path, slot: int) -> None:
    async with serving(tmp_path) as served, auditing(tmp_path, lambda: at(served)) as auditor:
        served.slot = slot
        verdict, why = await judged(auditor)
        assert verdict is Verdict.UNAVAILABLE
        assert why == f"the stamp is of another slot: slot {slot}, asked in 1234, answered in 1234"


async def test_a_round_that_is_not_the_slots_is_the_nodes_own_lie(tmp_path: Path) -> None:
    async with serving(tmp_path) as served, auditing(tmp_path, lambda: at(served)) as auditor:
        ours = served.http._tasks()[TASK]
        served.http._tasks = lambda: {TASK: replace(ours, period=lambda slot: 11)}
        verdict, why = await judged(auditor)
        assert (verdict, why) == (
            Verdict.INVALID,
            "the node's stamp is missing, or is not of this reply: slot 1234 is not in round 11",
        )


async def test_an_earlier_reply_fits_no_later_question(tmp_path: Path) -> None:
    """Somebody in between hands out what the node said before: signed, and of a slot that is still fresh."""
    kept: list[bytes] = []

    async def in_between(stream: trio.SocketStream) -> None:
        async with stream:
            asked = await stream.receive_some(65536)
            if not kept:
                async with await trio.open_tcp_stream("127.0.0.1", port) as server:
                    await server.send_all(asked)
                    said = b""
                    while not said.endswith(b"}"):
                        said += await server.receive_some(65536)
                    kept.append(said)
            await stream.send_all(kept[0])

    async with serving(tmp_path) as served, trio.open_nursery() as nursery:
        port = int(served.url.rpartition(":")[2])
        await served.get(f"/task/{TASK}/hello")
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, in_between, [listener])
        there = [f"/ip4/127.0.0.1/tcp/{listener.socket.getsockname()[1]}/http"]
        async with auditing(tmp_path, lambda: there) as auditor:
            assert (await judged(auditor))[0] is Verdict.VALID
            verdict, why = await judged(auditor)
            assert verdict is Verdict.UNAVAILABLE
            assert why.startswith("the node's stamp is missing, or is not of this reply")
        nursery.cancel_scope.cancel()


async def test_what_proves_nothing_is_unavailable(tmp_path: Path) -> None:
    where: list[str] = []
    async with serving(tmp_path) as served, auditing(tmp_path, lambda: where) as auditor:
        verdict, why = await judged(auditor)
        assert verdict is Verdict.UNAVAILABLE
        assert "no address" in why
        where[:] = ["/ip4/127.0.0.1/tcp/9/http"]
        verdict, why = await judged(auditor)
        assert verdict is Verdict.UNAVAILABLE
        assert "what was asked for could not be had: http://127.0.0.1:9: ConnectError" in why
        where += at(served)
        assert (await judged(auditor))[0] is Verdict.VALID, "the next of its addresses answers"
        where[:] = at(served)
        asked = json.dumps({"path": "/hello", "hello": "world"})
        verdict, why = await auditor.audit(asked, 12, AUDITOR.public_key)
        assert verdict is Verdict.UNAVAILABLE, "it says that it is nowhere"
        served.slot = None
        verdict, why = await judged(auditor)
        assert verdict is Verdict.UNAVAILABLE
        assert "status 503" in why, "the node's own refusal has no stamp"


async def test_nobody_is_sent_to_the_auditors_own_network(tmp_path: Path) -> None:
    async with (
        serving(tmp_path) as served,
        auditing(tmp_path, lambda: at(served), own="/ip4/203.0.113.7/tcp/4001") as auditor,
    ):
        verdict, why = await judged(auditor)
        assert verdict is Verdict.UNAVAILABLE
        assert "which is not to be asked from here" in why
        assert served.http.statistics()["answered"] == 0


async def test_without_the_network_the_reason_says_what_is_missing(tmp_path: Path) -> None:
    async with serving(tmp_path) as served, auditing(tmp_path, lambda: at(served), network=False) as auditor:
        verdict, why = await judged(auditor)
        assert verdict is Verdict.UNAVAILABLE
        assert why.startswith(
            "this task has no network here: ask for it in config-task.yml (ADDON REQUIRE_INTERNET)"
        )
        assert served.http.statistics()["answered"] == 0
