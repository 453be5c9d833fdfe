"""A memo task on a virtual chain, and a K2 node that lists its transactions page by page, honestly or not."""

from __future__ import annotations

from dataclasses import replace

from solders.keypair import Keypair
from solders.message import Message
from solders.pubkey import Pubkey
from solders.transaction import Transaction

from koii_p2p.rounds.terms import TaskTerms
from koii_p2p.settlement.instructions import Tag
from koii_p2p.settlement.memo.chain import Entry
from koii_p2p.settlement.memo.genesis import Genesis, GenesisStake
from koii_p2p.settlement.memo.records import MEMO_PROGRAM, MemoRecord, instructions
from koii_p2p.settlement.memo.settlement import MemoSettlement
from koii_p2p.settlement.rpc import Commitment, RpcClient, SignatureInfo, transaction_signature

from ..virtual_chain import KOII, Landed, VirtualChain, address, keypair
from ..virtual_rpc import VirtualRpc

STAKES = (5, 4, 3, 2)
FINALITY = 32


def terms(**changes: object) -> TaskTerms:
    base = TaskTerms(
        task=bytes(32),
        creator=address(keypair("payer")),
        name="memo",
        program="examples.hello_world:HelloWorld",
        starting_slot=1000,
        round_time=100,
        submission_window=30,
        audit_window=40,
        bounty_per_round=3 * KOII,
        minimum_stake=2 * KOII,
        allowed_failed_distributions=2,
    )
    return replace(base, **changes)  # type: ignore[arg-type]


def staker(index: int) -> Keypair:
    return keypair(f"memo staker {index}")


def genesis(**changes: object) -> Genesis:
    stakes = [
        GenesisStake(address(staker(index)), amount * KOII, address(keypair(f"main wallet {index}")))
        for index, amount in enumerate(STAKES)
    ]
    return Genesis.make(terms(**changes), stakes, pledged=1000 * KOII)


GENESIS = genesis()
TASK = GENESIS.terms.task
CLOCK = GENESIS.terms.clock


def commitment(round: int, link: bytes, attempt: int = 0, digest: bytes = b"c" * 32) -> MemoRecord:
    return MemoRecord(Tag.ANCHOR_COMMITMENT, round, attempt, digest, link, TASK[:24])


def listing(
    round: int, link: bytes, rewards: int = 0, slashes: int = 0, attempt: int = 0, digest: bytes = b"l" * 32
) -> MemoRecord:
    return MemoRecord(Tag.ANCHOR_LIST, round, attempt, digest, link, TASK[:24], rewards, slashes)


def veto(
    round: int, attempt: int = 0, digest: bytes = b"l" * 32, commitment: bytes = b"c" * 32
) -> MemoRecord:
    return MemoRecord(Tag.VETO, round, attempt, digest, commitment[:16], TASK[:24])


def entry(slot: int, author: Keypair | int, record: MemoRecord, name: str = "") -> Entry:
    key = staker(author) if isinstance(author, int) else author
    return Entry(slot, name or f"{slot} {address(key).hex()[:8]} {record}", address(key), record)


class PagedRpc(VirtualRpc):
    """Lists pages of at most `page_limit`; `hidden` names are left out; `memos` = whether it tells memos."""

    def __init__(self, chain: VirtualChain) -> None:
        super().__init__(chain)
        self.page_limit = 1000
        self.memos = True
        self.hidden: set[str] = set()
        self.swapped: set[str] = set()
        self.fetched: list[str] = []
        self.pages = 0

    async def get_slot(self, commitment: Commitment = "confirmed") -> int:
        return self.chain.slot - FINALITY if commitment == "finalized" else self.chain.slot

    async def get_signatures_for_address(
        self,
        address: bytes,
        *,
        before: str | None = None,
        until: str | None = None,
        limit: int = 1000,
        commitment: Commitment = "confirmed",
    ) -> tuple[SignatureInfo, ...]:
        self.pages += 1
        lines = [self._told(one) for one in reversed(self.chain.landed) if address in one.keys]
        names = [line.signature for line in lines]
        first = names.index(before) + 1 if before in names else 0
        last = names.index(until) if until in names else len(lines)
        shown = [line for line in lines[first:last] if line.signature not in self.hidden]
        return tuple(shown[: min(limit, self.page_limit)])

    def _told(self, landed: Landed) -> SignatureInfo:
        line = self._line(landed)
        texts = _memos(landed.wire)
        memo = "; ".join(f"[{len(text)}] {text}" for text in texts) if self.memos and texts else None
        return replace(line, memo=memo)

    async def get_transaction(self, signature: str, commitment: Commitment = "confirmed"):  # type: ignore[no-untyped-def]
        self.fetched.append(signature)
        return await super().get_transaction(signature, commitment)


def _memos(wire: bytes) -> list[str]:
    message = Transaction.from_bytes(wire).message
    program = (
        message.account_keys.index(Pubkey(MEMO_PROGRAM))
        if Pubkey(MEMO_PROGRAM) in message.account_keys
        else -1
    )
    found = [one for one in message.instructions if one.program_id_index == program]
    return [bytes(one.data).decode(errors="replace") for one in found]


class MemoWorld:
    """The task, its chain, and one client per staker; each pays its own fees."""

    def __init__(self) -> None:
        self.chain = VirtualChain(slot=900)
        self.rpc = PagedRpc(self.chain)
        self.nodes = [self.node(index) for index in range(len(STAKES))]

    def node(self, index: int, rpc: RpcClient | None = None) -> MemoSettlement:
        wallet = self.chain.rich(f"main wallet {index}")
        return MemoSettlement(rpc or self.rpc, GENESIS, wallet, staker(index))

    def at(self, slot: int) -> None:
        self.chain.at(slot)

    def post(
        self, author: Keypair | int, record: MemoRecord, *, payer: Keypair | None = None, task: bytes = TASK
    ) -> str:
        """Put a record on the chain, whatever it says; returns the transaction's name."""
        key = staker(author) if isinstance(author, int) else author
        wallet = payer or self.chain.payer
        both = instructions(record, address(key), address(wallet), task)
        return self.post_instructions(both, [wallet, key])

    def post_instructions(self, instructions: object, keys: list[Keypair], *, fails: bool = False) -> str:
        blockhash = self.chain.svm.latest_blockhash()
        message = Message.new_with_blockhash(list(instructions), keys[0].pubkey(), blockhash)  # type: ignore[call-overload]
        distinct = {address(key): key for key in keys}
        transaction = Transaction(list(distinct.values()), message, blockhash)
        result = self.chain.run(transaction)
        assert (result.err is not None) == fails, result.err
        return transaction_signature(bytes(transaction))
