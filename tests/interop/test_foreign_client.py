"""docs/settlement.md is enough to write a client by: one in JavaScript that has nothing else takes part in a task."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import base58
import pytest

from koii_p2p.records.keys import SecretKey
from koii_p2p.rounds.roster import Checkpoint, roster_at
from koii_p2p.settlement import instructions as ix
from koii_p2p.settlement import layouts
from koii_p2p.settlement.history import check_history
from koii_p2p.settlement.instructions import Tag
from koii_p2p.settlement.layouts import Layout
from koii_p2p.settlement.program import ProgramSettlement
from koii_p2p.settlement.refusals import ProgramError as E
from koii_p2p.settlement.refusals import program_error
from koii_p2p.settlement.rpc import RpcClient
from scripts.make_settlement_page import PAGE
from tests.localk2.chain import KOII, free_port, k2_process

from .npm import run_node

SLASH: Final = 5 * KOII * 7000 // 10_000
ROUND: Final = 1
REWARDS: Final = [2_000_000_001, 1_234_567_890, 0]


def shown(layout: Layout, data: bytes, base: int = 0) -> dict[str, str]:
    """The fields but for what is reserved, as the script prints them: numbers in decimals, keys in base58."""
    values, fields = layout.values(data, base), {}
    for field in layout:
        match field.kind:
            case "reserved":
                continue
            case "key":
                fields[field.name] = base58.b58encode(values.raw(field.name)).decode()
            case "text":
                fields[field.name] = values.text(field.name)
            case "bytes":
                fields[field.name] = values.raw(field.name).hex()
            case _:
                fields[field.name] = str(values.integer(field.name))
    return fields


@pytest.mark.slow
async def test_a_client_written_by_the_page_alone(node_modules: Path, tmp_path: Path) -> None:
    with k2_process(tmp_path, "--port", str(free_port()), "--slot-ms", "50") as running:
        url = running.address["url"]
        seen = json.loads(
            run_node(node_modules, "settlement.cjs", url, str(PAGE), seconds=120).splitlines()[-1]
        )
        async with RpcClient(url) as rpc:
            reader = ProgramSettlement(rpc, SecretKey.generate(), SecretKey.generate())
            await _the_story_is_told_right(seen, reader)
            await _every_byte_is_read_alike(seen, rpc)


async def _the_story_is_told_right(seen: dict[str, Any], reader: ProgramSettlement) -> None:
    """What happened, as the Python side reads it from the chain."""
    assert seen["tree"] is True
    assert seen["refused"] == {
        "again": E.ALREADY_EXISTS.name,
        "secondCommitment": E.COMMITMENT_EXISTS.name,
        "early": E.SETTLE_EARLY.name,
        "forged": E.PROOF_INVALID.name,
        "locked": E.STILL_LOCKED.name,
    }
    creator, task = (base58.b58decode(seen["task"][name]) for name in ("creator", "address"))
    assert task == ix.task_address(creator, 11)
    state = await reader.task_state(task)
    terms = state.terms
    assert (terms.name, terms.program, terms.creator) == ("from web3.js", "docs/settlement.md", creator)
    assert seen["terms"] == {
        "S0": terms.starting_slot,
        "RT": terms.round_time,
        "SW": terms.submission_window,
        "AW": terms.audit_window,
    }
    paid = sum(REWARDS)
    assert seen["rewards"] == REWARDS
    assert seen["withdrawn"] == 5 * KOII
    assert seen["vault"]["holds"] == state.vault == 20 * KOII - paid + SLASH
    assert (state.funded, state.paid, state.slashed, state.forgiven) == (20 * KOII, paid, SLASH, 0)
    assert (state.withdrawn, state.bonds, state.stakers) == (5 * KOII, 0, 3)
    assert state.total_stake == 11 * KOII - SLASH
    assert (state.active, state.idle, state.metadata) == (True, None, "read from a page")
    for name in ("funded", "paid", "slashed", "forgiven", "withdrawn", "total_stake", "anchors", "nonce"):
        assert int(seen["task"][name]) == getattr(state, name), name
    assert base58.b58decode(seen["head"]) == state.head
    assert state.anchors == 2

    keys = [base58.b58decode(one) for one in seen["stakers"]]
    anchored, slots = state.rounds[ROUND], seen["slots"]
    assert (anchored.commitment_by, anchored.list_by) == (keys[0], keys[1])
    assert (anchored.commitment_slot, anchored.list_slot) == (slots["committed"], slots["listed"])
    assert (anchored.reward_total, anchored.slash_total) == (paid, SLASH)

    stakes = {one.history.staker: one for one in await reader.stake_accounts(task)}
    assert [stakes[key].amount for key in keys] == [0, 6 * KOII, 5 * KOII - SLASH]
    assert [stakes[key].reward_total for key in keys] == REWARDS
    assert [stakes[key].slash_total for key in keys] == [0, 0, SLASH]
    beneficiaries = [base58.b58decode(one) for one in seen["beneficiaries"]]
    assert [stakes[key].history.beneficiary for key in keys] == beneficiaries
    assert [await reader.balance(one) for one in beneficiaries] == [REWARDS[0] + 5 * KOII, *REWARDS[1:]]
    for one in seen["stakes"]:
        history = stakes[base58.b58decode(one["staker"])].history
        newest = {name: int(value) for name, value in one["newest"].items()}
        assert history.checkpoints[-1] == Checkpoint(**newest)
    # Who left after this round and whom its list slashed were in its roster with all they had.
    assert roster_at(await reader.stakes(task), ROUND, terms).total_stake == 16 * KOII

    entries = await reader.history(task)
    assert check_history(entries, state) == ()
    codes = [one.err["InstructionError"][1]["Custom"] for one in entries if one.err is not None]
    refused = [error.name for error in map(program_error, codes) if error is not None]
    assert sorted(refused) == sorted(seen["refused"].values())
    done = [Tag[_name(one.instruction)] for one in entries if one.err is None]
    expected = [Tag.CREATE_TASK, Tag.FUND, *[Tag.STAKE] * 4, Tag.ANCHOR_COMMITMENT, Tag.ANCHOR_LIST]
    assert done == [*expected, *[Tag.SETTLE] * 3, Tag.REQUEST_UNSTAKE, Tag.WITHDRAW, Tag.UPDATE_TASK]


def _name(instruction: object) -> str:
    """`AnchorList` as `ANCHOR_LIST`."""
    return "".join("_" * letter.isupper() + letter.upper() for letter in type(instruction).__name__)[1:]


async def _every_byte_is_read_alike(seen: dict[str, Any], rpc: RpcClient) -> None:
    """All fields of all accounts: what the script made of them by the page, and what the layouts make of them."""
    task = base58.b58decode(seen["task"]["address"])

    async def data(address: bytes) -> bytes:
        account = await rpc.get_account(address)
        assert account is not None
        return account.data

    account = await data(task)
    assert seen["task"] == {
        "address": seen["task"]["address"],
        "size": layouts.TASK_LAYOUT.size,
        **shown(layouts.TASK_LAYOUT, account),
    }
    newest, rounds = (layouts.TASK_LAYOUT.field(name).offset for name in ("newest_list", "rounds"))
    assert seen["newest"] == shown(layouts.LIST_LAYOUT, account, newest)
    assert seen["round"] == shown(layouts.ROUND_LAYOUT, account, rounds + ROUND * layouts.ROUND_LAYOUT.size)
    vault = await data(ix.vault_address(task))
    assert seen["vault"] == {"holds": seen["vault"]["holds"], **shown(layouts.VAULT_LAYOUT, vault)}
    assert len(seen["stakes"]) == 3
    for one in seen["stakes"]:
        stake = await data(ix.stake_address(task, base58.b58decode(one["staker"])))
        assert one == {**shown(layouts.STAKE_LAYOUT, stake), "newest": one["newest"]}
    magics = (layouts.TASK_MAGIC, layouts.VAULT_MAGIC, layouts.STAKE_MAGIC)
    assert seen["magics"] == [magic.hex() for magic in magics]
