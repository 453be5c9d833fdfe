"""`ctx.data` of real workers, over the data rooms of real nodes."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import trio

from koii_p2p.data.service import DataRoom
from koii_p2p.node.task_blobs import RoomNow, get_blob, put_blob
from koii_p2p.records.schema import Verdict
from koii_p2p.tasks.runner import TaskRunner
from koii_p2p.tasks.services import TaskServices
from tests.data.rooms import FAST, TASK, data_net
from tests.tasks.conftest import FIXTURES

pytestmark = pytest.mark.timeout(120)
KEY = bytes(32)
PATIENT = replace(FAST, worker_start_seconds=60.0, worker_niceness=0)


def runner_on(room_now: RoomNow, folder: Path) -> TaskRunner:
    services = TaskServices(
        *(KEY, KEY),
        *(lambda *_: None,) * 5,  # type: ignore[arg-type]
        blob_put=partial(put_blob, room_now, TASK),
        blob_get=partial(get_blob, room_now, PATIENT.task_blob_bytes),
    )
    return TaskRunner(FIXTURES / "blobs.py", TASK, folder, services, PATIENT)


async def test_what_one_nodes_task_puts_anothers_audits(tmp_path: Path) -> None:
    async with data_net(tmp_path, 5) as net, trio.open_nursery() as nursery:

        def room(number: int) -> DataRoom:
            return net.nodes[number].data

        one, other = (runner_on(partial(room, number), tmp_path / f"work{number}") for number in (0, 4))
        await nursery.start(one.run)
        await nursery.start(other.run)
        reference = await one.submission(7)
        assert isinstance(reference, str), one.statistics().last_failure
        assert await other.audit(reference, 7, KEY) == (Verdict.VALID, "")
        assert await other.audit(reference, 8, KEY) == (Verdict.INVALID, "")
        for gone in ("not a reference", reference[:-4] + "aaaa", reference + ".00"):
            verdict, detail = await other.audit(gone, 7, KEY)
            assert (verdict, "RequestRefused" in detail) == (Verdict.UNAVAILABLE, True), detail
        verdict, detail = await other.audit("large", 7, KEY)
        assert (verdict, "at most 4194304 are kept" in detail) == (Verdict.UNAVAILABLE, True)
        assert (one.statistics().starts, other.statistics().starts) == (1, 1)
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("room", [None, "The disk is full."])
async def test_a_node_without_room_says_so(tmp_path: Path, room: str | None) -> None:
    async with trio.open_nursery() as nursery:
        runner = runner_on(lambda: room, tmp_path / "work")
        await nursery.start(runner.run)
        assert await runner.submission(1) is None
        assert "This node keeps no data" in runner.statistics().last_failure
        nursery.cancel_scope.cancel()


async def test_answers_that_take_time_hold_up_nothing_and_end_with_the_worker(tmp_path: Path) -> None:
    asked = 0

    async def never(reference: str) -> bytes:
        nonlocal asked
        asked += 1
        await trio.sleep_forever()
        return b""

    services = TaskServices(*(KEY, KEY), *(lambda *_: None,) * 5, blob_get=never)  # type: ignore[arg-type]
    limits = replace(PATIENT, worker_call_seconds=2.0, worker_cancel_seconds=5.0)
    runner = TaskRunner(FIXTURES / "blobs.py", TASK, tmp_path / "work", services, limits)
    async with trio.open_nursery() as nursery:
        await nursery.start(runner.run)
        verdict, detail = await runner.audit("many", 1, KEY)
        assert (verdict, "timed out" in detail) == (Verdict.UNAVAILABLE, True)
        assert 0 < asked <= limits.worker_open_requests
        runner.end_workers("the test ends it")
        assert await runner.submission(1) is None
        assert "No blobs are kept here" in runner.statistics().last_failure
        assert runner.statistics().starts == 2
        nursery.cancel_scope.cancel()
