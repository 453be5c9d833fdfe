"""What tasks cost a node at its start: real nodes with real workers, beside nodes that call tasks in their own process.

    python scripts/bench/node_start.py [--tasks 10] [--times 3] [--out figures.json]

A local K2 has so many tasks, whose first rounds are far off, and a node joins them all: seconds from the start of its
process to the line that says it is ready, and memory then: proportional set size (PSS, shared pages counted once) of
the node and its workers. The code of every task is `examples/hello_world`. The peer is the same node software with
one thing changed: a task is imported into the node's process, and its functions are called there, unprotected. Also
with one task, so that what each more costs can be told. Runs alternate; medians are shown, and ratios at the end.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import base58
import psutil  # type: ignore[import-untyped]
import structlog
import trio

from koii_p2p import __version__
from koii_p2p.cli.main import run as run_command_line
from koii_p2p.cli.settings import PREFIX
from koii_p2p.node import node as node_room
from koii_p2p.records.keys import SecretKey
from koii_p2p.rounds.terms import TaskTerms
from koii_p2p.settlement.program import ProgramSettlement
from koii_p2p.settlement.rpc import RpcClient
from koii_p2p.storage.home import Home
from koii_p2p.storage.keyfile import save_secret
from koii_p2p.tasks.loader import load_task_class
from koii_p2p.tasks.runner import TaskRunner
from koii_p2p.testnets.processes import PYTHON, Child

EXAMPLE: Final = Path(__file__).parents[2] / "examples" / "hello_world"
WAYS: Final = ("workers", "own process")
FAR_OFF: Final = 1_000_000
"""Slots until the first round, so that nothing but the start is measured."""
READY_SECONDS: Final = 180.0
RICH: Final = 10_000_000_000


@dataclass(frozen=True, slots=True)
class Start:
    """One start: seconds until ready, MiB of PSS then, and how many processes there were."""

    seconds: float
    mebibytes: float
    processes: int


class InOwnProcess(TaskRunner):
    """The peer: a task in the node's process, as a node without workers would have it. Only its start is played."""

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Import the task and set it up, here."""
        self._make_folder()
        task = load_task_class(self._path)()
        with suppress(StopIteration):
            task.setup(None).send(None)  # type: ignore[arg-type]
        task_status.started()
        await trio.sleep_forever()


def environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}


async def make_tasks(url: str, wallet: SecretKey, count: int) -> list[str]:
    """Create so many tasks on the local K2, and return their ids."""
    async with RpcClient(url) as rpc:
        await rpc.request_airdrop(wallet.public_key, RICH * (count + 1))
        while await rpc.get_balance(wallet.public_key) == 0:
            await trio.sleep(0.05)
        chain = ProgramSettlement(rpc, wallet)
        names = []
        for nonce in range(1, count + 1):
            terms = TaskTerms(
                task=bytes(32),
                creator=wallet.public_key,
                name=f"start {nonce}",
                starting_slot=await chain.slot() + FAR_OFF,
                bounty_per_round=1_000_000_000,
                minimum_stake=1_900_000_000,
                program="examples.hello_world",
                round_time=500,
                submission_window=200,
                audit_window=200,
            )
            names.append(base58.b58encode((await chain.create_task(terms, nonce)).task).decode())
        return names


async def start(way: str, home: Path, url: str, tasks: Sequence[str], wallet: SecretKey) -> Start:
    """Start one node with these tasks, measure it when it is ready, and end it."""
    place = Home(home)
    place.prepare()
    save_secret(place.staking_key, SecretKey.generate())
    save_secret(place.wallet_key, wallet)
    command = [*PYTHON, "-m", "koii_p2p.cli"] if way == "workers" else [*PYTHON, __file__, "--as-node"]
    command += ["--home", str(home), "--url", url, "--output", "json", "join"]
    for task in tasks:
        command += ["--task", f"{task}={EXAMPLE}"]
    command += ["--listen", "/ip4/127.0.0.1/tcp/0", "--no-mdns", "--api-port", "0"]
    began = trio.current_time()
    child = Child("node", command, home, environment())
    try:
        await child.ready(READY_SECONDS)
        seconds = trio.current_time() - began
        return Start(round(seconds, 3), *memory_of(child.mark.pid))
    finally:
        with trio.CancelScope(shield=True):
            await child.stop()


def memory_of(pid: int) -> tuple[float, int]:
    """MiB of PSS of a process and all that it started, and how many they are."""
    node = psutil.Process(pid)
    family = [node, *node.children(recursive=True)]
    size = sum(one.memory_full_info().pss for one in family)
    return round(size / 1024 / 1024, 1), len(family)


async def measure(counts: Sequence[int], times: int) -> dict[str, list[Start]]:
    """All starts by way and number of tasks, such as "workers 10"."""
    found: dict[str, list[Start]] = {f"{way} {count}": [] for count in counts for way in WAYS}
    with tempfile.TemporaryDirectory(prefix="koii-p2p-") as folder:
        place, wallet = Path(folder), SecretKey.generate()
        line = [*PYTHON, "-m", "koii_p2p.localk2", "--path", str(place / "k2"), "--port", "0"]
        k2 = Child("k2", line, place, environment())
        try:
            url = str((await k2.ready(READY_SECONDS))["url"])
            tasks = await make_tasks(url, wallet, max(counts))
            for number in range(times):
                for count in counts:
                    for way in WAYS:
                        home = place / f"home-{number}-{count}-{way.replace(' ', '-')}"
                        found[f"{way} {count}"].append(await start(way, home, url, tasks[:count], wallet))
        finally:
            with trio.CancelScope(shield=True):
                await k2.stop()
    return found


def median(starts: Sequence[Start]) -> Start:
    return Start(
        statistics.median(one.seconds for one in starts),
        statistics.median(one.mebibytes for one in starts),
        starts[0].processes,
    )


def report(found: dict[str, list[Start]], counts: Sequence[int]) -> str:
    middle = {name: median(starts) for name, starts in found.items()}
    lines = ["tasks  how          seconds  MiB    processes"]
    for count in counts:
        for way in WAYS:
            one = middle[f"{way} {count}"]
            lines.append(f"{count:<6} {way:<12} {one.seconds:<8.2f} {one.mebibytes:<6.0f} {one.processes}")
    for count in counts:
        ours, peer = (middle[f"{way} {count}"] for way in WAYS)
        seconds, memory = ours.seconds / peer.seconds, ours.mebibytes / peer.mebibytes
        lines.append(f"{count} tasks, workers / own process: time {seconds:.2f}, memory {memory:.2f}")
    few, many = min(counts), max(counts)
    if many > few:
        one, other = middle[f"workers {few}"], middle[f"workers {many}"]
        each = (other.seconds - one.seconds) / (many - few), (other.mebibytes - one.mebibytes) / (many - few)
        lines.append(f"each more task with a worker: {each[0]:.2f} s, {each[1]:.1f} MiB")
    return "\n".join(lines)


def main() -> int:
    if sys.argv[1:2] == ["--as-node"]:
        vars(node_room)["TaskRunner"] = InOwnProcess
        return run_command_line(sys.argv[2:])
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tasks", type=int, default=10)
    parser.add_argument("--times", type=int, default=3)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    counts = sorted({1, arguments.tasks})
    found = trio.run(measure, counts, arguments.times)
    print(report(found, counts))
    if arguments.out is not None:
        about: dict[str, Any] = {
            "version": __version__,
            "python": platform.python_version(),
            "machine": platform.machine(),
            "cores": os.cpu_count(),
            "load": os.getloadavg(),
        }
        figures = {name: [asdict(one) for one in starts] for name, starts in found.items()}
        arguments.out.write_text(json.dumps({**about, "starts": figures}, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
