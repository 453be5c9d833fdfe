"""Tables of runs as Polars frames and as Parquet: the same bytes for the same run, whoever plays it.

The columns are those of `result.TABLES`, or of `gossip_result.GOSSIP_TABLES` for gossip alone; a frame of several runs
has the arm and the seed before them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from hashlib import sha256
from io import BytesIO
from typing import Any, Final

import polars as pl

from koii_p2p.lab.gossip_result import GOSSIP_TABLES, GossipResult
from koii_p2p.lab.pooling import metrics_of_frames
from koii_p2p.lab.result import TABLES, Frame, Metric, Result
from koii_p2p.lab.scenario import EngineKind

_TEXTS: Final = ("behaviour", "outcome", "key", "verdict", "kind")
_FLAGS: Final = ("fraud", "canary", "committed", "misbehaves", "due", "right", "caught")
_SHARES: Final = ("catch",)
_KEYS: Final = {"arm": pl.String(), "seed": pl.Int64()}

SCHEMAS: Final[Mapping[str, Mapping[str, pl.DataType]]] = {
    table: {
        name: pl.String()
        if name in _TEXTS
        else pl.Boolean()
        if name in _FLAGS
        else pl.Float64()
        if name in _SHARES
        else pl.Int64()
        for name in columns
    }
    for table, columns in TABLES.items()
} | {table: dict.fromkeys(columns, pl.Int64()) for table, columns in GOSSIP_TABLES.items()}
"""Types of the columns of each table: what is no text, flag or share is a whole number."""

METRICS: Final[Mapping[str, pl.DataType]] = {
    "name": pl.String(),
    "value": pl.Float64(),
    "unit": pl.String(),
    "definition": pl.String(),
    "count": pl.Int64(),
    "low": pl.Float64(),
    "high": pl.Float64(),
    "closed_form": pl.Float64(),
    "formula": pl.String(),
}
"""Types of the columns of a frame of metrics: those of `result.Metric`."""


@dataclass(frozen=True, slots=True)
class Part:
    """One run as bytes: Parquet by table, its metrics as JSON, and the digest of its result.

    `code` is the digest of the code that played it, `seconds` the time it took, and `events` how many there were.
    """

    tables: Mapping[str, bytes]
    metrics: bytes
    digest: str
    code: str
    seconds: float
    events: int


def tables_of_engine(engine: EngineKind) -> tuple[str, ...]:
    """Names of the tables that a run of an engine comes to."""
    return tuple(GOSSIP_TABLES if engine is EngineKind.GOSSIP else TABLES)


def frame_of(table: str, columns: Frame) -> pl.DataFrame:
    """A table of a result as a Polars frame."""
    return pl.DataFrame(columns, schema=dict(SCHEMAS[table]), strict=True)


def parquet(frame: pl.DataFrame) -> bytes:
    """A frame as the bytes of a Parquet file."""
    stream = BytesIO()
    frame.write_parquet(stream, compression="zstd", statistics=True)
    return stream.getvalue()


def encode(result: Result | GossipResult, code: str, seconds: float) -> Part:
    """A run as bytes."""
    frames = {name: frame_of(name, frame) for name, frame in result.frames.items()}
    tables = {name: parquet(frame) for name, frame in frames.items()}
    metrics = json.dumps([asdict(metric) for metric in metrics_of_frames(frames, result.scenario)]).encode()
    return Part(tables, metrics, result.digest, code, seconds, result.events)


def metrics_read(data: bytes) -> tuple[Metric, ...]:
    """The metrics of a part. Raises ValueError for bytes that are none."""
    found = json.loads(data)
    names = {one.name for one in fields(Metric)}
    if not isinstance(found, list) or not all(isinstance(one, dict) and one.keys() <= names for one in found):
        raise ValueError("it is no list of metrics")
    return tuple(Metric(**one) for one in found)


def metric_frame(
    rows: Iterable[tuple[Mapping[str, Any], Metric]], keys: Mapping[str, pl.DataType]
) -> pl.DataFrame:
    """Metrics as a frame, each with the columns of `keys` before it."""
    schema: dict[str, pl.DataType] = {**keys, **METRICS}
    return pl.DataFrame(
        [{**said, **{name: getattr(metric, name) for name in METRICS}} for said, metric in rows],
        schema=schema,
    )


def together(table: str, parts: Iterable[tuple[str, int, pl.DataFrame]]) -> pl.DataFrame:
    """The frames of one table of several runs, (arm, seed, frame), one below the other."""
    frames = [
        frame.select(pl.lit(arm).alias("arm"), pl.lit(seed, pl.Int64()).alias("seed"), pl.all())
        for arm, seed, frame in parts
    ]
    schema: dict[str, pl.DataType] = {**_KEYS, **SCHEMAS[table]}
    return pl.concat(frames) if frames else pl.DataFrame(schema=schema)


def digest(data: bytes) -> str:
    """SHA-256 (hexadecimal) of a file's bytes."""
    return sha256(data).hexdigest()
