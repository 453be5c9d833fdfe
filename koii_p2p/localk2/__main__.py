"""`python -m koii_p2p.localk2 --path DIR`: a local K2 as a process of its own.

Prints one line of JSON on stdout when it answers calls: {"url", "ws", "genesis", "faucet"}. SIGINT and
SIGTERM stop it cleanly (exit code 0); a fault an operator can act on is three sentences on stderr and its
own exit code.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import cast

import structlog
import trio
from solders.hash import Hash
from solders.pubkey import Pubkey

from koii_p2p.errors import OperatorError
from koii_p2p.localk2.faults import Faults
from koii_p2p.localk2.server import LocalK2Address, serve
from koii_p2p.localk2.settings import LocalK2Settings


def main(arguments: list[str] | None = None) -> int:
    """Run a local K2 until a signal stops it. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="koii_p2p.localk2", description="A local K2.")
    parser.add_argument("--path", type=Path, required=True, help="folder of the ledger")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8899, help="0 picks a free port")
    parser.add_argument("--ws-port", type=int, default=None, help="the port + 1 unless given")
    parser.add_argument("--slot-ms", type=float, default=400)
    parser.add_argument("--finality", type=int, default=32, help="slots from confirmed to finalized")
    parser.add_argument("--faults", type=json.loads, default={}, help="JSON object of faults, by name")
    parser.add_argument("--rpc-nodes", type=int, default=1, help="RPC nodes of this chain")
    parser.add_argument("--allow-faults", action="store_true", help="let admin methods change the faults")
    given = parser.parse_args(arguments)
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    try:
        settings = LocalK2Settings(
            path=given.path,
            host=given.host,
            port=given.port,
            ws_port=given.ws_port,
            slot_ms=given.slot_ms,
            finality=given.finality,
            faults=Faults().changed(given.faults),
            allow_faults=given.allow_faults,
            rpc_nodes=given.rpc_nodes,
        )
        trio.run(run_until_stopped, settings, _print_address)
    except OperatorError as error:
        print(error.what, error.why, error.remedy, sep="\n", file=sys.stderr)
        return error.exit_code
    return 0


async def run_until_stopped(
    settings: LocalK2Settings, announce: Callable[[LocalK2Address], None]
) -> signal.Signals | None:
    """Serve until SIGINT or SIGTERM, and `announce` where once it answers. Returns the signal.

    Raises:
        OperatorError: as `serve` does.
    """
    failure: OperatorError | None = None
    stopped_by: signal.Signals | None = None

    async def stop_on_signal(signals: AsyncIterator[int], scope: trio.CancelScope) -> None:
        nonlocal stopped_by
        stopped_by = signal.Signals(await anext(signals))
        scope.cancel()

    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stop_on_signal, signals, nursery.cancel_scope)
            try:
                status = cast("trio.TaskStatus[LocalK2Address]", _Announcement(announce))
                await serve(settings, task_status=status)
            except OperatorError as error:
                failure = error  # raised below, where no exception group hides it
                nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure
    return stopped_by


class _Announcement:
    """Stands in for a nursery's task status: announces the address when the server reports it."""

    def __init__(self, announce: Callable[[LocalK2Address], None]) -> None:
        self.started = announce


def address_json(address: LocalK2Address) -> dict[str, object]:
    """Where a local K2 answers and what it calls itself, as it is printed; `nodes` if it has several."""
    nodes = {"nodes": list(address.nodes)} if len(address.nodes) > 1 else {}
    return {
        "url": address.url,
        "ws": address.ws,
        "genesis": str(Hash(address.genesis)),
        "faucet": str(Pubkey(address.faucet)),
        **nodes,
    }


def _print_address(address: LocalK2Address) -> None:
    print(json.dumps(address_json(address)), flush=True)


if __name__ == "__main__":
    sys.exit(main())
