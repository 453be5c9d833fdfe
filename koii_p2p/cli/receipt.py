"""`koii-p2p receipt`: a file that proves what a round came to for a key, and the check of it against K2."""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import trio
import typer
from rich.console import Group, RenderableType
from rich.text import Text

from koii_p2p.cli.explain import signatures_of
from koii_p2p.cli.key_names import KeyNames, check_key, key_given, text_of
from koii_p2p.cli.main import Invocation, OutputFormat
from koii_p2p.cli.output import configure_logs, koii, pairs, print_result
from koii_p2p.cli.round_facts import (
    Asked,
    EvidenceOption,
    Gathered,
    KeyArgument,
    PeerOption,
    RoundArgument,
    TaskOption,
    decoded_task,
    gather,
    left_ring,
    read_anchor,
    read_task,
    saved_k2,
)
from koii_p2p.cli.settings import Settings, load_settings, settings_of
from koii_p2p.errors import CheckFailed, ConfigurationError
from koii_p2p.limits import Limits
from koii_p2p.rounds.anchors import AnchoredRound
from koii_p2p.rounds.commitment import Commitment, CommitmentError
from koii_p2p.rounds.explain import explain
from koii_p2p.rounds.receipt import MAX_RECEIPT_BYTES, Receipt, ReceiptError, make_receipt
from koii_p2p.rounds.receipt_check import ReceiptReport, verify_receipt
from koii_p2p.settlement.instructions import PROGRAM_ID
from koii_p2p.settlement.interface import TaskState
from koii_p2p.settlement.layouts import ROUND_RING, TASK_LAYOUT, TASK_MAGIC
from koii_p2p.settlement.refusals import DamagedAccount
from koii_p2p.settlement.rpc import RpcClient
from koii_p2p.storage.faults import os_fault
from koii_p2p.testnets.evidence import load_evidence

MAX_DUMP_BYTES: Final = 1024 * 1024
"""Of a dump of a task account, which has a few kilobytes."""

app = typer.Typer()


@app.callback()
def receipt() -> None:
    """A receipt proves one key's outcome, reward, slash and votes in one round, to anybody who can read K2."""


# --- export


@app.command("export")
def export(
    ctx: typer.Context,
    number: RoundArgument,
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="The new file.")],
    key: KeyArgument = None,
    task: TaskOption = None,
    peer: PeerOption = None,
    evidence: EvidenceOption = None,
) -> None:
    """Write the receipt of a key for a round to a new file, from what the node of this home holds."""
    invocation: Invocation = ctx.obj
    loaded = load_settings(invocation)
    configure_logs(invocation.verbosity, "warning")
    asked = Asked(number, task, peer, evidence)
    if key is not None:
        check_key(key)
    gathered = trio.run(gather, loaded, asked)
    made = _made(gathered, gathered.subject(key))
    data = _encoded(made)
    _write(out, data)
    sections = [one.section for one in made.records]
    found: dict[str, object] = {
        "file": str(out),
        "bytes": len(data),
        "task": text_of(made.task),
        "round": made.round,
        "attempt": made.attempt,
        "key": text_of(made.key),
        "leaf": made.leaf is not None,
        "records": sections,
        "list_votes": len(made.votes),
    }
    leaf = "yes" if made.leaf else "none: no list is at hand, or the key is not on it"
    shown = found | {"leaf": leaf, "records": ", ".join(sections) or "none"}
    shown["list votes"] = shown.pop("list_votes")
    print_result(found, pairs(shown), loaded.settings.output)


def _made(gathered: Gathered, key: bytes) -> Receipt:
    facts = gathered.facts
    what = f"There is no receipt for {text_of(key)} in round {facts.round}."
    if facts.anchored is None:
        remedy = "Wait until the round is over; `koii-p2p explain` shows where it stands."
        raise CheckFailed(what, "K2 has no commitment to this round.", remedy)
    if facts.commitment is None:
        remedy = "Ask a node that took part in the round, with --home or --peer."
        raise CheckFailed(what, "Whoever was asked does not hold the round's commitment.", remedy)
    signatures = signatures_of(gathered, explain(gathered.about(key), key).anchors)
    try:
        return make_receipt(
            key,
            genesis=facts.genesis,
            program=PROGRAM_ID,
            task=facts.terms.task,
            anchored=facts.anchored,
            commitment=facts.commitment,
            bundle=facts.bundle,
            listed=facts.list,
            roster=facts.roster,
            votes=[seen.record for seen in facts.seen],
            commitment_signature=signatures[0],
            list_signature=signatures[1],
        )
    except ReceiptError as error:
        remedy = "`koii-p2p explain` says what the round came to for this key."
        raise CheckFailed(what, _sentence(error), remedy) from error


def _encoded(made: Receipt) -> bytes:
    try:
        return made.encode()
    except ReceiptError as error:
        raise CheckFailed(
            "The receipt was not written.", f"{error}.", "Rounds of so many stakers have no receipts."
        ) from error


def _write(file: Path, data: bytes) -> None:
    try:
        with file.open("xb") as out:
            out.write(data)
    except FileExistsError as error:
        what = f"The receipt was not written to {file}."
        raise ConfigurationError(what, "There is a file of this name.", "Name another one.") from error
    except OSError as error:
        raise os_fault("The receipt was not written.", file, error) from error


# --- verify


@dataclass(frozen=True, slots=True)
class _Against:
    """What the receipt is held against. `slot` and `genesis` are None where a dump does not tell."""

    state: TaskState
    anchored: AnchoredRound | None
    genesis: bytes | None
    slot: int | None
    source: str


@app.command("verify")
def verify(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The receipt.")],
    account: Annotated[
        Path | None,
        typer.Option(
            "--account",
            metavar="DUMP",
            help="The task's account, as `solana account --output json` or getAccountInfo (base64) give it, or raw: "
            "no K2 is asked then.",
        ),
    ] = None,
    genesis: Annotated[
        str | None,
        typer.Option("--genesis", metavar="HASH", help="The genesis hash of the chain that a dump is from."),
    ] = None,
    evidence: EvidenceOption = None,
) -> int:
    """Check a receipt against K2, or against a dump of the task's account. Needs no node. Exits with 1 if it fails."""
    if account is not None and evidence is not None:
        raise typer.BadParameter("--account and --evidence exclude each other", param_hint="--account")
    settings = settings_of(ctx)
    told = None if genesis is None else key_given(genesis, "--genesis")
    read = _read(file)
    if read.program != PROGRAM_ID:
        raise CheckFailed(
            f"The receipt {file} cannot be checked.",
            f"It is of the settlement program {text_of(read.program)}, and this software knows {text_of(PROGRAM_ID)}.",
            "Check it with the software of that program.",
        )
    if account is not None:
        held = _in_dump(read, account, told)
    elif evidence is not None:
        held = _in_evidence(read, evidence, told)
    else:
        held = trio.run(_on_k2, read, settings, told)
    as_json = settings.output is OutputFormat.JSON
    report = verify_receipt(
        read,
        held.anchored,
        held.genesis,
        name=text_of if as_json else KeyNames(_keys_in(read, held.anchored)),
        money=koii,
    )
    notes = _notes(read, held)
    print_result(
        {
            "file": str(file),
            "source": held.source,
            "holds": report.ok,
            "findings": [{"fault": one.fault.value, "text": one.text} for one in report.findings],
            "proves": list(report.proves),
            "notes": notes,
            "receipt": receipt_json(read),
        },
        _shown(read, report, notes),
        settings.output,
    )
    return 0 if report.ok else CheckFailed.exit_code


def _read(file: Path) -> Receipt:
    what = f"The receipt {file} cannot be read."
    try:
        with file.open("rb") as opened:
            return Receipt.decode(opened.read(MAX_RECEIPT_BYTES + 1))
    except ReceiptError as error:
        remedy = "Name a file that `koii-p2p receipt export` wrote."
        raise CheckFailed(what, _sentence(error), remedy) from error
    except OSError as error:
        raise ConfigurationError(
            what, f"The system says: {error.strerror or error}.", "Name the right file."
        ) from error


def _sentence(error: ReceiptError) -> str:
    text = str(error).rstrip(".")
    return f"{text[:1].upper()}{text[1:]}."


async def _on_k2(read: Receipt, settings: Settings, told: bytes | None) -> _Against:
    async with RpcClient(settings.rpc_url, limits=Limits()) as rpc:
        genesis = await rpc.get_genesis_hash()
        if told is not None and told != genesis:
            raise ConfigurationError(
                f"K2 at {settings.shown_url} is not the chain that is meant.",
                f"Its genesis hash is {text_of(genesis)}.",
                "Give its --url, or leave out --genesis.",
            )
        if read.genesis != genesis:
            raise CheckFailed(
                "The receipt does not hold.",
                f"It is of the chain {text_of(read.genesis)}, "
                f"and K2 at {settings.shown_url} is {text_of(genesis)}.",
                "Name the receipt's chain with --url.",
            )
        state = await read_task(rpc, read.task)
        anchored = await read_anchor(rpc, state, read.round)
        return _Against(state, anchored, genesis, await rpc.get_slot(), settings.shown_url)


def _in_evidence(read: Receipt, folder: Path, told: bytes | None) -> _Against:
    record = load_evidence(folder, Limits()).chain
    if record.task != read.task or told not in (None, record.genesis):
        raise CheckFailed(
            "The receipt does not hold.",
            f"It is of task {text_of(read.task)}, and the evidence in {folder} of {text_of(record.task)} on the chain "
            f"{text_of(record.genesis)}.",
            "Name the folder of the testnet that the receipt is of.",
        )
    saved = saved_k2(record, read.round)
    anchored = saved.anchors.rounds.get(read.round)
    return _Against(saved.state, anchored, saved.genesis, saved.slot, str(folder))


def _in_dump(read: Receipt, file: Path, told: bytes | None) -> _Against:
    data, slot = _dumped(file, read)
    try:
        state = decoded_task(read.task, data)
    except DamagedAccount as error:
        raise _no_dump(
            file, read, f"It is not the account of task {text_of(read.task)}: {error.why}"
        ) from error
    if left_ring(state.rounds, read.round):
        newest = max(state.rounds)
        raise CheckFailed(
            f"This dump cannot say whether the receipt of round {read.round} holds.",
            f"A task's account keeps {ROUND_RING} rounds, and this one is as of round {newest}: round {read.round} "
            "left it.",
            "Use --url with a K2 node that keeps transactions, or a dump that was made earlier.",
        )
    return _Against(state, state.rounds.get(read.round), told, slot, str(file))


def _dumped(file: Path, read: Receipt) -> tuple[bytes, int | None]:
    """The account's bytes in a dump, and the slot that it is of if it says so."""
    try:
        with file.open("rb") as opened:
            content = opened.read(MAX_DUMP_BYTES + 1)
    except OSError as error:
        raise _no_dump(file, read, f"The system says: {error.strerror or error}.") from error
    if len(content) > MAX_DUMP_BYTES:
        raise _no_dump(file, read, f"It has more than {MAX_DUMP_BYTES} bytes.")
    if len(content) == TASK_LAYOUT.size and content.startswith(TASK_MAGIC):
        return content, None
    try:
        found: Any = json.loads(content)
        slot = _slot_of(found)
        pubkey = found.get("pubkey") if isinstance(found, dict) else None
        for name in ("result", "value", "account"):
            found = found[name] if isinstance(found, dict) and name in found else found
        text, encoding = found["data"]
        if encoding != "base64":
            raise ValueError(f"its data is in {encoding!r}, not in base64")
        data = base64.b64decode(text, validate=True)
        owner = found.get("owner")
    except (ValueError, KeyError, TypeError, RecursionError, binascii.Error) as error:
        raise _no_dump(file, read, "It is neither a task account's bytes nor JSON with them.") from error
    if pubkey not in (None, text_of(read.task)):
        raise _no_dump(file, read, f"It is the account {pubkey}, not the receipt's task.")
    if owner not in (None, text_of(PROGRAM_ID)):
        raise _no_dump(file, read, f"Its account belongs to {owner}, not to the settlement program.")
    return data, slot


def _no_dump(file: Path, read: Receipt, why: str) -> ConfigurationError:
    remedy = f"Make one with `solana account {text_of(read.task)} --output json`."
    return ConfigurationError(f"The account dump {file} cannot be used.", why, remedy)


def _slot_of(found: Any) -> int | None:
    """The slot in the context of an RPC reply."""
    result = found.get("result") if isinstance(found, dict) else None
    context = result.get("context") if isinstance(result, dict) else None
    slot = context.get("slot") if isinstance(context, dict) else None
    return slot if type(slot) is int else None


# --- what is shown


def _notes(read: Receipt, held: _Against) -> list[str]:
    notes = []
    if held.genesis is None:
        notes.append(
            f"The receipt says that it is of the chain {text_of(read.genesis)}; a dump does not say which chain it is "
            "from."
        )
    if held.anchored is not None and held.anchored.list_root is not None and not held.anchored.rejected:
        settles_at = held.state.terms.clock.settles_at(held.anchored.round, held.anchored.attempt)
        if held.slot is None:
            notes.append(
                f"The list is final from slot {settles_at} on; a dump does not say which slot it is of."
            )
        elif held.slot < settles_at:
            notes.append(f"The list may still be vetoed until slot {settles_at}; it is slot {held.slot}.")
        else:
            notes.append(f"The list is final since slot {settles_at}.")
    return notes


def _keys_in(read: Receipt, anchored: AnchoredRound | None) -> set[bytes]:
    """The keys that sentences about a receipt may name."""
    keys = {read.key, *(one[:32] for one in read.roster)}
    if anchored is not None:
        keys.add(anchored.commitment_by)
    try:
        commitment = Commitment.decode(read.commitment)
    except CommitmentError:
        return keys
    return keys | commitment.outcome_of.keys()


def _shown(read: Receipt, report: ReceiptReport, notes: list[str]) -> RenderableType:
    answer = "The receipt holds." if report.ok else "The receipt does not hold."
    lines = report.proves if report.ok else [one.text for one in report.findings]
    about = {
        "key": text_of(read.key),
        "task": text_of(read.task),
        "round": read.round,
        "attempt": read.attempt,
    }
    return Group(
        Text(answer, style="bold"), *(Text(f"  {line}") for line in (*lines, *notes)), Text(), pairs(about)
    )


def receipt_json(read: Receipt) -> dict[str, Any]:
    """A receipt as JSON-ready values: keys in base58, digests and bytes in hex, records in base64."""
    leaf = read.leaf
    return {
        "genesis": text_of(read.genesis),
        "program": text_of(read.program),
        "task": text_of(read.task),
        "round": read.round,
        "attempt": read.attempt,
        "key": text_of(read.key),
        "commitment": base64.b64encode(read.commitment).decode(),
        "leaf": None
        if leaf is None
        else {
            "bytes": leaf.leaf.hex(),
            "directions": leaf.proof.directions,
            "siblings": [one.hex() for one in leaf.proof.siblings],
        },
        "records": [
            {
                "section": one.section,
                "record": base64.b64encode(one.raw).decode(),
                "directions": one.proof.directions,
                "siblings": [sibling.hex() for sibling in one.proof.siblings],
            }
            for one in read.records
        ],
        "roster": [one.hex() for one in read.roster],
        "votes": [base64.b64encode(one).decode() for one in read.votes],
        "signatures": {
            "commitment": None if read.commitment_signature is None else text_of(read.commitment_signature),
            "list": None if read.list_signature is None else text_of(read.list_signature),
        },
    }
