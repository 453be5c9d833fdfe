from __future__ import annotations

from dataclasses import replace

from koii_p2p.limits import Limits
from koii_p2p.network.peer_table import REMEMBERED, PeerTable

KEY = bytes(32)
LIMITS = replace(Limits(), rejects_before_disconnect=3, ban_seconds=10.0, misbehaviour_memory=60.0)


def test_links_follow_the_number_of_connections() -> None:
    table = PeerTable(LIMITS)
    assert not table.lost(KEY)
    assert table.update(KEY, 1, outgoing=True, now=1.0)
    assert not table.update(KEY, 2, outgoing=False, now=2.0)
    link = table.links[KEY]
    assert (link.since, link.outgoing, link.connections) == (1.0, True, 2)
    assert not table.update(KEY, 1, outgoing=False, now=3.0)
    assert table.lost(KEY)
    assert not table.lost(KEY)
    assert not table.links


def test_a_ban_begins_at_the_limit_and_ends() -> None:
    table = PeerTable(LIMITS)
    assert [table.misbehaved(KEY, float(now)) for now in range(3)] == [False, False, True]
    assert table.banned(KEY, 11.9)
    assert not table.banned(KEY, 12.0)
    assert table.banned_count(5.0) == 1
    assert table.rejects(KEY) == 0
    assert table.bans == 1


def test_a_ban_can_be_said_at_once_and_again() -> None:
    table = PeerTable(LIMITS)
    table.misbehaved(KEY, 0.0)
    table.ban(KEY, 1.0)
    table.ban(KEY, 5.0)
    assert table.banned(KEY, 14.9)
    assert not table.banned(KEY, 15.0)
    assert (table.rejects(KEY), table.bans) == (0, 2)


def test_old_faults_are_forgotten() -> None:
    table = PeerTable(LIMITS)
    table.misbehaved(KEY, 0.0)
    table.misbehaved(KEY, 1.0)
    assert not table.misbehaved(KEY, 100.0)
    assert table.rejects(KEY) == 1


def test_the_memory_is_bounded() -> None:
    table = PeerTable(LIMITS)
    for number in range(REMEMBERED + 10):
        table.misbehaved(number.to_bytes(32, "big"), 0.0)
    assert table.rejects((0).to_bytes(32, "big")) == 0
    assert table.rejects((REMEMBERED + 9).to_bytes(32, "big")) == 1


def test_those_dialled_beyond_the_target_make_room_first_and_newcomers_never() -> None:
    table = PeerTable(LIMITS)
    keys = [bytes([number]) * 32 for number in range(7)]
    for number, outgoing in enumerate((True, False, True, True, False, True)):
        table.update(keys[number], 1, outgoing=outgoing, now=float(number))
    table.update(keys[6], 1, outgoing=True, now=99.0)
    assert table.to_make_room(9, 2, 100.0) == [keys[5], keys[3], keys[1], keys[4]]
    assert table.to_make_room(1, 2, 100.0) == [keys[5]]
    assert table.to_make_room(9, 8, 100.0) == [keys[1], keys[4]]
    assert table.to_make_room(0, 2, 100.0) == table.to_make_room(-5, 2, 100.0) == []
