"""Who provides what: provider records, each said by the provider itself, once per provider and key, for a while.

Source: libp2p specifications, kad-dht, "Content provider advertisement and discovery".
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import accumulate

from koii_p2p.kademlia.parameters import KademliaParameters
from koii_p2p.kademlia.refusals import Refusal, Refused
from koii_p2p.kademlia.wire import Peer


@dataclass(slots=True)
class _Provider:
    addresses: tuple[bytes, ...]
    expires: int


class Providers:
    """The provider records a node holds for others."""

    def __init__(self, parameters: KademliaParameters) -> None:
        self._life = parameters.provider_life
        self._bounds = parameters.bounds
        self._keys: dict[bytes, dict[bytes, _Provider]] = {}
        self._by_peer: Counter[bytes] = Counter()
        self._records = 0

    def __len__(self) -> int:
        return self._records

    @property
    def keys(self) -> int:
        """How many keys have providers."""
        return len(self._keys)

    def add(self, key: bytes, provider: Peer, now: int) -> None:
        """Note a provider, or that it still is one. Raises `Refused` at a bound: who came first stays."""
        providers = self._keys.get(key)
        known = None if providers is None else providers.get(provider.id)
        addresses = self._kept(provider.addresses)
        if known is not None:
            known.addresses, known.expires = addresses, now + self._life
            return
        if self._records >= self._bounds.provider_records:
            raise Refused(Refusal.PROVIDED_FULL)
        if providers is None and len(self._keys) >= self._bounds.provided_keys:
            raise Refused(Refusal.PROVIDED_FULL)
        if self._by_peer[provider.id] >= self._bounds.provided_per_peer:
            raise Refused(Refusal.PROVIDED_PER_PEER)
        if providers is not None and len(providers) >= self._bounds.providers_per_key:
            self._expire(key, now)
            providers = self._keys.get(key)
            if providers is not None and len(providers) >= self._bounds.providers_per_key:
                raise Refused(Refusal.PROVIDERS_PER_KEY)
        self._keys.setdefault(key, {})[provider.id] = _Provider(addresses, now + self._life)
        self._by_peer[provider.id] += 1
        self._records += 1

    def _kept(self, addresses: tuple[bytes, ...]) -> tuple[bytes, ...]:
        sizes = accumulate(map(len, addresses))
        return tuple(
            one
            for one, size in zip(addresses, sizes, strict=True)
            if size <= self._bounds.provider_address_bytes
        )

    def of(self, key: bytes, now: int) -> list[Peer]:
        """Return the providers of a key."""
        return [
            Peer(peer, known.addresses)
            for peer, known in self._keys.get(key, {}).items()
            if known.expires > now
        ]

    def expire(self, now: int) -> None:
        """Forget providers that have not said it again."""
        for key in list(self._keys):
            self._expire(key, now)

    def _expire(self, key: bytes, now: int) -> None:
        providers = self._keys[key]
        for peer in [peer for peer, known in providers.items() if known.expires <= now]:
            del providers[peer]
            self._records -= 1
            self._by_peer[peer] -= 1
            if not self._by_peer[peer]:
                del self._by_peer[peer]
        if not providers:
            del self._keys[key]
