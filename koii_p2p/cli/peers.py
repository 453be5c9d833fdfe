"""`koii-p2p peers`: who the running node is connected with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import typer
from rich.console import RenderableType
from rich.text import Text

from koii_p2p.cli.output import duration, plain, table
from koii_p2p.cli.running_node import WatchOption, show
from koii_p2p.testnets.node_client import NodeClient

Peer = Mapping[str, Any]


def command(ctx: typer.Context, watch: WatchOption = False) -> None:
    """Show the connected peers, by key: who they are, who dialled whom, since when, and how they behaved.

    A reject is a message that nobody honest sends; too many of them, and the peer is banned for a while. JSON has
    the names of the topics and every address at which a peer says that it can be dialled.
    """
    show(ctx, NodeClient.peers, peers_table, peers_line, watch)


def peers_line(peers: Sequence[Peer]) -> str:
    """The peers in one line, for a pipe."""
    dialled = sum(1 for peer in peers if peer["outgoing"])
    rejects = sum(peer["rejects"] for peer in peers)
    return f"{len(peers)} peers, {dialled} dialled by us, {rejects} rejects"


def peers_table(peers: Sequence[Peer]) -> RenderableType:
    """The peers for a person; what they say of themselves is shown harmlessly."""
    if not peers:
        return Text("No peers. `koii-p2p doctor` looks for the reason.")
    scored = any("score" in peer for peer in peers)
    columns = ("key", "peer id", "address", "direction", "since", "topics", "rejects", "bans")
    rows = [
        (
            plain(peer["key"]),
            plain(peer["peer_id"]),
            plain(peer["remote"]) or "-",
            "out" if peer["outgoing"] else "in",
            duration(peer["connected_seconds"]),
            len(peer["topics"]),
            peer["rejects"],
            peer["bans"],
            *([f"{peer.get('score', 0):.1f}"] if scored else []),
        )
        for peer in sorted(peers, key=lambda peer: str(peer["key"]))
    ]
    return table((*columns, "score") if scored else columns, rows)
