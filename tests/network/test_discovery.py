from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import trio
import trio.testing

from koii_p2p.limits import Limits
from koii_p2p.network.address_book import GRACE_SECONDS, HEARSAY_FAILURES, AddressBook
from koii_p2p.network.discovery import Connector
from koii_p2p.network.identity import peer_id_text
from koii_p2p.network.settings import PeerAddress, parse_dialable

LIMITS = Limits()
OWN = bytes([100]) * 32
LOW, HIGH = bytes([1]) * 32, bytes([200]) * 32


class World:
    """Dials that succeed for the addresses that answer."""

    def __init__(self, *, target: int = 8, limits: Limits = LIMITS) -> None:
        self.book = AddressBook(OWN, limits)
        self.links: set[bytes] = set()
        self.answering: set[str] = set()
        self.dials: list[tuple[float, bytes, str]] = []
        self.most_at_once = 0
        self._at_once = 0
        self.banned: set[bytes] = set()
        self.connector = Connector(
            self.book, target, limits, self._dial, lambda: self.links, lambda key: key not in self.banned
        )

    async def _dial(self, key: bytes, address: str) -> None:
        self.dials.append((trio.current_time(), key, address))
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            await trio.sleep(0.1)
            if address == "/ip4/1.1.1.1/tcp/1":
                await trio.sleep_forever()
            if address not in self.answering:
                raise OSError("connection refused")
        finally:
            self._at_once -= 1
        self.links.add(key)

    def bootstrap(self, key: bytes, address: str) -> None:
        self.book.add_bootstrap(PeerAddress(key, address))

    def learn(self, key: bytes, *addresses: str, signed: bool = True) -> None:
        self.book.learn(key, addresses, signed=signed, now=trio.current_time())
        self.connector.wake()

    def lose(self, key: bytes) -> None:
        self.links.discard(key)
        self.connector.lost(key)


def address(number: int) -> str:
    return f"/ip4/10.0.0.{number}/tcp/4001"


async def test_an_unreachable_bootstrap_is_dialled_with_growing_pauses(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    world = World()
    world.bootstrap(HIGH, address(1))
    nursery.start_soon(world.connector.run)
    await trio.sleep(600)
    times = [when for when, _, _ in world.dials]
    pauses = [later - earlier for earlier, later in pairwise(times)]
    assert pauses[0] < 5
    assert LIMITS.dial_backoff_longest / 2 <= pauses[-1] <= LIMITS.dial_backoff_longest + 2
    status = world.connector.statistics().bootstrap[0]
    assert status.address == f"{address(1)}/p2p/{peer_id_text(HIGH)}"
    assert (status.connected, status.last_error) == (False, "connection refused")
    assert status.attempts == len(times) > 8
    world.answering.add(address(1))
    await trio.sleep(70)
    assert world.links == {HIGH}


async def test_a_bootstrap_is_dialled_at_once_whatever_the_order_of_keys(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    for key in (LOW, HIGH):
        world = World()
        world.answering.add(address(1))
        world.bootstrap(key, address(1))
        nursery.start_soon(world.connector.run)
        await trio.sleep(0.5)
        assert world.links == {key}


async def test_the_lower_key_dials_first(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    world = World()
    world.answering |= {address(1), address(2)}
    nursery.start_soon(world.connector.run)
    await trio.sleep(1)
    world.learn(HIGH, address(1))
    world.learn(LOW, address(2))
    await trio.sleep(1)
    assert world.links == {HIGH}  # our key is lower than HIGH's, so it is for us to dial
    await trio.sleep(2 * GRACE_SECONDS)
    assert world.links == {HIGH, LOW}  # LOW did not dial us in time


async def test_a_lost_peer_is_dialled_again(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    world = World()
    world.answering.add(address(1))
    world.bootstrap(HIGH, address(1))
    nursery.start_soon(world.connector.run)
    await trio.sleep(1)
    for _ in range(3):
        world.lose(HIGH)
        await trio.sleep(5)
        assert world.links == {HIGH}


async def test_the_target_and_the_dials_at_once_are_kept(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    world = World(target=5)
    for number in range(1, 41):
        world.answering.add(address(number))
        world.learn(bytes([200, number]) + bytes(30), address(number))
    nursery.start_soon(world.connector.run)
    await trio.sleep(30)
    assert len(world.links) == 5
    assert world.most_at_once <= LIMITS.dials_at_once


async def test_a_node_without_bootstrap_tries_it_even_when_it_has_enough_peers(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    world = World(target=1)
    world.links.add(LOW)
    world.bootstrap(HIGH, address(1))
    nursery.start_soon(world.connector.run)
    await trio.sleep(1)
    assert len(world.dials) == 1


async def test_an_address_that_does_not_answer_holds_nobody_up(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    world = World()
    world.answering |= {address(1), address(2)}
    world.bootstrap(HIGH, "/ip4/1.1.1.1/tcp/1")
    world.bootstrap(HIGH, address(2))
    world.learn(LOW, address(1))
    nursery.start_soon(world.connector.run)
    await trio.sleep(1)
    assert HIGH in world.links  # by its second address
    await trio.sleep(LIMITS.dial_deadline - 1)
    assert LOW in world.links
    assert [dialled for _, _, dialled in world.dials].count(address(2)) == 1


async def test_the_next_address_is_dialled_as_soon_as_one_has_failed(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    world = World()
    world.answering |= {address(4)}
    world.learn(HIGH, *(address(number) for number in (2, 3, 4, 5)))
    nursery.start_soon(world.connector.run)
    await trio.sleep(2)
    assert world.links == {HIGH}
    begun = world.dials[0][0]
    assert [(round(at - begun, 2), dialled) for at, _, dialled in world.dials] == [
        (0.0, address(2)),
        (0.1, address(3)),
        (0.2, address(4)),
    ]


async def test_banned_peers_are_not_dialled(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    world = World()
    world.banned.add(HIGH)
    world.bootstrap(HIGH, address(1))
    nursery.start_soon(world.connector.run)
    await trio.sleep(10)
    assert not world.dials
    assert not await world.connector.dial_now(HIGH)


async def test_dialling_now(autojump_clock: trio.testing.MockClock) -> None:
    world = World()
    assert not await world.connector.dial_now(HIGH)
    world.learn(HIGH, address(1))
    assert not await world.connector.dial_now(HIGH)
    world.answering.add(address(1))
    assert await world.connector.dial_now(HIGH)
    async with trio.open_nursery() as nursery:  # two at once make one dial
        world.links.clear()
        world.dials.clear()
        nursery.start_soon(world.connector.dial_now, HIGH)
        nursery.start_soon(world.connector.dial_now, HIGH)
    assert len(world.dials) == 1


async def test_signed_addresses_replace_and_hints_are_added() -> None:
    world = World()
    world.learn(HIGH, address(1), address(2))
    world.learn(HIGH, address(3), signed=False)
    assert world.book.get(HIGH).addresses == (address(1), address(2), address(3))  # type: ignore[union-attr]
    world.learn(HIGH, address(4))
    assert world.book.get(HIGH).addresses == (address(4),)  # type: ignore[union-attr]
    world.bootstrap(LOW, address(5))
    world.learn(LOW, address(6))
    assert world.book.get(LOW).addresses == (address(5), address(6))  # type: ignore[union-attr]
    world.learn(OWN, address(7))
    world.bootstrap(OWN, address(7))
    assert world.book.get(OWN) is None


async def test_the_book_is_bounded_and_forgets_failures_first() -> None:
    world = World(limits=replace(LIMITS, address_book_peers=3))
    world.bootstrap(HIGH, address(1))
    for number in range(2, 5):
        world.learn(bytes([number]) * 32, address(number))
        peer = world.book.get(bytes([number]) * 32)
        assert peer is not None or number == 4
        if peer is not None:
            peer.failures = 10 - number
    assert len(world.book) == 3
    assert world.book.get(HIGH) is not None
    assert world.book.get(bytes([2]) * 32) is None  # failed most


async def test_addresses_of_one_peer_are_bounded() -> None:
    world = World()
    world.learn(HIGH, *(address(number) for number in range(1, 100)))
    assert len(world.book.get(HIGH).addresses) == LIMITS.presence_addresses  # type: ignore[union-attr]
    world.learn(
        LOW, "/ip4/10.0.0.1/tcp/4001/p2p/" + peer_id_text(HIGH), "/unix/x", "\0", "/ip4/10.0.0.1/tcp/0x"
    )
    assert world.book.get(LOW) is None
    assert world.book.refused == 4


async def test_hearsay_makes_room_for_those_that_said_themselves_where_they_are() -> None:
    world = World(limits=replace(LIMITS, address_book_peers=3))
    world.learn(HIGH, address(1))
    world.book.get(HIGH).failures = 5  # type: ignore[union-attr]
    for number in range(2, 30):
        world.learn(bytes([number]) * 32, address(number), signed=False)
    assert len(world.book) == 3
    assert world.book.get(HIGH) is not None


async def test_hearsay_that_never_answers_is_forgotten(autojump_clock: trio.testing.MockClock) -> None:
    world = World()
    world.learn(HIGH, address(1), signed=False)
    world.learn(LOW, address(2))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.connector.run)
        await trio.sleep(1000)
        nursery.cancel_scope.cancel()
    assert world.book.get(HIGH) is None
    assert world.book.get(LOW) is not None
    assert sum(key == HIGH for _, key, _ in world.dials) == HEARSAY_FAILURES


async def test_what_is_not_within_reach_is_dialled_only_if_the_operator_said_it() -> None:
    world = World()
    world.connector = Connector(
        world.book,
        8,
        LIMITS,
        world._dial,
        lambda: world.links,
        lambda _: True,
        lambda text: "/10." not in text,
    )
    world.answering |= {address(1), address(2)}
    world.learn(HIGH, address(1), "/ip4/8.8.8.8/tcp/1")
    assert not await world.connector.dial_now(HIGH)
    assert [text for _, _, text in world.dials] == ["/ip4/8.8.8.8/tcp/1"]
    world.book.add_bootstrap(PeerAddress(LOW, address(2)), named=False)
    assert not await world.connector.dial_now(LOW)
    assert "local network" in world.book.get(LOW).last_error  # type: ignore[union-attr]
    world.bootstrap(LOW, address(2))
    assert await world.connector.dial_now(LOW)


async def test_names_of_strangers_are_not_looked_up() -> None:
    world = World()
    own, relay = f"/p2p/{peer_id_text(HIGH)}", f"/p2p/{peer_id_text(LOW)}/p2p-circuit"
    for text in ("/dns4/localhost/tcp/1", f"/dns4/localhost/tcp/1{own}", f"/dns/a.b/tcp/1{relay}{own}"):
        world.learn(HIGH, text)
        assert world.book.get(HIGH) is None
        assert parse_dialable(text, names=True)
    assert world.book.refused == 3
    world.learn(HIGH, f"/ip4/8.8.8.8/tcp/1{relay}{own}")
    assert world.book.get(HIGH) is not None
