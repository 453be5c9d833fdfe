"""The benchmark of what a round costs on the chain counts what it says, and executes it."""

from __future__ import annotations

import pytest

from scripts.bench.chain_cost import LOCAL_FEE, PAGE, measure, page, page_tables, table

NODES = 12


@pytest.fixture(scope="module")
def measured() -> dict:  # type: ignore[type-arg]
    return measure(NODES)


def test_an_honest_round_is_executed_in_full(measured: dict) -> None:  # type: ignore[type-arg]
    for scheme, purposes in measured["schemes"].items():
        honest = purposes["honest round"]
        assert honest["executed"] == honest["transactions"], scheme
        assert honest["fee_local"] == LOCAL_FEE * honest["signatures"]


def test_all_that_anybody_writes_is_executed(measured: dict) -> None:  # type: ignore[type-arg]
    """A dispute too: the second list is accepted only where the votes against the first have rejected it."""
    for scheme, purposes in measured["schemes"].items():
        for purpose, cost in purposes.items():
            written = 0 if purpose == "audits, if all 5 were written" else cost["transactions"]
            assert cost["executed"] == written, (scheme, purpose)


def test_the_page_has_the_figures() -> None:
    """Its rows of ten nodes are measured again; the others take a minute."""
    rows = [line for line in page_tables([measure(10)]).splitlines() if line.startswith("| 10 |")]
    text = PAGE.read_text()
    assert len(rows) == 4
    assert all(row in text for row in rows), "run scripts/bench/chain_cost.py --write"
    assert page(text, [measure(10)]).split("<!-- costs")[0] == text.split("<!-- costs")[0]


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
