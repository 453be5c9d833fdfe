"""`koii-p2p k2 show`: a block, a transaction, an account, or a task's round, as the chain has them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Coroutine, Mapping, Sequence
from datetime import UTC, datetime
from enum import Enum
from typing import Annotated, Any, Final

import base58
import trio
import typer
from rich.console import Group, RenderableType
from rich.text import Text
from solders.pubkey import Pubkey
from solders.transaction import VersionedTransaction

from koii_p2p.cli.output import koii, pairs, print_result, table
from koii_p2p.cli.settings import settings_of
from koii_p2p.errors import CheckFailed
from koii_p2p.limits import Limits
from koii_p2p.localk2.task_reader import KOII_TASK_PROGRAM, KPL_TASK_PROGRAM, JsonTaskReader
from koii_p2p.localk2.transactions import MEMO_PROGRAMS
from koii_p2p.settlement.decoding import decode_instruction
from koii_p2p.settlement.history import ChainEntry, read_history
from koii_p2p.settlement.instructions import PROGRAM_ID, InstructionError
from koii_p2p.settlement.layouts import LayoutError, decode_stake, decode_task
from koii_p2p.settlement.rpc import Account, RpcClient, TransactionRecord, transaction_signature

app = typer.Typer(no_args_is_help=True)

_LINES: Final = 20
_SYSTEM: Final = "11111111111111111111111111111111"
_NAMES: Final = {
    _SYSTEM: "System",
    "ComputeBudget111111111111111111111111111111": "Compute budget",
    "BPFLoaderUpgradeab1e11111111111111111111111": "Upgradeable loader",
    str(Pubkey(PROGRAM_ID)): "Settlement",
    str(KOII_TASK_PROGRAM): "Koii tasks",
    str(KPL_TASK_PROGRAM): "KPL tasks",
    **dict.fromkeys(MEMO_PROGRAMS, "Memo"),
}
_TRANSFER: Final = (2).to_bytes(4, "little")
_CREATE: Final = (0).to_bytes(4, "little")
# Koii's instruction table (docs of the task program's clients): the first byte of the data.
_KOII_INSTRUCTIONS: Final = (
    "CreateTask", "SubmitTask", "AuditSubmissions", "AuditDistribution", "Payout", "Whitelist", "SetActive",
    "ClaimReward", "FundTask", "Stake", "Withdraw", "UploadDistributionList", "SubmitDistributionList",
)  # fmt: skip

# Digests, in hexadecimal; every other value of 32 bytes is an address.
_DIGESTS: Final = frozenset({"root", "digest", "head", "program", "rules", "commitment", "list_root"})

Found = dict[str, Any]


@app.callback()
def show() -> None:
    """Look at the chain: a block, a transaction, an account or a round."""


@app.command("slot")
def slot(
    ctx: typer.Context, number: Annotated[int, typer.Argument(min=0, metavar="SLOT", help="Which slot.")]
) -> None:
    """Show the block of a slot and its transactions."""

    async def read(rpc: RpcClient) -> Found:
        block = await rpc.get_block(number)
        if block is None:
            raise _missing(f"slot {number}", "It is in the future, was skipped, or is not confirmed yet")
        return {
            "slot": block.slot,
            "blockhash": _text(block.blockhash),
            "parent": block.parent,
            "previous_blockhash": _text(block.previous_blockhash),
            "height": block.height,
            "time": block.time,
            "transactions": [_transaction(one) for one in block.transactions],
        }

    _run(ctx, read, _block_shown)


@app.command("tx")
def tx(
    ctx: typer.Context,
    signature: Annotated[str, typer.Argument(metavar="SIGNATURE", help="Its first signature, in base58.")],
) -> None:
    """Show a transaction: who signed, what it does, what came of it."""
    if _size(signature) != 64:
        raise typer.BadParameter(f"{signature[:100]!r} is not a signature: 64 bytes in base58")

    async def read(rpc: RpcClient) -> Found:
        record = await rpc.get_transaction(signature)
        (status,) = await rpc.get_signature_statuses([signature], search_history=True)
        if record is None:
            what = f"transaction {signature}"
            if status is None:
                raise _missing(what, "It never landed, or was forgotten")
            raise _missing(what, f"It is {status.commitment} in slot {status.slot}, and not readable yet")
        return {**_transaction(record), "commitment": None if status is None else status.commitment}

    _run(ctx, read, _transaction_shown)


@app.command("account")
def account(
    ctx: typer.Context,
    address: Annotated[str, typer.Argument(metavar="ADDRESS", help="Its address, in base58.")],
) -> None:
    """Show an account, what it holds if that is known, and its newest transactions."""
    key = _key(address)

    async def read(rpc: RpcClient) -> Found:
        found = await rpc.get_account(key)
        lines = await rpc.get_signatures_for_address(key, limit=_LINES)
        if found is None and not lines:
            raise _missing(f"account {address}", "Nothing was ever sent there, or it was forgotten")
        return {
            "address": address,
            "exists": found is not None,
            **({} if found is None else _account(key, found)),
            "transactions": [
                {"signature": line.signature, "slot": line.slot, "err": line.err, "memo": line.memo}
                for line in lines
            ],
        }

    _run(ctx, read, _account_shown)


@app.command("round")
def round(
    ctx: typer.Context,
    task: Annotated[str, typer.Argument(metavar="TASK", help="The task's address, in base58.")],
    number: Annotated[int, typer.Argument(min=0, metavar="ROUND", help="The number of the round.")],
) -> None:
    """Show what the chain has about a task's round: anchors, vetoes and settlements, in their order."""
    key = _key(task)

    async def read(rpc: RpcClient) -> Found:
        entries = await read_history(rpc, key, limit=Limits().history_transactions)
        about = [one for one in entries if getattr(one.instruction, "round", None) == number]
        if not about:
            raise _missing(f"round {number} of task {task}", "Nothing about it was sent, or it was forgotten")
        return {"task": task, "round": number, "entries": [_entry(one) for one in about]}

    _run(ctx, read, _round_shown)


# -- what is found


def _transaction(record: TransactionRecord) -> Found:
    message = VersionedTransaction.from_bytes(record.wire).message
    keys = [str(key) for key in message.account_keys]
    signers = keys[: message.header.num_required_signatures]
    return {
        "signature": transaction_signature(record.wire),
        "slot": record.slot,
        "time": record.block_time,
        "err": record.err,
        "fee": record.fee,
        "signers": signers,
        "blockhash": str(message.recent_blockhash),
        "bytes": len(record.wire),
        "instructions": [
            _instruction(
                keys[one.program_id_index] if one.program_id_index < len(keys) else "from a lookup table",
                bytes(one.data),
                [keys[index] for index in one.accounts if index < len(keys)],
            )
            for one in message.instructions
        ],
        "logs": list(record.logs),
    }


def _instruction(program: str, data: bytes, accounts: Sequence[str]) -> Found:
    does, values = _meaning(program, data, accounts)
    return {
        "program": program,
        "name": _NAMES.get(program),
        "does": does,
        "values": values,
        "accounts": list(accounts),
        "data": data.hex(),
    }


def _meaning(program: str, data: bytes, accounts: Sequence[str]) -> tuple[str | None, Found]:
    """What an instruction does, in words and as values; None if it is not known."""
    if program == _SYSTEM and data[:4] == _TRANSFER and len(data) == 12 and len(accounts) >= 2:
        amount = int.from_bytes(data[4:], "little")
        return f"transfer {koii(amount)} to {accounts[1]}", {"amount": amount, "to": accounts[1]}
    if program == _SYSTEM and data[:4] == _CREATE and len(data) == 52 and len(accounts) >= 2:
        owner, size = _text(data[20:52]), int.from_bytes(data[12:20], "little")
        return f"create {accounts[1]} with {size} bytes for {_named(owner)}", {"owner": owner, "size": size}
    if program in MEMO_PROGRAMS:
        memo = data.decode(errors="replace")
        return f"memo {memo!r}", {"memo": memo}
    if program == str(Pubkey(PROGRAM_ID)):
        try:
            decoded = decode_instruction(data, [bytes(Pubkey.from_string(one)) for one in accounts])
        except InstructionError as error:
            return str(error), {}
        values = _plain(decoded)
        return type(decoded).__name__ + _details(values), values
    if program in (str(KOII_TASK_PROGRAM), str(KPL_TASK_PROGRAM)) and data:
        known = data[0] < len(_KOII_INSTRUCTIONS)
        return (_KOII_INSTRUCTIONS[data[0]] if known else f"instruction {data[0]}"), {}
    return None, {}


def _account(key: bytes, found: Account) -> Found:
    return {
        "owner": _text(found.owner),
        "owner_name": _NAMES.get(_text(found.owner)),
        "balance": found.lamports,
        "bytes": len(found.data),
        "executable": found.executable,
        **_content(key, found),
    }


def _content(key: bytes, found: Account) -> Found:
    """What an account holds, decoded: `kind` and `content`; nothing if that is not known."""
    if found.owner == PROGRAM_ID:
        readers: tuple[tuple[str, Callable[[], object]], ...] = (
            ("task", lambda: decode_task(key, found.data, vault=0)),
            ("stake", lambda: decode_stake(found.data)),
        )
        for kind, read in readers:
            try:
                content = _plain(read())
            except LayoutError:
                continue
            content.pop("vault", None)  # it is in an account of its own
            return {"kind": kind, "content": content}
        return {"kind": "vault or unknown"}
    if found.owner == bytes(KOII_TASK_PROGRAM):
        from solders.account import Account as ChainAccount

        held = ChainAccount(found.lamports, found.data, Pubkey(found.owner))
        try:
            state = JsonTaskReader().read(Pubkey(key), held)
        except ValueError as error:
            return {"kind": f"damaged task: {error}"}
        return {} if state is None else {"kind": "Koii task", "content": state}
    return {}


def _entry(one: ChainEntry) -> Found:
    return {
        "slot": one.slot,
        "signature": one.signature,
        "err": one.err,
        "does": type(one.instruction).__name__,
        "values": _plain(one.instruction),
        "signer": None if one.signer is None else _text(one.signer),
        "fee": one.fee,
        "fault": one.fault,
    }


# -- how it is shown


def _block_shown(found: Found) -> RenderableType:
    about = {
        "slot": found["slot"],
        "blockhash": found["blockhash"],
        "parent": found["parent"],
        "height": found["height"],
        "time": _time(found["time"]),
        "transactions": len(found["transactions"]),
    }
    rows = [
        (one["signature"], "; ".join(_words(one)), _outcome(one["err"]), koii(one["fee"]))
        for one in found["transactions"][:_LINES]
    ]
    more = len(found["transactions"]) - len(rows)
    rest = Text(f"... and {more} more (--output json has all)") if more else Text()
    return Group(pairs(about), Text(), table(("transaction", "does", "result", "fee"), rows), rest)


def _transaction_shown(found: Found) -> RenderableType:
    about = {
        "transaction": found["signature"],
        "slot": found["slot"],
        "time": _time(found["time"]),
        "result": _outcome(found["err"]),
        "settled": found["commitment"] or "unknown",
        "fee": koii(found["fee"]),
        "paid by": found["signers"][0],
        "signed by": ", ".join(found["signers"]),
        "size": f"{found['bytes']} bytes",
    }
    rows = [
        (index, one["name"] or one["program"], one["does"] or f"{len(one['data']) // 2} bytes of data")
        for index, one in enumerate(found["instructions"])
    ]
    logs = Text("\n".join(found["logs"]), style="dim")
    return Group(pairs(about), Text(), table(("no.", "program", "does"), rows), Text(), logs)


def _account_shown(found: Found) -> RenderableType:
    about: dict[str, object] = {"account": found["address"]}
    if found["exists"]:
        about |= {
            "owner": _named(found["owner"]),
            "balance": koii(found["balance"]),
            "size": f"{found['bytes']} bytes" + (", a program" if found["executable"] else ""),
        }
    else:
        about["balance"] = "0 KOII: the account does not exist now"
    if "kind" in found:
        about["kind"] = found["kind"]
    for name, value in found.get("content", {}).items():
        about[name] = _short(value)
    rows = [
        (one["slot"], one["signature"], _outcome(one["err"]), one["memo"] or "")
        for one in found["transactions"]
    ]
    return Group(pairs(about), Text(), table(("slot", "transaction", "result", "memo"), rows))


def _round_shown(found: Found) -> RenderableType:
    rows = [
        (
            one["slot"],
            one["does"] + _details(one["values"]),
            _outcome(one["err"]) if one["fault"] is None else f"not to be believed: {one['fault']}",
            one["signature"],
        )
        for one in found["entries"]
    ]
    about = pairs({"task": found["task"], "round": found["round"]})
    return Group(about, Text(), table(("slot", "what", "result", "transaction"), rows))


def _words(transaction: Found) -> list[str]:
    """What a transaction does; its compute budget is not worth a word."""
    return [
        one["does"] or one["name"] or one["program"]
        for one in transaction["instructions"]
        if one["name"] != "Compute budget"
    ]


def _details(values: Mapping[str, Any]) -> str:
    names = ("round", "attempt", "staker", "amount", "digest", "root")
    told = [
        f"{name} {koii(values[name]) if name == 'amount' else values[name]}"
        for name in names
        if name in values
    ]
    return f" ({', '.join(told)})" if told else ""


def _short(value: Any) -> str:
    if isinstance(value, dict) and value:
        return "; ".join(f"{name}: {_short(one)}" for name, one in value.items())
    if isinstance(value, list) and value:
        return ", ".join(_short(one) for one in value)
    return "-" if value in (None, {}, []) else str(value)


def _outcome(err: Any) -> str:
    return "ok" if err is None else f"failed: {err if isinstance(err, str) else _short(err)}"


def _time(seconds: int | None) -> str:
    return "unknown" if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat(" ")


def _named(program: str) -> str:
    return f"{program} ({_NAMES[program]})" if program in _NAMES else program


def _plain(value: Any, name: str = "") -> Any:
    """A decoded value as JSON: addresses in base58, digests and other bytes in hexadecimal."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {one.name: _plain(getattr(value, one.name), one.name) for one in dataclasses.fields(value)}
    if isinstance(value, bytes):
        return _text(value) if len(value) == 32 and name not in _DIGESTS else value.hex()
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, Mapping):
        return {str(key): _plain(one, name) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one, name) for one in value]
    return value


def _text(key: bytes) -> str:
    return base58.b58encode(key).decode()


def _key(address: str) -> bytes:
    if _size(address) != 32:
        raise typer.BadParameter(f"{address[:60]!r} is not an address: 32 bytes in base58")
    return base58.b58decode(address)


def _size(text: str) -> int:
    """How many bytes a base58 text has; -1 if it is none."""
    try:
        return len(base58.b58decode(text)) if len(text) <= 100 else -1
    except ValueError:
        return -1


def _missing(what: str, why: str) -> CheckFailed:
    return CheckFailed(
        f"K2 has no {what}.", f"{why}.", "Check the value and the cluster (--url); a node may have pruned it."
    )


def _run(
    ctx: typer.Context,
    read: Callable[[RpcClient], Coroutine[Any, Any, Found]],
    shown: Callable[[Found], RenderableType],
) -> None:
    settings = settings_of(ctx)

    async def connect() -> Found:
        async with RpcClient(settings.rpc_url) as rpc:
            return await read(rpc)

    found = trio.run(connect)
    print_result(found, shown(found), settings.output)
