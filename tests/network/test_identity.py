from __future__ import annotations

import subprocess
import sys

import pytest

from koii_p2p.network.identity import key_of_peer_id, peer_id_bytes, peer_id_text
from koii_p2p.records.keys import SecretKey


@pytest.mark.parametrize("number", range(5))
def test_a_peer_id_is_what_libp2p_makes_of_the_same_seed(number: int) -> None:
    from libp2p.crypto.ed25519 import create_new_key_pair
    from libp2p.peer.id import ID

    seed = bytes([number]) * 32
    key = SecretKey.from_seed(seed).public_key
    theirs = ID.from_pubkey(create_new_key_pair(seed).public_key)
    assert peer_id_text(key) == str(theirs)
    assert peer_id_bytes(key) == theirs.to_bytes()
    assert key_of_peer_id(str(theirs)) == key_of_peer_id(theirs.to_bytes()) == key


@pytest.mark.parametrize(
    "text",
    ["", "12D3KooW", "not base58: 0OIl", "QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N", b"", bytes(38)],
)
def test_what_carries_no_ed25519_key_is_refused(text: str | bytes) -> None:
    with pytest.raises(ValueError):
        key_of_peer_id(text)


def test_a_key_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError):
        peer_id_text(bytes(31))


def test_names_and_settings_do_not_load_libp2p() -> None:
    code = (
        "import sys, koii_p2p.network.identity, koii_p2p.network.settings, koii_p2p.network.network;"
        "sys.exit(any(name.partition('.')[0] in ('libp2p', 'multiaddr') for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
