"""Every choice and every bound of a node, as values. Times are whole milliseconds, sizes bytes.

Names and defaults follow the libp2p specification (kad-dht, "Relationship of the DHT parameters"); where one is ours,
the reason stands beside it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

HOUR = 3_600_000


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much is taken from others, and kept."""

    message_bytes: int = 256 * 1024
    """Of one message. The specification has no bound, go takes 4 MiB; 20 peers with 16 addresses are 20 KiB."""
    key_bytes: int = 256
    value_bytes: int = 64 * 1024
    peer_id_bytes: int = 64
    address_bytes: int = 256
    addresses: int = 8
    """Of one peer in a message; what is beyond is not looked at."""
    closer_peers: int = 32
    """Of one message, as are the next; go and js send 20."""
    providers: int = 64

    group_per_bucket: int = 2
    """Peers of one address group in a bucket (go: 2)."""
    group_in_table: int = 8
    """Peers of one address group in the table; go has 3 of a /16, ours are of a /24 or /56."""
    replacements: int = 20
    """Peers that wait for a place in one bucket."""

    candidates: int = 512
    """Peers that one lookup remembers."""
    asked: int = 96
    """Peers that one lookup asks."""
    named_in_vain: int = 2
    """Peers that were asked because one peer named them and have not answered, before its other ones are passed over;
    twice as many as have answered, if that is more. With a fifth of liars it saves half of the questions."""

    values: int = 4096
    values_size: int = 32 * 1024 * 1024
    values_per_peer: int = 256
    """That one peer had us store; what it stores beyond is refused."""
    provided_keys: int = 65_536
    providers_per_key: int = 64
    provider_records: int = 65_536
    """Of all keys and peers together."""
    provider_address_bytes: int = 512
    """Of all addresses kept with one of them; what is beyond is left out."""
    provided_per_peer: int = 8192
    """Keys that one peer is a provider of here."""
    own_keys: int = 65_536
    """Keys that we provide."""


@dataclass(frozen=True, slots=True)
class KademliaParameters:
    """How a node behaves."""

    bucket_size: int = 20
    """k: peers of a bucket, and how many closest ones store a value."""
    parallel: int = 9
    """alpha: how many are asked at a time (specification: 10), over all paths of a lookup."""
    paths: int = 3
    """d: disjoint paths of a lookup (Baumgart and Mies, S/Kademlia, section 4.4; they advise 4 to 8, go and js have 1
    and 10). Each takes a third of the questions in flight."""
    hedge: int = 400
    """After so long without an answer another peer is asked as well."""
    patience: int = 3000
    """After so long a peer has failed; a dial is part of it."""
    failures: int = 2
    """After so many in a row a peer leaves the table, at once if another waits for its place."""
    quorum: int = 4
    """Answers with a valid value that end a get (go: 16; ours carry their author's signature, so that nobody can
    invent one, and one who withholds the newest has to do it on every path)."""
    value_life: int = 24 * HOUR
    """How long a value is kept that nobody stores again."""
    provider_life: int = 24 * HOUR
    """The same of a provider (specification: 48 h)."""
    repeat_own: int = 6 * HOUR
    """After so long what we store and provide is stored again (specification: 22 h)."""
    renew: int = HOUR // 6
    """A value of ours that has changed is stored not more often than this; so is what fewer than k peers took."""
    retry: int = 30_000
    """What nobody could be given is tried again after this."""
    repeat_held: int = HOUR
    """After so long without hearing of it, a held value is given to whoever is closest now (Kademlia, section 2.5)."""
    refresh: int = 600_000
    """After so long a bucket that nothing was looked up in gets a random lookup (as in go)."""
    bounds: Bounds = field(default_factory=Bounds)

    def __post_init__(self) -> None:
        if min(self.bucket_size, self.paths, self.quorum, self.failures) < 1 or self.parallel < self.paths:
            raise ValueError(f"each path asks somebody at a time, and a bucket holds somebody: {self}")
        if not 0 < self.hedge <= self.patience:
            raise ValueError(f"hedging comes before a peer has failed: {self}")
