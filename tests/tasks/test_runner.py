from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import base58
import psutil
import pytest
import trio

from koii_p2p.errors import ConfigurationError, OperatorError
from koii_p2p.limits import Limits
from koii_p2p.records.schema import Verdict
from koii_p2p.rounds.distribution import Submitter
from koii_p2p.rounds.tally import Outcome
from koii_p2p.tasks.runner import TaskRunner
from koii_p2p.tasks.services import TaskServices, payload_message
from tests.tasks.conftest import SUBMITTER, TASK_ID, WALLET, Running, verify

KEY = b"k" * 32


@pytest.mark.parametrize(
    ("submission", "verdict"),
    [
        ("right", Verdict.VALID),
        ("wrong", Verdict.INVALID),
        ("verdict", Verdict.INVALID),
        ("unavailable", Verdict.UNAVAILABLE),
    ],
)
async def test_an_explicit_answer_is_the_verdict(running: Running, submission: str, verdict: Verdict) -> None:
    async with running("hostile.py") as runner:
        assert await runner.audit(submission, 1, KEY) == (verdict, "")


async def test_anything_else_is_unavailable_and_the_worker_goes_on(running: Running) -> None:
    async with running("hostile.py") as runner:
        for submission, part in (
            ("none", "returned None"),
            ("one", "audit() returned int"),
            ("zero", "audit() returned int"),
            ("raise", "raised: ValueError: cannot read it [2J"),  # control characters are gone
            ("system exit", "SystemExit: 3"),
            ("base exception", "AnyClass: (this exception has no text)"),
            ("one huge object", "MemoryError"),
            ("huge file", "OSError"),
        ):
            verdict, detail = await runner.audit(submission, 1, KEY)
            assert verdict is Verdict.UNAVAILABLE
            assert part in detail
        assert await runner.audit("wrong", 1, KEY) == (Verdict.INVALID, "")
        assert runner.statistics().starts == 1


@pytest.mark.parametrize(
    ("submission", "part"),
    [
        ("exit", "it ended by itself with exit code 7"),
        ("abort", "SIGABRT"),
        ("segfault", "SIGSEGV"),
        ("garbage", "broke the protocol"),
        ("huge frame", "broke the protocol"),
        ("wrong frame", "broke the protocol"),
        ("request flood", "did not read"),
        ("close the pipe", "closed the pipe"),
    ],
)
async def test_a_worker_that_breaks_is_replaced(running: Running, submission: str, part: str) -> None:
    async with running("hostile.py") as runner:
        verdict, detail = await runner.audit(submission, 1, KEY)
        assert verdict is Verdict.UNAVAILABLE
        assert part in detail
        assert await runner.audit("right", 1, KEY) == (Verdict.VALID, "")
        assert runner.statistics().starts == 2
        assert runner.statistics().failures == {"CRASHED": 1}


@pytest.mark.parametrize("submission", ["refuse to be cancelled", "loop", "hang in C", "half a frame"])
async def test_a_hang_is_killed_at_its_deadline(running: Running, submission: str) -> None:
    async with running("hostile.py", worker_call_seconds=1.0, worker_cancel_seconds=0.2) as runner:
        verdict, detail = await runner.audit(submission, 1, KEY)
        assert verdict is Verdict.UNAVAILABLE
        assert "timed out" in detail


async def test_a_call_that_can_be_cancelled_does_not_cost_the_worker(running: Running) -> None:
    async with running("hostile.py", worker_call_seconds=2.0, worker_cancel_seconds=60.0) as runner:
        verdict, detail = await runner.audit("wait", 1, KEY)
        assert (verdict, detail) == (Verdict.UNAVAILABLE, "timed out: audit() took longer than 2.0 s")
        assert await runner.audit("right", 1, KEY) == (Verdict.VALID, "")
        assert runner.statistics().starts == 1


async def test_memory_is_limited(running: Running) -> None:
    async with running("hostile.py", worker_memory_bytes=300 * 1024 * 1024) as runner:
        verdict, detail = await runner.audit("memory", 1, KEY)
        assert verdict is Verdict.UNAVAILABLE
        assert "MemoryError" in detail
        assert await runner.audit("right", 1, KEY) == (Verdict.VALID, "")


async def test_cpu_time_is_limited(running: Running) -> None:
    async with running("hostile.py", worker_cpu_seconds=1) as runner:
        verdict, detail = await runner.audit("loop", 1, KEY)
        assert verdict is Verdict.UNAVAILABLE
        assert "used up its 1 s of CPU time" in detail
        assert await runner.audit("right", 1, KEY) == (Verdict.VALID, "")


@pytest.mark.parametrize("submission", ["fork", "subprocess", "kill parent"])
async def test_a_task_starts_no_process_and_signals_none(running: Running, submission: str) -> None:
    async with running("hostile.py") as runner:
        assert runner.statistics().confined
        assert await runner.audit(submission, 1, KEY) == (Verdict.VALID, "")


async def test_fork_and_thread_bombs_stay_inside(running: Running) -> None:
    async with running("hostile.py") as runner:
        verdict, detail = await runner.audit("fork bomb", 1, KEY)
        assert verdict is Verdict.UNAVAILABLE
        assert "PermissionError" in detail
        verdict, detail = await runner.audit("threads", 1, KEY)
        assert verdict is Verdict.UNAVAILABLE
        assert await runner.audit("right", 1, KEY) == (Verdict.VALID, "")


async def test_a_flood_of_output_is_bounded(running: Running, capfd: pytest.CaptureFixture[str]) -> None:
    async with running("hostile.py", worker_output_bytes=20_000) as runner:
        assert await runner.audit("print", 1, KEY) == (Verdict.VALID, "")
        assert await runner.audit("log", 1, KEY) == (Verdict.VALID, "")
        assert runner.statistics().dropped_output_bytes > 30_000_000
    seen = capfd.readouterr()
    text = seen.out + seen.err
    assert len(text) < 100_000
    assert "task_output_dropped" in text
    assert "\x1b]0;owned" not in text


async def test_thousands_of_requests_at_once_are_answered(running: Running) -> None:
    async with running("hostile.py") as runner:
        assert await runner.audit("many requests", 1, KEY) == (Verdict.VALID, "")


async def test_audits_run_at_the_same_time(running: Running) -> None:
    verdicts: list[Verdict] = []

    async def audit(runner: TaskRunner) -> None:
        verdicts.append((await runner.audit("wait for seven others", 1, KEY))[0])

    async with running("hostile.py") as runner:
        async with trio.open_nursery() as nursery:
            for _ in range(8):
                nursery.start_soon(audit, runner)
        assert verdicts == [Verdict.VALID] * 8


@pytest.mark.parametrize("poison", ["exit", "loop"])
async def test_one_poisoned_submission_does_not_spoil_the_audits_of_others(
    running: Running, poison: str
) -> None:
    verdicts: dict[int, tuple[Verdict, str]] = {}
    submissions = ["wait a moment", "wrong", poison, "wait a moment", "right"]

    async with running("hostile.py", worker_call_seconds=5.0, worker_cancel_seconds=0.2) as runner:

        async def audit(number: int, submission: str) -> None:
            verdicts[number] = await runner.audit(submission, 1, KEY)

        async with trio.open_nursery() as nursery:
            for number, submission in enumerate(submissions):
                nursery.start_soon(audit, number, submission)
    found = [verdicts[number][0] for number in range(5)]
    assert found == [Verdict.VALID, Verdict.INVALID, Verdict.UNAVAILABLE, Verdict.VALID, Verdict.VALID]


async def test_work_that_fails_or_takes_too_long_is_reported(running: Running) -> None:
    async with running("answers.py", worker_cancel_seconds=0.2) as runner:
        assert await runner.task(0)
        assert not await runner.task(1)
        assert runner.statistics().last_failure == "raised: RuntimeError: no work today"
        assert not await runner.task(2, deadline=0.5)
        assert runner.statistics().last_failure.startswith("timed out: task()")
        assert await runner.task(0)


async def test_submissions_keep_type_and_limits(running: Running) -> None:
    async with running("answers.py") as runner:
        for round, expected in ((0, "text"), (1, b"\x00bytes"), (2, None), (3, "x" * 512), (5, "é" * 256)):
            value = await runner.submission(round)
            assert value == expected
            assert type(value) is type(expected)
        assert runner.statistics().failures == {}
        for round, part in (
            (4, "submission() returned 513 bytes where at most 512 are allowed"),
            (6, "submission() returned 514 bytes"),
            (7, "submission() returned dict; it must return str, bytes or None"),
            (8, "submission() returned float"),
            (9, "cannot be encoded"),
            (10, "submission() returned bytearray"),
        ):
            assert await runner.submission(round) is None
            assert part in runner.statistics().last_failure
        assert await runner.audit(b"\x00bytes", 1, KEY) == (Verdict.VALID, "")
        assert await runner.audit("\x00bytes", 1, KEY) == (Verdict.INVALID, "")


async def test_distributions_are_held_against_the_rules(running: Running) -> None:
    first, second, third = b"a" * 32, b"b" * 32, b"c" * 32
    submitters = [
        Submitter(first, Outcome.APPROVED, 1_900_000_000),
        Submitter(second, Outcome.REJECTED, 1_900_000_000),
        Submitter(third, Outcome.UNDECIDED, 1_900_000_000),
    ]
    async with running("answers.py") as runner:
        expected = {first: 100_000_000, second: -1_330_000_000, third: 0}
        assert await runner.distribution(submitters, 100_000_000, 0) == expected
        assert await runner.distribution(submitters, 100, 9) == {first: 1, second: -1, third: 0}
        assert await runner.distribution(submitters, 100, 8) == {}
        for round, part in (
            (1, "amounts are whole Roe"),
            (2, "distribution() pays 101 Roe of a bounty of 100"),
            (3, "who did not submit"),
            (4, "bool True"),
            (5, "distribution() returned list"),
            (6, "beyond 64 bits"),
            (7, "Invalid character"),
            (10, "cannot be encoded"),
        ):
            assert await runner.distribution(submitters, 100, round) is None
            assert part in runner.statistics().last_failure


async def test_a_task_sees_its_own_folder_and_nothing_secret(
    running: Running, store: dict[bytes, bytes], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KOII_P2P_SECRET", "hunter2")
    async with running("surroundings.py", worker_niceness=3) as runner:
        runner.set_clock(1234, 7)
        assert await runner.task(6)
        seen = json.loads(store[b"seen"][1:])
        group = Path(f"/proc/{(folder / 'worker.pid').read_text()}/autogroup")
        assert not group.exists() or group.read_text().endswith(" nice 3\n")
    assert set(seen["environment"]) <= {
        "PATH", "LANG", "HOME", "TMPDIR", "MALLOC_ARENA_MAX", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "LC_CTYPE",
    }  # fmt: skip
    assert "hunter2" not in json.dumps(seen)
    assert seen["folder"] == seen["environment"]["HOME"] == str(folder)
    assert folder.stat().st_mode & 0o777 == 0o700
    assert seen["umask"] == 0o077
    assert seen["session"]
    assert seen["core"] == [0, 0]
    assert seen["memory"] == [Limits().worker_memory_bytes] * 2
    assert seen["open_files"] == [Limits().worker_open_files] * 2
    assert seen["niceness"] >= 3
    assert seen["secret_objects"] == 0
    secret = bytes(SUBMITTER)
    for form in (secret.hex(), base58.b58encode(secret).decode(), str(list(secret))):
        assert form not in json.dumps(seen)
    own = [name for name in seen["files"] if not name.startswith(("pipe:", "anon_inode:", "socket:"))]
    assert own == ["/dev/null"]
    assert not {"libp2p", "solders", "trio", "structlog", "pydantic"} & set(seen["modules"])
    assert (seen["slot"], seen["round"]) == (1234, 7)
    assert base58.b58decode(seen["submitter"]) == bytes(SUBMITTER.verify_key)
    assert base58.b58decode(seen["main_account"]) == WALLET
    assert base58.b58decode(seen["task_id"]) == TASK_ID


async def test_signing_is_a_request_bound_to_the_task(running: Running) -> None:
    async with running("surroundings.py") as runner:
        signed = await runner.submission(1)
        assert isinstance(signed, str), runner.statistics().last_failure
        data = base58.b58decode(signed)
        assert verify(payload_message(TASK_ID, data[64:]), data[:64], bytes(SUBMITTER.verify_key))
        assert not verify(data[64:], data[:64], bytes(SUBMITTER.verify_key))
        assert not verify(payload_message(b"u" * 32, data[64:]), data[:64], bytes(SUBMITTER.verify_key))


async def test_the_store_keeps_types_and_limits(running: Running) -> None:
    async with running("surroundings.py") as runner:
        assert await runner.audit("", 1, KEY) == (Verdict.VALID, "")


async def test_a_service_that_fails_is_an_exception_of_the_task(
    running: Running, services: TaskServices, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(key: bytes, value: bytes) -> None:
        raise OperatorError("The store is full.", "No space is left on the device.", "Free some.")

    object.__setattr__(services, "store_set", full)
    async with running("surroundings.py") as runner:
        assert not await runner.task(1)
        assert "RequestRefused: The store is full." in runner.statistics().last_failure
        assert runner.statistics().starts == 1


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("import koii_no_such_module\n", "task.py, line 1: ModuleNotFoundError"),
        ("x = 1\ndef broken(:\n", "task.py, line 2: SyntaxError"),
        ("\n\nraise SystemExit(0)\n", "task.py, line 3: SystemExit"),
        ("x = 1\n", "no subclass of koii_p2p.tasks.sdk.Task"),
        (
            "from koii_p2p.tasks.sdk import Task\nclass A(Task): ...\nclass B(Task): ...\n",
            "2 subclasses of Task where there must be one: A (line 2), B (line 3)",
        ),
        (
            "from koii_p2p.tasks.sdk import Task\nclass A(Task):\n    def __init__(self, x): ...\n",
            "A() raised TypeError",
        ),
        ("import os\nos._exit(9)\n", "ended by itself with exit code 9"),
        ("import time\ntime.sleep(60)\n", "not imported within 2 s"),
    ],
)
async def test_a_task_that_cannot_be_loaded_is_a_configuration_error(
    make_runner: Callable[..., TaskRunner], tmp_path: Path, source: str, why: str
) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "task.py").write_text(source)
    runner = make_runner(tmp_path / "broken", worker_start_seconds=2.0)
    with pytest.raises(ConfigurationError) as caught:
        await runner.run()
    assert why in caught.value.why
    assert str(tmp_path / "broken") in caught.value.what
    assert caught.value.remedy
    assert caught.value.exit_code == 3


async def test_missing_packages_are_named(make_runner: Callable[..., TaskRunner], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for path, why in ((tmp_path / "empty", "no file task.py"), (tmp_path / "absent", "nothing at this path")):
        with pytest.raises(ConfigurationError) as caught:
            await make_runner(path).run()
        assert why in caught.value.why


async def test_a_working_folder_that_cannot_be_made_is_a_configuration_error(
    make_runner: Callable[..., TaskRunner], folder: Path
) -> None:
    folder.write_text("a file is in the way")
    with pytest.raises(ConfigurationError, match="could not be made"):
        await make_runner("answers.py").run()


async def test_setup_that_fails_is_tried_again(running: Running, tmp_path: Path) -> None:
    (tmp_path / "task.py").write_text(
        "import os\n"
        "from koii_p2p.tasks.sdk import Task\n"
        "class Late(Task):\n"
        "    async def setup(self, ctx):\n"
        "        with open('tries', 'a') as file: file.write('x')\n"
        "        if os.path.getsize('tries') < 3: raise OSError('not yet')\n"
        "    async def submission(self, ctx, round): return 'ready'\n"
    )
    async with running(tmp_path) as runner:
        assert await runner.submission(1) == "ready"
        assert runner.statistics().starts == 3


async def test_calls_fail_clearly_while_the_task_waits_to_be_restarted(
    running: Running, tmp_path: Path
) -> None:
    (tmp_path / "task.py").write_text(
        "from koii_p2p.tasks.sdk import Task\n"
        "class Never(Task):\n"
        "    async def setup(self, ctx): raise OSError('no license')\n"
    )
    async with running(tmp_path, worker_call_seconds=0.8) as runner:
        while runner.statistics().starts < 2:
            await trio.sleep(0.01)
        verdict, detail = await runner.audit("x", 1, KEY)
        assert verdict is Verdict.UNAVAILABLE
        assert detail.startswith("not running")
        assert "no license" in detail


async def test_functions_that_are_missing_are_no_verdict(running: Running, tmp_path: Path) -> None:
    (tmp_path / "task.py").write_text("from koii_p2p.tasks.sdk import Task\nclass Empty(Task): ...\n")
    async with running(tmp_path) as runner:
        assert await runner.task(1)
        assert await runner.submission(1) is None
        verdict, detail = await runner.audit("x", 1, KEY)
        assert verdict is Verdict.UNAVAILABLE
        assert "has no function audit" in detail


async def test_stopping_leaves_no_process(running: Running, folder: Path) -> None:
    async with running("surroundings.py") as runner:
        assert await runner.audit("", 1, KEY) == (Verdict.VALID, "")
        worker = int((folder / "worker.pid").read_text())
        assert psutil.pid_exists(worker)
    assert not psutil.pid_exists(worker)
    assert not psutil.Process().children(recursive=True)


@pytest.mark.parametrize("signal_name", ["SIGKILL", "SIGTERM"])
def test_a_worker_dies_with_its_node(tmp_path: Path, signal_name: str) -> None:
    (tmp_path / "task.py").write_text(
        "import os\n"
        "from koii_p2p.tasks.sdk import Task\n"
        "class Sleeper(Task):\n"
        "    async def task(self, ctx, round):\n"
        "        print('worker', os.getpid(), flush=True)\n"
        "        while True: pass\n"
    )
    script = tmp_path / "node.py"
    script.write_text(
        "import sys, trio\n"
        "from pathlib import Path\n"
        "from koii_p2p.limits import Limits\n"
        "from koii_p2p.tasks.runner import TaskRunner\n"
        "from koii_p2p.tasks.services import TaskServices\n"
        "none = lambda *_: None\n"
        "services = TaskServices(bytes(32), bytes(32), none, none, none, none, none)\n"
        "async def main():\n"
        f"    here = Path({str(tmp_path)!r})\n"
        "    runner = TaskRunner(here, bytes(32), here / 'work', services, Limits())\n"
        "    async with trio.open_nursery() as nursery:\n"
        "        await nursery.start(runner.run)\n"
        "        await runner.task(1)\n"
        "trio.run(main)\n"
    )
    node = subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        assert node.stdout is not None
        for line in node.stdout:
            if "worker" in line and "task_output" in line:
                number = int("".join(c if c.isdigit() else " " for c in line.split("line=")[1]).split()[0])
                break
        worker = psutil.Process(number)
        assert worker.ppid() == node.pid
        node.send_signal(signal.Signals[signal_name])
        node.wait(timeout=60)
        worker.wait(timeout=60)
        assert not worker.is_running()
    finally:
        node.kill()
        node.wait()


def test_importing_the_worker_is_light() -> None:
    heavy = ["trio", "libp2p", "solders", "structlog", "pydantic", "rich", "typer", "httpx", "plyvel"]
    code = f"import sys, koii_p2p.tasks.worker; print([m for m in {heavy!r} if m in sys.modules])"
    environment = {"PATH": os.environ["PATH"]}
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True
    )
    assert result.stdout.strip() == "[]"
