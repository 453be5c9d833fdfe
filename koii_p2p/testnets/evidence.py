"""All there is to check a testnet from: the chain, the rounds' bytes from its nodes, and who is who. Also as files."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import trio
from solders.pubkey import Pubkey

from koii_p2p.errors import ConfigurationError, NetworkError
from koii_p2p.limits import Limits
from koii_p2p.rounds.clock import RoundClock
from koii_p2p.settlement.rpc import RpcClient
from koii_p2p.storage.faults import os_fault
from koii_p2p.testnets.chain_record import (
    ChainRecord,
    RecordUnreadable,
    decode_record,
    encode_record,
    read_chain,
)
from koii_p2p.testnets.expect_table import NOTHING_MORE, Expect
from koii_p2p.testnets.identity import NodeIdentity
from koii_p2p.testnets.node_client import NodeClient
from koii_p2p.testnets.topology import MOST_ROUNDS

ARTIFACTS: Final = ("commitment", "bundle", "list")
_MOST_CHAIN_BYTES: Final = 512 * 1024 * 1024
_CHAIN: Final = "chain.json"
_NET: Final = "testnet.json"

Copies = Mapping[str, bytes]
"""Bytes of one artifact, by the name of the node that gave them."""


@dataclass(frozen=True, slots=True)
class RoundCopies:
    """What the nodes hold of one round; a node that holds nothing is missing."""

    commitment: Copies
    bundle: Copies
    list: Copies

    def of(self, name: str) -> Copies:
        """The copies of one artifact."""
        return {"commitment": self.commitment, "bundle": self.bundle, "list": self.list}[name]


@dataclass(frozen=True, slots=True)
class Evidence:
    """Rounds 0 to `rounds` - 1 are checked, and from `first` on they count; `copies` is what nodes gave, by round.

    `expect` is what has to be so beyond what is checked anyway. `own_distribution`: the task does not distribute by
    Koii's default, so that lists can only be recomputed with its code.
    """

    chain: ChainRecord
    nodes: tuple[NodeIdentity, ...]
    rounds: int
    copies: Mapping[int, RoundCopies]
    first: int = 0
    expect: Expect = NOTHING_MORE
    own_distribution: bool = False


async def fetch_copies(
    clients: Iterable[NodeClient], task: str, rounds: Iterable[int]
) -> tuple[dict[int, RoundCopies], dict[str, str]]:
    """Ask every node for its bytes of every round. Returns them, and why by node for those that do not answer."""
    held: dict[int, dict[str, dict[str, bytes]]] = {n: {name: {} for name in ARTIFACTS} for n in rounds}
    silent: dict[str, str] = {}

    async def ask(client: NodeClient) -> None:
        try:
            for number, copies in held.items():
                for name in ARTIFACTS:
                    found = await client.artifact(task, number, name)
                    if found is not None:
                        copies[name][client.name] = found
        except NetworkError as error:
            silent[client.name] = error.why

    async with trio.open_nursery() as nursery:
        for client in clients:
            nursery.start_soon(ask, client)
    ordered = {
        number: RoundCopies(*(dict(sorted(copies[name].items())) for name in ARTIFACTS))
        for number, copies in held.items()
    }
    return ordered, silent


async def read_task_chain(
    rpc: RpcClient, task: bytes, clock: RoundClock, rounds: int, nodes: Iterable[NodeIdentity], limits: Limits
) -> ChainRecord:
    """What K2 holds of the task, with its first `rounds` rounds and the wallets of `nodes`. Raises `ChainError`."""
    wallets = [bytes(Pubkey.from_string(node.wallet)) for node in nodes]
    return await read_chain(rpc, task, clock, range(rounds), wallets, limit=limits.history_transactions)


def save_evidence(evidence: Evidence, folder: Path) -> None:
    """Write `chain.json`, `testnet.json` and `round-NNNN/NODE.ARTIFACT` files, over older ones.

    Raises `StorageError`.
    """
    net = {
        "rounds": evidence.rounds,
        "first": evidence.first,
        "nodes": [dataclasses.asdict(node) for node in evidence.nodes],
        "expect": dataclasses.asdict(evidence.expect),
        "own_distribution": evidence.own_distribution,
    }
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        (folder / _CHAIN).write_bytes(encode_record(evidence.chain))
        (folder / _NET).write_text(json.dumps(net, indent=1))
        for number, copies in evidence.copies.items():
            place = folder / f"round-{number:04d}"
            place.mkdir(exist_ok=True)
            for name in ARTIFACTS:
                for holder, data in copies.of(name).items():
                    (place / f"{holder}.{name}").write_bytes(data)
    except OSError as error:
        raise os_fault("The evidence cannot be saved.", folder, error) from error


def load_evidence(folder: Path, limits: Limits) -> Evidence:
    """Read what `save_evidence` wrote. Raises `ConfigurationError` for anything else."""
    what = f"The evidence in {folder} cannot be used."
    remedy = "Name the folder `evidence` of a testnet that ended."
    try:
        chain = decode_record(_read(folder / _CHAIN, _MOST_CHAIN_BYTES))
        net: dict[str, Any] = json.loads(_read(folder / _NET, limits.commitment_bytes))
        nodes = tuple(NodeIdentity(**node) for node in net["nodes"])
        rounds, first = int(net["rounds"]), int(net["first"])
        if (
            any(Path(node.name).name != node.name for node in nodes)
            or not 0 <= first <= rounds <= 2 * MOST_ROUNDS
        ):
            raise ValueError("a node's name or the number of rounds is not possible")
        expect = Expect(**net.get("expect", {}))
        own = net.get("own_distribution", False)
        if type(own) is not bool:
            raise ValueError("whether the task has a distribution of its own is neither yes nor no")
        copies = {n: _load_round(folder / f"round-{n:04d}", nodes, limits) for n in range(rounds)}
    except OSError as error:
        raise ConfigurationError(what, f"{error.filename}: {error.strerror}.", remedy) from error
    except (RecordUnreadable, ValueError, KeyError, TypeError) as error:
        raise ConfigurationError(what, f"{type(error).__name__}: {error}.", remedy) from error
    return Evidence(chain, nodes, rounds, copies, first, expect, own)


def _load_round(folder: Path, nodes: Iterable[NodeIdentity], limits: Limits) -> RoundCopies:
    return RoundCopies(
        *(
            {
                node.name: _read(file, limits.artifact_bytes)
                for node in nodes
                if (file := folder / f"{node.name}.{name}").exists()
            }
            for name in ARTIFACTS
        )
    )


def _read(path: Path, most_bytes: int) -> bytes:
    with path.open("rb") as file:
        data = file.read(most_bytes + 1)
    if len(data) > most_bytes:
        raise ValueError(f"{path.name} has more than {most_bytes} bytes")
    return data
