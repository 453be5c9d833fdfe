"""What nodes that misbehave on purpose do, and what the rules make of it: the node's own functions, simulated."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from koii_p2p.node import behaviours
from koii_p2p.node.behaviours import Behaviour
from koii_p2p.records.envelope import sign
from koii_p2p.records.keys import SecretKey
from koii_p2p.records.schema import Kind, ListVote, Statement
from koii_p2p.rounds import events
from koii_p2p.rounds.admission import Source
from koii_p2p.rounds.audit_rules import AuditRules, Profile, Weights
from koii_p2p.rounds.commitment import Commitment
from koii_p2p.rounds.objections import ListObjection
from koii_p2p.rounds.role import Role
from koii_p2p.rounds.tally import AuditorStatus, Outcome
from koii_p2p.testnets import identity
from tests.rounds.simulation import BOUNTY, GENESIS, STAKE, TERMS, Net, Peer, Weather

SLASH = STAKE * 7000 // 10000
KOII = replace(TERMS, audit=AuditRules(profile=Profile.KOII, weights=Weights.EQUAL))


class Misbehaving(Peer):
    """A peer that asks the functions of `node.behaviours` where a node's service does."""

    honest = False

    def __init__(self, net: Net, secret: SecretKey, behaviour: Behaviour) -> None:
        super().__init__(net, secret)
        self.behaviour = behaviour

    def feed(self, event: events.Event) -> None:
        behaviours.excuse_own_lies(self.behaviour, self.engine, self.key)
        super().feed(event)

    def tick(self, slot: int) -> None:
        for statement in behaviours.late_accusations(self.behaviour, self.engine, self.key):
            self.publish(statement)
        for action in behaviours.hasty_anchors(self.behaviour, self.engine, self.key):
            super().answer(action)

    def submission(self, number: int, canary: bool) -> str | bytes | None:
        return behaviours.submitted_value(self.behaviour, super().submission(number, canary))

    def answer(self, action: events.Action) -> None:
        if not behaviours.withholds(self.behaviour, action):
            super().answer(action)

    def publish(self, statement: Statement) -> None:
        super().publish(statement)
        second = behaviours.second_statement(self.behaviour, statement)
        if second is not None:
            self.net.publish(self, sign(second, GENESIS, self.secret).raw)

    def anchor_commitment(self, action: events.AnchorCommitment) -> None:
        super().anchor_commitment(behaviours.committed_instead(self.behaviour, action, self.engine, self.key))


def crew(behaviour: Behaviour) -> Callable[[Net, SecretKey], Peer]:
    return lambda net, secret: Misbehaving(net, secret, behaviour)


def played(behaviour: Behaviour, rounds: int = 2, **settings: object) -> Net:
    net = Net(4, crew=[crew(behaviour)], **settings)  # type: ignore[arg-type]
    lies = behaviour in (Behaviour.OMITTING_LEADER, Behaviour.PAYING_ITSELF)
    net.run_until_settled(rounds - 1, attempt=lies)
    return net


def commitment(net: Net, number: int) -> Commitment:
    """What an honest peer holds."""
    state = net.peers[0].engine.round(number)
    assert state is not None
    assert state.commitment is not None
    return state.commitment


def outcomes(net: Net, number: int) -> dict[bytes, Outcome]:
    return commitment(net, number).outcome_of


def statuses(net: Net, number: int) -> dict[bytes, AuditorStatus]:
    return dict(commitment(net, number).auditors)


def paid(net: Net) -> list[int]:
    return [net.chain.stakes[peer.key].reward_paid for peer in net.peers]


def test_a_testnet_names_behaviours_as_a_node_does() -> None:
    named = {identity.HONEST, *identity.MISBEHAVIOURS}
    assert named == {behaviour.value for behaviour in Behaviour}


# --- the late accuser


def test_a_late_accuser_says_one_thing_late_in_each_audit() -> None:
    net = played(Behaviour.LATE_ACCUSER)
    liar = net.peers[4]
    for number in (0, 1):
        state = net.peers[0].engine.round(number)
        assert state is not None
        ballot = state.of_author(Kind.BALLOT, liar.key)
        assert ballot is not None
        window = net.terms.clock.first_ballots(number)
        assert ballot.statement.slot >= window.closes - (window.closes - window.opens) // 6
        assert statuses(net, number)[liar.key] is AuditorStatus.OVERRULED
        assert set(outcomes(net, number).values()) == {Outcome.APPROVED}
    assert paid(net) == [2 * (BOUNTY // 5)] * 5


def test_under_koiis_rules_it_costs_one_honest_node_its_stake() -> None:
    net = played(Behaviour.LATE_ACCUSER, terms=KOII)
    victim = min(peer.key for peer in net.peers[:4])
    for number in (0, 1):
        assert {key for key, outcome in outcomes(net, number).items() if outcome is Outcome.REJECTED} == {
            victim
        }
    assert [net.chain.stake_of(peer.key) for peer in net.peers] == [
        STAKE - SLASH if peer.key == victim else STAKE for peer in net.peers
    ]


# --- the equivocator


def test_an_equivocating_node_is_convicted_everywhere() -> None:
    net = played(Behaviour.EQUIVOCATING)
    guilty = net.peers[4]
    for number in (0, 1):
        assert outcomes(net, number) == {
            peer.key: Outcome.EQUIVOCATED if peer is guilty else Outcome.APPROVED for peer in net.peers
        }
    assert net.chain.stake_of(guilty.key) == STAKE - SLASH
    assert paid(net) == [2 * (BOUNTY // 4)] * 4 + [0]


def test_bad_values_are_of_the_same_type_and_an_allowed_size() -> None:
    for value in ("work", b"work", "w" * 512, b"w" * 512):
        bad = behaviours.bad_value(value)
        assert bad is not None
        assert type(bad) is type(value)
        assert bad != value
        assert len(bad) <= 512
    assert behaviours.bad_value(None) is None


# --- roles that are played together


class _Careful(Peer):
    """Hands in a canary whenever it may, and challenges every fraud that it was not drawn for."""

    def __init__(self, net: Net, secret: SecretKey) -> None:
        super().__init__(net, secret, role=Role(patrols=10, canaries=True))


def test_who_has_challenged_others_owns_up_to_its_canary_all_the_same() -> None:
    rules = AuditRules(sealed=True, canary_rate=10_000, auditors=1, quorum=1)
    frauds = [crew(Behaviour.WRONG_VALUE)] * 5
    net = Net(6, crew=[_Careful, *frauds], terms=replace(TERMS, audit=rules, audit_window=60, round_time=130))
    net.run_until_settled(0)
    careful = net.peers[6]
    state = net.peers[0].engine.round(0)
    assert state is not None
    assert state.challenges_of(careful.key) > 1
    assert outcomes(net, 0)[careful.key] is Outcome.CANARY
    assert net.stake_of(careful) == STAKE


# --- the omitting leader


def test_an_omitting_leader_loses_its_list_and_everybody_is_paid() -> None:
    net = played(Behaviour.OMITTING_LEADER)
    liar = net.peers[4]
    for number in (0, 1):
        anchored = net.chain.anchored[number]
        assert (anchored.attempt, anchored.rejected) == (1, False)
        assert liar.key in anchored.barred
        assert liar.key not in anchored.anchorers
        assert set(outcomes(net, number)) == {peer.key for peer in net.peers}
    assert paid(net) == [2 * (BOUNTY // 5)] * 5


class _Deaf(Peer):
    """Hears nothing by gossip, as a node whose neighbours forward nothing: all it knows was reconciled."""

    def hear(self, raw: bytes, source: Source) -> None:
        if source is not Source.GOSSIP:
            super().hear(raw, source)


@pytest.mark.parametrize("deaf", [2, 3])
def test_whoever_gossip_does_not_reach_vetoes_an_omission_as_well(deaf: int) -> None:
    """What is reconciled while its window is open was received in time, so that leaving it out can be objected to."""
    net = Net(
        4 - deaf,
        crew=[*[_Deaf] * deaf, crew(Behaviour.OMITTING_LEADER)],
        weather=Weather(reconcile_peers=3),
    )
    net.run_until_settled(0, attempt=1)
    assert (net.chain.anchored[0].attempt, net.chain.anchored[0].rejected) == (1, False)
    assert paid(net) == [BOUNTY // 5] * 5


# --- the leader that pays itself


def test_a_leader_that_pays_itself_loses_its_list_and_everybody_is_paid() -> None:
    net = played(Behaviour.PAYING_ITSELF)
    liar = net.peers[4]
    for number in (0, 1):
        anchored = net.chain.anchored[number]
        assert (anchored.attempt, anchored.rejected) == (1, False)
        assert liar.key in anchored.barred
        assert liar.key not in anchored.anchorers
        assert net.vote_of(net.peers[0], number) == ListVote(
            _first_list(net, number), False, ListObjection.WRONG_LIST
        )
        assert set(outcomes(net, number).values()) == {Outcome.APPROVED}
    assert paid(net) == [2 * (BOUNTY // 5)] * 5


def _first_list(net: Net, number: int) -> bytes:
    """The root of the list of the first attempt at a round."""
    held = (anchored[number] for _slot, anchored in net.chain.history if number in anchored)
    return next(one.list_root for one in held if one.attempt == 0 and one.list_root is not None)


def test_what_it_pays_itself_is_what_k2_takes_from_anybody() -> None:
    net = Net(4, crew=[crew(Behaviour.PAYING_ITSELF)])
    net.run_until(net.terms.clock.distribution(0).opens + 5)
    liar = net.peers[4]
    listed = liar.engine.round(0)
    assert listed is not None
    assert listed.list is not None
    assert {leaf.staker: leaf.reward_total for leaf in listed.list.leaves} == {
        peer.key: BOUNTY if peer is liar else 0 for peer in net.peers
    }
    assert net.chain.anchored[0].list_by == liar.key
    assert net.chain.anchored[0].reward_total == BOUNTY


# --- cheaters that flee


def test_who_flees_asks_its_stake_back_once_it_has_something_to_flee_with() -> None:
    net = Net(4, crew=[crew(Behaviour.FLEEING), crew(Behaviour.FLEEING_LATE)])
    early, late = net.peers[4:]

    def asks(peer: Peer) -> bool:
        assert isinstance(peer, Misbehaving)
        return behaviours.asks_back(peer.behaviour, peer.engine, peer.key)

    assert (asks(early), asks(late), asks(net.peers[4])) == (False, False, False)
    clock = net.terms.clock
    net.run_until(clock.work(0).opens + 2)
    assert (asks(early), asks(late)) == (True, False)
    net.run_until(clock.distribution(0).opens)
    assert not asks(late)
    net.run_until(clock.distribution_audit(0).opens)
    assert asks(late)
    assert outcomes(net, 0)[early.key] is outcomes(net, 0)[late.key] is Outcome.REJECTED
    for behaviour in set(Behaviour) - {Behaviour.FLEEING, Behaviour.FLEEING_LATE}:
        assert not behaviours.asks_back(behaviour, early.engine, early.key)
