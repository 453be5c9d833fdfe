"""A node in a process of its own, so that what an attack costs it can be measured: memory, files, what it holds.

It runs a real `Network` whose topics are judged by a real `RoundEngine`, as `TaskService` does it, in the audit of a
round that nine stakers play. `python -m tests.faults.victim` answers each line on stdin with one line of JSON.
"""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import psutil
import structlog
import trio

from koii_p2p.limits import Limits
from koii_p2p.network.gossip import GossipVerdict
from koii_p2p.network.settings import NetworkSettings
from koii_p2p.node.task_service import VERDICTS
from koii_p2p.records.envelope import Verified
from koii_p2p.rounds.admission import Source
from koii_p2p.rounds.engine import RoundEngine
from koii_p2p.rounds.topics import KINDS_OF_TOPIC
from tests.network.nets import LOOPBACK, QUICK, TOPIC, Judge, Node
from tests.node.peers import SUBMISSIONS, Server, engine_with, held

PRESENCE_TOPIC = f"{TOPIC}/presence"
MIB = 1 << 20
CALM = replace(QUICK, peer_stall_seconds=60.0, negotiation_deadline=20.0, dial_deadline=20.0)
"""`QUICK` on a machine so busy that seconds pass between a question and its answer."""
ROOT = Path(__file__).parents[2]
ANSWER_SECONDS = 90


def judge_of(engine: RoundEngine, name: str) -> Judge:
    """The validator of a topic, as `TaskService` has it: records of other kinds do not belong there."""

    def judge(_sender: bytes, data: bytes) -> GossipVerdict:
        judgement, _record = engine.receive(data, Source.GOSSIP, kinds=KINDS_OF_TOPIC[name])
        return VERDICTS[judgement]

    return judge


@dataclass(frozen=True, slots=True)
class Seen:
    """A victim at one moment: bytes of memory, open files, keys of peers (hex), ids of records held (hex), counters."""

    rss: int
    files: int
    peers: tuple[str, ...]
    records: tuple[str, ...]
    presences: int
    parked: int
    known: int
    """Message ids that gossip remembers as accepted."""
    judged: dict[str, int]
    """Refusals of records, by reason."""
    refused: dict[str, int]
    """What the router refused, by reason."""
    contained: dict[str, int]
    rejects: dict[str, int]
    """What each peer (hex) sent that nobody honest sends."""
    bans: int
    disconnects: dict[str, int]


def look(node: Node, engine: RoundEngine) -> Seen:
    """What can be seen of a node of this process."""
    gc.collect()
    statistics = node.network.statistics()
    assert statistics.gossip is not None
    gossip = node.network._gossip
    assert gossip is not None
    process = psutil.Process()
    return Seen(
        rss=process.memory_info().rss,
        files=process.num_fds(),
        peers=tuple(peer.key.hex() for peer in node.network.peers()),
        records=tuple(sorted(record_id.hex() for record_id in held(engine))),
        presences=len(engine.presences()),
        parked=engine.statistics().parked,
        known=gossip._router.statistics().seen,
        judged=dict(engine.statistics().refused),
        refused=dict(statistics.gossip.refused),
        contained=dict(statistics.contained),
        rejects={peer.key.hex(): peer.rejects for peer in node.network.peers()},
        bans=statistics.bans,
        disconnects=dict(statistics.disconnects),
    )


async def run(limits: Limits) -> None:
    """Be the victim until stdin ends."""
    engine = engine_with(SUBMISSIONS)
    settings = NetworkSettings(listen=LOOPBACK, heartbeat=0.2, max_peers=128)
    node = Node(1, settings, limits, judge_of(engine, "audits"))
    Server(node, engine, limits=limits)
    await node.network.join_topic(PRESENCE_TOPIC, judge_of(engine, "presence"))
    async with trio.open_nursery() as nursery:
        await nursery.start(node.run)
        _say({"key": node.key.hex(), "address": node.address})
        async with trio.lowlevel.FdStream(os.dup(0)) as lines:
            async for _some in lines:
                _say(asdict(look(node, engine)))
        nursery.cancel_scope.cancel()


def _say(value: object) -> None:
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


class Victim:
    """The process, as a test sees it; an `Attacker` may be set on it."""

    def __init__(self, process: trio.Process, key: bytes, address: str, lines: _Lines) -> None:
        self.key = key
        self.address = address
        self.latest: Seen | None = None
        self._process = process
        self._lines = lines
        self._asking = trio.Lock()

    async def look(self) -> Seen:
        """Ask it how it is."""
        assert self._process.stdin is not None
        async with self._asking:
            await self._process.stdin.send_all(b"look\n")
            told = await self._lines.next()
        fields: dict[str, Any] = {
            name: tuple(one) if isinstance(one, list) else one for name, one in told.items()
        }
        self.latest = Seen(**fields)
        return self.latest

    async def until(self, condition: Callable[[Seen], bool], seconds: float = 90.0) -> Seen:
        """Look again and again until a condition holds; fail when it does not come true."""
        with trio.move_on_after(seconds):
            while not condition(seen := await self.look()):
                await trio.sleep(0.05)
            return seen  # the one it held for: a moment later it need not
        raise AssertionError(self.latest)

    def peers(self) -> set[bytes]:
        """Who was connected when it was looked at last."""
        return set() if self.latest is None else {bytes.fromhex(key) for key in self.latest.peers}


class _Lines:
    """JSON values, one to a line, from a process."""

    def __init__(self, read: Callable[[], Awaitable[bytes | bytearray]]) -> None:
        self._read = read
        self._rest = b""

    async def next(self) -> dict[str, Any]:
        with trio.fail_after(ANSWER_SECONDS):
            while b"\n" not in self._rest:
                more = await self._read()
                assert more, "the victim has ended"
                self._rest += more
        line, _, self._rest = self._rest.partition(b"\n")
        found: dict[str, Any] = json.loads(line)
        return found


@asynccontextmanager
async def victim(**limits: float) -> AsyncIterator[Victim]:
    """Run a victim with some limits other than `CALM`; it has to live to the end."""
    async with trio.open_nursery() as nursery:
        process: trio.Process = await nursery.start(
            lambda task_status: trio.run_process(
                [sys.executable, "-m", "tests.faults.victim", json.dumps(limits)],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                check=False,
                task_status=task_status,
            )
        )
        assert process.stdout is not None
        lines = _Lines(process.stdout.receive_some)
        hello = await lines.next()
        running = Victim(process, bytes.fromhex(hello["key"]), hello["address"], lines)
        yield running
        assert process.poll() is None
        nursery.cancel_scope.cancel()


def raw_ids(*records: Verified) -> set[str]:
    """The ids of records, as `Seen` has them."""
    return {record.id.hex() for record in records}


if __name__ == "__main__":
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    trio.run(run, replace(CALM, **json.loads(sys.argv[1])))
