"""A cheater: writes nothing itself, and passes off what somebody else has signed as its own."""

from __future__ import annotations

from task import Newsfeed, hash_of, key_of, posts

from koii_p2p.tasks.sdk import Context


class Impostor(Newsfeed):
    async def task(self, ctx: Context, round: int) -> None:
        return

    async def submission(self, ctx: Context, round: int) -> str | None:
        found = await posts(ctx).find({"round": round})
        others = [post for post in found if not post["_id"].startswith(ctx.submitter)]
        stolen = {**others[0], "_id": key_of(ctx.submitter, others[0]["number"])}
        await posts(ctx).put(stolen)
        return f"{stolen['number']} {hash_of(stolen)}"
