"""Koii's Linktree: pages of links in a database that all nodes share, written over HTTP by whoever is on the list.

Koii docs: develop/linktree. A page is signed by its owner and keeps that signature wherever it is copied to, so that
every node can check what another took in. Nodes need not fetch from each other: `ctx.db` is one database, in shards.
Each round a node submits the Merkle root of the pages that it took in itself; auditors look at some of them.
"""

from __future__ import annotations

import asyncio
import re
from dataclasses import asdict
from hashlib import sha256
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from koii_p2p.tasks import audits
from koii_p2p.tasks.audits import AuditReason
from koii_p2p.tasks.routes import only_for, signer_of
from koii_p2p.tasks.sdk import Audited, Collection, Context, Task

Page = dict[str, Any]
"""A document: `_id` (node/owner), `publicKey`, `username`, and `signed`: what the owner signed, with the signature."""

LARGEST = 8 * 1024
"""Bytes of a signed page."""

LATE = 150
"""Slots that the owner's slot may be away from ours."""

MOST_PAGES = 500
"""That one node takes in: what it submits has to name them all."""

LOOKED_AT = 5
USERNAME = re.compile(r"[a-z0-9_-]{1,32}")
FORM = re.compile(r"(?P<count>0|[1-9][0-9]{0,3}) (?P<root>[0-9a-f]{64})")
SHOWN = 100


def pages(ctx: Context) -> Collection:
    return ctx.db.collection("pages", indexes=["publicKey", "username"], own_keys=True)


def snapshots(ctx: Context) -> Collection:
    """What each node had taken in when it submitted: `_id` is node/round."""
    return ctx.db.collection("snapshots", own_keys=True)


def list_entries(ctx: Context) -> Collection:
    """The authentication list: `_id` is node/key, `by` who put the key on it, `signed` that they did."""
    return ctx.db.collection("authlist", own_keys=True)


def leaf_of(page: Page) -> str:
    return f"{page['_id']} {sha256(page['signed'].encode()).hexdigest()}"


async def page_in(ctx: Context, signed: object, owner: object) -> dict[str, Any] | None:
    """What an owner signed, if that is a page: `{"linktree": [...], "slot": ..., "username": ...}`."""
    if not isinstance(signed, str) or len(signed) > LARGEST:
        return None
    match (await ctx.verify(signed, owner)).payload:
        case {"linktree": [*links], "slot": int(slot), "username": str(name), **rest} if not rest:
            good = all(
                isinstance(one, dict)
                and set(one) == {"label", "redirectUrl"}
                and all(isinstance(text, str) for text in one.values())
                for one in links
            )
            if good and slot >= 0 and USERNAME.fullmatch(name):
                return {"linktree": links, "slot": slot, "username": name}
    return None


async def listed(ctx: Context) -> set[str]:
    """Who may write: the task's creator, whoever has a stake in it, and whom one of those, or one listed, put there."""
    state = await ctx.task_state()
    found = {state.task_manager, *state.stake_list}
    left = [entry for entry in await list_entries(ctx).find() if await _is_signed(ctx, entry)]
    while more := [entry for entry in left if entry["by"] in found and entry["key"] not in found]:
        found |= {entry["key"] for entry in more}
    return found


async def _is_signed(ctx: Context, entry: dict[str, Any]) -> bool:
    by, key = entry.get("by"), entry.get("key")
    found = await ctx.verify(entry.get("signed"), by)
    return isinstance(key, str) and found.payload == {"list": key}


class Linktree(Task):
    def __init__(self) -> None:
        self.writing = asyncio.Lock()  # requests are worked on together

    async def task(self, ctx: Context, round: int) -> None:
        """Write down what was taken in so far, once: a second snapshot would contradict what was submitted."""
        if await ctx.store.get(f"submission {round}") is not None:
            return
        await self.publish_own(ctx)
        # What this node took in it knows itself: to ask the database for all of it would need every other node.
        taken = {**(await ctx.store.get("own")), **(await ctx.store.get("taken") or {})}
        leaves = [taken[key] for key in sorted(taken)]
        await snapshots(ctx).put({"_id": f"{ctx.submitter}/{round:09d}", "leaves": leaves})
        root = audits.merkle_root([leaf.encode() for leaf in leaves]).hex()
        await ctx.store.set(f"submission {round}", f"{len(leaves)} {root}")
        await ctx.store.delete(f"submission {round - 8}")

    async def publish_own(self, ctx: Context) -> None:
        """The operator's own page, so that there is something to see on a new network."""
        key = f"{ctx.submitter}/{ctx.submitter}"
        if await ctx.store.get("own") is None:
            links = [{"label": "The task", "redirectUrl": f"koii://{ctx.task_id}"}]
            name = f"node-{ctx.submitter[:8].lower()}"
            said = {"linktree": links, "slot": await ctx.get_slot(), "username": name}
            signed = await ctx.sign(said)
            page = {"_id": key, "publicKey": ctx.submitter, "username": name, "signed": signed}
            await pages(ctx).put(page)
            await ctx.store.set("own", {key: leaf_of(page)})

    async def submission(self, ctx: Context, round: int) -> str | None:
        found: str | None = await ctx.store.get(f"submission {round}")
        return found

    async def audit(
        self, ctx: Context, submission: str | bytes, round: int, submitter: str
    ) -> Audited | None:
        form = FORM.fullmatch(submission) if isinstance(submission, str) else None
        if form is None or int(form["count"]) > MOST_PAGES:
            return audits.invalid(AuditReason.MALFORMED, f"{submission!r:.80}")
        snapshot = await snapshots(ctx).get(f"{submitter}/{round:09d}")
        if snapshot is None:
            return None
        leaves = snapshot.get("leaves")
        if not isinstance(leaves, list) or not all(isinstance(leaf, str) for leaf in leaves):
            return audits.invalid(AuditReason.MALFORMED, "the snapshot")
        root = audits.merkle_root([leaf.encode() for leaf in leaves]).hex()
        if (str(len(leaves)), root) != (form["count"], form["root"]):
            return audits.invalid(AuditReason.WRONG_PROOF, "the snapshot is not what was submitted")
        seed = await ctx.seed(round, submitter)  # nobody else can know which ones this auditor looks at
        for index in audits.sample_indices(len(leaves), LOOKED_AT, seed=seed):
            found = await self.judged(ctx, leaves[index], submitter)
            if not found:
                return found
        return audits.AS_EXPECTED

    async def judged(self, ctx: Context, leaf: str, submitter: str) -> Audited:
        """Whether a page is its owner's word. One that is newer than the snapshot is judged as it is now."""
        key = leaf.partition(" ")[0]
        page = await pages(ctx).get(key) if key.startswith(f"{submitter}/") else {}
        if page is None:
            return audits.unavailable(f"the page {key} is not there")
        said = await page_in(ctx, page.get("signed"), page.get("publicKey"))
        if (
            said is None
            or key != f"{submitter}/{page['publicKey']}"
            or page.get("username") != said["username"]
        ):
            return audits.invalid(AuditReason.WRONG_ITEM, f"the page {key} is not its owner's")
        return audits.AS_EXPECTED

    # --- REST

    async def take_in(self, ctx: Context, request: Request) -> Response:
        """Keep a page that its owner brings, in place of the owner's earlier one."""
        asked = await _json(request)
        owner = signer_of(request)
        said = await page_in(ctx, asked.get("signed"), owner)
        if owner is None or said is None:
            raise HTTPException(422, "Send {signed: ...}: a page, signed by the key that signs the request.")
        if abs(said["slot"] - await ctx.get_slot()) > LATE:
            raise HTTPException(422, "The page was signed for another slot than this.")
        earlier = await pages(ctx).find_one({"username": said["username"], "publicKey": {"$ne": owner}})
        if earlier is not None:
            raise HTTPException(409, "Somebody else has this username.")
        own = await pages(ctx).find({"publicKey": owner})
        for page in own:
            held = await page_in(ctx, page.get("signed"), owner)
            if held is not None and held["slot"] >= said["slot"]:
                raise HTTPException(409, "There is a page of this key that is as new.")
        page = {"publicKey": owner, "username": said["username"], "signed": asked["signed"]}
        page["_id"] = f"{ctx.submitter}/{owner}"
        async with self.writing:
            taken = await ctx.store.get("taken") or {}
            if page["_id"] not in taken and len(taken) >= MOST_PAGES - 1:
                raise HTTPException(507, "This node takes in no more pages; ask another.")
            await pages(ctx).put(page)
            await ctx.store.set("taken", {**taken, page["_id"]: leaf_of(page)})
        return JSONResponse({"message": "kept", "at": ctx.submitter}, status_code=201)

    async def remove(self, ctx: Context, request: Request) -> Response:
        owner = request.path_params["publicKey"]
        if signer_of(request) != owner:
            raise HTTPException(403, "Only its owner removes a page.")
        key = f"{ctx.submitter}/{owner}"
        async with self.writing:
            taken = await ctx.store.get("taken") or {}
            if taken.pop(key, None) is None:
                raise HTTPException(404, "This node has no page of this key; ask the one that took it in.")
            await pages(ctx).remove({"_id": key})
            await ctx.store.set("taken", taken)
        return JSONResponse({"message": "removed"})

    async def add_to_list(self, ctx: Context, request: Request) -> Response:
        asked, by = await _json(request), signer_of(request)
        key = asked.get("key")
        entry = {"_id": f"{ctx.submitter}/{key}", "key": key, "by": by, "signed": asked.get("signed")}
        if not isinstance(key, str) or not 32 <= len(key) <= 44 or not await _is_signed(ctx, entry):
            raise HTTPException(
                422, "Send {key: ..., signed: ...}: {list: key}, signed by who signs the request."
            )
        await list_entries(ctx).put(entry)
        return JSONResponse({"message": "listed"}, status_code=201)

    def routes(self, ctx: Context) -> list[Route]:
        async def writers() -> set[str]:
            return await listed(ctx)

        async def shown(page: Page) -> dict[str, Any]:
            said = await page_in(ctx, page.get("signed"), page.get("publicKey")) or {}
            return {
                "publicKey": page["publicKey"],
                "data": said,
                "signed": page["signed"],
                "at": _node_of(page),
            }

        async def newest(found: list[Page]) -> Response:
            """The newest of a key's or name's pages whose signatures hold."""
            seen = [one for page in found if (one := await shown(page))["data"]]
            if not seen:
                raise HTTPException(404, "There is no such page.")
            return JSONResponse(max(seen, key=lambda one: one["data"]["slot"]))

        async def root(_request: Request) -> Response:
            return JSONResponse({"status": 200, "message": "Running"})

        async def state(_request: Request) -> Response:
            return JSONResponse({"taskState": asdict(await ctx.task_state())})

        async def all_pages(request: Request) -> Response:
            skip = request.query_params.get("skip", "0")
            if not skip.isdecimal() or len(skip) > 6:
                raise HTTPException(422, "skip is a number.")
            found = await pages(ctx).find(sort={"_id": 1}, skip=int(skip), limit=SHOWN)
            return JSONResponse([await shown(page) for page in found])

        async def of_key(request: Request) -> Response:
            return await newest(await pages(ctx).find({"publicKey": request.path_params["publicKey"]}))

        async def of_name(request: Request) -> Response:
            return await newest(await pages(ctx).find({"username": request.path_params["username"]}))

        async def put(request: Request) -> Response:
            return await self.take_in(ctx, request)

        async def delete(request: Request) -> Response:
            return await self.remove(ctx, request)

        async def proof(request: Request) -> Response:
            number = request.path_params["round"]
            found = await snapshots(ctx).get(f"{ctx.submitter}/{number:09d}")
            if found is None:
                raise HTTPException(404, "This node has submitted nothing for that round.")
            return JSONResponse({"round": number, "proofs": found["leaves"], "node_publicKey": ctx.submitter})

        async def auth_list(_request: Request) -> Response:
            return JSONResponse(sorted(await writers()))

        async def on_list(request: Request) -> Response:
            key = request.path_params["publicKey"]
            return JSONResponse({"publicKey": key, "listed": key in await writers()})

        async def enlist(request: Request) -> Response:
            return await self.add_to_list(ctx, request)

        return [
            Route("/", root),
            Route("/taskState", state),
            Route("/linktree", only_for(writers, put), methods=["POST", "PUT"]),
            Route("/linktree/list", all_pages),
            Route("/linktree/get/username/{username}", of_name),
            Route("/linktree/get/{publicKey}", of_key),
            Route("/linktree/{publicKey}", only_for(writers, delete), methods=["DELETE"]),
            Route("/node-proof/{round:int}", proof),
            Route("/authlist/list", auth_list),
            Route("/authlist/get/{publicKey}", on_list),
            Route("/authlist", only_for(writers, enlist), methods=["POST"]),
        ]


def _node_of(page: Page) -> str:
    return str(page["_id"]).partition("/")[0]


async def _json(request: Request) -> dict[str, Any]:
    try:
        found = await request.json()
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise HTTPException(422, "Send a JSON object.")
    return found
