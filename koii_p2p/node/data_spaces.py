"""What the data room is told of a node's tasks, and what rounds have of it: evidence kept, submitted data audited."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from hashlib import sha256
from typing import Final

import structlog
import trio

from koii_p2p.data.putting import PutSettings
from koii_p2p.data.reasons import DataError
from koii_p2p.data.service import DataRoom
from koii_p2p.data.space import Space
from koii_p2p.errors import OperatorError
from koii_p2p.records.cid import CidError, cid_from_text, cid_of
from koii_p2p.records.schema import Verdict
from koii_p2p.rounds.engine import RoundEngine
from koii_p2p.rounds.roster import Roster

log = structlog.get_logger(__name__)

DATA_PREFIX: Final = "koii-data:"
"""A submission that begins with it names a blob by its CID, up to the first space; the audit asks for its leaves."""

_TURN_SECONDS: Final = 5.0
_KEEPERS: Final = 4
_SEED: Final = b"koii-p2p/1 data evidence"


class TaskSpace:
    """A task as the data room sees it: the newest roster, the round, the newest beacon."""

    def __init__(self, task: bytes, engine: RoundEngine) -> None:
        self._task = task
        self._engine = engine
        self._roster: Roster | None = None
        self._members: frozenset[bytes] = frozenset()

    def space(self) -> Space:
        """What the room is given."""
        return Space(self._task, self._keys, self._round, self._beacon)

    def _round(self) -> int:
        return self._engine.clock.period(self._engine.slot)

    def _keys(self) -> frozenset[bytes]:
        for number in reversed(self._engine.rounds()):
            state = self._engine.round(number)
            if state is not None and state.roster is not None:
                if state.roster is not self._roster:
                    self._roster, self._members = state.roster, frozenset(state.roster.keys)
                break
        return self._members

    def _beacon(self) -> bytes:
        for number in reversed(self._engine.rounds()):
            state = self._engine.round(number)
            if state is not None and state.beacon is not None:
                return state.beacon
        return sha256(_SEED + self._task).digest()  # before the first beacon there is nothing better


class TaskData:
    """What the rounds of one task have of the data room.

    Commitments and bundles are kept as blobs, for whoever has the commitment on chain: a commitment is found by the
    digest that K2 has, as the CID of these bytes, and its bundle by the CID in it. They are kept for `rounds` rounds.
    """

    def __init__(self, task: bytes, data: DataRoom, rounds: int) -> None:
        self._task = task
        self._data = data
        self._settings = PutSettings(rounds=rounds)

    async def keep_evidence(self, parts: Sequence[bytes | None]) -> None:
        """See to it that these can be had: put them unless somebody did, the first keepers first."""
        for part in parts:
            if part is None:
                continue
            cid = cid_of(part)
            order = self._data.room.keepers(cid, self._data.room.members(self._task))[:_KEEPERS]
            own = self._data.room.own
            if own not in order:
                continue
            await trio.sleep(order.index(own) * _TURN_SECONDS)
            try:
                with suppress(DataError):
                    await self._data.find(cid)
                    continue
                await self._data.put(self._task, _one(part), self._settings)
            except (DataError, OperatorError) as error:
                log.warning("evidence of a round was not stored", error=str(error))

    async def audited(
        self, value: str | bytes, audit: Callable[[], Awaitable[tuple[Verdict, str]]]
    ) -> tuple[Verdict, str]:
        """The task's verdict on a submission; UNAVAILABLE, and why, if it names data that cannot be had."""
        why = await self._missing(value)
        return (Verdict.UNAVAILABLE, why) if why else await audit()

    async def _missing(self, value: str | bytes) -> str:
        try:
            cid = data_of_submission(value)
            found = None if cid is None else await self._data.availability(self._task, cid)
        except (CidError, DataError, OperatorError) as error:  # a failing disk of data ends no rounds
            return f"its data is not available: {error}"
        return "" if found is None or found.available else f"its data is not available: {found.why}"


def data_of_submission(value: str | bytes) -> bytes | None:
    """The CID that a submission names behind `koii-data:`, or None. Raises `CidError` for one that is none."""
    if not isinstance(value, str) or not value.startswith(DATA_PREFIX):
        return None
    return cid_from_text(value.removeprefix(DATA_PREFIX).split(" ", 1)[0])


async def _one(data: bytes) -> AsyncIterator[bytes]:
    yield data
