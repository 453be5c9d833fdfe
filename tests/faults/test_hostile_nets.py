"""Nets in which many are hostile: cases 14 to 17, and records that gossip loses.

`docs/network-cases.md` lists the cases. All networks are real and on loopback; where it takes hundreds of nodes or
minutes of time, the same router runs in virtual time.
"""

from __future__ import annotations

import random
from dataclasses import replace
from functools import partial

import pytest
import trio

from koii_p2p.gossip.parameters import GossipParameters, degrees_for
from koii_p2p.network.gossip import GossipVerdict
from koii_p2p.node.checkup import Level, running_node
from koii_p2p.node.views import coverage_view
from koii_p2p.rounds.admission import Source
from tests.faults.parties import Party, about, everything, party
from tests.faults.victim import CALM
from tests.gossip.net import Net as VirtualNet
from tests.gossip.net import name
from tests.gossip.test_net import dropped_by, publish_many, share, surround
from tests.network.nets import TOPIC, Node, net
from tests.network.nets import until as until_within
from tests.node.peers import BALLOTS, PLAYED, ROUND, SUBMISSIONS
from tests.rounds.net import TERMS, secret

MANY = replace(CALM, connections_per_private_range=4096, pending_inbound=512)


until = partial(until_within, seconds=60)


def ignore(_key: bytes, _data: bytes) -> GossipVerdict:
    return GossipVerdict.IGNORE


def mesh_of(node: Node) -> set[bytes]:
    gossip = node.network._gossip
    assert gossip is not None
    return {peer.key for peer in gossip._peers.values() if peer.peer_id in gossip._router.mesh(TOPIC)}


@pytest.mark.slow
async def test_case_14_a_cold_boot_among_twenty_times_as_many_sybils_delivers_99_percent() -> None:
    """14: four nodes start among eighty that dial all of them and forward nothing: 99 % of what they say arrives."""
    async with net() as running:
        honest = [await running.add(1, limits=MANY, dht="off", max_peers=200)]

        async def swarm(first: int) -> None:
            for seed in range(first, first + 20):
                both = tuple(node.address for node in random.Random(seed).sample(honest, min(2, len(honest))))
                await running.add(seed, bootstrap=both, limits=MANY, dht="off", judge=ignore, target_peers=2)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(swarm, 1000)  # the first node has twenty of them before it has one honest peer
        for seed in (2, 3, 4):
            honest.append(
                await running.add(
                    seed,
                    bootstrap=tuple(one.address for one in honest),
                    limits=MANY,
                    dht="off",
                    max_peers=200,
                    target_peers=3,
                )
            )
            await swarm(1000 * seed)
        sybils = {node.key for node in running.nodes} - {node.key for node in honest}
        assert len(sybils) == 20 * len(honest)
        said = [b"record %d of %d" % (number, place) for number in range(25) for place in range(4)]
        for number, data in enumerate(said):
            await honest[number % 4].network.publish(TOPIC, data)
            await trio.sleep(0.02)

        def delivered() -> float:
            had = sum(len(set(node.received) & set(said)) for node in honest)
            return had / (len(said) * (len(honest) - 1))

        await until(lambda: delivered() >= 0.99)
        surrounded = [node for node in honest if len(node.peers() & sybils) >= 20]
        assert len(surrounded) >= 3
        gossip = [node.network.statistics().gossip for node in honest]
        assert all(one is not None and one.topics[0].mesh >= 1 for one in gossip)


@pytest.mark.parametrize("seed", range(2))
def test_case_14_the_router_alone_among_hundreds_of_sybils(seed: int) -> None:
    """14: ten honest routers among 200 that dial all of them and drop everything, in virtual time."""
    honest, sybils = 10, 200
    virtual = VirtualNet(honest + sybils, seed, parameters=GossipParameters(degrees=degrees_for(64)))
    virtual.verdict = dropped_by(range(honest, honest + sybils))
    virtual.subscribe()
    surround(virtual, honest, sybils, links=3)
    virtual.run(3_000)
    payloads = [b"vote-%02d" % number for number in range(20)]
    for number, data in enumerate(payloads):
        virtual.publish(number % honest, data)
        virtual.run(300)
    virtual.run(5_000)
    assert share(virtual, payloads, honest) >= 0.99


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_case_15_a_covert_flash_costs_a_percent_and_meshes_recover_in_two_minutes(seed: int) -> None:
    """15: forty that behaved for two minutes and hold the meshes fall silent. In the two that follow 99 % arrives.

    After them nine nodes in ten have honest peers in their meshes. One that has not lives on what its neighbours
    publish to all and on IHAVE: nothing but silence tells such a mesh from that of a quiet net.
    """
    honest, sybils = 10, 40
    virtual = VirtualNet(honest + sybils, seed, parameters=GossipParameters(degrees=degrees_for(50)))
    surround(virtual, honest, sybils, links=2)
    virtual.subscribe()
    virtual.run(5_000)
    publish_many(virtual, 120, 1_000)
    virtual.verdict = dropped_by(range(honest, honest + sybils))
    flash = [b"flash-%03d" % number for number in range(120)]
    for number, data in enumerate(flash):
        virtual.publish(number % honest, data)
        virtual.run(1_000)
    keys = {name(number) for number in range(honest)}
    in_mesh = [keys & set(virtual.node(number).router.mesh(TOPIC)) for number in range(honest)]
    assert sum(map(bool, in_mesh)) >= 9
    virtual.run(3_000)
    minutes = [share(virtual, flash[start : start + 60], honest) for start in (0, 60)]
    assert min(minutes) >= 0.99


async def test_case_16_an_eclipsed_node_says_so_and_one_honest_peer_is_enough_to_recover() -> None:
    """16: whose every peer keeps all records from it finds its expected voters unheard, and `doctor` says so."""
    async with net() as running:
        speaker = await party(running, 1)
        for record in (*SUBMISSIONS, *BALLOTS):
            speaker.engine.receive(record.raw, Source.SYNC)
        liars = [await party(running, index, peers=[speaker], drops=everything) for index in range(2, 6)]
        victim = await party(running, 0, peers=liars)
        await until(lambda: len(victim.node.network.peers()) == len(liars))
        await speaker.say(PLAYED.ballots[speaker.key], *BALLOTS)
        await until(lambda: all(liar.dropped for liar in liars))
        over = TERMS.clock.audit(ROUND).closes
        for slot in range(victim.engine.slot, over + 1):
            await victim.slot(slot)
        assert victim.reconciled >= 3
        assert not victim.has(BALLOTS[:1])
        assert eclipse_of(victim) == [Level.WARNING]
        # One peer that the operator trusts, as the finding says, and it is whole again at the next reconciliation.
        await running.add(999)
        victim.node.network.learn(speaker.node.key, [speaker.node.address.partition("/p2p/")[0]])
        await victim.node.network.request(speaker.node.key, "/koii-p2p/echo/1", b"here")
        for _ in range(20):
            await victim.reconcile()
            if victim.has(BALLOTS):
                break
        assert victim.has([*SUBMISSIONS, *BALLOTS])
        assert eclipse_of(victim) == []


def eclipse_of(victim: Party) -> list[Level]:
    """What `doctor` finds of a node that is otherwise well."""
    heard = coverage_view(victim.engine.coverage())
    assert heard is not None
    task = {"task": "T", "heard": heard, "actions": {"last_failures": {}}, "worker": {"running": True}}
    status = {
        "slot": {"trusted": True, "slot": victim.engine.slot, "slot_seconds": 0.4},
        "network": {"peers": len(victim.node.network.peers())},
        "supervisor": {"restarts": {}, "last_errors": {}},
        "tasks": [task],
        "closed_tasks": [],
    }
    return [one.level for one in running_node(status) if one.check == "eclipse"]


async def test_case_16_sybils_that_dial_a_node_leave_room_for_whom_it_dialled() -> None:
    """16: thirty inbound sybils cannot fill the mesh: peers that the node dialled itself stay in it."""
    async with net() as running:
        friends = [await running.add(seed, limits=MANY, dht="off") for seed in (2, 3)]
        victim = await running.add(1, limits=MANY, dht="off", max_peers=128)
        for seed in range(100, 130):
            await running.add(
                seed, bootstrap=(victim.address,), limits=MANY, dht="off", judge=ignore, target_peers=1
            )
        await until(lambda: len(mesh_of(victim)) >= 3)
        for friend in friends:
            victim.network.learn(friend.key, [friend.address.partition("/p2p/")[0]])
            await victim.network.request(friend.key, "/koii-p2p/echo/1", b"here")
        await until(lambda: all(victim.knows(friend) for friend in friends))
        await until(lambda: bool(mesh_of(victim) & {friend.key for friend in friends}))
        await friends[0].network.publish(TOPIC, b"from a friend")
        await until(lambda: b"from a friend" in victim.received)


async def test_case_17_a_censored_author_is_heard_by_flood_publish_and_reconciliation() -> None:
    """17: three in four peers drop what one author says. Its own neighbours hear it at once; the rest when they ask."""
    author_key = BALLOTS[0].author
    index = next(number for number in range(9) if secret(number).public_key == author_key)
    others = [number for number in range(9) if number != index]
    censor = partial(party, drops=about(author_key))
    async with net() as running:
        author = await party(running, index)
        honest = await party(running, others[0], peers=[author])
        censors = [await censor(running, number, peers=[author]) for number in others[1:4]]
        far = await party(running, others[4], peers=censors)
        for one in (author, honest, *censors, far):
            for record in SUBMISSIONS:
                one.engine.receive(record.raw, Source.SYNC)
        await until(lambda: all(author.node.knows(one.node) for one in (honest, *censors)))
        await until(lambda: len(far.node.network.peers()) == 3)
        await author.say(BALLOTS[0])
        await until(lambda: honest.has(BALLOTS[:1]))
        await until(lambda: all(one.dropped for one in censors))
        await trio.sleep(1)  # five heartbeats: gossip has nothing more to say of it
        assert not far.has(BALLOTS[:1])
        far.node.network.learn(honest.node.key, [honest.node.address.partition("/p2p/")[0]])
        await far.node.network.request(honest.node.key, "/koii-p2p/echo/1", b"here")
        for _ in range(20):  # three of its four peers at a time
            await far.reconcile()
            if far.has(BALLOTS[:1]):
                break
        assert far.has(BALLOTS[:1])


@pytest.mark.parametrize("seed", range(2))
async def test_a_burst_of_everybody_over_lossy_gossip_leaves_everybody_with_every_record(seed: int) -> None:
    """All nine stakers hand in and vote in one instant, queues hold two messages, half is dropped: nothing is lost."""
    draw = random.Random(seed)
    limits = replace(CALM, gossip_queue=2, gossip_queue_bytes=2048, publish_pace=1, publish_patience=0.05)
    instant = TERMS.clock.submission(ROUND).closes - 1  # votes come a slot early, and are put aside
    everybody = [*SUBMISSIONS, *BALLOTS]
    async with net() as running:
        stakers: list[Party] = []
        for index in range(9):
            some = draw.sample(stakers, min(3, len(stakers)))
            stakers.append(
                await party(
                    running,
                    index,
                    peers=some,
                    drops=lambda data: draw.random() < 0.5,
                    limits=limits,
                    slot=instant,
                )
            )
        await until(lambda: all(len(one.node.network.peers()) >= 3 for one in stakers))
        async with trio.open_nursery() as nursery:
            for one in stakers:
                own = [record for record in everybody if record.author == one.key]
                nursery.start_soon(one.say, *own)
        await until(lambda: sum(one.dropped for one in stakers) > 20)
        assert not any(one.has(everybody) for one in stakers)  # gossip alone has lost some of it everywhere
        for slot in range(instant + 1, TERMS.clock.commitment(ROUND).opens + 1):
            async with trio.open_nursery() as nursery:
                for one in stakers:
                    nursery.start_soon(one.slot, slot)
        assert all(one.has(everybody) for one in stakers)
        assert all(3 <= one.reconciled <= 13 for one in stakers)
