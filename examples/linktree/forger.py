"""A cheater: takes in pages that nobody brought, in the name of another node, with a signature for something else."""

from __future__ import annotations

from task import Linktree, leaf_of, pages

from koii_p2p.tasks.sdk import Context


class Forger(Linktree):
    async def publish_own(self, ctx: Context) -> None:
        victim = min(
            {one for one in (await ctx.task_state()).stake_list if one != ctx.submitter},
            default=ctx.submitter,
        )
        signed = await ctx.sign({"linktree": [], "slot": 1, "username": "mine"})
        page = {"_id": f"{ctx.submitter}/{victim}", "publicKey": victim, "username": "mine", "signed": signed}
        await pages(ctx).put(page)
        await ctx.store.set("own", {page["_id"]: leaf_of(page)})
