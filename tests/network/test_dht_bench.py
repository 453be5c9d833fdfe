"""The benchmark of the DHT measures a net that works, and compares what both nets can do."""

from __future__ import annotations

from scripts.bench.dht import Figure, figures, ratio, run_ours


async def test_a_small_net_of_ours_does_all_operations() -> None:
    result = await run_ours(4, 4)
    found = figures([result])
    assert set(found) == {"put", "get", "provide", "find"}
    assert all(one.done == 1.0 and one.cpu_ms > 0 and 0 < one.p50_ms <= one.p99_ms for one in found.values())


def test_ratios_are_of_the_operations_that_both_have() -> None:
    ours = {"put": Figure(2, 4, 10, 1), "get": Figure(2, 4, 30, 1), "find": Figure(2, 4, 1, 1)}
    theirs = {"put": Figure(4, 4, 20, 1), "get": Figure(1, 4, 20, 1)}
    assert ratio(ours, theirs, "cpu_ms") == 1.0
    assert ratio(ours, {}, "cpu_ms") is None
