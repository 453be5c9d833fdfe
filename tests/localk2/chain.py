"""What the tests of the local K2 share: signed transactions, a ledger in a folder, a server in a nursery."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from solders.hash import Hash
from solders.instruction import AccountMeta, Instruction
from solders.keypair import Keypair
from solders.message import Message, MessageV0
from solders.pubkey import Pubkey
from solders.system_program import TransferParams, transfer
from solders.transaction import VersionedTransaction

from koii_p2p.limits import Limits
from koii_p2p.localk2.ledger import Ledger
from koii_p2p.localk2.settings import LocalK2Settings

KOII = 10**9
MEMO = Pubkey.from_string("MemoSq4gqABAXKb96qnH8TysNcWxMyWCqXgDLGmfcHr")


def open_ledger(path: Path, limits: Limits | None = None, finality: int = 32) -> Ledger:
    settings = LocalK2Settings(path, port=0, finality=finality)
    return Ledger(settings, programs={}, limits=limits or Limits())


def transfer_wire(payer: Keypair, to: Pubkey, lamports: int, blockhash: bytes) -> bytes:
    payment = transfer(TransferParams(from_pubkey=payer.pubkey(), to_pubkey=to, lamports=lamports))
    message = Message.new_with_blockhash([payment], payer.pubkey(), Hash(blockhash))
    return bytes(VersionedTransaction(message, [payer]))


def memo_wire(payer: Keypair, text: bytes, blockhash: bytes, *, version_0: bool = False) -> bytes:
    memo = Instruction(MEMO, text, [AccountMeta(payer.pubkey(), True, False)])
    if version_0:
        compiled = MessageV0.try_compile(payer.pubkey(), [memo], [], Hash(blockhash))
        return bytes(VersionedTransaction(compiled, [payer]))
    message = Message.new_with_blockhash([memo], payer.pubkey(), Hash(blockhash))
    return bytes(VersionedTransaction(message, [payer]))


def funded(ledger: Ledger, lamports: int = 10 * KOII) -> Keypair:
    keypair = Keypair()
    _, err = ledger.airdrop(keypair.pubkey(), lamports)
    assert err is None
    return keypair


def free_port() -> int:
    """A port that is free, with a free one behind it, and that the system gives to no outgoing connection."""
    ephemeral = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    draw = random.SystemRandom()
    while True:
        port = draw.randrange(min(20_000, ephemeral - 1000), ephemeral - 1)
        with ExitStack() as stack, suppress(OSError):
            for one in (port, port + 1):
                stack.enter_context(socket.socket()).bind(("127.0.0.1", one))
            return port


class K2Process:
    """A real `python -m koii_p2p.localk2`, and what it announced."""

    def __init__(self, path: Path, *options: str) -> None:
        command = [sys.executable, "-m", "koii_p2p.localk2", "--path", str(path)]
        command += options if "--port" in options else ("--port", "0", *options)
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            _, said = self.process.communicate(timeout=30)
            raise AssertionError(f"the local K2 did not start: {said}")
        self.address: dict[str, Any] = json.loads(line)

    def kill(self) -> None:
        self.stop(signal.SIGKILL)

    def stop(self, number: int = signal.SIGTERM) -> int:
        if self.process.poll() is None:
            os.kill(self.process.pid, number)
        self.process.communicate(timeout=30)
        return self.process.returncode


@contextmanager
def k2_process(path: Path, *options: str) -> Iterator[K2Process]:
    running = K2Process(path, *options)
    try:
        yield running
    finally:
        running.kill()
