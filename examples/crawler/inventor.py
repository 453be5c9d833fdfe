"""A cheater: knows what the pages are called, fetches none, and makes up what they say."""

from __future__ import annotations

from task import Crawler

from koii_p2p.tasks.sdk import Context

KNOWN = "index ferry lighthouses puffins tides weather harbour museum bakery walks seals school"


class Inventor(Crawler):
    async def task(self, ctx: Context, round: int) -> None:
        found = " ".join(f"{page}.html=0badcafe" for page in KNOWN.split())
        await ctx.store.set(f"found {round}", found)
