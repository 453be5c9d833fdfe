"""A Kademlia DHT as pure parts: messages and answers in, messages and questions out; no I/O, clock or randomness.

`node.KademliaNode` is one node for a driver, `lookup.Lookup` one search; `docs/dht.md` has the rules and limits.
"""
