"""Landlock (Linux 5.13 and later): a worker closes the file system to itself, but for what a task needs.

Kernel documentation: userspace-api/landlock. Rights that a kernel does not know yet are left out of the rules, so that
an older one protects as well as it can.
"""

from __future__ import annotations

import ctypes
import os
import struct
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

import koii_p2p

_CREATE_RULESET: Final = 444
_ADD_RULE: Final = 445
_RESTRICT_SELF: Final = 446
"""The same numbers on every machine."""

_VERSION_FLAG: Final = 1
_PATH_BENEATH: Final = 1

EXECUTE: Final = 1 << 0
WRITE_FILE: Final = 1 << 1
READ_FILE: Final = 1 << 2
READ_DIR: Final = 1 << 3
TRUNCATE: Final = 1 << 14
IOCTL_DEV: Final = 1 << 15
_OF_FILES: Final = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEV

_KNOWN: Final = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 4: (1 << 15) - 1, 5: (1 << 16) - 1}
"""Rights over files that each version of Landlock handles; later versions handle no more of them."""

READ: Final = READ_FILE | READ_DIR
_MAKE: Final = 1 << 7 | 1 << 8 | 1 << 12  # folders, files and links
_MAKE_SPECIAL: Final = 1 << 6 | 1 << 9 | 1 << 10 | 1 << 11  # devices, sockets and pipes with names

SYSTEM: Final = (
    "/usr", "/lib", "/lib64", "/etc/ssl", "/etc/ca-certificates", "/etc/pki", "/etc/localtime", "/etc/ld.so.cache",
    "/etc/resolv.conf", "/etc/hosts", "/etc/nsswitch.conf", "/etc/gai.conf", "/etc/services", "/etc/mime.types",
    "/proc/self", "/proc/meminfo", "/proc/cpuinfo", "/proc/stat", "/sys/devices/system/cpu",
    "/dev/urandom", "/dev/random", "/dev/zero", "/dev/null",
)  # fmt: skip
"""What Python and its libraries read of a system; nothing of it is an operator's own."""


def version() -> int:
    """The version of Landlock that this kernel has, 0 if none."""
    found: int = _library().syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint32(_VERSION_FLAG))
    return max(found, 0)


def restrict(readable: Iterable[tuple[Path, int]], writable: Path, *, full: bool = False) -> bool:
    """Close the file system to this thread and those it starts, but for reading here and working in one folder.

    `readable` are paths with the rights there. In a folder that is `full` nothing new is made; it is read and emptied.
    True if the kernel agreed; needs no_new_privs.
    """
    known = _KNOWN.get(min(version(), max(_KNOWN)))
    if known is None:
        return False
    library = _library()
    # struct landlock_ruleset_attr as of version 1: every later kernel takes the shorter one.
    attributes = ctypes.create_string_buffer(struct.pack("=Q", known), 8)
    ruleset = library.syscall(_CREATE_RULESET, attributes, ctypes.c_size_t(8), ctypes.c_uint32(0))
    if ruleset < 0:
        return False
    try:
        for path, rights in readable:
            _allow(library, ruleset, path, rights & known)
        _allow(library, ruleset, Path("/dev/null"), (READ_FILE | WRITE_FILE | TRUNCATE) & known)
        work = known & ~(EXECUTE | _MAKE_SPECIAL | IOCTL_DEV)
        _allow(library, ruleset, writable, work & ~_MAKE if full else work)
        return bool(library.syscall(_RESTRICT_SELF, ruleset, ctypes.c_uint32(0)) == 0)
    finally:
        os.close(ruleset)


def needed_by(task: Path, folder: Path) -> Iterator[tuple[Path, int]]:
    """What the worker of a task reads: the system's libraries, Python, this package, and the task's own code.

    A task that is one file may import the Python files beside it, and sees the names of what else is there. Where one
    of these paths is above the task's working `folder`, it is above the node's home and its keys as well (a home in
    the folder of the task, or of a package that is installed for editing): what leads there is left out.
    """
    for name in SYSTEM:
        yield Path(name), READ
    for name in {sys.prefix, sys.base_prefix, sys.exec_prefix, *sys.path}:
        if name:
            yield from _but_for(Path(name), folder)
    yield Path(koii_p2p.__file__).parent, READ
    if task.is_dir():
        yield from _but_for(task, folder)
        return
    yield task.parent, READ_DIR
    for path in task.parent.glob("*.py"):
        yield path, READ_FILE


def _but_for(path: Path, folder: Path) -> Iterator[tuple[Path, int]]:
    """A path to be read; if a folder is in it, its names and what else is in it, but for what leads to the folder."""
    above, path = {folder.resolve(), *folder.resolve().parents}, path.resolve()
    if path not in above:
        yield path, READ
        return
    yield path, READ_DIR
    for inner in path.iterdir():
        if inner.resolve() not in above:
            yield inner, READ


def _allow(library: ctypes.CDLL, ruleset: int, path: Path, rights: int) -> None:
    """One rule; a path that is not there, or cannot be opened, needs none."""
    try:
        handle = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    try:
        if not path.is_dir():
            rights &= _OF_FILES
        rule = ctypes.create_string_buffer(struct.pack("=Qi", rights, handle), 12)
        if rights:
            library.syscall(_ADD_RULE, ruleset, ctypes.c_int(_PATH_BENEATH), rule, ctypes.c_uint32(0))
    finally:
        os.close(handle)


def _library() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
