"""A storage and caching service: nodes keep documents under their hashes and hand them out over HTTP.

What is paid for is that they do: auditors ask each node for documents that it cannot foresee, hold the slot and the
signature of its reply against K2 and its key (`koii_p2p.tasks.rest_audit`), and the content against its hash.
"""

from __future__ import annotations

import asyncio
import re
from collections import OrderedDict
from hashlib import sha256

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from koii_p2p.tasks import audits
from koii_p2p.tasks.rest_audit import RestAnswer, rest_audit
from koii_p2p.tasks.sdk import Audited, Context, Task

DOCUMENT_BYTES = 4096
KEPT_ROUNDS = 8
LOOKED_AT = 2
"""Documents that each auditor asks each node for."""

WITHIN = 50
"""Slots that a reply may take."""

LARGEST_ITEM = 256 * 1024
MOST_ITEMS = 200
"""That anybody may have kept here; the one that was asked for longest ago makes room."""

CACHED = 32
NAME = re.compile(r"[0-9a-f]{64}")


def document(round: int) -> bytes:
    """The document that the service takes in for `round`. Everybody can make it: an example has no customers."""
    part = sha256(f"storage service, round {round}".encode()).digest()
    parts = []
    while len(parts) * len(part) < DOCUMENT_BYTES:
        parts.append(part)
        part = sha256(part).digest()
    return b"".join(parts)


def name_of(data: bytes) -> str:
    return sha256(data).hexdigest()


def names_of(round: int) -> list[str]:
    """The documents that a node has to have when it submits for `round`."""
    return [name_of(document(number)) for number in range(max(round - KEPT_ROUNDS + 1, 0), round + 1)]


def root_of(round: int) -> str:
    return audits.merkle_root([name.encode() for name in names_of(round)]).hex()


class StorageService(Task):
    def __init__(self) -> None:
        self.cache: OrderedDict[str, bytes] = OrderedDict()
        self.writing = asyncio.Lock()  # requests are worked on together

    async def task(self, ctx: Context, round: int) -> None:
        for number in range(max(round - KEPT_ROUNDS + 1, 0), round + 1):
            data = document(number)
            if await ctx.store.get(f"document {name_of(data)}") is None:
                await ctx.store.set(f"document {name_of(data)}", data)
        if round >= KEPT_ROUNDS:
            await ctx.store.delete(f"document {name_of(document(round - KEPT_ROUNDS))}")

    async def submission(self, ctx: Context, round: int) -> str:
        return root_of(round)

    async def audit(self, ctx: Context, submission: str | bytes, round: int, submitter: str) -> Audited:
        found = audits.recompute(submission, lambda: root_of(round))
        if not found:
            return found
        names = names_of(round)
        seed = await ctx.seed(round, submitter)  # nobody else can know which ones this auditor asks for
        for index in audits.sample_indices(len(names), LOOKED_AT, seed=seed):
            name = names[index]

            def is_right(answer: RestAnswer, name: str = name) -> bool:
                return name_of(answer.body) == name

            found = await rest_audit(ctx, submitter, f"/items/{name}", is_right, within=WITHIN)
            if not found:
                return found
        return found

    # --- REST

    async def read(self, ctx: Context, name: str) -> tuple[bytes | None, str]:
        """What is kept under a name, and whether it was at hand."""
        if name in self.cache:
            self.cache.move_to_end(name)
            return self.cache[name], "hit"
        for kind in ("document", "item"):
            data = await ctx.store.get(f"{kind} {name}")
            if isinstance(data, bytes):
                self.cache[name] = data
                if len(self.cache) > CACHED:
                    self.cache.popitem(last=False)
                return data, "miss"
        return None, "miss"

    async def keep(self, ctx: Context, name: str, data: bytes) -> None:
        """Keep what somebody brought, in the place of the oldest if there are too many."""
        names = [one for one in await ctx.store.get("names") or [] if one != name]
        while len(names) >= MOST_ITEMS:
            oldest = names.pop(0)
            self.cache.pop(oldest, None)
            await ctx.store.delete(f"item {oldest}")
        await ctx.store.set(f"item {name}", data)
        await ctx.store.set("names", [*names, name])

    def routes(self, ctx: Context) -> list[Route]:
        async def health(_request: Request) -> Response:
            said = {"status": "OK", "slot": await ctx.get_slot(), "round": await ctx.get_round()}
            return JSONResponse({**said, "items": len(await ctx.store.get("names") or [])})

        async def get(request: Request) -> Response:
            data, cache = await self.read(ctx, request.path_params["name"])
            if data is None:
                raise HTTPException(404, "Nothing is kept under this name.")
            return Response(data, media_type="application/octet-stream", headers={"x-cache": cache})

        async def put(request: Request) -> Response:
            name, data = request.path_params["name"], await request.body()
            if not NAME.fullmatch(name) or name_of(data) != name:
                raise HTTPException(422, "The name of an item is the SHA-256 of its content, in hex.")
            if len(data) > LARGEST_ITEM:
                raise HTTPException(413, f"An item has at most {LARGEST_ITEM} bytes.")
            async with self.writing:
                await self.keep(ctx, name, data)
            return JSONResponse({"name": name, "bytes": len(data)}, status_code=201)

        return [
            Route("/health", health),
            Route("/items/{name}", get),
            Route("/items/{name}", put, methods=["PUT"]),
        ]
