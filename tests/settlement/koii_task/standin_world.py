"""A task of the stand-in on a virtual chain, and the carrier's clients on it."""

from __future__ import annotations

from dataclasses import replace

from solders.pubkey import Pubkey

from koii_p2p.rounds.clock import RoundClock
from koii_p2p.rounds.terms import TaskTerms
from koii_p2p.settlement.koii_task.readings import NATIVE, Readings
from koii_p2p.settlement.koii_task.settlement import KoiiTaskSettings, KoiiTaskSettlement
from koii_p2p.settlement.koii_task.state import KoiiTaskState, read_state
from koii_p2p.settlement.rpc import Account, Commitment
from scripts.koii_standin.state import ELF, account_bytes, decode, local_vars, render

from ..virtual_chain import KOII, VirtualChain, keypair
from ..virtual_rpc import VirtualRpc

BOUNTY = 1000 * KOII


def through_koiis_form(data: bytes, readings: Readings) -> KoiiTaskState:
    """What the carrier would read if the stand-in kept its state as Koii does."""
    return read_state(render(decode(data), readings), readings)


class StandinRpc(VirtualRpc):
    """One account at a time, as the carrier asks."""

    async def get_account(self, address: bytes, commitment: Commitment = "confirmed") -> Account | None:
        return self._account(address)


class StandinWorld:
    """A task with `stakers` clients; readings are the stand-in's and, unless `client` says otherwise, the clients'."""

    def __init__(
        self, readings: Readings = NATIVE, *, client: Readings | None = None, submitters_only: bool = False
    ) -> None:
        self.chain = VirtualChain(slot=1000)
        self.chain.svm.add_program(Pubkey(readings.program), ELF.read_bytes())
        self.rpc = StandinRpc(self.chain)
        self.settings = KoiiTaskSettings(
            readings=client or readings,
            task_space=account_bytes(40),
            staking_space=2000,
            local_vars=local_vars(readings, submitters_only=submitters_only),
            total_bounty=BOUNTY,
            read_state=through_koiis_form,
        )
        self.creator = KoiiTaskSettlement(self.rpc, self.settings, self.chain.payer)
        self.nodes: list[KoiiTaskSettlement] = []
        self.task = bytes(32)

    @property
    def clock(self) -> RoundClock:
        return RoundClock(1000, 100, 30, 40)

    async def start(self, stakes: tuple[int, ...] = (5, 4, 3)) -> StandinWorld:
        self.task = (await self.creator.create_task(terms(), nonce=1)).task
        for index, stake in enumerate(stakes):
            node = self.node(index)
            await node.stake(self.task, stake * KOII, node.payer)
            self.nodes.append(node)
        return self

    def node(self, index: int) -> KoiiTaskSettlement:
        wallet = self.chain.rich(f"wallet {index}")
        return KoiiTaskSettlement(self.rpc, self.settings, wallet, keypair(f"koii staker {index}"))

    def at(self, slot: int) -> None:
        self.chain.at(slot)


def terms(**changes: object) -> TaskTerms:
    base = TaskTerms(
        task=bytes(32),
        creator=bytes(32),
        name="koii",
        program="cid",
        starting_slot=0,
        round_time=100,
        submission_window=30,
        audit_window=40,
        bounty_per_round=3 * KOII,
        minimum_stake=2 * KOII,
    )
    return replace(base, **changes)  # type: ignore[arg-type]
