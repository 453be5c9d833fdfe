"""`koii-p2p dht`: what the running node knows of the DHT, and where a staker is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import trio
import typer
from rich.console import Group, RenderableType
from rich.text import Text

from koii_p2p.cli.output import pairs, plain, print_result, table
from koii_p2p.cli.running_node import WatchOption, show
from koii_p2p.cli.settings import settings_of
from koii_p2p.errors import ConfigurationError, NetworkError
from koii_p2p.node.dht import key_named
from koii_p2p.testnets.node_client import NodeClient

app = typer.Typer(help="Look into the DHT of the running node, and find a peer by its key.")


@app.command("stat")
def stat(ctx: typer.Context, watch: WatchOption = False) -> None:
    """Show the routing table, what is stored, and what was asked, served and refused since the start."""
    show(ctx, NodeClient.dht, dht_table, dht_line, watch)


@app.command("find")
def find(
    ctx: typer.Context,
    peer: Annotated[str, typer.Argument(metavar="PEER", help="PeerId or staking key, in base58.")],
) -> None:
    """Find where a peer can be dialled, whoever knows it; the node is connected with it afterwards."""
    try:
        key_named(peer)
    except ValueError as error:
        raise ConfigurationError(
            what=f"{peer!r} names no peer.", why=str(error), remedy="Give a PeerId (12D3KooW...) or a key."
        ) from error
    settings = settings_of(ctx)

    async def ask() -> dict[str, Any]:
        async with NodeClient.of_home(settings.home) as client:
            return await client.find_peer(peer)

    found = trio.run(ask)
    if not found["addresses"]:
        raise NetworkError(
            what=f"The peer {plain(found['peer_id'])} was not found.",
            why="Nobody who was asked knows it, or it did not answer where they say that it is.",
            remedy="Check the key, see `koii-p2p dht stat` for whom this node knows, and try again later.",
        )
    print_result(found, found_table(found), settings.output)


def found_table(found: Mapping[str, Any]) -> RenderableType:
    """A peer that was found, for a person."""
    return pairs(
        {
            "key": plain(found["key"]),
            "peer id": plain(found["peer_id"]),
            "addresses": "\n".join(plain(one) for one in found["addresses"]),
        }
    )


def dht_line(found: Mapping[str, Any]) -> str:
    """The DHT in one line, for a pipe."""
    role = "server" if found["server"] else "client"
    return f"{role}, {found['table']} peers, {found['values']} values, {found['providers']} providers"


def dht_table(found: Mapping[str, Any]) -> RenderableType:
    """The DHT for a person: every number that the node has, under its name."""
    numbers = {name.replace("_", " "): value for name, value in found.items() if isinstance(value, int)}
    numbers.pop("server", None)
    role = "server: it answers others" if found["server"] else "client: it asks others and answers nobody"
    parts: list[RenderableType] = [pairs({"role": role, **numbers})]
    if found["buckets"]:
        parts += [
            Text("\nrouting table", style="bold"),
            table(["common bits", "peers"], [list(one) for one in found["buckets"]]),
        ]
    for name in ("served", "failed", "refused"):
        if found[name]:
            parts += [
                Text(f"\n{name}", style="bold"),
                pairs({plain(str(one)): count for one, count in found[name]}),
            ]
    return Group(*parts)
