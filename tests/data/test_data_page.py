"""docs/data.md says what the code does: its tables and numbers are those of the code."""

from __future__ import annotations

from koii_p2p.data import challenge, manifest
from koii_p2p.data.blob import AHEAD
from koii_p2p.data.challenge import answer, encode_answer
from koii_p2p.data.durability import DEFAULT_LEVEL, Level
from koii_p2p.data.encryption import OVERHEAD_BYTES, PREFIX_BYTES
from scripts import make_data_page as maker


def test_the_tables_are_up_to_date() -> None:
    text = maker.PAGE.read_text()
    assert maker.page(text) == text, "run scripts/make_data_page.py"


def test_the_text_names_the_numbers_of_the_code() -> None:
    text = " ".join(maker.PAGE.read_text().split())
    assert (manifest.BLOCK_BYTES, manifest.LEAST_BLOCK_BYTES, manifest.MAX_BLOB_BYTES) == (
        2**20,
        2**10,
        2**30,
    )
    assert (manifest.MAX_MANIFEST_BYTES, challenge.LEAF_BYTES, AHEAD) == (4 * 2**20, 2**10, 4)
    assert (OVERHEAD_BYTES, PREFIX_BYTES, DEFAULT_LEVEL) == (16, 16, Level.STANDARD)
    assert round(len(encode_answer(answer(bytes(256 * 1024), 255))) / 1024, 1) == 1.3
    for words in (
        "Blocks** are 1 MiB (1 KiB to 1 MiB may be chosen)",
        "A blob may have 1 GiB",
        "deterministic CBOR of at most 4 MiB",
        "in any order within four blocks",
        "a prefix of 16 random bytes",
        "16 bytes longer by closing",
        "leaves of 1 KiB",
        "1.3 KiB for a shard of 256 KiB",
        "Standard is the default",
    ):
        assert words in text
