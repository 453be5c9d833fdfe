"""A signing journal as a file: to move an identity to another home, as a validator moves its slashing protection.

The file is one item of deterministic CBOR (RFC 8949 section 4.2.1), decoded strictly, in CDDL (RFC 8610):

    journal-file = {
      0 => "koii-p2p signing journal",
      1 => 1,                         ; version
      2 => bytes .size 32,            ; K2's genesis hash
      3 => bytes .size 32,            ; staking public key: whose words these are
      4 => [* floor],                 ; ascending by task, each task once
      5 => [* entry],                 ; ascending by task, round, kind and attempt, each place once
    }
    floor = [task: bytes .size 32, round: u64]  ; nothing new is said in this round or an earlier one
    entry = [task: bytes .size 32, round: u64, kind: kind, attempt: u64, payload: bytes .cbor statement]
    kind = 1 / 2 / 3 / 4 / 5 / 6 / 7  ; those that say a thing once
    u64 = 0..18446744073709551615

`statement`, kinds and attempts (the `seq` of ballots, challenges, notices and list votes, else 0) are those
of `records/records.cddl`; an entry's payload states the entry's own task, round, kind and attempt. CBOR and
not JSON, as EIP-3076 has it: whoever can write a record has this encoder and the payloads' schema already,
64-bit integers need no quotes, and equal journals are equal files. A file of floors only is the EIP's
"minimal" one: it protects as well, but nothing can be said again to the letter by it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from koii_p2p.errors import ConfigurationError
from koii_p2p.records import cbor
from koii_p2p.records.envelope import GENESIS_BYTES
from koii_p2p.records.equivocation import ONCE_PER_ATTEMPT, ONCE_PER_ROUND, Place, place_of
from koii_p2p.records.keys import PUBLIC_KEY_BYTES
from koii_p2p.records.payload import decode_payload
from koii_p2p.records.reasons import RecordError
from koii_p2p.records.schema import TASK_BYTES, Kind
from koii_p2p.storage.faults import StorageError
from koii_p2p.storage.journal import Owner, SigningJournal
from koii_p2p.storage.private_file import create_private, read_private

FORMAT: Final = "koii-p2p signing journal"
VERSION: Final = 1
LARGEST_FILE_BYTES: Final = 64 * 1024 * 1024
"""Some hundred thousand statements. No larger file is written, and none is read."""

_DEPTH: Final = 3
_KINDS: Final = {int(kind): kind for kind in ONCE_PER_ROUND | ONCE_PER_ATTEMPT}


class JournalFileError(ConfigurationError):
    """A journal file cannot be read, written or used here (exit code 3)."""


@dataclass(frozen=True, slots=True)
class JournalContent:
    """What a journal file holds: floors as task -> round, entries as place -> payload, both ascending."""

    owner: Owner
    floors: dict[bytes, int]
    entries: dict[Place, bytes]


def content_of(journal: SigningJournal, owner: Owner, *, newest: int | None = None) -> JournalContent:
    """Return everything in a journal; with `newest`, of each task its floor and so many of its newest rounds.

    Leaving old rounds out is safe, as whoever imports the file says nothing new in any round up to the newest.
    Raises `StorageError`, `OtherIdentity` if the journal is not the owner's, and `JournalFileError` if it does
    not fit into a file.
    """
    journal.require_owner(owner)
    entries: dict[Place, bytes] = {}
    size = 0
    for task in journal.tasks():
        rounds = journal.rounds(task)
        for round in rounds if newest is None else rounds[max(len(rounds) - newest, 0) :]:
            for place, payload in journal.of_round(task, round):
                entries[place] = payload
                size += len(payload)
            if size > LARGEST_FILE_BYTES:
                raise _too_large()
    return JournalContent(owner, journal.floors(), entries)


def encode_journal(content: JournalContent) -> bytes:
    """Return the file of a journal. Equal contents have equal bytes, in whatever order they are given."""
    floors = [[task, round] for task, round in sorted(content.floors.items())]
    entries = [
        [place.task, place.round, int(place.kind), place.attempt, payload]
        for place, payload in sorted(content.entries.items())
    ]
    fields = {0: FORMAT, 1: VERSION, 2: content.owner.genesis, 3: content.owner.key, 4: floors, 5: entries}
    return cbor.encode(fields, max_depth=_DEPTH)


def decode_journal(data: bytes) -> JournalContent:
    """Read a file back, strictly. Raises `ValueError`, which says what is wrong, and nothing else, for any bytes."""
    fields = cbor.decode(data, max_bytes=LARGEST_FILE_BYTES, max_depth=_DEPTH)
    if not isinstance(fields, dict) or fields.get(0) != FORMAT:
        raise ValueError("It is not a signing journal.")
    version = fields.get(1)
    if type(version) is not int or version != VERSION:
        raise ValueError(f"It is of version {version!r}; this software reads version {VERSION}.")
    match [fields.get(number) for number in range(2, 6)]:
        case [bytes(genesis), bytes(key), list(floors), list(entries)] if len(fields) == 6:
            pass
        case _:
            raise ValueError("Its fields are not those of a signing journal.")
    if len(genesis) != GENESIS_BYTES or len(key) != PUBLIC_KEY_BYTES:
        raise ValueError("Its genesis hash or its key does not have 32 bytes.")
    floors_read = [_floor(item) for item in floors]
    entries_read = [_entry(item) for item in entries]
    _check_ascending([task for task, _ in floors_read], "floors")
    _check_ascending([place for place, _ in entries_read], "entries")
    return JournalContent(Owner(genesis, key), dict(floors_read), dict(entries_read))


def write_journal(path: Path, content: JournalContent) -> None:
    """Write a new file of mode 0600, whole and durable, and never over another.

    Raises `StorageError`, and `JournalFileError` for more than `LARGEST_FILE_BYTES`.
    """
    data = encode_journal(content)
    if len(data) > LARGEST_FILE_BYTES:
        raise _too_large()
    create_private(path, data)


def read_journal(path: Path) -> JournalContent:
    """Read a file that only its owner may read: whoever can change it decides what this key still signs.

    Raises `JournalFileError`, with the remedy, whatever is wrong with it.
    """
    what = f"The journal file {path} cannot be used."
    try:
        data = read_private(path, max_bytes=LARGEST_FILE_BYTES)
    except StorageError as error:
        raise JournalFileError(what, error.why, error.remedy) from error
    try:
        return decode_journal(data)
    except ValueError as error:
        raise JournalFileError(
            what, str(error), "Name a file that `koii-p2p journal export` wrote, or export it again."
        ) from error


def _floor(item: object) -> tuple[bytes, int]:
    match item:
        case [bytes(task), int(round)] if len(task) == TASK_BYTES and _is_u64(round):
            return task, round
    raise ValueError("A floor is not a task (32 bytes) and a round.")


def _entry(item: object) -> tuple[Place, bytes]:
    match item:
        case [bytes(task), int(round), int(number), int(attempt), bytes(payload)] if (
            len(task) == TASK_BYTES and _is_u64(round) and _is_u64(attempt) and _is_u64(number)
        ):
            pass
        case _:
            raise ValueError("An entry is not a task (32 bytes), round, kind, attempt and payload.")
    kind: Kind | None = _KINDS.get(number)
    if kind is None:
        raise ValueError(f"An entry is of kind {number}, which takes no place in a journal.")
    place = Place(task, round, kind, attempt)
    try:
        stated = place_of(decode_payload(payload))
    except RecordError as error:
        raise ValueError(f"The payload of an entry of round {round} is not a statement: {error}") from error
    if stated != place:
        raise ValueError(f"The payload of an entry of round {round} is a statement for another place.")
    return place, payload


def _is_u64(value: int) -> bool:
    return type(value) is int and value >= 0  # a bool is an int in Python; the decoder bounds the rest


def _check_ascending(keys: Sequence[Any], what: str) -> None:
    if any(before >= after for before, after in pairwise(keys)):
        raise ValueError(f"Its {what} are not in ascending order, each once.")


def _too_large() -> JournalFileError:
    return JournalFileError(
        "The journal was not written.",
        f"It has more than {LARGEST_FILE_BYTES // 1024**2} MiB.",
        "Export the newest rounds only, as with --rounds 1000: in earlier ones nothing new is signed anyway.",
    )
