from __future__ import annotations

import pytest

from koii_p2p.errors import ConfigurationError
from koii_p2p.network.identity import peer_id_text
from koii_p2p.network.settings import parse_peer_address
from koii_p2p.network.task_bootstrap import CHARACTERS, bootstrap_in, bootstrap_text
from koii_p2p.records.keys import SecretKey
from tests.network.nets import net, until

KEY = SecretKey.from_seed(bytes(32)).public_key
ADDRESS = f"/ip4/203.0.113.7/tcp/4001/p2p/{peer_id_text(KEY)}"
TEXT = "p2p:O2onvM62pC1io6jQKm8Nc2UyFXcd4kOmOsBIoYtZ2ikPocsAcQc"


def test_an_address_is_packed_and_comes_back() -> None:
    assert bootstrap_text(ADDRESS) == TEXT
    assert len(TEXT) == CHARACTERS <= 64
    assert bootstrap_in(TEXT) == parse_peer_address(ADDRESS)


@pytest.mark.parametrize(
    "text",
    [
        "", "bafybeigdyrzt5sfp7udm7hu76uh7y26nf3efuylqabf3oclgtqy55fbzdi", "p2p:", TEXT[:-1], TEXT + "A", TEXT.upper(),
        TEXT[:-1] + "!", TEXT[:-1] + "\u00e9", TEXT[:47] + "AAA" + TEXT[50:],
    ],
)  # fmt: skip
def test_another_text_names_nobody_or_at_least_somebody_else(text: str) -> None:
    found = bootstrap_in(text)
    assert found is None or found.key != KEY or found.transport != "/ip4/203.0.113.7/tcp/4001"


def test_a_port_of_zero_is_none() -> None:
    packed = bootstrap_text(ADDRESS.replace("4001", "0"))
    assert bootstrap_in(packed) is None


@pytest.mark.parametrize(
    "address",
    [
        "/ip4/203.0.113.7/tcp/4001",
        f"/dns4/example.org/tcp/4001/p2p/{peer_id_text(KEY)}",
        f"/ip6/2001:db8::1/tcp/4001/p2p/{peer_id_text(KEY)}",
        f"{ADDRESS}/p2p-circuit/p2p/{peer_id_text(KEY)}",
    ],
)
def test_what_has_no_room_is_refused(address: str) -> None:
    with pytest.raises(ConfigurationError):
        bootstrap_text(address)


async def test_a_node_that_is_told_a_bootstrap_peer_later_connects_to_it() -> None:
    async with net() as running:
        first = await running.add(1)
        second = await running.add(2)
        peer = bootstrap_in(bootstrap_text(first.address))
        assert peer is not None
        second.network.add_bootstrap(peer)
        await until(lambda: first.knows(second) and second.knows(first))
        (status,) = second.network.statistics().discovery.bootstrap
        assert status.connected
