"""Peers that misbehave, each in one way: with real signatures, and a real engine underneath (PROTOCOL §5 to §8).

Adversaries of one net know each other (`friends_of`) and what honest submissions look like. Whatever is not said here
they do as everybody does.
"""

from __future__ import annotations

from dataclasses import replace
from hashlib import sha256

from koii_p2p.records.envelope import Verified, sign
from koii_p2p.records.equivocation import place_of
from koii_p2p.records.keys import SecretKey
from koii_p2p.records.schema import (
    Ballot,
    BallotEntry,
    Challenge,
    CommitmentNotice,
    Kind,
    ListNotice,
    ListVote,
    Statement,
    Submission,
    Verdict,
)
from koii_p2p.rounds import events
from koii_p2p.rounds.admission import Source
from koii_p2p.rounds.clock import Window
from koii_p2p.rounds.eligibility import DRAWN, MAX_CHALLENGES, window_of
from koii_p2p.rounds.objections import ListObjection
from koii_p2p.rounds.omissions import reveals_at
from koii_p2p.rounds.role import Role
from tests.rounds.simulation import GENESIS, WRONG, Maker, Net, Peer

ALTERED = "Hello, Venus!"


def friends_of(peer: Peer) -> set[bytes]:
    """The keys of all adversaries of a net."""
    return {other.key for other in peer.net.peers if not other.honest}


class Adversary(Peer):
    """A peer that is not honest. `part` shares out the net: which half of it sees which of two records."""

    honest = False

    def half(self) -> tuple[list[Peer], list[Peer]]:
        """The others in two halves, the same at every slot."""
        others = [peer for peer in self.net.peers if peer is not self]
        others.sort(key=lambda peer: sha256(self.key + peer.key).digest())
        return others[::2], others[1::2]

    def sign_anew(self, statement: Statement) -> Verified:
        """Sign whatever a journal says."""
        return sign(statement, GENESIS, self.secret)

    def take_in(self, record: Verified, slot: int) -> None:
        """Hold an own record as if it had been received at that slot."""
        _judgement, held = self.engine.receive(record.raw, Source.OWN, slot)
        if held is not None:
            self.stored.append((record.raw, slot))

    def submitters(self, number: int) -> dict[bytes, Verified]:
        state = self.engine.round(number)
        return state.submissions() if state else {}


class WrongValue(Adversary):
    """Submits what its task did not produce."""

    def __init__(self, net: Net, secret: SecretKey) -> None:
        super().__init__(net, secret, WRONG)


class Silent(Adversary):
    """Is staked, and never says anything."""

    def publish(self, statement: Statement) -> None:
        """Say nothing."""


class Accuser(Adversary):
    """Calls every honest submission INVALID, in time."""

    def verdict(self, action: events.AuditSubmission) -> Verdict:
        return Verdict.VALID if action.author in friends_of(self) else Verdict.INVALID


class Colluder(Accuser):
    """Submits a wrong value, calls friends VALID and the honest INVALID, and agrees with whatever a friend anchors."""

    def __init__(self, net: Net, secret: SecretKey) -> None:
        super().__init__(net, secret, WRONG)

    def publish(self, statement: Statement) -> None:
        super().publish(friendly(self, statement))


def friendly(peer: Peer, statement: Statement) -> Statement:
    """The statement, unless it is a vote against a friend's anchors: then one for them."""
    body, anchored = statement.body, peer.net.chain.anchored.get(statement.round)
    if not isinstance(body, ListVote) or body.agree or anchored is None:
        return statement
    if not friends_of(peer) & set(anchored.anchorers):
        return statement
    return replace(statement, body=ListVote(body.root, True, int(ListObjection.NONE)))


class LateAccuser(Accuser):
    """Accuses the honest so late that hardly anybody can answer; its ballot claims the last slot of its window.

    `lateness` is in slots after that one (0: in it), `audience` how many it is shown to, `None` is everybody. Past
    its window gossip refuses the ballot, so that it is handed over by reconciliation.
    """

    lateness = 0
    audience: int | None = None

    def publish(self, statement: Statement) -> None:
        revealed = statement.kind is Kind.BALLOT_REVEAL
        if not revealed and (statement.kind is not Kind.BALLOT or statement.seq != DRAWN or self.sealed):
            super().publish(statement)
            return
        window = window_of(statement, self.net.terms)
        assert window is not None
        self.kept = replace(statement, slot=window.closes - 1), window

    kept: tuple[Statement, Window] | None = None

    @property
    def sealed(self) -> bool:
        return self.net.terms.audit.sealed

    def tick(self, slot: int) -> None:
        if self.kept is None:
            return
        statement, window = self.kept
        if slot < window.closes - 1 + self.lateness:
            return
        self.kept = None
        record = self.say(statement)
        self.take_in(record, window.closes - 1)
        chosen = self.net.some_others(self, self.audience)
        source = Source.GOSSIP if slot in window else Source.SYNC
        self.net.publish(self, record.raw, chosen, source)


class LoneAccuser(LateAccuser):
    """A late accuser of profile koii: it has time to look around, and accuses one honest submitter whom nobody has."""

    def publish(self, statement: Statement) -> None:
        if statement.kind is not Kind.BALLOT:
            Peer.publish(self, statement)

    def tick(self, slot: int) -> None:
        terms = self.net.terms
        for number in self.engine.rounds():
            if slot != terms.clock.audit(number).closes - 1:
                continue
            victims = [
                record for author, record in self.submitters(number).items() if author not in friends_of(self)
            ]
            if victims:
                entry = BallotEntry(victims[0].id, Verdict.INVALID)
                Peer.publish(self, Statement(terms.task, number, slot, DRAWN, Ballot((entry,))))


class Equivocator(Adversary):
    """Signs two statements of one kind where it may make one, and shows each to another half of the net."""

    twice = Kind.SUBMISSION

    def publish(self, statement: Statement) -> None:
        if statement.kind is not self.twice or place_of(statement) in self.signed:
            super().publish(statement)
            return
        other = contradiction(statement)
        place = place_of(statement)
        assert place is not None
        self.signed[place] = statement
        first, second = self.sign_anew(statement), self.sign_anew(other)
        self.hear(first.raw, Source.OWN)
        ours, theirs = self.half()
        self.net.publish(self, first.raw, ours)
        self.net.publish(self, second.raw, theirs)


def contradiction(statement: Statement) -> Statement:
    """Another statement for the same place."""
    body = statement.body
    match body:
        case Submission():
            return replace(statement, body=Submission(ALTERED))
        case Ballot(seal=bytes(seal)):
            return replace(statement, body=Ballot(seal=sha256(seal).digest()))
        case Ballot(entries=entries):
            return replace(statement, body=Ballot(tuple(map(_opposite, entries))))
        case Challenge():
            return replace(statement, body=replace(body, evidence=b"\x01" * 32))
        case ListVote(root=root, agree=agree):
            reason = ListObjection.WRONG_LIST if agree else ListObjection.NONE
            return replace(statement, body=ListVote(root, not agree, int(reason)))
        case CommitmentNotice() | ListNotice():
            return replace(statement, body=replace(body, signature=b"\x01" * 64))
        case _:
            # Only one opening fits a seal, and it can be signed twice all the same.
            return replace(statement, slot=statement.slot + 1)


def _opposite(entry: BallotEntry) -> BallotEntry:
    bad = entry.verdict is Verdict.INVALID
    return replace(entry, verdict=Verdict.VALID if bad else Verdict.INVALID)


class BallotEquivocator(Equivocator):
    """Votes one thing before one half of the net, the opposite before the other."""

    twice = Kind.BALLOT


class ListVoteEquivocator(Equivocator):
    """Agrees with the list before one half of the net and not before the other."""

    twice = Kind.LIST_VOTE


class NoticeEquivocator(Equivocator):
    """Announces two transactions for one commitment."""

    twice = Kind.COMMITMENT_NOTICE


class ListNoticeEquivocator(Equivocator):
    """Announces two transactions for one list."""

    twice = Kind.LIST_NOTICE


class RevealEquivocator(Equivocator):
    """Signs its reveal twice."""

    twice = Kind.BALLOT_REVEAL


class Objector(Adversary):
    """Disagrees with every list in gossip, and vetoes it on K2, whatever it is."""

    def publish(self, statement: Statement) -> None:
        if isinstance(statement.body, ListVote):
            vote = ListVote(statement.body.root, False, int(ListObjection.WRONG_LIST))
            statement = replace(statement, body=vote)
        super().publish(statement)

    def tick(self, slot: int) -> None:
        for number, anchored in self.net.chain.anchored.items():
            if slot in self.net.terms.clock.distribution_audit(number, anchored.attempt):
                self.net.chain.veto(slot, self.key, events.Veto(number, anchored.attempt))


class Garbler(Adversary):
    """Sends with every record of its own some that are cut short, altered, or of another round or task."""

    def publish(self, statement: Statement) -> None:
        super().publish(statement)
        raw = self.say(statement).raw
        position = self.random.randrange(len(raw))
        altered = (
            raw[:position] + bytes([raw[position] ^ 1 << self.random.randrange(8)]) + raw[position + 1 :]
        )
        elsewhere = replace(statement, round=statement.round + self.random.choice((1, 1000)))
        task = replace(statement, task=bytes(32))
        for sent in (raw[:position], altered, self.sign_anew(elsewhere).raw, self.sign_anew(task).raw):
            self.net.publish(self, sent)


class Withholder(Adversary):
    """Shows its statements of some kinds to a few peers only, or to nobody."""

    answers = False
    withheld = frozenset({Kind.SUBMISSION})
    shown_to = 1

    def publish(self, statement: Statement) -> None:
        if statement.kind not in self.withheld:
            super().publish(statement)
            return
        record = self.say(statement)
        self.hear(record.raw, Source.OWN)
        self.net.publish(self, record.raw, self.net.some_others(self, self.shown_to))


class BallotWithholder(Withholder):
    """Does its audits and keeps what it found to itself."""

    withheld = frozenset({Kind.BALLOT})
    shown_to = 0

    def publish(self, statement: Statement) -> None:
        if statement.kind not in self.withheld:
            super().publish(statement)


class RevealWithholder(BallotWithholder):
    """Seals its ballot, and never says what is in it."""

    withheld = frozenset({Kind.BALLOT_REVEAL})


class Spammer(Adversary):
    """Challenges as many honest submissions as it may, more than that, and what does not exist."""

    def tick(self, slot: int) -> None:
        terms = self.net.terms
        for number in self.engine.rounds():
            window = terms.clock.first_ballots(number)
            if slot != window.opens + (window.closes - window.opens) // 2 or not self.staked:
                continue
            targets = [
                record.id
                for author, record in self.submitters(number).items()
                if author not in friends_of(self)
            ]
            self.random.shuffle(targets)
            targets = [*targets, sha256(b"nothing").digest()] * (MAX_CHALLENGES + 2)
            for seq, target in enumerate(targets[: MAX_CHALLENGES + 2]):
                statement = Statement(terms.task, number, slot, seq, Challenge(target, b"\x00" * 32))
                record = self.sign_anew(statement)
                self.hear(record.raw, Source.OWN)
                self.net.publish(self, record.raw)


class FakeCanary(Adversary):
    """Submits a wrong value and owns up to it only once votes against it are revealed, with a slot from before.

    `lateness` is in slots after honest votes are revealed; below 0 it is an early bird that wants to split the net.
    """

    lateness = 1
    audience: int | None = None

    def __init__(self, net: Net, secret: SecretKey) -> None:
        super().__init__(net, secret, WRONG)

    def tick(self, slot: int) -> None:
        terms = self.net.terms
        for number in self.engine.rounds():
            if slot != reveals_at(terms, number) + self.lateness:
                continue
            own = self.submitters(number).get(self.key)
            if own is None:
                continue
            claimed = terms.clock.openings(number).closes - 1
            statement = Statement(terms.task, number, claimed, 0, Challenge(own.id, b"\x00" * 32))
            record = self.sign_anew(statement)
            self.take_in(record, claimed)
            self.net.publish(self, record.raw, self.net.some_others(self, self.audience), Source.SYNC)


class Bystander(Peer):
    """An honest staker, or a key without stake, that does not submit and audits all the same."""

    def __init__(self, net: Net, secret: SecretKey) -> None:
        super().__init__(net, secret, role=Role(submits=False))


class Patroller(Peer):
    """An honest staker that looks at more than it is due for."""

    def __init__(self, net: Net, secret: SecretKey) -> None:
        super().__init__(net, secret, role=Role(patrols=8))


class Slow(Peer):
    """An honest staker some of whose audits take too long: they count as UNAVAILABLE."""

    def verdict(self, action: events.AuditSubmission) -> Verdict:
        return Verdict.UNAVAILABLE if self.random.random() < 0.3 else super().verdict(action)


class CanaryPlayer(Peer):
    """An honest staker that hands in known-bad work when its turn comes."""

    def __init__(self, net: Net, secret: SecretKey) -> None:
        super().__init__(net, secret, role=Role(canaries=True))


class UnstakedLiar(Adversary):
    """A key without stake that audits for a seat, and accuses everybody."""

    def __init__(self, net: Net, secret: SecretKey) -> None:
        super().__init__(net, secret)
        self.role = Role(submits=False)
        self.engine = self.new_engine()

    def verdict(self, action: events.AuditSubmission) -> Verdict:
        return Verdict.INVALID


def late(lateness: int, audience: int | None) -> Maker:
    """A `LateAccuser` of this lateness and audience."""

    def make(net: Net, secret: SecretKey) -> Peer:
        peer = LateAccuser(net, secret)
        peer.lateness, peer.audience = lateness, audience
        return peer

    return make


def fake_canary(lateness: int, audience: int | None) -> Maker:
    """A `FakeCanary` that owns up so late, to so many."""

    def make(net: Net, secret: SecretKey) -> Peer:
        peer = FakeCanary(net, secret)
        peer.lateness, peer.audience = lateness, audience
        return peer

    return make
