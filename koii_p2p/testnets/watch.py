"""What a testnet looks like at one moment, read from its nodes' API and its K2, and what changed since the last one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from solders.pubkey import Pubkey

from koii_p2p.errors import ChainError, NetworkError
from koii_p2p.rounds.terms import TaskTerms
from koii_p2p.settlement.program import ProgramSettlement
from koii_p2p.testnets.node_client import NodeClient

ROUNDS_IN_FLIGHT: Final = 3


@dataclass(frozen=True, slots=True)
class RoundSnapshot:
    """One round as one node knows it. Nodes are named by base58 key."""

    number: int
    phase: str
    roster: int = 0
    submitted: frozenset[str] = frozenset()
    voted: frozenset[str] = frozenset()
    outcomes: Mapping[str, str] = field(default_factory=dict)
    commitment: str | None = None
    commitment_by: str | None = None
    list_root: str | None = None
    list_by: str | None = None
    list_agree: int = 0
    list_disagree: int = 0
    settled: bool = False


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The testnet at `slot`. Stakes and rewards paid are Roe on K2 by base58 key; `running` are the nodes' names."""

    slot: int
    starting_slot: int
    rounds: Mapping[int, RoundSnapshot]
    stakes: Mapping[str, int]
    paid: Mapping[str, int]
    running: frozenset[str]
    vault: int | None = None


class Watcher:
    """Asks one node after the other: what one does not know yet, the next one does, and none is asked too often."""

    def __init__(self, terms: TaskTerms, settlement: ProgramSettlement, rounds: int) -> None:
        self._terms = terms
        self._settlement = settlement
        self._wanted = rounds
        self._turn = 0
        self._rounds: dict[int, RoundSnapshot] = {}
        self._stakes: dict[str, int] = {}
        self._paid: dict[str, int] = {}
        self._vault: int | None = None

    async def look(self, clients: Sequence[NodeClient]) -> Snapshot:
        """The testnet now. Nodes or a K2 that do not answer leave what was known before."""
        slot = await self._settlement.slot()
        await self._read_stakes()
        for _ in range(min(len(clients), 2)):
            client = clients[self._turn % len(clients)]
            self._turn += 1
            try:
                await self._read_rounds(client, slot)
            except NetworkError:
                continue
            break
        running = frozenset(client.name for client in clients)
        return Snapshot(
            slot,
            self._terms.starting_slot,
            dict(sorted(self._rounds.items())),
            dict(self._stakes),
            dict(self._paid),
            running,
            self._vault,
        )

    async def _read_stakes(self) -> None:
        try:
            stakes = await self._settlement.stake_accounts(self._terms.task)
            self._vault = (await self._settlement.task_state(self._terms.task)).vault
        except ChainError:
            return
        for stake in stakes:
            key = str(Pubkey(stake.history.staker))
            self._stakes[key], self._paid[key] = stake.amount, stake.reward_total

    async def _read_rounds(self, client: NodeClient, slot: int) -> None:
        clock = self._terms.clock
        newest = min(clock.period(slot), self._wanted - 1)
        for number in range(max(0, clock.period(slot) - ROUNDS_IN_FLIGHT), newest + 1):
            known = self._rounds.get(number)
            if known is not None and known.settled:
                continue
            found = await client.round(str(Pubkey(self._terms.task)), number)
            phase = clock.phase(number, slot).value
            view = RoundSnapshot(number, phase) if found is None else _round(number, phase, found)
            self._rounds[number] = view if known is None else _newer(known, view)


def _round(number: int, phase: str, found: Mapping[str, Any]) -> RoundSnapshot:
    anchors = found.get("anchors") or {}
    votes = found.get("list_votes") or {}
    submitted = found.get("submitted") or []
    return RoundSnapshot(
        number=number,
        phase=phase,
        roster=int(found.get("roster") or 0),
        submitted=frozenset(str(item["author"]) for item in submitted),
        voted=frozenset(str(item["author"]) for item in found.get("votes") or []),
        outcomes={str(item["author"]): str(item["outcome"]) for item in submitted if item.get("outcome")},
        commitment=anchors.get("commitment"),
        commitment_by=anchors.get("commitment_by"),
        list_root=anchors.get("list_root"),
        list_by=anchors.get("list_by"),
        list_agree=int(votes.get("agree", 0)),
        list_disagree=int(votes.get("disagree", 0)),
        settled=bool(found.get("settled")),
    )


def _newer(known: RoundSnapshot, seen: RoundSnapshot) -> RoundSnapshot:
    """Join what two nodes know: records only ever become more."""
    return RoundSnapshot(
        number=seen.number,
        phase=seen.phase,
        roster=seen.roster or known.roster,
        submitted=known.submitted | seen.submitted,
        voted=known.voted | seen.voted,
        outcomes=seen.outcomes or known.outcomes,
        commitment=seen.commitment or known.commitment,
        commitment_by=seen.commitment_by or known.commitment_by,
        list_root=seen.list_root or known.list_root,
        list_by=seen.list_by or known.list_by,
        list_agree=max(known.list_agree, seen.list_agree),
        list_disagree=max(known.list_disagree, seen.list_disagree),
        settled=known.settled or seen.settled,
    )


def changes(
    before: Snapshot | None, now: Snapshot, names: Mapping[str, str], amount: Callable[[int], str]
) -> Iterator[str]:
    """What is new, one sentence each; `names` maps base58 keys to nodes, `amount` writes Roe for people."""
    for number, seen in now.rounds.items():
        known = before.rounds.get(number) if before else None
        yield from _round_changes(known, seen, names)
    if before is None:
        return
    for key, stake in now.stakes.items():
        had = before.stakes.get(key, stake)
        if stake < had:
            yield f"{names.get(key, key)} was slashed: its stake fell from {amount(had)} to {amount(stake)}"
    rewarded = [key for key, paid in now.paid.items() if paid > before.paid.get(key, 0)]
    if rewarded:
        yield f"K2 paid rewards to {_listed(rewarded, names)}"


def _round_changes(
    known: RoundSnapshot | None, seen: RoundSnapshot, names: Mapping[str, str]
) -> Iterator[str]:
    place = f"round {seen.number}"
    if known is None or known.phase != seen.phase:
        yield f"{place}: {seen.phase}"
    if len(seen.submitted) > (len(known.submitted) if known else 0):
        yield f"{place}: {len(seen.submitted)} of {seen.roster} submitted"
    if len(seen.voted) > (len(known.voted) if known else 0):
        yield f"{place}: {len(seen.voted)} auditors voted"
    if seen.commitment and not (known and known.commitment):
        yield f"{place}: commitment {seen.commitment[:16]}… anchored by {names.get(seen.commitment_by or '', '?')}"
    if seen.outcomes and not (known and known.outcomes):
        for outcome in sorted(set(seen.outcomes.values())):
            keys = [key for key, one in seen.outcomes.items() if one == outcome]
            yield f"{place}: {outcome}: {_listed(keys, names)}"
    if seen.list_root and not (known and known.list_root):
        yield f"{place}: list {seen.list_root[:16]}… anchored by {names.get(seen.list_by or '', '?')}"
    if seen.list_disagree > (known.list_disagree if known else 0):
        yield f"{place}: {seen.list_disagree} disagree with the list"


def _listed(keys: Iterable[str], names: Mapping[str, str]) -> str:
    return ", ".join(sorted(names.get(key, key) for key in keys))
