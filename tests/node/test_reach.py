from __future__ import annotations

from typing import Any

import pytest

from koii_p2p.network.settings import parse_listen
from koii_p2p.node.checkup import Level
from koii_p2p.node.reach import judge, outgoing_address, place_of, would_be_at

LOOPBACK, PRIVATE, PUBLIC = "/ip4/127.0.0.1/tcp/4001", "/ip4/192.168.1.7/tcp/4001", "/ip4/8.8.4.4/tcp/4001"
ROUTER = "/ip4/1.1.1.1/tcp/52311"


def peer(remote: str, *, outgoing: bool = False) -> dict[str, Any]:
    return {"remote": remote, "outgoing": outgoing}


@pytest.mark.parametrize(
    ("addresses", "observed", "local", "level", "words"),
    [
        ([], [], False, Level.ERROR, "listens on no address"),
        ([LOOPBACK], [], False, Level.WARNING, "loopback only (127.0.0.1:4001)"),
        ([LOOPBACK], [], True, Level.OK, "loopback only"),
        (["/ip6/::1/tcp/4001"], [], False, Level.WARNING, "loopback only ([::1]:4001)"),
        ([PRIVATE], [], False, Level.WARNING, "probably behind a NAT"),
        ([PRIVATE], [], True, Level.OK, "192.168.1.7:4001"),
        ([PRIVATE], ["/ip4/192.168.1.7/tcp/5000"], False, Level.WARNING, "probably behind a NAT"),
        ([PRIVATE], [ROUTER], False, Level.WARNING, "peers see it at 1.1.1.1: it is behind a NAT"),
        ([PRIVATE], ["nonsense", "/ip4/1.2/tcp/x", ROUTER], False, Level.WARNING, "1.1.1.1"),
        (["/ip4/100.64.1.1/tcp/1"], [], False, Level.WARNING, "probably behind a NAT"),
        ([PUBLIC], [], False, Level.OK, "8.8.4.4:4001"),
        ([PUBLIC, PRIVATE], ["/ip4/8.8.4.4/tcp/9"], False, Level.OK, "8.8.4.4:4001"),
        ([PUBLIC], [ROUTER], False, Level.WARNING, "peers see it at 1.1.1.1"),
        (["/dns4/node.example/tcp/4001"], [ROUTER], False, Level.OK, "node.example"),
    ],
)
def test_why_nobody_can_reach_a_node(
    addresses: list[str], observed: list[str], local: bool, level: Level, words: str
) -> None:
    found = judge(addresses, observed, local=local)
    assert found.level is level
    assert words in found.what
    assert bool(found.remedy) == (level is not Level.OK)


def test_the_remedy_for_a_nat_is_what_join_takes() -> None:
    remedy = judge([PRIVATE], [ROUTER], local=False).remedy
    assert "forward TCP port 4001 of the router to 192.168.1.7" in remedy
    announced = remedy.partition("--announce ")[2].rstrip(".")
    assert parse_listen(announced) == "/ip4/1.1.1.1/tcp/4001"
    assert "--listen" not in remedy
    any_port = judge(["/ip4/192.168.1.7/tcp/0"], [], local=False)
    assert "--listen /ip4/0.0.0.0/tcp/4001" in any_port.remedy
    assert "any free port" in any_port.what


def test_who_has_dialled_it_proves_that_it_can_be_reached() -> None:
    from_outside = peer("/ip4/9.9.9.9/tcp/1234")
    assert judge([PRIVATE], [ROUTER], [from_outside], local=False).level is Level.OK
    for other in (
        peer("/ip4/9.9.9.9/tcp/1234", outgoing=True),
        peer("/ip4/192.168.1.9/tcp/1234"),
        peer(""),
        peer("\x1b[2Jnonsense"),
    ):
        assert judge([PRIVATE], [ROUTER], [other], local=False).level is Level.WARNING


@pytest.mark.parametrize(
    "text",
    [
        "",
        "/",
        "/ip4/1.2.3.4",
        "/ip4/1.2.3.4/udp/5",
        "/ip4/x/tcp/5",
        "/ip4/1.2.3.4/tcp/²",
        f"{ROUTER}/p2p/12D3/p2p-circuit",
    ],
)
def test_what_is_no_place_is_none(text: str) -> None:
    assert place_of(text) is None


def test_a_wildcard_stands_for_the_address_of_this_machine() -> None:
    listen = ("/ip4/0.0.0.0/tcp/4001", LOOPBACK)
    assert would_be_at(listen, "10.0.0.5") == ("/ip4/10.0.0.5/tcp/4001", LOOPBACK)
    assert would_be_at(listen, None) == listen
    own = outgoing_address()
    assert own is None or place_of(f"/ip4/{own}/tcp/1") is not None


def tried(access: str, *verdicts: tuple[str, bool, str], **more: Any) -> dict[str, Any]:
    return {
        "access": access,
        "agreeing": len(verdicts),
        "asked": len(verdicts),
        "confirmed": [place for place, reached, _ in verdicts if reached],
        "verdicts": [{"place": place, "reached": reached, "why": why} for place, reached, why in verdicts],
        "listening": [PRIVATE],
        "relays": [],
    } | more


def test_what_came_of_dialling_weighs_more_than_any_address() -> None:
    report = tried("public", (ROUTER, True, ""))
    found = judge([PRIVATE], [], [], local=False, report=report)
    assert found.level is Level.OK
    assert str(place_of(ROUTER)) in found.what
    missed = (ROUTER, False, "no answer within 5 s")
    found = judge([ROUTER], [], [], local=False, report=tried("private", missed))
    assert found.level is Level.WARNING
    assert "1 of 1 peers tried" in found.what
    assert "no answer within 5 s" in found.what
    assert f"forward TCP port {place_of(PRIVATE).port}" in found.remedy  # type: ignore[union-attr]
    relayed = judge([], [], [], local=False, report=tried("private", missed, relays=[{}]))
    assert relayed.level is Level.OK
    assert "through 1 relay," in relayed.what
    assert "forward TCP port" in relayed.remedy
    firewall = judge([ROUTER], [], [], local=False, report=tried("private", missed, listening=[ROUTER]))
    assert "firewall of this machine" in firewall.remedy


def test_where_nobody_of_the_internet_tried_the_addresses_speak() -> None:
    found = judge([PRIVATE], [ROUTER], [], local=False, report=tried("unknown"))
    assert found == judge([PRIVATE], [ROUTER], [], local=False)
    assert judge([PRIVATE], [], [], local=False, report={}) == judge([PRIVATE], [], [], local=False)
