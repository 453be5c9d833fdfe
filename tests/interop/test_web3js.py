"""An unmodified `@solana/web3.js` 1.x from npm against a real local K2 process."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

from solders.keypair import Keypair
from solders.pubkey import Pubkey

from koii_p2p.settlement.rpc import RpcClient
from tests.localk2.chain import KOII, k2_process, transfer_wire
from tests.localk2.test_server import wallet

from .npm import run_node


def free_pair() -> int:
    """A port that is free together with the one after it: web3.js finds the WebSocket there."""
    for _ in range(100):
        with socket.socket() as first, socket.socket() as second:
            first.bind(("127.0.0.1", 0))
            port: int = first.getsockname()[1]
            try:
                second.bind(("127.0.0.1", port + 1))
            except (OSError, OverflowError):
                continue
            return port
    raise AssertionError("no two free ports in a row")


def run_web3(node_modules: Path, *arguments: str) -> dict[str, Any]:
    printed = run_node(node_modules, "web3.cjs", *arguments, seconds=120)
    seen: dict[str, Any] = json.loads(printed.splitlines()[-1])
    return seen


async def test_web3js_reads_balances_and_transactions_and_sends(node_modules: Path, tmp_path: Path) -> None:
    with k2_process(tmp_path, "--port", str(free_pair()), "--slot-ms", "100") as running:
        url = running.address["url"]
        async with RpcClient(url) as client:
            payer, address = await wallet(client), Keypair().pubkey()
            blockhash, _ = await client.get_latest_blockhash()
            landed = await client.send_and_confirm(transfer_wire(payer, address, 2 * KOII, blockhash))
            seen = run_web3(node_modules, url, str(address), landed.signature)

            assert seen["genesis"] == running.address["genesis"]
            assert seen["balance"] == 2 * KOII
            assert seen["account"] == {"lamports": 2 * KOII, "owner": "1" * 32}
            assert seen["transaction"] == {"slot": landed.slot, "fee": 5000, "err": None}
            assert seen["history"] == [landed.signature]
            assert seen["receiverBalance"] == 123_456_789
            assert seen["payerBalance"] == 2 * KOII - 123_456_789 - 5000
            assert seen["accountChanges"] == [123_456_789]
            assert (seen["simulatedError"], seen["versionedError"], seen["version"]) == (None, None, 0)
            assert seen["fee"] == 5000
            assert seen["blockHolds"] is True
            assert seen["tooMuch"]["name"] == "SendTransactionError"
            assert seen["tooMuch"]["logs"] > 0
            # What web3.js sent is there for everybody.
            receiver = bytes(Pubkey.from_string(seen["receiver"]))
            assert await client.get_balance(receiver) == 123_456_789
            record = await client.get_transaction(seen["sent"])
            assert record is not None
            assert record.err is None
            assert await client.get_balance(bytes(address)) == 2 * KOII + 1
