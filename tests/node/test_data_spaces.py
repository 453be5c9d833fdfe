"""Evidence of rounds as blobs, and submissions that name data, over real data rooms."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from koii_p2p.data.putting import PutSettings
from koii_p2p.node import data_spaces
from koii_p2p.node.data_spaces import DATA_PREFIX, TaskData, TaskSpace, data_of_submission
from koii_p2p.node.peer_standing import PeerStandings
from koii_p2p.records.cid import CidError, cid_of, cid_of_digest, cid_to_text
from koii_p2p.records.schema import Verdict
from koii_p2p.storage.faults import StorageError
from tests.data.rooms import TASK, blob, chunks, data_net, read
from tests.network.nets import net
from tests.node.peers import PLAYED, engine_with
from tests.rounds.net import TERMS

pytestmark = pytest.mark.timeout(120)


async def valid() -> tuple[Verdict, str]:
    return Verdict.VALID, ""


async def test_the_evidence_of_a_round_is_found_by_what_is_on_chain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data_spaces, "_TURN_SECONDS", 2.0)
    commitment, bundle = blob(900, 1), blob(300_000, 2)
    async with data_net(tmp_path, 9) as net:
        async with trio.open_nursery() as nursery:
            for node in net.nodes:
                nursery.start_soon(TaskData(TASK, node.data, 10).keep_evidence, [commitment, None, bundle])
        assert sum(node.count("blobs put") for node in net.nodes) == 2, "each is put once, though nine would"
        on_chain = cid_of(commitment)[4:]
        stranger = await net.add(member=False)
        await net.connect()
        assert await read(stranger, cid_of_digest(on_chain)) == commitment
        assert await read(stranger, cid_of(bundle)) == bundle


async def test_a_submission_is_unavailable_when_its_data_is(tmp_path: Path) -> None:
    async with data_net(tmp_path, 9) as net:
        result = await net.nodes[0].data.put(TASK, chunks(blob(100_000)), PutSettings())
        name = f"{DATA_PREFIX}{cid_to_text(result.reference.manifest)} made with care"
        task = TaskData(TASK, net.nodes[3].data, 10)
        assert await task.audited(name, valid) == (Verdict.VALID, "")
        assert await task.audited("no data", valid) == (Verdict.VALID, "")
        assert await task.audited(b"bytes", valid) == (Verdict.VALID, "")
        unknown = await task.audited(DATA_PREFIX + cid_to_text(cid_of(b"other")), valid)
        assert unknown[0] is Verdict.UNAVAILABLE
        assert "none of them has it" in unknown[1]
        assert (await task.audited(DATA_PREFIX + "nonsense", valid))[0] is Verdict.UNAVAILABLE
        for node in net.nodes:
            stored = node.store.blob(result.reference.manifest)
            if node is not net.nodes[3] and stored is not None:
                node.store.drop_shards(stored.cid, list(stored.held))
        verdict, why = await task.audited(name, valid)
        assert verdict is Verdict.UNAVAILABLE
        assert "4 are needed" in why


async def test_a_disk_that_fails_is_no_end_of_rounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with data_net(tmp_path, 1) as net:
        node = net.nodes[0]
        result = await node.data.put(TASK, chunks(blob(5000)))
        node.data.room._manifests.clear()

        def fails(cid: bytes) -> bytes:
            raise StorageError("The data cannot be read.", "The disk failed.", "Replace it.")

        monkeypatch.setattr(node.store, "manifest", fails)
        monkeypatch.setattr(node.store, "shard", lambda cid, place: fails(cid))
        named = DATA_PREFIX + cid_to_text(result.reference.manifest)
        verdict, why = await TaskData(TASK, node.data, 10).audited(named, valid)
        assert (verdict, "The disk failed." in why) == (Verdict.UNAVAILABLE, True)
        place = next(iter(node.store.blobs()[0].held))
        monkeypatch.undo()
        found = await node.data.find(result.reference.manifest)
        monkeypatch.setattr(node.store, "shard", lambda cid, place: fails(cid))
        assert await node.data.room.shard(found.cid, place, found.manifest) is None
        assert node.count("shards not read from disk") == 1


def test_what_names_data() -> None:
    cid = cid_of(b"x")
    assert data_of_submission(f"{DATA_PREFIX}{cid_to_text(cid)}") == cid
    assert data_of_submission("koii-data") is None
    with pytest.raises(CidError):
        data_of_submission(DATA_PREFIX)


def test_a_task_as_the_room_sees_it() -> None:
    engine = engine_with(())
    space = TaskSpace(TERMS.task, engine).space()
    assert space.members() == frozenset(PLAYED.roster.keys)
    assert space.round() == TERMS.clock.period(engine.slot)
    assert len(space.seed()) == 32


async def test_what_data_says_of_a_peer_is_added_to_what_its_tasks_say() -> None:
    told: dict[bytes, float] = {}
    async with net() as running:
        node = await running.add(1)
        node.network.set_application_score = told.__setitem__  # type: ignore[method-assign]
        engine = engine_with(())
        standings = PeerStandings(lambda: {"task": engine}, node.network)
        standings.refresh()
        staker = PLAYED.roster.keys[1]
        before = told[staker]
        assert before > 0
        standings.note(staker, -20.0)
        assert told[staker] == -20.0, "the worst counts"
        standings.refresh()
        assert told[staker] == -20.0
        standings.note(staker, 0.0)
        assert told[staker] == before
