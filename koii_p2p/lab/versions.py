"""What a run was played with: a digest of the code that decides it, and the versions of what it stands on."""

from __future__ import annotations

import platform
import subprocess
from functools import cache
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

import koii_p2p

_PACKAGE: Final = Path(koii_p2p.__file__).parent
_DECISIVE: Final = (
    "amounts.py",
    "limits.py",
    "records",
    "rounds",
    "gossip",
    "lab",
)
"""What decides the bytes of a run."""
_ONLY_SHOWS: Final = ("lab/plots", "lab/report", "lab/scenarios", "lab/comparison", "lab/calibrate")
"""Of those, what only presents runs."""
_PACKAGES: Final = ("cbor2", "pynacl", "numpy", "scipy", "polars", "matplotlib", "dask")
_GIT_SECONDS: Final = 5.0


@cache
def code_digest() -> str:
    """SHA-256 (hexadecimal) over the source files that decide the bytes of a run, by name and content."""
    hasher = sha256()
    for place in _DECISIVE:
        path = _PACKAGE / place
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            name = file.relative_to(_PACKAGE).as_posix()
            if not name.startswith(_ONLY_SHOWS):
                data = file.read_bytes()
                hasher.update(f"{name} {len(data)}\n".encode() + data)
    return hasher.hexdigest()


@cache
def commit() -> str | None:
    """The commit of the source tree that runs, "+" after it if the tree has changes; None outside of one."""
    if not (_PACKAGE.parent / ".git").exists():
        return None
    found = _git("rev-parse", "HEAD")
    return (
        None if found is None else found + ("+" if _git("status", "--porcelain", "--", str(_PACKAGE)) else "")
    )


def versions() -> dict[str, str]:
    """Versions by name: of koii_p2p and its code, of Python, and of packages that a run stands on."""
    found = {"koii_p2p": koii_p2p.__version__, "code": code_digest()}
    if (known := commit()) is not None:
        found["commit"] = known
    found["python"] = platform.python_version()
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", *arguments],
            cwd=_PACKAGE,
            capture_output=True,
            text=True,
            timeout=_GIT_SECONDS,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
