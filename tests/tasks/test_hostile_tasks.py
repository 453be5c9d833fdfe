"""What a hostile task can do to its node and to other tasks: nothing. Its own calls fail, and it is said why.

In every test another task runs beside the hostile one, and goes on in the worker that it began with.
"""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from koii_p2p.errors import ConfigurationError
from koii_p2p.limits import Limits
from koii_p2p.records.schema import Verdict
from koii_p2p.rounds.distribution import Submitter
from koii_p2p.rounds.tally import Outcome
from koii_p2p.tasks.confinement import Protection
from koii_p2p.tasks.runner import TaskRunner
from koii_p2p.tasks.services import TaskServices
from tests.tasks.conftest import FIXTURES, TASK_ID, Running

KEY = b"k" * 32
OTHER_TASK = b"o" * 32
GIBIBYTE = 1024**3

Beside = Callable[..., AbstractAsyncContextManager[TaskRunner]]


@pytest.fixture
def beside(running: Running, services: TaskServices, tmp_path: Path) -> Beside:
    """`async with beside("attacks.py", ...) as runner`: the hostile task, with an innocent one beside it."""

    @asynccontextmanager
    async def run(path: Path | str, **limits: float) -> AsyncIterator[TaskRunner]:
        patient = replace(Limits(), worker_call_seconds=60.0, worker_start_seconds=60.0, worker_niceness=0)
        other = TaskRunner(FIXTURES / "attacks.py", OTHER_TASK, tmp_path / "other", services, patient)
        async with trio.open_nursery() as nursery:
            await nursery.start(other.run)
            async with running(path, **limits) as hostile:
                in_flight: list[Verdict] = []

                async def audit_meanwhile() -> None:
                    in_flight.append((await other.audit("sleep:0.5", 1, KEY))[0])

                nursery.start_soon(audit_meanwhile)
                yield hostile
            while not in_flight:
                await trio.sleep(0.01)
            assert in_flight == [Verdict.VALID]
            assert await other.audit("right", 1, KEY) == (Verdict.VALID, "")
            found = other.statistics()
            assert (found.starts, found.failures) == (1, {})
            nursery.cancel_scope.cancel()

    return run


def test_this_kernel_confines_tasks() -> None:
    """The other tests say what is true of such kernels only; `koii-p2p doctor` tells operators of others."""
    from koii_p2p.tasks import landlock
    from koii_p2p.tasks.confinement import has_seccomp

    assert has_seccomp()
    assert landlock.version() >= 1


async def test_a_fork_bomb_forks_nothing(beside: Beside) -> None:
    async with beside("hostile.py") as runner:
        verdict, detail = await runner.audit("fork bomb", 1, KEY)
        assert (verdict, "PermissionError" in detail) == (Verdict.UNAVAILABLE, True)
        assert await runner.audit("right", 1, KEY) == (Verdict.VALID, "")
        assert runner.statistics().starts == 1


async def test_a_thread_bomb_ends_at_the_memory_limit(beside: Beside) -> None:
    async with beside("hostile.py", worker_memory_bytes=GIBIBYTE // 2) as runner:
        verdict, detail = await runner.audit("threads", 1, KEY)
        assert verdict is Verdict.UNAVAILABLE
        assert "thread" in detail


async def test_fifty_gibibytes_are_not_to_be_had(beside: Beside) -> None:
    async with beside("hostile.py") as runner:
        verdict, detail = await runner.audit("one huge object", 1, KEY)
        assert (verdict, "MemoryError" in detail) == (Verdict.UNAVAILABLE, True)
        assert await runner.audit("right", 1, KEY) == (Verdict.VALID, "")
        assert runner.statistics().starts == 1


@pytest.mark.parametrize("order", ["loop", "hang in C", "refuse to be cancelled"])
async def test_an_audit_that_never_returns_is_ended(beside: Beside, order: str) -> None:
    async with beside("hostile.py", worker_call_seconds=0.5, worker_cancel_seconds=0.2) as runner:
        verdict, detail = await runner.audit(order, 1, KEY)
        assert verdict is Verdict.UNAVAILABLE
        assert "timed out: audit() took longer than" in detail
        assert runner.statistics().failures == {"TIMED_OUT": 1}


async def test_an_endless_loop_over_all_its_cpu_is_ended(beside: Beside) -> None:
    async with beside("hostile.py", worker_cpu_seconds=1) as runner:
        verdict, detail = await runner.audit("loop", 1, KEY)
        assert (verdict, "1 s of CPU time" in detail) == (Verdict.UNAVAILABLE, True)


async def test_a_gibibyte_of_output_is_read_and_dropped(
    beside: Beside, capfd: pytest.CaptureFixture[str]
) -> None:
    async with beside("attacks.py", worker_task_seconds=120.0) as runner:
        assert await runner.task(1)
        while runner.statistics().dropped_output_bytes < 0.999 * GIBIBYTE:
            await trio.sleep(0.01)
    seen = capfd.readouterr()
    assert len(seen.out + seen.err) < 20 * Limits().worker_output_bytes


async def test_an_operators_files_cannot_be_read(beside: Beside, tmp_path: Path) -> None:
    secret = tmp_path / "home" / ".config" / "koii" / "id.json"
    secret.parent.mkdir(parents=True)
    secret.write_text("[1, 2, 3]")
    home = os.path.expanduser("~")
    async with beside("attacks.py") as runner:
        for order in (
            f"read:{secret}",
            f"link:{secret}",
            f"list:{secret.parent}",
            f"list:{home}",
            "read:/etc/passwd",
            f"read:/proc/{os.getpid()}/environ",
            f"list:/proc/{os.getpid()}/fd",
        ):
            verdict, detail = await runner.audit(order, 1, KEY)
            assert (verdict, "PermissionError" in detail) == (Verdict.UNAVAILABLE, True), (order, detail)
        assert Protection.OWN_FILES.value in runner.statistics().protections
    assert secret.read_text() == "[1, 2, 3]"


async def test_an_operators_files_cannot_be_written(beside: Beside, tmp_path: Path) -> None:
    code = FIXTURES / "attacks.py"
    before = code.read_bytes()
    async with beside("attacks.py") as runner:
        for target in (tmp_path / "new", code, tmp_path / "other" / "theirs", "/dev/shm/owned"):
            verdict, detail = await runner.audit(f"write:{target}", 1, KEY)
            assert (verdict, "PermissionError" in detail) == (Verdict.UNAVAILABLE, True), (target, detail)
        assert await runner.audit("write:own", 1, KEY) == (Verdict.VALID, "")
    assert not (tmp_path / "new").exists()
    assert not (tmp_path / "other" / "theirs").exists()
    assert code.read_bytes() == before


@pytest.mark.parametrize("order", ["kill parent", "subprocess", "fork"])
async def test_no_process_is_killed_or_started(beside: Beside, order: str) -> None:
    async with beside("hostile.py") as runner:
        assert await runner.audit(order, 1, KEY) == (Verdict.VALID, "")  # the audit says that it was refused
        assert Protection.NO_PROCESSES.value in runner.statistics().protections


async def test_no_other_program_is_run(beside: Beside) -> None:
    async with beside("attacks.py") as runner:
        verdict, detail = await runner.audit("exec", 1, KEY)
        assert (verdict, "PermissionError" in detail) == (Verdict.UNAVAILABLE, True)


async def test_the_network_is_closed_unless_it_was_asked_for(
    beside: Beside, services: TaskServices, tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        async with beside("attacks.py") as runner:
            for order in (f"connect:{port}", "unix"):
                verdict, detail = await runner.audit(order, 1, KEY)
                assert (verdict, "PermissionError" in detail) == (Verdict.UNAVAILABLE, True)
        patient = replace(Limits(), worker_niceness=0, worker_start_seconds=60.0)
        open_one = TaskRunner(
            FIXTURES / "attacks.py", TASK_ID, tmp_path / "open", services, patient, network=True
        )
        async with trio.open_nursery() as nursery:
            await nursery.start(open_one.run)
            assert await open_one.audit(f"connect:{port}", 1, KEY) == (Verdict.VALID, "")
            verdict, detail = await open_one.audit(
                "unix", 1, KEY
            )  # other programs of this machine listen there
            assert (verdict, "PermissionError" in detail) == (Verdict.UNAVAILABLE, True)
            assert Protection.NO_NETWORK.value not in open_one.statistics().protections
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    "order", ["garbage", "huge frame", "wrong frame", "half a frame", "request flood", "close the pipe"]
)
async def test_huge_and_malformed_replies_end_the_worker_alone(beside: Beside, order: str) -> None:
    async with beside("hostile.py", worker_call_seconds=1.5, worker_cancel_seconds=0.2) as runner:
        verdict, _ = await runner.audit(order, 1, KEY)
        assert verdict is Verdict.UNAVAILABLE


async def test_a_module_that_is_missing_is_named(
    beside: Beside, make_runner: Callable[..., TaskRunner], tmp_path: Path
) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "task.py").write_text("import koii_no_such_module\n")
    async with beside("attacks.py"):
        with pytest.raises(ConfigurationError) as caught:
            await make_runner(tmp_path / "broken").run()
    assert "koii_no_such_module" in caught.value.why
    assert "Install the module 'koii_no_such_module'" in caught.value.remedy


@pytest.mark.parametrize(("round", "limit"), [(2, "worker_folder_bytes"), (3, "worker_folder_files")])
async def test_a_folder_that_is_filled_by_going_round_the_quota_ends_the_worker(
    beside: Beside, round: int, limit: str
) -> None:
    limits: dict[str, float] = {"worker_folder_bytes": 20 * 1024 * 1024, "worker_folder_files": 1000}
    async with beside("attacks.py", worker_folder_seconds=0.2, **limits) as runner:
        assert not await runner.task(round)
        assert "its working folder holds" in runner.statistics().last_failure


@pytest.mark.parametrize(
    ("round", "part"),
    [
        (1, "whole Roe"),  # a float
        (2, "pays 101 Roe of a bounty of 100"),
        (3, "who did not submit"),  # an unknown key
        (6, "beyond 64 bits"),
        (7, "Invalid character"),  # a key that is none
        (11, "takes 1900000001 Roe"),  # a total below nothing
    ],
)
async def test_lists_that_break_a_rule_are_no_lists(beside: Beside, round: int, part: str) -> None:
    submitters = [
        Submitter(b"a" * 32, Outcome.APPROVED, 1_900_000_000),
        Submitter(b"b" * 32, Outcome.REJECTED, 1_900_000_000),
    ]
    async with beside("answers.py") as runner:
        assert await runner.distribution(submitters, 100, round) is None
        assert part in runner.statistics().last_failure
        assert await runner.distribution(submitters, 100, 0) == {b"a" * 32: 100, b"b" * 32: -1_330_000_000}


async def test_a_poisoned_submission_leaves_the_other_workers_of_a_pool_alone(running: Running) -> None:
    limits = {"worker_processes": 2, "worker_call_seconds": 2.0, "worker_cancel_seconds": 0.2}
    verdicts: dict[str, Verdict] = {}

    async with running("hostile.py", **limits) as runner:
        while runner.statistics().workers < 2:
            await trio.sleep(0.01)

        async def audit(order: str) -> None:
            verdicts[order] = (await runner.audit(order, 1, KEY))[0]

        async with trio.open_nursery() as nursery:
            nursery.start_soon(audit, "loop")
            await trio.sleep(0.1)
            for order in ("wait a moment", "right", "wrong"):
                nursery.start_soon(audit, order)
        assert verdicts == {
            "loop": Verdict.UNAVAILABLE,
            "wait a moment": Verdict.VALID,
            "right": Verdict.VALID,
            "wrong": Verdict.INVALID,
        }


async def test_no_way_round_to_signals_modes_and_uncounted_memory(running: Running) -> None:
    async with running("hostile.py") as runner:
        assert await runner.audit("go round the rules", 1, KEY) == (Verdict.VALID, "")


def test_what_is_readable_leaves_out_what_leads_to_the_home(tmp_path: Path) -> None:
    """A home in the folder of its task: the task reads its own files, and not the keys in the home."""
    from koii_p2p.tasks.landlock import READ, needed_by

    folder = tmp_path / "home" / "tasks" / "one"
    folder.mkdir(parents=True)
    (tmp_path / "task.py").write_text("")
    (tmp_path / "up").symlink_to(tmp_path)
    readable = {path for path, rights in needed_by(tmp_path, folder) if rights == READ}
    assert tmp_path / "task.py" in readable
    assert not readable & {tmp_path, tmp_path / "home", tmp_path / "up", *folder.parents}
    assert tmp_path in {path for path, rights in needed_by(tmp_path, tmp_path.parent) if rights == READ}


async def test_what_fails_in_the_node_costs_the_task_its_answer_only(
    services: TaskServices, folder: Path
) -> None:
    async def fails(_reference: str) -> bytes:
        raise BaseExceptionGroup("of several", [KeyError("no such thing")])

    async def too_much(_data: bytes) -> str:
        return "x" * Limits().worker_frame_bytes

    broken = replace(services, blob_get=fails, blob_put=too_much)
    patient = replace(Limits(), worker_call_seconds=60.0, worker_start_seconds=60.0, worker_niceness=0)
    runner = TaskRunner(FIXTURES / "blobs.py", TASK_ID, folder, broken, patient)
    async with trio.open_nursery() as nursery:
        await nursery.start(runner.run)
        verdict, why = await runner.audit("some", 1, KEY)
        assert (verdict, "see its log" in why) == (Verdict.UNAVAILABLE, True)
        assert await runner.submission(1) is None
        assert "cannot be handed out" in runner.statistics().last_failure
        assert runner.statistics().starts == 1
        nursery.cancel_scope.cancel()


async def test_a_full_folder_grows_no_further_with_each_life(running: Running, folder: Path) -> None:
    async with running(
        "hostile.py",
        worker_folder_seconds=0.2,
        worker_folder_bytes=20 * 1024 * 1024,
        worker_restart_seconds=0.05,
    ) as runner:
        verdict, why = await runner.audit("fill the folder", 1, KEY)
        assert (verdict, "its working folder holds" in why) == (Verdict.UNAVAILABLE, True)
        held = {file.name: file.stat().st_size for file in folder.iterdir()}
        for order, refused in (("write one more", "PermissionError"), ("write where there was", "OSError")):
            verdict, why = await runner.audit(order, 1, KEY)
            assert (verdict, refused in why) == (Verdict.UNAVAILABLE, True)
        assert {file.name: file.stat().st_size for file in folder.iterdir()} == held
        for name in list(held):
            (folder / name).touch()
        for number in range(30):
            (folder / f"part {number}").touch()
        assert await runner.audit("empty the folder", 1, KEY) == (Verdict.VALID, "")
        with trio.fail_after(30):
            while (await runner.audit("write one more", 1, KEY))[
                1
            ] != "raised: AssertionError: unknown order 'write one more'":
                await trio.sleep(0.1)
