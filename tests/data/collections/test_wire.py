"""What peers say of collections comes back as it was said; anything else is refused with a reason, whatever it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from koii_p2p.data.collections import wire
from koii_p2p.data.collections.definition import Definition
from koii_p2p.data.collections.reading import query_of
from koii_p2p.data.collections.reasons import DocumentError, DocumentReason
from koii_p2p.limits import Limits
from koii_p2p.records.cbor import encode

LIMITS = Limits()
TASK, LINKS = b"t" * 32, Definition("links")

DECODERS: tuple[Callable[[bytes], Any], ...] = (
    lambda data: wire.task_of(data, LIMITS),
    lambda data: wire.decode_collections(data, LIMITS),
    lambda data: wire.decode_definitions(data, LIMITS),
    lambda data: wire.decode_put(data, LIMITS),
    lambda data: wire.decode_outcomes(data, 1, LIMITS),
    lambda data: wire.decode_differ(data, LIMITS),
    lambda data: wire.decode_strings(data, 2, LIMITS),
    lambda data: wire.decode_fetch(data, LIMITS),
    lambda data: wire.decode_find(data, LIMITS),
    lambda data: wire.decode_found(data, LIMITS),
    lambda data: wire.decode_changes(data, LIMITS),
    lambda data: wire.decode_changed(data, LIMITS),
    query_of,
)


def test_messages_come_back_as_they_were_said() -> None:
    put = wire.PutRequest(TASK, LINKS, (b"one", b"two"))
    assert wire.decode_put(wire.encode_put(put), LIMITS) == put
    differ = wire.DifferRequest(TASK, LINKS.id, bytes((1, 7, 63)), (b"a", b"b", b"c"))
    assert wire.decode_differ(wire.encode_differ(differ), LIMITS) == differ
    short = replace(differ, questions=(), digest=bytes(32))
    assert wire.decode_differ(wire.encode_differ(short), LIMITS) == short
    fetch = wire.FetchRequest(TASK, LINKS.id, 255, (bytes(16), bytes(32)))
    assert wire.decode_fetch(wire.encode_fetch(fetch), LIMITS) == fetch
    find = wire.FindRequest(TASK, LINKS.id, b"\x00\x01", b"{}", 9)
    assert wire.decode_find(wire.encode_find(find), LIMITS) == find
    for since in (None, 0, 7):
        changes = wire.ChangesRequest(TASK, LINKS.id, b"\x00", since)
        assert wire.decode_changes(wire.encode_changes(changes), LIMITS) == changes
    outcomes = [True, False, DocumentReason.OVER_QUOTA]
    assert wire.decode_outcomes(wire.encode_outcomes(outcomes), 3, LIMITS) == outcomes
    assert wire.decode_found(wire.encode_found([b"r"], True), LIMITS) == ([b"r"], True)
    assert wire.decode_changed(wire.encode_changed(4, [b"r"]), LIMITS) == (4, [b"r"])
    assert wire.decode_definitions(wire.encode_definitions([LINKS], LIMITS), LIMITS) == [LINKS]
    for question in (
        wire.encode_put(put),
        wire.encode_differ(differ),
        wire.encode_find(find),
        wire.encode_collections(TASK, bytes(32)),
    ):
        assert wire.task_of(question, LIMITS) == TASK
    with pytest.raises(DocumentError) as caught:
        wire.decode_found(wire.encode_refused(DocumentReason.TOO_MUCH), LIMITS)
    assert caught.value.reason is DocumentReason.TOO_MUCH


VALUES = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(0, 2**64 - 1), st.binary(max_size=40), st.text(max_size=5)
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.integers(0, 5), inner, max_size=3)
    ),
    max_leaves=6,
)


@given(st.one_of(st.binary(max_size=80), st.dictionaries(st.integers(0, 5), VALUES, max_size=5).map(encode)))
def test_whatever_a_peer_says_is_understood_or_refused(data: bytes) -> None:
    refused = 0
    for decode in DECODERS:
        try:
            decode(data)
        except DocumentError:
            refused += 1
    assert refused >= 3, "no bytes are all of these"


def test_messages_are_bounded() -> None:
    few = replace(LIMITS, documents_per_request=2, document_message_bytes=1000, query_documents=2)
    for wrong in (
        wire.encode_put(wire.PutRequest(TASK, LINKS, (b"",) * 3)),
        wire.encode_put(wire.PutRequest(TASK, LINKS, (bytes(1000),))),
    ):
        with pytest.raises(DocumentError) as caught:
            wire.decode_put(wrong, few)
        assert caught.value.reason is DocumentReason.BAD_MESSAGE
    for shards in (b"", b"\x01\x01", b"\x02\x01"):
        with pytest.raises(DocumentError):
            wire.decode_find(wire.encode_find(wire.FindRequest(TASK, LINKS.id, shards, b"{}", 0)), few)
    fitting = wire.decode_strings(wire.encode_strings([bytes(400)] * 5, few), 5, few)
    assert len(fitting) == 2


@pytest.mark.parametrize(
    ("question", "words"),
    [
        (b"{", "not JSON"),
        (b"[]", "A question has"),
        (b'{"filter": 1}', "JSON object"),
        (b'{"filter": {"a": {"$where": "x"}}}', "no operator"),
        (b'{"filter": {"a": {"$gt": 1, "b": 2}}}', "mixes"),
        (b'{"filter": {"$nor": []}}', "There is no"),
        (b'{"filter": {"$or": {}}}', "array of filters"),
        (b'{"filter": {"a": {"$in": 3}}}', "array"),
        (b'{"limit": -1}', "not negative"),
        (b'{"skip": 9999, "limit": 2}', "at most 10000"),
        (b'{"sort": {"a": 2}}', "1 or -1"),
        (b'{"projection": {"a": 1, "b": 0}}', "either takes"),
        (b'{"filter": {"a": {"$in": [' + b"1," * 300 + b"1]}}}", "at most 256"),
        (b'{"filter": ' + b'{"$not": ' * 9 + b"{}" + b"}" * 9 + b"}", "nested more than 8"),
    ],
)
def test_a_bad_question_is_refused_in_words(question: bytes, words: str) -> None:
    with pytest.raises(DocumentError, match=words) as caught:
        query_of(question)
    assert caught.value.reason is DocumentReason.BAD_QUERY
