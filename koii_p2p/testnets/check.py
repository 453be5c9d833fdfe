"""The independent check: recompute every round from chain and bytes, and say exactly which thing is wrong.

Nothing that a node says about itself is used: transactions are verified by their signatures and by the head in
the task's account, stakes are replayed from transactions, rounds are recomputed by `rounds.verification`, and
balances are counted from what was paid and what fees were taken.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from hashlib import sha256

from solders.pubkey import Pubkey
from solders.transaction import VersionedTransaction

from koii_p2p.rounds import merkle
from koii_p2p.rounds.anchors import AnchoredRound, previous_digest
from koii_p2p.rounds.assignment import AuditAssignment
from koii_p2p.rounds.clock import RoundClock
from koii_p2p.rounds.commitment import Bundle, Commitment, CommitmentError, rebuild_commitment
from koii_p2p.rounds.distribution import DistributionError, DistributionList
from koii_p2p.rounds.reputation import (
    REPUTATION_ROUNDS,
    Reputation,
    RoundStanding,
    audit_rates,
    counts_in,
    reputations,
    standing_of,
)
from koii_p2p.rounds.roster import Roster, RosterError, StakeHistory, roster_at
from koii_p2p.rounds.round_records import RoundRecords
from koii_p2p.rounds.tally import Tally
from koii_p2p.rounds.terms import TaskTerms
from koii_p2p.rounds.verification import Distribute, RoundEvidence, check_round
from koii_p2p.settlement.history import ChainEntry, ReplayedStake, check_history, read_entries, replay
from koii_p2p.settlement.instructions import (
    AnchorCommitment,
    AnchorList,
    Settle,
    Stake,
    Veto,
    stake_address,
    task_address,
)
from koii_p2p.settlement.interface import StakeAccount, TaskState
from koii_p2p.settlement.layouts import CHECKPOINT_RING, LayoutError, decode_stake, decode_task
from koii_p2p.settlement.rpc import TransactionRecord
from koii_p2p.testnets.attempts import Attempt, attempts_of, standing_copies
from koii_p2p.testnets.evidence import ARTIFACTS, Evidence, RoundCopies


@dataclass(frozen=True, slots=True)
class CheckFinding:
    """One thing that is wrong. `code` is a portable name; `round` and `subject` (a node or key) where there is one."""

    code: str
    text: str
    round: int | None = None
    subject: str | None = None

    def __str__(self) -> str:
        place = "" if self.round is None else f"round {self.round}: "
        return f"{place}{self.text} [{self.code}]"


@dataclass(frozen=True, slots=True)
class Played:
    """How a round was played: its records, who was due for what, and what it came to."""

    records: RoundRecords
    assignment: AuditAssignment
    tally: Tally


@dataclass(frozen=True, slots=True)
class CheckedRound:
    """One round as recomputed. `entries` are its transactions that succeeded, `refused` how many did not.

    `attempts` are all that were committed to, `anchored` the newest of them. Commitment, list and `played` are those
    of the attempt that stands, as far as they could be verified. `amounts` are what a task's own distribution gave,
    None by Koii's default; `unrecomputed` says why that could not be run.
    """

    number: int
    anchored: AnchoredRound | None
    roster: Roster | None
    entries: tuple[ChainEntry, ...]
    refused: int
    attempts: tuple[Attempt, ...] = ()
    commitment: Commitment | None = None
    list: DistributionList | None = None
    played: Played | None = None
    amounts: Mapping[bytes, int] | None = None
    unrecomputed: str | None = None


@dataclass(frozen=True, slots=True)
class CheckReport:
    """What the check found. `state` and `stakes` are those of the chain, as far as they can be read.

    `replayed` are the stakes as their transactions make them, by staker, also in rounds after those checked.
    """

    findings: tuple[CheckFinding, ...]
    rounds: tuple[CheckedRound, ...]
    entries: tuple[ChainEntry, ...]
    state: TaskState | None
    stakes: Mapping[bytes, StakeAccount]
    replayed: Mapping[bytes, ReplayedStake] = field(default_factory=dict)

    @property
    def unrecomputed(self) -> dict[int, str]:
        """Rounds with a list that could not be held against its rule, and why: nobody knows whether it is right."""
        return {one.number: one.unrecomputed for one in self.rounds if one.unrecomputed is not None}

    @property
    def verified(self) -> bool:
        """Whether nothing is wrong, and everything was recomputed."""
        return not self.findings and not self.unrecomputed


def check(evidence: Evidence, distribute: Distribute | None = None) -> CheckReport:
    """Check everything. Never raises for bad bytes: what is wrong is in the findings, causes before effects.

    `distribute` is the task's own distribution, Koii's default if None, `verification.not_at_hand` if it cannot be run.
    """
    return _Check(evidence, distribute).run()


class _Check:
    def __init__(self, evidence: Evidence, distribute: Distribute | None) -> None:
        self._evidence = evidence
        self._distribute = distribute
        self._chain = evidence.chain
        self._findings: list[CheckFinding] = []
        self._names = {_key(node.key): node.name for node in evidence.nodes}
        self._entries: tuple[ChainEntry, ...] = ()
        self._payers: dict[str, bytes] = {}
        self._stakes: dict[bytes, StakeAccount] = {}
        self._replayed: dict[bytes, ReplayedStake] = {}

    def run(self) -> CheckReport:
        self._read_entries()
        state = self._read_task()
        self._read_stakes()
        if state is None:
            return CheckReport(tuple(self._findings), (), self._entries, None, self._stakes)
        for found in check_history(self._entries, state):
            self._find(f"history_{found.fault.name.lower()}", found.text)
        self._check_stakes(state.terms.clock)
        self._check_vault(state)
        rounds = self._check_rounds(state)
        self._check_settles(state, rounds)
        self._check_totals(rounds)
        self._check_balances()
        return CheckReport(
            tuple(self._findings), tuple(rounds), self._entries, state, self._stakes, self._replayed
        )

    # --- what the chain holds

    def _read_entries(self) -> None:
        entries: list[ChainEntry] = []
        for line, record in self._chain.transactions:
            entries += read_entries(line, record, self._chain.task, self._chain.program)
            if isinstance(record, TransactionRecord):
                try:
                    message = VersionedTransaction.from_bytes(record.wire).message
                    self._payers[line.signature] = bytes(message.account_keys[0])
                except (ValueError, IndexError):
                    continue  # `read_entries` says what is wrong with it
        self._entries = tuple(entries)

    def _read_task(self) -> TaskState | None:
        chain = self._chain
        if chain.vault is None or chain.vault.owner != chain.program:
            self._find("task_account", "The task has no vault of the settlement program.")
        if chain.task_account.owner != chain.program:
            self._find("task_account", "The task's account does not belong to the settlement program.")
        vault = 0 if chain.vault is None else chain.vault.lamports - chain.rents[0]
        try:
            state = decode_task(chain.task, chain.task_account.data, vault=max(0, vault))
        except LayoutError as error:
            self._find("task_account", f"The task's account is damaged: {error}")
            return None
        if task_address(state.terms.creator, state.nonce, chain.program) != chain.task:
            self._find("task_account", "The task's address is not that of its creator and nonce.")
        return state

    def _read_stakes(self) -> None:
        for address, account in self._chain.stakes:
            try:
                stake = decode_stake(account.data)
            except LayoutError as error:
                self._find("stake_account", f"The stake account {Pubkey(address)} is damaged: {error}")
                continue
            staker = stake.history.staker
            ours = stake_address(self._chain.task, staker, self._chain.program) == address
            if account.owner != self._chain.program or stake.task != self._chain.task or not ours:
                self._find(
                    "stake_account", f"The account {Pubkey(address)} is not the stake it says it is.", staker
                )
                continue
            rent = self._chain.rents[1]
            if account.lamports != rent + stake.amount:
                text = f"the account holds {account.lamports} Roe; rent {rent} and stake {stake.amount}."
                self._find("stake_account", f"Stake of {self._name(staker)}: {text}", staker)
            self._stakes[staker] = stake

    # --- money

    def _check_stakes(self, clock: RoundClock) -> None:
        """Compare each stake account with what the transactions make of it."""
        replayed = self._replayed = replay(self._entries).stakes
        for staker in sorted(replayed.keys() | self._stakes.keys()):
            told, held = replayed.get(staker), self._stakes.get(staker)
            if told is None or held is None:
                where = (
                    "the chain, but no transaction" if told is None else "a transaction, but not on the chain"
                )
                self._find("stake_account", f"The stake of {self._name(staker)} is in {where}.", staker)
                continue
            values = {
                "amount": (told.amount, held.amount),
                "slash_total": (told.slash_total, held.slash_total),
            }
            for name, (one, other) in values.items():
                if one != other:
                    text = f"{name}: the transactions lead to {one} Roe, the account says {other}"
                    self._find("stake_account", f"Stake of {self._name(staker)}, {text}.", staker)
            points = {p.slot: (p.stake, p.slash_total) for p in held.history.checkpoints}
            expected = dict(_checkpoints(told, clock)[-CHECKPOINT_RING:])
            for slot in sorted(points.keys() | expected.keys()):
                if points.get(slot) != expected.get(slot) and (
                    slot in expected or len(held.history.checkpoints) < CHECKPOINT_RING
                ):
                    said, led = _point(points.get(slot)), _point(expected.get(slot))
                    text = f"the transactions lead to {led}, the account says {said}"
                    self._find(
                        "stake_account", f"Stake of {self._name(staker)} at slot {slot}: {text}.", staker
                    )

    def _check_vault(self, state: TaskState) -> None:
        expected = state.funded + state.slashed + state.bonds - state.paid
        if self._chain.vault is not None and state.vault != expected:
            text = (
                f"funded {state.funded} + slashed {state.slashed} + bonds {state.bonds} - paid {state.paid} "
                f"Roe make {expected}"
            )
            self._find("vault", f"The vault holds {state.vault} Roe; {text}.")
        paid = sum(stake.reward_total for stake in self._stakes.values())
        if paid != state.paid:
            self._find(
                "paid", f"The stake accounts were paid {paid} Roe together, the task says {state.paid}."
            )

    def _check_balances(self) -> None:
        """What a wallet held at the start, its rewards and the stake paid back, without its fees, is what it holds."""
        fees: Counter[bytes] = Counter()
        staked: Counter[bytes] = Counter()
        openings = self._openings()
        for line, record in self._chain.transactions:
            payer = self._payers.get(line.signature)
            if payer is not None and isinstance(record, TransactionRecord) and line.signature not in openings:
                fees[payer] += record.fee
        for entry in self._succeeded():
            if isinstance(entry.instruction, Stake) and entry.signature not in openings:
                staked[entry.instruction.payer] += entry.instruction.amount
        for node in self._evidence.nodes:
            key, wallet = _key(node.key), _key(node.wallet)
            stake = self._stakes.get(key)
            if stake is not None and stake.history.beneficiary != wallet:
                text = (
                    f"The beneficiary of {node.name} is {Pubkey(stake.history.beneficiary)}, not its wallet."
                )
                self._find("beneficiary", text, key)
                continue
            earned = 0 if stake is None else stake.reward_total
            back = self._replayed[key].withdrawn if key in self._replayed else 0
            expected = node.opening_balance + earned + back - fees[wallet] - staked[wallet]
            held = self._chain.balances.get(wallet, 0)
            if held != expected:
                came = f"rewards {earned} + stake paid back {back}" if back else f"rewards {earned}"
                text = f"{node.opening_balance} + {came} - fees {fees[wallet]} Roe make {expected}"
                self._find("balance", f"The wallet of {node.name} holds {held} Roe; {text}.", key)

    def _openings(self) -> frozenset[str]:
        """The first stake of each staker: those transactions were made before the books were opened."""
        first: dict[bytes, str] = {}
        for entry in self._succeeded():
            if isinstance(entry.instruction, Stake):
                first.setdefault(entry.instruction.staker, entry.signature)
        return frozenset(first.values())

    # --- rounds

    def _check_rounds(self, state: TaskState) -> list[CheckedRound]:
        told = replay(self._entries)
        # With the right head the transactions are complete and in order. Otherwise the account is the better
        # witness of its newest rounds, and `check_history` has said what is wrong.
        anchors = told.rounds if told.head == state.head else {**told.rounds, **state.rounds}
        histories = tuple(stake.history for stake in self._stakes.values())
        newest: DistributionList | None = None
        standings: dict[int, RoundStanding] = {}
        rounds: list[CheckedRound] = []
        for number in range(self._evidence.rounds):
            roster = self._roster(histories, number, state.terms)
            known = _reputations(number, anchors, standings, state.terms)
            checked = self._check_round(number, state.terms, anchors, roster, newest, known)
            # K2 takes lists in ascending order of rounds, so that the newest one that stands is the one before this.
            newest = checked.list or newest
            if checked.commitment is not None:
                standings[number] = standing_of(checked.commitment)
            rounds.append(checked)
        return rounds

    def _roster(self, histories: Iterable[StakeHistory], number: int, terms: TaskTerms) -> Roster | None:
        try:
            return roster_at(histories, number, terms)
        except RosterError as error:
            self._find("roster", f"There is no roster: {error}", round=number)
            return None

    def _check_round(
        self,
        number: int,
        terms: TaskTerms,
        anchors: Mapping[int, AnchoredRound],
        roster: Roster | None,
        previous: DistributionList | None,
        known: Mapping[bytes, Reputation],
    ) -> CheckedRound:
        anchored = anchors.get(number)
        entries = [entry for entry in self._entries if round_of(entry) == number]
        succeeded = tuple(entry for entry in entries if entry.err is None)
        checked = CheckedRound(number, anchored, roster, succeeded, len(entries) - len(succeeded))
        if anchored is None or roster is None:
            return checked
        checked = replace(checked, attempts=attempts_of(succeeded, anchored))
        self._count_anchors(number, anchored, succeeded)
        if anchored.rejected:
            return checked  # nothing of it counts, so that nobody needs to hold its bytes
        blockhash = self._blockhash(number, terms.clock.submission(number).closes)
        copies = self._evidence.copies.get(number) or RoundCopies({}, {}, {})
        copies = standing_copies(copies, checked.attempts)
        commitment, bundle, listed = (self._choose(number, name, copies, anchored) for name in ARTIFACTS)
        missing = [
            name for name, data in zip(ARTIFACTS[:2], (commitment, bundle), strict=True) if data is None
        ]
        for name in missing:
            self._find("missing", f"No node holds the {name}.", round=number)
        decoded = None if commitment is None else _decode_commitment(commitment, anchored)
        if commitment is None or bundle is None or blockhash is None:
            return replace(checked, commitment=decoded)
        report = check_round(
            terms,
            self._chain.genesis,
            RoundEvidence(
                round=number,
                roster=roster,
                blockhash=blockhash,
                commitment=commitment,
                bundle=bundle,
                list=listed,
                anchored_digest=anchored.commitment,
                anchored_root=anchored.list_root,
                anchored_reward_total=anchored.reward_total,
                anchored_slash_total=anchored.slash_total,
                previous_digest=previous_digest(anchors, number),
                reputations=known,
            ),
            previous,
            self._distribute,
        )
        for finding in report.findings:
            self._find(finding.code.value, finding.text, finding.subject, round=number)
        played = None
        if report.ok and decoded is not None:
            played = _play(terms, self._chain.genesis, roster, decoded, bundle, known)
        return replace(
            checked,
            commitment=decoded,
            list=report.list,
            played=played,
            amounts=report.amounts,
            unrecomputed=report.unrecomputed,
        )

    def _count_anchors(self, number: int, anchored: AnchoredRound, entries: Iterable[ChainEntry]) -> None:
        """One commitment for each attempt, and one list; only the newest attempt may lack its list."""
        counts: Counter[tuple[type[AnchorCommitment | AnchorList], int]] = Counter()
        for entry in entries:
            match entry.instruction:
                case AnchorCommitment(attempt=attempt) | AnchorList(attempt=attempt):
                    counts[type(entry.instruction), attempt] += 1
        due = {
            (kind, one): 1 for kind in (AnchorCommitment, AnchorList) for one in range(anchored.attempt + 1)
        }
        due[AnchorList, anchored.attempt] = 0 if anchored.list_root is None else 1
        for kind, attempt in sorted(
            counts.keys() | due.keys(), key=lambda place: (place[1], place[0].__name__)
        ):
            held, wanted = counts[kind, attempt], due.get((kind, attempt), 0)
            if held != wanted:
                text = (
                    f"The chain has {held} {kind.__name__} transactions of attempt {attempt} that succeeded"
                )
                self._find("transactions", f"{text}, not {wanted}.", round=number)

    def _blockhash(self, number: int, after: int) -> bytes | None:
        slot, blockhash = self._chain.blocks.get(number, (-1, b""))
        if slot < after:
            self._find("blockhash", f"No block at or after slot {after} is known.", round=number)
            return None
        return blockhash

    def _choose(self, number: int, name: str, copies: RoundCopies, anchored: AnchoredRound) -> bytes | None:
        """The copy that the chain vouches for, else the one most nodes hold; every other copy is a finding."""
        held = copies.of(name)
        if not held:
            return None
        counts = Counter(held.values())
        right = [data for data in counts if self._vouched(name, data, copies, anchored)]
        chosen = right[0] if right else max(counts, key=lambda data: (counts[data], data))
        for holder, data in held.items():
            if data != chosen:
                text = (
                    f"The {name} at {holder} hashes to {sha256(data).hexdigest()}, "
                    f"the one at {counts[chosen]} others to {sha256(chosen).hexdigest()}."
                )
                self._findings.append(CheckFinding("copy_differs", text, number, holder))
        return chosen

    def _vouched(self, name: str, data: bytes, copies: RoundCopies, anchored: AnchoredRound) -> bool:
        if name == "commitment":
            return sha256(data).digest() == anchored.commitment
        if name == "list":
            try:
                return DistributionList.decode(data).root == anchored.list_root
            except DistributionError:
                return False
        for commitment in copies.commitment.values():
            decoded = _decode_commitment(commitment, anchored)
            if decoded is not None:
                return decoded.bundle_cid[-32:] == sha256(data).digest()
        return False

    # --- settlement

    def _check_settles(self, state: TaskState, rounds: Iterable[CheckedRound]) -> None:
        checks = {checked.number: checked for checked in rounds}
        for entry in self._succeeded():
            settle = entry.instruction
            if not isinstance(settle, Settle) or settle.round not in checks:
                continue
            name = f"The settlement {entry.signature} of {self._name(settle.leaf.staker)}"
            anchored, listed = checks[settle.round].anchored, checks[settle.round].list
            if listed is not None and not merkle.verify(listed.root, settle.leaf.encode(), settle.proof):
                self._find("settle", f"{name} proves no leaf of the list.", settle.leaf.staker, settle.round)
            opens = state.terms.clock.settles_at(settle.round, anchored.attempt if anchored else 0)
            if entry.slot < opens:
                self._find(
                    "settle",
                    f"{name} is in slot {entry.slot}, before {opens}.",
                    settle.leaf.staker,
                    settle.round,
                )

    def _check_totals(self, rounds: Iterable[CheckedRound]) -> None:
        """No stake account was settled beyond the newest list. Less is not wrong: a leaf may be settled any time."""
        newest = next((checked.list for checked in reversed(list(rounds)) if checked.list), None)
        settled = [number for entry in self._succeeded() if (number := _settled_round(entry)) is not None]
        if newest is None or (settled and max(settled) > newest.round):
            return
        for staker, stake in self._stakes.items():
            leaf = newest.leaf(staker)
            due = (0, 0) if leaf is None else (leaf.reward_total, leaf.slash_total)
            for name, had, listed in zip(
                ("reward", "slash"), (stake.reward_total, stake.slash_total), due, strict=True
            ):
                if had > listed:
                    text = f"{self._name(staker)} was settled a {name} of {had} Roe; the newest list has {listed}."
                    self._find("settled_total", text, staker)

    def _succeeded(self) -> list[ChainEntry]:
        return [entry for entry in self._entries if entry.err is None and entry.instruction is not None]

    # --- findings

    def _name(self, key: bytes) -> str:
        return self._names.get(key) or str(Pubkey(key))

    def _find(self, code: str, text: str, subject: bytes | None = None, round: int | None = None) -> None:
        for key, name in self._names.items():
            text = text.replace(key.hex(), name)
        self._findings.append(
            CheckFinding(code, text, round, None if subject is None else self._name(subject))
        )


def round_of(entry: ChainEntry) -> int | None:
    """The round that a transaction is about, or None."""
    match entry.instruction:
        case (
            AnchorCommitment(round=number)
            | AnchorList(round=number)
            | Veto(round=number)
            | Settle(round=number)
        ):
            return number
    return None


def _settled_round(entry: ChainEntry) -> int | None:
    return entry.instruction.round if isinstance(entry.instruction, Settle) else None


def _reputations(
    number: int,
    anchors: Mapping[int, AnchoredRound],
    standings: Mapping[int, RoundStanding],
    terms: TaskTerms,
) -> dict[bytes, Reputation]:
    """Reputations in a round, from the commitments that count in it; empty where the task has none."""
    if not terms.audit.reputation_floor:
        return {}
    return reputations(
        number,
        (
            standings[older]
            for older in range(max(0, number - REPUTATION_ROUNDS - 1), number)
            if older in standings and counts_in(anchors[older], number, terms.clock)
        ),
    )


def _play(
    terms: TaskTerms,
    genesis: bytes,
    roster: Roster,
    commitment: Commitment,
    bundle: bytes,
    known: Mapping[bytes, Reputation],
) -> Played:
    """Play a round again whose commitment and bundle were found to be right."""
    assignment = AuditAssignment(commitment.beacon, roster, terms.audit, audit_rates(known, terms.audit))
    built = rebuild_commitment(
        terms, genesis, Bundle.decode(bundle), commitment.beacon, commitment.previous, assignment
    )
    return Played(built.records, assignment, built.tally)


def _decode_commitment(data: bytes, anchored: AnchoredRound) -> Commitment | None:
    """The commitment, if the chain vouches for these bytes."""
    if sha256(data).digest() != anchored.commitment:
        return None
    try:
        return Commitment.decode(data)
    except CommitmentError:
        return None


def _checkpoints(stake: ReplayedStake, clock: RoundClock) -> list[tuple[int, tuple[int, int]]]:
    """The changes of a stake that its account keeps: of each period, and of the time before the first, the last."""
    newest = {max(-1, clock.period(slot)): (slot, point) for slot, point in stake.points.items()}
    return [newest[period] for period in sorted(newest)]


def _point(point: tuple[int, int] | None) -> str:
    return "nothing" if point is None else f"a stake of {point[0]} and slashes of {point[1]} Roe"


def _key(text: str) -> bytes:
    return bytes(Pubkey.from_string(text))
