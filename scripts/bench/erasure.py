"""How fast blocks are coded and put together, beside zfec and reedsolo in the same run, on one core.

    pip install zfec==1.6.0.0       # GPL or TGPPL, so nothing brings it; without it, its ratios are left out
    python scripts/bench/erasure.py [--mib 8] [--out figures.json]

For each durability level: MiB of blob per second. "decode" has the last k shards only, so as much as possible must be
computed; "one_lost" lacks one data shard, which is the usual case. zfec is C; reedsolo is plain Python and does a
64th of the work, at the same numbers of shards. "put" is everything that happens to a blob on its way in: cutting,
coding, hashing every shard twice (its CID, and its Merkle root); with "private", closing the blocks as well.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from random import Random

import reedsolo

from koii_p2p import __version__
from koii_p2p.data.blob import BlobEncoder
from koii_p2p.data.challenge import answer, judge, shard_root
from koii_p2p.data.durability import Level
from koii_p2p.data.encryption import BlockCipher
from koii_p2p.data.erasure import decode, encode
from koii_p2p.data.manifest import BLOCK_BYTES
from koii_p2p.data.placement import holders_of

try:
    import zfec
except ImportError:
    zfec = None

SEED = 1
MIB = 1024 * 1024

Figures = dict[str, object]


def seconds(work: Callable[[], object], repeats: int = 3) -> float:
    """The best of some runs, in seconds of one core: what else runs on the machine does not count."""
    best = float("inf")
    for _ in range(repeats):
        began = time.process_time()
        work()
        best = min(best, time.process_time() - began)
    return best


def measure_level(level: Level, blocks: list[bytes]) -> Figures:
    """One level: ours, and both peers."""
    code, size = level.code, len(blocks) * BLOCK_BYTES / MIB
    coded = [encode(code, block) for block in blocks]
    last = [dict(list(enumerate(shards))[-code.needed :]) for shards in coded]
    but_one = [dict(list(enumerate(shards))[1 : code.needed + 1]) for shards in coded]
    encoding = seconds(lambda: [encode(code, block) for block in blocks])
    decoding = seconds(lambda: [decode(code, shards, BLOCK_BYTES) for shards in last])
    one_lost = seconds(lambda: [decode(code, shards, BLOCK_BYTES) for shards in but_one])
    figures: Figures = {}
    if zfec is not None:
        encoder, decoder = zfec.Encoder(code.needed, code.shards), zfec.Decoder(code.needed, code.shards)
        data = [shards[: code.needed] for shards in coded]
        theirs = seconds(lambda: [encoder.encode(shards) for shards in data])
        back = seconds(lambda: [decoder.decode(list(held.values()), list(held)) for held in last])
        if any(tuple(encoder.encode(shards)) != coded[number] for number, shards in enumerate(data)):
            raise AssertionError("zfec makes other shards")
        figures |= {
            "encode_speed_over_zfec": round(theirs / encoding, 2),
            "decode_speed_over_zfec": round(back / decoding, 2),
            "zfec_encode_mib_per_second": round(size / theirs),
            "zfec_decode_mib_per_second": round(size / back),
        }
    sample = blocks[0][: BLOCK_BYTES // 64]
    columns = [sample[start : start + code.needed] for start in range(0, len(sample), code.needed)]
    codec = reedsolo.RSCodec(code.shards - code.needed)
    slow = seconds(lambda: [codec.encode(column) for column in columns], 1) * 64 * len(blocks)
    return figures | {
        "encode_speed_over_reedsolo": round(slow / encoding),
        "reedsolo_encode_mib_per_second": round(size / slow, 2),
        "encode_mib_per_second": round(size / encoding),
        "decode_mib_per_second": round(size / decoding),
        "one_lost_mib_per_second": round(size / one_lost),
    }


def put(blob: bytes, level: Level, cipher: BlockCipher | None = None) -> None:
    """A blob on its way in, in pieces of 64 KiB."""
    encoder = BlobEncoder(level.code, cipher=cipher)
    for start in range(0, len(blob), 64 * 1024):
        encoder.feed(blob[start : start + 64 * 1024])
    encoder.finish()


def main() -> None:
    """Measure, print, and write the figures if asked to."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--mib", type=int, default=8)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    blob = Random(SEED).randbytes(given.mib * MIB)
    blocks = [blob[start : start + BLOCK_BYTES] for start in range(0, len(blob), BLOCK_BYTES)]
    shard, names = blob[: BLOCK_BYTES // 4], [blob[start : start + 32] for start in range(0, 32_000, 32)]
    root, shown = shard_root(shard), answer(shard, 7)
    cipher = BlockCipher(bytes(32), bytes(16))
    figures = {
        "machine": platform.processor() or platform.machine(),
        "python": sys.version.split()[0],
        "version": __version__,
        "seed": SEED,
        "mib": given.mib,
        "zfec": "compared" if zfec is not None else "not installed",
        **{level.title: measure_level(level, blocks) for level in Level if level.code.shards > 1},
        "put_mib_per_second": {
            level.title: round(given.mib / seconds(partial(put, blob, level))) for level in Level
        },
        "put_private_mib_per_second": round(given.mib / seconds(partial(put, blob, Level.STANDARD, cipher))),
        "shard_root_mib_per_second": round(0.25 / seconds(lambda: shard_root(shard), 20)),
        "answer_ms": round(1000 * seconds(lambda: answer(shard, 7), 20), 2),
        "judge_us": round(1e6 * seconds(lambda: judge(shown, root, len(shard), 7), 50), 1),
        "place_24_shards_on_1000_nodes_ms": round(
            1000 * seconds(lambda: holders_of(b"", b"", names, 24), 5), 2
        ),
    }
    text = json.dumps(figures, indent=1)
    print(text)
    if given.out:
        given.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
