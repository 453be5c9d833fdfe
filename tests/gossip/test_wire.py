"""The codec, with libp2p's own protobuf classes as the oracle for both directions."""

from __future__ import annotations

import tracemalloc
from contextlib import suppress

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from libp2p.pubsub.pb import rpc_pb2

from koii_p2p.gossip import wire
from koii_p2p.gossip.parameters import Bounds
from koii_p2p.gossip.refusals import Refusal
from koii_p2p.gossip.wire import Message, Prune, WireError, WireFault

BOUNDS = Bounds()
SMALL = Bounds(
    rpc_bytes=64 * 1024,
    message_bytes=32 * 1024,
    messages_per_rpc=3,
    subscriptions_per_rpc=2,
    control_entries=2,
    ihave_ids=3,
    iwant_ids=3,
    idontwant_ids=3,
    px_peers=1,
)


def fault_of(data: bytes) -> WireFault:
    with pytest.raises(WireError) as raised:
        wire.decode_rpc(data, BOUNDS)
    return raised.value.fault


def message_fault(data: bytes) -> WireFault:
    with pytest.raises(WireError) as raised:
        wire.decode_message(data)
    return raised.value.fault


# --- the same bytes as libp2p's


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
SOME = st.binary(max_size=300)
ID = st.binary(min_size=1, max_size=150)


@given(TEXT, SOME, st.none() | SOME, st.none() | SOME, st.none() | SOME, st.none() | SOME)
@example("t", bytes(127), None, None, None, None)
@example("t", bytes(128), None, None, None, None)
@example("t", bytes(2**14), b"", b"", b"", b"")
def test_a_message_has_the_bytes_of_libp2p_and_is_read_back(
    topic: str,
    data: bytes,
    author: bytes | None,
    seqno: bytes | None,
    signature: bytes | None,
    key: bytes | None,
) -> None:
    message = Message(topic, data, author, seqno, signature, key)
    theirs = rpc_pb2.Message(topicIDs=[topic])
    if data:
        theirs.data = data
    for name, value in (("from_id", author), ("seqno", seqno), ("signature", signature), ("key", key)):
        if value is not None:
            setattr(theirs, name, value)
    raw = wire.encode_message(message)
    assert raw == theirs.SerializeToString()
    assert wire.decode_message(raw) == message
    rpc = rpc_pb2.RPC(publish=[theirs]).SerializeToString()
    assert wire.message_part(raw) == rpc
    if len(raw) < 2**14:
        assert wire.sole_message(rpc) == raw
    assert wire.decode_rpc(rpc, BOUNDS).messages == [raw]


@given(
    st.lists(st.tuples(st.booleans(), TEXT), max_size=4),
    st.lists(st.tuples(TEXT, st.lists(ID, max_size=5)), max_size=3),
    st.lists(st.lists(ID, max_size=5), max_size=3),
    st.lists(TEXT, max_size=3),
    st.lists(
        st.tuples(
            TEXT,
            st.none() | st.integers(0, 2**64 - 1),
            st.lists(st.tuples(ID, SOME.filter(bool)), max_size=3),
        ),
        max_size=3,
    ),
    st.lists(st.lists(ID, max_size=5), max_size=3),
)
def test_control_has_the_bytes_of_libp2p_and_is_read_back(
    subscriptions: list[tuple[bool, str]],
    ihave: list[tuple[str, list[bytes]]],
    iwant: list[list[bytes]],
    graft: list[str],
    prune: list[tuple[str, int | None, list[tuple[bytes, bytes]]]],
    idontwant: list[list[bytes]],
) -> None:
    theirs = rpc_pb2.RPC()
    for subscribes, topic in subscriptions:
        theirs.subscriptions.add(subscribe=subscribes, topicid=topic)
    theirs.control.SetInParent()
    for topic, ids in ihave:
        theirs.control.ihave.add(topicID=topic, messageIDs=ids)
    for ids in iwant:
        theirs.control.iwant.add(messageIDs=ids)
    for topic in graft:
        theirs.control.graft.add(topicID=topic)
    prunes = [Prune(topic, back_off, tuple(peers)) for topic, back_off, peers in prune]
    for one in prunes:
        entry = theirs.control.prune.add(topicID=one.topic)
        if one.back_off is not None:
            entry.backoff = one.back_off
        for peer, record in one.peers:
            entry.peers.add(peerID=peer, signedPeerRecord=record)
    for ids in idontwant:
        theirs.control.idontwant.add(messageIDs=ids)

    entries = [wire.ihave_entry(topic, ids) for topic, ids in ihave]
    entries += [wire.iwant_entry(ids) for ids in iwant]
    entries += [wire.graft_entry(topic) for topic in graft]
    entries += [wire.prune_entry(one) for one in prunes]
    entries += [wire.idontwant_entry(ids) for ids in idontwant]
    ours = b"".join(wire.subscription(topic, subscribes) for subscribes, topic in subscriptions)
    ours += wire.control_part(b"".join(entries))
    assert ours == theirs.SerializeToString()

    read = wire.decode_rpc(ours, BOUNDS)
    assert read.subscriptions == subscriptions
    assert read.control is not None
    assert read.control.ihave == ihave
    assert read.control.iwant == iwant
    assert read.control.graft == graft
    assert read.control.prune == prunes
    assert read.control.idontwant == idontwant
    assert read.cut == {}


def test_golden_bytes() -> None:
    message = Message("t", b"hi", b"from", b"\x01", b"sig", b"key")
    raw = bytes.fromhex("0a0466726f6d 12026869 1a0101 220174 2a03736967 32036b6579")
    assert wire.encode_message(message) == raw
    assert wire.subscription("t", True) == bytes.fromhex("0a05 0801 120174")
    assert wire.subscription("t", False) == bytes.fromhex("0a05 0800 120174")
    prune = Prune("t", 300, ((b"p", b"r"),))
    entries = wire.graft_entry("t") + wire.prune_entry(prune) + wire.idontwant_entry([b"i"])
    assert wire.control_part(entries) == bytes.fromhex(
        "1a1a 1a030a0174 220e 0a0174 1206 0a0170 120172 18ac02 2a030a0169"
    )
    assert wire.frame(b"abc") == b"\x03abc"
    assert wire.unframed(b"\x03abc") == b"abc"
    assert wire.signed_bytes(message) == b"libp2p-pubsub:" + raw[: raw.index(b"\x2a\x03sig")]


def test_what_is_signed_is_what_libp2p_signs() -> None:
    theirs = rpc_pb2.Message(from_id=b"a", data=b"d", seqno=b"s", topicIDs=["t"])
    message = Message("t", b"d", b"a", b"s", b"signature", b"key")
    assert wire.signed_bytes(message) == b"libp2p-pubsub:" + theirs.SerializeToString()


# --- what is not read


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        ("12", WireFault.TRUNCATED),
        ("1205aa", WireFault.TRUNCATED),
        ("12ff", WireFault.TRUNCATED),
        ("12" + "ff" * 9, WireFault.TRUNCATED),
        ("12" + "ff" * 11, WireFault.VARINT),
        ("0a0c08" + "ff" * 9 + "7f120174", WireFault.VARINT),
        ("00", WireFault.FIELD_NUMBER),
        ("0201", WireFault.FIELD_NUMBER),
        ("808080801000", WireFault.FIELD_NUMBER),
        ("13", WireFault.WIRE_TYPE),
        ("14", WireFault.WIRE_TYPE),
        ("16", WireFault.WIRE_TYPE),
        ("1001", WireFault.WIRE_TYPE),
        ("1801", WireFault.WIRE_TYPE),
        ("1a021801", WireFault.WIRE_TYPE),
        ("0a031201740a021001", WireFault.WIRE_TYPE),
        ("0a020801", WireFault.NO_TOPIC),
        ("0a031201ff", WireFault.TEXT),
        ("0a06120174120175", WireFault.REPEATED),
        ("1a021a00", WireFault.NO_TOPIC),
        ("1a081a060a01740a0175", WireFault.REPEATED),
        ("1a080a060a01740a0175", WireFault.REPEATED),
        ("1a0a22080a017418011802", WireFault.TRUNCATED),
        ("1a0922070a017418011802", WireFault.REPEATED),
        ("2d0102", WireFault.TRUNCATED),
        ("3901", WireFault.TRUNCATED),
    ],
)
def test_a_malformed_rpc_is_refused_by_its_fault(data: str, fault: WireFault) -> None:
    assert fault_of(bytes.fromhex(data)) is fault


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        ("", WireFault.NO_TOPIC),
        ("12026869", WireFault.NO_TOPIC),
        ("220174220175", WireFault.REPEATED),
        ("120161120162220174", WireFault.REPEATED),
        ("2201ff", WireFault.TEXT),
        ("0801220174", WireFault.WIRE_TYPE),
        ("1205616263", WireFault.TRUNCATED),
    ],
)
def test_a_malformed_message_is_refused_by_its_fault(data: str, fault: WireFault) -> None:
    assert message_fault(bytes.fromhex(data)) is fault


def test_unknown_fields_of_every_known_wire_type_are_skipped() -> None:
    unknown = "78017d010203047901020304050607087a03616263"
    topic = "220174"
    assert wire.decode_message(bytes.fromhex(unknown + topic + unknown)) == Message("t", b"")
    rpc = wire.decode_rpc(bytes.fromhex(unknown + "0a03120174" + unknown), BOUNDS)
    assert rpc.subscriptions == [(False, "t")]
    # The signed record that py-libp2p adds to every RPC, and the extensions of gossipsub 1.3.
    theirs = rpc_pb2.RPC(senderRecord=b"record")
    theirs.control.extensions.topicObservation = True
    theirs.control.graft.add(topicID="t")
    read = wire.decode_rpc(theirs.SerializeToString(), BOUNDS)
    assert read.control is not None
    assert read.control.graft == ["t"]


def test_two_controls_of_one_rpc_count_as_one() -> None:
    read = wire.decode_rpc(
        wire.control_part(wire.graft_entry("a")) + wire.control_part(wire.graft_entry("b")), BOUNDS
    )
    assert read.control is not None
    assert read.control.graft == ["a", "b"]


def test_an_rpc_over_its_bound_is_refused_before_it_is_read() -> None:
    assert fault_of(bytes(BOUNDS.rpc_bytes + 1)) is WireFault.TOO_LARGE


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused_and_nothing_else(data: bytes) -> None:
    for read in (lambda: wire.decode_rpc(data, SMALL), lambda: wire.decode_message(data)):
        with suppress(WireError):
            read()
    sole = wire.sole_message(data)
    assert sole is None or wire.decode_rpc(data, BOUNDS).messages == [sole]


@given(st.binary(max_size=120), st.integers(0, 119), st.integers(0, 255))
def test_one_changed_byte_in_a_whole_rpc_is_read_or_refused(data: bytes, at: int, byte: int) -> None:
    whole = bytearray(
        wire.subscription("t", True)
        + wire.message_part(wire.encode_message(Message("t", data)))
        + wire.control_part(
            wire.ihave_entry("t", [data, b"id"]) + wire.prune_entry(Prune("t", 60, ((b"p", b"r"),)))
        )
    )
    whole[at % len(whole)] = byte
    try:
        read = wire.decode_rpc(bytes(whole), SMALL)
    except WireError:
        return
    assert len(read.messages) <= SMALL.messages_per_rpc


# --- lists are cut at their bounds


def test_lists_are_cut_at_their_bounds_and_counted() -> None:
    message = wire.message_part(wire.encode_message(Message("t", b"x")))
    ids = [bytes([number]) for number in range(5)]
    long_ids = [bytes([number]) * 130 for number in range(5)]
    entries = wire.ihave_entry("t", ids) + wire.ihave_entry("t", long_ids)
    entries += wire.iwant_entry(ids) + wire.iwant_entry(long_ids) + wire.idontwant_entry(ids)
    entries += wire.graft_entry("t") * 4
    entries += wire.prune_entry(Prune("t", None, ((b"p", b""), (b"q", b""))))
    read = wire.decode_rpc(message * 5 + wire.subscription("t", True) * 4 + wire.control_part(entries), SMALL)
    assert len(read.messages) == 3
    assert len(read.subscriptions) == 2
    assert read.control is not None
    assert [ids for _, ids in read.control.ihave] == [ids[:3], long_ids[:3]]
    assert read.control.iwant == [ids[:3], long_ids[:3]]
    assert read.control.idontwant == [ids[:3]]
    assert read.control.graft == ["t", "t"]
    assert read.control.prune == [Prune("t", None, ((b"p", b""),))]
    assert read.cut == {
        Refusal.MESSAGES_PER_RPC: 2,
        Refusal.SUBSCRIPTIONS_PER_RPC: 2,
        Refusal.IHAVE_IDS: 4,
        Refusal.IWANT_IDS: 4,
        Refusal.IDONTWANT_IDS: 2,
        Refusal.CONTROL_ENTRIES: 2,
        Refusal.PX_PEERS: 1,
    }


@pytest.mark.parametrize(
    "entry",
    [
        wire.message_part(b""),
        wire.subscription("t", True),
        wire.control_part(wire.graft_entry("t")),
        wire.control_part(wire.ihave_entry("t", [])),
        wire.control_part(wire.iwant_entry([])),
        wire.control_part(wire.idontwant_entry([])),
        wire.control_part(wire.prune_entry(Prune("t"))),
    ],
    ids=["message", "subscription", "graft", "ihave", "iwant", "idontwant", "prune"],
)
def test_a_megabyte_of_tiny_entries_takes_no_more_memory_than_its_bounds(entry: bytes) -> None:
    data = entry * (BOUNDS.rpc_bytes // len(entry))
    tracemalloc.start()
    read = wire.decode_rpc(data, BOUNDS)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert sum(read.cut.values()) > 0
    assert peak < 2 * BOUNDS.rpc_bytes
