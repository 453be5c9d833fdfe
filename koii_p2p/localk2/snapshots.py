"""A whole chain in one file: saved from a ledger's folder (running or not), restored into an empty one.

The file is a CBOR sequence (RFC 8742) in deterministic encoding (RFC 8949, section 4.2): a header, one item
for each saved row in the order of its key, and last the SHA-256 of everything before it. The same chain gives
the same bytes, whatever happened in its database; a restored chain gives the file it came from.

Whoever starts two K2s from one snapshot has two chains with one genesis: keep them apart.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

import cbor2

from koii_p2p.errors import ConfigurationError
from koii_p2p.localk2.store import FORMAT, HistoryRow, Store, read_rows

MAGIC: Final = "koii_p2p local K2 snapshot"
_VERSION: Final = 1
_DIGEST_BYTES: Final = 32
# 0x58 0x20: CBOR's head of a byte string of 32 bytes, the trailer.
_TRAILER_BYTES: Final = 2 + _DIGEST_BYTES
_HASHED_AT_ONCE: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class SnapshotSummary:
    """What a snapshot holds. `genesis` and `digest` are 32 bytes; `slot` is the newest sealed one."""

    genesis: bytes
    slot: int
    accounts: int
    slots: int
    transactions: int
    digest: bytes
    size: int


def save(folder: Path, file: Path) -> SnapshotSummary:
    """Write the chain of a ledger's folder to a new file: everything sealed, as of one moment.

    Raises:
        ConfigurationError: the folder holds no chain, the file exists or cannot be written.
    """
    what = f"The snapshot {file} cannot be written."
    partial = file.with_name(file.name + ".partial")
    try:
        if file.exists():
            raise ConfigurationError(what, "It exists already.", "Name another file.")
        with read_rows(folder) as rows, _private(partial) as out:
            summary = _write(_Hashed(out), rows.facts, rows.counts, rows.tables)
            out.flush()
            os.fsync(out.fileno())
        partial.rename(file)
    except OSError as error:
        raise ConfigurationError(
            what, f"{error.strerror or error}.", "Name a file that can be made."
        ) from error
    finally:
        partial.unlink(missing_ok=True)
    return summary


def restore(file: Path, folder: Path) -> SnapshotSummary:
    """Make the chain of a snapshot in a folder that holds none.

    Raises:
        ConfigurationError: the file is damaged, no snapshot, or of another version; the folder has a chain.
    """
    size = _checked_size(file)
    if (folder / "ledger.sqlite").exists():
        raise ConfigurationError(
            f"The snapshot {file} cannot be restored into {folder}.",
            "The folder has a chain already.",
            "Give --path a new folder.",
        )
    try:
        with file.open("rb") as opened:
            return _read(opened, size, folder)
    except (cbor2.CBORDecodeError, KeyError, TypeError, ValueError, sqlite3.Error, OverflowError) as error:
        raise _no_snapshot(file, f"Its content cannot be read: {error}") from error
    except OSError as error:
        raise _no_snapshot(file, f"{error.strerror or error}") from error


def _private(file: Path) -> BinaryIO:
    """A new file that only its owner can read: it will hold the faucet's secret key."""
    file.unlink(missing_ok=True)
    return os.fdopen(os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600), "wb")


class _Hashed:
    """A file that remembers the digest and the size of what was written to it."""

    def __init__(self, out: BinaryIO) -> None:
        self._out = out
        self.digest = hashlib.sha256()
        self.size = 0

    def write(self, item: object) -> None:
        content = cbor2.dumps(item, canonical=True)
        self.digest.update(content)
        self.size += len(content)
        self._out.write(content)


def _write(
    out: _Hashed, facts: dict[str, bytes], counts: dict[str, int], tables: Iterator[tuple[Any, ...]]
) -> SnapshotSummary:
    out.write({"magic": MAGIC, "version": _VERSION, "format": FORMAT, "facts": facts, "counts": counts})
    newest = 0
    for row in tables:
        out.write(list(row))
        if row[0] == "slots":
            newest = max(newest, row[1])
    digest = out.digest.digest()
    out.write(digest)
    return SnapshotSummary(
        facts["genesis"],
        newest,
        counts["accounts"],
        counts["slots"],
        counts["transactions"],
        digest,
        out.size,
    )


def _checked_size(file: Path) -> int:
    """The size of what the trailer covers; the file's digest must be that of the trailer."""
    try:
        size = file.stat().st_size - _TRAILER_BYTES
        with file.open("rb") as opened:
            digest = hashlib.sha256()
            left = max(size, 0)
            while left and (chunk := opened.read(min(left, _HASHED_AT_ONCE))):
                digest.update(chunk)
                left -= len(chunk)
            trailer = opened.read()
    except OSError as error:
        raise _no_snapshot(file, f"{error.strerror or error}") from error
    if trailer != b"\x58\x20" + digest.digest():
        raise _no_snapshot(file, "Its digest is not that of its content")
    return size


def _read(opened: BinaryIO, size: int, folder: Path) -> SnapshotSummary:
    decoder = cbor2.CBORDecoder(opened)
    header = decoder.decode()
    if header["magic"] != MAGIC:
        raise ValueError("it is not a snapshot of a local K2")
    if (header["version"], header["format"]) != (_VERSION, FORMAT):
        raise ValueError(f"it has version {header['version']}.{header['format']}")
    facts, counts = header["facts"], header["counts"]
    newest = 0

    def rows() -> Iterator[HistoryRow]:
        nonlocal newest
        for _ in range(sum(counts[table] for table in ("accounts", "slots", "transactions", "addresses"))):
            row = decoder.decode()
            if row[0] == "slots":
                newest = max(newest, row[1])
            yield tuple(row)

    store = Store(folder)
    try:
        store.fill(facts, rows())
    except BaseException:
        store.close()
        for left in folder.glob("ledger.sqlite*"):
            left.unlink()
        raise
    store.close()
    return SnapshotSummary(
        facts["genesis"],
        newest,
        counts["accounts"],
        counts["slots"],
        counts["transactions"],
        decoder.decode(),
        size + _TRAILER_BYTES,
    )


def _no_snapshot(file: Path, why: str) -> ConfigurationError:
    return ConfigurationError(
        f"The snapshot {file} cannot be used.",
        f"{why}.",
        "Save it again from the folder of a ledger (`koii-p2p k2 save FILE`).",
    )
