from __future__ import annotations

from itertools import pairwise

import pytest
import trio
from trio.testing import MockClock

from koii_p2p.errors import NetworkError
from koii_p2p.node.supervisor import OnFailure, Service, Supervisor


async def test_a_failing_service_is_restarted_with_back_off_and_leaves_the_others_alone(
    autojump_clock: MockClock,
) -> None:
    starts: list[float] = []
    ticks = 0

    async def failing(*, task_status: trio.TaskStatus[None]) -> None:
        starts.append(trio.current_time())
        task_status.started()
        raise ValueError("broken")

    async def steady(*, task_status: trio.TaskStatus[None]) -> None:
        nonlocal ticks
        task_status.started()
        while True:
            await trio.sleep(0.1)
            ticks += 1

    supervisor = Supervisor()
    with trio.move_on_after(5):
        await supervisor.run([Service("failing", failing), Service("steady", steady)])
    pauses = [later - earlier for earlier, later in pairwise(starts)]
    assert pauses == pytest.approx([0.5, 1.0, 2.0])
    assert ticks >= 45
    assert supervisor.statistics().restarts == {"failing": 4}
    assert "broken" in supervisor.statistics().last_errors["failing"]


async def test_a_service_that_must_not_fail_stops_the_node(autojump_clock: MockClock) -> None:
    async def fatal(*, task_status: trio.TaskStatus[None]) -> None:
        task_status.started()
        await trio.sleep(1)
        raise NetworkError("The port is gone.", "It was taken.", "Choose another.")

    with pytest.RaisesGroup(NetworkError):
        await Supervisor().run([Service("fatal", fatal, OnFailure.STOP)])


async def test_a_service_that_cannot_start_stops_the_node(autojump_clock: MockClock) -> None:
    async def never_ready(*, task_status: trio.TaskStatus[None]) -> None:
        raise NetworkError("Port 9 is in use.", "Another process listens.", "Choose another.")

    with pytest.RaisesGroup(NetworkError):
        await Supervisor().run([Service("never ready", never_ready)])
