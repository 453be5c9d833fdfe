"""Keys in RPC URLs: wherever a node is named, in errors, statistics and logs, they are not."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import structlog
import trio
from hypothesis import given
from hypothesis import strategies as st

from koii_p2p.errors import ChainError, ConfigurationError
from koii_p2p.settlement.rpc import RpcClient, RpcDisagreement, RpcProtocolError, RpcUnreachable
from koii_p2p.settlement.rpc_urls import shown_url

from .test_rpc import QUICK, Node, result

SECRET = "sesame0123456789"
URLS = ("http://{secret}:{secret}@{host}", "http://{host}/v2/{secret}", "http://{host}?api-key={secret}")


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://127.0.0.1:8899/", "http://127.0.0.1:8899"),
        ("https://me:word@a.example/rpc?key=x#y", "https://a.example/rpc"),
        ("https://a.example/v2/0123456789abcdef/", "https://a.example/v2/..."),
        ("https://[::1]:8899", "https://[::1]:8899"),
        ("2", "..."),
        ("http://", "..."),
        ("http://[::1", "..."),
        ("sesame", "..."),
    ],
)
def test_what_is_shown(url: str, shown: str) -> None:
    assert shown_url(url) == shown


@given(st.text(), st.sampled_from(["{}", "http://{}", "http://{}@a/", "http://a/{}", "http://a?{}"]))
def test_anything_can_be_shown(text: str, around: str) -> None:
    shown_url(around.format(text))


@pytest.mark.parametrize("form", URLS)
async def test_no_key_is_in_errors_statistics_or_logs(
    form: str, nursery: trio.Nursery, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    said: list[str] = []
    with structlog.testing.capture_logs() as logs:
        wrong, right = [await nursery.start(Node(result(value)).run) for value in ("x", 5)]
        gone, nonsense, good = (
            form.format(secret=SECRET, host=host)
            for host in ("127.0.0.1:1", wrong.url.partition("//")[2], right.url.partition("//")[2])
        )
        for urls, kind in (
            ([gone], RpcUnreachable),
            ([nonsense], RpcProtocolError),
            ([good, nonsense, gone], ChainError),
        ):
            async with RpcClient(urls, limits=QUICK) as client:
                with pytest.raises(kind) as caught:
                    await client.get_slot()
                said += [str(caught.value), repr(caught.value), client.url, repr(client.nodes())]
                said += [repr(await client.survey())]
        nursery.cancel_scope.cancel()
    assert not any(SECRET in text for text in (*said, *map(repr, logs)))
    assert "127.0.0.1:1" in said[0]
    ours = [line for line in caplog.records if line.name.startswith("koii_p2p")]
    assert not any(SECRET in line.getMessage() for line in ours)


@pytest.mark.parametrize("url", [f"htp://a/{SECRET}", f"http://a:{SECRET}", f"http:///?{SECRET}", SECRET])
def test_a_url_that_cannot_be_used_keeps_its_key(url: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        RpcClient(url)
    assert SECRET not in str(caught.value)


def test_a_disagreement_names_nodes_without_their_keys(tmp_path: Path) -> None:
    async def ask() -> str:
        async with trio.open_nursery() as nursery:
            nodes = [await nursery.start(Node(result(value)).run) for value in ("1" * 43, "1" * 44)]
            async with RpcClient([f"{node.url}/{SECRET}" for node in nodes], limits=QUICK) as client:
                with pytest.raises(ChainError) as caught:
                    await client.agree("getText", [], lambda value: value)
            nursery.cancel_scope.cancel()
        assert isinstance(caught.value, RpcDisagreement)
        return str(caught.value)

    said = trio.run(ask)
    assert SECRET not in said
    assert "/..." in said
