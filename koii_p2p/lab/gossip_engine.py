"""The engine gossip: an attack on the gossip router that nodes run, as a scenario says it."""

from __future__ import annotations

from koii_p2p.lab.gossip_attacks import played
from koii_p2p.lab.gossip_net import NOT_YET, TOPIC, GossipNet
from koii_p2p.lab.gossip_result import DELIVERIES, MESHES, PUBLISHED, GossipResult, gossip_metrics
from koii_p2p.lab.progress import Told, nobody
from koii_p2p.lab.result import Frame, add_row, empty
from koii_p2p.lab.scenario import Scenario


def run(scenario: Scenario, seed: int, told: Told = nobody) -> GossipResult:
    """Play the attack of a scenario once. Bit-identical for (code, scenario, seed).

    Raises `CheckFailed` if the net floods itself.
    """
    net = played(scenario.attack, scenario.defence, seed, told)
    tables = tables_of(net)
    found = gossip_metrics(tables)
    wanted = tuple(one for one in found if not scenario.metrics or one.name in scenario.metrics)
    return GossipResult(scenario, seed, **tables, metrics=wanted, events=net.clock.happened)


def tables_of(net: GossipNet) -> dict[str, Frame]:
    """The tables of a net that was played."""
    published, deliveries, meshes = empty(PUBLISHED), empty(DELIVERIES), empty(MESHES)
    for number, ((author, sent), times) in enumerate(zip(net.published, net.arrivals, strict=True)):
        arrived = [
            (node, time - sent) for node, time in enumerate(times) if time != NOT_YET and node != author
        ]
        row = {"message": number, "author": author, "sent_us": sent, "due": len(times) - 1}
        add_row(published, {**row, "reached": len(arrived)})
        deliveries["message"] += [number] * len(arrived)
        deliveries["node"] += [node for node, _ in arrived]
        deliveries["latency_us"] += [latency for _, latency in arrived]
    honest = len(net.routers)
    for node, router in enumerate(net.routers):
        links = net.linked(node)
        add_row(
            meshes,
            {
                "node": node,
                "links": len(links),
                "honest_links": sum(peer < honest for peer in links),
                "mesh": len(router.mesh(TOPIC)),
                "honest_mesh": net.honest_mesh(node),
                "copies": net.copies_of[node],
            },
        )
    return {"published": published, "deliveries": deliveries, "meshes": meshes}
