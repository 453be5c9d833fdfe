from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from koii_p2p.errors import CheckFailed, ConfigurationError, NetworkError
from koii_p2p.lab import workers
from koii_p2p.lab.experiment import Job
from koii_p2p.lab.runs import findings_of
from koii_p2p.lab.workers import Cluster, Processes, ThisProcess, play_part
from tests.lab.small import small

SWEPT = {"rounds": 1, "protocol__reconcile_peers": [1, 2]}


def test_runs_are_handed_out_a_few_at_a_time() -> None:
    class Pool:
        def __init__(self) -> None:
            self.most = 0

        def submit(self, job: Job) -> object:
            return Given(job)

    class Given:
        def __init__(self, job: Job) -> None:
            self.job = job

        def result(self) -> Job:
            return self.job

    pool, jobs = Pool(), [Job(0, seed) for seed in range(50)]

    def first_of(running: list[Given]) -> set[Given]:
        pool.most = max(pool.most, len(running))
        return set(running[1:2] or running[:1])

    found = list(workers._handed_out(jobs, pool.submit, first_of, 4))  # type: ignore[arg-type]
    assert sorted(job.seed for job, _ in found) == list(range(50))
    assert all(job == played for job, played in found)
    assert pool.most == 4


def test_processes_come_to_the_same_bytes_as_one() -> None:
    experiment = small(**SWEPT)
    alone = findings_of(experiment, ThisProcess().play(experiment, experiment.jobs))
    several = findings_of(experiment, Processes(2).play(experiment, experiment.jobs))
    assert several.digests == alone.digests
    assert alone.rounds.height == 2 * 2 * 2


def test_a_process_that_is_killed_is_an_error_that_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = small(rounds=1)
    monkeypatch.setattr(workers, "play_part", _die)
    with pytest.raises(CheckFailed, match="the same command goes on"):
        list(Processes(1).play(experiment, experiment.jobs))


def _die(_table: object, _seed: int, _told: object) -> None:
    os._exit(9)


def test_what_an_engine_refuses_is_said_by_name() -> None:
    experiment = small(network__churn__per_minute=1.0)
    with pytest.raises(ConfigurationError, match="churn"):
        list(Processes(1).play(experiment, experiment.jobs))


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, host="127.0.0.1"
    ) as local:
        yield local.scheduler_address


@pytest.mark.slow
def test_a_dask_cluster_comes_to_the_same_bytes_as_one_process(cluster: str) -> None:
    experiment = small(**SWEPT)
    alone = findings_of(experiment, ThisProcess().play(experiment, experiment.jobs))
    spread = findings_of(experiment, Cluster(cluster).play(experiment, experiment.jobs))
    assert spread.digests == alone.digests


@pytest.mark.slow
def test_workers_with_other_code_are_refused(cluster: str, monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = small(rounds=1)
    monkeypatch.setattr(workers, "code_digest", lambda: str(os.getpid()))  # another one in each process
    with pytest.raises(ConfigurationError, match="its code is not the code of this process"):
        list(Cluster(cluster).play(experiment, experiment.jobs))


def test_a_cluster_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("distributed")
    monkeypatch.setattr(workers, "_CONNECT_SECONDS", 1)
    experiment = small(rounds=1)
    with pytest.raises(NetworkError, match="dask scheduler"):
        list(Cluster("tcp://127.0.0.1:9").play(experiment, experiment.jobs))


def test_a_part_says_who_played_it() -> None:
    experiment = small(rounds=1)
    table = workers._tables(experiment)[0]
    part = play_part(table, 3)
    assert part.code == workers.code_digest()
    assert part.seconds > 0
    assert part.digest == play_part(table, 3).digest != play_part(table, 4).digest
