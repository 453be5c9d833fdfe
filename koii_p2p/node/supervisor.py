"""Runs the node's long-lived services: restarts what may fail, stops the node for what may not."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from enum import Enum

import structlog
import trio

from koii_p2p.errors import operator_error_in
from koii_p2p.storage.faults import StorageError

log = structlog.get_logger(__name__)

FIRST_BACKOFF = 0.5
LONGEST_BACKOFF = 30.0


class OnFailure(Enum):
    """What the supervisor does when a service ends with an error."""

    RESTART = "restart"
    """Start it again after a growing pause; its work can wait. A disk that fails stops the node all the same."""
    STOP = "stop"
    """Stop the node with the error: nothing sensible can go on without it."""


@dataclass(frozen=True, slots=True)
class Service:
    """A named `async run(*, task_status)` and what to do when it fails."""

    name: str
    run: Callable[..., Awaitable[None]]
    on_failure: OnFailure = OnFailure.RESTART


@dataclass(frozen=True, slots=True)
class SupervisorStatistics:
    """Restarts by service name since start, and the last error text of each."""

    restarts: dict[str, int]
    last_errors: dict[str, str]


@dataclass(slots=True)
class Supervisor:
    """Holds services in one nursery. A failure in a restartable service never reaches the others."""

    _restarts: dict[str, int] = field(default_factory=dict)
    _last_errors: dict[str, str] = field(default_factory=dict)

    async def run(
        self,
        services: Iterable[Service],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Start the services in order, each ready before the next; then run until cancelled.

        Raises the error of a service that fails before it is ready (its cause is a setting or the machine), or of
        one whose rule is `OnFailure.STOP`.
        """
        async with trio.open_nursery() as nursery:
            for service in services:
                await nursery.start(self._keep, service)
            task_status.started()

    async def _keep(
        self, service: Service, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        backoff = FIRST_BACKOFF
        ready = _ReadyOnce(task_status)
        while True:
            started_at = trio.current_time()
            try:
                await service.run(task_status=ready)
                return
            except Exception as error:
                known = operator_error_in(error)
                must_stop = service.on_failure is OnFailure.STOP or isinstance(known, StorageError)
                if must_stop or not ready.was_ready:
                    raise
                self._restarts[service.name] = self._restarts.get(service.name, 0) + 1
                self._last_errors[service.name] = f"{type(error).__name__}: {error}"
                log.warning(
                    "service failed, restarting",
                    service=service.name,
                    pause=backoff,
                    exc_info=known is None,
                    error=str(known or error),
                )
            if trio.current_time() - started_at > LONGEST_BACKOFF:
                backoff = FIRST_BACKOFF
            await trio.sleep(backoff)
            backoff = min(backoff * 2, LONGEST_BACKOFF)

    def statistics(self) -> SupervisorStatistics:
        """What was restarted, and why last."""
        return SupervisorStatistics(dict(self._restarts), dict(self._last_errors))


class _ReadyOnce:
    """A task status that forwards only the first `started()`: a restarted service is ready again, nobody waits."""

    def __init__(self, task_status: trio.TaskStatus[None]) -> None:
        self._task_status = task_status
        self.was_ready = False

    def started(self, value: object = None) -> None:
        if not self.was_ready:
            self.was_ready = True
            self._task_status.started()
