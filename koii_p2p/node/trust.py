"""Whose code from peers a node runs: tasks, authors and CIDs that its operator named, or agreed to when asked.

The list is `trust.txt` in the home, one entry in a line, `#` begins a remark. It is read anew whenever code waits for
it, so that what is added counts for a node that runs.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from solders.pubkey import Pubkey

from koii_p2p.errors import ConfigurationError
from koii_p2p.limits import Limits
from koii_p2p.node.views import base58
from koii_p2p.records.cid import CidError, cid_from_text, cid_to_text
from koii_p2p.storage.home import Home
from koii_p2p.storage.private_file import PrivateFile
from koii_p2p.tasks.offer import Offer

_HEAD: Final = "# Tasks, authors (the keys that created tasks) and CIDs whose code this node runs.\n"

Ask = Callable[[Offer, Path], Awaitable[bool]]
"""Asks the operator whether code may run that is in this folder."""


class NotTrusted(ConfigurationError):
    """Code that came from peers and that nobody allowed to run (exit code 3)."""


def trust_entry(text: str) -> str:
    """One entry as it is kept: the id of a task, the key of an author, or a CID. Raises `ConfigurationError`."""
    try:
        return cid_to_text(cid_from_text(text)) if len(text) == 59 else str(Pubkey.from_string(text))
    except (CidError, ValueError) as error:
        raise ConfigurationError(
            f"{text[:80]!r} cannot be trusted.",
            "It is neither the id of a task or the key of an author (32 bytes in base58) nor a CID (bafk...).",
            "`koii-p2p task show TASK` shows all three.",
        ) from error


class TrustList:
    """The list in a home. Methods raise `StorageError`, and `ConfigurationError` for a line that is no entry."""

    def __init__(self, home: Home, limits: Limits) -> None:
        self._file = PrivateFile(home.trust, limits.trust_file_bytes)

    def entries(self) -> tuple[str, ...]:
        """What is on it, in the order it was added."""
        try:
            lines = (self._file.read() or b"").decode().splitlines()
        except UnicodeDecodeError as error:
            raise ConfigurationError(
                f"The list {self._file.path} cannot be used.", "It is not UTF-8 text.", "Correct it."
            ) from error
        words = (line.partition("#")[0].strip() for line in lines)
        return tuple(dict.fromkeys(trust_entry(word) for word in words if word))

    def add(self, entry: str) -> bool:
        """Put an entry on it; whether it is new. Raises `ConfigurationError` for what is no entry."""
        entry, known = trust_entry(entry), self.entries()
        if entry in known:
            return False
        self._write([*known, entry])
        return True

    def remove(self, entry: str) -> bool:
        """Take an entry off it; whether it was there. Raises `ConfigurationError` for what is no entry."""
        entry, known = trust_entry(entry), self.entries()
        if entry not in known:
            return False
        self._write(one for one in known if one != entry)
        return True

    def _write(self, entries: Iterable[str]) -> None:
        self._file.write((_HEAD + "".join(f"{entry}\n" for entry in entries)).encode())


@dataclass(frozen=True, slots=True)
class Consent:
    """How a node gets its operator's consent: what was named for this run, the list, and somebody to ask."""

    named: tuple[str, ...] = ()
    ask: Ask | None = None

    def given(self, offer: Offer, trusted: TrustList) -> str | None:
        """The entry that allows this code to run, or None."""
        allowed = {*self.named, *trusted.entries()}
        names = (cid_to_text(offer.cid), base58(offer.task), base58(offer.author))
        return next((name for name in names if name in allowed), None)


async def require_consent(offer: Offer, folder: Path, consent: Consent, trusted: TrustList) -> None:
    """Return if this code, which is in `folder`, may run; who agrees when asked is not asked again.

    Raises `NotTrusted`, with the command to run.
    """
    if consent.given(offer, trusted) is not None:
        return
    if consent.ask is None:
        raise not_trusted(offer, folder, "nobody is there to be asked")
    if not await consent.ask(offer, folder):
        raise not_trusted(offer, folder, "you said no")
    trusted.add(cid_to_text(offer.cid))


def not_trusted(offer: Offer, folder: Path, why: str) -> NotTrusted:
    """The refusal of code that nobody allowed to run."""
    cid, wishes = cid_to_text(offer.cid), ", ".join(offer.wishes) or "nothing"
    return NotTrusted(
        f"The code of task {base58(offer.task)} was not run: it is not trusted on this node.",
        f"It is {cid}, {offer.size} bytes by {base58(offer.author)}, asks for {wishes}, and {why}.",
        f"Look at it in {folder}; `koii-p2p task trust add {cid}` lets it run, or --trust {cid} for one time.",
    )
