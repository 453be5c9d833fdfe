"""What a task learns of itself through its node: real engines answer, and the worker's reader reads it."""

from __future__ import annotations

import pytest

from koii_p2p.limits import Limits
from koii_p2p.node.task_facts import TaskFacts, results, submissions
from koii_p2p.node.views import base58
from koii_p2p.settlement.interface import TaskState
from koii_p2p.tasks import facts, services
from koii_p2p.tasks.facts import Fact
from koii_p2p.tasks.frames import Request
from koii_p2p.tasks.services import Refused, TaskServices
from tests.rounds.simulation import BOUNTY, RIGHT, STAKE, TERMS, WRONG, Net


def state() -> TaskState:
    return TaskState(
        terms=TERMS, nonce=1, created_slot=1, vault=7 * BOUNTY, funded=10 * BOUNTY, paid=3 * BOUNTY, slashed=0,
        forgiven=0, total_stake=4 * STAKE, stakers=4, head=bytes(32), anchors=0, rounds={}, last_list=None,
        settled_list=None,
    )  # fmt: skip


def asked(known: TaskFacts, name: Fact, *arguments: object) -> bytes:
    def none(*_: object) -> None:
        return None

    given = TaskServices(bytes(32), bytes(32), none, none, none, none, none, fact=known)  # type: ignore[arg-type]
    found = services.answer(given, TERMS.task, Request.FACT, [name.value, *arguments], Limits())
    assert isinstance(found, bytes)
    return found


@pytest.fixture
def net() -> Net:
    made = Net(3, 1)
    made.run_until_settled(0)
    return made


@pytest.fixture
def known(net: Net) -> TaskFacts:
    made = TaskFacts()
    made.use(net.peers[0].engine, state, lambda: 0.4)
    return made


def test_the_state_of_the_task(net: Net, known: TaskFacts) -> None:
    found = facts.read_task_state(asked(known, Fact.TASK_STATE))
    assert (found.task_name, found.round_time, found.total_bounty_amount) == ("hello_world", 100, 7 * BOUNTY)
    assert found.slot_ms == 400
    assert found.current_round == TERMS.clock.period(net.slot)
    assert found.roster_round == found.current_round
    roster = net.roster(found.current_round)
    assert found.stake_list == {base58(one.key): one.stake for one in roster.entries}


def test_submissions_and_the_list_of_a_round(net: Net, known: TaskFacts) -> None:
    found = facts.read_submissions(asked(known, Fact.SUBMISSIONS, 0))
    assert {key: one.value for key, one in found.items()} == {
        base58(peer.key): RIGHT if peer.honest else WRONG for peer in net.peers
    }
    assert all(one.slot in TERMS.clock.submission(0) for one in found.values())
    assert facts.read_submissions(asked(known, Fact.SUBMISSIONS, 999)) == {}
    listed = facts.read_list(asked(known, Fact.LIST, 0))
    assert listed is not None
    amounts = {key: (leaf.reward_total, leaf.slash_total) for key, leaf in listed.items()}
    assert amounts == {
        base58(peer.key): (BOUNTY // 3, 0) if peer.honest else (0, STAKE * 7 // 10) for peer in net.peers
    }
    assert facts.read_list(asked(known, Fact.LIST, 999)) is None
    assert submissions(net.peers[0].engine, 0) == submissions(net.peers[1].engine, 0)


def test_results_are_those_of_the_committed_round_and_the_same_everywhere(net: Net, known: TaskFacts) -> None:
    found = facts.read_results(asked(known, Fact.RESULTS, 0))
    assert found is not None
    assert {key: (one.value, one.outcome.name, one.approved) for key, one in found.items()} == {
        base58(peer.key): (RIGHT, "APPROVED", True) if peer.honest else (WRONG, "REJECTED", False)
        for peer in net.peers
    }
    assert results(net.peers[0].engine, 0) == results(net.peers[1].engine, 0)
    for not_settled in (1, 999):
        assert facts.read_results(asked(known, Fact.RESULTS, not_settled)) is None


def test_what_is_not_known_or_not_asked_properly_is_refused(known: TaskFacts) -> None:
    for arguments in ((), (-1,), (True,), ("0",), (0, 0)):
        with pytest.raises(Refused, match="takes a round"):
            asked(known, Fact.SUBMISSIONS, *arguments)
    with pytest.raises(Refused, match="takes no arguments"):
        asked(known, Fact.NODES, 1)
    with pytest.raises(Refused, match="just started"):
        asked(TaskFacts(), Fact.NODES)
    waiting = TaskFacts()
    waiting.use(Net(1).peers[0].engine, lambda: None, lambda: 0.4)
    with pytest.raises(Refused, match="K2 has not been read"):
        asked(waiting, Fact.TASK_STATE)
    assert facts.read_nodes(asked(known, Fact.NODES)) == ()


def test_bytes_come_through_and_answers_have_a_limit() -> None:
    data = facts.encode_fact([["key", b"\x00\xff", 5], ["other", "text", 6]])
    assert {one.value for one in facts.read_submissions(data).values()} == {b"\x00\xff", "text"}
    with pytest.raises(TypeError):
        facts.encode_fact([object()])
    big = TaskServices(
        *(bytes(32), bytes(32)),
        *(lambda *_: None,) * 5,  # type: ignore[arg-type]
        fact=lambda *_: "x" * Limits().task_fact_bytes,
    )
    with pytest.raises(Refused, match="handed out"):
        services.answer(big, TERMS.task, Request.FACT, ["nodes"], Limits())
