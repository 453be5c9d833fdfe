"""A blob of one block has the name that IPFS gives to the same bytes: said by js `multiformats`, as Helia uses it."""

from __future__ import annotations

import json
import random
import subprocess
from pathlib import Path

import pytest

from koii_p2p.data.blob import BlobEncoder
from koii_p2p.data.durability import Level
from koii_p2p.records.cid import cid_of, cid_to_text

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

SIZES = (1, 1024, 100_000, 262_144, 1_048_576)


def test_js_names_a_blob_of_one_block_as_we_do(js_folder: Path, tmp_path: Path) -> None:
    datas = [random.Random(size).randbytes(size) for size in SIZES]
    for number, data in enumerate(datas):
        (tmp_path / str(number)).write_bytes(data)
    done = subprocess.run(
        ["node", "cids.mjs"],
        cwd=js_folder,
        input="".join(f"{tmp_path / str(number)}\n" for number in range(len(datas))),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    named = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(named) == len(datas)
    for data, js in zip(datas, named, strict=True):
        for level in Level:
            encoder = BlobEncoder(level.code)
            blocks = encoder.feed(data)
            last, manifest = encoder.finish()
            (block,) = (*blocks, *last)
            assert cid_to_text(manifest.content) == js["text"]
            assert block.entry.cid.hex() == js["bytes"]
        (only,) = BlobEncoder(Level.NONE.code).feed(data) or (None,)
        if only is not None:
            assert only.shards == (data,), "with level none its one shard is the very block"
            assert cid_of(only.shards[0]).hex() == js["bytes"]
