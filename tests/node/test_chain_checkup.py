from __future__ import annotations

import time

import base58
import pytest
import trio

from koii_p2p.localk2 import LocalK2Address
from koii_p2p.node.chain_checkup import (
    Chain,
    chain_findings,
    judge_balance,
    judge_chain,
    judge_clock,
    judge_nodes,
    look_at_chain,
)
from koii_p2p.node.checkup import Level
from koii_p2p.settlement.rpc import NodeReport, RpcClient
from tests.localk2.conftest import client, k2  # noqa: F401 - fixtures

GENESIS, OTHER = bytes([1]) * 32, bytes([2]) * 32
WELL = NodeReport("http://a", GENESIS, 1000, None)
ILL = NodeReport("http://b", None, None, "It does not answer.")


async def test_a_real_k2_is_well_and_the_wallet_is_empty(k2: LocalK2Address) -> None:  # noqa: F811
    wallet = bytes([9]) * 32
    async with RpcClient(k2.url) as rpc:
        while await rpc.get_slot() < 2:
            await trio.sleep(0.01)
        found = await chain_findings(rpc, wallet, None, starts_one=False)
        assert [(one.check, one.level) for one in found] == [
            ("K2", Level.OK),
            ("clock", Level.OK),
            ("balance", Level.WARNING),
        ]
        assert base58.b58encode(wallet).decode() in found[2].what
        chain = await look_at_chain(rpc, wallet, lambda: time.time() + 7200)
        assert chain.block_seconds is not None
        skewed = judge_clock(chain)
    assert skewed is not None
    assert skewed.level is Level.ERROR
    assert "ahead of" in skewed.what


async def test_where_no_k2_is_that_is_all_that_is_found() -> None:
    async with RpcClient("http://127.0.0.1:1") as rpc:
        [found] = await chain_findings(rpc, bytes(32), None, starts_one=False)
        assert found.level is Level.ERROR
        assert "http://127.0.0.1:1" in found.what
        [found] = await chain_findings(rpc, bytes(32), None, starts_one=True)
    assert found.level is Level.WARNING
    assert "starts a local K2" in found.remedy


async def test_the_time_of_a_block_is_unix_time_and_that_of_a_future_one_is_none(client: RpcClient) -> None:  # noqa: F811
    while (slot := await client.get_slot()) < 1:
        await trio.sleep(0.01)
    found = await client.get_block_time(slot)
    assert found is not None
    assert 0 <= time.time() - found < 3600
    assert await client.get_block_time(slot + 10**6) is None


def test_one_node_of_several_may_be_ill_but_not_all() -> None:
    assert [one.level for one in judge_nodes([WELL, ILL], starts_one=False)] == [Level.OK, Level.WARNING]
    assert [one.level for one in judge_nodes([ILL], starts_one=False)] == [Level.ERROR]
    assert [one.level for one in judge_nodes([], starts_one=False)] == [Level.ERROR]


def test_a_node_behind_and_a_node_of_another_chain_are_found() -> None:
    behind = NodeReport("http://c", GENESIS, 100, None)
    found = list(judge_nodes([WELL, behind], starts_one=False))
    assert "900 slots behind" in found[1].what
    stranger = NodeReport("http://d", OTHER, 1000, None)
    assert "different chains" in list(judge_nodes([WELL, stranger], starts_one=False))[-1].what
    assert list(judge_chain([WELL], base58.b58encode(GENESIS).decode())) == []
    assert list(judge_chain([WELL], None)) == []
    assert list(judge_chain([ILL], base58.b58encode(OTHER).decode())) == []
    [finding] = judge_chain([WELL], base58.b58encode(OTHER).decode())
    assert finding.level is Level.WARNING


@pytest.mark.parametrize(
    ("skew", "level", "word"),
    [
        (0, Level.OK, "behind"),
        (-29, Level.OK, "behind"),
        (31, Level.WARNING, "ahead of"),
        (-31, Level.WARNING, "behind"),
        (-4000, Level.ERROR, "behind"),
    ],
)
def test_the_clock_beside_a_block(skew: int, level: Level, word: str) -> None:
    found = judge_clock(Chain((WELL,), 1_000_000, 1_000_000.2 + skew))
    assert found is not None
    assert (found.level, word in found.what) == (level, True)
    assert judge_clock(Chain((WELL,))) is None


def test_a_wallet_that_can_pay_and_one_that_cannot() -> None:
    rich, poor = (
        judge_balance(Chain((WELL,), balance=10**9), bytes(32)),
        judge_balance(Chain((WELL,), balance=5), bytes(32)),
    )
    assert rich is not None
    assert poor is not None
    assert (rich.level, poor.level) == (Level.OK, Level.WARNING)
    assert "1.000000000 KOII" in rich.what
    assert "0.000000005 KOII" in poor.what
    assert judge_balance(Chain((WELL,)), bytes(32)) is None
