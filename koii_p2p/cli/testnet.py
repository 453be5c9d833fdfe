"""`koii-p2p testnet`: many real nodes on this machine, with a K2 of their own, watched and checked."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import platformdirs
import trio
import typer
from rich.console import Group
from rich.text import Text

from koii_p2p.cli.amounts import roe_given
from koii_p2p.cli.main import EXIT_INTERRUPTED, Invocation, OutputFormat
from koii_p2p.cli.output import configure_logs, print_result, table
from koii_p2p.cli.settings import PREFIX, Settings, load_settings
from koii_p2p.cli.status import status_line
from koii_p2p.cli.testnet_view import View, outcome_tables
from koii_p2p.errors import ConfigurationError, NetworkError
from koii_p2p.limits import Limits
from koii_p2p.rounds.audit_rules import Profile
from koii_p2p.testnets.audit_table import names_of
from koii_p2p.testnets.down import take_down
from koii_p2p.testnets.evidence import load_evidence
from koii_p2p.testnets.folder import NetFolder, State
from koii_p2p.testnets.node_client import NodeClient
from koii_p2p.testnets.outcome import Outcome, outcome_json
from koii_p2p.testnets.run import Run, check_running, check_saved, outcome_from, run_testnet
from koii_p2p.testnets.topology import load_topology

FOLLOW_SECONDS = 0.5
TAIL_BYTES = 256 * 1024

app = typer.Typer()

DirOption = Annotated[
    Path | None,
    typer.Option("--dir", help="The testnet's folder (KOII_P2P_TESTNET_DIR); one testnet at a time."),
]


@app.callback()
def testnet() -> None:
    """Real nodes, a real chain, rounds that are audited, and a check that anyone can repeat."""


@app.command("up")
def up(
    ctx: typer.Context,
    file: Annotated[
        Path | None, typer.Option("--file", "-f", help="A topology, such as testnet/five.toml.")
    ] = None,
    nodes: Annotated[int | None, typer.Option("--nodes", help="How many nodes: 5.")] = None,
    cheaters: Annotated[
        int | None, typer.Option("--cheaters", help="How many of them submit a wrong value: 1.")
    ] = None,
    rounds: Annotated[
        int | None, typer.Option("--rounds", help="How many rounds are settled and checked: 3.")
    ] = None,
    slot_ms: Annotated[int | None, typer.Option("--slot-ms", help="Milliseconds of a slot: 100.")] = None,
    stake: Annotated[
        str | None, typer.Option("--stake", metavar="KOII", help="Stake of each node: 1.9.")
    ] = None,
    bounty: Annotated[
        str | None, typer.Option("--bounty", metavar="KOII", help="Bounty of a round: 1.")
    ] = None,
    task: Annotated[
        Path | None, typer.Option("--task", help="Folder or file of the task: examples/hello_world.")
    ] = None,
    k2_port: Annotated[
        int | None, typer.Option("--k2-port", help="Port of the local K2; 0 picks a free one.")
    ] = None,
    profile: Annotated[
        str | None,
        typer.Option("--profile", help=f"How work is audited: {', '.join(names_of(Profile))}. hardened."),
    ] = None,
    sealed: Annotated[
        bool | None,
        typer.Option(
            "--sealed/--open", help="Ballots sealed first and revealed later, or open ones. --open."
        ),
    ] = None,
    keep: Annotated[
        bool, typer.Option("--keep", help="Go on after the check, until Ctrl-C or `testnet down`.")
    ] = False,
    folder: DirOption = None,
) -> int:
    """Start a local K2 and nodes, run audited rounds, and check every signature, root, outcome and balance.

    What an earlier testnet left in the folder is removed. The exit code is 0 only if all rounds were settled and
    verified, and every node was paid and slashed, exactly, what its behaviour leads to under the task's audit rules.
    """
    settings = _settings(ctx.obj)
    flags = {
        "nodes": nodes,
        "cheaters": cheaters,
        "rounds": rounds,
        "slot_ms": slot_ms,
        "stake": None if stake is None else roe_given(stake),
        "bounty": None if bounty is None else roe_given(bounty),
        "task": task,
        "k2_port": k2_port,
        "profile": profile,
        "sealed": sealed,
    }
    topology = load_topology(file, flags)
    place = _folder(folder)
    as_json = settings.output is OutputFormat.JSON
    with View(to_stderr=as_json) as view:

        def show(run: Run) -> None:
            view.close()
            found = {
                **outcome_json(run.outcome),
                "seconds": round(run.seconds, 1),
                "deaths": list(run.deaths),
            }
            found |= {"ok": run.ok, "evidence": str(place.evidence), "k2": dict(run.k2)}
            deaths = [Text(f"not as expected: {death}", style="yellow") for death in run.deaths]
            print_result(found, Group(outcome_tables(run.outcome, run.seconds), *deaths), settings.output)
            sys.stdout.flush()
            if keep:
                view.note("the testnet goes on; end it with Ctrl-C or `koii-p2p testnet down`")

        runs: list[Run] = []

        def finished(run: Run) -> None:
            runs.append(run)
            show(run)

        async def run_it() -> None:
            with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(_cancel_on_signal, signals, nursery.cancel_scope, view)
                    run = await run_testnet(
                        topology, place, _environment(), view, keep=finished if keep else None
                    )
                    finished(run)
                    nursery.cancel_scope.cancel()

        trio.run(run_it)
    # A testnet that was kept has said how it went before it was ended, which is not a failure.
    return EXIT_INTERRUPTED if not runs else 0 if runs[0].ok else 1


async def _cancel_on_signal(signals: AsyncIterator[int], scope: trio.CancelScope, view: View) -> None:
    number = await anext(signals)
    view.close()
    view.note(f"{signal.Signals(number).name}: stopping every process")
    scope.cancel()


@app.command("down")
def down(ctx: typer.Context, folder: DirOption = None) -> None:
    """End the testnet of a folder, from any shell: every process of it, and no other."""
    settings = _settings(ctx.obj)
    place = _folder(folder)
    ended = take_down(place)
    text = (
        f"ended {len(ended)} processes: {', '.join(ended)}" if ended else f"no testnet runs in {place.path}"
    )
    print_result({"ended": ended, "folder": str(place.path)}, Text(text), settings.output)


@app.command("status")
def status(ctx: typer.Context, folder: DirOption = None) -> None:
    """Show the processes of a testnet and, where a node answers, its rounds."""
    settings = _settings(ctx.obj)
    place = _folder(folder)
    state = place.read()
    if state is None:
        raise _no_testnet(place)
    found: dict[str, Any] = {
        "folder": str(place.path),
        "running": place.is_held() and state.supervisor.alive(),
        "supervisor": state.supervisor.pid,
        "k2_url": state.k2_url,
        "task": state.task,
        "processes": {
            name: {"pid": mark.pid, "running": mark.alive(), "log": str(place.log(name))}
            for name, mark in sorted(state.processes.items())
        },
        "nodes": trio.run(_node_statuses, place, state),
    }
    rows = []
    for name, process in found["processes"].items():
        seen = found["nodes"].get(name)
        says = "" if seen is None else status_line(seen)
        rows.append((name, process["pid"], "running" if process["running"] else "ended", says))
    head = (
        f"{'running' if found['running'] else 'ended'}   K2 {state.k2_url}   task {state.task}   {place.path}"
    )
    shown = Group(Text(head, style="bold"), Text(), table(("process", "pid", "state", "says"), rows))
    print_result(found, shown, settings.output)


async def _node_statuses(place: NetFolder, state: State) -> dict[str, Mapping[str, Any]]:
    found: dict[str, Mapping[str, Any]] = {}

    async def ask(name: str) -> None:
        try:
            async with NodeClient.of_home(place.home(name).path, name=name) as client:
                found[name] = await client.status()
        except NetworkError:
            return  # the table says whether its process runs

    async with trio.open_nursery() as nursery:
        for node in state.nodes:
            nursery.start_soon(ask, node.name)
    return found


@app.command("check")
def check(
    ctx: typer.Context,
    evidence: Annotated[
        Path | None, typer.Option("--evidence", help="Check this saved evidence; no testnet needs to run.")
    ] = None,
    folder: DirOption = None,
) -> int:
    """Recompute everything again: from a testnet that runs, from what it left, or from an evidence folder."""
    settings = _settings(ctx.obj)
    place = _folder(folder)
    outcome: Outcome
    if evidence is not None:
        outcome = outcome_from(load_evidence(evidence, Limits()))
    else:
        state = place.read() if place.is_held() else None
        outcome = check_saved(place) if state is None else trio.run(check_running, place, state)
    print_result(outcome_json(outcome), outcome_tables(outcome), settings.output)
    return 0 if outcome.ok else 1


@app.command("logs")
def logs(
    ctx: typer.Context,
    name: Annotated[
        str | None, typer.Argument(help="A process, such as node-03 or k2; without it, all.")
    ] = None,
    lines: Annotated[int, typer.Option("--lines", "-n", min=1, help="How many lines of each.")] = 40,
    follow: Annotated[bool, typer.Option("--follow", "-F", help="Go on as they grow, until Ctrl-C.")] = False,
    folder: DirOption = None,
) -> None:
    """Show what the processes of a testnet logged."""
    place = _folder(folder)
    found = sorted(path.stem for path in place.logs.glob("*.log")) if place.logs.exists() else []
    if not found:
        raise _no_testnet(place)
    if name is not None and name not in found:
        raise ConfigurationError(
            f"There is no log of {name!r}.",
            f"There are: {', '.join(found)}.",
            "Name one of these, or none for all.",
        )
    chosen = found if name is None else [name]
    offsets = {one: _tail(place.log(one), lines, one if name is None else None) for one in chosen}
    while follow:
        time.sleep(FOLLOW_SECONDS)
        for one in chosen:
            offsets[one] = _grown(place.log(one), offsets[one], one if name is None else None)


def _tail(path: Path, lines: int, label: str | None) -> int:
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - TAIL_BYTES))
        text = file.read().decode(errors="replace")
    _print_lines(text.splitlines()[-lines:], label)
    return size


def _grown(path: Path, offset: int, label: str | None) -> int:
    with path.open("rb") as file:
        file.seek(offset)
        data = file.read(TAIL_BYTES)
    whole = data.rpartition(b"\n")[0]
    if not whole:
        return offset
    _print_lines(whole.decode(errors="replace").splitlines(), label)
    return offset + len(whole) + 1


def _print_lines(lines: list[str], label: str | None) -> None:
    for line in lines:
        print(line if label is None else f"{label}  {line}")
    sys.stdout.flush()


def _settings(invocation: Invocation) -> Settings:
    configure_logs(invocation.verbosity, "warning")
    return load_settings(invocation).settings


def _folder(given: Path | None) -> NetFolder:
    chosen = (
        given
        or os.environ.get(PREFIX + "TESTNET_DIR")
        or platformdirs.user_state_path("koii-p2p") / "testnet"
    )
    return NetFolder(Path(chosen).expanduser().absolute())


def _environment() -> dict[str, str]:
    """What the processes get: everything but settings of ours, which are for the operator's own node."""
    return {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}


def _no_testnet(place: NetFolder) -> ConfigurationError:
    return ConfigurationError(
        f"There is no testnet in {place.path}.",
        "None was started there yet.",
        "Start one with `koii-p2p testnet up`, or name its folder with --dir.",
    )
