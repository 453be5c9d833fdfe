"""A testnet's folder: where everything of it lies, which processes it has, and the lock that keeps it to one run.

lock  testnet.json  conditions.json  creator.json  k2/  node-00/ ...  logs/  evidence/
"""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from koii_p2p.errors import ConfigurationError
from koii_p2p.storage.faults import os_fault
from koii_p2p.storage.home import Home
from koii_p2p.storage.private_file import read_private, replace_private
from koii_p2p.testnets.expect_table import NOTHING_MORE, Expect
from koii_p2p.testnets.identity import NodeIdentity
from koii_p2p.testnets.process_mark import ProcessMark

_MOST_STATE_BYTES: Final = 1024 * 1024
_STATE: Final = "testnet.json"
_CONDITIONS: Final = "conditions.json"
_OURS: Final = ("creator.json", "k2", "logs", "evidence", _CONDITIONS, _STATE)


@dataclass(frozen=True, slots=True)
class State:
    """What `testnet.json` says: enough for another shell to look at a testnet, check it and end it.

    `supervisor` is the process of `testnet up`; `processes` are its children by name ("k2", "node-00"). Keys are
    base58. `rounds` is how many are to be settled, from round `first` on, and `expect` what has to be so then.
    `control` is where `testnet chaos` is heard, and the token it needs, while a testnet goes on after its check.
    `code` is the path of the task that its nodes run.
    """

    supervisor: ProcessMark
    processes: dict[str, ProcessMark] = dataclasses.field(default_factory=dict)
    k2_url: str | None = None
    task: str | None = None
    rounds: int = 0
    first: int = 0
    nodes: tuple[NodeIdentity, ...] = ()
    expect: Expect = NOTHING_MORE
    control: tuple[str, int, str] | None = None
    code: str | None = None


@dataclass(frozen=True, slots=True)
class NetFolder:
    """The paths of one testnet. Making it touches nothing."""

    path: Path

    @property
    def k2(self) -> Path:
        """The ledger of the local K2."""
        return self.path / "k2"

    @property
    def creator_key(self) -> Path:
        """The key file of the task's creator, who also settles what is left open."""
        return self.path / "creator.json"

    @property
    def conditions(self) -> Path:
        """What the links between the nodes are like; they watch it."""
        return self.path / _CONDITIONS

    @property
    def logs(self) -> Path:
        """One `.log` file (stderr) and one `.out` file (stdout) for each process."""
        return self.path / "logs"

    @property
    def evidence(self) -> Path:
        """What the check at the end was made from; `testnet check --evidence` makes it again."""
        return self.path / "evidence"

    def home(self, name: str) -> Home:
        """The home of a node."""
        return Home(self.path / name)

    def trace(self, name: str) -> Path:
        """Where a node notes the records that it signs and hears, in a testnet that is traced."""
        return self.path / name / "trace.jsonl"

    def log(self, name: str) -> Path:
        """The log file of a process."""
        return self.logs / f"{name}.log"

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep the folder for this process; the kernel frees it when the process ends, however it ends.

        Raises `ConfigurationError` when a testnet runs in it, `StorageError` when it cannot be made.
        """
        descriptor = self._open_lock()
        try:
            if not _take(descriptor):
                raise ConfigurationError(
                    f"A testnet is running in {self.path} already.",
                    f"Process {self.holder() or 'unknown'} started it.",
                    "End it with `koii-p2p testnet down`, or give this one another --dir.",
                )
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
            yield
        finally:
            os.close(descriptor)

    def is_held(self) -> bool:
        """Whether a testnet runs in this folder."""
        if not (self.path / "lock").exists():
            return False
        descriptor = self._open_lock()
        try:
            return not _take(descriptor)
        finally:
            os.close(descriptor)

    def holder(self) -> str:
        """The number of the process that runs, or last ran, a testnet here; empty if unknown."""
        try:
            return (self.path / "lock").read_text()[:32].strip()
        except (OSError, UnicodeDecodeError):
            return ""

    def clear(self) -> bool:
        """Remove what an earlier testnet left; return whether there was one. Call while held.

        Only names that a testnet makes are removed. Raises `ConfigurationError` if there is anything else, so
        that a folder named by mistake is never emptied; `StorageError` if something cannot be removed.
        """
        found = [entry for entry in self.path.iterdir() if entry.name != "lock"]
        ours = [entry for entry in found if entry.name in _OURS or entry.name.startswith("node-")]
        if len(ours) < len(found) or (ours and not (self.path / _STATE).exists()):
            other = next((entry.name for entry in found if entry not in ours), ours[0].name if ours else "")
            raise ConfigurationError(
                f"The folder {self.path} is not a testnet's.",
                f"It holds {other!r}, and a testnet removes what an earlier one left in its folder.",
                "Give --dir an empty folder, or one that does not exist yet.",
            )
        try:
            for entry in sorted(ours, key=lambda entry: entry.name == _STATE):  # the mark goes last
                if entry.is_dir() and not entry.is_symlink():
                    shutil.rmtree(entry)
                else:
                    entry.unlink()
        except OSError as error:
            raise os_fault(f"The testnet in {self.path} cannot be removed.", self.path, error) from error
        return bool(ours)

    def write(self, state: State) -> None:
        """Replace `testnet.json`. Raises `StorageError`."""
        replace_private(self.path / _STATE, json.dumps(dataclasses.asdict(state), indent=1).encode())

    def read(self) -> State | None:
        """What `testnet.json` says, or None if there is none. Raises `ConfigurationError` if it is damaged."""
        path = self.path / _STATE
        if not path.exists():
            return None
        try:
            return _state(json.loads(read_private(path, max_bytes=_MOST_STATE_BYTES)))
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigurationError(
                f"The file {path} cannot be used.",
                f"It is not what a testnet writes: {error}.",
                "Remove the folder, and any process of its testnet that still runs.",
            ) from error

    def _open_lock(self) -> int:
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            return os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise os_fault(f"The folder {self.path} cannot be used.", self.path, error) from error


def _take(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _state(fields: dict[str, Any]) -> State:
    supervisor = ProcessMark(**fields["supervisor"])
    control = fields.get("control")
    return State(
        supervisor=supervisor,
        processes={str(name): ProcessMark(**mark) for name, mark in fields["processes"].items()},
        k2_url=fields["k2_url"],
        task=fields["task"],
        rounds=int(fields["rounds"]),
        first=int(fields["first"]),
        nodes=tuple(NodeIdentity(**node) for node in fields["nodes"]),
        expect=Expect(**fields.get("expect", {})),
        control=None if control is None else (str(control[0]), int(control[1]), str(control[2])),
        code=None if fields.get("code") is None else str(fields["code"]),
    )
