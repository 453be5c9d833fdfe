"""The pubsub RPC in protobuf: a strict, bounded reader and a writer, by hand.

The schema is that of the libp2p specifications (pubsub README "The RPC" and "The Message"; gossipsub v1.0, v1.1 and
v1.2 "Protobuf"). A reader of our own rather than the `protobuf` package, which builds every entry of an RPC before
anybody can count them (a megabyte of empty IHAVE entries becomes half a million objects), takes wrong wire types for
unknown fields and the last of two values for the value. `docs/gossip.md` has what each costs.

Unknown fields are skipped. Lists are cut at their bounds before anything is built for what is beyond them; messages
are left undecoded, for most are copies of bytes that are known.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum

from koii_p2p.gossip.parameters import Bounds
from koii_p2p.gossip.refusals import Refusal

VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5
SIGNING_PREFIX = b"libp2p-pubsub:"
"""Before the bytes that an author signs (pubsub README, "Message Signing")."""


class WireFault(Enum):
    """Why bytes are not what they should be."""

    TRUNCATED = "truncated"
    """A value is longer than what there is of it."""
    VARINT = "varint"
    """A varint of more than 64 bits."""
    FIELD_NUMBER = "field_number"
    """Field number 0, or above 2^29 - 1."""
    WIRE_TYPE = "wire_type"
    """A group, an unknown wire type, or a known field of another type."""
    TEXT = "text"
    """A topic that is not UTF-8."""
    REPEATED = "repeated"
    """A second value where there is one."""
    NO_TOPIC = "no_topic"
    """A message or control entry without a topic."""
    TOO_LARGE = "too_large"
    """An RPC over its bound."""


class WireError(ValueError):
    """Bytes that are no RPC, or no message."""

    def __init__(self, fault: WireFault) -> None:
        super().__init__(fault.value)
        self.fault = fault


@dataclass(frozen=True, slots=True)
class Message:
    """A message. The author fields are None where they are absent; `data` is empty where it is absent."""

    topic: str
    data: bytes
    author: bytes | None = None
    """`from`: the peer id of whoever published it, which need not be the peer that sent it."""
    seqno: bytes | None = None
    signature: bytes | None = None
    key: bytes | None = None


@dataclass(frozen=True, slots=True)
class Prune:
    """PRUNE of one topic: for how many seconds not to graft (None: not said), and (peer id, signed record) pairs."""

    topic: str
    back_off: int | None = None
    peers: tuple[tuple[bytes, bytes], ...] = ()


@dataclass(slots=True)
class Control:
    """Control entries of one RPC, in order of arrival."""

    ihave: list[tuple[str, list[bytes]]] = field(default_factory=list)
    iwant: list[list[bytes]] = field(default_factory=list)
    graft: list[str] = field(default_factory=list)
    prune: list[Prune] = field(default_factory=list)
    idontwant: list[list[bytes]] = field(default_factory=list)


@dataclass(slots=True)
class Rpc:
    """One RPC as read. `messages` are encoded (`decode_message`); `cut` counts what was over a bound."""

    subscriptions: list[tuple[bool, str]] = field(default_factory=list)
    messages: list[bytes] = field(default_factory=list)
    control: Control | None = None
    cut: dict[Refusal, int] = field(default_factory=dict)


# --- reading


def decode_rpc(data: bytes, bounds: Bounds) -> Rpc:
    """Read an RPC without its length prefix. Raises WireError, also for more than `Bounds.rpc_bytes`."""
    if len(data) > bounds.rpc_bytes:
        raise WireError(WireFault.TOO_LARGE)
    rpc = Rpc()
    messages = 0
    for number, value in _fields(data):
        if number == 2:
            messages += 1
            if messages <= bounds.messages_per_rpc:
                rpc.messages.append(_bytes(value))
        elif number == 1:
            if len(rpc.subscriptions) < bounds.subscriptions_per_rpc:
                rpc.subscriptions.append(_subscription(_bytes(value)))
            else:
                _cut(rpc, Refusal.SUBSCRIPTIONS_PER_RPC)
        elif number == 3:
            rpc.control = rpc.control or Control()
            _control(_bytes(value), rpc.control, rpc, bounds)
    if messages > bounds.messages_per_rpc:
        _cut(rpc, Refusal.MESSAGES_PER_RPC, messages - bounds.messages_per_rpc)
    return rpc


def sole_message(data: bytes) -> bytes | None:
    """Return the encoded message that is all of an RPC; None for an RPC of anything else, which `decode_rpc` reads."""
    if len(data) < 3 or data[0] != 2 << 3 | LENGTH:
        return None
    length, start = data[1], 2
    if length >= 0x80:
        if data[2] >= 0x80:
            return None
        length, start = length & 0x7F | data[2] << 7, 3
    return data[start:] if start + length == len(data) else None


def decode_message(data: bytes) -> Message:
    """Read one message. Raises WireError, also where it has more or fewer than one topic."""
    values: list[bytes | None] = [None] * 7
    for number, value in _fields(data):
        if 1 <= number <= 6:
            if values[number] is not None:
                raise WireError(WireFault.REPEATED)
            values[number] = _bytes(value)
    topic = values[4]
    if topic is None:
        raise WireError(WireFault.NO_TOPIC)
    return Message(_text(topic), values[2] or b"", values[1], values[3], values[5], values[6])


def _subscription(data: bytes) -> tuple[bool, str]:
    subscribe, topic = False, None
    for number, value in _fields(data):
        if number == 1:
            subscribe = bool(_integer(value))
        elif number == 2:
            topic = _once(topic, value)
    return subscribe, _named(topic)


def _control(data: bytes, control: Control, rpc: Rpc, bounds: Bounds) -> None:
    most = bounds.control_entries
    for number, value in _fields(data):
        if number == 3:
            if len(control.graft) < most:
                control.graft.append(_named(_topic_of(_bytes(value))))
                continue
        elif number == 1:
            if len(control.ihave) < most:
                control.ihave.append(_ihave(_bytes(value), rpc, bounds))
                continue
        elif number == 2:
            if len(control.iwant) < most:
                control.iwant.append(_ids(_bytes(value), bounds.iwant_ids, Refusal.IWANT_IDS, rpc))
                continue
        elif number == 4:
            if len(control.prune) < most:
                control.prune.append(_prune(_bytes(value), rpc, bounds))
                continue
        elif number == 5:
            if len(control.idontwant) < most:
                control.idontwant.append(
                    _ids(_bytes(value), bounds.idontwant_ids, Refusal.IDONTWANT_IDS, rpc)
                )
                continue
        else:
            continue
        _cut(rpc, Refusal.CONTROL_ENTRIES)


def _ihave(data: bytes, rpc: Rpc, bounds: Bounds) -> tuple[str, list[bytes]]:
    topics, position = _run(data, 0, 1 << 3 | LENGTH, 1)
    ids, position = _run(data, position, 2 << 3 | LENGTH, bounds.ihave_ids)
    for number, value in _fields(data, position):
        if number == 1:
            topics.append(_bytes(value))
        elif number == 2:
            _append(ids, _bytes(value), bounds.ihave_ids, Refusal.IHAVE_IDS, rpc)
    if len(topics) > 1:
        raise WireError(WireFault.REPEATED)
    return _named(topics[0] if topics else None), ids


def _ids(data: bytes, most: int, beyond: Refusal, rpc: Rpc) -> list[bytes]:
    ids, position = _run(data, 0, 1 << 3 | LENGTH, most)
    for number, value in _fields(data, position):
        if number == 1:
            _append(ids, _bytes(value), most, beyond, rpc)
    return ids


def _append(ids: list[bytes], message_id: bytes, most: int, beyond: Refusal, rpc: Rpc) -> None:
    if len(ids) < most:
        ids.append(message_id)
    else:
        _cut(rpc, beyond)


def _prune(data: bytes, rpc: Rpc, bounds: Bounds) -> Prune:
    topic, back_off = None, None
    peers: list[tuple[bytes, bytes]] = []
    for number, value in _fields(data):
        if number == 1:
            topic = _once(topic, value)
        elif number == 2:
            if len(peers) < bounds.px_peers:
                peers.append(_peer_info(_bytes(value)))
            else:
                _cut(rpc, Refusal.PX_PEERS)
        elif number == 3:
            if back_off is not None:
                raise WireError(WireFault.REPEATED)
            back_off = _integer(value)
    return Prune(_named(topic), back_off, tuple(peers))


def _peer_info(data: bytes) -> tuple[bytes, bytes]:
    peer, record = None, None
    for number, value in _fields(data):
        if number == 1:
            peer = _once(peer, value)
        elif number == 2:
            record = _once(record, value)
    return peer or b"", record or b""


def _topic_of(data: bytes) -> bytes | None:
    topic = None
    for number, value in _fields(data):
        if number == 1:
            topic = _once(topic, value)
    return topic


def _cut(rpc: Rpc, what: Refusal, count: int = 1) -> None:
    rpc.cut[what] = rpc.cut.get(what, 0) + count


def _bytes(value: bytes | int) -> bytes:
    if isinstance(value, int):
        raise WireError(WireFault.WIRE_TYPE)
    return value


def _integer(value: bytes | int) -> int:
    if not isinstance(value, int):
        raise WireError(WireFault.WIRE_TYPE)
    return value


def _once(known: bytes | None, value: bytes | int) -> bytes:
    if known is not None:
        raise WireError(WireFault.REPEATED)
    return _bytes(value)


def _named(topic: bytes | None) -> str:
    if topic is None:
        raise WireError(WireFault.NO_TOPIC)
    return _text(topic)


def _text(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise WireError(WireFault.TEXT) from None


def _run(data: bytes, position: int, tag: int, most: int) -> tuple[list[bytes], int]:
    """Read up to `most` fields of one tag and below 128 bytes in a row; return them and where the rest begins.

    Lists of ids are long and written in just this way; whatever else there is, `_fields` reads.
    """
    values: list[bytes] = []
    end = len(data)
    while position + 1 < end and data[position] == tag and len(values) < most:
        length = data[position + 1]
        stop = position + 2 + length
        if length >= 0x80 or stop > end:
            break
        values.append(data[position + 2 : stop])
        position = stop
    return values, position


def _fields(data: bytes, position: int = 0) -> Iterator[tuple[int, bytes | int]]:
    """Yield (field number, value) for each field; fixed-width values, which no known field has, are not yielded."""
    end = len(data)
    while position < end:
        tag = data[position]
        position += 1
        if tag >= 0x80:
            tag, position = _varint(data, position - 1)
            if tag >> 3 > 0x1FFFFFFF:
                raise WireError(WireFault.FIELD_NUMBER)
        number, kind = tag >> 3, tag & 7
        if not number:
            raise WireError(WireFault.FIELD_NUMBER)
        if kind in (LENGTH, VARINT):
            value = data[position] if position < end else 0x80
            if value < 0x80:
                position += 1
            else:
                value, position = _varint(data, position)
            if kind == VARINT:
                yield number, value
                continue
            stop = position + value
            if stop > end:
                raise WireError(WireFault.TRUNCATED)
            yield number, data[position:stop]
            position = stop
        elif kind in (FIXED32, FIXED64):
            position += 4 if kind == FIXED32 else 8
            if position > end:
                raise WireError(WireFault.TRUNCATED)
        else:
            raise WireError(WireFault.WIRE_TYPE)


def _varint(data: bytes, position: int) -> tuple[int, int]:
    """Return the varint at a position and where it ends. Raises WireError."""
    if position + 1 < len(data) and data[position + 1] < 0x80 <= data[position]:
        return data[position] & 0x7F | data[position + 1] << 7, position + 2
    value = shift = 0
    for index in range(position, min(position + 10, len(data))):
        byte = data[index]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if value >> 64:
                raise WireError(WireFault.VARINT)
            return value, index + 1
        shift += 7
    raise WireError(WireFault.VARINT if position + 10 <= len(data) else WireFault.TRUNCATED)


# --- writing


def varint(value: int) -> bytes:
    """Encode an integer of 0 or more."""
    if value < 0x80:
        return bytes((value,))
    if value < 0x4000:
        return bytes((value & 0x7F | 0x80, value >> 7))
    encoded = bytearray()
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def part(number: int, value: bytes) -> bytes:
    """Encode a field of bytes; concatenated fields are a protobuf message."""
    return b"%c%b%b" % (number << 3 | LENGTH, varint(len(value)), value)


def frame(rpc: bytes) -> bytes:
    """Return an RPC with its length before it, as it travels on a stream (pubsub README, "The RPC")."""
    return varint(len(rpc)) + rpc


def unframed(framed: bytes) -> bytes:
    """Return the RPC in one whole frame. Raises WireError where the length is another."""
    length, start = _varint(framed, 0)
    if start + length != len(framed):
        raise WireError(WireFault.TRUNCATED)
    return framed[start:]


def encode_message(message: Message) -> bytes:
    """Encode a message with its fields in the order of their numbers, absent and empty data left out."""
    data = part(2, message.data) if message.data else b""
    topic = part(4, message.topic.encode())
    if message.author is message.seqno is message.signature is message.key is None:
        return data + topic
    author, seqno = _optional(1, message.author), _optional(3, message.seqno)
    return author + data + seqno + topic + _optional(5, message.signature) + _optional(6, message.key)


def _optional(number: int, value: bytes | None) -> bytes:
    return b"" if value is None else part(number, value)


def signed_bytes(message: Message) -> bytes:
    """Return what the author of a message signs: the message without signature and key, after a prefix."""
    bare = Message(message.topic, message.data, message.author, message.seqno)
    return SIGNING_PREFIX + encode_message(bare)


def subscription(topic: str, subscribe: bool) -> bytes:
    """Encode a subscription, as a field of an RPC."""
    return part(1, bytes((VARINT | 1 << 3, subscribe)) + part(2, topic.encode()))


def message_part(encoded: bytes) -> bytes:
    """Make an encoded message a field of an RPC."""
    return part(2, encoded)


def control_part(entries: bytes) -> bytes:
    """Make encoded control entries the control field of an RPC."""
    return part(3, entries)


def graft_entry(topic: str) -> bytes:
    """Encode GRAFT."""
    return part(3, part(1, topic.encode()))


def prune_entry(prune: Prune) -> bytes:
    """Encode PRUNE, with back-off and peers where there are any."""
    peers = (part(2, part(1, peer) + (part(2, record) if record else b"")) for peer, record in prune.peers)
    back_off = b"" if prune.back_off is None else bytes((VARINT | 3 << 3,)) + varint(prune.back_off)
    return part(4, part(1, prune.topic.encode()) + b"".join(peers) + back_off)


def ihave_entry(topic: str, ids: list[bytes]) -> bytes:
    """Encode IHAVE of one topic."""
    return part(1, part(1, topic.encode()) + b"".join([part(2, message_id) for message_id in ids]))


def iwant_entry(ids: list[bytes]) -> bytes:
    """Encode IWANT."""
    return part(2, b"".join([part(1, message_id) for message_id in ids]))


def idontwant_entry(ids: list[bytes]) -> bytes:
    """Encode IDONTWANT."""
    return part(5, b"".join([part(1, message_id) for message_id in ids]))
