from __future__ import annotations

import pytest

from koii_p2p.cli.join import is_local


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:8899", "http://127.9.9.9", "http://localhost:1", "http://[::1]:8899"]
)
def test_loopback_is_local(url: str) -> None:
    assert is_local(url)


@pytest.mark.parametrize(
    "url",
    [
        "https://mainnet.koii.network",
        "http://localhost.example.org",
        "http://127.0.0.1.example.org",
        "http://127.0.0.1@example.org",
        "http://192.168.0.7:8899",
        "http://0.0.0.0:8899",
        "not a url",
    ],
)
def test_everything_else_is_not(url: str) -> None:
    assert not is_local(url)
