from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from pathlib import Path

import nacl.exceptions
import nacl.signing
import pytest
import trio

from koii_p2p.limits import Limits
from koii_p2p.tasks.runner import TaskRunner
from koii_p2p.tasks.services import TaskServices

FIXTURES = Path(__file__).parent / "fixtures"
TASK_ID = b"t" * 32
SUBMITTER = nacl.signing.SigningKey(b"s" * 32)
WALLET = b"w" * 32

Running = Callable[..., AbstractAsyncContextManager[TaskRunner]]


def verify(message: bytes, signature: bytes, key: bytes) -> bool:
    try:
        nacl.signing.VerifyKey(key).verify(message, signature)
    except nacl.exceptions.CryptoError:
        return False
    return True


@pytest.fixture
def store() -> dict[bytes, bytes]:
    return {}


@pytest.fixture
def services(store: dict[bytes, bytes]) -> TaskServices:
    return TaskServices(
        submitter=bytes(SUBMITTER.verify_key),
        main_account=WALLET,
        store_get=store.get,
        store_set=store.__setitem__,
        store_delete=lambda key: store.pop(key, None) and None,
        sign=lambda message: SUBMITTER.sign(message).signature,
        verify=verify,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "work"


@pytest.fixture
def make_runner(services: TaskServices, folder: Path) -> Callable[..., TaskRunner]:
    def make(path: Path | str, **limits: float) -> TaskRunner:
        # Patient and not nice, so that a busy machine does not change what is tested.
        patient = {
            "worker_restart_seconds": 0.05,
            "worker_call_seconds": 60.0,
            "worker_start_seconds": 60.0,
            "worker_niceness": 0,
        }
        chosen = replace(Limits(), **{**patient, **limits})
        return TaskRunner(FIXTURES / path, TASK_ID, folder, services, chosen)

    return make


@pytest.fixture
def running(make_runner: Callable[..., TaskRunner]) -> Running:
    """`async with running("hostile.py", worker_call_seconds=2) as runner`: a started task, ended afterwards."""

    @asynccontextmanager
    async def run(path: Path | str, **limits: float) -> AsyncIterator[TaskRunner]:
        runner = make_runner(path, **limits)
        async with trio.open_nursery() as nursery:
            await nursery.start(runner.run)
            yield runner
            nursery.cancel_scope.cancel()

    return run
