"""Task data: blobs cut into erasure-coded shards, where each shard belongs, and how a holder proves that it has one.

What shards are and where they belong is pure (`blob`, `manifest`, `erasure`, `placement`, `challenge` and what these
need): no I/O, no clock, no randomness of their own. `service` is what a node has of the room; it puts, fetches, serves,
audits and repairs over `koii_p2p.network` and `koii_p2p.storage`. `docs/data.md` has the rules and figures.
"""
