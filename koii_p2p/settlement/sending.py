"""Signing instructions and sending them until their fate is known.

This is the one place that signs an action anew. Below it (`confirmation`) there are only bytes, which are sent as
often as it takes; above it nobody knows whether these bytes can still land. So here a transaction that has certainly
expired is given a new blockhash and a higher priority fee, and nothing else is ever signed twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import structlog
from solders.compute_budget import ID as COMPUTE_BUDGET
from solders.compute_budget import set_compute_unit_limit, set_compute_unit_price
from solders.hash import Hash
from solders.instruction import Instruction
from solders.keypair import Keypair
from solders.message import Message
from solders.system_program import ID as SYSTEM_PROGRAM
from solders.transaction import Transaction

from koii_p2p.errors import ChainError
from koii_p2p.records.keys import SecretKey
from koii_p2p.settlement.interface import Receipt
from koii_p2p.settlement.priority_fees import PriorityFees, priority_fee
from koii_p2p.settlement.refusals import PayerShort
from koii_p2p.settlement.rpc import RpcClient, TransactionExpired, TransactionFailed

SIGNING_ATTEMPTS: Final = 3
"""How often an action is signed: the first time, and again after its blockhash expired unseen."""
UNITS_OF_AN_INSTRUCTION: Final = 200_000
MOST_UNITS: Final = 1_400_000
"""What the runtime reserves for each instruction of a transaction that says nothing, and for all of them at most
(https://solana.com/docs/core/fees)."""

_BLOCKHASHES: Final = 3
_SET_UNIT_LIMIT: Final = 2  # tag of SetComputeUnitLimit, before a u32
_SHORT_OF_ROE: Final = {"Custom": 1}  # the system program's ResultWithNegativeLamports
_PAYER_SHORT: Final = (
    "AccountNotFound",
    "InsufficientFundsForFee",
    {"InsufficientFundsForRent": {"account_index": 0}},
)


_log = structlog.get_logger(__name__)


class Sender:
    """Signs with `payer`, who pays the fee, and whoever else must sign; bids; sends and waits for the outcome."""

    def __init__(
        self,
        rpc: RpcClient,
        payer: Keypair | SecretKey,
        fees: PriorityFees = PriorityFees(),  # noqa: B008 - a frozen value
    ) -> None:
        self._rpc = rpc
        self._payer = keypair_of(payer)
        self._fees = fees

    @property
    def payer(self) -> Keypair:
        """Who pays."""
        return self._payer

    async def price(self, instructions: Sequence[Instruction]) -> int:
        """What `send` bids first for these instructions: micro-Roe for a compute unit."""
        # Nobody else writes the payer's account: what was bid for that is what this key bid itself.
        own = bytes(self._payer.pubkey())
        writes = {
            bytes(one.pubkey): None for each in instructions for one in each.accounts if one.is_writable
        }
        return await self._fees.price(self._rpc, [one for one in writes if one != own])

    def highest_price(self, price: int) -> int:
        """What `send` bids last, if nothing was taken in time at `price` or above."""
        for _ in range(SIGNING_ATTEMPTS - 1):
            price = self._fees.raised(price)
        return price

    async def fee(self, instructions: Sequence[Instruction], price: int) -> int:
        """What a transaction of these instructions costs at a price, in Roe: K2's fee, and what is bid.

        Raises:
            ChainError: K2 does not say what it takes.
        """
        for _ in range(_BLOCKHASHES):
            blockhash, _height = await self._rpc.get_latest_blockhash()
            message = Message.new_with_blockhash(list(instructions), self._payer.pubkey(), Hash(blockhash))
            fee = await self._rpc.get_fee_for_message(bytes(message))
            if fee is not None:
                return fee + priority_fee(reserved_units(instructions), price)
        raise ChainError(
            "It cannot be said what this costs.",
            "K2 forgets its own blockhashes at once.",
            "Ask another K2 node with --url.",
        )

    async def send(
        self, action: str, instructions: Sequence[Instruction], *signers: Keypair, price: int | None = None
    ) -> Receipt:
        """Send one transaction; `action` names it in errors ("anchor the list of round 3").

        Bids `price`, or what recent blocks asked. Once it is certain that a transaction can never land, it is signed
        anew and bids more, `SIGNING_ATTEMPTS` times in all.

        Raises `PayerShort`, `TransactionFailed` (with the program's error), or another `ChainError`.
        """
        bid = await self.price(instructions) if price is None else price
        for attempt in range(1, SIGNING_ATTEMPTS + 1):
            try:
                return await self._send_once(action, with_bid(instructions, bid), signers)
            except TransactionExpired:
                if attempt == SIGNING_ATTEMPTS:
                    raise
                bid = self._fees.raised(bid)
                _log.info("transaction_signed_anew", action=action, attempt=attempt + 1, price=bid)
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


def with_bid(instructions: Sequence[Instruction], price: int) -> list[Instruction]:
    """The instructions with a price bid (micro-Roe for a compute unit), if there is one.

    It comes last, so that the others keep the places by which K2's errors name them. Without a limit among them, what
    the runtime would reserve is said out loud: that it is the same on every cluster is what makes the fee known.
    """
    if not price:
        return list(instructions)
    unlimited = _limit_of(instructions) is None
    limit = [set_compute_unit_limit(reserved_units(instructions))] if unlimited else []
    return [*instructions, *limit, set_compute_unit_price(price)]


def reserved_units(instructions: Sequence[Instruction]) -> int:
    """The compute units for which a transaction of these instructions pays its bid."""
    limit = _limit_of(instructions)
    if limit is not None:
        return limit
    working = sum(one.program_id != COMPUTE_BUDGET for one in instructions)
    return min(working * UNITS_OF_AN_INSTRUCTION, MOST_UNITS)


def _limit_of(instructions: Sequence[Instruction]) -> int | None:
    for one in instructions:
        data = bytes(one.data)
        if one.program_id == COMPUTE_BUDGET and data[:1] == bytes([_SET_UNIT_LIMIT]):
            return min(int.from_bytes(data[1:5], "little"), MOST_UNITS)
    return None


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
