"""Where a command finds the distribution list that K2 vouches for: a file, a peer, the home's node or its database."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from koii_p2p.cli.key_names import text_of
from koii_p2p.cli.round_sources import asked_peer
from koii_p2p.cli.settings import Settings
from koii_p2p.errors import ConfigurationError, NetworkError
from koii_p2p.limits import Limits
from koii_p2p.rounds.distribution import DistributionError, DistributionList
from koii_p2p.settlement.interface import AnchoredList
from koii_p2p.storage.artifacts import Artifact, Artifacts
from koii_p2p.storage.database import Database
from koii_p2p.storage.faults import StorageLocked
from koii_p2p.storage.home import Home
from koii_p2p.testnets.node_client import NodeClient

ListOption = Annotated[
    Path | None,
    typer.Option(
        "--list", metavar="FILE", help="The newest settled list, as a node stores and hands it out."
    ),
]
PeerOption = Annotated[
    str | None,
    typer.Option("--peer", metavar="ADDRESS", help="Ask this node for the list (multiaddr with /p2p/)."),
]


async def list_at_hand(
    settings: Settings,
    genesis: bytes,
    task: bytes,
    anchored: AnchoredList,
    file: Path | None = None,
    peer: str | None = None,
) -> DistributionList | None:
    """The list with the anchored root: from `file` or `peer` if given, else from the home; None if it is not there.

    Raises `ConfigurationError` for a file that is not this list, `NetworkError` for a peer that does not answer.
    """
    if file is not None:
        return _in_file(file, task, anchored)
    if peer is not None:
        async with asked_peer(peer, task) as asked:
            copies = await asked.copies(anchored.round, "list")
    else:
        copies = await _in_home(settings, genesis, task, anchored.round)
    return next((one for copy in copies if (one := _matching(copy, anchored)) is not None), None)


def _in_file(file: Path, task: bytes, anchored: AnchoredList) -> DistributionList:
    what = f"The list {file} cannot be used."
    try:
        with file.open("rb") as opened:
            data = opened.read(Limits().artifact_bytes + 1)
    except OSError as error:
        raise ConfigurationError(
            what, f"The system says: {error.strerror or error}.", "Name the right file."
        ) from error
    found = _matching(data, anchored)
    if found is None:
        raise ConfigurationError(
            what,
            f"It is not the list of round {anchored.round} of task {text_of(task)} that K2 vouches for, whose root is "
            f"{anchored.root.hex()}.",
            "Name the newest settled list, or ask a node with --peer.",
        )
    return found


async def _in_home(settings: Settings, genesis: bytes, task: bytes, number: int) -> tuple[bytes, ...]:
    home = Home(settings.home)
    if not home.database.is_dir():
        return ()
    try:
        with home.locked():
            path = home.database_of(genesis)
            if not path.is_dir():
                return ()
            with Database.open(path) as database:
                found = Artifacts(database, Limits()).get(task, number, Artifact.LIST)
    except StorageLocked:
        try:
            async with NodeClient.of_home(home.path) as client:
                found = await client.artifact(text_of(task), number, Artifact.LIST.value)
        except NetworkError:
            return ()
    return () if found is None else (found,)


def _matching(data: bytes, anchored: AnchoredList) -> DistributionList | None:
    try:
        found = DistributionList.decode(data)
    except DistributionError:
        return None
    return found if found.root == anchored.root else None
