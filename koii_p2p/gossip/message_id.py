"""Names of messages: ours by what they say, and those of foreign nets by who said them when."""

from __future__ import annotations

from functools import lru_cache
from hashlib import sha256
from typing import TYPE_CHECKING

from koii_p2p.gossip.wire import Message

if TYPE_CHECKING:
    from hashlib import _Hash as Hash

DOMAIN = b"koii_p2p/gossip/1"
ID_BYTES = 20


def content_id(message: Message) -> bytes:
    """Return the first 20 bytes of SHA-256 over domain, topic and payload (PROTOCOL section 10).

    Domain and topic are preceded by their lengths in two bytes, so that no two triples have the same bytes. A record
    has one id whoever sends it, and cannot travel under many.
    """
    digest = _begun(message.topic).copy()
    digest.update(message.data)
    return digest.digest()[:ID_BYTES]


@lru_cache(maxsize=256)
def _begun(topic: str) -> Hash:
    name = topic.encode()
    return sha256(b"%b%b%b%b" % (len(DOMAIN).to_bytes(2, "big"), DOMAIN, len(name).to_bytes(2, "big"), name))


def author_id(message: Message) -> bytes:
    """Return author and sequence number, the default of libp2p (pubsub README, "Message Identification")."""
    return (message.author or b"") + (message.seqno or b"")
