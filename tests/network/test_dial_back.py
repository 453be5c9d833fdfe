from __future__ import annotations

import json
from dataclasses import replace

import pytest
import trio

from koii_p2p.network.containment import Guard
from koii_p2p.network.reach.dial_back import (
    ASK,
    PROOF,
    REACHED,
    Access,
    Assessment,
    Neighbour,
    Reachability,
    Verdict,
    advertised_now,
    assess,
    read_answer,
    seen_ipv4,
)
from koii_p2p.network.statistics import ReachReport
from tests.network.nets import ECHO, QUICK, Node, net, until

PUBLIC = "/ip4/45.0.0.1/tcp/4001"
LAN = "/ip4/192.168.1.5/tcp/4001"


def found(peer: str, place: str, reached: bool) -> Verdict:
    return Verdict(peer, place, reached, "" if reached else "Connection refused", 1.0)


def reach(node: Node) -> ReachReport:
    report = node.network.reach()
    assert report is not None
    return report


def test_nobody_asked_is_unknown_and_peers_of_the_local_network_tell_nothing_of_the_internet() -> None:
    assert assess([]) == Assessment(Access.UNKNOWN, 0, 0, (), ())
    local = assess([found("a", LAN, True), found("b", LAN, False)])
    assert (local.access, local.asked) == (Access.UNKNOWN, 0)
    assert local.confirmed == (LAN,)


def test_one_proved_success_outweighs_any_number_of_failures() -> None:
    liars = [found(f"liar {number}", PUBLIC, False) for number in range(9)]
    assert assess(liars) == Assessment(Access.PRIVATE, 9, 9, (), (PUBLIC,))
    assert assess([*liars, found("a", PUBLIC, True)]) == Assessment(Access.PUBLIC, 1, 10, (PUBLIC,), ())
    assert assess(liars, dialled_in=2).access is Access.PUBLIC


def test_the_place_that_most_name_is_the_confirmed_one() -> None:
    liar = "/ip4/6.6.6.6/tcp/4001"
    assert assess([found("l", liar, True), found("a", PUBLIC, True), found("b", PUBLIC, True)]).confirmed == (
        PUBLIC,
    )


@pytest.mark.parametrize(
    ("listening", "verdicts", "relayed", "internet", "told"),
    [
        pytest.param([LAN], [], [], False, [LAN], id="a local network"),
        pytest.param([LAN], [], [], True, [], id="behind a NAT nobody can dial it"),
        pytest.param([LAN], [found("a", LAN, True)], [], True, [LAN], id="but its neighbour can"),
        pytest.param([LAN], [found("a", PUBLIC, True)], ["R"], True, [PUBLIC], id="a forwarded port"),
        pytest.param([LAN], [found("a", PUBLIC, False)], ["R"], True, ["R"], id="a relay"),
        pytest.param([PUBLIC], [found("a", PUBLIC, False)], [], True, [PUBLIC], id="one may lie"),
        pytest.param(
            ["/ip6zone/eth0/ip6/fe80::1/tcp/1", LAN], [], [], False, [LAN], id="a zone is for one machine"
        ),
        pytest.param(
            [PUBLIC],
            [found("a", PUBLIC, False), found("b", PUBLIC, False)],
            ["R"],
            True,
            ["R"],
            id="a firewall",
        ),
        pytest.param(
            [PUBLIC],
            [found("liar", "/ip4/6.6.6.6/tcp/4001", True)],
            [],
            True,
            [PUBLIC],
            id="it knows its address of the Internet itself",
        ),
    ],
)
def test_what_nobody_can_dial_is_not_told(
    listening: list[str], verdicts: list[Verdict], relayed: list[str], internet: bool, told: list[str]
) -> None:
    assert list(advertised_now(listening, assess(verdicts), relayed, internet=internet)) == told


def test_a_success_without_its_proof_is_none() -> None:
    answer = json.dumps({"seen": "/ip4/45.0.0.1", "ports": [[4001, REACHED], [4002, "timed out"]]}).encode()
    proved = read_answer(answer, "peer", {4001}, [4001, 4002], 2.0, outside=True)
    assert [(one.place, one.reached, one.why) for one in proved] == [
        ("/ip4/45.0.0.1/tcp/4001", True, ""),
        ("/ip4/45.0.0.1/tcp/4002", False, "timed out"),
    ]
    assert [one.place for one in read_answer(answer, "peer", set(), [4001, 4002], 2.0, outside=True)] == [
        "/ip4/45.0.0.1/tcp/4002"
    ]
    assert read_answer(b'{"refused": "too many requests"}', "peer", set(), [4001], 2.0, outside=True) == ()


@pytest.mark.parametrize(
    "answer",
    [
        b"", b"\xff", b"[]", b"{}", b'{"seen": "/ip4/999.1.1.1", "ports": []}', b'{"seen": "/dns4/a.b", "ports": []}',
        b'{"seen": "/ip4/0.0.0.0", "ports": []}', b'{"seen": "/ip4/45.0.0.1", "ports": [[22, "reached"]]}',
        b'{"seen": "/ip4/45.0.0.1", "ports": [4001]}', b'{"seen": "/ip4/45.0.0.1", "ports": 5}',
        b"[" * 4000, b" " * 5000, b'{"seen": "/ip4/45.0.0.1", "ports": [[4001.0, "reached"]]}',
        b'{"seen": "/ip4/192.168.1.5", "ports": []}', b'{"seen": "/ip4/127.0.0.1", "ports": []}',
    ],
)  # fmt: skip
def test_an_answer_that_makes_no_sense_is_refused(answer: bytes) -> None:
    with pytest.raises(ValueError):
        read_answer(answer, "peer", set(), [4001], 2.0, outside=True)


async def test_a_peer_dials_back_and_proves_it() -> None:
    async with net() as running:
        first, second = await running.chain(2)
        assert reach(second).verdicts == ()
        await second.network.ask_to_dial_back(first.key)
        (verdict,) = reach(second).verdicts
        assert verdict.reached
        assert f"{verdict.place}/p2p/{second.network.peer_id}" == second.address
        assert verdict.peer_id == first.network.peer_id
        assert reach(second).confirmed == (verdict.place,)
        assert reach(first).dialled_back == 1
        # The connection made for it goes away, and nothing else has moved over to it.
        await until(
            lambda: all(peer.connections == 1 for peer in (*first.network.peers(), *second.network.peers()))
        )
        assert await first.network.request(second.key, ECHO, b"as before") == b"as before"
        assert first.knows(second)
        assert second.knows(first)


async def test_a_peer_is_dialled_back_once_in_a_while_and_at_its_own_address_only() -> None:
    async with net() as running:
        first, second = await running.chain(2)
        await second.network.ask_to_dial_back(first.key)
        refused = await second.network.request(first.key, ASK, bytes(16) + (4001).to_bytes(2, "big"))
        assert json.loads(refused) == {"refused": "too many requests"}
        for nonsense in (b"", bytes(16), bytes(17), bytes(16) + b"\0\0", bytes(16) + b"\1\1" * 5):
            said = json.loads(await second.network.request(first.key, ASK, nonsense))
            assert said == {"refused": "the request makes no sense"}
        assert reach(first).dialbacks_refused == 6
        assert reach(first).dialled_back == 1


async def test_a_closed_port_is_said_to_be_closed() -> None:
    async with net() as running:
        first = await running.add(1, limits=replace(QUICK, dialback_every=0.0))
        second = await running.add(2, bootstrap=(first.address,))
        await until(lambda: first.knows(second))
        probe = trio.socket.socket()
        await probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]  # bound and not listening: nothing can answer there
        said = json.loads(await second.network.request(first.key, ASK, bytes(16) + port.to_bytes(2, "big")))
        probe.close()
        assert said["seen"] == "/ip4/127.0.0.1"
        assert said["ports"][0][0] == port
        assert "refused" in said["ports"][0][1]


async def test_who_has_no_room_for_a_connection_says_so_instead_of_failing() -> None:
    async with net() as running:
        first = await running.add(1, max_peers=1)
        second = await running.add(2, bootstrap=(first.address,))
        await until(lambda: first.knows(second))
        said = json.loads(await second.network.request(first.key, ASK, bytes(16) + (4001).to_bytes(2, "big")))
        assert said == {"refused": "there is no room for a connection"}
        await second.network.ask_to_dial_back(first.key)
        assert reach(second).verdicts == ()


async def test_somebody_elses_proof_is_worth_nothing() -> None:
    async with net() as running:
        first, second = await running.chain(2)
        stream = await first.network.open_stream(second.key, [PROOF], deadline=2.0)
        await stream.write(bytes(18))
        assert await stream.read_some() == b""  # closed without a word
        assert reach(second).confirmed == ()


def test_the_address_to_punch_holes_from_is_the_one_that_most_name_not_the_newest() -> None:
    said = [found("a", PUBLIC, False), found("b", PUBLIC, False), found("liar", "/ip4/6.6.6.6/tcp/1", False)]
    assert seen_ipv4(said) == "45.0.0.1"
    assert seen_ipv4([*said, *(found("liar", f"/ip4/6.6.6.6/tcp/{port}", False) for port in (2, 3, 4))]) == (
        "45.0.0.1"
    )
    assert seen_ipv4([found("a", LAN, False), found("b", "/ip6/2606:4700::1/tcp/1", False)]) is None


async def test_peers_of_one_network_are_not_asked_while_there_are_others() -> None:
    asked: list[bytes] = []

    async def refuse(key: bytes, protocol: str, payload: bytes, deadline: float) -> bytes:
        asked.append(key)
        return b'{"refused": "no"}'

    crowd = [Neighbour(bytes([number]) * 32, f"45.0.0.{number}", 60.0) for number in range(1, 9)]
    there = list(crowd)
    limits = replace(QUICK, reach_peers=2)
    found = Reachability(refuse, lambda: there, lambda: [4001], Guard(), limits)
    for one in found._due(trio.current_time()):
        await found.ask(one.key)
    assert asked == [crowd[0].key]
    there.append(Neighbour(bytes([99]) * 32, "8.8.8.8", 60.0))
    assert [one.key for one in found._due(trio.current_time())] == [bytes([99]) * 32, crowd[1].key]
