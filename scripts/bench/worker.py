"""What it costs that a task runs in a process of its own: calls through the worker beside calls of the function itself.

    python scripts/bench/worker.py [--calls 2000] [--out figures.json]

Two audits: "compare" does next to nothing, so that its time is what a call costs; "hash" takes some milliseconds of
CPU, as real audits do. For each: wall time of one call after the other (p50 and p99), and audits a second with eight
at once, with one worker and with two, beside the same function called in this process, one after the other. hashlib
lets go of the interpreter lock, so that one worker may use more than one core for "hash".
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import structlog
import trio

from koii_p2p import __version__
from koii_p2p.limits import Limits
from koii_p2p.records.schema import Verdict
from koii_p2p.tasks.runner import TaskRunner
from koii_p2p.tasks.services import TaskServices

TASK = """
from hashlib import sha256
from koii_p2p.tasks.sdk import Task

def judge(submission):
    if submission == "compare":
        return submission == "compare"
    data = b"x" * (1 << 20)
    return all(sha256(data).digest() for _ in range(4))

class Measured(Task):
    def audit(self, ctx, submission, round, submitter):
        return judge(submission)
"""

AT_ONCE = 8
KEY = bytes(32)
CASES = ("compare", "hash")
WORKERS = (1, 2)


@dataclass(frozen=True, slots=True)
class Figure:
    """Milliseconds of one call (p50, p99), and calls a second: `AT_ONCE` at a time, in this process one by one."""

    p50: float
    p99: float
    per_second: float


def percentile(sorted_times: Sequence[float], share: float) -> float:
    """The smallest time that so large a share of all is not above."""
    return sorted_times[min(len(sorted_times) - 1, int(share * len(sorted_times)))]


def figure_of(times: Sequence[float], count: int, seconds: float) -> Figure:
    ordered = sorted(times)
    return Figure(
        round(percentile(ordered, 0.5) * 1000, 4),
        round(percentile(ordered, 0.99) * 1000, 4),
        round(count / seconds, 1),
    )


def in_process(file: Path, case: str, calls: int) -> Figure:
    """The function itself, called in this process."""
    spec = importlib.util.spec_from_file_location("measured", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    times = []
    began = time.perf_counter()
    for _ in range(calls):
        start = time.perf_counter()
        assert module.judge(case)
        times.append(time.perf_counter() - start)
    return figure_of(times, calls, time.perf_counter() - began)


async def through_workers(file: Path, case: str, calls: int, workers: int) -> Figure:
    """The same function, called as an audit of a task with so many workers."""

    def none(*_: object) -> Any:
        return None

    services = TaskServices(KEY, KEY, none, none, none, none, none)
    limits = replace(Limits(), worker_processes=workers, worker_niceness=0)
    with tempfile.TemporaryDirectory() as folder:
        runner = TaskRunner(file, KEY, Path(folder) / "work", services, limits)

        async def one() -> float:
            start = time.perf_counter()
            assert (await runner.audit(case, 1, KEY))[0] is Verdict.VALID
            return time.perf_counter() - start

        async def several(count: int) -> None:
            for _ in range(count):
                await one()

        async with trio.open_nursery() as nursery:
            await nursery.start(runner.run)
            while runner.statistics().workers < workers:
                await trio.sleep(0.01)
            await several(10)
            times = [await one() for _ in range(calls)]
            began = time.perf_counter()
            async with trio.open_nursery() as group:
                for _ in range(AT_ONCE):
                    group.start_soon(several, calls // AT_ONCE)
            seconds = time.perf_counter() - began
            nursery.cancel_scope.cancel()
    return figure_of(times, calls // AT_ONCE * AT_ONCE, seconds)


def measure(calls: int) -> dict[str, dict[str, Figure]]:
    """All cases: in this process, and through one and two workers. The slow case is called a tenth as often."""
    found: dict[str, dict[str, Figure]] = {}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "task.py"
        file.write_text(TASK)
        for case in CASES:
            count = max(calls if case == "compare" else calls // 10, AT_ONCE)
            found[case] = {"in_process": in_process(file, case, count)}
            for workers in WORKERS:
                name = f"workers_{workers}"
                found[case][name] = trio.run(through_workers, file, case, count, workers)
    return found


def report(found: dict[str, dict[str, Figure]]) -> str:
    lines = ["audit    how          p50 ms   p99 ms  audits/s  audits/s beside in process"]
    for case, figures in found.items():
        peer = figures["in_process"].per_second
        for name, one in figures.items():
            ratio = one.per_second / peer
            lines.append(
                f"{case:<8} {name:<11} {one.p50:>8.3f} {one.p99:>8.3f} {one.per_second:>9.0f}  {ratio:.3f}"
            )
    two, single = found["hash"]["workers_2"].per_second, found["hash"]["workers_1"].per_second
    overhead = found["compare"]["workers_1"].p50 - found["compare"]["in_process"].p50
    lines.append(f"two workers / one, hash: {two / single:.2f}; a call costs {overhead:.3f} ms more (p50)")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--calls", type=int, default=2000)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    found = measure(arguments.calls)
    print(report(found))
    if arguments.out is not None:
        about = {
            "version": __version__,
            "python": platform.python_version(),
            "machine": platform.machine(),
            "cores": os.cpu_count(),
            "load": os.getloadavg(),
            "calls": arguments.calls,
        }
        figures = {case: {name: asdict(one) for name, one in rows.items()} for case, rows in found.items()}
        arguments.out.write_text(json.dumps({**about, "figures": figures}, indent=2) + "\n")


if __name__ == "__main__":
    main()
