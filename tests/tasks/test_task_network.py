from __future__ import annotations

from pathlib import Path

import pytest
import structlog

from koii_p2p.errors import ConfigurationError
from koii_p2p.tasks.task_network import asks_for_internet, may_reach_internet

EXAMPLE = Path(__file__).parents[2] / "examples" / "hello_world"


def test_only_koiis_requirement_asks_for_the_internet(tmp_path: Path) -> None:
    assert not asks_for_internet(EXAMPLE)
    assert not asks_for_internet(tmp_path)  # no config-task.yml
    text = (EXAMPLE / "config-task.yml").read_text()
    asking = text.replace(
        "requirementsTags:\n", 'requirementsTags:\n  - type: ADDON\n    value: "REQUIRE_INTERNET"\n'
    )
    assert asking != text
    (tmp_path / "config-task.yml").write_text(asking)
    assert asks_for_internet(tmp_path)
    assert asks_for_internet(tmp_path / "task.py")
    (tmp_path / "config-task.yml").write_text(asking.replace("REQUIRE_INTERNET", "ORCA_TASK"))
    assert not asks_for_internet(tmp_path)
    (tmp_path / "config-task.yml").write_text("round_time: [")
    with pytest.raises(ConfigurationError):
        asks_for_internet(tmp_path)


def test_the_internet_takes_the_tasks_wish_and_the_operators_consent(tmp_path: Path) -> None:
    text = (EXAMPLE / "config-task.yml").read_text()
    asking = text.replace(
        "requirementsTags:\n", 'requirementsTags:\n  - type: ADDON\n    value: "REQUIRE_INTERNET"\n'
    )
    (tmp_path / "config-task.yml").write_text(asking)
    with structlog.testing.capture_logs() as log:
        assert may_reach_internet("T", tmp_path, allowed=True)
        assert not may_reach_internet("T", EXAMPLE, allowed=True)
        assert log == []
        assert not may_reach_internet("T", tmp_path, allowed=False)
        assert [line["task"] for line in log] == ["T"], "that it asks in vain is said"
    (tmp_path / "config-task.yml").write_text("round_time: [")
    assert not may_reach_internet("T", tmp_path, allowed=False), "who allows nothing need not read it"
    with pytest.raises(ConfigurationError):
        may_reach_internet("T", tmp_path, allowed=True)
