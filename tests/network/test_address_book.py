from __future__ import annotations

import json
import os
import time
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from koii_p2p.limits import Limits
from koii_p2p.network.address_book import FORGOTTEN_SECONDS, AddressBook
from koii_p2p.network.identity import peer_id_text
from koii_p2p.records.keys import SecretKey
from koii_p2p.storage.private_file import PrivateFile
from tests.network.nets import QUICK, TOPIC, net, until

SOON = replace(QUICK, address_book_save_seconds=0.05)
OWN = SecretKey.from_seed(bytes(32)).public_key
OTHERS = [SecretKey.from_seed(bytes([number]) * 32).public_key for number in range(1, 9)]


def file_at(folder: Path) -> PrivateFile:
    return PrivateFile(folder / "peers.json", Limits().address_book_file_bytes)


def book_of(limits: Limits = QUICK) -> AddressBook:
    return AddressBook(OWN, limits)


async def test_a_node_finds_its_net_again_when_its_bootstrap_peer_is_dead(tmp_path: Path) -> None:
    async with net() as running:
        bootstrap = await running.add(1)
        friend = await running.add(2, bootstrap=(bootstrap.address,))
        file = file_at(tmp_path)
        node = await running.add(3, bootstrap=(bootstrap.address,), limits=SOON, address_file=file)
        await until(lambda: node.knows(bootstrap) and friend.knows(bootstrap))
        node.network.learn(friend.key, [friend.address])  # as from the friend's signed Presence
        await until(lambda: friend.knows(node))
        dead = bootstrap.address
        await node.stop()
        await bootstrap.stop()
        assert {peer["peer_id"] for peer in json.loads(file.path.read_bytes())["peers"]} == {
            friend.network.peer_id,
            bootstrap.network.peer_id,
        }
        again = await running.add(3, bootstrap=(dead,), limits=SOON, address_file=file)
        await until(lambda: again.knows(friend) and friend.knows(again))
        await friend.network.publish(TOPIC, b"welcome back")
        await until(lambda: b"welcome back" in again.received)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b'{"version": 2, "peers": []}',
        b'{"version": 1}',
        b"\xff\xfe",
        b"[" * 100_000,
    ],
)
async def test_a_torn_file_costs_a_warning_and_is_replaced(
    tmp_path: Path, content: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    file = file_at(tmp_path)
    file.path.write_bytes(content)
    os.chmod(file.path, 0o600)
    async with net() as running:
        other = await running.add(1)
        node = await running.add(2, bootstrap=(other.address,), limits=SOON, address_file=file)
        assert "addresses_not_restored" in capsys.readouterr().out
        await until(lambda: node.knows(other))
        await until(lambda: other.network.peer_id.encode() in file.path.read_bytes())
    assert [path.name for path in tmp_path.iterdir()] == ["peers.json"]


async def test_a_folder_that_is_gone_does_not_hinder_the_node(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with net() as running:
        other = await running.add(1)
        node = await running.add(
            2, bootstrap=(other.address,), limits=SOON, address_file=file_at(tmp_path / "nowhere")
        )
        await until(lambda: node.knows(other))
        said = ""
        with trio.fail_after(5):
            while "addresses_not_saved" not in said:
                said += capsys.readouterr().out
                await trio.sleep(0.02)
        assert node.knows(other)


async def test_what_is_saved_comes_back_the_last_reached_first() -> None:
    async with trio.open_nursery():
        book = book_of()
        for number, key in enumerate(OTHERS):
            book.learn(key, [f"/ip4/45.0.0.{number}/tcp/1"], signed=True, now=0.0)
        reached = book.get(OTHERS[5])
        assert reached is not None
        book.succeeded(reached)
        again = book_of()
        assert again.restore(book.encoded(), 100.0) == len(OTHERS)
        order = sorted(again, key=lambda peer: peer.not_before)
        assert order[0].key == OTHERS[5]
        assert {peer.key: peer.addresses for peer in again} == {peer.key: peer.addresses for peer in book}
        assert again.encoded() == book.encoded()


def test_hearsay_and_old_peers_are_not_kept() -> None:
    book = book_of()
    book.learn(OTHERS[0], ["/ip4/45.0.0.1/tcp/1"], signed=False, now=0.0)
    assert json.loads(book.encoded())["peers"] == []
    entry = {
        "peer_id": peer_id_text(OTHERS[1]),
        "addresses": ["/ip4/45.0.0.1/tcp/1"],
        "last_success": int(time.time()) - FORGOTTEN_SECONDS - 10,
        "failures": 0,
    }
    fresh = entry | {"last_success": int(time.time())}
    assert book_of().restore(json.dumps({"version": 1, "peers": [entry]}).encode(), 0.0) == 0
    assert book_of().restore(json.dumps({"version": 1, "peers": [fresh]}).encode(), 0.0) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"peer_id": "12D3KooW"}, {"peer_id": peer_id_text(OWN)}, {"addresses": []}, {"addresses": "/ip4/1.2.3.4/tcp/1"},
        {"addresses": ["/ip4/1.2.3.4/udp/1"]}, {"addresses": [None]}, {"last_success": "yesterday"}, {"failures": None},
        {"last_success": 1e999},
    ],
)  # fmt: skip
def test_a_peer_that_makes_no_sense_is_left_out(change: dict[str, object]) -> None:
    good = {
        "peer_id": peer_id_text(OTHERS[1]),
        "addresses": ["/ip4/45.0.0.1/tcp/1"],
        "last_success": 0,
        "failures": 0,
    }
    other = good | {"peer_id": peer_id_text(OTHERS[2])}
    book = book_of()
    assert book.restore(json.dumps({"version": 1, "peers": [good | change, 7, other]}).encode(), 0.0) == 1
    assert [peer.key for peer in book] == [OTHERS[2]]


def test_the_file_is_bounded() -> None:
    limits = replace(QUICK, address_book_saved=3)
    book = book_of(limits)
    for number, key in enumerate(OTHERS):
        book.learn(key, [f"/ip4/45.0.0.{number}/tcp/1"], signed=True, now=0.0)
    assert len(json.loads(book.encoded())["peers"]) == 3
    assert book_of(limits).restore(book_of(QUICK).encoded(), 0.0) == 0
    full = book_of(QUICK)
    for number, key in enumerate(OTHERS):
        full.learn(key, [f"/ip4/45.0.0.{number}/tcp/1"], signed=True, now=0.0)
    assert book_of(limits).restore(full.encoded(), 0.0) == 3


def test_relayed_addresses_are_kept_with_their_relay() -> None:
    place = f"/ip4/45.0.0.1/tcp/1/p2p/{peer_id_text(OTHERS[0])}/p2p-circuit"
    book = book_of()
    book.learn(OTHERS[1], [f"{place}/p2p/{peer_id_text(OTHERS[1])}"], signed=True, now=0.0)
    known = book.get(OTHERS[1])
    assert known is not None
    assert known.addresses == (place,)
    again = book_of()
    again.restore(book.encoded(), 0.0)
    restored = again.get(OTHERS[1])
    assert restored is not None
    assert restored.addresses == (place,)
    for wrong in (
        f"{place}/p2p/{peer_id_text(OTHERS[2])}", f"{place}/p2p-circuit", f"{place}/ip4/1.2.3.4/tcp/1",
        "/p2p-circuit", f"/p2p/{peer_id_text(OTHERS[0])}/p2p-circuit",
    ):  # fmt: skip
        book.learn(OTHERS[1], [wrong], signed=True, now=0.0)
    assert book.refused == 5
