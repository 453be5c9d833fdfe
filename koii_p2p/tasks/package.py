"""A task's package: the files of its folder as one string of bytes, the same on every machine, named by its CID.

A package is deterministic CBOR (RFC 8949 section 4.2.1), paths ascending by their bytes:

    package = {
      0: 1,                             ; version
      1: [+ [path: tstr, content: bstr]]
    }

and not a tar: one tree has many tars (times, owners, modes, header formats, order), a tar can hold links, devices and
paths that lead out of the folder, and a compressed one grows when it is opened. Here there are names and bytes and
nothing else, a folder has one package and a package one folder, and what is unpacked is no larger than what was sent.
Names are plain ASCII, so that no file system spells them otherwise. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Final

from koii_p2p.records import cbor
from koii_p2p.records.cid import cid_of, cid_to_text
from koii_p2p.records.meanings import Meaning
from koii_p2p.tasks.config_task import FILE_NAME
from koii_p2p.tasks.loader import TASK_FILE

VERSION: Final = 1
MOST_BYTES: Final = 8 * 1024 * 1024
"""Of a whole package."""
MOST_FILES: Final = 512
MOST_PATH_BYTES: Final = 200
MOST_PARTS: Final = 8
"""Of a path: the file's name and the folders that it is in."""
NEEDED: Final = (FILE_NAME, TASK_FILE)
"""Files without which a folder is no task."""

_DEPTH: Final = 3
_PART: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*\Z")
_CACHES: Final = frozenset({"__pycache__", "node_modules"})
_CACHE_ENDINGS: Final = (".pyc", ".pyo")
_KEY_FILE: Final = re.compile(rb"\s*\[(?:\s*\d{1,3}\s*,){63}\s*\d{1,3}\s*\]\s*")
_MOST_KEY_FILE_BYTES: Final = 4096


class PackageReason(Meaning):
    """Why a folder or bytes are no package. The value is the portable name."""

    TOO_LARGE = "too_large", f"More than {MOST_BYTES} bytes."
    TOO_MANY_FILES = "too_many_files", f"More than {MOST_FILES} files."
    MISSING_FILE = "missing_file", "A task's folder has a config-task.yml and a task.py."
    BAD_PATH = (
        "bad_path",
        f"Paths are relative, of at most {MOST_PATH_BYTES} bytes and {MOST_PARTS} names; a name begins with a letter, "
        "a digit or _ and has these and . + - only.",
    )
    HIDDEN = (
        "hidden",
        "Hidden files and caches are no part of a package: a cache would go before the code beside it.",
    )
    SAME_NAME = (
        "same_name",
        "Two paths that some file systems take for one, or a file where a folder has to be.",
    )
    SECRET_KEY = "secret_key", "A file holds a secret key: 64 numbers, as Solana and Koii write it."
    NOT_A_FILE = "not_a_file", "A link, pipe, socket or device."
    UNREADABLE = "unreadable", "A file or folder that the system does not let us read."
    BAD_CBOR = "bad_cbor", "Bytes that are not the one deterministic encoding of anything."
    BAD_SHAPE = "bad_shape", "CBOR, and not a map of the version and a list of paths and contents."
    NOT_SORTED = "not_sorted", "Paths that do not ascend by their bytes, each once."


class PackageError(ValueError):
    """A folder or bytes that are no package, with the `reason`; `str(error)` is for a person."""

    def __init__(self, reason: PackageReason, detail: str = "") -> None:
        super().__init__(f"{detail}: {reason.__doc__}" if detail else reason.__doc__)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Package:
    """A task's files by their paths, ascending, and the bytes that they are sent as; `pack` and `unpack` make it."""

    files: Mapping[str, bytes] = field(repr=False)
    data: bytes = field(repr=False)

    @property
    def cid(self) -> bytes:
        """CID of the bytes: it names the code, and is what the terms on K2 carry."""
        return cid_of(self.data)

    @property
    def name(self) -> str:
        """The CID in text."""
        return cid_to_text(self.cid)


def pack(files: Mapping[str, bytes]) -> Package:
    """The package of these files, by their paths with `/`. Raises `PackageError`."""
    ordered = dict(sorted(files.items(), key=lambda one: one[0].encode("utf-8", "replace")))
    _check(ordered)
    data = cbor.encode(
        {0: VERSION, 1: [[path, content] for path, content in ordered.items()]}, max_depth=_DEPTH
    )
    if len(data) > MOST_BYTES:
        raise PackageError(PackageReason.TOO_LARGE, f"{len(data)} bytes")
    return Package(ordered, data)


def unpack(data: bytes) -> Package:
    """The package that these bytes are; whoever knows its CID compares that first. Raises `PackageError`.

    No bytes but those that `pack` makes are taken, so that both have one CID.
    """
    if len(data) > MOST_BYTES:
        raise PackageError(PackageReason.TOO_LARGE, f"{len(data)} bytes")
    try:
        value = cbor.decode(data, max_bytes=MOST_BYTES, max_depth=_DEPTH)
    except cbor.CborError as error:
        raise PackageError(PackageReason.BAD_CBOR, str(error)) from error
    if not isinstance(value, dict) or value.keys() != {0, 1} or value[0] is True or value[0] != VERSION:
        raise PackageError(PackageReason.BAD_SHAPE)
    files: dict[str, bytes] = {}
    for path, content in _entries(value[1]):
        if files and path <= next(reversed(files)):
            raise PackageError(PackageReason.NOT_SORTED, path[:MOST_PATH_BYTES])
        files[path] = content
    _check(files)
    return Package(files, data)


def is_left_out(name: str) -> bool:
    """Whether a file or folder of this name is hidden or a cache: packing passes it over, unpacking refuses it."""
    return name.startswith(".") or name in _CACHES or name.endswith(_CACHE_ENDINGS)


def check_path(path: str) -> None:
    """Raises `PackageError` for a path that a package may not have."""
    parts = path.split("/")
    if len(path) > MOST_PATH_BYTES or len(parts) > MOST_PARTS:
        raise PackageError(PackageReason.BAD_PATH, path[:MOST_PATH_BYTES])
    for part in parts:
        if is_left_out(part) and part not in (".", ".."):
            raise PackageError(PackageReason.HIDDEN, path)
        if not _PART.match(part):
            raise PackageError(PackageReason.BAD_PATH, repr(path))


def _entries(value: object) -> Iterator[tuple[str, bytes]]:
    if not isinstance(value, list):
        raise PackageError(PackageReason.BAD_SHAPE)
    if len(value) > MOST_FILES:
        raise PackageError(PackageReason.TOO_MANY_FILES, f"{len(value)} files")
    for one in value:
        match one:
            case [str(path), bytes(content)]:
                yield path, content
            case _:
                raise PackageError(PackageReason.BAD_SHAPE)


def _check(files: Mapping[str, bytes]) -> None:
    """Raises `PackageError` for the first rule that these files break."""
    if len(files) > MOST_FILES:
        raise PackageError(PackageReason.TOO_MANY_FILES, f"{len(files)} files")
    spellings: dict[str, str] = {}
    for path in files:
        check_path(path)
        for folder in list(accumulate(path.split("/"), "{}/{}".format))[:-1]:
            if folder in files or spellings.setdefault(folder.lower(), folder) != folder:
                raise PackageError(PackageReason.SAME_NAME, path)
        if spellings.setdefault(path.lower(), path) != path:
            raise PackageError(PackageReason.SAME_NAME, path)
    for needed in NEEDED:
        if needed not in files:
            raise PackageError(PackageReason.MISSING_FILE, f"{needed} is missing")
    for path, content in files.items():
        if _is_secret_key(content):
            raise PackageError(PackageReason.SECRET_KEY, path)


def _is_secret_key(content: bytes) -> bool:
    """Whether this is a key file, which somebody would publish by mistake."""
    return len(content) <= _MOST_KEY_FILE_BYTES and _KEY_FILE.fullmatch(content) is not None
