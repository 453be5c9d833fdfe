"""The DHT's messages: as the protobuf package writes them, and whatever bytes come in."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from libp2p.kad_dht.pb import kademlia_pb2

from koii_p2p.kademlia.parameters import Bounds
from koii_p2p.kademlia.refusals import Refusal, Refused
from koii_p2p.kademlia.wire import Message, MessageType, Peer, Record, decode, encode

BOUNDS = Bounds()
PEERS = st.lists(
    st.builds(
        Peer,
        st.binary(min_size=1, max_size=64),
        st.lists(st.binary(max_size=40), max_size=8).map(tuple),
        st.integers(0, 3),
    ),
    max_size=20,
).map(tuple)
TEXT = st.text(st.characters(codec="utf-8"), max_size=30)
RECORDS = st.builds(Record, st.binary(max_size=40), st.binary(max_size=200), TEXT, st.integers(0, 2**32 - 1))
MESSAGES = st.builds(
    Message, st.sampled_from(MessageType), st.binary(max_size=80), st.none() | RECORDS, PEERS, PEERS
)


@given(MESSAGES)
def test_what_is_written_is_read(message: Message) -> None:
    assert decode(encode(message), BOUNDS) == message


@given(MESSAGES)
def test_the_protobuf_package_reads_it_alike(message: Message) -> None:
    read = kademlia_pb2.Message()
    read.ParseFromString(encode(message))
    assert (int(read.type), read.key) == (int(message.type), message.key)
    assert read.HasField("record") == (message.record is not None)
    if message.record is not None:
        record = message.record
        assert (read.record.key, read.record.value) == (record.key, record.value)
        assert read.record.timeReceived == record.received
    for ours, theirs in ((message.closer, read.closerPeers), (message.providers, read.providerPeers)):
        assert [(one.id, tuple(one.addrs), one.connection) for one in theirs] == [
            (one.id, one.addresses, one.connection) for one in ours
        ]


def test_it_reads_what_the_protobuf_package_writes() -> None:
    message = kademlia_pb2.Message(type=kademlia_pb2.Message.GET_VALUE, key=b"k", clusterLevelRaw=1)
    message.record.key, message.record.value, message.record.timeReceived = b"k", b"v", "2026"
    message.closerPeers.add(id=b"a", addrs=[b"1", b"2"], connection=kademlia_pb2.Message.CONNECTED)
    message.providerPeers.add(id=b"b")
    assert decode(message.SerializeToString(), BOUNDS) == Message(
        MessageType.GET_VALUE,
        b"k",
        Record(b"k", b"v", "2026"),
        (Peer(b"a", (b"1", b"2"), 1),),
        (Peer(b"b"),),
    )


def test_lists_are_cut_at_their_bounds_and_counted() -> None:
    bounds = replace(BOUNDS, closer_peers=2, providers=1, addresses=3, address_bytes=4, peer_id_bytes=5)
    many = tuple(Peer(bytes([number])) for number in range(1, 6))
    read = decode(encode(Message(MessageType.PING, b"", None, many, many)), bounds)
    assert (len(read.closer), len(read.providers), read.cut) == (2, 1, 7)
    talkative = Peer(b"a", (b"1", b"2", b"three", b"4", b"5"))
    read = decode(encode(Message(MessageType.PING, closer=(talkative,))), bounds)
    assert (read.closer[0].addresses, read.cut) == ((b"1", b"2", b"4"), 2)
    nameless = (Peer(b""), Peer(b"too long"))
    read = decode(encode(Message(MessageType.PING, closer=nameless)), bounds)
    assert (read.closer, read.cut) == ((), 2)


@pytest.mark.parametrize(
    ("data", "refusal"),
    [
        (b"\x08\x06", Refusal.UNKNOWN_TYPE),
        (b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", Refusal.UNKNOWN_TYPE),
        (b"\x0a\x00", Refusal.MALFORMED),
        (b"\x10\x01", Refusal.MALFORMED),
        (b"\x12\x05abc", Refusal.MALFORMED),
        (b"\x12\x01a\x12\x01b", Refusal.MALFORMED),
        (b"\x1a\x00\x1a\x00", Refusal.MALFORMED),
        (b"\x1a\x03\x2a\x01\xff", Refusal.MALFORMED),
        (b"\x42\x01\x0b", Refusal.MALFORMED),
        (b"\x00", Refusal.MALFORMED),
        (b"\x08", Refusal.MALFORMED),
        (b"\x08" + b"\xff" * 11, Refusal.MALFORMED),
        (b"\x0d\x00", Refusal.MALFORMED),
        (b"\x12\xff\xff\xff\xff\x0f", Refusal.MALFORMED),
    ],
)
def test_what_is_no_message_is_refused(data: bytes, refusal: Refusal) -> None:
    with pytest.raises(Refused) as raised:
        decode(data, BOUNDS)
    assert raised.value.refusal is refusal


def test_a_message_over_its_bound_is_not_looked_at() -> None:
    with pytest.raises(Refused):
        decode(bytes(BOUNDS.message_bytes + 1), BOUNDS)


def read_or_refused(data: bytes) -> Message | None:
    try:
        return decode(data, BOUNDS)
    except Refused:
        return None


@given(st.binary(max_size=300))
@settings(max_examples=500)
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    read = read_or_refused(data)
    if read is not None:
        assert decode(encode(read), BOUNDS) == replace(read, cut=0)


@given(MESSAGES, st.data())
def test_a_message_with_a_byte_changed_or_cut_off_is_read_or_refused(
    message: Message, data: st.DataObject
) -> None:
    encoded = bytearray(encode(message) or b"\x08\x05")
    at = data.draw(st.integers(0, len(encoded) - 1))
    if data.draw(st.booleans()):
        del encoded[at:]
    else:
        encoded[at] = data.draw(st.integers(0, 255))
    read = read_or_refused(bytes(encoded))
    assert read is None or len(read.closer) + len(read.providers) <= 40
