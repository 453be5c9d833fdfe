"""A node that starts learns its own words from peers before it speaks of rounds that were there before it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trio

from koii_p2p.errors import CheckFailed
from koii_p2p.limits import Limits
from koii_p2p.node import recalling
from koii_p2p.node.own_words import OwnWords
from koii_p2p.node.recalling import Recall
from koii_p2p.records.schema import Statement, Submission
from koii_p2p.rounds import events
from koii_p2p.rounds.engine import RoundEngine
from koii_p2p.storage import Database, SigningJournal
from koii_p2p.storage.journal import BelowFloor
from tests.network.nets import net, until
from tests.node.peers import NOW, ROUND, SUBMISSIONS, Asker, Server, asking, connected, engine_with
from tests.rounds.net import GENESIS, TASK, TERMS, key, secret

PERIOD = TERMS.clock.period(NOW)
OWN = next(record for record in SUBMISSIONS if record.author == key(0))
ANOTHER = Statement(TASK, ROUND, NOW, 0, Submission("something else"))


@dataclass
class Start:
    """The start of a node with key 0, from a home that knows of nothing it has said; `said`: rounds caught up on."""

    recall: Recall
    words: OwnWords
    said: list[int] = field(default_factory=list)


@pytest.fixture
def journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SigningJournal]:
    """An empty journal. Nobody here has to be waited for as long as on a real network."""
    monkeypatch.setattr(recalling, "PATIENCE_SECONDS", 0.1)
    monkeypatch.setattr(recalling, "RECALL_SECONDS", 0.3)
    with Database.open(tmp_path / "db") as database:
        yield SigningJournal(database)


def start(asker: Asker, journal: SigningJournal) -> Start:
    words = OwnWords(GENESIS, secret(0), journal)
    words.begin(asker.engine.slot, TERMS.clock.period(asker.engine.slot), 0)

    def catch_up(numbers: Iterable[int]) -> None:
        started.said += numbers
        words.catch_up(asker.engine, started.said)

    started = Start(Recall(asker.engine, asker.network, asker.puller, catch_up), words)
    started.recall.begin()
    return started


async def is_known(recall: Recall, number: int) -> bool:
    try:
        await recall.known(number)
    except CheckFailed:
        return False
    return True


async def test_what_peers_tell_is_in_the_journal_before_anything_is_signed(journal: SigningJournal) -> None:
    async with asking(2) as (asker, peers):
        for peer in peers:
            Server(peer, engine_with(SUBMISSIONS))
        started = start(asker, journal)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(started.recall.run)
            await started.recall.known(ROUND)
            assert started.words.sign(ANOTHER) == OWN
        assert started.said == [PERIOD - 2, PERIOD - 1]
        with pytest.raises(BelowFloor):
            started.words.sign(Statement(TASK, PERIOD - 2, NOW, 0, Submission("anything")))


async def test_without_peers_only_later_rounds_are_spoken_of(journal: SigningJournal) -> None:
    async with asking(0) as (asker, _), trio.open_nursery() as nursery:
        started = start(asker, journal)
        nursery.start_soon(started.recall.run)
        assert [await is_known(started.recall, number) for number in range(PERIOD - 3, PERIOD + 2)] == [
            *[False] * 3,
            *[True] * 2,
        ]
        with pytest.raises(CheckFailed, match=f"Nothing is signed yet for round {ROUND}") as caught:
            await started.recall.known(ROUND)
        assert f"from round {PERIOD} on" in caught.value.remedy
        assert (started.said, asker.failed) == ([], [])
        nursery.cancel_scope.cancel()


async def test_a_peer_that_comes_late_is_asked_all_the_same(journal: SigningJournal) -> None:
    async with net() as running, trio.open_nursery() as nursery:
        node, _ = await connected(running, 0)
        asker = Asker(node, engine_with(()), Limits())
        started = start(asker, journal)
        nursery.start_soon(started.recall.run)
        assert not await is_known(started.recall, ROUND)
        late = await running.add(9, bootstrap=(node.address,))
        Server(late, engine_with(SUBMISSIONS))
        await until(lambda: started.said != [])
        assert await is_known(started.recall, ROUND)
        assert started.words.sign(ANOTHER) == OWN


async def test_a_peer_that_fails_tells_nothing(journal: SigningJournal) -> None:
    async with asking(1) as (asker, [peer]), trio.open_nursery() as nursery:
        started = start(asker, journal)
        nursery.start_soon(started.recall.run)
        await until(lambda: asker.failed != [])
        assert not await is_known(started.recall, ROUND)
        Server(peer, engine_with(()))  # it works on the task from now on, and has nothing
        await until(lambda: started.said != [])
        assert await is_known(started.recall, ROUND)
        assert started.words.sign(ANOTHER).statement == ANOTHER
        assert journal.floors() == {}


async def test_before_the_first_round_there_is_nothing_to_recall(journal: SigningJournal) -> None:
    async with asking(0) as (asker, _):
        asker.engine = RoundEngine(TERMS, GENESIS, key(0))
        asker.engine.handle(events.SlotAdvanced(TERMS.starting_slot - 1))
        started = start(asker, journal)
        await started.recall.run()
        await started.recall.known(0)
        assert started.said == []


async def test_rounds_that_are_no_longer_kept_are_not_asked_about(journal: SigningJournal) -> None:
    async with asking(0) as (asker, _), trio.open_nursery() as nursery:
        started = start(asker, journal)
        nursery.start_soon(started.recall.run)
        assert not await is_known(started.recall, ROUND)
        asker.engine.handle(events.SlotAdvanced(NOW + 20 * TERMS.round_time))
        await until(lambda: started.said != [])
