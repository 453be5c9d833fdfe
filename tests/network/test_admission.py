from __future__ import annotations

from dataclasses import replace

import pytest

from koii_p2p.limits import Limits
from koii_p2p.network.admission import Admission, Place, address_range

LIMITS = replace(Limits(), connections_per_range=2, connections_per_private_range=4, pending_inbound=3)


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("203.0.113.7", "203.0.113.0/24"),
        ("203.0.113.250", "203.0.113.0/24"),
        ("::ffff:203.0.113.7", "203.0.113.0/24"),
        ("2001:db8:1:2ff::1", "2001:db8:1:200::/56"),
        ("2001:db8:1:300::1", "2001:db8:1:300::/56"),
        ("fe80::1%eth0", "fe80::/56"),
        ("127.0.0.1", "127.0.0.0/24"),
        ("::1", "::1/128"),
    ],
)
def test_the_network_of_an_address(address: str, network: str) -> None:
    assert address_range(address) == network


def test_what_is_no_address_is_refused() -> None:
    with pytest.raises(ValueError, match="does not appear"):
        address_range("example.org")


def entered(admission: Admission, address: str) -> Place:
    place = admission.enter(address)
    assert place is not None
    return place


def test_one_network_has_so_many_places_and_gets_them_back() -> None:
    admission = Admission(LIMITS)
    places = [entered(admission, f"9.9.9.{number}") for number in (1, 2)]
    assert admission.enter("9.9.9.3") is None
    assert admission.enter("9.9.8.3") is not None
    for place in places:
        admission.settle(place)
    assert admission.enter("9.9.9.3") is None  # settled ones count as well
    admission.leave(places[0])
    assert admission.enter("9.9.9.3") is not None
    assert admission.total == 3


def test_private_networks_have_a_bound_of_their_own() -> None:
    admission = Admission(LIMITS)
    for _ in range(4):
        admission.settle(entered(admission, "10.1.2.3"))
        admission.settle(entered(admission, "::1"))
    assert admission.enter("10.1.2.4") is None
    assert admission.enter("127.0.0.1") is not None


async def test_the_largest_crowd_makes_room_its_oldest_first() -> None:
    admission = Admission(LIMITS)
    alone = entered(admission, "8.8.8.8")
    crowd = [entered(admission, "9.9.9.9") for _ in range(2)]
    newcomer = entered(admission, "7.7.7.7")
    assert [place.handshake.cancel_called for place in (alone, *crowd, newcomer)] == [
        False,
        True,
        False,
        False,
    ]
    assert admission.pending == 3
    admission.settle(alone)
    assert admission.pending == 2
    for place in (alone, *crowd, newcomer):
        admission.leave(place)
    assert (admission.pending, admission.total) == (0, 0)
