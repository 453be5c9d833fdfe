from __future__ import annotations

import trio
from trio.testing import MockClock

from koii_p2p.errors import ChainError
from koii_p2p.node.slots import HOLDOVER_SECONDS, SlotClock


class FakeK2:
    """A chain of 100 ms slots that can stand still, jump or be away."""

    def __init__(self) -> None:
        self.offset = 1000
        self.away = False
        self.stopped_at: int | None = None

    async def slot(self) -> int:
        if self.away:
            raise ChainError("K2 cannot be reached.", "It is away.", "Wait.")
        if self.stopped_at is not None:
            return self.stopped_at
        return self.offset + int(trio.current_time() / 0.1)


async def test_estimate_follows_k2_between_polls(autojump_clock: MockClock) -> None:
    chain = FakeK2()
    clock = SlotClock(chain.slot)
    async with trio.open_nursery() as nursery:
        await nursery.start(clock.run)
        worst = 0
        for _ in range(300):
            await trio.sleep(0.037)
            worst = max(worst, abs(clock.now() - await chain.slot()))
        assert worst <= 2
        assert abs(clock.slot_seconds - 0.1) < 0.01
        assert clock.trusted
        nursery.cancel_scope.cancel()


async def test_estimate_never_goes_back_and_says_when_it_ran_ahead(autojump_clock: MockClock) -> None:
    chain = FakeK2()
    clock = SlotClock(chain.slot)
    async with trio.open_nursery() as nursery:
        await nursery.start(clock.run)
        chain.stopped_at = await chain.slot()
        seen = []
        for _ in range(100):
            await trio.sleep(0.1)
            seen.append(clock.now())
        assert seen == sorted(seen)
        chain.stopped_at -= 100
        await trio.sleep(2)
        assert not clock.trusted
        assert clock.statistics().disagreements > 0
        nursery.cancel_scope.cancel()


async def test_silence_of_k2_ends_trust_and_its_return_restores_it(autojump_clock: MockClock) -> None:
    chain = FakeK2()
    clock = SlotClock(chain.slot)
    async with trio.open_nursery() as nursery:
        await nursery.start(clock.run)
        chain.away = True
        await trio.sleep(HOLDOVER_SECONDS + 2)
        assert not clock.trusted
        assert clock.statistics().failed_polls > 0
        chain.away = False
        await trio.sleep(2)
        assert clock.trusted
        nursery.cancel_scope.cancel()


async def test_each_slot_yields_every_advance_once(autojump_clock: MockClock) -> None:
    chain = FakeK2()
    clock = SlotClock(chain.slot)
    async with trio.open_nursery() as nursery:
        await nursery.start(clock.run)
        seen = []
        async for slot in clock.each_slot():
            seen.append(slot)
            if len(seen) == 50:
                break
        assert seen == sorted(set(seen))
        assert seen[-1] - seen[0] <= 55
        nursery.cancel_scope.cancel()
