from __future__ import annotations

from dataclasses import replace
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from koii_p2p.records.keys import SecretKey
from koii_p2p.tasks.facts import http_urls
from koii_p2p.tasks.services import PAYLOAD_CONTEXT
from koii_p2p.tasks.stamps import (
    REPLY_CONTEXT,
    REQUEST_CONTEXT,
    SIGNATURE,
    STAMP_HEADERS,
    SignedStamp,
    Stamp,
    is_signed,
    read_signed_request,
    read_stamp,
    request_hash,
    request_message,
    sign_request,
    stamp_headers,
)

KEY = SecretKey.from_seed(bytes(range(32)))
STAMP = Stamp(b"t" * 32, 7, 1000, 200, request_hash("GET", b"/task/x", b""), sha256(b"body").digest())


def test_the_bytes_are_those_of_the_page() -> None:
    """docs/writing-tasks.md, with which a foreign client checks a stamp."""
    message = STAMP.message()
    assert len(message) == 21 + 32 + 8 + 8 + 2 + 32 + 32
    assert message[:21] == b"koii-p2p/task-reply/1"
    assert message[21:53] == b"t" * 32
    assert message[53:71] == bytes.fromhex("0000000000000007" + "00000000000003e8" + "00c8")
    assert message[71:103] == sha256(b"GET /task/x\n").digest()
    assert message[103:] == sha256(b"body").digest()
    asked = request_message(b"t" * 32, b"n" * 32, 1000, b"h" * 32)
    assert asked == b"koii-p2p/task-request/1" + b"t" * 32 + b"n" * 32 + (1000).to_bytes(8, "big") + b"h" * 32


def test_no_signature_is_one_of_something_else() -> None:
    contexts = (REPLY_CONTEXT, REQUEST_CONTEXT, PAYLOAD_CONTEXT)
    for one in contexts:
        assert not any(other.startswith(one) for other in contexts if other is not one)
        assert one[0] != 0x84, "how a record's Sig_structure begins (RFC 9052)"


def test_a_stamp_comes_back_from_its_headers() -> None:
    headers = dict(stamp_headers(STAMP, KEY))
    assert tuple(headers) == STAMP_HEADERS
    found = read_stamp(200, headers)
    assert found == SignedStamp(STAMP, KEY.public_key, KEY.sign(STAMP.message()))
    assert found.is_good()
    other = read_stamp(404, headers)
    assert other is not None
    assert not other.is_good(), "the status is signed"


@pytest.mark.parametrize(
    "change",
    [
        {"task": b"u" * 32},
        {"round": 8},
        {"slot": 1001},
        {"status": 201},
        {"request_hash": bytes(32)},
        {"body_hash": bytes(32)},
    ],
)
def test_a_changed_stamp_is_not_good(change: dict[str, object]) -> None:
    signature = KEY.sign(STAMP.message())
    assert not SignedStamp(replace(STAMP, **change), KEY.public_key, signature).is_good()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *((name, "") for name in STAMP_HEADERS),
        *((name, "x" * 10_000) for name in STAMP_HEADERS),
        *((name, "0l") for name in STAMP_HEADERS),
        *(("koii-slot", text) for text in ("-1", "01", "1.0", "²", str(2**64), "1_0", " 1")),
        ("koii-body-hash", "A" * 64),
        ("koii-body-hash", " " + "0" * 63),
    ],
)
def test_half_a_stamp_is_none(name: str, value: str) -> None:
    headers = dict(stamp_headers(STAMP, KEY))
    assert read_stamp(200, {**headers, name: value}) is None
    del headers[name]
    assert read_stamp(200, headers) is None


@given(st.dictionaries(st.sampled_from(STAMP_HEADERS), st.text(max_size=100)))
def test_no_headers_raise(headers: dict[str, str]) -> None:
    assert read_stamp(200, headers) is None
    found = read_signed_request(headers)
    assert found is None or not found.is_good(b"t" * 32, b"n" * 32, bytes(32))


def test_a_request_is_signed_for_one_node_task_slot_and_body() -> None:
    about = {"task": b"t" * 32, "node": b"n" * 32, "slot": 9}
    headers = sign_request(KEY, method="PUT", target="/task/x?a=1", body=b"body", **about)
    assert is_signed(headers)
    assert is_signed({SIGNATURE: ""})
    assert not is_signed({})
    found = read_signed_request(headers)
    assert found is not None
    assert (found.key, found.slot) == (KEY.public_key, 9)
    hashed = request_hash("PUT", b"/task/x?a=1", b"body")
    assert found.is_good(b"t" * 32, b"n" * 32, hashed)
    assert not found.is_good(b"u" * 32, b"n" * 32, hashed)
    assert not found.is_good(b"t" * 32, b"m" * 32, hashed)
    assert not found.is_good(b"t" * 32, b"n" * 32, request_hash("PUT", b"/task/x?a=1", b"Body"))


def test_where_the_rest_of_a_node_is() -> None:
    assert http_urls(
        (
            "/ip4/203.0.113.7/tcp/30017/http",
            "/ip6/2001:db8::1/tcp/1/http",
            *("/ip4/203.0.113.7/tcp/4001", "/dns4/example.org/tcp/80/http", "/ip4/1/tcp/80/http", ""),
            *("/ip4/::1/tcp/80/http", "/ip4/1.2.3.4/tcp/0/http", "/ip4/1.2.3.4/tcp/70000/http", "x/http"),
            *("/ip6/fe80::1%eth0/tcp/80/http", "/ip4/1.2.3.4/tcp/80/http/p2p/x", "/ip4/1.2.3.4/udp/80/http"),
        )
    ) == ("http://203.0.113.7:30017", "http://[2001:db8::1]:1")
