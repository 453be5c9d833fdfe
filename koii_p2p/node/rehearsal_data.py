"""The data and documents of a rehearsal: what `ctx.data` and `ctx.db` are to copies of a task without nodes.

Collections are those of a node, each copy with its own store and key, and ask each other by calls in place of streams.
Blobs are kept whole, in memory, under the names that a data room gives them: nobody holds shards, and nothing is lost.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final

import trio

from koii_p2p.data.blob import BlobEncoder
from koii_p2p.data.collections.service import Collections
from koii_p2p.data.collections.serving import serve_collections
from koii_p2p.data.durability import Level
from koii_p2p.data.manifest import Reference
from koii_p2p.data.reasons import DataError, DataReason
from koii_p2p.limits import Limits
from koii_p2p.network.identity import peer_id_text
from koii_p2p.network.network import Network, PeerInfo
from koii_p2p.network.requests import Handler, RequestFailed, RequestReason
from koii_p2p.network.settings import NetworkSettings
from koii_p2p.node.task_db import TaskDb
from koii_p2p.records.cid import cid_of
from koii_p2p.records.keys import SecretKey
from koii_p2p.storage.database import Database
from koii_p2p.tasks.services import Refused, TaskServices


class RehearsalData:
    """Blobs and collections of the copies with these keys, in `folder`. Nothing is opened before a task asks."""

    def __init__(
        self,
        task: bytes,
        genesis: bytes,
        secrets: Sequence[SecretKey],
        folder: Path,
        slot: Callable[[], int],
        limits: Limits,
    ) -> None:
        self._task = task
        self._genesis = genesis
        self._secrets: Final = tuple(secrets)
        self._folder = folder
        self._slot = slot
        self._limits = limits
        self._blobs: dict[bytes, bytes] = {}
        self._databases: list[Database] = []
        self._collections: dict[bytes, Collections] = {}

    def serve(self, services: TaskServices) -> TaskServices:
        """The services of a copy, with data and documents."""
        collections_now = partial(self._collections_of, services.submitter)
        return replace(
            services,
            blob_put=self.put_blob,
            blob_get=self.get_blob,
            db=TaskDb(collections_now, self._limits),
        )

    def close(self) -> None:
        """Close what was opened."""
        for database in self._databases:
            database.close()

    async def put_blob(self, data: bytes) -> str:
        """Keep bytes; the text of their reference. Raises `Refused`."""
        encoder = BlobEncoder(Level.NONE.code)
        try:
            encoder.feed(data)
            _, manifest = encoder.finish()
        except DataError as error:
            raise Refused(f"The blob could not be put: {error}") from error
        cid = cid_of(manifest.encode())
        self._blobs[cid] = data
        return Reference(cid).to_text()

    async def get_blob(self, text: str) -> bytes:
        """The bytes of a reference. Raises `Refused`."""
        try:
            found = self._blobs.get(Reference.from_text(text).manifest)
            if found is None:
                raise DataError(DataReason.NOT_FOUND)
        except DataError as error:
            raise Refused(f"The blob could not be had: {error}") from error
        return found

    def _collections_of(self, key: bytes) -> Collections:
        if not self._collections:
            self._open()
        return self._collections[key]

    def _open(self) -> None:
        handlers: dict[bytes, dict[str, Handler]] = {}
        for secret in self._secrets:
            handlers[secret.public_key] = {}
            network = _ByCalls(secret, handlers, self._limits)
            database = Database.open(self._folder / f"documents-{secret.public_key.hex()[:16]}")
            self._databases.append(database)
            found = Collections(
                self._task,
                self._genesis,
                secret,
                database,
                network,
                slot=self._slot,
                random_source=random.Random(secret.public_key),
                limits=self._limits,
            )
            found.set_stakers([one.public_key for one in self._secrets])
            serve_collections(network, partial(_of_task, found), self._limits)
            self._collections[secret.public_key] = found


class _ByCalls(Network):
    """A network that is never started: what is asked is answered by a call of the handler that the other serves."""

    def __init__(
        self, secret: SecretKey, handlers: Mapping[bytes, dict[str, Handler]], limits: Limits
    ) -> None:
        super().__init__(secret, NetworkSettings(listen=()), limits)
        self._handlers = handlers

    def serve(self, protocol: str, handler: Handler) -> None:
        self._handlers[self.key][protocol] = handler

    def peers(self) -> tuple[PeerInfo, ...]:
        return tuple(_peer(key) for key in sorted(self._handlers) if key != self.key)

    async def request(
        self, key: bytes, protocol: str, payload: bytes, *, deadline: float | None = None
    ) -> bytes:
        try:
            with trio.fail_after(self._limits.request_deadline if deadline is None else deadline):
                return await self._handlers[key][protocol](self.key, payload)
        except trio.TooSlowError:
            raise RequestFailed(RequestReason.TIMED_OUT, "The handler takes too long.") from None
        except Exception as error:  # whatever a handler raises costs its stream, as in a network
            raise RequestFailed(RequestReason.BROKEN, str(error)) from error


def _peer(key: bytes) -> PeerInfo:
    return PeerInfo(key, peer_id_text(key), (), "", 0.0, True, 1, (), 0, 0.0, 0)


def _of_task(collections: Collections, task: bytes) -> Collections | None:
    return collections if task == collections.task else None
