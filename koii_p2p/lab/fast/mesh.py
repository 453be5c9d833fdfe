"""When a record reaches whom: shortest paths over a gossip mesh, for all pairs of nodes at once.

A mesh forwards a message along all its links, so that the first copy comes by the shortest path: its arrival needs no
events. Left out are the heartbeat's gossip, which is slower where a mesh is whole, and what frames wait for each other
beyond their own size. Checked against nets of real routers in `tests/lab/test_fast_mesh.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import dijkstra

from koii_p2p.gossip.parameters import Degrees
from koii_p2p.lab.clockwork import SECOND
from koii_p2p.lab.links import Links
from koii_p2p.lab.scenario import Network

MOST_NODES: Final = 20_000
"""Of which all pairs fit into 3.2 GB."""

_SOURCES_AT_A_TIME: Final = 256
_HEARTBEATS: Final = 6
"""Rounds of mesh keeping; after two nothing moves but what was cut."""

Arrivals = NDArray[np.float32]
"""Microseconds from publishing at a row's node until a column's node has it; infinite where it never comes."""


@dataclass(frozen=True, slots=True)
class Mesh:
    """Who forwards to whom. `links` and `mesh` have the neighbours of each node, both ways, sorted."""

    links: tuple[tuple[int, ...], ...]
    mesh: tuple[tuple[int, ...], ...]
    dialled: frozenset[tuple[int, int]]
    """(one, other): `one` dialled `other`."""

    @property
    def mean_degree(self) -> float:
        """Mesh peers of a node, in the mean."""
        return sum(map(len, self.mesh)) / len(self.mesh)


def formed(nodes: int, pairs: list[tuple[int, int]], degrees: Degrees, random: Random) -> Mesh:
    """The mesh that heartbeats make of links (dialler, dialled), as `gossip.upkeep` does it.

    Nodes beat one after the other. A mesh below D_lo is filled up to D, one at D_hi is cut to D; a GRAFT at D_hi is
    refused to whoever dialled us.
    Without scores, which are all alike in a net that behaves, and without back-offs.
    """
    links: list[set[int]] = [set() for _ in range(nodes)]
    for one, other in pairs:
        links[one].add(other)
        links[other].add(one)
    dialled = frozenset(pairs)
    mesh: list[set[int]] = [set() for _ in range(nodes)]
    ordered = [sorted(around) for around in links]
    for _ in range(_HEARTBEATS):
        moved = False
        for node in random.sample(range(nodes), nodes):
            ours = mesh[node]
            wants = degrees.wanted - len(ours) if len(ours) < degrees.low else 0
            outbound = sum((node, peer) in dialled for peer in ours)
            free = [peer for peer in ordered[node] if peer not in ours]
            chosen = random.sample(free, min(wants, len(free)))
            outbound += sum((node, peer) in dialled for peer in chosen)
            if outbound < degrees.outbound and len(ours) + len(chosen) >= degrees.low:
                lacking = [peer for peer in free if (node, peer) in dialled and peer not in chosen]
                chosen += random.sample(lacking, min(degrees.outbound - outbound, len(lacking)))
            for peer in chosen:
                if len(mesh[peer]) < degrees.high or (peer, node) in dialled:
                    ours.add(peer)
                    mesh[peer].add(node)
                    moved = True
            if len(ours) >= degrees.high:
                for peer in random.sample(sorted(ours), len(ours) - degrees.wanted):
                    ours.discard(peer)
                    mesh[peer].discard(node)
                moved = True
        if not moved:
            break
    return Mesh(tuple(map(tuple, ordered)), tuple(tuple(sorted(ours)) for ours in mesh), dialled)


def arrivals(
    network: Network, mesh: Mesh, seed: int, *, record_bytes: int, flood: bool, direct: bool = False
) -> Arrivals:
    """When each node's records reach each other node.

    Latencies are those of `links.Links` for the same seed; each link has one draw of jitter each way, and is left out
    with the chance of a loss. With a bandwidth, frames to the peers of a node leave one after the other, by their
    numbers. `flood`: publishers send to all their links (v1.1, "Flood Publishing"); `direct`: everybody does.
    """
    random = np.random.default_rng([seed, 0x6172726976616C])
    links = Links(network, seed)
    whole = _weights(mesh.links, links, network, record_bytes, random)
    if direct:
        return _shortest(whole)
    kept = _within(whole, mesh)
    found = _shortest(kept)
    return _flooded(found, whole) if flood else found


def _weights(
    neighbours: tuple[tuple[int, ...], ...],
    links: Links,
    network: Network,
    record_bytes: int,
    random: np.random.Generator,
) -> csr_matrix:
    """Microseconds from node to node along each link."""
    ends = np.cumsum([0, *map(len, neighbours)])
    columns = np.fromiter((peer for around in neighbours for peer in around), np.int32, count=int(ends[-1]))
    latency = np.fromiter(
        (links.latency(node, peer) for node, around in enumerate(neighbours) for peer in around),
        np.float64,
        count=int(ends[-1]),
    )
    latency *= 1 + network.jitter * random.uniform(-1, 1, len(latency))
    if network.bandwidth_kib is not None:
        rank = np.arange(len(columns)) - np.repeat(ends[:-1], np.diff(ends)) + 1
        latency += rank * record_bytes * SECOND / (network.bandwidth_kib * 1024)
    if network.loss:
        latency[random.random(len(latency)) < network.loss] = np.inf
    # scipy takes a stored zero for no link.
    return csr_matrix((np.maximum(latency, 1.0), columns, ends), shape=(len(neighbours),) * 2)


def _within(whole: csr_matrix, mesh: Mesh) -> csr_matrix:
    """The links that are in the mesh."""
    count = len(mesh.mesh)
    ends = np.cumsum([0, *map(len, mesh.mesh)])
    columns = np.fromiter((peer for ours in mesh.mesh for peer in ours), np.int32, count=int(ends[-1]))
    rows = np.repeat(np.arange(count), np.diff(ends))
    weights = np.asarray(whole[rows, columns]).ravel()
    return csr_matrix((weights, columns, ends), shape=(count, count))


def _shortest(graph: csr_matrix) -> Arrivals:
    count = graph.shape[0]
    found = np.empty((count, count), np.float32)
    for start in range(0, count, _SOURCES_AT_A_TIME):
        sources = np.arange(start, min(start + _SOURCES_AT_A_TIME, count))
        found[sources] = dijkstra(graph, indices=sources)
    return found


def _flooded(found: Arrivals, whole: csr_matrix) -> Arrivals:
    """Arrivals where the first hop goes to all links, and every other along the mesh."""
    spread = np.empty_like(found)
    for node in range(len(found)):
        around = slice(whole.indptr[node], whole.indptr[node + 1])
        first = whole.data[around].astype(np.float32)
        if len(first):
            np.min(found[whole.indices[around]] + first[:, None], axis=0, out=spread[node])
        else:
            spread[node] = np.inf
        spread[node, node] = 0.0
    return spread
