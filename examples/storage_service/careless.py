"""A cheater: submits the right root, and hands out nonsense. What it hands out it has signed, so that it is slashed."""

from __future__ import annotations

from task import DOCUMENT_BYTES, StorageService

from koii_p2p.tasks.sdk import Context


class Careless(StorageService):
    async def read(self, ctx: Context, name: str) -> tuple[bytes | None, str]:
        return bytes(DOCUMENT_BYTES), "hit"
