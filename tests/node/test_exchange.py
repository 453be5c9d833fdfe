from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from koii_p2p.limits import Limits
from koii_p2p.node import exchange
from koii_p2p.node.exchange import ExchangeError
from koii_p2p.records.cbor import encode

LIMITS = Limits()
TASK = b"t" * 32

ids = st.lists(st.binary(min_size=32, max_size=32), max_size=20).map(tuple)


@given(ids, st.integers(0, 2**64 - 1))
def test_a_records_request_arrives_as_it_was_sent(wanted: tuple[bytes, ...], number: int) -> None:
    request = exchange.RecordsRequest(TASK, number, wanted)
    assert exchange.decode_records_request(exchange.encode_records_request(request), LIMITS) == request


@given(st.lists(st.binary(max_size=300), max_size=20))
def test_records_arrive_as_they_were_sent(records: list[bytes]) -> None:
    assert exchange.decode_records(exchange.encode_records(records, LIMITS), LIMITS) == tuple(records)


def test_a_response_holds_as_many_records_as_fit() -> None:
    small = Limits(response_bytes=10_000)
    data = exchange.encode_records([bytes(1000)] * 50, small)
    assert len(data) <= 10_000
    assert len(exchange.decode_records(data, small)) == 9


@given(st.tuples(*[st.none() | st.binary(max_size=50)] * 3))
def test_artifacts_arrive_as_they_were_sent(parts: tuple[bytes | None, bytes | None, bytes | None]) -> None:
    artifacts = exchange.Artifacts(*parts)
    assert exchange.decode_artifacts(exchange.encode_artifacts(artifacts), LIMITS) == artifacts


def test_small_requests_arrive_as_they_were_sent() -> None:
    assert exchange.decode_artifacts_request(exchange.encode_artifacts_request(TASK, 7), LIMITS) == (TASK, 7)
    assert exchange.decode_presence_request(exchange.encode_presence_request(TASK), LIMITS) == TASK


def test_a_question_arrives_as_it_was_sent() -> None:
    data = exchange.encode_reconcile(TASK, 2**64 - 1, bytes(LIMITS.reconcile_message_bytes))
    assert exchange.decode_reconcile(data, LIMITS) == (TASK, 2**64 - 1, bytes(LIMITS.reconcile_message_bytes))


DECODERS = [
    exchange.decode_reconcile,
    exchange.decode_records_request,
    exchange.decode_records,
    exchange.decode_artifacts_request,
    exchange.decode_artifacts,
    exchange.decode_presence_request,
]

values = st.recursive(
    st.none() | st.booleans() | st.integers(0, 2**64 - 1) | st.binary(max_size=40) | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.integers(0, 23), inner, max_size=4),
    max_leaves=10,
)


@pytest.mark.parametrize("decoder", DECODERS)
@given(data=st.binary(max_size=100) | values.map(encode))
def test_whatever_a_peer_sends_is_a_message_or_an_exchange_error(decoder, data: bytes) -> None:  # type: ignore[no-untyped-def]
    with contextlib.suppress(ExchangeError):
        assert decoder(data, LIMITS) is not None


@pytest.mark.parametrize(
    "message",
    [
        {0: TASK, 1: 1, 2: [bytes(31)]},
        {0: TASK, 1: 1, 2: [bytes(32)] * (LIMITS.records_per_request + 1)},
        {0: TASK, 1: 1},
        {0: TASK, 1: True, 2: []},
        {0: TASK[:31], 1: 1, 2: []},
        [],
    ],
)
def test_requests_out_of_bounds_are_refused(message: object) -> None:
    with pytest.raises(ExchangeError):
        exchange.decode_records_request(encode(message), LIMITS)
