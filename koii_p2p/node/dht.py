"""The DHT as the node uses it: its own presence is kept there, and its operator may look into it and find a staker."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import base58
import trio
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from koii_p2p.errors import NetworkError
from koii_p2p.network.dht.presence import NAMESPACE, PresenceRules, presence_key
from koii_p2p.network.identity import KEY_BYTES, key_of_peer_id, peer_id_text
from koii_p2p.network.network import Network
from koii_p2p.node.api_answers import Guard
from koii_p2p.node.views import plain
from koii_p2p.records.envelope import Verified
from koii_p2p.rounds.engine import RoundEngine

LOOK_SECONDS: Final = 20.0
FIND_SECONDS: Final = 8.0
MOST_NAME: Final = 128


class NodeDht:
    """The DHT of a node that knows its chain."""

    def __init__(
        self, network: Network, genesis: bytes, engines: Callable[[], Mapping[str, RoundEngine]]
    ) -> None:
        """Take presences signed for the chain with this genesis hash. `engines()` are those of the node's tasks."""
        self._network = network
        self._engines = engines
        network.dht.add_namespace(NAMESPACE, PresenceRules(genesis))

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep the node's newest presence in the DHT until cancelled."""
        own = self._network.key
        task_status.started()
        while True:
            mine = [record for record in self._presences() if record.author == own]
            if mine:
                newest = max(mine, key=lambda record: (record.statement.slot, record.statement.seq))
                self._network.dht.keep(presence_key(own), newest.raw)
            await trio.sleep(LOOK_SECONDS)

    def _presences(self) -> list[Verified]:
        return [record for engine in self._engines().values() for record in engine.presences()]

    def view(self) -> Mapping[str, Any]:
        """Its numbers, and the PeerIds in its routing table."""
        statistics: dict[str, Any] = plain(self._network.statistics().dht)
        return {**statistics, "peers": list(self._network.dht.table())}

    async def find(self, name: str) -> Mapping[str, Any]:
        """Find the peer with a PeerId or staking key (base58), and connect with it.

        Raises `ValueError` for text that is neither, `NetworkError` while the DHT does not run.
        """
        key = key_named(name)
        addresses = await self._network.dht.find_peer(key, deadline=FIND_SECONDS)
        return {
            "key": base58.b58encode(key).decode(),
            "peer_id": peer_id_text(key),
            "addresses": list(addresses),
        }


def key_named(name: str) -> bytes:
    """Return the staking key that a PeerId or a key in base58 stands for. Raises `ValueError`."""
    if len(name) > MOST_NAME:
        raise ValueError("It is too long for a PeerId.")
    try:
        raw = base58.b58decode(name)
    except ValueError as error:
        raise ValueError("It is not base58.") from error
    return raw if len(raw) == KEY_BYTES else key_of_peer_id(raw)


def dht_routes(dht: Callable[[], NodeDht], guard: Guard) -> list[Route]:
    """The routes under /dht; `guard` wants the token."""

    async def stat(_request: Request) -> Response:
        return JSONResponse(dict(dht().view()))

    async def find(request: Request) -> Response:
        try:
            return JSONResponse(dict(await dht().find(request.path_params["peer"])))
        except ValueError as error:
            return JSONResponse({"error": str(error)}, status_code=400)
        except NetworkError as error:
            return JSONResponse({"error": f"{error.what} {error.why}"}, status_code=503)

    return [Route("/dht", guard(stat)), Route("/dht/find/{peer}", guard(find))]
