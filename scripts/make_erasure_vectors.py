"""Write tests/data/zfec.json: shards that zfec makes of given data, for the erasure code to make them too.

    pip install zfec==1.6.0.0
    python scripts/make_erasure_vectors.py

zfec is under the GPL (or the TGPPL), so no install of this project brings it: it was run once, and its output is kept.
"""

from __future__ import annotations

import json
from hashlib import shake_256
from importlib.metadata import version
from pathlib import Path
from typing import Final

import zfec

FILE: Final = Path(__file__).resolve().parent.parent / "tests" / "data" / "zfec.json"
CODES: Final = (
    (1, 1),
    (1, 5),
    (2, 3),
    (3, 6),
    (4, 8),
    (8, 24),
    (8, 32),
    (10, 16),
    (100, 200),
    (255, 256),
    (256, 256),
)
SHARD_BYTES: Final = 5


def main() -> None:
    """Write the file."""
    cases = []
    for needed, shards in CODES:
        data = shake_256(f"{needed} of {shards}".encode()).digest(needed * SHARD_BYTES)
        blocks = [data[start : start + SHARD_BYTES] for start in range(0, len(data), SHARD_BYTES)]
        made = zfec.Encoder(needed, shards).encode(blocks)
        cases.append({"k": needed, "n": shards, "data": data.hex(), "shards": b"".join(made).hex()})
    about = f"Shards of {SHARD_BYTES} bytes, joined, as zfec {version('zfec')} makes them of the data."
    FILE.write_text(json.dumps({"about": about, "shard_bytes": SHARD_BYTES, "cases": cases}, indent=1) + "\n")


if __name__ == "__main__":
    main()
