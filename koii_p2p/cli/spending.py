"""What commands that spend have in common: the keys, what it costs, the question, the transaction."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text
from solders.instruction import Instruction

from koii_p2p.cli.amounts import roe_given
from koii_p2p.cli.key_names import key_given, text_of
from koii_p2p.cli.main import EXIT_USAGE, OutputFormat
from koii_p2p.cli.output import koii, plain
from koii_p2p.cli.settings import Settings
from koii_p2p.errors import ChainError, OperatorError
from koii_p2p.limits import Limits
from koii_p2p.records.keys import SecretKey
from koii_p2p.rounds.terms import U64_MAX
from koii_p2p.settlement.interface import Receipt, TaskState
from koii_p2p.settlement.program import ProgramSettlement
from koii_p2p.settlement.rpc import RpcClient
from koii_p2p.storage.keyfile import load_secret

TaskArgument = Annotated[str, typer.Argument(metavar="TASK", help="The task's id, in base58.")]
AmountArgument = Annotated[str, typer.Argument(metavar="AMOUNT", help="How much, in KOII, such as 1.9.")]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before spending.")]


class NotConfirmed(OperatorError):
    """Nobody was there to be asked, and `--yes` was not given (exit code 2)."""

    exit_code = EXIT_USAGE


class Declined(OperatorError):
    """The question was answered with no (exit code 1)."""


class NotPossible(ChainError):
    """What K2 would refuse, by what it holds now: nothing was sent (exit code 5)."""


@dataclass(frozen=True, slots=True)
class Spending:
    """What is about to be sent. `moves` leaves the wallet, `rent` is locked in new accounts: Roe, without fees.

    `does` says what it does, `notes` what follows from it, in sentences. Each instruction is a transaction.
    """

    does: str
    instructions: tuple[Instruction, ...]
    moves: int = 0
    rent: int = 0
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Cost:
    """What a spending takes from the wallet, in Roe.

    `fee_most` is the fee if K2 takes no transaction in time, so that each has to bid more.
    """

    moves: int
    rent: int
    fee: int
    fee_most: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.moves + self.rent + self.fee

    def as_json(self) -> dict[str, int]:
        """The parts and their sum."""
        return {"amount": self.moves, "rent": self.rent, "fee": self.fee, "total": self.total}

    def __str__(self) -> str:
        named = (("", self.moves), (" of rent", self.rent), (" of fees", self.fee))
        parts = [f"{koii(roe)}{what}" for what, roe in named if roe]
        return f"{koii(self.total)} ({' + '.join(parts)})" if len(parts) > 1 else "".join(parts) or koii(0)


@dataclass(frozen=True, slots=True)
class Purse:
    """The keys that pay and sign, and the K2 that they are used on."""

    settings: Settings
    rpc: RpcClient
    k2: ProgramSettlement
    wallet: bytes
    staker: bytes

    async def spend(self, spending: Spending, yes: bool, send: Callable[[], Awaitable[Receipt]]) -> Sent:
        """Say what it costs, ask, and send. Raises `OperatorError`, `NotPossible` if the wallet is too poor."""
        quotes = [await self.k2.quote(one) for one in spending.instructions]
        fee, most = sum(one.fee for one in quotes), sum(one.most for one in quotes)
        cost = Cost(spending.moves, spending.rent, fee, most)
        await self._check_wallet(spending, cost)
        self._ask(spending, cost, yes)
        receipt = await send()
        if len(quotes) == 1 and receipt.fee is not None:
            cost = replace(cost, fee=receipt.fee)
        return Sent(spending, cost, receipt)

    async def rent(self, *sizes: int) -> int:
        """What new accounts of these sizes (bytes) have to hold, in Roe."""
        return sum([await self.rpc.get_minimum_balance_for_rent_exemption(size) for size in sizes])

    async def _check_wallet(self, spending: Spending, cost: Cost) -> None:
        held, least = await self.k2.balance(self.wallet), await self.rent(0)
        left = held - cost.total
        # The runtime lets a payer be emptied, but not be left with less than an account has to hold.
        if left == 0 or left >= least:
            return
        more = -left if left < 0 else least - left
        raise NotPossible(
            f"The wallet {text_of(self.wallet)} cannot pay for this: {spending.does}",
            f"It holds {koii(held)}, and this takes {cost}"
            + (
                "."
                if left < 0
                else f", which leaves less than the {koii(least)} that an account has to hold."
            ),
            f"Send it {koii(more)} or more (on a local K2: `koii-p2p k2 airdrop`) and try again.",
        )

    def _ask(self, spending: Spending, cost: Cost, yes: bool) -> None:
        interactive = sys.stdin is not None and sys.stdin.isatty()
        if not yes and not interactive:
            raise NotConfirmed(
                f"Nothing was sent. {spending.does}",
                f"That costs {cost}, and there is no terminal to ask at.",
                "Give --yes to spend without being asked.",
            )
        if not yes or self.settings.output is OutputFormat.TABLE:
            console = Console(stderr=True, soft_wrap=True)
            price = f"Cost: {cost}, from {text_of(self.wallet)}."
            for line in (spending.does, *spending.notes, price, *_if_it_waits(cost)):
                console.print(Text(line), highlight=False)
        if not yes and not _agreed():
            raise Declined("Nothing was sent.", "You said no.", "Run it again to be asked again.")


@dataclass(frozen=True, slots=True)
class Sent:
    """What was done, what it cost, and the transaction; of several, the first."""

    spending: Spending
    cost: Cost
    receipt: Receipt

    def as_json(self) -> dict[str, Any]:
        """For `--output json`."""
        return {
            "signature": self.receipt.signature,
            "slot": self.receipt.slot,
            "cost": self.cost.as_json(),
            "notes": list(self.spending.notes),
        }

    def shown(self) -> dict[str, object]:
        """For a person."""
        return {
            "signature": self.receipt.signature,
            "slot": self.receipt.slot,
            "cost": str(self.cost),
        }


def _if_it_waits(cost: Cost) -> tuple[str, ...]:
    if cost.fee_most == cost.fee:
        return ()
    return (f"If K2 does not take it in time, it is sent again for up to {koii(cost.fee_most)} of fees.",)


def _agreed() -> bool:
    """Ask on stderr, since stdout has results only; anything but a yes is a no."""
    sys.stderr.write("Go on? [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")


@asynccontextmanager
async def purse_of(settings: Settings) -> AsyncIterator[Purse]:
    """Both keys of the home, and a client of K2. Raises `ConfigurationError` for a key that is not there."""
    wallet, staker = load_secret(settings.wallet_key), load_secret(settings.staking_key)
    async with RpcClient(settings.rpc_url, limits=Limits()) as rpc:
        k2 = ProgramSettlement(rpc, wallet, staker, fees=settings.priority_fees)
        yield Purse(settings, rpc, k2, wallet.public_key, staker.public_key)


@asynccontextmanager
async def wallet_of(settings: Settings) -> AsyncIterator[Purse]:
    """The wallet alone, for what no staking key signs: it stands in for that."""
    wallet = load_secret(settings.wallet_key)
    async with RpcClient(settings.rpc_url, limits=Limits()) as rpc:
        k2 = ProgramSettlement(rpc, wallet, fees=settings.priority_fees)
        yield Purse(settings, rpc, k2, wallet.public_key, wallet.public_key)


@asynccontextmanager
async def reader_of(settings: Settings) -> AsyncIterator[tuple[RpcClient, ProgramSettlement]]:
    """For commands that only read: the key in it is nobody's."""
    async with RpcClient(settings.rpc_url, limits=Limits()) as rpc:
        yield rpc, ProgramSettlement(rpc, SecretKey.generate())


def named(state: TaskState) -> str:
    """A task by its name and id."""
    return f"{plain(state.terms.name)} ({text_of(state.terms.task)})"


def task_given(text: str) -> bytes:
    """A task's id from the command line. Raises typer's usage error."""
    return key_given(text, "TASK")


def amount_given(text: str) -> int:
    """An amount in KOII to be moved, as Roe: at least 1 Roe. Raises typer's usage error."""
    amount = roe_given(text)
    if not 0 < amount <= U64_MAX:
        raise typer.BadParameter(
            f"{text} KOII cannot be moved: it is from 0.000000001 to {koii(U64_MAX)}", param_hint="AMOUNT"
        )
    return amount
