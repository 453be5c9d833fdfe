"""What every carrier has: a cluster that it reads, a wallet that pays, and the staking key that signs for the node."""

from __future__ import annotations

from solders.keypair import Keypair

from koii_p2p.errors import ConfigurationError
from koii_p2p.records.keys import SecretKey
from koii_p2p.settlement.priority_fees import PriorityFees
from koii_p2p.settlement.rpc import RpcClient
from koii_p2p.settlement.sending import Sender, keypair_of


class Carrier:
    """The part of `Settlement` that is the same however rounds are held.

    `payer` (the main wallet) pays fees and stakes; `staker` signs for the node. Both are secret keys of this process;
    without a `staker`, staking and anchoring raise `ConfigurationError`. `fees` says what is bid for places in blocks.
    """

    def __init__(
        self,
        rpc: RpcClient,
        payer: Keypair | SecretKey,
        staker: Keypair | SecretKey | None = None,
        *,
        fees: PriorityFees = PriorityFees(),  # noqa: B008 - a frozen value
    ) -> None:
        self._rpc = rpc
        self._sender = Sender(rpc, payer, fees)
        self._staker = None if staker is None else keypair_of(staker)
        self._genesis_hash: bytes | None = None

    @property
    def payer(self) -> bytes:
        """The 32-byte key that pays."""
        return bytes(self._sender.payer.pubkey())

    @property
    def staker(self) -> bytes | None:
        """The 32-byte staking key, if there is one."""
        return None if self._staker is None else bytes(self._staker.pubkey())

    async def genesis(self) -> bytes:
        """The cluster's genesis hash (32 bytes); asked for once."""
        if self._genesis_hash is None:
            self._genesis_hash = await self._rpc.get_genesis_hash()
        return self._genesis_hash

    async def slot(self) -> int:
        """The current slot, as new as the node knows it."""
        return await self._rpc.get_slot("processed")

    async def blockhash_after(self, slot: int) -> tuple[int, bytes] | None:
        """Slot and blockhash of the first confirmed block at or after `slot`, or None while there is none."""
        return await self._rpc.get_first_block(slot)

    def _require_staker(self) -> Keypair:
        if self._staker is None:
            raise ConfigurationError(
                "This needs the staking key.",
                "Only the main wallet was given.",
                "Give the node's staking key file.",
            )
        return self._staker
