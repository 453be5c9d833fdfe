"""The program is deployed to a real local K2 over JSON-RPC: resumed, verified, upgraded, and then used."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
from solders.keypair import Keypair
from solders.pubkey import Pubkey

from koii_p2p.errors import ConfigurationError
from koii_p2p.localk2.server import serve
from koii_p2p.localk2.settings import LocalK2Settings
from koii_p2p.records.keys import SecretKey
from koii_p2p.settlement import instructions as ix
from koii_p2p.settlement.confirmation import ConfirmedTransaction
from koii_p2p.settlement.program import ProgramSettlement
from koii_p2p.settlement.rpc import RpcClient
from koii_p2p.storage import create_private, save_secret
from koii_p2p.storage.locked_key import PASSPHRASE_FILE
from scripts.deploy_program import (
    BINARY,
    CHUNK,
    Deployed,
    DeployError,
    Deployment,
    deploy,
    key_from,
    missing_chunks,
    program_data_address,
)

from .virtual_chain import KOII, address, default_terms


class Interrupted(Exception):
    pass


class Interrupting(RpcClient):
    """Takes a few transactions, then the process is gone."""

    left = 10

    async def send_and_confirm(
        self, wire: bytes, *, commitment: object = None, last_valid_block_height: int | None = None
    ) -> ConfirmedTransaction:
        self.left -= 1
        if self.left < 0:
            raise Interrupted
        return await super().send_and_confirm(wire, last_valid_block_height=last_valid_block_height)


def test_only_what_is_missing_is_written() -> None:
    binary = bytes(range(1, 250)) * 20
    assert missing_chunks(binary, binary + b"rest") == []
    everything = missing_chunks(binary, b"")
    assert b"".join(chunk for _, chunk in everything) == binary
    assert [offset for offset, _ in everything] == list(range(0, len(binary), CHUNK))
    hole = binary[:CHUNK] + bytes(CHUNK) + binary[2 * CHUNK :]
    assert missing_chunks(binary, hole) == [(CHUNK, binary[CHUNK : 2 * CHUNK])]


def test_keys_are_made_once_and_kept_private(tmp_path: Path) -> None:
    path = tmp_path / "key.json"
    made = key_from(path, make=True)
    assert key_from(path, make=False) == made
    assert path.stat().st_mode & 0o077 == 0
    with pytest.raises(DeployError, match="no key file"):
        key_from(tmp_path / "absent.json", make=False)
    path.chmod(0o644)
    with pytest.raises(ConfigurationError, match="chmod 600"):
        key_from(path, make=True)
    path.chmod(0o600)
    path.write_text("nonsense")
    with pytest.raises(ConfigurationError, match="not JSON"):
        key_from(path, make=True)


def _all_interrupted(error: BaseException) -> bool:
    if isinstance(error, BaseExceptionGroup):
        return all(map(_all_interrupted, error.exceptions))
    return isinstance(error, Interrupted)


async def test_deployed_after_an_interruption_then_upgraded_and_used(
    tmp_path: Path, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    k2 = await nursery.start(serve, LocalK2Settings(tmp_path / "k2", port=0, slot_ms=20, finality=4))
    create_private(tmp_path / "passphrase", b"a long passphrase\n")
    monkeypatch.setenv(PASSPHRASE_FILE, str(tmp_path / "passphrase"))
    save_secret(tmp_path / "payer.json", SecretKey.generate(), "a long passphrase")
    payer = key_from(tmp_path / "payer.json", make=False)
    files = (tmp_path / "payer.json", tmp_path / "program.json")
    async with RpcClient(k2.url) as rpc:
        with trio.fail_after(120):
            await rpc.request_airdrop(address(payer), 100 * KOII)
            while await rpc.get_balance(address(payer)) == 0:
                await trio.sleep(0.02)

            program = key_from(files[1], make=True)
            buffer = key_from(files[1].with_suffix(".buffer.json"), make=True)
            async with Interrupting(k2.url) as dying:
                deployment = Deployment(dying, payer, program, buffer, BINARY.read_bytes())
                with pytest.raises((Interrupted, ExceptionGroup)) as died:  # several writes may be under way
                    await deployment.run(0)
                assert _all_interrupted(died.value)
            first = await deploy(k2.url, *files, BINARY, 40 * 1024)
            chunks = -(-BINARY.stat().st_size // CHUNK)
            assert first.program == program.pubkey()
            assert chunks + 1 - 9 - 1 <= first.transactions <= chunks + 1 - 9 + 1
            assert await _held(rpc, program.pubkey()) == BINARY.read_bytes()
            assert await deploy(k2.url, *files, BINARY, 40 * 1024) == Deployed(program.pubkey(), 0)

            await rpc.request_airdrop(address(Keypair.from_seed(bytes(32))), 10 * KOII)
            stranger = tmp_path / "stranger.json"
            save_secret(stranger, SecretKey.from_seed(bytes(32)))
            other = tmp_path / "other.so"
            other.write_bytes(_other(BINARY.read_bytes()))
            with pytest.raises(DeployError, match="may not upgrade"):
                await deploy(k2.url, stranger, files[1], other, 0)
            files[1].with_suffix(".buffer.json").unlink()
            await deploy(k2.url, *files, other, 0)
            assert await _held(rpc, program.pubkey()) == other.read_bytes()

            settlement = ProgramSettlement(rpc, payer, program_id=address(program))
            await _next_slot(rpc)
            terms = default_terms(bytes(32))
            object.__setattr__(terms, "task", bytes(32))
            created = await settlement.create_task(terms, 1)
            assert created.task == ix.task_address(address(payer), 1, address(program))
            assert (await settlement.task_state(created.task)).terms.name == "hello world"
    nursery.cancel_scope.cancel()


def _other(binary: bytes) -> bytes:
    """The same program in other bytes: one that ELF leaves unused."""
    return binary[:15] + b"\1" + binary[16:]


async def _held(rpc: RpcClient, program: Pubkey) -> bytes:
    account = await rpc.get_account(bytes(program_data_address(program)))
    assert account is not None
    return account.data[45:].rstrip(b"\0").ljust(BINARY.stat().st_size, b"\0")


async def _next_slot(rpc: RpcClient) -> None:
    slot = await rpc.get_slot("processed")
    while await rpc.get_slot("processed") <= slot + 1:
        await trio.sleep(0.01)
