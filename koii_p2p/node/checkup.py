"""What can keep a node from working, looked for on this machine: versions, home, keys, disk, files, ports.

Each check returns findings and raises nothing that an operator could mend. `chain_checkup` looks at K2, `reach` at how
others can get to the node.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import socket
import stat
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from importlib import metadata
from pathlib import Path
from typing import Any, Final

from koii_p2p.errors import NetworkError, OperatorError
from koii_p2p.limits import Limits
from koii_p2p.network.containment import check_library
from koii_p2p.storage.home import Home
from koii_p2p.storage.keyfile import is_locked, load_public
from koii_p2p.storage.locked_key import PASSPHRASE_FILE, passphrase_in_file
from koii_p2p.tasks import landlock
from koii_p2p.tasks.confinement import has_seccomp

PACKAGE: Final = "koii_p2p"
PYTHONS: Final = ((3, 11), (3, 12))
LEAST_DISK: Final = 256 << 20
LOW_DISK: Final = 2 << 30
DATABASE_FILES: Final = 1000
"""LevelDB keeps at most so many of its files open (its option max_open_files, as it is by default)."""
ALLOWED_PEERS: Final = 64

_REQUIREMENT: Final = re.compile(r"([\w.-]+)(?:\[[^]]*])?\s*([^;]*)")
_BOUND: Final = re.compile(r"(==|>=|<=|!=|<|>)\s*([\d.]+)$")
_ADDRESS: Final = re.compile(r"/ip([46])/([^/]+)/tcp/(\d+)$")


class Level(StrEnum):
    """How grave a finding is. With an error the node does not work, or not for long."""

    OK = "ok"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found, in sentences, and what to do about it; a finding that is ok needs no remedy."""

    check: str
    level: Level
    what: str
    remedy: str = ""


def ok(check: str, what: str) -> Finding:
    """What is as it should be."""
    return Finding(check, Level.OK, what)


def from_error(check: str, error: OperatorError, level: Level = Level.ERROR) -> Finding:
    """An error as a finding."""
    return Finding(check, level, f"{error.what} {error.why}", error.remedy)


def versions() -> Iterator[Finding]:
    """Python, and every package this one needs: there, and within the versions that it is written for."""
    running = sys.version_info[:2]
    named = f"Python {platform.python_version()}"
    if running in PYTHONS:
        yield ok("python", f"{named}.")
    else:
        wanted = " or ".join(f"{major}.{minor}" for major, minor in PYTHONS)
        yield Finding("python", Level.ERROR, f"This is {named}.", f"Install koii_p2p with Python {wanted}.")
    try:
        needed = [line for line in metadata.requires(PACKAGE) or () if "extra ==" not in line]
    except metadata.PackageNotFoundError:
        remedy = "Run `pip install -e .` in its folder."
        yield Finding("packages", Level.ERROR, "koii_p2p itself is not installed.", remedy)
        return
    wrong = [found for line in needed if (found := _unmet(line))]
    for found in wrong:
        remedy = "Install again, with the tested versions: `pip install -e . -c constraints.txt`."
        yield Finding("packages", Level.ERROR, found, remedy)
    if not wrong:
        yield ok(
            "packages", f"koii_p2p {metadata.version(PACKAGE)}, and the {len(needed)} packages it needs."
        )
    try:
        check_library()
        yield ok("libp2p", f"libp2p {metadata.version('libp2p')}, as this node was written for.")
    except NetworkError as error:
        yield from_error("libp2p", error)


def home_folder(home: Home, answers: bool) -> Iterator[Finding]:
    """The home: there, for its owner only, and who has it; `answers` says whether the API of a node of it does."""
    path = home.path
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        holder = home.holder()
    except FileNotFoundError:
        yield Finding("home", Level.ERROR, f"There is no {path}.", "Make it with `koii-p2p init`.")
        return
    except OSError as error:
        what = f"{path} cannot be looked at: {error.strerror}."
        yield Finding("home", Level.ERROR, what, "Check the path and its permissions.")
        return
    except OperatorError as error:
        yield from_error("home", error)
        return
    if mode & 0o077:
        what = f"Others than its owner may use {path} (mode {mode:04o})."
        yield Finding("home", Level.WARNING, what, f"Run: chmod 700 {path}")
    else:
        yield ok("home", f"{path}.")
    if holder is None:
        yield ok("node", "No node runs from this home; `koii-p2p join` starts one.")
    elif answers:
        yield ok("node", f"Process {holder} runs from this home, and answers.")
    else:
        what = f"Process {holder} keeps this home, but no API of a node answers."
        remedy = "Wait if it is just starting; else look at its log, end it and start it again."
        yield Finding("node", Level.WARNING, what, remedy)


def key_file(name: str, path: Path) -> Finding:
    """A key file: there, private, whole; and if it is locked, whether a node can open it unasked."""
    check = f"{name} key"
    try:
        load_public(path)
        locked = is_locked(path)
        passphrase = passphrase_in_file()
    except OperatorError as error:
        return from_error(check, error)
    if not locked:
        return ok(check, f"{path}: not locked, readable by its owner only.")
    if passphrase is None:
        what = f"{path} is locked, so that a node asks for the passphrase when it starts."
        remedy = f"To start without a terminal, name a private file that has it with {PASSPHRASE_FILE}."
        return Finding(check, Level.WARNING, what, remedy)
    return ok(check, f"{path}: locked; the passphrase is in the file that {PASSPHRASE_FILE} names.")


def disk_space(path: Path) -> Finding:
    """Room on the disk of a folder, or of the nearest one above it that exists."""
    place = next((one for one in (path, *path.parents) if one.exists()), Path("/"))
    free = shutil.disk_usage(place).free
    files = os.statvfs(place).f_favail
    what = f"{free / (1 << 30):.1f} GiB are free on the disk of {place}."
    remedy = "Make room, or give the node a --home on another disk."
    if free < LEAST_DISK or files == 0:
        return Finding(
            "disk", Level.ERROR, what if files else f"No more files fit on the disk of {place}.", remedy
        )
    return Finding("disk", Level.WARNING, what, remedy) if free < LOW_DISK else ok("disk", what)


def confinement() -> Finding:
    """What this kernel holds the workers of tasks to; bubblewrap and control groups are not used."""
    files = landlock.version()
    missing = []
    if not has_seccomp():
        missing.append("seccomp filters, without which a task may use the network")
    if not files:
        missing.append("Landlock, without which a task may read the files that this user may")
    if missing:
        what = f"This kernel does not confine tasks in all ways: it has no {'; no '.join(missing)}."
        remedy = (
            "Run tasks that you trust, or Linux 5.13 or later on x86_64 or aarch64 with Landlock switched on."
        )
        return Finding("task confinement", Level.WARNING, what, remedy)
    return ok(
        "task confinement",
        "Tasks start no process, have no network unless --task-network gives it, and see no files but their own "
        f"(seccomp; Landlock version {files}).",
    )


def open_files(most: int, limits: Limits, now: int | None = None) -> Finding:
    """Whether the limit on open files is enough; `now` are those of a running node."""
    needed = (
        ALLOWED_PEERS * limits.connections_per_peer
        + limits.pending_inbound
        + limits.api_connections
        + DATABASE_FILES
    )
    what = f"The limit on open files is {most}" + ("." if now is None else f"; the node has {now} open.")
    remedy = f"Raise it: `ulimit -n {4 * needed}` before it starts, or LimitNOFILE= in its systemd unit."
    if now is not None and now > most * 9 // 10:
        return Finding("open files", Level.ERROR, what, remedy)
    if most < needed:
        return Finding("open files", Level.WARNING, f"{what} A busy node may need {needed}.", remedy)
    return ok("open files", what)


def free_ports(listen: Sequence[str]) -> Iterator[Finding]:
    """Whether the ports that a node is told to listen on are free. Only for a node that does not run."""
    for text in listen:
        found = _ADDRESS.match(text)
        if found is None or found[3] == "0":
            continue
        family = socket.AF_INET if found[1] == "4" else socket.AF_INET6
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((found[2], int(found[3])))
            except (OSError, OverflowError) as error:
                why = error.strerror if isinstance(error, OSError) else str(error)
                what = f"A node could not listen on {text}: {why}."
                remedy = "Stop the program that has the port (`ss -ltnp` names it), or choose another with --listen."
                yield Finding("ports", Level.ERROR, what, remedy)
            else:
                yield ok("ports", f"{text} is free.")


def running_node(status: Mapping[str, Any]) -> Iterator[Finding]:
    """What a node that runs says of itself: K2's slot, peers, services that failed, what its tasks could not do."""
    slot, network = status["slot"], status["network"]
    if slot["trusted"]:
        yield ok("slot", f"K2's slot is {slot['slot']}, {1000 * slot['slot_seconds']:.0f} ms each.")
    else:
        what = f"The node has not heard K2's slot for {slot['age']:.0f} s, and stands still."
        yield Finding("slot", Level.ERROR, what, "See what is found of K2; it goes on by itself.")
    if network["peers"]:
        yield ok("peers", f"Connected peers: {network['peers']}.")
    else:
        what = "No peer is connected: nobody hears what this node submits."
        yield Finding("peers", Level.WARNING, what, "Name a peer that is up with --bootstrap.")
    restarts, errors = status["supervisor"]["restarts"], status["supervisor"]["last_errors"]
    for name, count in restarts.items():
        what = f"The service {name} failed {count} times, last with: {errors.get(name, 'unknown')}."
        yield Finding("services", Level.WARNING, what, "It was started again; look at the log.")
    for task in status["tasks"]:
        for action, why in task["actions"]["last_failures"].items():
            what = f"Task {task['task']} could not do {action}: {why}"
            yield Finding("task", Level.WARNING, what, "Look at the log; `koii-p2p status` has more.")
        heard = task.get("heard")
        if heard and heard["eclipsed"]:
            what = (
                f"In round {heard['round']} of task {task['task']} records of {len(heard['unheard'])} of "
                f"{heard['expected']} expected stakers were never seen: this node may be cut off (eclipsed)."
            )
            remedy = "Name peers that you trust with --bootstrap, and compare with `koii-p2p explain`."
            yield Finding("eclipse", Level.WARNING, what, remedy)
        if not task["worker"]["running"]:
            failure = task["worker"]["last_failure"]
            what = f"The worker of task {task['task']} does not run: {failure or 'it is being started'}"
            level = Level.ERROR if failure else Level.WARNING
            yield Finding("task", level, what, "Look at the log; `koii-p2p task check` looks at its files.")
    for closed in status["closed_tasks"]:
        yield Finding("task", Level.WARNING, f"Task {closed['task']} is closed.", closed["remedy"])


def _unmet(line: str) -> str | None:
    """What is wrong with a required package, by one line of a package's metadata; None if nothing is."""
    found = _REQUIREMENT.match(line)
    if found is None:
        return None
    name, bounds = found[1], found[2].strip()
    try:
        installed = metadata.version(name)
    except metadata.PackageNotFoundError:
        return f"The package {name} is not installed."
    if all(_holds(installed, bound.strip()) for bound in bounds.split(",") if bound.strip()):
        return None
    return f"The package {name} is {installed}, where {bounds} is needed."


def _holds(installed: str, bound: str) -> bool:
    """Whether a version keeps a bound such as `>=1.2`; bounds of another form are taken to be kept."""
    found = _BOUND.match(bound)
    if found is None:
        return True
    ours, other = _numbers(installed), _numbers(found[2])
    length = max(len(ours), len(other))
    ours, other = ours + (0,) * (length - len(ours)), other + (0,) * (length - len(other))
    return {
        "==": ours == other,
        "!=": ours != other,
        ">=": ours >= other,
        "<=": ours <= other,
        ">": ours > other,
        "<": ours < other,
    }[found[1]]


def _numbers(version: str) -> tuple[int, ...]:
    found = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(int(part) for part in found[0].split(".")) if found else ()
