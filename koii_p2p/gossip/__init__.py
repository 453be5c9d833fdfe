"""GossipSub v1.1 and v1.2 as a pure router: peers, RPCs and heartbeats in, RPCs and deliveries out.

`router.GossipRouter` is the whole of it for a driver; `docs/gossip.md` has the rules, parameters and costs.
"""
