"""What the operator's API says when collections refuse something."""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import httpx
from starlette.applications import Starlette

from koii_p2p.data.collections.definition import Definition
from koii_p2p.node.collections_api import collection_routes
from tests.data.collections.nets import LIMITS, Clock, members

LINKS = Definition("links")


async def test_one_subscriber_too_many_is_told_so(tmp_path: Path) -> None:
    limits = replace(LIMITS, document_readers=2)
    async with members(1, tmp_path, Clock(), limits=limits) as (node,), AsyncExitStack() as readers:
        app = Starlette(routes=collection_routes(lambda: {"task": node.collections}, lambda handler: handler))
        api = httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://node")
        for _ in range(2):
            await readers.enter_async_context(node.collections.watch(LINKS))
        said = await api.get("/collections/links/watch")
        assert (said.status_code, said.json()["reason"]) == (429, "too_many_readers")
        assert "2 subscribers" in said.json()["why"]
        assert "End another" in said.json()["remedy"]
        assert node.collections.feed.readers == 2
        await api.aclose()
