"""Experiments: the protocol that nodes run, among thousands of simulated ones in virtual time.

    from koii_p2p import lab

    found = lab.run("koii-today-vs-hardened", seeds=2)
    found.metrics                     # a Polars frame: each metric of each arm, with its interval and its closed form
    found.submissions                 # and rounds, nodes, votes, messages: a row for each; see `runs.Findings`
    lab.write_report(found, "report") # a folder with the page and the plots

`run` needs the packages of `pip install 'koii_p2p[lab]'`; reading scenarios does not.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from koii_p2p.lab.experiment import Experiment
    from koii_p2p.lab.runs import Findings

__all__ = ["load", "read", "run", "write_report"]


def read(
    scenario: str | Path | Mapping[str, Any],
    settings: Mapping[str, Any] | None = None,
    *,
    seeds: int | None = None,
    rounds: int | None = None,
) -> Experiment:
    """An experiment of a bundled scenario's name, a TOML file, or a table as such a file has it.

    `settings` are others by dotted name; a list is an axis: {"protocol.auditors": [1, 2, 3]}. Raises
    `ConfigurationError`.
    """
    from koii_p2p.lab.experiment import experiment_of, find, with_settings
    from koii_p2p.lab.scenario_file import read_table

    table = dict(scenario) if isinstance(scenario, Mapping) else read_table(find(str(scenario)))
    given = [
        (name, value if isinstance(value, list) else [value]) for name, value in (settings or {}).items()
    ]
    flags = {"seeds": seeds, "rounds": rounds}
    given += [(name, [value]) for name, value in flags.items() if value is not None]
    return experiment_of(with_settings(table, given))


def run(
    scenario: str | Path | Mapping[str, Any],
    settings: Mapping[str, Any] | None = None,
    *,
    seeds: int | None = None,
    rounds: int | None = None,
    processes: int = 1,
    out: str | Path | None = None,
) -> Findings:
    """Play an experiment (as `read` takes it) and return what it came to, with Polars frames.

    With `out` it is kept in that run folder as it is played, and goes on from what is there. With several `processes`
    the caller's module is imported by each: a script needs `if __name__ == "__main__":`. Raises `ConfigurationError`.
    """
    from koii_p2p.lab.runs import findings_of, run_into
    from koii_p2p.lab.workers import Processes, ThisProcess

    chosen = read(scenario, settings, seeds=seeds, rounds=rounds)
    workers = ThisProcess() if processes == 1 else Processes(processes)
    if out is not None:
        return run_into(Path(out), chosen, workers, lambda _done, _whole, _job: None)
    return findings_of(chosen, workers.play(chosen, chosen.jobs))


def load(folder: str | Path) -> Findings:
    """What is in a run folder. Raises `ConfigurationError`."""
    from koii_p2p.lab.runs import load as load_folder

    return load_folder(Path(folder))


def write_report(findings: Findings, folder: str | Path) -> Path:
    """Write the plots and the page of findings into a folder, which is made; returns the page's path."""
    from koii_p2p.lab import report

    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    return report.write_report(findings, place)
