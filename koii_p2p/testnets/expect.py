"""Whether the assertions of a testnet's table [expect] hold: counted from the chain and the recomputed rounds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from solders.pubkey import Pubkey

from koii_p2p.rounds.tally import AuditorStatus
from koii_p2p.settlement.instructions import AnchorCommitment, AnchorList, Settle
from koii_p2p.testnets.check import CheckedRound, CheckReport
from koii_p2p.testnets.expect_table import Expect
from koii_p2p.testnets.identity import HONEST, NodeIdentity

VOTED = frozenset({AuditorStatus.DILIGENT, AuditorStatus.OVERRULED, AuditorStatus.EQUIVOCATED})
"""What is said of auditors in a commitment that has a ballot of theirs."""


@dataclass(frozen=True, slots=True)
class Expected:
    """One assertion: its name in the table, what was wanted, what was found, and whether it holds."""

    name: str
    wanted: str
    found: str
    ok: bool

    def __str__(self) -> str:
        return f"{self.name}: {self.wanted} was expected; {self.found}."


def evaluate(
    expect: Expect, report: CheckReport, nodes: Iterable[NodeIdentity], first: int
) -> tuple[Expected, ...]:
    """Each assertion that is made, about the rounds from `first` on; none about a task that cannot be read."""
    rounds = report.rounds[first:]
    honest = {bytes(Pubkey.from_string(node.key)): node.name for node in nodes if node.behaviour == HONEST}
    found = []
    if expect.vote_coverage is not None:
        found.append(_coverage(expect.vote_coverage, rounds, honest))
    if expect.settle_slots is not None:
        found.append(_settle_time(expect.settle_slots, report, rounds))
    if expect.no_honest_slash:
        found.append(_slashes(report, honest))
    if expect.one_commitment:
        found.append(_commitments(report, rounds, first))
    return tuple(found)


def _coverage(least: float, rounds: Iterable[CheckedRound], honest: dict[bytes, str]) -> Expected:
    due = voted = 0
    silent: Counter[str] = Counter()
    for checked in rounds:
        for key, status in checked.commitment.auditors if checked.commitment is not None else ():
            if key in honest:
                due += 1
                voted += status in VOTED
                silent[honest[key]] += status not in VOTED
    share = voted / due if due else 0.0
    missing = ", ".join(f"{name} {count}" for name, count in sorted(silent.items()) if count)
    text = f"{voted} of {due} audits due to honest nodes are in commitments ({share:.3f})"
    return Expected(
        "vote_coverage",
        f"at least {least}",
        f"{text}; missing: {missing}" if missing else text,
        bool(due) and share >= least,
    )


def _settle_time(most: int, report: CheckReport, rounds: Iterable[CheckedRound]) -> Expected:
    """Leaves are cumulative: a settlement of a later round settles those before it as well."""
    wanted = f"at most {most} slots"
    if report.state is None:
        return Expected("settle_slots", wanted, "the task cannot be read", False)
    clock = report.state.terms.clock
    settles = [
        (entry.instruction.round, entry.slot)
        for entry in report.entries
        if entry.err is None and isinstance(entry.instruction, Settle)
    ]
    took = {
        checked.number: min((slot for number, slot in settles if number >= checked.number), default=None)
        for checked in rounds
    }
    never = sorted(number for number, slot in took.items() if slot is None)
    waits = {n: slot - clock.settles_at(n) for n, slot in took.items() if slot is not None}
    worst = max(waits.items(), key=lambda item: item[1], default=None)
    said = [f"round {worst[0]} took {worst[1]}" if worst else "no round was settled"]
    said += [f"round {number} was never settled" for number in never]
    return Expected(
        "settle_slots", wanted, "; ".join(said), worst is not None and not never and worst[1] <= most
    )


def _slashes(report: CheckReport, honest: dict[bytes, str]) -> Expected:
    lost = {
        honest[key]: stake.slash_total
        for key, stake in report.stakes.items()
        if key in honest and stake.slash_total
    }
    listed = {
        honest[leaf.staker]
        for checked in report.rounds
        if checked.list is not None
        for leaf in checked.list.leaves
        if leaf.staker in honest and leaf.slash_total
    }
    said = [f"{name} lost {amount} Roe" for name, amount in sorted(lost.items())]
    said += [f"a list slashes {name}" for name in sorted(listed)]
    return Expected("no_honest_slash", "none", "; ".join(said) or "nobody honest was slashed", not said)


def _commitments(report: CheckReport, rounds: Iterable[CheckedRound], first: int) -> Expected:
    said = []
    attempts = 0
    for checked in rounds:
        counts: Counter[tuple[str, int]] = Counter()
        for entry in checked.entries:
            match entry.instruction:
                case AnchorCommitment(attempt=attempt):
                    counts["commitments", attempt] += 1
                case AnchorList(attempt=attempt):
                    counts["lists", attempt] += 1
        attempts += len(checked.attempts)
        said += [
            f"{count} {what} of round {checked.number}, attempt {attempt}"
            for (what, attempt), count in sorted(counts.items())
            if count > 1
        ]
        if not counts["commitments", 0]:
            said.append(f"no commitment of round {checked.number}")
    said += [
        str(found.text)
        for found in report.findings
        if found.code == "copy_differs" and (found.round or 0) >= first
    ]
    return Expected(
        "one_commitment",
        "one for each attempt, and the same bytes everywhere",
        "; ".join(said) or f"one for each of {attempts} attempts",
        not said,
    )
