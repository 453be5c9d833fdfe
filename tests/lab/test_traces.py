"""How records spread, by traces of nodes: the same numbers as a simulation's own, and by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from koii_p2p.errors import CheckFailed, ConfigurationError
from koii_p2p.lab.calibrate import SPREADING, spreading
from koii_p2p.lab.exact import play
from koii_p2p.lab.metrics import metrics_of
from koii_p2p.lab.result import TABLES, Frame, rows_of
from koii_p2p.lab.scenario_file import scenario_of
from koii_p2p.lab.simulated_node import SimulatedNode
from koii_p2p.lab.traces import messages_of, read_trace
from koii_p2p.limits import Limits
from koii_p2p.node.record_trace import RecordTrace
from koii_p2p.records.envelope import Verified
from koii_p2p.records.schema import Kind
from koii_p2p.records.sightings import MOST_LINE_BYTES, Sighting, Way, encode_sighting

NODES = 7


def written(folder: Path, *sightings: list[Sighting]) -> list[Path]:
    """A trace for each node."""
    files = [folder / f"node-{number:02d}.jsonl" for number in range(len(sightings))]
    for file, own in zip(files, sightings, strict=True):
        file.write_bytes(b"".join(map(encode_sighting, own)))
    return files


def seen(us: int, record: int, way: Way | None = Way.GOSSIP, round: int = 1) -> Sighting:
    return Sighting(1_000_000 + us, bytes([record]) * 32, Kind.SUBMISSION, round, 100 + record, way)


def test_traces_give_what_the_simulation_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [tmp_path / f"{number}.jsonl" for number in range(NODES)]
    traces: dict[int, RecordTrace] = {}
    keep, publish = SimulatedNode._keep, SimulatedNode.publish

    def trace_of(node: SimulatedNode) -> RecordTrace:
        if node.number not in traces:
            traces[node.number] = RecordTrace(files[node.number], node.key, Limits())
        now = 1000 * node.simulation.clock.now
        monkeypatch.setattr("koii_p2p.node.record_trace.time.time_ns", lambda: now)
        return traces[node.number]

    def kept(node: SimulatedNode, record: Verified, *, heard: bool = True) -> None:
        keep(node, record, heard=heard)
        if heard:
            trace_of(node).note(record, Way.GOSSIP)

    def published(node: SimulatedNode, record: Verified, to: frozenset[int] | None = None) -> None:
        trace_of(node).note(record, None)
        publish(node, record, to)

    monkeypatch.setattr(SimulatedNode, "_keep", kept)
    monkeypatch.setattr(SimulatedNode, "publish", published)
    scenario = scenario_of(
        {
            "rounds": 3,
            "network": {"nodes": NODES, "degree": 3, "latency": [5, 400], "loss": 0.1},
            "protocol": {"presence_seconds": 5},
            "population": {"fraudulent": 1 / NODES},
        }
    )
    found = play(scenario, 3)
    for trace in traces.values():
        trace.__exit__(None, None, None)
    every = messages_of(files, range(3))
    assert every.keys() == TABLES["messages"].keys()

    def ordered(frame: Frame) -> list[str]:
        return sorted(json.dumps(row) for row in rows_of(frame))

    assert ordered(every) == ordered(found.messages)
    assert {row["kind"] for row in rows_of(every)} >= {"SUBMISSION", "BALLOT", "COMMITMENT_NOTICE"}
    assert any(row["p50_us"] != row["last_us"] for row in rows_of(every))
    same = {one.name: one for one in spreading(files, range(3))}
    assert set(same) == set(SPREADING)
    for name in SPREADING:
        assert same[name] == found.metric(name), name
    # Rounds that do not count are left out, with all that is of them.
    of_one = spreading(files, (1,))
    rows = [row for row in rows_of(found.messages) if row["round"] == 1]
    only = {name: [row[name] for row in rows] for name in TABLES["messages"]}
    empty: dict[str, Frame] = {name: {column: [] for column in columns} for name, columns in TABLES.items()}
    assert of_one == metrics_of({**empty, "messages": only}, SPREADING)


def test_times_are_from_the_first_publication_to_the_first_sight(tmp_path: Path) -> None:
    files = written(
        tmp_path,
        [seen(0, 1, None), seen(900_000, 1, None), seen(40_000, 2)],
        [seen(2000, 1), seen(30_000, 2, None)],
        [seen(5000, 1), seen(6000, 1, Way.RECONCILIATION), seen(33_000, 2, Way.LATER)],
        [seen(8000, 1)],
    )
    first, second = rows_of(messages_of(files, range(1, 2)))
    assert first == {
        "round": 1,
        "kind": "SUBMISSION",
        "author": 0,
        "size": 101,
        "sent_us": 1_000_000,
        "reached": 3,
        "running": 3,
        "p50_us": 5000,
        "p99_us": 8000,
        "last_us": 8000,
    }
    assert (second["author"], second["reached"], second["last_us"]) == (1, 2, 10_000)
    metrics = {one.name: one for one in spreading(files, range(1, 2))}
    # Of two records the median is the lesser: 3 and 5 ms until half of the others had them.
    assert metrics["propagation_p50"].value == 3.0
    assert metrics["propagation_p99"].value == 8.0
    assert metrics["propagation_last"].value == 10.0
    assert (metrics["delivery"].value, metrics["delivery"].count) == (5 / 6, 6)


def test_what_nobody_signed_and_other_rounds_are_left_out(tmp_path: Path) -> None:
    files = written(
        tmp_path, [seen(0, 1, None), seen(0, 2, None, round=2)], [seen(5, 3), seen(5, 2, round=2)]
    )
    (row,) = rows_of(messages_of(files, (1,)))
    assert (row["size"], row["reached"], row["p50_us"]) == (101, 0, None)
    metrics = {one.name: one for one in spreading(files, (1,))}
    assert (metrics["propagation_p50"].value, metrics["delivery"].value) == (None, 0.0)


def test_a_clock_that_was_set_is_an_error(tmp_path: Path) -> None:
    files = written(tmp_path, [seen(10, 1, None)], [seen(9, 1)])
    with pytest.raises(CheckFailed, match="node 1 heard a record 1 us before node 0 signed it"):
        messages_of(files, (1,))


def test_a_last_line_without_its_end_is_passed_over_and_others_are_not(tmp_path: Path) -> None:
    (file,) = written(tmp_path, [seen(1, 1), seen(2, 2)])
    whole = file.read_bytes()
    file.write_bytes(whole[:-5])
    assert [one.us for one in read_trace(file)] == [1_000_001]
    file.write_bytes(b"torn\n" + whole)
    with pytest.raises(ConfigurationError, match="cannot be used"):
        list(read_trace(file))
    file.write_bytes(whole + b"x" * (MOST_LINE_BYTES + 1))
    with pytest.raises(ConfigurationError, match=f"more than {MOST_LINE_BYTES} bytes"):
        list(read_trace(file))
    with pytest.raises(ConfigurationError, match="No such file"):
        list(read_trace(tmp_path / "none.jsonl"))
