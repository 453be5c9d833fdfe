"""On which gossip topic each kind of record travels: three to a task, few and coarse (PROTOCOL 5)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from koii_p2p.records.schema import Kind

SUBMISSIONS: Final = "submissions"
AUDITS: Final = "audits"
PRESENCE: Final = "presence"
TOPICS: Final = (SUBMISSIONS, AUDITS, PRESENCE)

TOPIC_OF_KIND: Final[Mapping[Kind, str]] = {
    kind: {Kind.SUBMISSION: SUBMISSIONS, Kind.PRESENCE: PRESENCE}.get(kind, AUDITS) for kind in Kind
}
KINDS_OF_TOPIC: Final[Mapping[str, frozenset[Kind]]] = {
    topic: frozenset(kind for kind, name in TOPIC_OF_KIND.items() if name == topic) for topic in TOPICS
}


def topic_name(task: str, topic: str) -> str:
    """The name on the wire of a topic of a task (its id in base58)."""
    return f"/koii-p2p/1/{task}/{topic}"
