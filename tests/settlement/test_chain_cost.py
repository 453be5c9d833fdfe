"""The benchmark of what a round costs on the chain counts what it says, and executes it."""

from __future__ import annotations

import pytest

from scripts.bench.chain_cost import LOCAL_FEE, measure, table

NODES = 12


@pytest.fixture(scope="module")
def measured() -> dict:  # type: ignore[type-arg]
    return measure(NODES)


def test_an_honest_round_is_executed_in_full(measured: dict) -> None:  # type: ignore[type-arg]
    for scheme, purposes in measured["schemes"].items():
        honest = purposes["honest round"]
        assert honest["executed"] == honest["transactions"], scheme
        assert honest["fee_local"] == LOCAL_FEE * honest["signatures"]


def test_the_numbers_of_transactions_are_those_of_the_schemes(measured: dict) -> None:  # type: ignore[type-arg]
    honest = {name: one["honest round"]["transactions"] for name, one in measured["schemes"].items()}
    pieces = 2  # 12 amounts take between 509 and 1016 bytes
    assert honest == {
        "program": 2,
        "memo": 2,
        "koii-task, roots only": 2,
        "koii-task, native payout": 1 + pieces + 1 + 1,
        "koii": NODES + pieces + 1 + 1,
    }
    claims = {
        name: one["claims"]["transactions"] for name, one in measured["schemes"].items() if "claims" in one
    }
    assert claims == dict.fromkeys(("program", "koii-task, native payout", "koii"), NODES)


def test_the_table_shows_every_figure(measured: dict) -> None:  # type: ignore[type-arg]
    lines = table([measured]).splitlines()
    assert len(lines) == 2 + sum(len(one) for one in measured["schemes"].values())
    assert len({line.count("|") for line in lines}) == 1
