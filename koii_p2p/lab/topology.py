"""Who dials whom: a ring, so that the net is whole, and dials at random beyond it; meshes, and the shortest ways."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping, Sequence
from random import Random

from koii_p2p.gossip.parameters import Degrees, degrees_for


def random_dials(nodes: int, degree: int, random_source: Random) -> list[tuple[int, int]]:
    """(dialler, dialled) of every link; each node dials its successor and others at random, `degree` in all.

    Two nodes have one link at most; whoever dials a node that has dialled it already dials nobody else for it, so that
    there are a few less than `nodes` times `degree`. In a net as small as `degree` everybody is linked to everybody.
    """
    linked: set[tuple[int, int]] = set()
    dials: list[tuple[int, int]] = []

    def dial(one: int, other: int) -> None:
        pair = (min(one, other), max(one, other))
        if one != other and pair not in linked:
            linked.add(pair)
            dials.append((one, other))

    for one in range(nodes):
        dial(one, (one + 1) % nodes)
        if degree >= nodes - 1:
            others: Sequence[int] = range(nodes)
        else:
            others = random_source.sample(range(nodes), degree - 1)
        for other in others:
            dial(one, other)
    return dials


def shortest_ways(
    start: int, linked: Mapping[int, Sequence[int]], latency: Callable[[int, int], int]
) -> dict[int, tuple[int, int]]:
    """(time, node before it on the way) by node, of the quickest way from `start` to all that can be reached.

    Dijkstra's algorithm over links of these latencies; ties go to the smaller node number.
    """
    found: dict[int, tuple[int, int]] = {}
    waiting = [(0, start, start)]
    while waiting:
        time, node, before = heapq.heappop(waiting)
        if node in found:
            continue
        found[node] = time, before
        for other in linked.get(node, ()):
            if other not in found:
                heapq.heappush(waiting, (time + latency(node, other), other, node))
    return found


def degrees_of(mesh_degree: int, nodes: int) -> Degrees:
    """The degrees of a mesh of this D; 0 goes by the number of nodes, as nodes do."""
    if not mesh_degree:
        return degrees_for(nodes)
    outbound = min(2, max(0, mesh_degree - 2), mesh_degree // 2)
    return Degrees(
        wanted=mesh_degree,
        low=mesh_degree - 1,
        high=2 * mesh_degree,
        score=2 * mesh_degree // 3,
        outbound=outbound,
        vouched=min((mesh_degree + 1) // 2, mesh_degree - outbound),
    )
