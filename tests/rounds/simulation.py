"""A net of engines in virtual slots: a scripted chain, a lossy wire, and a driver that answers every action."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import lru_cache
from hashlib import sha256
from itertools import count
from unittest import mock

from koii_p2p.limits import Limits
from koii_p2p.records import envelope, equivocation
from koii_p2p.records.envelope import Verified, sign
from koii_p2p.records.equivocation import Place, place_of
from koii_p2p.records.keys import SecretKey
from koii_p2p.records.schema import BallotReveal, Kind, ListVote, Statement, Verdict
from koii_p2p.rounds import admission, commitment, events, landing, record_book
from koii_p2p.rounds.admission import Source
from koii_p2p.rounds.anchors import AnchoredRound
from koii_p2p.rounds.distribution import Submitter, default_distribution
from koii_p2p.rounds.engine import SUBMITTER, RoundEngine
from koii_p2p.rounds.reconcile import Reconciler
from koii_p2p.rounds.role import Role
from koii_p2p.rounds.roster import Checkpoint, Roster, StakeHistory, roster_at
from koii_p2p.rounds.terms import TaskTerms

GENESIS = bytes(range(32))
STAKE = 1_900_000_000
BOUNTY = 100_000_000
RIGHT = "Hello, World!"
WRONG = "Hello, Mars!"
CANARY = "Hello, Canary!"

TERMS = TaskTerms(
    task=b"t" * 32,
    creator=b"c" * 32,
    name="hello_world",
    starting_slot=100,
    round_time=100,
    submission_window=35,
    audit_window=35,
    bounty_per_round=BOUNTY,
    minimum_stake=1_000_000_000,
)

ARTIFACT_PEERS = 4
"""Peers that are asked for artifacts at a time, as a node does."""


@contextmanager
def records_read_once() -> Iterator[None]:
    """Decode and verify each record once for all engines of this process, while the context lasts.

    Both are pure functions of the bytes (and the genesis hash), so that no engine can tell; a net of 40 spends most
    of its time in them otherwise. Refused bytes are not remembered.
    """
    decode, verify = lru_cache(1 << 14)(envelope.decode_record), lru_cache(1 << 14)(envelope.verify)
    with (
        mock.patch.multiple(record_book, decode_record=decode),
        mock.patch.multiple(admission, verify=verify),
        mock.patch.multiple(commitment, decode_record=decode, verify=verify),
        mock.patch.multiple(equivocation, decode_record=decode, verify=verify),
    ):
        yield


@dataclass
class Chain:
    """What K2 would hold: what the settlement program enforces about attempts, windows, totals and vetoes."""

    terms: TaskTerms
    stakes: dict[bytes, StakeHistory]
    anchored: Mapping[int, AnchoredRound] = field(default_factory=dict)
    transactions: list[tuple[str, int]] = field(default_factory=list)
    vetoes: set[tuple[bytes, int, int]] = field(default_factory=set)
    history: list[tuple[int, Mapping[int, AnchoredRound]]] = field(default_factory=list)

    def blockhash(self, slot: int) -> bytes:
        return b"block" + slot.to_bytes(27, "big")

    def stake_of(self, key: bytes) -> int:
        history = self.stakes.get(key)
        return history.checkpoints[-1].stake if history else 0

    def at(self, slot: int) -> Mapping[int, AnchoredRound]:
        """The anchored rounds as they were at the end of an earlier slot."""
        return next((anchored for since, anchored in reversed(self.history) if since <= slot), {})

    def commit(self, slot: int, by: bytes, action: events.AnchorCommitment) -> bool:
        anchor = landing.committed(self.anchored, self.terms, slot, by, action)
        if anchor is None or not self.stake_of(by):
            return False
        self._write(slot, "commitment", anchor)
        return True

    def list(self, slot: int, by: bytes, action: events.AnchorList) -> bool:
        anchor = landing.listed(self.anchored, self.terms, slot, by, action)
        if anchor is None or not self.stake_of(by):
            return False
        self._write(slot, "list", anchor)
        return True

    def veto(self, slot: int, by: bytes, action: events.Veto) -> bool:
        """Against a list under audit, or against a commitment that got none in time."""
        anchor = self.anchored.get(action.round)
        if anchor is None or anchor.rejected or anchor.attempt != action.attempt:
            return False
        if slot not in self.terms.clock.distribution_audit(action.round, action.attempt):
            return False
        if (by, action.round, action.attempt) in self.vetoes:
            return False
        self.vetoes.add((by, action.round, action.attempt))
        against = anchor.veto_stake + self.stake_of(by)
        total = sum(self.stake_of(key) for key in self.stakes)
        self._write(slot, "veto", replace(anchor, veto_stake=against, rejected=against * 2 > total))
        return True

    def settle(self, slot: int, action: events.RoundSettled) -> bool:
        """Prove every leaf of a list that is past its audit; leaves of older lists move nothing."""
        anchor = self.anchored.get(action.round)
        if anchor is None or anchor.rejected or anchor.list_root != action.list.root:
            return False
        if slot < self.terms.clock.settles_at(action.round, anchor.attempt):
            return False
        for leaf in action.list.leaves:
            history = self.stakes.get(leaf.staker)
            if history is None:
                continue
            history = landing.slashed(history, leaf, slot)
            paid = max(history.reward_paid, leaf.reward_total)
            self.stakes[leaf.staker] = replace(history, reward_paid=paid)
        return True

    def _write(self, slot: int, name: str, anchor: AnchoredRound) -> None:
        self.anchored = {**self.anchored, anchor.round: anchor}
        self.history.append((slot, self.anchored))
        self.transactions.append((name, anchor.round))


class Peer:
    """One node: an engine, its key, what it stored, and whether it runs. Adversaries are its subclasses."""

    honest = True
    answers = True
    """Whether it tells those who reconcile with it what it holds."""

    def __init__(self, net: Net, secret: SecretKey, value: str = RIGHT, role: Role = SUBMITTER) -> None:
        self.net, self.secret, self.value, self.role = net, secret, value, role
        self.key = secret.public_key
        self.random = random.Random(self.key + net.seed.to_bytes(8, "big"))
        self.engine = self.new_engine()
        self.running = True
        self.group = 0
        self.lag = 0
        self.stored: list[tuple[bytes, int]] = []
        self.openings: dict[int, BallotReveal] = {}
        self.signed: dict[Place, Statement] = {}
        self.contradicted: list[Statement] = []
        """What the engine wanted to say against what it had said, though nothing of it was lost."""
        self.lost_records = False
        self.artifacts: dict[int, events.KeepArtifacts] = {}
        self.done: list[events.Action] = []
        self.settled: dict[int, bytes] = {}
        self.audit: Callable[[str | bytes], Verdict] = lambda value: (
            Verdict.VALID if value == RIGHT else Verdict.INVALID
        )

    def new_engine(self) -> RoundEngine:
        return RoundEngine(
            self.net.terms, GENESIS, self.key, private=sha256(self.key).digest(), role=self.role
        )

    @property
    def staked(self) -> bool:
        return self.key in self.net.chain.stakes

    def restart(self, slot: int, *, records_lost: bool = False) -> None:
        """Come back after a crash with nothing but what was stored; with `records_lost`, but the journal alone."""
        if records_lost:
            self.lost_records = True
            self.stored.clear()
        self.engine = self.new_engine()
        self.running = True
        self.feed(events.SlotAdvanced(slot))
        for raw, received in self.stored:
            self.engine.receive(raw, Source.SYNC, received)
        for number, opening in self.openings.items():
            self.feed(events.OpeningRead(number, opening))
        self.read_anchors()
        for number, kept in sorted(self.artifacts.items()):
            self.feed(events.ArtifactsRead(number, kept.commitment, kept.bundle, kept.list))

    def tick(self, slot: int) -> None:
        """What an adversary does at this slot beside its engine's work."""

    def read_anchors(self) -> None:
        """Read K2 as it was `lag` slots ago."""
        slot = self.net.slot - self.lag
        self.feed(events.AnchorsRead(self.net.chain.at(slot), slot))

    def feed(self, event: events.Event) -> None:
        for action in self.engine.handle(event):
            if self.net.keep_actions:
                self.done.append(action)
            self.answer(action)

    def hear(self, raw: bytes, source: Source) -> None:
        _judgement, record = self.engine.receive(raw, source)
        if record is not None:
            self.stored.append((raw, self.engine.slot))

    def say(self, statement: Statement) -> Verified:
        """Sign as a node with its journal does: what was said for a place is said again to the letter."""
        place = place_of(statement)
        if place is not None:
            said = self.signed.setdefault(place, statement)
            if said.body != statement.body and not self.lost_records:
                self.contradicted.append(statement)
            statement = said
        return sign(statement, GENESIS, self.secret)

    def serve(self, number: int) -> events.KeepArtifacts | None:
        """The artifacts of a round that this node hands out to who asks."""
        return self.artifacts.get(number)

    def reconcile_with(self, peer: Peer, number: int) -> None:
        """Ask one peer what we lack, as nodes do, and take it in."""
        mine, his = self.engine.round(number), peer.engine.round(number)
        if mine is not None and his is not None and mine.by_id.keys() == his.by_id.keys():
            return
        limits = Limits()
        ours, theirs = self.engine.item_set(number), peer.engine.item_set(number)
        reconciler = Reconciler(ours, limits)
        question: bytes | None = reconciler.initiate()
        while question is not None:
            step = reconciler.receive(Reconciler(theirs, limits).respond(question))
            for raw in list(peer.engine.records_of(number, step.have)):
                self.hear(raw, Source.SYNC)
            question = step.message

    def submission(self, number: int, canary: bool) -> str | bytes | None:
        """What the task's `submission()` returns."""
        return CANARY if canary else self.value

    def verdict(self, action: events.AuditSubmission) -> Verdict:
        """What the task's `audit()` returns."""
        return self.audit(action.value)

    def distribution(self, number: int, submitters: Sequence[Submitter], bounty: int) -> Mapping[bytes, int]:
        """What the task's `distribution()` returns."""
        return default_distribution(submitters, bounty, self.net.terms.slash_basis_points)

    def publish(self, statement: Statement) -> None:
        """Sign, take in and gossip one statement."""
        raw = self.say(statement).raw
        self.hear(raw, Source.OWN)
        self.net.publish(self, raw)

    def anchor_commitment(self, action: events.AnchorCommitment) -> None:
        self.keep(events.KeepArtifacts(action.round, action.commitment, action.bundle))
        if self.net.chain.commit(self.net.slot, self.key, action):
            self.feed(events.CommitmentAnchored(action.round, bytes(64)))

    def anchor_list(self, action: events.AnchorList) -> None:
        self.keep(events.KeepArtifacts(action.round, list=action.list))
        if self.net.chain.list(self.net.slot, self.key, action):
            self.feed(events.ListAnchored(action.round, bytes(64)))

    def answer(self, action: events.Action) -> None:
        net, slot = self.net, self.net.slot
        match action:
            case events.ReadRoster(round=number):
                # Only a chain that has reached the period can say who was staked when it began.
                if slot - self.lag >= net.terms.clock.work(number).opens:
                    self.feed(events.RosterRead(net.roster(number)))
            case events.ReadBlockhash(round=number, slot=wanted):
                if slot - self.lag >= wanted:
                    self.feed(events.BlockhashRead(number, net.chain.blockhash(wanted)))
            case events.MakeSubmission(round=number, canary=canary):
                self.feed(events.SubmissionMade(number, self.submission(number, canary)))
            case events.AuditSubmission(round=number, submission_id=submission_id):
                self.feed(events.AuditMade(number, submission_id, self.verdict(action)))
            case events.MakeDistribution(round=number, submitters=submitters, bounty=bounty):
                self.feed(events.DistributionMade(number, self.distribution(number, submitters, bounty)))
            case events.SignAndPublish(statement=statement, opening=opening):
                if opening is not None:
                    self.openings.setdefault(statement.round, opening)
                self.publish(statement)
            case events.Reconcile(round=number):
                for peer in net.some_others(self, net.weather.reconcile_peers):
                    if peer.answers:
                        self.reconcile_with(peer, number)
            case events.KeepRecord(record=record):
                self.stored.append((record.raw, self.engine.slot))
            case events.KeepArtifacts():
                self.keep(action)
            case events.FetchArtifacts(round=number):
                for peer in net.some_others(self, ARTIFACT_PEERS):
                    if kept := peer.serve(number):
                        self.feed(events.ArtifactsRead(number, kept.commitment, kept.bundle, kept.list))
            case events.AnchorCommitment():
                self.anchor_commitment(action)
            case events.AnchorList():
                self.anchor_list(action)
            case events.Veto():
                net.chain.veto(slot, self.key, action)
            case events.RoundSettled():
                self.settled[action.round] = action.list.root
                net.chain.settle(slot, action)
            case events.RunTask():
                pass

    def keep(self, found: events.KeepArtifacts) -> None:
        kept = self.artifacts.get(found.round, events.KeepArtifacts(found.round))
        self.artifacts[found.round] = events.KeepArtifacts(
            found.round,
            found.commitment or kept.commitment,
            found.bundle or kept.bundle,
            found.list or kept.list,
        )


@dataclass(frozen=True, slots=True)
class Weather:
    """How the wire and the chain's reads behave. Chances from 0 to 1, times in slots.

    `loss` and `duplication` are chances of one delivery, `delay` the longest of one; deliveries with delays overtake
    each other. `lag` is how old the oldest reads of the chain are, `pace` the chance that a node sees a slot at all,
    `read_every` how many slots lie between its reads; `reconcile_peers` are asked at a time, all others if None.
    """

    loss: float = 0.0
    duplication: float = 0.0
    delay: int = 0
    lag: int = 0
    pace: float = 1.0
    read_every: int = 1
    reconcile_peers: int | None = None


Maker = Callable[["Net", SecretKey], Peer]
"""Makes one peer of a net: a subclass of `Peer`, or a partial of one."""


def wrong(net: Net, secret: SecretKey) -> Peer:
    """A cheater that submits what its task did not produce, and does all else as an honest node."""
    peer = Peer(net, secret, WRONG)
    peer.honest = False
    return peer


class Net:
    """Peers, a chain and a slot that advances. Everything random follows from `seed`."""

    def __init__(
        self,
        honest: int,
        cheaters: int = 0,
        *,
        crew: Sequence[Maker] = (),
        stakes: Sequence[int] | None = None,
        weather: Weather | None = None,
        loss: float = 0.0,
        seed: int = 1,
        terms: TaskTerms = TERMS,
        keep_actions: bool = True,
    ) -> None:
        """`crew` are more peers; `stakes` of all peers in their order, 0 for a key without; `STAKE` each if None."""
        self.seed = seed
        self.random = random.Random(seed)
        self.weather = weather or Weather(loss=loss)
        self.terms = terms
        self.keep_actions = keep_actions
        self.slot = terms.starting_slot - 10
        makers: list[Maker] = [*[Peer] * honest, *[wrong] * cheaters, *crew]
        secrets = [SecretKey.from_seed(bytes([index + 1]) * 32) for index in range(len(makers))]
        amounts = stakes or [STAKE] * len(makers)
        self.chain = Chain(
            terms,
            {
                secret.public_key: StakeHistory(secret.public_key, b"b" * 32, (Checkpoint(1, stake, 0),))
                for secret, stake in zip(secrets, amounts, strict=True)
                if stake
            },
        )
        self.first_said: dict[tuple[Place, bytes], bytes] = {}
        self.said_twice: list[Statement] = []
        """What honest peers sent on the wire for a place that they had filled with something else."""
        self._mail: list[tuple[int, int, Peer, bytes, Source]] = []
        self._posted = count()
        self.peers = [make(self, secret) for make, secret in zip(makers, secrets, strict=True)]
        for peer in self.peers:
            peer.lag = self.random.randint(0, self.weather.lag)

    def roster(self, number: int) -> Roster:
        return roster_at(self.chain.stakes.values(), number, self.terms)

    def others(self, peer: Peer) -> list[Peer]:
        """Who runs and can be reached from a peer."""
        return [
            other for other in self.peers if other is not peer and other.running and other.group == peer.group
        ]

    def some_others(self, peer: Peer, at_most: int | None) -> list[Peer]:
        others = self.others(peer)
        if at_most is None or len(others) <= at_most:
            return others
        return self.random.sample(others, at_most)

    def publish(
        self, sender: Peer, raw: bytes, to: Iterable[Peer] | None = None, source: Source = Source.GOSSIP
    ) -> None:
        """Send a record to all who can be reached, or to those of them that the sender chose."""
        if sender.honest:
            self._note(raw)
        chosen = None if to is None else set(map(id, to))
        for peer in self.others(sender):
            if chosen is not None and id(peer) not in chosen:
                continue
            copies = 1 if self.random.random() >= self.weather.loss else 0
            if copies and self.weather.duplication and self.random.random() < self.weather.duplication:
                copies = 2
            for _ in range(copies):
                delay = self.random.randint(0, self.weather.delay)
                if delay:
                    heapq.heappush(self._mail, (self.slot + delay, next(self._posted), peer, raw, source))
                else:
                    peer.hear(raw, source)

    def _note(self, raw: bytes) -> None:
        said = envelope.decode_record(raw)
        place = place_of(said.statement)
        if place is not None and self.first_said.setdefault((place, said.author), raw) != raw:
            self.said_twice.append(said.statement)

    def run_until(self, slot: int) -> None:
        while self.slot < slot:
            self.slot += 1
            self._deliver()
            for peer in self.peers:
                if peer.running:
                    self._advance(peer)

    def _deliver(self) -> None:
        while self._mail and self._mail[0][0] <= self.slot:
            _due, _order, peer, raw, source = heapq.heappop(self._mail)
            if peer.running:
                peer.hear(raw, source)

    def _advance(self, peer: Peer) -> None:
        peer.tick(self.slot)
        if self.weather.pace < 1 and self.random.random() >= self.weather.pace:
            return
        peer.feed(events.SlotAdvanced(self.slot))
        if (self.slot + peer.lag) % self.weather.read_every == 0:
            peer.read_anchors()

    def vote_of(self, peer: Peer, number: int, attempt: int = 0) -> ListVote | None:
        """What a peer said about the anchors of one attempt, or None."""
        said = peer.signed.get(Place(self.terms.task, number, Kind.LIST_VOTE, attempt))
        return said.body if said is not None and isinstance(said.body, ListVote) else None

    def run_until_settled(self, number: int, attempt: int = 0) -> None:
        self.run_until(self.terms.clock.settles_at(number, attempt) + 5)

    def stake_of(self, peer: Peer) -> int:
        return self.chain.stake_of(peer.key)
