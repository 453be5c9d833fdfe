"""`koii-p2p k2`: a K2 of one's own."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Annotated

import trio
import typer
from solders.hash import Hash
from solders.pubkey import Pubkey

from koii_p2p.cli import k2_faults, k2_show
from koii_p2p.cli.amounts import roe_given
from koii_p2p.cli.k2_faults import Given, faults_of, with_fault_switches
from koii_p2p.cli.main import EXIT_INTERRUPTED, Invocation, OutputFormat
from koii_p2p.cli.output import configure_logs, koii, pairs, print_result
from koii_p2p.cli.settings import Settings, load_settings, settings_of
from koii_p2p.errors import ChainError
from koii_p2p.localk2 import LocalK2Address, LocalK2Settings
from koii_p2p.localk2.__main__ import address_json, run_until_stopped
from koii_p2p.localk2.snapshots import SnapshotSummary, restore, save
from koii_p2p.settlement.rpc import RpcClient

AIRDROP_SECONDS = 60.0

app = typer.Typer()
app.add_typer(k2_show.app, name="show")
for _command in (k2_faults.faults, k2_faults.rollback, k2_faults.prune):
    app.command()(_command)


@app.callback()
def k2() -> None:
    """A real local K2: a Solana VM behind JSON-RPC and WebSocket, with slots, a faucet and a ledger on disk."""


@app.command("up")
@with_fault_switches
def up(
    ctx: typer.Context,
    *,
    path: Annotated[
        Path | None, typer.Option("--path", help="Folder of the ledger; the home's `k2`.")
    ] = None,
    port: Annotated[
        int, typer.Option("--port", help="JSON-RPC; the WebSocket has the next. 0 picks free ones.")
    ] = 8899,
    slot_ms: Annotated[int, typer.Option("--slot-ms", help="Milliseconds of a slot.")] = 400,
    finality: Annotated[int, typer.Option("--finality", help="Slots from confirmed to finalized.")] = 32,
    rpc_nodes: Annotated[
        int, typer.Option("--rpc-nodes", help="RPC nodes of this chain, each with faults of its own.")
    ] = 1,
    given: Given,
    allow_faults: Annotated[
        bool, typer.Option("--allow-faults", help="Let `k2 faults`, `rollback` and `prune` change it.")
    ] = False,
) -> int:
    """Run a local K2 until Ctrl-C. What it has confirmed is on disk: it goes on from there the next time."""
    invocation: Invocation = ctx.obj
    settings = load_settings(invocation).settings
    configure_logs(invocation.verbosity, settings.log_level)
    local = LocalK2Settings(
        _folder(path, settings),
        port=port,
        slot_ms=slot_ms,
        finality=finality,
        faults=faults_of(given),
        allow_faults=allow_faults,
        rpc_nodes=rpc_nodes,
    )

    def announce(address: LocalK2Address) -> None:
        found = {**address_json(address), "path": str(local.path)}
        shown = found if "nodes" not in found else {**found, "nodes": ", ".join(address.nodes)}
        print_result(found, pairs(shown), settings.output)
        sys.stdout.flush()

    stopped_by = trio.run(run_until_stopped, local, announce)
    return EXIT_INTERRUPTED if stopped_by is signal.SIGINT else 0


@app.command("save")
def save_snapshot(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(help="The file to make.")],
    path: Annotated[
        Path | None, typer.Option("--path", help="Folder of the ledger; the home's `k2`.")
    ] = None,
) -> None:
    """Save a local K2's whole chain, running or not, to a file."""
    settings = load_settings(ctx.obj).settings
    _print_snapshot(save(_folder(path, settings), file), file, settings.output)


@app.command("restore")
def restore_snapshot(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(help="A file that `k2 save` made.")],
    path: Annotated[
        Path | None, typer.Option("--path", help="New folder of the ledger; the home's `k2`.")
    ] = None,
) -> None:
    """Make a local K2's folder from a file; `k2 up` goes on from there."""
    settings = load_settings(ctx.obj).settings
    _print_snapshot(restore(file, _folder(path, settings)), file, settings.output)


def _folder(path: Path | None, settings: Settings) -> Path:
    return (path or settings.home / "k2").expanduser().absolute()


def _print_snapshot(summary: SnapshotSummary, file: Path, output: OutputFormat) -> None:
    found = {
        "file": str(file),
        "genesis": str(Hash(summary.genesis)),
        "slot": summary.slot,
        "accounts": summary.accounts,
        "blocks": summary.slots,
        "transactions": summary.transactions,
        "bytes": summary.size,
        "digest": summary.digest.hex(),
    }
    print_result(found, pairs(found), output)


@app.command("airdrop")
def airdrop(
    ctx: typer.Context,
    address: Annotated[str, typer.Argument(help="Who gets it, in base58.")],
    amount: Annotated[str, typer.Argument(metavar="AMOUNT_KOII", help="How much, in KOII.")],
) -> None:
    """Have the faucet of a local K2 (or of a test cluster) pay an address, and wait until it is there."""
    settings = settings_of(ctx)
    try:
        key = bytes(Pubkey.from_string(address))
    except ValueError as error:
        raise typer.BadParameter(f"{address!r} is not an address: 32 bytes in base58") from error
    wanted = roe_given(amount)
    signature, balance = trio.run(_airdrop, settings.rpc_url, key, wanted)
    found = {"address": address, "amount": wanted, "balance": balance, "signature": signature}
    shown = {**found, "amount": koii(wanted), "balance": koii(balance)}
    print_result(found, pairs(shown), settings.output)


async def _airdrop(url: str, key: bytes, amount: int) -> tuple[str, int]:
    async with RpcClient(url) as rpc:
        signature = await rpc.request_airdrop(key, amount)
        with trio.move_on_after(AIRDROP_SECONDS):
            while True:
                (status,) = await rpc.get_signature_statuses([signature])
                if status is not None and status.reached("confirmed"):
                    return signature, await rpc.get_balance(key)
                await trio.sleep(0.1)
    raise ChainError(
        "The airdrop was asked for and has not arrived.",
        f"Transaction {signature} is not confirmed after {AIRDROP_SECONDS:.0f} seconds.",
        "Look at the balance later; the faucet may be slow or empty.",
    )
