"""Faults that a local K2 is told to have: what a real cluster or a bad RPC node does, on purpose and by seed.

`Faults` says what is switched on; `FaultSwitches` decides, call by call, what a fault does now. All its
chances come from one seeded source: with the same calls in the same order, the same ones are hit.
"""

from __future__ import annotations

import json
import random
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Final, Literal, get_args

import trio

from koii_p2p.errors import ConfigurationError

WrongReply = Literal["malformed", "id", "account"]
WRONG_REPLIES: Final[tuple[WrongReply, ...]] = get_args(WrongReply)

MOST_LAG_SLOTS: Final = 300
"""The furthest behind that reads can be: account states are kept for so many slots before the finalized one."""

_MOST_DELAY_MS: Final = 60_000
_MOST_DELAY_SLOTS: Final = 1000
_MOST_RATE: Final = 1_000_000
_MOST_HISTORY: Final = 2**31


@dataclass(frozen=True, slots=True)
class Faults:
    """What is switched on; the values given here are "nothing".

    `drop` and `drop_requests` are shares from 0 to 1: of transactions answered as taken and then forgotten
    (as a leader with no room does), and of requests that are never answered. `delay_ms` holds every reply;
    `delay_slots` every transaction before it is executed. `reorder` executes a slot's transactions at its end
    in an order drawn from the seed. `unhealthy` fails the health check, and the preflight with it. `lag`: reads
    answer as of so many slots ago. `history`: only so many slots are kept. `rate` is the most requests
    in a second. `wrong` names what is wrong with a share `wrong_share` of the replies.
    """

    drop: float = 0.0
    drop_requests: float = 0.0
    delay_ms: int = 0
    delay_slots: int = 0
    reorder: bool = False
    unhealthy: bool = False
    lag: int = 0
    history: int | None = None
    rate: int | None = None
    wrong: tuple[WrongReply, ...] = ()
    wrong_share: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("drop", "drop_requests", "wrong_share"):
            share = getattr(self, name)
            if type(share) not in (int, float) or not 0 <= share <= 1:
                raise _impossible(name, share, "A share goes from 0 (never) to 1 (always)")
        for name, least, most in (
            ("delay_ms", 0, _MOST_DELAY_MS),
            ("delay_slots", 0, _MOST_DELAY_SLOTS),
            ("lag", 0, MOST_LAG_SLOTS),
            ("history", 1, _MOST_HISTORY),
            ("rate", 1, _MOST_RATE),
            ("seed", 0, 2**64 - 1),
        ):
            number = getattr(self, name)
            may_be_none = name in ("history", "rate") and number is None
            if not may_be_none and (type(number) is not int or not least <= number <= most):
                raise _impossible(name, number, f"It goes from {least} to {most}")
        for name in ("reorder", "unhealthy"):
            if type(getattr(self, name)) is not bool:
                raise _impossible(name, getattr(self, name), "It is true or false")
        if any(kind not in WRONG_REPLIES for kind in self.wrong):
            raise _impossible("wrong", self.wrong, f"It names some of {', '.join(WRONG_REPLIES)}")

    def changed(self, values: Any) -> Faults:
        """These faults with some set anew: an object of values by their names.

        Raises:
            ConfigurationError: a name or a value that does not exist.
        """
        if not isinstance(values, dict):
            raise _impossible("object", values, 'Faults are an object, such as {"drop": 0.2}')
        known = {field.name for field in fields(self)}
        for name in values:
            if name not in known:
                raise _impossible(name, values[name], f"The faults are {', '.join(sorted(known))}")
        wrong = values.get("wrong", self.wrong)
        if not isinstance(wrong, list | tuple):
            raise _impossible("wrong", wrong, f"It is a list of some of {', '.join(WRONG_REPLIES)}")
        return replace(self, **{**values, "wrong": tuple(wrong)})

    def as_json(self) -> dict[str, Any]:
        """Every switch by its name."""
        return {**asdict(self), "wrong": list(self.wrong)}


NO_FAULTS: Final = Faults()


@dataclass(frozen=True, slots=True)
class FaultStatistics:
    """What the faults have hit since the server started."""

    dropped_transactions: int
    dropped_requests: int
    held_transactions: int
    over_rate: int
    wrong_replies: int


class FaultSwitches:
    """The faults that are on now, and the chances they take."""

    def __init__(self, faults: Faults) -> None:
        self.now = faults
        self._random = random.Random(faults.seed)
        self._counts = dict.fromkeys(FaultStatistics.__dataclass_fields__, 0)
        self._tokens = 0.0
        self._tokens_at = 0.0
        self._refill()

    def statistics(self) -> FaultStatistics:
        """What the faults have hit since the server started."""
        return FaultStatistics(**self._counts)

    def set(self, faults: Faults) -> None:
        """Switch to other faults; another seed begins its chances anew."""
        if faults.seed != self.now.seed:
            self._random = random.Random(faults.seed)
        self.now = faults
        self._refill()

    def count(self, name: str) -> None:
        """Note that a fault has hit something."""
        self._counts[name] += 1

    def chance(self, share: float) -> bool:
        """Whether a fault with this share hits now. A fault that is off takes no chance from the seed."""
        return share > 0 and self._random.random() < share

    def shuffled(self, items: list[Any]) -> list[Any]:
        """The items in an order drawn from the seed."""
        return self._random.sample(items, len(items))

    def drops_transaction(self) -> bool:
        """Whether the transaction now sent is lost."""
        return self._counted("dropped_transactions", self.chance(self.now.drop))

    def drops_request(self) -> bool:
        """Whether the request now made is never answered."""
        return self._counted("dropped_requests", self.chance(self.now.drop_requests))

    def seconds_over_rate(self) -> int | None:
        """None if the request now made is within the rate; else the whole seconds to wait before another.

        A bucket that holds one second's requests, so that a burst of that size is let through.
        """
        rate = self.now.rate
        if rate is None:
            return None
        now = trio.current_time()
        self._tokens = min(float(rate), self._tokens + (now - self._tokens_at) * rate)
        self._tokens_at = now
        if self._tokens >= 1:
            self._tokens -= 1
            return None
        self._counts["over_rate"] += 1
        return 1

    def wrong_reply(self) -> WrongReply | None:
        """What is wrong with the reply now given, if anything."""
        if not self.now.wrong or not self.chance(self.now.wrong_share):
            return None
        return self.now.wrong[self._random.randrange(len(self.now.wrong))]

    def spoiled(self, reply: Any) -> bytes:
        """A reply (one or a batch) as it is sent: right, or wrong in the way that is drawn for it."""
        kind = self.wrong_reply()
        text = json.dumps(reply if kind in (None, "malformed") else _spoiled(reply, kind))
        if kind is not None:
            self._counts["wrong_replies"] += 1
        return (text[: len(text) * 2 // 3] if kind == "malformed" else text).encode()

    def _counted(self, name: str, hit: bool) -> bool:
        self._counts[name] += hit
        return hit

    def _refill(self) -> None:
        if self.now.rate is not None:
            self._tokens, self._tokens_at = float(self.now.rate), trio.current_time()


def _spoiled(reply: Any, kind: WrongReply | None) -> Any:
    if isinstance(reply, list):
        return [_spoiled(one, kind) for one in reply]
    if kind == "id":
        return {**reply, "id": reply["id"] + 1 if isinstance(reply.get("id"), int) else "another"}
    return {**reply, "result": _richer(reply["result"])} if "result" in reply else reply


def _richer(value: Any) -> Any:
    """A result in which every account, and a bare balance, holds more than it does."""
    if isinstance(value, list):
        return [_richer(one) for one in value]
    if not isinstance(value, dict):
        return value
    if "lamports" in value:
        return {**value, "lamports": value["lamports"] + 1_000_000_000}
    if "context" in value and type(value.get("value")) is int:
        return {**value, "value": value["value"] + 1_000_000_000}
    return {name: _richer(one) for name, one in value.items()}


def _impossible(name: str, value: Any, why: str) -> ConfigurationError:
    return ConfigurationError(
        f"The fault {name} = {str(value)[:60]} is not possible.",
        f"{why}.",
        "Give another value; docs/local-k2.md lists the faults.",
    )
