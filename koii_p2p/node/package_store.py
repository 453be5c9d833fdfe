"""The packages that a node has on disk: each under its CID, whole or not there.

    packages/CID/package.cbor       what is given to peers
    packages/CID/task/              the files, which workers run

A package is written beside its place and moved there in one step, so that whatever ends the process in between leaves
nothing of that name. Both parts are compared with the CID whenever a node is about to use them. Everything here blocks.
"""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Final

import structlog

from koii_p2p.records.cid import CidError, cid_from_text, cid_of, cid_to_text
from koii_p2p.storage.faults import os_fault
from koii_p2p.tasks.package import MOST_BYTES, Package, PackageError, unpack
from koii_p2p.tasks.package_folder import pack_folder, sync_folder, write_folder, write_new

log = structlog.get_logger(__name__)

DATA: Final = "package.cbor"
FOLDER: Final = "task"
_UNFINISHED: Final = ".unfinished-"


class PackageStore:
    """Packages under a folder, which is made when the first is kept. Methods raise `StorageError`."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def folder(self, cid: bytes) -> Path:
        """Where the files of a package are, or would be."""
        return self._root / cid_to_text(cid) / FOLDER

    def keep(self, package: Package) -> Path:
        """Have a package on disk, durably, and return the folder of its files. Raises `StorageFull` for a full disk."""
        place = self._root / package.name
        if self.whole(package.cid) is not None:
            return place / FOLDER
        beside = self._root / f"{_UNFINISHED}{os.getpid()}-{os.urandom(8).hex()}"
        try:
            self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._sweep()
            beside.mkdir(mode=0o700)
            write_new(beside / DATA, package.data)
            write_folder(package, beside / FOLDER)
            sync_folder(beside)
            beside.rename(place)
            sync_folder(self._root)
        except OSError as error:
            shutil.rmtree(beside, ignore_errors=True)
            if self.whole(package.cid) is None:  # another process may have been faster
                raise os_fault(f"The package {package.name} could not be kept.", place, error) from error
        return place / FOLDER

    def whole(self, cid: bytes) -> Package | None:
        """A package that is here, if its bytes and files are what the CID says; one that is damaged is removed."""
        place = self._root / cid_to_text(cid)
        if not place.exists():
            return None
        try:
            with (place / DATA).open("rb") as file:
                data = file.read(MOST_BYTES + 1)
            if cid_of(data) == cid and pack_folder(place / FOLDER).package.data == data:
                return unpack(data)
        except (OSError, PackageError) as error:
            log.warning("a package is damaged", cid=place.name, error=str(error))
        else:
            log.warning("a package is damaged", cid=place.name, error="its files are not what its name says")
        self._remove(place)
        return None

    def read(self, cid: bytes, start: int, most: int) -> bytes:
        """Bytes of a package that is here, from `start` on. Raises `StorageError` if it cannot be read."""
        path = self._root / cid_to_text(cid) / DATA
        try:
            with path.open("rb") as file:
                file.seek(start)
                return file.read(most)
        except OSError as error:
            raise os_fault(f"The package {cid_to_text(cid)} cannot be read.", path, error) from error

    def cids(self) -> tuple[bytes, ...]:
        """The packages that are here, ascending."""
        found = []
        with suppress(OSError):
            for name in sorted(os.listdir(self._root)):
                with suppress(CidError):
                    found.append(cid_from_text(name))
        return tuple(found)

    def _remove(self, place: Path) -> None:
        """Take a package away in one step, so that no other process finds half of it."""
        aside = self._root / f"{_UNFINISHED}{os.getpid()}-{os.urandom(8).hex()}"
        try:
            place.rename(aside)
        except OSError as error:
            raise os_fault("A damaged package could not be removed.", place, error) from error
        shutil.rmtree(aside, ignore_errors=True)

    def _sweep(self) -> None:
        """Remove what processes that have ended left unfinished."""
        for left in self._root.glob(f"{_UNFINISHED}*"):
            process = left.name.removeprefix(_UNFINISHED).partition("-")[0]
            if process.isdecimal() and not _runs(int(process)):
                shutil.rmtree(left, ignore_errors=True)


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        pass  # somebody else's, or no number of a process: leave it alone
    return True
