"""What strangers can say on the protocol of hole punching; test_nat.py punches through real NATs."""

from __future__ import annotations

import socket

import pytest
from multiaddr import Multiaddr

from koii_p2p.network.reach.hole_punch import ADDRESSES, DCUTR, bound, dialable, own_port
from koii_p2p.network.streams import StreamFailed
from tests.network.nets import ECHO, net


@pytest.mark.parametrize(
    "address",
    [
        "/ip4/127.0.0.1/tcp/22",
        "/ip4/192.168.1.1/tcp/80",
        "/ip4/45.0.0.1/tcp/0",
        "/ip4/45.0.0.1/udp/53",
        "/ip6/2a00::1/tcp/80",
        "/dns4/example.org/tcp/80",
        "/ip4/45.0.0.1/tcp/80/p2p/12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN/p2p-circuit",
        "/ip4/255.255.255.255/tcp/80",
        "/ip4/224.0.0.1/tcp/80",
    ],
)
def test_a_stranger_cannot_have_us_dial_just_anything(address: str) -> None:
    assert dialable([Multiaddr(address).to_bytes()]) == []


def test_few_places_of_the_internet_are_dialled() -> None:
    said = [Multiaddr(f"/ip4/45.0.0.{number}/tcp/4001").to_bytes() for number in range(1, 100)]
    assert dialable([b"", b"\xff" * 50, *said]) == [("45.0.0.1", 4001), ("45.0.0.2", 4001)]
    assert len(dialable(said)) == ADDRESSES
    assert dialable([b"junk"] * 1000) == []


async def test_a_port_of_our_own_can_be_bound_again_and_nobody_else_gets_it_while_it_is_held() -> None:
    with own_port() as port:
        again = bound(port)
        assert again.getsockname()[1] == port
        again.close()
        with socket.socket() as other, pytest.raises(OSError, match="in use"):
            other.bind(("0.0.0.0", port))


async def test_punching_is_refused_on_a_direct_connection() -> None:
    async with net() as running:
        first, second = await running.chain(2)

        async def ask() -> None:
            stream = await second.network.open_stream(first.key, [DCUTR], deadline=2.0)
            await stream.read_some()

        with pytest.raises(StreamFailed):
            await ask()
        assert await second.network.request(first.key, ECHO, b"alive") == b"alive"
        report = first.network.reach()
        assert report is not None
        assert report.hole_punches.tried == 0
