"""Which successors a node follows, when, and what it says of others: packages on disk, terms at hand, no network."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import pytest
import structlog
import trio
from solders.pubkey import Pubkey

from koii_p2p.errors import ConfigurationError
from koii_p2p.limits import Limits
from koii_p2p.network.network import Network
from koii_p2p.network.settings import NetworkSettings
from koii_p2p.node.arrivals import Arrivals
from koii_p2p.node.package_store import PackageStore
from koii_p2p.node.packages import Packages
from koii_p2p.node.task_service import TaskService
from koii_p2p.node.trust import Consent, TrustList
from koii_p2p.records.keys import SecretKey
from koii_p2p.rounds.clock import RoundClock
from koii_p2p.rounds.terms import TaskTerms
from koii_p2p.settlement.interface import ClosedTaskState, Settlement
from koii_p2p.settlement.refusals import ClosedTask
from koii_p2p.storage.home import Home
from koii_p2p.tasks.package import pack
from koii_p2p.tasks.package_folder import pack_folder

EXAMPLE = Path(__file__).parents[2] / "examples" / "hello_world"
PACKAGE = pack_folder(EXAMPLE).package
AUTHOR = b"\7" * 32
TERMS = TaskTerms(bytes(32), AUTHOR, "t", 0, 100, 30, 40, 1, 1, program=PACKAGE.name)


def task(number: int) -> bytes:
    return bytes((number,)) * 32


def named(number: int) -> str:
    return str(Pubkey(task(number)))


@dataclass
class Held:
    """What K2 holds of a task."""

    terms: TaskTerms
    successor: bytes | None = None
    metadata: str = ""


@dataclass
class Engine:
    slot: int = 10
    clock: RoundClock = field(default_factory=lambda: TERMS.clock)


@dataclass
class Service:
    """A task that the node works on, as far as arrivals look at it."""

    terms: TaskTerms
    state: Held
    engine: Engine = field(default_factory=Engine)
    closed: ClosedTaskState | None = None


@dataclass
class World:
    arrivals: Arrivals
    trusted: TrustList
    services: dict[str, Service]
    held: dict[bytes, Held | ClosedTaskState]
    added: list[tuple[str, Path]]
    log: list[Any]

    def add(self, number: int, successor: int | None = None, program: str = PACKAGE.name) -> None:
        terms = replace(TERMS, task=task(number), program=program)
        self.held[task(number)] = Held(terms, None if successor is None else task(successor))

    def work_on(self, number: int) -> Service:
        held = self.held[task(number)]
        assert isinstance(held, Held)
        service = self.services[named(number)] = Service(held.terms, held)
        return service

    def said(self, words: str) -> int:
        return sum(words in f"{line['event']} {line.get('error', '')}" for line in self.log)

    def why(self, number: int) -> str:
        view = self.arrivals.view(named(number))
        return "" if view is None else str(view["why"])


@dataclass
class Chain:
    held: dict[bytes, Held | ClosedTaskState]

    async def task_state(self, wanted: bytes) -> Held:
        found = self.held[wanted]
        if isinstance(found, ClosedTaskState):
            raise ClosedTask(wanted, found)
        return found


@pytest.fixture
async def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    async def here(work: Callable[..., object], *arguments: object, **_how: object) -> object:
        return work(*arguments)

    monkeypatch.setattr(trio.to_thread, "run_sync", here)  # virtual time does not wait for threads
    home = Home(tmp_path)
    home.prepare()
    network = Network(SecretKey.generate(), NetworkSettings(listen=()), Limits())
    packages = Packages(PackageStore(home.packages), network, replace(Limits(), package_fetch_seconds=5.0))
    packages.store.keep(PACKAGE)
    services: dict[str, Service] = {}
    held: dict[bytes, Held | ClosedTaskState] = {}
    added: list[tuple[str, Path]] = []

    async def add(wanted: bytes, path: Path) -> None:
        await trio.sleep(1)
        if held[wanted].metadata == "fails":  # type: ignore[union-attr]
            raise ConfigurationError("The task cannot be imported.", "It is broken.", "Mend it.")
        added.append((str(Pubkey(wanted)), path))
        made.work_on(wanted[0])

    arrivals = Arrivals(
        network,
        packages,
        Consent(),
        TrustList(home, Limits()),
        services=cast("dict[str, TaskService]", services),
        closed={},
        chain_of=lambda _task: cast(Settlement, Chain(held)),
        add=add,
        own={},
        limits=replace(Limits(), successors=4),
    )
    with structlog.testing.capture_logs() as log:
        made = World(arrivals, TrustList(home, Limits()), services, held, added, log)
        yield made


@asynccontextmanager
async def following(world: World) -> AsyncIterator[None]:
    async with trio.open_nursery() as nursery:
        await nursery.start(world.arrivals.run)
        yield
        nursery.cancel_scope.cancel()


async def until(holds: Callable[[], bool]) -> None:
    with trio.fail_after(3600):
        while not holds():
            await trio.sleep(1)


async def test_a_successor_begins_with_a_round_of_the_old_task_once_it_is_trusted(
    world: World, autojump_clock: trio.testing.MockClock
) -> None:
    world.add(1, successor=2)
    world.add(2)
    old = world.work_on(1)
    async with following(world):
        await until(lambda: "is not trusted" in world.why(1))
        await trio.sleep(300)
        assert world.added == []
        assert world.said("was not joined") == 1, "once, and not at every try"
        assert f"koii-p2p task trust add {PACKAGE.name}" in world.why(1)
        world.trusted.add(str(Pubkey(AUTHOR)))
        await trio.sleep(300)
        assert world.added == [], "the round goes on"
        old.engine.slot += 100
        await until(lambda: bool(world.added))
        ((name, path),) = world.added
        assert name == named(2)
        assert pack_folder(path).package == PACKAGE
        await until(lambda: (world.arrivals.view(named(1)) or {})["joined"])
        await trio.sleep(300)
        assert len(world.added) == 1
        assert world.arrivals.view(named(2)) is None


async def test_closed_tasks_on_the_way_are_passed_over_and_circles_end(
    world: World, autojump_clock: trio.testing.MockClock
) -> None:
    world.add(1, successor=2)
    world.held[task(2)] = ClosedTaskState(AUTHOR, 1, bytes(32), 0, 5, task(3))
    world.held[task(3)] = ClosedTaskState(AUTHOR, 1, bytes(32), 0, 5, task(2))
    world.work_on(1).engine.slot = 50
    world.trusted.add(named(4))
    async with following(world):
        await until(lambda: world.said("was not joined") == 2)
        assert "was closed in slot 5" in world.why(1)
        world.held[task(3)] = ClosedTaskState(AUTHOR, 1, bytes(32), 0, 5, task(4))
        world.add(4)
        await until(lambda: world.said("is not trusted") == 0 and len(world.log) > 0)
        await trio.sleep(30)
        world.services[named(1)].engine.slot += 100
        await until(lambda: [name for name, _ in world.added] == [named(4)])


async def test_two_tasks_may_name_the_same_successor(
    world: World, autojump_clock: trio.testing.MockClock
) -> None:
    for number in (1, 2):
        world.add(number, successor=3)
    world.add(3)
    world.trusted.add(PACKAGE.name)
    services = [world.work_on(1), world.work_on(2)]
    async with following(world):
        await trio.sleep(10)
        for service in services:
            service.engine.slot += 100
        await until(lambda: all((world.arrivals.view(named(one)) or {}).get("joined") for one in (1, 2)))
    assert [name for name, _ in world.added] == [named(3)]


async def test_a_creator_that_names_one_task_after_the_other_does_not_draw_a_node_along_for_ever(
    world: World,
    autojump_clock: trio.testing.MockClock,
) -> None:
    world.trusted.add(str(Pubkey(AUTHOR)))
    for number in range(1, 9):
        world.add(number, successor=number + 1)
    world.add(9)
    world.work_on(1)
    async with following(world):
        for _ in range(20):
            await trio.sleep(20)
            for service in world.services.values():
                service.engine.slot += 100
    assert [name for name, _ in world.added] == [named(number) for number in (2, 3, 4, 5)]


async def test_a_creator_may_think_again(world: World, autojump_clock: trio.testing.MockClock) -> None:
    world.trusted.add(str(Pubkey(AUTHOR)))
    world.add(1, successor=2)
    world.add(2)
    world.add(3)
    service = world.work_on(1)
    async with following(world):
        await trio.sleep(30)
        service.state.successor = task(3)
        await trio.sleep(30)
        service.engine.slot += 100
        await until(lambda: bool(world.added))
        await trio.sleep(100)
    assert [name for name, _ in world.added] == [named(3)]


async def test_code_that_cannot_be_had_or_does_not_start_is_said_and_tried_again(
    world: World, autojump_clock: trio.testing.MockClock
) -> None:
    world.trusted.add(str(Pubkey(AUTHOR)))
    lost = pack({**PACKAGE.files, "more.txt": b""})
    world.add(1, successor=2)
    world.add(2, program="main")
    world.add(3, successor=4)
    world.add(4, program=lost.name)
    world.add(5, successor=6)
    world.add(6)
    broken = world.held[task(6)]
    assert isinstance(broken, Held)
    broken.metadata = "fails"
    services = [world.work_on(number) for number in (1, 3, 5)]
    async with following(world):
        await until(lambda: all(map(world.why, (1, 3))))
        services[2].engine.slot += 100
        await until(lambda: bool(world.why(5)))
        assert "'main', and not the CID of a package" in world.why(1)
        assert "No peer was there to be asked" in world.why(3)
        assert "cannot be imported" in world.why(5)
        broken.metadata = ""
        while not world.added:
            services[2].engine.slot += 100
            await trio.sleep(5)
    assert [name for name, _ in world.added] == [named(6)]
