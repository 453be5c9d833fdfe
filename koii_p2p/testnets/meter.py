"""What each node of a testnet uses in the windows of one period: CPU, memory, bytes between nodes.

Read from outside by process id (Linux, proc(5) and `ss` of iproute2), a node's task worker counted with it, so that the
measurement costs the nodes nothing. The period is that of the last round, in which the one before it is paid: together
the work of one whole round.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import trio

from koii_p2p.errors import ChainError, ConfigurationError, NetworkError, raise_operator_error
from koii_p2p.rounds.clock import RoundClock, Window
from koii_p2p.testnets.folder import NetFolder
from koii_p2p.testnets.net import NetNode, RunningNet
from koii_p2p.testnets.run import Audience, ListRule, Run, koiis_rule, run_testnet
from koii_p2p.testnets.topology import Topology
from koii_p2p.testnets.watch import Snapshot

PROC: Final = Path("/proc")
TICKS: Final = os.sysconf("SC_CLK_TCK")
LOOK_SECONDS: Final = 0.2
SOCKET_SECONDS: Final = 2.0
"""How often sockets are looked at: what one carries between the last look and its end is not seen."""
SS: Final = ("ss", "-HtinpeO", "state", "established")


@dataclass(frozen=True, slots=True)
class Traffic:
    """Bytes that the other end acknowledged, and bytes that came, over TCP to other nodes."""

    sent: int = 0
    received: int = 0


@dataclass(frozen=True, slots=True)
class PhaseUse:
    """What one node used in one window: CPU seconds with those of its worker, bytes, and its peak of memory."""

    phase: str
    seconds: float
    cpu_seconds: float
    sent: int
    received: int
    peak_mb: float


@dataclass(slots=True)
class NodeUse:
    """One node: its start-up's CPU seconds until all nodes were ready, and what it used in each window."""

    name: str
    start_cpu_seconds: float
    phases: list[PhaseUse] = field(default_factory=list)
    gossip: Mapping[str, int] = field(default_factory=dict)
    """Messages in the whole period: received (copies included), duplicates, forwarded."""

    @property
    def whole(self) -> PhaseUse:
        """All windows together."""
        return PhaseUse(
            "together",
            sum(one.seconds for one in self.phases),
            sum(one.cpu_seconds for one in self.phases),
            sum(one.sent for one in self.phases),
            sum(one.received for one in self.phases),
            max(one.peak_mb for one in self.phases),
        )


@dataclass(frozen=True, slots=True)
class Measured:
    """What the nodes of a testnet used in the period of round `number`; `uses` is empty if it ended before."""

    number: int
    uses: tuple[NodeUse, ...]


async def run_measured(
    topology: Topology,
    folder: NetFolder,
    environment: Mapping[str, str],
    audience: Audience,
    *,
    rule: ListRule = koiis_rule,
) -> tuple[Run, Measured]:
    """Run a testnet as `run_testnet` does, and measure the period of its last round.

    Raises as that does, and `ConfigurationError` where bytes cannot be counted.
    """
    if shutil.which(SS[0]) is None:
        raise ConfigurationError(
            "What nodes use cannot be measured.",
            "The command `ss`, which counts the bytes of connections, is not installed.",
            "Install iproute2.",
        )
    try:
        async with trio.open_nursery() as nursery:
            measuring = _Measuring(audience, nursery)
            run = await run_testnet(topology, folder, environment, measuring, rule=rule)
            nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        raise_operator_error(group)
    meter = measuring.meter
    assert meter is not None, "the testnet was watched"
    return run, Measured(meter.number, tuple(meter.uses.values()) if meter.done else ())


class _Measuring:
    """An audience that starts the meter once the nodes are ready, and passes on what it is told."""

    def __init__(self, audience: Audience, nursery: trio.Nursery) -> None:
        self.meter: Meter | None = None
        self._audience = audience
        self._nursery = nursery

    def note(self, text: str) -> None:
        self._audience.note(text)

    def show(self, net: RunningNet, snapshot: Snapshot) -> None:
        if self.meter is None:
            self.meter = Meter(net, net.rounds - 1)
            self._nursery.start_soon(self.meter.run)
        self._audience.show(net, snapshot)


def windows_of(clock: RoundClock, number: int) -> tuple[tuple[str, Window], ...]:
    """The windows of a period in which round `number` is submitted and audited, one after the other.

    In the same slots the round before is paid: its list is accepted while submissions are, voted on during the audit,
    and settled in the delay.
    """
    return (
        ("submission", clock.submission(number)),
        ("audit", clock.audit(number)),
        ("settlement", clock.delay(number)),
    )


class Meter:
    """Measures the period of one round of a testnet."""

    def __init__(self, net: RunningNet, number: int) -> None:
        self._net = net
        self.number = number
        self._listening = {int(address.split("/")[4]) for node in net.nodes for address in node.addresses}
        #: By inode: whose it is, and what was seen last.
        self._sockets: dict[str, tuple[int, Traffic]] = {}
        self.uses = {node.name: NodeUse(node.name, cpu_seconds(_pid(node))) for node in net.nodes}
        self.done = False

    async def run(self) -> None:
        """Measure; `uses` is complete when this returns. Bounded by the testnet, which has its own end."""
        assert self._net.terms is not None, "the testnet was started"
        windows = windows_of(self._net.terms.clock, self.number)
        await self._reach(windows[0][1].opens)
        before = await self._gossip()
        for name, window in windows:
            began, cpu, traffic = time.monotonic(), self._cpu(), self._traffic()
            for node in self._net.nodes:
                forget_peak(_pid(node))
            await self._reach(window.closes)
            seconds, cpu_now, traffic_now = time.monotonic() - began, self._cpu(), self._traffic()
            for node in self._net.nodes:
                one, earlier = traffic_now[node.name], traffic[node.name]
                self.uses[node.name].phases.append(
                    PhaseUse(
                        name,
                        seconds,
                        cpu_now[node.name] - cpu[node.name],
                        one.sent - earlier.sent,
                        one.received - earlier.received,
                        peak_mb(_pid(node)),
                    )
                )
        for name, counts in (await self._gossip()).items():
            earlier_counts = before.get(name, {})
            self.uses[name].gossip = {what: n - earlier_counts.get(what, 0) for what, n in counts.items()}
        self.done = True

    async def _reach(self, slot: int) -> None:
        """Wait for a slot, looking at the sockets now and then."""
        looked = time.monotonic()
        while True:
            with suppress(ChainError):
                if await self._net.settlement.slot() >= slot:
                    return
            if time.monotonic() > looked + SOCKET_SECONDS:
                self._look_at_sockets()
                looked = time.monotonic()
            await trio.sleep(LOOK_SECONDS)

    def _cpu(self) -> dict[str, float]:
        return {node.name: cpu_seconds(_pid(node)) for node in self._net.nodes}

    def _traffic(self) -> dict[str, Traffic]:
        self._look_at_sockets()
        by_pid: dict[int, Traffic] = defaultdict(Traffic)
        for pid, one in self._sockets.values():
            by_pid[pid] = Traffic(by_pid[pid].sent + one.sent, by_pid[pid].received + one.received)
        return {node.name: by_pid[_pid(node)] for node in self._net.nodes}

    def _look_at_sockets(self) -> None:
        done = subprocess.run(SS, capture_output=True, text=True, timeout=20, check=True)
        self._sockets.update(sockets_in(done.stdout.splitlines(), self._listening))

    async def _gossip(self) -> dict[str, dict[str, int]]:
        """Ask each node for its counters; one that does not answer is left out."""
        found: dict[str, dict[str, int]] = {}
        for node in self._net.nodes:
            with suppress(NetworkError):
                async with node.client() as client:
                    said: dict[str, Any] = (await client.status()).get("network", {}).get("gossip") or {}
                    names = ("received", "duplicates", "forwarded")
                    found[node.name] = {name: int(said.get(name, 0)) for name in names}
        return found


def sockets_in(lines: Iterable[str], listening: Sequence[int] | set[int]) -> dict[str, tuple[int, Traffic]]:
    """Read what `ss` prints: process id and bytes, by inode, of connections with one of these ports at either end."""
    found: dict[str, tuple[int, Traffic]] = {}
    for line in lines:
        columns = line.split()
        if len(columns) < 4 or not (pid := re.search(r"pid=(\d+)", line)):
            continue
        ports = [urlsplit(f"//{end}").port for end in columns[2:4]]
        inode = re.search(r"\bino:(\d+)", line)
        if inode and any(port in listening for port in ports):
            found[inode[1]] = (
                int(pid[1]),
                Traffic(_number("bytes_acked", line), _number("bytes_received", line)),
            )
    return found


def _number(name: str, line: str) -> int:
    found = re.search(rf"\b{name}:(\d+)", line)
    return int(found[1]) if found else 0  # it is not there before the first byte


def _pid(node: NetNode) -> int:
    assert node.child is not None, "the node was started"
    return node.child.mark.pid


def cpu_seconds(pid: int) -> float:
    """CPU seconds of a process and of what it started and still runs; 0 for one that is gone."""
    total = 0.0
    for each in (pid, *_children(pid)):
        with suppress(OSError):
            fields = (PROC / str(each) / "stat").read_text().rpartition(")")[2].split()
            total += (int(fields[11]) + int(fields[12])) / TICKS
    return total


def peak_mb(pid: int) -> float:
    """The most memory since `forget_peak` of a process and its children, in MB, each peak added up."""
    total = 0
    for each in (pid, *_children(pid)):
        with suppress(OSError):
            found = re.search(r"VmHWM:\s+(\d+)", (PROC / str(each) / "status").read_text())
            total += int(found[1]) * 1024 if found else 0
    return total / 1e6


def forget_peak(pid: int) -> None:
    """Begin a new peak of memory (proc(5), clear_refs 5)."""
    for each in (pid, *_children(pid)):
        with suppress(OSError):
            (PROC / str(each) / "clear_refs").write_text("5")


def _children(pid: int) -> list[int]:
    found = []
    for task in (PROC / str(pid) / "task").glob("*"):
        with suppress(OSError):
            found += [int(text) for text in (task / "children").read_text().split()]
    return found
