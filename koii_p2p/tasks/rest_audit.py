"""The audit of a node's REST in Koii's three steps: ask, have the reply's slot and signature checked, judge the body.

Koii docs: key concepts, "timestamps and slots in REST". For tasks whose work is to answer. It needs the network, which
a worker has only if the task's config-task.yml asks for it (ADDON REQUIRE_INTERNET) and the operator agreed
(`join --task-network`); without, and whenever a node cannot be got at, the verdict is UNAVAILABLE. INVALID is only said
of what a node has signed: a stamp of its own that contradicts itself, or a body that the task's rule refuses.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import os
import socket
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any, Final, TypeAlias
from urllib.parse import urlsplit

import base58
import httpx

from koii_p2p.limits import Limits
from koii_p2p.records.schema import Verdict
from koii_p2p.tasks.audits import AS_EXPECTED, Audited, AuditReason, invalid
from koii_p2p.tasks.routes import PREFIX
from koii_p2p.tasks.sdk import Context
from koii_p2p.tasks.stamps import SignedStamp, read_stamp, request_hash

_LIMITS: Final = Limits()

MOST_SLOTS: Final = _LIMITS.early_slots
"""How far from the slots before and after a question its reply's may be: as two honest nodes' views of K2 may be."""

SECONDS: Final = 5.0
NONCE: Final = "koii-nonce"
"""The query parameter that makes every question another one, so that no earlier reply fits it."""

_IP: TypeAlias = IPv4Address | IPv6Address


@dataclass(frozen=True, slots=True)
class RestAnswer:
    """A reply that the node signed, of this question and of now. `took` is how many slots it needed, as far as the two
    nodes' views of K2 agree.
    """

    status: int
    body: bytes
    slot: int
    round: int
    took: int
    url: str

    def json(self) -> Any:
        """The body as JSON; None if it is none."""
        try:
            return json.loads(self.body)
        except (ValueError, RecursionError):
            return None


class NotAnswered(Exception):
    """There is no reply that counts; `audited` is what an audit says of that, UNAVAILABLE but for a false stamp."""

    def __init__(self, audited: Audited) -> None:
        super().__init__(audited.line())
        self.audited = audited


Judged: TypeAlias = bool | Audited | None
Rule: TypeAlias = Callable[[RestAnswer], Judged | Awaitable[Judged]]


async def rest_audit(
    ctx: Context,
    submitter: str,
    path: str,
    rule: Rule,
    *,
    within: int | None = None,
    most_slots: int = MOST_SLOTS,
    seconds: float = SECONDS,
) -> Audited:
    """Ask the node of a key for `path` of this task, and judge what it signed by `rule`.

    VALID if the rule says True of a fresh, signed reply with status 200, INVALID if it says False, UNAVAILABLE if None;
    an `Audited` is returned as it is. A reply that took more than `within` slots is UNAVAILABLE, and so is everything
    that proves nothing: no address, no network, no reply, another's signature, another time.
    """
    try:
        answer = await ask(ctx, submitter, path, most_slots=most_slots, seconds=seconds)
    except NotAnswered as error:
        return error.audited
    if answer.status != 200:
        return _nothing(AuditReason.NOT_SERVED, f"{answer.url} answered with status {answer.status}")
    if within is not None and answer.took > within:
        return _nothing(AuditReason.TOO_SLOW, f"{answer.took} of {within} slots")
    made = rule(answer)
    found = await made if inspect.isawaitable(made) else made
    if isinstance(found, Audited):
        return found
    if found is None:
        return _nothing(AuditReason.NOT_SERVED, "the reply does not say what was asked for")
    return AS_EXPECTED if found else invalid(AuditReason.WRONG_ANSWER, f"{answer.body!r:.80}")


async def ask(
    ctx: Context,
    key: str,
    path: str,
    *,
    method: str = "GET",
    body: bytes = b"",
    headers: Mapping[str, str] | None = None,
    most_slots: int = MOST_SLOTS,
    most_bytes: int = _LIMITS.task_reply_bytes,
    seconds: float = SECONDS,
) -> RestAnswer:
    """Ask the node with this staking key for `/task/<id>` and `path` (which begins with a slash, and may have a query).

    The first of its addresses that answers counts. Raises `NotAnswered` unless the reply is signed by that node, about
    this very question, and of a slot that is at most `most_slots` before the question or after the reply.
    """
    if not _has_network():
        raise _no_network()
    urls = await _urls_of(ctx, key)
    state = await ctx.task_state()
    mark = "&" if "?" in path else "?"
    target = f"{PREFIX}{ctx.task_id}{path}{mark}{NONCE}={os.urandom(8).hex()}"
    asked_at = await ctx.get_slot()
    url, status, found, said = await _first_reply(
        urls, method, target, body, headers or {}, most_bytes, seconds
    )
    now = await ctx.get_slot()
    signed = read_stamp(status, said)
    if signed is None or not _is_of(
        signed, ctx.task_id, key, request_hash(method, target.encode(), body), found
    ):
        raise NotAnswered(_nothing(AuditReason.WRONG_STAMP, f"{url} answered with status {status}"))
    stamp = signed.stamp
    if stamp.round != max((stamp.slot - state.starting_slot) // state.round_time, 0):
        detail = f"slot {stamp.slot} is not in round {stamp.round}"
        raise NotAnswered(invalid(AuditReason.WRONG_STAMP, detail))
    if not asked_at - most_slots <= stamp.slot <= now + most_slots:
        detail = f"slot {stamp.slot}, asked in {asked_at}, answered in {now}"
        raise NotAnswered(_nothing(AuditReason.NOT_FRESH, detail))
    return RestAnswer(status, found, stamp.slot, stamp.round, max(stamp.slot - asked_at, 0), url)


def _nothing(reason: AuditReason, detail: str) -> Audited:
    """UNAVAILABLE, for a reason."""
    return Audited(Verdict.UNAVAILABLE, reason, detail)


def _is_of(signed: SignedStamp, task: str, key: str, hashed: bytes, body: bytes) -> bool:
    """Whether a stamp is of this task's reply with this body to this question, and that key's."""
    stamp = signed.stamp
    return (
        stamp.task == base58.b58decode(task)
        and base58.b58encode(signed.key).decode("ascii") == key
        and stamp.request_hash == hashed
        and stamp.body_hash == sha256(body).digest()
        and signed.is_good()
    )


async def _urls_of(ctx: Context, key: str) -> list[str]:
    """Where a node says that its REST is, as far as this node may ask there. Raises `NotAnswered`."""
    seen = {one.public_key: one for one in await ctx.nodes()}
    said = seen[key].urls if key in seen else ()
    own = [ip for one in (seen.get(ctx.submitter),) if one for text in one.addresses if (ip := _host(text))]
    urls = [url for url in said if _may_ask(ip_address(urlsplit(url).hostname or ""), own)]
    if urls:
        return urls
    why = f"only at {', '.join(said)}, which is not to be asked from here" if said else "no address"
    raise NotAnswered(_nothing(AuditReason.NO_ADDRESS, f"{key}: {why}"))


def _may_ask(host: _IP, own: list[_IP]) -> bool:
    """Whether a stranger's word is enough to ask at an address: elsewhere than in the Internet only where this node is
    itself, so that nobody has an auditor knock at the doors of its own network.
    """
    if host.is_global:
        return True
    bits = 16 if host.version == 4 else 48
    near = [one for one in own if one.version == host.version and not one.is_global]
    return any(
        int(one) >> (host.max_prefixlen - bits) == int(host) >> (host.max_prefixlen - bits) for one in near
    )


def _host(multiaddr: str) -> _IP | None:
    parts = multiaddr.split("/")
    try:
        return ip_address(parts[2]) if len(parts) > 2 and "p2p-circuit" not in parts else None
    except ValueError:
        return None


def _has_network() -> bool:
    try:
        socket.socket(socket.AF_INET, socket.SOCK_STREAM).close()
    except PermissionError:
        return False
    return True


def _no_network() -> NotAnswered:
    how = "ask for it in config-task.yml (ADDON REQUIRE_INTERNET), and join with --task-network"
    return NotAnswered(_nothing(AuditReason.NO_NETWORK, how))


async def _first_reply(
    urls: list[str],
    method: str,
    target: str,
    body: bytes,
    headers: Mapping[str, str],
    most: int,
    seconds: float,
) -> tuple[str, int, bytes, dict[str, str]]:
    """URL, status, body and headers of the first address that answers. Raises `NotAnswered`."""
    why = ""
    # No certificates to check in plain HTTP: to read those of the Internet takes 50 ms, for every question of an audit.
    asking = httpx.AsyncClient(verify=False, trust_env=False, follow_redirects=False, timeout=seconds)
    async with asking as client:
        for url in urls:
            try:
                async with (
                    asyncio.timeout(seconds),
                    client.stream(method, url + target, content=body, headers=dict(headers)) as reply,
                ):
                    found = bytearray()
                    async for part in reply.aiter_raw():
                        found += part
                        if len(found) > most:
                            raise NotAnswered(
                                _nothing(AuditReason.NOT_SERVED, f"{url} sent more than {most} bytes")
                            )
                    return url, reply.status_code, bytes(found), dict(reply.headers)
            except (httpx.HTTPError, TimeoutError, OSError) as error:
                why = f"{url}: {type(error).__name__} {error}".strip()
    raise NotAnswered(_nothing(AuditReason.NOT_SERVED, why))
