"""The DHT's messages in protobuf: a strict, bounded reader and a writer, by hand.

The schema is that of the libp2p specifications (kad-dht, "RPC messages"), with the field `ttl` of rust-libp2p
(protocols/kad/src/generated/dht.proto), which others skip. It is read by hand for the reasons in `docs/gossip.md`:
lists are cut at their bounds before anything is built for what is beyond them, and wrong wire types are refused. The
gossip router's reader, whose schema and hot paths are others, stands alone as this one does.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

from koii_p2p.kademlia.parameters import Bounds
from koii_p2p.kademlia.refusals import Refusal, Refused

_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
_TTL = 777


class MessageType(IntEnum):
    """What a message is for."""

    PUT_VALUE = 0
    GET_VALUE = 1
    ADD_PROVIDER = 2
    GET_PROVIDERS = 3
    FIND_NODE = 4
    PING = 5


_TYPES = {int(one): one for one in MessageType}


@dataclass(frozen=True, slots=True)
class Peer:
    """A peer as messages name it: the bytes of its id and of its multiaddrs."""

    id: bytes
    addresses: tuple[bytes, ...] = ()
    connection: int = 0
    """How the sender stands with it: 0 not connected, 1 connected, 2 and 3 could and could not connect."""


@dataclass(frozen=True, slots=True)
class Record:
    """A value under its key."""

    key: bytes
    value: bytes
    received: str = ""
    """When the sender got it, as RFC 3339; a hint."""
    life: int = 0
    """Seconds that it has left; 0: not said."""


@dataclass(frozen=True, slots=True)
class Message:
    """A request or an answer."""

    type: MessageType
    key: bytes = b""
    record: Record | None = None
    closer: tuple[Peer, ...] = ()
    providers: tuple[Peer, ...] = ()
    cut: int = 0
    """How many peers and addresses were over a bound; never sent."""


# --- reading


def decode(data: bytes, bounds: Bounds) -> Message:
    """Read a message without its length prefix. Raises `Refused` (MALFORMED, UNKNOWN_TYPE)."""
    if len(data) > bounds.message_bytes:
        raise _malformed()
    kind = 0
    key: bytes | None = None
    record: Record | None = None
    closer: list[Peer] = []
    providers: list[Peer] = []
    cut = 0
    for number, value in _fields(data):
        if number in (8, 9):
            peers, most = (closer, bounds.closer_peers) if number == 8 else (providers, bounds.providers)
            if len(peers) >= most:
                cut += 1
                continue
            peer, over = _peer(_bytes(value), bounds)
            cut += over
            if peer is not None:
                peers.append(peer)
        elif number == 1:
            kind = _integer(value)
        elif number == 2:
            if key is not None:
                raise _malformed()
            key = _bytes(value)
        elif number == 3:
            if record is not None:
                raise _malformed()
            record = _record(_bytes(value))
    if kind not in _TYPES:
        raise Refused(Refusal.UNKNOWN_TYPE)
    return Message(_TYPES[kind], key or b"", record, tuple(closer), tuple(providers), cut)


def _peer(data: bytes, bounds: Bounds) -> tuple[Peer | None, int]:
    """Read a peer; return it, unless its id is over a bound, and how much was left out."""
    found = b""
    addresses: list[bytes] = []
    connection = cut = 0
    for number, value in _fields(data):
        if number == 2:
            address = _bytes(value)
            if len(addresses) < bounds.addresses and len(address) <= bounds.address_bytes:
                addresses.append(address)
            else:
                cut += 1
        elif number == 1:
            found = _bytes(value)
        elif number == 3:
            connection = _integer(value)
    if not 0 < len(found) <= bounds.peer_id_bytes:
        return None, cut + 1
    return Peer(found, tuple(addresses), connection if 0 <= connection <= 3 else 0), cut


def _record(data: bytes) -> Record:
    key = value = b""
    received, life = "", 0
    for number, content in _fields(data):
        if number == 1:
            key = _bytes(content)
        elif number == 2:
            value = _bytes(content)
        elif number == 5:
            received = _text(_bytes(content))
        elif number == _TTL:
            life = _integer(content)
    return Record(key, value, received, life)


def _bytes(value: bytes | int) -> bytes:
    if isinstance(value, int):
        raise _malformed()
    return value


def _integer(value: bytes | int) -> int:
    if not isinstance(value, int):
        raise _malformed()
    return value


def _text(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise _malformed() from None


def _fields(data: bytes) -> Iterator[tuple[int, bytes | int]]:
    """Yield (field number, value) for each field; fixed-width values, which no known field has, are not yielded."""
    position, end = 0, len(data)
    while position < end:
        tag = data[position]
        position += 1
        if tag >= 0x80:
            tag, position = _varint(data, position - 1)
        number, kind = tag >> 3, tag & 7
        if not 0 < number <= 0x1FFFFFFF:
            raise _malformed()
        if kind in (_LENGTH, _VARINT):
            value = data[position] if position < end else 0x80
            if value < 0x80:
                position += 1
            else:
                value, position = _varint(data, position)
            if kind == _VARINT:
                yield number, value
                continue
            stop = position + value
            if stop > end:
                raise _malformed()
            yield number, data[position:stop]
            position = stop
        elif kind in (_FIXED32, _FIXED64):
            position += 4 if kind == _FIXED32 else 8
            if position > end:
                raise _malformed()
        else:
            raise _malformed()


def _varint(data: bytes, position: int) -> tuple[int, int]:
    """Return the varint at a position and where it ends."""
    value = shift = 0
    for index in range(position, min(position + 10, len(data))):
        byte = data[index]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if value >> 64:
                break
            return value, index + 1
        shift += 7
    raise _malformed()


def _malformed() -> Refused:
    return Refused(Refusal.MALFORMED)


# --- writing


def encode(message: Message) -> bytes:
    """Encode a message, without a length before it; absent fields and zeros are left out, as proto3 has it."""
    out = bytearray()
    if message.type:
        out += bytes((1 << 3 | _VARINT, message.type))
    if message.key:
        out += _part(2, message.key)
    if message.record is not None:
        out += _part(3, _encode_record(message.record))
    for peer in message.closer:
        out += _part(8, _encode_peer(peer))
    for peer in message.providers:
        out += _part(9, _encode_peer(peer))
    return bytes(out)


def _encode_peer(peer: Peer) -> bytes:
    addresses = b"".join([_part(2, address) for address in peer.addresses])
    connection = bytes((3 << 3 | _VARINT, peer.connection)) if peer.connection else b""
    return _part(1, peer.id) + addresses + connection


def _encode_record(record: Record) -> bytes:
    received = _part(5, record.received.encode()) if record.received else b""
    life = _encode_varint(_TTL << 3 | _VARINT) + _encode_varint(record.life) if record.life else b""
    return _part(1, record.key) + _part(2, record.value) + received + life


def _part(number: int, value: bytes) -> bytes:
    return b"%c%b%b" % (number << 3 | _LENGTH, _encode_varint(len(value)), value)


def _encode_varint(value: int) -> bytes:
    if value < 0x80:
        return bytes((value,))
    encoded = bytearray()
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
