"""`koii-p2p join`: run a node until it is stopped."""

from __future__ import annotations

import dataclasses
import ipaddress
import json
import signal
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, cast
from urllib.parse import urlsplit

import structlog
import trio
import typer
from solders.pubkey import Pubkey

from koii_p2p.cli.amounts import roe_given
from koii_p2p.cli.main import EXIT_INTERRUPTED, Invocation, OutputFormat
from koii_p2p.cli.output import configure_logs, koii, pairs, print_result
from koii_p2p.cli.settings import Settings, load_settings
from koii_p2p.cli.task_trust import TrustOption, consent_given
from koii_p2p.conditions import read_conditions
from koii_p2p.errors import ConfigurationError
from koii_p2p.limits import Limits
from koii_p2p.localk2 import LocalK2Settings
from koii_p2p.network.settings import NetworkSettings, parse_listen, parse_peer_address
from koii_p2p.node.behaviours import Behaviour
from koii_p2p.node.carriers import carrier_choice
from koii_p2p.node.node import Node, NodeReady, NodeSettings, TaskSpec
from koii_p2p.node.task_server import KOII_PORT, TaskHttpPlace
from koii_p2p.records.keys import SecretKey
from koii_p2p.rounds.role import MOST_PATROLS, Role
from koii_p2p.settlement.rpc_nodes import urls_of
from koii_p2p.storage.home import Home
from koii_p2p.storage.keyfile import load_secret, save_secret

log = structlog.get_logger(__name__)

LOCAL_K2_PORT = 8899
LOOPBACK = "127.0.0.1"
CONNECT_SECONDS = 1.0
SMALL_QUOTA = 1024 * 1024 * 1024
"""Bytes of task data up to which one task may have the whole quota."""

TaskOption = Annotated[
    list[str] | None,
    typer.Option(
        "--task",
        metavar="ID[=PATH]",
        help="Work on a task: its id on K2, and its code if peers are not to be asked for it. May be repeated.",
    ),
]
BootstrapOption = Annotated[
    list[str] | None,
    typer.Option(
        "--bootstrap", metavar="ADDR", help="A peer to call first: /ip4/.../tcp/.../p2p/... May be repeated."
    ),
]
ListenOption = Annotated[
    list[str] | None,
    typer.Option(
        "--listen", metavar="ADDR", help="Where to listen for peers: /ip4/0.0.0.0/tcp/4001. May be repeated."
    ),
]
AnnounceOption = Annotated[
    list[str] | None,
    typer.Option(
        "--announce",
        metavar="ADDR",
        help="Where to say that this node is, if not where it listens: the router's address. May be repeated.",
    ),
]
ClusterOption = Annotated[
    str | None,
    typer.Option(
        "--cluster",
        help="local, testnet, devnet, mainnet or a URL, as --url. `local` starts a K2 if none runs.",
    ),
]
CarrierOption = Annotated[
    str | None,
    typer.Option(
        "--carrier",
        metavar="NAME",
        help="What holds rounds on K2: program (the default), memo or koii-task (docs/carriers.md).",
    ),
]
GenesisOption = Annotated[
    list[str] | None,
    typer.Option(
        "--genesis",
        metavar="PATH",
        help="For --carrier memo: the genesis document of a task. Once for each task.",
    ),
]
ReadingsOption = Annotated[
    str | None,
    typer.Option(
        "--readings",
        metavar="NAME|PATH",
        help="For --carrier koii-task: how Koii's program is read: native, kpl, or a TOML file.",
    ),
]
StakeOption = Annotated[
    str,
    typer.Option(
        "--stake", metavar="KOII", help="Have this much staked in each task; stakes what is missing."
    ),
]
BehaviourOption = Annotated[
    Behaviour, typer.Option("--behaviour", help="Misbehave, to test a network. On local clusters only.")
]
ConditionsOption = Annotated[
    Path | None,
    typer.Option(
        "--conditions",
        metavar="FILE",
        help="Make links slow, lossy or cut, as this file says, which is watched. On local clusters only.",
    ),
]
WitnessOption = Annotated[
    bool,
    typer.Option("--witness", help="Audit only: submit no work. Earns where the task pays who finds fraud."),
]
PatrolsOption = Annotated[
    int,
    typer.Option(
        "--patrols",
        min=0,
        max=MOST_PATROLS,
        metavar="N",
        help="Look at so many more submissions a round, and challenge what is bad.",
    ),
]
CanariesOption = Annotated[
    bool,
    typer.Option(
        "--canaries", help="Hand in known-bad work now and then, where the task's rules have canaries."
    ),
]
TaskNetworkOption = Annotated[
    bool,
    typer.Option(
        "--task-network",
        help="Let tasks reach the internet that ask for it (ADDON REQUIRE_INTERNET in their config-task.yml).",
    ),
]
TaskHostOption = Annotated[
    str | None,
    typer.Option(
        "--task-host",
        metavar="IP",
        help="Serve the REST of tasks at this address of the machine: 0.0.0.0 for everybody. Off unless this or "
        "--task-port is given; on loopback (127.0.0.1) with --task-port alone.",
    ),
]
TaskPortOption = Annotated[
    int | None,
    typer.Option(
        "--task-port",
        min=0,
        max=65535,
        metavar="PORT",
        help="Serve the REST of tasks on this port; Koii's, 30017, with --task-host alone. 0 picks a free one.",
    ),
]
ClaimOption = Annotated[
    int, typer.Option("--claim-every", min=1, metavar="ROUNDS", help="Claim rewards once in so many rounds.")
]
PortOption = Annotated[
    int | None, typer.Option("--api-port", help="Port of the operator's API on loopback; 0 picks a free one.")
]
RelayOption = Annotated[
    bool | None,
    typer.Option(
        "--relay/--no-relay",
        help="Carry connections to nodes behind a NAT, within bounds (docs/reachability.md).",
    ),
]
MdnsOption = Annotated[bool | None, typer.Option("--mdns/--no-mdns", help="Find peers on the local network.")]
DhtOption = Annotated[
    str | None,
    typer.Option(
        "--dht",
        metavar="MODE",
        help="Take part in the DHT: auto (the default), client, server or off (docs/dht.md).",
    ),
]
DataQuotaOption = Annotated[
    int | None,
    typer.Option(
        "--data-quota",
        min=1,
        metavar="MIB",
        help="What task data may take up on this node; 8192 unless told, of which one task has half.",
    ),
]
TraceOption = Annotated[
    Path | None,
    typer.Option(
        "--trace",
        metavar="FILE",
        help="Append a line of JSON for each record of a round that is signed, or heard first: when, and how it came.",
    ),
]
PeersOption = Annotated[
    int,
    typer.Option(
        "--expected-peers",
        min=2,
        help="About how many nodes the network has, for the mesh, until a task's roster says.",
    ),
]


def command(
    ctx: typer.Context,
    task: TaskOption = None,
    trust: TrustOption = None,
    bootstrap: BootstrapOption = None,
    listen: ListenOption = None,
    announce: AnnounceOption = None,
    cluster: ClusterOption = None,
    carrier: CarrierOption = None,
    genesis: GenesisOption = None,
    readings: ReadingsOption = None,
    stake: StakeOption = "0",
    behaviour: BehaviourOption = Behaviour.HONEST,
    conditions: ConditionsOption = None,
    witness: WitnessOption = False,
    patrols: PatrolsOption = 0,
    canaries: CanariesOption = False,
    task_network: TaskNetworkOption = False,
    task_host: TaskHostOption = None,
    task_port: TaskPortOption = None,
    claim_every: ClaimOption = 10,
    api_port: PortOption = None,
    mdns: MdnsOption = None,
    relay: RelayOption = None,
    dht: DhtOption = None,
    expected_peers: PeersOption = 32,
    data_quota: DataQuotaOption = None,
    trace: TraceOption = None,
) -> int:
    """Run a node: load or make its keys, connect, stake if asked, work every round, serve the operator's API.

    Ends cleanly on Ctrl-C (exit code 130), SIGTERM or `POST /shutdown` (0).
    """
    invocation: Invocation = ctx.obj
    settings = load_settings(
        invocation,
        url=cluster,
        bootstrap=bootstrap,
        listen=listen,
        announce=announce,
        api_port=api_port,
        task_host=task_host,
        task_port=task_port,
        mdns=mdns,
        relay=relay,
        dht=dht,
        carrier=carrier,
        genesis=genesis,
        readings=readings,
    ).settings
    configure_logs(invocation.verbosity, settings.log_level, Home(settings.home).log)
    _refuse_other_keys(settings)
    if behaviour is not Behaviour.HONEST and not is_local(settings.rpc_url):
        raise ConfigurationError(
            f"The behaviour {behaviour.value} is refused on {settings.shown_cluster}.",
            "Misbehaving costs a stake, and others their time: it is for local clusters, on loopback, only.",
            "Leave --behaviour out, or use --cluster local.",
        )
    if conditions is not None:
        _check_conditions(conditions, settings)
    if witness and canaries:
        raise typer.BadParameter(
            "a witness hands in no work, and a canary is known-bad work", param_hint="--canaries"
        )
    consent = consent_given(trust)
    wanted = [_task_wanted(text) for text in task or settings.tasks]
    tasks = tuple(one for one in wanted if isinstance(one, TaskSpec))
    by_package = tuple(one for one in wanted if isinstance(one, bytes))
    roe = roe_given(stake)
    node = NodeSettings(
        home=Home(settings.home),
        url=settings.rpc_url,
        network=NetworkSettings(
            listen=tuple(parse_listen(address) for address in settings.listen),
            announce=tuple(parse_listen(address) for address in settings.announce),
            bootstrap=_checked_peers(settings.bootstrap),
            mdns=settings.mdns,
            relay=settings.relay,
            dht=settings.dht,
            expected_peers=expected_peers,
            conditions=conditions,
        ),
        tasks=tasks,
        by_package=by_package,
        consent=consent,
        carrier=carrier_choice(
            settings.carrier,
            settings.genesis,
            settings.readings,
            [*(spec.task for spec in tasks), *by_package],
            roe,
        ),
        fees=settings.priority_fees,
        embedded_k2=_embedded_k2(settings),
        stake=roe,
        task_network=task_network,
        task_http=_task_http(settings),
        claim_every=claim_every,
        behaviour=behaviour,
        role=Role(submits=not witness, patrols=patrols, canaries=canaries),
        api_port=settings.api_port,
        trace=trace,
        limits=_limits(data_quota),
    )
    made = make_missing_keys(node.home)
    if node.embedded_k2 is not None:
        log.info("no K2 runs on this machine: starting one inside this node", url=settings.shown_url)
    return trio.run(_run, node, settings.output, made)


async def _run(settings: NodeSettings, output: OutputFormat, made: list[str]) -> int:
    node, interrupted = Node(settings), False

    async def stop_on_signal(signals: AsyncIterator[int]) -> None:
        nonlocal interrupted
        async for number in signals:
            interrupted = interrupted or number == signal.SIGINT
            log.info("stopping", signal=signal.Signals(number).name)
            node.stop()

    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stop_on_signal, signals)
            announcement = _Announcement(settings, output, made)
            await node.run(task_status=cast("trio.TaskStatus[NodeReady]", announcement))
            nursery.cancel_scope.cancel()
    return EXIT_INTERRUPTED if interrupted else 0


class _Announcement:
    """Stands in for a nursery's task status: prints where the node is once it runs."""

    def __init__(self, settings: NodeSettings, output: OutputFormat, made: list[str]) -> None:
        self._settings = settings
        self._output = output
        self._made = made

    def started(self, ready: NodeReady) -> None:
        if self._output is OutputFormat.JSON:
            # One line, so that whoever started us can read it without waiting for the end.
            print(json.dumps({"ready": True, **dataclasses.asdict(ready)}), flush=True)
            return
        shown: dict[str, object] = {
            "key": ready.key,
            "wallet": ready.wallet,
            "peer": ready.peer_id,
            "addresses": "\n".join(ready.addresses) or "none",
            "tasks": "\n".join(ready.tasks) or "none: give some with --task ID",
            "K2": ready.k2,
            "API": f"{ready.api_url} (token in {self._settings.home.api})",
        }
        if ready.task_url:
            shown["REST of tasks"] = ready.task_url
        if ready.carrier_note:
            shown["carrier"] = f"{ready.carrier}: {ready.carrier_note}"
        if self._made:
            shown["made"] = "\n".join(self._made)
        if self._settings.stake:
            shown["stake"] = koii(self._settings.stake)
        print_result({}, pairs(shown), self._output)
        sys.stdout.flush()


def make_missing_keys(home: Home) -> list[str]:
    """Make the keys that a home lacks and say so; return the files made. Raises `OperatorError` subclasses."""
    home.prepare()
    made = []
    for path in (home.staking_key, home.wallet_key):
        if not path.exists():
            save_secret(path, SecretKey.generate())
            made.append(str(path))
            log.warning("made a new key: keep a copy of it in a safe place", file=str(path))
        load_secret(path)
    return made


def is_local(url: str) -> bool:
    """Whether every RPC URL of a setting is on this machine, by a loopback address or the name localhost."""
    return all(_is_loopback(one) for one in urls_of(url))


def _check_conditions(file: Path, settings: Settings) -> None:
    """Refuse network conditions on clusters of others, and a file that cannot be used, before anything is started."""
    if not is_local(settings.rpc_url):
        raise ConfigurationError(
            f"Network conditions are refused on {settings.shown_cluster}.",
            "A node whose links are made slow or cut harms its task: they are for local clusters, on loopback, only.",
            "Leave --conditions out, or use --cluster local.",
        )
    read_conditions(file)


def _task_http(settings: Settings) -> TaskHttpPlace | None:
    """Where the REST of tasks is served; None if neither host nor port was given. Raises `ConfigurationError`."""
    host, port = settings.task_host, settings.task_port
    if host is None and port is None:
        return None
    try:
        found = ipaddress.ip_address(host or LOOPBACK)
    except ValueError as error:
        raise ConfigurationError(
            f"The REST of tasks cannot be served at {host!r}.",
            "It is not an IP address.",
            "Give --task-host an address of this machine: 0.0.0.0 for all, 127.0.0.1 for this machine alone.",
        ) from error
    return TaskHttpPlace(str(found), KOII_PORT if port is None else port)


def _limits(data_quota: int | None) -> Limits:
    """The limits of a node that gives so many MiB to task data. One task has half of it, or all of a small quota."""
    if data_quota is None:
        return Limits()
    most = data_quota * 1024 * 1024
    return dataclasses.replace(
        Limits(), data_bytes=most, data_task_bytes=max(most // 2, min(most, SMALL_QUOTA))
    )


def _is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _embedded_k2(settings: Settings) -> LocalK2Settings | None:
    """A K2 inside this node, if `local` was asked for by that name and nothing answers there."""
    if settings.url != "local":
        return None
    try:
        with socket.create_connection(("127.0.0.1", LOCAL_K2_PORT), CONNECT_SECONDS):
            return None
    except OSError:
        return LocalK2Settings(settings.home / "k2", port=LOCAL_K2_PORT)


def _refuse_other_keys(settings: Settings) -> None:
    home = Home(settings.home)
    for path, own, role in (
        (settings.staking_key, home.staking_key, "staking"),
        (settings.wallet_key, home.wallet_key, "wallet"),
    ):
        if path != own:
            raise ConfigurationError(
                f"A node does not run with the key file {path}.",
                f"Its identity is kept in its home, {own.parent}, beside the journal of what it has signed.",
                f"Copy the key there with `koii-p2p keys import {path} {role}`.",
            )


def _checked_peers(addresses: tuple[str, ...]) -> tuple[str, ...]:
    for address in addresses:
        parse_peer_address(address)
    return addresses


def _task_wanted(text: str) -> TaskSpec | bytes:
    """A task and the code that the operator has for it, or its id alone. Raises `ConfigurationError`."""
    name, equals, path = text.partition("=")
    try:
        task = bytes(Pubkey.from_string(name))
    except ValueError as error:
        raise ConfigurationError(
            f"The task {text!r} cannot be used.",
            f"{name!r} is not the id of a task: 32 bytes in base58.",
            "Write it like --task ID or --task ID=PATH.",
        ) from error
    if not equals:
        return task
    if not path:
        raise ConfigurationError(
            f"The task {name} cannot be used.",
            "It is not said where its code is.",
            f"Write it like --task {name}=PATH, or leave the = out to ask peers for it.",
        )
    return TaskSpec(task, Path(path).expanduser().absolute())
