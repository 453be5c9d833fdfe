"""Whether a node serves the DHT: only if those it is linked with could dial it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
import trio
import trio.testing

from koii_p2p.limits import Limits
from koii_p2p.network.containment import Guard
from koii_p2p.network.dht.links import DhtNetwork, Visits
from koii_p2p.network.dht.service import Dht
from koii_p2p.network.dht.streams import PROTOCOL
from koii_p2p.network.settings import DhtMode
from koii_p2p.network.streams import (
    LinkDown,
    LinkUp,
    PeerStream,
    StreamFailed,
    StreamHandler,
    StreamReason,
)

LOOPBACK, PRIVATE, PUBLIC = "/ip4/127.0.0.1/tcp/4001", "/ip4/192.168.1.2/tcp/4001", "/ip4/8.8.8.8/tcp/4001"
RELAYED = f"{PUBLIC}/p2p/12D3KooWEyoppNCUx8Yx66oV9fJnriXwCcXwDDUA2kj6vnc6iDEp/p2p-circuit"
OWN, OTHER, THIRD = bytes(32), bytes([1]) * 32, bytes([2]) * 32


class Surroundings:
    """A network without peers to ask: where we are, and what is served."""

    def __init__(self, *addresses: str) -> None:
        self.addresses = addresses
        self.served: set[str] = set()
        self.recorded: tuple[str, ...] = ()
        self.learnt: list[tuple[bytes, tuple[str, ...]]] = []
        self.closed: list[bytes] = []
        self.in_use: set[bytes] = set()

    async def _open_stream(self, key: bytes, protocols: Sequence[str]) -> PeerStream:
        raise StreamFailed(StreamReason.REFUSED, "It does not serve.")

    async def _dial(self, key: bytes) -> bool:
        return False

    def _serve(self, protocol: str, handler: StreamHandler) -> None:
        self.served.add(protocol)

    @property
    def network(self) -> DhtNetwork:
        return DhtNetwork(
            open_stream=self._open_stream,
            dial=self._dial,
            disconnect=lambda key, why: self.closed.append(key),
            serve=self._serve,
            withdraw=self.served.discard,
            learn=lambda key, addresses: self.learnt.append((key, addresses)),
            addresses_of=lambda key: (),
            own_addresses=lambda: tuple(f"{one}/p2p/12D3" for one in self.addresses),
            recorded=lambda key: self.recorded,
            in_use=self.in_use.__contains__,
            misbehaved=lambda key, what: None,
        )


@asynccontextmanager
async def running(around: Surroundings, mode: DhtMode = "auto") -> AsyncIterator[Dht]:
    dht = Dht(OWN, mode, 8, Limits(), Guard())
    async with dht.running(around.network):
        yield dht


@pytest.mark.parametrize(
    ("own", "link", "serves"),
    [
        (LOOPBACK, LinkUp(OTHER, True, LOOPBACK), True),
        (PRIVATE, LinkUp(OTHER, True, PRIVATE), True),
        (PUBLIC, LinkUp(OTHER, True, PUBLIC), True),
        (LOOPBACK, LinkUp(OTHER, True, PUBLIC), False),
        (PRIVATE, LinkUp(OTHER, True, PUBLIC), False),
        (PRIVATE, LinkUp(OTHER, False, PUBLIC), True),
        (RELAYED, LinkUp(OTHER, True, PUBLIC), False),
        (
            PRIVATE,
            LinkUp(OTHER, False, "/p2p/12D3KooWEyoppNCUx8Yx66oV9fJnriXwCcXwDDUA2kj6vnc6iDEp/p2p-circuit"),
            False,
        ),
    ],
)
async def test_it_serves_those_who_could_dial_it(own: str, link: LinkUp, serves: bool) -> None:
    around = Surroundings(own)
    async with running(around) as dht:
        dht.link_changed(link)
        assert dht.statistics().server is serves
        assert (PROTOCOL in around.served) is serves


async def test_its_role_changes_with_its_links(autojump_clock: trio.testing.MockClock) -> None:
    around = Surroundings(PRIVATE)
    async with running(around) as dht:
        assert not dht.statistics().server
        dht.link_changed(LinkUp(OTHER, True, PRIVATE))
        assert dht.statistics().server
        dht.link_changed(LinkUp(THIRD, True, PUBLIC))
        assert around.served == set()
        dht.link_changed(LinkDown(THIRD))
        await trio.sleep(2)
        assert around.served == {PROTOCOL}
        around.addresses = (LOOPBACK,)
        await trio.sleep(8)
        assert around.served == set()


@pytest.mark.parametrize(("mode", "serves"), [("server", True), ("client", False), ("off", False)])
async def test_or_as_the_operator_says(mode: DhtMode, serves: bool) -> None:
    around = Surroundings(PUBLIC)
    async with running(around, mode) as dht:
        dht.link_changed(LinkUp(OTHER, False, PUBLIC))
        assert dht.statistics().server is serves
        assert (PROTOCOL in around.served) is serves


@pytest.mark.parametrize(
    ("link", "kept"),
    [(PUBLIC, (PUBLIC, RELAYED)), (PRIVATE, (PUBLIC, PRIVATE, RELAYED)), (LOOPBACK, None)],
)
async def test_of_a_peer_only_addresses_are_taken_that_it_can_have(
    link: str, kept: tuple[str, ...] | None, autojump_clock: trio.testing.MockClock
) -> None:
    around = Surroundings(LOOPBACK)
    around.recorded = (LOOPBACK, PUBLIC, PRIVATE, RELAYED)
    async with running(around) as dht:
        dht.link_changed(LinkUp(OTHER, False, link))
        await trio.sleep(1.5)
        assert around.learnt == [(OTHER, around.recorded if kept is None else kept)]


async def test_a_search_closes_no_connection_on_which_something_else_goes_on() -> None:
    around = Surroundings(LOOPBACK)
    links = {OTHER, THIRD}
    visits = Visits(around.network, replace(Limits(), dht_connections=2), links.__contains__)
    visits._used.update({OTHER: 1.0, THIRD: 2.0})
    around.in_use.update(links)
    assert not await visits.reach(bytes([3]) * 32, ())
    assert around.closed == []
    around.in_use.discard(THIRD)
    assert not await visits.reach(bytes([3]) * 32, ())  # there is room, and nobody answers
    assert around.closed == [THIRD]
