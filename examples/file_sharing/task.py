"""File sharing: do work that is too large for a submission, share it as a file, and let others look at a few rows.

Koii docs: EZSandbox lesson 2, file sharing. The work here: the prime factors of 256 numbers, others for every node and
round. The file is a blob that several nodes keep; the submission has its reference and the Merkle root of its rows.
"""

from __future__ import annotations

import asyncio
import re
from functools import partial
from hashlib import sha256

from koii_p2p.tasks import audits
from koii_p2p.tasks.audits import AuditReason
from koii_p2p.tasks.sdk import Audited, Context, Task

ROWS = 256
SAMPLE = 8
"""How many rows each auditor works out again."""
HIGHEST = 10**7
FORM = re.compile("(?P<reference>[a-z2-7]{59}) (?P<root>[0-9a-f]{64})")
"""Of a submission."""


def factors_of(number: int) -> list[int]:
    """The prime factors of a number from 2, ascending."""
    found, factor = [], 2
    while factor * factor <= number:
        if number % factor:
            factor += 1
        else:
            found.append(factor)
            number //= factor
    return [*found, number]


def numbers_of(submitter: str, round: int) -> range:
    """The numbers that are a node's in a round: nobody can hand in a neighbour's file, or last round's."""
    first = int.from_bytes(sha256(f"{submitter} {round}".encode()).digest()) % HIGHEST + 2
    return range(first, first + ROWS)


def row_of(number: int, factors: list[int]) -> bytes:
    return f"{number} = {' * '.join(map(str, factors))}".encode()


def file_of(submitter: str, round: int) -> bytes:
    return b"\n".join(row_of(number, factors_of(number)) for number in numbers_of(submitter, round))


class FileSharing(Task):
    async def task(self, ctx: Context, round: int) -> None:
        file = await asyncio.to_thread(file_of, ctx.submitter, round)
        await self.share(ctx, round, file)

    async def share(self, ctx: Context, round: int, file: bytes) -> None:
        reference, root = await ctx.data.put(file), audits.merkle_root(file.split(b"\n")).hex()
        await ctx.store.set(f"shared {round}", f"{reference} {root}")

    async def submission(self, ctx: Context, round: int) -> str | None:
        return await ctx.store.get(f"shared {round}")

    async def audit(self, ctx: Context, submission: str | bytes, round: int, submitter: str) -> Audited:
        form = FORM.fullmatch(submission) if isinstance(submission, str) else None
        if form is None:
            return audits.invalid(AuditReason.MALFORMED, "a reference and a root are asked for")
        rows = (await ctx.data.get(form["reference"])).split(b"\n")  # raises if it cannot be had: UNAVAILABLE
        if len(rows) != ROWS:
            return audits.invalid(AuditReason.MALFORMED, f"the file has {len(rows)} rows, not {ROWS}")
        numbers = numbers_of(submitter, round)

        def right(index: int, row: bytes) -> bool:
            return row == row_of(numbers[index], factors_of(numbers[index]))

        seed = await ctx.seed(round, submitter)  # nobody else can know which rows this auditor looks at
        served = partial(audits.merkle_proof, rows)
        return audits.spot_check(bytes.fromhex(form["root"]), ROWS, served, right, size=SAMPLE, seed=seed)
