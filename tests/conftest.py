"""What all tests share: no time limits, and which stay in one process where several run (`pytest -n 2`)."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, settings

# How long an example takes depends on what else the machine does.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")

TOGETHER = {
    "tests/e2e/test_bad_input.py": "port 8899",  # which `join --cluster local` and the documents name
    "tests/e2e/test_documents.py": "port 8899",
    "tests/interop/": "packages of npm",  # installed once, into a folder that all runs share
}
"""What shares more than the fixtures of a file, by how its path begins; every other file stays together by itself."""


def group_of(test: str) -> str:
    """The group of a test by its id: those of one group run one after the other, in one process."""
    file = test.partition("::")[0]
    return next((group for start, group in TOGETHER.items() if file.startswith(start)), file)


@pytest.hookimpl(optionalhook=True)  # a hook of pytest-xdist
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    from xdist.scheduler import LoadScopeScheduling

    class ByGroup(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return group_of(nodeid)

    return ByGroup(config, log)
