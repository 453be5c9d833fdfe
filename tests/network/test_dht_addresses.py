"""Addresses that strangers tell: from where they can be reached, and whether they can be meant for us."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from koii_p2p.network.dht.addresses import Scope, believable, decoded, encoded, group_of, ip_of, scope_of

RELAY = "12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN"


@pytest.mark.parametrize(
    ("text", "scope", "group"),
    [
        ("/ip4/127.0.0.1/tcp/1", Scope.MACHINE, None),
        ("/ip6/::1/tcp/1", Scope.MACHINE, None),
        ("/ip4/0.0.0.0/tcp/1", Scope.MACHINE, None),
        ("/ip6/::/tcp/1", Scope.MACHINE, None),
        (f"/ip4/127.0.0.1/tcp/1/p2p/{RELAY}/p2p-circuit", Scope.MACHINE, None),
        ("/ip4/192.168.1.7/tcp/1", Scope.SITE, None),
        ("/ip4/10.0.0.1/tcp/1", Scope.SITE, None),
        ("/ip4/100.64.0.1/tcp/1", Scope.SITE, None),
        ("/ip4/169.254.0.1/tcp/1", Scope.SITE, None),
        ("/ip6/fd00::1/tcp/1", Scope.SITE, None),
        ("/ip4/8.8.8.8/tcp/1", Scope.WORLD, "8.8.8.0/24"),
        ("/ip6/2606:4700::1111/tcp/1", Scope.WORLD, "2606:4700::/56"),
        ("/dns4/node.example.org/tcp/1", Scope.WORLD, None),
        ("/ip6/::ffff:127.0.0.1/tcp/1", Scope.MACHINE, None),
    ],
)
def test_scope_and_group(text: str, scope: Scope, group: str | None) -> None:
    address = encoded(text)
    assert scope_of(address) is scope
    assert group_of(address) == group


def test_who_is_reached_over_the_internet_knows_nothing_of_our_own_networks() -> None:
    loopback, private, public = (
        encoded(f"/ip4/{ip}/tcp/4001") for ip in ("127.0.0.1", "192.168.1.1", "8.8.8.8")
    )
    told = (loopback, private, public, b"")
    assert believable(told, Scope.WORLD) == (public,)
    assert believable(told, Scope.SITE) == (private, public)
    assert believable(told, Scope.MACHINE) == (loopback, private, public)


@given(st.binary(max_size=60))
def test_any_bytes_are_an_address_or_none(data: bytes) -> None:
    text = decoded(data)
    assert text == "" or encoded(text) == data
    assert scope_of(data) in Scope
    assert ip_of(data) is None or group_of(data) is None or "/" in str(group_of(data))


def test_text_that_is_no_multiaddr_is_left_out() -> None:
    assert encoded("nonsense") == encoded("/ip4/1.2.3/tcp/1") == b""
