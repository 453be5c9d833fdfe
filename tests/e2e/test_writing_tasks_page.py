"""Every command that docs/writing-tasks.md shows is run here: from a new task to three settled rounds."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from koii_p2p.limits import Limits
from koii_p2p.node.views import base58
from koii_p2p.records.keys import SecretKey
from koii_p2p.tasks import audits, rest_audit, stamps
from koii_p2p.tasks.new_task import TEMPLATES
from koii_p2p.tasks.stamps import sign_request
from tests.e2e.shell import LONG, koii_p2p
from tests.e2e.test_documents import ROOT, shown_commands
from tests.node.test_task_http import BASE, NODE, serving, stamp_of
from tests.tasks.conftest import TASK_ID

PAGE = ROOT / "docs" / "writing-tasks.md"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_from_a_new_task_to_three_settled_rounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    left = shown_commands([PAGE])
    net = tmp_path / "net"
    place = {"KOII_P2P_HOME": str(tmp_path / "home"), "KOII_P2P_TESTNET_DIR": str(net)}

    def run(command: str, *more: str, seconds: float = 60, **names: str) -> str:
        left.remove(command)
        arguments = [names.get(word, word) for word in shlex.split(command)[1:]]
        result = koii_p2p(*arguments, *more, seconds=seconds, **place)
        assert result.returncode == 0, (command, result.stderr, result.stdout[-2000:])
        return result.stdout

    assert "counting" in run("koii-p2p task new counting")
    assert "500 slots" in run("koii-p2p task check counting")
    assert "nothing found" in run("koii-p2p task test counting", seconds=120)
    asking = run(
        "koii-p2p task test examples/storage_service --task-network --get /health",
        seconds=120,
        **{"examples/storage_service": str(ROOT / "examples" / "storage_service")},
    )
    assert "GET /health" in asking
    assert "nothing found" in asking
    assert "classic" in run("koii-p2p task new ported --template classic")
    found = json.loads(
        run("koii-p2p testnet up --task counting", "--output", "json", seconds=LONG),
    )
    assert (found["settled"], found["verified"], found["ok"]) == (3, True, True)
    cheater = found["nodes"][4]
    assert (cheater["behaviour"], cheater["taken"]) == ("wrong-value", 1_330_000_000)
    logged = run("koii-p2p task logs --home FOLDER", FOLDER=str(net / "node-00"))
    assert "task_output" in logged
    assert "done" in logged
    assert left == []


def test_the_page_tells_the_limits_that_there_are() -> None:
    text, limits = PAGE.read_text(), Limits()
    mebibyte = 1024 * 1024
    assert (
        f"{limits.worker_memory_bytes // mebibyte} MiB; {limits.worker_cpu_seconds // 3600} hours of CPU"
        in text
    )
    assert f"{limits.worker_file_bytes // mebibyte} MiB; {limits.worker_open_files} |" in text
    assert (
        f"{limits.worker_output_bytes // 1024} KiB in {limits.worker_output_window_seconds:g} seconds" in text
    )
    assert f"{limits.worker_folder_bytes // mebibyte} MiB and 10 000 files" in text
    assert limits.worker_folder_files == 10_000
    assert (
        f"{limits.task_value_bytes // mebibyte} MiB each, {limits.task_store_bytes // mebibyte} MiB" in text
    )
    assert (limits.worker_task_seconds, limits.worker_call_seconds) == (600, 30)


@pytest.mark.timeout(120)
async def test_the_task_that_the_page_shows_answers_over_http(tmp_path: Path) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    (code,) = [block for block in blocks if "def routes" in block]
    (tmp_path / "task.py").write_text(code)
    (friend,) = re.findall(r'FRIENDS = \["(\w+)"\]', code)
    key = SecretKey.from_seed(bytes(32))
    assert friend == base58(key.public_key), "the key of the seed that is all zeros"
    async with serving(tmp_path, str(tmp_path)) as served:
        health = await served.get(f"{BASE}/health")
        assert health.json() == {"status": "OK", "slot": 1234}
        stamp_of(health, "GET", f"{BASE}/health")
        assert (await served.client.put(f"{BASE}/greeting", json={"greeting": "hi"})).status_code == 401
        body = json.dumps({"greeting": "hi"}).encode()
        about = {"task": TASK_ID, "node": NODE.public_key, "slot": 1234}
        headers = sign_request(key, method="PUT", target=f"{BASE}/greeting", body=body, **about)
        put = await served.client.put(f"{BASE}/greeting", content=body, headers=headers)
        assert (put.status_code, put.json()) == (201, {"kept for": friend})


def test_the_page_tells_the_bounds_and_bytes_of_http() -> None:
    text, limits = " ".join(PAGE.read_text().split()), Limits()
    kibibyte, mebibyte = 1024, 1024 * 1024
    head = f"at most {limits.task_http_headers} headers of {limits.task_http_head_bytes // kibibyte} KiB"
    assert f"{head} and {limits.task_request_bytes // mebibyte} MiB of body" in text
    answer = f"an answer {limits.task_reply_bytes // mebibyte} MiB, {limits.task_reply_headers} headers"
    assert f"{answer}, and {limits.task_route_seconds:g} seconds" in text
    assert f"A task works on {limits.task_routes_at_once} requests at once" in text
    assert f"at most {limits.signed_request_slots} away" in text
    assert f"at most {rest_audit.MOST_SLOTS} slots before" in text
    stamp = stamps.Stamp(bytes(32), 0, 0, 200, bytes(32), bytes(32))
    assert f"these {len(stamp.message())} bytes" in text
    assert f"| {len(stamps.REPLY_CONTEXT)} | `{stamps.REPLY_CONTEXT.decode()}`" in text
    assert f"{len(stamps.REQUEST_CONTEXT)} bytes `{stamps.REQUEST_CONTEXT.decode()}`" in text
    for header in stamps.STAMP_HEADERS:
        assert f"`{header}`" in text
    operating = (ROOT / "docs" / "operating.md").read_text()
    range_limits = (
        f"{limits.task_http_connections} connections",
        f"{limits.task_http_connections_per_range} connections, {limits.task_http_requests_per_range} requests at "
        f"once and {limits.task_http_requests_per_second} a second",
    )
    assert all(one in " ".join(operating.split()) for one in range_limits)


def test_the_page_shows_the_class_of_the_template_and_audits_that_are_there() -> None:
    text = PAGE.read_text()
    template = (TEMPLATES / "hello-world" / "task.py.template").read_text()
    for line in ('await ctx.store.set(f"result {round}", work_of(round))', "audits.recompute(submission, "):
        assert line in text
        assert line in template
    named = set(re.findall(r"`audits\.(\w+)`", text))
    assert named
    assert all(hasattr(audits, name) for name in named)
