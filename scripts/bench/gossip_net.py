"""One net of the gossip benchmark: its worker processes, led through a case over their pipes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from gossip_cases import JS, Case, Figure, described, links_of

HERE: Final = Path(__file__).resolve().parent
LONGEST_SECONDS: Final = 240.0
"""Of a whole net, after which its processes are killed."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How long a net is given: to form its meshes, warm up, calm down, and deliver what was published."""

    settle: float = 3.0
    warm: int = 50
    calm: float = 1.0
    patience: float = 20.0
    """After the last message was due; what comes later counts as lost."""
    quiet: float = 5.0
    """Seconds without any delivery after which the rest counts as lost."""


QUICK_PACE: Final = Pace(settle=1.2, warm=10, calm=0.3, patience=20.0)


class Worker:
    """A process with some of the nodes."""

    def __init__(self, command: Sequence[str], folder: Path, environment: Mapping[str, str]) -> None:
        self._process = subprocess.Popen(
            command,
            cwd=folder,
            env={**os.environ, **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def tell(self, do: str, **fields: object) -> None:
        """Tell it a step."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"do": do, **fields}) + "\n")
        self._process.stdin.flush()

    def answer(self) -> dict[str, Any]:
        """Wait until it has done what it was told. Raises RuntimeError when it ended instead."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"a worker ended with {self._process.wait()} before it had answered")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def end(self) -> None:
        """End it."""
        self._process.kill()
        self._process.communicate()


def run(arm: str, case: Case, js_folder: Path | None, pace: Pace, *, profile: bool = False) -> Figure:
    """Lead a net of an arm through a case. `js_folder` has the packages of npm. Raises RuntimeError."""
    shares = [list(range(first, case.nodes, case.processes)) for first in range(case.processes)]
    with ExitStack() as stack:
        workers: list[Worker] = []
        for numbers in shares:
            workers.append(_worker(arm, case, numbers, js_folder, profile))
            stack.callback(workers[-1].end)
        watchdog = threading.Timer(LONGEST_SECONDS, _end_all, [workers])
        watchdog.start()
        stack.callback(watchdog.cancel)
        return _lead(case, workers, shares, pace)


def _worker(arm: str, case: Case, numbers: list[int], js_folder: Path | None, profile: bool) -> Worker:
    told = (json.dumps(described(case)), json.dumps(numbers))
    if arm == JS:
        assert js_folder is not None, "js-libp2p was installed"
        return Worker(
            ["node", "--import", "./polyfill.mjs", "gossip.mjs", *told], js_folder, {"NODE_OPTIONS": ""}
        )
    worker = str(HERE / "gossip_worker.py")
    return Worker(
        [sys.executable, worker, arm, *told], HERE.parents[1], {"BENCH_PROFILE": "1"} if profile else {}
    )


def _lead(case: Case, workers: list[Worker], shares: list[list[int]], pace: Pace) -> Figure:
    addresses: dict[int, str] = {}
    for numbers, said in zip(shares, _all(workers, "start"), strict=True):
        addresses.update(zip(numbers, said["addresses"], strict=True))
    links = links_of(case.nodes)
    for worker, numbers in zip(workers, shares, strict=True):
        worker.tell(
            "dial", links=[(number, addresses[other]) for number, other in links if number in numbers]
        )
        worker.answer()
    time.sleep(pace.settle)
    _all(workers, "warm", count=pace.warm)
    time.sleep(pace.calm)
    _all(workers, "mark")
    patience = pace.patience + (case.messages / case.rate if case.rate else 0.0)
    _all(workers, "run", at=time.monotonic() + 0.2, patience=patience, quiet=pace.quiet)
    return figure_of(case, _all(workers, "figures"))


def _end_all(workers: Iterable[Worker]) -> None:
    for worker in workers:
        worker.end()


def _all(workers: Iterable[Worker], do: str, **fields: object) -> list[dict[str, Any]]:
    """Tell all workers a step, and wait until all have done it."""
    told = list(workers)
    for worker in told:
        worker.tell(do, **fields)
    return [worker.answer() for worker in told]


def figure_of(case: Case, said: Sequence[Mapping[str, Any]]) -> Figure:
    """Put the figures of the processes of a net together."""
    taken = sorted(one for each in said for one in each["latencies"])
    count = max(1, len(taken))
    shown = taken or [0.0]
    return Figure(
        delivered=len(taken) / (case.messages * (case.nodes - 1)),
        p50_ms=shown[len(shown) // 2],
        p99_ms=shown[int(len(shown) * 0.99)],
        cpu_ms=sum(each["cpu"] for each in said) / count * 1e3,
        bytes=sum(each["bytes"] for each in said) / count,
        memory_mb=sum(each["memory_mb"] for each in said),
    )
