"""Packages of tasks among peers: what a node gives to others, and how it gets one that it knows by its CID only.

    package    {0: cid, 1: start}  ->  {0: size, 1: bytes}, or {} if it is not here

A question on `/koii-p2p/package/1` is answered with bytes from `start` on. Whoever runs a task has its package and says
so in the DHT; strangers may ask too, for a node that is about to join has no stake yet. Nothing that a peer sends is
looked at before the hash of all of it is the CID.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from math import inf
from pathlib import Path
from typing import Any, Final

import structlog
import trio

from koii_p2p.errors import NetworkError, OperatorError
from koii_p2p.limits import Limits
from koii_p2p.network.network import Network
from koii_p2p.network.requests import RequestFailed
from koii_p2p.node.package_store import PackageStore
from koii_p2p.records import cbor
from koii_p2p.records.cid import cid_of, cid_to_text, is_cid
from koii_p2p.tasks.package import MOST_BYTES, Package, unpack

log = structlog.get_logger(__name__)

PROTOCOL: Final = "/koii-p2p/package/1"
_SMALL_BYTES: Final = 128  # more than everything around the bytes
_PROVIDERS: Final = 16


class PackageProtocolError(ValueError):
    """A question or an answer that does not have the form of the protocol."""


@dataclass(frozen=True, slots=True)
class Part:
    """Bytes of a package of `size` bytes."""

    size: int
    data: bytes = field(repr=False)


def encode_question(cid: bytes, start: int) -> bytes:
    """The question for a package's bytes from `start` on."""
    return cbor.encode({0: cid, 1: start})


def decode_question(data: bytes) -> tuple[bytes, int]:
    """The CID and the start. Raises `PackageProtocolError`."""
    fields = _map(data, _SMALL_BYTES)
    cid, start = fields.get(0), fields.get(1)
    if not isinstance(cid, bytes) or not is_cid(cid):
        raise PackageProtocolError("a package is not named by a CID")
    return cid, _number(start)


def encode_part(part: Part | None) -> bytes:
    """The answer; None says that the package is not here."""
    return cbor.encode({} if part is None else {0: part.size, 1: part.data})


def decode_part(data: bytes, limits: Limits) -> Part | None:
    """Inverse of `encode_part`. Raises `PackageProtocolError`, also for a package that would be too large."""
    fields = _map(data, limits.package_part_bytes + _SMALL_BYTES)
    if not fields:
        return None
    size, found = _number(fields.get(0)), fields.get(1)
    if not isinstance(found, bytes) or not 0 < len(found) <= min(size, limits.package_part_bytes):
        raise PackageProtocolError("the bytes are none, or more than there can be")
    return Part(size, found)


def _number(value: object) -> int:
    if type(value) is not int or not 0 <= value <= MOST_BYTES:
        raise PackageProtocolError(
            f"a number is not from 0 to {MOST_BYTES}, the bytes that a package may have"
        )
    return value


def _map(data: bytes, most: int) -> dict[int, object]:
    try:
        value = cbor.decode(data, max_bytes=most)
    except cbor.CborError as error:
        raise PackageProtocolError(str(error)) from error
    if not isinstance(value, dict):
        raise PackageProtocolError("it is not a map")
    return value


class NotToBeHad(NetworkError):
    """A package that no peer has, or none that could be asked (exit code 4)."""


class Packages:
    """What one node has of packages and gives to peers, from when it is made."""

    def __init__(self, store: PackageStore, network: Network, limits: Limits) -> None:
        self.store = store
        self.counts: Counter[str] = Counter()
        """Parts given, packages fetched, and what went wrong, since the start."""
        self._network = network
        self._limits = limits
        self._offered: dict[bytes, int] = {}
        self._given: Counter[bytes] = Counter()
        self._given_until = -inf
        self._readers = trio.CapacityLimiter(limits.package_readers)
        network.serve(PROTOCOL, self._answer)

    def view(self) -> Mapping[str, Any]:
        """What is given to peers, by CIDs in text, and the counters."""
        return {"offered": sorted(cid_to_text(cid) for cid in self._offered), **self.counts}

    async def offer(self, package: Package) -> None:
        """Give a package to whoever asks from now on, and say so in the DHT. Raises `StorageError`."""
        await trio.to_thread.run_sync(self.store.keep, package)
        self._offered[package.cid] = len(package.data)
        try:
            with trio.move_on_after(self._limits.request_deadline):
                await self._network.provide(package.cid)
        except (
            OperatorError,
            RequestFailed,
            ValueError,
        ) as error:  # with the DHT off, neighbours still ask us
            log.info("a package was not announced", cid=package.name, error=str(error))

    async def get(self, cid: bytes) -> Package:
        """A package that is here, or else from a peer and then kept here.

        Raises `NotToBeHad`, `StorageError`, and `PackageError` for bytes that have this CID and are no package.
        """
        here = await trio.to_thread.run_sync(self.store.whole, cid)
        if here is not None:
            return here
        log.info("asking peers for the code of a task", cid=cid_to_text(cid))
        data = await self._fetch(cid)
        package = await trio.to_thread.run_sync(unpack, data)
        await trio.to_thread.run_sync(self.store.keep, package)
        self.counts["fetched"] += 1
        return package

    def folder(self, cid: bytes) -> Path:
        """Where the files of a package are that is here."""
        return self.store.folder(cid)

    # --- giving

    async def _answer(self, asker: bytes, data: bytes) -> bytes:
        cid, start = decode_question(data)
        size = self._offered.get(cid)
        if size is None or start >= size:
            self.counts["not here"] += 1
            return encode_part(None)
        part = min(self._limits.package_part_bytes, size - start)
        if not self._may_give(asker, part):
            self.counts["too much asked for"] += 1
            return encode_part(None)
        read = partial(self.store.read, cid, start, part)
        found = await trio.to_thread.run_sync(read, limiter=self._readers)
        self.counts["parts given"] += 1
        return encode_part(Part(size, found))

    def _may_give(self, asker: bytes, size: int) -> bool:
        """Whether a peer, and all together, may have so many bytes more; if so, they are counted."""
        limits, now = self._limits, trio.current_time()
        if now >= self._given_until:
            self._given.clear()
            self._given_until = now + limits.package_given_seconds
        if self._given[asker] + size > limits.package_given_peer_bytes:
            return False
        if self._given.total() + size > limits.package_given_bytes:
            return False
        self._given[asker] += size
        return True

    # --- getting

    async def _fetch(self, cid: bytes) -> bytes:
        """Bytes with this CID from whoever has them, a few asked at once, again and again for a while."""
        search = _Search(cid)
        pause = self._limits.package_retry_seconds
        with trio.move_on_after(self._limits.package_fetch_seconds):
            while True:
                for keys in (self._neighbours, self._providers):
                    await self._ask_all(search, await keys(cid))
                    if search.found is not None:
                        return search.found
                await trio.sleep(pause)
                pause = min(2 * pause, 8 * self._limits.package_retry_seconds)
        raise NotToBeHad(
            f"The code {cid_to_text(cid)} cannot be had now.",
            search.what_was_tried(self._limits.package_fetch_seconds),
            "Try again when a node runs that has it, name such a node with --bootstrap, or give the code with --task "
            "ID=PATH.",
        )

    async def _neighbours(self, _cid: bytes) -> list[bytes]:
        return [peer.key for peer in self._network.peers()]

    async def _providers(self, cid: bytes) -> list[bytes]:
        seconds = self._limits.request_deadline / 2
        try:
            return list(await self._network.find_providers(cid, count=_PROVIDERS, deadline=seconds))
        except (OperatorError, RequestFailed, ValueError) as error:
            log.info("no providers", cid=cid_to_text(cid), error=str(error))
            return []

    async def _ask_all(self, search: _Search, keys: list[bytes]) -> None:
        """Ask these peers, a few at once, until one has given the right bytes."""
        turns = trio.CapacityLimiter(self._limits.package_askers)

        async def ask(key: bytes) -> None:
            async with turns:
                data = await self._from(key, search)
            if data is not None:
                search.found = data
                nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            for key in [key for key in keys if key not in search.wrong][: self._limits.package_peers]:
                nursery.start_soon(ask, key)

    async def _from(self, key: bytes, search: _Search) -> bytes | None:
        """All bytes from one peer if they are the right ones; who sends others is not asked again."""
        search.asked.add(key)
        try:
            with trio.fail_after(self._limits.package_peer_seconds):
                data = await self._parts(key, search.cid)
        except (RequestFailed, trio.TooSlowError):
            self.counts["no answer"] += 1
            return None
        except PackageProtocolError as error:
            self._blame(key, search, str(error))
            return None
        if data is not None and cid_of(data) != search.cid:
            self._blame(key, search, "its bytes have another hash")
            return None
        if data is not None:
            log.info("got the code of a task", cid=cid_to_text(search.cid), size=len(data), peer=key.hex())
        return data

    async def _parts(self, key: bytes, cid: bytes) -> bytes | None:
        data = bytearray()
        size = 1
        while len(data) < size:
            answer = await self._network.request(key, PROTOCOL, encode_question(cid, len(data)))
            part = decode_part(answer, self._limits)
            if part is None:
                if data:
                    raise PackageProtocolError("it ends before its last byte")
                return None
            if data and part.size != size:
                raise PackageProtocolError("its size changes from one part to the next")
            size = part.size
            data += part.data
            if len(data) > size:
                raise PackageProtocolError("it has more bytes than it said")
        return bytes(data)

    def _blame(self, key: bytes, search: _Search, why: str) -> None:
        self.counts["wrong"] += 1
        search.wrong.add(key)
        log.warning("a peer sent a wrong package", cid=cid_to_text(search.cid), peer=key.hex(), why=why)


@dataclass(slots=True)
class _Search:
    """Who was asked for a package, and who of them sent something else."""

    cid: bytes
    asked: set[bytes] = field(default_factory=set)
    wrong: set[bytes] = field(default_factory=set)
    found: bytes | None = None

    def what_was_tried(self, seconds: float) -> str:
        """One sentence."""
        if not self.asked:
            return f"No peer was there to be asked in {seconds:g} s."
        tried = f"Of {len(self.asked)} peers that were asked in {seconds:g} s none had it"
        return f"{tried}." if not self.wrong else f"{tried}, and {len(self.wrong)} sent something else."
