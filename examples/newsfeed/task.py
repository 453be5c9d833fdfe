"""A newsfeed: every node posts once a round, into one collection that all nodes share, and nobody rewrites history.

A post is signed by its author and names the one before it by a hash, so that an author's posts are a chain. What is
submitted is the number and the hash of the newest one; auditors read the post, its signature, and the one before it.
"""

from __future__ import annotations

import asyncio
import json
import re
from hashlib import sha256
from typing import Any

from koii_p2p.tasks import audits
from koii_p2p.tasks.audits import AuditReason
from koii_p2p.tasks.sdk import Audited, Collection, Context, Task

Post = dict[str, Any]
"""A document: what is `SIGNED`, its `_id`, and `signed`, which holds the same fields with the author's signature."""

SIGNED = ("number", "round", "slot", "text", "after")
FORM = re.compile(r"(?P<number>[1-9][0-9]{0,8}) (?P<hash>[0-9a-f]{64})")
NOTHING = "0" * 64
"""What the first post comes after."""


def posts(ctx: Context) -> Collection:
    """All posts of all nodes, at every node. Each author may write to keys that begin with its own, to no others."""
    return ctx.db.collection("posts", indexes=["round"], own_keys=True, full=True, shards=1)


def key_of(author: str, number: int) -> str:
    return f"{author}/{number:09d}"  # so that the posts of an author are in their order


def hash_of(post: Post) -> str:
    return sha256(post["signed"].encode()).hexdigest()


class Newsfeed(Task):
    async def task(self, ctx: Context, round: int) -> None:
        number, after = await ctx.store.get("newest") or (0, NOTHING)
        if await ctx.store.get(f"posted {round}"):
            return  # a worker that was started again has posted already
        post = await self.posted(ctx, number + 1, round, after)
        await ctx.store.set("newest", [post["number"], hash_of(post)])
        await ctx.store.set(f"posted {round}", f"{post['number']} {hash_of(post)}")

    async def posted(self, ctx: Context, number: int, round: int, after: str) -> Post:
        """Write the next post."""
        slot = await ctx.get_slot()
        said = {"number": number, "round": round, "slot": slot, "text": self.news(ctx, round), "after": after}
        post = {"_id": key_of(ctx.submitter, number), **said, "signed": await ctx.sign(said)}
        await posts(ctx).put(post)
        return post

    def news(self, ctx: Context, round: int) -> str:
        return f"Round {round}, and all is well. Yours, {ctx.submitter[:6]}"

    async def submission(self, ctx: Context, round: int) -> str | None:
        return await ctx.store.get(f"posted {round}")

    async def audit(self, ctx: Context, submission: str | bytes, round: int, submitter: str) -> Audited:
        form = FORM.fullmatch(submission) if isinstance(submission, str) else None
        if form is None:
            return audits.invalid(AuditReason.MALFORMED, "the number and the hash of a post are asked for")
        number = int(form["number"])
        feed = posts(ctx)  # asked for both at once: an audit has only seconds on a fast network
        keys = (key_of(submitter, number), key_of(submitter, number - 1))
        post, before = await asyncio.gather(*(feed.get(key) for key in keys))
        if post is None or hash_of(post) != form["hash"]:
            return audits.unavailable(f"post {number} is not here, or another version of it is")
        if (wrong := await fault_of(ctx, post, number, submitter)) is not None:
            return wrong
        if post["round"] != round:
            return audits.invalid(AuditReason.DIFFERENT, f"the post is of round {post['round']!r:.20}")
        return await self.in_order(ctx, post, before, submitter)

    async def in_order(self, ctx: Context, post: Post, before: Post | None, author: str) -> Audited:
        """Whether a post follows the one before it, as its author signed it."""
        if post["number"] == 1:
            if post["after"] == NOTHING:
                return audits.AS_EXPECTED
            return audits.invalid(AuditReason.OUT_OF_ORDER, "nothing comes before the first post")
        if before is None:
            return audits.unavailable("the post before it is not here")
        if (wrong := await fault_of(ctx, before, post["number"] - 1, author)) is not None:
            return wrong
        if hash_of(before) != post["after"]:
            # Both are signed by the author, and they contradict each other.
            return audits.invalid(AuditReason.OUT_OF_ORDER, "the post before it was written anew")
        if not (before["round"] < post["round"] and before["slot"] <= post["slot"]):
            return audits.invalid(AuditReason.OUT_OF_ORDER, "it is older than the post before it")
        return audits.AS_EXPECTED


async def fault_of(ctx: Context, post: Post, number: int, author: str) -> Audited | None:
    """What is wrong with a post by itself: its author did not sign it, or not these fields. None: nothing."""
    signed = await ctx.verify(post["signed"], author)
    if not signed:
        return audits.invalid(AuditReason.NOT_SIGNED, f"post {number} of {author}")
    said = {name: post.get(name) for name in SIGNED}
    if said != signed.payload or said["number"] != number:
        return audits.invalid(AuditReason.DIFFERENT, f"signed was {json.dumps(signed.payload):.60}")
    return None
