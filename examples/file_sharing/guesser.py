"""A cheater: shares a file that looks right and says of every number that it is prime, which one in sixteen is."""

from __future__ import annotations

from task import FileSharing, numbers_of, row_of

from koii_p2p.tasks.sdk import Context


class Guesser(FileSharing):
    async def task(self, ctx: Context, round: int) -> None:
        guessed = b"\n".join(row_of(number, [number]) for number in numbers_of(ctx.submitter, round))
        await self.share(ctx, round, guessed)
