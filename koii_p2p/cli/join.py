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
from koii_p2p.errors import ConfigurationError
from koii_p2p.localk2 import LocalK2Settings
from koii_p2p.network.settings import NetworkSettings, parse_listen, parse_peer_address
from koii_p2p.node.behaviours import Behaviour
from koii_p2p.node.carriers import carrier_choice
from koii_p2p.node.node import Node, NodeReady, NodeSettings, TaskSpec
from koii_p2p.records.keys import SecretKey
from koii_p2p.rounds.role import MOST_PATROLS, Role
from koii_p2p.settlement.rpc_nodes import urls_of
from koii_p2p.storage.home import Home
from koii_p2p.storage.keyfile import load_secret, save_secret

log = structlog.get_logger(__name__)

LOCAL_K2_PORT = 8899
CONNECT_SECONDS = 1.0

TaskOption = Annotated[
    list[str] | None,
    typer.Option(
        "--task", metavar="ID=PATH", help="Work on a task: its id on K2 and its code. May be repeated."
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
ClaimOption = Annotated[
    int, typer.Option("--claim-every", min=1, metavar="ROUNDS", help="Claim rewards once in so many rounds.")
]
PortOption = Annotated[
    int | None, typer.Option("--api-port", help="Port of the operator's API on loopback; 0 picks a free one.")
]
MdnsOption = Annotated[bool | None, typer.Option("--mdns/--no-mdns", help="Find peers on the local network.")]
PeersOption = Annotated[
    int,
    typer.Option(
        "--expected-peers", min=2, help="About how many nodes the network has; the mesh follows from it."
    ),
]


def command(
    ctx: typer.Context,
    task: TaskOption = None,
    bootstrap: BootstrapOption = None,
    listen: ListenOption = None,
    cluster: ClusterOption = None,
    carrier: CarrierOption = None,
    genesis: GenesisOption = None,
    readings: ReadingsOption = None,
    stake: StakeOption = "0",
    behaviour: BehaviourOption = Behaviour.HONEST,
    witness: WitnessOption = False,
    patrols: PatrolsOption = 0,
    canaries: CanariesOption = False,
    claim_every: ClaimOption = 10,
    api_port: PortOption = None,
    mdns: MdnsOption = None,
    expected_peers: PeersOption = 32,
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
        api_port=api_port,
        mdns=mdns,
        carrier=carrier,
        genesis=genesis,
        readings=readings,
    ).settings
    configure_logs(invocation.verbosity, settings.log_level)
    _refuse_other_keys(settings)
    if behaviour is not Behaviour.HONEST and not is_local(settings.rpc_url):
        raise ConfigurationError(
            f"The behaviour {behaviour.value} is refused on {settings.shown_cluster}.",
            "Misbehaving costs a stake, and others their time: it is for local clusters, on loopback, only.",
            "Leave --behaviour out, or use --cluster local.",
        )
    if witness and canaries:
        raise typer.BadParameter(
            "a witness hands in no work, and a canary is known-bad work", param_hint="--canaries"
        )
    tasks = tuple(_task_spec(text) for text in task or settings.tasks)
    roe = roe_given(stake)
    node = NodeSettings(
        home=Home(settings.home),
        url=settings.rpc_url,
        network=NetworkSettings(
            listen=tuple(parse_listen(address) for address in settings.listen),
            bootstrap=_checked_peers(settings.bootstrap),
            mdns=settings.mdns,
            expected_peers=expected_peers,
        ),
        tasks=tasks,
        carrier=carrier_choice(
            settings.carrier, settings.genesis, settings.readings, (spec.task for spec in tasks), roe
        ),
        fees=settings.priority_fees,
        embedded_k2=_embedded_k2(settings),
        stake=roe,
        claim_every=claim_every,
        behaviour=behaviour,
        role=Role(submits=not witness, patrols=patrols, canaries=canaries),
        api_port=settings.api_port,
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
            "tasks": "\n".join(ready.tasks) or "none: give some with --task ID=PATH",
            "K2": ready.k2,
            "API": f"{ready.api_url} (token in {self._settings.home.api})",
        }
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


def _task_spec(text: str) -> TaskSpec:
    name, equals, path = text.partition("=")
    try:
        task = bytes(Pubkey.from_string(name))
    except ValueError as error:
        raise ConfigurationError(
            f"The task {text!r} cannot be used.",
            f"{name!r} is not the id of a task: 32 bytes in base58.",
            "Write it like --task ID=PATH.",
        ) from error
    if not equals or not path:
        raise ConfigurationError(
            f"The task {name} cannot be used.",
            "It is not said where its code is.",
            "Write it like --task ID=PATH.",
        )
    return TaskSpec(task, Path(path).expanduser().absolute())
