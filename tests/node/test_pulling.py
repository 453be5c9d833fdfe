"""Pulling over real connections on loopback: what a node lacks comes from its peers, and their faults cost nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest

from koii_p2p.limits import Limits
from koii_p2p.node import exchange
from koii_p2p.node.pulling import ARTIFACT_PEERS, RECONCILE_PEERS
from koii_p2p.records.cbor import encode
from koii_p2p.rounds import events
from koii_p2p.rounds.admission import Source
from koii_p2p.rounds.range_messages import LEAST_MESSAGE_BYTES
from koii_p2p.rounds.reconcile import Reconciler
from tests.node.peers import (
    BALLOTS,
    PLAYED,
    PRESENCES,
    ROUND,
    SUBMISSIONS,
    Answer,
    Server,
    asking,
    engine_with,
    held,
)
from tests.rounds.net import secret, submission


async def test_what_is_lacking_is_fetched_and_nothing_else() -> None:
    async with asking(1, SUBMISSIONS[:4]) as (asker, [peer]):
        server = Server(peer, engine_with([*SUBMISSIONS[2:], *BALLOTS]))
        assert await asker.puller.records(ROUND) == 1
        assert not asker.failed
        lacked = {record.id for record in (*SUBMISSIONS[4:], *BALLOTS)}
        assert {record.id for record in asker.kept} == lacked
        assert len(asker.kept) == len(lacked)
        assert held(asker.engine) == {record.id for record in (*SUBMISSIONS, *BALLOTS)}
        assert [set(ids) for ids in server.ids_asked_for()] == [lacked]


async def test_who_has_the_same_is_asked_once_and_sends_no_record() -> None:
    async with asking(1, SUBMISSIONS) as (asker, [peer]):
        server = Server(peer, engine_with(SUBMISSIONS))
        assert await asker.puller.records(ROUND) == 1
        assert server.counts() == {"reconcile": 1}
        assert (asker.kept, asker.failed) == ([], [])


async def test_a_request_names_no_more_records_than_it_may() -> None:
    limits = replace(Limits(), records_per_request=2)
    async with asking(1, limits=limits) as (asker, [peer]):
        server = Server(peer, engine_with(SUBMISSIONS))
        await asker.puller.records(ROUND)
        assert held(asker.engine) == {record.id for record in SUBMISSIONS}
        assert [len(ids) for ids in server.ids_asked_for()] == [2, 2, 2, 2, 1]


async def test_questions_go_on_until_all_differences_are_known() -> None:
    brief = replace(Limits(), reconcile_message_bytes=LEAST_MESSAGE_BYTES)
    async with asking(1) as (asker, [peer]):
        server = Server(peer, engine_with([*SUBMISSIONS, *BALLOTS]), limits=brief)
        assert await asker.puller.records(ROUND) == 1
        assert server.counts()["reconcile"] > 1
        assert held(asker.engine) == {record.id for record in (*SUBMISSIONS, *BALLOTS)}


@pytest.mark.parametrize("came", [4, len(SUBMISSIONS)])
async def test_what_came_from_elsewhere_meanwhile_is_not_asked_for(came: int) -> None:
    async with asking(1) as (asker, [peer]):

        async def gossip_is_faster(data: bytes) -> bytes:
            _task, number, question = exchange.decode_reconcile(data, Limits())
            answer = Reconciler(server.engine.item_set(number), Limits()).respond(question)
            for record in SUBMISSIONS[:came]:
                asker.engine.receive(record.raw, Source.SYNC)
            return answer

        server = Server(peer, engine_with(SUBMISSIONS), {"reconcile": gossip_is_faster})
        assert await asker.puller.records(ROUND) == 1
        left = {record.id for record in SUBMISSIONS[came:]}
        assert [set(ids) for ids in server.ids_asked_for()] == ([left] if left else [])


async def test_some_peers_are_asked_and_each_record_is_kept_once() -> None:
    async with asking(RECONCILE_PEERS + 2) as (asker, peers):
        servers = [Server(peer, engine_with(SUBMISSIONS)) for peer in peers]
        assert await asker.puller.records(ROUND) == RECONCILE_PEERS
        assert sum("reconcile" in server.counts() for server in servers) == RECONCILE_PEERS
        assert len(asker.kept) == len({record.id for record in asker.kept}) == len(SUBMISSIONS)


async def test_with_no_peers_nothing_happens() -> None:
    async with asking(0) as (asker, _):
        assert await asker.puller.records(ROUND) == 0
        await asker.puller.artifacts(ROUND)
        await asker.puller.presences()
        assert (asker.kept, asker.handled, asker.failed) == ([], [], [])


async def fails(_data: bytes) -> bytes:
    raise RuntimeError("of no concern to who asks")


async def nonsense(_data: bytes) -> bytes:
    return b"\xff nonsense"


async def no_map(_data: bytes) -> bytes:
    return encode({0: "not records"})


@pytest.mark.parametrize("answer", [fails, nonsense, no_map])
@pytest.mark.parametrize("name", ["reconcile", "records"])
async def test_what_a_peer_does_wrong_costs_its_answer_only(name: str, answer: Answer) -> None:
    async with asking(2) as (asker, [good, bad]):
        Server(bad, engine_with(SUBMISSIONS), {name: answer})
        Server(good, engine_with(SUBMISSIONS))
        assert await asker.puller.records(ROUND) in (
            1,
            2,
        )  # by then all may be here, and the bad one not asked
        assert {what for what, _ in asker.failed} <= {"ask peer"}
        assert held(asker.engine) == {record.id for record in SUBMISSIONS}


@pytest.mark.parametrize("answer", [fails, nonsense, no_map])
@pytest.mark.parametrize("name", ["reconcile", "records", "artifacts", "presence"])
async def test_a_peer_that_does_wrong_has_not_answered(name: str, answer: Answer) -> None:
    async with asking(1) as (asker, [peer]):
        Server(peer, engine_with(SUBMISSIONS), {name: answer})
        match name:
            case "artifacts":
                await asker.puller.artifacts(ROUND)
            case "presence":
                await asker.puller.presences()
            case _:
                assert await asker.puller.records(ROUND) == 0
        assert [what for what, _ in asker.failed] == ["ask peer"]
        assert (asker.kept, asker.handled) == ([], [])


async def test_a_peer_that_works_on_nothing_of_ours_has_not_answered() -> None:
    async with asking(1) as (asker, _):
        assert await asker.puller.records(ROUND) == 0
        assert [what for what, _ in asker.failed] == ["ask peer"]


async def test_records_are_judged_whatever_they_were_asked_for() -> None:
    first, asked, third = (PLAYED.submissions[secret(index).public_key] for index in range(3))
    forged = bytearray(third.raw)
    forged[-1] ^= 1
    elsewhere = submission(secret(20), "of nobody in the roster")
    second = submission(secret(0), "a second one")

    async def others(_data: bytes) -> bytes:
        sent = [bytes(forged), elsewhere.raw, second.raw, asked.raw, b"no record"]
        return exchange.encode_records(sent, Limits())

    async with asking(1, [first]) as (asker, [peer]):
        Server(peer, engine_with(SUBMISSIONS), {"records": others})
        await asker.puller.records(ROUND)
        assert [record.id for record in asker.kept] == [asked.id]
        assert held(asker.engine) == {first.id, asked.id}


async def test_artifacts_of_some_peers_are_handed_on_unread() -> None:
    async with asking(ARTIFACT_PEERS + 1) as (asker, peers):
        servers = [Server(peer, engine_with(())) for peer in peers]
        await asker.puller.artifacts(ROUND)
        assert asker.handled == [events.ArtifactsRead(ROUND, b"commitment", b"bundle", None)] * ARTIFACT_PEERS
        assert sum("artifacts" in server.counts() for server in servers) == ARTIFACT_PEERS


async def test_one_peer_says_where_the_others_are_and_nothing_else() -> None:
    async with asking(3) as (asker, peers):
        servers = [Server(peer, engine_with(())) for peer in peers]
        await asker.puller.presences()
        assert sum("presence" in server.counts() for server in servers) == 1
        assert {record.id for record in asker.kept} == {record.id for record in PRESENCES}
        assert held(asker.engine) == set()
