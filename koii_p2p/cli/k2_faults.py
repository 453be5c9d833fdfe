"""Faults of a local K2: the flags of `koii-p2p k2 up`, and the commands that change a running one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import wraps
from inspect import Parameter, signature
from typing import Annotated, Any, Final, TypeVar

import trio
import typer

from koii_p2p.cli.output import pairs, print_result
from koii_p2p.cli.settings import settings_of
from koii_p2p.errors import ChainError
from koii_p2p.localk2.faults import WRONG_REPLIES, Faults
from koii_p2p.localk2.methods_admin import ADMIN_REFUSED
from koii_p2p.settlement.rpc import RpcClient, RpcError

Result = TypeVar("Result")

Given = Mapping[str, Any]
"""The faults that were given on the command line, by their names."""

_SWITCHES: Final[Mapping[str, object]] = {
    "drop": Annotated[
        float | None, typer.Option("--drop", help="Share of transactions that are lost, 0 to 1.")
    ],
    "drop_requests": Annotated[
        float | None,
        typer.Option("--drop-requests", help="Share of requests that are never answered, 0 to 1."),
    ],
    "delay_ms": Annotated[int | None, typer.Option("--delay-ms", help="Hold every reply for so long.")],
    "delay_slots": Annotated[
        int | None, typer.Option("--delay-slots", help="Hold every transaction for so many slots.")
    ],
    "reorder": Annotated[
        bool | None,
        typer.Option("--reorder/--in-order", help="Execute each slot's transactions in a drawn order."),
    ],
    "unhealthy": Annotated[
        bool | None,
        typer.Option("--unhealthy/--healthy", help="Fail the health check, and preflights with it."),
    ],
    "lag": Annotated[int | None, typer.Option("--lag", help="Reads answer as of so many slots ago.")],
    "history": Annotated[int | None, typer.Option("--history", help="Keep only so many slots.")],
    "rate": Annotated[
        int | None, typer.Option("--rate", help="At most so many requests in a second; then 429.")
    ],
    "wrong": Annotated[
        list[str] | None,
        typer.Option(
            "--wrong", help=f"Answer wrongly: {', '.join(WRONG_REPLIES)}; may be given several times."
        ),
    ],
    "wrong_share": Annotated[
        float | None, typer.Option("--wrong-share", help="Share of the replies that are wrong, 0 to 1.")
    ],
    "seed": Annotated[int | None, typer.Option("--seed", help="What all chances are drawn from.")],
}
"""The type of the option that sets each field of `Faults`."""


def with_fault_switches(command: Callable[..., Result]) -> Callable[..., Result]:
    """Let a command take every fault as an option, in the place of its parameter `given`: `Given`."""

    @wraps(command)
    def taking_switches(**values: Any) -> Result:
        switches = {name: values.pop(name) for name in _SWITCHES}
        given = {name: value for name, value in switches.items() if value is not None and value != []}
        return command(given=given, **values)

    own = signature(command, eval_str=True)
    options = [
        Parameter(name, Parameter.KEYWORD_ONLY, default=None, annotation=option)
        for name, option in _SWITCHES.items()
    ]
    taken = [
        one
        for own_one in own.parameters.values()
        for one in (options if own_one.name == "given" else [own_one])
    ]
    # typer makes a command's options from the signature that `inspect` finds here.
    taking_switches.__signature__ = own.replace(parameters=taken)  # type: ignore[attr-defined]
    return taking_switches


def faults_of(given: Given) -> Faults:
    """Faults from what was given.

    Raises:
        ConfigurationError: one of them is not possible.
    """
    return Faults().changed(dict(given))


async def call_admin(url: str, method: str, *params: Any) -> Any:
    """The result of an admin method of a local K2.

    Raises:
        ChainError: it cannot be reached, does not allow it, or refused.
    """
    async with RpcClient(url) as rpc:
        try:
            return await rpc.ask(method, params, lambda value: value, retry=False)
        except RpcError as error:
            if error.code != ADMIN_REFUSED:
                raise
            raise ChainError(
                f"The K2 at {rpc.url} does not let its faults be changed.",
                f"{error.message}.",
                "Start it with `koii-p2p k2 up --allow-faults`, and call it from the same machine.",
            ) from error


@with_fault_switches
def faults(
    ctx: typer.Context,
    *,
    given: Given,
    clear: Annotated[bool, typer.Option("--clear", help="Switch everything else off first.")] = False,
) -> None:
    """Show or change the faults of a running local K2 (started with --allow-faults)."""
    faults_of(given)  # a value that is not possible is said before anything is changed
    settings = settings_of(ctx)

    async def change() -> Any:
        if clear:
            await call_admin(settings.rpc_url, "clearFaults")
        return await call_admin(
            settings.rpc_url, "setFaults" if given else "getFaults", *([given] * bool(given))
        )

    found = trio.run(change)
    on = {name: value for name, value in found["faults"].items() if value != Faults().as_json()[name]}
    shown = {
        **(on or {"faults": "none"}),
        **{name.replace("_", " "): n for name, n in found["statistics"].items()},
    }
    print_result(found, pairs(shown), settings.output)


def rollback(
    ctx: typer.Context,
    slots: Annotated[int, typer.Argument(min=0, help="How many sealed slots; the open one goes with them.")],
    land_again: Annotated[
        float,
        typer.Option("--land-again", min=0, max=1, help="Share of the transactions that is sent again."),
    ] = 0.0,
) -> None:
    """Undo the newest slots of a running local K2, as a fork that lost (not those that are finalized)."""
    settings = settings_of(ctx)
    found = trio.run(call_admin, settings.rpc_url, "rollBack", slots, {"landAgain": land_again})
    shown = {"newest block": found["slot"], "undone": found["undone"], "landed again": found["landedAgain"]}
    print_result(found, pairs(shown), settings.output)


def prune(
    ctx: typer.Context,
    before: Annotated[int, typer.Argument(min=0, metavar="SLOT", help="The oldest slot that is kept.")],
) -> None:
    """Have a running local K2 forget the blocks and transactions of old slots."""
    settings = settings_of(ctx)
    found = trio.run(call_admin, settings.rpc_url, "pruneHistory", before)
    print_result(found, pairs({"oldest slot": found["firstSlot"]}), settings.output)
