"""`koii-p2p dht` beside the real DHT of a net over loopback."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import trio

from koii_p2p.cli.main import run
from koii_p2p.errors import ConfigurationError, NetworkError
from koii_p2p.limits import Limits
from koii_p2p.network.identity import peer_id_text
from koii_p2p.node.api import create_app, serve_api
from koii_p2p.node.api_file import write_api_file
from koii_p2p.node.dht import NodeDht
from koii_p2p.storage.home import Home
from tests.network.nets import net
from tests.network.test_dht import DHT_QUICK, GENESIS, secret, tables


async def test_the_table_is_shown_and_a_peer_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in [name for name in os.environ if name.startswith("KOII_P2P_")]:
        monkeypatch.delenv(name)
    home = Home(tmp_path / "home")
    home.prepare()
    async with net() as running, trio.open_nursery() as nursery:
        first = await running.add(1, limits=DHT_QUICK)
        second = await running.add(2, limits=DHT_QUICK, bootstrap=(first.address,))
        third = await running.add(3, limits=DHT_QUICK, bootstrap=(first.address,))
        await tables([first, second, third], 2)
        desk = NodeDht(second.network, GENESIS, dict)
        app = create_app(None, "secret", dht=lambda: desk)  # type: ignore[arg-type]
        url = await nursery.start(serve_api, app, "127.0.0.1", 0, Limits())
        write_api_file(home.api, url, "secret", os.getpid())

        async def printed(*arguments: str) -> tuple[int, str, str]:
            code = await trio.to_thread.run_sync(run, [*arguments, "--home", str(home.path)])
            return code, *capsys.readouterr()

        code, out, _ = await printed("dht", "stat")
        assert code == 0
        assert "server: it answers others" in out
        assert "common bits" in out
        code, out, _ = await printed("dht", "stat", "--output", "json")
        assert code == 0
        found = json.loads(out)
        assert sorted(found["peers"]) == sorted([first.network.peer_id, third.network.peer_id])

        code, out, _ = await printed("dht", "find", third.network.peer_id, "--output", "json")
        assert code == 0
        assert json.loads(out)["addresses"] == [third.address.partition("/p2p/")[0]]
        code, out, _ = await printed("dht", "find", third.network.peer_id)
        assert code == 0
        assert third.address.partition("/p2p/")[0] in out

        code, _, error = await printed("dht", "find", peer_id_text(secret(99).public_key))
        assert code == NetworkError.exit_code
        assert "was not found" in error
        code, _, error = await printed("dht", "find", "nobody\x1b[2J")
        assert code == ConfigurationError.exit_code
        assert "names no peer" in error
        nursery.cancel_scope.cancel()
