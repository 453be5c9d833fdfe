"""docs/writing-tasks.md is enough to write a client of a task's REST by: one in JavaScript checks stamps and signs."""

from __future__ import annotations

import json
import shutil
import subprocess
from functools import partial
from pathlib import Path

import pytest
import trio

from koii_p2p.node.views import base58
from koii_p2p.records.keys import SecretKey
from tests.node.test_task_http import BASE, NODE, TASK, serving

SCRIPT = Path(__file__).parent / "rest.cjs"
TASK_CODE = """
from starlette.responses import JSONResponse
from starlette.routing import Route

from koii_p2p.tasks.routes import signer_of
from koii_p2p.tasks.sdk import Context, Task


class Signed(Task):
    def routes(self, ctx: Context):
        async def who(request):
            return JSONResponse({"signer": signer_of(request), "said": (await request.body()).decode()})

        return [Route("/who", who, methods=["GET", "PUT"])]
"""


@pytest.mark.timeout(60)
async def test_a_client_in_javascript_checks_stamps_and_signs_requests(tmp_path: Path) -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed")
    (tmp_path / "task.py").write_text(TASK_CODE)
    key = SecretKey.from_seed(b"j" * 32)
    async with serving(tmp_path, str(tmp_path)) as served:
        target = f"{BASE}/who?a=%C3%A4"
        command = [node, str(SCRIPT), served.url, TASK, key.seed.hex(), target, target, "grüezi"]
        run = partial(subprocess.run, command, capture_output=True, text=True, timeout=30, check=False)
        done = await trio.to_thread.run_sync(run)
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)
        assert (found["got"]["good"], found["put"]["good"]) == (True, True)
        assert (found["got"]["key"], found["got"]["slot"]) == (base58(NODE.public_key), 1234)
        assert (found["got"]["round"], found["got"]["bytes"]) == (12, 135)
        assert json.loads(found["put"]["body"]) == {"signer": found["key"], "said": "grüezi"}
        assert found["key"] == base58(key.public_key)
