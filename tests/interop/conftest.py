"""Packages of npm, for the tests that drive them."""

from __future__ import annotations

from pathlib import Path

import pytest

from .js_peer import js_libp2p_folder
from .npm import BANKRUN, NotInstalled, packages


@pytest.fixture(scope="session")
def node_modules() -> Path:
    """A folder with the pinned packages; skips where they cannot be had."""
    try:
        return packages()
    except NotInstalled as missing:
        pytest.skip(str(missing))


@pytest.fixture(scope="session")
def bankrun_modules(node_modules: Path) -> Path:
    """The same, where solana-bankrun has its native code for this machine; skips on others."""
    if not list(node_modules.glob(f"{BANKRUN}-*/*.node")):
        pytest.skip(f"npm has no native code of {BANKRUN} for this machine")
    return node_modules


@pytest.fixture(scope="session")
def js_folder() -> Path:
    """A folder with js-libp2p and our scripts for it; skips where that cannot be had."""
    try:
        return js_libp2p_folder()
    except NotInstalled as missing:
        pytest.skip(str(missing))
