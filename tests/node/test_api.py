from __future__ import annotations

import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

from koii_p2p.errors import ConfigurationError, NetworkError
from koii_p2p.limits import Limits
from koii_p2p.node.api import create_app, serve_api
from koii_p2p.node.api_file import read_api_file, remove_api_file, write_api_file

TOKEN = "secret"


class Shown:
    """A node that knows one round of one task."""

    stopped = False

    def status(self) -> Mapping[str, Any]:
        return {"key": "K"}

    def rounds(self) -> list[Mapping[str, Any]]:
        return [{"round": 3}]

    def round(self, task: str, number: int) -> Mapping[str, Any] | None:
        return {"task": task, "round": number} if (task, number) == ("T", 3) else None

    def peers(self) -> list[Mapping[str, Any]]:
        return []

    def artifact(self, task: str, number: int, name: str) -> bytes | None:
        return b"bytes" if (task, number, name) == ("T", 3, "bundle") else None

    def stop(self) -> None:
        self.stopped = True


def client(node: Shown, token: str | None = TOKEN) -> httpx.AsyncClient:
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    transport = httpx.ASGITransport(app=create_app(node, TOKEN))
    return httpx.AsyncClient(transport=transport, base_url="http://node", headers=headers)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/status", {"key": "K"}),
        ("/rounds", [{"round": 3}]),
        ("/rounds/T/3", {"task": "T", "round": 3}),
        ("/peers", []),
    ],
)
async def test_what_is_shown_needs_the_token(path: str, expected: object) -> None:
    async with client(Shown()) as allowed:
        assert (await allowed.get(path)).json() == expected
    for wrong in (None, "", "other", TOKEN + "x"):
        async with client(Shown(), wrong) as refused:
            reply = await refused.get(path)
            assert reply.status_code == 401
            assert "token" in reply.json()["error"]


async def test_health_needs_no_token() -> None:
    async with client(Shown(), None) as anybody:
        assert (await anybody.get("/healthz")).text == "ok\n"


async def test_artifacts_are_bytes_and_what_is_missing_is_said() -> None:
    async with client(Shown()) as api:
        assert (await api.get("/artifacts/T/3/bundle")).content == b"bytes"
        for path in ("/artifacts/T/3/list", "/artifacts/T/3/other", "/rounds/T/4", "/rounds/U/3"):
            reply = await api.get(path)
            assert reply.status_code == 404
            assert reply.json()["error"]


async def test_shutdown_is_a_post_with_the_token() -> None:
    node = Shown()
    async with client(node) as api:
        assert (await api.get("/shutdown")).status_code == 405
        assert not node.stopped
        assert (await api.post("/shutdown")).status_code == 200
    assert node.stopped


async def test_a_port_in_use_is_one_clear_error() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(NetworkError) as caught:
            await serve_api(create_app(Shown(), TOKEN), "127.0.0.1", port, Limits())
    assert str(port) in caught.value.what
    assert "--api-port" in caught.value.remedy


async def test_the_api_answers_over_a_real_socket() -> None:
    async with trio.open_nursery() as nursery:
        url = await nursery.start(serve_api, create_app(Shown(), TOKEN), "127.0.0.1", 0, Limits())
        async with httpx.AsyncClient() as http:
            assert (await http.get(f"{url}/healthz")).status_code == 200
        nursery.cancel_scope.cancel()


def test_the_api_file_is_private_and_says_where_the_node_is(tmp_path: Path) -> None:
    path = tmp_path / "api.json"
    write_api_file(path, "http://127.0.0.1:1", TOKEN, 7)
    assert path.stat().st_mode & 0o777 == 0o600
    found = read_api_file(path)
    assert (found.url, found.token, found.pid) == ("http://127.0.0.1:1", TOKEN, 7)
    remove_api_file(path)
    remove_api_file(path)
    with pytest.raises(ConfigurationError):
        read_api_file(path)
    path.write_text("{}")
    path.chmod(0o600)
    with pytest.raises(ConfigurationError):
        read_api_file(path)
