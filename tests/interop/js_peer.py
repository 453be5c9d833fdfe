"""A js-libp2p peer in a process of its own, driven by JSON lines."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio

from tests.interop.npm import packages

HERE = Path(__file__).parent / "libp2p"
ANSWER_SECONDS = 60


def js_libp2p_folder(*scripts: Path) -> Path:
    """A folder with our scripts and these beside the pinned packages, as ES modules want it.

    Raises `NotInstalled`.
    """
    folder = packages(HERE).parent
    for path in (*HERE.glob("*.mjs"), *scripts):
        shutil.copy(path, folder)
    return folder


class Peer:
    """A running js-libp2p peer."""

    def __init__(self, process: trio.Process) -> None:
        self._process = process
        self._rest = b""

    async def answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        with trio.fail_after(ANSWER_SECONDS):
            while b"\n" not in self._rest:
                more = await self._process.stdout.receive_some()
                assert more, "the js peer has ended"
                self._rest += more
        line, _, self._rest = self._rest.partition(b"\n")
        result: dict[str, Any] = json.loads(line)
        return result

    async def do(self, op: str, **arguments: object) -> dict[str, Any]:
        assert self._process.stdin is not None
        await self._process.stdin.send_all(json.dumps({"op": op, **arguments}).encode() + b"\n")
        result = await self.answer()
        assert result["ok"], result
        return result


@asynccontextmanager
async def js_peer(folder: Path, script: str, *arguments: str) -> AsyncIterator[tuple[Peer, str, str]]:
    """Run a peer; yield it with its id and its address."""
    async with trio.open_nursery() as nursery:
        process = await nursery.start(
            lambda task_status: trio.run_process(
                ["node", "--import", "./polyfill.mjs", script, *arguments],
                cwd=folder,
                env={**os.environ, "NODE_OPTIONS": ""},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                check=False,
                task_status=task_status,
            )
        )
        peer = Peer(process)
        said = await peer.answer()
        yield peer, said["id"], said["address"]
        nursery.cancel_scope.cancel()
