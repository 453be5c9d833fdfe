"""The rounds of a scenario, one after the other: who submits, who says what of whom, and what the rules make of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from random import Random
from typing import Final

import numpy as np

from koii_p2p.errors import CheckFailed
from koii_p2p.lab.behaviours.submitters import Rational
from koii_p2p.lab.chain import Landed, SimulatedChain
from koii_p2p.lab.clockwork import MILLISECOND
from koii_p2p.lab.fast.crew import Crew, Flags, Numbers, crew_of
from koii_p2p.lab.fast.mesh import Arrivals, Mesh, arrivals, formed
from koii_p2p.lab.fast.verdicts import (
    INVALID,
    SILENT,
    VALID,
    Votes,
    Works,
    most_said,
    no_votes,
    verdicts,
)
from koii_p2p.lab.progress import Told, nobody
from koii_p2p.lab.scenario import Scenario, Transport
from koii_p2p.lab.simulation import FIRST_SLOT
from koii_p2p.lab.topology import degrees_of, random_dials
from koii_p2p.records.schema import Verdict
from koii_p2p.rounds import events
from koii_p2p.rounds.assignment import SAMPLE, AuditAssignment
from koii_p2p.rounds.audit_rules import BASIS_POINTS, Profile
from koii_p2p.rounds.beacon import beacon
from koii_p2p.rounds.clock import Window
from koii_p2p.rounds.distribution import (
    DistributionList,
    Leaf,
    default_distribution,
    next_list,
    submitters_of,
)
from koii_p2p.rounds.eligibility import MAX_CHALLENGES
from koii_p2p.rounds.leader import leader_order
from koii_p2p.rounds.omissions import reveals_at
from koii_p2p.rounds.reputation import Reputation, RoundStanding, audit_rates, reputations
from koii_p2p.rounds.roster import Roster
from koii_p2p.rounds.tally import Cast, Outcome, Tally, tally
from koii_p2p.rounds.terms import TaskTerms

RECORD_BYTES: Final = 300
"""Of a record with its frame, about: what an uplink carries for one."""

MOST_RANKED: Final = 1_000
"""Nodes up to which picks are made by the rule itself."""


@dataclass(frozen=True, slots=True)
class Played:
    """What one round came to."""

    number: int
    roster: Roster
    assignment: AuditAssignment
    works: Works
    convicted: Flags
    """Who signed two submissions; nothing that they say counts."""
    first: Votes
    full: Votes
    challenges: Votes
    tally: Tally
    list: DistributionList
    amounts: dict[bytes, int]
    """By key: what the list changed."""
    leader: bytes
    """Who anchored commitment and list."""
    landed: tuple[Landed, ...]
    """Its transactions: commitment, list, and what was settled of the list."""


@dataclass(frozen=True, slots=True)
class _Scene:
    """What is settled in a round before anybody votes; flags are by node."""

    number: int
    active: Flags
    staked: Flags
    mute: Flags
    convicted: Flags
    works: Works
    assignment: AuditAssignment

    def counted(self, votes: Votes) -> Votes:
        """Votes that a commitment takes in: not those of whoever it convicts (`round_records.select`)."""
        return votes.where(~self.convicted[votes.auditor])


class Play:
    """One run of a scenario. Raises `ConfigurationError` for what this engine does not play."""

    def __init__(self, scenario: Scenario, seed: int, terms: TaskTerms, keys: Sequence[bytes]) -> None:
        """`keys` are the staking keys by number of the node."""
        self.scenario, self.seed, self.terms, self.keys = scenario, seed, terms, keys
        self.crew: Crew = crew_of(scenario)
        self.number_of = {key: number for number, key in enumerate(keys)}
        self.chain = SimulatedChain(terms, dict.fromkeys(keys, scenario.economy.stake), seed)
        self._random = np.random.default_rng([seed, len(keys)])
        self._slot_us = scenario.chain.slot_ms * MILLISECOND
        self._tried, self._caught = np.zeros(len(keys)), np.zeros(len(keys))
        self.standings: list[RoundStanding] = []
        self._lists: list[DistributionList] = []
        self.mesh, self.arrivals = _net(scenario, seed)
        skew = scenario.network.clock_skew_ms * MILLISECOND
        self._skew = self._random.integers(-skew, skew + 1, len(keys))
        players = round(scenario.protocol.canary_players * len(keys))
        self._plays_canaries = ~self.crew.misbehaves & (np.arange(len(keys)) < players)

    def us(self, slot: int) -> int:
        """Microseconds at which a slot begins, from the start of the run."""
        return (slot - FIRST_SLOT) * self._slot_us

    def rounds(self, told: Told = nobody) -> list[Played]:
        """Play all rounds."""
        played = []
        for number in range(self.scenario.rounds):
            played.append(self._round(number))
            told((number + 1) / self.scenario.rounds)
        return played

    # --- one round

    def _round(self, number: int) -> Played:
        roster = self.chain.roster(number)
        active, staked = self.crew.active(number), self._flags(roster.keys)
        works = self._works(number, active, staked, len(roster))
        known = reputations(number, self.standings) if self.terms.audit.reputation_floor else {}
        drawn, assignment = self._draw(number, roster, active & works.submitted, known)
        mute = active & (self._random.random(len(active)) >= self.crew.casts)
        convicted = active & staked & (self.crew.equivocates > 0)
        scene = _Scene(number, active, staked, mute, convicted, works, assignment)
        first = self._first(scene)
        challenges = self._challenges(scene)
        full = self._full(scene, first, challenges)
        cast = Cast(
            self._by_author(scene.counted(first)),
            self._by_author(scene.counted(full)),
            {author: set(votes) for author, votes in self._by_author(scene.counted(challenges)).items()},
            frozenset(self._keys(works.canary)),
        )
        counted = tally(self._keys(works.submitted), cast, assignment, self._keys(convicted))
        listed, changed = self._paid(roster, counted)
        self._learn(works, counted)
        self.standings.append(RoundStanding(number, counted.outcomes, counted.auditors))
        self._lists.append(listed)
        leader = self._leader(number, drawn, known)
        return Played(
            number=number,
            roster=roster,
            assignment=assignment,
            works=works,
            convicted=convicted,
            first=first,
            full=full,
            challenges=challenges,
            tally=counted,
            list=listed,
            amounts=changed,
            leader=leader,
            landed=self._anchor(number, leader, listed),
        )

    def _paid(self, roster: Roster, counted: Tally) -> tuple[DistributionList, dict[bytes, int]]:
        """The list of a round, and by key what it changed."""
        previous = self._lists[-1] if self._lists else None
        submitters = submitters_of(counted.outcomes, roster, previous)
        amounts = default_distribution(submitters, self.terms.bounty_per_round, self.terms.slash_basis_points)
        listed = next_list(previous, roster, amounts, self.terms, counted)
        before = {leaf.staker: leaf for leaf in previous.leaves} if previous else {}
        changed = {}
        for leaf in listed.leaves:
            last = before.get(leaf.staker, Leaf(leaf.staker, 0, 0))
            gained, lost = leaf.reward_total - last.reward_total, leaf.slash_total - last.slash_total
            changed[leaf.staker] = gained - lost
        return listed, changed

    # --- submissions and the draw

    def _works(self, number: int, active: Flags, staked: Flags, stakers: int) -> Works:
        crew, random, count = self.crew, self._random, len(self.keys)
        canary = (
            staked
            & self._plays_canaries
            & (random.random(count) < self.terms.audit.canary_rate / BASIS_POINTS)
        )
        fraud = staked & active & (random.random(count) < crew.wrong)
        fraud |= staked & active & self._cheating_pays(stakers)
        catch = np.where(active, crew.catch, 1.0)
        opens = self.terms.clock.submission(number).spoken.opens
        return Works(staked, fraud, canary, catch, self.us(opens) - self._skew)

    def _cheating_pays(self, stakers: int) -> Flags:
        """Who weighs its cost, and expects more from a wrong value: as `behaviours.submitters.Rational` has it."""
        weighs = ~np.isnan(self.crew.cost)
        if not weighs.any():
            return weighs
        reward = self.terms.bounty_per_round / max(1, stakers)
        stakes = np.array([float(self.chain.stake_of(key)) for key in self.keys])
        slash = stakes * self.terms.slash_basis_points / BASIS_POINTS
        prior = Rational.PRIOR * self.terms.audit.audit_rate / BASIS_POINTS
        chance = (prior + self._caught) / (Rational.PRIOR + self._tried)
        pays: Flags = weighs & (chance * (reward + slash) < np.nan_to_num(self.crew.cost) * reward)
        return pays

    def _learn(self, works: Works, counted: Tally) -> None:
        """Let those who weigh their cost see what became of their frauds."""
        for node in np.flatnonzero(works.fraud & ~np.isnan(self.crew.cost)).tolist():
            self._tried[node] += 1
            self._caught[node] += counted.outcomes.get(self.keys[node]) is Outcome.REJECTED

    def _draw(
        self, number: int, roster: Roster, grinding: Flags, known: Mapping[bytes, Reputation]
    ) -> tuple[bytes, AuditAssignment]:
        """Beacon and draw of the round; of grinders' block hashes that one by which most have no other auditors."""
        rates = audit_rates(known, self.terms.audit)
        slot = self.terms.clock.submission(number).closes
        grinders = grinding & (self.crew.tries > 1)
        friends = set(self._keys(grinders))
        best: tuple[int, bytes, AuditAssignment] | None = None
        for attempt in range(int(self.crew.tries[grinders].max(initial=1))):
            seed = beacon(self.chain.candidate(slot, attempt), self.terms.task, number)
            drawn = AuditAssignment(seed, roster, self.terms.audit, rates)
            hits = sum(friends.issuperset(drawn.auditors_of(key)) for key in friends)
            if best is None or hits > best[0]:
                best = hits, seed, drawn
        assert best is not None, "there is one try at least"
        return best[1], best[2]

    # --- votes

    def _first(self, scene: _Scene) -> Votes:
        """First ballots: of those drawn, or of what everybody picked."""
        clock, rules, number = self.terms.clock, self.terms.audit, scene.number
        koii = rules.profile is Profile.KOII
        if koii:
            author, auditor = self._samples(scene)
        else:
            author, auditor = self._pairs(np.flatnonzero(scene.works.submitted), scene.assignment.auditors_of)
        window = clock.audit(number) if koii else clock.first_ballots(number)
        closed = self.us(_part(clock.seals(number) if rules.sealed else window, 1, 2)) - self._skew
        heard = scene.works.made[author] + self.arrivals[author, auditor] <= closed[auditor]
        votes = verdicts(self.crew, scene.active, scene.works, author, auditor, self._random)
        silent = ~heard | scene.mute[auditor]
        if koii:
            # Koii's client writes a vote only against a submission, or in answer to one that it has heard of.
            silent |= (votes.verdict == VALID) & ~votes.copies
        verdict = np.where(silent, SILENT, votes.verdict)
        said, late = closed[auditor], self._late(scene, auditor)
        if rules.sealed:
            said = (self.us(reveals_at(self.terms, number)) - self._skew)[auditor]
            kept = scene.active & (self._random.random(len(scene.active)) < self.crew.hides)
            verdict = np.where(kept[auditor], SILENT, verdict)
            window = clock.reveals(number)
        elif votes.copies.any():
            # Copiers wait with open ballots until those of the others are there.
            most = most_said(replace(votes, verdict=verdict).where(~votes.copies & ~late), len(self.keys))
            wait = max(2, (window.closes - window.opens) // 8)
            said = np.where(votes.copies, self.us(window.closes - wait), said)
            copied = most[author]
            if koii:
                copied = np.where(copied == VALID, SILENT, copied)
            verdict = np.where(votes.copies & ~silent, copied, verdict)
        said = np.where(late, self.us(window.closes) - self.crew.late[auditor] * self._slot_us, said)
        return replace(votes, verdict=verdict, looked=votes.looked & heard, said=said)

    def _late(self, scene: _Scene, auditor: Numbers) -> Flags:
        late: Flags = scene.active[auditor] & (self.crew.late[auditor] > 0)
        return late

    def _challenges(self, scene: _Scene) -> Votes:
        """Challenges of what those who patrol find bad, as the audit opens."""
        patrols = self.scenario.protocol.patrols
        if self.terms.audit.profile is Profile.KOII or not patrols:
            return no_votes()
        submitted = self._keys(scene.works.submitted)
        authors, auditors = [], []
        for node in np.flatnonzero(scene.staked & ~self.crew.misbehaves).tolist():
            key = self.keys[node]
            free = [one for one in submitted if not scene.assignment.is_due(key, one)]
            picked = self._picked(scene.assignment, key, free, patrols)
            authors += picked
            auditors += [node] * len(picked)
        author, auditor = np.array(authors, np.int64), np.array(auditors, np.int64)
        votes = verdicts(self.crew, scene.active, scene.works, author, auditor, self._random)
        said = (self.us(self.terms.clock.first_ballots(scene.number).opens) - self._skew)[auditor]
        heard = scene.works.made[author] + self.arrivals[author, auditor] <= said
        step = _challenged_at(author, auditor, heard & (votes.verdict == INVALID))
        verdict = np.where(step >= 0, INVALID, SILENT)
        said = said + np.maximum(step, 0) * self._slot_us
        return replace(votes, verdict=verdict, looked=votes.looked & heard, said=said)

    def _full(self, scene: _Scene, first: Votes, challenges: Votes) -> Votes:
        """Votes of full audits: of those who may vote, have heard the accusation, and have not voted first."""
        if self.terms.audit.profile is Profile.KOII:
            return no_votes()
        voted = set(zip(first.author[first.cast].tolist(), first.auditor[first.cast].tolist(), strict=True))
        said = self.us(_part(self.terms.clock.full_audit(scene.number), 1, 3)) - self._skew
        authors, auditors = [], []
        for accused, accusers in self._accusations(scene, first, challenges).items():
            committee = self._numbers(scene.assignment.committee_of(self.keys[accused]))
            whom = np.array([node for node, _when in accusers])
            when = np.array([when for _node, when in accusers], np.float64)
            heard = (self.arrivals[np.ix_(whom, committee)] + when[:, None]).min(axis=0)
            for member in committee[heard <= said[committee]].tolist():
                if (accused, member) not in voted:
                    authors.append(accused)
                    auditors.append(member)
        author, auditor = np.array(authors, np.int64), np.array(auditors, np.int64)
        votes = verdicts(self.crew, scene.active, scene.works, author, auditor, self._random)
        copied = most_said(first, len(self.keys))[author]
        verdict = np.where(votes.copies, copied, votes.verdict)
        mute = scene.mute[auditor]
        return replace(
            votes,
            verdict=np.where(mute, SILENT, verdict),
            looked=votes.looked & ~mute,
            said=said[auditor],
        )

    def _accusations(
        self, scene: _Scene, first: Votes, challenges: Votes
    ) -> dict[int, list[tuple[int, int]]]:
        """By author: who accused it, and when (us). A canary's author accuses itself."""
        found: dict[int, list[tuple[int, int]]] = {}
        for votes in (first, challenges):
            against = scene.counted(votes.where(votes.verdict == INVALID))
            columns = (against.author, against.auditor, against.said)
            for author, auditor, said in zip(*(column.tolist() for column in columns), strict=True):
                found.setdefault(author, []).append((auditor, said))
        opens = self.us(self.terms.clock.openings(scene.number).opens)
        for author in np.flatnonzero(scene.works.canary).tolist():
            found.setdefault(author, []).append((author, opens))
        return dict(sorted(found.items()))

    def _samples(self, scene: _Scene) -> tuple[Numbers, Numbers]:
        """Pairs that everybody picks for itself: `SAMPLE` of all, its own passed over."""
        submitted = self._keys(scene.works.submitted)
        authors, auditors = [], []
        for node in np.flatnonzero(scene.staked).tolist():
            picked = self._picked(scene.assignment, self.keys[node], submitted, SAMPLE)
            authors += picked
            auditors += [node] * len(picked)
        return np.array(authors, np.int64), np.array(auditors, np.int64)

    def _picked(
        self, assignment: AuditAssignment, auditor: bytes, authors: Sequence[bytes], count: int
    ) -> list[int]:
        """What an auditor picks that nobody draws, its own passed over.

        In a large net by a draw of numpy's, and not by the rule, which ranks all submissions for each auditor: N^2
        hashes. The distribution is the same.
        """
        if len(self.keys) <= MOST_RANKED:
            chosen = assignment.sample_of(auditor, authors, count)
        else:
            places = self._random.choice(len(authors), min(count, len(authors)), replace=False)
            chosen = tuple(authors[place] for place in sorted(places.tolist()) if authors[place] != auditor)
        return [self.number_of[key] for key in chosen]

    # --- between arrays and rules

    def _pairs(
        self, authors: Numbers, drawn: Callable[[bytes], tuple[bytes, ...]]
    ) -> tuple[Numbers, Numbers]:
        found = [[self.number_of[key] for key in drawn(self.keys[author])] for author in authors.tolist()]
        author = np.repeat(authors, [len(auditors) for auditors in found])
        return author, np.fromiter((node for auditors in found for node in auditors), np.int64, len(author))

    def _flags(self, keys: Iterable[bytes]) -> Flags:
        flags = np.zeros(len(self.keys), np.bool_)
        flags[self._numbers(keys)] = True
        return flags

    def _keys(self, flags: Flags) -> list[bytes]:
        return [self.keys[node] for node in np.flatnonzero(flags).tolist()]

    def _numbers(self, keys: Iterable[bytes]) -> Numbers:
        return np.array([self.number_of[key] for key in keys], np.int64)

    def _by_author(self, votes: Votes) -> dict[bytes, dict[bytes, Verdict]]:
        cast = votes.cast
        columns = (votes.author[cast], votes.auditor[cast], votes.verdict[cast])
        found: dict[bytes, dict[bytes, Verdict]] = {}
        for author, auditor, verdict in zip(*(column.tolist() for column in columns), strict=True):
            found.setdefault(self.keys[author], {})[self.keys[auditor]] = Verdict(verdict)
        return found

    # --- the chain

    def _anchor(self, number: int, by: bytes, listed: DistributionList) -> tuple[Landed, ...]:
        """Let commitment and list land, and the list of three rounds before be settled; the first leaders are up."""
        clock, delay = self.terms.clock, self.scenario.chain.delay_slots
        before = len(self.chain.landed)
        room = clock.round_time - clock.submission_window - clock.audit_window
        quiet = (room or clock.submission_window // 2) // 3
        committed = clock.commitment(number).opens + quiet + delay
        at = clock.distribution(number).opens + 1 + delay
        digest = sha256(b"commitment %d" % number).digest()
        anchor = events.AnchorList(number, 0, listed.root, listed.reward_total, listed.slash_total, b"")
        landed = self.chain.commit(committed, by, events.AnchorCommitment(number, 0, digest, b"", b""))
        if not landed or not self.chain.list(at, by, anchor):
            raise CheckFailed(
                f"K2 does not take what round {number} came to.",
                f"Commitment in slot {committed}, list in slot {at}.",
                "Report the scenario: it should be played or refused.",
            )
        self.chain.settle(clock.settles_at(number), by, events.RoundSettled(number, listed, rank=0))
        return tuple(self.chain.landed[before:])

    def _leader(self, number: int, drawn: bytes, known: Mapping[bytes, Reputation]) -> bytes:
        """Who leads: the first of those whose work was approved in the round before (PROTOCOL section 7)."""
        last = self.standings[-2].outcomes if len(self.standings) > 1 else {}
        roster = self.chain.roster(number)
        approved = [key for key, outcome in last.items() if outcome is Outcome.APPROVED and key in roster]
        scores = {key: found.score for key, found in known.items()}
        order = leader_order(drawn, approved or roster.keys, scores)
        return next(key for key in order if self.chain.stake_of(key))


def _net(scenario: Scenario, seed: int) -> tuple[Mesh, Arrivals]:
    network, protocol = scenario.network, scenario.protocol
    dials = random_dials(network.nodes, network.degree, Random(f"{seed} dials"))
    degrees = degrees_of(protocol.mesh_degree, network.nodes)
    mesh = formed(network.nodes, dials, degrees, Random(f"{seed} mesh"))
    found = arrivals(
        network,
        mesh,
        seed,
        record_bytes=RECORD_BYTES,
        flood=protocol.flood_publish,
        direct=protocol.transport is Transport.DIRECT,
    )
    if protocol.reconcile_peers:
        # What gossip loses, reconciliation brings, at the next of a round's moments: a few slots later.
        lost = float(protocol.audit_window // 6 * scenario.chain.slot_ms * MILLISECOND)
        np.copyto(found, np.float32(lost), where=np.isinf(found))
    return mesh, found


def _part(window: Window, part: int, whole: int) -> int:
    """The slot at which a part of a window is over, rounded as `taking_part` does."""
    return window.opens + (window.closes - window.opens) * part // whole


def _challenged_at(author: Numbers, auditor: Numbers, bad: Flags) -> Numbers:
    """The slot, from the first on, in which each pair leads to a challenge; -1: in none.

    A node makes one challenge in a slot, of the first that it found bad and nobody has challenged before.
    """
    step = np.full(len(author), -1, np.int64)
    waiting = np.flatnonzero(bad).tolist()
    challenged: set[int] = set()
    for slot in range(MAX_CHALLENGES - 1):
        spoken: set[int] = set()
        left: list[int] = []
        for index in waiting:
            if int(author[index]) in challenged:
                continue
            if int(auditor[index]) in spoken:
                left.append(index)
                continue
            spoken.add(int(auditor[index]))
            step[index] = slot
        challenged.update(author[step == slot].tolist())
        waiting = left
    return step
