"""What can keep a node from working with K2: nodes that do not answer, another chain, a wrong clock, no money."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import base58
import trio

from koii_p2p.amounts import ROE_PER_KOII
from koii_p2p.errors import ChainError
from koii_p2p.node.checkup import Finding, Level, from_error, ok
from koii_p2p.settlement.rpc import NodeReport, RpcClient

LOW_BALANCE: Final = 3_000_000
"""Roe below which fees may soon not be paid (Koii's client reserves as much: SAFE_AMOUNT_FOR_FEES)."""

SKEW_SECONDS: Final = 30
"""A block's time is a vote of validators (Solana docs, "timestamp generation"), and true to some seconds only."""
WORST_SKEW_SECONDS: Final = 3600
BEHIND_SLOTS: Final = 150
PATIENCE_SECONDS: Final = 30.0
_BLOCKS_LOOKED_AT: Final = 5


@dataclass(frozen=True, slots=True)
class Chain:
    """What K2 said: how each RPC node is, a recent block's unix time, and what the wallet holds in Roe.

    What nobody said is None; `seconds` is this machine's clock, in unix seconds, at the time of the block's.
    """

    reports: tuple[NodeReport, ...]
    block_seconds: int | None = None
    seconds: float = 0.0
    balance: int | None = None


async def look_at_chain(
    rpc: RpcClient, wallet: bytes | None, clock: Callable[[], float] = time.time
) -> Chain:
    """Ask K2, within `PATIENCE_SECONDS` for each question. Raises nothing that K2 could cause."""
    reports: tuple[NodeReport, ...] = ()
    block_seconds = balance = None
    seconds = 0.0
    with trio.move_on_after(PATIENCE_SECONDS):
        reports = await rpc.survey()
    if not any(report.ill is None for report in reports):
        return Chain(reports)
    with trio.move_on_after(PATIENCE_SECONDS):
        try:
            slot = await rpc.get_slot()
            for one in range(slot, max(slot - _BLOCKS_LOOKED_AT, 0), -1):
                block_seconds, seconds = await rpc.get_block_time(one), clock()
                if block_seconds is not None:
                    break
        except ChainError:
            block_seconds = None
    with trio.move_on_after(PATIENCE_SECONDS):
        try:
            balance = None if wallet is None else await rpc.get_balance(wallet)
        except ChainError:
            balance = None
    return Chain(reports, block_seconds, seconds, balance)


def judge_nodes(reports: Sequence[NodeReport], *, starts_one: bool) -> Iterator[Finding]:
    """How each RPC node is; `starts_one` says that `join` would start a local K2 where none answers."""
    well = [report for report in reports if report.ill is None]
    if not reports:
        what = f"Not one of K2's RPC nodes answered within {PATIENCE_SECONDS:.0f} s."
        yield Finding("K2", Level.ERROR, what, "Check the network of this machine.")
    highest = max((report.slot or 0 for report in well), default=0)
    for report in reports:
        if report.ill is not None:
            what = f"{report.url} is not well: {report.ill}"
            if starts_one:
                yield Finding("K2", Level.WARNING, what, "`koii-p2p join` starts a local K2 if none runs.")
            else:
                level = Level.WARNING if well else Level.ERROR
                yield Finding("K2", level, what, "Check the address (--url), or use another RPC node.")
        elif highest - (report.slot or 0) > BEHIND_SLOTS:
            what = f"{report.url} is {highest - (report.slot or 0)} slots behind the others."
            yield Finding("K2", Level.WARNING, what, "Wait, or use another RPC node in its place.")
        else:
            yield ok("K2", f"{report.url} answers, at slot {report.slot}.")
    if len({report.genesis for report in well}) > 1:
        what = "The RPC nodes are of different chains."
        yield Finding("K2", Level.ERROR, what, "Name nodes of one cluster only with --url.")


def judge_chain(reports: Sequence[NodeReport], running_on: str | None) -> Iterator[Finding]:
    """Whether the node that runs is on the chain that the settings name; `running_on` is its genesis hash."""
    named = {base58.b58encode(report.genesis).decode() for report in reports if report.genesis is not None}
    if running_on is not None and named and running_on not in named:
        what = "The node that runs is on another chain than the one of --url."
        yield Finding("K2", Level.WARNING, what, "Give the same --url, or set `url` in its config.toml.")


def judge_clock(chain: Chain) -> Finding | None:
    """This machine's clock beside a recent block's time. Rounds go by slots; certificates and logs go by the clock."""
    if chain.block_seconds is None:
        return None
    skew = round(chain.seconds - chain.block_seconds)
    what = f"This machine's clock is {abs(skew)} s {'ahead of' if skew > 0 else 'behind'} K2's newest block."
    remedy = "Set the clock, and keep it set with NTP (`timedatectl set-ntp true`)."
    if abs(skew) > WORST_SKEW_SECONDS:
        return Finding("clock", Level.ERROR, what, remedy)
    if abs(skew) > SKEW_SECONDS:
        remedy += " On a local K2 that stood still, its blocks may be what is behind."
        return Finding("clock", Level.WARNING, what, remedy)
    return ok("clock", what)


def judge_balance(chain: Chain, wallet: bytes) -> Finding | None:
    """Whether the wallet can pay fees."""
    if chain.balance is None:
        return None
    key = base58.b58encode(wallet).decode()
    whole, part = divmod(chain.balance, ROE_PER_KOII)
    what = f"The wallet {key} holds {whole}.{part:09d} KOII"
    if chain.balance >= LOW_BALANCE:
        return ok("balance", f"{what}.")
    remedy = "Send it some KOII; on a local K2, `koii-p2p k2 airdrop` does."
    return Finding(
        "balance", Level.WARNING, f"{what}: not enough to stake, anchor or claim for long.", remedy
    )


async def chain_findings(
    rpc: RpcClient, wallet: bytes | None, running_on: str | None, *, starts_one: bool
) -> list[Finding]:
    """Everything about K2. Raises nothing that K2 could cause."""
    try:
        chain = await look_at_chain(rpc, wallet)
    except ChainError as error:
        return [from_error("K2", error)]
    found = [
        *judge_nodes(chain.reports, starts_one=starts_one),
        *judge_chain(chain.reports, running_on),
    ]
    more = (judge_clock(chain), None if wallet is None else judge_balance(chain, wallet))
    return found + [finding for finding in more if finding is not None]
