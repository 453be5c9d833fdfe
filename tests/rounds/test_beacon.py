from __future__ import annotations

from hashlib import sha256

import pytest

from koii_p2p.rounds.beacon import beacon


def test_the_formula() -> None:
    expected = sha256(b"koii-p2p/1 beacon" + b"b" * 32 + b"t" * 32 + (7).to_bytes(8, "little")).digest()
    assert beacon(b"b" * 32, b"t" * 32, 7) == expected


def test_every_argument_matters() -> None:
    values = {
        beacon(b"b" * 32, b"t" * 32, 7),
        beacon(b"c" * 32, b"t" * 32, 7),
        beacon(b"b" * 32, b"u" * 32, 7),
        beacon(b"b" * 32, b"t" * 32, 8),
        beacon(b"b" * 32, b"t" * 32, 2**64 - 1),
    }
    assert len(values) == 5


@pytest.mark.parametrize(
    ("blockhash", "task", "number"),
    [
        (b"", b"t" * 32, 0),
        (b"b" * 32, b"t" * 31, 0),
        (b"b" * 32, b"t" * 32, -1),
        (b"b" * 32, b"t" * 32, 2**64),
    ],
)
def test_other_sizes_are_refused(blockhash: bytes, task: bytes, number: int) -> None:
    with pytest.raises(ValueError):
        beacon(blockhash, task, number)
