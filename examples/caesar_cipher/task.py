"""Koii's lesson on audits and slashes: hand in `Koii rocks!` in a Caesar cipher, with the shift that undoes it.

Koii docs: EZSandbox lesson 4. A message that does not decrypt costs the whole stake, one on which the auditors do not
agree costs half of it, and right ones earn a fixed reward.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from hashlib import sha256

from koii_p2p.tasks import audits
from koii_p2p.tasks.audits import AuditReason
from koii_p2p.tasks.sdk import Audited, Context, Submitter, Task

MESSAGE = "Koii rocks!"
LETTERS = 26
REWARD = 250_000_000
"""0.25 KOII, in Roe."""


def shifted(text: str, shift: int) -> str:
    """`text` with each letter moved on in the alphabet; everything else stays."""
    moved = []
    for one in text:
        if "a" <= one <= "z" or "A" <= one <= "Z":
            first = ord("a") if one.islower() else ord("A")
            one = chr((ord(one) - first + shift) % LETTERS + first)
        moved.append(one)
    return "".join(moved)


def slash_of(submitter: Submitter) -> int:
    """Roe that a submission costs: all of the stake where the vote is against it, half where it is a tie.

    Where nobody could look at it (UNAVAILABLE), nothing: that is nobody's fault.
    """
    if submitter.votes < 0:
        return submitter.stake
    return submitter.stake // 2 if submitter.outcome.name == "UNDECIDED" else 0


class CaesarCipher(Task):
    async def submission(self, ctx: Context, round: int) -> str:
        # Another shift for each node and round, so that no proof can be copied from a neighbour or from last time.
        shift = 1 + sha256(f"{ctx.submitter} {round}".encode()).digest()[0] % (LETTERS - 1)
        return json.dumps({"shift": shift, "message": shifted(MESSAGE, shift)})

    async def audit(self, ctx: Context, submission: str | bytes, round: int, submitter: str) -> Audited:
        try:
            found = json.loads(submission)
        except (ValueError, RecursionError):
            return audits.invalid(AuditReason.MALFORMED, "this is no JSON")
        match found:
            case {"shift": int(shift), "message": str(message)} if 0 < shift < LETTERS and len(found) == 2:
                return audits.recompute(shifted(message, -shift), lambda: MESSAGE)
            case _:
                return audits.invalid(
                    AuditReason.MALFORMED, "a shift from 1 to 25 and a message are asked for"
                )

    async def distribution(
        self, ctx: Context, submitters: Sequence[Submitter], bounty: int, round: int
    ) -> dict[str, int]:
        approved = [one for one in submitters if one.votes > 0]
        reward = min(REWARD, bounty // len(approved)) if approved else 0  # the bounty is all that there is
        return {one.public_key: reward if one.votes > 0 else -slash_of(one) for one in submitters}
