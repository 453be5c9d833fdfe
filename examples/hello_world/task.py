"""Koii's first task, line for line: keep "Hello, World!", submit it, and audit that others submitted the same.

Koii docs: quickstart, EZSandbox lesson 1.
"""

from __future__ import annotations

from koii_p2p.tasks.sdk import Context, Task

GREETING = "Hello, World!"


class HelloWorld(Task):
    async def task(self, ctx: Context, round: int) -> None:
        await ctx.store.set("value", GREETING)
        ctx.logger.info("round %d: kept the greeting", round)

    async def submission(self, ctx: Context, round: int) -> str | None:
        return await ctx.store.get("value")

    async def audit(self, ctx: Context, submission: str | bytes, round: int, submitter: str) -> bool:
        return submission == GREETING

    # distribution() is inherited: a rejected submission costs 70 % of its stake, the approved ones share the bounty.
