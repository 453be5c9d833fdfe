"""`koii-p2p data` beside a real API and a net of real data rooms over loopback."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
import trio

from koii_p2p.cli.main import run
from koii_p2p.data.service import DataRoom
from koii_p2p.errors import CheckFailed, NetworkError
from koii_p2p.limits import Limits
from koii_p2p.node.api import create_app, serve_api
from koii_p2p.node.api_file import write_api_file
from koii_p2p.records.cid import cid_of, cid_to_text
from koii_p2p.storage.home import Home
from koii_p2p.testnets.node_client import NodeClient
from tests.cli.test_running_node import Shown
from tests.data.rooms import FAST, TASK, DataNet, blob, chunks, data_net

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    for name in [name for name in os.environ if name.startswith("KOII_P2P_")]:
        monkeypatch.delenv(name)
    made = Home(tmp_path / "home")
    made.prepare()
    return made


@asynccontextmanager
async def served(home: Home, data: DataRoom | str) -> AsyncIterator[str]:
    async with trio.open_nursery() as nursery:
        app = create_app(Shown(), "secret", "", lambda: data)
        url = await nursery.start(serve_api, app, "127.0.0.1", 0, Limits())
        write_api_file(home.api, url, "secret", os.getpid())
        yield url
        nursery.cancel_scope.cancel()


async def command(home: Home, *words: str) -> int:
    return await trio.to_thread.run_sync(run, ["data", *words, "--home", str(home.path)])


async def test_a_file_goes_there_and_back(
    home: Home, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with data_net(tmp_path, 8) as net, served(home, net.nodes[0].data):
        assert await command(home, "ls") == 0  # from here on logs are not on stdout
        capsys.readouterr()
        data = blob(1_500_000)
        (tmp_path / "file").write_bytes(data)
        assert (
            await command(home, "put", str(tmp_path / "file"), "--level", "strong", "--output", "json") == 0
        )
        out, err = capsys.readouterr()
        said = json.loads(out)
        assert (said["size"], said["shards_placed"], said["shards_waiting"]) == (1_500_000, 48, 0)
        assert "put: 1.4 MiB of 1.4 MiB, " in err, "plain lines where there is no terminal"
        assert await command(home, "get", said["reference"], str(tmp_path / "copy")) == 0
        assert (tmp_path / "copy").read_bytes() == data
        assert await command(home, "get", said["content"], str(tmp_path / "again")) == 0
        assert (tmp_path / "again").read_bytes() == data
        assert not list(tmp_path.glob(".*.part"))
        capsys.readouterr()
        assert await command(home, "stat", said["reference"]) == 0
        assert "24 of the block that has fewest" in capsys.readouterr().out
        assert await command(home, "pin", said["reference"], "--output", "json") == 0
        assert json.loads(capsys.readouterr().out)["pinned"] is True
        assert await command(home, "ls") == 0
        shown = capsys.readouterr().out
        assert said["cid"] in shown
        assert "pinned" in shown
        assert await command(home, "unpin", said["reference"], "--output", "json") == 0
        assert json.loads(capsys.readouterr().out)["pinned"] is False


async def test_a_private_blob_is_read_by_its_whole_reference(
    home: Home, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with data_net(tmp_path, 4) as net, served(home, net.nodes[0].data):
        (tmp_path / "file").write_bytes(b"secret words")
        capsys.readouterr()  # what the nodes logged while they started
        assert await command(home, "put", str(tmp_path / "file"), "--private", "--output", "json") == 0
        said = json.loads(capsys.readouterr().out)
        assert await command(home, "get", said["cid"], str(tmp_path / "copy")) == 1
        assert "No key for a private blob" in capsys.readouterr().err
        assert not (tmp_path / "copy").exists()
        assert await command(home, "get", said["reference"], str(tmp_path / "copy")) == 0
        assert (tmp_path / "copy").read_bytes() == b"secret words"


async def test_bad_input_has_clear_results(
    home: Home, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with data_net(tmp_path, 3) as net, served(home, net.nodes[0].data):
        unknown = cid_to_text(cid_of(b"never put"))
        for words, code, sentence in (
            (("get", "nonsense", str(tmp_path / "x")), 3, "cannot be used"),
            (("get", unknown, str(tmp_path / "x")), 1, "2 nodes were asked, and none of them has it"),
            (("stat", unknown), 1, "none of them has it"),
            (("unpin", unknown), 1, "keeps nothing of it"),
            (("put", str(tmp_path / "missing")), 3, "cannot be read"),
            (("put", __file__, "--level", "eternal"), 2, "there are none, standard, strong, paranoid"),
            (("put", __file__, "--rounds", "2"), 1, "3 to 64 are possible"),
            (
                ("put", __file__, "--task", "11111111111111111111111111111111"),
                1,
                "does not work on this task",
            ),
        ):
            assert await command(home, *words) == code, words
            assert sentence in capsys.readouterr().err, words
        assert not (tmp_path / "x").exists()


async def test_a_full_quota_and_no_data_room_are_said(
    home: Home, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from dataclasses import replace

    (tmp_path / "file").write_bytes(blob(100_000))
    async with (
        data_net(tmp_path, 2, replace(FAST, data_bytes=20_000)) as net,
        served(home, net.nodes[0].data),
    ):
        assert await command(home, "put", str(tmp_path / "file")) == 1
        assert "quota" in capsys.readouterr().err
        assert net.nodes[0].store.used() == 0
    async with served(home, "The database is damaged."):
        assert await command(home, "ls") == 1
        assert "The database is damaged." in capsys.readouterr().err


async def test_a_reader_sees_that_a_blob_ends_too_early(home: Home, tmp_path: Path) -> None:
    async with data_net(tmp_path, 8) as net, served(home, net.nodes[0].data) as url:
        result = await net.nodes[1].data.put(TASK, chunks(blob(6 * 1024 * 1024)))
        lose_the_last_block(net, result.reference.manifest)
        async with NodeClient(url, "secret") as client:
            got = bytearray()

            async def take(chunk: bytes) -> None:
                got.extend(chunk)

            with pytest.raises((NetworkError, CheckFailed)):
                await client.get_blob(cid_to_text(result.reference.manifest), None, take)
            assert len(got) < 6 * 1024 * 1024


def lose_the_last_block(net: DataNet, cid: bytes) -> None:
    for node in net.nodes:
        stored = node.store.blob(cid)
        if stored is not None:
            node.store.drop_shards(cid, [place for place in stored.held if place[0] == 5])


async def test_the_token_is_wanted(home: Home, tmp_path: Path) -> None:
    async with (
        data_net(tmp_path, 1) as net,
        served(home, net.nodes[0].data) as url,
        httpx.AsyncClient(base_url=url, trust_env=False) as client,
    ):
        for method, path in (("GET", "/data"), ("PUT", "/data"), ("GET", "/data/x"), ("POST", "/data/x/pin")):
            assert (await client.request(method, path)).status_code == 401
