"""`ctx.db` of real workers, over the collections of real nodes."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import trio
import trio.testing

from koii_p2p.data.collections.definition import Definition
from koii_p2p.data.collections.service import Collections
from koii_p2p.limits import Limits
from koii_p2p.node.node import Node
from koii_p2p.node.task_db import TaskDb
from koii_p2p.node.views import base58
from koii_p2p.records.schema import Verdict
from koii_p2p.tasks.runner import TaskRunner
from koii_p2p.tasks.services import Refused, TaskServices
from tests.data.collections.nets import LIMITS, TASK, Clock, members
from tests.node.test_task_life import KOII, World, world  # noqa: F401 - a fixture
from tests.tasks.conftest import FIXTURES

pytestmark = pytest.mark.timeout(120)
PATIENT = replace(LIMITS, worker_start_seconds=60.0, worker_niceness=0, collections=20)
WORKS = Definition("works", indexes=("round",))


def runner_on(
    collections: Collections | None, key: bytes, folder: Path, limits: Limits = PATIENT
) -> TaskRunner:
    services = TaskServices(
        *(key, key),
        *(lambda *_: None,) * 5,  # type: ignore[arg-type]
        db=TaskDb(lambda: collections, limits),
    )
    return TaskRunner(FIXTURES / "collections.py", TASK, folder, services, limits)


async def test_what_one_nodes_task_writes_anothers_audits(tmp_path: Path) -> None:
    async with members(2, tmp_path, Clock(), limits=PATIENT) as (one, other), trio.open_nursery() as nursery:
        first, second = (
            runner_on(node.collections, node.key, tmp_path / f"work{node.key[:2].hex()}{number}")
            for number, node in enumerate((one, other))
        )
        await nursery.start(first.run)
        await nursery.start(second.run)
        submission = await first.submission(7)
        assert isinstance(submission, str), first.statistics().last_failure
        said = json.loads(submission)
        mine = said["one"]
        assert {name: said[name] for name in said if name not in ("one", "key")} == {
            "before": 0,
            "count": 2,
            "sorted": [said["key"]],
            "index": [True, False],
            "removed": 1,
            "gone": None,
        }
        assert (mine["_id"], mine["round"], mine["value"]) == (said["key"], 7, 49)
        assert one.collections.store.definitions() == (WORKS,)
        assert await second.audit(submission, 7, one.key) == (Verdict.VALID, "")
        assert await second.audit(submission, 8, one.key) == (Verdict.INVALID, "")
        assert await second.audit('{"key": "unknown"}', 7, one.key) == (Verdict.INVALID, "")
        nursery.cancel_scope.cancel()


REFUSALS = {
    "operator": "no operator '$where'",
    "taken": "the same _id",
    "large": "at most 1048576 are taken",
    "many": "at most 1000 are written at a time",
    "limit": "at most 1000 are handed out",
    "rules": "a name has 1 to 64 bytes",
    "authors": "is not a key",
    "crowd": "at most 1024 authors",
    "filter": "find takes at most 131072",
    "number": "more than 64 bits",
    "document": "A document is a JSON object",
    "field": "begins with $",
    "everything": "More than 1000 documents match",
    "heavy": "more than 1048576 bytes of JSON",
    "collections": "keeps no more collections",
}


async def test_limits_and_bad_questions_are_clear_refusals_and_nothing_is_written(tmp_path: Path) -> None:
    async with members(1, tmp_path, Clock(), limits=PATIENT) as (node,), trio.open_nursery() as nursery:
        runner = runner_on(node.collections, node.key, tmp_path / "work")
        await nursery.start(runner.run)
        assert await runner.audit("fill", 1, node.key) == (Verdict.VALID, "")
        before = node.collections.store.totals(WORKS.id).documents
        assert before == 1010
        for what, why in REFUSALS.items():
            verdict, detail = await runner.audit(what, 1, node.key)
            assert (verdict, "RequestRefused" in detail, why in detail) == (
                Verdict.UNAVAILABLE,
                True,
                True,
            ), (
                what,
                detail,
            )
        assert node.collections.store.totals(WORKS.id).documents == before
        most = PATIENT.collections - PATIENT.operator_collections
        assert len(node.collections.store.definitions()) == most < PATIENT.task_db_collections
        assert node.collections.open(Definition("the operator's"))
        assert runner.statistics().starts == 1
        nursery.cancel_scope.cancel()


async def test_a_node_that_starts_and_one_without_answer_say_so(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    question = json.dumps({"collection": {"name": "works"}}).encode()
    with pytest.raises(Refused, match="has just started"):
        await TaskDb(lambda: None, PATIENT)("count", question)

    class Silent:
        def open_for_task(self, definition: Definition) -> Definition:
            return definition

        async def count(self, definition: Definition, filter: object) -> int:
            await trio.sleep_forever()
            return 0

    began = trio.current_time()
    with pytest.raises(Refused, match="did not answer within 30 s"):
        await TaskDb(lambda: Silent(), PATIENT)("count", question)  # type: ignore[arg-type, return-value]
    assert trio.current_time() - began == pytest.approx(PATIENT.task_db_seconds)
    db = TaskDb(lambda: Silent(), PATIENT)  # type: ignore[arg-type, return-value]
    for wrong in (b"", b"[]", b'{"collection": 1}', b'{"collection": {"name": 1}}', b'{"collection": {}}'):
        with pytest.raises(Refused):
            await db("count", wrong)
    with pytest.raises(Refused, match="name of a call"):
        await db("drop", question)


class Asker(trio.abc.Instrument):
    """Asks a node how it is after every step of every task, as somebody may over its API."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self.answers: Counter[str] = Counter()

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        try:
            found = json.loads(json.dumps(self._node.status(), allow_nan=False))
            self.answers["listens" if found["addresses"] else "does not listen"] += 1
        except Exception as error:  # noqa: BLE001 - an instrument that raises is only switched off
            self.answers[repr(error)] += 1


WRITER = """
from koii_p2p.tasks.sdk import Context, Task


class Writer(Task):
    async def setup(self, ctx: Context) -> None:
        # Refused until the stakers are known among whom shards are dealt out: then the worker is started again.
        await ctx.db.collection("links").put({"_id": "from the task", "by": ctx.submitter})
"""


@pytest.mark.slow
@pytest.mark.timeout(240)
async def test_a_node_gives_its_task_its_collections_and_shows_what_they_hold(
    world: World,  # noqa: F811 - the fixture that is imported
) -> None:
    with trio.fail_after(200):
        task = await world.make_task(starts_in=30)
        running = await world.node("one", (task,), stake=2 * KOII, source=WRITER)
        node, name = running.node, base58(task)
        while True:
            status = json.loads(json.dumps(node.status(), allow_nan=False))
            held = status["collections"][name]["collections"]
            if held and held[0]["documents"]:
                break
            await trio.sleep(0.2)
        assert (held[0]["name"], held[0]["documents"], held[0]["own_shards"]) == ("links", 1, 64)
        assert status["collections"][name]["written"] == 1
        assert status["data"]["store"]["most_of_a_task"] >= 0
        text = node.metrics("")[0].decode()
        assert f'koii_collections_documents_written_total{{task="{name}"}} 1.0' in text
        limits = {one["name"]: one for one in node.resources()["limits"]}
        assert limits["collections"]["used"] == 1
        assert limits["collection_bytes"]["used"] > 0
        assert limits["dht_values"]["used"] is not None
        asker = Asker(node)
        trio.lowlevel.add_instrument(asker)
        node.stop()
        await running.ended.wait()
        trio.lowlevel.remove_instrument(asker)
    assert set(asker.answers) == {"listens", "does not listen"}, "it can be asked how it is while it stops"
