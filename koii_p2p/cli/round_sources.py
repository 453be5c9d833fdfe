"""Who has the bytes of a round: a running node, the database of one that stopped, a peer, a saved testnet."""

from __future__ import annotations

import base64
import binascii
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Protocol

import trio

from koii_p2p.errors import NetworkError
from koii_p2p.limits import Limits
from koii_p2p.network.network import Network
from koii_p2p.network.requests import RequestFailed
from koii_p2p.network.settings import NetworkSettings, parse_peer_address
from koii_p2p.node import exchange
from koii_p2p.records.envelope import Verified, decode_record, verify
from koii_p2p.records.keys import SecretKey
from koii_p2p.records.reasons import RecordError
from koii_p2p.rounds.eligibility import window_of
from koii_p2p.rounds.explain import Seen
from koii_p2p.rounds.terms import TaskTerms
from koii_p2p.storage.artifacts import Artifact, Artifacts
from koii_p2p.storage.database import Database
from koii_p2p.storage.record_log import RecordLog
from koii_p2p.testnets.evidence import Evidence
from koii_p2p.testnets.node_client import NodeClient


class Source(Protocol):
    """Holds rounds of one task. What it says is checked against K2 by whoever asks, but for what it saw in time."""

    async def copies(self, number: int, name: str) -> tuple[bytes, ...]:
        """Copies of a round's "commitment", "bundle" or "list", which need not be alike; none if it has none."""

    async def seen(self, number: int) -> tuple[Seen, ...]:
        """The records of a round that it received, properly signed; none if it does not tell."""


class RunningNode:
    """A node that answers on its operator's API. Methods raise `NetworkError`."""

    def __init__(self, client: NodeClient, task: str, genesis: bytes) -> None:
        self._client, self._task, self._genesis = client, task, genesis

    async def copies(self, number: int, name: str) -> tuple[bytes, ...]:
        """What it stored, whether or not the round is still in its memory."""
        found = await self._client.artifact(self._task, number, name)
        return () if found is None else (found,)

    async def seen(self, number: int) -> tuple[Seen, ...]:
        """The records of a round in its memory."""
        view = await self._client.round(self._task, number)
        return tuple(seen for item in (view or {}).get("signed", ()) if (seen := self._one(item)))

    def _one(self, item: Mapping[str, Any]) -> Seen | None:
        try:
            record = _verified(base64.b64decode(item["raw"], validate=True), self._genesis)
        except (binascii.Error, KeyError, TypeError, ValueError):
            return None
        return None if record is None else Seen(record, bool(item.get("timely")))


class StoppedNode:
    """The database of a node that does not run. Methods raise `StorageError`."""

    def __init__(self, database: Database, terms: TaskTerms, genesis: bytes) -> None:
        self._artifacts = Artifacts(database, Limits())
        self._records = RecordLog(database)
        self._terms, self._genesis = terms, genesis

    async def copies(self, number: int, name: str) -> tuple[bytes, ...]:
        """What it stored of an anchored round."""
        found = self._artifacts.get(self._terms.task, number, Artifact(name))
        return () if found is None else (found,)

    async def seen(self, number: int) -> tuple[Seen, ...]:
        """Every record of a round that it accepted, by when it came."""
        found = []
        for logged in self._records.of_round(self._terms.task, number):
            record = _verified(logged.raw, self._genesis)
            if record is not None:
                window = window_of(record.statement, self._terms)
                found.append(Seen(record, window is not None and logged.slot_received in window))
        return tuple(found)


class Peer:
    """A node of the network, asked as nodes ask each other. Methods raise `NetworkError`."""

    def __init__(self, network: Network, address: str, task: bytes) -> None:
        self._network, self._address, self._task = network, address, task
        self._key = parse_peer_address(address).key
        self._known: dict[int, exchange.Artifacts] = {}

    async def copies(self, number: int, name: str) -> tuple[bytes, ...]:
        """What it has, asked for once a round."""
        if number not in self._known:
            self._known[number] = await self._ask(number)
        held = self._known[number]
        found = {"commitment": held.commitment, "bundle": held.bundle, "list": held.list}[name]
        return () if found is None else (found,)

    async def seen(self, number: int) -> tuple[Seen, ...]:
        """None: what a stranger says that it received in time is no help."""
        return ()

    async def _ask(self, number: int) -> exchange.Artifacts:
        payload = exchange.encode_artifacts_request(self._task, number)
        try:
            reply = await self._network.request(self._key, exchange.ARTIFACTS_PROTOCOL, payload)
            return exchange.decode_artifacts(reply, Limits())
        except (RequestFailed, exchange.ExchangeError) as error:
            raise NetworkError(
                f"The peer {self._address} does not hand out round {number}.",
                f"{str(error)[:1].upper()}{str(error)[1:].rstrip('.')}.",
                "Check that it runs and works on this task, or ask another one with --peer.",
            ) from error


@asynccontextmanager
async def asked_peer(address: str, task: bytes) -> AsyncIterator[Peer]:
    """Call one peer, under a key of no meaning. Raises `ConfigurationError` for what is no peer's address."""
    parse_peer_address(address)
    settings = NetworkSettings(listen=("/ip4/127.0.0.1/tcp/0",), bootstrap=(address,))
    network = Network(SecretKey.generate(), settings)
    async with trio.open_nursery() as nursery:
        await nursery.start(network.run)
        yield Peer(network, address, task)
        nursery.cancel_scope.cancel()


class SavedTestnet:
    """The evidence that a testnet left."""

    def __init__(self, evidence: Evidence) -> None:
        self._copies = evidence.copies

    async def copies(self, number: int, name: str) -> tuple[bytes, ...]:
        """What its nodes had, each different copy once."""
        held = self._copies.get(number)
        return () if held is None else tuple(dict.fromkeys(held.of(name).values()))

    async def seen(self, number: int) -> tuple[Seen, ...]:
        """None: evidence has what rounds came to."""
        return ()


def _verified(raw: bytes, genesis: bytes) -> Verified | None:
    try:
        return verify(decode_record(raw), genesis)
    except RecordError:
        return None
