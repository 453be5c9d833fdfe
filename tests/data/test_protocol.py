from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from koii_p2p.data import protocol
from koii_p2p.data.protocol import ProtocolError, Stored, StoreReply, StoreRequest
from koii_p2p.limits import Limits
from koii_p2p.records import cbor
from koii_p2p.records.cid import cid_of

LIMITS = Limits()
CID = cid_of(b"x")
TASK = bytes(32)

READERS: tuple[Callable[[bytes], object], ...] = (
    protocol.decode_find,
    protocol.decode_manifests,
    lambda data: protocol.decode_fetch(data, LIMITS),
    lambda data: protocol.decode_shards(data, 2, LIMITS),
    lambda data: protocol.decode_store(data, LIMITS),
    protocol.decode_stored,
    lambda data: protocol.decode_census(data, LIMITS),
    lambda data: protocol.decode_holdings(data, 2, LIMITS),
    protocol.decode_challenge,
    protocol.decode_shown,
)


def test_what_is_said_is_what_is_heard() -> None:
    request = StoreRequest(TASK, CID, 7, (((0, 1), b"a"), ((3, 255), b"")), b"manifest")
    assert protocol.decode_store(protocol.encode_store(request), LIMITS) == request
    assert protocol.decode_find(protocol.encode_find(CID)) == CID
    assert protocol.decode_manifests(protocol.encode_manifests([b"a", b"b"])) == (b"a", b"b")
    assert protocol.decode_fetch(protocol.encode_fetch(CID, [(1, 2)]), LIMITS) == (CID, ((1, 2),))
    assert protocol.decode_shards(protocol.encode_shards([b"a", None]), 2, LIMITS) == (b"a", None)
    reply = StoreReply(Stored.NO_ROOM, "full")
    assert protocol.decode_stored(protocol.encode_stored(reply)) == reply
    assert protocol.decode_census(protocol.encode_census(TASK, [(CID, 5)]), LIMITS) == (TASK, ((CID, 5),))
    assert protocol.decode_holdings(protocol.encode_holdings([None, b"\1"]), 2, LIMITS) == (None, b"\1")
    assert protocol.decode_challenge(protocol.encode_challenge(CID, (4, 5), 6)) == (CID, (4, 5), 6)
    assert protocol.decode_shown(protocol.encode_shown(None)) is None
    assert protocol.decode_shown(protocol.encode_shown(b"leaf")) == b"leaf"


@given(st.integers(1, 20), st.integers(1, 40), st.data())
def test_bits_and_places(blocks: int, shards: int, data: st.DataObject) -> None:
    places = data.draw(st.sets(st.tuples(st.integers(0, blocks - 1), st.integers(0, shards - 1))))
    bits = protocol.bits_of(places, blocks, shards)
    assert protocol.places_of(bits, blocks, shards) == places
    with pytest.raises(ProtocolError):
        protocol.places_of(bits + b"\0", blocks, shards)


@pytest.mark.parametrize("read", READERS)
@given(data=st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(read: Callable[[bytes], object], data: bytes) -> None:
    try:
        read(data)
    except ProtocolError:
        return


@pytest.mark.parametrize("read", READERS)
@given(
    value=st.dictionaries(
        st.integers(0, 5),
        st.one_of(st.integers(-1, 2**64 - 1), st.binary(max_size=40), st.lists(st.lists(st.integers(0, 3)))),
    )
)
def test_any_map_is_read_or_refused(read: Callable[[bytes], object], value: dict[int, object]) -> None:
    try:
        read(cbor.encode(value))
    except ProtocolError:
        return


def test_more_than_the_limits_allow_is_refused() -> None:
    many = [(block, 0) for block in range(LIMITS.data_message_shards + 1)]
    with pytest.raises(ProtocolError):
        protocol.decode_fetch(protocol.encode_fetch(CID, many), LIMITS)
    with pytest.raises(ProtocolError):
        protocol.decode_fetch(protocol.encode_fetch(CID, []), LIMITS)
    with pytest.raises(ProtocolError):
        protocol.decode_census(
            protocol.encode_census(TASK, [(CID, 0)] * (LIMITS.data_message_blobs + 1)), LIMITS
        )
    store = StoreRequest(TASK, CID, 1, tuple((place, b"") for place in many))
    with pytest.raises(ProtocolError):
        protocol.decode_store(protocol.encode_store(store), LIMITS)
    with pytest.raises(ProtocolError):
        protocol.decode_manifests(protocol.encode_manifests([b""] * 5))


def test_batches_fit_messages() -> None:
    half = LIMITS.data_message_bytes // 2
    assert protocol.batches([half, half, 1], LIMITS) == [range(2), range(2, 3)]
    assert protocol.batches([3 * half, 1], LIMITS) == [range(1), range(1, 2)]
    assert [len(run) for run in protocol.batches([1] * 150, LIMITS)] == [64, 64, 22]
    assert protocol.batches([], LIMITS) == []
