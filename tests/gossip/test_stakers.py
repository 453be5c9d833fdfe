"""Stake in the mesh: what the application vouches for keeps its share, and no topic is paid for by another.

The swarms are twenty unstaked peers to each staker, linked to all of them: cold boots, flashes after good conduct, and
the eclipse of one topic (arXiv:2212.05197), by the pure router in virtual time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from koii_p2p.gossip import wire
from koii_p2p.gossip.effects import Deliver, Verdict
from koii_p2p.gossip.parameters import GossipParameters, degrees_for
from koii_p2p.gossip.refusals import Refusal
from koii_p2p.rounds.peer_standings import BEST, EQUIVOCATED, REJECTED, STAKED
from tests.gossip.net import TOPIC, Net, Node, name
from tests.gossip.talk import GRAFT, PLAIN, PRUNE, Talk, control, encoded, subscription

OTHER = "koii/other"


def graft(topic: str) -> bytes:
    return control(wire.graft_entry(topic))


# --- one topic does not pay for another


def in_two_topics(peer: bytes, good: int) -> Talk:
    """A peer in the meshes of two topics that brought `good` messages first in the other one."""
    talk = Talk(GossipParameters(degrees=PLAIN.degrees))
    talk.take(talk.router.subscribe(OTHER, talk.now))
    talk.join(peer)
    talk.say(peer, subscription(OTHER), GRAFT, graft(OTHER))
    talk.say(peer, *(encoded(b"good %d" % number, OTHER) for number in range(good)))
    assert talk.router.score(peer) == pytest.approx(good)
    return talk


def test_good_conduct_in_one_topic_does_not_pay_for_rejected_messages_in_another() -> None:
    talk = in_two_topics(b"p", 40)
    talk.verdict = Verdict.REJECT
    talk.say(b"p", encoded(b"bad"))
    talk.verdict = Verdict.ACCEPT
    assert talk.router.score(b"p") > 0
    assert talk.router.score_in(b"p", TOPIC) == pytest.approx(-10)
    talk.beat()
    assert talk.router.mesh(TOPIC) == ()
    assert talk.router.mesh(OTHER) == (b"p",)
    talk.beat(15)
    talk.say(b"p", GRAFT)
    assert talk.refused(Refusal.GRAFT_SCORE) == 1
    assert talk.router.mesh(TOPIC) == ()


def test_good_conduct_in_the_topic_itself_pays_for_a_slip() -> None:
    talk = in_two_topics(b"p", 0)
    talk.say(b"p", *(encoded(b"good %d" % number) for number in range(11)))
    talk.verdict = Verdict.REJECT
    talk.say(b"p", encoded(b"bad"))
    talk.beat()
    assert talk.router.mesh(TOPIC) == (b"p",)


def test_stake_does_not_pay_for_one_rejected_message() -> None:
    talk = in_two_topics(b"p", 40)
    talk.router.set_application_score(b"p", BEST)
    talk.verdict = Verdict.REJECT
    talk.say(b"p", encoded(b"bad"))
    talk.beat()
    assert talk.router.mesh(TOPIC) == ()


def test_a_flood_graylists_a_staker_with_the_same_message_as_anybody() -> None:
    needed = []
    for value in (0.0, BEST):
        talk = Talk(GossipParameters(degrees=PLAIN.degrees), verdict=Verdict.REJECT)
        talk.join(b"p")
        talk.router.set_application_score(b"p", value)
        while not talk.refused(Refusal.GRAYLISTED):
            talk.say(b"p", encoded(b"bad %d" % talk.router.statistics().received))
        needed.append(talk.refused(Refusal.REJECTED))
    assert needed == [11, 11]


def test_a_convicted_key_leaves_every_mesh_whatever_it_earned_and_is_heard_all_the_same() -> None:
    for value, gossips in ((REJECTED, True), (EQUIVOCATED, False)):
        talk = in_two_topics(b"p", 50)
        talk.say(b"p", *(encoded(b"too %d" % number) for number in range(50)))
        talk.router.set_application_score(b"p", value)
        talk.beat()
        assert talk.router.mesh(TOPIC) == talk.router.mesh(OTHER) == ()
        talk.hush()
        talk.say(b"p", encoded(b"a vote"))
        talk.publish(b"ours")
        assert talk.messages(b"p") == [b"ours"]
        assert b"a vote" in [effect.data for effect in talk.of(Deliver)]
        talk.publish(b"new")
        talk.beat()
        assert bool(talk.told(b"p")) is gossips


def test_a_mesh_that_shines_elsewhere_and_brings_nothing_here_takes_in_better_peers() -> None:
    talk = Talk(replace(GossipParameters(), degrees=replace(PLAIN.degrees, vouched=0)))
    talk.take(talk.router.subscribe(OTHER, talk.now))
    silent = talk.join_many(6, "silent", outbound=True)
    for peer in silent:
        talk.say(peer, subscription(OTHER), GRAFT)
    good = talk.join_many(3, "good")
    for second in range(61):
        talk.say(good[second % 3], encoded(b"here %d" % second))
        for peer in silent:
            talk.say(peer, encoded(b"elsewhere %d by " % second + peer, OTHER))
        talk.beat()
    assert min(map(talk.router.score, silent)) > 3 * max(map(talk.router.score, good))
    assert sum(map(talk.in_mesh, good)) == 2


# --- the share of the mesh


def test_a_mesh_takes_in_those_it_lacks_whom_the_application_vouches_for() -> None:
    talk = Talk()
    for peer in talk.join_many(8, "sybil", outbound=True):
        talk.say(peer, GRAFT)
    stakers = talk.join_many(5, "staker")
    talk.beat()
    assert not any(map(talk.in_mesh, stakers))
    for peer in stakers:
        talk.router.set_application_score(peer, STAKED)
    talk.beat()
    assert sum(map(talk.in_mesh, stakers)) == PLAIN.degrees.vouched


def test_a_full_mesh_takes_the_graft_of_a_staker_and_of_nobody_else_that_dialled_us() -> None:
    talk = Talk()
    for peer in talk.join_many(12, "sybil"):
        talk.say(peer, GRAFT)
    talk.join(b"nobody")
    talk.join(b"staker")
    talk.router.set_application_score(b"staker", STAKED)
    talk.say(b"nobody", GRAFT)
    talk.say(b"staker", GRAFT)
    assert not talk.in_mesh(b"nobody")
    assert talk.in_mesh(b"staker")
    talk.beat()
    assert len(talk.router.mesh(TOPIC)) == 6
    assert talk.in_mesh(b"staker")


def test_who_is_vouched_for_no_more_is_like_anybody() -> None:
    talk = Talk()
    for peer in talk.join_many(3):
        talk.router.set_application_score(peer, STAKED)
        talk.say(peer, PRUNE)
    for peer in (b"peer-000", b"peer-001"):
        talk.router.set_application_score(peer, 0.0)
    for peer in talk.join_many(6, "new", outbound=True):
        talk.say(peer, GRAFT)
    talk.beat(16)
    assert talk.in_mesh(b"peer-002")
    assert not talk.in_mesh(b"peer-000")


def test_meshes_follow_degrees_that_change() -> None:
    talk = Talk(GossipParameters(degrees=degrees_for(2)))
    talk.join_many(40, outbound=True)
    talk.beat(2)
    assert len(talk.router.mesh(TOPIC)) == 3
    talk.router.set_degrees(degrees_for(200))
    talk.beat()
    assert len(talk.router.mesh(TOPIC)) == 8
    talk.router.set_degrees(degrees_for(4))
    talk.beat()
    assert len(talk.router.mesh(TOPIC)) == 3
    assert talk.router.parameters.degrees == degrees_for(4)


# --- swarms


def swarm(stakers: int, sybils: int, seed: int, *, first: bool, topics: tuple[str, ...] = (TOPIC,)) -> Net:
    """Stakers on a ring with chords, and sybils that dial all of them: before the stakers link up, or after."""
    net = Net(stakers + sybils, seed, parameters=GossipParameters(degrees=degrees_for(stakers)))
    for topic in topics:
        net.subscribe(topic=topic)

    def dial() -> None:
        for sybil in range(stakers, stakers + sybils):
            for node in range(stakers):
                net.connect(sybil, node)

    if first:
        dial()
    for node in range(stakers):
        for step in (1, 2, 3):
            net.connect(node, (node + step) % stakers)
    if not first:
        dial()
    for node in range(stakers):
        for other in range(stakers):
            net.node(node).router.set_application_score(name(other), STAKED)
    return net


def staked_shares(net: Net, stakers: int, topic: str = TOPIC) -> list[float]:
    """Which share of each staker's mesh is stakers."""
    keys = {name(number) for number in range(stakers)}
    meshes = [net.node(number).router.mesh(topic) for number in range(stakers)]
    return [sum(peer in keys for peer in mesh) / max(1, len(mesh)) for mesh in meshes]


def silent(first: int, topic: str | None = None) -> Callable[[Node, Deliver], Verdict]:
    """Verdicts by which the nodes from number `first` on forward nothing, or nothing of a topic."""

    def verdict(node: Node, deliver: Deliver) -> Verdict:
        hides = node.key >= name(first) and topic in (None, deliver.message.topic)
        return Verdict.IGNORE if hides else Verdict.ACCEPT

    return verdict


@pytest.mark.slow
@pytest.mark.parametrize(("seed", "first"), [(1, True), (2, False)])
def test_twenty_sybils_to_each_staker_get_no_more_than_their_share_of_the_meshes(
    seed: int, first: bool
) -> None:
    """They are as good as can be: they bring what the stakers say, and say much themselves."""
    stakers, sybils = 10, 200
    net = swarm(stakers, sybils, seed, first=first)
    net.run(5_000)
    shares = []
    for number in range(40):
        net.publish(number % stakers, b"vote %d" % number)
        net.publish(stakers + number, b"noise %d" % number)
        net.run(1_000)
        shares += staked_shares(net, stakers)
    assert min(shares) > 0
    assert sum(share >= 0.25 for share in shares) >= 0.99 * len(shares)
    assert sum(shares) / len(shares) >= 0.5
    assert all(net.reached(b"vote %d" % number) == stakers + sybils for number in range(39))


@pytest.mark.slow
@pytest.mark.parametrize("seed", [3])
def test_sybils_that_starve_one_topic_and_shine_in_another_do_not_keep_it_from_the_stakers(seed: int) -> None:
    stakers, sybils = 10, 200
    net = swarm(stakers, sybils, seed, first=True, topics=(TOPIC, OTHER))
    net.run(5_000)
    net.verdict = silent(stakers, OTHER)
    payloads = [b"vote %d" % number for number in range(60)]
    for number, data in enumerate(payloads):
        net.publish(number % stakers, data, OTHER)
        net.publish(stakers + number, b"cover %d" % number)
        net.run(500)
    net.run(5_000)
    assert sum(staked_shares(net, stakers, OTHER)) / stakers >= 0.5
    had = sum(data in net.node(number).delivered for number in range(stakers) for data in payloads)
    assert had == stakers * len(payloads)
