"""`koii-p2p stake`, `unstake`, `withdraw` and `claim`: a stake's way into a task and back."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trio
import typer
from solders.instruction import Instruction

from koii_p2p.cli.key_names import text_of
from koii_p2p.cli.lists_at_hand import ListOption, PeerOption, list_at_hand
from koii_p2p.cli.output import koii, pairs, print_result
from koii_p2p.cli.settings import Settings, settings_of
from koii_p2p.cli.spending import (
    AmountArgument,
    NotPossible,
    Purse,
    Sent,
    Spending,
    TaskArgument,
    YesOption,
    amount_given,
    named,
    purse_of,
    task_given,
)
from koii_p2p.errors import ConfigurationError
from koii_p2p.rounds.distribution import DistributionList, Leaf
from koii_p2p.rounds.merkle import Proof
from koii_p2p.settlement import instructions as encode
from koii_p2p.settlement.instructions import InstructionError
from koii_p2p.settlement.interface import AnchoredList, StakeAccount, TaskState
from koii_p2p.settlement.layouts import (
    STAKE_LAYOUT,
    LayoutError,
    decode_stake,
    newest_settled,
    unlock_slot,
)
from koii_p2p.settlement.refusals import ClosedTask, DamagedAccount, ProgramError, ProgramRefused
from koii_p2p.settlement.rpc import RpcClient


@dataclass(frozen=True, slots=True)
class HeldStake:
    """A stake account and the Roe in it, of which `rent` is what the account itself has to hold."""

    account: StakeAccount
    rent: int


async def read_stake(rpc: RpcClient, task: bytes, staker: bytes) -> HeldStake | None:
    """One staker's account in a task, or None. Raises `DamagedAccount`."""
    address = encode.stake_address(task, staker)
    found = await rpc.get_account(address)
    if found is None or found.owner != encode.PROGRAM_ID:
        return None
    try:
        account = decode_stake(found.data)
    except LayoutError as error:
        raise DamagedAccount(address, str(error)) from error
    return HeldStake(account, max(0, found.lamports - account.amount))


# --- stake


def stake(ctx: typer.Context, task: TaskArgument, amount: AmountArgument, yes: YesOption = False) -> None:
    """Stake AMOUNT in a task for the home's staking key, or add it. The wallet pays, and is paid back and rewarded."""
    settings, where, wanted = settings_of(ctx), task_given(task), amount_given(amount)
    _print(settings, *trio.run(_stake, settings, where, wanted, yes))


async def _stake(settings: Settings, task: bytes, amount: int, yes: bool) -> tuple[Sent, dict[str, Any]]:
    async with purse_of(settings) as purse:
        state, held = await purse.k2.task_state(task), await read_stake(purse.rpc, task, purse.staker)
        before = 0 if held is None else held.account.amount
        _check_stake(state, before, amount)
        beneficiary = purse.wallet if held is None else held.account.history.beneficiary
        notes = [_first_round(state, await purse.k2.slot())]
        if held is not None and held.account.history.unstake_slot is not None and before:
            notes.append("That takes back that the stake was asked back.")
        if beneficiary != purse.wallet:
            notes.append(f"Stake and rewards are paid to {text_of(beneficiary)}, as this stake says.")
        spending = Spending(
            f"This stakes {koii(amount)} in task {named(state)} for {text_of(purse.staker)}.",
            (encode.stake(task, purse.wallet, purse.staker, beneficiary, amount),),
            moves=amount,
            rent=await purse.rent(STAKE_LAYOUT.size) if held is None else 0,
            notes=tuple(notes),
        )
        sent = await purse.spend(spending, yes, lambda: purse.k2.stake(task, amount, beneficiary))
        return sent, {
            "task": text_of(task),
            "staker": text_of(purse.staker),
            "beneficiary": text_of(beneficiary),
            "amount": amount,
            "stake": before + amount,
        }


def _check_stake(state: TaskState, before: int, amount: int) -> None:
    minimum = state.terms.minimum_stake
    if not state.active:
        raise NotPossible(
            f"Task {named(state)} takes no stakes.",
            "Its creator made it inactive.",
            "Join the task that takes over, if its creator named one: `koii-p2p task show` says so.",
        )
    if before + amount < minimum:
        raise NotPossible(
            f"{koii(amount)} are too little for task {named(state)}.",
            f"Its minimum stake is {koii(minimum)}, and {koii(before)} are staked.",
            f"Stake {koii(minimum - before)} or more.",
        )


def _first_round(state: TaskState, slot: int) -> str:
    clock = state.terms.clock
    number = max(0, clock.period(slot) + 1)
    begins = clock.work(number).opens
    return f"It counts from round {number} on, whose work begins in slot {begins}; now is slot {slot}."


# --- unstake


def unstake(ctx: typer.Context, task: TaskArgument, yes: YesOption = False) -> None:
    """Ask the stake in a task back. It is locked for three round times at least; then `withdraw` pays it out."""
    settings, where = settings_of(ctx), task_given(task)
    _print(settings, *trio.run(_unstake, settings, where, yes))


async def _unstake(settings: Settings, task: bytes, yes: bool) -> tuple[Sent, dict[str, Any]]:
    async with purse_of(settings) as purse:
        state = await purse.k2.task_state(task)
        held = await _staked(purse, state)
        asked = held.account.history.unstake_slot
        if asked is not None:
            raise NotPossible(
                f"The stake in task {named(state)} is asked back already.",
                f"That was in slot {asked}.",
                f"Withdraw it from slot {unlock_slot(state, asked)} on.",
            )
        slot = await purse.k2.slot()
        spending = Spending(
            f"This asks {koii(held.account.amount)} back from task {named(state)}.",
            (encode.request_unstake(task, purse.staker),),
            notes=(
                "The stake works until the end of the present period, and can be slashed for that.",
                f"It is locked until about slot {unlock_slot(state, slot)}; now is slot {slot}.",
            ),
        )
        sent = await purse.spend(spending, yes, lambda: purse.k2.unstake(task))
        return sent, {
            "task": text_of(task),
            "staker": text_of(purse.staker),
            "stake": held.account.amount,
            "unlock_slot": unlock_slot(state, sent.receipt.slot),
        }


# --- withdraw


def withdraw(
    ctx: typer.Context,
    task: TaskArgument,
    file: ListOption = None,
    peer: PeerOption = None,
    yes: YesOption = False,
) -> None:
    """Pay a stake out that was asked back, when its lock is over. Of a closed task, the rent of its account."""
    _run_with_list(_withdraw, ctx, task, file, peer, yes)


async def _withdraw(
    settings: Settings, task: bytes, file: Path | None, peer: str | None, yes: bool
) -> tuple[Sent, dict[str, Any]]:
    async with purse_of(settings) as purse:
        try:
            state = await purse.k2.task_state(task)
        except ClosedTask:
            return await _close_stake(purse, task, yes)
        held, slot = await _staked(purse, state), await purse.k2.slot()
        _check_unlocked(state, held.account, slot)
        anchored = newest_settled(state, slot)
        proven = await _own_leaf(purse, state, anchored, file, peer)
        beneficiary = held.account.history.beneficiary
        number, leaf, proof = (0, None, None) if proven is None else proven
        slash = 0 if leaf is None else _due(leaf.slash_total, held.account.slash_total, held.account.amount)
        reward = 0 if leaf is None else max(0, leaf.reward_total - held.account.reward_total)
        notes = []
        if slash:
            notes.append(f"Its leaf of round {number} slashes {koii(slash)} of it first.")
        if reward:
            notes.append(f"Rewards of {koii(reward)} are not claimed yet: `koii-p2p claim` does that.")
        if leaf is None and anchored is not None:
            notes.append(
                f"It goes without a leaf: no list of round {anchored.round} is at hand that has one. K2 allows that "
                "only to a stake that no list can name."
            )
        paid = held.account.amount - slash
        spending = Spending(
            f"This pays {koii(paid)} of stake in task {named(state)} out to {text_of(beneficiary)}.",
            (_encoded_withdraw(task, purse.staker, beneficiary, number, leaf, proof),),
            notes=tuple(notes),
        )
        try:
            sent = await purse.spend(
                spending,
                yes,
                lambda: purse.k2.withdraw(task, purse.staker, beneficiary, number, leaf, proof),
            )
        except ProgramRefused as error:
            if error.error is not ProgramError.LEAF_NEEDED or anchored is None:
                raise
            raise _no_leaf("The stake cannot be withdrawn.", purse, anchored) from error
        return sent, {
            "task": text_of(task),
            "staker": text_of(purse.staker),
            "beneficiary": text_of(beneficiary),
            "paid": paid,
            "slashed": slash,
            "unclaimed_reward": reward,
        }


def _check_unlocked(state: TaskState, account: StakeAccount, slot: int) -> None:
    asked = account.history.unstake_slot
    what = f"The stake of {koii(account.amount)} in task {named(state)} cannot be withdrawn now."
    if asked is None:
        raise NotPossible(what, "It was not asked back.", "Run `koii-p2p unstake` first.")
    unlocks = unlock_slot(state, asked)
    if slot < unlocks:
        raise NotPossible(
            what,
            f"It was asked back in slot {asked} and is locked until slot {unlocks}: three round times, and until the "
            "list of that round is settled or can no longer come.",
            f"Try again in {unlocks - slot} slots; now is slot {slot}.",
        )


def _encoded_withdraw(
    task: bytes, staker: bytes, beneficiary: bytes, number: int, leaf: Leaf | None, proof: Proof | None
) -> Instruction:
    try:
        return encode.withdraw(task, staker, beneficiary, number, leaf, proof)
    except InstructionError as error:
        raise _too_deep(error) from error


async def _close_stake(purse: Purse, task: bytes, yes: bool) -> tuple[Sent, dict[str, Any]]:
    held = await read_stake(purse.rpc, task, purse.staker)
    if held is None:
        raise NotPossible(
            f"There is nothing to withdraw from task {text_of(task)}.",
            f"It is closed, and {text_of(purse.staker)} has no account in it.",
            "`koii-p2p balance` shows where this key has a stake.",
        )
    beneficiary = held.account.history.beneficiary
    spending = Spending(
        f"Task {text_of(task)} is closed: this pays {koii(held.rent)} of rent of its stake account to "
        f"{text_of(beneficiary)}.",
        (encode.close_stake(task, purse.staker, beneficiary),),
    )
    sent = await purse.spend(spending, yes, lambda: purse.k2.close_stake(task, purse.staker, beneficiary))
    return sent, {
        "task": text_of(task),
        "staker": text_of(purse.staker),
        "beneficiary": text_of(beneficiary),
        "paid": held.rent,
        "closed": True,
    }


# --- claim


def claim(
    ctx: typer.Context,
    task: TaskArgument,
    file: ListOption = None,
    peer: PeerOption = None,
    yes: YesOption = False,
) -> None:
    """Have the rewards of the newest settled list paid (and its slashes taken). A running node does so by itself."""
    _run_with_list(_claim, ctx, task, file, peer, yes)


async def _claim(
    settings: Settings, task: bytes, file: Path | None, peer: str | None, yes: bool
) -> tuple[Sent | None, dict[str, Any]]:
    async with purse_of(settings) as purse:
        state = await purse.k2.task_state(task)
        held = await read_stake(purse.rpc, task, purse.staker)
        if held is None:
            raise _no_stake(purse, state)
        anchored = newest_settled(state, await purse.k2.slot())
        what = f"There is nothing to claim in task {named(state)}."
        if anchored is None:
            remedy = "Wait for the first list; `koii-p2p task show` shows the rounds."
            raise NotPossible(what, "No distribution list is settled yet.", remedy)
        proven = await _own_leaf(purse, state, anchored, file, peer)
        if proven is None:
            raise _no_leaf("Nothing was claimed.", purse, anchored)
        number, leaf, proof = proven
        account, beneficiary = held.account, held.account.history.beneficiary
        reward = max(0, leaf.reward_total - account.reward_total)
        slash = _due(leaf.slash_total, account.slash_total, account.amount)
        found: dict[str, Any] = {
            "task": text_of(task),
            "staker": text_of(purse.staker),
            "beneficiary": text_of(beneficiary),
            "round": number,
            "reward": reward,
            "slashed": slash,
        }
        if not reward and not slash:
            return None, found
        try:
            instruction = encode.settle(task, number, leaf, proof, beneficiary)
        except InstructionError as error:
            raise _too_deep(error) from error
        spending = Spending(
            f"This pays {koii(reward)} of rewards in task {named(state)} out to {text_of(beneficiary)}.",
            (instruction,),
            notes=(f"It takes {koii(slash)} of slashes from the stake.",) if slash else (),
        )
        sent = await purse.spend(
            spending, yes, lambda: purse.k2.settle(task, number, leaf, proof, beneficiary)
        )
        after = await read_stake(purse.rpc, task, purse.staker)
        if after is not None and after.account.reward_total < leaf.reward_total:
            # The slash landed alone: the vault is short, or the beneficiary can't be paid.
            found["reward"] = max(0, after.account.reward_total - account.reward_total)
        return sent, found


# --- what several of them need


def _run_with_list(
    command: Callable[..., Awaitable[tuple[Sent | None, dict[str, Any]]]],
    ctx: typer.Context,
    task: str,
    file: Path | None,
    peer: str | None,
    yes: bool,
) -> None:
    """Run a command that shows K2 a leaf, whose list may be named; `Sent` is None if nothing was left to do."""
    settings, where = settings_of(ctx), task_given(task)
    if file is not None and peer is not None:
        raise typer.BadParameter("--list and --peer exclude each other", param_hint="--list")
    _print(settings, *trio.run(command, settings, where, file, peer, yes))


async def _staked(purse: Purse, state: TaskState) -> HeldStake:
    held = await read_stake(purse.rpc, state.terms.task, purse.staker)
    if held is None or not held.account.amount:
        raise _no_stake(purse, state)
    return held


def _no_stake(purse: Purse, state: TaskState) -> NotPossible:
    return NotPossible(
        f"{text_of(purse.staker)} has no stake in task {named(state)}.",
        "K2 has no account of it there, or an empty one.",
        "`koii-p2p balance` shows where this key has one; name another key with --keypair.",
    )


async def _own_leaf(
    purse: Purse, state: TaskState, anchored: AnchoredList | None, file: Path | None, peer: str | None
) -> tuple[int, Leaf, Proof] | None:
    """The staking key's leaf of the newest settled list and its proof, with the round; None if it is not at hand."""
    if anchored is None:
        return None
    genesis, task = await purse.k2.genesis(), state.terms.task
    found = await list_at_hand(purse.settings, genesis, task, anchored, file, peer)
    leaf = None if found is None else found.leaf(purse.staker)
    return None if found is None or leaf is None else (anchored.round, leaf, found.proof(purse.staker))


def unsettled(found: DistributionList | None, account: StakeAccount) -> tuple[int, int] | None:
    """What a list would still pay to a stake and take of it, in Roe; None without the list or a leaf in it."""
    leaf = None if found is None else found.leaf(account.history.staker)
    if leaf is None:
        return None
    reward = max(0, leaf.reward_total - account.reward_total)
    return reward, _due(leaf.slash_total, account.slash_total, account.amount)


def _due(listed: int, taken: int, stake: int) -> int:
    # The program takes no more than there is, and forgives the rest.
    return min(max(0, listed - taken), stake)


def _no_leaf(what: str, purse: Purse, anchored: AnchoredList) -> ConfigurationError:
    return ConfigurationError(
        what,
        f"This needs the leaf of {text_of(purse.staker)} on the newest settled list, that of round {anchored.round}, "
        "and no list with one is at hand.",
        "Run the node of this home for a while, or ask another one with --peer, or give the list with --list.",
    )


def _too_deep(error: InstructionError) -> ConfigurationError:
    return ConfigurationError(
        "The leaf cannot be shown to K2.", str(error), "Report this: no honest list is so long."
    )


_ROE_FIELDS = frozenset({"amount", "stake", "paid", "slashed", "reward", "unclaimed_reward"})


def _amounts(found: dict[str, Any]) -> dict[str, Any]:
    return {
        name.replace("_", " "): koii(value) if name in _ROE_FIELDS else value for name, value in found.items()
    }


def _print(settings: Settings, sent: Sent | None, found: dict[str, Any]) -> None:
    if sent is None:
        told: dict[str, Any] = {"signature": None}
        shown: dict[str, Any] = {"claim": "nothing to claim: the list is settled for this key"}
    else:
        told, shown = sent.as_json(), sent.shown()
    print_result({**found, **told}, pairs({**_amounts(found), **shown}), settings.output)
