"""A wall clock that is wrong, inside one worker process: for `task check`, which asks whether a task looks at it.

Moves what `time` and `datetime` say is the time now. Clocks that only measure (`time.monotonic`) stay: nothing that
waits is disturbed. A module written in C that asks the kernel itself is not moved.
"""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable
from typing import Any

_Datetime = datetime.datetime
_Date = datetime.date


def shift(seconds: int) -> None:
    """Move the clock of this process by so many seconds, for everything that is imported from now on."""
    now, now_ns = time.time, time.time_ns
    time.time = lambda: now() + seconds
    time.time_ns = lambda: now_ns() + seconds * 1_000_000_000
    for name in ("gmtime", "localtime", "ctime"):
        setattr(time, name, _given_now(getattr(time, name)))
    format_time, local = time.strftime, time.localtime
    time.strftime = lambda form, when=None: format_time(form, local() if when is None else when)
    _make_classes(datetime.timedelta(seconds=seconds))


def _given_now(function: Callable[[float], Any]) -> Callable[..., Any]:
    return lambda when=None: function(time.time() if when is None else when)


def _make_classes(ahead: datetime.timedelta) -> None:
    """Put classes in place of datetime's that differ in what is now; what was made before still is of them."""

    class Likeness(type):
        def __instancecheck__(cls, one: object) -> bool:
            return isinstance(one, cls.__bases__[0])

    class DateTime(_Datetime, metaclass=Likeness):
        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> Any:
            return _Datetime.now(tz) + ahead

        @classmethod
        def utcnow(cls) -> Any:
            return _Datetime.now(datetime.UTC).replace(tzinfo=None) + ahead

        @classmethod
        def today(cls) -> Any:
            return _Datetime.now() + ahead

    class Date(_Date, metaclass=Likeness):
        @classmethod
        def today(cls) -> Any:
            return (_Datetime.now() + ahead).date()

    DateTime.__name__ = DateTime.__qualname__ = "datetime"
    Date.__name__ = Date.__qualname__ = "date"
    datetime.datetime = DateTime  # type: ignore[misc]
    datetime.date = Date  # type: ignore[misc]
