"""What a round costs on the chain, by carrier and number of nodes, beside Koii's own scheme.

    python scripts/bench/chain_cost.py [--nodes 10 100 1000 10000] [--out figures.json] [--write]

With `--write` the tables of docs/carriers.md are made anew. All of it takes about a minute, or three on busy cores.

Every transaction counted here is a real one: encoded, signed, and measured as the bytes that would be sent. On a local
K2 (in this process, without its RPC) they are executed for up to 100 nodes, disputes included, and for more nodes those
whose number does not grow with the nodes, with one claim; the column "executed" says how many. Never executed are the
looks of "if all 5 were written", which nobody writes. Koii's program is not public: its transactions are executed by a
stand-in that takes the same bytes (scripts/koii_standin), and were never sent to the real K2.

Fees are shown three ways: as the local K2 takes them (5000 Roe per signature, checked against each executed
transaction), and as K2's 500 000 Roe, once per transaction as Koii's documents say and once per signature as on every
other Solana chain.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from koii_standin.state import ELF, account_bytes, local_vars
from solders.compute_budget import set_compute_unit_limit
from solders.instruction import Instruction
from solders.keypair import Keypair
from solders.pubkey import Pubkey
from solders.system_program import CreateAccountParams, create_account

from koii_p2p import __version__
from koii_p2p.limits import Limits
from koii_p2p.localk2.ledger import Ledger
from koii_p2p.localk2.server import settlement_program
from koii_p2p.localk2.settings import LocalK2Settings
from koii_p2p.localk2.transactions import decode
from koii_p2p.rounds.distribution import DistributionList, Leaf
from koii_p2p.rounds.merkle import all_proofs
from koii_p2p.rounds.terms import TaskTerms
from koii_p2p.settlement import instructions as program
from koii_p2p.settlement.instructions import Tag
from koii_p2p.settlement.koii_task.instructions import KoiiInstructions, NewTask, pieces_of
from koii_p2p.settlement.koii_task.readings import NATIVE
from koii_p2p.settlement.koii_task.settlement import encode_list
from koii_p2p.settlement.koii_task.submission import ListAnchor, RoundAnchor
from koii_p2p.settlement.memo import records as memo
from koii_p2p.settlement.memo.chain import Entry, MemoChain, veto_target
from koii_p2p.settlement.memo.genesis import Genesis, GenesisStake
from koii_p2p.settlement.memo.records import MemoRecord
from koii_p2p.settlement.program import COMPUTE_UNITS
from koii_p2p.settlement.sending import signed

KOII: Final = 10**9
BOUNTY: Final = 10 * KOII
STAKE: Final = 2 * KOII
EXECUTED_NODES: Final = 100
LOCAL_FEE: Final = 5000
K2_FEE: Final = 500_000
ROUND_TIME: Final = 60
WINDOW: Final = 20
SAMPLE: Final = 5
BAD_PERCENT: Final = 5
DIGEST: Final = b"c" * 32
CID: Final = "Qm" + "a" * 44
ROUND: Final = 0


@cache
def key(name: str) -> Keypair:
    """A key that is the same in every run."""
    return Keypair.from_seed(hashlib.sha256(name.encode()).digest())


def public(one: Keypair) -> bytes:
    """Its 32 bytes."""
    return bytes(one.pubkey())


PAYER: Final = key("main wallet")


@dataclass
class Cost:
    """Transactions of one purpose, added up."""

    transactions: int = 0
    bytes: int = 0
    signatures: int = 0
    executed: int = 0

    def figures(self) -> dict[str, int]:
        """Everything that is shown, fees in Roe."""
        return {
            "transactions": self.transactions,
            "bytes": self.bytes,
            "signatures": self.signatures,
            "executed": self.executed,
            "fee_local": LOCAL_FEE * self.signatures,
            "fee_k2_per_transaction": K2_FEE * self.transactions,
            "fee_k2_per_signature": K2_FEE * self.signatures,
        }


@dataclass
class Scheme:
    """The costs of one way to settle a round, by purpose."""

    name: str
    costs: dict[str, Cost] = field(default_factory=dict)

    def add(self, purpose: str, wire: bytes, *, executed: bool) -> None:
        """Count a transaction."""
        cost = self.costs.setdefault(purpose, Cost())
        cost.transactions += 1
        cost.bytes += len(wire)
        cost.signatures += wire[0]
        cost.executed += executed


class Chain:
    """A local K2 without its RPC: slots are sealed when they are wanted."""

    def __init__(self, folder: Path) -> None:
        settings = LocalK2Settings(folder, port=0)
        programs = {program.PROGRAM_ID: settlement_program(), NATIVE.program: ELF.read_bytes()}
        self.ledger = Ledger(settings, programs=programs, limits=Limits())
        self._unchecked: list[bytes] = []
        self.ledger.airdrop(PAYER.pubkey(), 10**7 * KOII)

    @property
    def slot(self) -> int:
        """The open slot."""
        return self.ledger.slot

    def until(self, slot: int) -> None:
        """Seal slots until this one is open, and check the fee of whatever was executed."""
        while self.ledger.slot < slot:
            self.ledger.seal()
        for wire in self._unchecked:
            stored = self.ledger.store.transaction(wire[1:65])
            assert stored is not None
            assert stored.meta["fee"] == LOCAL_FEE * wire[0], stored.meta
        self._unchecked = []

    def wire(self, instructions: Sequence[Instruction], *signers: Keypair) -> bytes:
        """Encode and sign."""
        return signed(instructions, PAYER, signers, self.ledger.latest_blockhash("confirmed")[0])

    def run(self, wire: bytes) -> None:
        """Execute."""
        err = self.ledger.submit(decode(wire))
        assert err is None, err
        self._unchecked.append(wire)

    def setup(self, instructions: Sequence[Instruction], *signers: Keypair) -> None:
        """Execute what is not part of a round."""
        self.run(self.wire(instructions, *signers))

    def rent(self, size: int) -> int:
        """Roe that keep an account."""
        return self.ledger.bank.rent_exempt_minimum(size)


class Counting:
    """Encodes for a scheme and executes what is to be executed."""

    def __init__(self, chain: Chain, scheme: Scheme) -> None:
        self.chain, self.scheme = chain, scheme

    def send(
        self, purpose: str, instructions: Sequence[Instruction], *signers: Keypair, execute: bool = True
    ) -> None:
        """Count one transaction, and execute it if asked to."""
        wire = self.chain.wire(instructions, *signers)
        if execute:
            self.chain.run(wire)
        self.scheme.add(purpose, wire, executed=execute)


def stakers(nodes: int) -> list[Keypair]:
    """The nodes' staking keys, in the order of their public keys."""
    return sorted((key(f"staker {index}") for index in range(nodes)), key=public)


def terms(chain: Chain, name: str) -> TaskTerms:
    """Terms whose round 0 begins soon."""
    return TaskTerms(
        task=bytes(32),
        creator=public(PAYER),
        name=name,
        starting_slot=chain.slot + 2,
        round_time=ROUND_TIME,
        submission_window=WINDOW,
        audit_window=WINDOW,
        bounty_per_round=BOUNTY,
        minimum_stake=STAKE,
    )


def majority(nodes: int) -> int:
    """How many equal stakes are more than half of all."""
    return nodes // 2 + 1


def measure_program(chain: Chain, nodes: int) -> Scheme:
    """Our settlement program: two anchors per round; claims with a proof each; vetoes only in a dispute."""
    count, keys = Counting(chain, Scheme("program")), stakers(nodes)
    own = terms(chain, f"program {nodes}")
    task, everybody = program.task_address(own.creator, nodes), nodes <= EXECUTED_NODES
    chain.setup([program.create_task(own, nodes)])
    chain.setup([program.fund(task, own.creator, 10 * BOUNTY)])
    for one in keys if everybody else keys[:2]:
        chain.setup([program.stake(task, own.creator, public(one), public(PAYER), STAKE)], one)
    leaves = DistributionList(ROUND, tuple(Leaf(public(one), BOUNTY // nodes, 0) for one in keys))
    budget = set_compute_unit_limit(COMPUTE_UNITS)
    clock = own.clock

    chain.until(clock.commitment(ROUND).opens)
    anchor = program.anchor_commitment(task, public(keys[0]), ROUND, DIGEST)
    count.send("anchors", [budget, anchor], keys[0])
    chain.until(clock.distribution(ROUND).opens)
    totals = leaves.reward_total, leaves.slash_total
    anchor = program.anchor_list(task, public(keys[1]), ROUND, leaves.root, *totals)
    count.send("anchors", [budget, anchor], keys[1])
    chain.until(clock.settles_at(ROUND))
    proofs = all_proofs([leaf.encode() for leaf in leaves.leaves])
    for place, (leaf, proof) in enumerate(zip(leaves.leaves, proofs, strict=True)):
        settle = program.settle(task, ROUND, leaf, proof, public(PAYER))
        count.send("claims", [budget, settle], execute=everybody or place == 0)

    disputed = ROUND + 1
    chain.until(max(clock.commitment(disputed).opens, chain.slot + 1))
    chain.setup([program.anchor_commitment(task, public(keys[0]), disputed, DIGEST)], keys[0])
    chain.until(clock.distribution(disputed).opens)
    chain.setup([program.anchor_list(task, public(keys[1]), disputed, leaves.root, *totals)], keys[1])
    chain.until(clock.distribution_audit(disputed).opens)
    for one in keys[: majority(nodes)]:
        veto = program.veto(task, public(one), disputed, 0, public(keys[0]), public(keys[1]))
        count.send("dispute", [budget, veto], one, execute=everybody)
    for repeated in (
        program.anchor_commitment(task, public(keys[2]), disputed, DIGEST, attempt=1),
        program.anchor_list(task, public(keys[2]), disputed, leaves.root, *totals, attempt=1),
    ):
        count.send("dispute", [budget, repeated], keys[2], execute=everybody)
    chain.until(chain.slot + 1)
    return count.scheme


def measure_memo(chain: Chain, nodes: int) -> Scheme:
    """Memos: two anchors per round; nothing can be claimed."""
    count, keys = Counting(chain, Scheme("memo")), stakers(nodes)
    stakes = [GenesisStake(public(one), STAKE, public(PAYER)) for one in keys]
    genesis = Genesis.make(terms(chain, f"memo {nodes}"), stakes, 10 * BOUNTY)
    task, clock, followed = genesis.terms.task, genesis.terms.clock, MemoChain(genesis)

    def post(purpose: str, author: Keypair, record: MemoRecord, *, execute: bool = True) -> None:
        both = memo.instructions(record, public(author), public(PAYER), task)
        count.send(purpose, both, author, execute=execute)
        if execute:
            assert followed.append(Entry(chain.slot, "", public(author), record)) is None

    def record(kind: Tag, digest: bytes, link: bytes, attempt: int, *totals: int) -> MemoRecord:
        return MemoRecord(kind, ROUND, attempt, digest, link, task[: memo.TASK_BYTES], *totals)

    chain.until(clock.commitment(ROUND).opens)
    post("anchors", keys[0], record(Tag.ANCHOR_COMMITMENT, DIGEST, followed.link, 0))
    chain.until(clock.distribution(ROUND).opens)
    post("anchors", keys[1], record(Tag.ANCHOR_LIST, b"l" * 32, followed.link, 0, BOUNTY, 0))
    chain.until(clock.distribution_audit(ROUND).opens)
    target = veto_target(followed.rounds[ROUND])
    for one in keys[: majority(nodes)]:
        post("dispute", one, record(Tag.VETO, *target, 0), execute=nodes <= EXECUTED_NODES)
    after = keys[2]
    rejected = nodes <= EXECUTED_NODES
    post("dispute", after, record(Tag.ANCHOR_COMMITMENT, DIGEST, followed.link, 1), execute=rejected)
    post("dispute", after, record(Tag.ANCHOR_LIST, b"m" * 32, followed.link, 1, BOUNTY, 0), execute=rejected)
    chain.until(chain.slot + 1)
    return count.scheme


class KoiiTask:
    """A task of the stand-in with its stakers, made for one measurement."""

    def __init__(self, chain: Chain, nodes: int, name: str) -> None:
        self.chain = chain
        # On Koii a staking account belongs to the task program, and here to one task.
        self.keys = sorted((key(f"{name} {nodes} staker {index}") for index in range(nodes)), key=public)
        self.everybody = nodes <= EXECUTED_NODES
        self.encode = KoiiInstructions(NATIVE, NATIVE.program)
        task, pot = key(f"task {name} {nodes}"), key(f"pot {name} {nodes}")
        self.task, self.pot = public(task), public(pot)
        self.amounts = {public(one): BOUNTY // nodes for one in self.keys}
        content = encode_list(self.amounts)
        self.pieces = pieces_of(content, NATIVE.upload)
        new = NewTask(
            "t", "", "", "", 10 * BOUNTY, BOUNTY, ROUND_TIME, WINDOW, WINDOW, STAKE, "", local_vars(NATIVE), 3
        )
        size = account_bytes(3 * min(nodes, EXECUTED_NODES) + 20)
        chain.setup(
            [
                self._account(task, size, 0),
                self._account(pot, 0, 10 * BOUNTY),
                self.encode.create_task(public(PAYER), self.task, self.pot, new),
            ],
            task,
            pot,
        )
        self.start = chain.slot
        for index, one in enumerate(self.keys if self.everybody else self.keys[:3]):
            holds_list = self.everybody and index < 2
            made = self._account(one, len(content) + 1 if holds_list else 100, STAKE)
            chain.setup([made, self.encode.stake(self.task, public(one), self.pot, STAKE)], one)

    def _account(self, one: Keypair, size: int, extra: int) -> Instruction:
        params = CreateAccountParams(
            from_pubkey=PAYER.pubkey(),
            to_pubkey=one.pubkey(),
            lamports=self.chain.rent(max(size, 1000)) + extra,
            space=size,
            owner=Pubkey(NATIVE.program),
        )
        return create_account(params)

    def opens(self, period: int, offset: int = 0) -> int:
        """A slot of the task."""
        return self.start + period * ROUND_TIME + offset

    def upload(self, count: Counting, purpose: str, round: int, by: int = 0) -> None:
        """The list by the first staker, or the second: pieces, then the submission."""
        one = self.keys[by]
        for place, piece in enumerate(self.pieces):
            upload = self.encode.upload_list(self.task, public(one), round, place, piece)
            count.send(purpose, [upload], one, execute=self.everybody)
        submit = self.encode.submit_list(self.task, public(one), public(one), round)
        count.send(purpose, [submit], one, execute=self.everybody)

    def submit_all(self, count: Counting, purpose: str, round: int) -> None:
        """Every node's submission."""
        for one in self.keys:
            submission = self.encode.submit_task(self.task, public(one), round, CID.encode())
            count.send(purpose, [submission], one, execute=self.everybody)

    def pay(self, count: Counting, purpose: str, round: int, by: int = 0) -> None:
        """Payout of the list of the first staker, or the second."""
        payout = self.encode.payout(self.task, public(self.keys[by]), round)
        count.send(purpose, [payout], execute=False)
        if self.everybody:
            # With more compute than Koii's own client asks for: an sBPF program needs it for 100 keys.
            self.chain.setup([set_compute_unit_limit(1_400_000), payout])
            count.scheme.costs[purpose].executed += 1

    def pay_and_claim(self, count: Counting, purpose: str, round: int) -> None:
        """Payout, then every node's claim to its main wallet."""
        self.pay(count, purpose, round)
        for one in self.keys:
            claim = self.encode.claim_reward(self.task, public(one), self.pot, public(PAYER))
            count.send("claims", [claim], one, execute=self.everybody)


def measure_koii_task(chain: Chain, nodes: int, *, native_payout: bool) -> Scheme:
    """Our rounds over Koii's program: roots as submissions, or the commitment and then Koii's own way of paying."""
    name = "koii-task, native payout" if native_payout else "koii-task, roots only"
    count, own = Counting(chain, Scheme(name)), KoiiTask(chain, nodes, name)
    first, second = own.keys[:2]

    def submit(purpose: str, one: Keypair, round: int, text: str, *, execute: bool) -> None:
        submission = own.encode.submit_task(own.task, public(one), round, text.encode())
        count.send(purpose, [submission], one, execute=execute)

    chain.until(own.opens(2))
    submit("anchors", first, ROUND + 1, RoundAnchor(ROUND, DIGEST).encode(), execute=True)
    if native_payout:
        own.upload(count, "anchors", ROUND)
        chain.until(own.opens(2, 2 * WINDOW))
        own.pay_and_claim(count, "anchors", ROUND)
    else:
        listed = ListAnchor(b"l" * 32, BOUNTY, 0)
        submit("anchors", second, ROUND + 1, RoundAnchor(ROUND, DIGEST, listed).encode(), execute=True)
        chain.until(own.opens(2, WINDOW))
        for one in own.keys[: majority(nodes)]:
            veto = own.encode.audit_submission(own.task, public(one), public(second), ROUND + 1, valid=False)
            count.send("dispute", [veto], one, execute=own.everybody)
    chain.until(own.opens(ROUND + 5))
    for one in own.keys[: -(-nodes // 3)]:
        submit("heartbeats", one, ROUND + 4, CID, execute=own.everybody)
    chain.until(chain.slot + 1)
    return count.scheme


def measure_koii(chain: Chain, nodes: int) -> Scheme:
    """Koii's own scheme: everybody submits on chain; the list goes up in pieces; Payout."""
    count, own = Counting(chain, Scheme("koii")), KoiiTask(chain, nodes, "koii")
    encode = own.encode
    chain.until(own.opens(1))
    own.submit_all(count, "submissions", ROUND)
    chain.until(own.opens(1, WINDOW))
    bad = [public(one) for one in own.keys[: max(1, nodes * BAD_PERCENT // 100)]]
    looking = min(SAMPLE, nodes - 1)
    for index, candidate in enumerate(bad):
        for offset in range(1, looking + 1):
            voter = own.keys[(index + offset) % nodes]
            vote = encode.audit_submission(own.task, public(voter), candidate, ROUND, valid=False)
            count.send("audits, 5 % bad", [vote], voter, execute=own.everybody)
    for index, one in enumerate(own.keys):
        for offset in range(1, looking + 1):
            vote = encode.audit_submission(
                own.task, public(one), public(own.keys[(index + offset) % nodes]), ROUND, valid=True
            )
            count.send("audits, if all 5 were written", [vote], one, execute=False)
    chain.until(own.opens(2))
    own.upload(count, "list and payout", ROUND)
    chain.until(own.opens(2, 2 * WINDOW))
    own.pay_and_claim(count, "list and payout", ROUND)
    _dispute_koii(chain, nodes, count)
    chain.until(chain.slot + 1)
    return count.scheme


def _dispute_koii(chain: Chain, nodes: int, count: Counting) -> None:
    """A task of its own, whose first list everybody else votes against, and whose second one is paid."""
    own, before = KoiiTask(chain, nodes, "koii, disputed"), Counting(chain, Scheme("not counted"))
    chain.until(own.opens(1))
    own.submit_all(before, "submissions", ROUND)
    chain.until(own.opens(2))
    own.upload(before, "first list", ROUND)
    own.upload(count, "dispute", ROUND, by=1)
    chain.until(own.opens(2, WINDOW))
    for one in own.keys[1:]:
        vote = own.encode.audit_distribution(own.task, public(one), public(own.keys[0]), ROUND, valid=False)
        count.send("dispute", [vote], one, execute=own.everybody)
    chain.until(own.opens(2, 2 * WINDOW))
    own.pay(before, "payout", ROUND)
    own.pay(count, "dispute", ROUND, by=1)


HONEST: Final = ("anchors", "submissions", "list and payout")
"""The purposes that an honest round has, whatever the scheme."""


def measure(nodes: int) -> dict[str, Any]:
    """Every scheme for one number of nodes."""
    with tempfile.TemporaryDirectory() as folder:
        chain = Chain(Path(folder))
        schemes = [
            measure_program(chain, nodes),
            measure_memo(chain, nodes),
            measure_koii_task(chain, nodes, native_payout=False),
            measure_koii_task(chain, nodes, native_payout=True),
            measure_koii(chain, nodes),
        ]
        chain.ledger.close()
    found: dict[str, Any] = {}
    for scheme in schemes:
        honest = Cost()
        for purpose, cost in scheme.costs.items():
            if purpose in HONEST:
                honest.transactions += cost.transactions
                honest.bytes += cost.bytes
                honest.signatures += cost.signatures
                honest.executed += cost.executed
        purposes = {purpose: cost.figures() for purpose, cost in scheme.costs.items()}
        found[scheme.name] = {"honest round": honest.figures(), **purposes}
    return {"nodes": nodes, "schemes": found}


def table(measured: Sequence[dict[str, Any]]) -> str:
    """The figures as Markdown."""
    lines = [
        "| nodes | scheme | purpose | transactions | bytes | bytes each | signatures | executed | Roe, local K2 "
        "| KOII, per transaction | KOII, per signature |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for one in measured:
        for scheme, purposes in one["schemes"].items():
            for purpose, cost in purposes.items():
                fees = [
                    f"{cost[name] / KOII:.4f}" for name in ("fee_k2_per_transaction", "fee_k2_per_signature")
                ]
                numbers = [
                    cost[name] for name in ("transactions", "bytes", "signatures", "executed", "fee_local")
                ]
                numbers.insert(2, cost["bytes"] // cost["transactions"])
                cells = [one["nodes"], scheme, purpose, *numbers, *fees]
                lines.append("| " + " | ".join(str(cell) for cell in cells) + " |")
    return "\n".join(lines)


PAGE: Final = Path(__file__).resolve().parents[2] / "docs" / "carriers.md"
BEGIN: Final = "<!-- costs: made by scripts/bench/chain_cost.py --write -->"
END: Final = "<!-- end of costs -->"
ROOTS, PAYOUT = "koii-task, roots only", "koii-task, native payout"

TABLES: Final = (
    (
        "One honest round, without claims",
        {name: (name, "honest round") for name in ("program", "memo", ROOTS, PAYOUT, "koii")},
    ),
    (
        "Claims of all nodes, one each; not part of a round: whenever a node wants its money",
        {
            "program (`Settle`, with the proof)": ("program", "claims"),
            f"{PAYOUT} (`ClaimReward`)": (PAYOUT, "claims"),
            "koii (`ClaimReward`)": ("koii", "claims"),
        },
    ),
    (
        "A dispute, when a list is wrong and all stakes are equal: what it adds to the round",
        {name: (name, "dispute") for name in ("program", "memo", ROOTS, "koii")},
    ),
    (
        "What else a round may add",
        {
            f"heartbeats ({ROOTS})": (ROOTS, "heartbeats"),
            "koii, audits of 5 % bad submissions": ("koii", "audits, 5 % bad"),
            "koii, if all five looks of every node were written": ("koii", "audits, if all 5 were written"),
        },
    ),
)
"""The tables of the page: a title, and of each column where its figures are."""


def page_tables(measured: Sequence[dict[str, Any]]) -> str:
    """The figures as docs/carriers.md shows them: transactions, bytes (of each on average), signatures, fees."""
    parts = []
    for title, columns in TABLES:
        lines = [f"**{title}:**", "", f"| nodes | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
        for one in measured:
            cells = [_cell(one["schemes"][scheme][purpose]) for scheme, purpose in columns.values()]
            lines.append(f"| {_grouped(one['nodes'])} | {' | '.join(cells)} |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def _cell(cost: dict[str, int]) -> str:
    count, size = cost["transactions"], cost["bytes"]
    fee = f"{cost['fee_k2_per_transaction'] / KOII:.4f}".rstrip("0").rstrip(".")
    return (
        f"{_grouped(count)} tx, {_grouped(size)} B ({size // count} each), "
        f"{_grouped(cost['signatures'])} sig, {fee} KOII"
    )


def _grouped(number: int) -> str:
    return f"{number:,}".replace(",", " ") if number >= 10_000 else str(number)


def page(text: str, measured: Sequence[dict[str, Any]]) -> str:
    """The page with its tables made anew."""
    head, rest = text.split(BEGIN)
    return f"{head}{BEGIN}\n\n{page_tables(measured)}\n\n{END}{rest.split(END)[1]}"


def main() -> None:
    """Measure, print, and write the figures if asked to."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--nodes", type=int, nargs="+", default=[10, 100, 1000, 10_000])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--write", action="store_true", help="write the tables of docs/carriers.md")
    given = parser.parse_args()
    if min(given.nodes) < 3:
        parser.error("a round needs at least 3 nodes")
    measured = [measure(nodes) for nodes in given.nodes]
    figures = {
        "machine": platform.processor() or platform.machine(),
        "python": sys.version.split()[0],
        "version": __version__,
        "bounty_per_round": BOUNTY,
        "figures": measured,
    }
    print(table(measured))
    if given.out:
        given.out.write_text(json.dumps(figures, indent=1) + "\n")
    if given.write:
        PAGE.write_text(page(PAGE.read_text(), measured))


if __name__ == "__main__":
    main()
