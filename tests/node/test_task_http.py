"""The public server before real workers: Koii's paths, stamps, signed requests, what strangers and tasks do to it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
from hypercorn.config import Config

from koii_p2p.connections import Connections
from koii_p2p.errors import NetworkError
from koii_p2p.limits import Limits
from koii_p2p.node.task_gate import RequestGate, SignedOnce, crowd_of, network_of
from koii_p2p.node.task_http import ServedTask, TaskHttp
from koii_p2p.node.task_server import TaskHttpPlace, TaskServer, announced, serve_tasks
from koii_p2p.node.views import base58
from koii_p2p.records.keys import SecretKey
from koii_p2p.records.schema import Verdict
from koii_p2p.tasks.process import CallFailed, Failure
from koii_p2p.tasks.routes import AskedRoute
from koii_p2p.tasks.runner import TaskRunner
from koii_p2p.tasks.services import TaskServices
from koii_p2p.tasks.stamps import Stamp, read_stamp, request_hash, sign_request
from tests.tasks.conftest import FIXTURES, TASK_ID, verify
from tests.tasks.test_koii_names import names, rows

pytestmark = pytest.mark.timeout(120)

NODE = SecretKey.from_seed(b"n" * 32)
LISTED = SecretKey.from_seed(b"l" * 32)
STRANGER = SecretKey.from_seed(b"x" * 32)
TASK = base58(TASK_ID)
BASE = f"/task/{TASK}"
LIMITS = replace(
    Limits(),
    worker_start_seconds=60.0,
    worker_niceness=0,
    worker_restart_seconds=0.05,
    worker_cancel_seconds=0.5,
    task_route_seconds=20.0,
)


@dataclass
class Served:
    """A public server in this process, with one task in real workers."""

    runner: TaskRunner
    http: TaskHttp
    connections: Connections
    url: str
    client: httpx.AsyncClient
    slot: int | None = 1234
    registered: list[bytes] = field(default_factory=list)

    async def get(self, path: str, **more: Any) -> httpx.Response:
        return await self.client.get(path, **more)

    @property
    def refused(self) -> dict[str, int]:
        return dict(self.http.statistics()["refused"])


def services_of(key: SecretKey) -> TaskServices:
    store: dict[bytes, bytes] = {}
    return TaskServices(
        submitter=key.public_key,
        main_account=b"w" * 32,
        store_get=store.get,
        store_set=store.__setitem__,
        store_delete=lambda one: store.pop(one, None) and None,
        sign=key.sign,
        verify=verify,
    )


@asynccontextmanager
async def serving(folder: Path, task: str = "routed.py", **limits: float) -> AsyncIterator[Served]:
    chosen = replace(LIMITS, **limits)
    runner = TaskRunner(FIXTURES / task, TASK_ID, folder / "work", services_of(NODE), chosen, serves=True)
    runner.set_clock(1234, 12)
    registered: list[bytes] = []

    def register(record: bytes) -> bool:
        registered.append(record)
        return record == b"good"

    nodes = [{"data": {"url": None, "timestamp": 7}}]
    one = ServedTask(TASK_ID, "Routed", runner, lambda slot: slot // 100, lambda: nodes, register)
    http = TaskHttp(NODE, lambda: {TASK: one}, lambda: served.slot, {"id": "P"}, chosen)
    async with trio.open_nursery() as nursery:
        await nursery.start(runner.run)
        port, connections = await nursery.start(serve_tasks, http, TaskHttpPlace(port=0), chosen)
        url = f"http://127.0.0.1:{port}"
        async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=60) as client:
            served = Served(runner, http, connections, url, client, registered=registered)
            yield served
        nursery.cancel_scope.cancel()


def stamp_of(reply: httpx.Response, method: str, target: str, body: bytes = b"") -> Stamp:
    """The stamp of a reply, checked as a foreign client would: signature, request and body."""
    found = read_stamp(reply.status_code, reply.headers)
    assert found is not None, (reply.status_code, reply.text)
    assert found.is_good()
    assert found.key == NODE.public_key
    assert found.stamp.request_hash == request_hash(method, target.encode(), body)
    assert found.stamp.body_hash == sha256(reply.content).digest()
    return found.stamp


def reason_of(reply: httpx.Response) -> tuple[int, str]:
    assert read_stamp(reply.status_code, reply.headers) is None, "the node's own word is not the task's"
    return reply.status_code, reply.json()["reason"]


async def test_koiis_paths(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        root = (await served.get("/")).json()
        assert root == {"status": "OK", "message": "Node is running", "slot": 1234}
        assert (await served.get("/id")).json() == {"id": "P"}
        tasks = (await served.get("/tasks")).json()
        assert tasks == [{"TaskName": "Routed", "TaskID": TASK, "routes": True}]
        assert (await served.get(f"/nodes/{TASK}")).json() == [{"data": {"url": None, "timestamp": 7}}]
        good = await served.client.post(f"/register-node/{TASK}", content=b"good")
        assert (good.status_code, good.json()) == (200, {"message": "registered"})
        old = await served.client.post(f"/register-node/{TASK}", content=b"old")
        assert reason_of(old) == (409, "not_registered")
        assert served.registered == [b"good", b"old"]
        large = await served.client.post(f"/register-node/{TASK}", content=bytes(70_000))
        assert reason_of(large) == (413, "body_too_large")


async def test_the_paths_of_the_page_of_koiis_names_are_there(tmp_path: Path) -> None:
    asked = [names(ours)[0] for _, ours in rows("REST") if names(ours) and "/" in ours]
    assert len(asked) == 6
    async with serving(tmp_path) as served:
        for words in asked:
            method, path = words.split()
            reply = await served.client.request(method, path.replace(":task", TASK).replace("*", "hello"))
            assert reply.status_code in (200, 409), words


async def test_a_reply_is_the_tasks_own_and_stamped(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        reply = await served.get(f"{BASE}/hello?name=koii")
        assert reply.json() == {"hello": "koii", "signer": None}
        stamp = stamp_of(reply, "GET", f"{BASE}/hello?name=koii")
        assert (stamp.task, stamp.round, stamp.slot, stamp.status) == (TASK_ID, 12, 1234, 200)
        assert reply.headers["x-content-type-options"] == "nosniff"
        assert (await served.get(f"{BASE}/slot")).json() == {"slot": 1234, "task": TASK}
        for path in (BASE, f"{BASE}/"):
            found = await served.get(path)
            assert found.json()["hello"] == "world", "both are the task's root"
            stamp_of(found, "GET", path)
        put = await served.client.put(f"{BASE}/kept/a%2Fb", content=b"value")
        assert put.status_code == 404, "a slash in a key is a slash, however it is written"
        stamp_of(put, "PUT", f"{BASE}/kept/a%2Fb", b"value")
        put = await served.client.put(f"{BASE}/kept/key", content=b"value")
        assert stamp_of(put, "PUT", f"{BASE}/kept/key", b"value").status == 201
        kept = await served.get(f"{BASE}/kept/key")
        assert kept.text == "value"
        assert kept.headers["x-mine"] == "1"
        assert "set-cookie" not in kept.headers, "all tasks of a node are one origin"
        assert kept.headers["koii-slot"] == "1234", "a task does not stamp"
        missing = await served.get(f"{BASE}/kept/other")
        assert stamp_of(missing, "GET", f"{BASE}/kept/other").status == 404
        head = await served.client.head(f"{BASE}/hello")
        assert (head.status_code, head.content) == (200, b"")
        stamp_of(head, "HEAD", f"{BASE}/hello")
        assert stamp_of(await served.get(f"{BASE}/empty"), "GET", f"{BASE}/empty").status == 204
        assert (await served.get(f"{BASE}/thread")).text == "from a thread"
        options = {"origin": "https://example.org", "access-control-request-method": "PUT"}
        assert (await served.client.options(f"{BASE}/kept/key", headers=options)).status_code == 200


async def test_a_slot_that_is_not_known_is_not_made_up(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        served.slot = None
        assert reason_of(await served.get(f"{BASE}/hello")) == (503, "slot_unknown")


async def test_who_signs_is_known_to_the_task(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        target = f"{BASE}/listed?name=a"

        def signed(key: SecretKey, slot: int = 1234, method: str = "POST", **more: Any) -> dict[str, str]:
            about = {"task": TASK_ID, "node": NODE.public_key, "target": target, "body": b"x", **more}
            return sign_request(key, slot=slot, method=method, **about)

        async def post(headers: dict[str, str], content: bytes = b"x") -> httpx.Response:
            return await served.client.post(target, headers=headers, content=content)

        good = signed(LISTED)
        assert (await post(good)).json() == {"hello": "a", "signer": base58(LISTED.public_key)}
        assert reason_of(await post(good)) == (409, "replayed")
        read = signed(LISTED, method="GET", body=b"")
        for _ in range(2):
            assert (await served.get(target, headers=read)).status_code == 200, "reading may be repeated"
        unsigned = await post({})
        assert (unsigned.status_code, unsigned.json()["reason"]) == (401, "not_signed")
        stamp_of(unsigned, "POST", target, b"x")
        other = await post(signed(STRANGER))
        assert (other.status_code, other.json()["reason"]) == (403, "not_listed")
        for wrong in (
            signed(LISTED, task=b"u" * 32),
            signed(LISTED, node=STRANGER.public_key),
            signed(LISTED, target=f"{BASE}/listed"),
            signed(LISTED, method="PUT"),
            signed(LISTED, body=b"y"),
            {**signed(LISTED), "koii-slot": "1235"},
            {**signed(LISTED), "koii-key": base58(STRANGER.public_key)},
            {**signed(LISTED), "koii-signature": "1" * 64},
            {"koii-signature": signed(LISTED)["koii-signature"]},
        ):
            assert reason_of(await post(wrong)) == (401, "bad_signature")
        for slot in (1234 - 151, 1234 + 151):
            assert reason_of(await post(signed(LISTED, slot))) == (401, "stale_signature")
        assert (await post(signed(LISTED, 1234 - 150))).status_code == 200


async def test_tasks_that_are_unknown_or_have_no_routes(tmp_path: Path) -> None:
    async with serving(tmp_path, "reasons.py") as served:
        assert reason_of(await served.get(f"{BASE}/hello")) == (404, "no_routes")
        other = base58(bytes(32))
        for path in (f"/task/{other}/x", "/task/%2e%2e/%2e%2e/etc/passwd", "/task/..%2f..%2fx", "/nodes/x"):
            assert reason_of(await served.get(path)) == (404, "unknown_task"), path
        assert reason_of(await served.client.post("/register-node/%2e%2e")) == (404, "unknown_task")
        assert reason_of(await served.client.post("/tasks")) == (405, "no_such_path")
        assert reason_of(await served.get("/status")) == (404, "no_such_path"), "the operator's is elsewhere"
        async with await trio.open_tcp_stream("127.0.0.1", int(served.url.rpartition(":")[2])) as raw:
            await raw.send_all(b"GET /task/../../etc/passwd HTTP/1.1\r\nhost: x\r\n\r\n")
            assert b" 404 " in await raw.receive_some(1000)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/raises", (502, "failed")),
        ("/nothing/", (502, "failed")),
        ("/huge?bytes=4194305", (502, "failed")),
        ("/endless", (502, "failed")),
        ("/many-headers", (502, "bad_answer")),
        ("/bad-header", (502, "bad_answer")),
        ("/dies", (502, "crashed")),
    ],
)
async def test_a_route_that_fails_is_its_tasks_event_alone(
    tmp_path: Path, path: str, expected: tuple[int, str]
) -> None:
    async with serving(tmp_path) as served:
        reply = await served.get(f"{BASE}{path}")
        assert reason_of(reply) == expected
        assert "secret of the author" not in reply.text
        assert (await served.get(f"{BASE}/hello")).json()["hello"] == "world", "the next is answered"
        largest = await served.get(f"{BASE}/huge?bytes=4194304")
        assert len(largest.content) == 4194304
        failures = served.runner.statistics().failures
        assert sum(failures.values()) == 1
        assert served.refused == {expected[1]: 1}


@pytest.mark.parametrize("path", ["/hangs", "/drips", "/hangs-in-a-thread", "/blocks"])
async def test_a_route_that_hangs_ends_in_time_and_is_in_no_rounds_way(tmp_path: Path, path: str) -> None:
    async with serving(tmp_path, task_route_seconds=0.5) as served:
        # The first question starts the routes' worker, which takes longer than this.
        with trio.fail_after(60):
            while (await served.get(f"{BASE}/hello")).status_code != 200:
                await trio.sleep(0.05)
        hung: list[tuple[int, str]] = []

        async def hang() -> None:
            hung.append(reason_of(await served.get(f"{BASE}{path}")))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(hang)
            await trio.sleep(0.1)
            assert await served.runner.audit("work", 1, b"a" * 32) == (Verdict.VALID, "")
        assert hung == [(504, "timed_out")]
        assert await served.runner.submission(1) == "work"
        with trio.fail_after(60):
            while (await served.get(f"{BASE}/hello")).status_code != 200:
                await trio.sleep(0.05)


async def test_a_flood_of_output_is_cut_and_nobody_waits_for_it(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        assert (await served.get(f"{BASE}/prints")).text == "printed"
        with trio.fail_after(30):
            while served.runner.statistics().dropped_output_bytes < 4_000_000:
                await trio.sleep(0.05)
        assert (await served.get(f"{BASE}/hello")).status_code == 200


async def test_whoever_goes_away_ends_what_was_asked(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        await served.get(f"{BASE}/hello")
        for _ in range(3):
            with trio.move_on_after(0.3):
                await served.get(f"{BASE}/hangs")
        with trio.fail_after(10):  # far sooner than the 20 s that a route has
            while served.runner.statistics().failures.get("RAISED", 0) < 3:
                await trio.sleep(0.02)
        assert (await served.get(f"{BASE}/hello")).status_code == 200
        assert served.runner.statistics().starts == 2, "no worker was ended for it"


async def test_what_is_given_up_before_it_began_ends_at_once(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        await served.get(f"{BASE}/hello")
        # One that hangs: a quick one may have answered when the word to give it up arrives, on a busy machine.
        asked = AskedRoute("GET", f"{BASE}/hangs".encode(), b"", [], b"", "")
        # Far sooner than the 20 s that a route has.
        with trio.fail_after(10), pytest.raises(CallFailed) as caught:
            await served.runner.route(asked, lambda cancel: cancel())
        assert caught.value.failure is Failure.RAISED
        assert served.runner.statistics().starts == 2, "no worker was ended for it"


async def test_a_task_takes_so_many_requests_at_once(tmp_path: Path) -> None:
    async with serving(tmp_path, task_routes_at_once=3, task_route_seconds=1.5) as served:
        with trio.fail_after(60):
            while (await served.get(f"{BASE}/hello")).status_code != 200:
                await trio.sleep(0.05)
        found: list[tuple[int, str]] = []

        async def ask() -> None:
            found.append(reason_of(await served.get(f"{BASE}/hangs")))

        async with trio.open_nursery() as nursery:
            for _ in range(8):
                nursery.start_soon(ask)
        assert sorted(found) == [(503, "busy")] * 5 + [(504, "timed_out")] * 3
        assert (await served.get(f"{BASE}/hello")).status_code == 200


async def test_requests_that_are_too_large_slow_or_many(tmp_path: Path) -> None:
    limits = {"task_request_seconds": 0.5, "task_http_idle_seconds": 1.0, "task_http_connections": 4}
    async with serving(tmp_path, **limits) as served:
        large = await served.client.put(f"{BASE}/kept/key", content=bytes(1024 * 1024 + 1))
        assert reason_of(large) == (413, "body_too_large")

        async def chunks() -> AsyncIterator[bytes]:
            for _ in range(40):
                yield bytes(64 * 1024)

        chunked = await served.client.put(f"{BASE}/kept/key", content=chunks())
        assert reason_of(chunked) == (413, "body_too_large"), "whatever length is declared"
        assert large.headers["connection"] == chunked.headers["connection"] == "close", (
            "what comes is not read"
        )
        read = await served.client.put(f"{BASE}/kept/key", content=b"value")
        nothing = await served.client.post("/no/such/path", content=b"")
        assert "connection" not in {*read.headers, *nothing.headers}
        few = await served.get("/", headers={f"x-{number}": "1" for number in range(70)})
        assert reason_of(few) == (431, "head_too_large")

        port = int(served.url.rpartition(":")[2])

        async def raw(*parts: bytes, pause: float = 0.0) -> bytes:
            """What the server says to these bytes until it hangs up."""
            said = b""
            async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
                try:
                    for part in parts:
                        await stream.send_all(part)
                        await trio.sleep(pause)
                    with trio.fail_after(30):
                        while data := await stream.receive_some(65536):
                            said += data
                except trio.BrokenResourceError:
                    pass
            return said

        many = b"".join(b"x-%d: 1\r\n" % number for number in range(10_000))
        assert b" 431 " in (await raw(b"GET / HTTP/1.1\r\nhost: x\r\n" + many + b"\r\n")).split(b"\r\n")[0]
        slow = await raw(b"PUT %s/kept/key HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n1" % BASE.encode())
        assert b" 408 " in slow.split(b"\r\n")[0]
        upgrade = b"connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n"
        key = b"sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        asked = b"GET %s/hello HTTP/1.1\r\nhost: x\r\n%s%s\r\n" % (BASE.encode(), upgrade, key)
        assert b" 403 " in (await raw(asked)).split(b"\r\n")[0], "there are no WebSockets"
        assert await raw(b"GET / HT") == b"", "a head that does not come"
        assert await raw(*[b"x"] * 30, pause=0.1) == b"", "or comes a letter at a time"
        await served.client.aclose()

        streams = [await trio.open_tcp_stream("127.0.0.1", port) for _ in range(6)]
        with trio.fail_after(30):
            while served.connections.statistics().refused < 2:
                await trio.sleep(0.01)
        assert served.connections.statistics().open <= 4
        for stream in streams:
            await stream.aclose()


async def test_a_connection_does_not_live_for_ever(tmp_path: Path) -> None:
    async with serving(tmp_path, task_http_connection_seconds=1.0) as served:
        await served.runner.submission(1)
        port = int(served.url.rpartition(":")[2])
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            # A reader that reads nothing: four megabytes do not fit into the socket's buffers.
            await stream.send_all(b"GET %s/huge?bytes=4194304 HTTP/1.1\r\nhost: x\r\n\r\n" % BASE.encode())
            with trio.fail_after(30):
                while served.connections.statistics().open:
                    await trio.sleep(0.05)
        assert served.connections.statistics().faults == 0


async def test_connections_of_one_network_are_counted_together() -> None:
    async def app(_scope: Any, _receive: Any, _send: Any) -> None:
        return

    connections = Connections(app, Config(), most=9, crowd=lambda host: (host[:3], 2))
    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        await nursery.start(connections.run, listeners)
        address = listeners[0].socket.getsockname()
        streams = [await trio.open_tcp_stream(*address) for _ in range(4)]
        with trio.fail_after(10):
            while connections.statistics().refused < 2:
                await trio.sleep(0.01)
        assert connections.statistics().open == 2
        for stream in streams:
            await stream.aclose()
        with trio.fail_after(10):
            while connections.statistics().open:
                await trio.sleep(0.01)
        async with await trio.open_tcp_stream(*address):
            with trio.fail_after(10):
                while not connections.statistics().open:
                    await trio.sleep(0.01)
        nursery.cancel_scope.cancel()


# --- counting


def test_private_addresses_are_not_counted_by_network() -> None:
    limits = Limits()
    assert network_of("8.8.8.8") == network_of("8.8.8.9") == "8.8.8.0/24"
    assert network_of("::ffff:8.8.8.8") == "8.8.8.0/24"
    assert network_of("2001:4860:4860::8888") == "2001:4860:4860::/56"
    assert network_of("127.0.0.1") == network_of("10.1.2.3") == network_of("nobody") == ""
    assert crowd_of("8.8.8.8", limits) == ("8.8.8.0/24", limits.task_http_connections_per_range)
    assert crowd_of("::1", limits) == ("", limits.task_http_connections)


def reason(answer: Any) -> str:
    return "" if answer is None else json.loads(answer.body)["reason"]


def test_a_network_is_answered_at_its_rate() -> None:
    gate = RequestGate(replace(Limits(), task_http_requests_per_second=2, task_http_ranges=2))

    def asked(network: str, now: float) -> str:
        found = reason(gate.enter(network, now))
        if not found:
            gate.leave(network)
        return found

    assert [asked("a", 10.0) for _ in range(6)] == [""] * 4 + ["too_many_requests"] * 2
    assert [asked("b", 10.0), asked("", 10.0)] == ["", ""], "others are not held up"
    assert [asked("a", 10.5), asked("a", 10.5)] == ["", "too_many_requests"]
    assert [asked("", 10.0) for _ in range(100)] == [""] * 100
    assert gate.refused == {"too_many_requests": 3}
    for name in ("c", "d", "e"):
        assert asked(name, 11.0) == ""
    assert len(gate._buckets) == 2


def test_so_many_requests_at_once() -> None:
    gate = RequestGate(replace(Limits(), task_http_requests=3, task_http_requests_per_range=2))
    assert [reason(gate.enter("a", 0.0)) for _ in range(3)] == ["", "", "too_many_requests"]
    assert [reason(gate.enter(one, 0.0)) for one in ("b", "c")] == ["", "busy"]
    gate.leave("a")
    assert reason(gate.enter("c", 0.0)) == ""


def test_a_signed_request_counts_once_while_its_slot_does() -> None:
    once = SignedOnce(replace(Limits(), signed_request_slots=10, signed_requests_kept=2))
    assert [once.note(b"a", 100, 100), once.note(b"a", 100, 105)] == ["", "replayed"]
    assert [once.note(b"b", 89, 100), once.note(b"b", 111, 100)] == ["stale_signature"] * 2
    assert [once.note(b"b", 101, 100), once.note(b"c", 101, 100)] == ["", "busy"]
    assert once.note(b"c", 111, 111) == "", "those of slot 100 are forgotten"
    assert once.note(b"", 111, 111) == "", "what changes nothing is not remembered"


# --- where it is


@pytest.mark.parametrize(
    ("host", "addresses", "expected"),
    [
        ("0.0.0.0", ("/ip4/203.0.113.7/tcp/4001/p2p/x",), ("/ip4/203.0.113.7/tcp/30017/http",)),
        ("0.0.0.0", ("/ip4/9.9.9.9/tcp/1", "/ip4/9.9.9.9/tcp/2"), ("/ip4/9.9.9.9/tcp/30017/http",)),
        ("0.0.0.0", ("/ip6/2001:db8::1/tcp/1",), ()),
        ("::", ("/ip6/2001:db8::1/tcp/1",), ("/ip6/2001:db8::1/tcp/30017/http",)),
        ("127.0.0.1", ("/ip4/127.0.0.1/tcp/1",), ("/ip4/127.0.0.1/tcp/30017/http",)),
        ("127.0.0.1", ("/ip4/127.0.0.1/tcp/1", "/ip4/9.9.9.9/tcp/1"), ()),
        ("127.0.0.1", (), ()),
        ("9.9.9.9", (), ("/ip4/9.9.9.9/tcp/30017/http",)),
    ],
)
def test_where_others_are_told_that_it_is(
    host: str, addresses: tuple[str, ...], expected: tuple[str, ...]
) -> None:
    assert announced(host, 30017, addresses) == expected


async def test_a_port_that_is_taken_is_named_with_who_has_it() -> None:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listener.socket.getsockname()[1]
    server = TaskServer(TaskHttpPlace(port=port), NODE, {}, lambda: (), lambda: 1, Limits())
    with pytest.raises(NetworkError) as caught:
        await server.run("program", bytes(32))
    assert f"127.0.0.1:{port}" in caught.value.what
    assert "(process " in caught.value.why
    assert "--task-port" in caught.value.remedy
    await listener.aclose()
    off = TaskServer(None, NODE, {}, lambda: (), lambda: 1, Limits())
    async with trio.open_nursery() as nursery:
        assert await nursery.start(off.run, "program", bytes(32)) == ""
    assert (off.on, off.url, off.announced(), off.statistics()) == (False, "", (), {})
