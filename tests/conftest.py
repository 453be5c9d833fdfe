"""What all tests share: no time limits, logs reset, and which stay in one process where several run (`pytest -n 2`)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import structlog
from hypothesis import HealthCheck, settings

# How long an example takes depends on what else the machine does.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")

TOGETHER = {
    "tests/e2e/test_bad_input.py": "port 8899",  # which `join --cluster local` and the documents name
    "tests/e2e/test_documents.py": "port 8899",
    "tests/interop/": "packages of npm",  # installed once, into a folder that all runs share
    "tests/data/collections/test_partition.py": "all processors",  # a dozen nodes at work; those that come and go
    "tests/data/test_net_of_processes.py": "all processors",
    "tests/faults/test_network_conditions.py": "all processors",
}
"""What shares more than the fixtures of a file, by how its path begins; every other file stays together by itself."""


def group_of(test: str) -> str:
    """The group of a test by its id: those of one group run one after the other, in one process."""
    file = test.partition("::")[0]
    return next((group for start, group in TOGETHER.items() if file.startswith(start)), file)


@pytest.fixture(autouse=True)
def _logs_as_they_were() -> Iterator[None]:
    """A command run inside a test sends logs to that test's stderr, which is closed when it ends."""
    yield
    structlog.reset_defaults()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Where several processes run tests, the groups that may take longest go first: none is left alone at the end."""
    if not hasattr(config, "workerinput"):
        return
    tests, seconds = Counter[str](), Counter[str]()
    for item in items:
        tests[group_of(item.nodeid)] += 1
        if (limit := item.get_closest_marker("timeout")) is not None:
            seconds[group_of(item.nodeid)] += limit.args[0]

    def first(item: pytest.Item) -> tuple[float, int, str]:
        group = group_of(item.nodeid)
        return -seconds[group], -tests[group], group

    items.sort(key=first)


@pytest.hookimpl(optionalhook=True)  # a hook of pytest-xdist
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    from xdist.scheduler import LoadScopeScheduling

    class ByGroup(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return group_of(nodeid)

    config.option.loadscopereorder = False  # they are in order
    return ByGroup(config, log)
