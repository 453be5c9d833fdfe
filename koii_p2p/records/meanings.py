"""Enums whose members carry a sentence: what can be wrong, each with a name for programs and a meaning for people."""

from __future__ import annotations

from enum import Enum
from typing import Self


class Meaning(Enum):
    """A member is written as name and sentence. Its value is the name, portable; its docstring is the sentence.

    An enum whose members carry more than these takes it in an `__init__` of its own.
    """

    _value_: str

    def __new__(cls, code: str, *_more: object) -> Self:
        """Make a member whose value is `code`."""
        member = object.__new__(cls)
        member._value_ = code
        return member

    def __init__(self, code: str, meaning: str = "") -> None:
        """Give the member its docstring."""
        self.__doc__ = meaning
