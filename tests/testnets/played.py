"""Evidence of small testnets: real records and transactions, played through the program in the virtual machine."""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache

import base58
from solders.instruction import Instruction
from solders.keypair import Keypair

from koii_p2p.records.envelope import Verified, sign
from koii_p2p.records.equivocation import equivocation_of
from koii_p2p.records.keys import SecretKey
from koii_p2p.records.schema import (
    Ballot,
    BallotEntry,
    BallotReveal,
    Body,
    Challenge,
    Statement,
    Submission,
    Verdict,
)
from koii_p2p.records.seals import seal_of
from koii_p2p.rounds.assignment import AuditAssignment
from koii_p2p.rounds.audit_rules import AuditRules, Profile, Weights
from koii_p2p.rounds.beacon import beacon
from koii_p2p.rounds.commitment import NO_PREVIOUS, BuiltRound, build_commitment
from koii_p2p.rounds.distribution import (
    DistributionList,
    default_distribution,
    next_list,
    submitters_of,
)
from koii_p2p.rounds.eligibility import DRAWN, FULL_AUDIT
from koii_p2p.rounds.roster import Roster, StakeHistory, roster_at
from koii_p2p.rounds.round_records import RoundRecords, disputed, select, sort_records
from koii_p2p.rounds.terms import TaskTerms
from koii_p2p.rounds.verification import Distribute
from koii_p2p.settlement import instructions as ix
from koii_p2p.settlement.layouts import STAKE_LAYOUT, VAULT_LAYOUT, decode_stake
from koii_p2p.settlement.rpc import Account, SignatureInfo, TransactionRecord
from koii_p2p.testnets.chain_record import ChainRecord
from koii_p2p.testnets.evidence import Evidence, RoundCopies
from koii_p2p.testnets.identity import (
    EQUIVOCATING,
    FLEEING,
    FLEEING_LATE,
    HONEST,
    LATE_ACCUSER,
    OMITTING_LEADER,
    PAYING_ITSELF,
    WRONG_VALUE,
    NodeIdentity,
)
from tests.settlement.virtual_chain import KOII, VirtualChain, address, keypair

GENESIS = hashlib.sha256(b"genesis of the played testnet").digest()
STAKE = 1_900_000_000
BOUNTY = KOII
SLASH = STAKE * 7000 // 10000
GOOD, BAD = "Hello, World!", "not Hello, World!"
KOII_RULES = AuditRules(profile=Profile.KOII, weights=Weights.EQUAL)


@dataclass(frozen=True)
class Role:
    """What one player does. `challenges`: it challenges the first author's work in every round."""

    behaviour: str = HONEST
    witness: bool = False
    staked: bool = True
    canaries: bool = False
    challenges: bool = False


@dataclass(frozen=True)
class Player:
    """A node of a played testnet."""

    name: str
    staker: Keypair
    wallet: Keypair
    role: Role

    @property
    def key(self) -> bytes:
        return address(self.staker)

    @property
    def secret(self) -> SecretKey:
        return SecretKey.from_seed(bytes(self.staker)[:32])

    @property
    def cheats(self) -> bool:
        return self.role.behaviour in (WRONG_VALUE, EQUIVOCATING, FLEEING, FLEEING_LATE)

    @property
    def accuses(self) -> bool:
        return self.role.behaviour == LATE_ACCUSER

    @property
    def stake(self) -> int:
        return STAKE if self.role.staked else 0


class Game:
    """A chain, players, and their rounds. Each round is played when its slots come, between those of the others."""

    def __init__(
        self,
        roles: Sequence[Role],
        rounds: int,
        audit: AuditRules | None = None,
        distribute: Distribute | None = None,
    ) -> None:
        self.chain = VirtualChain()
        self.distribute = distribute
        self.players = [
            Player(
                f"node-{index:02d}",
                keypair(f"played staker {index}"),
                self.chain.rich(f"played wallet {index}"),
                role,
            )
            for index, role in enumerate(roles)
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
            minimum_stake=STAKE * 2 // 5,  # a lost bond ejects nobody, a slash does
            program="played",
            audit=audit or AuditRules(),
        )
        self.chain.ok(ix.create_task(self.terms, 1))
        self.chain.ok(ix.fund(self.task, creator, BOUNTY * rounds))
        self.stakers = [player for player in self.players if player.role.staked]
        for player in self.stakers:
            wallet = address(player.wallet)
            self._send(player, ix.stake(self.task, wallet, player.key, wallet, STAKE))
        self.opening = {player.name: self.chain.balance(address(player.wallet)) for player in self.players}
        self.rounds = rounds
        self.blocks: dict[int, tuple[int, bytes]] = {}
        self.copies: dict[int, RoundCopies] = {}
        self.lists: list[DistributionList] = []
        self.digests: dict[int, bytes] = {}
        played = {number: self._round(number) for number in range(rounds)}
        fugitives = [player for player in self.players if player.role.behaviour in (FLEEING, FLEEING_LATE)]
        played |= {rounds + index: self._flight(player) for index, player in enumerate(fugitives)}
        due = [(next(steps), number) for number, steps in played.items()]
        heapq.heapify(due)
        while due:
            slot, number = heapq.heappop(due)
            self.chain.at(slot)
            following = next(played[number], None)
            if following is not None:
                heapq.heappush(due, (following, number))

    # --- the chain

    def _send(self, player: Player, instruction: Instruction) -> None:
        self.chain.ok(instruction, signers=[player.staker], payer=player.wallet)

    def histories(self) -> tuple[StakeHistory, ...]:
        return tuple(decode_stake(account.data).history for _, account in self.stake_accounts())

    def stake_accounts(self) -> list[tuple[bytes, Account]]:
        addresses = sorted(ix.stake_address(self.task, player.key) for player in self.stakers)
        return [(one, self.account(one)) for one in addresses]

    def account(self, key: bytes) -> Account:
        return Account(self.chain.balance(key), self.chain.owner(key) or b"", self.chain.data(key), False)

    # --- a round

    def _round(self, number: int) -> Iterator[int]:
        """Yields the slot of what it does next."""
        clock = self.terms.clock
        yield clock.commitment(number).opens + 5
        roster = roster_at(self.histories(), number, self.terms)
        blockhash = hashlib.sha256(b"block of round %d" % number).digest()
        self.blocks[number] = (clock.submission(number).closes, blockhash)
        drawn = beacon(blockhash, self.task, number)
        assignment = AuditAssignment(drawn, roster, self.terms.audit)
        records = self._said(number, roster, assignment)
        attempt, leader = 0, self._leader(number)
        omits, takes = (leader.role.behaviour == lie for lie in (OMITTING_LEADER, PAYING_ITSELF))
        lies, committer = omits or takes, self.players[1] if takes and number % 2 else leader
        said = _without_one(records, leader) if omits else records
        built = self._commit(drawn, assignment, said, committer)
        yield clock.distribution(number).opens + 2
        listed = self._list(number, roster, built, leader, amounts={leader.key: BOUNTY} if takes else None)
        rejected: BuiltRound | None = None
        if lies:
            yield clock.distribution_audit(number).opens + 1
            against = [player for player in self.stakers if player is not leader]
            for player in against[: len(self.stakers) // 2 + 1]:
                self._send(player, ix.veto(self.task, player.key, number, 0, committer.key, leader.key))
            attempt, leader, rejected, rejected_list = 1, self.players[0], built, listed
            yield clock.commitment(number, 1).opens + 3
            built = self._commit(drawn, assignment, records, leader, attempt)
            yield clock.distribution(number, 1).opens + 5
            listed = self._list(number, roster, built, leader, attempt)
        self.lists.append(listed)
        if not attempt:
            self.digests[number] = built.commitment.digest
        held = {player.name: (built, listed) for player in self.players}
        if rejected is not None:
            held[self._leader(number).name] = (rejected, rejected_list)
        self.copies[number] = RoundCopies(
            {name: one.commitment.encode() for name, (one, _) in held.items()},
            {name: one.bundle.encode() for name, (one, _) in held.items()},
            {name: one.encode() for name, (_, one) in held.items()},
        )
        yield clock.settles_at(number, attempt) + 1
        for player in self.stakers:
            leaf = listed.leaf(player.key)
            assert leaf is not None
            if player.role.behaviour == FLEEING:
                continue  # nobody settles its leaf: its Withdraw has to
            self.chain.ok(
                ix.settle(self.task, number, leaf, listed.proof(player.key), address(player.wallet)),
                payer=player.wallet,
            )

    def _leader(self, number: int) -> Player:
        lies = (OMITTING_LEADER, PAYING_ITSELF)
        liars = [player for player in self.players if player.role.behaviour in lies]
        return liars[0] if liars else self.players[number % 2]

    def _commit(
        self,
        drawn: bytes,
        assignment: AuditAssignment,
        records: RoundRecords,
        leader: Player,
        attempt: int = 0,
    ) -> BuiltRound:
        number = assignment.roster.round
        stood = [earlier for earlier in self.digests if earlier < number]
        previous = self.digests[max(stood)] if stood else NO_PREVIOUS
        built = build_commitment(self.terms, assignment.roster, drawn, previous, records, assignment)
        digest = built.commitment.digest
        self._send(leader, ix.anchor_commitment(self.task, leader.key, number, digest, attempt=attempt))
        return built

    def _flight(self, player: Player) -> Iterator[int]:
        """Asks a stake back, in the first period or once it is slashed, and withdraws it in the slot it is unlocked."""
        clock, late = self.terms.clock, player.role.behaviour == FLEEING_LATE
        yield clock.distribution(0).opens + 3 if late else clock.work(0).opens + 3
        self._send(player, ix.request_unstake(self.task, player.key))
        yield self.chain.slot + 3 * self.terms.round_time
        listed = self.lists[2 if late else 0]
        leaf = listed.leaf(player.key)
        wallet = address(player.wallet)
        out = ix.withdraw(self.task, player.key, wallet, listed.round, leaf, listed.proof(player.key))
        self.chain.ok(out, payer=player.wallet)

    def _list(
        self,
        number: int,
        roster: Roster,
        built: BuiltRound,
        leader: Player,
        attempt: int = 0,
        amounts: Mapping[bytes, int] | None = None,
    ) -> DistributionList:
        previous = self.lists[-1] if self.lists else None
        submitters = submitters_of(built.tally.outcomes, roster, previous)
        right = (
            default_distribution(submitters, BOUNTY, self.terms.slash_basis_points)
            if self.distribute is None
            else self.distribute(submitters, BOUNTY, number)
        )
        listed = next_list(previous, roster, amounts or right, self.terms, built.tally)
        totals = (listed.root, listed.reward_total, listed.slash_total)
        self._send(leader, ix.anchor_list(self.task, leader.key, number, *totals, attempt=attempt))
        return listed

    # --- what is said

    def _said(self, number: int, roster: Roster, assignment: AuditAssignment) -> RoundRecords:
        clock = self.terms.clock
        opens = clock.submission(number).opens
        members = [player for player in self.players if player.key in roster]
        work = {
            player.key: self._say(player, number, opens + 1, Submission(_value(player)))
            for player in members
            if not player.role.witness
        }
        said = list(work.values())
        for player in self.players:
            if player.key in roster or not player.role.staked:
                said += self._vote(player, number, work, assignment)
        for player in members:
            if player.key in work and player.role.behaviour == EQUIVOCATING:
                second = self._say(player, number, opens + 2, Submission("something else"))
                evidence = equivocation_of(work[player.key], second)
                said.append(self._say(members[0], number, clock.audit(number).opens + 1, evidence))
            if player.key in work and player.role.canaries:
                said.append(self._challenge(player, work[player.key], clock.openings(number).opens))
            if player.role.challenges:
                accused = next(record for author, record in work.items() if author != player.key)
                said.append(self._challenge(player, accused, clock.first_ballots(number).opens))
        said += self._full_votes(number, sort_records(said, self.terms, roster, GENESIS), assignment)
        return sort_records(said, self.terms, roster, GENESIS)

    def _say(self, player: Player, number: int, slot: int, body: Body, seq: int = 0) -> Verified:
        return sign(Statement(self.task, number, slot, seq, body), GENESIS, player.secret)

    def _challenge(self, player: Player, accused: Verified, slot: int) -> Verified:
        body = Challenge(accused.id, hashlib.sha256(b"look here").digest())
        return self._say(player, accused.round, slot, body)

    def _vote(
        self, player: Player, number: int, work: Mapping[bytes, Verified], assignment: AuditAssignment
    ) -> list[Verified]:
        """What one player says first, a sealed ballot with its reveal; a late accuser calls good work invalid."""
        clock, koii = self.terms.clock, assignment.rules.profile is Profile.KOII
        others = {author: record for author, record in work.items() if author != player.key}
        if player.accuses:
            votes = {next(record for author, record in sorted(others.items())): Verdict.INVALID}
        elif koii:
            looked = [others[author] for author in assignment.sample_of(player.key, others)]
            votes = {record: Verdict.INVALID for record in looked if not _is_good(record)}
        elif player.key not in assignment.roster:
            votes = {work[author]: _honest(work[author]) for author in assignment.sample_of(player.key, work)}
        else:
            votes = {
                work[author]: _honest(work[author]) for author in assignment.authors_for(player.key, work)
            }
        if not votes:
            return []
        entries = _entries(votes)
        if not assignment.rules.sealed:
            return [self._say(player, number, clock.audit(number).opens + 12, Ballot(entries))]
        opening = BallotReveal(hashlib.sha256(b"salt" + player.key).digest(), entries)
        seal = seal_of(opening, self.task, number, player.key)
        return [
            self._say(player, number, clock.seals(number).opens + 1, Ballot(seal=seal)),
            self._say(player, number, clock.reveals(number).opens + 1, opening),
        ]

    def _full_votes(
        self, number: int, records: RoundRecords, assignment: AuditAssignment
    ) -> Iterator[Verified]:
        """What the committees of accused work say; those drawn do not vote twice."""
        if assignment.rules.profile is Profile.KOII:
            return
        accused = disputed(select(records, self.terms, assignment), assignment)
        for player in self.stakers:
            votes = {
                records.submissions[author]: _honest(records.submissions[author])
                for author in accused.values()
                if player.key in assignment.committee_of(author)
                and not assignment.may_vote(player.key, author, DRAWN)
            }
            if votes and not player.accuses:
                slot = self.terms.clock.full_audit(number).opens + 1
                yield self._say(player, number, slot, Ballot(_entries(votes)), FULL_AUDIT)

    # --- evidence

    def evidence(self) -> Evidence:
        nodes = tuple(
            NodeIdentity(
                name=player.name,
                key=base58.b58encode(player.key).decode(),
                wallet=base58.b58encode(address(player.wallet)).decode(),
                behaviour=player.role.behaviour,
                stake=player.stake,
                opening_balance=self.opening[player.name],
                witness=player.role.witness,
                canaries=player.role.canaries,
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


def _value(player: Player) -> str:
    return BAD if player.cheats or player.role.canaries else GOOD


def _is_good(record: Verified) -> bool:
    body = record.statement.body
    return isinstance(body, Submission) and body.value == GOOD


def _honest(record: Verified) -> Verdict:
    return Verdict.VALID if _is_good(record) else Verdict.INVALID


def _entries(votes: Mapping[Verified, Verdict]) -> tuple[BallotEntry, ...]:
    by_id = {record.id: verdict for record, verdict in votes.items()}
    return tuple(BallotEntry(id_, by_id[id_]) for id_ in sorted(by_id))


def _without_one(records: RoundRecords, leader: Player) -> RoundRecords:
    """The records without the submission of the first author who is not the leader."""
    victim = next(author for author in records.submissions if author != leader.key)
    kept = {author: record for author, record in records.submissions.items() if author != victim}
    return replace(records, submissions=kept)


@cache
def game() -> Game:
    """Five nodes, the last of which cheats, and four rounds: in the last the cheater is no longer in the roster."""
    return Game([*(Role() for _ in range(4)), Role(WRONG_VALUE)], 4)


@cache
def played() -> Evidence:
    """The evidence of `game`."""
    return game().evidence()


@cache
def played_with(
    *behaviours: str,
    rounds: int = 2,
    nodes: int = 5,
    audit: AuditRules | None = None,
    more: tuple[Role, ...] = (),
) -> Evidence:
    """The evidence of a testnet of honest nodes, `more` of other roles, and last those that misbehave."""
    plain = nodes - len(more) - len(behaviours)
    roles = [*(Role() for _ in range(plain)), *more, *(Role(behaviour) for behaviour in behaviours)]
    return Game(roles, rounds, audit).evidence()
