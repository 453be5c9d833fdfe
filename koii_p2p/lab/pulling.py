"""What simulated nodes ask their peers for: records they lack, artifacts of anchored rounds. As `node.pulling` does it.

Questions and answers are those of `node.exchange`, with their sizes.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Final

from koii_p2p.lab.clockwork import SECOND
from koii_p2p.limits import Limits
from koii_p2p.records import cbor
from koii_p2p.rounds.admission import Source
from koii_p2p.rounds.events import ArtifactsRead, KeepArtifacts
from koii_p2p.rounds.range_messages import ReconcileError
from koii_p2p.rounds.reconcile import Reconciler

if TYPE_CHECKING:
    from koii_p2p.lab.simulated_node import SimulatedNode

LIMITS: Final = Limits()
DEADLINE: Final = int(LIMITS.request_deadline * SECOND)

Done = Callable[[], None]


class Puller:
    """Asks a few linked peers, chosen at random, on behalf of one run of a node."""

    def __init__(self, node: SimulatedNode) -> None:
        self._node = node
        self._task = node.terms.task
        self._doing: dict[tuple[str, int], int] = {}
        """What is being asked for, of which round -> how many of those asked have not answered."""
        self._begun = 0

    def records(self, number: int, most: int) -> None:
        """Find out what of a round some peers have and the node lacks, and get it."""
        self._ask_peers("records", number, most, self._reconcile)

    def artifacts(self, number: int, most: int) -> None:
        """Get commitment, bundle and list of an anchored round from some peers."""
        self._ask_peers("artifacts", number, most, self._fetch_artifacts)

    def _ask_peers(self, what: str, number: int, most: int, ask: Callable[[int, int, Done], None]) -> None:
        """Ask, unless that is being done already; who does not answer is awaited until the deadline."""
        node, doing = self._node, (what, number)
        peers = sorted(node.links)
        if doing in self._doing or not peers or not most:
            return
        chosen = node.random.sample(peers, min(most, len(peers)))
        self._begun += 1
        begun = self._begun
        self._doing[doing] = begun
        answered = 0

        def end() -> None:
            if self._doing.get(doing) == begun:
                del self._doing[doing]

        def done() -> None:
            nonlocal answered
            answered += 1
            if answered == len(chosen):
                end()

        node.simulation.clock.after(DEADLINE, end)
        for peer in chosen:
            ask(peer, number, done)

    def _reconcile(self, peer: int, number: int, done: Done) -> None:
        reconciler = Reconciler(self._node.engine.item_set(number), LIMITS)
        self._ask_difference(peer, number, reconciler, reconciler.initiate(), done)

    def _ask_difference(
        self, peer: int, number: int, reconciler: Reconciler, question: bytes | None, done: Done
    ) -> None:
        if question is None:
            done()
            return
        asked = question
        size = len(cbor.encode({0: self._task, 1: number, 2: asked}))

        def answer(other: SimulatedNode) -> bytes:
            return Reconciler(other.engine.item_set(number), LIMITS).respond(asked)

        def take(reply: bytes) -> None:
            try:
                step = reconciler.receive(reply)
            except ReconcileError:
                done()
                return
            then = partial(self._ask_difference, peer, number, reconciler, step.message, done)
            self._fetch_records(peer, number, list(step.have), then)

        self._node.simulation.request(self._node, peer, size, answer, len, take)

    def _fetch_records(self, peer: int, number: int, ids: list[bytes], then: Done) -> None:
        """Get these records from a peer, as far as nobody else has sent them meanwhile, a request at a time."""
        node = self._node
        lacking = [record_id for record_id in ids if node.engine.lacks(number, record_id)]
        if not lacking:
            then()
            return
        asked, rest = lacking[: LIMITS.records_per_request], lacking[LIMITS.records_per_request :]
        size = len(cbor.encode({0: self._task, 1: number, 2: asked}))

        def answer(other: SimulatedNode) -> tuple[bytes, ...]:
            return tuple(other.engine.records_of(number, asked))

        def take(records: tuple[bytes, ...]) -> None:
            for raw in records:
                node.hear(raw, Source.SYNC)
            self._fetch_records(peer, number, rest, then)

        node.simulation.request(node, peer, size, answer, _records_size, take)

    def _fetch_artifacts(self, peer: int, number: int, done: Done) -> None:
        node = self._node
        size = len(cbor.encode({0: self._task, 1: number}))

        def answer(other: SimulatedNode) -> KeepArtifacts:
            return other.serve(number) or KeepArtifacts(number)

        def take(found: KeepArtifacts) -> None:
            node.feed(ArtifactsRead(number, found.commitment, found.bundle, found.list))
            done()

        node.simulation.request(node, peer, size, answer, _artifacts_size, take)


def _records_size(records: tuple[bytes, ...]) -> int:
    return len(cbor.encode({0: list(records)}))


def _artifacts_size(found: KeepArtifacts) -> int:
    parts = (found.commitment, found.bundle, found.list)
    return 1 + sum(1 + len(cbor.encode(part)) for part in parts if part is not None)
