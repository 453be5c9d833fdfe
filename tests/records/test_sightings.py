"""Lines of a trace: read back as they were written, and nothing else is read."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from koii_p2p.records.schema import Kind
from koii_p2p.records.sightings import MOST_LINE_BYTES, Sighting, Way, decode_sighting, encode_sighting

SEEN = Sighting(1_700_000_000_000_001, bytes(range(32)), Kind.BALLOT, 3, 170, Way.GOSSIP)


@given(
    st.builds(
        Sighting,
        st.integers(0, 2**63),
        st.binary(min_size=32, max_size=32),
        st.sampled_from(Kind),
        st.integers(0, 2**63),
        st.integers(0, 2**20),
        st.none() | st.sampled_from(Way),
    )
)
def test_a_line_is_read_back_and_is_short(sighting: Sighting) -> None:
    line = encode_sighting(sighting)
    assert line.endswith(b"\n")
    assert len(line) <= MOST_LINE_BYTES
    assert decode_sighting(line) == sighting


def test_a_line_as_documented() -> None:
    assert json.loads(encode_sighting(SEEN)) == {
        "us": 1_700_000_000_000_001,
        "event": "heard",
        "id": bytes(range(32)).hex(),
        "kind": "BALLOT",
        "round": 3,
        "bytes": 170,
        "way": "gossip",
    }


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"event": "signed"}, "came by 'gossip'"),
        ({"way": None}, "came by None"),
        ({"event": "seen"}, "'seen'"),
        ({"way": "post"}, "post"),
        ({"id": "00"}, "1 bytes"),
        ({"id": 3}, "no id"),
        ({"id": "x" * 64}, "non-hexadecimal"),
        ({"kind": "LETTER"}, "LETTER"),
        ({"us": -1}, "us is -1"),
        ({"us": True}, "us is True"),
        ({"round": "3"}, "round is '3'"),
        ({"bytes": 1.5}, "bytes is 1.5"),
        ({"more": "x" * MOST_LINE_BYTES}, f"more than {MOST_LINE_BYTES} bytes"),
    ],
)
def test_what_is_no_line(change: dict[str, object], why: str) -> None:
    fields = json.loads(encode_sighting(SEEN)) | change
    with pytest.raises(ValueError, match=why):
        decode_sighting(json.dumps(fields).encode())


@pytest.mark.parametrize("line", [b"", b"[]\n", b"3\n", b"{", b"\xff\n", b'{"event":"signed"}\n'])
def test_bytes_that_are_no_line(line: bytes) -> None:
    with pytest.raises(ValueError):
        decode_sighting(line)
