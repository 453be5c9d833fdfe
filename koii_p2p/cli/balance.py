"""`koii-p2p balance`: what the home's keys hold, and their stakes."""

from __future__ import annotations

from typing import Any

import trio
import typer
from rich.console import Group, RenderableType
from rich.text import Text

from koii_p2p.cli.key_names import text_of
from koii_p2p.cli.lists_at_hand import list_at_hand
from koii_p2p.cli.money import HeldStake, unsettled
from koii_p2p.cli.output import koii, pairs, plain, print_result, table
from koii_p2p.cli.settings import Settings, settings_of
from koii_p2p.cli.spending import Purse, purse_of
from koii_p2p.settlement.instructions import PROGRAM_ID, stake_address
from koii_p2p.settlement.layouts import (
    STAKE_LAYOUT,
    STAKE_MAGIC,
    LayoutError,
    decode_stake,
    newest_settled,
    unlock_slot,
)
from koii_p2p.settlement.refusals import ClosedTask, DamagedAccount
from koii_p2p.settlement.rpc import DataSize, Memcmp, RpcClient


def command(ctx: typer.Context) -> None:
    """Show what the wallet and the staking key hold, and each stake: rewards due, and when it can be withdrawn."""
    settings = settings_of(ctx)
    found = trio.run(_balance, settings)
    print_result(found, _shown(found), settings.output)


async def stakes_of(rpc: RpcClient, staker: bytes) -> tuple[HeldStake, ...]:
    """Every stake account of a key, by task. Raises `DamagedAccount`."""
    filters: list[DataSize | Memcmp] = [
        DataSize(STAKE_LAYOUT.size),
        Memcmp(0, STAKE_MAGIC),
        Memcmp(STAKE_LAYOUT.field("staker").offset, staker),
    ]
    found = []
    for address, account in await rpc.get_program_accounts(PROGRAM_ID, filters):
        try:
            stake = decode_stake(account.data)
        except LayoutError as error:
            raise DamagedAccount(address, str(error)) from error
        if stake_address(stake.task, staker) != address:
            raise DamagedAccount(address, "Its address is not that of its task and staker.")
        found.append(HeldStake(stake, max(0, account.lamports - stake.amount)))
    return tuple(sorted(found, key=lambda held: held.account.task))


async def _balance(settings: Settings) -> dict[str, Any]:
    async with purse_of(settings) as purse:
        slot = await purse.k2.slot()
        keys = {
            name: {"key": text_of(key), "balance": await purse.k2.balance(key)}
            for name, key in (("wallet", purse.wallet), ("staking", purse.staker))
        }
        held = await stakes_of(purse.rpc, purse.staker)
        return {"slot": slot, **keys, "tasks": [await _task(purse, one, slot) for one in held]}


async def _task(purse: Purse, held: HeldStake, slot: int) -> dict[str, Any]:
    """One stake. What is not known is None."""
    account = held.account
    found: dict[str, Any] = {
        "task": text_of(account.task),
        "name": None,
        "state": "closed",
        "stake": account.amount,
        "rent": held.rent,
        "beneficiary": text_of(account.history.beneficiary),
        "reward_paid": account.reward_total,
        "slashed": account.slash_total,
        "settled_round": None,
        "unsettled_reward": None,
        "unsettled_slash": None,
        "asked_back_slot": account.history.unstake_slot,
        "unlock_slot": None,
        "unlocked": None,
    }
    try:
        state = await purse.k2.task_state(account.task)
    except ClosedTask:
        return found
    found |= {"name": state.terms.name, "state": "active" if state.active else "inactive"}
    asked = account.history.unstake_slot
    if asked is not None and account.amount:
        unlocks = unlock_slot(state, asked)
        found |= {"unlock_slot": unlocks, "unlocked": slot >= unlocks}
    anchored = newest_settled(state, slot)
    if anchored is None:
        return found | {"unsettled_reward": 0, "unsettled_slash": 0}
    listed = await list_at_hand(purse.settings, await purse.k2.genesis(), account.task, anchored)
    due = unsettled(listed, account)
    found["settled_round"] = anchored.round
    return found if due is None else found | {"unsettled_reward": due[0], "unsettled_slash": due[1]}


def _shown(found: dict[str, Any]) -> RenderableType:
    keys = pairs(
        {name: f"{koii(found[name]['balance'])}  {found[name]['key']}" for name in ("wallet", "staking")}
        | {"slot": found["slot"]}
    )
    if not found["tasks"]:
        return Group(keys, Text("\nno stakes"))
    rows = [
        (
            one["task"],
            plain(one["name"] or "-"),
            one["state"],
            koii(one["stake"]),
            koii(one["reward_paid"]),
            koii(one["slashed"]),
            _due(one["unsettled_reward"]),
            _due(one["unsettled_slash"]),
            _asked_back(one),
        )
        for one in found["tasks"]
    ]
    columns = (
        "task",
        "name",
        "state",
        "stake",
        "rewards paid",
        "slashed",
        "to claim",
        "to be slashed",
        "asked back",
    )
    parts: list[RenderableType] = [keys, Text(), table(columns, rows)]
    if any(one["state"] != "closed" and one["unsettled_reward"] is None for one in found["tasks"]):
        parts.append(
            Text("\n?: the list that says so is not at hand; the node of this home has it while it works.")
        )
    return Group(*parts)


def _due(roe: int | None) -> str:
    return "?" if roe is None else koii(roe)


def _asked_back(one: dict[str, Any]) -> str:
    if one["state"] == "closed":
        return f"task is closed: `koii-p2p withdraw` pays {koii(one['rent'])} of rent back"
    if one["asked_back_slot"] is None:
        return "no"
    if one["unlock_slot"] is None:
        return "withdrawn"
    when = "unlocked" if one["unlocked"] else f"locked until slot {one['unlock_slot']}"
    return f"in slot {one['asked_back_slot']}, {when}"
