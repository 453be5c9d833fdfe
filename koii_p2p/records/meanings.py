"""Enums whose members carry a sentence: what can be wrong, each with a name for programs and a meaning for people."""

from __future__ import annotations

from enum import Enum
from typing import Self


class Meaning(Enum):
    """A member is written as name and sentence. Its value is the name, portable; its docstring is the sentence."""

    _value_: str

    def __new__(cls, code: str, meaning: str = "") -> Self:
        """Make a member whose value is `code` and whose docstring is `meaning`."""
        member = object.__new__(cls)
        member._value_ = code
        member.__doc__ = meaning
        return member
