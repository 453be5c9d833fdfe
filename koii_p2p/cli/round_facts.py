"""What is known of one round, from K2 and from whoever has the round's bytes: for `explain` and `receipt`.

A source is asked for bytes, K2 for what they have to match. Nothing that a source says is believed on its word but
that it received a record in time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Annotated

import base58
import typer

from koii_p2p.cli.key_names import chosen_key, key_given, text_of
from koii_p2p.cli.round_sources import RunningNode, SavedTestnet, Source, StoppedNode, asked_peer
from koii_p2p.cli.running_node import only_task
from koii_p2p.cli.settings import Loaded, Settings
from koii_p2p.errors import ChainError, ConfigurationError
from koii_p2p.limits import Limits
from koii_p2p.records.cid import cid_of
from koii_p2p.rounds.anchors import AnchoredRound
from koii_p2p.rounds.beacon import beacon
from koii_p2p.rounds.commitment import Commitment, CommitmentError
from koii_p2p.rounds.distribution import DistributionError, DistributionList
from koii_p2p.rounds.explain import RoundFacts
from koii_p2p.rounds.reputation import (
    REPUTATION_ROUNDS,
    Reputation,
    RoundStanding,
    counts_in,
    reputations,
    standing_of,
)
from koii_p2p.rounds.roster import RosterError, StakeHistory, roster_at
from koii_p2p.rounds.terms import TaskTerms
from koii_p2p.settlement.history import ChainEntry, check_history, read_entries, read_history, replay
from koii_p2p.settlement.instructions import PROGRAM_ID, AnchorCommitment, AnchorList, task_address
from koii_p2p.settlement.interface import TaskState
from koii_p2p.settlement.layouts import (
    ROUND_RING,
    STAKE_LAYOUT,
    STAKE_MAGIC,
    LayoutError,
    decode_stake,
    decode_task,
)
from koii_p2p.settlement.refusals import DamagedAccount, UnknownTask
from koii_p2p.settlement.rpc import Account, DataSize, Memcmp, RpcClient
from koii_p2p.storage.database import Database
from koii_p2p.storage.faults import StorageLocked
from koii_p2p.storage.home import Home
from koii_p2p.storage.keyfile import load_public
from koii_p2p.testnets.chain_record import ChainRecord
from koii_p2p.testnets.evidence import load_evidence
from koii_p2p.testnets.node_client import NodeClient

HISTORY_TRIES = 4
"""How often a task's transactions are read until no anchor came in between."""

RoundArgument = Annotated[int, typer.Argument(min=0, metavar="ROUND", help="The number of the round.")]
KeyArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="KEY", help="About whom, in base58 or its beginning; else the node's own staking key."
    ),
]
TaskOption = Annotated[
    str | None, typer.Option("--task", metavar="ID", help="Which task, if the node works on several.")
]
PeerOption = Annotated[
    str | None,
    typer.Option(
        "--peer",
        metavar="ADDRESS",
        help="Ask this node of the network (multiaddr with /p2p/), not one's own.",
    ),
]
EvidenceOption = Annotated[
    Path | None,
    typer.Option("--evidence", metavar="FOLDER", help="Read what a testnet left; nothing needs to run."),
]


# --- K2


async def read_task(rpc: RpcClient, task: bytes) -> TaskState:
    """The task account, without its vault. Raises `UnknownTask`, `DamagedAccount` or another `ChainError`."""
    return _task_in(task, await rpc.get_account(task))


def _task_in(task: bytes, account: Account | None) -> TaskState:
    if account is None or account.owner != PROGRAM_ID:
        raise UnknownTask(task)
    return decoded_task(task, account.data)


def decoded_task(task: bytes, data: bytes) -> TaskState:
    """A task account's bytes, which have to be those of the task at this address. Raises `DamagedAccount`."""
    try:
        state = decode_task(task, data, vault=0)
    except LayoutError as error:
        raise DamagedAccount(task, str(error)) from error
    if task_address(state.terms.creator, state.nonce, PROGRAM_ID) != task:
        raise DamagedAccount(task, "Its address is not that of its creator and nonce.")
    return state


async def _read_stakes(rpc: RpcClient, task: bytes) -> dict[bytes, StakeHistory]:
    offset = STAKE_LAYOUT.field("task").offset
    filters: list[DataSize | Memcmp] = [
        DataSize(STAKE_LAYOUT.size),
        Memcmp(0, STAKE_MAGIC),
        Memcmp(offset, task),
    ]
    return _stakes_in(task, await rpc.get_program_accounts(PROGRAM_ID, filters))


def _stakes_in(task: bytes, accounts: Iterable[tuple[bytes, Account]]) -> dict[bytes, StakeHistory]:
    found = {}
    for address, account in accounts:
        try:
            stake = decode_stake(account.data)
        except LayoutError as error:
            raise DamagedAccount(address, str(error)) from error
        if stake.task == task and account.owner == PROGRAM_ID:
            found[stake.history.staker] = stake.history
    return found


@dataclass(frozen=True, slots=True)
class Anchored:
    """What K2 holds, or held, of the rounds of a task. `entries` is empty unless the history had to be read."""

    rounds: Mapping[int, AnchoredRound]
    entries: tuple[ChainEntry, ...] = ()

    def signature_of(self, kind: type[AnchorCommitment] | type[AnchorList], number: int) -> bytes | None:
        """The signature of the transaction that anchored the present attempt at a round, if it was read."""
        found = self.rounds.get(number)
        for entry in self.entries:
            told = entry.instruction
            if entry.err is not None or found is None or not isinstance(told, kind) or told.round != number:
                continue
            if told.attempt == found.attempt:
                return base58.b58decode(entry.signature)
        return None


def left_ring(rounds: Mapping[int, AnchoredRound], number: int) -> bool:
    """Whether the task account may have held a round that a later one has taken the place of."""
    return number not in rounds and number <= max(rounds, default=-1) - ROUND_RING


async def read_anchor(rpc: RpcClient, state: TaskState, number: int) -> AnchoredRound | None:
    """What K2 holds, or held, of one round; None if nothing.

    Of what left the task's account, what transactions say. Raises `ChainError`, also if these do not lead to what the
    account holds.
    """
    if not left_ring(state.rounds, number):
        return state.rounds.get(number)
    _state, anchors = await _read_history(rpc, state, number)
    return anchors.rounds.get(number)


async def _read_history(rpc: RpcClient, state: TaskState, number: int) -> tuple[TaskState, Anchored]:
    """The account and its history, which have to be read between two anchors to agree."""
    task = state.terms.task
    for _ in range(HISTORY_TRIES - 1):
        entries = await read_history(rpc, task, limit=Limits().history_transactions)
        if not check_history(entries, state):
            break
        state = await read_task(rpc, task)
    else:
        entries = await read_history(rpc, task, limit=Limits().history_transactions)
    return state, _replayed(state, number, entries)


def _replayed(state: TaskState, number: int, entries: tuple[ChainEntry, ...]) -> Anchored:
    task = state.terms.task
    findings = check_history(entries, state)
    if findings:
        raise ChainError(
            f"Round {number} of task {text_of(task)} cannot be read.",
            f"It left the task's account, and the transactions that K2 gives do not lead there: {findings[0].text}",
            "Try again in a moment, or ask a K2 node that keeps the whole history with --url.",
        )
    return Anchored(replay(entries).rounds, entries)


def _overwritten(state: TaskState, number: int) -> bool:
    """Whether something that a round is explained by may have left the account: the round, or what it builds on."""
    oldest = number - REPUTATION_ROUNDS - 1 if state.terms.audit.reputation_floor else number
    before = previous_list_round(state.rounds, number)
    gone = max(state.rounds, default=-1) - ROUND_RING
    return gone >= 0 and (gone >= oldest or (gone > (-1 if before is None else before)))


def previous_list_round(rounds: Mapping[int, AnchoredRound], number: int) -> int | None:
    """The newest round before this one whose list stands."""
    standing = (
        older
        for older, anchored in rounds.items()
        if older < number and anchored.list_root is not None and not anchored.rejected
    )
    return max(standing, default=None)


@dataclass(frozen=True, slots=True)
class OnK2:
    """What K2 says of a task, for one round of it. `beacon` is None where its block is not there yet or not kept."""

    genesis: bytes
    slot: int
    state: TaskState
    stakes: Mapping[bytes, StakeHistory]
    anchors: Anchored
    beacon: bytes | None


async def read_k2(rpc: RpcClient, task: bytes, number: int) -> OnK2:
    """Ask K2 for what a round has to match. Raises `ChainError`."""
    genesis, state = await rpc.get_genesis_hash(), await read_task(rpc, task)
    anchors = Anchored(state.rounds)
    if _overwritten(state, number):
        state, anchors = await _read_history(rpc, state, number)
    slot = await rpc.get_slot()
    stakes = await _read_stakes(rpc, task)
    return OnK2(genesis, slot, state, stakes, anchors, await _beacon(rpc, state.terms, number, slot))


def saved_k2(record: ChainRecord, number: int) -> OnK2:
    """The same from what a testnet saved. Raises `ChainError` if that cannot be."""
    state = _task_in(record.task, record.task_account)
    entries = tuple(
        entry for line, found in record.transactions for entry in read_entries(line, found, record.task)
    )
    block = record.blocks.get(number)
    return OnK2(
        genesis=record.genesis,
        slot=record.slot,
        state=state,
        stakes=_stakes_in(record.task, record.stakes),
        anchors=_replayed(state, number, entries),
        beacon=None if block is None else beacon(block[1], record.task, number),
    )


async def _beacon(rpc: RpcClient, terms: TaskTerms, number: int, slot: int) -> bytes | None:
    ends = terms.clock.submission(number).closes
    if slot < ends:
        return None
    try:
        found = await rpc.get_first_block(ends)
    except ChainError:
        return None  # pruned: the anchored commitment has the beacon as well
    return None if found is None else beacon(found[1], terms.task, number)


# --- both together


@dataclass(frozen=True, slots=True)
class Asked:
    """What a command line asks for: a round, and of whom. `peer` is a multiaddr, `evidence` a folder."""

    round: int
    task: str | None = None
    peer: str | None = None
    evidence: Path | None = None

    def __post_init__(self) -> None:
        if self.peer is not None and self.evidence is not None:
            raise typer.BadParameter("--peer and --evidence exclude each other", param_hint="--peer")
        if self.peer is not None and self.task is None:
            raise typer.BadParameter(
                "a peer has to be told which task: give --task as well", param_hint="--peer"
            )
        if self.task is not None:
            key_given(self.task, "--task")


@dataclass(frozen=True, slots=True)
class Gathered:
    """The facts of a round, without anybody's stake; every stake by staker; the own key, if any; the anchors."""

    facts: RoundFacts
    stakes: Mapping[bytes, StakeHistory]
    own_key: bytes | None
    anchors: Anchored

    @property
    def keys(self) -> frozenset[bytes]:
        """Every key that staked in the task."""
        return frozenset(self.stakes)

    def subject(self, text: str | None) -> bytes:
        """The key that was asked about, or else the own one. Raises typer's usage error."""
        if text is not None:
            return chosen_key(text, self.keys)
        if self.own_key is None:
            raise typer.BadParameter("there is no own key here: say whose", param_hint="KEY")
        return self.own_key

    def about(self, key: bytes) -> RoundFacts:
        """The facts as they concern one key."""
        return replace(self.facts, stake=self.stakes.get(key))


async def gather(loaded: Loaded, asked: Asked) -> Gathered:
    """Read all there is about one round. Raises `OperatorError`."""
    if asked.evidence is not None:
        return await _of_testnet(asked.evidence, asked)
    if asked.peer is not None:
        return await _of_peer(loaded.settings, asked.peer, asked)
    home = Home(loaded.settings.home)
    if not home.database.is_dir():
        return await _of_running_node(loaded, asked)  # which says that there is none
    try:
        with home.locked():
            return await _of_stopped_node(loaded.settings, home, asked)
    except StorageLocked:
        return await _of_running_node(loaded, asked)


async def _of_testnet(folder: Path, asked: Asked) -> Gathered:
    evidence = load_evidence(folder, Limits())
    if asked.task is not None and key_given(asked.task, "--task") != evidence.chain.task:
        raise ConfigurationError(
            f"The evidence in {folder} is not of task {asked.task}.",
            f"It is of {text_of(evidence.chain.task)}.",
            "Leave out --task, or name the right folder.",
        )
    return await _gathered(saved_k2(evidence.chain, asked.round), SavedTestnet(evidence), asked.round, None)


async def _of_peer(settings: Settings, address: str, asked: Asked) -> Gathered:
    task = key_given(asked.task or "", "--task")
    async with _rpc(settings.rpc_url) as rpc:
        on_k2 = await read_k2(rpc, task, asked.round)
    own_key = load_public(settings.staking_key) if settings.staking_key.exists() else None
    async with asked_peer(address, task) as peer:
        return await _gathered(on_k2, peer, asked.round, own_key)


async def _of_running_node(loaded: Loaded, asked: Asked) -> Gathered:
    async with NodeClient.of_home(loaded.settings.home) as client:
        status = await client.status()
        chosen = asked.task or only_task(tuple(str(task["task"]) for task in status["tasks"]))
        given = loaded.origins["url"] != "default"
        url = loaded.settings.rpc_url if given else str(status["cluster"]["url"])
        async with _rpc(url) as rpc:
            on_k2 = await read_k2(rpc, key_given(chosen, "--task"), asked.round)
        if text_of(on_k2.genesis) != status["cluster"]["genesis"]:
            raise ConfigurationError(
                f"K2 at {rpc.url} is not the chain that the node works on.",
                f"Its genesis hash is {text_of(on_k2.genesis)}, the node's {status['cluster']['genesis']}.",
                "Leave out --url, or give the one that the node has.",
            )
        source = RunningNode(client, chosen, on_k2.genesis)
        return await _gathered(on_k2, source, asked.round, key_given(str(status["key"]), "KEY"))


async def _of_stopped_node(settings: Settings, home: Home, asked: Asked) -> Gathered:
    chosen = asked.task or only_task(tuple(spec.partition("=")[0] for spec in settings.tasks))
    async with _rpc(settings.rpc_url) as rpc:
        on_k2 = await read_k2(rpc, key_given(chosen, "--task"), asked.round)
    path = home.database_of(on_k2.genesis)
    if not path.is_dir():
        raise ConfigurationError(
            f"The home {home.path} holds nothing of the chain at {settings.shown_url}.",
            "No node ran from it on this chain.",
            "Name the node's chain with --url, or another --home.",
        )
    own_key = load_public(settings.staking_key)
    with Database.open(path) as database:
        source = StoppedNode(database, on_k2.state.terms, on_k2.genesis)
        return await _gathered(on_k2, source, asked.round, own_key)


def _rpc(url: str) -> RpcClient:
    return RpcClient(url, limits=Limits())


async def _gathered(on_k2: OnK2, source: Source, number: int, own_key: bytes | None) -> Gathered:
    terms, rounds = on_k2.state.terms, on_k2.anchors.rounds
    anchored, before = rounds.get(number), previous_list_round(rounds, number)
    commitment = await _commitment(source, number, anchored)
    previous = None if before is None else await _list(source, before, rounds[before])
    facts = RoundFacts(
        terms=terms,
        genesis=on_k2.genesis,
        round=number,
        slot=on_k2.slot,
        roster=None,
        anchored=anchored,
        beacon=on_k2.beacon,
        commitment=commitment,
        bundle=await _bundle(source, number, commitment),
        list=await _list(source, number, anchored),
        previous=previous,
        previous_known=before is None or previous is not None,
        reputations=await _reputations(source, terms, rounds, number),
        seen=await source.seen(number),
    )
    return Gathered(_with_roster(facts, on_k2.stakes), on_k2.stakes, own_key, on_k2.anchors)


def _with_roster(facts: RoundFacts, stakes: Mapping[bytes, StakeHistory]) -> RoundFacts:
    if facts.slot < facts.terms.clock.work(facts.round).opens:
        return facts
    try:
        return replace(facts, roster=roster_at(stakes.values(), facts.round, facts.terms))
    except RosterError as error:
        raise ChainError(
            "K2 shows stakes that cannot be.", f"{error}.", "Ask another K2 node with --url."
        ) from error


async def _commitment(source: Source, number: int, anchored: AnchoredRound | None) -> bytes | None:
    """The bytes that K2 vouches for."""
    copies = () if anchored is None else await source.copies(number, "commitment")
    return next((one for one in copies if anchored and sha256(one).digest() == anchored.commitment), None)


async def _bundle(source: Source, number: int, commitment: bytes | None) -> bytes | None:
    """The records that the commitment names."""
    try:
        named = None if commitment is None else Commitment.decode(commitment).bundle_cid
    except CommitmentError:
        return None
    copies = () if named is None else await source.copies(number, "bundle")
    return next((one for one in copies if cid_of(one) == named), None)


async def _list(source: Source, number: int, anchored: AnchoredRound | None) -> DistributionList | None:
    """The list that K2 vouches for."""
    if anchored is None or anchored.list_root is None:
        return None
    for copy in await source.copies(number, "list"):
        try:
            listed = DistributionList.decode(copy)
        except DistributionError:
            continue
        if listed.root == anchored.list_root:
            return listed
    return None


async def _reputations(
    source: Source, terms: TaskTerms, rounds: Mapping[int, AnchoredRound], number: int
) -> dict[bytes, Reputation] | None:
    """Reputations that count in a round, as every node computes them; None where a commitment is missing."""
    if not terms.audit.reputation_floor:
        return {}
    standings = []
    for older, anchored in sorted(rounds.items()):
        counts = number - REPUTATION_ROUNDS - 2 < older < number and counts_in(anchored, number, terms.clock)
        if not counts:
            continue
        data = await _commitment(source, older, anchored)
        if data is None:
            return None
        standings.append(_standing(data, terms.task, older))
    return reputations(number, standings)


def _standing(data: bytes, task: bytes, number: int) -> RoundStanding:
    try:
        commitment = Commitment.decode(data)
    except CommitmentError:
        return RoundStanding(number, {}, {})  # anchored, and no commitment: it says nothing about anybody
    ours = (commitment.task, commitment.round) == (task, number)
    return standing_of(commitment) if ours else RoundStanding(number, {}, {})
