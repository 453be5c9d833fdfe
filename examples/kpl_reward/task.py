"""Work that is paid in a token: the distribution list counts units of the token, and `pay.py` pays them.

One unit is the smallest of a token with six decimals, so that 250 000 are a quarter of a token.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256

from koii_p2p.tasks import audits
from koii_p2p.tasks.sdk import Audited, Context, Submitter, Task

REWARD = 250_000
"""Units of the token for each approved submission."""

TIMES = 1000


def chain_of(round: int, key: str) -> str:
    """The work: SHA-256 so many times over, from the round and the worker's key on."""
    digest = f"{round} {key}".encode()
    for _ in range(TIMES):
        digest = sha256(digest).digest()
    return digest.hex()


class KplReward(Task):
    async def task(self, ctx: Context, round: int) -> None:
        await ctx.store.set(f"chain {round}", chain_of(round, ctx.submitter))

    async def submission(self, ctx: Context, round: int) -> str | None:
        found: str | None = await ctx.store.get(f"chain {round}")
        return found

    async def audit(self, ctx: Context, submission: str | bytes, round: int, submitter: str) -> Audited:
        return audits.recompute(submission, lambda: chain_of(round, submitter))

    async def distribution(
        self, ctx: Context, submitters: Sequence[Submitter], bounty: int, round: int
    ) -> dict[str, int]:
        # Rewards are units of the token. Slashes are what they always are: Roe of the stake, which is in KOII.
        approved = sum(one.votes > 0 for one in submitters)
        reward = min(REWARD, bounty // approved) if approved else 0
        lost = ctx.slash_basis_points
        return {
            one.public_key: reward if one.votes > 0 else -(one.stake * lost // 10_000) * (one.votes < 0)
            for one in submitters
        }
