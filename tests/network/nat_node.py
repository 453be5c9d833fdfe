"""A node in a process of its own, which does what lines of JSON on its input say and answers in lines of JSON."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from typing import Any

import trio

from koii_p2p.network.gossip import GossipVerdict
from koii_p2p.network.network import Network
from koii_p2p.network.requests import RequestFailed
from koii_p2p.network.settings import NetworkSettings
from koii_p2p.node.views import plain
from koii_p2p.records.keys import SecretKey
from tests.network.nets import ECHO, QUICK, TOPIC

LIMITS = replace(QUICK, dialback_every=0.0, dialback_deadline=2.0, reach_again=5.0, relay_retry=1.0)


async def main(seed: int, listen: str, bootstrap: tuple[str, ...], relay: bool) -> None:
    settings = NetworkSettings(
        listen=(listen,), bootstrap=bootstrap, relay=relay, heartbeat=0.2, target_peers=4
    )
    network = Network(SecretKey.from_seed(seed.to_bytes(32, "big")), settings, LIMITS)
    received: list[str] = []

    def take(key: bytes, data: bytes) -> GossipVerdict:
        received.append(data.decode())
        return GossipVerdict.ACCEPT

    async def echo(key: bytes, request: bytes) -> bytes:
        return request

    async def do(said: dict[str, Any]) -> object:
        match said["do"]:
            case "reach":
                return plain(network.reach())
            case "peers":
                return [{**plain(peer), "key": peer.key.hex()} for peer in network.peers()]
            case "received":
                return received
            case "publish":
                return await network.publish(TOPIC, said["text"].encode())
            case "learn":
                network.learn(bytes.fromhex(said["key"]), said["addresses"])
                return None
            case "dial back":
                await network.ask_to_dial_back(bytes.fromhex(said["key"]))
                return plain(network.reach())
            case "request":
                try:
                    answer = await network.request(
                        bytes.fromhex(said["key"]), ECHO, said["text"].encode(), deadline=8.0
                    )
                    return answer.decode()
                except RequestFailed as error:
                    return str(error)
        raise ValueError(said)

    await network.join_topic(TOPIC, take)
    network.serve(ECHO, echo)
    async with trio.open_nursery() as nursery:
        await nursery.start(network.run)
        print(json.dumps({"key": network.key.hex(), "addresses": network.addresses}), flush=True)
        lines = trio.lowlevel.FdStream(os.dup(sys.stdin.fileno()))
        rest = b""
        async for data in lines:
            *whole, rest = (rest + data).split(b"\n")
            for line in whole:
                print(json.dumps(await do(json.loads(line))), flush=True)
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(
        main,
        int(sys.argv[1]),
        sys.argv[2],
        tuple(filter(None, sys.argv[3].split(","))),
        sys.argv[4] == "relay",
    )
