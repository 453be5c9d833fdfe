"""The folder of one node: its keys, settings and data, and the lock that keeps it to one process."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from koii_p2p.storage.faults import StorageLocked, os_fault

CHAIN_FOLDER_BYTES = 8
"""Bytes of the genesis hash that name a chain's database folder, in hex."""


@dataclass(frozen=True, slots=True)
class Home:
    """The paths of a home folder. Making one touches nothing; `prepare` makes folders, `locked` locks."""

    path: Path

    @property
    def staking_key(self) -> Path:
        """The key file of the node's identity."""
        return self.path / "staking.json"

    @property
    def wallet_key(self) -> Path:
        """The key file of the main wallet, which pays fees and receives claims."""
        return self.path / "wallet.json"

    @property
    def config(self) -> Path:
        """The settings file."""
        return self.path / "config.toml"

    @property
    def api(self) -> Path:
        """Address and token of the running node's HTTP API."""
        return self.path / "api.json"

    @property
    def metrics_token(self) -> Path:
        """The token that lets Prometheus read the running node's numbers, and nothing else."""
        return self.path / "metrics.token"

    @property
    def database(self) -> Path:
        """The folder of the database."""
        return self.path / "db"

    def database_of(self, genesis: bytes) -> Path:
        """The database of one chain: a promise made on one says nothing about another, even for the same task."""
        return self.database / genesis.hex()[: 2 * CHAIN_FOLDER_BYTES]

    @property
    def data(self) -> Path:
        """The folder of task data: shards and manifests of blobs."""
        return self.path / "data"

    def data_of(self, genesis: bytes) -> Path:
        """The task data of one chain's tasks."""
        return self.data / genesis.hex()[: 2 * CHAIN_FOLDER_BYTES]

    @property
    def peers(self) -> Path:
        """Peers and where they were reached, from one run to the next."""
        return self.path / "peers.json"

    @property
    def logs(self) -> Path:
        """The folder of log files."""
        return self.path / "log"

    @property
    def log(self) -> Path:
        """The log of the node, in lines of JSON; older ones are beside it with a number behind their name."""
        return self.logs / "node.log"

    @property
    def tasks(self) -> Path:
        """The folder that holds a working folder for each task."""
        return self.path / "tasks"

    @property
    def packages(self) -> Path:
        """The code of tasks that came from peers, or is given to them, each under its CID."""
        return self.path / "packages"

    @property
    def trust(self) -> Path:
        """Whose code this node runs: tasks, authors and CIDs, one in a line."""
        return self.path / "trust.txt"

    def prepare(self) -> None:
        """Make the folders that are missing, for the owner only (0700). Raises `StorageError`."""
        for folder in (self.path, self.database, self.data, self.logs, self.tasks):
            try:
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            except OSError as error:
                raise os_fault(f"The home folder {self.path} cannot be made.", folder, error) from error

    def holder(self) -> int | None:
        """The process that keeps the home, or None. Raises `StorageError`.

        It takes a shared lock for an instant, in which another process that starts would be refused.
        """
        path = self.path / "lock"
        try:
            descriptor = os.open(path, os.O_RDONLY)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise os_fault(f"The home folder {self.path} cannot be looked at.", path, error) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            said = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip()
            return int(said) if said.isdecimal() else 0
        finally:
            os.close(descriptor)
        return None

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Prepare the home and keep it for this process; the kernel frees it when the process ends.

        Raises `StorageLocked`, naming the process that has it, or `StorageError`.
        """
        self.prepare()
        path = self.path / "lock"
        what = f"The home folder {self.path} cannot be locked."
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise os_fault(what, path, error) from error
        try:
            self._lock(descriptor, path, what)
            yield
        finally:
            os.close(descriptor)  # frees the lock; the file stays, as removing it would let two processes in

    def _lock(self, descriptor: int, path: Path, what: str) -> None:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        except BlockingIOError as error:
            holder = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip()
            raise StorageLocked(
                f"The home folder {self.path} is in use.",
                f"Process {holder or 'unknown'} runs a node from it, and one identity must not run twice.",
                "Stop that process, or give this one another --home.",
            ) from error
        except OSError as error:
            raise os_fault(what, path, error) from error
