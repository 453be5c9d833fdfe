"""Rounds of a task before it meets a network: real round engines and real task workers, on virtual time.

Each copy has what a node has of a round: an engine, a key, and the task in a worker process of its own. Some copies do
what strangers will do: submit what the task did not produce, answer too late, or crash while they audit. Records reach
everybody at once; slots pass as fast as the task answers. Every call is noted, with its time and what came of it, and
audits and lists are made twice, since all nodes have to come to the same.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import TypeVar

import trio

from koii_p2p.limits import Limits
from koii_p2p.node.behaviours import bad_value
from koii_p2p.node.rehearsal_chain import RehearsalChain
from koii_p2p.node.rehearsal_data import RehearsalData
from koii_p2p.node.rehearsal_http import RehearsalHttp
from koii_p2p.node.task_facts import TaskFacts
from koii_p2p.records.envelope import sign
from koii_p2p.records.keys import SecretKey
from koii_p2p.records.schema import Verdict
from koii_p2p.rounds import events
from koii_p2p.rounds.admission import Source
from koii_p2p.rounds.engine import RoundEngine
from koii_p2p.rounds.events import Action, Event
from koii_p2p.rounds.tally import Outcome
from koii_p2p.rounds.terms import TaskTerms
from koii_p2p.tasks.runner import TaskRunner
from koii_p2p.tasks.services import TaskServices, signature_is_good

GENESIS = sha256(b"koii-p2p/rehearsal").digest()
STARTING_SLOT = 1000
STEPS_PER_ROUND = 120
"""Slots are passed over so that a round takes at most about so many steps, however long it is."""

_SHOWN = 72
_WORK = frozenset({"task", "submission"})
"""Functions of which a cheater has its own."""

_Answer = TypeVar("_Answer")


class Kind(StrEnum):
    """What a copy does."""

    HONEST = "honest"
    """What the task says."""

    WRONG = "wrong"
    """Submits a value that the task did not produce, or what a cheater's own code makes."""

    SLOW = "slow"
    """Hands in what the task answers when the windows are over."""

    CRASHING = "crashing"
    """Its worker dies in the first audit of each round."""


@dataclass(frozen=True, slots=True)
class Call:
    """One call of the task's functions: whose, for which round and when (slot), what came of it, how long it took."""

    slot: int
    round: int
    copy: str
    function: str
    about: str
    answer: str
    milliseconds: float
    failed: bool


@dataclass(frozen=True, slots=True)
class RehearsedRound:
    """What one round came to, by copy: outcomes of what was submitted, and Roe (negative: lost) as listed."""

    round: int
    settled: bool
    outcomes: Mapping[str, Outcome]
    amounts: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """What was rehearsed. `findings` are sentences on what would go wrong in a network; none are good."""

    copies: tuple[str, ...]
    calls: tuple[Call, ...]
    rounds: tuple[RehearsedRound, ...]
    findings: tuple[str, ...]


@dataclass(slots=True, eq=False)
class _Copy:
    name: str
    kind: Kind
    secret: SecretKey
    engine: RoundEngine
    runner: TaskRunner
    cheat: TaskRunner | None = None
    """What works and submits in place of `runner`, which does all else."""
    store: dict[bytes, bytes] = field(default_factory=dict)
    facts: TaskFacts = field(default_factory=TaskFacts)
    artifacts: dict[int, events.KeepArtifacts] = field(default_factory=dict)
    jobs: list[Action] = field(default_factory=list)
    late: list[tuple[int, Event]] = field(default_factory=list)
    asked: set[Action] = field(default_factory=set)
    crashed_in: set[int] = field(default_factory=set)

    @property
    def key(self) -> bytes:
        return self.secret.public_key

    @property
    def worker(self) -> TaskRunner:
        """What does the work of a round and hands it in."""
        return self.cheat or self.runner


@dataclass(frozen=True, slots=True)
class _Rest:
    """Which paths of the routes are asked for, and whether copies may ask each other."""

    gets: tuple[str, ...] = ()
    network: bool = False

    @property
    def served(self) -> bool:
        """Whether there are servers at all: each takes a worker of its own."""
        return self.network or bool(self.gets)


async def rehearse(
    path: Path,
    terms: TaskTerms,
    kinds: Sequence[Kind],
    rounds: int,
    folder: Path,
    *,
    cheater: Path | None = None,
    limits: Limits | None = None,
    show: Callable[[Call], None] = lambda call: None,
    gets: Sequence[str] = (),
    network: bool = False,
) -> Rehearsal:
    """Play `rounds` rounds of the task at `path` with one copy of each of `kinds`, in folders below `folder`.

    `terms` are the task's, but for where it is and when it starts. Wrong copies submit what the task at `cheater` does,
    if there is one. `show` is told of each call as it ends. With `network` or `gets` the task's routes are served, on
    loopback: `network` lets copies ask each other (and the internet), and the first is asked for `gets` at the end.
    Raises `ConfigurationError` if a task cannot be imported.
    """
    terms = replace(terms, starting_slot=STARTING_SLOT)
    rest = _Rest(tuple(gets), network)
    play = _Play(path, cheater, terms, kinds, folder, limits or Limits(), show, rest)
    try:
        async with trio.open_nursery() as nursery:
            async with trio.open_nursery() as starting:
                for copy in play.copies:
                    starting.start_soon(nursery.start, copy.runner.run)
                    if copy.cheat is not None:
                        starting.start_soon(nursery.start, copy.cheat.run)
            for copy in play.copies if rest.served else ():
                await nursery.start(play.http.serve, copy.secret, copy.worker)
            await play.run(rounds)
            for asked in rest.gets:
                await play.get(asked)
            nursery.cancel_scope.cancel()
    finally:
        play.data.close()
    return play.result(rounds)


class _Play:
    def __init__(
        self,
        path: Path,
        cheater: Path | None,
        terms: TaskTerms,
        kinds: Sequence[Kind],
        folder: Path,
        limits: Limits,
        show: Callable[[Call], None],
        rest: _Rest,
    ) -> None:
        self._terms = terms
        self._rest = rest
        self._cheater = cheater
        self._limits = limits
        self._show = show
        self._slot = terms.starting_slot - 1
        self._rounds = 0
        self._step = max(1, terms.round_time // STEPS_PER_ROUND)
        self._delay = terms.submission_window + terms.audit_window
        self.calls: list[Call] = []
        self._verdicts: dict[tuple[int, bytes], dict[Verdict, str]] = {}
        self._lists: dict[int, dict[tuple[tuple[bytes, int], ...], str]] = {}
        self._outcomes: dict[int, dict[bytes, Outcome]] = {}
        self._findings: dict[str, None] = {}
        counts: Counter[Kind] = Counter()
        named: dict[str, Kind] = {}
        for kind in kinds:
            counts[kind] += 1
            named[f"{kind.value}-{counts[kind]}"] = kind
        secrets = {name: _secret_of(name) for name in named}
        self.data = RehearsalData(
            terms.task, GENESIS, tuple(secrets.values()), folder, lambda: self._slot, limits
        )
        self.http = RehearsalHttp(terms, lambda: self._slot, limits)
        self.copies = [self._copy(name, kind, secrets[name], path, folder) for name, kind in named.items()]
        self._names = {copy.key: copy.name for copy in self.copies}
        funds = terms.bounty_per_round * 1000
        self._chain = RehearsalChain(terms, self._names, terms.minimum_stake, funds)
        for copy in self.copies:
            copy.facts.use(copy.engine, self._chain.state, lambda: 0.4)

    def _copy(self, name: str, kind: Kind, secret: SecretKey, path: Path, folder: Path) -> _Copy:
        terms = self._terms
        store: dict[bytes, bytes] = {}
        facts = TaskFacts()
        services = TaskServices(
            submitter=secret.public_key,
            main_account=sha256(secret.public_key).digest(),
            store_get=store.get,
            store_set=store.__setitem__,
            store_delete=partial(_forget, store),
            sign=secret.sign,
            verify=signature_is_good,
            fact=facts,
        )
        services = self.data.serve(services)
        # A worker that is meant to die is back soon: waiting is real time.
        limits = self._limits
        if kind is Kind.CRASHING:
            limits = replace(limits, worker_restart_seconds=0.02, worker_restart_seconds_most=0.02)
        make = partial(
            TaskRunner,
            slash_basis_points=terms.slash_basis_points,
            network=self._rest.network,
            serves=self._rest.served,
        )
        runner = make(path, terms.task, folder / name, services, limits)
        cheat: TaskRunner | None = None
        if kind is Kind.WRONG and self._cheater is not None:
            own = folder / f"{name}-cheater"
            cheat = make(self._cheater, terms.task, own, services, limits)
        private = sha256(b"private" + secret.seed).digest()
        engine = RoundEngine(terms, GENESIS, secret.public_key, private=private, limits=self._limits)
        return _Copy(name, kind, secret, engine, runner, cheat, store, facts)

    # --- slots

    async def run(self, rounds: int) -> None:
        """Let slots pass until the list of the last round has passed its audit, and a little longer."""
        self._rounds = rounds
        ends = self._terms.clock.settles_at(rounds - 1, 0) + 2 * self._step
        for copy in self.copies:
            self._feed(copy, events.AnchorsRead(self._chain.anchored))
        period = -1
        while self._slot < ends:
            self._slot += self._step
            if self._terms.clock.period(self._slot) > period:
                period = self._terms.clock.period(self._slot)
                self._say_where()
            for copy in self.copies:
                self._feed(copy, events.SlotAdvanced(self._slot))
                self._feed(copy, events.AnchorsRead(self._chain.anchored, self._slot))
                due = [event for slot, event in copy.late if slot <= self._slot]
                copy.late = [(slot, event) for slot, event in copy.late if slot > self._slot]
                for event in due:
                    self._feed(copy, event)
            while any(copy.jobs for copy in self.copies):
                await self._work()

    def _say_where(self) -> None:
        for copy in self.copies:
            if (statement := self.http.presence(copy.key)) is not None:
                self._answer(copy, events.SignAndPublish(statement))

    async def get(self, path: str) -> None:
        """Ask the first copy for a path of the task's routes, as a stranger would."""
        copy = self.copies[0]
        copy.runner.set_clock(self._slot, max(self._terms.clock.period(self._slot), 0))
        began = time.perf_counter()
        answer, wrong = await self.http.get(copy.key, path)
        took = round((time.perf_counter() - began) * 1000, 2)
        period = max(self._terms.clock.period(self._slot), 0)
        call = Call(self._slot, period, copy.name, "routes", f"GET {path}", answer, took, bool(wrong))
        self.calls.append(call)
        self._show(call)
        if wrong:
            self._find(f"{wrong}.")

    async def _work(self) -> None:
        """Make the calls that are asked for now, of all copies at once; then tell the engines."""
        period = max(self._terms.clock.period(self._slot), 0)
        found: list[tuple[_Copy, Event]] = []

        async def make(copy: _Copy, action: Action) -> None:
            event = await self._call(copy, action)
            if event is not None:
                found.append((copy, event))

        async with trio.open_nursery() as nursery:
            for copy in self.copies:
                jobs, copy.jobs = copy.jobs, []
                for runner in {copy.runner, copy.worker}:
                    runner.set_clock(self._slot, period)
                for action in jobs:
                    nursery.start_soon(make, copy, action)
        order = {copy.name: place for place, copy in enumerate(self.copies)}
        for copy, event in sorted(found, key=lambda one: (order[one[0].name], repr(one[1]))):
            if copy.kind is Kind.SLOW:
                copy.late.append((self._slot + self._delay, event))
            else:
                self._feed(copy, event)

    # --- calls of the task

    async def _call(self, copy: _Copy, action: Action) -> Event | None:
        match action:
            case events.RunTask(round=number):
                ok = await self._timed(copy, number, "task", "", partial(copy.worker.task, number), _word)
                self._expect_no_failure(copy, number, "task", ok is True)
            case events.MakeSubmission(round=number):
                return await self._submission(copy, number, canary=action.canary)
            case events.AuditSubmission():
                return await self._audit(copy, action)
            case events.MakeDistribution():
                return await self._distribution(copy, action)
        return None

    async def _submission(self, copy: _Copy, number: int, *, canary: bool) -> Event:
        before = sum(copy.worker.statistics().failures.values())
        make = partial(copy.worker.submission, number)
        value = await self._timed(copy, number, "submission", "", make, _brief)
        failed = sum(copy.worker.statistics().failures.values()) > before
        self._expect_no_failure(copy, number, "submission", not failed)
        wrong = (copy.kind is Kind.WRONG and copy.cheat is None) or canary
        return events.SubmissionMade(number, bad_value(value) if wrong else value)

    async def _audit(self, copy: _Copy, action: events.AuditSubmission) -> Event:
        about = f"of {self._names.get(action.author, '?')}"
        audit = partial(copy.runner.audit, action.value, action.round, action.author)
        crashes = copy.kind is Kind.CRASHING and action.round not in copy.crashed_in
        if crashes:
            copy.crashed_in.add(action.round)
            audit = partial(self._crashed, copy, audit)
        verdict, detail = await self._timed(copy, action.round, "audit", about, audit, _verdict)
        if copy.kind in (Kind.HONEST, Kind.WRONG):
            again, _ = await copy.runner.audit(action.value, action.round, action.author)
            if again is not verdict:
                self._find(
                    f"audit() is not deterministic: it said {verdict.name}, then {again.name}, {about}."
                )
            said = self._verdicts.setdefault((action.round, action.submission_id), {})
            said.setdefault(verdict, copy.name)
            if verdict is Verdict.UNAVAILABLE and detail:
                self._find(f"audit() came to no verdict {about}: {detail}.")
        return events.AuditMade(action.round, action.submission_id, verdict)

    async def _crashed(
        self, copy: _Copy, audit: Callable[[], Awaitable[tuple[Verdict, str]]]
    ) -> tuple[Verdict, str]:
        """Audit with a worker that dies at once. What the next worker says, if it is asked again, does not count."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(audit)
            await trio.lowlevel.checkpoint()
            await trio.lowlevel.checkpoint()
            copy.runner.end_workers("the rehearsal ended it")
        return Verdict.UNAVAILABLE, "the worker ended: the rehearsal ended it"

    async def _distribution(self, copy: _Copy, action: events.MakeDistribution) -> Event | None:
        make = partial(copy.runner.distribution, action.submitters, action.bounty, action.round)
        amounts = await self._timed(copy, action.round, "distribution", "", make, self._list_text)
        if amounts is None:
            self._find(f"distribution() of round {action.round}: {copy.runner.statistics().last_failure}.")
            return None
        again = amounts if copy.kind is Kind.SLOW else await make()
        if again != amounts:
            self._find("distribution() is not deterministic: called twice, it gave two lists.")
        seen = self._lists.setdefault(action.round, {})
        seen.setdefault(tuple(sorted(amounts.items())), copy.name)
        return events.DistributionMade(action.round, amounts)

    async def _timed(
        self,
        copy: _Copy,
        number: int,
        function: str,
        about: str,
        make: Callable[[], Awaitable[_Answer]],
        text: Callable[[_Answer], str],
    ) -> _Answer:
        runner = copy.worker if function in _WORK else copy.runner
        before = runner.statistics()
        began = time.perf_counter()
        answer = await make()
        took = (time.perf_counter() - began) * 1000
        after = runner.statistics()
        failed = after.failures != before.failures
        shown = after.last_failure if failed and function != "audit" else text(answer)
        call = Call(self._slot, number, copy.name, function, about, shown, round(took, 2), failed)
        self.calls.append(call)
        self._show(call)
        return answer

    def _list_text(self, amounts: Mapping[bytes, int] | None) -> str:
        if amounts is None:
            return "no list"
        return ", ".join(f"{self._names.get(key, '?')} {amount:+d}" for key, amount in amounts.items())

    def _expect_no_failure(self, copy: _Copy, number: int, function: str, good: bool) -> None:
        if not good and copy.kind is not Kind.CRASHING:
            failure = copy.worker.statistics().last_failure
            self._find(f"{function}() failed in round {number}: {failure}.")

    def _find(self, sentence: str) -> None:
        """Note a finding once, however often it is made; what it ends with may have had a full stop of its own."""
        self._findings.setdefault(sentence.rstrip(".") + ".", None)

    # --- engines

    def _feed(self, copy: _Copy, event: Event) -> None:
        for action in copy.engine.handle(event):
            self._answer(copy, action)

    def _answer(self, copy: _Copy, action: Action) -> None:
        match action:
            case events.ReadRoster(round=number):
                self._feed(copy, events.RosterRead(self._chain.roster(number)))
            case events.ReadBlockhash(round=number, slot=wanted):
                self._feed(copy, events.BlockhashRead(number, self._chain.blockhash(wanted)))
            case (
                events.RunTask()
                | events.MakeSubmission()
                | events.AuditSubmission()
                | events.MakeDistribution()
            ):
                # The engine asks again for what has no answer yet; rounds beyond the last are not played.
                if action not in copy.asked and action.round < self._rounds:
                    copy.asked.add(action)
                    copy.jobs.append(action)
            case events.SignAndPublish(statement=statement):
                raw = sign(statement, GENESIS, copy.secret).raw
                copy.engine.receive(raw, Source.OWN)
                for other in self.copies:
                    if other is not copy:
                        other.engine.receive(raw, Source.GOSSIP)
            case events.KeepArtifacts():
                self._keep(copy, action)
            case events.FetchArtifacts(round=number):
                for other in self.copies:
                    if (kept := other.artifacts.get(number)) is not None and other is not copy:
                        self._feed(
                            copy, events.ArtifactsRead(number, kept.commitment, kept.bundle, kept.list)
                        )
            case events.AnchorCommitment():
                self._keep(copy, events.KeepArtifacts(action.round, action.commitment, action.bundle))
                if self._chain.commit(self._slot, copy.key, action):
                    self._feed(copy, events.CommitmentAnchored(action.round, bytes(64)))
            case events.AnchorList():
                self._keep(copy, events.KeepArtifacts(action.round, list=action.list))
                if self._chain.list(self._slot, copy.key, action):
                    self._feed(copy, events.ListAnchored(action.round, bytes(64)))
            case events.RoundSettled(round=number):
                self._chain.settle(self._slot, action)
                state = copy.engine.round(number)
                if state is not None and state.built is not None:  # engines keep a few rounds only
                    self._outcomes.setdefault(number, dict(state.built.tally.outcomes))
            case events.Veto(round=number):
                self._find(f"{copy.name} comes to another list than the leader of round {number}.")
            case events.Reconcile() | events.KeepRecord():
                pass  # every record reaches everybody when it is said, and nothing is restarted

    @staticmethod
    def _keep(copy: _Copy, found: events.KeepArtifacts) -> None:
        kept = copy.artifacts.get(found.round, events.KeepArtifacts(found.round))
        copy.artifacts[found.round] = events.KeepArtifacts(
            found.round,
            found.commitment or kept.commitment,
            found.bundle or kept.bundle,
            found.list or kept.list,
        )

    # --- what it came to

    def result(self, rounds: int) -> Rehearsal:
        """What the rounds came to, and what is to be said of it."""
        self._compare()
        found = tuple(self._round(number) for number in range(rounds))
        for one in found:
            self._judge(one)
        names = tuple(copy.name for copy in self.copies)
        return Rehearsal(names, tuple(self.calls), found, tuple(self._findings))

    def _compare(self) -> None:
        for (number, _), said in self._verdicts.items():
            if len(said) > 1:
                views = ", ".join(f"{name} {verdict.name}" for verdict, name in said.items())
                self._find(f"audit() depends on who asks: of one submission of round {number}, {views}.")
        for number, lists in self._lists.items():
            if len(lists) > 1:
                self._find(
                    f"distribution() depends on who asks: round {number} has {len(lists)} different lists."
                )

    def _round(self, number: int) -> RehearsedRound:
        outcomes = self._outcomes.get(number, {})
        listed, before = self._chain.settled.get(number), self._chain.settled.get(number - 1)
        amounts: dict[str, int] = {}
        for leaf in listed.leaves if listed is not None else ():
            last = before.leaf(leaf.staker) if before is not None else None
            reward = leaf.reward_total - (last.reward_total if last else 0)
            slash = leaf.slash_total - (last.slash_total if last else 0)
            amounts[self._names[leaf.staker]] = reward - slash
        named = {self._names[key]: outcome for key, outcome in outcomes.items()}
        return RehearsedRound(number, listed is not None, named, amounts)

    def _judge(self, one: RehearsedRound) -> None:
        if not one.settled:
            self._find(f"Round {one.round} was not settled.")
        for copy in self.copies:
            outcome = one.outcomes.get(copy.name)
            if copy.kind is Kind.HONEST and outcome is None:
                self._find(f"{copy.name} submitted nothing in round {one.round}.")
            elif copy.kind is Kind.HONEST and outcome is not Outcome.APPROVED and outcome is not None:
                self._find(f"The work of {copy.name} in round {one.round} was {outcome.name}, not APPROVED.")
            elif copy.kind is Kind.WRONG and outcome is Outcome.APPROVED:
                self._find(f"The wrong submission of {copy.name} in round {one.round} was APPROVED.")


def _secret_of(name: str) -> SecretKey:
    return SecretKey.from_seed(sha256(b"koii-p2p/rehearsal " + name.encode()).digest())


def _forget(store: dict[bytes, bytes], key: bytes) -> None:
    store.pop(key, None)


def _word(returned: bool) -> str:
    return "done" if returned else "not done"


def _brief(value: str | bytes | None) -> str:
    text = "nothing" if value is None else repr(value)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…"


def _verdict(found: tuple[Verdict, str]) -> str:
    verdict, detail = found
    return f"{verdict.name} ({detail})" if detail else verdict.name
