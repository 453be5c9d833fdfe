"""The REST of a task in a rehearsal: each copy's routes behind a public server of its own, on loopback, as nodes have.

What is asked and answered is real HTTP; slots are those of the rehearsal, which stand still while anybody waits.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from hashlib import sha256
from typing import Final

import httpx
import trio

from koii_p2p.limits import Limits
from koii_p2p.node.task_http import ServedTask, TaskHttp
from koii_p2p.node.task_server import TaskHttpPlace, announced, serve_tasks
from koii_p2p.node.views import base58
from koii_p2p.records.keys import SecretKey
from koii_p2p.records.schema import Presence, Statement
from koii_p2p.rounds.terms import TaskTerms
from koii_p2p.tasks.routes import PREFIX
from koii_p2p.tasks.runner import TaskRunner
from koii_p2p.tasks.stamps import read_stamp, request_hash

_HERE: Final = "127.0.0.1"
_SHOWN: Final = 60


class RehearsalHttp:
    """The servers of copies, by their keys."""

    def __init__(self, terms: TaskTerms, slot: Callable[[], int], limits: Limits) -> None:
        self._terms = terms
        self._slot = slot
        self._limits = limits
        self._ports: dict[bytes, int] = {}

    async def serve(
        self,
        secret: SecretKey,
        runner: TaskRunner,
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Serve one copy's routes until cancelled."""
        terms = self._terms
        task = ServedTask(terms.task, terms.name, runner, terms.clock.period, list, lambda record: False)
        http = TaskHttp(secret, lambda: {base58(terms.task): task}, self._slot, {}, self._limits)
        async with trio.open_nursery() as nursery:
            port, _ = await nursery.start(partial(serve_tasks, http, TaskHttpPlace(_HERE, 0), self._limits))
            self._ports[secret.public_key] = port
            task_status.started()

    def presence(self, key: bytes) -> Statement | None:
        """What a copy says of where it is; None if it is not served."""
        if key not in self._ports:
            return None
        slot = self._slot()
        here = announced(_HERE, self._ports[key], ("/ip4/127.0.0.1/tcp/1",))
        body = Presence(here, roles=0, software="koii_p2p", free_bytes=0)
        return Statement(self._terms.task, max(self._terms.clock.period(slot), 0), slot, slot, body)

    async def get(self, key: bytes, path: str) -> tuple[str, str]:
        """Ask a copy for a path of its routes: what it answered, for people, and what is wrong with it, if anything is.

        A status below 500 with the copy's stamp is an answer, whatever it says.
        """
        target = f"{PREFIX}{base58(self._terms.task)}{path}"
        url = f"http://{_HERE}:{self._ports[key]}{target}"
        async with httpx.AsyncClient(trust_env=False, timeout=2 * self._limits.task_route_seconds) as client:
            reply = await client.get(url)
        text = reply.text if len(reply.text) <= _SHOWN else f"{reply.text[: _SHOWN - 1]}…"
        shown = f"{reply.status_code} {text!r}"
        signed = read_stamp(reply.status_code, reply.headers)
        if signed is None:
            return shown, f"GET {path} is not answered by the task: {reply.status_code} {_reason(reply)}"
        stamp, asked = signed.stamp, request_hash("GET", target.encode(), b"")
        good = stamp.request_hash == asked and stamp.body_hash == sha256(reply.content).digest()
        if not (good and signed.is_good() and signed.key == key):
            return shown, f"GET {path} has a stamp that does not hold"
        return shown, f"GET {path} fails with {reply.status_code}" if reply.status_code >= 500 else ""


def _reason(reply: httpx.Response) -> str:
    try:
        return str(reply.json()["error"])
    except (ValueError, KeyError, TypeError):
        return "without a reason"
