"""Signing instructions and sending them until their fate is known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from solders.hash import Hash
from solders.instruction import Instruction
from solders.keypair import Keypair
from solders.message import Message
from solders.system_program import ID as SYSTEM_PROGRAM
from solders.transaction import Transaction

from koii_p2p.records.keys import SecretKey
from koii_p2p.settlement.interface import Receipt
from koii_p2p.settlement.refusals import PayerShort
from koii_p2p.settlement.rpc import RpcClient, TransactionExpired, TransactionFailed

SIGNING_ATTEMPTS: Final = 3
"""How often a transaction is signed anew after its blockhash expired unseen."""

_SHORT_OF_ROE: Final = {"Custom": 1}  # the system program's ResultWithNegativeLamports
_PAYER_SHORT: Final = (
    "AccountNotFound",
    "InsufficientFundsForFee",
    {"InsufficientFundsForRent": {"account_index": 0}},
)


class Sender:
    """Signs with `payer`, who pays the fee, and whoever else must sign; sends and waits for the outcome."""

    def __init__(self, rpc: RpcClient, payer: Keypair | SecretKey) -> None:
        self._rpc = rpc
        self._payer = keypair_of(payer)

    @property
    def payer(self) -> Keypair:
        """Who pays."""
        return self._payer

    async def send(self, action: str, instructions: Sequence[Instruction], *signers: Keypair) -> Receipt:
        """Send one transaction; `action` names it in errors ("anchor the list of round 3").

        Raises `PayerShort`, `TransactionFailed` (with the program's error), or another `ChainError`.
        """
        for attempt in range(1, SIGNING_ATTEMPTS + 1):
            try:
                return await self._send_once(action, instructions, signers)
            except TransactionExpired:
                if attempt == SIGNING_ATTEMPTS:
                    raise
        raise AssertionError("unreachable")

    async def _send_once(
        self, action: str, instructions: Sequence[Instruction], signers: Sequence[Keypair]
    ) -> Receipt:
        blockhash, last_height = await self._rpc.get_latest_blockhash()
        wire = signed(instructions, self._payer, signers, blockhash)
        try:
            landed = await self._rpc.send_and_confirm(wire, last_valid_block_height=last_height)
        except TransactionFailed as failure:
            if _is_payer_short(failure.err, instructions):
                raise PayerShort(action, bytes(self._payer.pubkey())) from failure
            raise
        return Receipt(landed.signature, landed.slot, landed.fee)


def signed(
    instructions: Sequence[Instruction], payer: Keypair, signers: Sequence[Keypair], blockhash: bytes
) -> bytes:
    """The wire bytes of one legacy transaction; each key signs once, the payer first."""
    message = Message.new_with_blockhash(list(instructions), payer.pubkey(), Hash(blockhash))
    distinct = {bytes(key.pubkey()): key for key in (payer, *signers)}
    return bytes(Transaction(list(distinct.values()), message, Hash(blockhash)))


def keypair_of(key: Keypair | SecretKey) -> Keypair:
    """The key as solders wants it."""
    return Keypair.from_bytes(key.solana_bytes) if isinstance(key, SecretKey) else key


def _is_payer_short(err: Any, instructions: Sequence[Instruction]) -> bool:
    if err in _PAYER_SHORT:
        return True
    match err:
        case {"InstructionError": [int(index), reason]} if index < len(instructions):
            return reason == _SHORT_OF_ROE and instructions[index].program_id == SYSTEM_PROGRAM
    return False
