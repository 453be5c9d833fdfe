from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

from koii_p2p.node.task_db import TaskDb
from koii_p2p.node.task_http import ServedTask, TaskHttp
from koii_p2p.node.task_server import TaskHttpPlace, serve_tasks
from koii_p2p.node.views import base58
from koii_p2p.records.keys import SecretKey
from koii_p2p.records.schema import Verdict
from koii_p2p.tasks.facts import Fact, TaskState
from koii_p2p.tasks.runner import TaskRunner
from koii_p2p.tasks.sdk import sign_payload
from koii_p2p.tasks.stamps import sign_request
from tests.data.collections.nets import TASK, Clock, Member, members
from tests.examples.playing import EXAMPLES, rehearsed, settled_on_a_testnet
from tests.node.test_task_db import PATIENT
from tests.node.test_task_http import services_of

EXAMPLE = EXAMPLES / "linktree"
SLOT = 100
ADMIN, ZOE, YAN = (SecretKey.from_seed(bytes([number]) * 32) for number in (201, 202, 203))
LINKS = [{"label": "mine", "redirectUrl": "https://example.org"}]


@dataclass
class Node:
    """A node of the task: its workers, its part of the database, and its REST."""

    member: Member
    runner: TaskRunner
    client: httpx.AsyncClient
    asked: int = 0

    async def get(self, path: str) -> httpx.Response:
        return await self.client.get(f"/task/{base58(TASK)}{path}")

    async def send(
        self, who: SecretKey | None, method: str, path: str, value: object = None
    ) -> httpx.Response:
        """A request that `who` signs."""
        target = f"/task/{base58(TASK)}{path}"
        body = b"" if value is None else json.dumps(value).encode()
        # Each is signed for a slot of its own: the same request again would be refused as made before.
        self.asked += 1
        about: dict[str, Any] = {"method": method, "target": target, "body": body, "slot": SLOT - self.asked}
        headers = {} if who is None else sign_request(who, task=TASK, node=self.member.key, **about)
        return await self.client.request(method, target, content=body, headers=headers)


def page(owner: SecretKey, username: str, slot: int = SLOT, links: object = LINKS) -> dict[str, str]:
    return {"signed": sign_payload(owner, TASK, {"linktree": links, "slot": slot, "username": username})}


@asynccontextmanager
async def nodes(folder: Path) -> AsyncIterator[tuple[Node, Node]]:
    limits = replace(PATIENT, task_route_seconds=30.0)
    async with members(2, folder, Clock(SLOT), limits=limits) as both, trio.open_nursery() as nursery:
        stakes = {base58(one.key): 1 for one in both}

        def fact(name: Fact, _round: int | None) -> object:
            assert name is Fact.TASK_STATE
            known: dict[str, Any] = {one.name: None for one in fields(TaskState)}
            return {
                **known,
                "task_id": base58(TASK),
                "task_manager": base58(ADMIN.public_key),
                "stake_list": stakes,
            }

        found = []
        for member in both:
            services = services_of(member.secret)
            db = TaskDb(lambda member=member: member.collections, limits)
            services = replace(services, fact=fact, db=db)
            work = folder / f"work-{member.key[:4].hex()}"
            runner = TaskRunner(EXAMPLE, TASK, work, services, limits, serves=True)
            runner.set_clock(SLOT, 1)
            await nursery.start(runner.run)
            task = ServedTask(TASK, "Linktree", runner, lambda slot: 1, list, lambda record: False)
            http = TaskHttp(member.secret, lambda task=task: {base58(TASK): task}, lambda: SLOT, {}, limits)
            port, _ = await nursery.start(serve_tasks, http, TaskHttpPlace(port=0), limits)
            client = httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=60)
            found.append(Node(member, runner, client))
        yield found[0], found[1]
        for one in found:
            await one.client.aclose()
        nursery.cancel_scope.cancel()


@pytest.mark.timeout(120)
async def test_a_page_that_one_node_takes_in_is_on_all(tmp_path: Path) -> None:
    async with nodes(tmp_path) as (one, other):
        zoe, path = base58(ZOE.public_key), f"/linktree/get/{base58(ZOE.public_key)}"
        # Koii's authentication list: the task's creator puts a key on it, at one node; it holds at all.
        assert (await one.send(None, "PUT", "/linktree", page(ZOE, "zoe"))).status_code == 401
        assert (await one.send(ZOE, "PUT", "/linktree", page(ZOE, "zoe"))).status_code == 403
        entry = {"key": zoe, "signed": sign_payload(ADMIN, TASK, {"list": zoe})}
        assert (await one.send(YAN, "POST", "/authlist", entry)).status_code == 403
        forged = {"key": zoe, "signed": sign_payload(YAN, TASK, {"list": zoe})}
        assert (await one.send(ADMIN, "POST", "/authlist", forged)).status_code == 422
        assert (await one.send(ADMIN, "POST", "/authlist", entry)).status_code == 201
        assert (await other.get(f"/authlist/get/{zoe}")).json() == {"publicKey": zoe, "listed": True}
        assert base58(YAN.public_key) not in (await other.get("/authlist/list")).json()

        put = await one.send(ZOE, "PUT", "/linktree", page(ZOE, "zoe"))
        assert (put.status_code, put.json()["at"]) == (201, base58(one.member.key))
        for node in (one, other):
            for asked in (path, "/linktree/get/username/zoe"):
                shown = (await node.get(asked)).json()
                assert (shown["publicKey"], shown["data"]["linktree"]) == (zoe, LINKS)
        assert [item["publicKey"] for item in (await other.get("/linktree/list")).json()] == [zoe]

        assert (await other.send(ZOE, "PUT", "/linktree", page(ZOE, "zoe"))).status_code == 409, "as new"
        newer = [{"label": "new", "redirectUrl": "https://example.net"}]
        assert (
            await other.send(ZOE, "PUT", "/linktree", page(ZOE, "zoe", SLOT + 1, newer))
        ).status_code == 201
        for node in (one, other):
            assert (await node.get(path)).json()["data"]["linktree"] == newer, "the newest, wherever it is"
        for bad in (
            page(YAN, "zoe2", SLOT + 2),
            page(ZOE, "Zoe!", SLOT + 2),
            page(ZOE, "zoe", SLOT + 151),
            page(ZOE, "zoe", SLOT + 2, [{"label": "no url"}]),
            page(ZOE, "zoe", SLOT + 2, LINKS * 200),
            {"signed": "x"},
            [],
            None,
        ):
            assert (await one.send(ZOE, "PUT", "/linktree", bad)).status_code == 422, bad
        # A staker may write without being listed; it does not get the name of somebody else.
        staker = other.member.secret
        assert (await one.send(staker, "PUT", "/linktree", page(staker, "zoe"))).status_code == 409

        assert (await one.send(staker, "DELETE", f"/linktree/{zoe}")).status_code == 403
        for node in (one, other):
            assert (await node.send(ZOE, "DELETE", f"/linktree/{zoe}")).status_code == 200
        assert (await one.get(path)).status_code == 404


@pytest.mark.timeout(120)
async def test_what_a_node_took_in_is_audited_by_another(tmp_path: Path) -> None:
    async with nodes(tmp_path) as (one, other):
        staker = one.member.secret
        assert (await one.send(staker, "PUT", "/linktree", page(staker, "mine"))).status_code == 201
        assert await one.runner.task(1)
        submission = await one.runner.submission(1)
        assert isinstance(submission, str), one.runner.statistics().last_failure
        assert submission.startswith("1 ")
        assert await other.runner.audit(submission, 1, one.member.key) == (Verdict.VALID, "as expected")
        assert (await one.get("/node-proof/1")).json()["node_publicKey"] == base58(one.member.key)
        assert (await one.runner.task(1), await one.runner.submission(1)) == (True, submission)
        for wrong in ("1 " + "0" * 64, "2" + submission[1:], "x", b"1"):
            assert (await other.runner.audit(wrong, 1, one.member.key))[0] is Verdict.INVALID, wrong
        assert (await other.runner.audit(submission, 2, one.member.key))[0] is Verdict.UNAVAILABLE


def test_a_forger_is_caught_by_the_owners_signature(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = rehearsed(EXAMPLE.name, tmp_path, capsys, monkeypatch, "--rounds", "1")
    assert found["rounds"][0]["amounts"]["wrong-1"] == -1_330_000_000
    said = {call["answer"] for call in found["calls"] if call["about"] == "of wrong-1"}
    assert said
    assert all("is not its owner's" in one for one in said)
    assert sum(call["function"] == "routes" for call in found["calls"]) == 2


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_on_a_testnet_whose_nodes_share_the_pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = settled_on_a_testnet(EXAMPLE.name, tmp_path, monkeypatch)
    # Rounds before all nodes were up pay too; the check has held each sum against the rule.
    assert all(node["paid"] > 0 for node in found["nodes"][:4])
