"""The local K2 as a process: signals, `kill -9`, a second process on the same folder or port."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import trio
from solders.keypair import Keypair

from koii_p2p.settlement.rpc import RpcClient, TransactionFailed
from tests.localk2.chain import KOII, k2_process, memo_wire, transfer_wire
from tests.localk2.test_server import wallet


async def test_everything_sealed_survives_kill_9(tmp_path: Path) -> None:
    to = Keypair().pubkey()
    with k2_process(tmp_path, "--slot-ms", "200") as first:
        async with RpcClient(first.address["url"]) as client:
            payer = await wallet(client)
            blockhash, _ = await client.get_latest_blockhash()
            wires = [transfer_wire(payer, to, KOII // 100 + index, blockhash) for index in range(20)]
            async with trio.open_nursery() as nursery:
                for wire in wires:
                    nursery.start_soon(client.send_and_confirm, wire)
            genesis = await client.get_genesis_hash()
            slot = await client.get_slot()
            balance = await client.get_balance(bytes(to))
            history = await client.get_address_history(bytes(to), limit=100)
        first.kill()
    assert len(history) == 20
    with k2_process(tmp_path, "--slot-ms", "200") as second:
        assert second.address["genesis"] == first.address["genesis"]
        async with RpcClient(second.address["url"]) as client:
            assert await client.get_genesis_hash() == genesis
            assert await client.get_slot() >= slot
            assert await client.get_balance(bytes(to)) == balance
            assert await client.get_address_history(bytes(to), limit=100) == history
            # A resend of what landed before the crash finds it instead of paying twice.
            again = await client.send_and_confirm(wires[3])
            assert again.signature in {line.signature for line in history}
            assert await client.get_balance(bytes(to)) == balance
            # The blockhash of before the crash still works for something new.
            await client.send_and_confirm(memo_wire(payer, b"after the crash", blockhash))
            with pytest.raises(TransactionFailed):
                await client.send_and_confirm(transfer_wire(payer, to, 10**15, blockhash))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_it_cleanly(tmp_path: Path, number: int) -> None:
    with k2_process(tmp_path) as running:
        assert set(running.address) == {"url", "ws", "genesis", "faucet"}
        assert running.stop(number) == 0


def test_a_second_process_on_the_folder_or_the_port_is_refused_with_its_exit_code(tmp_path: Path) -> None:
    with k2_process(tmp_path / "one") as running:
        port = running.address["url"].rpartition(":")[2]
        command = [sys.executable, "-m", "koii_p2p.localk2"]
        same_folder = subprocess.run(
            [*command, "--path", str(tmp_path / "one"), "--port", "0"],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        same_port = subprocess.run(
            [*command, "--path", str(tmp_path / "two"), "--port", port],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert (same_folder.returncode, same_folder.stdout) == (3, "")
        assert f"process with id {running.process.pid}" in same_folder.stderr
        assert (same_port.returncode, same_port.stdout) == (4, "")
        assert port in same_port.stderr
        assert "Traceback" not in same_folder.stderr + same_port.stderr


def test_only_loopback_listens(tmp_path: Path) -> None:
    with k2_process(tmp_path) as running:
        port = int(running.address["url"].rpartition(":")[2])
        assert running.address["url"].startswith("http://127.0.0.1:")
        with socket.create_connection(("127.0.0.1", port), timeout=5):
            pass
        # Another address of the same machine, were it listening everywhere.
        with pytest.raises(OSError), socket.create_connection(("127.0.0.2", port), timeout=5):
            pass
