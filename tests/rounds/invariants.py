"""Playing a scenario, and what must hold of it: shared by the property tests and by `scripts/soak_rounds.py`.

For every scenario, whatever the weather and the faults:

(a) no honest key is slashed;
(b) no two honest peers settle different lists for one round, and the one they settle is the one that stands on K2;
(c) whatever is REJECTED was wrong, and nobody honest is convicted of signing two records for one place;
(e) whatever settles verifies from K2's state and the kept bytes alone;
(f) rewards are within the bounties and slashes, list by list and as paid in the end;
(g) every round is settled, at the latest by a later attempt, if a net in pieces heals before the round can't be
committed to any more (halves that saw different records in time object to each other's bundles for ever);
(h) honest peers never sign two statements for one place, and their engines never ask for two.

And for calm rounds, in which nothing is lost, nobody crashes, and what the net does is fast enough for its windows:

(d) fraud that an honest auditor looked at is REJECTED, whoever signs twice is EQUIVOCATED, lies about a round are
vetoed, withheld votes are not diligent, and honest work is APPROVED;
(i) reconciled peers hold the same records when the first leader's turn comes;
(j) a round without adversaries takes two transactions.

Where they are known not to hold: profile koii slashes honest stakers, as the client that it copies does, so (a) and (c)
are counted there and not demanded. (d) and (g) need adversaries with at most a third of the stake; honest stakers that
were ejected can't vote any more. A canary player takes the risk that a net in trouble does not hear of its owning up.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from operator import itemgetter

from koii_p2p.records.schema import Kind, Submission
from koii_p2p.rounds.anchors import AnchoredRound
from koii_p2p.rounds.audit_rules import BASIS_POINTS, Profile
from koii_p2p.rounds.commitment import NO_PREVIOUS, Commitment
from koii_p2p.rounds.distribution import DistributionList
from koii_p2p.rounds.events import KeepArtifacts
from koii_p2p.rounds.reputation import REPUTATION_ROUNDS, Reputation, counts_in, reputations, standing_of
from koii_p2p.rounds.roster import Roster
from koii_p2p.rounds.round_records import COMMITTED_KINDS
from koii_p2p.rounds.tally import AuditorStatus, Outcome
from koii_p2p.rounds.verification import RoundEvidence, check_round
from tests.rounds import adversaries as bad
from tests.rounds import liars
from tests.rounds.scenarios import Fault, Scenario, scenario_of
from tests.rounds.simulation import GENESIS, RIGHT, Net, Peer


@dataclass
class Play:
    """One scenario, played: its net, what was noted on the way, and what went wrong."""

    scenario: Scenario
    net: Net
    violations: list[str] = field(default_factory=list)
    outcomes: Counter[str] = field(default_factory=Counter)
    notes: Counter[str] = field(default_factory=Counter)
    calm: list[bool] = field(default_factory=list)

    def fail(self, invariant: str, number: int, text: str) -> None:
        self.violations.append(f"seed {self.scenario.seed}, round {number}: ({invariant}) {text}")

    @property
    def adversaries(self) -> Counter[str]:
        """How many there were of each kind."""
        return Counter(_name(peer) for peer in self.net.peers if not peer.honest)

    def standing(self, number: int) -> AnchoredRound | None:
        """What stands on K2 of a round, with its list; None if it has none or was rejected."""
        anchored = self.net.chain.anchored.get(number)
        return None if anchored is None or anchored.rejected or anchored.list_root is None else anchored

    def kept(self, number: int) -> KeepArtifacts | None:
        """The artifacts of the attempt that stands, as some honest peer keeps them; all three, or None."""
        anchored = self.standing(number)
        for peer in self.net.peers:
            kept = peer.artifacts.get(number) if peer.honest and anchored else None
            if kept is None or anchored is None or not (kept.commitment and kept.bundle and kept.list):
                continue
            same = sha256(kept.commitment).digest() == anchored.commitment
            if same and DistributionList.decode(kept.list).root == anchored.list_root:
                return kept
        return None

    def commitment(self, number: int) -> Commitment | None:
        """The commitment that stands."""
        kept = self.kept(number)
        return Commitment.decode(kept.commitment) if kept and kept.commitment else None


def play(seed: int) -> Play:
    """Play the scenario of a seed to its end and check every invariant."""
    scenario = scenario_of(seed)
    net = Net(
        0,
        crew=scenario.crew,
        stakes=scenario.stakes,
        weather=scenario.weather,
        seed=seed,
        terms=scenario.terms,
        keep_actions=False,
    )
    played = Play(scenario, net)
    played.calm = [_is_calm(scenario, number) for number in range(scenario.rounds)]
    _run(played)
    _check_words(played)
    for number in range(scenario.rounds):
        _check_round(played, number)
    _check_lists(played)
    return played


def _run(played: Play) -> None:
    scenario, net, clock = played.scenario, played.net, played.scenario.terms.clock
    attempts = range(scenario.terms.allowed_failed_distributions + 1)
    acts: list[tuple[int, Callable[[], None]]] = []
    for fault in scenario.faults:
        acts += [(fault.start, partial(_begin, net, fault)), (fault.end, partial(_end, net, fault))]
    room = clock.delay(0).closes - clock.delay(0).opens or scenario.terms.submission_window // 2
    for number in (number for number in range(scenario.rounds) if played.calm[number]):
        if scenario.weather.reconcile_peers is None:
            acts.append((clock.delay(number).opens + room // 3 - 1, partial(_check_sets, played, number)))
        # Engines forget old rounds: what only they know is looked at as soon as an attempt is over.
        acts.append((clock.settles_at(number), partial(_check_calm, played, number)))
        acts += [
            (clock.settles_at(number, attempt), partial(_check_calm_attempt, played, number, attempt))
            for attempt in attempts
        ]
    acts.sort(key=itemgetter(0))
    for attempt in attempts:
        ends = clock.settles_at(scenario.rounds - 1, attempt) + 8
        while acts and acts[0][0] <= ends:
            slot, act = acts.pop(0)
            net.run_until(slot)
            act()
        net.run_until(ends)
        tried = [net.chain.anchored.get(number) for number in range(scenario.rounds)]
        if all(anchor is not None and anchor.attempt + anchor.rejected <= attempt for anchor in tried):
            break


def _begin(net: Net, fault: Fault) -> None:
    for index in fault.peers:
        if fault.down:
            net.peers[index].running = False
        else:
            net.peers[index].group = 1


def _end(net: Net, fault: Fault) -> None:
    for index in fault.peers:
        peer = net.peers[index]
        peer.group = 0
        if not peer.running:
            peer.restart(net.slot, records_lost=fault.records_lost)


def _is_calm(scenario: Scenario, number: int) -> bool:
    # The rounds before have to be calm as well: what they leave open is part of this one's.
    clock, weather = scenario.terms.clock, scenario.weather
    opens, closes = clock.work(max(number - 2, 0)).opens, clock.settles_at(number)
    stage = clock.seals(number) if scenario.terms.audit.sealed else clock.first_ballots(number)
    slowness = weather.lag + weather.delay + 2 * weather.read_every / weather.pace
    if slowness * 2 > stage.closes - stage.opens:
        return False
    return not weather.loss and all(fault.end < opens or fault.start >= closes for fault in scenario.faults)


def _is_torn(scenario: Scenario, number: int) -> bool:
    """Whether the net was still in pieces when its records of a round were reconciled for the last time."""
    closes = scenario.terms.clock.commitment(number).closes
    last = closes - scenario.terms.submission_window // 6
    return any(not fault.down and fault.start < closes and fault.end > last for fault in scenario.faults)


# --- who is who


def _name(peer: Peer) -> str:
    return (
        f"{type(peer).__name__} {peer.lie.name}"
        if isinstance(peer, liars.LyingLeader)
        else type(peer).__name__
    )


def _a_third_at_most(played: Play, number: int) -> bool:
    """Whether adversaries hold at most a third of the stake, the weight and the places in a round's roster."""
    roster = played.net.roster(number)
    theirs = [peer.key for peer in played.net.peers if not peer.honest and peer.key in roster]
    weight = sum(map(roster.weight_of, roster.keys))
    return (
        len(theirs) * 3 <= len(roster)
        and sum(map(roster.stake_of, theirs)) * 3 <= roster.total_stake
        and sum(map(roster.weight_of, theirs)) * 3 <= weight
        # A veto takes more than half of all stake on K2, that of ejected stakers among it.
        and 2 * (roster.total_stake - sum(map(roster.stake_of, theirs)))
        > sum(played.net.chain.stake_of(key) for key in played.net.chain.stakes)
    )


# --- while it runs


def _check_sets(played: Play, number: int) -> None:
    """(i), for records of honest authors.

    Where somebody submitted twice, a ballot on the one may be unknown to those who hold the other: then submissions.
    """
    net = played.net
    twice = any(
        # A leader that takes in a record of the next round has signed that one as its own.
        isinstance(peer, bad.Equivocator)
        or (isinstance(peer, liars.LyingLeader) and peer.lie is liars.Lie.MISPLACED)
        for peer in net.peers
    )
    kinds = {Kind.SUBMISSION} if twice else COMMITTED_KINDS
    honest = {peer.key for peer in net.peers if peer.honest}
    sets = set()
    for peer in net.peers:
        state = peer.engine.round(number)
        if peer.honest and state is not None:
            held = (record for record in state.by_id.values() if record.author in honest)
            sets.add(frozenset(record.id for record in held if record.kind in kinds))
    if len(sets) > 1:
        sizes = sorted(map(len, sets))
        text = f"connected honest peers hold {len(sets)} different sets, of {sizes} records"
        played.fail("i", number, text)


def _check_calm(played: Play, number: int) -> None:
    """(d) and (j), when the first attempt at a round is over."""
    net = played.net
    transactions = Counter(name for name, of_round in net.chain.transactions if of_round == number)
    if all(peer.honest for peer in net.peers) and transactions != Counter(commitment=1, list=1):
        played.fail("j", number, f"an honest round took {dict(transactions)}")
    if not _a_third_at_most(played, number):
        return
    anchored = net.chain.anchored.get(number)
    for told in (told for peer in net.peers if isinstance(peer, liars.LyingLeader) for told in peer.told):
        if told.round != number or told.attempt:
            continue
        played.notes[f"lie of a leader: {told.lie.name}"] += 1
        # Whoever commits and lists nothing is overtaken by the next leader.
        if told.lie is not liars.Lie.NO_LIST and not (anchored and (anchored.attempt or anchored.rejected)):
            played.fail("d", number, f"nobody vetoed a leader that {told.lie.value}")


def _check_calm_attempt(played: Play, number: int, attempt: int) -> None:
    """(d), when an attempt is over: of each peer, if it is the one that stands."""
    net, anchored = played.net, played.standing(number)
    commitment = played.commitment(number)
    if anchored is None or anchored.attempt != attempt or commitment is None:
        return
    if net.terms.audit.profile is Profile.KOII or not _a_third_at_most(played, number):
        return
    for peer in net.peers:
        _check_peer(played, number, commitment, peer)


def _check_peer(played: Play, number: int, commitment: Commitment, peer: Peer) -> None:
    net, rules = played.net, played.net.terms.audit
    witness = next(other for other in net.peers if other.honest and other.staked)
    state = witness.engine.round(number)
    if state is None or state.assignment is None or state.roster is None or peer.key not in state.roster:
        return
    name, by_key = type(peer).__name__, {other.key: other for other in net.peers}
    outcome, status = commitment.outcome_of.get(peer.key), dict(commitment.auditors).get(peer.key)
    found = outcome.name if outcome else None
    standing = status.name if status else None
    drawn = [by_key[key] for key in state.assignment.auditors_of(peer.key)]
    looked_at = any(other.honest and not isinstance(other, bad.Slow) for other in drawn)
    value = next(
        (_value(played, number, e.submission_id) for e in commitment.outcomes if e.author == peer.key), None
    )
    due = any(state.assignment.is_due(peer.key, author) for author in commitment.outcome_of)
    slow = any(isinstance(other, bad.Slow) for other in net.peers)
    if isinstance(peer, bad.CanaryPlayer) and value != RIGHT:
        if outcome not in (Outcome.CANARY, Outcome.UNDECIDED, None):
            played.fail("d", number, f"a canary that was owned up to is {found}")
    elif peer.honest and peer.role.submits:
        if outcome is None:
            played.fail("d", number, f"the submission of a connected {name} is missing")
        elif outcome is not Outcome.APPROVED and not slow and not _outvoted(drawn, state.roster):
            played.fail("d", number, f"the submission of a connected {name} is {found}")
    elif isinstance(peer, bad.WrongValue | bad.Colluder | bad.FakeCanary) and looked_at and not slow:
        if outcome is not Outcome.REJECTED and not (isinstance(peer, bad.FakeCanary) and peer.lateness < 0):
            played.fail("d", number, f"the fraud of a {name} is {found}")
    elif type(peer) is bad.Equivocator and outcome not in (Outcome.EQUIVOCATED, None):
        played.fail("d", number, f"two submissions of one author are {found}")
    if isinstance(peer, bad.BallotEquivocator) and due and status is not AuditorStatus.EQUIVOCATED:
        played.fail("d", number, f"two ballots of one author are {standing}")
    if isinstance(peer, bad.Silent) and (outcome is not None or status is AuditorStatus.DILIGENT):
        played.fail("d", number, "somebody silent is found diligent")
    never = bad.RevealWithholder if rules.sealed else bad.BallotWithholder
    undisputed = not state.disputed(net.terms)
    if isinstance(peer, never) and due and undisputed and status in (None, AuditorStatus.DILIGENT):
        played.fail("d", number, f"an auditor that withheld its votes is {standing}")


def _outvoted(drawn: list[Peer], roster: Roster) -> bool:
    """Whether adversaries could keep an honest reward back.

    An accusation that comes too late for a full audit leaves those drawn to decide. Where half of their weight is not
    honest, they can leave it undecided, and so can all of them by saying nothing.
    """
    honest = sum(roster.weight_of(peer.key) for peer in drawn if peer.honest)
    return bool(drawn) and honest * 2 <= sum(roster.weight_of(peer.key) for peer in drawn)


def _value(played: Play, number: int, record_id: bytes) -> str | bytes | None:
    for peer in played.net.peers:
        state = peer.engine.round(number)
        record = state.by_id.get(record_id) if state else None
        body = record.statement.body if record else None
        if isinstance(body, Submission):
            return body.value
    return None


# --- in the end


def _check_words(played: Play) -> None:
    """(h)."""
    for statement in played.net.said_twice:
        played.fail("h", statement.round, f"an honest peer signed two statements: {statement.kind.name}")
    for peer in played.net.peers:
        for statement in peer.contradicted if peer.honest else ():
            text = f"the engine of a {type(peer).__name__} contradicted itself: {statement.kind.name}"
            played.fail("h", statement.round, text)


def _check_round(played: Play, number: int) -> None:
    """(b), (c) and (g)."""
    net = played.net
    by_key = {peer.key: peer for peer in net.peers}
    _check_agreement(played, number)
    anchored = net.chain.anchored.get(number)
    if anchored is None:
        played.outcomes["round: not committed to"] += 1
    elif anchored.rejected:
        played.outcomes["round: rejected"] += 1
    elif anchored.list_root is None:
        played.outcomes["round: without a list"] += 1
    else:
        played.outcomes[f"round: settled in attempt {anchored.attempt}"] += 1
    if played.standing(number) is None:
        text = "was not committed to" if anchored is None else f"ended in attempt {anchored.attempt}"
        healed = not any(_is_torn(played.scenario, earlier) for earlier in range(number + 1))
        if healed and all(_a_third_at_most(played, earlier) for earlier in range(number + 1)):
            played.fail("g", number, f"the round {text}, without a list that stands")
        return
    commitment = played.commitment(number)
    if commitment is None:
        played.fail("e", number, "no honest peer keeps the bytes of what stands on K2")
        return
    koii = net.terms.audit.profile is Profile.KOII
    for entry in commitment.outcomes:
        played.outcomes[entry.outcome.name] += 1
        author = by_key[entry.author]
        if entry.outcome is Outcome.REJECTED and _value(played, number, entry.submission_id) == RIGHT:
            if koii:
                played.notes["koii: right work was rejected"] += 1
            else:
                played.fail("c", number, f"right work of a {type(author).__name__} is REJECTED")
        if entry.outcome is Outcome.EQUIVOCATED and author.honest:
            played.fail("c", number, f"an honest {type(author).__name__} is EQUIVOCATED")
    for key, status in commitment.auditors:
        if status is AuditorStatus.EQUIVOCATED and by_key[key].honest:
            played.fail("c", number, f"an honest auditor {type(by_key[key]).__name__} is EQUIVOCATED")


def _check_agreement(played: Play, number: int) -> None:
    """(b)."""
    roots = {peer.settled[number] for peer in played.net.peers if peer.honest and number in peer.settled}
    if len(roots) > 1:
        played.fail("b", number, f"honest peers settled {len(roots)} different lists")
    anchored = played.standing(number)
    if roots and (anchored is None or anchored.list_root not in roots):
        played.fail("b", number, "honest peers settled a list that does not stand on K2")


def _check_lists(played: Play) -> None:
    """(a), (e) and (f), from list to list as they stand on K2."""
    net = played.net
    honest = {peer.key: peer for peer in net.peers if peer.honest}
    before: DistributionList | None = None
    settled = 0
    for number in range(played.scenario.rounds):
        kept = played.kept(number)
        if kept is None or kept.list is None:
            if played.standing(number) is not None:
                return
            continue
        settled += 1
        _check_evidence(played, number, kept, before)
        found = DistributionList.decode(kept.list)
        old = {leaf.staker: leaf for leaf in before.leaves} if before else {}
        rewards = slashes = 0
        for leaf in found.leaves:
            last = old.get(leaf.staker)
            rewards += leaf.reward_total - (last.reward_total if last else 0)
            slashed = leaf.slash_total - (last.slash_total if last else 0)
            slashes += slashed
            if slashed and leaf.staker in honest:
                _slashed(played, number, honest[leaf.staker])
        share = slashes * net.terms.audit.finders_share // BASIS_POINTS
        if rewards > net.terms.bounty_per_round + share:
            played.fail("f", number, f"rewards of {rewards} Roe, with {share} Roe for finders")
        before = found
    after = [number for number in net.chain.anchored if number >= played.scenario.rounds]
    paid = sum(history.reward_paid for history in net.chain.stakes.values())
    taken = sum(history.checkpoints[-1].slash_total for history in net.chain.stakes.values())
    if paid > (settled + len(after)) * net.terms.bounty_per_round + taken:
        played.fail(
            "f", played.scenario.rounds, f"{paid} Roe were paid for {settled} rounds and {taken} Roe slashed"
        )


def _check_evidence(played: Play, number: int, kept: KeepArtifacts, before: DistributionList | None) -> None:
    """(e): nothing but what K2 holds in the end, and three strings of bytes."""
    net, anchored = played.net, played.standing(number)
    earlier = [
        older
        for older, anchor in net.chain.anchored.items()
        if older < number and not (anchor.attempt or anchor.rejected)
    ]
    if anchored is None or kept.commitment is None or kept.bundle is None:
        return
    known = _reputations(played, number)
    if known is None:
        return
    evidence = RoundEvidence(
        round=number,
        roster=net.roster(number),
        blockhash=net.chain.blockhash(net.terms.clock.submission(number).closes),
        commitment=kept.commitment,
        bundle=kept.bundle,
        list=kept.list,
        anchored_digest=anchored.commitment,
        anchored_root=anchored.list_root,
        anchored_reward_total=anchored.reward_total,
        anchored_slash_total=anchored.slash_total,
        previous_digest=net.chain.anchored[max(earlier)].commitment if earlier else NO_PREVIOUS,
        reputations=known,
    )
    for finding in check_round(net.terms, GENESIS, evidence, before).findings:
        played.fail("e", number, f"{finding.code.name}: {finding.text}")


def _reputations(played: Play, number: int) -> dict[bytes, Reputation] | None:
    """Reputations in a round, from K2's present state and the kept commitments; None if one of them is missing."""
    net, standings = played.net, []
    if not net.terms.audit.reputation_floor:
        return {}
    for older in range(max(0, number - REPUTATION_ROUNDS - 1), number):
        anchored = net.chain.anchored.get(older)
        if anchored is None or not counts_in(anchored, number, net.terms.clock):
            continue
        commitment = played.commitment(older)
        if commitment is None:
            return None
        standings.append(standing_of(commitment))
    return reputations(number, standings)


def _slashed(played: Play, number: int, peer: Peer) -> None:
    """(a)."""
    if played.net.terms.audit.profile is Profile.KOII:
        played.notes["koii: an honest key was slashed"] += 1
    elif isinstance(peer, bad.CanaryPlayer) and not played.calm[number]:
        played.notes["a canary was not owned up to in time"] += 1
    else:
        played.fail("a", number, f"an honest {type(peer).__name__} was slashed")
