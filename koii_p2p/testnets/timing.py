"""How long the rounds of a testnet are: chosen from the number of nodes, so that a small machine keeps up."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from koii_p2p.rounds.clock import RoundClock
from koii_p2p.testnets.k2_troubles import check_windows
from koii_p2p.testnets.network_troubles import check_network_windows
from koii_p2p.testnets.topology import Topology

BASE_SECONDS: Final = 12.0
SECONDS_PER_NODE: Final = 0.6
"""Of a round: every node verifies every record, on the same cores, so its CPU time grows with the nodes."""
WINDOW_SHARE: Final = 0.375
"""Of a round, for submissions and for audits each; the rest is the delay, to reconcile and commit."""
LEAD_SECONDS: Final = 3.0
RUNNING_CORES: Final = 0.04
"""What a node takes of a core that runs and waits while others start: measured with slots of 100 ms."""
FEWEST_SLOTS: Final = 40
"""Below this, the engine's own pauses (10 slots between two tries) no longer fit into a window."""
STAGE_SECONDS: Final = 1.4
STAGE_SLOTS: Final = 4
"""A sixth of an audit with sealed ballots lasts at least so long: the time for all reveals, and for owning up.

Within it every node has to see the slot, sign, and hand its record to the others, or its vote is lost: on 2 busy
cores that took up to a second. Whoever signed in time is heard even if the record comes later (by reconciliation, and
judged by its own slot), so that it is the signing that must fit. Four slots, because a node that is scheduled late may
miss one or two altogether.
"""


NODES_PER_CORE: Final = 8
"""So many nodes keep up with slots of 100 ms on one core. Of 20 nodes on two busy ones a ballot was late; with slots
twice as long none was, nor of 50 with slots four times as long (docs/gossip.md, "What a round costs")."""


@dataclass(frozen=True, slots=True)
class RoundLengths:
    """Slots of a round and its windows, and milliseconds of a slot."""

    slot_ms: int
    round_time: int
    submission_window: int
    audit_window: int

    @property
    def delay(self) -> int:
        """Slots between audit and the next period."""
        return self.round_time - self.submission_window - self.audit_window

    def seconds(self, slots: int) -> float:
        """How long so many slots take."""
        return slots * self.slot_ms / 1000

    def slots_until_settled(self, rounds: int) -> int:
        """Slots from the starting slot until the last of so many rounds is settled (PROTOCOL 4)."""
        return (rounds + 1) * self.round_time + self.submission_window + self.audit_window

    def __str__(self) -> str:
        seconds = self.seconds(self.round_time)
        return (
            f"slots of {self.slot_ms} ms; a round takes {self.round_time} slots ({seconds:.0f} s): "
            f"{self.submission_window} to submit, {self.audit_window} to audit, {self.delay} to reconcile and commit"
        )


def round_lengths(topology: Topology) -> RoundLengths:
    """The lengths a topology names, or else those that follow from its number of nodes.

    A round takes 12 s, and 0.6 s more for each node, whatever the slot time: what fills a round is the nodes'
    CPU time on the cores they share. Submissions and audits get 37.5 % each, and the delay gets the rest. Five
    nodes make 15 s, fifteen 21 s: measured on 2 cores with other work running, a submission needs less than a
    third of its window, and so does an audit.

    With sealed ballots the audit is longer where its sixths would be shorter than a stage needs: see
    `STAGE_SECONDS`. What open ballots do in two stages (votes, full audit: two thirds and a third) then takes four
    (seals a third, owning up a sixth, reveals a sixth, full audit a third; `rounds.clock`).

    Raises `ConfigurationError` if what K2 or the network is to do wrong leaves no time in these windows.
    """
    lengths = _lengths(topology)
    check_windows(topology.k2, lengths.submission_window, lengths.audit_window, lengths.delay)
    stage = min(lengths.submission_window, lengths.audit_window // 3)
    check_network_windows(topology.network, lengths.slot_ms, lengths.delay, stage)
    return lengths


def _lengths(topology: Topology) -> RoundLengths:
    if topology.round_time and topology.submission_window and topology.audit_window:
        return RoundLengths(
            topology.slot_ms, topology.round_time, topology.submission_window, topology.audit_window
        )
    seconds = BASE_SECONDS + SECONDS_PER_NODE * topology.nodes
    round_time = max(FEWEST_SLOTS, round(seconds * 1000 / topology.slot_ms))
    window = audit = int(round_time * WINDOW_SHARE)
    if topology.audit.sealed:
        stage = max(STAGE_SLOTS, -(-round(STAGE_SECONDS * 1000) // topology.slot_ms))
        audit = max(window, 6 * stage)
    return RoundLengths(topology.slot_ms, round_time - window + audit, window, audit)


def stretch_for(nodes: int, cores: int) -> int:
    """How many times as long slots should be as usual for so many nodes to keep up on so many cores."""
    return max(1, -(-nodes // (NODES_PER_CORE * max(1, cores))))


def stretched(topology: Topology, stretch: int) -> Topology:
    """The same testnet with slots, and so rounds and windows, `stretch` times as long: as many slots as before."""
    lengths = round_lengths(topology)
    return replace(
        topology,
        slot_ms=stretch * lengths.slot_ms,
        round_time=lengths.round_time,
        submission_window=lengths.submission_window,
        audit_window=lengths.audit_window,
    )


def lead_slots(topology: Topology, node_start_seconds: float, cores: int) -> int:
    """Slots between creating the task and its starting slot, in which stakes land and nodes start.

    `node_start_seconds` is what loading a node's code took on this machine just now, so that a busy or slow one
    gets more time, and so does a K2 that lags: nodes are started when it tells of the task. A node that is later still
    has the whole first period before the first submissions open.
    """
    # While the nodes start one after the other, half of them run on average, and take their part of the cores.
    free = max(cores / 4, cores - RUNNING_CORES * topology.nodes / 2)
    starting = node_start_seconds * topology.nodes / free
    return round((LEAD_SECONDS + starting) * 1000 / topology.slot_ms) + topology.k2.faults.lag


def first_counted_round(clock: RoundClock, slot: int) -> int:
    """The first round whose whole submission window every node sees, if all were ready at `slot`.

    Rounds before it began while nodes were still starting: they are checked, but nothing is expected of them.
    """
    return max(0, clock.period(slot + clock.round_time // 10))
