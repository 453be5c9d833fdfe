"""Tasks that come to a running node: real nodes, real workers, the real program on a local K2."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import structlog
import trio
from solders.pubkey import Pubkey

from koii_p2p.errors import ConfigurationError
from koii_p2p.limits import Limits
from koii_p2p.network.settings import NetworkSettings, parse_listen
from koii_p2p.network.task_bootstrap import bootstrap_text
from koii_p2p.node.node import Node, NodeSettings, TaskSpec
from koii_p2p.node.packages import NotToBeHad
from koii_p2p.node.trust import Consent, NotTrusted, TrustList
from koii_p2p.records.cid import cid_of, cid_to_text
from koii_p2p.records.keys import SecretKey
from koii_p2p.storage.home import Home
from koii_p2p.storage.keyfile import save_secret
from koii_p2p.tasks.package import Package, pack, unpack
from koii_p2p.tasks.package_folder import write_folder
from tests.network.nets import QUICK
from tests.node.test_task_life import KOII, ROUND_TIME, TASK_CODE, WINDOW, Running, World, said, until, world  # noqa: F401

pytestmark = pytest.mark.slow

LIMITS = replace(QUICK, package_fetch_seconds=3.0, package_retry_seconds=0.2, successor_seconds=0.3)
EXAMPLE = Path(__file__).parents[2] / "examples" / "hello_world"
CONFIG = (EXAMPLE / "config-task.yml").read_bytes()
PACKAGE = pack({"config-task.yml": CONFIG, "task.py": TASK_CODE.encode(), "helping/words.txt": b"hello"})


async def node(
    world: World,  # noqa: F811
    name: str,
    *,
    folders: dict[bytes, Path] | None = None,
    by_package: tuple[bytes, ...] = (),
    consent: Consent | None = None,
    bootstrap: tuple[str, ...] = (),
    stake: int = 0,
    limits: Limits = LIMITS,
) -> Running:
    """A node in a home of this name, which is made if it is not there."""
    home = Home(world.folder / name)
    home.prepare()
    if not home.staking_key.exists():
        wallet = SecretKey.generate()
        save_secret(home.staking_key, SecretKey.generate())
        save_secret(home.wallet_key, wallet)
        await world.pay(wallet.public_key)
    network = NetworkSettings(listen=(parse_listen("/ip4/127.0.0.1/tcp/0"),), bootstrap=bootstrap, mdns=False)
    settings = NodeSettings(
        home,
        world.url,
        network,
        tuple(TaskSpec(task, path) for task, path in (folders or {}).items()),
        by_package=by_package,
        consent=consent or Consent(),
        stake=stake,
        limits=limits,
    )
    made = Node(settings)
    running = Running(made, home, b"")
    ready: Any = await world.nursery.start(running.run)
    assert ready.key
    return running


async def publisher(world: World, task: bytes, package: Package = PACKAGE) -> Running:  # noqa: F811
    folder = world.folder / f"code of {package.name}"
    write_folder(package, folder)
    return await node(world, "author", folders={task: folder}, stake=2 * KOII)


def offered(running: Running) -> list[str]:
    found: list[str] = running.node.status()["packages"]["offered"]
    return found


@asynccontextmanager
async def published(world: World) -> AsyncIterator[tuple[bytes, Running]]:  # noqa: F811
    """A task whose author runs a node, which the task's record names."""
    with trio.fail_after(50):
        task = await world.make_task(program=PACKAGE.name)
        author = await publisher(world, task)
        await world.creator.update(task, bootstrap_text(author.node.status()["addresses"][0]), None)

        async def is_offered() -> bool:
            return offered(author) == [PACKAGE.name]

        await until(is_offered)
        yield task, author


async def test_a_node_that_knows_a_task_by_its_id_gets_the_code_and_asks_before_it_runs_it(
    world: World,  # noqa: F811
) -> None:
    asked: list[str] = []

    async def agree(offer: Any, folder: Path) -> bool:
        assert (folder / "helping" / "words.txt").read_text() == "hello"
        asked.append(cid_to_text(offer.cid))
        return True

    async with published(world) as (task, _author):
        with pytest.raises(NotTrusted, match="koii-p2p task trust add"):
            await node(world, "second", by_package=(task,))
        assert (world.folder / "second" / "packages" / PACKAGE.name / "task" / "task.py").exists()
        with said() as log:
            second = await node(world, "second", by_package=(task,), consent=Consent(ask=agree))
        assert asked == [PACKAGE.name]
        assert [line for line in log if "the code's settings are not the task's" in line]
        (view,) = second.tasks().values()
        assert view["worker"]["running"]
        assert offered(second) == [PACKAGE.name], "who runs it gives it on"
        second.node.stop()
        await second.ended.wait()
        again = await node(world, "second", by_package=(task,))
        assert list(again.tasks()) == [str(Pubkey(task))], "what was agreed to is remembered"


async def test_what_cannot_be_had_or_is_no_package_ends_the_start_with_one_sentence(
    world: World,  # noqa: F811
) -> None:
    with trio.fail_after(50):
        local, lost = (
            await world.make_task(program="main"),
            await world.make_task(program=cid_to_text(cid_of(b"lost"))),
        )
        with pytest.raises(ConfigurationError, match="'main', and not the CID of a package"):
            await node(world, "one", by_package=(local,))
        with pytest.raises(NotToBeHad, match="No peer was there"):
            await node(world, "one", by_package=(lost,))
        broken = pack({**PACKAGE.files, "config-task.yml": b"task_name: [\n"})
        odd = await world.make_task(program=broken.name)
        author = await publisher(world, odd, broken)
        peer = author.node.status()["addresses"][0]
        with pytest.raises(ConfigurationError, match=r"task settings .* cannot be used"):
            await node(world, "two", by_package=(odd,), bootstrap=(peer,), consent=Consent((broken.name,)))
        assert (
            unpack((world.folder / "two" / "packages" / broken.name / "package.cbor").read_bytes()) == broken
        )


async def test_a_folder_that_is_not_what_k2_names_is_said_and_not_given(world: World) -> None:  # noqa: F811
    with trio.fail_after(50), structlog.testing.capture_logs() as log:
        task = await world.make_task(program=PACKAGE.name)
        other = pack({**PACKAGE.files, "helping/words.txt": b"goodbye"})
        author = await publisher(world, task, other)

        async def is_said() -> bool:
            return any(line["event"] == "this folder is not the code that K2 names" for line in log)

        await until(is_said)
        assert offered(author) == []


async def test_a_node_follows_to_the_task_that_takes_over_once_it_is_trusted(world: World) -> None:  # noqa: F811
    async with published(world) as (old, author):
        second = await node(
            world, "second", by_package=(old,), consent=Consent((str(Pubkey(old)),)), stake=2 * KOII
        )
        newer = pack({**PACKAGE.files, "helping/words.txt": b"hello again"})
        new = await world.make_task(program=newer.name, name="newer")
        folder = world.folder / "newer code"
        write_folder(newer, folder)
        peer = author.node.status()["addresses"][0]
        third = await node(world, "third", folders={new: folder}, bootstrap=(peer,))
        with said() as log:
            await world.creator.update(old, bootstrap_text(peer), new)

            def succession() -> dict[str, Any]:
                found: dict[str, Any] = second.tasks()[str(Pubkey(old))]["succession"] or {}
                return found

            async def is_refused() -> bool:
                return "is not trusted" in succession().get("why", "")

            await until(is_refused)
            await trio.sleep(1)
            assert list(second.tasks()) == [str(Pubkey(old))]
            TrustList(second.home, Limits()).add(str(Pubkey(world.creator.payer)))

            async def is_joined() -> bool:
                return succession().get("joined", False)

            await until(is_joined)
        refusals = [line for line in log if "the task that takes over was not joined" in line]
        assert len(refusals) == 2, "the author's node and the second each said it once"
        assert set(second.tasks()) == {str(Pubkey(old)), str(Pubkey(new))}
        assert newer.name in offered(second)
        assert newer.name in offered(third)
        assert len(await world.creator.stakes(new)) == 1, "it staked there as it does in each task"
        assert second.node.status()["supervisor"]["restarts"] == {}

        async def has_worked() -> bool:
            numbers = [one["round"] for one in second.node.rounds() if one["task"] == str(Pubkey(new))]
            views = [second.node.round(str(Pubkey(new)), number) for number in numbers]
            own = second.node.status()["key"]
            return any(one["author"] == own for view in views if view for one in view["submitted"])

        await until(has_worked)
