"""The gossip of p2psimpy (PyPI) on the network that `lab_gossip.py` gives it; run by that, with its own interpreter.

    python lab_gossip_p2psimpy.py '{"nodes": 100, "links": [[0, 1], ...], "messages": 10, ...}'

Prints one line of JSON: copies sent, deliveries, CPU seconds. Latency is drawn for each message here, evenly: the
simulator has one distribution for two places, and halves what it draws. Its `GossipService` hands every copy on, also
of what it knows, until `ttl` hops are over; that many are given that everybody is reached.
"""

# It runs where p2psimpy is installed, which is not where types are checked.
# mypy: ignore-errors

from __future__ import annotations

import json
import random
import sys
import time

import networkx as nx
from p2psimpy.config import Config, Dist, PeerType
from p2psimpy.messages import GossipMessage
from p2psimpy.network import Connection
from p2psimpy.services.connection_manager import BaseConnectionManager
from p2psimpy.services.gossip import GossipService
from p2psimpy.simulation import Simulation


def main() -> None:
    """Play, and print."""
    setting = json.loads(sys.argv[1])
    random.seed(setting["seed"])

    class Places(Config):
        locations = ["here"]
        latencies = {"here": {"here": Dist("uniform", (2 * setting["low_ms"], 2 * setting["high_ms"]))}}

    class Node(Config):
        location = "here"
        bandwidth_ul = 1e9
        bandwidth_dl = 1e9

    class Gossiping(Config):
        fanout = setting["fanout"]

    graph = nx.Graph()
    graph.add_nodes_from(range(setting["nodes"]), type="node")
    graph.add_edges_from(setting["links"])
    services = {BaseConnectionManager: None, GossipService: Gossiping}
    net = Simulation(Places, graph, {"node": PeerType(Node, services)}, random_seed=setting["seed"])
    net.run(2_000)
    sent = 0
    real_send = Connection.send

    def counted(self: Connection, msg: object, connect: bool = False) -> None:
        nonlocal sent
        sent += isinstance(msg, GossipMessage)
        real_send(self, msg, connect)

    Connection.send = counted
    began = time.process_time()
    for number in range(setting["messages"]):
        author = net.peers[setting["authors"][number % len(setting["authors"])]]
        message = GossipMessage(author, str(number), "x" * 64, setting["ttl"])
        author.gossip(message, setting["fanout"])
        author.store_value("msg_time", str(number), net.env.now)
        net.run(2_000 + 1_000 * (number + 1))
    net.run(2_000 + 1_000 * setting["messages"] + 10_000)
    took = time.process_time() - began
    delivered = sum(len(peer.storage["msg_time"]) for peer in net.peers.values())
    print(json.dumps({"copies": sent, "delivered": delivered, "cpu_s": took}))


if __name__ == "__main__":
    main()
