from __future__ import annotations

from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest
import trio

from koii_p2p.localk2 import LocalK2Address, LocalK2Settings, serve
from koii_p2p.settlement.rpc import RpcClient


@pytest.fixture
async def k2(tmp_path: Path, nursery: trio.Nursery) -> LocalK2Address:
    """A real local K2 on free ports in this process, 20 ms a slot."""
    settings = LocalK2Settings(tmp_path / "k2", port=0, slot_ms=20, finality=4)
    address: LocalK2Address = await nursery.start(partial(serve, settings))
    return address


@pytest.fixture
async def client(k2: LocalK2Address) -> AsyncIterator[RpcClient]:
    async with RpcClient(k2.url) as opened:
        yield opened
