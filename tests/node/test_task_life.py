"""What a task's creator does to it on K2, and what its nodes make of it: real nodes, the real program, a local K2."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import structlog
import trio
from solders.pubkey import Pubkey

from koii_p2p.limits import Limits
from koii_p2p.localk2 import LocalK2Settings, serve
from koii_p2p.network.settings import NetworkSettings, parse_listen
from koii_p2p.node.node import Node, NodeSettings, TaskSpec
from koii_p2p.node.task_life import is_idle, rests
from koii_p2p.records.keys import SecretKey
from koii_p2p.records.schema import Kind, Presence, Statement, Submission
from koii_p2p.rounds import events
from koii_p2p.rounds.terms import TaskTerms
from koii_p2p.settlement.interface import TaskState
from koii_p2p.settlement.program import ProgramSettlement
from koii_p2p.settlement.rpc import RpcClient
from koii_p2p.storage.database import Database
from koii_p2p.storage.home import Home
from koii_p2p.storage.journal import SigningJournal
from koii_p2p.storage.keyfile import save_secret

KOII = 10**9
SLOT_MS = 40
ROUND_TIME, WINDOW = 80, 30

LIMITS = replace(Limits(), worker_restart_seconds_most=2.0, worker_niceness=0)
"""A task whose setup() needs the first round is started again soon after it has begun."""

TASK_CODE = """
from koii_p2p.tasks.sdk import Context, Task


class Noting(Task):
    async def task(self, ctx: Context, round: int) -> None:
        await ctx.store.set("worked", (await ctx.store.get("worked") or "") + f" {round}")

    async def submission(self, ctx: Context, round: int) -> str | None:
        return await ctx.store.get("worked")

    async def audit(self, ctx: Context, submission: str | bytes, round: int, submitter: str) -> bool:
        return True
"""

STUMBLING = TASK_CODE.replace(
    "None:\n",
    """None:
        if await ctx.store.get(f"tried {round}") is None:
            await ctx.store.set(f"tried {round}", True)
            raise OSError("nobody is connected yet")
""",
    1,
)


# --- the rule


def state(idle: tuple[int, int | None] | None) -> TaskState:
    terms = TaskTerms(bytes(32), bytes(32), "t", 0, 100, 30, 40, 1, 1)
    nothing = dict.fromkeys(
        ("nonce", "created_slot", "vault", "funded", "paid", "slashed", "forgiven", "total_stake", "stakers"),
        0,
    )
    return TaskState(
        terms=terms,
        head=bytes(32),
        anchors=0,
        rounds={},
        last_list=None,
        settled_list=None,
        idle=idle,
        **nothing,
    )


@pytest.mark.parametrize(
    ("idle", "rounds"), [(None, []), ((2, None), [2, 3, 4, 5]), ((2, 4), [2, 3]), ((0, 1), [0])]
)
def test_a_round_is_idle_from_the_first_to_before_the_end(
    idle: tuple[int, int | None] | None, rounds: list[int]
) -> None:
    assert [number for number in range(6) if is_idle(state(idle), number)] == rounds
    assert not is_idle(None, 2), "what was never read stands in nobody's way"


def test_of_an_idle_round_nothing_is_done_but_what_is_known_is_kept() -> None:
    paused = state((2, None))
    submitted = Statement(bytes(32), 2, 250, 0, Submission("x"))
    here = replace(submitted, body=Presence(("/ip4/127.0.0.1/tcp/1",), roles=0, software="t", free_bytes=0))
    assert here.kind is Kind.PRESENCE
    assert rests(paused, events.ReadRoster(2))
    assert rests(paused, events.RunTask(3))
    assert rests(paused, events.SignAndPublish(submitted))
    assert rests(paused, events.AnchorCommitment(2, 0, bytes(32), b"", b""))
    assert not rests(paused, events.SignAndPublish(here))
    assert not rests(paused, events.KeepArtifacts(2))
    assert not rests(paused, events.AnchorCommitment(1, 0, bytes(32), b"", b"")), "it began before"
    assert not rests(state((2, 4)), events.RunTask(4))


# --- on a local K2


@dataclass
class Running:
    """A node in this process, its home and staking key; `ended` when nothing of it runs."""

    node: Node
    home: Home
    key: bytes
    ended: trio.Event = field(default_factory=trio.Event)

    async def run(self, *, task_status: trio.TaskStatus[Any] = trio.TASK_STATUS_IGNORED) -> None:
        await self.node.run(task_status=task_status)
        self.ended.set()

    def tasks(self) -> dict[str, Any]:
        return {view["task"]: view for view in self.node.status()["tasks"]}


@dataclass
class World:
    """A local K2, the creator of its tasks, and nodes in this process."""

    nursery: trio.Nursery
    rpc: RpcClient
    url: str
    folder: Path
    creator: ProgramSettlement
    nonce: int = 0

    async def make_task(self, starts_in: int = 60, *, name: str = "life", program: str = "t") -> bytes:
        self.nonce += 1
        terms = TaskTerms(
            task=bytes(32),
            creator=self.creator.payer,
            name=name,
            program=program,
            starting_slot=await self.creator.slot() + starts_in,
            round_time=ROUND_TIME,
            submission_window=WINDOW,
            audit_window=WINDOW,
            bounty_per_round=KOII,
            minimum_stake=KOII,
            allowed_failed_distributions=0,
        )
        task = (await self.creator.create_task(terms, self.nonce)).task
        await self.creator.fund(task, 20 * KOII)
        return task

    async def node(
        self, name: str, tasks: tuple[bytes, ...], stake: int = 0, source: str = TASK_CODE
    ) -> Running:
        home = Home(self.folder / name)
        home.prepare()
        staker, wallet = SecretKey.generate(), SecretKey.generate()
        save_secret(home.staking_key, staker)
        save_secret(home.wallet_key, wallet)
        await self.pay(wallet.public_key)
        code = self.folder / "noting.py"
        code.write_text(source)
        network = NetworkSettings(listen=(parse_listen("/ip4/127.0.0.1/tcp/0"),), mdns=False)
        settings = NodeSettings(
            home,
            self.url,
            network,
            tuple(TaskSpec(task, code) for task in tasks),
            stake=stake,
            claim_every=1,
            limits=LIMITS,
        )
        running = Running(Node(settings), home, staker.public_key)
        await self.nursery.start(running.run)
        return running

    async def pay(self, key: bytes) -> None:
        await self.rpc.request_airdrop(key, 100 * KOII)
        await until(partial(self._has_roe, key))

    async def _has_roe(self, key: bytes) -> bool:
        return await self.rpc.get_balance(key) > 0

    async def slot(self, number: int) -> None:
        while await self.creator.slot() < number:
            await trio.sleep(SLOT_MS / 1000)


def spoken_in(home: Home, task: bytes, genesis: bytes) -> set[int]:
    """The rounds in which a node that has ended said anything about work; presences are not journalled."""
    with Database.open(home.database_of(genesis)) as database:
        return set(SigningJournal(database).rounds(task))


def submitted(running: Running, task: bytes, number: int) -> set[int]:
    """The rounds that a node's task says, in what it hands in for this one, to have worked in."""
    view = running.node.round(str(Pubkey(task)), number)
    assert view is not None
    own = str(Pubkey(running.key))
    (value,) = (str(one["value"]) for one in view["submitted"] if one["author"] == own)
    return {int(word) for word in value.split()}


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    while not await holds():
        await trio.sleep(0.05)


@pytest.fixture
async def world(tmp_path: Path, nursery: trio.Nursery) -> Any:
    chain = await nursery.start(serve, LocalK2Settings(tmp_path / "k2", port=0, slot_ms=SLOT_MS, finality=4))
    wallet = SecretKey.generate()
    async with RpcClient(chain.url) as rpc:
        made = World(nursery, rpc, chain.url, tmp_path, ProgramSettlement(rpc, wallet))
        await made.pay(wallet.public_key)
        yield made
        nursery.cancel_scope.cancel()


@contextmanager
def said() -> Iterator[list[str]]:
    """What is logged, as one list of texts."""
    with structlog.testing.capture_logs() as lines:
        events: list[str] = []
        yield events
        events += [str(line["event"]) for line in lines]


@pytest.mark.slow
async def test_work_that_fails_is_tried_again_in_its_period(world: World) -> None:
    with trio.fail_after(60):
        task = await world.make_task()
        running = await world.node("one", (task,), stake=2 * KOII, source=STUMBLING)
        clock = (await world.creator.task_state(task)).terms.clock
        worked = clock.period(await world.creator.slot()) + 1
        await world.slot(clock.submission(worked).opens + WINDOW // 2)
        assert worked in submitted(running, task, worked)


@pytest.mark.slow
async def test_a_paused_task_is_not_worked_on_and_goes_on_later(world: World) -> None:
    with trio.fail_after(120), said() as log:
        task = await world.make_task()
        first = await world.node("first", (task,), stake=2 * KOII)
        clock = (await world.creator.task_state(task)).terms.clock
        worked = clock.period(await world.creator.slot()) + 1
        await world.slot(clock.work(worked).opens + 20)
        await world.creator.set_active(task, False)
        idle = worked + 1
        assert (await world.creator.task_state(task)).idle == (idle, None)

        # Who comes while the task is paused can't stake yet, and is not stopped by that.
        second = await world.node("second", (task,), stake=2 * KOII)
        assert [one.staker for one in await world.creator.stakes(task)] == [first.key]
        await world.slot(clock.work(idle + 2).opens + 20)
        (shown,) = first.tasks().values()
        assert (shown["state"], shown["idle"]) == ("inactive", [idle, None])
        await world.creator.set_active(task, True)
        state = await world.creator.task_state(task)
        assert state.idle is not None
        again = state.idle[1]
        assert again is not None
        assert again >= idle + 3

        async def both_are_staked() -> bool:
            return {one.staker for one in await world.creator.stakes(task)} == {first.key, second.key}

        async def goes_on() -> bool:
            return again + 1 in (await world.creator.task_state(task)).rounds

        await until(both_are_staked)
        await until(goes_on)
        state = await world.creator.task_state(task)
        assert set(state.rounds) & set(range(worked, again + 1)) == {worked, again}
        (shown,) = first.tasks().values()
        assert (shown["state"], shown["idle"]) == ("active", [idle, again])
        refused = shown["actions"]["last_failures"].get("AnchorCommitment", "")
        assert "inactive" not in refused
        handed_in = submitted(first, task, again)
        assert {worked, again} <= handed_in
        assert not set(range(idle, again)) & handed_in, "the task's own code was not called either"
        genesis = await world.rpc.get_genesis_hash()
        first.node.stop()
        await first.ended.wait()
        spoken = spoken_in(first.home, task, genesis)
        assert {worked, again} <= spoken
        assert not set(range(idle, again)) & spoken
    pauses = [line for line in log if "the task is inactive" in line]
    assert len(pauses) == 2, "each of the two nodes said it once"
    assert len([line for line in log if "the task is active again" in line]) == 2


@pytest.mark.slow
async def test_a_closed_task_is_left_and_the_others_go_on(world: World) -> None:
    with trio.fail_after(120), said() as log:
        gone, going, stays = [await world.make_task(starts_in=starts) for starts in (5000, 5000, 60)]
        await world.creator.set_active(gone, False)
        await world.creator.close(gone)
        one = await world.node("one", (gone, going, stays))
        node = one.node
        (closed,) = node.status()["closed_tasks"]
        assert (closed["task"], closed["successor"]) == (str(Pubkey(gone)), None)
        assert "koii-p2p withdraw" in closed["remedy"]

        await world.creator.update(going, "", stays)
        await world.creator.set_active(going, False)
        await world.creator.close(going)

        async def both_are_closed() -> bool:
            return len(node.status()["closed_tasks"]) == 2

        await until(both_are_closed)
        second = node.status()["closed_tasks"][1]
        assert (second["task"], second["successor"]) == (str(Pubkey(going)), str(Pubkey(stays)))
        assert str(Pubkey(stays)) in second["remedy"]

        async def worker_is_gone() -> bool:
            return not one.tasks()[str(Pubkey(going))]["worker"]["running"]

        await until(worker_is_gone)
        views = one.tasks()
        assert set(views) == {str(Pubkey(going)), str(Pubkey(stays))}
        assert [view["state"] for view in views.values()] == ["closed", "active"]
        assert node.status()["supervisor"]["restarts"] == {}
        clock = (await world.creator.task_state(stays)).terms.clock
        await world.slot(clock.work(1).opens + 10)
        view = one.tasks()[str(Pubkey(stays))]
        assert view["period"] >= 1
        assert view["worker"]["running"]
    assert len([line for line in log if "the task is closed" in line]) == 2
