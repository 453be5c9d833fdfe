"""How a local K2 is set up: where it keeps its ledger, where it listens, how fast it goes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from koii_p2p.errors import ConfigurationError
from koii_p2p.localk2.faults import NO_FAULTS, Faults

_HIGHEST_PORT = 65535
_MOST_RPC_NODES = 16


@dataclass(frozen=True, slots=True)
class LocalK2Settings:
    """Settings of one local K2.

    `ws_port` is `port + 1` unless given, because `@solana/web3.js` assumes that; port 0 picks free ports.
    Both ports speak HTTP and WebSocket. `finality` is the number of slots after which a sealed slot counts as
    finalized. `faults` are switched on from the start; with `allow_faults` the admin methods can change them
    (docs/local-k2.md). With `rpc_nodes` above 1 the chain is served by so many RPC nodes, each with
    faults of its own, on the ports after the WebSocket's.
    """

    path: Path
    host: str = "127.0.0.1"
    port: int = 8899
    ws_port: int | None = None
    slot_ms: float = 400
    finality: int = 32
    faults: Faults = NO_FAULTS
    allow_faults: bool = False
    rpc_nodes: int = 1

    def __post_init__(self) -> None:
        ports = [("port", self.port), ("WebSocket port", self.websocket_port)]
        for name, port in [*ports, *(("port", port) for port in self.node_ports)]:
            if not 0 <= port <= _HIGHEST_PORT:
                raise ConfigurationError(
                    f"The local K2 cannot listen on {name} {port}.",
                    f"Ports go from 0 to {_HIGHEST_PORT}; the WebSocket port is the port + 1 unless given.",
                    "Choose another --port.",
                )
        if not 1 <= self.rpc_nodes <= _MOST_RPC_NODES:
            raise ConfigurationError(
                f"{self.rpc_nodes} RPC nodes are not possible.",
                f"A local K2 has 1 to {_MOST_RPC_NODES} of them.",
                "Choose another --rpc-nodes.",
            )
        if not 1 <= self.slot_ms <= 60_000:
            raise ConfigurationError(
                f"A slot of {self.slot_ms:g} milliseconds is not possible.",
                "A slot takes from 1 ms to a minute.",
                "Choose another --slot-ms; K2's own pace is 400.",
            )
        if not 0 <= self.finality <= 1000:
            raise ConfigurationError(
                f"A finality of {self.finality} slots is not possible.",
                "A slot is finalized 0 to 1000 slots after it was sealed.",
                "Choose another --finality; K2's own is 32.",
            )

    @property
    def node_ports(self) -> tuple[int, ...]:
        """Ports of the RPC nodes after the first; they speak HTTP and WebSocket."""
        first = max(self.port, self.websocket_port) + 1
        return tuple(first + index if self.port else 0 for index in range(self.rpc_nodes - 1))

    @property
    def websocket_port(self) -> int:
        """The port web3.js uses for WebSockets: given, or the one after `port` (0 stays 0: any free port)."""
        if self.ws_port is not None:
            return self.ws_port
        return self.port + 1 if self.port else 0
