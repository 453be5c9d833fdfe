"""How a testnet is shown: live on a terminal, as plain lines in a pipe, and as the table at its end."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from types import TracebackType

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.text import Text

from koii_p2p.cli.output import koii, table
from koii_p2p.testnets.net import RunningNet
from koii_p2p.testnets.outcome import NodeOutcome, Outcome, TransactionLine
from koii_p2p.testnets.watch import RoundSnapshot, Snapshot, changes

SHOWN_NODES = 24
STYLES = {
    "APPROVED": "green",
    "REJECTED": "red",
    "EQUIVOCATED": "red",
    "UNDECIDED": "yellow",
    "UNAVAILABLE": "yellow",
    "CANARY": "cyan",
}


class View:
    """An `Audience`: a live table on a terminal, otherwise one line for each change. Use as a context manager.

    With `to_stderr` everything goes there, and stdout stays free for one JSON document.
    """

    def __init__(self, *, to_stderr: bool) -> None:
        stream = sys.stderr if to_stderr else sys.stdout
        self._live_wanted = stream.isatty() and not to_stderr
        self._console = Console(file=stream, soft_wrap=True, highlight=False)
        self._live: Live | None = None
        self._began = time.monotonic()
        self._last: Snapshot | None = None

    def __enter__(self) -> View:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Leave the live view; what it last showed stays."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def note(self, text: str) -> None:
        """One line, with the seconds since the start."""
        self._console.print(f"{time.monotonic() - self._began:6.1f} s  {escape(text)}")
        self._console.file.flush()

    def show(self, net: RunningNet, snapshot: Snapshot) -> None:
        """The testnet now."""
        names = {node.identity.key: node.name for node in net.nodes}
        if self._live_wanted:
            if self._live is None:
                self._live = Live(console=self._console, auto_refresh=False, transient=True)
                self._live.start()
            self._live.update(live_table(net, snapshot), refresh=True)
        for line in changes(self._last, snapshot, names, koii):
            if not self._live_wanted:
                self.note(line)
        self._last = snapshot


def live_table(net: RunningNet, snapshot: Snapshot) -> RenderableType:
    """Rounds above, nodes below."""
    assert net.terms is not None, "the testnet was started"
    clock = net.terms.clock
    rows = [_round_row(seen, net.topology.nodes) for seen in snapshot.rounds.values()]
    until = clock.starting_slot - snapshot.slot
    when = (
        f"the first round starts in {until} slots" if until > 0 else f"period {clock.period(snapshot.slot)}"
    )
    vault = "" if snapshot.vault is None else f"   vault {koii(snapshot.vault)}"
    head = Text(f"slot {snapshot.slot}   {when}{vault}", style="bold")
    rounds = table(
        ("round", "phase", "submitted", "voted", "disputes", "outcomes", "commitment", "list", "settled"),
        rows,
    )
    troubles = [Text(f"K2: {net.topology.k2}; {net.k2_play}")] if net.topology.k2.any else []
    if net.topology.network.any:
        troubles.append(Text(f"network: {net.topology.network}; {net.network_play}"))
    return Group(head, *troubles, Text(), rounds, Text(), _nodes(net, snapshot))


def _round_row(seen: RoundSnapshot, nodes: int) -> tuple[object, ...]:
    counts = [
        f"{list(seen.outcomes.values()).count(name)} {name.lower()}"
        for name in sorted(set(seen.outcomes.values()))
    ]
    against = f", {seen.list_disagree} not" if seen.list_disagree else ""
    listed = f"{seen.list_root[:12]} ({seen.list_agree} agree{against})" if seen.list_root else "-"
    return (
        seen.number,
        seen.phase,
        f"{len(seen.submitted)}/{seen.roster or nodes}",
        f"{len(seen.voted)}/{seen.roster or nodes}",
        disputes(seen) or "-",
        ", ".join(counts) or "-",
        (seen.commitment or "-")[:12],
        listed,
        "yes" if seen.settled else "-",
    )


def disputes(seen: RoundSnapshot) -> str:
    """What is disputed in a round: accusations, full votes, challenges, convictions, attempts; empty if nothing."""
    parts = []
    if seen.accused:
        parts.append(f"{len(seen.accused)} accused")
    if seen.full_votes:
        parts.append(f"{len(seen.full_votes)} voted in full")
    if seen.challenges:
        parts.append(f"{seen.challenges} challenged")
    if seen.convicted:
        parts.append(f"{len(seen.convicted)} convicted")
    if seen.attempt or seen.rejected:
        parts.append(f"attempt {seen.attempt}{' rejected' if seen.rejected else ''}")
    return ", ".join(parts)


def _nodes(net: RunningNet, snapshot: Snapshot) -> RenderableType:
    rows = []
    for node in net.nodes[:SHOWN_NODES]:
        key = node.identity.key
        marks = [
            seen.outcomes.get(key) or ("submitted" if key in seen.submitted else "-")
            for seen in snapshot.rounds.values()
        ]
        rows.append(
            (
                node.name,
                node.identity.role if node.running else "ended",
                koii(snapshot.stakes.get(key, 0)),
                koii(snapshot.paid.get(key, 0)),
                "  ".join(mark.lower() for mark in marks),
            )
        )
    more = len(net.nodes) - SHOWN_NODES
    shown = table(("node", "behaviour", "stake", "rewards", "rounds"), rows)
    return Group(shown, Text(f"and {more} more")) if more > 0 else shown


# --- the end


def outcome_tables(outcome: Outcome, seconds: float | None = None) -> RenderableType:
    """Nodes, transactions, and whether it is all true."""
    parts: list[RenderableType] = [
        Text(),
        _outcome_nodes(outcome),
        Text(),
        _outcome_transactions(outcome),
        Text(),
    ]
    if outcome.remarks:
        parts += [*(Text(remark) for remark in outcome.remarks), Text()]
    parts += [Text(f"wrong: {finding}", style="red") for finding in outcome.report.findings]
    parts += [Text(f"not as expected: {failure}", style="yellow") for failure in outcome.failures]
    parts += [Text(f"as expected: {one.name}: {one.found}") for one in outcome.expected if one.ok]
    rounds, verified = len(outcome.report.rounds) - outcome.first, outcome.report.verified
    took = "" if seconds is None else f"; {seconds:.0f} s"
    parts.append(Text(f"rounds settled: {outcome.settled} of {rounds}{took}"))
    if outcome.report.unrecomputed and not outcome.report.findings:
        parts.append(_not_recomputed(outcome.report.unrecomputed))
    else:
        parts.append(
            Text(f"verified: {'yes' if verified else 'no'}", style="bold green" if verified else "bold red")
        )
    return Group(*parts)


def _not_recomputed(rounds: Mapping[int, str]) -> Text:
    """Neither yes nor no: what the check could not do, and what would let it."""
    numbers = ", ".join(str(number) for number in rounds)
    text = f"verified: all but the lists of rounds {numbers}, which were not recomputed: {next(iter(rounds.values()))}"
    return Text(f"{text}. Name the task's code with --code.", style="bold yellow")


def _outcome_nodes(outcome: Outcome) -> RenderableType:
    rounds = [
        f"round {checked.number}" + (" (start)" if checked.number < outcome.first else "")
        for checked in outcome.report.rounds
    ]
    columns = ("node", "behaviour", "submitted", "audited", *rounds, "reward", "slash", "stake now")
    made = table(columns, ())
    for row in outcome.nodes:
        verdicts = [_verdict(row, place) for place in range(len(rounds))]
        made.add_row(
            row.node.name,
            row.node.role,
            "-" if row.node.witness else f"{row.submitted}/{row.in_roster}",
            f"{row.audited}/{row.audits_due}",
            *verdicts,
            koii(row.paid),
            koii(row.taken),
            koii(row.stake),
        )
    return made


def _verdict(row: NodeOutcome, place: int) -> Text:
    verdict = row.verdicts[place]
    return Text("-") if verdict is None else Text(verdict.lower(), style=STYLES.get(verdict, ""))


def _outcome_transactions(outcome: Outcome) -> RenderableType:
    """One line for each anchor; the settlements of a round together."""
    rows: list[tuple[object, ...]] = []
    for checked in outcome.report.rounds:
        lines = [line for line in outcome.transactions if line.round == checked.number]
        rows += [_line(line) for line in lines if line.what != "settle"]
        settles = [line for line in lines if line.what == "settle"]
        if settles:
            fee = sum(line.fee or 0 for line in settles)
            slots = f"{settles[0].slot}-{settles[-1].slot}"
            text = "see --output json" if len(settles) > 1 else settles[0].signature
            by = ", ".join(sorted({line.by for line in settles}))
            rows.append(
                (
                    checked.number,
                    f"settle x{len(settles)}",
                    text,
                    slots,
                    koii(fee),
                    by if len(by) < 40 else "their nodes",
                )
            )
        if checked.refused:
            rows.append((checked.number, f"refused x{checked.refused}", "", "", "", ""))
    return table(("round", "transaction", "signature", "slot", "fee", "by"), rows)


def _line(line: TransactionLine) -> tuple[object, ...]:
    fee = "-" if line.fee is None else koii(line.fee)
    what = f"{line.what} (attempt {line.attempt})" if line.attempt else line.what
    return line.round, what, line.signature, line.slot, fee, line.by
