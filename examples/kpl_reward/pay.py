"""Pay in tokens what a task's final distribution list has, and was not paid yet: real transfers of K2's token program.

    python examples/kpl_reward/pay.py mint --url URL --wallet FILE --supply 1000000000
    python examples/kpl_reward/pay.py pay --url URL --wallet FILE --task TASK --mint MINT --home HOME

A leaf of a list has all that a staker ever earned, one unit of the token for each Roe of the list. A list counts once
it is final, after everybody could veto it, and only if its bytes (from the node of HOME, or with --list from a file,
such as a node's in the evidence of a testnet) hash to the root on K2. Every payment names its task in a memo, and what
was paid before is read from K2: this may be run at any time and again, nobody is paid twice, and nothing is kept in a
file. Not by two at the same time.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path

import trio
from solders.instruction import Instruction
from solders.keypair import Keypair
from solders.pubkey import Pubkey
from solders.system_program import CreateAccountParams, create_account
from solders.transaction import VersionedTransaction
from spl.memo.constants import MEMO_PROGRAM_ID
from spl.token import instructions as token
from spl.token import models
from spl.token.constants import MINT_LEN, TOKEN_PROGRAM_ID

from koii_p2p.errors import CheckFailed, OperatorError
from koii_p2p.limits import Limits
from koii_p2p.records.keys import SecretKey
from koii_p2p.rounds.distribution import DistributionError, DistributionList
from koii_p2p.settlement.layouts import newest_settled
from koii_p2p.settlement.program import ProgramSettlement
from koii_p2p.settlement.rpc import RpcClient
from koii_p2p.settlement.sending import Sender, keypair_of
from koii_p2p.storage.keyfile import load_secret
from koii_p2p.testnets.node_client import NodeClient

Fetch = Callable[[str, int], Awaitable[bytes | None]]
"""Where a list comes from: task and round -> its bytes, if they are there."""

DECIMALS = 6
TRANSFER_CHECKED = 12
"""The token program's number of this instruction; 8 bytes of amount (little-endian) and one of decimals follow it."""


async def make_mint(url: str, wallet: SecretKey, supply: int) -> str:
    """Make a token of six decimals, all of whose supply (units) is the wallet's."""
    owner, mint = keypair_of(wallet), Keypair()
    mine = token.get_associated_token_address(owner.pubkey(), mint.pubkey())
    async with RpcClient(url) as rpc:
        rent = await rpc.get_minimum_balance_for_rent_exemption(MINT_LEN)
        room = CreateAccountParams(
            from_pubkey=owner.pubkey(),
            to_pubkey=mint.pubkey(),
            lamports=rent,
            space=MINT_LEN,
            owner=TOKEN_PROGRAM_ID,
        )
        made = [
            create_account(room),
            _initialize_mint(mint.pubkey(), owner.pubkey()),
            token.create_idempotent_associated_token_account(owner.pubkey(), owner.pubkey(), mint.pubkey()),
            _mint_to(mint.pubkey(), mine, owner.pubkey(), supply),
        ]
        await Sender(rpc, owner).send("make the token", made, mint)
    return str(mint.pubkey())


async def pay(url: str, wallet: SecretKey, task: str, mint: str, fetch: Fetch) -> dict[str, int]:
    """Pay what is due; units by staker (base58), 0 for who has everything. Raises `OperatorError`."""
    where, coin, owner = Pubkey.from_string(task), Pubkey.from_string(mint), keypair_of(wallet)
    async with RpcClient(url) as rpc:
        chain = ProgramSettlement(rpc, wallet)
        state, slot = await chain.task_state(bytes(where)), await chain.slot()
        final = newest_settled(state, slot)
        if final is None:
            raise CheckFailed(
                "There is nothing to pay.", "No list of this task is final.", "Try again later."
            )
        listed = _checked(await fetch(task, final.round), final.round, final.root)
        paid = await paid_before(rpc, owner.pubkey(), coin, where)
        sent: dict[str, int] = {}
        for one in await chain.stakes(bytes(where)):
            leaf, to = listed.leaf(one.staker), Pubkey(one.beneficiary)
            account = token.get_associated_token_address(to, coin)
            # Stakers may share a wallet: what it was paid is used up by the first of them, and so on.
            earned = 0 if leaf is None else leaf.reward_total
            due = max(0, earned - paid[account])
            paid[account] -= min(paid[account], earned)
            if due:
                made = [
                    token.create_idempotent_associated_token_account(owner.pubkey(), to, coin),
                    _transfer(owner.pubkey(), coin, account, due),
                    Instruction(MEMO_PROGRAM_ID, memo_of(where), []),
                ]
                await Sender(rpc, owner).send(f"pay {to}", made)
            sent[str(Pubkey(one.staker))] = due
    return sent


def of_node(home: Path) -> Fetch:
    """From the node of a home, which has to run."""

    async def fetch(task: str, number: int) -> bytes | None:
        async with NodeClient.of_home(home) as node:
            return await node.artifact(task, number, "list")

    return fetch


def of_file(path: Path) -> Fetch:
    """From a file."""

    async def fetch(_task: str, _number: int) -> bytes | None:
        return await trio.Path(path).read_bytes() if path.is_file() else None

    return fetch


def _checked(data: bytes | None, number: int, root: bytes) -> DistributionList:
    """The list, which has to be the one on K2."""
    try:
        listed = None if data is None else DistributionList.decode(data)
    except DistributionError:
        listed = None
    if listed is None or listed.root != root:
        why = f"The list of round {number}, the newest that is final, is not there."
        raise CheckFailed(
            "Nothing was paid.", why, "Name another node with --home, or another file with --list."
        )
    return listed


async def paid_before(rpc: RpcClient, owner: Pubkey, mint: Pubkey, task: Pubkey) -> Counter[Pubkey]:
    """Units that the owner has sent for a task, by token account, as K2's transactions tell."""
    source, paid = token.get_associated_token_address(owner, mint), Counter[Pubkey]()
    most = Limits().history_transactions
    lines = await rpc.get_address_history(bytes(source), limit=most)
    for line in lines:
        record = await rpc.get_transaction(line.signature)
        if len(lines) == most or record is None:
            why = "K2 does not tell all that was paid before."
            raise CheckFailed(
                "Nothing was paid.", why, "Ask a K2 node that keeps the whole history with --url."
            )
        if line.err is None:
            paid.update(_transfers(record.wire, source, mint, task))
    return paid


def _transfers(wire: bytes, source: Pubkey, mint: Pubkey, task: Pubkey) -> Counter[Pubkey]:
    message = VersionedTransaction.from_bytes(wire).message
    keys, found, named = message.account_keys, Counter[Pubkey](), False
    for one in message.instructions:
        program, data = keys[one.program_id_index], bytes(one.data)
        accounts = [keys[index] for index in bytes(one.accounts)]
        named |= program == MEMO_PROGRAM_ID and data == memo_of(task)
        checked = program == TOKEN_PROGRAM_ID and data[:1] == bytes([TRANSFER_CHECKED])
        if checked and accounts[:2] == [source, mint]:
            found[accounts[2]] += int.from_bytes(data[1:9], "little")
    return found if named else Counter()


def memo_of(task: Pubkey) -> bytes:
    """What is written beside each payment of a task."""
    return f"koii-p2p reward {task}".encode()


def _initialize_mint(mint: Pubkey, authority: Pubkey) -> Instruction:
    return token.initialize_mint(
        models.InitializeMintParams(
            decimals=DECIMALS, mint=mint, mint_authority=authority, program_id=TOKEN_PROGRAM_ID
        )
    )


def _mint_to(mint: Pubkey, account: Pubkey, authority: Pubkey, amount: int) -> Instruction:
    return token.mint_to_checked(
        models.MintToCheckedParams(
            program_id=TOKEN_PROGRAM_ID,
            mint=mint,
            dest=account,
            mint_authority=authority,
            amount=amount,
            decimals=DECIMALS,
        )
    )


def _transfer(owner: Pubkey, mint: Pubkey, account: Pubkey, amount: int) -> Instruction:
    return token.transfer_checked(
        models.TransferCheckedParams(
            program_id=TOKEN_PROGRAM_ID,
            source=token.get_associated_token_address(owner, mint),
            mint=mint,
            dest=account,
            owner=owner,
            amount=amount,
            decimals=DECIMALS,
        )
    )


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("mint", "pay"):
        command = commands.add_parser(name)
        command.add_argument("--url", required=True, help="K2's JSON-RPC.")
        command.add_argument("--wallet", required=True, type=Path, help="The key file of who pays.")
        if name == "mint":
            command.add_argument("--supply", type=int, required=True, help="Units, all of which are its own.")
        else:
            command.add_argument("--task", required=True)
            command.add_argument("--mint", required=True)
            source = command.add_mutually_exclusive_group(required=True)
            source.add_argument("--home", type=Path, help="Of a node that runs the task.")
            source.add_argument("--list", type=Path, help="A file with the bytes of the list.")
    given = parser.parse_args()
    wallet = load_secret(given.wallet)
    try:
        if given.command == "mint":
            found: object = {"mint": trio.run(make_mint, given.url, wallet, given.supply)}
        else:
            fetch = of_node(given.home) if given.home else of_file(given.list)
            sent = trio.run(pay, given.url, wallet, given.task, given.mint, fetch)
            found = {"sent": sent}
    except OperatorError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(json.dumps(found, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
