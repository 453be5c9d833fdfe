"""`koii-p2p lab`: experiments in virtual time, from a question to a report."""

from __future__ import annotations

import os
from collections.abc import Sequence
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from rich.console import Group, RenderableType
from rich.text import Text

from koii_p2p.cli.lab_progress import LabProgress
from koii_p2p.cli.output import print_result, table
from koii_p2p.cli.settings import settings_of
from koii_p2p.errors import ConfigurationError
from koii_p2p.lab.experiment import (
    Experiment,
    bundled,
    experiment_of,
    find,
    read_experiment,
    settings_given,
    shown,
    with_settings,
)
from koii_p2p.lab.scenario_file import read_table

if TYPE_CHECKING:
    from koii_p2p.lab.runs import Findings
    from koii_p2p.lab.workers import Workers

_NEEDED: Final = ("numpy", "scipy", "polars", "matplotlib")
_RUNS: Final = "lab-runs"

app = typer.Typer()


class EngineName(StrEnum):
    """What plays a scenario."""

    EXACT = "exact"
    FAST = "fast"


ScenarioArgument = Annotated[
    str, typer.Argument(metavar="SCENARIO", help="The name of a scenario of `lab list`, or a TOML file.")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="NAME=VALUE", help="Another value of a setting, by dotted name; repeatable."
    ),
]
EngineOption = Annotated[
    EngineName | None,
    typer.Option("--engine", help="exact: the nodes' own code at every node; fast: arrays, for large nets."),
]
SeedsOption = Annotated[int | None, typer.Option("--seeds", min=1, help="How often each arm is played.")]
RoundsOption = Annotated[int | None, typer.Option("--rounds", min=1, help="Audited rounds of each run.")]
OutOption = Annotated[
    Path | None, typer.Option("--out", "-o", metavar="FOLDER", help=f"The run folder: {_RUNS}/NAME.")
]
ProcessesOption = Annotated[
    int | None, typer.Option("--processes", "-p", min=1, max=1024, help="Runs at a time: one a processor.")
]
SchedulerOption = Annotated[
    str | None,
    typer.Option("--scheduler", metavar="ADDRESS", help="Play on the Dask cluster with this scheduler."),
]
FolderArgument = Annotated[Path, typer.Argument(metavar="FOLDER", help="A run folder.")]


@app.callback()
def lab() -> None:
    """Experiments with thousands of simulated nodes: the nodes' own protocol code, in virtual time."""


@app.command("list")
def list_scenarios(ctx: typer.Context) -> None:
    """List the scenarios that come with the package."""
    form = settings_of(ctx).output
    found = [read_experiment(name) for name in bundled()]
    data = [
        {
            "name": one.name,
            "title": one.title,
            "question": one.question,
            "engine": one.arms[0].scenario.engine.value,
            "arms": len(one.arms),
            "seeds": one.arms[0].scenario.seeds,
        }
        for one in found
    ]
    rows = [
        (
            one.name,
            one.arms[0].scenario.engine.value,
            f"{len(one.arms)} x {one.arms[0].scenario.seeds}",
            one.title,
        )
        for one in found
    ]
    print_result(data, table(("scenario", "engine", "arms x seeds", "what it is about"), rows), form)


@app.command("show")
def show(ctx: typer.Context, scenario: ScenarioArgument) -> None:
    """Show a scenario: its question, what theory says about it, its arms, and its file."""
    file = find(scenario)
    experiment = experiment_of(read_table(file))
    text = file.read_text()
    parts: list[RenderableType] = [Text(experiment.title, style="bold"), Text()]
    if experiment.question:
        parts += [Text(f"Question: {experiment.question}"), Text()]
    if experiment.closed_form:
        parts += [Text(f"Theory: {experiment.closed_form}"), Text()]
    if len(experiment.arms) > 1:
        arms = [
            (arm.name, arm.about or ", ".join(f"{n} = {shown(v)}" for n, v in arm.settings))
            for arm in experiment.arms
        ]
        parts += [table(("arm", "what is different in it"), arms[:_SHOWN_ARMS])]
        if len(arms) > _SHOWN_ARMS:
            parts.append(Text(f"and {len(arms) - _SHOWN_ARMS} more"))
        parts.append(Text())
    parts += [Text(f"{file}:", style="bold"), Text(text)]
    print_result({"file": str(file), **experiment.table}, Group(*parts), settings_of(ctx).output)


_SHOWN_ARMS: Final = 40


@app.command("run")
def run(
    ctx: typer.Context,
    scenario: ScenarioArgument,
    settings: SetOption = None,
    engine: EngineOption = None,
    seeds: SeedsOption = None,
    rounds: RoundsOption = None,
    out: OutOption = None,
    processes: ProcessesOption = None,
    scheduler: SchedulerOption = None,
) -> None:
    """Play a scenario, and write a run folder: Parquet tables, plots, and one HTML report.

    A run that was interrupted goes on where it was when the same command is given again.
    """
    given = [settings_given(one) for one in settings or []]
    for name, values in given:
        if len(values) > 1:
            raise ConfigurationError(
                f"`{name}` has several values.",
                "`lab run` plays one.",
                "Use `koii-p2p lab sweep` for several.",
            )
    experiment = _experiment(scenario, given, engine, seeds, rounds)
    _play(ctx, experiment, out, processes, scheduler)


@app.command("sweep")
def sweep(
    ctx: typer.Context,
    scenario: ScenarioArgument,
    settings: SetOption = None,
    engine: EngineOption = None,
    seeds: SeedsOption = None,
    rounds: RoundsOption = None,
    out: OutOption = None,
    processes: ProcessesOption = None,
    scheduler: SchedulerOption = None,
) -> None:
    """Play a scenario with every combination of several values: --set protocol.auditors=1,2,3.

    Everything else is as in `lab run`.
    """
    given = [settings_given(one) for one in settings or []]
    experiment = _experiment(scenario, given, engine, seeds, rounds)
    if not experiment.axes:
        raise ConfigurationError(
            "There is nothing to sweep over.",
            "No setting has several values.",
            "Add one with --set, such as --set protocol.auditors=1,2,3.",
        )
    _play(ctx, experiment, out, processes, scheduler)


@app.command("report")
def report(ctx: typer.Context, folder: FolderArgument) -> None:
    """Write the plots and the report of a run folder again."""
    require_lab()
    form = settings_of(ctx).output
    from koii_p2p.lab.report import write_report
    from koii_p2p.lab.runs import load

    page = write_report(load(folder), folder)
    print_result({"report": str(page)}, Text(str(page)), form)


@app.command("compare")
def compare(
    ctx: typer.Context,
    first: Annotated[Path, typer.Argument(metavar="FOLDER", help="A run folder.")],
    second: Annotated[Path, typer.Argument(metavar="OTHER", help="Another one.")],
) -> int:
    """Compare two run folders: what differs between their experiments, and every metric of arms with the same name.

    The exit code is 1 if a metric differs by more than chance would explain.
    """
    require_lab()
    form = settings_of(ctx).output
    from koii_p2p.cli.lab_tables import comparison_table
    from koii_p2p.lab.comparison import compared, comparison_json
    from koii_p2p.lab.runs import load

    found = compared(load(first), load(second))
    print_result(comparison_json(found), comparison_table(found), form)
    return 1 if found.different else 0


@app.command("calibrate")
def calibrate(
    ctx: typer.Context,
    file: Annotated[
        Path | None, typer.Option("--file", "-f", help="A testnet's topology, such as testnet/five.toml.")
    ] = None,
    nodes: Annotated[int | None, typer.Option("--nodes", min=3, help="How many nodes: 5.")] = None,
    slot_ms: Annotated[
        int | None,
        typer.Option(
            "--slot-ms",
            help="Milliseconds of a slot. Unless given, or in --file: so many that the nodes keep up here.",
        ),
    ] = None,
    settings: SetOption = None,
    out: OutOption = None,
    processes: ProcessesOption = None,
) -> None:
    """Run a small testnet of real nodes, play the same net in the simulator, and put their numbers side by side."""
    require_lab()
    form = settings_of(ctx).output
    from koii_p2p.cli.lab_calibrate import calibrated, pairs_json, pairs_table, testnet_played, topology_of

    given = tuple((name, values[0]) for name, values in map(settings_given, settings or []))
    folder = out or Path(_RUNS) / "calibrate"
    folder.mkdir(parents=True, exist_ok=True)
    real = testnet_played(topology_of(file, nodes, slot_ms), folder)
    pairs = calibrated(real, given, folder, _workers(processes, None))
    print_result({"folder": str(folder), "metrics": pairs_json(pairs)}, pairs_table(pairs), form)


def require_lab() -> None:
    """Raise `ConfigurationError` unless the packages that experiments need are there."""
    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        raise ConfigurationError(
            "The lab is not installed.",
            f"It needs packages that are not there: {', '.join(missing)}.",
            "Install them with: pip install 'koii_p2p[lab]'",
        )


# --- what commands share


def _experiment(
    scenario: str,
    given: Sequence[tuple[str, tuple[Any, ...]]],
    engine: EngineName | None,
    seeds: int | None,
    rounds: int | None,
) -> Experiment:
    said = {"engine": None if engine is None else engine.value, "seeds": seeds, "rounds": rounds}
    flags = [(name, (value,)) for name, value in said.items() if value is not None]
    return experiment_of(with_settings(read_table(find(scenario)), [*given, *flags]))


def _play(
    ctx: typer.Context, experiment: Experiment, out: Path | None, processes: int | None, scheduler: str | None
) -> None:
    require_lab()
    form = settings_of(ctx).output
    from koii_p2p.cli.lab_tables import findings_table
    from koii_p2p.lab.report import write_report
    from koii_p2p.lab.runs import run_into

    folder = out or Path(_RUNS) / experiment.name
    with LabProgress(experiment) as progress:
        findings = run_into(folder, experiment, _workers(processes, scheduler), progress)
    page = write_report(findings, folder)
    data = {"folder": str(folder), "report": str(page), **findings_json(findings)}
    print_result(data, Group(findings_table(findings), Text(), Text(f"report: {page}")), form)


def findings_json(findings: Findings) -> dict[str, Any]:
    """The metrics of findings as JSON values."""
    return {
        "experiment": findings.experiment.name,
        "seconds": round(findings.seconds, 1),
        "metrics": findings.metrics.to_dicts(),
    }


def _workers(processes: int | None, scheduler: str | None) -> Workers:
    from koii_p2p.lab.workers import Cluster, Processes, ThisProcess

    if scheduler is not None:
        if processes is not None:
            raise typer.BadParameter("a cluster has its own workers", param_hint="--processes")
        if find_spec("distributed") is None:
            raise ConfigurationError(
                "No Dask cluster can be used.",
                "Dask is not installed.",
                "Install it with: pip install 'koii_p2p[lab]'",
            )
        return Cluster(scheduler)
    count = processes or len(os.sched_getaffinity(0))
    return ThisProcess() if count == 1 else Processes(count)
