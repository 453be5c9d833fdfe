"""`koii-p2p task pack`: the package of a task's folder, whose CID `task create --publish` puts into its terms."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from koii_p2p.cli.main import Invocation
from koii_p2p.cli.output import pairs, plain, print_result, size
from koii_p2p.cli.settings import Settings, load_settings
from koii_p2p.errors import ConfigurationError
from koii_p2p.limits import Limits
from koii_p2p.node.package_store import PackageStore
from koii_p2p.node.trust import TrustList
from koii_p2p.storage.home import Home
from koii_p2p.tasks.offer import config_in, wishes_of
from koii_p2p.tasks.package import PackageError
from koii_p2p.tasks.package_folder import Packed, pack_folder

PublishOption = Annotated[
    bool,
    typer.Option(
        "--publish",
        help="Nodes run the package of the folder PATH: its CID is the program, and peers have it of us.",
    ),
]
FolderArgument = Annotated[Path, typer.Argument(metavar="FOLDER", help="A task's folder.")]


def pack(ctx: typer.Context, folder: FolderArgument) -> None:
    """Show the package that a task's folder makes: its CID, size and files. It writes nothing, and asks nobody."""
    invocation: Invocation = ctx.obj
    settings = load_settings(invocation).settings
    packed = packed_folder(folder)
    package = packed.package
    wishes = wishes_of(config_in(package))
    data = {
        "cid": package.name,
        "bytes": len(package.data),
        "files": {path: len(content) for path, content in package.files.items()},
        "left_out": list(packed.left_out),
        "asks_for": list(wishes),
    }
    shown = {
        "cid": package.name,
        "size": f"{len(package.data)} bytes",
        "files": "\n".join(f"{path}  {size(len(content))}" for path, content in package.files.items()),
        "left out": plain(", ".join(packed.left_out)) or "nothing",
        "asks for": ", ".join(wishes) or "nothing",
    }
    print_result(data, pairs(shown), settings.output)


def packed_folder(folder: Path) -> Packed:
    """The package of a folder, its config-task.yml read. Raises `ConfigurationError`."""
    try:
        packed = pack_folder(folder)
    except PackageError as error:
        raise ConfigurationError(
            f"The folder {folder} cannot be packed.",
            f"{str(error).rstrip('.')}.",
            "docs/packages.md says what a package may have.",
        ) from error
    config_in(packed.package)
    return packed


def published(settings: Settings, folder: Path | None, program: str | None) -> str:
    """The CID of a folder's package, which is kept in the home now, from where a node gives it to others.

    It is the operator's own code, and so is trusted. Raises typer's usage error where there is no folder, or another
    program is given, and `OperatorError` for a folder that cannot be packed or a disk that is full.
    """
    if program is not None:
        raise typer.BadParameter(
            "the program is the CID of the package: leave out --program", param_hint="--publish"
        )
    if folder is None or not folder.is_dir():
        raise typer.BadParameter("give the FOLDER of the task as PATH", param_hint="--publish")
    package, home = packed_folder(folder).package, Home(settings.home)
    home.prepare()
    PackageStore(home.packages).keep(package)
    TrustList(home, Limits()).add(package.name)
    return package.name
