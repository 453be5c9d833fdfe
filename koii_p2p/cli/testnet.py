"""`koii-p2p testnet`: many real nodes on this machine, with a K2 of their own, watched and checked."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import platformdirs
import trio
import typer
from rich.console import Group
from rich.text import Text

from koii_p2p.cli.amounts import roe_given
from koii_p2p.cli.list_rule import CodeOption, existing, rule_of, with_rule
from koii_p2p.cli.main import EXIT_INTERRUPTED, OutputFormat
from koii_p2p.cli.output import print_result, table
from koii_p2p.cli.settings import PREFIX, settings_of
from koii_p2p.cli.status import status_line
from koii_p2p.cli.testnet_view import View, outcome_tables
from koii_p2p.errors import ConfigurationError, NetworkError
from koii_p2p.limits import Limits
from koii_p2p.rounds.audit_table import PROFILES
from koii_p2p.settlement.layouts import LayoutError, decode_task
from koii_p2p.testnets.chaos import NAMED, read_chaos
from koii_p2p.testnets.chaos_service import ask_for_chaos
from koii_p2p.testnets.down import take_down
from koii_p2p.testnets.evidence import Evidence, load_evidence
from koii_p2p.testnets.folder import NetFolder, State
from koii_p2p.testnets.node_client import NodeClient
from koii_p2p.testnets.outcome import Outcome, outcome_json
from koii_p2p.testnets.run import Run, outcome_from, read_running, read_saved, run_testnet
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
        typer.Option("--profile", help=f"How work is audited: {', '.join(PROFILES)}. hardened."),
    ] = None,
    sealed: Annotated[
        bool | None,
        typer.Option(
            "--sealed/--open", help="Ballots sealed first and revealed later, or open ones. --open."
        ),
    ] = None,
    task_network: Annotated[
        bool | None,
        typer.Option(
            "--task-network",
            help="Let the task reach the network, other nodes' REST too, if its config-task.yml asks for it.",
        ),
    ] = None,
    trace: Annotated[
        bool | None,
        typer.Option(
            "--trace",
            help="Have each node write when it signs and first hears each record: DIR/node-00/trace.jsonl.",
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
    settings = settings_of(ctx)
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
        "task_network": task_network,
        "trace": trace,
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
            found["network"] = dict(run.network)
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
                        topology,
                        place,
                        _environment(),
                        view,
                        keep=finished if keep else None,
                        rule=partial(rule_of, topology.task),
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
    settings = settings_of(ctx)
    place = _folder(folder)
    ended = take_down(place)
    text = (
        f"ended {len(ended)} processes: {', '.join(ended)}" if ended else f"no testnet runs in {place.path}"
    )
    print_result({"ended": ended, "folder": str(place.path)}, Text(text), settings.output)


@app.command("status")
def status(ctx: typer.Context, folder: DirOption = None) -> None:
    """Show the processes of a testnet and, where a node answers, its rounds."""
    settings = settings_of(ctx)
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
    code: CodeOption = None,
    folder: DirOption = None,
) -> int:
    """Recompute everything again: from a testnet that runs, from what it left, or from an evidence folder.

    Lists of a task with a distribution of its own are recomputed with its code: that of --code, or where the testnet of
    the folder had it. Without it they are not recomputed, which is said, and the exit code is 1.
    """
    settings = settings_of(ctx)
    place = _folder(folder)
    if evidence is not None:
        found, where = load_evidence(evidence, Limits()), None
    else:
        state = place.read()
        running = place.is_held() and state is not None
        found = trio.run(read_running, place, state) if running and state is not None else read_saved(place)
        where = None if state is None or state.code is None else Path(state.code)
    outcome = trio.run(_outcome, found, where if code is None else existing(code), code is not None)
    print_result(outcome_json(outcome), outcome_tables(outcome), settings.output)
    return 0 if outcome.ok else 1


async def _outcome(evidence: Evidence, code: Path | None, given: bool) -> Outcome:
    """Check evidence, with the task's code if it is there; `given` is whether the path is an operator's word."""
    task = evidence.chain.task
    if code is None or not (given or code.exists()):
        return outcome_from(evidence)
    try:
        terms = decode_task(task, evidence.chain.task_account.data, vault=0).terms
    except LayoutError:
        return outcome_from(evidence)  # which says what is wrong with the account
    return await with_rule(code, terms, partial(outcome_from, replace(evidence, own_distribution=False)))


@app.command("chaos")
def chaos(
    ctx: typer.Context,
    what: Annotated[
        str, typer.Argument(metavar="NAME|FILE", help=f"A TOML file of steps, or: {', '.join(NAMED)}.")
    ],
    folder: DirOption = None,
) -> None:
    """Kill nodes, cut the network and heal it, in a testnet that goes on (`testnet up --keep`); says what it does.

    What was done is undone at the end, and on Ctrl-C. `testnet check` says afterwards whether all rounds are well.
    """
    settings = settings_of(ctx)
    place = _folder(folder)
    state = place.read()
    if state is None:
        raise _no_testnet(place)
    text = NAMED[what](len(state.nodes)) if what in NAMED else read_chaos(Path(what))
    counts: dict[str, Any] = {}

    async def play() -> None:
        async with aclosing(ask_for_chaos(place, text)) as told:
            async for found in told:
                if "note" in found:
                    print(found["note"], file=sys.stderr, flush=True)
                counts.update(found.get("counts", {}))

    trio.run(play)
    shown = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in counts.items() if count)
    print_result(
        {"counts": counts}, Text(f"done; so far there were {shown or 'no troubles'}"), settings.output
    )


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
