"""Put the settlement program on a Solana-family cluster, by ordinary transactions of the upgradeable loader.

    python scripts/deploy_program.py --url http://127.0.0.1:8899 --payer wallet.json --program program.json

`program.json` is the program's own key; it is made if it does not exist, and its address is the program's id. The payer
becomes the upgrade authority: keep its key locked (`koii-p2p keys new wallet --lock -o wallet.json`); its passphrase is
asked for, or read from the file that KOII_P2P_PASSPHRASE_FILE names. What was written stays in a buffer account, whose
key is kept beside the program's: after an interruption the same command goes on with what is missing. In the end the
bytes are read back and compared. Run again, it changes nothing; with another binary it upgrades the program.
"""

from __future__ import annotations

import argparse
import struct
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import trio
from solders.hash import Hash
from solders.instruction import AccountMeta, Instruction
from solders.keypair import Keypair
from solders.message import Message
from solders.pubkey import Pubkey
from solders.system_program import ID as SYSTEM_PROGRAM
from solders.system_program import CreateAccountParams, create_account
from solders.sysvar import CLOCK, RENT
from solders.transaction import Transaction

from koii_p2p.errors import OperatorError
from koii_p2p.records.keys import SecretKey
from koii_p2p.settlement.rpc import RpcClient, TransactionExpired
from koii_p2p.storage.keyfile import load_secret, save_secret

LOADER: Final = Pubkey.from_string("BPFLoaderUpgradeab1e11111111111111111111111")
BINARY: Final = (
    Path(__file__).resolve().parent.parent / "koii_p2p" / "settlement" / "program" / "settlement.so"
)
BUFFER_HEADER: Final = 37
PROGRAM_SIZE: Final = 36
PROGRAM_DATA_HEADER: Final = 45
CHUNK: Final = 900
"""Bytes of the program in one transaction of at most 1232."""
PARALLEL: Final = 8
SIGNING_ATTEMPTS: Final = 5

_INITIALIZE_BUFFER, _WRITE, _DEPLOY, _UPGRADE = range(4)
_BUFFER, _PROGRAM, _PROGRAM_DATA = 1, 2, 3


class DeployError(Exception):
    """The program is not where it should be; the text says what is wrong and what to do."""


@dataclass(frozen=True, slots=True)
class Deployed:
    """What is on the chain now: the program's address, and how many transactions that took."""

    program: Pubkey
    transactions: int


def program_data_address(program: Pubkey) -> Pubkey:
    """Where the loader keeps a program's bytes."""
    return Pubkey.find_program_address([bytes(program)], LOADER)[0]


def missing_chunks(binary: bytes, written: bytes) -> list[tuple[int, bytes]]:
    """What of `binary` is not in a buffer that holds `written`: offsets and bytes, at most `CHUNK` each."""
    offsets = range(0, len(binary), CHUNK)
    chunks = ((offset, binary[offset : offset + CHUNK]) for offset in offsets)
    return [(offset, chunk) for offset, chunk in chunks if written[offset : offset + len(chunk)] != chunk]


def _call(kind: int, data: bytes, *metas: tuple[Pubkey, str]) -> Instruction:
    accounts = [AccountMeta(key, "S" in flags, "W" in flags) for key, flags in metas]
    return Instruction(LOADER, struct.pack("<I", kind) + data, accounts)


class Deployment:
    """One program on its way to one cluster."""

    def __init__(
        self, rpc: RpcClient, payer: Keypair, program: Keypair, buffer: Keypair, binary: bytes
    ) -> None:
        self._rpc, self._payer, self._program, self._buffer = rpc, payer, program, buffer
        self._binary = binary
        self._sent = 0

    async def run(self, capacity: int) -> Deployed:
        """Deploy or upgrade; `capacity` (bytes) is what a new program may ever grow to. Raises `DeployError`."""
        program = self._program.pubkey()
        found = await self._rpc.get_account(bytes(program))
        if found is not None and found.owner != bytes(LOADER):
            raise DeployError(f"{program} is an account of another program. Use another program key.")
        if found is None or not await self._is_done():
            await self._fill_buffer()
            await (self._deploy(capacity) if found is None else self._upgrade())
            if not await self._is_done():
                raise DeployError(
                    "The bytes on the chain are not those that were sent. Run the command again."
                )
        return Deployed(program, self._sent)

    async def _is_done(self) -> bool:
        """Whether the program's bytes, followed by zeros, are on the chain.

        Raises `DeployError` if they are not and can't be put there.
        """
        account = await self._rpc.get_account(bytes(program_data_address(self._program.pubkey())))
        if account is None or account.data[:4] != struct.pack("<I", _PROGRAM_DATA):
            raise DeployError(
                "The program was closed: its address can't be used again. Use another program key."
            )
        held = account.data[PROGRAM_DATA_HEADER:]
        if held[: len(self._binary)] == self._binary and not any(held[len(self._binary) :]):
            return True
        if account.data[12] != 1 or account.data[13:45] != bytes(self._payer.pubkey()):
            raise DeployError("The program has other bytes, and this wallet may not upgrade it.")
        if len(held) < len(self._binary):
            raise DeployError(
                f"The program's account has room for {len(held)} bytes, not {len(self._binary)}."
            )
        return False

    async def _fill_buffer(self) -> None:
        key, authority = self._buffer.pubkey(), self._payer.pubkey()
        account = await self._rpc.get_account(bytes(key))
        if account is None:
            size = BUFFER_HEADER + len(self._binary)
            rent = await self._rpc.get_minimum_balance_for_rent_exemption(size)
            opening = create_account(
                CreateAccountParams(
                    from_pubkey=authority, to_pubkey=key, lamports=rent, space=size, owner=LOADER
                )
            )
            await self._send(
                [opening, _call(_INITIALIZE_BUFFER, b"", (key, "W"), (authority, ""))], self._buffer
            )
            written = b""
        else:
            header = struct.pack("<IB", _BUFFER, 1) + bytes(authority)
            if account.owner != bytes(LOADER) or account.data[:BUFFER_HEADER] != header:
                raise DeployError(f"{key} is not a buffer of this wallet. Remove its key file to begin anew.")
            if len(account.data) < BUFFER_HEADER + len(self._binary):
                raise DeployError(f"The buffer {key} is too small. Remove its key file to begin anew.")
            written = account.data[BUFFER_HEADER:]
        waiting = iter(missing_chunks(self._binary, written))

        async def write() -> None:
            for offset, chunk in waiting:
                data = struct.pack("<IQ", offset, len(chunk)) + chunk
                await self._send([_call(_WRITE, data, (key, "W"), (authority, "S"))])

        async with trio.open_nursery() as nursery:
            for _ in range(PARALLEL):
                nursery.start_soon(write)

    async def _deploy(self, capacity: int) -> None:
        payer, program = self._payer.pubkey(), self._program.pubkey()
        rent = await self._rpc.get_minimum_balance_for_rent_exemption(PROGRAM_SIZE)
        opening = create_account(
            CreateAccountParams(
                from_pubkey=payer, to_pubkey=program, lamports=rent, space=PROGRAM_SIZE, owner=LOADER
            )
        )
        deploy = _call(
            _DEPLOY,
            struct.pack("<Q", max(capacity, len(self._binary))),
            (payer, "SW"),
            (program_data_address(program), "W"),
            (program, "W"),
            (self._buffer.pubkey(), "W"),
            (RENT, ""),
            (CLOCK, ""),
            (SYSTEM_PROGRAM, ""),
            (payer, "S"),
        )
        await self._send([opening, deploy], self._program)

    async def _upgrade(self) -> None:
        payer, program = self._payer.pubkey(), self._program.pubkey()
        upgrade = _call(
            _UPGRADE,
            b"",
            (program_data_address(program), "W"),
            (program, "W"),
            (self._buffer.pubkey(), "W"),
            (payer, "W"),  # gets the buffer's rent
            (RENT, ""),
            (CLOCK, ""),
            (payer, "S"),
        )
        await self._send([upgrade])

    async def _send(self, instructions: Sequence[Instruction], *signers: Keypair) -> None:
        for attempt in range(1, SIGNING_ATTEMPTS + 1):
            blockhash, last = await self._rpc.get_latest_blockhash()
            message = Message.new_with_blockhash(instructions, self._payer.pubkey(), Hash(blockhash))
            transaction = Transaction([self._payer, *signers], message, Hash(blockhash))
            try:
                await self._rpc.send_and_confirm(bytes(transaction), last_valid_block_height=last)
                self._sent += 1
                return
            except TransactionExpired:
                if attempt == SIGNING_ATTEMPTS:
                    raise


def key_from(path: Path, *, make: bool) -> Keypair:
    """The key in a private file, plain or locked (docs/keys.md); made, plain, if it is missing and `make` says so.

    Raises `DeployError` if it is missing otherwise, `ConfigurationError` if it cannot be used.
    """
    if not path.exists():
        if not make:
            raise DeployError(f"There is no key file {path}.")
        save_secret(path, SecretKey.generate())
    return Keypair.from_bytes(load_secret(path).solana_bytes)


async def deploy(url: str, payer: Path, program: Path, binary: Path, capacity: int) -> Deployed:
    """Deploy `binary` with the keys in these files. Raises `DeployError`, or `ChainError` if the cluster refuses."""
    buffer = program.with_suffix(".buffer.json")
    keys = key_from(payer, make=False), key_from(program, make=True), key_from(buffer, make=True)
    async with RpcClient(url) as rpc:
        deployed = await Deployment(rpc, *keys, binary.read_bytes()).run(capacity)
    buffer.unlink()  # the loader emptied the buffer, and its address is of no further use
    return deployed


def main() -> int:
    parser = argparse.ArgumentParser(description="Deploy the settlement program.")
    parser.add_argument("--url", required=True, help="JSON-RPC address of the cluster")
    parser.add_argument(
        "--payer", required=True, type=Path, help="key file of the wallet that pays, and may upgrade"
    )
    parser.add_argument(
        "--program", required=True, type=Path, help="key file of the program; made if missing"
    )
    parser.add_argument("--binary", type=Path, default=BINARY)
    parser.add_argument("--capacity", type=int, default=40 * 1024, help="bytes that upgrades may grow to")
    arguments = parser.parse_args()
    try:
        deployed = trio.run(
            deploy, arguments.url, arguments.payer, arguments.program, arguments.binary, arguments.capacity
        )
    except (DeployError, OperatorError) as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{deployed.program} holds the program; {deployed.transactions} transactions were needed.")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
