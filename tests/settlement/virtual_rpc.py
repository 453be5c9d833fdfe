"""An `RpcClient` that answers from a `VirtualChain`: what the program's client and the history reader talk to."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

from solders.transaction import Transaction

from koii_p2p.settlement.rpc import (
    Account,
    Commitment,
    ConfirmedTransaction,
    DataSize,
    Memcmp,
    RpcClient,
    SignatureInfo,
    TransactionExpired,
    TransactionFailed,
    TransactionRecord,
    transaction_signature,
)

from .virtual_chain import Landed, VirtualChain


@dataclass(frozen=True, slots=True)
class Lie:
    """What the node says about one transaction instead of the truth. None leaves the transaction out."""

    line: SignatureInfo | None
    record: TransactionRecord | None


class VirtualRpc(RpcClient):
    """The methods that settlement uses, without a network. `lies` change history, `expiries` drop transactions."""

    def __init__(self, chain: VirtualChain) -> None:
        super().__init__("http://localhost:1")
        self.chain = chain
        self.lies: dict[str, Lie] = {}
        self.expiries = 0
        self.sent: list[bytes] = []
        self.accounts: dict[bytes, Account | None] = {}

    async def get_genesis_hash(self) -> bytes:
        return b"g" * 32

    async def get_slot(self, commitment: Commitment = "confirmed") -> int:
        return self.chain.slot

    async def get_latest_blockhash(self, commitment: Commitment = "confirmed") -> tuple[bytes, int]:
        return bytes(self.chain.svm.latest_blockhash()), self.chain.slot + 150

    async def get_first_block(
        self, slot: int, commitment: Commitment = "confirmed"
    ) -> tuple[int, bytes] | None:
        return (slot + 1, b"b" * 32) if slot < self.chain.slot else None

    async def get_balance(self, address: bytes, commitment: Commitment = "confirmed") -> int:
        return self.chain.balance(address)

    async def get_minimum_balance_for_rent_exemption(self, size: int) -> int:
        return self.chain.rent(size)

    async def get_multiple_accounts(
        self, addresses: Sequence[bytes], commitment: Commitment = "confirmed"
    ) -> tuple[Account | None, ...]:
        return tuple(self._account(address) for address in addresses)

    async def get_program_accounts(
        self,
        program: bytes,
        filters: Sequence[DataSize | Memcmp] = (),
        commitment: Commitment = "confirmed",
    ) -> tuple[tuple[bytes, Account], ...]:
        known = {bytes(key) for one in self.chain.landed for key in one.keys} | set(self.accounts)
        accounts = [(address, self._account(address)) for address in sorted(known)]
        return tuple(
            (address, account)
            for address, account in accounts
            if account is not None and account.owner == program and _passes(account.data, filters)
        )

    def _account(self, address: bytes) -> Account | None:
        if address in self.accounts:
            return self.accounts[address]
        owner, data = self.chain.owner(address), self.chain.data(address)
        return None if owner is None else Account(self.chain.balance(address), owner, data, False)

    async def send_and_confirm(
        self,
        wire: bytes,
        *,
        commitment: Commitment = "confirmed",
        last_valid_block_height: int | None = None,
    ) -> ConfirmedTransaction:
        signature = transaction_signature(wire)
        self.sent.append(wire)
        if self.expiries:
            self.expiries -= 1
            raise TransactionExpired(signature)
        result = self.chain.run(Transaction.from_bytes(wire))
        if result.err is not None:
            raise TransactionFailed(result.err, [json.dumps(result.err)], signature)
        return ConfirmedTransaction(signature, self.chain.slot, result.fee)

    async def get_signatures_for_address(
        self,
        address: bytes,
        *,
        before: str | None = None,
        until: str | None = None,
        limit: int = 1000,
        commitment: Commitment = "confirmed",
    ) -> tuple[SignatureInfo, ...]:
        lines = [self._line(one) for one in self.chain.landed if address in one.keys][::-1]
        names = [line.signature for line in lines]
        first = names.index(before) + 1 if before in names else 0
        last = names.index(until) if until in names else len(lines)
        told = [
            self.lies[one.signature].line if one.signature in self.lies else one for one in lines[first:last]
        ]
        return tuple(line for line in told if line is not None)[:limit]

    async def get_transaction(
        self, signature: str, commitment: Commitment = "confirmed"
    ) -> TransactionRecord | None:
        if signature in self.lies:
            return self.lies[signature].record
        landed = next(one for one in self.chain.landed if transaction_signature(one.wire) == signature)
        return self._record(landed)

    @staticmethod
    def _line(landed: Landed) -> SignatureInfo:
        return SignatureInfo(transaction_signature(landed.wire), landed.slot, landed.result.err, None, None)

    @staticmethod
    def _record(landed: Landed) -> TransactionRecord:
        return TransactionRecord(landed.slot, None, landed.wire, landed.result.err, landed.result.fee, ())

    def truth(self, landed: Landed) -> Lie:
        """What an honest node says, to be changed with `replace`."""
        return Lie(self._line(landed), self._record(landed))

    def lie(self, landed: Landed, **changes: object) -> None:
        """Change the transaction's record: its `wire`, `slot`, `err` ..."""
        truth = self.truth(landed)
        assert truth.record is not None
        changed = replace(truth.record, **changes)  # type: ignore[arg-type]
        self.lies[transaction_signature(landed.wire)] = Lie(truth.line, changed)


def _passes(data: bytes, filters: Sequence[DataSize | Memcmp]) -> bool:
    return all(
        len(data) == one.size
        if isinstance(one, DataSize)
        else data[one.offset : one.offset + len(one.content)] == one.content
        for one in filters
    )
