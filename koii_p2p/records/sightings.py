"""When a node signed a record or heard it for the first time: a line of JSON for each, written by whoever traces them.

Nodes of one machine share its clock, so that their lines together tell how each record spread among them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from koii_p2p.records.schema import Kind

MOST_LINE_BYTES: Final = 512
_ID_BYTES: Final = 32
_SIGNED: Final = "signed"
_HEARD: Final = "heard"


class Way(StrEnum):
    """How a record came that a node did not sign itself.

    `LATER`: it was put aside until it could be judged, or was in the bundle of a round's commitment.
    """

    GOSSIP = "gossip"
    RECONCILIATION = "reconciliation"
    LATER = "later"


@dataclass(frozen=True, slots=True)
class Sighting:
    """One record at one node. `us` is microseconds of Unix time, `record_id` 32 bytes, `size` bytes of the record.

    `way` is None where the node signed it itself: `us` is then when it began to publish it.
    """

    us: int
    record_id: bytes
    kind: Kind
    round: int
    size: int
    way: Way | None


def encode_sighting(sighting: Sighting) -> bytes:
    """The line of a sighting, with its end: at most `MOST_LINE_BYTES`."""
    fields: dict[str, int | str] = {
        "us": sighting.us,
        "event": _SIGNED if sighting.way is None else _HEARD,
        "id": sighting.record_id.hex(),
        "kind": sighting.kind.name,
        "round": sighting.round,
        "bytes": sighting.size,
    }
    if sighting.way is not None:
        fields["way"] = sighting.way.value
    return json.dumps(fields, separators=(",", ":")).encode() + b"\n"


def decode_sighting(line: bytes) -> Sighting:
    """Read a line. Raises ValueError for what is none."""
    if len(line) > MOST_LINE_BYTES:
        raise ValueError(f"a line has more than {MOST_LINE_BYTES} bytes")
    found = json.loads(line)
    if not isinstance(found, dict):
        raise ValueError("a line is no JSON object")
    event, way = found.get("event"), found.get("way")
    if (event, way is None) not in ((_SIGNED, True), (_HEARD, False)):
        raise ValueError(f"a line says {event!r} and came by {way!r}")
    try:
        record_id, kind = bytes.fromhex(found["id"]), Kind[found["kind"]]
    except (KeyError, TypeError) as error:
        raise ValueError(f"a line has no id or kind of a record: {error}") from error
    if len(record_id) != _ID_BYTES:
        raise ValueError(f"an id has {len(record_id)} bytes")
    us, number, size = (_whole(found, name) for name in ("us", "round", "bytes"))
    return Sighting(us, record_id, kind, number, size, None if way is None else Way(way))


def _whole(fields: dict[str, object], name: str) -> int:
    value = fields.get(name)
    if type(value) is not int or value < 0:
        raise ValueError(f"{name} is {value!r}, and not a whole number")
    return value
