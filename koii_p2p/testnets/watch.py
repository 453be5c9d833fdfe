"""What a testnet looks like at one moment, read from its nodes' API and its K2, and what changed since the last one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

from solders.pubkey import Pubkey

from koii_p2p.errors import ChainError, NetworkError
from koii_p2p.rounds.terms import TaskTerms
from koii_p2p.settlement.layouts import ROUND_RING
from koii_p2p.settlement.program import ProgramSettlement
from koii_p2p.testnets.attempts import final_slot
from koii_p2p.testnets.node_client import NodeClient

ROUNDS_IN_FLIGHT: Final = 6
"""Three, and those that are tried again; one that has settled is not asked for any more."""


@dataclass(frozen=True, slots=True)
class RoundSnapshot:
    """One round as one node knows it. Nodes are named by base58 key.

    `accused` are disputed; `full_votes` voted in the full audits that this opened. `objections` are reasons by who has
    them against the list; `attempt` is the newest that K2 holds, and `rejected` whether it was vetoed.
    """

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
    accused: frozenset[str] = frozenset()
    full_votes: frozenset[str] = frozenset()
    convicted: frozenset[str] = frozenset()
    challenges: int = 0
    objections: Mapping[str, str] = field(default_factory=dict)
    attempt: int = 0
    rejected: bool = False


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The testnet at `slot`. Stakes and rewards paid are Roe on K2 by base58 key; `running` are the nodes' names.

    `final` is the first slot at which, by what K2 says now, every wanted round is final.
    """

    slot: int
    starting_slot: int
    rounds: Mapping[int, RoundSnapshot]
    stakes: Mapping[str, int]
    paid: Mapping[str, int]
    running: frozenset[str]
    vault: int | None = None
    final: int = 0


class Watcher:
    """Asks one node after the other: what one does not know yet, the next one does, and none is asked too often."""

    def __init__(self, terms: TaskTerms, settlement: ProgramSettlement, rounds: int) -> None:
        self._terms = terms
        self._settlement = settlement
        self._wanted = rounds
        self._turn = 0
        self._slot = -1
        self._rounds: dict[int, RoundSnapshot] = {}
        self._stakes: dict[str, int] = {}
        self._paid: dict[str, int] = {}
        self._vault: int | None = None
        self._final = terms.clock.settles_at(rounds - 1)

    async def look(self, clients: Sequence[NodeClient]) -> Snapshot:
        """The testnet now. Nodes or a K2 that do not answer leave what was known before."""
        with suppress(ChainError):
            self._slot = await self._settlement.slot()
        slot = self._slot
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
            self._final,
        )

    async def _read_stakes(self) -> None:
        try:
            stakes = await self._settlement.stake_accounts(self._terms.task)
            state = await self._settlement.task_state(self._terms.task)
        except ChainError:
            return
        self._vault = state.vault
        clock, failed_allowed = self._terms.clock, self._terms.allowed_failed_distributions
        self._final = max(
            final_slot(clock, number, state.rounds.get(number), failed_allowed)
            for number in range(max(0, self._wanted - ROUND_RING), self._wanted)
        )
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
    full_audit = found.get("full_audit") or {}
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
        accused=frozenset(map(str, full_audit.get("accused") or [])),
        full_votes=frozenset(str(item["author"]) for item in full_audit.get("votes") or []),
        convicted=frozenset(map(str, found.get("convicted") or {})),
        challenges=len(found.get("challenges") or []),
        objections={str(key): str(why) for key, why in (found.get("list_objections") or {}).items()},
        attempt=int(anchors.get("attempt") or 0),
        rejected=bool(anchors.get("rejected")),
    )


def _newer(known: RoundSnapshot, seen: RoundSnapshot) -> RoundSnapshot:
    """Join what two nodes know: records only ever become more, and what an attempt came to is of the newest one."""
    older, newer = (
        (seen, known) if (seen.attempt, seen.rejected) < (known.attempt, known.rejected) else (known, seen)
    )
    same = (older.attempt, older.rejected) == (newer.attempt, newer.rejected)
    base = older if same else RoundSnapshot(seen.number, seen.phase)
    return RoundSnapshot(
        number=seen.number,
        phase=seen.phase,
        roster=seen.roster or known.roster,
        submitted=known.submitted | seen.submitted,
        voted=known.voted | seen.voted,
        outcomes=newer.outcomes or base.outcomes,
        commitment=newer.commitment or base.commitment,
        commitment_by=newer.commitment_by or base.commitment_by,
        list_root=newer.list_root or base.list_root,
        list_by=newer.list_by or base.list_by,
        list_agree=max(base.list_agree, newer.list_agree),
        list_disagree=max(base.list_disagree, newer.list_disagree),
        settled=known.settled or seen.settled,
        accused=known.accused | seen.accused,
        full_votes=known.full_votes | seen.full_votes,
        convicted=known.convicted | seen.convicted,
        challenges=max(known.challenges, seen.challenges),
        objections={**base.objections, **newer.objections},
        attempt=newer.attempt,
        rejected=newer.rejected,
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
            yield f"the stake of {names.get(key, key)} fell from {amount(had)} to {amount(stake)}"
    rewarded = [key for key, paid in now.paid.items() if paid > before.paid.get(key, 0)]
    if rewarded:
        yield f"K2 paid rewards to {_listed(rewarded, names)}"


def _round_changes(
    known: RoundSnapshot | None, seen: RoundSnapshot, names: Mapping[str, str]
) -> Iterator[str]:
    place = f"round {seen.number}"
    if known is None or known.phase != seen.phase:
        yield f"{place}: {seen.phase}"
    before = known or RoundSnapshot(seen.number, seen.phase)
    if len(seen.submitted) > len(before.submitted):
        yield f"{place}: {len(seen.submitted)} of {seen.roster} submitted"
    if len(seen.voted) > len(before.voted):
        yield f"{place}: {len(seen.voted)} {'auditor' if len(seen.voted) == 1 else 'auditors'} voted"
    if seen.accused > before.accused:
        yield f"{place}: under dispute: {_listed(seen.accused, names)}"
    if len(seen.full_votes) > len(before.full_votes):
        yield f"{place}: {len(seen.full_votes)} voted in the full audit"
    if seen.convicted > before.convicted:
        yield f"{place}: convicted of signing twice: {_listed(seen.convicted, names)}"
    if seen.rejected and not before.rejected:
        yield f"{place}: attempt {seen.attempt} is rejected by veto"
    attempt = f", attempt {seen.attempt}," if seen.attempt else ""
    if seen.commitment and seen.commitment != before.commitment:
        by = names.get(seen.commitment_by or "", "?")
        yield f"{place}: commitment {seen.commitment[:16]}…{attempt} anchored by {by}"
    if seen.outcomes and seen.outcomes != before.outcomes:
        for outcome in sorted(set(seen.outcomes.values())):
            keys = [key for key, one in seen.outcomes.items() if one == outcome]
            yield f"{place}: {outcome}: {_listed(keys, names)}"
    if seen.list_root and seen.list_root != before.list_root:
        yield f"{place}: list {seen.list_root[:16]}…{attempt} anchored by {names.get(seen.list_by or '', '?')}"
    if seen.list_disagree > before.list_disagree:
        why = f" ({', '.join(sorted(set(seen.objections.values())))})" if seen.objections else ""
        yield f"{place}: {seen.list_disagree} disagree with the list{why}"


def _listed(keys: Iterable[str], names: Mapping[str, str]) -> str:
    return ", ".join(sorted(names.get(key, key) for key in keys))
