from __future__ import annotations

import trio
import trio.testing

from koii_p2p.network.peer_queue import PeerQueue


async def test_order_batches_and_urgency() -> None:
    queue = PeerQueue(frames=10, size=1000)
    assert queue.push(b"a")
    assert queue.push(b"b")
    assert queue.push(b"!", urgent=True)
    assert len(queue) == 3
    assert await queue.take() == b"!ab"
    assert len(queue) == 0


async def test_a_full_queue_refuses_forwards_but_never_own_messages() -> None:
    queue = PeerQueue(frames=2, size=1000)
    assert queue.push(b"a")
    assert queue.push(b"b")
    assert not queue.push(b"c")
    assert not queue.push(b"c", urgent=True)
    assert queue.push(b"own", own=True)
    small = PeerQueue(frames=10, size=4)
    assert small.push(b"abc")
    assert not small.push(b"de")
    assert small.push(b"d")


async def test_a_batch_is_bounded_but_takes_at_least_one_frame() -> None:
    queue = PeerQueue(frames=10, size=10_000_000)
    for _ in range(3):
        queue.push(bytes(200_000))
    assert await queue.take() == bytes(200_000)
    assert len(queue) == 2


async def test_waiting_for_room_and_for_frames(autojump_clock: trio.testing.MockClock) -> None:
    queue = PeerQueue(frames=10, size=1000)
    done: list[str] = []

    async def writer() -> None:
        assert await queue.take() == b"x"
        done.append("taken")

    async def publisher() -> None:
        await queue.wait_for_room(1)
        done.append("room")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(writer)
        await trio.testing.wait_all_tasks_blocked()
        queue.push(b"x")
        assert queue.idle
        queue.wake()
        nursery.start_soon(publisher)
    assert done == ["taken", "room"]


async def test_closing_wakes_everybody() -> None:
    queue = PeerQueue(frames=10, size=1000)
    queue.push(b"x")
    queue.push(b"y")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(queue.wait_for_room, 1)
        await trio.testing.wait_all_tasks_blocked()
        assert queue.close() == [b"x", b"y"]
    assert await queue.take() is None
    assert not queue.push(b"z", own=True)


async def test_a_queue_that_does_not_move_is_stalled(autojump_clock: trio.testing.MockClock) -> None:
    queue = PeerQueue(frames=10, size=1000)
    await trio.sleep(100)
    assert queue.stalled_for(trio.current_time()) == 0.0  # nothing to take is no fault
    queue.push(b"x")
    await trio.sleep(3)
    assert queue.stalled_for(trio.current_time()) == 3.0
    await queue.take()
    await trio.sleep(5)
    assert queue.stalled_for(trio.current_time()) == 5.0  # being written
    with trio.move_on_after(0.1):
        await queue.take()
    assert queue.stalled_for(trio.current_time()) == 0.0


async def test_what_was_not_sent_for_certain_is_returned() -> None:
    queue = PeerQueue(frames=10, size=1000)
    for frame in (b"a", b"b"):
        queue.push(frame)
    assert await queue.take() == b"ab"
    queue.push(b"c")
    queue.push(b"!", urgent=True)
    assert queue.close() == [b"ab", b"!", b"c"]
    assert queue.close() == []
