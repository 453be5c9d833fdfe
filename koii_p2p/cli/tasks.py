"""`koii-p2p task`: tasks on K2: look at them, create, fund, pause, update and close one's own."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import trio
import typer
from solders.instruction import Instruction

from koii_p2p.cli.amounts import roe_given
from koii_p2p.cli.key_names import key_given, text_of
from koii_p2p.cli.output import koii, pairs, plain, print_result, table
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
    reader_of,
    task_given,
    wallet_of,
)
from koii_p2p.cli.task_check import check
from koii_p2p.cli.task_logs import logs
from koii_p2p.cli.task_new import new
from koii_p2p.cli.task_pack import PublishOption, pack, published
from koii_p2p.cli.task_plan import Planned, planned
from koii_p2p.cli.task_rehearsal import rehearsal
from koii_p2p.cli.task_rules import RuleOption, rule_words
from koii_p2p.cli.task_trust import app as trust
from koii_p2p.errors import ChainError, ConfigurationError
from koii_p2p.network.task_bootstrap import bootstrap_text
from koii_p2p.rounds.audit_rules import RulesError
from koii_p2p.rounds.terms import U64_MAX, TaskTerms, TermsError
from koii_p2p.settlement import instructions as encode
from koii_p2p.settlement.instructions import PROGRAM_ID, InstructionError
from koii_p2p.settlement.interface import AnchoredList, ClosedTaskState, Receipt, TaskState
from koii_p2p.settlement.layouts import (
    CLOSED_TASK_LAYOUT,
    TASK_LAYOUT,
    TASK_MAGIC,
    VAULT_LAYOUT,
    LayoutError,
    decode_task,
)
from koii_p2p.settlement.refusals import ClosedTask
from koii_p2p.settlement.rpc import DataSize, Memcmp
from koii_p2p.storage.keyfile import load_public
from koii_p2p.tasks.config_task import STARTS_IN
from koii_p2p.tasks.rule_words import rules_json

app = typer.Typer()


@app.callback()
def task() -> None:
    """Tasks on K2. Only its creator, the wallet that made it, can pause, update or close a task."""


# --- look


@app.command("list")
def list_tasks(
    ctx: typer.Context,
    mine: Annotated[bool, typer.Option("--mine", help="Only those that the home's wallet created.")] = False,
) -> None:
    """List the tasks on this cluster."""
    settings = settings_of(ctx)
    creator = load_public(settings.wallet_key) if mine else None
    found = trio.run(_list, settings, creator)
    rows = [
        (
            one["task"],
            plain(one["name"]),
            one["state"],
            one["stakers"],
            koii(one["total_stake"]),
            koii(one["minimum_stake"]),
            koii(one["bounty_per_round"]),
            one["round_time"],
        )
        for one in found
    ]
    columns = ("task", "name", "state", "stakers", "staked", "minimum stake", "bounty", "round (slots)")
    print_result(found, table(columns, rows) if rows else "no tasks", settings.output)


async def _list(settings: Settings, creator: bytes | None) -> list[dict[str, Any]]:
    filters: list[DataSize | Memcmp] = [DataSize(TASK_LAYOUT.size), Memcmp(0, TASK_MAGIC)]
    if creator is not None:
        filters.append(Memcmp(TASK_LAYOUT.field("creator").offset, creator))
    async with reader_of(settings) as (rpc, _k2):
        accounts = await rpc.get_program_accounts(PROGRAM_ID, filters)
    found = []
    for address, account in accounts:
        try:
            state = decode_task(address, account.data, vault=0)
        except LayoutError:
            continue  # one that cannot be read must not hide the others; `task show` says why
        terms = state.terms
        found.append(
            {
                "task": text_of(address),
                "name": terms.name,
                "state": _activity(state),
                "creator": text_of(terms.creator),
                "stakers": state.stakers,
                "total_stake": state.total_stake,
                "minimum_stake": terms.minimum_stake,
                "bounty_per_round": terms.bounty_per_round,
                "round_time": terms.round_time,
            }
        )
    return sorted(found, key=lambda one: (one["name"], one["task"]))


@app.command("show")
def show(ctx: typer.Context, task: TaskArgument) -> None:
    """Show a task: its terms, its money, and where its rounds stand."""
    settings, where = settings_of(ctx), task_given(task)
    found = trio.run(_show, settings, where)
    print_result(found, pairs(_for_a_person(found)), settings.output)


async def _show(settings: Settings, task: bytes) -> dict[str, Any]:
    async with reader_of(settings) as (_rpc, k2):
        try:
            state = await k2.task_state(task)
        except ClosedTask as closed:
            return _closed_json(task, closed.state)
        return _task_json(state, await k2.slot())


def _task_json(state: TaskState, slot: int) -> dict[str, Any]:
    terms = state.terms
    return {
        "task": text_of(terms.task),
        "name": terms.name,
        "state": _activity(state),
        "creator": text_of(terms.creator),
        "nonce": state.nonce,
        "program": terms.program,
        "metadata": state.metadata,
        "successor": None if state.successor is None else text_of(state.successor),
        "slot": slot,
        "period": terms.clock.period(slot),
        "starting_slot": terms.starting_slot,
        "round_time": terms.round_time,
        "submission_window": terms.submission_window,
        "audit_window": terms.audit_window,
        "bounty_per_round": terms.bounty_per_round,
        "minimum_stake": terms.minimum_stake,
        "slash_basis_points": terms.slash_basis_points,
        "allowed_failed_distributions": terms.allowed_failed_distributions,
        "audit": rules_json(terms.audit),
        "vault": state.vault,
        "funded": state.funded,
        "paid": state.paid,
        "slashed": state.slashed,
        "bonds": state.bonds,
        "stakers": state.stakers,
        "total_stake": state.total_stake,
        "withdrawn": state.withdrawn,
        "anchors": state.anchors,
        "newest_list": _list_json(state.last_list),
        "settled_list": _list_json(state.settled_list),
        "idle": None if state.idle is None else list(state.idle),
    }


def _list_json(listed: AnchoredList | None) -> dict[str, Any] | None:
    return None if listed is None else {"round": listed.round, "slot": listed.slot, "root": listed.root.hex()}


def _closed_json(task: bytes, state: ClosedTaskState) -> dict[str, Any]:
    return {
        "task": text_of(task),
        "state": "closed",
        "creator": text_of(state.creator),
        "nonce": state.nonce,
        "closed_slot": state.closed_slot,
        "successor": None if state.successor is None else text_of(state.successor),
        "anchors": state.anchors,
    }


_ROE_FIELDS = frozenset(
    {
        "bounty_per_round", "minimum_stake", "vault", "funded", "paid", "slashed", "bonds", "total_stake",
        "withdrawn", "amount", "returned",
    }
)  # fmt: skip


def _for_a_person(found: dict[str, Any]) -> dict[str, object]:
    shown: dict[str, object] = {}
    for name, value in found.items():
        label = name.replace("_", " ")
        if name in _ROE_FIELDS:
            shown[label] = koii(value)
        elif name == "audit":
            shown[label] = ", ".join(f"{rule}={setting}" for rule, setting in value.items())
        elif name in ("newest_list", "settled_list"):
            shown[label] = "none" if value is None else f"of round {value['round']}, in slot {value['slot']}"
        elif name == "idle":
            if value is not None:
                shown["rounds left out"] = f"from {value[0]} on" + (
                    "" if value[1] is None else f", up to {value[1] - 1}"
                )
        else:
            shown[label] = "none" if value in (None, "") else plain(str(value))
    return shown


# --- write, try, create and fund


app.command("new")(new)
app.command("check")(check)
app.command("test")(rehearsal)
app.command("logs")(logs)
app.command("pack")(pack)
app.add_typer(trust, name="trust")


@app.command("create")
def create(
    ctx: typer.Context,
    path: Annotated[
        Path | None,
        typer.Argument(
            metavar="PATH",
            help="A task's folder with a config-task.yml, or the file; options go before what it says.",
        ),
    ] = None,
    name: Annotated[str | None, typer.Option("--name", help="Its name, at most 24 bytes.")] = None,
    program: Annotated[
        str | None,
        typer.Option("--program", help="What nodes run: an import path or a CID, at most 64 bytes."),
    ] = None,
    round_time: Annotated[
        int | None, typer.Option("--round-time", metavar="SLOTS", help="Length of a round.")
    ] = None,
    submission_window: Annotated[
        int | None,
        typer.Option("--submission-window", metavar="SLOTS", help="For submissions, and for the list."),
    ] = None,
    audit_window: Annotated[
        int | None, typer.Option("--audit-window", metavar="SLOTS", help="For audits, and for the list's.")
    ] = None,
    bounty: Annotated[
        str | None, typer.Option("--bounty-per-round", metavar="KOII", help="The most that a round pays.")
    ] = None,
    minimum_stake: Annotated[
        str | None,
        typer.Option("--minimum-stake", metavar="KOII", help="The least that a staker has to stake."),
    ] = None,
    fund: Annotated[
        str | None,
        typer.Option(
            "--fund", metavar="KOII", help="Put this much into its vault at once; 0 if nothing says more."
        ),
    ] = None,
    starts_in: Annotated[
        int | None,
        typer.Option(
            "--starts-in",
            metavar="SLOTS",
            min=0,
            help=f"From now to its first round; {STARTS_IN} if nothing says more.",
        ),
    ] = None,
    slash: Annotated[
        int | None,
        typer.Option(
            "--slash", metavar="BP", help="What a rejected submission loses, in 1/10000; 7000 as in Koii."
        ),
    ] = None,
    failed: Annotated[
        int | None,
        typer.Option(
            "--failed-distributions", help="How many lists of a round may be rejected; 3 as in Koii."
        ),
    ] = None,
    rule: RuleOption = None,
    publish: PublishOption = False,
    nonce: Annotated[
        int | None,
        typer.Option("--nonce", min=0, max=U64_MAX, help="The address follows from it; drawn if not given."),
    ] = None,
    yes: YesOption = False,
) -> None:
    """Put a task on K2, by a config-task.yml or by options. Its terms never change; slots are K2's (0.4 s)."""
    settings = settings_of(ctx)
    options = {
        "name": name,
        "program": published(settings, path, program) if publish else program,
        "round_time": round_time,
        "submission_window": submission_window,
        "audit_window": audit_window,
        "bounty_per_round": None if bounty is None else roe_given(bounty),
        "minimum_stake": None if minimum_stake is None else roe_given(minimum_stake),
        "slash_basis_points": slash,
        "allowed_failed_distributions": failed,
        "fund": None if fund is None else roe_given(fund),
        "starts_in": starts_in,
    }
    wanted = planned(path, options, rule_words(rule or []))
    wallet = load_public(settings.wallet_key)
    number = secrets.randbits(63) if nonce is None else nonce
    try:
        terms = wanted.plan.terms(encode.task_address(wallet, number), wallet, 0)
    except (TermsError, RulesError) as error:
        raise _bad_terms(str(error)) from error
    sent, found = trio.run(_create, settings, terms, number, wanted, yes)
    _print(settings, sent, found)


async def _create(
    settings: Settings, terms: TaskTerms, nonce: int, wanted: Planned, yes: bool
) -> tuple[Sent, dict[str, Any]]:
    starts_in, funds = wanted.plan.starts_in, wanted.plan.fund
    async with wallet_of(settings) as purse:
        await _check_free(purse, terms.task)
        terms = _starting_at(terms, await purse.k2.slot() + starts_in)
        notes = [
            *wanted.notes,
            f"Its first round begins in slot {terms.starting_slot}, {starts_in} slots from now.",
        ]
        if funds and terms.bounty_per_round:
            notes.append(f"Its vault will hold the bounties of {funds // terms.bounty_per_round} rounds.")
        instructions = [_made(lambda: encode.create_task(terms, nonce))]
        if funds:
            instructions.append(_made(lambda: encode.fund(terms.task, purse.wallet, funds)))
        spending = Spending(
            f"This creates task {plain(terms.name)} ({text_of(terms.task)})"
            + (f" with {koii(funds)}." if funds else "."),
            tuple(instructions),
            moves=funds,
            rent=await purse.rent(TASK_LAYOUT.size, VAULT_LAYOUT.size),
            notes=tuple(notes),
        )
        sent = await purse.spend(spending, yes, lambda: _create_task(purse, terms, nonce))
        found: dict[str, Any] = {
            "task": text_of(terms.task),
            "name": terms.name,
            "nonce": nonce,
            "starting_slot": terms.starting_slot,
            "funded": funds,
        }
        if funds:
            found["fund_signature"] = (await _first_funds(purse, terms.task, funds)).signature
        return sent, found


async def _create_task(purse: Purse, terms: TaskTerms, nonce: int) -> Receipt:
    return (await purse.k2.create_task(terms, nonce)).receipt


async def _first_funds(purse: Purse, task: bytes, funds: int) -> Receipt:
    try:
        return await purse.k2.fund(task, funds)
    except ChainError as error:
        raise NotPossible(
            f"Task {text_of(task)} was created, and not funded.",
            error.why,
            f"Try again with `koii-p2p task fund {text_of(task)}`.",
        ) from error


async def _check_free(purse: Purse, task: bytes) -> None:
    found = await purse.rpc.get_account(task)
    if found is not None and found.owner == PROGRAM_ID:
        raise NotPossible(
            "The task cannot be created.",
            f"This wallet has used the nonce before, for {text_of(task)}.",
            "Leave out --nonce, or give another one.",
        )


def _starting_at(terms: TaskTerms, slot: int) -> TaskTerms:
    try:
        return replace(terms, starting_slot=slot)
    except TermsError as error:
        raise _bad_terms(str(error)) from error


@app.command("fund")
def fund(ctx: typer.Context, task: TaskArgument, amount: AmountArgument, yes: YesOption = False) -> None:
    """Put AMOUNT into a task's vault: bounties are paid from it. Anyone may; it does not come back."""
    settings, where, wanted = settings_of(ctx), task_given(task), amount_given(amount)
    _print(settings, *trio.run(_fund, settings, where, wanted, yes))


async def _fund(settings: Settings, task: bytes, amount: int, yes: bool) -> tuple[Sent, dict[str, Any]]:
    async with wallet_of(settings) as purse:
        state = await purse.k2.task_state(task)
        bounty = state.terms.bounty_per_round
        notes = ["What is in a vault goes to who works, and what is left to the task's creator."]
        if bounty:
            notes.append(f"The vault will hold the bounties of {(state.vault + amount) // bounty} rounds.")
        spending = Spending(
            f"This puts {koii(amount)} into the vault of task {named(state)}.",
            (encode.fund(task, purse.wallet, amount),),
            moves=amount,
            notes=tuple(notes),
        )
        sent = await purse.spend(spending, yes, lambda: purse.k2.fund(task, amount))
        return sent, {"task": text_of(task), "amount": amount, "vault": state.vault + amount}


# --- the creator's


@app.command("activate")
def activate(ctx: typer.Context, task: TaskArgument, yes: YesOption = False) -> None:
    """Let one's own task go on with the next round."""
    settings, where = settings_of(ctx), task_given(task)
    _print(settings, *trio.run(_set_active, settings, where, True, yes))


@app.command("deactivate")
def deactivate(ctx: typer.Context, task: TaskArgument, yes: YesOption = False) -> None:
    """Let one's own task take no stakes and no new rounds; those in flight are finished and paid."""
    settings, where = settings_of(ctx), task_given(task)
    _print(settings, *trio.run(_set_active, settings, where, False, yes))


async def _set_active(
    settings: Settings, task: bytes, active: bool, yes: bool
) -> tuple[Sent, dict[str, Any]]:
    async with wallet_of(settings) as purse:
        state = await _own(purse, task)
        word = "active" if active else "inactive"
        if state.active is active:
            raise NotPossible(
                f"Task {named(state)} is {word} already.",
                "K2 has it so.",
                "`koii-p2p task show` shows it.",
            )
        notes = (
            "It goes on with the next round."
            if active
            else "Rounds in flight are finished; stakers can ask their stakes back at any time."
        )
        spending = Spending(
            f"This makes task {named(state)} {word}.",
            (encode.set_active(task, purse.wallet, active),),
            notes=(notes,),
        )
        sent = await purse.spend(spending, yes, lambda: purse.k2.set_active(task, active))
        return sent, {"task": text_of(task), "state": word}


@app.command("update")
def update(
    ctx: typer.Context,
    task: TaskArgument,
    metadata: Annotated[
        str | None,
        typer.Option("--metadata", help="What it says of itself, such as a CID; at most 64 bytes."),
    ] = None,
    bootstrap: Annotated[
        str | None,
        typer.Option(
            "--bootstrap",
            metavar="ADDR",
            help="In place of --metadata: a peer that its nodes call first, /ip4/.../tcp/.../p2p/...",
        ),
    ] = None,
    successor: Annotated[
        str | None,
        typer.Option("--successor", metavar="TASK", help="The task that takes over; its own id for none."),
    ] = None,
    yes: YesOption = False,
) -> None:
    """Change what one's own task says of itself, or which one takes over. What is not given stays."""
    settings, where = settings_of(ctx), task_given(task)
    if bootstrap is not None:
        if metadata is not None:
            raise typer.BadParameter("the record has room for one of them", param_hint="--bootstrap")
        metadata = bootstrap_text(bootstrap)
    if metadata is None and successor is None:
        raise typer.BadParameter("give --metadata, --bootstrap or --successor", param_hint="--metadata")
    other = None if successor is None else key_given(successor, "--successor")
    _print(settings, *trio.run(_update, settings, where, metadata, other, yes))


async def _update(
    settings: Settings, task: bytes, metadata: str | None, successor: bytes | None, yes: bool
) -> tuple[Sent, dict[str, Any]]:
    async with wallet_of(settings) as purse:
        state = await _own(purse, task)
        text = state.metadata if metadata is None else metadata
        wanted = state.successor if successor is None else successor
        next_task = None if wanted in (None, task) else wanted
        if next_task is not None and next_task != state.successor:
            await purse.k2.task_state(next_task)  # which says so if there is none
        spending = Spending(
            f"This updates task {named(state)}.",
            (_made(lambda: encode.update_task(task, purse.wallet, text, next_task)),),
            notes=(
                f"It will say: {plain(text) or 'nothing'}.",
                f"Task that takes over: {'none' if next_task is None else text_of(next_task)}.",
            ),
        )
        sent = await purse.spend(spending, yes, lambda: purse.k2.update(task, text, next_task))
        return sent, {
            "task": text_of(task),
            "metadata": text,
            "successor": None if next_task is None else text_of(next_task),
        }


@app.command("close")
def close(ctx: typer.Context, task: TaskArgument, yes: YesOption = False) -> None:
    """End one's own inactive task for ever, when no stake and no unpaid reward is left. The rest comes back."""
    settings, where = settings_of(ctx), task_given(task)
    _print(settings, *trio.run(_close, settings, where, yes))


async def _close(settings: Settings, task: bytes, yes: bool) -> tuple[Sent, dict[str, Any]]:
    async with wallet_of(settings) as purse:
        state = await _own(purse, task)
        what = f"Task {named(state)} cannot be closed now."
        if state.active:
            raise NotPossible(what, "It is active.", "Run `koii-p2p task deactivate` first.")
        if state.total_stake:
            raise NotPossible(
                what,
                f"{koii(state.total_stake)} are staked in it.",
                "Wait until all stakers have withdrawn: `koii-p2p unstake`, then `koii-p2p withdraw`.",
            )
        accounts = await purse.rpc.get_multiple_accounts([task, encode.vault_address(task)])
        held = sum(account.lamports for account in accounts if account is not None)
        returned = max(0, held - await purse.rent(CLOSED_TASK_LAYOUT.size))
        spending = Spending(
            f"This closes task {named(state)} for ever.",
            (encode.close(task, purse.wallet),),
            notes=(f"{koii(returned)} of its vault and rent come back to {text_of(purse.wallet)}.",),
        )
        sent = await purse.spend(spending, yes, lambda: purse.k2.close(task))
        return sent, {"task": text_of(task), "state": "closed", "returned": returned}


# --- what several of them need


async def _own(purse: Purse, task: bytes) -> TaskState:
    """The task, which has to be the wallet's. Raises `UnknownTask`, `NotPossible`."""
    state = await purse.k2.task_state(task)
    if state.terms.creator != purse.wallet:
        raise NotPossible(
            f"Task {named(state)} is not this wallet's.",
            f"{text_of(state.terms.creator)} created it, and the wallet is {text_of(purse.wallet)}.",
            "Name the creator's home with --home.",
        )
    return state


def _made(make: Callable[[], Instruction]) -> Instruction:
    try:
        return make()
    except InstructionError as error:
        raise _bad_terms(str(error)) from error


def _bad_terms(why: str) -> ConfigurationError:
    return ConfigurationError(
        "The task cannot be like this.",
        f"{why.rstrip('.')}.",
        "Correct what is given; `--help` says what is possible.",
    )


def _activity(state: TaskState) -> str:
    return "active" if state.active else "inactive"


def _print(settings: Settings, sent: Sent, found: dict[str, Any]) -> None:
    shown = {**_for_a_person(found), **sent.shown()}
    print_result({**found, **sent.as_json()}, pairs(shown), settings.output)
