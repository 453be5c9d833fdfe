"""`koii-p2p mesh`: how the running node's messages spread, topic by topic."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any

import typer
from rich.console import Group, RenderableType
from rich.text import Text

from koii_p2p.cli.output import pairs, plain, table
from koii_p2p.cli.running_node import WatchOption, show
from koii_p2p.testnets.node_client import NodeClient

ScoresOption = Annotated[
    bool,
    typer.Option("--scores", help="Show each peer's score, its terms, and which meshes it is in instead."),
]

TERMS = {
    "time_in_mesh": "P1 time",
    "first_deliveries": "P2 first",
    "mesh_deliveries": "P3 missing",
    "mesh_failures": "P3b",
    "invalid_messages": "P4 invalid",
    "application": "P5 stake",
    "colocation": "P6 address",
    "behaviour": "P7 rules",
}


def command(ctx: typer.Context, watch: WatchOption = False, scores: ScoresOption = False) -> None:
    """Show gossip: for each topic its neighbours, the mesh and what became of messages; then the queues and losses.

    Neighbours are peers that are subscribed, the mesh those that get every message at once. Accepted messages are sent
    on, ignored ones came late, and rejected ones are sent by nobody honest. Numbers count since the start.

    With --scores: why a peer is in which meshes. It is in none with a score below 0, nor in that of a topic in which
    its score, as if there were no other, is below 0. The terms are those of GossipSub v1.1.
    """
    if scores:
        show(ctx, NodeClient.scores, scores_table, scores_line, watch)
    else:
        show(ctx, NodeClient.mesh, mesh_table, mesh_line, watch)


def scores_line(peers: Sequence[Mapping[str, Any]]) -> str:
    """The scores in one line, for a pipe."""
    values = [peer["score"] for peer in peers]
    lowest = f", lowest {min(values):.1f}" if values else ""
    return f"{len(values)} peers, {sum(value < 0 for value in values)} below 0{lowest}"


def scores_table(peers: Sequence[Mapping[str, Any]]) -> RenderableType:
    """The scores for a person, the lowest first: the terms, and in which meshes a peer is, and may not be."""
    if not peers:
        return Text("No peers. `koii-p2p doctor` looks for the reason.")
    rows = [
        (
            plain(peer["key"]),
            f"{peer['score']:.1f}",
            *(f"{peer[name]:.1f}" for name in TERMS),
            _topics(one["topic"] for one in peer["topics"] if one["in_mesh"]),
            _topics(f"{one['topic']} {one['score']:.1f}" for one in peer["topics"] if one["score"] < 0),
        )
        for peer in sorted(peers, key=lambda peer: (peer["score"], str(peer["key"])))
    ]
    return table(("key", "score", *TERMS.values(), "in meshes of", "kept from"), rows)


def _topics(names: Iterable[str]) -> str:
    """Topics by their last part; those of one task have the rest in common."""
    return ", ".join(plain(name.rpartition("/")[2]) for name in names) or "-"


def mesh_line(found: Mapping[str, Any]) -> str:
    """Gossip in one line, for a pipe."""
    topics = found.get("topics", [])
    totals = ", ".join(
        f"{sum(topic[name] for topic in topics)} {name}" for name in ("published", "accepted", "rejected")
    )
    return f"{len(topics)} topics, {totals}, {found.get('queued', 0)} queued"


def mesh_table(found: Mapping[str, Any]) -> RenderableType:
    """Gossip for a person: every number that the node has, under its name."""
    topics = found.get("topics", [])
    if not topics:
        return Text("No topics: this node works on no task.")
    names = list(topics[0])
    parts: list[RenderableType] = [
        table([_words(name) for name in names], [[plain(str(one[name])) for name in names] for one in topics])
    ]
    totals = {name: value for name, value in found.items() if isinstance(value, int | float)}
    if totals:
        parts += [Text(""), pairs({_words(name): value for name, value in totals.items()})]
    for name, values in found.items():
        if name != "topics" and isinstance(values, list) and values:
            parts += [Text(f"\n{_words(name)}", style="bold"), pairs(_named(values))]
    return Group(*parts)


def _named(values: list[Any]) -> dict[str, object]:
    """Counters by name, as pairs."""
    return {_words(plain(str(one[0]))): one[1] for one in values if isinstance(one, list) and len(one) == 2}


def _words(name: str) -> str:
    return name.replace("_", " ")
