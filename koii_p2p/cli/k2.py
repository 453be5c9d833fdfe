"""`koii-p2p k2`: a K2 of one's own."""

from __future__ import annotations

import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, cast

import trio
import typer
from solders.hash import Hash
from solders.pubkey import Pubkey

from koii_p2p.cli import k2_faults, k2_show
from koii_p2p.cli.amounts import roe_given
from koii_p2p.cli.k2_faults import (
    DelayMs,
    DelaySlots,
    Drop,
    DropRequests,
    History,
    Lag,
    Rate,
    Reorder,
    Seed,
    Unhealthy,
    Wrong,
    WrongShare,
    faults_of,
    switches_given,
)
from koii_p2p.cli.main import EXIT_INTERRUPTED, Invocation, OutputFormat
from koii_p2p.cli.output import configure_logs, koii, pairs, print_result
from koii_p2p.cli.settings import Settings, load_settings
from koii_p2p.errors import ChainError
from koii_p2p.localk2 import LocalK2Address, LocalK2Settings, serve
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
def up(
    ctx: typer.Context,
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
    drop: Drop = None,
    drop_requests: DropRequests = None,
    delay_ms: DelayMs = None,
    delay_slots: DelaySlots = None,
    reorder: Reorder = None,
    unhealthy: Unhealthy = None,
    lag: Lag = None,
    history: History = None,
    rate: Rate = None,
    wrong: Wrong = None,
    wrong_share: WrongShare = None,
    seed: Seed = None,
    allow_faults: Annotated[
        bool, typer.Option("--allow-faults", help="Let `k2 faults`, `rollback` and `prune` change it.")
    ] = False,
) -> int:
    """Run a local K2 until Ctrl-C. What it has confirmed is on disk: it goes on from there the next time."""
    invocation: Invocation = ctx.obj
    settings = load_settings(invocation).settings
    configure_logs(invocation.verbosity, settings.log_level)
    given = switches_given(
        drop=drop,
        drop_requests=drop_requests,
        delay_ms=delay_ms,
        delay_slots=delay_slots,
        reorder=reorder,
        unhealthy=unhealthy,
        lag=lag,
        history=history,
        rate=rate,
        wrong=wrong,
        wrong_share=wrong_share,
        seed=seed,
    )
    local = LocalK2Settings(
        _folder(path, settings),
        port=port,
        slot_ms=slot_ms,
        finality=finality,
        faults=faults_of(given),
        allow_faults=allow_faults,
        rpc_nodes=rpc_nodes,
    )
    return trio.run(_serve, local, settings.output)


async def _serve(local: LocalK2Settings, output: OutputFormat) -> int:
    interrupted = False

    async def stop_on_signal(signals: AsyncIterator[int], scope: trio.CancelScope) -> None:
        nonlocal interrupted
        interrupted = await anext(signals) == signal.SIGINT
        scope.cancel()

    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stop_on_signal, signals, nursery.cancel_scope)
            await serve(
                local, task_status=cast("trio.TaskStatus[LocalK2Address]", _Announcement(local, output))
            )
    return EXIT_INTERRUPTED if interrupted else 0


class _Announcement:
    """Stands in for a nursery's task status: prints the address when the server reports it."""

    def __init__(self, local: LocalK2Settings, output: OutputFormat) -> None:
        self._local = local
        self._output = output

    def started(self, address: LocalK2Address) -> None:
        found: dict[str, object] = {
            "url": address.url,
            "ws": address.ws,
            "genesis": str(Hash(address.genesis)),
            "faucet": str(Pubkey(address.faucet)),
            "path": str(self._local.path),
        }
        if len(address.nodes) > 1:
            found["nodes"] = list(address.nodes)
        shown = found if "nodes" not in found else {**found, "nodes": ", ".join(address.nodes)}
        print_result(found, pairs(shown), self._output)
        sys.stdout.flush()


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
    invocation: Invocation = ctx.obj
    settings = load_settings(invocation).settings
    configure_logs(invocation.verbosity, "warning")
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
