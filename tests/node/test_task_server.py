"""The REST of two whole nodes on a local K2: each finds out where the other's is, strangers can check what it says."""

from __future__ import annotations

from functools import partial
from hashlib import sha256
from typing import Any

import httpx
import pytest
import trio

from koii_p2p.network.settings import NetworkSettings, parse_listen
from koii_p2p.node.node import Node, NodeSettings, TaskSpec
from koii_p2p.node.task_server import TaskHttpPlace
from koii_p2p.node.views import base58
from koii_p2p.records.envelope import decode_record, sign, verify
from koii_p2p.records.keys import SecretKey
from koii_p2p.records.schema import Presence, Statement, Submission
from koii_p2p.storage.home import Home
from koii_p2p.storage.keyfile import save_secret
from koii_p2p.tasks.stamps import read_stamp, request_hash
from tests.node.test_task_life import KOII, Running, World, until, world  # noqa: F401 - a fixture

TASK_CODE = """
from starlette.responses import JSONResponse
from starlette.routing import Route

from koii_p2p.tasks.sdk import Context, Task


class Open(Task):
    async def submission(self, ctx: Context, round: int) -> str | None:
        return "open"

    async def audit(self, ctx: Context, submission: str | bytes, round: int, submitter: str) -> bool:
        return True

    def routes(self, ctx: Context) -> list[Route]:
        async def others(_request):
            return JSONResponse({one.public_key: list(one.urls) for one in await ctx.nodes()})

        return [Route("/nodes", others)]
"""


async def node(world: World, name: str, task: bytes, bootstrap: tuple[str, ...] = ()) -> tuple[Running, Any]:  # noqa: F811
    home = Home(world.folder / name)
    home.prepare()
    staker, wallet = SecretKey.generate(), SecretKey.generate()
    save_secret(home.staking_key, staker)
    save_secret(home.wallet_key, wallet)
    await world.pay(wallet.public_key)
    code = world.folder / "open.py"
    code.write_text(TASK_CODE)
    settings = NodeSettings(
        home,
        world.url,
        NetworkSettings(listen=(parse_listen("/ip4/127.0.0.1/tcp/0"),), bootstrap=bootstrap, mdns=False),
        (TaskSpec(task, code),),
        stake=KOII,
        claim_every=1,
        task_http=TaskHttpPlace(port=0),
    )
    running = Running(Node(settings), home, staker.public_key)
    ready = await world.nursery.start(running.run)
    return running, ready


@pytest.mark.slow
async def test_nodes_tell_each_other_and_strangers_where_their_rest_is(world: World) -> None:  # noqa: F811
    with trio.fail_after(100):
        task = await world.make_task()
        name = base58(task)
        first, at_first = await node(world, "first", task)
        second, at_second = await node(world, "second", task, at_first.addresses[:1])
        expected = {
            base58(first.key): [at_first.task_url],
            base58(second.key): [at_second.task_url],
        }
        async with httpx.AsyncClient(trust_env=False, timeout=30) as client:

            async def known(url: str) -> bool:
                reply = await client.get(f"{url}/task/{name}/nodes")
                return reply.status_code == 200 and reply.json() == expected

            for one in (at_first, at_second):
                await until(partial(known, one.task_url))
            target = f"/task/{name}/nodes"
            reply = await client.get(at_first.task_url + target)
            found = read_stamp(200, reply.headers)
            assert found is not None
            assert found.is_good()
            assert (found.key, found.stamp.task) == (first.key, task)
            assert found.stamp.request_hash == request_hash("GET", target.encode(), b"")
            assert found.stamp.body_hash == sha256(reply.content).digest()
            clock = (await world.creator.task_state(task)).terms.clock
            assert found.stamp.round == max(clock.period(found.stamp.slot), 0)
            assert abs(await world.creator.slot() - found.stamp.slot) < 100

            listed = (await client.get(f"{at_first.task_url}/nodes/{name}")).json()
            assert {row["submitterPubkey"]: [row["data"]["url"]] for row in listed} == expected
            genesis = await world.rpc.get_genesis_hash()
            for row in listed:
                record = verify(decode_record(bytes.fromhex(row["record"])), genesis)
                assert base58(record.author) == row["submitterPubkey"]
            about = (await client.get(f"{at_first.task_url}/id")).json()
            assert (about["key"], about["genesis"]) == (base58(first.key), base58(genesis))

            await _registered(client, world, f"{at_first.task_url}/register-node/{name}", task, genesis)
            (shown,) = [one for one in (first.node.status()["task_http"],) if one]
            assert shown["url"] == at_first.task_url
            assert shown["refused"]["not_registered"] == 3
        # A node's REST is no place to dial for libp2p, and nobody counts it as an address that is wrong.
        statistics = first.node.status()["network"]["discovery"]
        assert (statistics["addresses_refused"], statistics["known_peers"]) == (0, 1)


async def _registered(client: httpx.AsyncClient, world: World, url: str, task: bytes, genesis: bytes) -> None:  # noqa: F811
    """A presence is taken once, and nothing else is."""
    staker = SecretKey.generate()
    slot = await world.creator.slot()
    here = Presence(("/ip4/203.0.113.7/tcp/1/http",), roles=0, software="t", free_bytes=0)
    period = (await world.creator.task_state(task)).terms.clock.period(slot)
    said = sign(Statement(task, max(period, 0), slot, slot, here), genesis, staker)
    work = sign(Statement(task, max(period, 0), slot, 0, Submission("x")), genesis, staker)
    accepted = await client.post(url, content=said.raw)
    assert accepted.status_code == 200, accepted.text
    for record in (said.raw, work.raw, b"\x00"):
        assert (await client.post(url, content=record)).status_code == 409
