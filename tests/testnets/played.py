"""Evidence of a small testnet: real records and transactions, played through the program in the virtual machine."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache

import base58
from solders.keypair import Keypair

from koii_p2p.records.envelope import Verified, sign
from koii_p2p.records.keys import SecretKey
from koii_p2p.records.schema import Ballot, BallotEntry, Body, Statement, Submission, Verdict
from koii_p2p.rounds.assignment import AuditAssignment
from koii_p2p.rounds.beacon import beacon
from koii_p2p.rounds.commitment import NO_PREVIOUS, build_commitment
from koii_p2p.rounds.distribution import (
    DistributionList,
    default_distribution,
    next_list,
    submitters_of,
)
from koii_p2p.rounds.roster import StakeHistory, roster_at
from koii_p2p.rounds.terms import TaskTerms
from koii_p2p.settlement import instructions as ix
from koii_p2p.settlement.layouts import STAKE_LAYOUT, VAULT_LAYOUT, decode_stake
from koii_p2p.settlement.rpc import Account, SignatureInfo, TransactionRecord
from koii_p2p.testnets.chain_record import ChainRecord
from koii_p2p.testnets.evidence import Evidence, RoundCopies
from koii_p2p.testnets.identity import CHEATER, HONEST, NodeIdentity
from tests.settlement.virtual_chain import KOII, VirtualChain, address, keypair

GENESIS = hashlib.sha256(b"genesis of the played testnet").digest()
STAKE = 1_900_000_000
BOUNTY = KOII
GOOD, BAD = "Hello, World!", "not Hello, World!"


@dataclass(frozen=True)
class Player:
    """A node of the played testnet."""

    name: str
    staker: Keypair
    wallet: Keypair
    cheats: bool

    @property
    def key(self) -> bytes:
        return address(self.staker)

    @property
    def secret(self) -> SecretKey:
        return SecretKey.from_seed(bytes(self.staker)[:32])


class Game:
    """A chain, players and their rounds. The last player cheats."""

    def __init__(self, nodes: int, rounds: int) -> None:
        self.chain = VirtualChain()
        self.players = [
            Player(
                f"node-{index:02d}",
                keypair(f"played staker {index}"),
                self.chain.rich(f"played wallet {index}"),
                index == nodes - 1,
            )
            for index in range(nodes)
        ]
        creator = address(self.chain.payer)
        self.task = ix.task_address(creator, 1)
        self.terms = TaskTerms(
            task=self.task,
            creator=creator,
            name="played",
            starting_slot=1000,
            round_time=100,
            submission_window=35,
            audit_window=35,
            bounty_per_round=BOUNTY,
            minimum_stake=STAKE,
            program="played",
        )
        self.chain.ok(ix.create_task(self.terms, 1))
        self.chain.ok(ix.fund(self.task, creator, BOUNTY * rounds))
        for player in self.players:
            wallet = address(player.wallet)
            self.chain.ok(
                ix.stake(self.task, wallet, player.key, wallet, STAKE),
                signers=[player.staker],
                payer=player.wallet,
            )
        self.opening = {player.name: self.chain.balance(address(player.wallet)) for player in self.players}
        self.rounds = rounds
        self.blocks: dict[int, tuple[int, bytes]] = {}
        self.copies: dict[int, RoundCopies] = {}
        self.lists: list[DistributionList] = []
        self.digest = NO_PREVIOUS
        for number in range(rounds):
            self._play(number)

    def histories(self) -> tuple[StakeHistory, ...]:
        return tuple(decode_stake(account.data).history for _, account in self.stake_accounts())

    def stake_accounts(self) -> list[tuple[bytes, Account]]:
        addresses = sorted(ix.stake_address(self.task, player.key) for player in self.players)
        return [(one, self.account(one)) for one in addresses]

    def account(self, key: bytes) -> Account:
        return Account(self.chain.balance(key), self.chain.owner(key) or b"", self.chain.data(key), False)

    def _play(self, number: int) -> None:
        terms, clock = self.terms, self.terms.clock
        roster = roster_at(self.histories(), number, clock, terms.minimum_stake)
        blockhash = hashlib.sha256(b"block of round %d" % number).digest()
        self.blocks[number] = (clock.submission(number).closes, blockhash)
        drawn = beacon(blockhash, self.task, number)
        taking_part = [player for player in self.players if player.key in roster]
        submissions = [
            self._say(
                player, number, clock.submission(number).opens + 1, Submission(BAD if player.cheats else GOOD)
            )
            for player in taking_part
        ]
        assignment = AuditAssignment(drawn, roster, terms.auditors)
        ballots = [self._vote(player, number, submissions, assignment) for player in taking_part]
        commitment, bundle = build_commitment(terms, roster, drawn, self.digest, submissions, ballots)
        self.chain.at(clock.commitment(number).opens + 5)
        leader = self.players[number % 2]
        self.chain.ok(
            ix.anchor_commitment(self.task, leader.key, number, commitment.digest),
            signers=[leader.staker],
            payer=leader.wallet,
        )
        previous = self.lists[-1] if self.lists else None
        amounts = default_distribution(
            submitters_of(commitment.outcome_of, roster, previous), BOUNTY, terms.slash_basis_points
        )
        listed = next_list(previous, roster, amounts, terms, number)
        self.chain.at(clock.distribution(number).opens + 2)
        self.chain.ok(
            ix.anchor_list(
                self.task, leader.key, number, listed.root, listed.reward_total, listed.slash_total
            ),
            signers=[leader.staker],
            payer=leader.wallet,
        )
        self.chain.at(clock.settles_at(number) + 1)
        for player in self.players:
            leaf = listed.leaf(player.key)
            assert leaf is not None
            self.chain.ok(
                ix.settle(self.task, number, leaf, listed.proof(player.key), address(player.wallet)),
                payer=player.wallet,
            )
        self.digest = commitment.digest
        self.lists.append(listed)
        data = (commitment.encode(), bundle.encode(), listed.encode())
        self.copies[number] = RoundCopies(
            *({player.name: bytes_ for player in self.players} for bytes_ in data)
        )

    def _say(self, player: Player, number: int, slot: int, body: Body) -> Verified:
        return sign(Statement(self.task, number, slot, 0, body), GENESIS, player.secret)

    def _vote(
        self, player: Player, number: int, submissions: list[Verified], assignment: AuditAssignment
    ) -> Verified:
        by_author = {record.author: record for record in submissions}
        entries = []
        for author in assignment.authors_for(player.key, by_author):
            body = by_author[author].statement.body
            good = isinstance(body, Submission) and body.value == GOOD
            entries.append(BallotEntry(by_author[author].id, Verdict.VALID if good else Verdict.INVALID))
        ordered = tuple(sorted(entries, key=lambda entry: entry.submission_id))
        return self._say(player, number, self.terms.clock.audit(number).opens + 12, Ballot(ordered))

    def evidence(self) -> Evidence:
        nodes = tuple(
            NodeIdentity(
                name=player.name,
                key=base58.b58encode(player.key).decode(),
                wallet=base58.b58encode(address(player.wallet)).decode(),
                behaviour=CHEATER if player.cheats else HONEST,
                stake=STAKE,
                opening_balance=self.opening[player.name],
            )
            for player in self.players
        )
        transactions = []
        for landed in self.chain.landed:
            if self.task in landed.keys:
                signature = base58.b58encode(landed.wire[1:65]).decode()
                result = landed.result
                transactions.append(
                    (
                        SignatureInfo(signature, landed.slot, result.err, None, None),
                        TransactionRecord(landed.slot, None, landed.wire, result.err, result.fee, ()),
                    )
                )
        record = ChainRecord(
            genesis=GENESIS,
            program=ix.PROGRAM_ID,
            task=self.task,
            slot=self.chain.slot,
            rents=(self.chain.rent(VAULT_LAYOUT.size), self.chain.rent(STAKE_LAYOUT.size)),
            task_account=self.account(self.task),
            vault=self.account(ix.vault_address(self.task)),
            stakes=tuple(self.stake_accounts()),
            transactions=tuple(transactions),
            blocks=self.blocks,
            balances={
                address(player.wallet): self.chain.balance(address(player.wallet)) for player in self.players
            },
        )
        return Evidence(record, nodes, self.rounds, self.copies)


@cache
def game() -> Game:
    """Five nodes, the last of which cheats, and four rounds: in the last the cheater is no longer in the roster."""
    return Game(5, 4)


@cache
def played() -> Evidence:
    """The evidence of `game`."""
    return game().evidence()
