from __future__ import annotations

import pytest
import trio

from koii_p2p.network import mdns as module
from koii_p2p.network.identity import peer_id_text
from koii_p2p.network.mdns import mdns

KEY = bytes(range(32))


async def test_reports_of_zeroconf_threads_arrive_in_the_trio_thread() -> None:
    found: list[tuple[bytes, tuple[str, ...]]] = []
    collector = module._Collector(
        lambda key, addresses: found.append((key, addresses)), trio.lowlevel.current_trio_token()
    )
    await trio.to_thread.run_sync(collector.add_addrs, peer_id_text(KEY), ["/ip4/10.0.0.1/tcp/1"], 120)
    await trio.to_thread.run_sync(
        collector.add_addrs, "QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N", [], 120
    )
    await trio.to_thread.run_sync(collector.clear_addrs, peer_id_text(KEY))
    await trio.sleep(0)
    assert found == [(KEY, ("/ip4/10.0.0.1/tcp/1",))]


async def test_without_multicast_the_node_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def unavailable(*args: object) -> None:
        raise OSError("no multicast here")

    monkeypatch.setattr(module, "_start", unavailable)
    entered = False
    async with mdns(KEY, ("/ip4/127.0.0.1/tcp/1",), lambda key, addresses: None):
        entered = True
    assert entered


async def test_starting_and_stopping_ends_its_threads() -> None:
    import threading

    before = threading.active_count()
    async with mdns(KEY, ("/ip4/127.0.0.1/tcp/1",), lambda key, addresses: None):
        await trio.sleep(0)
    with trio.move_on_after(5):
        while threading.active_count() > before + 2:  # trio keeps idle workers for a while
            await trio.sleep(0.05)
    assert not [thread for thread in threading.enumerate() if "zeroconf" in thread.name.lower()]
