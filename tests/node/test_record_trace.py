"""The trace of a node's records: what it notes, that it is bounded, and that its troubles cost nothing else."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import trio
from structlog.testing import capture_logs

from koii_p2p.cli.join import make_missing_keys
from koii_p2p.errors import ConfigurationError
from koii_p2p.lab.traces import read_trace
from koii_p2p.limits import Limits
from koii_p2p.network.settings import NetworkSettings
from koii_p2p.node.node import Node, NodeSettings
from koii_p2p.node.record_trace import RecordTrace
from koii_p2p.records.schema import Presence, Submission
from koii_p2p.records.sightings import Way
from koii_p2p.storage.home import Home
from tests.network.nets import until
from tests.rounds.net import key, say, secret

OWN = say(secret(0), Submission("done"), 4, 130, 130)
HEARD = say(secret(1), Submission("done"), 4, 130, 130)
PRESENCE = say(secret(1), Presence(("/ip4/127.0.0.1/tcp/1",), 0, "", 0), 4, 130, 130)
LIMITS = Limits()


def trace_in(folder: Path, limits: Limits = LIMITS) -> RecordTrace:
    return RecordTrace(folder / "trace.jsonl", key(0), limits)


def lines_in(folder: Path) -> list[bytes]:
    return (folder / "trace.jsonl").read_bytes().splitlines()


def test_records_of_rounds_are_noted_with_their_time_and_way(tmp_path: Path) -> None:
    before = time.time_ns() // 1000
    with trace_in(tmp_path) as trace:
        trace.note(OWN, None)
        trace.note(HEARD, Way.RECONCILIATION)
    after = time.time_ns() // 1000
    signed, heard = read_trace(tmp_path / "trace.jsonl")
    assert before <= signed.us <= heard.us <= after
    assert (signed.record_id, signed.way) == (OWN.id, None)
    assert (heard.record_id, heard.way) == (HEARD.id, Way.RECONCILIATION)
    assert (heard.kind, heard.round, heard.size) == (HEARD.kind, 4, len(HEARD.raw))
    assert os.stat(tmp_path / "trace.jsonl").st_mode & 0o077 == 0


def test_presences_and_own_words_of_others_are_not_noted(tmp_path: Path) -> None:
    with trace_in(tmp_path) as trace:
        trace.note(PRESENCE, Way.GOSSIP)
        trace.note(PRESENCE, None)
        trace.note(OWN, Way.GOSSIP)
    assert lines_in(tmp_path) == []


def test_a_node_that_starts_again_goes_on_in_its_file(tmp_path: Path) -> None:
    for record in (HEARD, OWN):
        with trace_in(tmp_path) as trace:
            trace.note(record, Way.GOSSIP if record is HEARD else None)
    assert [one.record_id for one in read_trace(tmp_path / "trace.jsonl")] == [HEARD.id, OWN.id]


async def test_lines_are_written_together_while_the_node_runs(tmp_path: Path) -> None:
    with trace_in(tmp_path) as trace:
        async with trio.open_nursery() as nursery:
            await nursery.start(trace.run)
            trace.note(OWN, None)
            trace.note(HEARD, Way.GOSSIP)
            assert lines_in(tmp_path) == []
            await until(lambda: len(lines_in(tmp_path)) == 2)
            nursery.cancel_scope.cancel()


def test_a_full_file_ends_the_trace_with_one_warning(tmp_path: Path) -> None:
    with trace_in(tmp_path) as trace:
        trace.note(OWN, None)
    (line,) = lines_in(tmp_path)
    # Room for one more that is heard, and for a shorter one after it.
    limits = replace(LIMITS, trace_bytes=2 * len(line) + 40)
    with capture_logs() as logs, trace_in(tmp_path, limits) as trace:
        for _ in range(3):
            trace.note(HEARD, Way.GOSSIP)
    assert [one.record_id for one in read_trace(tmp_path / "trace.jsonl")] == [OWN.id, HEARD.id]
    assert [(one["log_level"], one["event"]) for one in logs] == [
        ("warning", "the trace of records has ended; the node goes on")
    ]
    assert str(limits.trace_bytes) in logs[0]["why"]


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Let this process write no file beyond this size, as on a full disk: the rest of a write fails."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


async def test_a_disk_that_is_full_later_ends_the_trace_and_nothing_else(tmp_path: Path) -> None:
    with trace_in(tmp_path) as trace:
        trace.note(OWN, None)
    room = len((tmp_path / "trace.jsonl").read_bytes()) * 5 // 2
    with capture_logs() as logs, trace_in(tmp_path) as trace:
        for _ in range(4):
            trace.note(OWN, None)
        with largest_file(room), trio.fail_after(20):
            await trace.run()  # returns: there is nothing to write any more
        trace.note(HEARD, Way.GOSSIP)
    assert [one.record_id for one in read_trace(tmp_path / "trace.jsonl")] == [OWN.id] * 2
    assert [one["why"] for one in logs] == ["File too large"]


def test_without_a_file_nothing_is_noted() -> None:
    with RecordTrace(None, key(0), LIMITS) as trace:
        trace.note(OWN, None)
        trio.run(trace.run)  # returns: there is nothing to write


@pytest.mark.parametrize("name", ["folder", "pipe", "missing/trace.jsonl"])
def test_a_file_that_cannot_be_written_is_an_error_at_the_start(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ConfigurationError) as caught:
        RecordTrace(tmp_path / name, key(0), LIMITS)
    assert f"{tmp_path / name} cannot be written" in caught.value.what
    assert caught.value.why
    assert caught.value.remedy


def test_a_pipe_that_is_read_is_no_file_either(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    try:
        with pytest.raises(ConfigurationError, match="no regular file"):
            RecordTrace(tmp_path / "pipe", key(0), LIMITS)
    finally:
        os.close(reader)


def test_a_node_does_not_start_without_the_trace_it_was_told_to_write(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    make_missing_keys(home)
    settings = NodeSettings(
        home, "http://127.0.0.1:1", NetworkSettings(), trace=tmp_path / "missing" / "trace.jsonl"
    )
    with pytest.raises(ConfigurationError, match="trace of records"):
        trio.run(partial(Node(settings).run))
