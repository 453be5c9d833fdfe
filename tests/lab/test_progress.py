"""How far runs are is told, and changes nothing of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from koii_p2p.cli.lab_progress import LabProgress
from koii_p2p.lab.engines import play
from koii_p2p.lab.experiment import Experiment, Job
from koii_p2p.lab.progress import Told, nobody, now_and_then
from koii_p2p.lab.runs import run_into
from koii_p2p.lab.scenario import EngineKind, Network, Protocol, Scenario, Transport
from koii_p2p.lab.workers import Played, Processes, ThisProcess
from tests.lab.small import small


@pytest.mark.parametrize("engine", [EngineKind.EXACT, EngineKind.FAST])
def test_engines_say_how_far_they_are_and_come_to_the_same(engine: EngineKind) -> None:
    scenario = Scenario(
        rounds=2,
        engine=engine,
        network=Network(nodes=5, degree=4),
        protocol=Protocol(transport=Transport.DIRECT, presence_seconds=0.0),
    )
    said: list[float] = []
    told, alone = play(scenario, 1, said.append), play(scenario, 1)
    assert (told.digest, told.events) == (alone.digest, alone.events)
    assert said == sorted(said)
    assert said[0] <= 0.5 < said[-1] <= 1.0
    # Nothing for each event: once a slot at most, and these runs have some hundred.
    assert len(said) < max(10, told.events)
    assert len(said) <= 600


def test_whoever_waits_is_told_twice_a_second_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([0.0, 0.1, 0.6, 0.7, 1.2])
    monkeypatch.setattr("koii_p2p.lab.progress.time.monotonic", lambda: next(now))
    said: list[float] = []
    tell = now_and_then(said.append)
    for share in (0.1, 0.2, 0.3, 0.4):
        tell(share)
    assert said == [0.2, 0.4]


def test_processes_say_how_far_their_runs_are() -> None:
    experiment = small(rounds=1, seeds=1)
    said: list[float] = []
    played = list(Processes(2).play(experiment, experiment.jobs, said.append))
    assert len(played) == 2
    # The last thing an engine says of a run is that all of it is played.
    assert max(said) >= 1.0
    assert all(0.0 <= share <= len(experiment.jobs) for share in said)


def test_what_is_under_way_counts_as_far_as_it_is(tmp_path: Path) -> None:
    class Slow:
        def play(self, experiment: Experiment, jobs: Sequence[Job], told: Told = nobody) -> Iterator[Played]:
            for place, one in enumerate(ThisProcess().play(experiment, jobs)):
                told(0.25 * (place + 1))
                yield one

    seen: list[tuple[float, int, Job | None]] = []
    run_into(tmp_path / "run", small(seeds=1), Slow(), lambda *told: seen.append(told))
    assert seen == [(0, 2, None), (0.25, 2, None), (1, 2, Job(0, 1)), (1.5, 2, None), (2, 2, Job(1, 1))]


def test_one_long_run_in_a_pipe(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([0.0, 0.0, 2.0, 60.0, 61.0, 120.0, 240.0])
    monkeypatch.setattr("koii_p2p.cli.lab_progress.time.monotonic", lambda: next(now))
    progress = LabProgress(small(), terminal=False)
    progress(0, 1, None)
    progress(0.01, 1, None)  # two seconds later: not told
    progress(0.25, 1, None)
    progress(0.26, 1, None)
    progress(0.5, 1, None)
    progress(1, 1, Job(0, 1))
    assert capsys.readouterr().err.splitlines() == [
        "small: 0 of 1 runs have ended",
        "small: 0 of 1 runs have ended; 25 % is played; about 3 min 0 s left",
        "small: 0 of 1 runs have ended; 50 % is played; about 2 min 0 s left",
        "small: 1 of 1 runs have ended; koii-today, seed 1",
    ]


def test_runs_that_are_half_over_have_not_ended(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = iter([0.0, 0.0, 100.0, 101.0, 200.0, 201.0])
    monkeypatch.setattr("koii_p2p.cli.lab_progress.time.monotonic", lambda: next(now))
    progress = LabProgress(small(), terminal=False)
    progress(0, 4, None)
    progress(1.2, 4, None)  # two of them, each at 60 %
    for done in (4.0, 4.0, 4.0):
        progress(done, 4, None)  # all time has passed, and none has ended
    assert capsys.readouterr().err.splitlines()[1:] == [
        "small: 0 of 4 runs have ended; 30 % is played; about 3 min 53 s left",
        "small: 0 of 4 runs have ended; 99 % is played",
    ]
