"""Collections: a task's sharded database of signed documents. `docs/collections.md` has the rules and figures.

Pure: `reasons`, `definition`, `document`, `sharding`, `values`, `query`, `update`, `index_keys`, `wire`. With disk or
network: `store`, `holding`, `replication`, `reading`, `feed`, `service`, `serving`.
"""
