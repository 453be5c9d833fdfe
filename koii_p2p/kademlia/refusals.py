"""Whatever a node refuses or gives up, by name; each is counted in `KademliaStatistics`."""

from __future__ import annotations

from enum import Enum


class Refusal(Enum):
    """What it means; what it costs is said where it costs more than the message or entry itself."""

    MALFORMED = "malformed"
    """Not the protobuf of a message, or larger than one may be. Its stream is reset, and it counts against the peer."""
    KEY = "key"
    """A request without a key, or with one that is too long. Its stream is reset."""
    UNKNOWN_TYPE = "unknown_type"
    """A request of a type that the specification does not have. Its stream is reset."""

    NOT_SERVING = "not_serving"
    """A request while this node does not serve others. Its stream is reset."""

    NO_RECORD = "no_record"
    """PUT_VALUE without a record, or with one of another key. Its stream is reset."""
    NAMESPACE = "namespace"
    """A value under a key whose namespace this node has no rules for. Its stream is reset."""
    VALUE_SIZE = "value_size"
    """A value over `Bounds.value_bytes`. Its stream is reset."""
    INVALID_VALUE = "invalid_value"
    """A value that the rules of its namespace do not accept, unsigned ones included. Its stream is reset."""
    OLDER_VALUE = "older_value"
    """A valid value, while a newer one is held. Its stream is reset."""
    VALUES_PER_PEER = "values_per_peer"
    """A value of a peer that had us store too many. Its stream is reset."""
    VALUES_FULL = "values_full"
    """A value farther away than all that are held, while the store is full. Its stream is reset."""
    VALUE_EVICTED = "value_evicted"
    """The value farthest away, dropped for a nearer one while the store is full."""

    FOREIGN_PROVIDER = "foreign_provider"
    """ADD_PROVIDER for anybody but the peer that sends it."""
    PROVIDERS_PER_KEY = "providers_per_key"
    """A provider of a key that has too many."""
    PROVIDED_PER_PEER = "provided_per_peer"
    """A provider of too many keys."""
    PROVIDED_FULL = "provided_full"
    """A new provider record, while there are too many in all, or of a new key, while too many keys have providers."""

    CUT = "cut"
    """Peers and addresses of one message beyond their bounds, or too long, not looked at."""
    ADDRESS_GROUP = "address_group"
    """A peer that was not put into the table: too many of its address group are there."""
    OWN_ID = "own_id"
    """Ourselves, named as a closer peer. It is passed over."""
    NOT_CLOSER = "not_closer"
    """A closer peer in an answer that has named enough others that cannot be asked, or beyond what a lookup asks."""
    BAD_ANSWER = "bad_answer"
    """An answer of another type or key than the question; who gives it is passed over in this lookup."""
    BAD_VALUE = "bad_value"
    """A value in an answer that its namespace does not accept; it is passed over, and the rest of the answer too."""


class Refused(ValueError):
    """A request that gets no answer; `refusal` says why."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.value)
        self.refusal = refusal
