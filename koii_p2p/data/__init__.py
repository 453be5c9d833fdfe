"""Task data: blobs cut into erasure-coded shards, where each shard belongs, and how a holder proves that it has one.

All modules so far are pure: no I/O, no clock, no randomness of their own. `docs/data.md` has the rules and figures.
"""
