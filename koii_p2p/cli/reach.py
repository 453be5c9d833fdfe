"""`koii-p2p reach`: whether and how others can get at the running node, who says so, and what to do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import trio
import typer
from rich.console import Group, RenderableType
from rich.text import Text

from koii_p2p.cli.join import is_local
from koii_p2p.cli.output import duration, pairs, plain, print_result, size, table
from koii_p2p.cli.settings import settings_of
from koii_p2p.errors import ConfigurationError
from koii_p2p.node import reach
from koii_p2p.node.checkup import Finding
from koii_p2p.testnets.node_client import NodeClient


def command(ctx: typer.Context) -> None:
    """Tell whether others can dial this node: where it says it is, where peers see it, what came of their dialling it.

    Peers of the Internet are asked by the node to dial it; a success is proved by their connection, a failure is their
    word. A node that nobody can dial takes part all the same, and is reached through relays where there are some.
    """
    settings = settings_of(ctx)

    async def read() -> tuple[dict[str, Any], list[dict[str, Any]]]:
        async with NodeClient.of_home(settings.home) as client:
            return await client.reach(), await client.peers()

    report, peers = trio.run(read)
    try:
        local = is_local(settings.rpc_url)
    except ConfigurationError:
        local = False
    finding = reach.judge(
        report.get("addresses", ()), report.get("observed", ()), peers, local=local, report=report
    )
    print_result({**report, "finding": asdict(finding)}, reach_table(report, finding), settings.output)


def reach_table(report: Mapping[str, Any], finding: Finding) -> RenderableType:
    """The ways into a node, for a person; what peers said is shown harmlessly."""
    if not report:
        return Text("The network of the node does not run.")
    relay = report["relay"]
    about: dict[str, object] = {
        "reachable": f"{report['access']}: {report['agreeing']} of {report['asked']} peers of the Internet say so",
        "addresses told": _lines(report["addresses"]),
        "listening at": _lines(report["listening"]),
        "seen by peers at": _lines(report["observed"]),
        "confirmed": _lines(report["confirmed"]),
        "dialled in by": f"{len(report['dialled_in'])} of the connected peers",
        "relays used": _lines(
            f"{place['relay']}, for {duration(place['seconds_left'])}" for place in report["relays"]
        ),
        "past the relay": f"{report['hole_punches']['punched']} of {report['hole_punches']['tried']} tries",
        "relay for others": "no"
        if relay is None
        else f"{relay['reservations']} places, {relay['circuits']} connections now, {relay['carried']} so far, "
        f"{size(relay['bytes'])}",
    }
    rows = [
        (
            verdict["peer_id"],
            plain(verdict["place"]),
            "reached" if verdict["reached"] else plain(verdict["why"]),
            f"{duration(age)} ago",
        )
        for verdict, age in zip(report["verdicts"], report["verdict_ages"], strict=True)
    ]
    parts: list[RenderableType] = [pairs(about)]
    if rows:
        parts += [Text("\nasked to dial back", style="bold"), table(("peer", "at", "result", ""), rows)]
    parts.append(Text(f"\n{plain(finding.what)}"))
    if finding.remedy:
        parts.append(Text(f"-> {plain(finding.remedy)}"))
    return Group(*parts)


def _lines(values: Any) -> str:
    return "\n".join(plain(str(value)) for value in values) or "none"
