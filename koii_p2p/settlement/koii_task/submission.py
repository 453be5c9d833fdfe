"""A round's anchor as a submission string: printable ASCII, at most 512 bytes, no space at its end.

`koii-p2p/1|round|commitment`, and with the distribution list `|root|reward_total|slash_total` behind it: digests in
base58, numbers in decimal. Whoever anchors a list repeats the commitment that it belongs to, so that one string says
all even where a second submission replaces the first.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

import base58

from koii_p2p.rounds.terms import U64_MAX

VERSION: Final = "koii-p2p/1"
MAX_BYTES: Final = 512
_NUMBER: Final = re.compile(r"0|[1-9][0-9]{0,19}", re.ASCII)
_DIGEST_CHARACTERS: Final = 44


class SubmissionError(ValueError):
    """A submission string that is no anchor."""


@dataclass(frozen=True, slots=True)
class ListAnchor:
    """The root of a list and its cumulative totals, in Roe."""

    root: bytes
    reward_total: int
    slash_total: int


@dataclass(frozen=True, slots=True)
class RoundAnchor:
    """What one staker anchors of a round: the commitment's digest and, once there is one, the list."""

    round: int
    commitment: bytes
    listed: ListAnchor | None = None

    def encode(self) -> str:
        """The submission string. Raises SubmissionError."""
        parts = [VERSION, str(self.round), _base58(self.commitment)]
        if self.listed is not None:
            totals = str(self.listed.reward_total), str(self.listed.slash_total)
            parts += [_base58(self.listed.root), *totals]
        text = "|".join(parts)
        if RoundAnchor.decode(text) != self:
            raise SubmissionError("a number or digest of the anchor is out of its range")
        return text

    @classmethod
    def decode(cls, text: str) -> RoundAnchor:
        """Inverse of `encode`; trailing spaces and NULs are padding. Raises SubmissionError."""
        if len(text) > MAX_BYTES:
            raise SubmissionError(f"it has {len(text)} characters, more than {MAX_BYTES}")
        parts = text.rstrip(" \0").split("|")
        if len(parts) not in (3, 6) or parts[0] != VERSION:
            raise SubmissionError("it is not an anchor of this version")
        listed = None
        if len(parts) == 6:
            listed = ListAnchor(_digest(parts[3]), _number(parts[4]), _number(parts[5]))
        return cls(_number(parts[1]), _digest(parts[2]), listed)


def _base58(digest: bytes) -> str:
    if len(digest) != 32:
        raise SubmissionError(f"a digest has 32 bytes, not {len(digest)}")
    return str(base58.b58encode(digest).decode())


def _number(text: str) -> int:
    if not _NUMBER.fullmatch(text) or int(text) > U64_MAX:
        raise SubmissionError(f"{text[:24]!r} is not an unsigned 64-bit number")
    return int(text)


def _digest(text: str) -> bytes:
    # The length is checked first: base58 decoding is quadratic.
    if len(text) > _DIGEST_CHARACTERS:
        raise SubmissionError("a digest is too long")
    try:
        digest = bytes(base58.b58decode(text))
    except ValueError as error:
        raise SubmissionError(f"a digest is not base58: {error}") from error
    if len(digest) != 32:
        raise SubmissionError(f"a digest has 32 bytes, not {len(digest)}")
    return digest
