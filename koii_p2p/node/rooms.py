"""The data room of a node and the tasks that it is for, from the start and later."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AsyncExitStack
from pathlib import Path

import structlog

from koii_p2p.data.service import DataRoom
from koii_p2p.data.space import Space
from koii_p2p.limits import Limits
from koii_p2p.network.network import Network
from koii_p2p.node.data_spaces import TaskData, TaskSpace
from koii_p2p.node.task_service import TaskService
from koii_p2p.storage.faults import StorageError
from koii_p2p.storage.shards import ShardStore

log = structlog.get_logger(__name__)


def space_of(service: TaskService) -> Space:
    """A task as the rooms for its data see it."""
    return TaskSpace(service.terms.task, service.engine).space()


def open_data(
    stack: AsyncExitStack,
    folder: Path,
    network: Network,
    services: Iterable[TaskService],
    limits: Limits,
    judged: Callable[[bytes, float], None],
) -> DataRoom | str:
    """The data room of these tasks, or why there is none: rounds go on without it."""
    try:
        store = stack.enter_context(ShardStore.open(folder, limits))
    except StorageError as error:
        log.error("no task data on this node", error=str(error))
        return str(error)
    data = DataRoom(store, network, [], limits=limits, directory=network.dht, judged=judged)
    for service in services:
        admit(data, service, space_of(service), limits)
    return data


def admit(data: DataRoom | str, service: TaskService, space: Space, limits: Limits) -> None:
    """Have the data room, if there is one, keep a task's data from now on."""
    if isinstance(data, DataRoom):
        data.room.add(space)
        service.data = TaskData(space.task, data, limits.data_evidence_rounds)


def dismiss(data: DataRoom | str, task: bytes) -> None:
    """Have the data room keep nothing for a task any more."""
    if isinstance(data, DataRoom):
        data.room.remove(task)
