"""One node of a net of processes: a real network, store and data room; told what to do in lines of JSON.

python -m tests.data.process_node FOLDER SEED LIMITS
"""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import structlog
import trio

from koii_p2p.data.durability import DEFAULT_LEVEL, Level
from koii_p2p.data.manifest import Manifest, Reference
from koii_p2p.data.putting import PutSettings
from koii_p2p.data.reasons import DataError
from koii_p2p.data.service import DataRoom
from koii_p2p.errors import OperatorError
from koii_p2p.limits import Limits
from koii_p2p.network.network import Network
from koii_p2p.network.settings import NetworkSettings, parse_peer_address
from koii_p2p.records.cid import cid_to_text
from koii_p2p.records.keys import SecretKey
from koii_p2p.storage.shards import Place, ShardStore
from tests.data.rooms import TASK, Told


async def serve(folder: Path, seed: int, limits: Limits) -> None:
    secret = SecretKey.from_seed(seed.to_bytes(32, "big"))
    network = Network(secret, NetworkSettings(listen=("/ip4/127.0.0.1/tcp/0",), target_peers=32), limits)
    told = Told()
    with ShardStore.open(folder, limits) as store:
        data = DataRoom(store, network, [told.space()], limits=limits, directory=network.dht)
        async with trio.open_nursery() as nursery:
            await nursery.start(network.run)
            await nursery.start(data.run)
            answer({"address": network.addresses[0], "key": network.key.hex()})
            source = trio.wrap_file(sys.stdin)
            async for line in source:
                order = json.loads(line)
                try:
                    answer(await obey(order, network, told, store, data))
                except (DataError, OperatorError) as error:
                    answer(
                        {"error": str(error), "reason": getattr(getattr(error, "reason", None), "value", "")}
                    )
            nursery.cancel_scope.cancel()


async def obey(
    order: dict[str, Any], network: Network, told: Told, store: ShardStore, data: DataRoom
) -> dict[str, Any]:
    match order["do"]:
        case "meet":
            for address in order["addresses"]:
                peer = parse_peer_address(address)
                told.members.add(peer.key)
                if peer.key != network.key:
                    network.learn(peer.key, [peer.transport])
            return {"peers": len(network.peers())}
        case "put":
            began = trio.current_time()
            level = Level[order.get("level", DEFAULT_LEVEL.title).upper()]
            settings = PutSettings(level, pinned=order.get("pin", False))
            result = await data.put(TASK, chunks(Path(order["file"])), settings)
            return {
                "cid": result.reference.to_text(),
                "waiting": result.placed.waiting,
                "seconds": trio.current_time() - began,
            }
        case "get":
            began = trio.current_time()
            reference = Reference.from_text(order["cid"])
            found = await data.get(reference, 2**30)
            seconds = trio.current_time() - began
            Path(order["file"]).write_bytes(found)
            return {"seconds": seconds}
        case "held":
            return {
                cid_to_text(blob.cid): [list(place) for place in blob.held]
                for blob in store.blobs()
                if blob.held
            }
        case "blobs":
            return {cid_to_text(one.cid): cid_to_text(one.content) for one in await data.blobs(1000)}
        case "lie":

            async def lie(cid: bytes, place: Place, manifest: Manifest) -> bytes:
                return b"\0" * manifest.shard_length(place[0])

            data.room.shard = lie  # type: ignore[method-assign]
            return {}
        case "statistics":
            said = asdict(data.statistics())
            said["used"] = store.used()
            said["counted"] = sum(blob.bytes for blob in store.blobs())
            said["peers"] = len(network.peers())
            return said
        case other:
            raise AssertionError(other)


async def chunks(file: Path) -> AsyncIterator[bytes]:
    with file.open("rb") as source:
        while chunk := await trio.to_thread.run_sync(source.read, 256 * 1024):
            yield chunk


def answer(value: dict[str, Any]) -> None:
    print(json.dumps(value), flush=True)


def main() -> None:
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    folder, seed, limits = Path(sys.argv[1]), int(sys.argv[2]), replace(Limits(), **json.loads(sys.argv[3]))
    trio.run(serve, folder, seed, limits)


if __name__ == "__main__":
    main()
