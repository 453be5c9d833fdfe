"""What the interoperability tests need from npm: installed once per set of versions, into the user's cache."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import platformdirs

HERE: Final = Path(__file__).parent
WEB3: Final = "@solana/web3.js"
BANKRUN: Final = "solana-bankrun"
INSTALL_SECONDS: Final = 240


class NotInstalled(Exception):
    """Node, npm or a package cannot be had here. The message says which, and why."""


def packages(folder_of_list: Path = HERE) -> Path:
    """The `node_modules` folder with every package of a folder's package.json in its version.

    Raises `NotInstalled` if that cannot be.
    """
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        raise NotInstalled("node and npm are needed for packages of npm, and are not installed")
    wanted = (folder_of_list / "package.json").read_bytes()
    versions: dict[str, str] = json.loads(wanted)["dependencies"]
    folder = Path(platformdirs.user_cache_dir("koii_p2p")) / f"npm-{hashlib.sha256(wanted).hexdigest()[:16]}"
    modules = folder / "node_modules"
    if not all((modules / name / "package.json").exists() for name in versions):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "package.json").write_bytes(wanted)
        command = [npm, "install", "--no-package-lock", "--ignore-scripts", "--no-audit", "--no-fund"]
        try:
            done = subprocess.run(
                command, cwd=folder, capture_output=True, text=True, timeout=INSTALL_SECONDS, check=False
            )
        except subprocess.TimeoutExpired:
            raise NotInstalled(
                f"npm did not install {', '.join(versions)} within {INSTALL_SECONDS} seconds"
            ) from None
        if done.returncode:
            raise NotInstalled(f"npm cannot install {', '.join(versions)}: {done.stderr.strip()[-300:]}")
    for name, version in versions.items():
        found = json.loads((modules / name / "package.json").read_text())["version"]
        assert found == version, f"{name} is {found}, not {version}"
    return modules


def run_node(
    modules: Path, script: str, *arguments: str, seconds: int, environment: Mapping[str, str] | None = None
) -> str:
    """Run a script of this folder; what it printed. Fails if the script does, with what it complained of."""
    done = subprocess.run(
        ["node", str(HERE / script), *arguments],
        env={**os.environ, **(environment or {}), "NODE_PATH": str(modules)},
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout
