"""The ledger on disk: SQLite in WAL mode with synchronous=FULL, one transaction per sealed slot.

What a slot sealed is on the disk before anyone hears that it is confirmed, so `kill -9` loses at most the
slot that was open. One process owns a folder: it holds a lock file, because two ledgers on one database would
fork the chain.
"""

from __future__ import annotations

import fcntl
import json
import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from solders.account import Account
from solders.pubkey import Pubkey
from solders.transaction import VersionedTransaction

from koii_p2p.errors import ChainError, ConfigurationError
from koii_p2p.localk2.transactions import LandedTransaction

FORMAT: Final = 1
_PRUNED_PER_SEAL: Final = 4

_SCHEMA: Final = """
create table if not exists facts(name text primary key, value blob not null) without rowid;
create table if not exists accounts(
    key blob primary key, lamports blob, data blob, owner blob, executable integer, rent_epoch blob
) without rowid;
create table if not exists slots(
    slot integer primary key, blockhash blob, parent integer, time integer, transactions integer
);
create table if not exists transactions(
    signature blob primary key, slot integer, position integer, wire blob, err text, memo text, meta text
) without rowid;
create index if not exists transactions_by_slot on transactions(slot, position);
create table if not exists addresses(
    address blob, slot integer, position integer, signature blob,
    primary key(address, slot desc, position desc)
) without rowid;
create index if not exists addresses_by_slot on addresses(slot);
"""


@dataclass(frozen=True, slots=True)
class SealedSlot:
    """A closed slot: its blockhash (32 bytes), the slot before it, unix time, how many transactions."""

    slot: int
    blockhash: bytes
    parent: int
    time: int
    transactions: int


@dataclass(frozen=True, slots=True)
class StoredTransaction:
    """A transaction read back. `block_time` is unix seconds."""

    signature: bytes
    slot: int
    block_time: int
    wire: bytes
    meta: dict[str, Any]

    def named_keys(self) -> tuple[bytes, ...]:
        """Every account it names: those in the message, then those its lookup tables gave."""
        own = VersionedTransaction.from_bytes(self.wire).message.account_keys
        loaded = self.meta["loadedAddresses"]
        others = (bytes(Pubkey.from_string(key)) for key in (*loaded["writable"], *loaded["readonly"]))
        return (*(bytes(key) for key in own), *others)


@dataclass(frozen=True, slots=True)
class HistoryLine:
    """One transaction that names an address."""

    signature: bytes
    slot: int
    err: Any
    memo: str | None
    block_time: int


HistoryRow = tuple[Any, ...]
"""A saved row: the name of its table, then its columns."""

_ROWS_IN_ORDER: Final = {
    "accounts": "select * from accounts order by key",
    "slots": "select * from slots order by slot",
    "transactions": "select * from transactions order by slot, position",
    "addresses": "select * from addresses order by address, slot, position",
}


@dataclass(frozen=True, slots=True)
class SavedRows:
    """Everything in a database, at one moment: facts, how many rows each table has, and the rows."""

    facts: dict[str, bytes]
    counts: dict[str, int]
    tables: Iterator[HistoryRow]


class Store:
    """One ledger's database. Synchronous; used from one task."""

    def __init__(self, folder: Path) -> None:
        """Open (or make) the ledger in a folder.

        Raises:
            ConfigurationError: the folder cannot be used, another process has it, or the database is damaged.
        """
        self._folder = folder
        self._lock = _lock_folder(folder)
        try:
            self._database = self._open(folder / "ledger.sqlite")
        except BaseException:
            os.close(self._lock)
            raise

    def close(self) -> None:
        """Close the database and give the folder free. Closing twice is allowed."""
        if self._lock >= 0:
            self._database.close()
            os.close(self._lock)
            self._lock = -1

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Inside this, a damaged database is a `ConfigurationError` (used while a ledger is loaded)."""
        try:
            yield
        except (sqlite3.DatabaseError, json.JSONDecodeError, TypeError, ValueError) as error:
            raise _damaged(self._folder, error) from error

    # -- writing

    def put_facts(self, facts: Mapping[str, bytes]) -> None:
        """Remember named values, durably."""
        with self._writing():
            self._database.executemany("insert or replace into facts values(?, ?)", facts.items())

    def seal(
        self,
        slot: SealedSlot,
        transactions: Iterable[LandedTransaction],
        accounts: Mapping[Pubkey, Account | None],
        keep_from: int,
    ) -> None:
        """Write a closed slot, its transactions and the accounts it changed; forget some before `keep_from`.

        Raises:
            ChainError: the disk is full or broken. Nothing of the slot was written.
        """
        with self._writing():
            self._database.execute(
                "insert into slots values(?, ?, ?, ?, ?)",
                (slot.slot, slot.blockhash, slot.parent, slot.time, slot.transactions),
            )
            for one in transactions:
                self._database.execute(
                    "insert into transactions values(?, ?, ?, ?, ?, ?, ?)",
                    (
                        one.signature,
                        slot.slot,
                        one.index,
                        one.wire,
                        json.dumps(one.err),
                        one.memo,
                        json.dumps(one.meta),
                    ),
                )
                self._database.executemany(
                    "insert or ignore into addresses values(?, ?, ?, ?)",
                    [(key, slot.slot, one.index, one.signature) for key in one.keys],
                )
            for key, account in accounts.items():
                self._write_account(bytes(key), account)
            self._prune(keep_from)

    def rewind(
        self, slot: int, accounts: Mapping[Pubkey, Account | None], facts: Mapping[str, bytes]
    ) -> list[bytes]:
        """Undo every slot after `slot`: its transactions, and its accounts, which become what is given.

        Returns the undone transactions in their order.

        Raises:
            ChainError: the disk is full or broken. Nothing was undone.
        """
        with self._writing():
            undone = self._database.execute(
                "select wire from transactions where slot > ? order by slot, position", (slot,)
            ).fetchall()
            for table in ("addresses", "transactions", "slots"):
                self._database.execute(f"delete from {table} where slot > ?", (slot,))
            for key, account in accounts.items():
                self._write_account(bytes(key), account)
            self._database.executemany("insert or replace into facts values(?, ?)", facts.items())
        return [bytes(wire) for (wire,) in undone]

    def prune(self, keep_from: int) -> int:
        """Forget every slot before `keep_from` at once; returns how many transactions are left."""
        with self._writing():
            for table in ("addresses", "transactions", "slots"):
                self._database.execute(f"delete from {table} where slot < ?", (keep_from,))
        return self.transaction_count()

    def fill(self, facts: Mapping[str, bytes], rows: Iterable[HistoryRow]) -> None:
        """Write saved rows into a new database, all or none.

        Raises:
            ChainError: the disk is full or broken.
            KeyError, TypeError, sqlite3.Error: a row that no ledger has saved.
        """
        with self._writing():
            self._database.executemany("insert into facts values(?, ?)", facts.items())
            for table, *columns in rows:
                marks = ", ".join("?" * len(columns))
                if table not in _ROWS_IN_ORDER:
                    raise KeyError(f"unknown table {str(table)[:40]}")
                self._database.execute(f"insert into {table} values({marks})", columns)

    def _write_account(self, key: bytes, account: Account | None) -> None:
        if account is None or account.lamports == 0:
            self._database.execute("delete from accounts where key = ?", (key,))
            return
        # Unsigned 64-bit numbers do not fit SQLite's signed integers.
        lamports = account.lamports.to_bytes(8, "big")
        rent_epoch = account.rent_epoch.to_bytes(8, "big")
        self._database.execute(
            "insert or replace into accounts values(?, ?, ?, ?, ?, ?)",
            (key, lamports, bytes(account.data), bytes(account.owner), int(account.executable), rent_epoch),
        )

    def _prune(self, keep_from: int) -> None:
        """Forget a few of the oldest slots: each seal adds one, so a few per seal keep up without a stall."""
        rows = self._database.execute(
            "select slot from slots where slot < ? order by slot limit ?", (keep_from, _PRUNED_PER_SEAL)
        ).fetchall()
        for (slot,) in rows:
            self._database.execute("delete from addresses where slot = ?", (slot,))
            self._database.execute("delete from transactions where slot = ?", (slot,))
            self._database.execute("delete from slots where slot = ?", (slot,))

    # -- reading

    def fact(self, name: str) -> bytes | None:
        """A remembered value, or None."""
        row = self._database.execute("select value from facts where name = ?", (name,)).fetchone()
        return None if row is None else bytes(row[0])

    def accounts(self) -> Iterator[tuple[bytes, Account]]:
        """Every saved account; programs last (see `Bank.restore`)."""
        query = (
            "select key, lamports, data, owner, executable, rent_epoch from accounts order by executable, key"
        )
        for key, lamports, data, owner, executable, rent_epoch in self._database.execute(query):
            balance = int.from_bytes(lamports, "big")
            epoch = int.from_bytes(rent_epoch, "big")
            yield key, Account(balance, data, Pubkey(owner), bool(executable), epoch)

    def slot(self, slot: int) -> SealedSlot | None:
        """A sealed slot, or None."""
        row = self._database.execute(
            "select slot, blockhash, parent, time, transactions from slots where slot = ?", (slot,)
        ).fetchone()
        return None if row is None else SealedSlot(*row)

    def newest_slots(self, count: int) -> list[SealedSlot]:
        """The last sealed slots, oldest first."""
        rows = self._database.execute(
            "select slot, blockhash, parent, time, transactions from slots order by slot desc limit ?",
            (count,),
        ).fetchall()
        return [SealedSlot(*row) for row in reversed(rows)]

    def slots_between(self, first: int, last: int, limit: int) -> list[int]:
        """Numbers of the sealed slots in [first, last], ascending, at most `limit`."""
        rows = self._database.execute(
            "select slot from slots where slot between ? and ? order by slot limit ?", (first, last, limit)
        )
        return [row[0] for row in rows]

    def first_slot(self) -> int:
        """The oldest slot still kept."""
        row = self._database.execute("select min(slot) from slots").fetchone()
        return int(row[0] or 0)

    def transaction_count(self) -> int:
        """How many transactions are kept."""
        return int(self._database.execute("select count(*) from transactions").fetchone()[0])

    def statuses_since(self, slot: int) -> list[tuple[bytes, int, Any]]:
        """(signature, slot, error) of every transaction from a slot on, in order."""
        rows = self._database.execute(
            "select signature, slot, err from transactions where slot >= ? order by slot, position", (slot,)
        )
        return [(signature, at, json.loads(err)) for signature, at, err in rows]

    def status(self, signature: bytes) -> tuple[int, Any] | None:
        """(slot, error) of a sealed transaction, or None."""
        row = self._database.execute(
            "select slot, err from transactions where signature = ?", (signature,)
        ).fetchone()
        return None if row is None else (row[0], json.loads(row[1]))

    def transaction(self, signature: bytes) -> StoredTransaction | None:
        """A sealed transaction, or None."""
        found = self._transactions("t.signature = ?", signature)
        return found[0] if found else None

    def transactions_of(self, slot: int) -> list[StoredTransaction]:
        """The transactions of a sealed slot, in order."""
        return self._transactions("t.slot = ?", slot)

    def _transactions(self, where: str, value: Any) -> list[StoredTransaction]:
        rows = self._database.execute(
            "select t.signature, t.slot, s.time, t.wire, t.meta from transactions t"
            f" join slots s on s.slot = t.slot where {where} order by t.position",
            (value,),
        )
        return [
            StoredTransaction(signature, slot, block_time, wire, json.loads(meta))
            for signature, slot, block_time, wire, meta in rows
        ]

    def history(
        self, address: bytes, last_slot: int, limit: int, *, before: bytes | None, until: bytes | None
    ) -> list[HistoryLine]:
        """The transactions that name an address, newest first: older than `before`, newer than `until`."""
        query = (
            "select a.signature, a.slot, t.err, t.memo, s.time from addresses a"
            " join transactions t on t.signature = a.signature join slots s on s.slot = a.slot"
            " where a.address = ? and a.slot <= ?"
        )
        values: list[Any] = [address, last_slot]
        for signature, sign in ((before, "<"), (until, ">")):
            place = None if signature is None else self._place(signature)
            if place is not None:
                query += f" and (a.slot, a.position) {sign} (?, ?)"
                values += place
        query += " order by a.slot desc, a.position desc limit ?"
        rows = self._database.execute(query, [*values, limit])
        return [HistoryLine(name, slot, json.loads(err), memo, time) for name, slot, err, memo, time in rows]

    def _place(self, signature: bytes) -> tuple[int, int] | None:
        row = self._database.execute(
            "select slot, position from transactions where signature = ?", (signature,)
        ).fetchone()
        return None if row is None else (row[0], row[1])

    # -- the file

    def _open(self, path: Path) -> sqlite3.Connection:
        try:
            database = sqlite3.connect(path, isolation_level=None)
            os.chmod(path, 0o600)
            format_found = database.execute("pragma user_version").fetchone()[0]
            if format_found not in (0, FORMAT):
                raise ConfigurationError(
                    f"The local K2's ledger {path} has format {format_found}.",
                    f"This version reads format {FORMAT}.",
                    "Use another --path, or delete the folder to start a new chain.",
                )
            database.executescript(f"pragma journal_mode = wal; pragma synchronous = full; {_SCHEMA}")
            database.execute(f"pragma user_version = {FORMAT}")
        except (sqlite3.Error, OSError) as error:
            raise _damaged(self._folder, error) from error
        return database

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            self._database.execute("begin immediate")
            try:
                yield
            except BaseException:
                if self._database.in_transaction:  # on a full disk SQLite has rolled back by itself
                    self._database.execute("rollback")
                raise
            self._database.execute("commit")
        except sqlite3.Error as error:
            raise ChainError(
                f"The local K2 cannot write its ledger in {self._folder}.",
                f"The database says: {error}.",
                "Free disk space or repair the disk, then start it again; every sealed slot is kept.",
            ) from error


@contextmanager
def read_rows(folder: Path) -> Iterator[SavedRows]:
    """Everything sealed in a folder's ledger, as of one moment; a process may be running it.

    Raises:
        ConfigurationError: there is no ledger, or its database is damaged.
    """
    path = folder / "ledger.sqlite"
    if not path.exists():
        raise ConfigurationError(
            f"There is no local K2 in {folder}.",
            "The folder has no ledger.",
            "Name the folder of `koii-p2p k2 up` with --path.",
        )
    database = None
    try:
        database = sqlite3.connect(path, isolation_level=None)
        database.execute("begin")
        facts = {name: bytes(value) for name, value in database.execute("select name, value from facts")}
        counts = {
            table: int(database.execute(f"select count(*) from {table}").fetchone()[0])
            for table in _ROWS_IN_ORDER
        }
        rows = ((table, *row) for table, query in _ROWS_IN_ORDER.items() for row in database.execute(query))
        yield SavedRows(facts, counts, rows)
    except sqlite3.Error as error:
        raise _damaged(folder, error) from error
    finally:
        if database is not None:
            database.close()


def _damaged(folder: Path, error: Exception) -> ConfigurationError:
    return ConfigurationError(
        f"The local K2's ledger in {folder} cannot be read.",
        f"The database is damaged or not accessible: {error}.",
        "Restore the folder from a copy, or delete it to start a new chain.",
    )


def _lock_folder(folder: Path) -> int:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ConfigurationError(
            f"The local K2 cannot use the folder {folder}.",
            f"{error.strerror}.",
            "Give --path a folder that can be written.",
        ) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        holder = os.read(descriptor, 32).decode(errors="replace").strip() or "unknown"
        os.close(descriptor)
        raise ConfigurationError(
            f"The local K2's ledger in {folder} is in use.",
            f"The process with id {holder} has it open.",
            "Stop that process, or give another --path.",
        ) from error
    os.ftruncate(descriptor, 0)
    os.write(descriptor, str(os.getpid()).encode())
    return descriptor
