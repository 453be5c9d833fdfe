"""A net of engines in virtual slots: a scripted chain, a lossy wire, and a driver that answers every action."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from koii_p2p.limits import Limits
from koii_p2p.records.envelope import sign
from koii_p2p.records.keys import SecretKey
from koii_p2p.records.schema import Verdict
from koii_p2p.rounds import events
from koii_p2p.rounds.admission import Source
from koii_p2p.rounds.anchors import AnchoredRound
from koii_p2p.rounds.distribution import default_distribution
from koii_p2p.rounds.engine import RoundEngine
from koii_p2p.rounds.reconcile import Reconciler
from koii_p2p.rounds.roster import Checkpoint, StakeHistory, roster_at
from koii_p2p.rounds.terms import TaskTerms

GENESIS = bytes(range(32))
STAKE = 1_900_000_000
BOUNTY = 100_000_000
RIGHT = "Hello, World!"

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


@dataclass
class Chain:
    """What K2 would hold: it enforces one commitment and one list per round, inside their windows."""

    stakes: dict[bytes, StakeHistory]
    anchored: dict[int, AnchoredRound] = field(default_factory=dict)
    transactions: list[tuple[str, int]] = field(default_factory=list)

    def blockhash(self, slot: int) -> bytes:
        return b"block" + slot.to_bytes(27, "big")

    def commit(self, slot: int, by: bytes, action: events.AnchorCommitment) -> bool:
        if action.round in self.anchored or slot not in TERMS.clock.commitment(action.round):
            return False
        self.anchored[action.round] = AnchoredRound(action.round, 0, action.digest, slot, by)
        self.transactions.append(("commitment", action.round))
        return True

    def list(self, slot: int, by: bytes, action: events.AnchorList) -> bool:
        anchor = self.anchored[action.round]
        if anchor.list_root is not None or slot not in TERMS.clock.distribution(action.round):
            return False
        self.anchored[action.round] = replace(
            anchor,
            list_root=action.root,
            reward_total=action.reward_total,
            slash_total=action.slash_total,
            list_slot=slot,
            list_by=by,
        )
        self.transactions.append(("list", action.round))
        return True

    def settle(self, slot: int, action: events.RoundSettled) -> None:
        for leaf in action.list.leaves:
            history = self.stakes[leaf.staker]
            last = history.checkpoints[-1]
            if leaf.slash_total > last.slash_total:
                left = last.stake - (leaf.slash_total - last.slash_total)
                point = Checkpoint(slot, left, leaf.slash_total)
                history = replace(history, checkpoints=(*history.checkpoints, point))
            self.stakes[leaf.staker] = replace(history, reward_paid=leaf.reward_total)


class Peer:
    """One node: an engine, its key, what it stored, and whether it runs."""

    def __init__(self, net: Net, secret: SecretKey, value: str) -> None:
        self.net, self.secret, self.value = net, secret, value
        self.key = secret.public_key
        self.engine = RoundEngine(TERMS, GENESIS, self.key)
        self.running = True
        self.stored: list[tuple[bytes, int]] = []
        self.artifacts: dict[int, events.KeepArtifacts] = {}
        self.done: list[events.Action] = []
        self.audit: Callable[[str | bytes], Verdict] = lambda value: (
            Verdict.VALID if value == RIGHT else Verdict.INVALID
        )

    def restart(self, slot: int) -> None:
        """Come back after a crash with nothing but what was stored."""
        self.engine = RoundEngine(TERMS, GENESIS, self.key)
        self.running = True
        self.feed(events.SlotAdvanced(slot))
        for raw, received in self.stored:
            self.engine.receive(raw, Source.SYNC, received)
        self.feed(events.AnchorsRead(self.net.chain.anchored))
        for number, kept in sorted(self.artifacts.items()):
            self.feed(events.ArtifactsRead(number, kept.commitment, kept.bundle, kept.list))

    def feed(self, event: events.Event) -> None:
        for action in self.engine.handle(event):
            self.done.append(action)
            self.answer(action)

    def hear(self, raw: bytes, source: Source) -> None:
        _judgement, record = self.engine.receive(raw, source)
        if record is not None:
            self.stored.append((raw, self.engine.slot))

    def reconcile_with(self, peer: Peer, number: int) -> None:
        """Ask one peer what we lack, as nodes do, and take it in."""
        limits = Limits()
        reconciler = Reconciler(self.engine.item_set(number), limits)
        question: bytes | None = reconciler.initiate()
        while question is not None:
            reply = Reconciler(peer.engine.item_set(number), limits).respond(question)
            step = reconciler.receive(reply)
            for raw in list(peer.engine.records_of(number, step.have)):
                self.hear(raw, Source.SYNC)
            question = step.message

    def answer(self, action: events.Action) -> None:
        net, slot = self.net, self.net.slot
        match action:
            case events.ReadRoster(round=number):
                roster = roster_at(net.chain.stakes.values(), number, TERMS.clock, TERMS.minimum_stake)
                self.feed(events.RosterRead(roster))
            case events.ReadBlockhash(round=number, slot=wanted):
                self.feed(events.BlockhashRead(number, net.chain.blockhash(wanted)))
            case events.MakeSubmission(round=number):
                self.feed(events.SubmissionMade(number, self.value))
            case events.AuditSubmission(round=number, submission_id=submission_id, value=value):
                self.feed(events.AuditMade(number, submission_id, self.audit(value)))
            case events.MakeDistribution(round=number, submitters=submitters, bounty=bounty):
                amounts = default_distribution(submitters, bounty, TERMS.slash_basis_points)
                self.feed(events.DistributionMade(number, amounts))
            case events.SignAndPublish(statement=statement):
                raw = sign(statement, GENESIS, self.secret).raw
                self.hear(raw, Source.OWN)
                net.publish(self, raw)
            case events.Reconcile(round=number):
                for peer in net.others(self):
                    self.reconcile_with(peer, number)
            case events.KeepRecord(record=record):
                self.stored.append((record.raw, self.engine.slot))
            case events.KeepArtifacts(round=number):
                kept = self.artifacts.get(number, events.KeepArtifacts(number))
                self.artifacts[number] = events.KeepArtifacts(
                    number,
                    action.commitment or kept.commitment,
                    action.bundle or kept.bundle,
                    action.list or kept.list,
                )
            case events.FetchArtifacts(round=number):
                for peer in net.others(self):
                    if kept := peer.artifacts.get(number):
                        self.feed(events.ArtifactsRead(number, kept.commitment, kept.bundle, kept.list))
            case events.AnchorCommitment(round=number):
                self.answer(events.KeepArtifacts(number, action.commitment, action.bundle))
                if net.chain.commit(slot, self.key, action):
                    self.feed(events.CommitmentAnchored(number, bytes(64)))
            case events.AnchorList(round=number):
                self.answer(events.KeepArtifacts(number, list=action.list))
                if net.chain.list(slot, self.key, action):
                    self.feed(events.ListAnchored(number, bytes(64)))
            case events.RoundSettled():
                net.chain.settle(slot, action)
            case events.RunTask():
                pass


class Net:
    """Peers, a chain and a slot that advances. Gossip loses `loss` of all deliveries, by a seeded draw."""

    def __init__(self, honest: int, cheaters: int = 0, *, loss: float = 0.0, seed: int = 1) -> None:
        self.random = random.Random(seed)
        self.loss = loss
        self.slot = TERMS.starting_slot - 10
        secrets = [SecretKey.from_seed(bytes([index + 1]) * 32) for index in range(honest + cheaters)]
        self.chain = Chain(
            {
                secret.public_key: StakeHistory(secret.public_key, b"b" * 32, (Checkpoint(1, STAKE, 0),))
                for secret in secrets
            }
        )
        self.peers = [
            Peer(self, secret, RIGHT if index < honest else "Hello, Mars!")
            for index, secret in enumerate(secrets)
        ]

    def others(self, peer: Peer) -> list[Peer]:
        return [other for other in self.peers if other is not peer and other.running]

    def publish(self, sender: Peer, raw: bytes) -> None:
        for peer in self.others(sender):
            if self.random.random() >= self.loss:
                peer.hear(raw, Source.GOSSIP)

    def run_until(self, slot: int) -> None:
        while self.slot < slot:
            self.slot += 1
            for peer in self.peers:
                if peer.running:
                    peer.feed(events.SlotAdvanced(self.slot))
                    peer.feed(events.AnchorsRead(self.chain.anchored))

    def run_until_settled(self, number: int) -> None:
        self.run_until(TERMS.clock.settles_at(number) + 5)

    def stake_of(self, peer: Peer) -> int:
        return self.chain.stakes[peer.key].checkpoints[-1].stake
