"""`koii-p2p collection` beside the API of one of three nodes with real networks and collections."""

from __future__ import annotations

import io
import json
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, cast

import base58
import httpx
import pytest
import trio

from koii_p2p.cli.main import run
from koii_p2p.cli.output import configure_logs
from koii_p2p.limits import Limits
from koii_p2p.node.api import NodeView, create_app, serve_api
from koii_p2p.node.api_file import write_api_file
from tests.data.collections.nets import Clock, Member, members

TOKEN = "token"


@asynccontextmanager
async def operated(home: Path, tasks: int = 1) -> AsyncIterator[tuple[list[Member], str]]:
    """Three members; the API of the first is found from the home."""
    async with members(3, home, Clock()) as net, trio.open_nursery() as nursery:
        names = {base58.b58encode(bytes((n,)) * 32).decode(): net[n].collections for n in range(tasks)}
        app = create_app(cast(NodeView, object()), TOKEN, collections=lambda: names)
        url = await nursery.start(serve_api, app, "127.0.0.1", 0, Limits())
        write_api_file(home / "api.json", url, TOKEN, os.getpid())
        yield net, url
        nursery.cancel_scope.cancel()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KOII_P2P_HOME", str(tmp_path))
    configure_logs(0, "error")  # the net and the commands share this process
    return tmp_path


async def test_documents_are_written_read_queried_and_removed(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def line(*words: str, code: int = 0) -> str:
        found = await trio.to_thread.run_sync(run, ["collection", *words])
        said = capsys.readouterr()
        assert found == code, said
        return said.out if code == 0 else said.out + said.err

    async with operated(home) as (net, _url):
        made = json.loads(await line("open", "links", "--shards", "8", "--index", "n", "--output", "json"))
        definition = net[0].collections.named("links")
        assert (definition.shards, definition.indexes, definition.id.hex()) == (8, ("n",), made["id"])
        assert "3 of 3" in await line("put", "links", '{"_id": "zoe", "n": 1}')
        monkeypatch.setattr(
            "sys.stdin", io.StringIO("".join(f'{{"_id": "k{n}", "n": {n}}}\n' for n in range(9)))
        )
        assert len(json.loads(await line("put", "links", "-", "--output", "json"))) == 9
        assert json.loads(await line("get", "links", "zoe")) == {"_id": "zoe", "n": 1}
        assert "no such document" in await line("get", "links", "nobody", code=1)
        found = await line(
            "query",
            "links",
            '{"n": {"$gte": 5}}',
            "--sort",
            '{"n": -1}',
            "--limit",
            "2",
            "--fields",
            '{"n": 1}',
        )
        assert [json.loads(one) for one in found.splitlines()] == [
            {"_id": "k8", "n": 8},
            {"_id": "k7", "n": 7},
        ]
        assert (await line("query", "links", "--count")).strip() == "10"
        assert "1 changed" in await line("update", "links", '{"_id": "k3"}', '{"$inc": {"n": 100}}')
        assert "2 removed" in await line("remove", "links", '{"n": {"$lt": 1000, "$gt": 7}}', "--multi")
        told = await line("watch", "links", "--from-start", "--changes", "10")
        changes = {one["_id"]: one["document"] for one in map(json.loads, told.splitlines())}
        assert changes["k8"] is None
        assert changes["zoe"] == {"_id": "zoe", "n": 1}
        stat = json.loads(await line("stat", "--output", "json"))["collections"][0]
        assert (stat["documents"], stat["tombstones"], stat["own_shards"]) == (8, 2, 8)
        assert "links" in await line("stat")


async def test_what_is_wrong_is_said(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async def refused(*words: str) -> str:
        found = await trio.to_thread.run_sync(run, ["collection", *words])
        said = capsys.readouterr().err
        assert found in (1, 3), said
        return " ".join(said.split())

    async with operated(home) as (_net, _url):
        assert "It is not JSON" in await refused("put", "links", "{")
        assert "A document is a JSON object" in await refused("put", "links", "3")
        assert "begins with $" in await refused("put", "links", '{"$a": 1}')
        assert "no operator '$regex'" in await refused("query", "links", '{"a": {"$regex": "(a+)+"}}')
        assert "1 to 256 shards" in await refused("open", "links", "--shards", "1000")
        assert "is not a key" in await refused("open", "links", "--author", "0OIl")
        assert "Name one of the tasks" in await refused("stat", "--task", "nobody")


async def test_the_api_wants_its_token_and_bounds_what_it_reads(home: Path) -> None:
    async with operated(home, tasks=2) as (_net, url):
        async with httpx.AsyncClient(base_url=url, timeout=30) as stranger:
            assert (await stranger.get("/collections")).status_code == 401
            assert (await stranger.post("/collections/links/put")).status_code == 401
        headers = {"authorization": f"Bearer {TOKEN}"}
        async with httpx.AsyncClient(base_url=url, headers=headers, timeout=30) as client:
            post = partial(client.post, "/collections/links/put")
            assert (await post(json={"documents": []})).json()["reason"] == "bad_definition"
            task = base58.b58encode(bytes(32)).decode()
            query: Mapping[str, Any] = {"params": {"task": task}}
            assert (await post(content=b"[" * 100_000, **query)).json()["reason"] == "bad_query"
            assert (await post(json={"documents": {}}, **query)).json()["reason"] == "bad_body"
            assert (await post(json={"documents": [{"_id": "k"}]}, **query)).json()["answer"][0][
                "stored"
            ] == 3
            taken = await client.post(
                "/collections/links/insert", json={"documents": [{"_id": "k"}]}, **query
            )
            assert (taken.status_code, taken.json()["reason"]) == (409, "key_taken")
        async with httpx.AsyncClient(base_url=url, headers=headers, timeout=30) as client:
            large = await client.post("/collections/links/put", content=b" " * (9 * 1024 * 1024), **query)
            assert large.status_code == 413
