from __future__ import annotations

import json
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
from starlette.responses import JSONResponse

from koii_p2p.errors import ConfigurationError, NetworkError
from koii_p2p.limits import Limits
from koii_p2p.node.api import create_app, metrics_token, serve_api
from koii_p2p.node.api_file import read_api_file, remove_api_file, write_api_file
from koii_p2p.node.views import plain
from koii_p2p.rounds.tally import Outcome
from koii_p2p.storage.faults import StorageError

TOKEN = "secret"
SCRAPER = "scraper"


class Shown:
    """A node that knows one round of one task."""

    stopped = False

    def __init__(self, *reasons: str) -> None:
        self.reasons = list(reasons)

    def status(self) -> Mapping[str, Any]:
        return {"key": "K"}

    def rounds(self) -> list[Mapping[str, Any]]:
        return [{"round": 3}]

    def round(self, task: str, number: int) -> Mapping[str, Any] | None:
        return {"task": task, "round": number} if (task, number) == ("T", 3) else None

    def peers(self) -> list[Mapping[str, Any]]:
        return []

    def reach(self) -> Mapping[str, Any]:
        return {"access": "unknown"}

    def mesh(self) -> Mapping[str, Any]:
        return {"topics": []}

    def scores(self) -> list[Mapping[str, Any]]:
        return [{"key": "P", "score": 0.0}]

    def resources(self) -> Mapping[str, Any]:
        return {"limits": []}

    def unready(self) -> list[str]:
        return self.reasons

    def metrics(self, accept: str) -> tuple[bytes, str]:
        return b"up 1\n", f"text/plain; asked={accept.partition(';')[0]}"

    def artifact(self, task: str, number: int, name: str) -> bytes | None:
        return b"bytes" if (task, number, name) == ("T", 3, "bundle") else None

    def stop(self) -> None:
        self.stopped = True


def client(node: Shown, token: str | None = TOKEN) -> httpx.AsyncClient:
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    transport = httpx.ASGITransport(app=create_app(node, TOKEN, SCRAPER))
    return httpx.AsyncClient(transport=transport, base_url="http://node", headers=headers)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/status", {"key": "K"}),
        ("/rounds", [{"round": 3}]),
        ("/rounds/T/3", {"task": "T", "round": 3}),
        ("/peers", []),
        ("/reach", {"access": "unknown"}),
        ("/mesh", {"topics": []}),
        ("/mesh/scores", [{"key": "P", "score": 0.0}]),
        ("/resources", {"limits": []}),
    ],
)
async def test_what_is_shown_needs_the_token(path: str, expected: object) -> None:
    async with client(Shown()) as allowed:
        assert (await allowed.get(path)).json() == expected
    for wrong in (None, "", "other", TOKEN + "x", SCRAPER):
        async with client(Shown(), wrong) as refused:
            reply = await refused.get(path)
            assert reply.status_code == 401
            assert "token" in reply.json()["error"]


async def test_health_needs_no_token() -> None:
    async with client(Shown(), None) as anybody:
        assert (await anybody.get("/healthz")).text == "ok\n"


async def test_readiness_needs_no_token_and_says_what_is_in_the_way() -> None:
    async with client(Shown(), None) as anybody:
        reply = await anybody.get("/readyz")
        assert (reply.status_code, reply.text) == (200, "ready\n")
    async with client(Shown("K2 is away.", "No network."), None) as anybody:
        reply = await anybody.get("/readyz")
        assert (reply.status_code, reply.text) == (503, "K2 is away.\nNo network.\n")


async def test_metrics_take_either_token_and_answer_in_the_form_that_is_asked_for() -> None:
    for token in (TOKEN, SCRAPER):
        async with client(Shown(), token) as allowed:
            reply = await allowed.get("/metrics", headers={"accept": "a/b;q=1"})
            assert (reply.status_code, reply.content) == (200, b"up 1\n")
            assert reply.headers["content-type"] == "text/plain; asked=a/b"
    for wrong in (None, "", "other"):
        async with client(Shown(), wrong) as refused:
            assert (await refused.get("/metrics")).status_code == 401


async def test_without_a_scrapers_token_an_empty_one_opens_nothing() -> None:
    transport = httpx.ASGITransport(app=create_app(Shown(), TOKEN))
    async with httpx.AsyncClient(transport=transport, base_url="http://node") as api:
        assert (await api.get("/metrics", headers={"Authorization": "Bearer "})).status_code == 401


def test_the_scrapers_token_is_made_once_and_is_private(tmp_path: Path) -> None:
    path = tmp_path / "metrics.token"
    token = metrics_token(path)
    assert len(token) > 40
    assert path.stat().st_mode & 0o777 == 0o600
    assert metrics_token(path) == token
    path.chmod(0o644)
    with pytest.raises(StorageError):
        metrics_token(path)
    path.chmod(0o600)
    path.write_text("\n")
    with pytest.raises(StorageError, match="empty"):
        metrics_token(path)


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


async def test_what_cannot_be_answered_is_said_and_logged_with_the_place(
    capsys: pytest.CaptureFixture[str],
) -> None:
    class Broken(Shown):
        def status(self) -> Mapping[str, Any]:
            raise OSError(9, "Bad file descriptor")

    transport = httpx.ASGITransport(app=create_app(Broken(), TOKEN), raise_app_exceptions=False)
    headers = {"Authorization": f"Bearer {TOKEN}"}
    async with httpx.AsyncClient(transport=transport, base_url="http://node", headers=headers) as asker:
        reply = await asker.get("/status")
        assert (reply.status_code, "OSError" in reply.json()["error"]) == (500, True)
        assert "Bad file descriptor" not in reply.text
        assert (await asker.get("/rounds")).status_code == 200
    said = capsys.readouterr().out
    assert "path=/status" in said
    assert "test_api.py" in said


@dataclass(frozen=True)
class Odd:
    """What statistics may hold, now or some day."""

    by_tuple: Mapping[tuple[int, str], int]
    by_bytes: Mapping[bytes, bytes]
    by_outcome: Mapping[Outcome, float]
    never: float
    name: str
    some: frozenset[bytes]


def test_whatever_statistics_hold_becomes_json() -> None:
    odd = Odd(
        {(1, "a"): 2}, {b"\xff": b"\x00"}, {Outcome.APPROVED: 0.5}, float("inf"), "f\udcff", frozenset({b"k"})
    )
    shown = plain([odd, None, True, 2**70])
    assert json.loads(bytes(JSONResponse(shown).body)) == [
        {
            "by_tuple": {"[1, 'a']": 2},
            "by_bytes": {"ff": "00"},
            "by_outcome": {"1": 0.5},
            "never": None,
            "name": "f?",
            "some": ["6b"],
        },
        *(None, True, 2**70),
    ]
