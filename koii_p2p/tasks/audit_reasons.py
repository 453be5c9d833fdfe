"""Why an auditor voted as it did, in the 32 bytes of evidence that a vote has room for.

The evidence is a digest of one of the few reasons that there are (`AuditReason`, or why a call gave nothing), so that
whoever has the vote can tell which, and no text of a task's is ever sent. What an auditor gives as its reason is its
own word: the vote counts the same with any.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from typing import Final

from koii_p2p.tasks.audits import AuditReason
from koii_p2p.tasks.process import Failure

_DOMAIN: Final = b"koii-p2p/1 reason "

_NAMES: Final = (
    *(reason.value for reason in AuditReason if reason is not AuditReason.AS_EXPECTED),
    *(failure.value for failure in Failure),
)


def _digest(name: str) -> bytes:
    return sha256(_DOMAIN + name.encode()).digest()


_KNOWN: Final[Mapping[bytes, str]] = {_digest(name): name for name in _NAMES}


def evidence_of(line: str) -> bytes:
    """The digest (32 bytes) of the reason that a line such as "raised: ValueError: x" begins with; empty for others."""
    name = next((name for name in _NAMES if line == name or line.startswith(f"{name}: ")), None)
    return b"" if name is None else _digest(name)


def reason_in(evidence: bytes) -> str | None:
    """The reason in a vote's evidence; None if there is none, or one that is not known here."""
    return _KNOWN.get(evidence)
