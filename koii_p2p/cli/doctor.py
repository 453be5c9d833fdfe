"""`koii-p2p doctor`: looks for what keeps this node from working, with a node running from the home or without."""

from __future__ import annotations

import resource
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import trio
import typer
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from koii_p2p.cli.join import is_local
from koii_p2p.cli.main import Invocation
from koii_p2p.cli.output import configure_logs, plain, print_result
from koii_p2p.cli.settings import Settings, load_settings
from koii_p2p.errors import ConfigurationError, NetworkError, OperatorError
from koii_p2p.limits import Limits
from koii_p2p.network.settings import parse_listen, parse_peer_address
from koii_p2p.node import checkup, reach
from koii_p2p.node.chain_checkup import chain_findings
from koii_p2p.node.checkup import Finding, Level, from_error, ok
from koii_p2p.settlement.rpc import RpcClient
from koii_p2p.storage.home import Home
from koii_p2p.storage.keyfile import load_public
from koii_p2p.testnets.node_client import NodeClient

DIAL_SECONDS: Final = 5.0
STYLES: Final = {Level.OK: "green", Level.WARNING: "yellow", Level.ERROR: "bold red"}


@dataclass(frozen=True, slots=True)
class RunningNode:
    """What the API of a node says: its status, its peers, its resources and the ways into it."""

    status: dict[str, Any]
    peers: list[dict[str, Any]]
    resources: dict[str, Any]
    reach: dict[str, Any]


def command(ctx: typer.Context) -> int:
    """Check keys, clock, K2, wallet, ports, addresses, disk, limits and versions, and say how to mend what is wrong.

    Works with a node that runs from this home, which is asked then, and without. With an error the exit code is 1.
    """
    invocation: Invocation = ctx.obj
    settings = load_settings(invocation).settings
    configure_logs(invocation.verbosity, "error")
    findings = trio.run(examine, settings)
    counts = {level.value: sum(one.level is level for one in findings) for level in Level}
    data = {"findings": [asdict(one) for one in findings], **counts}
    print_result(data, findings_table(findings), settings.output)
    return 1 if counts[Level.ERROR] else 0


def findings_table(findings: Sequence[Finding]) -> RenderableType:
    """The findings for a person, in the order of the checks; what strangers said is shown harmlessly."""
    made = Table(box=None, show_header=False, pad_edge=False)
    made.add_column(no_wrap=True)
    made.add_column(no_wrap=True)
    made.add_column(overflow="fold")
    for one in findings:
        text = plain(one.what) + (f"\n-> {plain(one.remedy)}" if one.remedy else "")
        made.add_row(
            Text(one.level.value, style=STYLES[one.level]), Text(one.check, style="bold"), Text(text)
        )
    return made


async def examine(settings: Settings) -> list[Finding]:
    """All findings, in a fixed order of checks. Raises nothing that an operator could mend."""
    home = Home(settings.home)
    node = await _running_node(settings)
    found = [*checkup.versions(), *checkup.home_folder(home, node is not None)]
    found += [
        checkup.key_file("staking", settings.staking_key),
        checkup.key_file("wallet", settings.wallet_key),
        checkup.disk_space(settings.home),
        _open_files(node),
        checkup.confinement(),
    ]
    found += await _chain(settings, node)
    if node is not None:
        found += checkup.running_node(node.status)
        found += await _answers(node)
        bootstrap = node.status["network"]["discovery"]["bootstrap"]
        found += [_known_bootstrap(one) for one in bootstrap]
        addresses, observed, peers = node.status["addresses"], node.status["observed"], node.peers
    else:
        listen, wrong = _listen(settings)
        found += [*wrong, *checkup.free_ports(listen)]
        found += await _dial_all(settings)
        addresses = settings.announce or reach.would_be_at(listen, reach.outgoing_address())
        observed, peers = [], []
    report = None if node is None else node.reach
    return [*found, reach.judge(addresses, observed, peers, local=_is_local(settings), report=report)]


def _is_local(settings: Settings) -> bool:
    try:
        return is_local(settings.rpc_url)
    except ConfigurationError:  # said by the check of K2
        return False


async def _running_node(settings: Settings) -> RunningNode | None:
    try:
        async with NodeClient.of_home(settings.home) as client:
            return RunningNode(
                await client.status(), await client.peers(), await client.resources(), await client.reach()
            )
    except NetworkError:
        return None


def _open_files(node: RunningNode | None) -> Finding:
    if node is not None:
        process = node.resources["process"]
        return checkup.open_files(process["most_open_files"], Limits(), process["open_files"])
    soft, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return checkup.open_files(soft, Limits())


async def _chain(settings: Settings, node: RunningNode | None) -> list[Finding]:
    try:
        wallet = load_public(settings.wallet_key)
    except OperatorError:
        wallet = None  # said by the check of the key
    genesis = None if node is None else node.status["cluster"]["genesis"]
    try:
        async with RpcClient(settings.rpc_url, limits=Limits()) as rpc:
            starts_one = settings.url == "local" and node is None
            return await chain_findings(rpc, wallet, genesis, starts_one=starts_one)
    except ConfigurationError as error:
        return [from_error("K2", error)]


def _listen(settings: Settings) -> tuple[list[str], list[Finding]]:
    """The addresses to listen on that are some, and what is wrong with the others."""
    listen, wrong = [], []
    for text in settings.listen:
        try:
            listen.append(parse_listen(text))
        except ConfigurationError as error:
            wrong.append(from_error("ports", error))
    return listen, wrong


async def _answers(node: RunningNode) -> list[Finding]:
    """Whether the node takes connections at the addresses that it gives to others, tried from this machine."""
    places = [place for text in node.status["addresses"] if (place := reach.place_of(text)) is not None]
    found = []
    for place in places:
        why = await _dial(str(place.host), place.port)
        if why is None:
            found.append(ok("ports", f"The node answers at {place}."))
        else:
            what = f"The node does not answer at {place}, where it tells others to find it: {why}"
            remedy = (
                "Where a router forwards the port this may only be so from inside; else look at the firewall."
            )
            found.append(Finding("ports", Level.WARNING, what, remedy))
    return found


def _known_bootstrap(one: dict[str, Any]) -> Finding:
    if one["connected"]:
        return ok("bootstrap", f"{one['address']} is connected.")
    why = one["last_error"] or "it was not tried yet"
    what = f"{one['address']} is not connected after {one['attempts']} attempts: {why}"
    return Finding(
        "bootstrap", Level.WARNING, what, "Ask its operator, or name another peer with --bootstrap."
    )


async def _dial_all(settings: Settings) -> list[Finding]:
    """Whether something answers at the bootstrap addresses; who it is, only a node finds out."""
    if not settings.bootstrap:
        where = "peers on the local network are found by mDNS" if settings.mdns else "nobody would be called"
        what = f"No bootstrap peer is named: {where}."
        if _is_local(settings):
            return [ok("bootstrap", what)]
        remedy = "Name one or more with --bootstrap, or `bootstrap` in config.toml."
        return [Finding("bootstrap", Level.WARNING, what, remedy)]
    found = []
    for text in settings.bootstrap:
        try:
            parts = parse_peer_address(text).transport.split("/")
        except ConfigurationError as error:
            found.append(from_error("bootstrap", error))
            continue
        why = await _dial(parts[2], int(parts[4]))
        if why is None:
            found.append(ok("bootstrap", f"Something answers at {text}."))
        else:
            remedy = "Ask its operator, or name another peer with --bootstrap."
            found.append(Finding("bootstrap", Level.WARNING, f"Nothing answers at {text}: {why}", remedy))
    return found


async def _dial(host: str, port: int) -> str | None:
    """Connect and close again; return why there was no connection, or None."""
    with trio.move_on_after(DIAL_SECONDS):
        try:
            stream = await trio.open_tcp_stream(host, port)
        except OSError as error:
            cause = error.__cause__ if isinstance(error.__cause__, OSError) else error
            return f"{cause.strerror or error}."
        await trio.aclose_forcefully(stream)
        return None
    return f"no answer within {DIAL_SECONDS:.0f} s."
