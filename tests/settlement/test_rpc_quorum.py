"""What a quorum says, whatever a minority does: properties of the merges."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from koii_p2p.settlement.rpc import RpcClient
from koii_p2p.settlement.rpc_nodes import highest_of_quorum
from koii_p2p.settlement.rpc_replies import COMMITMENT_RANK, Commitment, SignatureStatus, agreed_statuses

from .test_rpc import SIGNATURE, Node, result

LEVELS: tuple[Commitment, ...] = ("processed", "confirmed", "finalized")


@st.composite
def honest_and_lying(draw: st.DrawFn) -> tuple[list[int], list[int], int]:
    """Slots of a majority of honest nodes, what the others claim, and the quorum."""
    liars = draw(st.integers(0, 4))
    honest = draw(st.lists(st.integers(0, 10**6), min_size=liars + 1, max_size=liars + 1))
    lies = draw(st.lists(st.integers(0, 2**64 - 1), min_size=liars, max_size=liars))
    return honest, lies, liars + 1


@given(honest_and_lying(), st.randoms(use_true_random=False))
def test_no_minority_moves_the_slot_beyond_what_honest_nodes_say(
    said: tuple[list[int], list[int], int], order: object
) -> None:
    honest, lies, quorum = said
    together = honest + lies
    order.shuffle(together)  # type: ignore[attr-defined]
    assert min(honest) <= highest_of_quorum(together, quorum) <= max(honest)


STATUSES = st.none() | st.builds(
    SignatureStatus, st.integers(0, 3), st.sampled_from(LEVELS), st.sampled_from([None, "AccountInUse"])
)


@given(st.sampled_from(LEVELS), st.integers(0, 3), st.lists(STATUSES, max_size=3), st.data())
def test_no_minority_makes_up_hides_or_settles_a_transaction(
    level: Commitment, slot: int, lies: list[SignatureStatus | None], data: st.DataObject
) -> None:
    """All honest nodes know it at `slot`, some less settled than others."""
    quorum = len(lies) + 1
    ranks = data.draw(st.lists(st.integers(0, COMMITMENT_RANK[level]), min_size=quorum, max_size=quorum))
    honest: list[SignatureStatus | None] = [SignatureStatus(slot, LEVELS[rank], None) for rank in ranks]
    together = data.draw(st.permutations(honest + lies))
    (found,) = agreed_statuses([[one] for one in together], quorum)
    assert found is not None
    assert (found.slot, found.err) == (slot, None)
    # Never more settled than an honest node says, never less than the least of them.
    assert min(ranks) <= COMMITMENT_RANK[found.commitment] <= max(ranks)


@given(st.lists(STATUSES, max_size=3))
def test_what_no_honest_node_knows_is_not_known(lies: list[SignatureStatus | None]) -> None:
    honest: list[SignatureStatus | None] = [None] * (len(lies) + 1)
    assert agreed_statuses([[one] for one in honest + lies], len(lies) + 1) == [None]


def test_statuses_are_agreed_one_by_one_in_their_order() -> None:
    here, there = SignatureStatus(5, "confirmed", None), SignatureStatus(6, "confirmed", None)
    told = [[here, None, there], [here, there, None], [None, here, there]]
    assert agreed_statuses(told, 2) == [here, None, there]


LANDED = {"slot": 9, "confirmations": 1, "err": None, "confirmationStatus": "confirmed"}


@pytest.mark.parametrize(
    ("said", "unknown"),
    [
        ([(50, None), (50, None), (50, None)], True),
        ([(50, None), (49, None), (50, None)], True),
        ([(50, None), (49, None), (49, None)], False),
        ([(49, None), (49, None), (49, None)], False),
        ([(50, None), (50, LANDED), (50, None)], True),
        ([(50, None), (50, LANDED), (20, None)], False),
        ([(50, LANDED), (50, LANDED), (50, None)], False),
    ],
    ids=["all", "one behind", "two behind", "all behind", "a liar", "a liar and one behind", "it landed"],
)
async def test_only_a_quorum_that_has_come_so_far_can_miss_a_transaction(
    said: list[tuple[int, Any]], unknown: bool, nursery: trio.Nursery
) -> None:
    nodes = [
        await nursery.start(Node(result({"context": {"slot": slot}, "value": [status]})).run)
        for slot, status in said
    ]
    async with RpcClient([node.url for node in nodes]) as client:
        assert await client.is_unknown(SIGNATURE, 50) is unknown
    nursery.cancel_scope.cancel()


async def test_height_and_slot_are_those_of_one_answer(nursery: trio.Nursery) -> None:
    told = [(100, 160), (90, 190), (95, 155)]
    nodes = [
        await nursery.start(Node(result({"blockHeight": height, "absoluteSlot": slot})).run)
        for height, slot in told
    ]
    async with RpcClient([node.url for node in nodes]) as client:
        assert await client.get_finalized() == (95, 155)
    nursery.cancel_scope.cancel()
