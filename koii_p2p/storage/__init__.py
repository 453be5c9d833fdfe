"""What a node keeps on disk: keys, record log, signing journal, artifacts and task state."""

from __future__ import annotations

from koii_p2p.storage.artifacts import Artifact, Artifacts
from koii_p2p.storage.database import Database
from koii_p2p.storage.faults import LimitExceeded, StorageCorrupt, StorageError, StorageFull, StorageLocked
from koii_p2p.storage.home import Home
from koii_p2p.storage.journal import AlreadySigned, SigningJournal
from koii_p2p.storage.keyfile import load_public, load_secret, save_secret
from koii_p2p.storage.private_file import create_private, read_private, replace_private
from koii_p2p.storage.record_log import LoggedRecord, RecordLog
from koii_p2p.storage.task_store import TaskStore

__all__ = [
    "AlreadySigned",
    "Artifact",
    "Artifacts",
    "Database",
    "Home",
    "LimitExceeded",
    "LoggedRecord",
    "RecordLog",
    "SigningJournal",
    "StorageCorrupt",
    "StorageError",
    "StorageFull",
    "StorageLocked",
    "TaskStore",
    "create_private",
    "load_public",
    "load_secret",
    "read_private",
    "replace_private",
    "save_secret",
]
